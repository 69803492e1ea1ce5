//! A campaign that runs while servers fail and return, and the checks at its end.

use std::{collections::HashMap, time::Duration};

use pregon::{
    dispatch::DispatchSettings,
    domain::{CampaignId, CampaignState, Line, OnDoubt, State},
    redis::{Address, Store, campaigns::CampaignRecord, deployment::Certificates},
};

use crate::support::{
    hostile::{AcceptAll, Meta},
    world::{self, TestWorker},
};

/// The settings of a store at `url`.
pub fn address(url: String) -> Address {
    Address {
        url,
        certificates: Certificates::default(),
        namespace: "pregon".to_owned(),
        timeout: Duration::from_secs(1),
        connections: 8,
    }
}

/// A running campaign with two workers.
pub struct Running {
    pub store: Store,
    pub meta: Meta,
    pub id: CampaignId,
    workers: Vec<TestWorker>,
    recipients: u64,
}

impl Running {
    /// Starts two workers and launches a campaign of `recipients`. `lines`: the id and the messages per second of each
    /// line.
    pub async fn start(address: &Address, lines: &[(&str, f64)], recipients: u64) -> Self {
        let meta = Meta::start(AcceptAll { latency: Duration::from_millis(5) }, crate::support::seed());
        let store = Store::connect(address).await.expect("a store");
        let ids: Vec<&str> = lines.iter().map(|(id, _)| *id).collect();
        let id = world::campaign(&store, &ids, recipients, OnDoubt::Hold).await;
        let lines: Vec<Line> = lines.iter().map(|&(id, rate)| world::line(id, rate)).collect();
        let mut workers = Vec::new();
        for name in ["w1", "w2"] {
            workers.push(TestWorker::start_on(name, address.clone(), &meta.url(), &lines, settings()).await);
        }
        world::launch(&store, id).await;
        Self { store, meta, id, workers, recipients }
    }

    /// Waits until Meta has received this many requests.
    pub async fn sent(&self, requests: usize) {
        crate::support::until("messages are sent", async || self.meta.requests() >= requests).await;
    }

    /// Waits for completion and stops the workers. Checks that no recipient was lost, that none got two messages, and
    /// that the counts equal a recount and the messages that Meta received.
    pub async fn completes(self) -> CampaignRecord {
        let completed = crate::support::until("the campaign is completed", async || {
            // `pregon serve` polls for failovers too. Without polling, a store that is connected to an old master that
            // still answers might not notice the new master.
            self.store.check_failover().await;
            matches!(self.store.campaign(self.id).await, Ok(Some(record)) if record.state == CampaignState::Completed)
        });
        let report = async {
            tokio::time::sleep(REPORT_AFTER).await;
            println!("{}", self.progress().await);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = completed => {}
            () = report => {}
        }
        for worker in self.workers {
            worker.stop().await;
        }
        let record = self.store.campaign(self.id).await.expect("redis").expect("a campaign");
        let mut messages: HashMap<String, u64> = HashMap::new();
        for arrival in self.meta.arrivals() {
            *messages.entry(arrival.to).or_default() += 1;
        }
        let twice: Vec<_> = messages.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "sent twice: {twice:?}");
        let counts = world::counts(&self.store, &record).await;
        assert_eq!(counts.by_state, world::recount(&self.store, &record).await);
        assert_eq!((record.numbers, counts.recipients), (self.recipients, self.recipients), "lost");
        assert_eq!(counts.by_state[&State::Accepted], self.recipients, "{:?}", counts.by_state);
        assert_eq!(messages.len() as u64, self.recipients, "what Meta has");
        record
    }

    /// Describes the state of the campaign and of its parts, for a test that is about to time out.
    async fn progress(&self) -> String {
        let Ok(Some(record)) = self.store.campaign(self.id).await else { return "redis does not answer".to_owned() };
        let CampaignRecord { state, version, applied, parts, .. } = record;
        let mut report = format!("{state}, version {version}, followed {applied}; {} requests", self.meta.requests());
        for (part, line) in parts {
            let open = self.store.open_counts(&[part]).await;
            let (work, owner) = (self.store.work(&line).await, self.store.owners(std::slice::from_ref(&line)).await);
            report += &format!("\n{part} on {line} of {owner:?}: {open:?}, work {work:?}");
        }
        report
    }
}

/// How long to wait for completion before printing the state of the campaign: less than the minute of `until`. The
/// campaigns of these tests complete earlier, even while servers are down.
const REPORT_AFTER: Duration = Duration::from_secs(50);

pub fn settings() -> DispatchSettings {
    DispatchSettings { in_flight_max: 256, ..world::settings() }
}
