//! The backlog of a line: its campaigns, their parts, and which part to claim from next.
//!
//! If the process dies: nothing is lost; every refresh rebuilds the backlog from Redis.
//! Never: calls Redis, or reads a clock.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    rc::Rc,
    time::{Duration, Instant},
};

use super::{plans::SendPlan, share::Shares};
use crate::{
    domain::{CampaignId, Due, FailureReason, FrequencyCap, HoldScope, PartId, UnixMs, WabaId, template::Category},
    redis::marketing::FrequencyCaps,
    rules::{
        ceiling::{self, Ceiling},
        contact_hours::ContactHours,
        windows::Opening,
    },
};

/// How far ahead messages of a campaign with a rate of its own are claimed.
const CEILING_AHEAD: Duration = Duration::from_millis(100);

/// Failures in a row for one reason.
#[derive(Clone, Copy, Debug)]
pub struct FailureStreak {
    /// The reason.
    pub reason: FailureReason,
    /// The number of failures.
    pub count: u32,
}

/// A campaign of the line.
pub struct CampaignWork {
    /// The campaign, ready to be sent.
    pub plan: Rc<SendPlan>,
    /// The campaign is running, not paused or cancelled, and this worker can send it.
    pub running: bool,
    /// The scope of a hold on its template.
    pub template: HoldScope,
    /// The scope of a hold on all campaigns of its template's category, if there is such a scope.
    category: Option<HoldScope>,
    /// Whether its template is in the category marketing.
    is_marketing: bool,
    /// The last failures in a row, if the last message failed. Many for one reason mean that the message is at fault,
    /// not the recipients.
    pub failing: Option<FailureStreak>,
    /// The campaign has passed its `expires_at`.
    expired: bool,
    parts: Vec<PartWork>,
    /// When the first of its parts is claimable, if any will be. Cached, because a campaign may have thousands of
    /// parts.
    claimable_from: Option<Due>,
}

impl CampaignWork {
    fn set_category(&mut self, waba: &WabaId, category: &Category) {
        self.category = HoldScope::of_category(waba, category);
        self.is_marketing = *category == Category::Marketing;
    }

    /// Makes the next tick recompute the window of each part, before anything is claimed.
    fn look_at_windows(&mut self) {
        self.parts.iter_mut().for_each(|part| part.edge = Some(UnixMs(0)));
    }

    fn parts_changed(&mut self, shares: &mut Shares) {
        self.claimable_from = self.parts.iter().filter_map(PartWork::claimable_from).min();
        let id = self.plan.campaign.id;
        match self.claimable_from {
            Some(_) => shares.join(id),
            None => shares.leave(id),
        }
    }

    fn claimable(&self, now: UnixMs) -> bool {
        self.claimable_from.is_some_and(|at| at.is_due(now))
    }

    /// Updates expiry and windows to `now`. Returns when one of them changes next.
    fn tick(&mut self, now: UnixMs) -> Option<UnixMs> {
        let expires_at = self.plan.campaign.expires_at;
        self.expired = expires_at.is_some_and(|at| at <= now);
        let mut next = expires_at.filter(|at| *at > now);
        for part in &mut self.parts {
            if part.edge.is_some_and(|edge| edge <= now) {
                let (number, is_marketing) = (part.id.number, self.is_marketing);
                part.set_window(self.plan.windows.as_ref().map(|windows| windows.at(number, is_marketing, now)));
            }
            next = next.into_iter().chain(part.edge).min();
        }
        next
    }

    /// Whether no message of a part may leave now, because its window is closed or the campaign has expired.
    fn is_closed(&self, id: PartId) -> bool {
        let closed = || self.parts.iter().any(|part| part.id == id && part.window == PartWindow::Closed);
        self.expired || self.plan.windows.is_some() && closed()
    }

    /// Whether the campaign is running, and neither its template nor its category is `held`.
    fn is_open(&self, held: impl Fn(&HoldScope) -> bool) -> bool {
        self.running && !held(&self.template) && !self.category.as_ref().is_some_and(held)
    }
}

