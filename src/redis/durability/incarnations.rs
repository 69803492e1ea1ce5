//! Incarnations of Redis, and the journal of what a new incarnation may lack.
//!
//! An incarnation is one run of a server, from its start to a restart or a failover. A server that restarts comes back
//! without the writes that had not reached its disk: the last second or two with `appendfsync everysec`. A replica that
//! is promoted lacks the writes that had not reached it. Both return to an earlier state of the same data, so only the
//! last writes are missing. This process keeps its last writes that must not be lost: claims, outcomes, statuses. Each
//! is an idempotent command. All are replayed in order before anything else is sent to the new incarnation.
//!
//! Every new connection reads the run id of its server before any command goes over it, which reveals a new
//! incarnation. Answers from an older incarnation are discarded, so that no write slips past the replay.
//!
//! If this process dies within the same seconds as Redis: writes that only its journal had are lost.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use deadpool_redis::redis::Cmd;

use super::journal::{Journal, JournalEntry};
use crate::redis::{Result, StoreError};

/// The age of the oldest writes that a restarted server may lack: `everysec` syncs each second, and may be late by
/// another.
pub(in crate::redis) const LOSS_WINDOW: Duration = Duration::from_secs(3);

/// The age of the oldest writes that may be missing if a replica can be promoted. A master that is cut off from the
/// others keeps accepting writes until it notices, 15 s in a cluster by default.
pub(in crate::redis) const LOSS_WINDOW_PARTITIONED: Duration = Duration::from_secs(20);

/// In a cluster, how long the entries of a key are kept after the last write to that key. The master of the key may
/// be away for a while before its replica is promoted, and answers of other masters prove nothing about it. With one
/// master, any answer proves that it was still there, so the loss window is enough.
const CLUSTER_RETENTION: Duration = Duration::from_secs(60);

/// The incarnations of the servers that this process has observed, and its journal.
#[derive(Debug)]
pub(in crate::redis) struct Incarnations {
    /// The age of the oldest writes that a new incarnation may lack.
    loss_window: Duration,
    /// Keys are spread over several masters.
    is_cluster: bool,
    /// Number of the newest incarnation. Rises with each new incarnation of any server.
    newest: AtomicU64,
    /// The incarnation into which the journal was last replayed.
    replayed: AtomicU64,
    /// Held during a replay, so that one runs at a time.
    pub(in crate::redis) replaying: tokio::sync::Mutex<()>,
    observed: Mutex<Observed>,
    journal: Mutex<Journal>,
}

#[derive(Debug, Default)]
struct Observed {
    /// Address of each server that this process has connected to → its run id.
    servers: HashMap<String, String>,
    /// When the newest incarnation of any server began; `None` if unknown, or if no grace period applies.
    began: Option<Instant>,
}

impl Incarnations {
    /// No server has been observed yet.
    pub(in crate::redis) fn new(loss_window: Duration, is_cluster: bool) -> Self {
        let (newest, replayed, replaying, observed, journal) = Default::default();
        Self { loss_window, is_cluster, newest, replayed, replaying, observed, journal }
    }

