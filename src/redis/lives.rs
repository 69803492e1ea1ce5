//! Lives of Redis, and what it may forget between two of them.
//!
//! A server that restarts comes back without what it had not written to its disk, up to a second or two with
//! `appendfsync everysec`; one that takes another's place lacks what had not reached it. Both come back as they were at
//! some earlier moment: what is missing is the end. So this process keeps the end of what it has written and may not be
//! forgotten: claims, outcomes, statuses. Each is a command that changes nothing where it is known already, and all are
//! given again in their order before anything else is asked of a server in its new life.
//!
//! A life is noticed by the first connection that is made in it, and no command goes out over a connection before that.
//! An answer of an older life counts as none, so that nothing can be written behind the back of the repetition.
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

use super::{
    Result, StoreError,
    journal::{Journal, Lasting},
};

/// How far back a server may forget: `everysec` syncs each second, and may be late by another.
pub(super) const FORGETS: Duration = Duration::from_secs(3);

/// The same where another server may take its place: one that was cut off from the others goes on for a while before it notices,
/// 15 s in a cluster unless it is told otherwise.
pub(super) const FORGETS_CUT_OFF: Duration = Duration::from_secs(20);

/// Of many servers, what was written to one key is kept that long after the last of it: its server may be away for a while before
/// another takes its place. One alone is known to have been there whenever it has answered.
const KEPT: Duration = Duration::from_secs(60);

/// The lives of the servers, as this process has met them.
#[derive(Debug)]
pub(super) struct Lives {
    /// How far back a server may forget.
    forgets: Duration,
    /// Each key is on one of several servers.
    many: bool,
    /// Rises with each new life of any server.
    newest: AtomicU64,
    /// The life for which everything was repeated.
    repeated: AtomicU64,
    /// One repetition at a time.
    pub(super) repetition: tokio::sync::Mutex<()>,
    known: Mutex<Known>,
    journal: Mutex<Journal>,
}

#[derive(Debug, Default)]
struct Known {
    /// The run id of each server that was met, by its address.
    servers: HashMap<String, String>,
    /// When the newest life of any of them began, as far as is known.
    began: Option<Instant>,
}

impl Lives {
    /// Of one server or of `many`, that may forget what is not older than `forgets`.
    pub(super) fn new(forgets: Duration, many: bool) -> Self {
        let (newest, repeated, repetition, known, journal) = Default::default();
        Self { forgets, many, newest, repeated, repetition, known, journal }
    }

    /// The newest life of any server: what was asked in an older one has no answer.
    pub(super) fn newest(&self) -> u64 {
        self.newest.load(Ordering::SeqCst)
    }

    /// A connection was made to the server at `address`, which has run as `run_id` for `uptime`.
    pub(super) fn met(&self, address: &str, run_id: &str, uptime: Duration) {
        let mut known = self.known();
        let before = known.servers.insert(address.to_owned(), run_id.to_owned());
        if before.as_deref() == Some(run_id) {
            return;
        }
        // It tells by a clock that may have been set since; of a server that was met before, the life began lately in any case.
        let began = if before.is_some() { Some(Instant::now()) } else { Instant::now().checked_sub(uptime) };
        known.began = known.began.max(began);
        if before.is_some() {
            // Under the lock of the journal: what was recorded before is repeated, what comes later is refused.
            let _journal = self.journal();
            self.newest.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Another server has taken the place of one: what had not reached it is forgotten. Before any command goes to it.
    pub(super) fn changed(&self) {
        self.known().began = Some(Instant::now());
        let _journal = self.journal();
        self.newest.fetch_add(1, Ordering::SeqCst);
    }

    /// The installation has nothing from before: no life of its servers can have forgotten anything.
    pub(super) fn has_no_past(&self) {
        self.known().began = None;
    }

    /// A server's life began less than `within` ago: others may not yet have repeated what it forgot.
    pub(super) fn is_young(&self, within: Duration) -> bool {
        self.known().began.is_some_and(|began| began.elapsed() < within)
    }

    /// Everything was repeated in this life.
    pub(super) fn is_repeated(&self, life: u64) -> bool {
        self.repeated.load(Ordering::SeqCst) == life
    }

    /// What to repeat in the newest life, and that life.
    pub(super) fn to_repeat(&self) -> (u64, Vec<Cmd>) {
        let journal = self.journal();
        (self.newest(), journal.commands())
    }

    /// [`Lives::to_repeat`] was repeated in `life`.
    pub(super) fn repeated(&self, life: u64) {
        self.repeated.store(life, Ordering::SeqCst);
    }

    /// Keeps commands that were answered in `life`, to be repeated in the next.
    ///
    /// Errors: `Unavailable` if that life has ended: whether they are known is not known.
    pub(super) fn record(&self, life: u64, commands: impl IntoIterator<Item = Lasting>) -> Result<()> {
        let mut journal = self.journal();
        if self.newest() != life {
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

/// The answer to what was asked in a life that has ended.
pub(super) fn ended() -> StoreError {
    StoreError::Unavailable("redis restarted, or another server took its place, while it was asked".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_life_is_young_whatever_its_clock_says() {
        let (lives, lease, long) = (Lives::new(FORGETS, false), Duration::from_secs(10), Duration::from_secs(3_600));
        lives.met("a", "first", long);
        assert!(!lives.is_young(lease), "it has run for an hour");
        lives.met("a", "second", long);
        assert!(
            lives.is_young(lease) && lives.newest() == 1,
            "it can't have run for an hour: it was another one before"
        );
    }

    #[test]
    fn a_server_that_is_new_here_is_as_old_as_it_says() {
        let lives = Lives::new(FORGETS, false);
        lives.met("a", "first", Duration::from_secs(3));
        assert!(lives.is_young(Duration::from_secs(10)) && !lives.is_young(Duration::from_secs(2)));
        assert_eq!(lives.newest(), 0, "nothing is to be repeated");
    }

    #[test]
    fn one_server_that_has_answered_since_forgets_no_more_of_a_silent_key_and_of_many_nobody_knows() {
        let written = Instant::now();
        let left = |kept: Duration| {
            let mut journal = Journal::default();
            journal.add(Lasting { key: "part".into(), head: 0, command: Cmd::new() }, written, FORGETS);
            journal.sweep(written + FORGETS + Duration::from_secs(1), kept);
            journal.commands().len()
        };
        assert_eq!((left(FORGETS), left(KEPT)), (0, 1));
    }
}
