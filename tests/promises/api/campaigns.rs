//! Campaigns: their states, their statistics, listing and deletion.

use std::time::Duration;

use pregon::{
    config::KeyScope,
    domain::{CampaignState, ClaimedRow, Hold, HoldScope, MetaCode, Settled, State, UnixMs},
    stats::{self, StateCounts},
};
use reqwest::StatusCode;
use serde_json::{Value, json};

use super::{
    harness::{Api, KEY, answer, campaign, csv, key_for, phone, wamid},
    truth::{self, Fate},
};
use crate::support::meta_code;

fn waiting(campaign: &Value) -> Vec<(String, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let waiting = campaign["statistics"]["waiting_for"].as_array().expect("a list");
    waiting.iter().map(|waiting| (text(&waiting["reason"]).expect("a reason"), text(&waiting["line"]))).collect()
}

fn reasons(campaign: &Value) -> Vec<String> {
    waiting(campaign).into_iter().map(|(reason, _)| reason).collect()
}

#[tokio::test]
async fn a_campaign_goes_from_draft_to_completed() {
    let api = Api::start().await;
    let mut new = campaign("Spring sale", &["3001", "3002"]);
    new["external_id"] = json!("crm-4711");
    new["priority"] = json!(7);
    new["on_doubt"] = json!("resend");
    new["expires_at"] = json!("2099-01-01T00:00:00Z");
    let created = api.post_json("/v1/campaigns", &new).await;
    assert_eq!(created.status, StatusCode::CREATED, "{}", created.body);
    let id = created.body["id"].as_str().expect("an id").to_owned();
    assert_eq!(created.headers["location"], format!("/v1/campaigns/{id}"));
    let expected = json!({ "id": id, "state": "draft", "accepted": 0, "rejected_count": 0, "rejected": [] });
    assert_eq!(created.body, expected);

    let again = api.post_json("/v1/campaigns", &new).await;
    assert_eq!((again.status, &again.body["id"]), (StatusCode::OK, &json!(id)), "the same external_id");

    let path = format!("/v1/campaigns/{id}");
    api.post(&format!("{path}/launch")).await.problem(409, "campaign-empty");
    let uploaded = api.upload(id.parse().expect("an id"), "text/csv; charset=utf-8", csv(20)).await;
    assert_eq!(
        (uploaded.status, uploaded.body),
        (StatusCode::OK, json!({ "accepted": 20, "rejected_count": 0, "rejected": [] }))
    );

    let draft = api.read(&path).await;
    for (field, value) in [
        ("id", json!(id)),
        ("external_id", json!("crm-4711")),
        ("name", json!("Spring sale")),
        ("state", json!("draft")),
        ("template", json!({ "name": "order_update", "language": "es_AR" })),
        ("lines", json!(["3001", "3002"])),
        ("priority", json!(7)),
        ("on_doubt", json!("resend")),
        ("start_at", Value::Null),
        ("expires_at", json!("2099-01-01T00:00:00Z")),
        ("started_at", Value::Null),
        ("ended_at", Value::Null),
    ] {
        assert_eq!(draft[field], value, "{field}: {draft}");
    }
    assert!(draft["created_at"].is_string() && draft.get("reason").is_none(), "{draft}");
    assert_eq!((&draft["statistics"]["by_state"]["pending"], waiting(&draft)), (&json!(20), vec![]));

    let launched = api.post(&format!("{path}/launch")).await;
    assert_eq!((launched.status, &launched.body["state"]), (StatusCode::OK, &json!("running")));
    assert!(launched.body["started_at"].is_string(), "{}", launched.body);
    api.upload(id.parse().expect("an id"), "text/csv", csv(30)).await.problem(409, "campaign-state");

    let paused = api.post(&format!("{path}/pause")).await;
    assert_eq!(
        (paused.status, &paused.body["state"], reasons(&paused.body)),
        (StatusCode::OK, &json!("paused"), vec!["paused".into()])
    );
    let resumed = api.post(&format!("{path}/resume")).await;
    assert_eq!((resumed.status, &resumed.body["state"]), (StatusCode::OK, &json!("running")));

    let campaign = id.parse().expect("an id");
    for (part, _) in api.parts(campaign).await {
        let rows = api.claim(part, 100).await;
        let accepted = |row: &ClaimedRow| Settled::Accepted(wamid(row.row.into()));
        api.settle(part, rows.iter().map(|row| (*row, accepted(row))).collect()).await;
    }
    assert!(api.store.complete_if_done(campaign, api.now()).await.expect("redis"));
    let completed = api.read(&path).await;
    assert_eq!((&completed["state"], waiting(&completed)), (&json!("completed"), vec![]));
    assert!(completed["ended_at"].is_string(), "{completed}");
    assert_eq!(completed["statistics"]["by_state"]["accepted"], 20);
    api.post(&format!("{path}/cancel")).await.problem(409, "campaign-state");
}

