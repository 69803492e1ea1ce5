//! Pauses of the whole installation or of a business: which are in force, and which workers have confirmed them.
//!
//! Owns: HASH `pauses`. Fields: `all` and `business:ID` → since when, in ms; `version`, a number that rises with each
//! pause; `worker:NAME` → the newest version that the worker obeys. One key, so that a Redis that loses its last writes
//! loses all of these together.
//!
//! A worker reads the pauses after its first heartbeat and before its first claim, and again whenever the pulse rises.
//! Its lines stop, and then it confirms the version. Once every live worker has confirmed the version of a pause, no
//! line claims anything more.
//!
//! If a worker dies: its leases end, and it no longer counts as live. If the process that pauses dies: the pause is
//! either stored, and the workers obey it, or not.

use std::collections::HashMap;

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Result, Store, StoreError};
use crate::domain::{Pause, PauseScope, Pauses, UnixMs};

/// The pauses in force, and what workers have confirmed.
#[derive(Clone, Debug, Default)]
pub struct StoredPauses {
    /// The pauses in force.
    pub pauses: Pauses,
    /// The version of the newest pause; 0 if there was none yet.
    pub version: u64,
    /// The newest version that each worker has confirmed.
    confirmed: HashMap<String, u64>,
}

impl StoredPauses {
    /// Whether a worker has confirmed that it obeys the pauses up to `version`.
    pub fn is_obeyed_by(&self, worker: &str, version: u64) -> bool {
        self.confirmed.get(worker).copied().unwrap_or(0) >= version
    }
}

impl Store {
    /// The pauses in force, and what workers have confirmed.
    pub async fn pauses(&self) -> Result<StoredPauses> {
        let key = self.keys.pauses();
        let fields: HashMap<String, String> = self.query("HGETALL pauses", cmd("HGETALL").arg(&key)).await?;
        let (mut stored, mut pauses) = (StoredPauses::default(), Vec::new());
        for (field, text) in fields {
            let number: u64 = text.parse().map_err(|_| {
                let (key, reason) = (key.clone(), format!("{field} is {text}"));
                StoreError::Corrupt { key, reason }
            })?;
            if field == VERSION {
                stored.version = number;
            } else if let Some(worker) = field.strip_prefix(WORKER) {
                stored.confirmed.insert(worker.to_owned(), number);
            } else if let Ok(scope) = field.parse() {
                pauses.push(Pause { scope, since: UnixMs(number) });
            }
        }
        Ok(StoredPauses { pauses: pauses.into_iter().collect(), ..stored })
    }

    /// Pauses `scope`, and wakes every worker. If `scope` is paused already, the start of that pause stays.
    ///
    /// Returns whether this call paused it, and the version that the workers then have to confirm.
    pub async fn pause(&self, scope: &PauseScope, now: UnixMs) -> Result<(bool, u64)> {
        let key = self.keys.pauses();
        let mut pipeline = Pipeline::new();
        pipeline.hset_nx(&key, scope.to_string(), now.0).hincr(&key, VERSION, 1);
        let answers: Vec<u64> = self.query_all("HSETNX pauses", &pipeline).await?;
        // Afterwards, so that a woken worker finds the pause: in a cluster the two keys are on different servers.
        self.wake().await?;
        let answer = |number: usize| answers.get(number).copied().unwrap_or(0);
        Ok((answer(0) == 1, answer(1)))
    }

    /// Ends the pause of `scope`. Wakes every worker. Returns whether `scope` was paused.
    pub async fn resume(&self, scope: &PauseScope) -> Result<bool> {
        let field = cmd("HDEL").arg(self.keys.pauses()).arg(scope.to_string()).clone();
        let ended: bool = self.query("HDEL pauses", &field).await?;
        self.wake().await?;
        Ok(ended)
    }

    /// Confirms that no line of `worker` claims anything that the pauses up to `version` stop.
    pub async fn obey_pauses(&self, worker: &str, version: u64) -> Result<()> {
        let field = cmd("HSET").arg(self.keys.pauses()).arg(obedience_of(worker)).arg(version).clone();
        self.query("HSET pauses", &field).await
    }

    /// The live workers that have not confirmed the pauses up to `version`. Workers of releases without such pauses
    /// never confirm.
    pub async fn workers_not_obeying(&self, version: u64) -> Result<Vec<String>> {
        // The workers are read first: a worker whose first heartbeat comes later finds the pause, which is stored
        // already.
        let workers = self.live_workers(self.time().await?).await?;
        let stored = self.pauses().await?;
        Ok(workers.into_iter().filter(|worker| !stored.is_obeyed_by(worker, version)).collect())
    }
}

const VERSION: &str = "version";

const WORKER: &str = "worker:";

/// The field with the version that `worker` obeys.
pub(super) fn obedience_of(worker: &str) -> String {
    format!("{WORKER}{worker}")
}
