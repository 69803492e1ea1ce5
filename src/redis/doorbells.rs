//! Doorbells: how a process learns at once that one of its lines has something new about chats.
//!
//! A ring is a line's id in a list of the process, for which it waits.
//! If a ring is lost: the process notices later. Whoever rings does so again while nothing happens.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use deadpool_redis::redis::{Pipeline, Value, cmd};
use tokio::sync::Notify;

use super::{Result, Store, lines::ms};
use crate::domain::LineId;

/// The name of the operation that waits for a ring.
pub(super) const WAIT_FOR_RING: &str = "BLMPOP doorbell";

/// How long a doorbell rings if nobody answers.
const RINGS_FOR: Duration = Duration::from_secs(10);

/// Maximum number of rings that one wait takes.
const RINGS_MAX: usize = 1_024;

/// How long one call waits for a ring. Shorter than the time within which Redis has to answer.
const WAIT: Duration = Duration::from_millis(500);

/// Wait after a call that failed.
const FAILED_PAUSE: Duration = Duration::from_millis(250);

/// Who is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// The worker that has the line: there are messages in its lane of the chats.
    Dispatch,
    /// The process that reads the line: there are rows in the outbox.
    Engage,
}

impl Doorbell {
    const fn role(self) -> &'static str {
        match self {
            Self::Dispatch => "dispatch",
            Self::Engage => "engage",
        }
    }
}

/// The doorbells of the lines of a process. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Doorbells(Arc<Mutex<HashMap<LineId, Arc<Notify>>>>);

impl Doorbells {
    /// The doorbell of a line.
    pub fn of(&self, line: &LineId) -> Arc<Notify> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(line.clone()).or_default().clone()
    }

    /// Rings at the lines that Redis names, until the future is dropped.
    pub async fn run(self, store: Store, bell: Doorbell, worker: String) {
        loop {
            match store.wait_for_ring(bell, &worker).await {
                Ok(lines) => lines.iter().for_each(|line| self.of(line).notify_one()),
                // That Redis does not answer is logged once for the whole process.
                Err(_) => tokio::time::sleep(FAILED_PAUSE).await,
            }
        }
    }
}

/// The name of the duty to read what people write to a line.
pub fn reading(line: &LineId) -> String {
    format!("engage:{line}")
}

impl Store {
    /// Tells a process that a line has something new.
    pub async fn ring(&self, bell: Doorbell, worker: &str, line: &LineId) -> Result<()> {
        let key = self.keys.doorbell(bell.role(), worker);
        let mut pipeline = Pipeline::new();
        pipeline.cmd("RPUSH").arg(&key).arg(line.as_str());
        pipeline.cmd("PEXPIRE").arg(&key).arg(ms(RINGS_FOR));
        self.query_all::<Value>("RPUSH doorbell", &pipeline).await.map(drop)
    }

    /// Tells the process that reads a line that its outbox has something new, if there is such a process.
    pub async fn ring_reader(&self, line: &LineId) -> Result<()> {
        let lease = cmd("GET").arg(self.keys.duty_lease(&reading(line))).clone();
        let lease: Option<String> = self.query("GET lease", &lease).await?;
        match lease.as_deref().and_then(|lease| lease.rsplit_once(' ')) {
            Some((worker, _)) => self.ring(Doorbell::Engage, worker, line).await,
            None => Ok(()),
        }
    }

    /// Waits until the process is told of lines, and returns them; none after some time.
    async fn wait_for_ring(&self, bell: Doorbell, worker: &str) -> Result<Vec<LineId>> {
        let mut pop = cmd("BLMPOP");
        pop.arg(WAIT.as_secs_f64()).arg(1).arg(self.keys.doorbell(bell.role(), worker));
        pop.arg("LEFT").arg("COUNT").arg(RINGS_MAX);
        let popped: Option<(String, Vec<String>)> = self.query(WAIT_FOR_RING, &pop).await?;
        Ok(popped.map(|(_, lines)| lines.iter().map(|line| line.as_str().into()).collect()).unwrap_or_default())
    }
}
