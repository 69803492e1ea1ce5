//! Retries of a completed campaign: it is sent again, once, to exactly the recipients that the request selects.

use std::{collections::BTreeMap, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    domain::{
        CampaignId, CampaignState, ClaimedRow, Due, FailureReason, News, PartId, Settled, SkipReason, State, UnixMs,
        campaign::{CampaignRetry, RetriedState},
    },
    redis::{
        Call,
        campaigns::{CampaignRecord, StateChange},
        script,
    },
};
use reqwest::Method;
use serde_json::{Value, json};

use super::harness::{Answer, Api, answer, campaign, csv, phone, wamid};
use crate::support::{self, meta_code, world};

const UNDELIVERABLE: FailureReason = meta_code(131_026);
const UNPAID: FailureReason = meta_code(131_042);

/// A campaign on line 3001 whose recipients have ended in different states. Their rows, in order: refused as
/// undeliverable, refused as unpaid, failed as unpaid, unknown, delivered, accepted.
struct Ended {
    api: Api,
    id: CampaignId,
    part: PartId,
}

impl Ended {
    async fn start() -> Self {
        let api = Api::start().await;
        let id = api.launched("spring", &["3001"], 6).await;
        let ended = Self { part: api.parts(id).await[0].0, api, id };
        ended.send(&ended.api.claim(ended.part, 6).await).await;
        assert!(ended.complete().await);
        ended
    }

    /// Ends the six messages of a campaign.
    async fn send(&self, rows: &[ClaimedRow]) {
        let &[undeliverable, unpaid, failed, unknown, delivered, accepted] = rows else { panic!("{rows:?}") };
        let outcomes = vec![
            (undeliverable, Settled::Refused { reason: UNDELIVERABLE }),
            (unpaid, Settled::Refused { reason: UNPAID }),
            (failed, Settled::Accepted(wamid(2))),
            (unknown, Settled::InDoubt { until: UnixMs(1) }),
            (delivered, Settled::Accepted(wamid(4))),
            (accepted, Settled::Accepted(wamid(5))),
        ];
        self.api.settle(self.part, outcomes).await;
        self.api.apply(self.part, &[(failed, News::Failed(UNPAID)), (delivered, News::Delivered)]).await;
        self.api.store.end_doubts(self.part, self.api.now(), 0).await.expect("redis");
    }

    async fn complete(&self) -> bool {
        self.api.store.complete_if_done(self.id, self.api.now()).await.expect("redis")
    }

    async fn retry(&self, body: Value) -> Answer {
        self.api.post_json(&format!("/v1/campaigns/{}/retry", self.id), &body).await
    }

    /// Retries, and returns the number of recipients and the state of the campaign.
    async fn retried(&self, body: Value) -> (u64, String) {
        let answer = self.retry(body).await;
        assert_eq!(answer.status, 200, "{}", answer.body);
        let state = answer.body["state"].as_str().expect("a state");
        (answer.body["recipients"].as_u64().expect("a number"), state.to_owned())
    }

    async fn record(&self) -> CampaignRecord {
        self.api.store.campaign(self.id).await.expect("redis").expect("a campaign")
    }

    /// The numbers of recipients by state and by failure, after checking that they equal those of the rows.
    async fn counts(&self) -> (BTreeMap<&'static str, u64>, BTreeMap<FailureReason, u64>) {
        let record = self.record().await;
        let counts = world::counts(&self.api.store, &record).await;
        assert_eq!(counts.by_state, world::recount(&self.api.store, &record).await);
        let by_state = counts.by_state.iter().filter(|(_, n)| **n > 0);
        (by_state.map(|(state, n)| (script::counter(*state), *n)).collect(), counts.failures.into_iter().collect())
    }

    /// Forgets a recipient to whom a message was sent.
    async fn forget(&self, n: u64) {
        let removed = answer(self.api.request(Method::DELETE, &format!("/v1/people/{}", phone(n)))).await;
        assert_eq!((removed.status.as_u16(), &removed.body["recipients"]), (200, &json!(1)), "{}", removed.body);
        assert_eq!(removed.body["skipped"], 0, "a message was sent");
    }

