//! Fair share: which campaign of a line sends next.
//!
//! Stride scheduling: each campaign has a pass that grows by `1 / priority` for each message; the lowest one goes
//! next. A campaign of ten recipients does not wait behind one of ten million, and one of priority 10 gets ten times
//! as much as one of priority 1.

use crate::domain::CampaignId;

/// The pass of a campaign, once it had something to send.
pub type Pass = Option<f64>;

/// The shares of a line.
#[derive(Debug, Default)]
pub struct Shares {
    /// The pass of the campaign that went last: none that had something to send then is before it.
    at: f64,
}

impl Shares {
    /// The campaign among `able` (those that have something to send now) that goes next.
    ///
    /// A newcomer, or one that had nothing for a while, starts where the others are: it owes nothing, and is owed nothing.
    pub fn next<'a>(&mut self, able: impl Iterator<Item = (CampaignId, &'a mut Pass)>) -> Option<CampaignId> {
        let passes = able.map(|(id, pass)| (*pass.get_or_insert(self.at), id));
        let (pass, id) = passes.min_by(|(a, first), (b, second)| a.total_cmp(b).then(first.cmp(second)))?;
        self.at = pass;
        Some(id)
    }
}

/// A campaign of `priority` took `messages` of the line.
pub fn took(pass: &mut Pass, priority: u8, messages: usize) {
    *pass.get_or_insert_default() += messages as f64 / f64::from(priority.max(1));
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn id(n: u128) -> CampaignId {
        CampaignId(ulid::Ulid(n))
    }

    /// Campaigns by id, with their priorities and passes.
    type Able = BTreeMap<CampaignId, (u8, Pass)>;

    fn run(shares: &mut Shares, able: &mut Able, claims: usize) -> BTreeMap<CampaignId, usize> {
        let mut taken = BTreeMap::new();
        for _ in 0..claims {
            let next = shares.next(able.iter_mut().map(|(id, (_, pass))| (*id, pass))).expect("someone");
            let (priority, pass) = able.get_mut(&next).expect("known");
            took(pass, *priority, 4);
            *taken.entry(next).or_default() += 4;
        }
        taken
    }

    #[test]
    fn equals_share_equally_and_priorities_count() {
        let mut able = Able::from([(id(1), (5, None)), (id(2), (5, None)), (id(3), (10, None))]);
        let taken = run(&mut Shares::default(), &mut able, 400);
        assert_eq!((taken[&id(1)], taken[&id(2)], taken[&id(3)]), (400, 400, 800));
    }

    #[test]
    fn a_newcomer_waits_for_nobody_and_takes_nothing_back() {
        let (mut shares, mut able) = (Shares::default(), Able::from([(id(1), (5, None))]));
        run(&mut shares, &mut able, 10_000);
        able.insert(id(2), (5, None));
        let taken = run(&mut shares, &mut able, 10);
        assert_eq!((taken[&id(1)], taken[&id(2)]), (20, 20));
    }
}
