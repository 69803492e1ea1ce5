//! The backlog of a line: its campaigns, their parts, and which of them to claim from next.
//!
//! In memory only; rebuilt from Redis by every refresh. Never calls Redis itself.

use std::{
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

use super::{plans::SendPlan, share::Shares};
use crate::domain::{CampaignId, HoldScope, PartId, UnixMs, WabaId};

/// A campaign that a line works on.
pub struct CampaignWork {
    /// What is sent, and how.
    pub plan: Rc<SendPlan>,
    /// It runs: not paused, not cancelled.
    pub running: bool,
    /// The hold that would stop its template.
    pub template: HoldScope,
    /// Failures in a row with one code: many of them mean that the message is at fault, not the recipients.
    pub failing: (u32, u32),
    parts: Vec<PartWork>,
    /// From when on one of its parts is claimable, if any will be: the parts are not asked at each claim, for they may be thousands.
    claimable_from: Option<UnixMs>,
}

impl CampaignWork {
    fn parts_changed(&mut self, shares: &mut Shares) {
        self.claimable_from = self.parts.iter().filter_map(PartWork::claimable_from).min();
        let id = self.plan.campaign.id;
        match self.claimable_from {
            Some(_) => shares.join(id),
            None => shares.leave(id),
        }
    }

    fn claimable(&self, now: UnixMs) -> bool {
        self.claimable_from.is_some_and(|at| at <= now)
    }

    /// It runs, and its template is not `held`.
    fn is_open(&self, held: impl Fn(&HoldScope) -> bool) -> bool {
        self.running && !held(&self.template)
    }
}

/// What is known of a part.
struct PartWork {
    id: PartId,
    /// When to look at it, since it was not looked at after it was learned of: an older epoch may have left rows in flight,
    /// whether its campaign runs or not.
    unseen: Option<UnixMs>,
    /// Rows that were never claimed may be left.
    fresh: bool,
    next_due: Option<UnixMs>,
    next_doubt: Option<UnixMs>,
}

impl PartWork {
    /// From when on a claim may bring rows, if ever; it looks at the part as well.
    fn claimable_from(&self) -> Option<UnixMs> {
        let rows = if self.fresh { Some(UnixMs(0)) } else { self.next_due };
        rows.max(self.unseen.filter(|_| rows.is_some()))
    }

    /// When it needs something that is no claim.
    fn needs_care(&self) -> Option<UnixMs> {
        self.unseen.into_iter().chain(self.next_doubt).min()
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Look at this part, and take it over: nothing is to be claimed from it now.
    Look(PartId),
    /// Claim from this part.
    Claim(PartId),
    /// End doubts of this part.
    Doubts(PartId),
    /// Nothing before this time, if there is one.
    Wait(Option<UnixMs>),
}

/// The backlog of a line.
#[derive(Default)]
pub struct Backlog {
    campaigns: BTreeMap<CampaignId, CampaignWork>,
    shares: Shares,
    /// No part needs care before, or none at all.
    care_from: Option<UnixMs>,
}

impl Backlog {
    /// The campaigns it knows.
    pub fn campaigns(&self) -> impl Iterator<Item = CampaignId> {
        self.campaigns.keys().copied()
    }

    /// One campaign.
    pub fn campaign(&mut self, id: CampaignId) -> Option<&mut CampaignWork> {
        self.campaigns.get_mut(&id)
    }

    /// Nothing of a campaign may go now: it does not run, or its template is `held`.
    pub fn is_stopped(&self, id: CampaignId, held: impl Fn(&HoldScope) -> bool) -> bool {
        self.campaigns.get(&id).is_some_and(|work| !work.is_open(held))
    }

    /// What a campaign sends, and how.
    pub fn plan(&self, id: CampaignId) -> Option<Rc<SendPlan>> {
        self.campaigns.get(&id).map(|work| work.plan.clone())
    }

    /// Adds a campaign that was not known, without parts.
    pub fn add(&mut self, waba: &WabaId, plan: Rc<SendPlan>) {
        let campaign = &plan.campaign;
        let template = HoldScope::Template {
            waba: waba.clone(),
            name: campaign.template.name.clone(),
            language: campaign.template.language.to_string(),
        };
        let id = campaign.id;
        let work =
            CampaignWork { plan, running: true, template, failing: (0, 0), parts: Vec::new(), claimable_from: None };
        self.campaigns.insert(id, work);
    }

    /// Brings the parts up to what Redis says: new ones are claimed from, those that are gone are forgotten.
    pub fn set_parts(&mut self, parts: &[PartId]) {
        let there: HashSet<&PartId> = parts.iter().collect();
        for work in self.campaigns.values_mut() {
            work.parts.retain(|part| there.contains(&part.id));
        }
        self.care_from = Some(UnixMs(0));
        for &id in parts {
            let Some(work) = self.campaigns.get_mut(&id.campaign) else { continue };
            match work.parts.iter_mut().find(|part| part.id == id) {
                // It may have been held when it was last claimed from; and where it is, it may have been emptied meanwhile.
                Some(part) => (part.fresh, part.unseen) = (true, (!work.running).then_some(UnixMs(0))),
                None => work.parts.push(PartWork {
                    id,
                    unseen: Some(UnixMs(0)),
                    fresh: true,
                    next_due: None,
                    next_doubt: None,
                }),
            }
        }
        self.campaigns.retain(|_, work| {
            work.parts.sort_by_key(|part| part.id);
            work.parts_changed(&mut self.shares);
            !work.parts.is_empty()
        });
    }

    /// Forgets a part in which nothing is open, and its campaign if it was the last. Gives whether no line of the thread has anything
    /// of the campaign any more.
    pub fn remove(&mut self, id: PartId) -> bool {
        let Some(work) = self.campaigns.get_mut(&id.campaign) else { return true };
        work.parts.retain(|part| part.id != id);
        work.parts_changed(&mut self.shares);
        if !work.parts.is_empty() {
            return false;
        }
        // Each line that works on it has its plan.
        self.campaigns.remove(&id.campaign).is_none_or(|work| Rc::strong_count(&work.plan) == 1)
    }

    /// What to do next. `held` says whether a template is held back; `may_claim` whether anything may be claimed at all.
    pub fn next(&mut self, now: UnixMs, may_claim: bool, held: impl Fn(&HoldScope) -> bool) -> Next {
        let care = self.care(now);
        if !may_claim {
            return care.unwrap_or(Next::Wait(self.care_from));
        }
        let able = |work: &CampaignWork| work.claimable(now) && work.is_open(&held);
        let campaign = self.shares.next(|id| self.campaigns.get(&id).is_some_and(able));
        let part = campaign.and_then(|campaign| {
            let parts = &self.campaigns[&campaign].parts;
            parts.iter().find(|part| part.claimable_from().is_some_and(|at| at <= now))
        });
        match (part, care) {
            // Nor does care wait for those that have their turn before.
            (Some(part), care) if part.unseen.is_some() || care.is_none() => Next::Claim(part.id),
            (_, Some(care)) => care,
            _ => {
                let due =
                    self.campaigns.values().filter(|work| work.is_open(&held)).filter_map(|work| work.claimable_from);
                Next::Wait(due.chain(self.care_from).min())
            }
        }
    }

    /// What is to be done now that is no claim, and waits for no right to claim.
    fn care(&mut self, now: UnixMs) -> Option<Next> {
        if self.care_from.is_none_or(|at| now < at) {
            return None;
        }
        let all = || self.campaigns.values().flat_map(|work| &work.parts);
        if let Some(part) = all().find(|part| part.unseen.is_some_and(|at| at <= now)) {
            return Some(Next::Look(part.id));
        }
        if let Some(part) = all().find(|part| part.next_doubt.is_some_and(|at| at <= now)) {
            return Some(Next::Doubts(part.id));
        }
        self.care_from = all().filter_map(PartWork::needs_care).min();
        None
    }

    /// A claim brought `n` rows of a part, and told what else it has.
    pub fn claimed(&mut self, id: PartId, n: usize, fresh: bool, next_due: Option<UnixMs>, next_doubt: Option<UnixMs>) {
        if let Some(work) = self.campaigns.get(&id.campaign) {
            self.shares.took(id.campaign, work.plan.campaign.priority, n);
        }
        self.change(id, |part| {
            (part.unseen, part.fresh, part.next_due, part.next_doubt) = (None, fresh, next_due, next_doubt);
        });
    }

    /// A part is not to be claimed from until the next refresh.
    pub fn shut(&mut self, id: PartId) {
        self.change(id, |part| (part.unseen, part.fresh, part.next_due) = (None, false, None));
    }

    /// A part is not to be claimed from before it was looked at again.
    pub fn look_again(&mut self, id: PartId, at: UnixMs) {
        self.change(id, |part| part.unseen = Some(at));
    }

    /// A row of a part waits for its next attempt.
    pub fn due(&mut self, id: PartId, at: UnixMs) {
        self.change(id, |part| part.next_due = Some(part.next_due.map_or(at, |due| due.min(at))));
    }

    /// When the next doubt of a part ends, as far as is known.
    pub fn doubt(&mut self, id: PartId, at: UnixMs) {
        self.change(id, |part| part.next_doubt = Some(part.next_doubt.map_or(at, |doubt| doubt.min(at))));
    }

    /// When the next doubt of a part ends, from Redis.
    pub fn set_doubt(&mut self, id: PartId, at: Option<UnixMs>) {
        self.change(id, |part| part.next_doubt = at);
    }

    fn change(&mut self, id: PartId, change: impl FnOnce(&mut PartWork)) {
        let Some(work) = self.campaigns.get_mut(&id.campaign) else { return };
        let Some(part) = work.parts.iter_mut().find(|part| part.id == id) else { return };
        change(part);
        self.care_from = self.care_from.into_iter().chain(part.needs_care()).min();
        work.parts_changed(&mut self.shares);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{domain::template::Form, graph::body::BodyPlan};

    const NOW: UnixMs = UnixMs(1_000_000);
    const LATER: UnixMs = UnixMs(1_060_000);

    /// A backlog with a part of each of two campaigns, that nobody has looked at. The first one's turn comes first.
    fn backlog() -> (Backlog, [PartId; 2]) {
        let mut backlog = Backlog::default();
        let parts = ["01J9ZK3V5T8R7Q6P5N4M3K2J1H", "01J9ZK3V5T8R7Q6P5N4M3K2J1J"].map(|id| {
            let campaign = serde_json::from_value(json!({
                "id": id, "name": "spring", "lines": ["3001"], "priority": 5, "on_doubt": "hold",
                "created_at": "2026-03-01T12:00:00Z",
                "template": {
                    "name": "spring", "language": "es_AR", "status": "APPROVED", "category": "MARKETING",
                    "components": [{"type": "BODY", "text": "Hola"}],
                },
            }));
            let campaign: crate::domain::Campaign = campaign.expect("a campaign");
            let part = PartId { campaign: campaign.id, number: 0 };
            let body = BodyPlan::new(&campaign.template, &Form::of(&campaign.template).expect("a form"));
            backlog.add(&"2001".into(), Rc::new(SendPlan { campaign, body }));
            part
        });
        backlog.set_parts(&parts);
        (backlog, parts)
    }

    fn next(backlog: &mut Backlog, now: UnixMs) -> Next {
        backlog.next(now, true, |_| false)
    }

    #[test]
    fn the_first_claim_of_a_part_is_its_look() {
        let (mut backlog, [first, second]) = backlog();
        assert_eq!(next(&mut backlog, NOW), Next::Claim(first));
        backlog.claimed(first, 10, false, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Claim(second));
        backlog.claimed(second, 10, false, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Wait(None));
    }

    #[test]
    fn every_part_is_looked_at_before_one_has_a_second_turn() {
        let (mut backlog, [first, second]) = backlog();
        backlog.campaign(second.campaign).expect("it is there").running = false;
        assert_eq!(next(&mut backlog, NOW), Next::Claim(first));
        backlog.claimed(first, 10, true, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Look(second), "an older owner may have left rows in flight");
        backlog.shut(second);
        assert_eq!(next(&mut backlog, NOW), Next::Claim(first));
    }

    #[test]
    fn parts_are_looked_at_and_doubts_end_while_nothing_may_be_claimed() {
        let (mut backlog, [first, second]) = backlog();
        let next = |backlog: &mut Backlog, now| backlog.next(now, false, |_| false);
        assert_eq!(next(&mut backlog, NOW), Next::Look(first));
        backlog.claimed(first, 0, true, None, Some(LATER));
        assert_eq!(next(&mut backlog, NOW), Next::Look(second));
        backlog.claimed(second, 0, true, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Wait(Some(LATER)));
        assert_eq!(next(&mut backlog, LATER), Next::Doubts(first));
        backlog.set_doubt(first, None);
        assert_eq!(next(&mut backlog, LATER), Next::Wait(None));
    }

    #[test]
    fn the_last_line_of_a_thread_that_ends_with_a_campaign_is_told() {
        let (mut one, [first, second]) = backlog();
        let plan = one.plan(first.campaign).expect("it is there");
        let mut other = Backlog::default();
        other.add(&"2001".into(), plan.clone());
        let parts = [1, 2].map(|number| PartId { number, ..first });
        other.set_parts(&parts);
        drop(plan);
        assert!(!one.remove(first), "the other line has parts of it");
        assert!(one.remove(second), "nobody else has");
        assert_eq!(parts.map(|part| other.remove(part)), [false, true]);
        assert!(other.remove(first), "what is not known is nobody's");
    }

    #[test]
    fn what_needs_care_sooner_than_was_known_gets_it() {
        let (mut backlog, [first, second]) = backlog();
        for part in [first, second] {
            backlog.claimed(part, 10, false, None, None);
        }
        assert_eq!(next(&mut backlog, NOW), Next::Wait(None));
        backlog.doubt(second, LATER);
        backlog.look_again(first, UnixMs(LATER.0 - 1));
        assert_eq!(next(&mut backlog, NOW), Next::Wait(Some(UnixMs(LATER.0 - 1))));
        assert_eq!(next(&mut backlog, UnixMs(LATER.0 - 1)), Next::Look(first));
        backlog.claimed(first, 0, false, None, None);
        assert_eq!(next(&mut backlog, LATER), Next::Doubts(second));
    }
}