    async fn recipient(&self, n: u64) -> Value {
        self.api.read(&format!("/v1/campaigns/{}/recipients/{}", self.id, phone(n))).await
    }
}

fn row(row: u16, send: u8) -> ClaimedRow {
    ClaimedRow { row, send }
}

#[tokio::test]
async fn only_the_named_recipients_are_sent_again_with_all_their_attempts() {
    let ended = Ended::start().await;
    let paid = json!({ "states": ["failed"], "codes": [131_042] });
    assert_eq!(ended.retried(paid.clone()).await, (2, "running".to_owned()));
    let (by_state, failures) = ended.counts().await;
    let states = [("accepted", 1), ("delivered", 1), ("pending", 2), ("refused", 1), ("unknown", 1)];
    assert_eq!(by_state, BTreeMap::from(states));
    assert_eq!(failures, BTreeMap::from([(UNDELIVERABLE, 1)]));
    assert!(!ended.complete().await, "recipients are open");

    assert_eq!(ended.retried(paid).await, (2, "running".to_owned()), "a repeat says the same and changes nothing");
    let rows = ended.api.claim(ended.part, 6).await;
    assert_eq!(rows, [row(2, 2), row(1, 2)], "each once");
    ended.api.settle(ended.part, rows.iter().map(|it| (*it, Settled::Accepted(wamid(it.row.into())))).collect()).await;
    let recipient = ended.recipient(2).await;
    assert_eq!((&recipient["state"], &recipient["attempts"]), (&json!("accepted"), &json!(1)), "{recipient}");
    assert!(recipient.get("code").is_none() && recipient.get("failed_at").is_none(), "{recipient}");
    assert!(ended.complete().await);

    assert_eq!(ended.retried(json!({ "states": ["unknown"] })).await, (1, "running".to_owned()));
    assert_eq!(ended.api.claim(ended.part, 6).await, [row(3, 2)]);
}

#[tokio::test]
async fn a_retry_that_names_nobody_changes_nothing() {
    let ended = Ended::start().await;
    let before = ended.record().await;
    assert_eq!(ended.retried(json!({ "states": ["failed"], "codes": [130_472] })).await, (0, "completed".to_owned()));
    let after = ended.record().await;
    assert_eq!((before.version, before.ended_at), (after.version, after.ended_at));
    // The unknown recipient has no code, so no row matches.
    let unknown = json!({ "states": ["unknown"], "codes": [131_042] });
    assert_eq!(ended.retried(unknown).await, (0, "completed".to_owned()));
}

#[tokio::test]
async fn a_retry_of_people_who_were_all_forgotten_changes_nothing() {
    let ended = Ended::start().await;
    for n in [1, 2, 3] {
        ended.forget(n).await;
    }
    let before = ended.record().await;
    for body in [json!({ "states": ["failed"], "codes": [131_042] }), json!({ "states": ["unknown"] })] {
        assert_eq!(ended.retried(body).await, (0, "completed".to_owned()));
    }
    let after = ended.record().await;
    assert_eq!((before.version, before.ended_at), (after.version, after.ended_at));
    assert_eq!(ended.retried(json!({ "states": ["failed", "unknown"] })).await, (1, "running".to_owned()));
    assert_eq!(ended.api.claim(ended.part, 6).await, [row(0, 2)]);
}

