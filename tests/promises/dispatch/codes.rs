//! Every row of Meta's table of error codes, as the answer to a send: what is held, which lines continue, and what
//! lifts the hold.
//!
//! The expected results follow from the columns of the table alone, so that the test does not repeat the code.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use pregon::{
    domain::{CampaignState, Line, OnDoubt, Secret, State},
    redis::{Store, campaigns::CampaignRecord},
    rules::holds::lifters,
};

use crate::support::{
    hostile::{Conduct, Courier, Meta, Reply, Sent, accepted, refused, wamid},
    meta_code,
    redis::TestRedis,
    seed, until,
    world::{self, TestWorker, address, line, settings},
};

/// Rows that are tested at the same time.
const ROWS_AT_ONCE: usize = 6;

/// A row of the table.
#[derive(Clone, Debug)]
pub struct Row {
    pub code: u32,
    pub http_status: u16,
    pub action: &'static str,
    pub wait: Option<Duration>,
}

/// The rows of the table. Of a range of codes, the first is tested.
pub fn rows() -> Vec<Row> {
    let row = |line: &'static str| {
        let fields: Vec<&str> = line.splitn(7, ',').collect();
        let &[codes, http_status, _scope, action, wait, ..] = &fields[..] else { panic!("{line}") };
        let first = |text: &'static str| text.split(['-', '|']).next().expect("a text");
        Row {
            code: first(codes).parse().expect(line),
            // Codes without a status are never an answer to a send; they are tested as if they were.
            http_status: first(http_status).parse().unwrap_or(400),
            action,
            wait: wait.parse().ok().map(Duration::from_secs),
        }
    };
    include_str!("../../fixtures/error_codes.csv").lines().skip(1).map(row).collect()
}

impl Row {
    /// The expected hold after a message on line 3001 of WABA 2001 to Argentina: its scope, and whether it ends by
    /// itself.
    pub fn held(&self) -> Option<(&'static str, bool)> {
        let ends = self.wait.is_some();
        // A wait of up to ten seconds slows the line down without a hold.
        let throttled = self.wait.filter(|wait| *wait > Duration::from_secs(10));
        match (self.action, self.code) {
            ("pause_token" | "refresh_token", _) => Some(("token:2001", ends)),
            ("pause_waba", 131_064) => Some(("utility:2001", ends)),
            // Has no end: Meta reports when the WABA may send again, in its health or by webhook.
            ("pause_waba", _) => Some(("waba:2001", false)),
            ("pause_line", _) => Some(("line:3001", ends)),
            ("pause_template", _) => Some(("template:2001/order_update/es_AR", ends)),
            ("block_country", _) => Some(("country:2001/54", true)),
            ("throttle_app", _) => throttled.map(|_| ("token:2001", true)),
            ("throttle_waba", _) => throttled.map(|_| ("waba:2001", true)),
            ("throttle_line", _) => throttled.map(|_| ("line:3001", true)),
            _ => None,
        }
    }

    /// The expected hold after a status with the code. A status also holds for short waits, because it reports a
    /// message that Meta had accepted.
    pub fn held_by_status(&self) -> Option<(&'static str, bool)> {
        match self.action {
            "throttle_line" => Some(("line:3001", true)),
            _ => self.held(),
        }
    }

    /// The expected state of the recipient after the answer: failed, or waiting to be sent again.
    fn state(&self) -> State {
        match self.action {
            "retry_backoff" => State::Retrying,
            // The campaign does not set `on_withheld` to `retry`.
            "defer_24h" => State::Refused,
            "fail_message" | "fail_recipient" | "stop_campaign" | "suppress_marketing" | "block_country" | "alert"
            | "ignore" => State::Refused,
            // An answer that throttles or holds uses up no attempt.
            _ => State::Pending,
        }
    }
}

/// Refuses the messages of line 3001 with a code, as long as the fault lasts.
struct Faulty {
    row: Row,
    lasts: Arc<AtomicBool>,
}

