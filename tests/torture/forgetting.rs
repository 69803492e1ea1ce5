//! Erases people during a round, and checks that no data of them is left and that they get no more messages.

use std::time::{Duration, Instant};

use pregon::domain::{EntryId, Phone, UnixMs};
use serde_json::Value;

use crate::{
    check::Verdict,
    feed,
    round::Happened,
    stage::Stage,
    support::{hooks, server::Api, traces},
};

/// The longest wait for a response.
const CALL_MAX: Duration = Duration::from_secs(5);
/// Pause between two calls.
const RETRY_PAUSE: Duration = Duration::from_millis(100);
/// How long after a person was erased an event with the number may still be written: a relay may have read the
/// number before. By then, the relay has finished or has lost its duty.
const EVENT_WRITTEN_WITHIN: Duration = Duration::from_secs(10);

/// A person who was erased.
#[derive(Clone, Debug)]
pub struct Forgotten {
    /// The phone number without its plus.
    pub to: String,
    /// When the call was acknowledged.
    pub at: Instant,
    /// The same, as Unix time.
    at_ms: UnixMs,
    /// Whether the call itself ended the recipient, so that nothing was in flight.
    was_skipped: bool,
}

/// Erases a person. Repeats the call until a server acknowledges it, as a backend does.
pub async fn forget(front: &str, to: &str) -> Forgotten {
    loop {
        // A new client each time, because a connection to a killed worker is of no use.
        let api = Api::at(front);
        let path = format!("people/{to}");
        if let Ok(Some(body)) = tokio::time::timeout(CALL_MAX, api.try_delete(&path)).await {
            let was_skipped = body["skipped"] == 1;
            return Forgotten { to: to.to_owned(), at: Instant::now(), at_ms: hooks::now(), was_skipped };
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

/// Checks everything about the people who were erased.
pub async fn check(verdict: &mut Verdict, stage: &Stage, happened: &Happened) {
    verdict.forgotten = happened.forgotten.len() as u64;
    messages(verdict, stage, happened);
    let store = stage.store().await;
    let people: Vec<Phone> = happened.forgotten.iter().map(Forgotten::phone).collect();
    let texts: Vec<Vec<u8>> = people.iter().flat_map(|phone| traces::of(*phone)).collect();
    let values: Vec<String> = happened.forgotten.iter().map(|person| format!("A-{}", person.to)).collect();
    let mut found = traces::found(&store, &texts, &people, &values).await;
    found.retain(|key| *key != store.keys.events(0, 1));
    verdict.wrong("keys with people who were forgotten", &found);
    if !happened.events.iter().any(|event| event.fault.is_of_the_clock()) {
        let told = feed::read(&store).await;
        let late = happened.forgotten.iter().flat_map(|person| person.told_late(&told));
        verdict.wrong("events that name people who were forgotten", &late.collect::<Vec<_>>());
    }
}

/// Checks that nobody gets a message after they were erased, except one that was in flight then.
fn messages(verdict: &mut Verdict, stage: &Stage, happened: &Happened) {
    let arrivals = stage.meta.arrivals();
    let retried_at = happened.campaigns.iter().find_map(|campaign| campaign.retried_at);
    let mut sent: Vec<String> = Vec::new();
    for person in &happened.forgotten {
        let after: Vec<Instant> = arrivals
            .iter()
            .filter(|arrival| arrival.to == person.to && arrival.earliest > person.at)
            .map(|arrival| arrival.earliest)
            .collect();
        let in_flight_max = if person.was_skipped { 0 } else { 1 };
        // Nothing is in flight between the end of the campaign and the time at which it is sent again.
        let is_sent_again =
            retried_at.is_some_and(|retried_at| person.at < retried_at && after.iter().any(|at| *at > retried_at));
        if after.len() > in_flight_max || is_sent_again {
            sent.push(format!("{person:?} got {after:?}"));
        }
    }
    verdict.wrong("messages to people who were forgotten", &sent);
}

impl Forgotten {
    fn phone(&self) -> Phone {
        self.to.parse().ok().and_then(Phone::from_digits).expect("a number")
    }

    /// The events that have the number although they were written long after the person was erased.
    fn told_late<'e>(&'e self, told: &'e [(EntryId, Value)]) -> impl Iterator<Item = String> + 'e {
        let written_by = self.at_ms.after(EVENT_WRITTEN_WITHIN);
        let is_late =
            move |(id, event): &&(EntryId, Value)| id.ms > written_by.0 && event["to"] == format!("+{}", self.to);
        told.iter().filter(is_late).map(|(id, event)| format!("{id} {event}"))
    }
}
