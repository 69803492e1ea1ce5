//! Campaigns submitted as jobs while servers fail and return: no job becomes a dead letter, and every campaign is
//! sent completely.

use deadpool_redis::redis::{Value, cmd};
use pregon::{
    domain::{CampaignState, EntryId, State},
    intake::{Intake, IntakeError, jobs::read_jobs},
    redis::Address,
};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::{
    campaign::settings,
    support::{
        self,
        hostile::{AcceptAll, Meta},
        intake::{campaign_json, intake_at, row, templates},
        world::{self, TestWorker},
    },
};

const LINES: [(&str, f64); 2] = [("3001", 500.0), ("3002", 500.0)];
pub const CAMPAIGNS: u64 = 12;
const RECIPIENTS: u64 = 60;

/// Adds jobs as a backend does, while a reader takes them from the stream and a worker sends their campaigns.
pub struct Jobs {
    intake: Intake,
    meta: Meta,
    worker: TestWorker,
    stop: CancellationToken,
    reader: tokio::task::JoinHandle<()>,
}

impl Jobs {
    pub async fn start(address: &Address) -> Self {
        let meta = Meta::start(AcceptAll { latency: std::time::Duration::from_millis(5) }, support::seed());
        let intake = intake_at(address).await;
        let now = intake.clock.now();
        intake.store.put_templates(&"2001".into(), &templates(), now).await.expect("templates");
        let lines = LINES.map(|(id, rate)| world::line(id, rate));
        let worker = TestWorker::start_on("w1", address.clone(), &meta.url(), &lines, settings()).await;
        let stop = CancellationToken::new();
        let reading = read_jobs(intake.clone(), "w1".into(), stop.clone(), settings().lease);
        let reader = tokio::spawn(async move { reading.await.expect("it never fails") });
        Self { intake, meta, worker, stop, reader }
    }

    /// Adds the jobs of campaigns `from..to`, and waits until they survive a failover. A backend that does not wait can
    /// lose a job that has not reached the replica.
    pub async fn add(&self, from: u64, to: u64) {
        for n in from..to {
            let name = format!("campaign-{n}");
            let mut campaign = campaign_json("order_update/es_AR", json!({ "external_id": name }));
            campaign["type"] = "campaign".into();
            let first = 5_491_100_000_000 + n * RECIPIENTS;
            let rows = |from: u64, to: u64| (first + from..first + to).map(row).collect::<Vec<_>>();
            let recipients = |upload: &str, rows| json!({ "type": "recipients", "external_id": name, "upload_id": upload, "recipients": rows });
            let launch = json!({ "type": "launch", "external_id": name });
            let half = RECIPIENTS / 2;
            let uploads = [recipients("a", rows(0, half)), recipients("b", rows(half, RECIPIENTS))];
            for job in [campaign].into_iter().chain(uploads).chain([launch]) {
                self.add_job(&job).await;
            }
        }
        support::until("the jobs are durable", async || self.intake.store.make_durable().await.is_ok()).await;
    }

    /// Adds a job. It may be added twice if a server fails. The second one changes nothing, because campaigns and
    /// uploads have ids.
    async fn add_job(&self, job: &serde_json::Value) {
        let add = cmd("XADD").arg("pregon:jobs").arg("*").arg("job").arg(job.to_string()).clone();
        support::until("the job is added", async || {
            self.intake.store.check_failover().await;
            self.intake.store.query::<String>("XADD", &add).await.is_ok()
        })
        .await;
    }

    /// Adds the recipients and the launch of each campaign before the campaign itself, so that they become dead
    /// letters. Returns the ids of these, in their order. The recipients have no `upload_id`.
    pub async fn add_too_early(&self) -> Vec<EntryId> {
        for n in 0..CAMPAIGNS {
            let name = format!("campaign-{n}");
            let rows: Vec<_> = (0..RECIPIENTS).map(|row_n| row(5_491_100_000_000 + n * RECIPIENTS + row_n)).collect();
            self.add_job(&json!({ "type": "recipients", "external_id": name, "recipients": rows })).await;
            self.add_job(&json!({ "type": "launch", "external_id": name })).await;
        }
        self.wait_until_read().await;
        for n in 0..CAMPAIGNS {
            let mut campaign = campaign_json("order_update/es_AR", json!({ "external_id": format!("campaign-{n}") }));
            campaign["type"] = "campaign".into();
            self.add_job(&campaign).await;
        }
        self.wait_until_read().await;
        let (letters, _) = self.intake.store.dead_letters(None, 1_000).await.expect("redis");
        letters.iter().rev().map(|letter| letter.id).collect()
    }

    /// Retries a dead letter, as an operator does who repeats a call that failed.
    pub async fn retry(&self, letter: EntryId) {
        support::until("it is retried", async || {
            self.intake.store.check_failover().await;
            match self.intake.retry_dead_letter(letter).await {
                // A call without an answer may have been enough.
                Ok(_) | Err(IntakeError::NoDeadLetter(_)) => true,
                Err(_) => false,
            }
        })
        .await;
    }

    /// Waits until the stream is empty.
    pub async fn wait_until_read(&self) {
        support::until("every job is read", async || {
            self.intake.store.check_failover().await;
            matches!(self.intake.store.query::<u64>("XLEN", cmd("XLEN").arg("pregon:jobs")).await, Ok(0))
        })
        .await;
    }

    /// Waits until this many campaigns have completed.
    pub async fn wait_until_completed(&self, campaigns: u64) {
        support::until("campaigns are completed", async || {
            self.intake.store.check_failover().await;
            let mut n = 0;
            for name in (0..CAMPAIGNS).map(|n| format!("campaign-{n}")) {
                let Ok(Some(id)) = self.intake.store.campaign_by_external_id(&name).await else { continue };
                let Ok(Some(record)) = self.intake.store.campaign(id).await else { continue };
                n += u64::from(record.state == CampaignState::Completed);
            }
            n >= campaigns
        })
        .await;
    }

    /// Adds the jobs of the campaigns from number `added` on, and waits until all campaigns are completed. Checks that
    /// no job became a dead letter and that each recipient was sent one message.
    pub async fn finish(self, added: u64) {
        self.add(added, CAMPAIGNS).await;
        self.wait_until_completed(CAMPAIGNS).await;
        let store = &self.intake.store;
        let letters: Vec<Value> =
            store.query("XRANGE", cmd("XRANGE").arg("pregon:jobs:dead").arg("-").arg("+")).await.expect("redis");
        assert!(letters.is_empty(), "dead letters: {letters:?}");
        for name in (0..CAMPAIGNS).map(|n| format!("campaign-{n}")) {
            let id = store.campaign_by_external_id(&name).await.expect("redis").expect("a campaign");
            let record = store.campaign(id).await.expect("redis").expect("a campaign");
            let counts = world::counts(store, &record).await;
            assert_eq!(counts.by_state[&State::Accepted], RECIPIENTS, "{name}: {:?}", counts.by_state);
        }
        assert_eq!(self.meta.requests() as u64, CAMPAIGNS * RECIPIENTS, "each once");
        self.stop.cancel();
        self.reader.await.expect("no panic");
        self.worker.stop().await;
    }
}
