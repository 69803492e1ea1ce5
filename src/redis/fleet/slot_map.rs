//! Slot maps: which master owns which key.
//!
//! A slot map is a snapshot and may be out of date. That is safe, because a server redirects commands for keys that it
//! does not own.

use deadpool_redis::redis::{Arg, Cmd, Pipeline, Value};

use super::super::deployment::HostPort;

/// Slots of a Redis Cluster.
const SLOTS: usize = 16_384;
/// Marks a slot that no master owns.
const UNASSIGNED: u16 = u16::MAX;

/// The masters and the slots of each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SlotMap {
    /// Rises in Redis with each failover.
    pub(super) epoch: u64,
    /// The masters that own slots; empty until a node has answered.
    pub(super) masters: Vec<HostPort>,
    /// The replicas of those masters.
    pub(super) replicas: Vec<HostPort>,
    /// Index of the master of each slot; empty if a single master owns all keys.
    slots: Vec<u16>,
}

impl SlotMap {
    /// A single master, which owns all keys.
    pub(super) fn single(master: HostPort, epoch: u64) -> Self {
        Self { epoch, masters: vec![master], ..Self::default() }
    }

    /// Parses the answer of `asked`, a node of a cluster, to CLUSTER SLOTS; `None` if it is malformed.
    pub(super) fn parse(answer: Value, asked: &HostPort, epoch: u64) -> Option<Self> {
        let mut slot_map = Self { epoch, slots: vec![UNASSIGNED; SLOTS], ..Self::default() };
        let Value::Array(ranges) = answer else { return None };
        for range in ranges {
            let Value::Array(fields) = range else { return None };
            let mut fields = fields.into_iter();
            let (Value::Int(first), Value::Int(last)) = (fields.next()?, fields.next()?) else { return None };
            let (first, last) = (usize::try_from(first).ok()?, usize::try_from(last).ok()?);
            let mut nodes = fields.filter_map(|node| parse_node(node, asked));
            let master = index_of(&mut slot_map.masters, nodes.next()?);
            for replica in nodes {
                index_of(&mut slot_map.replicas, replica);
            }
            slot_map.slots.get_mut(first..=last)?.fill(u16::try_from(master).ok()?);
        }
        Some(slot_map)
    }

    /// Whether no node has answered yet.
    pub(super) fn is_empty(&self) -> bool {
        self.masters.is_empty()
    }

    /// Index of the master that owns `key`; `None` if no master does.
    pub(super) fn master_of(&self, key: &[u8]) -> Option<usize> {
        self.master_of_slot(slot(key))
    }

    /// Index of the master for a command. A command without a key, such as TIME, goes to the master of slot 0, so
    /// that all workers read one clock.
    pub(super) fn master_for(&self, command: &Cmd) -> Option<usize> {
        self.master_of_slot(key(command).map_or(0, slot))
    }

    /// Index of the one master for all commands of a pipeline; `None` if they need several, or if no master owns a
    /// key.
    pub(super) fn master_for_all(&self, pipeline: &Pipeline) -> Option<usize> {
        let mut commands = pipeline.cmd_iter();
        let first = self.master_for(commands.next()?)?;
        // The keys of a transaction share a slot, or the server refuses it.
        let is_one = pipeline.is_transaction() || commands.all(|command| self.master_for(command) == Some(first));
        is_one.then_some(first)
    }

    /// Whether `other` has the same masters and slots.
    pub(super) fn same_assignment(&self, other: &Self) -> bool {
        self.masters == other.masters && self.slots == other.slots
    }

    fn master_of_slot(&self, slot: usize) -> Option<usize> {
        if self.slots.is_empty() {
            return (!self.masters.is_empty()).then_some(0);
        }
        self.slots.get(slot).filter(|master| **master != UNASSIGNED).map(|master| usize::from(*master))
    }
}

/// Index of `node` in `nodes`; appends it if it is missing.
fn index_of(nodes: &mut Vec<HostPort>, node: HostPort) -> usize {
    nodes.iter().position(|other| *other == node).unwrap_or_else(|| {
        nodes.push(node);
        nodes.len() - 1
    })
}

/// Host and port of a node in the answer to CLUSTER SLOTS. If the answer has no host for the node, its host is that of
/// `asked`.
fn parse_node(node: Value, asked: &HostPort) -> Option<HostPort> {
    let Value::Array(fields) = node else { return None };
    let mut fields = fields.into_iter();
    let host = match fields.next()? {
        Value::BulkString(host) => String::from_utf8(host).ok()?,
        Value::SimpleString(host) => host,
        _ => String::new(),
    };
    let Value::Int(port) = fields.next()? else { return None };
    let host = if host.is_empty() || host == "?" { asked.host.clone() } else { host };
    Some(HostPort { host, port: u16::try_from(port).ok()? })
}

