//! A master with a replica, and three sentinels that watch them.

use std::fs;

use tempfile::TempDir;

use crate::{
    campaign::{Running, address},
    jobs::Jobs,
    servers::RedisServer,
};

struct Service {
    master: RedisServer,
    replica: RedisServer,
    sentinels: Vec<RedisServer>,
    _files: TempDir,
}

impl Service {
    async fn start() -> Self {
        // As docs/architecture.md tells to: a master that was left alone takes nothing.
        let wary = ["--min-replicas-to-write", "1"];
        let master = RedisServer::plain(&wary).await;
        let of_master = ["--replicaof", "127.0.0.1", &master.port.to_string()];
        let replica = RedisServer::plain(&[wary.as_slice(), &of_master].concat()).await;
        let files = tempfile::tempdir().expect("a directory");
        let mut sentinels = Vec::new();
        for number in 0..3 {
            let file = files.path().join(format!("sentinel-{number}.conf"));
            let text = format!(
                "sentinel monitor main 127.0.0.1 {} 2\nsentinel down-after-milliseconds main 1000\n\
                 sentinel failover-timeout main 3000\n",
                master.port
            );
            fs::write(&file, text).expect("written");
            let file = file.to_str().expect("a plain path");
            sentinels.push(RedisServer::start(&[file, "--sentinel", "--port", "PORT"]).await);
        }
        master.comes_to_say("INFO replication", "state=online").await;
        for sentinel in &sentinels {
            sentinel.comes_to_say("INFO sentinel", "slaves=1,sentinels=3").await;
        }
        Self { master, replica, sentinels, _files: files }
    }

    fn url(&self) -> String {
        let sentinels: Vec<String> = self.sentinels.iter().map(RedisServer::address).collect();
        format!("redis+sentinel://pregon:s3cret@{}/main", sentinels.join(","))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_outlives_its_master() {
    let mut service = Service::start().await;
    let campaign = Running::start(&address(service.url()), &[("3001", 200.0), ("3002", 200.0)], 4_000).await;
    campaign.sent(600).await;
    service.master.kill().await;
    service.replica.comes_to_say("INFO replication", "role:master").await;
    // The old master comes back, thinks that it still is one, and is told otherwise.
    service.master.run().await;
    campaign.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_job_is_a_dead_letter_when_a_replica_takes_over() {
    let mut service = Service::start().await;
    let jobs = Jobs::start(&address(service.url())).await;
    jobs.add(0, 6).await;
    jobs.completed(1).await;
    service.master.kill().await;
    service.replica.comes_to_say("INFO replication", "role:master").await;
    service.master.run().await;
    jobs.end_well(6).await;
}