/// What the runner has learned about a part.
struct PartWork {
    id: PartId,
    /// When to inspect the part, if it has to be inspected: an older epoch may have left rows in flight, even if the
    /// campaign is not running.
    inspect_at: Option<Due>,
    /// Some rows may never have been claimed.
    fresh: bool,
    next_due: Option<Due>,
    next_doubt: Option<UnixMs>,
    window: PartWindow,
    /// When its window opens or closes next, if it does.
    edge: Option<UnixMs>,
}

/// The send window of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PartWindow {
    Open,
    Closed,
}

impl PartWork {
    /// A part that was not inspected yet. If it has a window, the window counts as closed until it is computed.
    fn new(id: PartId, has_window: bool) -> Self {
        Self {
            id,
            inspect_at: Some(Due::AtOnce),
            fresh: true,
            next_due: None,
            next_doubt: None,
            window: if has_window { PartWindow::Closed } else { PartWindow::Open },
            edge: has_window.then_some(UnixMs(0)),
        }
    }

    /// Sets whether the window is open, and until when. `None`: the part has no window.
    fn set_window(&mut self, opening: Option<Opening>) {
        let is_open = opening.is_none_or(|opening| opening.is_open);
        self.window = if is_open { PartWindow::Open } else { PartWindow::Closed };
        self.edge = opening.and_then(|opening| opening.until);
    }

    /// When a claim may first return rows, if ever. A claim inspects the part too.
    fn claimable_from(&self) -> Option<Due> {
        let rows = if self.fresh { Some(Due::AtOnce) } else { self.next_due };
        let rows = match self.window {
            PartWindow::Open => rows,
            PartWindow::Closed => rows.zip(self.edge).map(|(at, opens)| at.max(Due::At(opens))),
        };
        rows.max(self.inspect_at.filter(|_| rows.is_some()))
    }

    /// When the part next needs maintenance.
    fn maintenance_at(&self) -> Option<Due> {
        self.inspect_at.into_iter().chain(self.next_doubt.map(Due::At)).min()
    }
}

/// The ceiling of a campaign with a rate of its own, on this line.
struct CampaignCeiling {
    ceiling: Ceiling,
    /// How many messages may be claimed in addition to those that wait.
    room: usize,
    /// If no message may be claimed: when one may.
    room_at: UnixMs,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Inspect this part: claim no rows from it, which takes it over and returns what it contains.
    Inspect(PartId),
    /// Claim from this part.
    Claim(PartId),
    /// End the doubts of this part whose deadline has passed.
    EndDoubts(PartId),
    /// Wait until this time, or, without one, for the next change.
    Wait(Option<Due>),
}

/// The backlog of a line.
#[derive(Default)]
pub struct Backlog {
    campaigns: BTreeMap<CampaignId, CampaignWork>,
    /// The ceilings of the campaigns that have one.
    ceilings: BTreeMap<CampaignId, CampaignCeiling>,
    shares: Shares,
    /// When the first part may need maintenance, if any will.
    maintenance_from: Option<Due>,
    /// When the next window opens or closes, or the next campaign expires.
    edge: Option<UnixMs>,
}

impl Backlog {
    /// The number of its campaigns.
    pub fn n_campaigns(&self) -> usize {
        self.campaigns.len()
    }

    /// The campaigns whose plans follow these contact hours, each with the number of changes of its plan.
    pub fn plans_by(&self, contact_hours: &ContactHours) -> HashMap<CampaignId, u64> {
        let plans = self.campaigns.iter().map(|(id, work)| (*id, &work.plan));
        plans
            .filter(|(_, plan)| plan.contact_hours.is_same(contact_hours))
            .map(|(id, plan)| (id, plan.changes))
            .collect()
    }

    /// A campaign of the line, if it has work.
    pub fn campaign(&mut self, id: CampaignId) -> Option<&mut CampaignWork> {
        self.campaigns.get_mut(&id)
    }

