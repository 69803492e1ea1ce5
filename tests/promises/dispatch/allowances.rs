//! What workers learn about Meta's allowance of each line.

use std::{collections::HashMap, sync::Arc, time::Duration};

use pregon::{
    dispatch::allowances::AllowanceReader,
    domain::{Line, LineAllowance, LineId, Secret},
    graph::GraphClient,
    redis::{Store, clock::Clock},
};
use serde_json::json;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::{
    sim::kit::{SimServer, TOKEN, quiet},
    support::{
        redis::TestRedis,
        until,
        world::{address, graph, line},
    },
};

/// The lines of the simulator, with its access token.
fn lines(token: &str) -> Vec<Line> {
    ["3001", "3002", "3003"].map(|id| Line { token: Secret::new(token), ..line(id, 80.0) }).into()
}

/// A reader of allowances, which runs until the guard is dropped.
async fn start_reader(store: &Store, sim: &SimServer, lines: Vec<Line>) -> DropGuard {
    let graph = GraphClient::new(graph(&sim.base)).expect("a client");
    let stop = CancellationToken::new();
    let clock = Arc::new(Clock::start(store).await.expect("a clock"));
    let reader = AllowanceReader { store: store.clone(), clock, lines: lines.into_iter().collect(), graph };
    tokio::spawn(reader.run(stop.clone()));
    stop.drop_guard()
}

async fn allowances(store: &Store) -> Vec<LineAllowance> {
    let ids = ["3001", "3002", "3003"].map(LineId::from);
    store.controls(&ids).await.expect("redis").into_iter().map(|control| control.allowance).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_learn_what_meta_allows_and_again_after_an_announcement() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let mut scenario = quiet();
    for (line, rate) in scenario.lines.iter_mut().zip([80, 1_000, 80]) {
        line.messages_per_second = rate;
    }
    scenario.lines[2].is_on_biz_app = true;
    let sim = SimServer::start(scenario).await;
    assert_eq!(allowances(&store).await, [LineAllowance::Unasked; 3]);
    let pulse = store.pulse().await.expect("redis");
    let _readers = [start_reader(&store, &sim, lines(TOKEN)).await, start_reader(&store, &sim, lines(TOKEN)).await];
    let learned = [80.0, 1_000.0, 20.0].map(LineAllowance::Known);
    until("the lines are known", async || allowances(&store).await == learned).await;
    assert!(store.pulse().await.expect("redis") > pulse, "the runners are woken");

    let changed = sim.control("line", &json!({"id": "3003", "is_on_biz_app": false})).await;
    assert_eq!(changed.0, 200);
    store.forget_allowances_read(&"2001".into()).await.expect("redis");
    until("the change is known", async || allowances(&store).await == [80.0, 1_000.0, 80.0].map(LineAllowance::Known))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_about_which_meta_does_not_answer_has_the_usual_allowance() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let sim = SimServer::start(quiet()).await;
    store.put_allowances(&[("3002".into(), LineAllowance::Known(20.0))]).await.expect("redis");
    let _reader = start_reader(&store, &sim, lines("a wrong token")).await;
    let expected = [LineAllowance::Unknown, LineAllowance::Known(20.0), LineAllowance::Unknown];
    until("the refusal is known", async || allowances(&store).await == expected).await;
    let limits = store.messaging_limits().await.expect("redis");
    assert!(limits.is_empty(), "nothing can be sent with this token either");
}

#[tokio::test]
async fn one_worker_at_a_time_asks_meta() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    let wabas = ["2001", "2002"].map(Into::into);
    let claim = async || store.claim_allowance_reads(&wabas, Duration::from_secs(60)).await.expect("redis");
    assert_eq!([claim().await, claim().await], [[true, true], [false, false]]);
    store.allowances_were_read(&wabas[0], Duration::from_secs(600)).await.expect("redis");
    store.forget_allowances_read(&wabas[1]).await.expect("redis");
    assert_eq!(claim().await, [false, true]);
    store.forget_allowances_read(&wabas[1]).await.expect("redis");
    store.allowances_were_read(&wabas[1], Duration::from_secs(600)).await.expect("redis");
    assert_eq!(claim().await, [false, true], "the answer may be older than the announcement");
}

#[tokio::test]
async fn counts_of_inbound_messages_add_up() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&address(&redis)).await.expect("a store");
    assert!(store.inbound_counts().await.expect("redis").is_empty());
    for (line, n) in [("3001", 2), ("3002", 1), ("3001", 3)] {
        store.count_inbound(&HashMap::from([(line.into(), n)])).await.expect("redis");
    }
    let expected = HashMap::from([("3001".into(), 5), ("3002".into(), 1)]);
    assert_eq!(store.inbound_counts().await.expect("redis"), expected);
}
