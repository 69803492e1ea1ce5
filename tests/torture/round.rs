//! A round: a campaign through the public API, a schedule of faults around it, and what became of both.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::{
    sync::{Mutex, RwLock},
    task::JoinSet,
};

use crate::{
    backend::Wish,
    check::{self, Verdict},
    clock,
    meta::{Ledger, Torturer},
    schedule::{APART, Fault, Jobs, LAUNCH_KEPT, LINES, Schedule},
    stage::Stage,
    support::{hostile::Meta, server::Api},
};

pub const FIRST: u64 = 5_491_180_000_000;
/// How long the campaigns may take after everything is well again; the machine may be busy with something else.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long nothing may change in that time before what is open counts as stuck: a pair that Meta throttled waits up to 12
/// seconds, a line that found Meta out of reach up to 15.
const STUCK_AFTER: Duration = Duration::from_secs(45);
/// Between two looks at the campaigns.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// A Redis that is slow does something for so long at a time.
const BETWEEN_STOPS: Duration = Duration::from_millis(5);

/// A fault that was carried out.
#[derive(Clone, Debug)]
pub struct Event {
    pub fault: Fault,
    pub began: Instant,
    pub ended: Instant,
    /// Bytes that Redis forgot.
    pub forgotten: u64,
}

/// A campaign of a round, as it was last seen.
pub struct Campaign {
    /// None as long as nobody has seen it.
    pub id: Option<String>,
    /// Of one that comes as jobs.
    external_id: Option<String>,
    /// Its recipients.
    pub numbers: Range<u64>,
    /// As the API tells it.
    pub last: Value,
}

impl Campaign {
    fn through_the_api(id: String, numbers: Range<u64>) -> Self {
        Self { id: Some(id), external_id: None, numbers, last: Value::Null }
    }

    fn through_jobs(wish: &Wish) -> Self {
        let (external_id, numbers) = (Some(wish.external_id.clone()), wish.numbers.clone());
        Self { id: None, external_id, numbers, last: Value::Null }
    }

    fn name(&self) -> &str {
        self.external_id.as_deref().unwrap_or("the campaign through the API")
    }

    pub fn recipients(&self) -> u64 {
        self.numbers.end - self.numbers.start
    }

    pub fn has_completed(&self) -> bool {
        self.last["state"] == "completed"
    }
}

/// What became of a round.
pub struct Outcome {
    pub schedule: Schedule,
    pub launched: Instant,
    pub events: Vec<Event>,
    pub restarts: usize,
    pub verdict: Verdict,
    /// From the launch until everything was known.
    pub took: Duration,
    /// Where the logs are, if anything was wrong.
    pub kept: Option<PathBuf>,
}

/// What the tasks of a round share.
struct Play {
    stage: Stage,
    events: Mutex<Vec<Event>>,
    /// Faults of Redis happen one after the other.
    redis: Mutex<()>,
    /// Those of its clock happen one after the other.
    clock: Mutex<()>,
    /// Those of a worker happen one after the other.
    workers: Vec<Mutex<()>>,
    /// Held by a worker that ends, shared, and by a Redis that forgets, alone: see [`Fault::would_be_blamed`].
    blame: RwLock<()>,
    /// Held by a campaign that is launched, shared, until that is on the disk, and by a Redis that forgets, alone. A server before
    /// Redis 7.2 does not tell when it is, and would forget a campaign of which Meta has messages.
    launches: RwLock<()>,
    /// Redis is to lose power in this round.
    forgetful: bool,
}

