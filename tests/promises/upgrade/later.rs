//! The present release on the data of earlier ones: it shows the same counts, applies statuses of messages that the
//! earlier release sent, and finishes the campaigns.

use std::{collections::BTreeMap, time::Duration};

use pregon::{
    domain::{CampaignId, HoldScope, UnixMs},
    redis::Store,
};
use serde_json::Value;

use super::{Recorded, dump, record::LINES};
use crate::support::{
    self,
    hooks::{signature, status_without_token, statuses},
    hostile::{AcceptAll, Meta},
    redis::TestRedis,
    seed,
    server::{Api, Installation},
    until, world,
};

/// Time for campaigns to complete, including the deadline of doubts.
const COMPLETION: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn the_data_of_every_earlier_release_is_continued() {
    for recorded in Recorded::all() {
        println!("{}", recorded.dir.display());
        continue_from(&recorded).await;
    }
}

async fn continue_from(recorded: &Recorded) {
    let expected = recorded.expected();
    let redis = TestRedis::start().await;
    dump::restore(&redis, &recorded.data(), UnixMs(expected["at"].as_u64().expect("a time"))).await;
    let meta = Meta::start(AcceptAll { latency: Duration::from_millis(2) }, seed());
    let lines = LINES.map(|line| (line, 200.0));
    let installation = Installation::new(&redis, &meta.url(), &lines, "doubt_deadline = \"6s\"");
    // So that the recipients are not deleted, however old the data is.
    let retention = [("PREGON__RETENTION", "3650d")];
    let server = installation.serve_with("webhook", "webhook", &retention).await;
    let reader = installation.serve_with("api", "api", &retention).await;
    let api = reader.api();

    let campaigns = expected["campaigns"].as_array().expect("a list");
    for Shown { campaign, recipients } in campaigns.iter().map(Shown::of) {
        let now = api.get(&path(campaign)).await;
        assert_includes(&now, campaign, "campaign");
        if recipients.is_array() {
            let now = api.recipients(campaign["id"].as_str().expect("an id")).await;
            assert_includes(&now.into(), recipients, &path(campaign));
        }
    }
    deliver_statuses(&server.webhook(), &api, &expected["statuses"]).await;

    let uploading = &expected["uploading"];
    let rows = uploading["rows"].as_str().expect("rows");
    let uploaded = api
        .upload(
            uploading["campaign"].as_str().expect("an id"),
            uploading["id"].as_str().expect("an id"),
            rows.to_owned(),
        )
        .await;
    assert_eq!((uploaded.0, &uploaded.1["accepted"]), (200, &8.into()), "{uploaded:?}");

    let worker = installation.serve_with("worker", "dispatch", &retention).await;
    for (name, action) in [("draft", "launch"), ("uploading", "launch"), ("paused", "resume"), ("stopped", "resume")] {
        let campaign = campaigns.iter().map(Shown::of).find(|shown| shown.campaign["name"] == name);
        api.post(&format!("{}/{action}", path(campaign.expect("it is recorded").campaign))).await;
    }
    until("the slow line has an owner", async || api.get("lines/3004").await["owner"].is_string()).await;
    assert_eq!(meta.arrivals().iter().filter(|arrival| arrival.line == "3004").count(), 0, "the line is paused");
    api.post("lines/3004/resume").await;
    for Shown { campaign, .. } in campaigns.iter().map(Shown::of) {
        let ends_in = match campaign["state"].as_str().expect("a state") {
            same @ ("scheduled" | "cancelled") => same,
            _ => "completed",
        };
        api.wait_for_state(campaign["id"].as_str().expect("an id"), ends_in, COMPLETION).await;
    }
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let jobs = expected["jobs"].as_array().expect("a list");
    for job in jobs {
        let id = store.campaign_by_external_id(job["external_id"].as_str().expect("an id")).await.expect("redis");
        api.wait_for_state(&id.expect("its campaign").to_string(), "completed", COMPLETION).await;
    }
    assert_nothing_lost_or_twice(&expected, &meta);
    for Shown { campaign, .. } in campaigns.iter().map(Shown::of) {
        let id: CampaignId = campaign["id"].as_str().expect("an id").parse().expect("an id");
        let record = store.campaign(id).await.expect("redis").expect("a campaign");
        let counts = world::counts(&store, &record).await;
        assert_eq!(counts.by_state, world::recount(&store, &record).await, "{campaign}");
    }
    let now = store.time().await.expect("the time");
    let holds = store.holds(now).await.expect("redis");
    assert_eq!(holds.keys().collect::<Vec<_>>(), [&HoldScope::Token("2002".into())]);
    drop(worker);
}

