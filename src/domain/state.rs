//! The state of a recipient: one byte, and the order in which facts win.
//!
//! The low four bits of the byte are the [`State`]; the high four are the number of the row's last claim, 0 before the
//! first, so that what is told of an earlier claim is not taken for the present one. Numbers from 15 on are kept beside it.

use serde::{Deserialize, Serialize};

/// Where a recipient stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[repr(u8)]
pub enum State {
    /// Not yet attempted.
    Pending = 1,
    /// Attempted, certainly not sent, waits for its next attempt.
    Retrying = 2,
    /// Claimed by a worker: a request may be on its way.
    InFlight = 3,
    /// Written to Meta, no answer came: a status may still tell.
    InDoubt = 4,
    /// In doubt past its deadline. A status that arrives even later still corrects it.
    Unknown = 5,
    /// Meta took the request and gave a message id.
    Accepted = 6,
    /// Meta says it is on its way.
    Sent = 7,
    /// Meta accepted it and later said that it failed.
    Failed = 8,
    /// On the phone.
    Delivered = 9,
    /// Read.
    Read = 10,
    /// Left out on purpose.
    Skipped = 11,
    /// Its campaign's `expires_at` passed before it was sent.
    Expired = 12,
    /// Its campaign was cancelled before it was sent.
    Cancelled = 13,
    /// Meta refused the request. Shown as `failed`; kept apart so that the funnel counts only what was accepted.
    Refused = 14,
}

impl State {
    /// Every state, in the order of its code.
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

    /// The state in the low four bits of `byte`; `None` for a row that holds no recipient.
    pub fn of(byte: u8) -> Option<State> {
        State::ALL.get(usize::from(byte & 0x0f).checked_sub(1)?).copied()
    }

    /// What the high four bits of a state byte say of a claim whose number they have no room for: it is kept beside the byte.
    pub const SEND_ELSEWHERE: u8 = 15;

    /// The number of the last claim in `byte`: 0 before the first, then 1 to 14, and [`State::SEND_ELSEWHERE`] for all further claims.
    pub fn send_of(byte: u8) -> u8 {
        byte >> 4
    }

    /// The code in the low four bits of a state byte.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// A fact moves a recipient to a state of higher rank and never to one of the same or a lower rank.
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

    /// The last claim of a row in this state was an attempt that counts.
    pub fn is_attempt(self) -> bool {
        use State::{Cancelled, Expired, Pending, Retrying, Skipped};
        !matches!(self, Pending | Retrying | Skipped | Expired | Cancelled)
    }

    /// Work is left: the campaign is not completed while any recipient is in such a state.
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
