//! Fair share: which campaign of a line sends next.
//!
//! Stride scheduling: each campaign has a pass that grows by `1 / priority` with each message, and the campaign with
//! the lowest pass sends next. A campaign of ten recipients does not wait behind one of ten million, and a campaign
//! of priority 10 sends ten times as many messages as one of priority 1.

use std::collections::{BTreeSet, HashMap};

use crate::domain::CampaignId;

/// What a message adds to the pass of a campaign of priority 1.
const STRIDE: u64 = 1 << 20;

/// The campaigns of a line that have something to send, and their passes.
#[derive(Debug, Default)]
pub struct Shares {
    /// The highest pass at which a campaign was chosen. A campaign that could not send is charged from here on, so it
    /// does not catch up on what it missed.
    last_pass: u64,
    passes: HashMap<CampaignId, u64>,
    /// The same passes, lowest first.
    order: BTreeSet<(u64, CampaignId)>,
}

impl Shares {
    /// Adds a campaign that has something to send, now or later. It starts at the present pass, without credit or debt.
    pub fn join(&mut self, id: CampaignId) {
        self.passes.entry(id).or_insert_with(|| {
            self.order.insert((self.last_pass, id));
            self.last_pass
        });
    }

    /// Removes a campaign that has nothing more to send.
    pub fn leave(&mut self, id: CampaignId) {
        if let Some(pass) = self.passes.remove(&id) {
            self.order.remove(&(pass, id));
        }
    }

    /// The next campaign to send, of those that `is_eligible` accepts.
    pub fn next(&mut self, is_eligible: impl Fn(CampaignId) -> bool) -> Option<CampaignId> {
        let &(pass, id) = self.order.iter().find(|(_, id)| is_eligible(*id))?;
        self.last_pass = self.last_pass.max(pass);
        Some(id)
    }

    /// Charges `messages` to a campaign of `priority`, at least 1.
    pub fn charge(&mut self, id: CampaignId, priority: u8, messages: usize) {
        let Some(pass) = self.passes.get_mut(&id) else { return };
        self.order.remove(&(*pass, id));
        *pass = self.last_pass.max(*pass) + messages as u64 * STRIDE / u64::from(priority.max(1));
        self.order.insert((*pass, id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn id(n: u128) -> CampaignId {
        CampaignId(ulid::Ulid(n))
    }

    /// Makes `claims` claims of four messages among campaigns that all have something to send. Returns messages by
    /// campaign.
    fn run(shares: &mut Shares, priorities: &[(CampaignId, u8)], claims: usize) -> BTreeMap<CampaignId, usize> {
        let is_eligible: BTreeMap<CampaignId, u8> = priorities.iter().copied().collect();
        is_eligible.keys().for_each(|id| shares.join(*id));
        let mut taken = BTreeMap::new();
        for _ in 0..claims {
            let next = shares.next(|id| is_eligible.contains_key(&id)).expect("an eligible campaign");
            shares.charge(next, is_eligible[&next], 4);
            *taken.entry(next).or_default() += 4;
        }
        taken
    }

    #[test]
    fn messages_are_shared_in_proportion_to_priority() {
        let taken = run(&mut Shares::default(), &[(id(1), 5), (id(2), 5), (id(3), 10)], 400);
        assert_eq!((taken[&id(1)], taken[&id(2)], taken[&id(3)]), (400, 400, 800));
    }

    #[test]
    fn a_new_campaign_neither_waits_nor_catches_up() {
        let mut shares = Shares::default();
        run(&mut shares, &[(id(1), 5)], 10_000);
        let taken = run(&mut shares, &[(id(1), 5), (id(2), 5)], 10);
        assert_eq!((taken[&id(1)], taken[&id(2)]), (20, 20));
    }

    #[test]
    fn a_campaign_does_not_catch_up_after_a_pause() {
        let mut shares = Shares::default();
        let both = [(id(1), 5), (id(2), 5)];
        run(&mut shares, &both, 10);
        run(&mut shares, &both[..1], 10_000);
        let taken = run(&mut shares, &both, 10);
        assert_eq!((taken[&id(1)], taken[&id(2)]), (20, 20));
    }

    #[test]
    fn a_campaign_that_left_is_not_chosen() {
        let mut shares = Shares::default();
        run(&mut shares, &[(id(1), 5), (id(2), 5)], 10);
        shares.leave(id(1));
        assert_eq!(shares.next(|_| true), Some(id(2)));
        shares.leave(id(2));
        assert_eq!(shares.next(|_| true), None);
    }
}