impl Conduct for Faulty {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let refuses = sent.line == "3001" && self.lasts.load(Ordering::Relaxed);
        let answer = match refuses {
            true => refused(self.row.http_status, self.row.code),
            false => accepted(&sent.to, &wamid(&sent.to, 1)),
        };
        Reply::of(answer, Duration::ZERO)
    }
}

async fn state_of(store: &Store, record: &CampaignRecord) -> HashMap<State, u64> {
    let mut counts = world::counts(store, record).await.by_state;
    counts.retain(|_, n| *n > 0);
    counts
}

async fn holds_its_scope_and_nothing_else(row: Row) {
    let (redis, lasts) = (TestRedis::start().await, Arc::new(AtomicBool::new(true)));
    let meta = Meta::start(Faulty { row: row.clone(), lasts: lasts.clone() }, 0);
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let lines = [
        line("3001", 100.0),
        Line { waba: "2002".into(), token: Secret::new("token-2002"), ..line("3002", 100.0) },
        Line { waba: "2009".into(), business: "1009".into(), ..line("3009", 100.0) },
    ];
    let worker = TestWorker::start("w1", &redis, &meta.url(), &lines, settings()).await;
    let id = world::campaign(&store, &["3001"], 1, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let record = store.campaign(id).await.expect("redis").expect("a campaign");

    until("the message is refused", async || {
        meta.requests() > 0 && !state_of(&store, &record).await.contains_key(&State::InFlight)
    })
    .await;
    let now = store.time().await.expect("redis");
    let mut holds = store.holds(now).await.expect("redis");
    if row.held().is_some() {
        until("the scope is held", async || {
            holds = store.holds(now).await.expect("redis");
            !holds.is_empty()
        })
        .await;
    }
    let shown: Vec<(String, bool)> =
        holds.iter().map(|(scope, hold)| (scope.to_string(), hold.until.is_some())).collect();
    let expected: Vec<(String, bool)> = row.held().map(|(scope, ends)| (scope.to_owned(), ends)).into_iter().collect();
    assert_eq!(shown, expected, "{row:?}");
    // Not checked if the line was throttled: the message is sent again after a short wait, so its state changes.
    let state = if row.action == "throttle_line" { None } else { Some(row.state()) };
    let states = state_of(&store, &record).await;
    assert!(state.is_none_or(|state| states == HashMap::from([(state, 1)])), "{row:?}: {states:?}");
    if row.state() == State::Refused {
        let failures = world::counts(&store, &record).await.failures;
        assert_eq!(failures, HashMap::from([(meta_code(row.code), 1)]), "{row:?}");
    }
    for (scope, hold) in &holds {
        assert_eq!(hold.code.map(|code| code.0), Some(row.code), "{row:?}");
        assert!(lifters(scope, hold).len() >= 2, "{row:?}: something besides a person or the time lifts it");
    }

    // Lines of another WABA of the business, and of another business, continue.
    let neighbours = world::campaign(&store, &["3002", "3009"], 4, OnDoubt::Hold).await;
    world::launch(&store, neighbours).await;
    world::wait_for_state(&store, neighbours, CampaignState::Completed).await;

    // The held message is sent once the hold is lifted.
    if row.state() == State::Pending {
        lasts.store(false, Ordering::Relaxed);
        for scope in holds.keys() {
            assert_eq!(state_of(&store, &record).await, HashMap::from([(State::Pending, 1)]), "{row:?}");
            assert!(store.unhold(scope).await.expect("redis"), "{row:?}");
        }
        until(&format!("{row:?}: what was held is sent"), async || {
            let record = store.campaign(id).await.expect("redis").expect("a campaign");
            record.state == CampaignState::Completed
        })
        .await;
        assert_eq!(state_of(&store, &record).await, HashMap::from([(State::Accepted, 1)]), "{row:?}");
    }
    worker.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_code_as_an_answer_acts_on_its_scope_only() {
    seed();
    let rows = rows();
    assert_eq!(rows.len(), 90);
    stream::iter(rows).for_each_concurrent(ROWS_AT_ONCE, holds_its_scope_and_nothing_else).await;
}