    /// Whether nothing of the part may be sent: the backlog no longer has its campaign, the campaign is not running or
    /// has expired, its template or category is `held`, or the window of the part is closed.
    pub fn is_stopped(&self, id: PartId, held: impl Fn(&HoldScope) -> bool) -> bool {
        self.campaigns.get(&id.campaign).is_none_or(|work| !work.is_open(held) || work.is_closed(id))
    }

    /// When [`Backlog::tick`] has something to do next.
    pub fn edge(&self) -> Option<UnixMs> {
        self.edge
    }

    /// Applies the windows that have opened or closed by `now`, and the campaigns that have expired. Returns whether
    /// anything may have changed.
    pub fn tick(&mut self, now: UnixMs) -> bool {
        if self.edge.is_none_or(|edge| now < edge) {
            return false;
        }
        self.edge = None;
        for work in self.campaigns.values_mut() {
            self.edge = self.edge.into_iter().chain(work.tick(now)).min();
            work.parts_changed(&mut self.shares);
        }
        true
    }

    /// Sets the category of the template of a campaign.
    pub fn set_category(&mut self, id: CampaignId, waba: &WabaId, category: &Category) {
        let Some(work) = self.campaigns.get_mut(&id) else { return };
        let was_marketing = work.is_marketing;
        work.set_category(waba, category);
        // Contact hours apply to marketing only.
        if work.is_marketing != was_marketing {
            work.look_at_windows();
            self.edge = Some(UnixMs(0));
        }
    }

    /// The scope of a hold on the template of a campaign.
    pub fn template(&self, id: CampaignId) -> Option<HoldScope> {
        self.campaigns.get(&id).map(|work| work.template.clone())
    }

    /// The plan of a campaign, and whether its template is in the category marketing.
    pub fn plan(&self, id: CampaignId) -> Option<(Rc<SendPlan>, bool)> {
        self.campaigns.get(&id).map(|work| (work.plan.clone(), work.is_marketing))
    }

    /// Whether the template of a campaign is marketing.
    pub fn is_marketing(&self, id: CampaignId) -> bool {
        self.campaigns.get(&id).is_some_and(|work| work.is_marketing)
    }

    /// The frequency caps that apply to the messages of a campaign: its own, and the cap `of_business` of its business.
    pub fn frequency_caps(&self, id: CampaignId, of_business: Option<FrequencyCap>) -> Option<FrequencyCaps> {
        let work = self.campaigns.get(&id).filter(|work| work.is_marketing)?;
        FrequencyCaps::of(of_business, work.plan.campaign.frequency_cap)
    }

    /// Adds a campaign without parts, or gives a campaign of the backlog a new plan.
    pub fn add(&mut self, waba: &WabaId, plan: Rc<SendPlan>, now: Instant) {
        self.set_ceiling(&plan, now);
        if let Some(work) = self.campaigns.get_mut(&plan.campaign.id) {
            // The new plan may have another window.
            work.look_at_windows();
            work.plan = plan;
            self.edge = Some(UnixMs(0));
            return;
        }
        let campaign = &plan.campaign;
        let template = HoldScope::of_template(waba, &campaign.template.name, &campaign.template.language);
        let id = campaign.id;
        let mut work = CampaignWork {
            plan: plan.clone(),
            running: true,
            template,
            category: None,
            is_marketing: false,
            failing: None,
            expired: false,
            parts: Vec::new(),
            claimable_from: None,
        };
        work.set_category(waba, &plan.campaign.template.category);
        if work.plan.windows.is_some() || work.plan.campaign.expires_at.is_some() {
            self.edge = Some(UnixMs(0));
        }
        self.campaigns.insert(id, work);
    }

    /// Sets the ceiling of a campaign by its plan. A ceiling that changes starts empty.
    fn set_ceiling(&mut self, plan: &SendPlan, now: Instant) {
        let (id, lines) = (plan.campaign.id, plan.campaign.lines.len());
        let Some(share) = plan.campaign.rate.map(|rate| ceiling::share(rate, lines)) else {
            self.ceilings.remove(&id);
            return;
        };
        if self.ceilings.get(&id).is_none_or(|present| present.ceiling.per_second() != share) {
            let ceiling = CampaignCeiling { ceiling: Ceiling::new(share, now), room: 0, room_at: UnixMs(0) };
            self.ceilings.insert(id, ceiling);
        }
    }