#[tokio::test]
async fn a_scheduled_campaign_can_be_changed_paused_and_cancelled() {
    let api = Api::start().await;
    let mut new = campaign("spring", &["3001"]);
    (new["start_at"], new["launch"]) = (json!("2098-01-01T00:00:00Z"), json!(true));
    new["recipients"] = json!([{ "to": phone(1), "params": { "1": "Maria", "2": "A-10" } }]);
    let created = api.post_json("/v1/campaigns", &new).await;
    assert_eq!((created.status, &created.body["state"]), (StatusCode::CREATED, &json!("scheduled")), "{created:?}");
    let path = format!("/v1/campaigns/{}", created.body["id"].as_str().expect("an id"));

    let values = json!({ "start_at": "2098-06-01T00:00:00Z", "expires_at": "2099-01-01T00:00:00Z" });
    let changed = api.patch_json(&path, &values).await;
    assert_eq!((changed.status, &changed.body["start_at"]), (StatusCode::OK, &values["start_at"]), "{changed:?}");
    assert_eq!((&changed.body["expires_at"], &changed.body["priority"]), (&values["expires_at"], &json!(5)));
    api.patch_json(&path, &json!({ "priority": 0 })).await.problem(422, "invalid");
    api.patch_json(&path, &json!({ "name": "summer" })).await.problem(400, "malformed-body");
    assert_eq!(api.post(&format!("{path}/pause")).await.body["state"], "paused");
    assert_eq!(api.post(&format!("{path}/resume")).await.body["state"], "scheduled");
    assert_eq!(api.post(&format!("{path}/cancel")).await.body["state"], "cancelled");
    api.patch_json(&path, &json!({ "priority": 1 })).await.problem(409, "campaign-state");
}

#[tokio::test]
async fn an_invalid_campaign_is_rejected_and_nothing_is_created() {
    let api = Api::start().await;
    let with = |change: &dyn Fn(&mut Value)| {
        let mut new = campaign("spring", &["3001"]);
        change(&mut new);
        new
    };
    let refused = [
        (with(&|new| new["template"]["name"] = json!("nobody_knows")), "template-missing"),
        (with(&|new| new["template"] = json!({ "name": "slow_week", "language": "pt_BR" })), "template-not-approved"),
        (with(&|new| new["template"]["name"] = json!("spring_cards")), "template-unsupported"),
        (with(&|new| new["lines"] = json!(["3003"])), "templates-not-synced"),
        (with(&|new| new["lines"] = json!(["3001", "3003"])), "invalid"),
        (with(&|new| new["lines"] = json!([])), "invalid"),
        (with(&|new| new["priority"] = json!(11)), "invalid"),
    ];
    for (new, kind) in refused {
        let answer = api.post_json("/v1/campaigns", &new).await;
        answer.problem(422, kind);
        assert_eq!(answer.body["problems"].is_array(), kind == "invalid", "{}", answer.body);
    }
    assert_eq!(api.read("/v1/campaigns").await["campaigns"], json!([]));
}

