//! What people wish. Whoever opts out is suppressed before Meta gets its answer. If Meta does not give the number of a
//! person, it is that of the recipient whose message the person answers; a wish that answers none of ours is lost then.
//!
//! Meta may deliver a wish again, also after an operator or the person lifted the suppression. A wish is known by the id of
//! its message for eight days, and counts once.
//!
//! If the process dies: Meta delivers unanswered webhooks again.
//! Never: narrows or lifts a suppression that has another source.

use std::collections::HashMap;

use tracing::info;

use crate::{
    domain::{
        BusinessId, Fingerprint, PersonHash, Phone, SharedTokenKey, Suppression, SuppressionReason, SuppressionScope,
        SuppressionSource, UnixMs,
    },
    redis::{Result, Store},
};

/// What a person wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// No more messages of this kind.
    Stop {
        /// Which messages.
        scope: SuppressionScope,
        /// How the person said so.
        source: SuppressionSource,
    },
    /// Marketing again, after the person had stopped it in WhatsApp.
    Resume,
}

impl Wish {
    /// No more marketing, as the person told WhatsApp.
    pub(super) const STOP_MARKETING: Self =
        Wish::Stop { scope: SuppressionScope::Marketing, source: SuppressionSource::Meta };
}

/// A wish, and who has it since when.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wished {
    pub phone: Phone,
    pub wish: Wish,
    /// Meta's time.
    pub at: UnixMs,
    /// The fingerprint of the message by which the person said so. Without one, person and time tell the wish from others.
    pub message: Option<Fingerprint>,
}

impl Wished {
    /// Tells the wish from others. `person`: who has it.
    fn fingerprint(&self, person: PersonHash) -> Fingerprint {
        self.message.unwrap_or_else(|| Fingerprint::of(&format!("{} {}", person.0, self.at.0)))
    }
}

/// The wishes in one webhook.
#[derive(Debug, Default)]
pub(super) struct Wishes(HashMap<BusinessId, Vec<Wished>>);

impl Wishes {
    /// Adds what a person told a line of a business.
    pub(super) fn add(&mut self, business: &BusinessId, wished: Wished) {
        self.0.entry(business.clone()).or_default().push(wished);
    }

    /// Stores the wishes, durably.
    pub(super) async fn store(self, store: &Store, key: &SharedTokenKey) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let key = key.get();
        for (business, wishes) in self.0 {
            let mut stops = Vec::new();
            for wished in wishes {
                let Wished { phone, wish, at, .. } = wished;
                let person = PersonHash::of(phone.into(), &key);
                match wish {
                    Wish::Stop { scope, source } => {
                        let reason = SuppressionReason::OptOut;
                        let entry = Suppression { phone: Some(phone), scope, reason, source, since: at };
                        stops.push((wished.fingerprint(person), person, entry));
                    }
                    Wish::Resume => {
                        // In the order of the webhook.
                        store.opt_out(&business, &std::mem::take(&mut stops)).await?;
                        resume(store, &business, person, at).await?;
                    }
                }
            }
            let counts = store.opt_out(&business, &stops).await?;
            if counts.new + counts.changed > 0 {
                info!(business.id = %business, n = counts.new + counts.changed, "people opted out");
            }
        }
        store.make_durable().await
    }
}

/// Ends the suppression of a person who had stopped marketing in WhatsApp before `at`. A later stop stays: the resume is a
/// repeat.
async fn resume(store: &Store, business: &BusinessId, person: PersonHash, at: UnixMs) -> Result<()> {
    let known = store.suppressions(business, &[person]).await?.pop().flatten();
    let ends = known.is_some_and(|Suppression { scope, source, since, .. }| {
        source == SuppressionSource::Meta && scope == SuppressionScope::Marketing && since.seconds() <= at.seconds()
    });
    if ends {
        store.unsuppress(business, person).await?;
        info!(business.id = %business, "a person wants marketing again");
    }
    Ok(())
}
