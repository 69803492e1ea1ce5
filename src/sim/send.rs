//! `POST {line}/messages` and `/marketing_messages`: the requests that have to be fast.
//!
//! A message is recorded, and its statuses are scheduled, before the first await, so a client that disconnects changes
//! nothing.

use std::{
    sync::{Arc, MutexGuard},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{
    account_change::bar_after_pacing,
    behaviour::{Behaviour, DeliveryPlan, Held, HeldUntil},
    courier::{StatusUpdate, Update},
    delay::Draws,
    delivery,
    inbound::Content,
    ledger::Answer,
    line::{LineState, NewMessage, SimLine},
    marketing::{Capped, WITHHELD},
    message::wamid,
    millis,
    pacing::Hold,
    portfolio::Places,
    recipient::RecipientKey,
    referee::judge,
    reply::Reply,
    scenario::{Fault, PacingOutcome},
    template_change::pause_after_pacing,
    timer,
    validate::{Edge, Incoming, ValidMessage, ValidSend},
    wire::Refusal,
    world::{SharedWorld, World},
};
use crate::domain::{Phone, us_numbers};

/// A send that has arrived.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    /// The number of the send on its line, from 1.
    number: u64,
    at: Duration,
}

impl Arrival {
    /// Records the arrival, before the outcome is decided.
    pub(super) fn on(world: &World, line: &SimLine) -> Self {
        let mut state = line.state();
        // Read the clock under the lock, so that the times of a line never decrease.
        let at = world.clock.now();
        Self { number: state.arrived(at), at }
    }
}

/// Handles a send whose body has been read. `closed`: cancelled when the connection has ended.
pub(super) async fn send(
    world: &SharedWorld,
    line: &SimLine,
    arrival: Arrival,
    token: Option<&str>,
    (edge, body): (Edge, &[u8]),
    closed: &CancellationToken,
) -> Reply {
    let behaviour = line.behaviour();
    let mut draws = Draws::new(world.seed, line.index, arrival.number);
    let fault = behaviour.fault(world.clock.now(), &mut draws);
    let answered = arrival.at + behaviour.latency.draw(&mut draws);
    let silence = behaviour.faults.no_answer_for;
    let incoming = Incoming::read(world, line.waba, edge, body);
    let withheld_from = withheld_from(world, fault, &incoming);
    let attempt = Attempt { world, line, number: arrival.number, behaviour, fault, answered };

    // There are three kinds of faults: a refusal; a fault without processing; and a fault after processing.
    let outcome = match (fault, fault.and_then(Fault::code)) {
        (_, Some(code)) => {
            attempt.judge(&incoming);
            Err(Refusal::bare(code))
        }
        (Some(fault), None) if !fault.accepts() => {
            attempt.judge(&incoming);
            line.state().answered(Answer::Fault(fault));
            Ok(Vec::new())
        }
        _ => match attempt.process(token, incoming, &mut draws) {
            Ok(Processed { body, early: Some((run, update)) }) => {
                delivery::deliver_now(world, line.waba, run, update).await;
                Ok(body)
            }
            Ok(Processed { body, early: None }) => Ok(body),
            Err(refusal) => Err(refusal),
        },
    };
    let reply = match (outcome, fault) {
        (Err(refusal), _) => {
            line.state().answered(Answer::Refused(refusal.code));
            Reply::refusal(world, &refusal)
        }
        (Ok(body), None | Some(Fault::Held)) => Reply::Json(200, body),
        (Ok(_), Some(fault)) => Reply::of_fault(world, fault),
    };
    // Skip the timer: most load scenarios have no latency.
    if answered > arrival.at {
        world.clock.sleep_until(answered).await;
    }
    if let Some(person) = withheld_from {
        tell_by_response(world, line.waba, person, arrival.at, closed.clone());
    }
    if matches!(reply, Reply::Silence) {
        world.clock.sleep_until(world.clock.now() + silence).await;
    }
    reply
}

