//! A line of the simulator: its limits, messages and counts, behind one lock that is held for well under a microsecond
//! at a time.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    num::NonZeroU32,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use super::{
    behaviour::{Behaviour, Change, DeliveryPlan},
    inbound::{Content, Inbound},
    ledger::{Answer, Rates, Tally},
    live_line::LiveLine,
    lock,
    message::{Messages, SimMessage, TemplateIndex, inbound_wamid, index_in, status_index, wamid},
    millis,
    recipient::{RecipientKey, Recipients},
    rule::{Rule, Violations},
    scenario::{self, Scenario},
    window::{Pairs, Window},
};
use crate::domain::{Phone, State};

pub(super) struct SimLine {
    pub(super) index: u16,
    pub(super) waba: usize,
    pub(super) spec: scenario::Line,
    initial: LiveLine,
    pub(super) pairs_limited: bool,
    initial_behaviour: Behaviour,
    behaviour: RwLock<Arc<Behaviour>>,
    state: Mutex<LineState>,
}

impl SimLine {
    pub(super) fn new(index: u16, waba: usize, spec: scenario::Line, scenario: &Scenario, run: u64) -> Self {
        let mut behaviour = Behaviour::of(scenario);
        if let Some(faults) = &spec.faults {
            behaviour.faults = faults.clone();
        }
        behaviour.latency = spec.latency.unwrap_or(behaviour.latency);
        let initial = LiveLine::of(&spec, &scenario.limits);
        Self {
            index,
            waba,
            state: Mutex::new(LineState::new(run, initial.clone())),
            initial,
            pairs_limited: scenario.limits.pair,
            spec,
            initial_behaviour: behaviour.clone(),
            behaviour: RwLock::new(Arc::new(behaviour)),
        }
    }

    /// The display phone number in digits, as webhooks write it.
    pub(super) fn digits(&self) -> String {
        self.spec.display_phone_number.chars().filter(char::is_ascii_digit).collect()
    }

    pub(super) fn behaviour(&self) -> Arc<Behaviour> {
        self.behaviour.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change(&self, change: &Change, now: Duration) {
        let mut behaviour = self.behaviour.write().unwrap_or_else(PoisonError::into_inner);
        *behaviour = Arc::new(behaviour.changed(change, now));
    }

    /// Clears all state and restores the initial behaviour, with outages counted from `now`.
    pub(super) fn reset(&self, run: u64, now: Duration) {
        let mut behaviour = self.behaviour.write().unwrap_or_else(PoisonError::into_inner);
        *behaviour = Arc::new(self.initial_behaviour.restarted_at(now));
        *self.state() = LineState::new(run, self.initial.clone());
    }

    pub(super) fn state(&self) -> MutexGuard<'_, LineState> {
        lock(&self.state)
    }

    /// Whether the line's rate admits a message now. An admitted message counts towards the rate.
    pub(super) fn admits(&self, state: &mut LineState, now: Duration) -> bool {
        let admits = state.admitted.count(micros(now)) < state.live.admits_in_1s();
        if admits {
            state.admitted.record(micros(now));
        }
        admits
    }

    /// Whether the pair limit admits a message to this person now. An admitted message counts towards the limit.
    pub(super) fn admits_pair(&self, state: &mut LineState, to: Phone, now: Duration) -> bool {
        !self.pairs_limited || state.pairs.admit(to, now)
    }

    pub(super) fn tally(&self) -> Tally {
        let state = self.state();
        let mut tally = state.tally.clone();
        tally.told.failed.retain(|_, count| *count > 0);
        tally.violations = state.violations.by_name();
        tally.answers = state.answers.iter().map(|(answer, count)| (answer.name(), *count)).collect();
        let span = state.last_us.saturating_sub(state.first_us.unwrap_or(state.last_us));
        let seconds = Duration::from_micros(span).as_secs_f64();
        tally.rates = Some(Rates {
            messages_per_second: state.live.messages_per_second(),
            requests_in_1s_max: state.requests.max_in_1s(),
            accepted_in_1s_max: state.accepted.max_in_1s(),
            requests_per_second_mean: (seconds > 0.0).then(|| (tally.requests - 1) as f64 / seconds),
            seconds,
        });
        tally
    }
}

