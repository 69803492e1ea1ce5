//! A campaign and jobs on a master with a replica, monitored by three sentinels, while the master dies.

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
        // With this setting, which docs/architecture.md requires, a master without a replica rejects writes.
        let min_replicas = ["--min-replicas-to-write", "1"];
        let master = RedisServer::plain(&min_replicas).await;
        let of_master = ["--replicaof", "127.0.0.1", &master.port.to_string()];
        let replica = RedisServer::plain(&[min_replicas.as_slice(), &of_master].concat()).await;
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
        master.wait_for("INFO replication", "state=online").await;
        for sentinel in &sentinels {
            sentinel.wait_for("INFO sentinel", "slaves=1,sentinels=3").await;
        }
        Self { master, replica, sentinels, _files: files }
    }

    fn url(&self) -> String {
        let sentinels: Vec<String> = self.sentinels.iter().map(RedisServer::address).collect();
        format!("redis+sentinel://pregon:s3cret@{}/main", sentinels.join(","))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_survives_its_master() {
    let mut service = Service::start().await;
    let campaign = Running::start(&address(service.url()), &[("3001", 200.0), ("3002", 200.0)], 4_000).await;
    campaign.sent(600).await;
    service.master.kill().await;
    service.replica.wait_for("INFO replication", "role:master").await;
    // The old master starts as a master again, until a sentinel makes it a replica.
    service.master.run().await;
    campaign.completes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sentinel_failover_dead_letters_no_job() {
    let mut service = Service::start().await;
    let jobs = Jobs::start(&address(service.url())).await;
    jobs.add(0, 6).await;
    jobs.wait_until_completed(1).await;
    service.master.kill().await;
    service.replica.wait_for("INFO replication", "role:master").await;
    service.master.run().await;
    jobs.finish(6).await;
}