#[tokio::test]
async fn inline_recipients_are_accepted_or_rejected_individually() {
    let api = Api::start().await;
    let mut new = campaign("spring", &["3001"]);
    new["launch"] = json!(true);
    new["recipients"] = json!([
        { "to": phone(0), "params": { "1": "Maria", "2": "A-10" } },
        { "to": phone(0), "params": { "1": "Maria", "2": "A-10" } },
        { "to": "nobody", "params": { "1": "Maria", "2": "A-10" } },
    ]);
    let answer = api.post_json("/v1/campaigns", &new).await;
    assert_eq!(answer.status, StatusCode::CREATED, "{}", answer.body);
    assert_eq!(
        (&answer.body["state"], &answer.body["accepted"], &answer.body["rejected_count"]),
        (&json!("running"), &json!(1), &json!(2))
    );
    let rejected: Vec<_> =
        answer.body["rejected"].as_array().expect("a list").iter().map(|row| (&row["row"], &row["code"])).collect();
    assert_eq!(rejected, [(&json!(2), &json!("duplicate")), (&json!(3), &json!("not_e164"))]);
}

#[tokio::test]
async fn statistics_are_exact_and_add_up() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001", "3002"], 1_000).await;
    let truth = truth::apply_fates(&api, id).await;
    assert_eq!(truth.len(), 1_000);
    let (first, _) = api.parts(id).await[0].clone();
    api.store.note_details(first, meta_code(131_026), "not on WhatsApp").await.expect("redis");

    let statistics = api.read(&format!("/v1/campaigns/{id}")).await["statistics"].take();
    assert_eq!(truth::counts_of(&statistics), truth::counts(&truth));
    let by_state = statistics["by_state"].as_object().expect("an object");
    assert_eq!(by_state.values().filter_map(Value::as_u64).sum::<u64>(), 1_000);
    let mut failures: Vec<(u64, u64)> = Vec::new();
    for fate in [Fate::Refused, Fate::FailedLater] {
        let n = truth.values().filter(|&&is| is == fate).count() as u64;
        failures.push((n, fate.code().expect("a code").into()));
    }
    failures.sort_by_key(|&(n, code)| (std::cmp::Reverse(n), code));
    let found: Vec<(u64, u64)> = statistics["failures"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|failure| (failure["count"].as_u64().expect("a count"), failure["code"].as_u64().expect("a code")))
        .collect();
    assert_eq!(found, failures);
    let refused = statistics["failures"].as_array().expect("a list").iter().find(|failure| failure["code"] == 131_026);
    assert_eq!(refused.expect("the failure")["details"], "not on WhatsApp");

    let record = api.store.campaign(id).await.expect("redis").expect("the campaign");
    let parts: Vec<_> = record.parts.iter().map(|&(part, _)| part).collect();
    let counters = StateCounts::of(&api.store.part_counts(&parts).await.expect("redis"));
    assert_eq!(stats::recount(&api.store, &record).await.expect("redis"), counters, "state bytes and counters agree");
}

#[tokio::test]
async fn cancelled_and_expired_recipients_are_counted_as_such() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001"], 30).await;
    let [(part, _)] = api.parts(id).await.try_into().expect("one part");
    api.claim(part, 10).await;
    let cancelled = api.post(&format!("/v1/campaigns/{id}/cancel")).await;
    assert_eq!((cancelled.status, &cancelled.body["state"]), (StatusCode::OK, &json!("cancelled")));
    let statistics = &cancelled.body["statistics"];
    assert_eq!((&statistics["by_state"]["cancelled"], &statistics["by_state"]["in_flight"]), (&json!(20), &json!(10)));
    assert_eq!(statistics["funnel"]["attempted"], 10);

    let mut new = campaign("late", &["3001"]);
    new["expires_at"] = json!(api.now().after(Duration::from_secs(3600)));
    new["launch"] = json!(true);
    new["recipients"] = json!([{ "to": phone(0), "params": { "1": "Maria", "2": "A-10" } }]);
    let late = api.post_json("/v1/campaigns", &new).await;
    assert_eq!((late.status, &late.body["state"]), (StatusCode::CREATED, &json!("running")), "{}", late.body);
    let id = late.body["id"].as_str().expect("an id").parse().expect("an id");
    let [(part, _)] = api.parts(id).await.try_into().expect("one part");
    api.store.sweep(part, State::Expired, api.now().after(Duration::from_secs(7200))).await.expect("redis");
    let statistics = api.read(&format!("/v1/campaigns/{id}")).await["statistics"].take();
    assert_eq!((&statistics["by_state"]["expired"], &statistics["funnel"]["attempted"]), (&json!(1), &json!(0)));
}

