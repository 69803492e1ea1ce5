//! Fair share: which campaign of a line sends next.
//!
//! Stride scheduling: each campaign has a pass that grows by `1 / priority` for each message; the lowest one goes
//! next. A campaign of ten recipients does not wait behind one of ten million, and one of priority 10 gets ten times
//! as much as one of priority 1.

use std::collections::HashMap;

use crate::domain::CampaignId;

/// The passes of the campaigns of a line.
#[derive(Debug, Default)]
pub struct Shares {
    passes: HashMap<CampaignId, f64>,
}

impl Shares {
    /// The campaign among `able` (those that have something to send now, with their priorities) that goes next.
    pub fn next(&mut self, able: impl Iterator<Item = (CampaignId, u8)>) -> Option<CampaignId> {
        let passes: Vec<(CampaignId, Option<f64>)> = able.map(|(id, _)| (id, self.passes.get(&id).copied())).collect();
        // A newcomer, or one that had nothing for a while, starts where the others are: it owes nothing, and is owed nothing.
        let floor = passes.iter().filter_map(|(_, pass)| *pass).fold(f64::INFINITY, f64::min);
        let floor = if floor.is_finite() { floor } else { 0.0 };
        let newcomers = passes.iter().filter(|(_, pass)| pass.is_none());
        self.passes.extend(newcomers.map(|(id, _)| (*id, floor)));
        let passes = passes.into_iter().map(|(id, pass)| (pass.unwrap_or(floor), id));
        passes.min_by(|(a, first), (b, second)| a.total_cmp(b).then(first.cmp(second))).map(|(_, id)| id)
    }

    /// `campaign` took `messages` of the line.
    pub fn took(&mut self, campaign: CampaignId, priority: u8, messages: usize) {
        *self.passes.entry(campaign).or_default() += messages as f64 / f64::from(priority.max(1));
    }

    /// `campaign` has nothing more to send for now.
    pub fn idle(&mut self, campaign: CampaignId) {
        self.passes.remove(&campaign);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u128) -> CampaignId {
        CampaignId(ulid::Ulid(n))
    }

    fn run(shares: &mut Shares, able: &[(CampaignId, u8)], claims: usize) -> HashMap<CampaignId, usize> {
        let mut taken = HashMap::new();
        for _ in 0..claims {
            let next = shares.next(able.iter().copied()).expect("someone");
            let priority = able.iter().find(|(id, _)| *id == next).expect("known").1;
            shares.took(next, priority, 4);
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
}
