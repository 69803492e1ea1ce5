//! `POST {line}/messages`: the one request that has to be fast.
//!
//! A message is booked, and its statuses are on the calendar, before anything is awaited: a client that hangs up
//! changes nothing any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    behaviour::{Behaviour, DeliveryPlan},
    courier::{StatusUpdate, Update},
    delay::Draws,
    delivery,
    ledger::Answer,
    line::{Accepting, SimLine},
    message::wamid,
    millis,
    recipient::RecipientKey,
    reply::Reply,
    scenario::Fault,
    wanted::{Wanted, WantedMessage},
    wire::Refusal,
    world::{SharedWorld, World},
};

/// A send that has arrived.
#[derive(Clone, Copy)]
pub(super) struct Arrival {
    /// On its line, from 1.
    number: u64,
    at: Duration,
}

impl Arrival {
    /// Books the arrival, whatever comes of it.
    pub(super) fn on(world: &World, line: &SimLine) -> Self {
        let mut state = line.state();
        // The clock is read under the lock, so that times on a line never go back.
        let at = world.now();
        Self { number: state.arrived(at), at }
    }
}

/// Answers a send whose body is there.
pub(super) async fn send(
    world: &SharedWorld,
    line: &SimLine,
    arrival: Arrival,
    token: Option<&str>,
    body: &[u8],
) -> Reply {
    let behaviour = line.behaviour();
    let mut draws = Draws::new(world.seed, line.index, arrival.number);
    let fault = behaviour.fault(Instant::now(), &mut draws);
    let answered = arrival.at + behaviour.latency.draw(&mut draws);
    let silence = behaviour.faults.no_answer_for;
    let attempt = Attempt { world, line, behaviour, fault, answered };

    // Three kinds of faults: a refusal; something in the place of the answer, with the request lost; and the same, with
    // the request processed as ever.
    let outcome = match (fault, fault.and_then(Fault::code)) {
        (_, Some(code)) => Err(Refusal::bare(code)),
        (Some(fault), None) if !fault.accepts() => {
            line.state().answered(Answer::Fault(fault));
            Ok(Vec::new())
        }
        _ => match attempt.process(token, body, &mut draws) {
            Ok(Done { body, early: Some((run, update)) }) => {
                delivery::deliver_now(world, line.waba, run, update).await;
                Ok(body)
            }
            Ok(Done { body, early: None }) => Ok(body),
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
    // Most scenarios that are about speed have no latency: no timer then.
    if answered > arrival.at {
        tokio::time::sleep_until(world.instant(answered).into()).await;
    }
    if matches!(reply, Reply::Silence) {
        tokio::time::sleep(silence).await;
    }
    reply
}

/// What it takes to process a send.
struct Attempt<'w> {
    world: &'w SharedWorld,
    line: &'w SimLine,
    behaviour: Arc<Behaviour>,
    fault: Option<Fault>,
    answered: Duration,
}

/// A request that was taken.
struct Done {
    body: Vec<u8>,
    /// The update that has to be delivered before the answer, and its run.
    early: Option<(u64, Update)>,
}

impl Attempt<'_> {
    fn process(&self, token: Option<&str>, body: &[u8], draws: &mut Draws) -> Result<Done, Refusal> {
        let (world, line) = (self.world, self.line);
        world.authorize(token, Some(line.waba), &line.spec.id)?;
        let wanted = Wanted::read(world, line.waba, body);
        // The rate comes before the contents: who is too fast learns nothing about the request.
        if !line.admits(&mut line.state(), world.now()) {
            return Err(Refusal::bare(130_429));
        }
        match wanted? {
            Wanted::Message(message) => self.accept(&message, draws),
            Wanted::Receipt => {
                line.state().answered(Answer::Receipt);
                Ok(Done { body: br#"{"success":true}"#.to_vec(), early: None })
            }
        }
    }

    fn accept(&self, message: &WantedMessage<'_>, draws: &mut Draws) -> Result<Done, Refusal> {
        let (world, line) = (self.world, self.line);
        let held = self.fault == Some(Fault::Held);
        // Without a template Meta delivers only to those who wrote lately, and says so by webhook.
        let refused = message.template().is_none() && !line.state().in_conversation(message.to, world.now());
        let plan = self.behaviour.plan(self.answered, held, refused.then_some(131_047), draws);
        let mut taps = if plan.tap.is_some() { message.taps(world) } else { Vec::new() };
        let tap = (!taps.is_empty()).then(|| taps.swap_remove(draws.below(taps.len())));
        let tap_due = plan.tap.filter(|_| tap.is_some());
        let accepting = Accepting {
            to: message.to,
            callback: message.callback(),
            template: message.template(),
            recipient: RecipientKey::of(message.callback(), message.to, message.template()),
            answered: matches!(self.fault, None | Some(Fault::Held)),
        };

        let mut state = line.state();
        let now = world.now();
        if !line.admits_pair(&mut state, message.to, now) {
            return Err(Refusal::bare(131_056));
        }
        let number = state.accept(&accepting, &plan, &world.recipients, now);
        state.answered(self.fault.map_or(Answer::Accepted, Answer::Fault));
        if let Some(tap) = tap {
            state.will_tap(number, tap);
        }
        let run = state.run;
        drop(state);

        let early = self.schedule(run, number, &plan, tap_due);
        let body = accepted_body(message, &wamid(run, line.index, number), held);
        Ok(Done { body, early: early.map(|update| (run, update)) })
    }

    /// Puts what becomes of a message on the calendar; what has to come before the answer is returned instead.
    fn schedule(&self, run: u64, message: u32, plan: &DeliveryPlan, tap_due: Option<Duration>) -> Option<Update> {
        let courier = self.world.wabas[self.line.waba].courier.as_ref()?;
        let line = self.line.index;
        let mut updates = plan.updates.iter().map(|planned| {
            let update = Update::Status(StatusUpdate {
                line,
                message,
                at_ms: u32::try_from(millis(planned.at)).unwrap_or(u32::MAX),
                status: planned.status,
                token: planned.token,
                again: planned.again,
            });
            (planned.due, update)
        });
        let early = if plan.first_before_answer { updates.next() } else { None };
        let tap = tap_due.map(|due| (due, Update::Tap { line, message }));
        courier.schedule(run, &self.world.counts.pending, updates.chain(tap));
        early.map(|(_, update)| update)
    }
}

/// Written by hand, as it is by far the most frequent answer. Nothing in it needs an escape but the `/` of the id.
fn accepted_body(message: &WantedMessage<'_>, wamid: &str, held: bool) -> Vec<u8> {
    let status = match (message.template(), held) {
        (None, _) => "",
        (Some(_), false) => r#","message_status":"accepted""#,
        (Some(_), true) => r#","message_status":"held_for_quality_assessment""#,
    };
    let (input, wa_id) = (message.input.as_str(), message.to.digits());
    let wamid = wamid.replace('/', "\\/");
    format!(
        r#"{{"messaging_product":"whatsapp","contacts":[{{"input":"{input}","wa_id":"{wa_id}"}}],"messages":[{{"id":"{wamid}"{status}}}]}}"#
    )
    .into_bytes()
}
