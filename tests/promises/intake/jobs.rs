//! The stream of jobs: every entry takes effect once and in stream order, or becomes a dead letter.

use std::{collections::HashMap, ops::Range, time::Duration};

use deadpool_redis::redis::{FromRedisValue, aio::MultiplexedConnection, cmd, pipe};
use pregon::{
    domain::{CampaignId, CampaignState, EntryId, State},
    intake::{Intake, jobs::read_jobs},
    redis::{Address, campaigns::CampaignRecord},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::support::{
    self,
    intake::{World, campaign_json, intake, intake_at, row},
    seed, until,
    world::{FEED, address},
};

/// Short, so that another reader soon takes over from a killed one.
const LEASE: Duration = Duration::from_millis(600);

/// A reader of the job stream.
pub(super) struct Reader {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Reader {
    pub(super) fn start(intake: &Intake, worker: &str) -> Self {
        let stop = CancellationToken::new();
        let reading = read_jobs(intake.clone(), worker.to_owned(), stop.clone(), LEASE);
        Self { stop, task: tokio::spawn(async move { reading.await.expect("it never fails") }) }
    }

    /// Stops the reader like SIGKILL: between two steps, without giving back its lease.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("a clean end");
    }
}

/// A backend, which adds jobs to the stream.
pub(super) struct Backend(MultiplexedConnection);

impl Backend {
    pub(super) async fn of(world: &World) -> Self {
        Self(world.redis.connection().await)
    }

    pub(super) async fn redis<T: FromRedisValue>(&mut self, command: &[&str]) -> T {
        let (name, arguments) = command.split_first().expect("a command");
        cmd(name).arg(arguments).query_async(&mut self.0).await.expect(name)
    }

    pub(super) async fn add(&mut self, job: &Value) -> String {
        self.redis(&["XADD", "pregon:jobs", "*", "job", &job.to_string()]).await
    }

    pub(super) async fn add_action(&mut self, action: &str, external_id: &str) {
        self.add(&json!({ "type": action, "external_id": external_id })).await;
    }

    pub(super) async fn drained(&mut self) {
        until("the stream is empty", async || self.redis::<u64>(&["XLEN", "pregon:jobs"]).await == 0).await;
        assert_eq!(self.pending().await, 0);
    }

    /// Number of entries that were delivered to a consumer and are not acknowledged.
    async fn pending(&mut self) -> usize {
        let command = cmd("XPENDING").arg("pregon:jobs").arg("pregon").arg("-").arg("+").arg(1_000).take();
        let entries: Vec<(String, String, u64, u64)> = command.query_async(&mut self.0).await.unwrap_or_default();
        entries.len()
    }

    /// The dead letters, oldest first.
    pub(super) async fn dead(&mut self) -> Vec<HashMap<String, String>> {
        let letters: Vec<(String, HashMap<String, String>)> =
            self.redis(&["XRANGE", "pregon:jobs:dead", "-", "+"]).await;
        letters.into_iter().map(|(_, letter)| letter).collect()
    }
}

pub(super) fn campaign(external_id: &str, more: Value) -> Value {
    let mut job = campaign_json("order_update/es_AR", more);
    job["type"] = "campaign".into();
    job["external_id"] = external_id.into();
    job
}

pub(super) fn recipients(external_id: &str, upload_id: Option<&str>, numbers: std::ops::Range<u64>) -> Value {
    let rows: Vec<Value> = numbers.map(row).collect();
    let mut job = json!({ "type": "recipients", "external_id": external_id, "recipients": rows });
    if let Some(upload_id) = upload_id {
        job["upload_id"] = upload_id.into();
    }
    job
}

pub(super) async fn find(world: &World, external_id: &str) -> CampaignRecord {
    let id: CampaignId = world.store().campaign_by_external_id(external_id).await.expect("redis").expect(external_id);
    world.store().campaign(id).await.expect("redis").expect(external_id)
}

#[tokio::test]
async fn jobs_take_effect_in_the_order_of_the_stream() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    // Some jobs are added before the reader starts, others while it runs.
    backend.add(&campaign("spring", json!({ "recipients": [row(5_491_100_000_000)] }))).await;
    backend.add(&recipients("spring", Some("u1"), 5_491_100_000_001..5_491_100_000_700)).await;
    backend.add(&recipients("spring", Some("u1"), 5_491_100_000_001..5_491_100_000_700)).await;
    let reader = Reader::start(&world.intake, "w1");
    backend.add(&recipients("spring", None, 5_491_100_000_700..5_491_100_001_000)).await;
    for action in ["launch", "pause", "resume", "resume", "launch", "pause"] {
        backend.add_action(action, "spring").await;
    }
    backend.drained().await;
    let record = find(&world, "spring").await;
    // Four changes: launch, pause, resume, pause. The others have no effect.
    assert_eq!((record.state, record.version), (CampaignState::Paused, 4));
    assert_eq!(world.numbers(record.campaign.id).await, (5_491_100_000_000..5_491_100_001_000).collect::<Vec<_>>());
    assert_eq!(backend.dead().await, Vec::<HashMap<_, _>>::new());
    reader.stop().await;
}

