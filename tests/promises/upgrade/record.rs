//! Records the data of the present release, for the tests of later ones: campaigns in every state, recipients in every
//! state, and whatever else Redis stores.
//!
//! Run it once before a release, with a `redis-server` 7.0.

use std::{collections::BTreeMap, fs, hash::Hasher as _, time::Duration};

use deadpool_redis::redis::cmd;
use pregon::{
    dispatch::indexing::Indexing,
    domain::{
        CampaignId, CampaignState, ClaimedRow, Due, Fact, Form, Hold, HoldScope, MetaCode, News, OnDoubt, PartId,
        Settled, State, UnixMs, Wamid,
        campaign::{FEATURES, PauseReason},
    },
    intake::{CampaignAction, Format, Intake, jobs::read_jobs},
    redis::{
        Store,
        campaigns::StateChange,
        lines::{LeaseTarget, LineReport},
        parked::Parked,
        parts::Claim,
        script,
        uploads::{Admitted, Batch},
    },
};
use reqwest::Method;
use serde_json::{Value, json};
use siphasher::sip::SipHasher24;
use tokio_util::sync::CancellationToken;

use super::{dump, fixtures};
use crate::support::{
    self, claim_request,
    hooks::{Message, token},
    intake::{body, campaign_json, intake, new_campaign, row, rows},
    meta_code,
    redis::TestRedis,
    server::Installation,
    until, world,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// The worker that has the leases.
const WORKER: &str = "recorder";
pub const LINES: [&str; 4] = ["3001", "3002", "3003", "3004"];
/// A start later than any test runs.
const FAR: &str = "2099-01-01T00:00:00Z";

/// The installation whose data is recorded.
struct Recorder {
    redis: TestRedis,
    intake: Intake,
    store: Store,
    /// The epoch of the lease on each line.
    epochs: BTreeMap<&'static str, u64>,
    /// The first phone number of the next campaign.
    next_number: u64,
    ids: Vec<CampaignId>,
}

impl Recorder {
    async fn start() -> Self {
        let redis = TestRedis::start().await;
        let intake = intake(redis.url()).await;
        let intake = Intake { lines: LINES.iter().map(|id| world::line(id, 80.0)).collect(), ..intake };
        let store = intake.store.clone();
        store.open_data().await.expect("data");
        store.put_templates(&"2001".into(), &[world::template()], intake.clock.now()).await.expect("templates");
        let targets = LINES.map(|line| (LeaseTarget::Line(line.into()), None));
        let epochs = store.acquire(&targets, WORKER, Duration::from_secs(60)).await.expect("leases");
        let epochs = LINES.into_iter().zip(epochs).map(|(line, epoch)| (line, epoch.expect("a lease"))).collect();
        Self { redis, intake, store, epochs, next_number: 5_491_100_000_000, ids: Vec::new() }
    }

    fn now(&self) -> UnixMs {
        self.intake.clock.now()
    }

    fn numbers(&mut self, n: u64) -> std::ops::Range<u64> {
        let first = self.next_number;
        self.next_number += 1_000;
        first..first + n
    }

    /// Creates a draft with `n` recipients on `line`. Its name is also its `external_id`. `more`: further fields.
    async fn draft(&mut self, name: &str, line: &str, n: u64, more: Value) -> CampaignId {
        let mut fields = json!({ "name": name, "external_id": name, "lines": [line] });
        fields.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        let id = self.intake.submit(new_campaign("order_update/es_AR", fields)).await.expect("a campaign").id;
        self.ids.push(id);
        let numbers = self.numbers(n);
        if n > 0 {
            let uploaded = self.intake.upload(id, Some("list"), Format::Ndjson, body(&rows(numbers))).await;
            assert_eq!(uploaded.expect("an upload").accepted, n);
        }
        id
    }

    /// Launches a campaign, and returns its first part.
    async fn launch(&self, id: CampaignId) -> PartId {
        self.intake.act(id, CampaignAction::Launch).await.expect("a launch").0.parts[0].0
    }

    async fn launched(&mut self, name: &str, line: &str, n: u64, more: Value) -> PartId {
        let id = self.draft(name, line, n, more).await;
        self.launch(id).await
    }

    /// Claims up to `n` rows of a part of line 3001.
    async fn claim(&self, part: PartId, n: usize) -> Vec<ClaimedRow> {
        let request = claim_request(self.epochs["3001"], self.now(), n, self.now().after(DAY));
        match self.store.claim(part, &request).await.expect("a claim") {
            Claim::Rows { rows, .. } => rows.iter().map(|row| row.claimed).collect(),
            other => panic!("{other:?}"),
        }
    }

    async fn settle(&self, part: PartId, outcomes: Vec<(ClaimedRow, Settled)>) {
        let outcomes = BTreeMap::from([(part, outcomes)]);
        self.store.settle(&outcomes, self.epochs["3001"], self.now(), DAY).await.expect("settled");
    }

    async fn accept(&self, part: PartId, claimed: &[ClaimedRow]) {
        let accepted = |claimed: &ClaimedRow| (*claimed, Settled::Accepted(wamid(part, *claimed).as_str().into()));
        self.settle(part, claimed.iter().map(accepted).collect()).await;
    }

    async fn apply(&self, part: PartId, news: &[(ClaimedRow, News)]) {
        let fact = |(claimed, news): &(ClaimedRow, News)| {
            let ClaimedRow { row, send } = *claimed;
            let message = Some(Wamid::from(wamid(part, *claimed).as_str()));
            Fact { row, send, news: *news, at: self.now(), message }
        };
        self.store.apply(&[(part, news.iter().map(fact).collect())], DAY).await.expect("applied");
    }

    async fn complete(&self, id: CampaignId) {
        assert!(self.store.complete_if_done(id, self.now()).await.expect("redis"), "{id} is not done");
    }

    /// A status of a message of this release, to be delivered to a later release.
    async fn status(&self, part: PartId, claimed: ClaimedRow, word: &str, with_token: bool) -> Value {
        let message = Message { part, row: claimed.row, send: claimed.send };
        let chunk = self.store.chunks(part, &[0]).await.expect("a chunk").remove(0);
        let to = chunk.recipients().nth(usize::from(claimed.row)).expect("a recipient").to;
        let key = self.store.token_key().await.expect("a key").get();
        json!({
            "campaign": part.campaign, "to": to, "status": word, "wamid": wamid(part, claimed),
            "token": with_token.then(|| token(&key, &message)),
        })
    }
}

fn wamid(part: PartId, claimed: ClaimedRow) -> String {
    format!("wamid.{part}.{}.{}", claimed.row, claimed.send)
}

#[tokio::test]
#[ignore = "writes the data of this release into tests/fixtures"]
async fn record_the_data_of_this_release() {
    let mut recorder = Recorder::start().await;
    let mut statuses = Vec::new();
    let uploading = uploads(&mut recorder).await;
    every_campaign_state(&mut recorder).await;
    every_recipient_state(&mut recorder, &mut statuses).await;
    ended_campaigns(&mut recorder, &mut statuses).await;
    lines_and_holds(&mut recorder).await;
    dead_job(&recorder).await;

    // Before the jobs, because a process with the role `api` would run them.
    let campaigns = observe(&recorder).await;
    let jobs = jobs(&mut recorder).await;

    let at = recorder.now();
    let expected = json!({
        "at": at.0, "campaigns": campaigns, "statuses": statuses, "uploading": uploading, "jobs": jobs,
    });
    let dir = fixtures().join(env!("CARGO_PKG_VERSION"));
    fs::create_dir(&dir).expect("a release that is not recorded yet");
    fs::create_dir(dir.join("scripts")).expect("a directory");
    fs::write(dir.join("data.redis"), dump::dump(&recorder.redis).await).expect("written");
    let expected = serde_json::to_string_pretty(&expected).expect("JSON") + "\n";
    fs::write(dir.join("expected.json"), expected).expect("written");
    for script in script::all() {
        fs::write(dir.join(format!("scripts/{}.lua", script.name)), &script.source).expect("written");
    }
}

/// A draft with a rejected row, and one whose upload was cut after five of eight rows. Returns the rest of that upload.
async fn uploads(recorder: &mut Recorder) -> Value {
    let id = recorder.draft("draft", "3001", 3, json!({})).await;
    let again = rows([5_491_100_000_000]);
    let rejected = recorder.intake.upload(id, Some("again"), Format::Ndjson, body(&again)).await.expect("an upload");
    assert_eq!((rejected.accepted, rejected.rejected_count), (0, 1));

    let id = recorder.draft("uploading", "3001", 0, json!({})).await;
    let numbers = recorder.numbers(8);
    let form = Form::of(&world::template()).expect("a form");
    let raw = |number| serde_json::from_value(row(number)).expect("a row");
    let stored: Vec<_> = numbers.clone().take(5).map(|number| form.fit(raw(number)).expect("a recipient")).collect();
    let mut digest = SipHasher24::new();
    for recipient in &stored {
        digest.write(&recipient.to.digits().to_le_bytes());
        for value in &recipient.values {
            digest.write(&(value.len() as u64).to_le_bytes());
            digest.write(value.as_bytes());
        }
    }
    let batch = Batch {
        recipients: (1..).zip(stored).collect(),
        taken: 5,
        digest: format!("{:016x}", digest.finish()),
        ..Batch::default()
    };
    let lines = vec![("3001".into(), 80.0)];
    let opened =
        recorder.store.begin_upload(id, "id:list", lines, "{\"row\":%d}".into(), DAY * 7).await.expect("redis");
    let (mut upload, _) = opened.expect("a campaign");
    assert_eq!(upload.admit(batch.pack(upload.packing())).await.expect("redis"), Admitted::Done { accepted: 5 });
    json!({ "campaign": id, "id": "list", "rows": rows(numbers) })
}

async fn every_campaign_state(recorder: &mut Recorder) {
    let scheduled = recorder.draft("scheduled", "3001", 2, json!({ "start_at": FAR })).await;
    recorder.launch(scheduled).await;

    let part = recorder.launched("paused", "3001", 4, json!({ "priority": 9 })).await;
    let claimed = recorder.claim(part, 2).await;
    recorder.accept(part, &claimed).await;
    recorder.intake.act(part.campaign, CampaignAction::Pause).await.expect("a pause");

    let part = recorder.launched("stopped", "3001", 3, json!({})).await;
    let reason = PauseReason { code: Some(MetaCode(132_000)), details: "parameters do not match".into() };
    let (from, to, now) = ([CampaignState::Running], CampaignState::Paused, recorder.now());
    let stopped = recorder.store.change_campaign(part.campaign, &from, to, now, Some(&reason)).await;
    assert_eq!(stopped.expect("redis"), StateChange::Done);

    let part = recorder.launched("cancelled", "3001", 4, json!({})).await;
    let claimed = recorder.claim(part, 2).await;
    recorder.accept(part, &claimed).await;
    recorder.intake.act(part.campaign, CampaignAction::Cancel).await.expect("a cancellation");

    // Two parts.
    let id = recorder.draft("two lines", "3001", 40, json!({ "lines": ["3001", "3002"] })).await;
    recorder.launch(id).await;
}

async fn every_recipient_state(recorder: &mut Recorder, statuses: &mut Vec<Value>) {
    let part = recorder.launched("running", "3001", 18, json!({})).await;
    let claimed = recorder.claim(part, 16).await;
    let row = |n: usize| claimed[n];
    let now = recorder.now();
    recorder.accept(part, &claimed[..8]).await;
    let outcomes = vec![
        (row(8), Settled::Refused { reason: meta_code(131_026) }),
        (row(9), Settled::Retry { at: now, reason: meta_code(131_000) }),
        (row(10), Settled::InDoubt { until: now }),
        (row(11), Settled::Back { at: Due::AtOnce }),
    ];
    recorder.settle(part, outcomes).await;
    recorder.store.note_details(part, meta_code(131_026), "the message is undeliverable").await.expect("redis");
    // Row 10 becomes unknown.
    recorder.store.end_doubts(part, now, 0).await.expect("redis");
    recorder.settle(part, vec![(row(12), Settled::InDoubt { until: now.after(DAY) })]).await;
    let news = [
        (row(1), News::Sent),
        (row(2), News::Delivered),
        (row(3), News::Read),
        (row(4), News::Failed(meta_code(131_026))),
        (row(5), News::Returned(meta_code(131_042))),
        (row(6), News::Delivered),
        (row(6), News::Replied),
    ];
    recorder.apply(part, &news).await;
    // Rows 13 to 15 stay in flight, rows 16 and 17 were never claimed.
    for (claimed, word, with_token) in [
        (row(0), "delivered", true),
        (row(1), "read", true),
        (row(7), "failed 131026", false),
        (row(10), "sent", true),
        (row(12), "delivered", true),
        (row(13), "sent", true),
    ] {
        statuses.push(recorder.status(part, claimed, word, with_token).await);
    }

    // A recipient that was claimed more often than a state byte can count.
    let part = recorder.launched("often claimed", "3001", 1, json!({})).await;
    for _ in 0..17 {
        let claimed = recorder.claim(part, 1).await;
        recorder.settle(part, vec![(claimed[0], Settled::Back { at: Due::AtOnce })]).await;
    }

    // A recipient in doubt that gets the message again.
    let part = recorder.launched("resend", "3001", 1, json!({ "on_doubt": OnDoubt::Resend })).await;
    let claimed = recorder.claim(part, 1).await;
    recorder.settle(part, vec![(claimed[0], Settled::InDoubt { until: recorder.now() })]).await;
}

async fn ended_campaigns(recorder: &mut Recorder, statuses: &mut Vec<Value>) {
    let mut indexed = Vec::new();
    for name in ["completed", "forgotten"] {
        let part = recorder.launched(name, "3001", 4, json!({})).await;
        let claimed = recorder.claim(part, 4).await;
        recorder.accept(part, &claimed[..3]).await;
        recorder.settle(part, vec![(claimed[3], Settled::Refused { reason: meta_code(131_026) })]).await;
        recorder.apply(part, &[(claimed[0], News::Read), (claimed[1], News::Delivered)]).await;
        recorder.complete(part.campaign).await;
        support::retire(&recorder.store, part.campaign, recorder.now()).await;
        indexed.push((part, claimed));
    }
    let indexing = Indexing {
        name: WORKER.into(),
        store: recorder.store.clone(),
        clock: recorder.intake.clock.clone(),
        lease: DAY,
        id_retention: DAY,
    };
    indexing.index().await.expect("redis");
    let (part, claimed) = &indexed[0];
    statuses.push(recorder.status(*part, claimed[1], "read", true).await);
    statuses.push(recorder.status(*part, claimed[2], "failed 131026", false).await);
    recorder.store.forget_recipients(indexed[1].0.campaign).await.expect("redis");

    // Completed, with message ids that are not in the index yet.
    let part = recorder.launched("unindexed", "3001", 2, json!({})).await;
    let claimed = recorder.claim(part, 2).await;
    recorder.accept(part, &claimed).await;
    recorder.complete(part.campaign).await;
    statuses.push(recorder.status(part, claimed[0], "failed 131026", false).await);

    let later = recorder.now().after(DAY);
    let part = recorder.launched("expired", "3001", 3, json!({ "expires_at": later })).await;
    let claimed = recorder.claim(part, 1).await;
    recorder.accept(part, &claimed).await;
    recorder.store.sweep(part, State::Expired, later).await.expect("redis");
    recorder.complete(part.campaign).await;
}

/// Settings by operators, holds, and the records of a live worker.
async fn lines_and_holds(recorder: &mut Recorder) {
    let store = recorder.store.clone();
    recorder.launched("held", "3003", 3, json!({})).await;
    recorder.launched("slow", "3004", 3, json!({})).await;
    store.set_rate(&"3004".into(), Some(50.0)).await.expect("redis");
    store.set_paused(&"3004".into(), true).await.expect("redis");
    let now = recorder.now();
    let hold = |code, until| Hold { code, reason: "because".into(), since: now, until };
    store
        .hold(&HoldScope::Line("3003".into()), &hold(Some(MetaCode(131_031)), Some(now.after(Duration::from_secs(30)))))
        .await
        .expect("redis");
    store.hold(&HoldScope::Token("2002".into()), &hold(Some(MetaCode(190)), None)).await.expect("redis");
    store.hold(&HoldScope::Waba("2002".into()), &hold(Some(MetaCode(131_031)), None)).await.expect("redis");
    store.unhold(&HoldScope::Waba("2002".into())).await.expect("redis");
    store.note_changed_templates(&"2001".into()).await.expect("redis");

    store.register_lines(WORKER, &LINES.map(|id| world::line(id, 80.0)), now.after(DAY)).await.expect("redis");
    store.worker_heartbeat(WORKER, now, now.after(Duration::from_secs(3))).await.expect("redis");
    let report = LineReport {
        worker: WORKER.into(),
        rate: 80.0,
        throttled: false,
        unreachable: false,
        unreachable_because: None,
        path_broken: None,
        since: None,
        warm_up_until: None,
        in_flight: 3,
        accepted_per_second: 12.5,
        features: FEATURES.iter().map(|feature| (*feature).to_owned()).collect(),
        at: now,
    };
    store.put_reports(&[("3001".into(), report)], Duration::from_secs(3)).await.expect("redis");
    let parked = Parked {
        line: "3001".into(),
        wamid: "wamid.nowhere".into(),
        failure: Some(meta_code(131_026)),
        details: "details".into(),
        at: now,
    };
    store.park(&[parked], now.after(Duration::from_secs(1))).await.expect("redis");
}

async fn add_job(recorder: &Recorder, job: &str) {
    let mut connection = recorder.redis.connection().await;
    let added = cmd("XADD").arg(&["pregon:jobs", "*", "job", job]).exec_async(&mut connection).await;
    added.expect("a job");
}

async fn dead_job(recorder: &Recorder) {
    add_job(recorder, "{}").await;
    let stop = CancellationToken::new();
    let reader = tokio::spawn(read_jobs(recorder.intake.clone(), WORKER.into(), stop.clone(), Duration::from_secs(1)));
    let mut connection = recorder.redis.connection().await;
    until("the job is dead", async || {
        cmd("XLEN").arg("pregon:jobs:dead").query_async::<u64>(&mut connection).await.expect("redis") == 1
            && cmd("XLEN").arg("pregon:jobs").query_async::<u64>(&mut connection).await.expect("redis") == 0
    })
    .await;
    stop.cancel();
    let Ok(()) = reader.await.expect("no panic");
}

/// Adds a job that was delivered to a reader but not finished, and one that was not delivered. Returns their campaigns,
/// each with its only recipient.
async fn jobs(recorder: &mut Recorder) -> Value {
    let mut jobs = Vec::new();
    for name in ["delivered job", "new job"] {
        let to = recorder.numbers(1).start;
        let fields = json!({ "external_id": name, "lines": ["3001"], "recipients": [row(to)], "launch": true });
        let mut job = campaign_json("order_update/es_AR", fields);
        job["type"] = "campaign".into();
        add_job(recorder, &job.to_string()).await;
        jobs.push(json!({ "external_id": name, "to": to }));
        if jobs.len() == 1 {
            recorder.store.next_job().await.expect("redis").expect("a job");
        }
    }
    jobs.into()
}

/// What the API shows of each campaign and its recipients, without values that depend on the time of the request.
async fn observe(recorder: &Recorder) -> Vec<Value> {
    let installation = Installation::new(&recorder.redis, "http://127.0.0.1:9", &LINES.map(|line| (line, 80.0)), "");
    let server = installation.serve("observer", "api").await;
    let api = server.api();
    let mut campaigns = Vec::new();
    for id in &recorder.ids {
        let mut campaign = api.get(&format!("campaigns/{id}")).await;
        let statistics = campaign["statistics"].as_object_mut().expect("statistics");
        for momentary in ["eta", "waiting_for", "rate_per_second"] {
            statistics.remove(momentary).expect("a field");
        }
        // After the retention, a campaign has no recipients.
        let (_, page) = api.call(Method::GET, &format!("campaigns/{id}/recipients?limit=500"), None).await;
        campaigns.push(json!({ "campaign": campaign, "recipients": page["recipients"] }));
    }
    campaigns
}