    /// The newest incarnation. Answers to requests of an older one are discarded.
    pub(in crate::redis) fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// Records a new connection to the server at `address`, which has run as `run_id` for `uptime`. A changed run id
    /// begins a new incarnation.
    pub(in crate::redis) fn observe(&self, address: &str, run_id: &str, uptime: Duration) {
        let mut observed = self.observed();
        let before = observed.servers.insert(address.to_owned(), run_id.to_owned());
        if before.as_deref() == Some(run_id) {
            return;
        }
        // `uptime` comes from a clock that may have been set since. If the server was observed before, the
        // incarnation is recent, however long `uptime` is.
        let began = if before.is_some() { Some(Instant::now()) } else { Instant::now().checked_sub(uptime) };
        observed.began = observed.began.max(began);
        if before.is_some() {
            // Raised under the lock of the journal, so that entries recorded before are replayed, and later ones of the
            // old incarnation are refused.
            let _journal = self.journal();
            self.newest.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Begins a new incarnation after a failover: the promoted replica lacks what had not reached it. Call this
    /// before any command goes to that server.
    pub(in crate::redis) fn begin_incarnation(&self) {
        self.observed().began = Some(Instant::now());
        let _journal = self.journal();
        self.newest.fetch_add(1, Ordering::SeqCst);
    }

    /// Drops the grace period: the installation is first used in this incarnation, so Redis cannot lack earlier
    /// writes.
    pub(in crate::redis) fn skip_grace_period(&self) {
        self.observed().began = None;
    }

    /// The age of the newest incarnation, if it began less than `within` ago: other processes may not have replayed
    /// their journals yet.
    pub(in crate::redis) fn grace_period(&self, within: Duration) -> Option<Duration> {
        self.observed().began.map(|began| began.elapsed()).filter(|age| *age < within)
    }

    /// Whether the journal was replayed into `incarnation`.
    pub(in crate::redis) fn is_replayed(&self, incarnation: u64) -> bool {
        self.replayed.load(Ordering::SeqCst) == incarnation
    }

    /// The newest incarnation, and the commands to replay into it.
    pub(in crate::redis) fn to_replay(&self) -> (u64, Vec<Cmd>) {
        let journal = self.journal();
        (self.newest(), journal.commands())
    }

    /// Marks the commands of [`Incarnations::to_replay`] as replayed into `incarnation`.
    pub(in crate::redis) fn set_replayed(&self, incarnation: u64) {
        self.replayed.store(incarnation, Ordering::SeqCst);
    }

    /// Records commands that were answered in `incarnation`, for replay into the next.
    ///
    /// Errors: `OutcomeUnknown` if that incarnation has ended: the next one may have the commands or not.
    pub(in crate::redis) fn record(
        &self,
        incarnation: u64,
        entries: impl IntoIterator<Item = JournalEntry>,
    ) -> Result<()> {
        let mut journal = self.journal();
        if self.newest() != incarnation {
            return Err(ended());
        }
        let now = Instant::now();
        for entry in entries {
            journal.add(entry, now, self.loss_window);
        }
        journal.sweep(now, if self.is_cluster { CLUSTER_RETENTION } else { self.loss_window });
        Ok(())
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The error for requests of an incarnation that has ended.
pub(in crate::redis) fn ended() -> StoreError {
    StoreError::OutcomeUnknown("redis restarted or failed over during the request".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_run_id_starts_a_grace_period_despite_its_uptime() {
        let (incarnations, lease, long) =
            (Incarnations::new(LOSS_WINDOW, false), Duration::from_secs(10), Duration::from_secs(3_600));
        incarnations.observe("a", "first", long);
        assert!(incarnations.grace_period(lease).is_none(), "it has run for an hour");
        incarnations.observe("a", "second", long);
        assert!(
            incarnations.grace_period(lease).is_some() && incarnations.newest() == 1,
            "the run id was another one before, so it can't have run for an hour"
        );
    }

    #[test]
    fn the_uptime_of_a_newly_observed_server_counts() {
        let incarnations = Incarnations::new(LOSS_WINDOW, false);
        incarnations.observe("a", "first", Duration::from_secs(3));
        assert!(
            incarnations.grace_period(Duration::from_secs(10)).is_some()
                && incarnations.grace_period(Duration::from_secs(2)).is_none()
        );
        assert_eq!(incarnations.newest(), 0, "there is nothing to replay");
    }

    #[test]
    fn idle_keys_are_kept_longer_in_a_cluster() {
        let written = Instant::now();
        let left = |retention: Duration| {
            let mut journal = Journal::default();
            journal.add(JournalEntry { key: "part".into(), prefix_len: 0, command: Cmd::new() }, written, LOSS_WINDOW);
            journal.sweep(written + LOSS_WINDOW + Duration::from_secs(1), retention);
            journal.commands().len()
        };
        assert_eq!((left(LOSS_WINDOW), left(CLUSTER_RETENTION)), (0, 1));
    }
}