/// The mutable state of a line. All times count from the start of the simulator.
pub(super) struct LineState {
    /// The run that the messages belong to: the Unix time in ms at which the run began.
    pub(super) run: u64,
    pub(super) live: LiveLine,
    /// Sends that have arrived.
    requests: Window,
    /// Inbound messages and the sends that were admitted.
    admitted: Window,
    inbound_times: Window,
    accepted: Window,
    first_us: Option<u64>,
    last_us: u64,
    pub(super) pairs: Pairs,
    pub(super) violations: Violations,
    tally: Tally,
    answers: BTreeMap<Answer, u64>,
    pub(super) messages: Messages,
    pub(super) inbound: Vec<Inbound>,
    /// What people will answer, by the index of the message.
    answers_planned: HashMap<u32, VecDeque<Content>>,
    /// How many messages without a template each person has answered in the current conversation.
    turns: HashMap<Phone, u32>,
    /// When each person last wrote, in ms since the start.
    last_inbound_ms: HashMap<Phone, u64>,
}

/// A message that is about to be accepted.
pub(super) struct NewMessage<'a> {
    pub(super) to: Phone,
    pub(super) callback: &'a str,
    pub(super) template: Option<usize>,
    /// Type and text of a message without a template.
    pub(super) free: Option<(&'static str, &'a str)>,
    pub(super) recipient: RecipientKey,
    /// The sender receives the response.
    pub(super) answered: bool,
}

/// Meta's customer service window: how long after a person's last message a line may write without a template.
const SERVICE_WINDOW_MS: u64 = 24 * 60 * 60 * 1000;

impl LineState {
    fn new(run: u64, live: LiveLine) -> Self {
        Self {
            run,
            live,
            requests: Window::default(),
            admitted: Window::default(),
            inbound_times: Window::default(),
            accepted: Window::default(),
            first_us: None,
            last_us: 0,
            pairs: Pairs::new(),
            violations: Violations::default(),
            tally: Tally::default(),
            answers: BTreeMap::new(),
            messages: Messages::default(),
            inbound: Vec::new(),
            answers_planned: HashMap::new(),
            turns: HashMap::new(),
            last_inbound_ms: HashMap::new(),
        }
    }

    /// Records the arrival of a send. Returns its number on the line, from 1.
    pub(super) fn arrived(&mut self, now: Duration) -> u64 {
        let now_us = micros(now);
        self.requests.record(now_us);
        if self.requests.count(now_us) + self.inbound_times.count(now_us) > self.live.admits_in_1s() {
            self.violations.count(Rule::Rate);
        }
        self.first_us.get_or_insert(now_us);
        self.last_us = now_us;
        self.tally.requests += 1;
        self.tally.requests
    }

    pub(super) fn answered(&mut self, answer: Answer) {
        *self.answers.entry(answer).or_default() += 1;
    }

    /// Accepts a message. Returns its index on the line.
    pub(super) fn accept(
        &mut self,
        message: &NewMessage<'_>,
        plan: &DeliveryPlan,
        recipients: &Recipients,
        now: Duration,
    ) -> u32 {
        self.accepted.record(micros(now));
        self.tally.accepted += 1;
        match message.free {
            Some(_) => self.tally.free_messages += 1,
            None => self.begin_conversation(message.to),
        }
        *self.tally.planned.of(plan.state, plan.code) += 1;
        self.tally.told.accepted += 1;
        let sighting = recipients.record(message.recipient, plan.state != State::Failed);
        self.tally.unique_recipients += u64::from(sighting.first);
        self.tally.duplicate_messages += u64::from(!sighting.first);
        self.tally.duplicated_recipients += u64::from(sighting.second);
        self.tally.recipients_reached_twice += u64::from(sighting.second_reaching);
        self.messages.push(SimMessage {
            to: message.to,
            callback: message.callback.into(),
            accepted_ms: short_millis(now).get(),
            acknowledged_ms: [None; 4],
            code: plan.code,
            template: message.template.and_then(TemplateIndex::new),
            planned: plan.state,
            acknowledged: State::Accepted,
            named: message.answered,
            free: message.free.map(|(kind, text)| Box::new((kind, text.into()))),
        })
    }

    /// Records that a webhook POST with this status was answered 200. `token`: the status carried the callback data.
    pub(super) fn acknowledge(&mut self, message: u32, status: State, token: bool, now: Duration) {
        let Some(message) = self.messages.get_mut(message) else { return };
        message.named |= token;
        message.acknowledged_ms[status_index(status)].get_or_insert(short_millis(now));
        if status.rank() > message.acknowledged.rank() {
            *self.tally.told.of(message.acknowledged, message.code) -= 1;
            *self.tally.told.of(status, message.code) += 1;
            message.acknowledged = status;
        }
    }

    /// Stores what the person will answer, in order.
    pub(super) fn plan_answers(&mut self, message: u32, answers: impl Iterator<Item = Content>) {
        self.answers_planned.insert(message, answers.collect());
    }