/// A suspended reader may receive an entry after it has lost the duty, while its successor waits for new entries.
#[tokio::test]
async fn an_entry_delivered_to_a_former_reader_takes_effect_before_later_ones() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w1");
    backend.add(&campaign("first", json!({}))).await;
    backend.drained().await;
    let mut adding = pipe();
    let add = |job: &Value| cmd("XADD").arg("pregon:jobs").arg("*").arg("job").arg(job.to_string()).take();
    adding.atomic().add_command(add(&campaign("spring", json!({})))).ignore();
    adding
        .cmd("XREADGROUP")
        .arg("GROUP")
        .arg("pregon")
        .arg("reader")
        .arg("STREAMS")
        .arg("pregon:jobs")
        .arg(">")
        .ignore();
    adding.add_command(add(&recipients("spring", Some("u1"), 5_491_100_000_000..5_491_100_000_003))).ignore();
    adding.query_async::<()>(&mut backend.0).await.expect("redis");
    backend.drained().await;
    assert_eq!(backend.dead().await, Vec::<HashMap<_, _>>::new());
    assert_eq!(world.numbers(find(&world, "spring").await.campaign.id).await.len(), 3);
    reader.stop().await;
}

#[tokio::test]
async fn an_invalid_entry_becomes_a_dead_letter_and_blocks_no_other() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    backend.add(&campaign("spring", json!({}))).await;
    backend.add(&recipients("spring", Some("u1"), 5_491_100_000_000..5_491_100_000_003)).await;
    let bad = [
        ("job-unreadable", "not json".to_owned()),
        ("job-unreadable", json!(["launch"]).to_string()),
        ("job-unreadable", json!(["launch", "spring"]).to_string()),
        ("job-unreadable", campaign("x", json!({ "template": ["order_update", "es_AR"] })).to_string()),
        ("job-unreadable", json!({ "type": "dance", "external_id": "spring" }).to_string()),
        ("job-unreadable", json!({ "external_id": "spring" }).to_string()),
        ("job-unreadable", json!({ "type": "launch" }).to_string()),
        ("job-unreadable", json!({ "type": "launch", "external_id": "spring", "at": "noon" }).to_string()),
        ("job-unreadable", campaign("x", json!({ "linez": [] })).to_string()),
        ("campaign-not-found", json!({ "type": "launch", "external_id": "nobody" }).to_string()),
        ("campaign-not-found", recipients("nobody", Some("u1"), 0..1).to_string()),
        ("invalid", campaign("x", json!({ "lines": ["9999"] })).to_string()),
        ("invalid", recipients("spring", Some("not visible"), 0..1).to_string()),
        (
            "template-missing",
            campaign("x", json!({ "template": { "name": "nobody", "language": "es_AR" } })).to_string(),
        ),
        (
            "template-not-approved",
            campaign("x", json!({ "template": { "name": "slow_week", "language": "pt_BR" } })).to_string(),
        ),
        ("upload-conflict", recipients("spring", Some("u1"), 5_491_100_000_000..5_491_100_000_004).to_string()),
        ("campaign-state", json!({ "type": "pause", "external_id": "spring" }).to_string()),
    ];
    for (_, job) in &bad {
        backend.redis::<String>(&["XADD", "pregon:jobs", "*", "job", job]).await;
    }
    let no_job: String = backend.redis(&["XADD", "pregon:jobs", "*", "task", "launch"]).await;
    cmd("XADD")
        .arg("pregon:jobs")
        .arg("*")
        .arg(b"\xff")
        .arg(b"\xfe")
        .arg("job")
        .arg(b"\xff\xfe")
        .exec_async(&mut backend.0)
        .await
        .expect("bytes");
    backend.add_action("launch", "spring").await;

    let reader = Reader::start(&world.intake, "w1");
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Running);
    let letters: Vec<(String, Vec<Vec<u8>>)> = backend.redis(&["XRANGE", "pregon:jobs:dead", "-", "+"]).await;
    assert_eq!(letters.len(), bad.len() + 2);
    let field = |letter: usize, name: &str| {
        let [_, value] =
            letters[letter].1.as_chunks::<2>().0.iter().find(|[field, _]| field == name.as_bytes()).expect(name);
        value.clone()
    };
    for (letter, (code, job)) in bad.iter().enumerate() {
        let text = |name| String::from_utf8(field(letter, name)).expect("text");
        assert_eq!((text("code").as_str(), &text("job")), (*code, job), "{}", text("reason"));
        assert!(
            text("reason").len() > 10 && text("at").ends_with('Z') && text("id").contains('-'),
            "{}",
            text("reason")
        );
    }
    assert_eq!(field(bad.len(), "code"), b"no-job");
    assert_eq!((field(bad.len(), "id"), field(bad.len(), "task")), (no_job.into_bytes(), b"launch".to_vec()));
    assert_eq!(
        (field(bad.len() + 1, "code"), field(bad.len() + 1, "job")),
        (b"job-unreadable".to_vec(), b"\xff\xfe".to_vec())
    );
    reader.stop().await;
}