#[tokio::test]
async fn a_retry_is_refused_with_its_remedy() {
    let ended = Ended::start().await;
    let api = &ended.api;
    let failed = || json!({ "states": ["failed"] });
    for (body, status, kind) in [
        (json!({ "states": [] }), 422, "invalid"),
        (json!({ "states": ["failed"], "codes": [] }), 422, "invalid"),
        (json!({ "states": ["failed"], "external_id": "" }), 422, "invalid"),
        (json!({ "states": ["read"] }), 400, "malformed-body"),
        (json!({ "states": ["failed"], "code": 1 }), 400, "malformed-body"),
        (json!({}), 400, "malformed-body"),
    ] {
        ended.retry(body).await.problem(status, kind);
    }
    let draft = api.draft("draft", &["3001"], 1).await;
    let running = api.launched("running", &["3001"], 1).await;
    let cancelled = api.launched("cancelled", &["3001"], 1).await;
    api.post(&format!("/v1/campaigns/{cancelled}/cancel")).await;
    for (id, remedy) in [(draft, "launch it first"), (running, "wait until"), (cancelled, "make a new campaign")] {
        let answer = api.post_json(&format!("/v1/campaigns/{id}/retry"), &failed()).await;
        assert!(answer.problem(409, "campaign-state").contains(remedy), "{}", answer.body);
    }
    assert!(api.store.forget_ended(ended.id, api.now()).await.expect("redis"));
    let answer = ended.retry(failed()).await;
    assert!(answer.problem(409, "recipients-forgotten").contains("new campaign"), "{}", answer.body);
    assert_eq!(ended.counts().await.0.get("pending"), None);
}

#[tokio::test]
async fn an_expired_campaign_or_an_edited_template_is_not_sent_again() {
    let api = Api::start().await;
    let mut new = campaign("spring", &["3001"]);
    new["expires_at"] = json!(api.now().after(Duration::from_secs(3_600)));
    let created = api.post_json("/v1/campaigns", &new).await;
    let id: CampaignId = created.body["id"].as_str().expect("an id").parse().expect("an id");
    api.upload(id, "text/csv", csv(1)).await;
    api.post(&format!("/v1/campaigns/{id}/launch")).await;
    let part = api.parts(id).await[0].0;
    let refused = Settled::Refused { reason: UNPAID };
    api.settle(part, api.claim(part, 1).await.into_iter().map(|row| (row, refused.clone())).collect()).await;
    let ended = Ended { api, id, part };
    assert!(ended.complete().await);
    let edited = pregon::domain::Template { components: Vec::new(), ..world::template() };
    ended.api.store.put_templates(&"2001".into(), &[edited], ended.api.now()).await.expect("redis");
    assert_eq!(ended.retry(json!({ "states": ["failed"] })).await.status, 422);
    let definition = serde_json::to_string(&pregon::domain::Campaign {
        expires_at: Some(ended.api.now()),
        ..ended.record().await.campaign
    });
    let key = ended.api.store.keys.campaign(id);
    let expire = cmd("HSET").arg(key).arg("definition").arg(definition.expect("JSON")).take();
    let _: u64 = ended.api.store.query("HSET", &expire).await.expect("redis");
    ended.retry(json!({ "states": ["failed"] })).await.problem(409, "campaign-expired");
    assert_eq!(ended.record().await.state, CampaignState::Completed);
}

#[tokio::test]
async fn a_retry_with_an_external_id_begins_once() {
    let ended = Ended::start().await;
    let retry = |id: &str| json!({ "states": ["failed"], "external_id": id });
    assert_eq!(ended.retried(retry("again-1")).await, (3, "running".to_owned()));
    let rows = ended.api.claim(ended.part, 6).await;
    let refused = |row: &ClaimedRow| (*row, Settled::Refused { reason: UNPAID });
    ended.api.settle(ended.part, rows.iter().map(refused).collect()).await;
    assert!(ended.complete().await);
    assert_eq!(ended.retried(retry("again-1")).await, (3, "completed".to_owned()), "the repeat of a lost response");
    let other = json!({ "states": ["failed", "unknown"], "external_id": "again-1" });
    ended.retry(other).await.problem(409, "retry-conflict");
    assert_eq!(ended.counts().await.0.get("pending"), None);
    assert_eq!(ended.retried(retry("again-2")).await, (3, "running".to_owned()));
}