#[tokio::test]
async fn what_no_worker_has_begun_waits_after_a_restart_of_redis() {
    let mut api = Api::start().await;
    let path = format!("/v1/campaigns/{}", api.launched("spring", &["3001"], 5).await);
    api.redis.kill_hard().await;
    api.redis.restart().await;
    api.assign_line("3001", "w1", 72.0).await;
    let campaign = api.read(&path).await;
    assert_eq!(waiting(&campaign), [("redis_restarted".to_owned(), Some("3001".to_owned()))]);
    let times = &campaign["statistics"]["waiting_for"][0];
    assert!(times["since"].is_string() && times["until"].is_string(), "{times}");
}

#[tokio::test]
async fn a_campaign_shows_its_wait_reasons_and_its_eta() {
    let api = Api::start().await;
    let id = api.launched("spring", &["3001"], 720).await;
    let path = format!("/v1/campaigns/{id}");
    let of_line = |reason: &str| vec![(reason.to_owned(), Some("3001".to_owned()))];
    let nobody = api.read(&path).await;
    assert_eq!((waiting(&nobody), &nobody["statistics"]["eta"]), (of_line("no_worker"), &Value::Null));

    api.assign_line("3001", "w1", 72.0).await;
    let before = api.now();
    let sending = api.read(&path).await;
    assert_eq!(waiting(&sending), of_line("line_rate"));
    let eta: UnixMs = serde_json::from_value(sending["statistics"]["eta"].clone()).expect("a time");
    let (soonest, latest) = (before.after(Duration::from_secs(10)), api.now().after(Duration::from_secs(11)));
    assert!((soonest..=latest).contains(&eta), "720 messages at 72 a second: {eta}, between {soonest} and {latest}");

    api.post("/v1/lines/3001/pause").await;
    let paused = api.read(&path).await;
    assert_eq!((waiting(&paused), &paused["statistics"]["eta"]), (of_line("paused"), &Value::Null));
    api.post("/v1/lines/3001/resume").await;

    let template = HoldScope::Template { waba: "2001".into(), name: "order_update".into(), language: "es_AR".into() };
    let until = api.now().after(Duration::from_secs(3600));
    let hold = Hold {
        code: Some(MetaCode(132_015)),
        reason: "paused for its quality".into(),
        since: api.now(),
        until: Some(until),
    };
    api.store.hold(&template, &hold).await.expect("redis");
    let held = api.read(&path).await;
    assert_eq!(waiting(&held), [("template_paused".to_owned(), None)]);
    let shown = &held["statistics"]["waiting_for"][0];
    assert_eq!(
        (&shown["code"], &shown["since"], &shown["until"]),
        (&json!(132_015), &json!(hold.since), &json!(hold.until))
    );
    let eta: UnixMs = serde_json::from_value(held["statistics"]["eta"].clone()).expect("a time");
    assert_eq!(eta.since(until).as_secs(), 10, "720 messages at 72 a second after the end of the hold");
}

