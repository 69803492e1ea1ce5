//! People from whom Meta withheld marketing (131049), as failed statuses say. They are noted before Meta gets its answer,
//! also if another app sent the message: Meta asks a business to leave the person alone. Only on lines that this process
//! lists. If Meta does not give the number of a person, it is that of the recipient, if the message is ours.
//!
//! If the process dies: Meta delivers unanswered webhooks again, and noting a person twice changes nothing.

use std::collections::BTreeMap;

use crate::{
    domain::{
        BusinessId, News, PersonHash, Phone, TokenKey, UnixMs,
        policy::{self, ByStatus},
    },
    redis::{Result, Store},
};

/// The people whom one webhook names.
#[derive(Debug, Default)]
pub(super) struct WithheldPeople(BTreeMap<BusinessId, Vec<(PersonHash, UnixMs)>>);

impl WithheldPeople {
    /// Whether Meta withheld a message, and therefore marketing from its recipient.
    pub(super) fn is_concerned(news: News) -> bool {
        matches!(news, News::Failed(reason) if policy::by_status(reason) == ByStatus::Withheld)
    }

    /// Adds a person from whom Meta withheld marketing of a business at `at`, Meta's time.
    pub(super) fn add(&mut self, business: &BusinessId, recipient: Phone, at: UnixMs, key: &TokenKey) {
        // Meta's time is in whole seconds.
        let until = UnixMs((at.seconds() + 1) * 1_000).after(policy::WITHHELD_FOR);
        self.0.entry(business.clone()).or_default().push((PersonHash::of(recipient.into(), key), until));
    }

    /// Notes the people.
    pub(super) async fn store(self, store: &Store, now: UnixMs) -> Result<()> {
        for (business, people) in self.0 {
            store.withhold(&business, &people, now).await?;
        }
        Ok(())
    }
}
