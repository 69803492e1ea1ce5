//! People from whom Meta withheld marketing (131049), as reported by failed statuses. They are stored before the
//! webhook is answered, even if another app sent the message, because Meta asks the whole business not to send to the
//! person. Only for lines that this process lists. If Meta omits the person's number, it is taken from the recipient,
//! if the message is ours.
//!
//! If the process dies: Meta delivers unanswered webhooks again, and storing a person twice changes nothing.

use std::collections::BTreeMap;

use crate::{
    domain::{
        BusinessId, News, PersonHash, Phone, TokenKey, UnixMs,
        policy::{self, ByStatus},
    },
    redis::{Result, Store},
};

/// The people from one webhook.
#[derive(Debug, Default)]
pub(super) struct WithheldPeople(BTreeMap<BusinessId, Vec<(PersonHash, UnixMs)>>);

impl WithheldPeople {
    /// Whether the news is that Meta withheld a message, and therefore marketing from its recipient.
    pub(super) fn is_concerned(news: News) -> bool {
        matches!(news, News::Failed(reason) if policy::by_status(reason) == ByStatus::Withheld)
    }

    /// Adds a person from whom Meta withheld marketing of a business. `at`: Meta's time of that.
    pub(super) fn add(&mut self, business: &BusinessId, recipient: Phone, at: UnixMs, key: &TokenKey) {
        // Rounded up, because Meta's time is in whole seconds.
        let until = UnixMs((at.seconds() + 1) * 1_000).after(policy::WITHHELD_FOR);
        self.0.entry(business.clone()).or_default().push((PersonHash::of(recipient.into(), key), until));
    }

    /// Stores the people.
    pub(super) async fn store(self, store: &Store, now: UnixMs) -> Result<()> {
        for (business, people) in self.0 {
            store.withhold(&business, &people, now).await?;
        }
        Ok(())
    }
}