    /// Whether a campaign of the backlog has a rate of its own.
    pub fn has_ceilings(&self) -> bool {
        !self.ceilings.is_empty()
    }

    /// Computes how many messages of each campaign with a rate of its own may be claimed. `waiting`: the campaign of
    /// each claimed message that waits to leave. `clock`: the time of Redis at `now`.
    pub fn measure_room(&mut self, waiting: impl Iterator<Item = CampaignId> + Clone, now: Instant, clock: UnixMs) {
        for (id, CampaignCeiling { ceiling, room, room_at }) in &mut self.ceilings {
            let n_waiting = waiting.clone().filter(|waiting| waiting == id).count();
            *room = ceiling.room(now, CEILING_AHEAD).saturating_sub(n_waiting);
            *room_at = clock.after(ceiling.wait_for_room(now, CEILING_AHEAD, n_waiting));
        }
    }

    /// How many messages of a campaign may be claimed, as computed last; `None` if it has no rate of its own.
    pub fn room(&self, id: CampaignId) -> Option<usize> {
        self.ceilings.get(&id).map(|ceiling| ceiling.room)
    }

    /// When the next message of a campaign may leave; `None` if it has no rate of its own.
    pub fn leaves_at(&self, id: CampaignId) -> Option<Instant> {
        self.ceilings.get(&id).map(|ceiling| ceiling.ceiling.next_at())
    }

    /// Records that a message of a campaign leaves.
    pub fn left(&mut self, id: CampaignId, now: Instant) {
        if let Some(ceiling) = self.ceilings.get_mut(&id) {
            ceiling.ceiling.left(now);
        }
    }

    /// When rows of a campaign may be claimed, if ever.
    fn claimable_from(&self, id: CampaignId, work: &CampaignWork) -> Option<Due> {
        let room = self.ceilings.get(&id).filter(|ceiling| ceiling.room == 0);
        work.claimable_from.map(|at| room.map_or(at, |room| at.max(Due::At(room.room_at))))
    }

    /// Replaces the list of parts by the one in Redis: adds new parts, and drops those that are gone.
    pub fn set_parts(&mut self, parts: &[PartId]) {
        let there: HashSet<&PartId> = parts.iter().collect();
        for work in self.campaigns.values_mut() {
            work.parts.retain(|part| there.contains(&part.id));
        }
        self.maintenance_from = Some(Due::AtOnce);
        for &id in parts {
            let Some(work) = self.campaigns.get_mut(&id.campaign) else { continue };
            match work.parts.iter_mut().find(|part| part.id == id) {
                // The campaign may have been paused at the last claim and be running now, so a claim is tried. If it
                // is not running, the part may have been emptied meanwhile, which an inspection detects.
                Some(part) => (part.fresh, part.inspect_at) = (true, (!work.running).then_some(Due::AtOnce)),
                None => {
                    let part = PartWork::new(id, work.plan.windows.is_some());
                    self.edge = self.edge.into_iter().chain(part.edge).min();
                    work.parts.push(part);
                }
            }
        }
        self.campaigns.retain(|_, work| {
            work.parts.sort_by_key(|part| part.id);
            work.parts_changed(&mut self.shares);
            !work.parts.is_empty()
        });
        self.ceilings.retain(|id, _| self.campaigns.contains_key(id));
    }

    /// Drops a part without open recipients, and with its last part the campaign. Returns whether no line of the
    /// shard has a part of the campaign any more.
    pub fn remove(&mut self, id: PartId) -> bool {
        let Some(work) = self.campaigns.get_mut(&id.campaign) else { return true };
        work.parts.retain(|part| part.id != id);
        work.parts_changed(&mut self.shares);
        if !work.parts.is_empty() {
            return false;
        }
        self.ceilings.remove(&id.campaign);
        // Each line that works on the campaign shares its plan.
        self.campaigns.remove(&id.campaign).is_none_or(|work| Rc::strong_count(&work.plan) == 1)
    }

