//! The counts of a running campaign, while other campaigns are uploaded as fast as the server takes them.

use std::{cell::Cell, collections::HashMap, time::Duration};

use pregon::{
    domain::{CampaignId, CampaignState, SkipReason, State},
    redis::Store,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{
    hostile::{Conduct, Courier, Meta, Reply, Sent, Status, accepted, refused, wamid},
    redis::TestRedis,
    seed,
    server::{Api, Installation},
    until, world,
};

const FIRST: u64 = 5_491_160_000_000;
/// The difference between a number of Argentina with the 9 and the same number without it.
const WITHOUT_9: u64 = 5_491_160_000_000 - 541_160_000_000;
/// Recipients who are not skipped or rejected.
const OTHERS: u64 = 1_200;
/// How many recipients are suppressed, how many have reached the frequency cap, how many have a number of the USA, and
/// how many rows are duplicates.
const EACH: u64 = 60;

/// Refuses a tenth of the messages, withholds a tenth, and reports the others as delivered.
struct Mixed;

impl Conduct for Mixed {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let latency = Duration::from_millis(2);
        match sent.to.as_bytes().last() {
            Some(b'3') => return Reply::of(refused(400, 131_026), latency),
            Some(b'4') => return Reply::of(refused(400, 131_049), latency),
            _ => {}
        }
        let id = wamid(&sent.to, 1);
        let answer = accepted(&sent.to, &id);
        for word in ["sent", "delivered"] {
            let (line, to, wamid) = (sent.line.clone(), sent.to.clone(), id.clone());
            let status = Status { line, to, wamid, token: Some(sent.token.clone()), word: word.to_owned() };
            courier.report(Duration::from_millis(5), status);
        }
        Reply::of(answer, latency)
    }
}

/// Rows of an upload.
fn rows(numbers: impl Iterator<Item = u64>) -> String {
    let row = |to| format!("{}\n", json!({"to": format!("+{to}"), "params": {"1": "Maria", "2": "A-10"}}));
    numbers.map(row).collect()
}

/// Launches a marketing campaign to these people. Returns its id and the result of the upload.
async fn campaign(api: &Api, store: &Store, numbers: impl Iterator<Item = u64>) -> (CampaignId, Value) {
    let id = world::campaign_of(store, "MARKETING", &["3001", "3002"], 0).await;
    let (status, uploaded) = api.upload(&id.to_string(), "people", rows(numbers)).await;
    assert_eq!(status, 200, "{uploaded}");
    world::launch(store, id).await;
    (id, uploaded)
}

/// Uploads into one draft after another until `enough` is set.
async fn upload_all_the_time(api: &Api, enough: &Cell<bool>) {
    let first = FIRST + 1_000_000;
    while !enough.get() {
        api.draft(&["3001", "3002"], first..first + 20_000, json!({})).await;
    }
}

fn assert_adds_up(statistics: &Value, recipients: u64) {
    let by_state = statistics["by_state"].as_object().expect("counts").values().filter_map(Value::as_u64);
    assert_eq!((by_state.sum(), statistics["recipients"].as_u64()), (recipients, Some(recipients)), "{statistics}");
}

/// Compares the counters with a recount. Returns false, without comparing, if a state changed meanwhile.
async fn recount_agrees(store: &Store, id: CampaignId) -> bool {
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    let before = world::counts(store, &record).await;
    let recount = world::recount(store, &record).await;
    let is_still = world::counts(store, &record).await == before;
    if is_still {
        assert_eq!(before.by_state, recount);
    }
    is_still
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_add_up_and_equal_a_recount_at_every_moment_of_a_campaign() {
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let meta = Meta::start(Mixed, seed());
    let installation = Installation::new(&redis, &meta.url(), &[("3001", 150.0), ("3002", 150.0)], "");
    let cap =
        [("PREGON__BUSINESS__0__FREQUENCY_CAP__MESSAGES", "1"), ("PREGON__BUSINESS__0__FREQUENCY_CAP__DAYS", "7")];
    let server = installation.serve_with("all", "api,webhook,dispatch", &cap).await;
    meta.set_webhook(server.webhook());
    let api = server.api();

    // The numbers end in 0, so that Meta delivers to all of them.
    let tens = |from: u64| (from..from + EACH).map(|n| 10 * n);
    let (suppressed, capped, us) = (tens(FIRST / 10), tens(FIRST / 10 + EACH), tens(1_202_555_010));
    let (first, _) = campaign(&api, &store, capped.clone()).await;
    world::wait_for_state(&store, first, CampaignState::Completed).await;
    for to in suppressed.clone() {
        let suppression = json!({"business": "1001", "scope": "marketing"});
        let (status, body) = api.call(Method::PUT, &format!("suppressions/{to}"), Some(suppression)).await;
        assert_eq!(status, 200, "{body}");
    }

    let others = (0..OTHERS).map(|n| FIRST + 100_000 + n);
    // Half of them by the other form of the number: +54 9 11 … and +54 11 … are the same.
    let twice = (0..EACH).map(|n| FIRST + 100_000 + n - if n.is_multiple_of(2) { WITHOUT_9 } else { 0 });
    let everybody = suppressed.chain(capped).chain(us).chain(others).chain(twice);
    let (id, uploaded) = campaign(&api, &store, everybody).await;
    let recipients = 3 * EACH + OTHERS;
    assert_eq!((&uploaded["accepted"], &uploaded["rejected_count"]), (&json!(recipients), &json!(EACH)), "{uploaded}");

    let (enough, mut agreed) = (Cell::new(false), 0);
    let watching = async {
        until("the campaign is completed", async || {
            let campaign = api.get(&format!("campaigns/{id}")).await;
            assert_adds_up(&campaign["statistics"], recipients);
            agreed += u32::from(recount_agrees(&store, id).await);
            campaign["state"] == "completed"
        })
        .await;
        enough.set(true);
    };
    tokio::join!(watching, upload_all_the_time(&api, &enough));
    assert!(agreed > 0, "the counters never stood still");

    until("every status is counted", async || meta.is_idle()).await;
    assert!(recount_agrees(&store, id).await);
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    let counts = world::counts(&store, &record).await;
    let skips =
        [SkipReason::Suppressed, SkipReason::FrequencyCap, SkipReason::MarketingUs].map(|reason| (reason, EACH));
    assert_eq!(counts.skips.into_iter().collect::<HashMap<_, _>>(), HashMap::from(skips));
    let failed = OTHERS / 5;
    assert_eq!(counts.by_state[&State::Refused], failed);
    assert_eq!(counts.by_state[&State::Delivered], OTHERS - failed);
    assert_eq!(counts.by_state[&State::Skipped], 3 * EACH);
}