    /// Turns the next planned answer into an inbound message. Returns the index of that message; `None` if no answer is
    /// planned.
    pub(super) fn answer(&mut self, message: u32, now: Duration) -> Option<u32> {
        let planned = self.answers_planned.get_mut(&message)?;
        let content = planned.pop_front();
        if planned.is_empty() {
            self.answers_planned.remove(&message);
        }
        let from = self.messages.get(message)?.to;
        Some(self.receive(from, content?, Some(message), now))
    }

    /// Lets the person answer messages without a template anew.
    pub(super) fn begin_conversation(&mut self, person: Phone) {
        self.turns.remove(&person);
    }

    /// Whether the person answers one more message without a template, of at most `turns`.
    pub(super) fn takes_turn(&mut self, person: Phone, turns: u32) -> bool {
        let taken = self.turns.entry(person).or_default();
        let takes = *taken < turns;
        *taken += u32::from(takes);
        takes
    }

    /// Whether the line with this index received the message with this id.
    pub(super) fn has_received(&self, line: u16, id: &str) -> bool {
        let found = index_in(id).and_then(|index| Some((index, self.inbound.get(usize::try_from(index).ok()?)?)));
        found.is_some_and(|(index, inbound)| inbound_wamid(self.run, line, index, inbound.from) == id)
    }

    /// Whether the line with this index sent the message with this id.
    pub(super) fn has_sent(&self, line: u16, id: &str) -> bool {
        let found = index_in(id).and_then(|index| Some((index, self.messages.get(index)?)));
        found.is_some_and(|(index, message)| wamid(self.run, line, index, message.to) == id)
    }

    /// Receives an inbound message, which counts towards the rate of the line, as at Meta. Returns its index.
    ///
    /// `about`: the index of the message that it answers.
    pub(super) fn receive(&mut self, from: Phone, content: Content, about: Option<u32>, now: Duration) -> u32 {
        self.admitted.record(micros(now));
        self.inbound_times.record(micros(now));
        self.tally.inbound += 1;
        self.last_inbound_ms.insert(from, millis(now));
        self.inbound.push(Inbound { from, at: now, content, about });
        u32::try_from(self.inbound.len() - 1).unwrap_or(u32::MAX)
    }

    /// Whether the line may write to this person without a template.
    pub(super) fn in_service_window(&self, person: Phone, now: Duration) -> bool {
        self.last_inbound_ms.get(&person).is_some_and(|at| millis(now) < at + SERVICE_WINDOW_MS)
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds in 32 bits, saturating after 49 days. Never 0, so that `Option` can use 0 for "not yet".
fn short_millis(time: Duration) -> NonZeroU32 {
    NonZeroU32::new(u32::try_from(time.as_millis()).unwrap_or(u32::MAX)).unwrap_or(NonZeroU32::MIN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::sim::scenario::Limits;

    fn line(messages_per_second: u32, limits: Limits) -> SimLine {
        let mut scenario = Scenario::named("calm").expect("it comes with the program");
        scenario.limits = limits;
        let spec = scenario::Line { messages_per_second, ..scenario.lines[0].clone() };
        SimLine::new(0, 0, spec, &scenario, 0)
    }

    fn refused(line: &SimLine, times: impl Iterator<Item = Duration>) -> usize {
        times.filter(|now| !line.admits(&mut line.state(), *now)).count()
    }

    proptest! {
        #[test]
        fn a_client_that_paces_at_the_rate_is_never_refused(rate in 1u32..2_000) {
            let exact = Limits { rate_tolerance: 0.0, rate_burst: 0, ..Limits::default() };
            let paced = (0..rate * 3).map(|i| Duration::from_secs(u64::from(i)) / rate);
            prop_assert_eq!(refused(&line(rate, exact), paced), 0);
        }

        #[test]
        fn the_tolerance_covers_a_burst_of_two_and_20_ms_of_jitter(
            rate in 1u32..2_000,
            jitter_us in prop::collection::vec(0u64..20_000, 6_000),
        ) {
            let mut times: Vec<Duration> = (0..rate * 3)
                .zip(jitter_us)
                .map(|(i, us)| Duration::from_secs(i.saturating_sub(1).into()) / rate + Duration::from_micros(us))
                .collect();
            times.sort();
            prop_assert_eq!(refused(&line(rate, Limits::default()), times.into_iter()), 0);
        }
    }

    #[test]
    fn a_line_admits_no_more_than_its_rate_in_any_second() {
        let exact = Limits { rate_tolerance: 0.0, rate_burst: 0, ..Limits::default() };
        let eager = |ms: u64| (0..ms).map(Duration::from_millis);
        assert_eq!(refused(&line(100, exact.clone()), eager(1_000)), 900);
        assert_eq!(refused(&line(100, exact), eager(3_000)), 2_700);
        assert_eq!(refused(&line(100, Limits::default()), eager(1_000)), 1_000 - 107);
    }
}