    /// What to do next. `held` returns whether a scope is held; `may_claim` is whether rows may be claimed at all.
    pub fn next(&mut self, now: UnixMs, may_claim: bool, held: impl Fn(&HoldScope) -> bool) -> Next {
        let maintenance = self.maintenance(now);
        if !may_claim {
            return maintenance.unwrap_or(Next::Wait(self.maintenance_from));
        }
        let has_room = |id: CampaignId| self.ceilings.get(&id).is_none_or(|ceiling| ceiling.room > 0);
        let eligible = |work: &CampaignWork| work.claimable(now) && work.is_open(&held);
        let campaign = self.shares.next(|id| self.campaigns.get(&id).is_some_and(eligible) && has_room(id));
        let part = campaign.and_then(|campaign| {
            let parts = &self.campaigns[&campaign].parts;
            parts.iter().find(|part| part.claimable_from().is_some_and(|at| at.is_due(now)))
        });
        match (part, maintenance) {
            // Maintenance is not delayed by campaigns that are due earlier. A claim that inspects its part is
            // maintenance too.
            (Some(part), maintenance) if part.inspect_at.is_some() || maintenance.is_none() => Next::Claim(part.id),
            (_, Some(maintenance)) => maintenance,
            _ => {
                let open = self.campaigns.iter().filter(|(_, work)| work.is_open(&held));
                let due = open.filter_map(|(id, work)| self.claimable_from(*id, work));
                Next::Wait(due.chain(self.maintenance_from).min())
            }
        }
    }

    /// The maintenance that is due. It needs no permission to claim.
    fn maintenance(&mut self, now: UnixMs) -> Option<Next> {
        if self.maintenance_from.is_none_or(|at| !at.is_due(now)) {
            return None;
        }
        let all = || self.campaigns.values().flat_map(|work| &work.parts);
        if let Some(part) = all().find(|part| part.inspect_at.is_some_and(|at| at.is_due(now))) {
            return Some(Next::Inspect(part.id));
        }
        if let Some(part) = all().find(|part| part.next_doubt.is_some_and(|at| at <= now)) {
            return Some(Next::EndDoubts(part.id));
        }
        self.maintenance_from = all().filter_map(PartWork::maintenance_at).min();
        None
    }

    /// Records that a claim returned `n` rows of a part, and what else the part has.
    pub fn claimed(&mut self, id: PartId, n: usize, fresh: bool, next_due: Option<UnixMs>, next_doubt: Option<UnixMs>) {
        if let Some(work) = self.campaigns.get(&id.campaign) {
            self.shares.charge(id.campaign, work.plan.campaign.priority, n);
        }
        self.change(id, |part| {
            (part.inspect_at, part.fresh) = (None, fresh);
            (part.next_due, part.next_doubt) = (next_due.map(Due::At), next_doubt);
        });
    }

    /// Stops claims from a part until the next refresh.
    pub fn suspend(&mut self, id: PartId) {
        self.change(id, |part| (part.inspect_at, part.fresh, part.next_due) = (None, false, None));
    }

    /// Stops claims from a part until it is inspected at `at`.
    pub fn inspect_again(&mut self, id: PartId, at: UnixMs) {
        self.change(id, |part| part.inspect_at = Some(Due::At(at)));
    }

    /// Records that a row of a part is due for its next attempt at `at`.
    pub fn note_due(&mut self, id: PartId, at: Due) {
        self.change(id, |part| part.next_due = Some(part.next_due.map_or(at, |due| due.min(at))));
    }

    /// Records that a doubt of a part ends at `at`.
    pub fn note_doubt(&mut self, id: PartId, at: UnixMs) {
        self.change(id, |part| part.next_doubt = Some(part.next_doubt.map_or(at, |doubt| doubt.min(at))));
    }