#[tokio::test]
async fn a_cancelled_retry_leaves_the_recipients_as_they_were() {
    let ended = Ended::start().await;
    let before = ended.counts().await;
    assert_eq!(ended.retried(json!({ "states": ["failed", "unknown"] })).await.0, 4);
    let cancelled = ended.api.post(&format!("/v1/campaigns/{}/cancel", ended.id)).await;
    assert_eq!((cancelled.status.as_u16(), &cancelled.body["retried"]), (200, &json!(true)), "{}", cancelled.body);
    assert_eq!(ended.counts().await, before);
    assert_eq!(ended.recipient(1).await["code"], json!(131_042));
}

#[tokio::test]
async fn a_claimed_recipient_of_a_cancelled_retry_that_got_nothing_is_as_before() {
    let ended = Ended::start().await;
    let before = ended.counts().await;
    assert_eq!(ended.retried(json!({ "states": ["failed", "unknown"] })).await.0, 4);
    // Throttled, failed for the moment, and suppressed meanwhile; the last two are still on their way.
    let claimed = ended.api.claim(ended.part, 6).await;
    assert_eq!(claimed.len(), 4);
    let at = UnixMs(u64::MAX >> 12);
    let for_the_moment = Settled::Retry { at, reason: meta_code(131_000) };
    let skipped = Settled::Skipped { reason: SkipReason::Suppressed };
    ended.api.settle(ended.part, vec![(row(0, 2), skipped), (row(1, 2), for_the_moment.clone())]).await;
    let cancelled = ended.api.post(&format!("/v1/campaigns/{}/cancel", ended.id)).await;
    assert_eq!(cancelled.status, 200, "{}", cancelled.body);
    let throttled = vec![(row(3, 2), Settled::Back { at: Due::At(at) }), (row(2, 2), for_the_moment)];
    for _ in 0..2 {
        ended.api.settle(ended.part, throttled.clone()).await;
        assert_eq!(ended.counts().await, before);
    }
    assert_eq!(ended.recipient(1).await["code"], json!(131_042));
    assert_eq!(ended.recipient(3).await["state"], json!("unknown"));
}

#[tokio::test]
async fn an_interrupted_retry_is_finished_and_reopens_nobody_twice() {
    let ended = Ended::start().await;
    let (store, now) = (&ended.api.store, ended.api.now());
    let states = [RetriedState::Failed, RetriedState::Unknown].into();
    let retry = CampaignRetry { states, ..CampaignRetry::default() };
    // The process dies after it has committed the retry.
    let json = serde_json::to_string(&retry).expect("JSON");
    let commit = Call::new(&script::RETRY, &[store.keys.campaign(ended.id)]).arg(now.0).arg(json);
    let (_, version): (u8, u64) = store.call(commit).await.expect("redis");
    assert!(!ended.complete().await, "no recipient is open, but some are to be reopened");
    assert!(!store.forget_ended(ended.id, now).await.expect("redis"), "it runs");
    // The next process dies in the middle of the part.
    let gate = Call::new(&script::GATE, &[store.keys.part(ended.part), store.keys.states(ended.part)]);
    let _: u64 = store.call(gate.arg(version - 1).arg("held").arg("")).await.expect("redis");
    let reopen = async |limit| store.reopen_some(ended.part, &retry, version - 1, now, limit).await.expect("redis");
    assert_eq!(reopen(2).await, (true, 2));
    assert!(!ended.complete().await);
    // Two other processes finish the retry at the same time, while an operator pauses the campaign.
    let pause = format!("/v1/campaigns/{}/pause", ended.id);
    let (first, second, paused) =
        tokio::join!(store.follow(ended.id, now), store.follow(ended.id, now), ended.api.post(&pause));
    first.and(second).expect("redis");
    assert_eq!(paused.status, 200, "{}", paused.body);
    assert_eq!(ended.counts().await.0.get("pending"), Some(&4));
    let resumed = ended.api.post(&format!("/v1/campaigns/{}/resume", ended.id)).await;
    assert_eq!(resumed.status, 200, "{}", resumed.body);
    // A process that was suspended continues. The gate has a newer version by now, so nothing is reopened.
    let mut rows = ended.api.claim(ended.part, 6).await;
    ended.api.settle(ended.part, vec![(rows[0], Settled::Refused { reason: UNPAID })]).await;
    assert_eq!(reopen(10).await, (false, 4));
    store.follow(ended.id, now).await.expect("redis");
    rows.sort_by_key(|it| it.row);
    assert_eq!(rows, [row(0, 2), row(1, 2), row(2, 2), row(3, 2)]);
    assert_eq!(ended.counts().await.0.get("pending"), None);
    assert_eq!(store.reopened(&ended.record().await).await.expect("redis"), 4);
}

