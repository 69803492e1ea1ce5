//! A round: a campaign through the public API, a schedule of faults around it, and what became of both.

use std::{
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
    check::{self, Verdict},
    clock,
    meta::{Ledger, Torturer},
    schedule::{APART, Fault, LINES, Schedule},
    stage::Stage,
    support::{hostile::Meta, server::Api},
};

pub const FIRST: u64 = 5_491_180_000_000;
/// How long a campaign may take after everything is well again: a pair that Meta throttled waits up to 12 seconds, a
/// line that found Meta out of reach up to 15; and the machine may be busy with something else.
const PATIENCE: Duration = Duration::from_secs(180);

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
        forgetful: schedule.steps.iter().any(|step| matches!(step.fault, Fault::PowerLoss { .. })),
    });
    let stage = &play.stage;
    let api = Api::at(&stage.front.url());
    let id = api.draft(&LINES, FIRST..FIRST + schedule.recipients, json!({})).await;
    api.post(&format!("campaigns/{id}/launch")).await;
    let launched = Instant::now();
    let mut faults = JoinSet::new();
    for step in schedule.steps.clone() {
        let play = play.clone();
        faults.spawn(async move {
            tokio::time::sleep_until((launched + step.at).into()).await;
            play.carry_out(step.fault).await;
        });
    }
    let mut problems = Vec::new();
    while let Some(ended) = faults.join_next().await {
        if let Err(error) = ended {
            problems.push(format!("a fault could not be carried out: {error}"));
        }
    }
    stage.heal().await;
    let healed = Instant::now();
    let mut last = Value::Null;
    let patience = PATIENCE + schedule.delay();
    while healed.elapsed() < patience && !(last["state"] == "completed" && stage.meta.is_idle()) {
        tokio::time::sleep(Duration::from_millis(50)).await;
        last = look(&stage.front.url(), &id).await.unwrap_or(last);
    }
    let took = launched.elapsed();
    if last["state"] != "completed" {
        problems.push(format!("not completed {patience:?} after everything was well again: {last}"));
    } else if !stage.meta.is_idle() {
        problems.push(format!("statuses were not taken within {patience:?} after everything was well again"));
    }
    problems.extend(stage.problems());
    let events = play.events.lock().await.clone();
    let verdict = check::judge(stage, &schedule, &ledger, &events, &id, problems).await;
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
            Fault::RollingRestart | Fault::Cut { .. } | Fault::Held { .. } | Fault::Slow { .. } => None,
            Fault::ClockSet { .. } | Fault::ClockWrong { .. } => Some(self.clock.lock().await),
            _ => Some(self.redis.lock().await),
        };
        let alone = match fault {
            Fault::PowerLoss { .. } => Some(self.blame.write().await),
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
            Fault::RollingRestart => {
                for (number, turn) in self.workers.iter().enumerate() {
                    let _in_turn = turn.lock().await;
                    stage.stop_worker(number).await;
                    stage.start_worker(number).await;
                }
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

/// The campaign, if anybody says how it is.
async fn look(front: &str, id: &str) -> Option<Value> {
    // A client of its own each time: a connection to a worker that was killed is of no use.
    let api = Api::at(front);
    let path = format!("campaigns/{id}");
    tokio::time::timeout(Duration::from_secs(5), api.ask(&path)).await.ok()?
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
