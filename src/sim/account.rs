//! A WABA of a running simulator.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::{blocks::Blocks, courier::Courier, marketing::Withheld, scenario::Waba};

/// A WABA, and its courier if it has a webhook.
pub(super) struct Account {
    pub(super) spec: Waba,
    /// The index of its business in [`super::world::World::businesses`].
    pub(super) business: usize,
    pub(super) courier: Option<Courier>,
    /// Whether the app is subscribed to its webhooks.
    pub(super) subscribed: AtomicBool,
    pub(super) withheld: Withheld,
    pub(super) blocks: Blocks,
    /// How often its list of templates was read.
    pub(super) template_reads: AtomicU64,
}

impl Account {
    pub(super) fn new(spec: Waba, business: usize, courier: Option<Courier>) -> Self {
        let (withheld, blocks) = (Withheld::default(), Blocks::default());
        let subscribed = AtomicBool::new(courier.is_some() && spec.subscribed);
        Self { spec, business, courier, subscribed, withheld, blocks, template_reads: AtomicU64::new(0) }
    }

    /// Its courier, if the app is subscribed.
    pub(super) fn webhook(&self) -> Option<&Courier> {
        self.courier.as_ref().filter(|_| self.subscribed.load(Ordering::Relaxed))
    }

    /// Clears what happened to the account. Its courier is reset separately.
    pub(super) fn reset(&self) {
        self.subscribed.store(self.courier.is_some() && self.spec.subscribed, Ordering::Relaxed);
        if let Some((courier, target)) = self.courier.as_ref().zip(self.spec.webhook.as_ref()) {
            courier.redirect(target.url.clone());
        }
        self.withheld.reset();
        self.blocks.reset();
        self.template_reads.store(0, Ordering::Relaxed);
    }
}