#[tokio::test]
async fn rejected_recipients_are_a_dead_letter_and_others_are_accepted() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let rows = json!([row(5_491_155_550_001), { "to": "12" }, row(5_491_155_550_001)]);
    let job = campaign("spring", json!({ "recipients": rows, "launch": true }));
    let id = backend.add(&job).await;
    let reader = Reader::start(&world.intake, "w1");
    backend.drained().await;
    let record = find(&world, "spring").await;
    assert_eq!((record.state, record.numbers), (CampaignState::Running, 1));
    let letters = backend.dead().await;
    let [letter] = letters.as_slice() else { panic!("{letters:?}") };
    assert_eq!(
        (letter["code"].as_str(), &letter["id"], &letter["job"]),
        ("recipients-rejected", &id, &job.to_string())
    );
    assert_eq!(letter["reason"], "2 of 3 recipients were rejected, the others were accepted");
    let rejected: Value = serde_json::from_str(&letter["rejected"]).expect("json");
    assert_eq!(
        (&rejected[0]["row"], &rejected[0]["code"], &rejected[1]["row"]),
        (&json!(2), &json!("not_e164"), &json!(3))
    );
    reader.stop().await;
}

#[tokio::test]
async fn no_job_is_lost_or_repeated_when_readers_are_killed() {
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    // Three campaigns with interleaved jobs, and now and then a job that is rejected.
    let names = ["a", "b", "c"];
    for name in names {
        backend.add(&campaign(name, json!({}))).await;
    }
    let mut expected: HashMap<&str, u64> = HashMap::new();
    let mut dead = Vec::new();
    for n in 0..60 {
        let name = names[rng.random_range(0..3)];
        let start = 5_491_100_000_000 + 1_000 * n;
        let len = rng.random_range(1..400);
        let job = recipients(name, rng.random_bool(0.5).then(|| format!("u{n}")).as_deref(), start..start + len);
        *expected.entry(name).or_default() += len;
        backend.add(&job).await;
        if rng.random_bool(0.3) {
            dead.push(backend.add(&recipients("nobody", None, 0..1)).await);
        }
        if rng.random_bool(0.2) {
            let mut job = recipients(name, None, start + 500..start + 502);
            job["recipients"][0]["to"] = "12".into();
            *expected.entry(name).or_default() += 1;
            dead.push(backend.add(&job).await);
        }
    }
    for name in names {
        backend.add_action("launch", name).await;
    }
    apply_through_kills(&world, &mut backend, &mut rng, 20..400).await;
    for name in names {
        let record = find(&world, name).await;
        let n = expected.get(name).copied().unwrap_or(0);
        assert_eq!(world.numbers(record.campaign.id).await.len() as u64, n, "{name}");
        assert_eq!(world.count(record.campaign.id, State::Pending).await, n, "{name}");
        assert_eq!(record.state, if n > 0 { CampaignState::Running } else { CampaignState::Draft });
    }
    let letters = backend.dead().await;
    assert_eq!(letters.iter().map(|letter| &letter["id"]).collect::<Vec<_>>(), dead.iter().collect::<Vec<_>>());
}

