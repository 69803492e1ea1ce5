//! What is recorded about a send: the row that was claimed, how its attempt was settled, and the facts that Meta
//! reports about it later.

use siphasher::sip::SipHasher24;

use super::{Due, FailureReason, SkipReason, UnixMs, Wamid};

/// A claimed row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimedRow {
    /// The row in its part.
    pub row: u16,
    /// The number of this claim among the claims of the row: 1 to 255, then from 2 again. Outcomes and statuses carry
    /// it, so that they are never attributed to another claim.
    pub send: u8,
}

/// The outcome of an attempt, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// Meta accepted the message.
    Accepted(Wamid),
    /// Meta accepted the message, and keeps it back for a quality assessment.
    Held(Wamid),
    /// Certainly not sent; the attempt counts.
    Retry {
        /// When the retry is due.
        at: UnixMs,
        /// Why the message was not sent.
        reason: FailureReason,
    },
    /// Meta withheld the message from a person who gets much marketing; the attempt counts. The row is sent again once:
    /// a row that was withheld before is refused.
    Withheld {
        /// When the row may be claimed again.
        at: UnixMs,
        /// Why the message was withheld.
        reason: FailureReason,
    },
    /// Certainly not sent; the attempt does not count.
    Back {
        /// When the row may be claimed again.
        at: Due,
    },
    /// The message may have been sent.
    InDoubt {
        /// When the doubt ends.
        until: UnixMs,
    },
    /// Meta refused the message for good.
    Refused {
        /// Why the message was refused.
        reason: FailureReason,
    },
    /// Certainly not sent, and not to be sent.
    Skipped {
        /// Why the recipient is skipped.
        reason: SkipReason,
    },
}

impl Settled {
    /// Whether Meta certainly does not deliver the message. A message in doubt, or one that Meta holds, may still be
    /// delivered.
    pub fn is_undelivered(&self) -> bool {
        match self {
            Settled::Accepted(_) | Settled::Held(_) | Settled::InDoubt { .. } => false,
            Settled::Retry { .. }
            | Settled::Withheld { .. }
            | Settled::Back { .. }
            | Settled::Refused { .. }
            | Settled::Skipped { .. } => true,
        }
    }
}

/// News from Meta about one send of a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The row in its part.
    pub row: u16,
    /// The number of the send; 0 for the last one.
    pub send: u8,
    /// What happened.
    pub news: News,
    /// Meta's timestamp.
    pub at: UnixMs,
    /// The message id, if it is known. It is stored, so that the row is found for later news that have only the message
    /// id.
    pub message: Option<Wamid>,
}

/// A 64-bit hash of a message id, by which its row is found. It identifies a message among all messages of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub [u8; 8]);

impl Fingerprint {
    /// The fingerprint of Meta's message id.
    pub fn of(wamid: &str) -> Self {
        Self(SipHasher24::new().hash(wamid.as_bytes()).to_le_bytes())
    }
}

/// The news of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Meta sent the message.
    Sent,
    /// The phone received the message.
    Delivered,
    /// The recipient read the message.
    Read,
    /// The message failed for this reason.
    Failed(FailureReason),
    /// The message failed because of the account, line, token or template, not because of the
    /// recipient or the message. While the campaign runs or is paused, it is sent to the recipient again. If the
    /// campaign has ended, the recipient fails.
    Returned(FailureReason),
    /// Meta withheld the message from a person who gets much marketing, and the campaign asks for one more attempt. If
    /// this is the first time for the recipient and the campaign runs or is paused, the message is sent again after
    /// [`policy::WITHHELD_FOR`](super::policy::WITHHELD_FOR). Otherwise the recipient fails.
    Withheld(FailureReason),
    /// The recipient replied.
    Replied,
}

impl News {
    /// Why the message failed, if it did.
    pub fn failure(self) -> Option<FailureReason> {
        match self {
            News::Failed(reason) | News::Returned(reason) | News::Withheld(reason) => Some(reason),
            News::Sent | News::Delivered | News::Read | News::Replied => None,
        }
    }
}

/// The result of applying a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// The fact moved the recipient.
    Moved,
    /// The recipient is pending or retrying again, and the work of its line lists the part.
    Reopened,
    /// The fact was applied before, or is outranked by the recipient's state.
    Repeated,
    /// The fact is about an earlier send, or about a row without a recipient.
    Stale,
}

impl Applied {
    /// Whether the fact changed the recipient.
    pub fn has_moved(self) -> bool {
        matches!(self, Applied::Moved | Applied::Reopened)
    }
}
