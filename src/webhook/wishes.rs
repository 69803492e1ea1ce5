//! What people wish. Whoever opts out is suppressed before Meta gets its answer.
//!
//! If the process dies: Meta delivers unanswered webhooks again.
//! Never: narrows or lifts a suppression that has another source.

use std::collections::HashMap;

use tracing::info;

use crate::{
    domain::{
        BusinessId, PersonHash, Phone, SharedTokenKey, Suppression, SuppressionReason, SuppressionScope,
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

/// The wishes in one webhook.
#[derive(Debug, Default)]
pub(super) struct Wishes(HashMap<BusinessId, Vec<(Phone, Wish, UnixMs)>>);

impl Wishes {
    /// Adds what a person told a line of a business at a time.
    pub(super) fn add(&mut self, business: &BusinessId, phone: Phone, wish: Wish, at: UnixMs) {
        self.0.entry(business.clone()).or_default().push((phone, wish, at));
    }

    /// Stores the wishes, durably.
    pub(super) async fn store(self, store: &Store, key: &SharedTokenKey) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        let key = key.get();
        for (business, wishes) in self.0 {
            let mut stops = Vec::new();
            for (phone, wish, since) in wishes {
                let person = PersonHash::of(phone.into(), &key);
                match wish {
                    Wish::Stop { scope, source } => {
                        let reason = SuppressionReason::OptOut;
                        stops.push((person, Suppression { phone: Some(phone), scope, reason, source, since }));
                    }
                    Wish::Resume => {
                        // In the order of the webhook.
                        store.suppress(&business, &std::mem::take(&mut stops), true).await?;
                        resume(store, &business, person).await?;
                    }
                }
            }
            let counts = store.suppress(&business, &stops, true).await?;
            if counts.new + counts.changed > 0 {
                info!(business.id = %business, n = counts.new + counts.changed, "people opted out");
            }
        }
        store.make_durable().await
    }
}

/// Ends the suppression of a person who had stopped marketing in WhatsApp.
async fn resume(store: &Store, business: &BusinessId, person: PersonHash) -> Result<()> {
    let known = store.suppressions(business, &[person]).await?.pop().flatten();
    let is_metas = known
        .is_some_and(|known| known.source == SuppressionSource::Meta && known.scope == SuppressionScope::Marketing);
    if is_metas {
        store.unsuppress(business, person).await?;
        info!(business.id = %business, "a person wants marketing again");
    }
    Ok(())
}
