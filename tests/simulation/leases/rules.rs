//! The rules of `acquire.lua`, `release.lua` and the epoch check of `claim.lua` in plain Rust. `real.rs` compares
//! the lease rules with a real Redis; `tests/simulation/model` does so for claims.

use std::{cmp::Ordering, collections::BTreeMap};

/// A line, by its number.
pub type LineNo = u32;

/// A worker, by its number.
pub type WorkerNo = usize;

/// The state of a line in Redis.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Entry {
    /// The epoch of the last lease.
    pub epoch: u64,
    /// The lease, which may have expired.
    pub lease: Option<Held>,
    /// The epoch of the last claim. In this model, a line has one part.
    pub claimed_in: u64,
}

/// A lease in Redis.
#[derive(Clone, Debug, PartialEq)]
pub struct Held {
    /// The owner.
    pub worker: WorkerNo,
    /// The epoch of the lease.
    pub epoch: u64,
    /// The last millisecond in which the lease is valid.
    pub until_ms: u64,
}

/// The result of a claim.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Claim {
    Rows,
    InGracePeriod,
    Fenced,
}

/// The leases of every line.
#[derive(Debug, Default)]
pub struct Leases {
    lines: BTreeMap<LineNo, Entry>,
}

impl Leases {
    /// The state of `line`.
    pub fn entry(&self, line: LineNo) -> Entry {
        self.lines.get(&line).cloned().unwrap_or_default()
    }

    /// Replaces the state of `line`.
    pub fn set_entry(&mut self, line: LineNo, entry: Entry) {
        self.lines.insert(line, entry);
    }

    /// The lease that is valid at `now_ms`.
    pub fn held(&self, line: LineNo, now_ms: u64) -> Option<&Held> {
        self.lines.get(&line)?.lease.as_ref().filter(|held| now_ms <= held.until_ms)
    }

    /// Deletes expired leases, as Redis does when it finds them.
    pub fn expire(&mut self, now_ms: u64) {
        for entry in self.lines.values_mut() {
            entry.lease.take_if(|held| now_ms > held.until_ms);
        }
    }

    /// Acquires a lease, or renews the caller's own. `mine`: the caller's epoch, if it has a lease. Returns the
    /// epoch.
    pub fn acquire(
        &mut self,
        line: LineNo,
        worker: WorkerNo,
        length_ms: u64,
        mine: Option<u64>,
        now_ms: u64,
    ) -> Option<u64> {
        let until_ms = now_ms + length_ms;
        let held = self.held(line, now_ms).cloned();
        let entry = self.lines.entry(line).or_default();
        match held {
            Some(held) if held.worker == worker && Some(held.epoch) == mine => {
                entry.lease = Some(Held { until_ms, ..held });
                mine
            }
            // From before the clock was set back: shortened.
            Some(held) if held.until_ms > until_ms => {
                entry.lease = Some(Held { until_ms, ..held });
                None
            }
            None if mine.is_none() => {
                entry.epoch = now_ms.max(entry.epoch + 1);
                entry.lease = Some(Held { worker, epoch: entry.epoch, until_ms });
                Some(entry.epoch)
            }
            _ => None,
        }
    }

    /// Claims rows in `epoch`. In the grace period, an epoch newer than that of the last claim gets no rows.
    pub fn claim(&mut self, line: LineNo, epoch: u64, in_grace_period: bool) -> Claim {
        let entry = self.lines.entry(line).or_default();
        match epoch.cmp(&entry.claimed_in) {
            Ordering::Less => Claim::Fenced,
            Ordering::Greater if in_grace_period => Claim::InGracePeriod,
            _ => {
                entry.claimed_in = epoch;
                Claim::Rows
            }
        }
    }

    /// Releases a lease. Returns whether the caller held it.
    pub fn release(&mut self, line: LineNo, worker: WorkerNo, mine: u64, now_ms: u64) -> bool {
        let held = self.held(line, now_ms).is_some_and(|held| held.worker == worker && held.epoch == mine);
        if held && let Some(entry) = self.lines.get_mut(&line) {
            entry.lease = None;
        }
        held
    }
}
