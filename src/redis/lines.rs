//! Lines in Redis: leases, the work that waits on them, what operators set, what is held back, what owners report.
//!
//! If a worker dies: its leases end by themselves, and the next owner finds the same work.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{Cmd, Pipeline, Value, cmd};
use serde::{Deserialize, Serialize};

use super::{Call, Result, Store, StoreError, read, script};
use crate::domain::{Hold, HoldScope, LINE_RATE_MAX, LINE_RATE_MIN, LineId, PartId, UnixMs};

/// How far an epoch that is ahead of the clock rises at most.
const EPOCH_RISE_MAX: u64 = 1_000;

/// A right that one worker at a time can have.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Right {
    /// To send on a line.
    Line(LineId),
    /// To do a job of which there is one in an installation, such as reading the stream of jobs.
    Duty(&'static str),
}

/// What an operator set on a line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineControl {
    /// Messages per second instead of the configured ones.
    pub rate: Option<f64>,
    /// Nothing is sent.
    pub paused: bool,
}

/// What a worker says of a line that it owns, for whoever asks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineReport {
    /// The worker.
    pub worker: String,
    /// Messages per second that may go now.
    pub rate: f64,
    /// The rate is cut because Meta throttled.
    pub throttled: bool,
    /// Meta can not be reached.
    pub unreachable: bool,
    /// What comes in the place of Meta's answers, while the path to Meta is broken. Reports of older versions lack it.
    #[serde(default)]
    pub path_broken: Option<String>,
    /// Attempts in flight.
    pub in_flight: usize,
    /// Messages that Meta accepted in the last second or so, per second.
    pub accepted_per_second: f64,
    /// When it was said.
    pub at: UnixMs,
}

/// Which workers are alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// The names of the living workers, in order.
    pub workers: Vec<String>,
    /// The list of lines of the worker that asks is in the registry.
    pub is_registered: bool,
}

impl Store {
    /// Takes or renews leases, in one round trip. `held` is the epoch of the caller's lease, 0 without one.
    ///
    /// Gives the epoch for each, `None` where another worker has it.
    pub async fn acquire(&self, rights: &[(Right, u64)], worker: &str, length: Duration) -> Result<Vec<Option<u64>>> {
        let calls = rights.iter().map(|(right, held)| {
            let keys = self.lease_keys(right);
            let rise = rand::random_range(1..=EPOCH_RISE_MAX);
            Call::new(&script::ACQUIRE, &keys).arg(worker).arg(ms(length)).arg(*held).arg(rise)
        });
        let results: Vec<Result<(u8, u64)>> = self.call_all(&calls.collect::<Vec<_>>()).await?;
        let keys: Vec<String> = rights.iter().map(|(right, _)| self.lease_keys(right)[0].clone()).collect();
        self.wait_replicated(&keys, length / 3).await?;
        results.into_iter().map(|result| result.map(|(got, epoch)| (got == 1).then_some(epoch))).collect()
    }

    /// Gives a lease back.
    pub async fn release(&self, right: &Right, worker: &str, epoch: u64) -> Result<()> {
        let [lease, _] = self.lease_keys(right);
        self.call::<u8>(Call::new(&script::RELEASE, &[lease]).arg(worker).arg(epoch)).await.map(drop)
    }