/// The context of processing a send.
struct Attempt<'w> {
    world: &'w SharedWorld,
    line: &'w SimLine,
    /// The number of the send on its line.
    number: u64,
    behaviour: Arc<Behaviour>,
    fault: Option<Fault>,
    answered: Duration,
}

/// A request that was processed without a refusal.
struct Processed {
    body: Vec<u8>,
    /// The update that must be delivered before the response, with its run.
    early: Option<(u64, Update)>,
}

impl Attempt<'_> {
    /// Has the referee judge a send that is not processed.
    fn judge(&self, incoming: &Result<Incoming<'_>, Refusal>) {
        let mut places = self.places();
        let mut state = self.line.state();
        if let Ok(incoming) = incoming {
            judge(self.world, self.line, &mut state, places.as_deref_mut(), incoming, self.world.clock.now());
        }
    }

    fn process(
        &self,
        token: Option<&str>,
        incoming: Result<Incoming<'_>, Refusal>,
        draws: &mut Draws,
    ) -> Result<Processed, Refusal> {
        let (world, line) = (self.world, self.line);
        // The lock is taken before that of the line, and held until the message is accepted, so that places are counted
        // exactly.
        let mut places = self.places();
        let authorized = world.authorize(token, Some(line.waba), &line.spec.id);
        let mut state = line.state();
        let now = world.clock.now();
        if let Ok(incoming) = &incoming {
            judge(world, line, &mut state, places.as_deref_mut(), incoming, now);
        }
        authorized?;
        match state.live.refuses(now) {
            None => {}
            Some(code) => return Err(Refusal::bare(code)),
        }
        // Check the rate before the contents: a client that is too fast gets 130429, even if its request is also
        // invalid.
        if !line.admits(&mut state, now) {
            return Err(Refusal::bare(130_429));
        }
        if let Some(code) = incoming.as_ref().ok().and_then(|incoming| refusing(world, line, &state, incoming, now)) {
            return Err(Refusal::bare(code));
        }
        drop(state);
        match ValidSend::of(world, incoming?)? {
            ValidSend::Message(message) => self.accept(&message, places.as_deref_mut(), draws),
            ValidSend::Receipt(id) => {
                let mut state = line.state();
                if !state.has_received(line.index, id.as_str()) {
                    return Err(Refusal::new(131_009, "Param message_id is not the ID of a message to this number"));
                }
                state.answered(Answer::Receipt);
                Ok(Processed { body: br#"{"success":true}"#.to_vec(), early: None })
            }
        }
    }

    /// The places of the line's business, locked; `None` if the business has no limit.
    fn places(&self) -> Option<MutexGuard<'_, Places>> {
        self.world.businesses[self.world.wabas[self.line.waba].business].places()
    }

    /// The marketing messages of the line's business, if it has a frequency cap and the message is marketing.
    fn capped(&self, message: &ValidMessage<'_>) -> Option<&Capped> {
        let world = self.world;
        let capped = world.businesses[world.wabas[self.line.waba].business].capped.as_ref()?;
        world.templates[message.template()?].state().is_marketing().then_some(capped)
    }

    fn accept(
        &self,
        message: &ValidMessage<'_>,
        places: Option<&mut Places>,
        draws: &mut Draws,
    ) -> Result<Processed, Refusal> {
        let (world, line) = (self.world, self.line);
        let held = match self.pace(message) {
            Some(hold) => Some(Held::Paced(hold)),
            None => (self.fault == Some(Fault::Held)).then_some(Held::Drawn),
        };
        let plan = self.behaviour.plan(self.answered, held, self.undeliverable(message), draws);
        let answers = self.answers(message, &plan, draws);
        let new_message = NewMessage {
            to: message.to,
            callback: message.callback(),
            template: message.template(),
            free: message.free().map(|free| (free.kind, &*free.text)),
            recipient: RecipientKey::of(message.callback(), message.to, message.template(), (line.index, self.number)),
            answered: matches!(self.fault, None | Some(Fault::Held)),
        };

        let mut state = line.state();
        let now = world.clock.now();
        if let Some(id) = message.free().and_then(|free| free.reacts_to.as_ref())
            && !state.has_received(line.index, id)
            && !state.has_sent(line.index, id)
        {
            return Err(Refusal::new(131_009, "Param reaction['message_id'] is not a message of this number"));
        }
        // A message to a person with an open window needs no place.
        let mut places = places.filter(|_| message.template().is_some() && !state.in_service_window(message.to, now));
        if places.as_mut().is_some_and(|places| !places.admits(message.to, now)) {
            return Err(Refusal::bare(world.limits.messaging_limit_code));
        }
        if !line.admits_pair(&mut state, message.to, now) {
            return Err(Refusal::bare(131_056));
        }
        let number = state.accept(&new_message, &plan, &world.recipients, now);
        let held_or_accepted = if held.is_some() { Answer::Fault(Fault::Held) } else { Answer::Accepted };
        state.answered(self.fault.map_or(held_or_accepted, Answer::Fault));
        if let (Some(places), Some(at)) = (&mut places, plan.delivered_at()) {
            places.occupy(message.to, at);
        }
        if plan.delivered_at().is_some()
            && let Some(capped) = self.capped(message)
        {
            capped.accepted(message.to, now);
        }
        // A person answers every template, and a limited number of other messages.
        let turns = self.behaviour.replies.conversation;
        let takes_turn = !answers.is_empty() && (message.free().is_none() || state.takes_turn(message.to, turns));
        let answers = if takes_turn { answers } else { Vec::new() };
        let answers_due: Vec<Duration> = answers.iter().map(|(due, _)| *due).collect();
        if takes_turn {
            state.plan_answers(number, answers.into_iter().map(|(_, answer)| answer));
        }
        let run = state.run;
        drop(state);

        let early = self.schedule(run, number, &plan, answers_due);
        let body = accepted_body(message, &wamid(run, line.index, number, message.to), held.is_some());
        Ok(Processed { body, early: early.map(|update| (run, update)) })
    }

    /// What the person answers to the message, in order, with the time of each answer.
    fn answers(&self, message: &ValidMessage<'_>, plan: &DeliveryPlan, draws: &mut Draws) -> Vec<(Duration, Content)> {
        let (world, waba, replies) = (self.world, self.line.waba, &self.behaviour.replies);
        let is_answered = match message.free() {
            Some(free) => replies.conversation > 0 && free.kind != "reaction",
            None => true,
        };
        let Some(reached_at) = plan.reached_at.filter(|_| is_answered) else { return Vec::new() };
        let receive = |medium| world.files.receive(waba, medium, reached_at);
        let answers = replies.answers(|| message.offered(world), receive, draws);
        answers.into_iter().map(|(after, answer)| (reached_at + after, answer)).collect()
    }

    /// How the pacing of the template, or otherwise of the business, holds a message, if at all. The first held message
    /// schedules the end of the assessment.
    fn pace(&self, message: &ValidMessage<'_>) -> Option<HeldUntil> {
        let (world, now) = (self.world, self.world.clock.now());
        let template = message.template()?;
        let business = world.wabas[self.line.waba].business;
        if let Some(hold) = world.templates[template].pacer.as_ref().and_then(|pacer| pacer.hold(now)) {
            return Some(hold_until(world, hold, 132_015, move |world| pause_after_pacing(world, template)));
        }
        let hold = world.businesses[business].pacer.as_ref()?.hold(now)?;
        Some(hold_until(world, hold, 135_000, move |world| bar_after_pacing(world, business)))
    }

    /// The code with which Meta fails a message by webhook, after it was accepted; `None` if it delivers the message.
    fn undeliverable(&self, message: &ValidMessage<'_>) -> Option<u32> {
        let (world, line) = (self.world, self.line);
        let Some(template) = message.template() else {
            let outside_window = !line.state().in_service_window(message.to, world.clock.now());
            return outside_window.then_some(131_047);
        };
        if !world.templates[template].state().is_marketing() {
            return None;
        }
        let stops = &world.businesses[world.wabas[line.waba].business].stops;
        let is_stopped = stops.of(message.to).is_some();
        is_stopped.then_some(131_050).or(us_numbers::is_us(message.to).then_some(131_049))
    }

    /// Schedules the updates of a message. Returns the update that must be delivered before the response, if there is
    /// one, instead of scheduling it.
    fn schedule(&self, run: u64, message: u32, plan: &DeliveryPlan, answers_due: Vec<Duration>) -> Option<Update> {
        let courier = self.world.wabas[self.line.waba].webhook()?;
        let line = self.line.index;
        let mut updates = plan.updates.iter().map(|planned| {
            let update = Update::Status(StatusUpdate {
                line,
                message,
                at_ms: u32::try_from(millis(planned.at)).unwrap_or(u32::MAX),
                status: planned.status,
                token: planned.token,
                duplicate: planned.duplicate,
            });
            (planned.due, update)
        });
        let early = if plan.first_before_answer { updates.next() } else { None };
        let answers = answers_due.into_iter().map(|due| (due, Update::Answer { line, message }));
        courier.schedule(run, &self.world.counts.pending, updates.chain(answers));
        early.map(|(_, update)| update)
    }
}