#[tokio::test]
async fn two_equal_calls_at_once_begin_one_retry() {
    let ended = Ended::start().await;
    let body = json!({ "states": ["failed"] });
    let (first, second) = tokio::join!(ended.retried(body.clone()), ended.retried(body));
    assert_eq!((first.0, second.0), (3, 3));
    let mut rows = ended.api.claim(ended.part, 6).await;
    rows.sort_by_key(|it| it.row);
    assert_eq!(rows, [row(0, 2), row(1, 2), row(2, 2)]);
}

#[tokio::test]
async fn recipients_are_forgotten_only_after_the_last_end() {
    let ended = Ended::start().await;
    let store = &ended.api.store;
    let active = async || store.active_campaigns(ended.api.now()).await.expect("redis");
    let first_end = ended.record().await.ended_at.expect("it ended");
    support::retire(store, ended.id, first_end).await;
    assert_eq!(active().await, []);
    ended.retried(json!({ "states": ["failed"] })).await;
    assert_eq!(ended.record().await.ended_at, None);
    let [(_, since)] = active().await[..] else { panic!("the campaign is maintained") };
    // A process that saw the campaign completed retires it only now, and another one finds it in the list of ended
    // campaigns.
    store.retire_campaign(ended.id, first_end, UnixMs(since.0 - 1)).await.expect("redis");
    assert_eq!(active().await, [(ended.id, since)]);
    let due = store.ended_campaigns(ended.api.now()).await.expect("redis");
    assert_eq!(due, [(ended.id, first_end)]);
    assert!(!store.forget_ended(ended.id, first_end).await.expect("redis"));
    // The campaign completes again. Whether or not the entry of its first end was removed, the retention does not end
    // early.
    let rows = ended.api.claim(ended.part, 6).await;
    let refused = |row: &ClaimedRow| (*row, Settled::Refused { reason: UNPAID });
    ended.api.settle(ended.part, rows.iter().map(refused).collect()).await;
    tokio::time::sleep(Duration::from_millis(2)).await;
    assert!(ended.complete().await);
    assert!(!store.forget_ended(ended.id, first_end).await.expect("redis"));
    let last_end = ended.record().await.ended_at.expect("it ended");
    support::retire(store, ended.id, last_end).await;
    store.unlist_ended(ended.id, first_end).await.expect("redis");
    assert_eq!(store.ended_campaigns(ended.api.now()).await.expect("redis"), [(ended.id, last_end)]);
    assert_eq!(ended.recipient(0).await["state"], "failed", "the recipients are there");
    assert!(store.forget_ended(ended.id, last_end).await.expect("redis"));
}