/// The hash slot of a key. If the key has a hash tag, text between its first braces, only the tag counts.
fn slot(key: &[u8]) -> usize {
    let tag = key.iter().position(|byte| *byte == b'{').map(|open| &key[open + 1..]).and_then(|rest| {
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    usize::from(crc16::State::<crc16::XMODEM>::calculate(tag.unwrap_or(key))) % SLOTS
}

/// The first key of a command; `None` if it has none. Covers only the commands that this crate sends.
fn key(command: &Cmd) -> Option<&[u8]> {
    let mut words = command.args_iter().filter_map(|arg| match arg {
        Arg::Simple(word) => Some(word),
        _ => None,
    });
    match words.next()? {
        b"SCRIPT" | b"INFO" | b"TIME" => None,
        // The digest and the number of keys come first.
        b"EVALSHA" => words.nth(2),
        b"XGROUP" => words.nth(1),
        b"XREADGROUP" => words.find(|word| *word == b"STREAMS").and_then(|_| words.next()),
        _ => words.next(),
    }
}

#[cfg(test)]
mod tests {
    use deadpool_redis::redis::cmd;

    use super::*;

    fn at(port: u16) -> HostPort {
        HostPort { host: "10.0.0.1".into(), port }
    }

    fn node(host: Value, port: i64) -> Value {
        Value::Array(vec![host, Value::Int(port), Value::BulkString(b"an id".into()), Value::Array(Vec::new())])
    }

    fn range(first: i64, last: i64, master: i64, replica: i64) -> Value {
        let host = || Value::BulkString(b"10.0.0.1".into());
        Value::Array(vec![Value::Int(first), Value::Int(last), node(host(), master), node(host(), replica)])
    }

    #[test]
    fn each_key_leads_to_the_master_of_its_slot() {
        let slots = Value::Array(vec![range(0, 5_460, 1, 4), range(5_461, 10_922, 2, 5), range(12_000, 16_383, 1, 4)]);
        let slot_map = SlotMap::parse(slots, &at(9), 7).expect("a slot_map");
        assert_eq!((slot_map.masters.clone(), slot_map.replicas.clone()), (vec![at(1), at(2)], vec![at(4), at(5)]));
        // Slots as returned by `CLUSTER KEYSLOT`.
        for (key, slot_of_key, master) in [
            ("foo", 12_182, Some(0)),
            ("bar", 5_061, Some(0)),
            ("hello", 866, Some(0)),
            ("a{foo}b{bar}", 12_182, Some(0)),
        ] {
            assert_eq!((slot(key.as_bytes()), slot_map.master_of(key.as_bytes())), (slot_of_key, master), "{key}");
        }
        assert_eq!(slot(b"{}x"), usize::from(crc16::State::<crc16::XMODEM>::calculate(b"{}x")) % SLOTS);
        assert_eq!(slot_map.master_of_slot(5_461), Some(1));
        assert_eq!(slot_map.master_of_slot(11_000), None, "no master owns it");
    }

    #[test]
    fn a_node_without_a_host_is_at_the_address_that_was_asked() {
        for host in [Value::Nil, Value::BulkString(Vec::new()), Value::BulkString(b"?".into())] {
            let slots = Value::Array(vec![Value::Array(vec![Value::Int(0), Value::Int(1), node(host, 7)])]);
            assert_eq!(SlotMap::parse(slots, &at(1), 1).expect("a slot_map").masters, [at(7)]);
        }
    }

    #[test]
    fn a_malformed_answer_is_none() {
        for slots in [Value::Nil, Value::Int(3), Value::Array(vec![range(0, 20_000, 1, 2)])] {
            assert_eq!(SlotMap::parse(slots, &at(1), 1), None);
        }
    }

    #[test]
    fn the_key_of_each_kind_of_command_is_found() {
        let words = |text: &str| {
            let mut words = text.split(' ');
            let mut command = cmd(words.next().expect("a word"));
            words.for_each(|word| {
                command.arg(word);
            });
            command
        };
        for (text, expected) in [
            ("GET k", Some("k")),
            ("EVALSHA digest 2 k other x", Some("k")),
            ("XREADGROUP GROUP g c COUNT 1 STREAMS k >", Some("k")),
            ("XGROUP CREATE k g 0 MKSTREAM", Some("k")),
            ("XPENDING k g - + 1", Some("k")),
            ("SCRIPT LOAD return", None),
            ("INFO server", None),
            ("TIME", None),
        ] {
            assert_eq!(key(&words(text)), expected.map(str::as_bytes), "{text}");
        }
    }
}
