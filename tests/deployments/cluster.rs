//! Campaigns, an upload and jobs on a cluster of three masters, each with a replica, while masters die and slots move.

use deadpool_redis::redis::{Value, cmd};
use pregon::{
    domain::{CampaignState, OnDoubt},
    redis::{Address, Store, campaigns::StateChange, deletion::DeletionStart},
};

use crate::{
    campaign::{Running, address},
    jobs::{CAMPAIGNS, Jobs},
    servers::{RedisServer, command},
    support::{self, world},
};

const SLOTS: u16 = 16_384;
const MASTERS: usize = 3;

struct Cluster {
    /// The masters, then the replica of each master in the same order.
    nodes: Vec<RedisServer>,
}

impl Cluster {
    async fn start() -> Self {
        #[rustfmt::skip]
        let arguments = [
            "--cluster-enabled", "yes", "--cluster-node-timeout", "1000", "--cluster-replica-validity-factor", "0",
        ];
        let mut nodes = Vec::new();
        for _ in 0..2 * MASTERS {
            nodes.push(RedisServer::plain(&arguments).await);
        }
        for (epoch, node) in nodes.iter().enumerate() {
            let () = node.query(&format!("CLUSTER SET-CONFIG-EPOCH {}", epoch + 1)).await;
            let () = node.query(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[0].port)).await;
        }
        for (number, node) in nodes[..MASTERS].iter().enumerate() {
            let mut add = command("CLUSTER ADDSLOTS");
            for slot in (0..SLOTS).filter(|slot| usize::from(*slot) * MASTERS / usize::from(SLOTS) == number) {
                add.arg(slot);
            }
            let () = node.try_query(&add).await.expect("slots");
        }
        let cluster = Self { nodes };
        cluster.wait_on_all(&format!("cluster_known_nodes:{}", 2 * MASTERS)).await;
        for number in 0..MASTERS {
            let master = cluster.id(number).await;
            let replica = &cluster.nodes[number + MASTERS];
            support::until("the replica knows its master", async || {
                replica.try_query::<()>(&command(&format!("CLUSTER REPLICATE {master}"))).await.is_ok()
            })
            .await;
        }
        cluster.wait_on_all("cluster_state:ok").await;
        for number in 0..MASTERS {
            support::until("the replica follows", async || cluster.has_synced_replica(number).await).await;
        }
        cluster
    }

    async fn id(&self, number: usize) -> String {
        self.nodes[number].query("CLUSTER MYID").await
    }

    /// Waits until CLUSTER INFO of every node contains `line`.
    async fn wait_on_all(&self, line: &str) {
        for node in &self.nodes {
            node.wait_for("CLUSTER INFO", line).await;
        }
    }

    /// Whether the replica of master `number` is in sync, and the next master knows of that replica.
    async fn has_synced_replica(&self, number: usize) -> bool {
        let info: String = self.nodes[number].query("INFO replication").await;
        let (id, witness) = (self.id(number).await, &self.nodes[(number + 1) % MASTERS]);
        let known: Vec<String> = witness.query(&format!("CLUSTER REPLICAS {id}")).await;
        info.contains("state=online") && !known.is_empty()
    }

    fn address(&self) -> Address {
        let [first, second, ..] = self.nodes.as_slice() else { unreachable!("there are six") };
        Address {
            namespace: "pregon".into(),
            ..address(format!("redis+cluster://pregon:s3cret@{},{}", first.address(), second.address()))
        }
    }

    async fn slot(&self, key: &str) -> u16 {
        self.nodes[1].query(&format!("CLUSTER KEYSLOT {key}")).await
    }

    /// The number of the master that serves `slot` before any move.
    fn initial_master(slot: u16) -> usize {
        usize::from(slot) * MASTERS / usize::from(SLOTS)
    }

    /// Moves a slot and its keys to another master, ten keys at a time. Returns when every node knows of the move.
    async fn move_slot(&self, slot: u16, from: usize, to: usize) {
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let (source_id, target_id) = (self.id(from).await, self.id(to).await);
        let () = target.query(&format!("CLUSTER SETSLOT {slot} IMPORTING {source_id}")).await;
        let () = source.query(&format!("CLUSTER SETSLOT {slot} MIGRATING {target_id}")).await;
        loop {
            let keys: Vec<String> = source.query(&format!("CLUSTER GETKEYSINSLOT {slot} 10")).await;
            if keys.is_empty() {
                break;
            }
            let mut migrate = cmd("MIGRATE");
            migrate.arg("127.0.0.1").arg(target.port).arg("").arg(0).arg(5_000).arg("KEYS").arg(keys);
            let _: Value = source.try_query(&migrate).await.expect("moved");
        }
        for node in [target, source] {
            let () = node.query(&format!("CLUSTER SETSLOT {slot} NODE {target_id}")).await;
        }
        // If the target dies before its replica knows of the move, the replica takes over without this slot, and no
        // node serves the slot.
        for node in &self.nodes {
            support::until(&format!("slot {slot} has moved in the table of {}", node.port), async || {
                let nodes: String = node.query("CLUSTER NODES").await;
                nodes.lines().filter(|line| line.starts_with(&target_id)).any(|line| has_slot(line, slot))
            })
            .await;
        }
    }
}