/// Plays the round. `keep`: where the logs of a round go in which something was wrong.
pub async fn play(schedule: Schedule, keep: &Path) -> Outcome {
    let ledger = Ledger::default();
    let meta = Meta::start(Torturer::new(schedule.seed, schedule.throttles, ledger.clone()), schedule.seed);
    let play = Arc::new(Play {
        stage: Stage::set(schedule.fsync, schedule.rates, &schedule.roles(), meta, |worker| {
            schedule.harms_the_way_to_meta_of(worker)
        })
        .await,
        events: Mutex::default(),
        redis: Mutex::default(),
        clock: Mutex::default(),
        workers: (0..schedule.workers).map(|_| Mutex::default()).collect(),
        blame: RwLock::default(),
        launches: RwLock::default(),
        forgetful: schedule.steps.iter().any(|step| matches!(step.fault, Fault::PowerLoss { .. })),
    });
    let stage = &play.stage;
    let api = Api::at(&stage.front.url());
    let numbers = FIRST..FIRST + schedule.recipients;
    let mut free = numbers.end;
    let wish = |(n, jobs): (usize, &Jobs)| {
        let numbers = free..free + jobs.recipients;
        free = numbers.end;
        // A campaign on a line that the reader of the jobs does not list is refused.
        Wish { external_id: format!("jobs-{n}"), lines: schedule.steady_lines(), numbers }
    };
    let wishes: Vec<Wish> = schedule.jobs.iter().enumerate().map(wish).collect();
    let id = api.draft(&LINES, numbers.clone(), json!({})).await;
    api.post(&format!("campaigns/{id}/launch")).await;
    let launched = Instant::now();
    let mut todo = JoinSet::new();
    for step in schedule.steps.clone() {
        let play = play.clone();
        todo.spawn(async move {
            tokio::time::sleep_until((launched + step.at).into()).await;
            play.carry_out(step.fault).await;
        });
    }
    for (wish, jobs) in wishes.iter().cloned().zip(schedule.jobs.clone()) {
        let play = play.clone();
        todo.spawn(async move {
            tokio::time::sleep_until((launched + jobs.at).into()).await;
            let _unforgotten = play.launches.read().await;
            play.stage.backend.add(&wish).await;
            if play.forgetful {
                play.stage.backend.all_are_taken().await;
                tokio::time::sleep(LAUNCH_KEPT).await;
            }
        });
    }
    let mut problems = Vec::new();
    while let Some(ended) = todo.join_next().await {
        if let Err(error) = ended {
            problems.push(format!("what was to be done could not be done: {error}"));
        }
    }
    stage.heal().await;
    // Repeating is safe at any time.
    for wish in &wishes {
        stage.backend.add(wish).await;
    }
    let mut campaigns = vec![Campaign::through_the_api(id, numbers)];
    campaigns.extend(wishes.iter().map(Campaign::through_jobs));
    problems.extend(play.settles(&mut campaigns, &schedule).await);
    let took = launched.elapsed();
    problems.extend(stage.problems());
    problems.extend(stage.backend.problems().await);
    let events = play.events.lock().await.clone();
    let verdict = check::judge(stage, &schedule, &ledger, &events, &campaigns, problems).await;
    let kept = (!verdict.is_good()).then(|| {
        let dir = keep.join(schedule.seed.to_string());
        copy(stage.installation.dir(), &dir);
        dir
    });
    if let Some(dir) = &kept {
        copy(stage.redis.lock().await.server.dir(), &dir.join("redis"));
    }
    Outcome { schedule, launched, events, restarts: stage.restarts(), verdict, took, kept }
}