/// The number of commands that Redis has processed.
async fn commands(backend: &mut Backend) -> u64 {
    let info: String = backend.redis(&["INFO", "stats"]).await;
    let line = info.lines().find_map(|line| line.strip_prefix("total_commands_processed:")).expect("the count");
    line.trim().parse().expect("a number")
}

/// Applies all jobs, by readers that are killed one after the other, each after a random number of commands.
pub(super) async fn apply_through_kills(world: &World, backend: &mut Backend, rng: &mut StdRng, after: Range<u64>) {
    let mut kills = 0;
    while backend.redis::<u64>(&["XLEN", "pregon:jobs"]).await > 0 {
        let other = intake(world.redis.url()).await;
        let reader = Reader::start(&other, &format!("w{kills}"));
        let until_killed = commands(backend).await + rng.random_range(after.clone());
        until("it works", async || {
            commands(backend).await >= until_killed || backend.redis::<u64>(&["XLEN", "pregon:jobs"]).await == 0
        })
        .await;
        reader.kill().await;
        kills += 1;
        // Saves the wait until the lease of the killed reader expires.
        backend.redis::<u64>(&["DEL", &world.store().keys.duty_lease("jobs")]).await;
    }
    println!("{kills} readers");
}

#[tokio::test]
async fn a_reader_takes_over_when_a_killed_readers_lease_expires() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let (one, two) = (Reader::start(&world.intake, "w1"), Reader::start(&intake(world.redis.url()).await, "w2"));
    backend.add(&campaign("spring", json!({ "recipients": [row(5_491_100_000_000)], "launch": true }))).await;
    backend.drained().await;
    let owner: String = backend.redis(&["GET", &world.store().keys.duty_lease("jobs")]).await;
    let (owner, other) = if owner.starts_with("w1 ") { (one, two) } else { (two, one) };
    owner.kill().await;
    for action in ["pause", "resume", "pause"] {
        backend.add_action(action, "spring").await;
    }
    backend.drained().await;
    let record = find(&world, "spring").await;
    assert_eq!((record.state, record.version), (CampaignState::Paused, 4));
    other.stop().await;
    let lease: Option<String> = backend.redis(&["GET", &world.store().keys.duty_lease("jobs")]).await;
    assert_eq!(lease, None, "a stopped reader gives back its lease");
}

#[tokio::test]
async fn a_campaign_without_an_external_id_is_created_once_per_entry() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let mut job = campaign("", json!({ "recipients": [row(5_491_100_000_000)], "launch": true }));
    job.as_object_mut().expect("an object").remove("external_id");
    let id = backend.add(&job).await;
    let reader = Reader::start(&world.intake, "w1");
    backend.drained().await;
    reader.stop().await;
    // The same entry again, as after a reader that applied it and died before deleting it.
    backend.redis::<u64>(&["DEL", "pregon:jobs"]).await;
    backend.redis::<String>(&["XADD", "pregon:jobs", &id, "job", &job.to_string()]).await;
    let reader = Reader::start(&world.intake, "w2");
    backend.drained().await;
    let campaigns = world.store().newest_campaigns(None, 10).await.expect("campaigns");
    assert_eq!(campaigns.len(), 1);
    assert_eq!(find(&world, &format!("job:{id}")).await.numbers, 1);
    reader.stop().await;
}

#[tokio::test]
async fn entries_pending_elsewhere_are_read_and_deleted_ones_skipped() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    backend.redis::<String>(&["XGROUP", "CREATE", "pregon:jobs", "pregon", "0", "MKSTREAM"]).await;
    backend.add(&campaign("spring", json!({ "recipients": [row(5_491_100_000_000)] }))).await;
    let deleted = backend.add(&json!({ "type": "cancel", "external_id": "spring" })).await;
    backend.add_action("launch", "spring").await;
    // Another consumer reads all of them and disappears.
    let _: deadpool_redis::redis::Value =
        backend.redis(&["XREADGROUP", "GROUP", "pregon", "stranger", "STREAMS", "pregon:jobs", ">"]).await;
    backend.redis::<u64>(&["XDEL", "pregon:jobs", &deleted]).await;
    backend.add_action("pause", "spring").await;
    let reader = Reader::start(&world.intake, "w1");
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Paused);
    assert_eq!(backend.dead().await.len(), 0);
    reader.stop().await;
}