/// The person from whom a fault withholds marketing (131049), if any.
fn withheld_from(world: &World, fault: Option<Fault>, incoming: &Result<Incoming<'_>, Refusal>) -> Option<Phone> {
    let incoming = incoming.as_ref().ok().filter(|_| fault.and_then(Fault::code) == Some(WITHHELD))?;
    let template = &world.templates[incoming.template()?];
    incoming.person().filter(|_| template.state().is_marketing())
}

/// Records that the sender learns from the response, which leaves now, that Meta withholds marketing from a person.
/// Does not count if the connection ends within the grace of the referee: the sender may have died before it stored the
/// response.
fn tell_by_response(world: &SharedWorld, waba: usize, person: Phone, failed_at: Duration, closed: CancellationToken) {
    let told_at = world.clock.now();
    timer::at(world, told_at + world.referee.grace, move |world| {
        if !closed.is_cancelled() {
            world.wabas[waba].withheld.tell(person, failed_at, told_at);
        }
    });
}

/// The code with which a sanction of the WABA refuses a message; `None` if none does.
fn refusing(world: &World, line: &SimLine, state: &LineState, incoming: &Incoming<'_>, now: Duration) -> Option<u32> {
    let blocks = world.wabas[line.waba].blocks.at(now);
    let person = incoming.person().filter(|_| !blocks.is_empty())?;
    let kind = incoming.kind(world, state, person, now);
    blocks.iter().find_map(|block| block.sanction.refuses(kind))
}

