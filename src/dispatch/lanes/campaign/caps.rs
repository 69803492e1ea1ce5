//! The claimed messages of a lane that count towards frequency caps. Those that are not sent are uncounted. Pure.
//!
//! If the process dies: messages that it had counted and not sent stay counted.

use std::collections::HashMap;

use crate::{
    domain::Settled,
    redis::{marketing::MarketingMessage, message_ids::RowRef},
};

/// The messages that were counted.
#[derive(Debug, Default)]
pub struct CapKeeper {
    /// The messages whose attempt has not ended.
    counted: HashMap<RowRef, MarketingMessage>,
    /// The messages that ended without being sent. They are uncounted before their rows are settled.
    unsent: Vec<MarketingMessage>,
}

impl CapKeeper {
    /// Records a claimed message that was counted, or may have been.
    pub fn counted(&mut self, row: RowRef, message: MarketingMessage) {
        self.counted.insert(row, message);
    }

    /// Records how a message ended.
    pub fn ended(&mut self, row: RowRef, settled: &Settled) {
        if self.counted.is_empty() {
            return;
        }
        let Some(message) = self.counted.remove(&row) else { return };
        if settled.is_undelivered() {
            self.unsent.push(message);
        }
    }

    /// Returns the messages to uncount, each once.
    pub fn take_unsent(&mut self) -> Vec<MarketingMessage> {
        std::mem::take(&mut self.unsent)
    }

    /// Records messages that could not be uncounted, to be returned again.
    pub fn not_given_back(&mut self, messages: Vec<MarketingMessage>) {
        self.unsent.extend(messages);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        CampaignId, ClaimedRow, Due, FailureReason, MetaCode, PartId, PersonHash, SkipReason, UnixMs, Wamid,
    };

    #[test]
    fn what_was_certainly_not_sent_is_given_back_once() {
        let (at, reason) = (UnixMs(1), FailureReason::Meta(MetaCode(131_026)));
        let ends = [
            (Settled::Accepted(Wamid::from("wamid.1")), false),
            (Settled::Held(Wamid::from("wamid.2")), false),
            (Settled::InDoubt { until: at }, false),
            (Settled::Retry { at, reason }, true),
            (Settled::Withheld { at, reason }, true),
            (Settled::Back { at: Due::AtOnce }, true),
            (Settled::Refused { reason }, true),
            (Settled::Skipped { reason: SkipReason::Suppressed }, true),
        ];
        let part = PartId { campaign: CampaignId(ulid::Ulid(1)), number: 0 };
        for (row, (settled, is_given_back)) in (0..).zip(ends) {
            let mut caps = CapKeeper::default();
            let row = (part, ClaimedRow { row, send: 1 });
            let message = MarketingMessage::new(PersonHash(7), row);
            caps.counted(row, message);
            caps.ended(row, &settled);
            caps.ended(row, &settled);
            assert_eq!(caps.take_unsent(), if is_given_back { vec![message] } else { Vec::new() }, "{settled:?}");
            caps.not_given_back(vec![message]);
            assert_eq!((caps.take_unsent(), caps.take_unsent()), (vec![message], Vec::new()));
        }
    }
}