#[tokio::test]
async fn the_eta_accounts_for_other_campaigns_on_the_line() {
    let api = Api::start().await;
    api.assign_line("3001", "w1", 10.0).await;
    let big = api.launched("big", &["3001"], 1_000).await;
    let small = api.launched("small", &["3001"], 100).await;
    let before = api.now();
    // The work of other campaigns is cached for a second, so the estimate follows a launch with that delay.
    let done_after = async |campaign, expected: std::ops::RangeInclusive<u64>| loop {
        let eta = api.read(&format!("/v1/campaigns/{campaign}")).await["statistics"]["eta"].take();
        let eta: UnixMs = serde_json::from_value(eta).expect("a time");
        if expected.contains(&eta.since(before).as_secs()) {
            break;
        }
        tokio::task::yield_now().await;
    };
    let both = async {
        done_after(big, 110..=115).await; // all 1,100 messages at 10 a second
        done_after(small, 20..=25).await; // 100 messages, and as many of the other campaign's
    };
    tokio::time::timeout(Duration::from_secs(30), both).await.expect("each estimate accounts for the other campaign");
}

#[tokio::test]
async fn a_scheduled_campaign_waits_for_its_start() {
    let api = Api::start().await;
    let start_at = UnixMs(api.now().after(Duration::from_secs(3600)).seconds() * 1000);
    let mut new = campaign("later", &["3001"]);
    new["start_at"] = json!(start_at);
    new["launch"] = json!(true);
    new["recipients"] = json!([{ "to": phone(0), "params": { "1": "Maria", "2": "A-10" } }]);
    let answer = api.post_json("/v1/campaigns", &new).await;
    assert_eq!((answer.status, &answer.body["state"]), (StatusCode::CREATED, &json!("scheduled")), "{}", answer.body);
    let scheduled = api.read(&format!("/v1/campaigns/{}", answer.body["id"].as_str().expect("an id"))).await;
    let waiting = &scheduled["statistics"]["waiting_for"];
    assert_eq!((&waiting[0]["reason"], &waiting[0]["until"]), (&json!("schedule"), &json!(start_at)));
}

#[tokio::test]
async fn campaigns_are_listed_newest_first_by_page_and_state() {
    let api = Api::start().await;
    let mut ids = Vec::new();
    for n in 0..7 {
        ids.push(match n % 3 {
            0 => api.draft(&format!("c{n}"), &["3001"], 0).await,
            _ => api.launched(&format!("c{n}"), &["3001"], 1).await,
        });
    }
    let listed = async |query: &str| {
        let (mut found, mut next) = (Vec::new(), String::new());
        for _ in 0..10 {
            let page = api.read(&format!("/v1/campaigns?cursor={next}&{query}")).await;
            let campaigns = page["campaigns"].as_array().expect("a list");
            assert!(campaigns.iter().all(|campaign| campaign.get("statistics").is_none()), "{page}");
            found.extend(campaigns.iter().map(|campaign| campaign["id"].as_str().expect("an id").to_owned()));
            match page["next"].as_str() {
                Some(cursor) => next = cursor.to_owned(),
                None => return found,
            }
        }
        panic!("the list has no end: {found:?}")
    };
    let newest_first = |of: &dyn Fn(usize) -> bool| {
        let ids = ids.iter().enumerate().rev().filter(|(n, _)| of(*n));
        ids.map(|(_, id)| id.to_string()).collect::<Vec<_>>()
    };
    for limit in [1, 2, 3, 7, 100] {
        assert_eq!(listed(&format!("limit={limit}")).await, newest_first(&|_| true), "limit {limit}");
        assert_eq!(
            listed(&format!("state=running&limit={limit}")).await,
            newest_first(&|n| n % 3 != 0),
            "limit {limit}"
        );
    }
    for state in
        CampaignState::ALL.into_iter().filter(|&state| state != CampaignState::Draft && state != CampaignState::Running)
    {
        assert_eq!(listed(&format!("state={state}")).await, [""; 0], "{state}");
    }
    let exact = api.read("/v1/campaigns?limit=7").await;
    assert_eq!(exact["next"], Value::Null, "no page follows one with everything");
}