#[tokio::test]
async fn news_of_an_earlier_send_count_only_if_the_recipient_got_it() {
    let ended = Ended::start().await;
    ended.retried(json!({ "states": ["failed", "unknown"] })).await;
    let (api, part) = (&ended.api, ended.part);
    let state = async |row: u16| State::of(api.store.state_bytes(part).await.expect("redis")[usize::from(row)]);
    // Statuses before the rows are sent again.
    api.apply(part, &[(row(2, 1), News::Sent), (row(3, 1), News::Failed(UNPAID))]).await;
    assert_eq!((state(2).await, state(3).await), (Some(State::Pending), Some(State::Pending)));
    api.apply(part, &[(row(2, 1), News::Delivered)]).await;
    assert_eq!(state(2).await, Some(State::Delivered));
    let mut rows = api.claim(part, 6).await;
    rows.sort_by_key(|it| it.row);
    assert_eq!(rows, [row(0, 2), row(1, 2), row(3, 2)], "whoever got it gets no other message");
    // Statuses while the new message is in flight, and afterwards.
    api.apply(part, &[(row(3, 1), News::Sent), (row(3, 1), News::Failed(UNPAID))]).await;
    assert_eq!(state(3).await, Some(State::InFlight));
    api.settle(part, vec![(row(3, 2), Settled::Accepted(wamid(3)))]).await;
    api.apply(part, &[(row(3, 1), News::Read), (row(3, 2), News::Sent)]).await;
    assert_eq!(state(3).await, Some(State::Read));
    api.apply(part, &[(row(1, 1), News::Delivered)]).await;
    api.settle(part, vec![(row(1, 2), Settled::Retry { at: UnixMs(0), reason: UNPAID })]).await;
    assert_eq!(state(1).await, Some(State::Delivered), "the outcome of the new message does not matter any more");
    api.settle(part, vec![(row(0, 2), Settled::Accepted(wamid(6)))]).await;
    let (by_state, failures) = ended.counts().await;
    assert_eq!(by_state, BTreeMap::from([("accepted", 2), ("delivered", 3), ("read", 1)]));
    assert!(failures.is_empty(), "{failures:?}");
    assert!(ended.complete().await);
}

#[tokio::test]
async fn a_retried_campaign_can_be_paused_and_its_events_tell_the_new_state() {
    let ended = Ended::start().await;
    ended.retried(json!({ "states": ["failed"] })).await;
    let path = |rest: &str| format!("/v1/campaigns/{}/{rest}", ended.id);
    assert_eq!(ended.api.post(&path("pause")).await.body["state"], "paused");
    assert_eq!(ended.retried(json!({ "states": ["failed"] })).await, (3, "paused".to_owned()), "it has begun");
    let answer = ended.retry(json!({ "states": ["unknown"] })).await;
    assert!(answer.problem(409, "campaign-state").contains("resume it"), "{}", answer.body);
    let shown = ended.api.post(&path("resume")).await.body;
    assert_eq!((&shown["state"], &shown["ended_at"]), (&json!("running"), &Value::Null));
    assert_eq!(shown["statistics"]["by_state"]["pending"], 3);
    let change = ended.api.store.change_campaign(
        ended.id,
        &[CampaignState::Running],
        CampaignState::Completed,
        ended.api.now(),
        None,
    );
    assert_eq!(change.await.expect("redis"), StateChange::Done);
    assert_eq!(ended.counts().await.0.get("pending"), None, "what is not sent goes back");
}

#[tokio::test]
async fn a_retry_leaves_out_who_was_forgotten_before_and_ends_who_is_forgotten_in_it() {
    let ended = Ended::start().await;
    let by_state = async || {
        let read = ended.api.read(&format!("/v1/campaigns/{}", ended.id)).await;
        ["pending", "failed", "unknown"].map(|state| read["statistics"]["by_state"][state].as_u64().expect("a count"))
    };
    ended.forget(1).await;
    assert_eq!(by_state().await, [0, 3, 1]);
    let retry = json!({ "states": ["failed", "unknown"] });
    assert_eq!(ended.retried(retry).await, (3, "running".to_owned()));
    assert_eq!(by_state().await, [3, 1, 0]);
    // Each row returns to the state that it had before the retry.
    for n in [0, 2, 3] {
        ended.forget(n).await;
    }
    assert_eq!(by_state().await, [0, 3, 1]);
    assert!(ended.complete().await);
    let record = ended.api.store.campaign(ended.id).await.expect("redis").expect("the campaign");
    let counts = world::counts(&ended.api.store, &record).await;
    assert_eq!(counts.by_state, world::recount(&ended.api.store, &record).await);
    assert_eq!(counts.failures.values().sum::<u64>(), 3);
}
