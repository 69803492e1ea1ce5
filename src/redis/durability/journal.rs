//! What this process wrote last, as commands that can be given again: see [`super::incarnations`].
//!
//! A busy worker has seconds of it, as plain commands most of its memory: so each is kept packed, and the names that all those of
//! a part begin with are kept once.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use deadpool_redis::redis::{Arg, Cmd};

/// How often what is kept no longer is dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Nothing is kept of more keys than this; the longest silent go first. A thousand campaigns on eight lines go through 600 a second.
const KEYS_MAX: usize = 16_384;

/// A command that is given again where it was forgotten: it changes nothing where it is known.
#[derive(Debug)]
pub(in crate::redis) struct JournalEntry {
    /// The first of its keys; the others are on the same server.
    pub(in crate::redis) key: String,
    /// So many arguments at its beginning are the same for many commands of the key: its name, script and keys.
    pub(in crate::redis) head: usize,
    /// The command.
    pub(in crate::redis) command: Cmd,
}

/// Commands by their key: what is of one key is on one server.
#[derive(Debug, Default)]
pub(in crate::redis) struct Journal {
    by_key: HashMap<String, OfKey>,
    swept: Option<Instant>,
}

#[derive(Debug, Default)]
struct OfKey {
    /// Few: one for each script.
    heads: Vec<Packed>,
    kept: VecDeque<Kept>,
}

#[derive(Debug)]
struct Kept {
    at: Instant,
    /// The head it begins with, among those of its key.
    head: usize,
    rest: Packed,
}

impl Journal {
    /// Appends a command that was answered `now`. What is older than `forgets` of its key is no longer needed.
    pub(in crate::redis) fn add(&mut self, into_journal_entry: JournalEntry, now: Instant, forgets: Duration) {
        let OfKey { heads, kept } = self.by_key.entry(into_journal_entry.key).or_default();
        while kept.front().is_some_and(|first| now.duration_since(first.at) > forgets) {
            kept.pop_front();
        }
        let arguments = into_journal_entry.command.args_iter().filter_map(|argument| match argument {
            Arg::Simple(bytes) => Some(bytes),
            // That of a scan, which writes nothing.
            _ => None,
        });
        let head = arguments.clone().take(into_journal_entry.head);
        let known = heads.iter().position(|known| known.arguments().eq(head.clone()));
        let head = known.unwrap_or_else(|| {
            heads.push(Packed::new(head));
            heads.len() - 1
        });
        kept.push_back(Kept { at: now, head, rest: Packed::new(arguments.skip(into_journal_entry.head)) });
    }

    /// Every command, in the order in which they were answered.
    pub(in crate::redis) fn commands(&self) -> Vec<Cmd> {
        let all = self.by_key.values().flat_map(|of_key| of_key.kept.iter().map(move |kept| (of_key, kept)));
        let mut all: Vec<(&OfKey, &Kept)> = all.collect();
        all.sort_by_key(|(_, kept)| kept.at);
        let command = |(of_key, kept): (&OfKey, &Kept)| {
            let mut command = Cmd::new();
            for argument in of_key.heads[kept.head].arguments().chain(kept.rest.arguments()) {
                command.arg(argument);
            }
            command
        };
        all.into_iter().map(command).collect()
    }

    /// Drops the keys to which nothing was written for longer than `kept`, now and then.
    pub(in crate::redis) fn sweep(&mut self, now: Instant, kept: Duration) {
        if self.swept.is_some_and(|at| now.duration_since(at) <= SWEEP_EVERY) {
            return;
        }
        self.swept = Some(now);
        let last = |of_key: &OfKey| of_key.kept.back().map(|last| last.at);
        self.by_key.retain(|_, of_key| last(of_key).is_some_and(|at| now.duration_since(at) <= kept));
        if self.by_key.len() > KEYS_MAX {
            let mut ends: Vec<Option<Instant>> = self.by_key.values().map(last).collect();
            ends.sort_unstable();
            let oldest = ends[ends.len() - KEYS_MAX];
            self.by_key.retain(|_, of_key| last(of_key) >= oldest);
        }
    }
}