#[tokio::test]
async fn jobs_continue_after_a_redis_outage_and_a_deleted_group() {
    let mut world = World::start().await;
    let reader = Reader::start(&world.intake, "w1");
    let mut backend = Backend::of(&world).await;
    backend.add(&campaign("spring", json!({ "recipients": [row(5_491_100_000_000)], "launch": true }))).await;
    backend.drained().await;

    world.redis.kill_hard().await;
    world.redis.restart().await;
    let mut backend = Backend::of(&world).await;
    backend.add_action("pause", "spring").await;
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Paused);

    backend.redis::<u64>(&["XGROUP", "DESTROY", "pregon:jobs", "pregon"]).await;
    backend.add_action("resume", "spring").await;
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Running);

    backend.redis::<u64>(&["DEL", "pregon:jobs"]).await;
    backend.add_action("cancel", "spring").await;
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Cancelled);
    assert_eq!(backend.dead().await.len(), 0);
    reader.stop().await;
}

#[tokio::test]
async fn a_campaign_job_waits_for_the_first_template_sync() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    backend.redis::<u64>(&["DEL", &world.store().keys.templates(&"2001".into())]).await;
    backend.add(&campaign("spring", json!({}))).await;
    let reader = Reader::start(&world.intake, "w1");
    until("it was handed out", async || backend.pending().await == 1).await;
    let now = world.intake.clock.now();
    world.store().put_templates(&"2001".into(), &support::intake::templates(), now).await.expect("templates");
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Draft);
    assert_eq!(backend.dead().await.len(), 0);
    reader.stop().await;
}

#[tokio::test]
async fn a_launch_with_an_edited_template_is_a_dead_letter() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let reader = Reader::start(&world.intake, "w1");
    backend.add(&campaign("spring", json!({}))).await;
    backend.add(&recipients("spring", None, 5_491_100_000_000..5_491_100_000_003)).await;
    backend.drained().await;
    let mut templates = support::intake::templates();
    let ours = templates.iter_mut().find(|template| template.name == "order_update").expect("the template");
    ours.components[0].text = "{{1}}, {{2}} and {{3}}".to_owned();
    let now = world.intake.clock.now();
    world.store().put_templates(&"2001".into(), &templates, now).await.expect("templates");
    backend.add_action("launch", "spring").await;
    backend.drained().await;
    assert_eq!(find(&world, "spring").await.state, CampaignState::Draft);
    let letters = backend.dead().await;
    let [letter] = &letters[..] else { panic!("{letters:?}") };
    assert_eq!(letter["code"], "template-changed");
    assert!(letter["reason"].contains("the body takes 3 values now, and took 2"), "{letter:?}");
    reader.stop().await;
}

#[tokio::test]
async fn a_dead_letter_is_written_once() {
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let id = backend.add(&json!({ "type": "launch", "external_id": "nobody" })).await;
    let reader = Reader::start(&world.intake, "w1");
    backend.drained().await;
    reader.stop().await;
    // The same entry again, as after a reader that died between writing the dead letter and deleting the entry.
    backend.redis::<u64>(&["DEL", "pregon:jobs"]).await;
    backend
        .redis::<String>(&["XADD", "pregon:jobs", &id, "job", "{\"type\":\"launch\",\"external_id\":\"nobody\"}"])
        .await;
    let second = backend.add(&json!({ "type": "pause", "external_id": "nobody" })).await;
    let reader = Reader::start(&world.intake, "w2");
    backend.drained().await;
    let ids: Vec<String> =
        backend.dead().await.into_iter().map(|mut letter| letter.remove("id").expect("id")).collect();
    assert_eq!(ids, [id, second]);
    reader.stop().await;
}

/// A temporary fault of Redis.
#[derive(Clone, Copy)]
enum Fault {
    Full,
    ReadOnly,
    Stalled,
}

impl Fault {
    async fn set(self, world: &World, backend: &mut Backend, on: bool) {
        let command: &[&str] = match (self, on) {
            (Fault::Full, true) => &["CONFIG", "SET", "maxmemory", "1"],
            (Fault::Full, false) => &["CONFIG", "SET", "maxmemory", "0"],
            (Fault::ReadOnly, true) => &["REPLICAOF", "127.0.0.1", "1"],
            (Fault::ReadOnly, false) => &["REPLICAOF", "NO", "ONE"],
            (Fault::Stalled, _) => {
                world.redis.signal(if on { "STOP" } else { "CONT" });
                return;
            }
        };
        let () = backend.redis(command).await;
    }
}