impl Play {
    /// Waits until every campaign has completed and every status is taken, or until nothing changes any more. Gives what is
    /// wrong then.
    async fn settles(&self, campaigns: &mut [Campaign], schedule: &Schedule) -> Vec<String> {
        let (began, delay) = (Instant::now(), schedule.delay());
        let (mut seen, mut changed) = (Value::Null, Instant::now());
        loop {
            if campaigns.iter().any(|campaign| campaign.id.is_none()) {
                self.find(campaigns).await;
            }
            for campaign in campaigns.iter_mut().filter(|campaign| !campaign.has_completed()) {
                let Some(id) = &campaign.id else { continue };
                if let Some(last) = look(&self.stage.front.url(), &format!("campaigns/{id}")).await {
                    campaign.last = last;
                }
            }
            if campaigns.iter().all(Campaign::has_completed) && self.stage.meta.is_idle() {
                return Vec::new();
            }
            let of = |campaign: &Campaign| campaign.last["statistics"]["by_state"].clone();
            let now = json!([self.stage.meta.n_told(), campaigns.iter().map(of).collect::<Vec<_>>()]);
            if now != seen {
                (seen, changed) = (now, Instant::now());
            }
            if began.elapsed() > PATIENCE + delay || changed.elapsed() > STUCK_AFTER + delay {
                break;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let since = format!("{:?} after everything was well again", began.elapsed());
        let open = campaigns.iter().filter(|campaign| !campaign.has_completed());
        let mut wrong: Vec<String> =
            open.map(|campaign| format!("{} not completed {since}: {}", campaign.name(), campaign.last)).collect();
        if !self.stage.meta.is_idle() {
            wrong.push(format!("statuses were not taken {since}"));
        }
        wrong
    }

    /// SIGTERM to each worker in turn. `before`: what is done before one starts again.
    async fn restart_in_turn(&self, before: impl Fn(usize)) {
        for (number, turn) in self.workers.iter().enumerate() {
            let _in_turn = turn.lock().await;
            self.stage.stop_worker(number).await;
            before(number);
            self.stage.start_worker(number).await;
        }
    }

    /// Finds out the ids of campaigns that came as jobs.
    async fn find(&self, campaigns: &mut [Campaign]) {
        let Some(list) = look(&self.stage.front.url(), "campaigns?limit=100").await else { return };
        for campaign in campaigns.iter_mut().filter(|campaign| campaign.id.is_none()) {
            let is_it = |found: &&Value| found["external_id"].as_str() == campaign.external_id.as_deref();
            let found = list["campaigns"].as_array().into_iter().flatten().find(is_it);
            campaign.id = found.and_then(|found| found["id"].as_str()).map(str::to_owned);
        }
    }

    async fn carry_out(&self, fault: Fault) {
        let stage = &self.stage;
        if fault.is_of_the_clock() && !clock::CAN_BE_SET {
            return;
        }
        // First of all: whoever waits for a turn may not keep the one from going on who has it.
        let shared = if fault.is_of_a_worker() { Some(self.blame.read().await) } else { None };
        let in_turn = match fault {
            Fault::WorkerKilled { worker, .. } | Fault::WorkerAsleep { worker, .. } => {
                Some(self.workers[worker].lock().await)
            }
            Fault::RollingRestart
            | Fault::LinesChanged { .. }
            | Fault::Cut { .. }
            | Fault::Held { .. }
            | Fault::Slow { .. } => None,
            Fault::ClockSet { .. } | Fault::ClockWrong { .. } => Some(self.clock.lock().await),
            _ => Some(self.redis.lock().await),
        };
        let alone = match fault {
            Fault::PowerLoss { .. } => Some((self.launches.write().await, self.blame.write().await)),
            _ => None,
        };
        let mut forgotten = 0;
        let mut began = Instant::now();
        match fault {
            Fault::WorkerKilled { worker, down } => {
                began = stage.kill_worker(worker).await.unwrap_or(began);
                tokio::time::sleep(down).await;
                stage.start_worker(worker).await;
            }
            Fault::WorkerAsleep { worker, asleep } => stage.put_worker_to_sleep(worker, asleep).await,
            Fault::RollingRestart => self.restart_in_turn(|_| {}).await,
            Fault::LinesChanged { line, without } => {
                self.restart_in_turn(|number| stage.lists_all_but(number, Some(LINES[line]))).await;
                tokio::time::sleep(without).await;
                self.restart_in_turn(|number| stage.lists_all_but(number, None)).await;
            }
            Fault::RedisKilled { down } => forgotten = stage.kill_redis(None, down).await,
            Fault::PowerLoss { forgets, down } => forgotten = stage.kill_redis(Some(forgets), down).await,
            Fault::RedisAsleep { asleep } => {
                let disk = stage.redis.lock().await;
                disk.signal("STOP");
                tokio::time::sleep(asleep).await;
                disk.signal("CONT");
            }
            Fault::RedisSlow { by, slow } => {
                let disk = stage.redis.lock().await;
                while began.elapsed() < slow {
                    disk.signal("STOP");
                    tokio::time::sleep(by).await;
                    disk.signal("CONT");
                    tokio::time::sleep(BETWEEN_STOPS).await;
                }
            }
            Fault::ClockSet { by_ms } => stage.step_clock(by_ms).await,
            Fault::ClockWrong { by_ms, wrong } => {
                stage.step_clock(by_ms).await;
                tokio::time::sleep(wrong).await;
                stage.step_clock(-by_ms).await;
            }
            Fault::RedisPaused { paused } => {
                let ms = paused.as_millis().to_string();
                stage.redis.lock().await.says(&["CLIENT", "PAUSE", &ms, "ALL"]).await;
                tokio::time::sleep(paused).await;
            }
            Fault::RedisFull { full } => {
                let disk = stage.redis.lock().await;
                disk.says(&["CONFIG", "SET", "maxmemory", "1mb"]).await;
                tokio::time::sleep(full).await;
                disk.says(&["CONFIG", "SET", "maxmemory", "0"]).await;
            }
            Fault::ScriptsFlushed => stage.redis.lock().await.says(&["SCRIPT", "FLUSH"]).await,
            Fault::Cut { wire } => stage.wire(wire).cut(),
            Fault::Held { wire, held } => {
                stage.wire(wire).hold();
                tokio::time::sleep(held).await;
                stage.wire(wire).mend();
            }
            Fault::Slow { wire, by, slow } => {
                stage.wire(wire).slow(by);
                tokio::time::sleep(slow).await;
                stage.wire(wire).mend();
            }
        }
        let event = Event { fault, began, ended: Instant::now(), forgotten };
        self.events.lock().await.push(event);
        drop(in_turn);
        if self.forgetful && (shared.is_some() || alone.is_some()) {
            tokio::time::sleep(APART).await;
        }
    }
}

/// What the API tells, if anybody answers.
async fn look(front: &str, path: &str) -> Option<Value> {
    // A client of its own each time: a connection to a worker that was killed is of no use.
    let api = Api::at(front);
    tokio::time::timeout(Duration::from_secs(5), api.ask(path)).await.ok()?
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::create_dir_all(to);
    for entry in std::fs::read_dir(from).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else if entry.file_type().is_ok_and(|kind| kind.is_file()) {
            let _ = std::fs::copy(entry.path(), to.join(entry.file_name()));
        }
    }
}
