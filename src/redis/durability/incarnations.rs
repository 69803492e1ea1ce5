//! Incarnations of Redis, and what it may forget between two of them.
//!
//! A server that restarts comes back without what it had not written to its disk, up to a second or two with
//! `appendfsync everysec`; one that takes another's place lacks what had not reached it. Both come back as they were at
//! some earlier moment: what is missing is the end. So this process keeps the end of what it has written and may not be
//! forgotten: claims, outcomes, statuses. Each is a command that changes nothing where it is known already, and all are
//! given again in their order before anything else is asked of a server in its new incarnation.
//!
//! A incarnation is noticed by the first connection that is made in it, and no command goes out over a connection before that.
//! An answer of an older incarnation counts as none, so that nothing can be written behind the back of the replaying.
//!
//! If this process dies too, within the same seconds: what only it knew is gone.

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

/// How far back a server may forget: `everysec` syncs each second, and may be late by another.
pub(in crate::redis) const LOSS_WINDOW: Duration = Duration::from_secs(3);

/// The same where another server may take its place: one that was cut off from the others goes on for a while before it notices,
/// 15 s in a cluster unless it is told otherwise.
pub(in crate::redis) const LOSS_WINDOW_PARTITIONED: Duration = Duration::from_secs(20);

/// Of many servers, what was written to one key is kept that long after the last of it: its server may be away for a while before
/// another takes its place. One alone is known to have been there whenever it has answered.
const KEPT: Duration = Duration::from_secs(60);

/// The incarnations of the servers, as this process has met them.
#[derive(Debug)]
pub(in crate::redis) struct Incarnations {
    /// How far back a server may forget.
    forgets: Duration,
    /// Each key is on one of several servers.
    many: bool,
    /// Rises with each new incarnation of any server.
    newest: AtomicU64,
    /// The incarnation for which everything was repeated.
    repeated: AtomicU64,
    /// One replaying at a time.
    pub(in crate::redis) replaying: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    journal: Mutex<Journal>,
}

#[derive(Debug, Default)]
struct Known {
    /// The run id of each server that was met, by its address.
    servers: HashMap<String, String>,
    /// When the newest incarnation of any of them began, as far as is known.
    began: Option<Instant>,
}

impl Incarnations {
    /// Of one server or of `many`, that may forget what is not older than `forgets`.
    pub(in crate::redis) fn new(forgets: Duration, many: bool) -> Self {
        let (newest, repeated, replaying, known, journal) = Default::default();
        Self { forgets, many, newest, repeated, replaying, known, journal }
    }

    /// The newest incarnation of any server: what was asked in an older one has no answer.
    pub(in crate::redis) fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// A connection was made to the server at `address`, which has run as `run_id` for `uptime`.
    pub(in crate::redis) fn met(&self, address: &str, run_id: &str, uptime: Duration) {
        let mut known = self.known();
        let before = known.servers.insert(address.to_owned(), run_id.to_owned());
        if before.as_deref() == Some(run_id) {
            return;
        }
        // It tells by a clock that may have been set since; of a server that was met before, the incarnation began lately in any case.
        let began = if before.is_some() { Some(Instant::now()) } else { Instant::now().checked_sub(uptime) };
        known.began = known.began.max(began);
        if before.is_some() {
            // Under the lock of the journal: what was recorded before is repeated, what comes later is refused.
            let _journal = self.journal();
            self.newest.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Another server has taken the place of one: what had not reached it is forgotten. Before any command goes to it.
    pub(in crate::redis) fn changed(&self) {
        self.known().began = Some(Instant::now());
        let _journal = self.journal();
        self.newest.fetch_add(1, Ordering::SeqCst);
    }

    /// The installation has nothing from before: no incarnation of its servers can have forgotten anything.
    pub(in crate::redis) fn has_no_past(&self) {
        self.known().began = None;
    }

    /// A server's incarnation began less than `within` ago: others may not yet have repeated what it forgot.
    pub(in crate::redis) fn in_grace_period(&self, within: Duration) -> bool {
        self.known().began.is_some_and(|began| began.elapsed() < within)
    }

    /// Everything was repeated in this incarnation.
    pub(in crate::redis) fn is_replayed(&self, incarnation: u64) -> bool {
        self.repeated.load(Ordering::SeqCst) == incarnation
    }

    /// What to repeat in the newest incarnation, and that incarnation.
    pub(in crate::redis) fn to_replay(&self) -> (u64, Vec<Cmd>) {
        let journal = self.journal();
        (self.newest(), journal.commands())
    }

    /// [`Incarnations::to_replay`] was repeated in `incarnation`.
    pub(in crate::redis) fn set_replayed(&self, incarnation: u64) {
        self.repeated.store(incarnation, Ordering::SeqCst);
    }

    /// Keeps commands that were answered in `incarnation`, to be repeated in the next.
    ///
    /// Errors: `OutcomeUnknown` if that incarnation has ended: whether they are known is not known.
    pub(in crate::redis) fn record(
        &self,
        incarnation: u64,
        commands: impl IntoIterator<Item = JournalEntry>,
    ) -> Result<()> {
        let mut journal = self.journal();
        if self.newest() != incarnation {
            return Err(ended());
        }
        let now = Instant::now();
        for command in commands {
            journal.add(command, now, self.forgets);
        }
        journal.sweep(now, if self.many { KEPT } else { self.forgets });
        Ok(())
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The answer to what was asked in a incarnation that has ended.
pub(in crate::redis) fn ended() -> StoreError {
    StoreError::OutcomeUnknown("redis restarted, or another server took its place, while it was asked".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_life_is_young_whatever_its_clock_says() {
        let (incarnations, lease, long) =
            (Incarnations::new(LOSS_WINDOW, false), Duration::from_secs(10), Duration::from_secs(3_600));
        incarnations.met("a", "first", long);
        assert!(!incarnations.in_grace_period(lease), "it has run for an hour");
        incarnations.met("a", "second", long);
        assert!(
            incarnations.in_grace_period(lease) && incarnations.newest() == 1,
            "it can't have run for an hour: it was another one before"
        );
    }

    #[test]
    fn a_server_that_is_new_here_is_as_old_as_it_says() {
        let incarnations = Incarnations::new(LOSS_WINDOW, false);
        incarnations.met("a", "first", Duration::from_secs(3));
        assert!(
            incarnations.in_grace_period(Duration::from_secs(10))
                && !incarnations.in_grace_period(Duration::from_secs(2))
        );
        assert_eq!(incarnations.newest(), 0, "nothing is to be repeated");
    }

    #[test]
    fn one_server_that_has_answered_since_forgets_no_more_of_a_silent_key_and_of_many_nobody_knows() {
        let written = Instant::now();
        let left = |kept: Duration| {
            let mut journal = Journal::default();
            journal.add(JournalEntry { key: "part".into(), head: 0, command: Cmd::new() }, written, LOSS_WINDOW);
            journal.sweep(written + LOSS_WINDOW + Duration::from_secs(1), kept);
            journal.commands().len()
        };
        assert_eq!((left(LOSS_WINDOW), left(KEPT)), (0, 1));
    }
}
