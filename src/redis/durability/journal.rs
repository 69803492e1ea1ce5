//! The last writes of this process, as commands that can be replayed: see [`super::incarnations`].
//!
//! A busy worker keeps seconds of writes. As plain commands they would be most of its memory, so each command is
//! packed, and the leading arguments that the commands of a part share are stored once.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use deadpool_redis::redis::{Arg, Cmd};

/// How often idle keys are dropped.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// Maximum number of keys with entries. Beyond it, the keys that were idle for longest are dropped. A thousand
/// campaigns on eight lines use 600 keys a second.
const KEYS_MAX: usize = 16_384;

/// An idempotent command that is replayed into each new incarnation.
#[derive(Debug)]
pub(in crate::redis) struct JournalEntry {
    /// The first of its keys; the others are on the same server.
    pub(in crate::redis) key: String,
    /// Number of leading arguments that commands of the same key share: the command's name, the script and the keys.
    pub(in crate::redis) prefix_len: usize,
    /// The command.
    pub(in crate::redis) command: Cmd,
}

/// Commands by key. All commands of a key go to the same server.
#[derive(Debug, Default)]
pub(in crate::redis) struct Journal {
    by_key: HashMap<String, KeyEntries>,
    swept_at: Option<Instant>,
}

#[derive(Debug, Default)]
struct KeyEntries {
    /// The distinct prefixes of the entries. Few: one for each script.
    prefixes: Vec<Packed>,
    /// The entries, in the order of their answers.
    entries: VecDeque<PackedEntry>,
}

#[derive(Debug)]
struct PackedEntry {
    answered_at: Instant,
    /// Index of the leading arguments in the prefixes of the key.
    prefix: usize,
    /// The other arguments.
    rest: Packed,
}

impl Journal {
    /// Appends a command that was answered `now`, and drops the entries of its key that are older than `loss_window`.
    pub(in crate::redis) fn add(&mut self, entry: JournalEntry, now: Instant, loss_window: Duration) {
        let KeyEntries { prefixes, entries } = self.by_key.entry(entry.key).or_default();
        while entries.front().is_some_and(|first| now.duration_since(first.answered_at) > loss_window) {
            entries.pop_front();
        }
        let arguments = entry.command.args_iter().filter_map(|argument| match argument {
            Arg::Simple(bytes) => Some(bytes),
            // The cursor of a scan; the journal has only writes.
            _ => None,
        });
        let prefix = arguments.clone().take(entry.prefix_len);
        let stored = prefixes.iter().position(|stored| stored.arguments().eq(prefix.clone()));
        let prefix = stored.unwrap_or_else(|| {
            prefixes.push(Packed::new(prefix));
            prefixes.len() - 1
        });
        let rest = Packed::new(arguments.skip(entry.prefix_len));
        entries.push_back(PackedEntry { answered_at: now, prefix, rest });
    }

    /// All commands, in the order of their answers.
    pub(in crate::redis) fn commands(&self) -> Vec<Cmd> {
        let all = self.by_key.values().flat_map(|of_key| of_key.entries.iter().map(move |entry| (of_key, entry)));
        let mut all: Vec<(&KeyEntries, &PackedEntry)> = all.collect();
        all.sort_by_key(|(_, entry)| entry.answered_at);
        let command = |(of_key, entry): (&KeyEntries, &PackedEntry)| {
            let mut command = Cmd::new();
            for argument in of_key.prefixes[entry.prefix].arguments().chain(entry.rest.arguments()) {
                command.arg(argument);
            }
            command
        };
        all.into_iter().map(command).collect()
    }

