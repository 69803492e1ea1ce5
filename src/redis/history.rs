//! The history of a part: the changes of its recipients, as the scripts log them.

use crate::domain::{State, UnixMs};

/// Bytes of a change.
pub(super) const CHANGE_BYTES: usize = 7;

/// A change of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// The row in its part.
    pub row: u16,
    /// The new state byte of the row.
    pub byte: u8,
    /// When, in Unix seconds.
    pub second: u32,
}

impl Change {
    /// When the recipient changed.
    pub fn at(self) -> UnixMs {
        UnixMs(u64::from(self.second) * 1000)
    }
}

/// For each state, by its code, the Unix second at which a recipient entered it; 0 for never.
pub type StateTimes = [u32; 16];

/// Records a change in `times`. If a retry of the campaign reopens a recipient whose message had ended, the times of
/// the earlier message are dropped.
pub(super) fn note(times: &mut StateTimes, change: Change) {
    let had_ended =
        [State::Failed, State::Refused, State::Unknown].iter().any(|state| times[usize::from(state.code())] > 0);
    if State::of(change.byte) == Some(State::Pending) && had_ended {
        *times = StateTimes::default();
    }
    times[usize::from(change.byte & 0x0f)] = change.second;
}

/// The changes in one or more entries of the history, in order.
pub(super) fn changes(entries: &[u8]) -> impl Iterator<Item = Change> {
    entries.as_chunks::<CHANGE_BYTES>().0.iter().map(|&[low, high, byte, ref second @ ..]| Change {
        row: u16::from_le_bytes([low, high]),
        byte,
        second: u32::from_le_bytes(*second),
    })
}
