//! People's wishes: to opt out of messages, or to get marketing again. A person who opts out is suppressed before the
//! webhook is answered. If Meta omits the person's number, it is taken from the message of ours that the wish answers;
//! a wish that answers none is lost.
//!
//! Meta may deliver a wish again, even after an operator or the person lifted the suppression. The id of its message is
//! stored for eight days, so a wish counts once.
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

/// A wish of a person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// No more messages of this kind.
    Stop {
        /// Which messages.
        scope: SuppressionScope,
        /// How the person expressed the wish.
        source: SuppressionSource,
    },
    /// Marketing again, after the person had stopped it in WhatsApp.
    Resume,
}

impl Wish {
    /// No more marketing, as set by the person in WhatsApp.
    pub(super) const STOP_MARKETING: Self =
        Wish::Stop { scope: SuppressionScope::Marketing, source: SuppressionSource::Meta };
}

/// A wish, with its person and time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wished {
    pub phone: Phone,
    pub wish: Wish,
    /// Meta's time.
    pub at: UnixMs,
    /// The fingerprint of the message that expresses the wish. Without a message, person and time identify the wish.
    pub message: Option<Fingerprint>,
}

impl Wished {
    /// Identifies the wish. `person`: the hash of its person.
    fn fingerprint(&self, person: PersonHash) -> Fingerprint {
        self.message.unwrap_or_else(|| Fingerprint::of(&format!("{} {}", person.0, self.at.0)))
    }
}

/// The wishes in one webhook.
#[derive(Debug, Default)]
pub(super) struct Wishes(HashMap<BusinessId, Vec<Wished>>);

impl Wishes {
    /// Adds a wish that a person sent to a line of a business.
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
                        // Stored now, to keep the order of the webhook.
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

/// Ends the suppression of a person who stopped marketing in WhatsApp at `at` or earlier. A later stop stays, because
/// then the resume is an old one that was repeated.
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
