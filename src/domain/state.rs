//! The state of a recipient, packed in one byte, and the rank that decides which fact wins.
//!
//! A *fact* is what Meta reports about one claim of a row, such as a status. Facts arrive late, twice and out of order.
//!
//! The low four bits are the [`State`]. The high four bits are the number of the row's last claim, 0 before the first
//! claim, so that a fact about an earlier claim is not applied to the current one. Claim numbers of 15 and above do not
//! fit and are stored separately.

use serde::{Deserialize, Serialize};

/// The state of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// Not yet attempted.
    Pending = 1,
    /// Attempted, certainly not sent, waiting for the next attempt.
    Retrying = 2,
    /// Claimed by a worker: a request may be on its way to Meta.
    InFlight = 3,
    /// Written to Meta, and no usable response came. A status can still show the result.
    InDoubt = 4,
    /// Still in doubt at the deadline. A later status still corrects it.
    Unknown = 5,
    /// Meta accepted the request and returned a message id.
    Accepted = 6,
    /// Meta reported the message as sent.
    Sent = 7,
    /// Meta accepted the message and later reported that it failed.
    Failed = 8,
    /// Meta reported the message as delivered.
    Delivered = 9,
    /// Meta reported the message as read.
    Read = 10,
    /// Left out before sending. A [`SkipReason`](super::SkipReason) says why.
    Skipped = 11,
    /// The campaign's `expires_at` passed before the message was sent.
    Expired = 12,
    /// The campaign was cancelled before the message was sent.
    Cancelled = 13,
    /// Meta refused the request. Reported as `failed`; a separate state, so that the funnel does not count it as
    /// accepted.
    Refused = 14,
}

impl State {
    /// Every state, in the order of the codes.
    pub const ALL: [State; 14] = [
        State::Pending,
        State::Retrying,
        State::InFlight,
        State::InDoubt,
        State::Unknown,
        State::Accepted,
        State::Sent,
        State::Failed,
        State::Delivered,
        State::Read,
        State::Skipped,
        State::Expired,
        State::Cancelled,
        State::Refused,
    ];

    /// The state in the low four bits of `byte`; `None` if the row has no recipient.
    pub fn of(byte: u8) -> Option<State> {
        State::ALL.get(usize::from(byte & 0x0f).checked_sub(1)?).copied()
    }

    /// The value of the high four bits for claim numbers of 15 and above, which are stored separately.
    pub const SEND_OVERFLOW: u8 = 15;

    /// The claim number in `byte`: 0 before the first claim, 1 to 14, or [`State::SEND_OVERFLOW`] for any later
    /// claim.
    pub fn send_of(byte: u8) -> u8 {
        byte >> 4
    }

    /// The code in the low four bits of a state byte.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The rank. A fact moves a recipient only to a state of a higher rank.
    pub fn rank(self) -> u8 {
        match self {
            State::Pending => 1,
            State::Retrying => 2,
            State::Skipped | State::Expired | State::Cancelled => 3,
            State::InFlight => 4,
            State::InDoubt => 5,
            State::Unknown => 6,
            State::Accepted => 7,
            State::Sent => 8,
            State::Failed | State::Refused => 9,
            State::Delivered => 10,
            State::Read => 11,
        }
    }

    /// Whether the last claim of a row in this state counts as an attempt.
    pub fn is_attempt(self) -> bool {
        use State::{Cancelled, Expired, Pending, Retrying, Skipped};
        !matches!(self, Pending | Retrying | Skipped | Expired | Cancelled)
    }

    /// Whether work is left: a campaign is not completed while a recipient is in such a state.
    pub fn is_open(self) -> bool {
        matches!(self, State::Pending | State::Retrying | State::InFlight | State::InDoubt)
    }

    /// The name in statistics and reports.
    pub fn name(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Retrying => "retrying",
            State::InFlight => "in_flight",
            State::InDoubt => "in_doubt",
            State::Unknown => "unknown",
            State::Accepted => "accepted",
            State::Sent => "sent",
            State::Failed | State::Refused => "failed",
            State::Delivered => "delivered",
            State::Read => "read",
            State::Skipped => "skipped",
            State::Expired => "expired",
            State::Cancelled => "cancelled",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_found_by_its_code() {
        for state in State::ALL {
            assert_eq!(State::of(state.code() | 0x30), Some(state));
        }
        assert_eq!(State::of(0), None);
        assert_eq!(State::of(15), None);
    }
}