/// Arguments one behind the other, each behind its length.
#[derive(Debug)]
struct Packed(Box<[u8]>);

/// Bytes of a length: as many as hold what Redis takes, which is 512 MB.
const LENGTH: usize = size_of::<u32>();

impl Packed {
    fn new<'a>(arguments: impl Iterator<Item = &'a [u8]> + Clone) -> Self {
        let mut packed = Vec::with_capacity(arguments.clone().map(|argument| LENGTH + argument.len()).sum());
        for argument in arguments {
            packed.extend((argument.len() as u32).to_le_bytes());
            packed.extend(argument);
        }
        Self(packed.into())
    }

    fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let mut left = &*self.0;
        std::iter::from_fn(move || {
            let (length, behind) = left.split_first_chunk::<LENGTH>()?;
            let (argument, behind) = behind.split_at(u32::from_le_bytes(*length) as usize);
            left = behind;
            Some(argument)
        })
    }
}

#[cfg(test)]
mod tests {
    use deadpool_redis::redis::cmd;

    use super::*;

    const LOSS_WINDOW: Duration = Duration::from_secs(3);

    fn into_journal_entry(key: &str, argument: &[u8]) -> JournalEntry {
        JournalEntry { key: key.into(), head: 2, command: cmd("SADD").arg(key).arg(argument).arg("").clone() }
    }

    fn packed(journal: &Journal) -> Vec<Vec<u8>> {
        journal.commands().iter().map(Cmd::get_packed_command).collect()
    }

    #[test]
    fn commands_come_back_whole_and_in_the_order_of_their_answers() {
        let (mut journal, start) = (Journal::default(), Instant::now());
        let written = [("a", b"\x00\xff".as_slice()), ("b", b"2"), ("a", b""), ("a", b"4")];
        for (n, (key, argument)) in written.into_iter().enumerate() {
            journal.add(into_journal_entry(key, argument), start + Duration::from_millis(n as u64), LOSS_WINDOW);
        }
        assert_eq!(
            packed(&journal),
            written.map(|(key, argument)| into_journal_entry(key, argument).command.get_packed_command())
        );
        let heads = |key: &str| journal.by_key[key].heads.len();
        assert_eq!((heads("a"), heads("b")), (1, 1), "what they have in common is kept once");
    }

    #[test]
    fn what_no_server_can_have_forgotten_is_not_kept() {
        let (mut journal, start) = (Journal::default(), Instant::now());
        journal.add(into_journal_entry("a", b"1"), start, LOSS_WINDOW);
        journal.add(into_journal_entry("a", b"2"), start + LOSS_WINDOW, LOSS_WINDOW);
        assert_eq!(journal.commands().len(), 2);
        journal.add(into_journal_entry("a", b"3"), start + LOSS_WINDOW * 2, LOSS_WINDOW);
        assert_eq!(
            packed(&journal),
            [b"2", b"3"].map(|argument| into_journal_entry("a", argument).command.get_packed_command())
        );
    }

    #[test]
    fn silent_keys_are_dropped_after_a_while_and_the_longest_silent_where_there_are_too_many() {
        let start = Instant::now();
        let left = |keys: usize, after: Duration| {
            let mut journal = Journal::default();
            for n in 0..keys {
                journal.add(
                    into_journal_entry(&n.to_string(), b"1"),
                    start + Duration::from_micros(n as u64),
                    LOSS_WINDOW,
                );
            }
            journal.sweep(start + after, LOSS_WINDOW);
            (journal.by_key.len(), journal.by_key.contains_key("0"))
        };
        assert_eq!(left(2, LOSS_WINDOW), (2, true));
        assert_eq!(left(2, LOSS_WINDOW + Duration::from_secs(1)), (0, false));
        assert_eq!(left(KEYS_MAX + 1, LOSS_WINDOW), (KEYS_MAX, false));
    }
}
