//! The event feed: publishes events about recipients, campaigns, lines, holds, templates and messages to backends.
//!
//! Events are written after the fact and never delay dispatch. `relay` follows changes of recipients, campaigns and
//! messages. `observer` compares the holds and the states of lines and templates with what was published last. One
//! worker at a time has the duty of a stream. The feed runs on a thread of low priority: it may lag, and nothing waits
//! for it.
//!
//! If the process dies: another one takes over the duties, and publishes the events since the last stored position
//! again.

mod campaigns;
mod observer;
mod phones;
mod relay;

use std::{io, sync::Arc, thread, time::Duration};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use self::{campaigns::Campaigns, observer::Observer, relay::Relay};
use crate::{
    domain::{Lines, Live, PartId, UnixMs},
    redis::{self, Store, StoreError, clock::Clock, feed::FeedLimits},
};

/// The niceness of the feed's thread. While all cores are busy, it gets a thirtieth of the CPU time of a dispatch
/// thread.
const NICENESS: i32 = 15;

/// Why the feed had to stop.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The thread could not be started.
    #[error("the thread of the event feed could not be started: {0}")]
    NoThread(#[from] io::Error),
    /// The connections to Redis could not be set up.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The thread ended without being stopped, which is a bug.
    #[error("the thread of the event feed ended unexpectedly")]
    Died,
}

/// What the feed needs.
pub struct Feed {
    /// The name of the worker.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// The clock of Redis.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Live<Lines>,
    /// How long a duty belongs to one worker without renewal.
    pub lease: Duration,
    /// How long recipients are stored after the end of their campaign.
    pub retention: Duration,
}

impl Feed {
    /// As [`Feed::run`], on a thread of its own with a low priority, so that dispatch goes first.
    pub async fn run_behind(mut self, limits: FeedLimits, stop: CancellationToken) -> Result<(), FeedError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        self.store = self.store.with_own_connections()?;
        let (done, ended) = oneshot::channel();
        thread::Builder::new().name("feed".to_owned()).spawn(move || {
            lower_priority();
            runtime.block_on(self.run(limits, &stop));
            let _ = done.send(());
        })?;
        ended.await.map_err(|_| FeedError::Died)
    }

    /// Runs until `stop`. Writes the events of the streams whose duty this worker has.
    pub async fn run(&self, limits: FeedLimits, stop: &CancellationToken) {
        let duties = limits.partitions().map(|partition| self.run_partition(partition, limits, stop));
        futures_util::future::join_all(duties).await;
    }

    async fn run_partition(&self, partition: u16, limits: FeedLimits, stop: &CancellationToken) {
        let duty = format!("feed:{partition}");
        let work = |_| async {
            let campaigns = Campaigns::new(self.lines.clone(), self.retention, limits.retention);
            let mut relay = Relay::new(partition, campaigns);
            // Events without a campaign are in the first stream, and its relay writes them.
            let mut observer = (partition == 0).then(|| Observer::new(self.lines.clone()));
            relay.run(&self.store, &self.clock, observer.as_mut(), stop).await;
        };
        self.store.on_duty(&duty, &self.name, self.lease, stop, work).await;
    }
}

/// The events about recipients once more, for a reader who missed some.
pub struct Retelling(Relay);

impl Retelling {
    /// `retention`: how long recipients are stored after the end of their campaign.
    pub fn new(lines: Live<Lines>, retention: Duration) -> Self {
        Self(Relay::new(0, Campaigns::new(lines, retention, Duration::ZERO)))
    }

    /// Some of the events of a part after a position in its history, from 0, as JSON. Returns the position of the
    /// following ones, if there are more.
    pub async fn events(
        &mut self,
        store: &Store,
        part: PartId,
        position: u64,
        now: UnixMs,
    ) -> redis::Result<(Vec<String>, Option<u64>)> {
        let changes = store.changes_after(part, position, relay::CHANGES_MAX).await?;
        let events = self.0.retell(store, part, &changes, now).await?;
        Ok((events, changes.has_more.then_some(changes.position)))
    }
}

/// Lowers the priority of the calling thread. An error is ignored: the feed then takes more time from dispatch.
fn lower_priority() {
    // Only on Linux, because on other systems the call would change the whole process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        debug!(%error, "the feed keeps the priority of the process");
    }
}
