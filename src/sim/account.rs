//! A WABA of a running simulator.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{blocks::Blocks, courier::Courier, marketing::Withheld, scenario::Waba};

/// A WABA, and its courier if it has a webhook.
pub(super) struct Account {
    pub(super) spec: Waba,
    /// The index of its business in [`super::world::World::businesses`].
    pub(super) business: usize,
    pub(super) courier: Option<Courier>,
    pub(super) withheld: Withheld,
    pub(super) blocks: Blocks,
    /// How often its list of templates was read.
    pub(super) template_reads: AtomicU64,
}

impl Account {
    pub(super) fn new(spec: Waba, business: usize, courier: Option<Courier>) -> Self {
        let (withheld, blocks) = (Withheld::default(), Blocks::default());
        Self { spec, business, courier, withheld, blocks, template_reads: AtomicU64::new(0) }
    }

    /// Clears what happened to the account. Its courier is reset separately.
    pub(super) fn reset(&self) {
        self.withheld.reset();
        self.blocks.reset();
        self.template_reads.store(0, Ordering::Relaxed);
    }
}
