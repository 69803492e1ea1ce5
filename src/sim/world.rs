//! The shared state of a running simulator.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    account::Account,
    behaviour::{Behaviour, Change},
    business::{Business, DEFAULT_BUSINESS, MessagingLimit},
    clock::Clock,
    courier::Courier,
    inbound::Inbound,
    ledger::{Ledger, Tally},
    line::{LineState, SimLine},
    live_template::LiveTemplate,
    lock,
    media::Files,
    message::{MessageRecord, SimMessage, inbound_wamid, status_index, wamid},
    notice::Notices,
    pending::Pending,
    portfolio::Portfolio,
    recipient::Recipients,
    scenario::{Limits, Referee, Scenario, ScenarioError, Waba},
    wire::Refusal,
};
use crate::domain::{LineId, State, UnixMs};

/// The shared state, as tasks own it.
pub(super) type SharedWorld = Arc<World>;

/// The state that requests and webhook deliveries share.
pub(super) struct World {
    pub(super) seed: u64,
    pub(super) limits: Limits,
    pub(super) referee: Referee,
    pub(super) lines: Vec<SimLine>,
    line_by_id: HashMap<String, usize>,
    pub(super) businesses: Vec<Portfolio>,
    pub(super) wabas: Vec<Account>,
    pub(super) templates: Vec<LiveTemplate>,
    /// For each WABA, template indices by name, in all languages.
    template_by_name: Vec<HashMap<String, Vec<usize>>>,
    pub(super) recipients: Recipients,
    pub(super) files: Files,
    /// See [`super::scenario::Webhooks::user_ids`].
    pub(super) user_ids: bool,
    pub(super) notices: Notices,
    pub(super) counts: Counts,
    /// The behaviour of requests other than sends. Only its outages and `no_answer_for` are used.
    pub(super) read_behaviour: RwLock<Behaviour>,
    initial_behaviour: Behaviour,
    pub(super) clock: Clock,
    /// The current run, identified by the Unix time in ms at which it began. A reset starts a new run.
    run: Mutex<u64>,
    traces: AtomicU64,
    /// All tasks of the simulator, which a stop waits for.
    pub(super) tasks: TaskTracker,
    pub(super) stop: CancellationToken,
}

/// Counts that belong to no line.
#[derive(Default)]
pub(super) struct Counts {
    pub(super) requests_elsewhere: AtomicU64,
    pub(super) delivered: AtomicU64,
    pub(super) duplicated: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) posts: AtomicU64,
    pub(super) posts_failed: AtomicU64,
    pub(super) pending: Pending,
}

/// The id of the first template. The others follow in the order of the scenario.
const FIRST_TEMPLATE_ID: u64 = 900_000_000_000_001;

impl World {
    /// Errors: [`ScenarioError::Problems`] with all problems of the scenario.
    pub(super) fn new(
        scenario: Scenario,
        http: &reqwest::Client,
        stop: CancellationToken,
    ) -> Result<Self, ScenarioError> {
        let problems = scenario.problems();
        if !problems.is_empty() {
            return Err(ScenarioError::Problems(problems));
        }
        let clock = Clock::start();
        let run = clock.unix(Duration::ZERO).0;
        let waba_by_id: HashMap<&str, usize> = scenario.wabas.iter().map(|waba| waba.id.as_str()).zip(0..).collect();
        let lines: Vec<SimLine> = (0u16..)
            .zip(&scenario.lines)
            .map(|(index, spec)| SimLine::new(index, waba_by_id[spec.waba.as_str()], spec.clone(), &scenario, run))
            .collect();
        let mut template_by_name = vec![HashMap::<String, Vec<usize>>::new(); scenario.wabas.len()];
        let mut templates = Vec::with_capacity(scenario.templates.len());
        for (index, spec) in scenario.templates.iter().enumerate() {
            let waba = waba_by_id[spec.waba.as_str()];
            template_by_name[waba].entry(spec.name.clone()).or_default().push(index);
            let template = LiveTemplate::new(FIRST_TEMPLATE_ID + index as u64, waba, spec);
            templates.push(template.map_err(|problem| ScenarioError::Problems(vec![problem]))?);
        }
        let businesses = businesses(&scenario);
        let account = |spec: &Waba| {
            let business = businesses.iter().position(|business| business.spec.id == spec.business).unwrap_or(0);
            let courier =
                spec.webhook.as_ref().map(|target| Courier::new(target, &scenario.webhooks, run, http.clone()));
            Account::new(spec.clone(), business, courier)
        };
        let initial_behaviour = Behaviour::of(&scenario);
        Ok(Self {
            seed: scenario.seed,
            wabas: scenario.wabas.iter().map(account).collect(),
            businesses,
            line_by_id: scenario.lines.iter().map(|line| line.id.clone()).zip(0..).collect(),
            lines,
            templates,
            template_by_name,
            recipients: Recipients::new(),
            files: Files::new(),
            user_ids: scenario.webhooks.user_ids,
            notices: Notices::new(run),
            counts: Counts::default(),
            read_behaviour: RwLock::new(initial_behaviour.clone()),
            initial_behaviour,
            limits: scenario.limits,
            referee: scenario.referee,
            clock,
            run: Mutex::new(run),
            traces: AtomicU64::new(run << 16),
            tasks: TaskTracker::new(),
            stop,
        })
    }