    /// Sets when the next doubt of a part ends, as read from Redis.
    pub fn set_doubt(&mut self, id: PartId, at: Option<UnixMs>) {
        self.change(id, |part| part.next_doubt = at);
    }

    fn change(&mut self, id: PartId, change: impl FnOnce(&mut PartWork)) {
        let Some(work) = self.campaigns.get_mut(&id.campaign) else { return };
        let Some(part) = work.parts.iter_mut().find(|part| part.id == id) else { return };
        change(part);
        self.maintenance_from = self.maintenance_from.into_iter().chain(part.maintenance_at()).min();
        work.parts_changed(&mut self.shares);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use serde_json::json;

    use super::super::plans::PartWindows;
    use super::*;
    use crate::{domain::template::Form, graph::body::BodyPlan, rules::contact_hours::ContactHours};

    const NOW: UnixMs = UnixMs(1_000_000);
    const LATER: UnixMs = UnixMs(1_060_000);

    /// A backlog with two campaigns of one part each, which were not inspected yet. The first campaign's turn comes
    /// first.
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
            backlog.add(
                &"2001".into(),
                Rc::new(SendPlan {
                    campaign,
                    changes: 0,
                    windows: None,
                    contact_hours: ContactHours::default(),
                    body,
                    is_supported: true,
                }),
                Instant::now(),
            );
            part
        });
        backlog.set_parts(&parts);
        (backlog, parts)
    }

    fn next(backlog: &mut Backlog, now: UnixMs) -> Next {
        backlog.next(now, true, |_| false)
    }

    #[test]
    fn the_first_claim_of_a_part_inspects_it() {
        let (mut backlog, [first, second]) = backlog();
        assert_eq!(next(&mut backlog, NOW), Next::Claim(first));
        backlog.claimed(first, 10, false, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Claim(second));
        backlog.claimed(second, 10, false, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Wait(None));
    }

    /// Changes the expiry of a campaign, and gives it a window in UTC.
    fn change(backlog: &mut Backlog, id: CampaignId, expires_at: Option<UnixMs>, hours: Option<(&str, &str)>) {
        let plan = backlog.plan(id).expect("it is there");
        let campaign = crate::domain::Campaign { expires_at, ..plan.0.campaign.clone() };
        let window = hours.map(|(from, to)| {
            serde_json::from_value(json!({ "from": from, "to": to, "zone": "UTC" })).expect("a window")
        });
        let windows = PartWindows::of(window.as_ref(), &HashMap::new(), &ContactHours::default()).expect("a zone");
        let body = BodyPlan::new(&campaign.template, &Form::of(&campaign.template).expect("a form"));
        let contact_hours = ContactHours::default();
        let plan = SendPlan { campaign, changes: 1, windows, contact_hours, body, is_supported: true };
        backlog.add(&"2001".into(), Rc::new(plan), Instant::now());
    }

    #[test]
    fn nothing_is_claimed_outside_the_window() {
        const OPENS: UnixMs = UnixMs(20 * 60_000);
        const CLOSES: UnixMs = UnixMs(30 * 60_000);
        let (mut backlog, [first, second]) = backlog();
        change(&mut backlog, first.campaign, None, Some(("00:20", "00:30")));
        assert!(backlog.tick(NOW));
        assert!(backlog.is_stopped(first, |_| false) && !backlog.is_stopped(second, |_| false));
        assert_eq!(next(&mut backlog, NOW), Next::Claim(second));
        backlog.claimed(second, 10, false, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Inspect(first), "an older owner may have left rows in flight");
        backlog.claimed(first, 0, true, None, None);
        assert_eq!((next(&mut backlog, NOW), backlog.edge()), (Next::Wait(Some(Due::At(OPENS))), Some(OPENS)));

        assert!(!backlog.tick(UnixMs(OPENS.0 - 1)) && backlog.tick(OPENS));
        assert_eq!((next(&mut backlog, OPENS), backlog.edge()), (Next::Claim(first), Some(CLOSES)));
        assert!(!backlog.is_stopped(first, |_| false));
        assert!(backlog.tick(CLOSES));
        assert!(backlog.is_stopped(first, |_| false));
        let tomorrow = UnixMs(OPENS.0 + 86_400_000);
        assert_eq!(next(&mut backlog, CLOSES), Next::Wait(Some(Due::At(tomorrow))));
        change(&mut backlog, first.campaign, None, None);
        assert!(backlog.tick(CLOSES));
        assert_eq!((next(&mut backlog, CLOSES), backlog.edge()), (Next::Claim(first), None));
    }

    #[test]
    fn what_waits_is_stopped_when_its_campaign_expires() {
        let (mut backlog, [first, second]) = backlog();
        change(&mut backlog, first.campaign, Some(LATER), None);
        assert!(backlog.tick(NOW) && !backlog.is_stopped(first, |_| false));
        assert_eq!(backlog.edge(), Some(LATER));
        assert!(backlog.tick(LATER) && backlog.is_stopped(first, |_| false) && !backlog.is_stopped(second, |_| false));
        assert_eq!(
            (next(&mut backlog, LATER), backlog.edge()),
            (Next::Claim(first), None),
            "the claim expires the part"
        );
    }

    #[test]
    fn every_part_is_inspected_before_one_has_a_second_turn() {
        let (mut backlog, [first, second]) = backlog();
        backlog.campaign(second.campaign).expect("it is there").running = false;
        assert_eq!(next(&mut backlog, NOW), Next::Claim(first));
        backlog.claimed(first, 10, true, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Inspect(second), "an older owner may have left rows in flight");
        backlog.suspend(second);
        assert_eq!(next(&mut backlog, NOW), Next::Claim(first));
    }

    #[test]
    fn maintenance_goes_on_while_nothing_may_be_claimed() {
        let (mut backlog, [first, second]) = backlog();
        let next = |backlog: &mut Backlog, now| backlog.next(now, false, |_| false);
        assert_eq!(next(&mut backlog, NOW), Next::Inspect(first));
        backlog.claimed(first, 0, true, None, Some(LATER));
        assert_eq!(next(&mut backlog, NOW), Next::Inspect(second));
        backlog.claimed(second, 0, true, None, None);
        assert_eq!(next(&mut backlog, NOW), Next::Wait(Some(Due::At(LATER))));
        assert_eq!(next(&mut backlog, LATER), Next::EndDoubts(first));
        backlog.set_doubt(first, None);
        assert_eq!(next(&mut backlog, LATER), Next::Wait(None));
    }

    #[test]
    fn removal_of_the_last_part_on_a_shard_is_reported() {
        let (mut one, [first, second]) = backlog();
        let plan = one.plan(first.campaign).expect("it is there");
        let mut other = Backlog::default();
        other.add(&"2001".into(), plan.0.clone(), Instant::now());
        let parts = [1, 2].map(|number| PartId { number, ..first });
        other.set_parts(&parts);
        drop(plan);
        assert!(!one.remove(first), "the other line has parts of the campaign");
        assert!(one.remove(second), "no other line has parts of the campaign");
        assert_eq!(parts.map(|part| other.remove(part)), [false, true]);
        assert!(other.remove(first), "no line has an unknown campaign");
    }

    #[test]
    fn maintenance_that_is_due_earlier_than_planned_is_done_in_time() {
        let (mut backlog, [first, second]) = backlog();
        for part in [first, second] {
            backlog.claimed(part, 10, false, None, None);
        }
        assert_eq!(next(&mut backlog, NOW), Next::Wait(None));
        backlog.note_doubt(second, LATER);
        backlog.inspect_again(first, UnixMs(LATER.0 - 1));
        assert_eq!(next(&mut backlog, NOW), Next::Wait(Some(Due::At(UnixMs(LATER.0 - 1)))));
        assert_eq!(next(&mut backlog, UnixMs(LATER.0 - 1)), Next::Inspect(first));
        backlog.claimed(first, 0, false, None, None);
        assert_eq!(next(&mut backlog, LATER), Next::EndDoubts(second));
    }
}
