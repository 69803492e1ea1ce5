//! Messages that, according to webhooks, did not reach their recipient: they no longer count towards frequency caps.
//! Only for lines that this process lists and whose business has a cap.
//!
//! If the process dies: Meta delivers unanswered webhooks again, and giving a place back twice changes nothing.

use std::collections::BTreeMap;

use super::apply::LocatedFact;
use crate::{
    domain::{BusinessId, ClaimedRow, News, PersonHash, Phone, TokenKey},
    redis::{Result, Store, marketing::MarketingMessage},
};

/// The messages of one webhook that may have to be uncounted.
#[derive(Debug, Default)]
pub struct Unreached(BTreeMap<BusinessId, Vec<MarketingMessage>>);

impl Unreached {
    /// Adds a message to `recipient`, if it did not reach the recipient.
    pub fn add(&mut self, business: &BusinessId, recipient: Phone, located: &LocatedFact, key: &TokenKey) {
        match located.fact.news {
            News::Failed(_) | News::Returned(_) | News::Withheld(_) => {}
            News::Sent | News::Delivered | News::Read | News::Replied => return,
        }
        let claimed = ClaimedRow { row: located.fact.row, send: located.fact.send };
        let message = MarketingMessage::new(PersonHash::of(recipient.into(), key), (located.part, claimed));
        self.0.entry(business.clone()).or_default().push(message);
    }

    /// Uncounts the messages. Messages of other categories than marketing were never counted, so they change nothing.
    pub async fn give_back(self, store: &Store) -> Result<()> {
        for (business, messages) in self.0 {
            store.uncount_marketing(&business, &messages).await?;
        }
        Ok(())
    }
}