#[tokio::test]
async fn by_state_lists_every_state() {
    let api = Api::start().await;
    let id = api.draft("empty", &["3001"], 0).await;
    let statistics = api.read(&format!("/v1/campaigns/{id}")).await["statistics"].take();
    let by_state = statistics["by_state"].as_object().expect("an object");
    assert!(State::ALL.iter().all(|state| by_state[state.name()] == 0), "{statistics}");
    let empty = json!({ "attempted": 0, "accepted": 0, "sent": 0, "delivered": 0, "read": 0, "replied": 0 });
    assert_eq!((by_state.len(), &statistics["funnel"]), (13, &empty));
    assert_eq!(
        (&statistics["failures"], &statistics["rate_per_second"], &statistics["eta"]),
        (&json!([]), &json!(0.0), &Value::Null)
    );
}

#[tokio::test]
async fn only_a_draft_or_an_ended_campaign_can_be_deleted() {
    let api = Api::start().await;
    let mut new = campaign("Spring", &["3001"]);
    new["external_id"] = json!("crm-1");
    let delete = async |id: &str, key: &str| {
        answer(api.http.delete(format!("{}/v1/campaigns/{id}", api.base)).bearer_auth(key)).await
    };
    let create = async || api.post_json("/v1/campaigns", &new).await.body["id"].as_str().expect("an id").to_owned();

    let id = create().await;
    api.upload(id.parse().expect("an id"), "text/csv", csv(20)).await;
    delete(&id, &key_for(KeyScope::Read)).await.problem(403, "forbidden");
    let deleted = delete(&id, &key_for(KeyScope::Submit)).await;
    assert_eq!((deleted.status, deleted.body), (StatusCode::NO_CONTENT, Value::Null));
    delete(&id, KEY).await.problem(404, "campaign-not-found");
    api.get(&format!("/v1/campaigns/{id}")).await.problem(404, "campaign-not-found");
    api.upload(id.parse().expect("an id"), "text/csv", csv(20)).await.problem(404, "campaign-not-found");
    assert_eq!(api.read("/v1/campaigns").await["campaigns"], json!([]));

    // The external id is free again. A campaign that was cancelled before it started can be deleted too.
    let again = create().await;
    assert_ne!(again, id);
    assert_eq!(api.post(&format!("/v1/campaigns/{again}/cancel")).await.status, StatusCode::OK);
    assert_eq!(delete(&again, KEY).await.status, StatusCode::NO_CONTENT);

    // A campaign that has started can be deleted once it has ended.
    let running = api.launched("Running", &["3001"], 2).await.to_string();
    let refused = delete(&running, KEY).await;
    assert_eq!(
        refused.problem(409, "campaign-state"),
        format!(
            "campaign {running} is running: only a draft, or a campaign that has ended, can be deleted; cancel it first"
        )
    );
    assert_eq!(api.post(&format!("/v1/campaigns/{running}/cancel")).await.status, StatusCode::OK);
    assert_eq!(delete(&running, KEY).await.status, StatusCode::NO_CONTENT);
    delete(&running, KEY).await.problem(404, "campaign-not-found");
    assert_eq!(api.read("/v1/campaigns").await["campaigns"], json!([]));
    new["external_id"] = json!("crm-2");
    new["start_at"] = json!("2099-01-01T00:00:00Z");
    new["recipients"] = json!([{ "to": phone(1), "params": { "1": "Maria", "2": "A-1" } }]);
    new["launch"] = json!(true);
    let scheduled = api.post_json("/v1/campaigns", &new).await.body["id"].as_str().expect("an id").to_owned();
    let refused = delete(&scheduled, KEY).await;
    assert!(refused.problem(409, "campaign-state").ends_with("can be deleted; cancel it first"), "{}", refused.body);
    assert_eq!(api.read(&format!("/v1/campaigns/{scheduled}")).await["state"], "scheduled");
}