/// The hold of a message: when it is delivered, or fails with `code`. The first dropped message schedules `after_drop`.
fn hold_until(
    world: &SharedWorld,
    hold: Hold,
    code: u32,
    after_drop: impl FnOnce(&SharedWorld) + Send + 'static,
) -> HeldUntil {
    let is_dropped = hold.outcome == PacingOutcome::Drop;
    if hold.is_first && is_dropped {
        timer::at(world, hold.until, after_drop);
    }
    HeldUntil { at: hold.until, dropped: is_dropped.then_some(code) }
}

/// The body of an accepted send. Formatted by hand, because it is by far the most frequent response. Nothing in it
/// needs an escape.
fn accepted_body(message: &ValidMessage<'_>, wamid: &str, held: bool) -> Vec<u8> {
    let status = match (message.template(), held) {
        (None, _) => "",
        (Some(_), false) => r#","message_status":"accepted""#,
        (Some(_), true) => r#","message_status":"held_for_quality_assessment""#,
    };
    let input = message.input.as_str();
    // The input is the user id, if the request has one.
    let (key, person) = match message.by_user_id {
        true => ("user_id", input.to_owned()),
        false => ("wa_id", message.to.digits().to_string()),
    };
    format!(
        r#"{{"messaging_product":"whatsapp","contacts":[{{"input":"{input}","{key}":"{person}"}}],"messages":[{{"id":"{wamid}"{status}}}]}}"#
    )
    .into_bytes()
}