/// What the API of the earlier release showed of a campaign.
struct Shown<'a> {
    campaign: &'a Value,
    recipients: &'a Value,
}

impl<'a> Shown<'a> {
    fn of(recorded: &'a Value) -> Self {
        Self { campaign: &recorded["campaign"], recipients: &recorded["recipients"] }
    }
}

fn path(campaign: &Value) -> String {
    format!("campaigns/{}", campaign["id"].as_str().expect("an id"))
}

/// Checks that `now` has every value of `then`. It may have further fields.
fn assert_includes(now: &Value, then: &Value, place: &str) {
    match (now, then) {
        (Value::Object(now), Value::Object(then)) => {
            for (name, then) in then {
                assert_includes(now.get(name).unwrap_or(&Value::Null), then, &format!("{place}.{name}"));
            }
        }
        (Value::Array(now), Value::Array(then)) if now.len() == then.len() => {
            for (n, (now, then)) in now.iter().zip(then).enumerate() {
                assert_includes(now, then, &format!("{place}[{n}]"));
            }
        }
        _ => assert_eq!(now, then, "{place}"),
    }
}

/// Delivers the recorded statuses twice, and checks that each has moved its recipient.
async fn deliver_statuses(webhook: &str, api: &Api, recorded: &Value) {
    let recorded = recorded.as_array().expect("a list");
    let client = support::http_client();
    for _ in 0..2 {
        for status in recorded {
            let text = |name: &str| status[name].as_str().expect("text");
            let mut json = status_without_token(text("wamid"), text("status"));
            if status["token"].is_string() {
                json["biz_opaque_callback_data"] = status["token"].clone();
            }
            let body = statuses("3001", &[json]).to_string();
            let request = client.post(webhook).header("x-hub-signature-256", signature(body.as_bytes()));
            assert_eq!(request.body(body).send().await.expect("an answer").status(), 200);
        }
    }
    for status in recorded {
        let text = |name: &str| status[name].as_str().expect("text");
        let state = text("status").split(' ').next().expect("a word");
        let recipient = format!("campaigns/{}/recipients/{}", text("campaign"), text("to"));
        // A status without a token may be applied only after its webhook was answered.
        until("the status is applied", async || api.get(&recipient).await["state"] == state).await;
    }
}

/// Checks that the new worker sent exactly one message to each recipient that was waiting, and none to any other.
fn assert_nothing_lost_or_twice(expected: &Value, meta: &Meta) {
    let number = |to: &str| to.trim_start_matches('+').to_owned();
    let mut waiting: Vec<String> = Vec::new();
    for Shown { campaign, recipients } in expected["campaigns"].as_array().expect("a list").iter().map(Shown::of) {
        if matches!(campaign["state"].as_str(), Some("draft" | "running" | "paused")) {
            let waits = |recipient: &&Value| {
                let resent = campaign["on_doubt"] == "resend" && recipient["state"] == "in_doubt";
                resent || recipient["state"] == "pending" || recipient["state"] == "retrying"
            };
            let recipients = recipients.as_array().expect("a list").iter().filter(waits);
            waiting.extend(recipients.map(|recipient| number(recipient["to"].as_str().expect("a number"))));
        }
    }
    let rows = expected["uploading"]["rows"].as_str().expect("rows").lines().skip(5);
    let rows = rows.map(|row| serde_json::from_str::<Value>(row).expect("a row"));
    waiting.extend(rows.map(|row| number(row["to"].as_str().expect("a number"))));
    waiting.extend(expected["jobs"].as_array().expect("a list").iter().map(|job| job["to"].to_string()));

    let mut sent: BTreeMap<String, usize> = BTreeMap::new();
    for arrival in meta.arrivals() {
        *sent.entry(number(&arrival.to)).or_default() += 1;
    }
    assert_eq!(sent, waiting.into_iter().map(|to| (to, 1)).collect());
}
