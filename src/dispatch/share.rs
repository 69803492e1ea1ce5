//! Fair share: which campaign of a line sends next.
//!
//! Stride scheduling: each campaign has a pass that grows by `1 / priority` for each message; the lowest one goes
//! next. A campaign of ten recipients does not wait behind one of ten million, and one of priority 10 gets ten times
//! as much as one of priority 1.

use std::collections::{BTreeSet, HashMap};

use crate::domain::CampaignId;

/// What a message adds to the pass of a campaign of priority 1.
const STRIDE: u64 = 1 << 20;

/// The shares of a line.
#[derive(Debug, Default)]
pub struct Shares {
    /// The pass of the campaign that went last: who has waited since is behind it, and who could not go is owed nothing.
    at: u64,
    passes: HashMap<CampaignId, u64>,
    /// The same, the lowest first.
    turns: BTreeSet<(u64, CampaignId)>,
}

impl Shares {
    /// A campaign has something to send, now or later. It starts where the others are: it owes nothing, and is owed nothing.
    pub fn join(&mut self, id: CampaignId) {
        self.passes.entry(id).or_insert_with(|| {
            self.turns.insert((self.at, id));
            self.at
        });
    }

    /// A campaign has nothing more to send.
    pub fn leave(&mut self, id: CampaignId) {
        if let Some(pass) = self.passes.remove(&id) {
            self.turns.remove(&(pass, id));
        }
    }

    /// The campaign that goes next, of those that are `able` to go now.
    pub fn next(&mut self, able: impl Fn(CampaignId) -> bool) -> Option<CampaignId> {
        let &(pass, id) = self.turns.iter().find(|(_, id)| able(*id))?;
        self.at = self.at.max(pass);
        Some(id)
    }

    /// A campaign of `priority` took `messages` of the line.
    pub fn took(&mut self, id: CampaignId, priority: u8, messages: usize) {
        let Some(pass) = self.passes.get_mut(&id) else { return };
        self.turns.remove(&(*pass, id));
        *pass = self.at.max(*pass) + messages as u64 * STRIDE / u64::from(priority.max(1));
        self.turns.insert((*pass, id));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn id(n: u128) -> CampaignId {
        CampaignId(ulid::Ulid(n))
    }

    /// Campaigns by id, with their priorities, that all have something to send.
    fn run(shares: &mut Shares, priorities: &[(CampaignId, u8)], claims: usize) -> BTreeMap<CampaignId, usize> {
        let able: BTreeMap<CampaignId, u8> = priorities.iter().copied().collect();
        able.keys().for_each(|id| shares.join(*id));
        let mut taken = BTreeMap::new();
        for _ in 0..claims {
            let next = shares.next(|id| able.contains_key(&id)).expect("someone");
            shares.took(next, able[&next], 4);
            *taken.entry(next).or_default() += 4;
        }
        taken
    }

    #[test]
    fn equals_share_equally_and_priorities_count() {
        let taken = run(&mut Shares::default(), &[(id(1), 5), (id(2), 5), (id(3), 10)], 400);
        assert_eq!((taken[&id(1)], taken[&id(2)], taken[&id(3)]), (400, 400, 800));
    }

    #[test]
    fn a_newcomer_waits_for_nobody_and_takes_nothing_back() {
        let mut shares = Shares::default();
        run(&mut shares, &[(id(1), 5)], 10_000);
        let taken = run(&mut shares, &[(id(1), 5), (id(2), 5)], 10);
        assert_eq!((taken[&id(1)], taken[&id(2)]), (20, 20));
    }

    #[test]
    fn one_that_was_paused_for_long_takes_nothing_back() {
        let mut shares = Shares::default();
        let both = [(id(1), 5), (id(2), 5)];
        run(&mut shares, &both, 10);
        run(&mut shares, &both[..1], 10_000);
        let taken = run(&mut shares, &both, 10);
        assert_eq!((taken[&id(1)], taken[&id(2)]), (20, 20));
    }

    #[test]
    fn one_that_has_nothing_more_has_no_turn() {
        let mut shares = Shares::default();
        run(&mut shares, &[(id(1), 5), (id(2), 5)], 10);
        shares.leave(id(1));
        assert_eq!(shares.next(|_| true), Some(id(2)));
        shares.leave(id(2));
        assert_eq!(shares.next(|_| true), None);
    }
}