    /// A new number for an `fbtrace_id`.
    pub(super) fn trace(&self) -> u64 {
        self.traces.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn line(&self, id: &str) -> Option<&SimLine> {
        self.line_by_id.get(id).map(|index| &self.lines[*index])
    }

    pub(super) fn waba(&self, id: &str) -> Option<usize> {
        self.wabas.iter().position(|waba| waba.spec.id == id)
    }

    pub(super) fn business(&self, id: &str) -> Option<usize> {
        self.businesses.iter().position(|business| business.spec.id == id)
    }

    /// The WABAs of other businesses that are shared with a business.
    pub(super) fn wabas_shared_with(&self, business: usize) -> impl Iterator<Item = usize> {
        let id = &self.businesses[business].spec.id;
        (0..self.wabas.len()).filter(move |waba| self.wabas[*waba].spec.shared_with.contains(id))
    }

    /// The WABAs that a business owns.
    pub(super) fn wabas_of(&self, business: usize) -> impl Iterator<Item = usize> {
        (0..self.wabas.len()).filter(move |waba| self.wabas[*waba].business == business)
    }

    /// Checks that the token may access objects of this WABA. Returns the index of the WABA. `id`: the requested
    /// object.
    ///
    /// Errors: 190 for an unknown token; Meta's "does not exist" if the object belongs to no WABA or to another one.
    pub(super) fn authorize(&self, token: Option<&str>, waba: Option<usize>, id: &str) -> Result<usize, Refusal> {
        let opens = |waba: usize| token == Some(self.wabas[waba].spec.token.as_str());
        match waba.filter(|waba| opens(*waba)) {
            Some(waba) => Ok(waba),
            None if (0..self.wabas.len()).any(opens) => Err(Refusal::no_such_object(id)),
            None => Err(Refusal::new(190, "Invalid OAuth access token - Cannot parse access token")),
        }
    }

    /// The index of the template with this WABA, name and language.
    pub(super) fn template(&self, waba: usize, name: &str, language: &str) -> Option<usize> {
        let of_name = self.template_by_name[waba].get(name)?;
        of_name.iter().copied().find(|index| self.templates[*index].spec.language == language)
    }

    pub(super) fn change(&self, change: &Change) -> Result<(), Vec<String>> {
        let mut problems = change.problems();
        let only = change.line.as_deref();
        if let Some(id) = only.filter(|id| self.line(id).is_none()) {
            problems.push(format!("there is no line {id}"));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let now = self.clock.now();
        let changed = self.lines.iter().filter(|line| only.is_none_or(|id| line.spec.id == id));
        changed.for_each(|line| line.change(change, now));
        if only.is_none() {
            let mut read_behaviour = self.read_behaviour.write().unwrap_or_else(PoisonError::into_inner);
            *read_behaviour = read_behaviour.changed(change, now);
        }
        Ok(())
    }

    /// Restores the state just after the start: no counts, messages or pending updates, and the faults and templates of
    /// the scenario.
    pub(super) fn reset(&self) {
        let mut run = lock(&self.run);
        let now = self.clock.now();
        // Make the run later than the last one, so that two runs never share a message id, even if they begin in the
        // same millisecond.
        *run = self.clock.unix(now).0.max(*run + 1);
        // Reset the couriers first: they then ignore updates of the old run, and no line creates updates of the new run
        // yet.
        for courier in self.wabas.iter().filter_map(|waba| waba.courier.as_ref()) {
            self.counts.pending.settle(courier.reset(*run));
        }
        self.lines.iter().for_each(|line| line.reset(*run, now));
        self.recipients.clear();
        self.files.reset();
        self.notices.reset(*run);
        self.businesses.iter().for_each(Portfolio::reset);
        self.wabas.iter().for_each(Account::reset);
        self.templates.iter().for_each(LiveTemplate::reset);
        let counts = &self.counts;
        for count in [
            &counts.requests_elsewhere,
            &counts.delivered,
            &counts.duplicated,
            &counts.given_up,
            &counts.posts,
            &counts.posts_failed,
        ] {
            count.store(0, Ordering::Relaxed);
        }
        let mut read_behaviour = self.read_behaviour.write().unwrap_or_else(PoisonError::into_inner);
        *read_behaviour = self.initial_behaviour.restarted_at(now);
    }

    pub(super) fn run(&self) -> u64 {
        *lock(&self.run)
    }

    pub(super) fn ledger(&self) -> Ledger {
        let lines: Vec<(String, Tally)> = self.lines.iter().map(|line| (line.spec.id.clone(), line.tally())).collect();
        let mut total = Tally::default();
        lines.iter().for_each(|(_, tally)| total.add(tally));
        let counts = &self.counts;
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Ledger {
            seed: self.seed,
            since: UnixMs(self.run()),
            total,
            lines: lines.into_iter().collect(),
            requests_elsewhere: read(&counts.requests_elsewhere),
            template_reads: self.wabas.iter().map(|waba| (waba.spec.id.clone(), read(&waba.template_reads))).collect(),
            webhooks_pending: counts.pending.updates(),
            webhooks_delivered: read(&counts.delivered),
            webhooks_duplicated: read(&counts.duplicated),
            webhooks_given_up: read(&counts.given_up),
            webhook_posts: read(&counts.posts),
            webhook_posts_failed: read(&counts.posts_failed),
        }
    }

    /// At most `limit` messages of a line, from index `from`.
    pub(super) fn messages(&self, line: usize, from: u32, limit: u32) -> Vec<MessageRecord> {
        let Some(line) = self.lines.get(line) else { return Vec::new() };
        let id = LineId::from(line.spec.id.as_str());
        let state = line.state();
        (from..from.saturating_add(limit))
            .map_while(|number| Some(self.record(line, &id, &state, number, state.messages.get(number)?)))
            .collect()
    }

    /// Meta's ids of the messages that people have written to a line.
    pub(super) fn written(&self, line: usize) -> Vec<String> {
        let Some(line) = self.lines.get(line) else { return Vec::new() };
        let state = line.state();
        let id = |(index, inbound): (u32, &Inbound)| inbound_wamid(state.run, line.index, index, inbound.from);
        (0..).zip(&state.inbound).map(id).collect()
    }

    fn record(
        &self,
        line: &SimLine,
        id: &LineId,
        state: &LineState,
        number: u32,
        message: &SimMessage,
    ) -> MessageRecord {
        let at = |ms: u32| self.clock.unix(Duration::from_millis(ms.into()));
        let first_acknowledged = |status: State| message.acknowledged_ms[status_index(status)].map(|ms| at(ms.get()));
        MessageRecord {
            wamid: wamid(state.run, line.index, number, message.to),
            line: id.clone(),
            to: message.to,
            kind: message.free.as_ref().map_or("template", |free| free.0),
            text: message.free.as_ref().map(|free| free.1.to_string()),
            template: message.template.map(|template| self.templates[template.get()].spec.name.clone()),
            callback_data: message.callback.to_string(),
            state: message.acknowledged,
            planned: message.planned,
            named: message.named,
            code: (message.code != 0).then_some(message.code),
            accepted_at: at(message.accepted_ms),
            sent_at: first_acknowledged(State::Sent),
            delivered_at: first_acknowledged(State::Delivered),
            read_at: first_acknowledged(State::Read),
            failed_at: first_acknowledged(State::Failed),
        }
    }
}

/// The businesses of the scenario, and the default business.
fn businesses(scenario: &Scenario) -> Vec<Portfolio> {
    let listed = scenario.businesses.iter().map(|spec| Portfolio::new(spec.clone(), true));
    let is_listed = scenario.businesses.iter().any(|business| business.id == DEFAULT_BUSINESS);
    let unnamed =
        Business { id: DEFAULT_BUSINESS.into(), limit: MessagingLimit::Unlimited, pacing: None, frequency_cap: None };
    listed.chain((!is_listed).then(|| Portfolio::new(unnamed, false))).collect()
}