    /// The workers that have the leases of `lines` now.
    pub async fn owners(&self, lines: &[LineId]) -> Result<Vec<Option<String>>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.get(self.keys.lease(line));
        }
        let leases: Vec<Option<String>> = self.query_all("GET lease", &pipeline).await?;
        Ok(leases.into_iter().map(|lease| lease?.split(' ').next().map(str::to_owned)).collect())
    }

    /// How long each of the leases of `lines` lasts if nobody renews it; `None` where nobody has it.
    pub async fn leases_left(&self, lines: &[LineId]) -> Result<Vec<Option<Duration>>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.pttl(self.keys.lease(line));
        }
        let left: Vec<i64> = self.query_all("PTTL lease", &pipeline).await?;
        Ok(left.into_iter().map(|ms| u64::try_from(ms).ok().map(Duration::from_millis)).collect())
    }

    fn lease_keys(&self, right: &Right) -> [String; 2] {
        match right {
            Right::Line(line) => [self.keys.lease(line), self.keys.epoch(line)],
            Right::Duty(duty) => [self.keys.duty_lease(duty), self.keys.duty_epoch(duty)],
        }
    }

    /// Says that `worker` incarnations until `until`, and tells who incarnations at `now`. One that incarnations much longer said so before Redis'
    /// clock was set back: if it incarnations, it says so again.
    pub async fn worker_lives(&self, worker: &str, now: UnixMs, until: UnixMs) -> Result<Living> {
        let key = self.keys.workers();
        let much_longer = format!("({}", until.after(until.since(now)).0);
        let mut pipeline = Pipeline::new();
        pipeline
            .zadd(&key, worker, until.0)
            .zrembyscore(&key, 0, now.0)
            .zrembyscore(&key, much_longer, "+inf")
            .zrange(&key, 0, -1)
            .hexists(self.keys.line_lists(), worker);
        let mut answers: Vec<Value> = self.query_all("ZADD workers", &pipeline).await?;
        let is_registered = read("HEXISTS line_lists", answers.pop().unwrap_or_default())?;
        let mut workers: Vec<String> = read("ZRANGE workers", answers.pop().unwrap_or_default())?;
        workers.sort_unstable();
        Ok(Living { workers, is_registered })
    }

    /// Forgets a worker that stops.
    pub async fn worker_leaves(&self, worker: &str) -> Result<()> {
        let mut pipeline = Pipeline::new();
        pipeline.zrem(self.keys.workers(), worker).hdel(self.keys.line_lists(), worker);
        self.query_all::<u8>("ZREM workers", &pipeline).await.map(drop)
    }

    /// The parts with work on `line`.
    pub async fn work(&self, line: &LineId) -> Result<Vec<PartId>> {
        let key = self.keys.work(line);
        let parts: Vec<String> = self.query("SMEMBERS work", cmd("SMEMBERS").arg(&key)).await?;
        let read = |text: String| {
            text.parse().map_err(|_| StoreError::Corrupt { key: key.clone(), reason: format!("{text} is not a part") })
        };
        parts.into_iter().map(read).collect()
    }

    /// Takes parts, at least one, off the work of `line`: nothing in them is open any more.
    pub async fn work_done(&self, line: &LineId, parts: &[PartId]) -> Result<()> {
        let parts: Vec<String> = parts.iter().map(PartId::to_string).collect();
        self.query("SREM work", cmd("SREM").arg(self.keys.work(line)).arg(parts)).await
    }

    /// Lists parts in the work of their lines again, and wakes every worker: rows of them were reopened.
    pub async fn requeue(&self, parts: &[PartId]) -> Result<()> {
        if parts.is_empty() {
            return Ok(());
        }
        let mut lines = Pipeline::with_capacity(parts.len());
        for part in parts {
            lines.hget(self.keys.campaign(part.campaign), format!("line:{}", part.number));
        }
        let lines: Vec<Option<String>> = self.query_all("HGET line", &lines).await?;
        let mut work = Pipeline::with_capacity(parts.len());
        for (part, line) in parts.iter().zip(lines) {
            let Some(line) = line else { continue };
            work.sadd(self.keys.work(&LineId::from(line.as_str())), part.to_string());
        }
        self.query_all::<u64>("SADD work", &work).await?;
        self.wake().await
    }

    /// Which of `parts` the work of their lines does not list, in one round trip.
    pub async fn parts_not_listed(&self, parts: &[(PartId, LineId)]) -> Result<Vec<PartId>> {
        let mut listed = Pipeline::with_capacity(parts.len());
        for (part, line) in parts {
            listed.sismember(self.keys.work(line), part.to_string());
        }
        let listed: Vec<bool> = self.query_all("SISMEMBER work", &listed).await?;
        Ok(parts.iter().zip(listed).filter(|(_, listed)| !listed).map(|((part, _), _)| *part).collect())
    }

    /// A number that rises whenever a line may have something new to do.
    pub async fn pulse(&self) -> Result<u64> {
        let pulse: Option<u64> = self.query("GET pulse", cmd("GET").arg(self.keys.pulse())).await?;
        Ok(pulse.unwrap_or(0))
    }

    /// Wakes every worker.
    pub async fn wake(&self) -> Result<()> {
        self.query("INCR pulse", cmd("INCR").arg(self.keys.pulse())).await
    }

    /// What operators set on `lines`.
    pub async fn controls(&self, lines: &[LineId]) -> Result<Vec<LineControl>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.cmd("HMGET").arg(self.keys.control(line)).arg(&["rate", "paused"]);
        }
        let fields: Vec<(Option<f64>, Option<u8>)> = self.query_all("HMGET control", &pipeline).await?;
        // An earlier version took any rate above 0, and the limiter cannot count the lowest of them.
        let usable = |rate: Option<f64>| rate.map(|rate| rate.clamp(LINE_RATE_MIN, LINE_RATE_MAX));
        let control = |(rate, paused)| LineControl { rate: usable(rate), paused: paused == Some(1) };
        Ok(fields.into_iter().map(control).collect())
    }

    /// Sets what a line may send each second; `None`: what is configured.
    pub async fn set_rate(&self, line: &LineId, rate: Option<f64>) -> Result<()> {
        let key = self.keys.control(line);
        match rate {
            Some(rate) => self.change_and_wake(cmd("HSET").arg(key).arg("rate").arg(rate)).await,
            None => self.change_and_wake(cmd("HDEL").arg(key).arg("rate")).await,
        }
    }

    /// Pauses a line, or lets it go on.
    pub async fn set_paused(&self, line: &LineId, paused: bool) -> Result<()> {
        self.change_and_wake(cmd("HSET").arg(self.keys.control(line)).arg("paused").arg(u8::from(paused))).await
    }

    /// What is held back. Holds that ended are left out.
    pub async fn holds(&self, now: UnixMs) -> Result<HashMap<HoldScope, Hold>> {
        let key = self.keys.holds();
        let fields: HashMap<String, String> = self.query("HGETALL holds", cmd("HGETALL").arg(&key)).await?;
        let corrupt = |reason: String| StoreError::Corrupt { key: key.clone(), reason };
        let mut holds = HashMap::with_capacity(fields.len());
        for (scope, hold) in fields {
            let hold: Hold = serde_json::from_str(&hold).map_err(|error| corrupt(error.to_string()))?;
            if hold.holds(now) {
                holds.insert(scope.parse().map_err(|_| corrupt(format!("{scope} is not a scope")))?, hold);
            }
        }
        Ok(holds)
    }

    /// Holds a scope back, everywhere.
    pub async fn hold(&self, scope: &HoldScope, hold: &Hold) -> Result<()> {
        let json = serde_json::to_string(hold).expect("a hold has only strings and numbers");
        self.change_and_wake(cmd("HSET").arg(self.keys.holds()).arg(scope.to_string()).arg(json)).await
    }

    /// Holds a scope back for a fault that Meta told of at `at`, unless it is held, or was let go since. Gives whether this call
    /// held it.
    pub async fn hold_if_new(&self, scope: &HoldScope, hold: &Hold, at: UnixMs) -> Result<bool> {
        let mut asked = Pipeline::new();
        asked.hget(self.keys.holds(), scope.to_string()).hget(self.keys.lifted(), scope.to_string());
        let answers: Vec<Option<String>> = self.query_all("HGET hold", &asked).await?;
        let field = |n: usize| answers.get(n).cloned().flatten();
        let before = field(0).and_then(|json| serde_json::from_str::<Hold>(&json).ok());
        if before.as_ref().is_some_and(|before| before.holds(hold.since)) {
            return Ok(false);
        }
        let lifted = field(1).and_then(|at| at.parse().ok().map(UnixMs));
        let ended = before.and_then(|before| before.until);
        if lifted.max(ended).is_some_and(|end| at <= end) {
            return Ok(false);
        }
        self.hold(scope, hold).await?;
        Ok(true)
    }

    /// Lets a scope go, and keeps when that was: what Meta told of before does not hold it again.
    pub async fn unhold(&self, scope: &HoldScope) -> Result<()> {
        let now = self.time().await?;
        let mut pipeline = Pipeline::new();
        pipeline.hset(self.keys.lifted(), scope.to_string(), now.0).hdel(self.keys.holds(), scope.to_string());
        pipeline.incr(self.keys.pulse(), 1);
        self.query_all::<i64>("HDEL hold", &pipeline).await.map(drop)
    }

    /// The change first, the wake-up second: a worker that wakes finds the change.
    async fn change_and_wake(&self, change: &Cmd) -> Result<()> {
        let mut pipeline = Pipeline::new();
        pipeline.add_command(change.clone()).incr(self.keys.pulse(), 1);
        self.query_all::<i64>("control", &pipeline).await.map(drop)
    }

    /// Leaves reports on lines for those who ask; they expire if they are not renewed.
    pub async fn put_reports(&self, reports: &[(LineId, LineReport)], lifetime: Duration) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for (line, report) in reports {
            let json = serde_json::to_string(report).expect("a report has only strings and numbers");
            pipeline.cmd("SET").arg(self.keys.report(line)).arg(json).arg("PX").arg(ms(lifetime));
        }
        self.query_all::<()>("SET report", &pipeline).await.map(drop)
    }

    /// The newest reports on `lines`.
    pub async fn reports(&self, lines: &[LineId]) -> Result<Vec<Option<LineReport>>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.get(self.keys.report(line));
        }
        let reports: Vec<Option<String>> = self.query_all("GET report", &pipeline).await?;
        // A report is a courtesy: one that an older worker wrote in another form is as good as none.
        Ok(reports.into_iter().map(|json| serde_json::from_str(&json?).ok()).collect())
    }
}

/// Whole milliseconds, as Redis takes them.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