/// Whether a line of CLUSTER NODES lists `slot`. The slots, such as `12` or `0-5460`, come after eight other fields.
fn has_slot(line: &str, slot: u16) -> bool {
    line.split(' ').skip(8).any(|slots| {
        let (first, last) = slots.split_once('-').unwrap_or((slots, slots));
        matches!((first.parse::<u16>(), last.parse::<u16>()), (Ok(first), Ok(last)) if (first..=last).contains(&slot))
    })
}

const LINES: usize = 12;

#[tokio::test(flavor = "multi_thread")]
async fn a_campaign_survives_a_slot_move_and_the_death_of_a_master() {
    let mut cluster = Cluster::start().await;
    let names: Vec<String> = (0..LINES).map(|n| format!("30{n:02}")).collect();
    let lines: Vec<(&str, f64)> = names.iter().map(|name| (name.as_str(), 60.0)).collect();
    let campaign = Running::start(&cluster.address(), &lines, 5_000).await;

    let record = campaign.store.campaign(campaign.id).await.expect("redis").expect("a campaign");
    assert_eq!(record.parts.len(), LINES);
    let mut slots = Vec::new();
    for (part, _) in &record.parts {
        slots.push(cluster.slot(&campaign.store.keys.part(*part)).await);
    }
    for master in 0..MASTERS {
        assert!(
            slots.iter().any(|slot| Cluster::initial_master(*slot) == master),
            "not every master has a part: {slots:?}"
        );
    }

    campaign.sent(300).await;
    for slot in slots.iter().filter(|slot| Cluster::initial_master(**slot) == 0) {
        cluster.move_slot(*slot, 0, 1).await;
    }
    campaign.sent(1_200).await;
    cluster.nodes[1].kill().await;
    // The old master is started again only after its replica has taken over its slots, so it becomes a replica.
    let replica = &cluster.nodes[1 + MASTERS];
    support::until("the replica takes over", async || {
        replica.query::<String>("INFO replication").await.contains("role:master")
    })
    .await;
    cluster.nodes[1].run().await;
    campaign.completes().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_acknowledged_upload_survives_the_loss_of_any_master() {
    let mut cluster = Cluster::start().await;
    let store = Store::connect(&cluster.address()).await.expect("a store");
    let id = world::campaign(&store, &["3001", "3002", "3003", "3004"], 2_000, OnDoubt::Hold).await;
    store.make_durable().await.expect("a replica has it");
    for master in 0..MASTERS {
        cluster.nodes[master].kill().await;
        cluster.nodes[master + MASTERS].wait_for("INFO replication", "role:master").await;
        cluster.nodes[master].run().await;
        // The other masters vote in the next failover only after they have learned of this one.
        cluster.wait_on_all("cluster_state:ok").await;
    }
    support::until("the store finds the new masters", async || store.time().await.is_ok()).await;
    let record = store.campaign(id).await.expect("redis").expect("the campaign");
    let mut rows = 0;
    for (part, _) in &record.parts {
        for start in store.chunk_starts(*part).await.expect("chunks") {
            rows += store.chunks(*part, &[start]).await.expect("a chunk").remove(0).rows();
        }
    }
    assert_eq!((record.numbers, rows), (2_000, 2_000));
    let counts = world::counts(&store, &record).await;
    assert_eq!(counts.recipients, 2_000);
    assert_eq!(counts.by_state, world::recount(&store, &record).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_campaign_leaves_no_key_on_any_master() {
    let cluster = Cluster::start().await;
    let store = Store::connect(&cluster.address()).await.expect("a store");
    let names: Vec<String> = (0..LINES).map(|n| format!("30{n:02}")).collect();
    let lines: Vec<&str> = names.iter().map(String::as_str).collect();
    let id = world::campaign(&store, &lines, 2_000, OnDoubt::Hold).await;
    let (draft, now) = ([CampaignState::Draft], store.time().await.expect("the time"));
    let cancelled = store.change_campaign(id, &draft, CampaignState::Cancelled, now, None).await;
    assert_eq!(cancelled.expect("redis"), StateChange::Done);
    let left = async || {
        let mut left: Vec<String> = Vec::new();
        for master in &cluster.nodes[..MASTERS] {
            let keys: Vec<String> = master.query("KEYS *").await;
            left.extend(keys.into_iter().filter(|key| key.contains(&id.to_string())));
        }
        left
    };
    assert!(left().await.len() > 2 * LINES);
    assert_eq!(store.begin_deletion(id, now).await.expect("redis"), DeletionStart::Begun);
    assert!(store.finish_deletion(id).await.expect("redis"));
    assert_eq!(left().await, Vec::<String>::new());
    assert_eq!(store.newest_campaigns(None, 10).await.expect("redis"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_a_cluster_master_dead_letters_no_job() {
    let mut cluster = Cluster::start().await;
    let jobs = Jobs::start(&cluster.address()).await;
    for master in 0..MASTERS as u64 {
        jobs.add(3 * master, 3 * master + 3).await;
        // The master may be back before its replica takes over, or after. In neither case may a job be lost.
        let master = &mut cluster.nodes[usize::try_from(master).expect("three")];
        master.kill().await;
        master.run().await;
    }
    jobs.finish(9).await;
}

/// The stream of jobs and that of dead letters are on different masters, which lose their last writes independently.
#[tokio::test(flavor = "multi_thread")]
async fn a_retry_survives_the_death_of_either_of_its_masters() {
    let mut cluster = Cluster::start().await;
    let jobs = Jobs::start(&cluster.address()).await;
    let [waiting, dead] = [cluster.slot("pregon:jobs").await, cluster.slot("pregon:jobs:dead").await];
    let masters = [waiting, dead].map(Cluster::initial_master);
    assert_ne!(masters[0], masters[1]);
    let letters = jobs.add_too_early().await;
    assert_eq!(letters.len() as u64, 2 * CAMPAIGNS);
    let (first, second) = letters.split_at(letters.len() / 2);
    for (letters, master) in [first, second].into_iter().zip(masters) {
        for letter in letters {
            jobs.retry(*letter).await;
        }
        cluster.nodes[master].kill().await;
        cluster.nodes[master + MASTERS].wait_for("INFO replication", "role:master").await;
        cluster.nodes[master].run().await;
        // The other masters vote in the next failover only after they have learned of this one.
        cluster.wait_on_all("cluster_state:ok").await;
    }
    jobs.wait_until_read().await;
    jobs.finish(CAMPAIGNS).await;
}