    /// Drops the keys that were idle for longer than `retention`. Does nothing if the last sweep was less than
    /// [`SWEEP_EVERY`] ago.
    pub(in crate::redis) fn sweep(&mut self, now: Instant, retention: Duration) {
        if self.swept_at.is_some_and(|at| now.duration_since(at) <= SWEEP_EVERY) {
            return;
        }
        self.swept_at = Some(now);
        let last = |of_key: &KeyEntries| of_key.entries.back().map(|last| last.answered_at);
        self.by_key.retain(|_, of_key| last(of_key).is_some_and(|at| now.duration_since(at) <= retention));
        if self.by_key.len() > KEYS_MAX {
            let mut ends: Vec<Option<Instant>> = self.by_key.values().map(last).collect();
            ends.sort_unstable();
            let oldest = ends[ends.len() - KEYS_MAX];
            self.by_key.retain(|_, of_key| last(of_key) >= oldest);
        }
    }
}

/// Arguments in one buffer, each after its length.
#[derive(Debug)]
struct Packed(Box<[u8]>);

/// Size of a length in bytes. Redis accepts arguments of up to 512 MB.
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
        let mut remaining = &*self.0;
        std::iter::from_fn(move || {
            let (length, tail) = remaining.split_first_chunk::<LENGTH>()?;
            let (argument, tail) = tail.split_at(u32::from_le_bytes(*length) as usize);
            remaining = tail;
            Some(argument)
        })
    }
}

#[cfg(test)]
mod tests {
    use deadpool_redis::redis::cmd;

    use super::*;

    const LOSS_WINDOW: Duration = Duration::from_secs(3);

    fn entry(key: &str, argument: &[u8]) -> JournalEntry {
        JournalEntry { key: key.into(), prefix_len: 2, command: cmd("SADD").arg(key).arg(argument).arg("").clone() }
    }

    fn packed(journal: &Journal) -> Vec<Vec<u8>> {
        journal.commands().iter().map(Cmd::get_packed_command).collect()
    }

    #[test]
    fn commands_are_unpacked_in_the_order_of_their_answers() {
        let (mut journal, start) = (Journal::default(), Instant::now());
        let written = [("a", b"\x00\xff".as_slice()), ("b", b"2"), ("a", b""), ("a", b"4")];
        for (n, (key, argument)) in written.into_iter().enumerate() {
            journal.add(entry(key, argument), start + Duration::from_millis(n as u64), LOSS_WINDOW);
        }
        assert_eq!(packed(&journal), written.map(|(key, argument)| entry(key, argument).command.get_packed_command()));
        let prefixes = |key: &str| journal.by_key[key].prefixes.len();
        assert_eq!((prefixes("a"), prefixes("b")), (1, 1), "a shared prefix is stored once");
    }

    #[test]
    fn entries_older_than_the_loss_window_are_dropped() {
        let (mut journal, start) = (Journal::default(), Instant::now());
        journal.add(entry("a", b"1"), start, LOSS_WINDOW);
        journal.add(entry("a", b"2"), start + LOSS_WINDOW, LOSS_WINDOW);
        assert_eq!(journal.commands().len(), 2);
        journal.add(entry("a", b"3"), start + LOSS_WINDOW * 2, LOSS_WINDOW);
        assert_eq!(packed(&journal), [b"2", b"3"].map(|argument| entry("a", argument).command.get_packed_command()));
    }

    #[test]
    fn idle_keys_and_keys_above_the_limit_are_dropped() {
        let start = Instant::now();
        let left = |keys: usize, after: Duration| {
            let mut journal = Journal::default();
            for n in 0..keys {
                journal.add(entry(&n.to_string(), b"1"), start + Duration::from_micros(n as u64), LOSS_WINDOW);
            }
            journal.sweep(start + after, LOSS_WINDOW);
            (journal.by_key.len(), journal.by_key.contains_key("0"))
        };
        assert_eq!(left(2, LOSS_WINDOW), (2, true));
        assert_eq!(left(2, LOSS_WINDOW + Duration::from_secs(1)), (0, false));
        assert_eq!(left(KEYS_MAX + 1, LOSS_WINDOW), (KEYS_MAX, false));
    }
}
