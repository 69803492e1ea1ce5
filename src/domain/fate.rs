//! What became of a message to a contact.

use super::State;

/// What became of a message to a contact, in the order in which one replaces another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MessageFate {
    /// It was not sent.
    NotSent = 1,
    /// It failed.
    Failed = 2,
    /// It reached the contact.
    Received = 3,
}

impl MessageFate {
    /// The fate of a message in this state; `None` while it is on its way.
    pub fn of(state: State) -> Option<Self> {
        match state {
            State::Skipped | State::Expired | State::Cancelled => Some(Self::NotSent),
            State::Failed | State::Refused => Some(Self::Failed),
            State::Delivered | State::Read => Some(Self::Received),
            State::Pending
            | State::Retrying
            | State::InFlight
            | State::InDoubt
            | State::Unknown
            | State::Accepted
            | State::Sent => None,
        }
    }

    /// The fate with this number.
    pub fn numbered(code: i16) -> Option<Self> {
        [Self::NotSent, Self::Failed, Self::Received].into_iter().find(|fate| *fate as i16 == code)
    }

    /// The numbers of the states with this fate.
    pub fn states(self) -> Vec<i16> {
        let states = State::ALL.iter().filter(|state| Self::of(**state) == Some(self));
        states.map(|state| i16::from(state.code())).collect()
    }
}
