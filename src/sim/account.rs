//! A WABA of a running simulator.

use super::{blocks::Blocks, courier::Courier, marketing::Withheld, scenario::Waba};

/// A WABA, and its courier if it has a webhook.
pub(super) struct Account {
    pub(super) spec: Waba,
    /// The index of its business in [`super::world::World::businesses`].
    pub(super) business: usize,
    pub(super) courier: Option<Courier>,
    pub(super) withheld: Withheld,
    pub(super) blocks: Blocks,
}

impl Account {
    pub(super) fn new(spec: Waba, business: usize, courier: Option<Courier>) -> Self {
        Self { spec, business, courier, withheld: Withheld::default(), blocks: Blocks::default() }
    }

    /// Clears what happened to the account. Its courier is reset separately.
    pub(super) fn reset(&self) {
        self.withheld.reset();
        self.blocks.reset();
    }
}