/// Reads the jobs of eight campaigns while `fault` comes and goes: each time it lasts a random time of up to `on`,
/// after a random pause of up to `off`. No job may become a dead letter or be lost.
async fn jobs_survive(fault: Fault, on: Duration, off: Duration) {
    const RECIPIENTS: u64 = 90;
    let mut rng = StdRng::seed_from_u64(seed());
    let world = World::start().await;
    let mut backend = Backend::of(&world).await;
    let names: Vec<String> = (0..8).map(|n| format!("campaign-{n}")).collect();
    for name in &names {
        backend.add(&campaign(name, json!({ "recipients": [row(5_491_100_000_000)] }))).await;
        for n in 0..3 {
            let start = 5_491_100_000_001 + n * RECIPIENTS / 3;
            backend.add(&recipients(name, None, start..start + RECIPIENTS / 3)).await;
        }
        backend.add_action("launch", name).await;
    }
    // A process with a short timeout, so that one job can see the fault, its end, and the next fault.
    let hasty = Address { timeout: Duration::from_millis(150), ..address(&world.redis) };
    let reader = Reader::start(&intake_at(&hasty).await, "w1");
    for _ in 0..60 {
        tokio::time::sleep(off.mul_f64(rng.random())).await;
        fault.set(&world, &mut backend, true).await;
        tokio::time::sleep(on.mul_f64(rng.random())).await;
        fault.set(&world, &mut backend, false).await;
    }
    backend.drained().await;
    assert_eq!(backend.dead().await, Vec::<HashMap<_, _>>::new());
    for name in &names {
        let record = find(&world, name).await;
        assert_eq!((record.state, record.numbers), (CampaignState::Running, RECIPIENTS + 1), "{name}");
        assert_eq!(world.count(record.campaign.id, State::Pending).await, RECIPIENTS + 1, "{name}");
    }
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_makes_no_job_a_dead_letter() {
    jobs_survive(Fault::Full, Duration::from_millis(4), Duration::from_millis(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_redis_makes_no_job_a_dead_letter() {
    jobs_survive(Fault::ReadOnly, Duration::from_millis(4), Duration::from_millis(60)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_redis_makes_no_job_a_dead_letter() {
    jobs_survive(Fault::Stalled, Duration::from_millis(400), Duration::from_millis(60)).await;
}

#[tokio::test]
async fn what_became_of_a_job_is_told() {
    let world = World::start().await;
    let store = world.store().clone().with_feed(Some(FEED));
    let intake = Intake { store: store.clone(), ..world.intake.clone() };
    let mut backend = Backend::of(&world).await;
    let mut job = campaign_json("order_update/es_AR", json!({ "external_id": "spring" }));
    job["type"] = "campaign".into();
    let campaign = backend.add(&job).await;
    let rows = json!({ "type": "recipients", "external_id": "spring", "recipients": [row(5_491_155_550_001), { "to": "12" }] });
    let recipients = backend.add(&rows).await;
    let bad = backend.add(&json!({ "type": "sing" })).await;
    let reader = Reader::start(&intake, "w1");
    backend.drained().await;
    reader.stop().await;
    let id = store.campaign_by_external_id("spring").await.expect("redis").expect("the campaign").to_string();
    let stored = store.events_after(0, EntryId::default(), 100).await.expect("redis");
    let events: Vec<Value> = stored.iter().map(|stored| serde_json::from_str(&stored.event).expect("JSON")).collect();
    assert_eq!(events.len(), 3, "{events:?}");
    for (event, (job, r#type)) in
        events.iter().zip([(&campaign, "job.done"), (&recipients, "job.done"), (&bad, "job.dead")])
    {
        assert_eq!(
            (&event["id"], &event["job"], &event["type"]),
            (&json!(format!("job:{job}")), &json!(job), &json!(r#type))
        );
    }
    assert_eq!(
        (&events[0]["campaign"], &events[0]["external_id"], &events[0]["business"]),
        (&json!(id), &json!("spring"), &json!("1001"))
    );
    assert_eq!((&events[1]["accepted"], &events[1]["rejected_count"]), (&json!(1), &json!(1)));
    assert_eq!(events[1]["rejected"].as_array().map(Vec::len), Some(1), "{}", events[1]);
    assert_eq!(events[2]["code"], "job-unreadable");
}
