//! The backlog of a line: its campaigns, their parts, and which of them to claim from next.
//!
//! In memory only; rebuilt from Redis by every refresh. Never calls Redis itself.

use std::{
    collections::{BTreeMap, HashSet},
    rc::Rc,
};

use super::{plans::Plan, share::Shares};
use crate::domain::{CampaignId, HoldScope, PartId, UnixMs, WabaId};

/// A campaign that a line works on.
pub struct CampaignWork {
    /// What is sent, and how.
    pub plan: Rc<Plan>,
    /// It runs: not paused, not cancelled.
    pub running: bool,
    /// The hold that would stop its template.
    pub template: HoldScope,
    /// Failures in a row with one code: many of them mean that the message is at fault, not the recipients.
    pub failing: (u32, u32),
    parts: Vec<PartWork>,
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
    fn claimable(&self, now: UnixMs) -> bool {
        self.unseen.is_none() && (self.fresh || self.next_due.is_some_and(|due| due <= now))
    }
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Look at this part, and take it over.
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

    /// The campaigns of which nothing may go now: they do not run, or their template is `held`.
    pub fn stopped(&self, held: impl Fn(&HoldScope) -> bool) -> HashSet<CampaignId> {
        let stopped = self.campaigns.iter().filter(|(_, work)| !work.running || held(&work.template));
        stopped.map(|(id, _)| *id).collect()
    }

    /// What a campaign sends, and how.
    pub fn plan(&self, id: CampaignId) -> Option<Rc<Plan>> {
        self.campaigns.get(&id).map(|work| work.plan.clone())
    }

    /// Adds a campaign that was not known, without parts.
    pub fn add(&mut self, waba: &WabaId, plan: Rc<Plan>) {
        let campaign = &plan.campaign;
        let template = HoldScope::Template {
            waba: waba.clone(),
            name: campaign.template.name.clone(),
            language: campaign.template.language.to_string(),
        };
        let id = campaign.id;
        let work = CampaignWork { plan, running: true, template, failing: (0, 0), parts: Vec::new() };
        self.campaigns.insert(id, work);
    }

    /// Brings the parts up to what Redis says: new ones are claimed from, those that are gone are forgotten.
    pub fn set_parts(&mut self, parts: &[PartId]) {
        let there: HashSet<&PartId> = parts.iter().collect();
        for work in self.campaigns.values_mut() {
            work.parts.retain(|part| there.contains(&part.id));
        }
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
            !work.parts.is_empty()
        });
    }

    /// Forgets a part in which nothing is open.
    pub fn remove(&mut self, id: PartId) {
        if let Some(work) = self.campaigns.get_mut(&id.campaign) {
            work.parts.retain(|part| part.id != id);
        }
    }

    /// What to do next. `held` says whether a template is held back; `may_claim` whether anything may be claimed at all.
    pub fn next(&mut self, now: UnixMs, may_claim: bool, held: impl Fn(&HoldScope) -> bool) -> Next {
        let all = || self.campaigns.values().flat_map(|work| &work.parts);
        if let Some(part) = all().find(|part| part.unseen.is_some_and(|at| at <= now)) {
            return Next::Look(part.id);
        }
        if let Some(part) = all().find(|part| part.next_doubt.is_some_and(|at| at <= now)) {
            return Next::Doubts(part.id);
        }
        // Neither waits for the right to claim.
        let looks = all().filter_map(|part| part.unseen.into_iter().chain(part.next_doubt).min()).min();
        if !may_claim {
            return Next::Wait(looks);
        }
        let open = |work: &&CampaignWork| work.running && !held(&work.template);
        let able = self
            .campaigns
            .values()
            .filter(open)
            .filter(|work| work.parts.iter().any(|part| part.claimable(now)))
            .map(|work| (work.plan.campaign.id, work.plan.campaign.priority));
        if let Some(campaign) = self.shares.next(able) {
            let part = self.campaigns[&campaign].parts.iter().find(|part| part.claimable(now));
            return Next::Claim(part.expect("a campaign that is able has a claimable part").id);
        }
        let due = self.campaigns.values().filter(open).flat_map(|work| &work.parts).filter_map(|part| part.next_due);
        Next::Wait(due.chain(looks).min())
    }

    /// A claim brought `n` rows of a part, and told what else it has.
    pub fn claimed(
        &mut self,
        id: PartId,
        n: usize,
        fresh: bool,
        next_due: Option<UnixMs>,
        next_doubt: Option<UnixMs>,
        now: UnixMs,
    ) {
        let Some(work) = self.campaigns.get_mut(&id.campaign) else { return };
        if let Some(part) = work.parts.iter_mut().find(|part| part.id == id) {
            (part.unseen, part.fresh, part.next_due, part.next_doubt) = (None, fresh, next_due, next_doubt);
        }
        self.shares.took(id.campaign, work.plan.campaign.priority, n);
        if !work.parts.iter().any(|part| part.claimable(now)) {
            self.shares.idle(id.campaign);
        }
    }

    /// A part is not to be claimed from until the next refresh.
    pub fn shut(&mut self, id: PartId) {
        if let Some(part) = self.part(id) {
            (part.unseen, part.fresh, part.next_due) = (None, false, None);
        }
    }

    /// A part is not to be claimed from before it was looked at again.
    pub fn look_again(&mut self, id: PartId, at: UnixMs) {
        if let Some(part) = self.part(id) {
            part.unseen = Some(at);
        }
    }

    /// A row of a part waits for its next attempt.
    pub fn due(&mut self, id: PartId, at: UnixMs) {
        if let Some(part) = self.part(id) {
            part.next_due = Some(part.next_due.map_or(at, |due| due.min(at)));
        }
    }

    /// When the next doubt of a part ends, as far as is known.
    pub fn doubt(&mut self, id: PartId, at: UnixMs) {
        if let Some(part) = self.part(id) {
            part.next_doubt = Some(part.next_doubt.map_or(at, |doubt| doubt.min(at)));
        }
    }

    /// When the next doubt of a part ends, from Redis.
    pub fn set_doubt(&mut self, id: PartId, at: Option<UnixMs>) {
        if let Some(part) = self.part(id) {
            part.next_doubt = at;
        }
    }

    fn part(&mut self, id: PartId) -> Option<&mut PartWork> {
        self.campaigns.get_mut(&id.campaign)?.parts.iter_mut().find(|part| part.id == id)
    }
}
