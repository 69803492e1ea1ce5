//! Lines in Redis: leases, work, operator settings and owners' reports. Also the heartbeats of workers.
//!
//! If a worker dies: its leases expire, and the next owners find the same work.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{FromRedisValue, Pipeline, Value, cmd};
use serde::{Deserialize, Serialize};

use super::{Call, Result, Store, StoreError, pauses::obedience_of, read, script};
use crate::domain::{LINE_RATE_MAX, LINE_RATE_MIN, LineAllowance, LineId, PartId, UnixMs};

/// Upper limit of the random step by which an epoch rises if it is ahead of the clock of Redis.
const EPOCH_RISE_MAX: u64 = 1_000;

/// The stored allowance of a line for which Meta returned none.
const UNKNOWN_ALLOWANCE: &str = "unknown";

/// What a lease is on. One worker at a time has the lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LeaseTarget {
    /// Sending on a line.
    Line(LineId),
    /// A duty, such as reading the stream of jobs. One worker of an installation does it at a time.
    Duty(String),
}

/// An operator's settings of a line, and what Meta allows on it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LineControl {
    /// Messages per second, in place of the configured rate or of what Meta allows.
    pub rate: Option<f64>,
    /// What Meta allows.
    pub allowance: LineAllowance,
    /// Whether sending is paused.
    pub paused: bool,
    /// When it was paused. Unknown if an older release paused it.
    pub paused_since: Option<UnixMs>,
}

/// The worker that has the lease of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHolder {
    /// Its id.
    pub worker: String,
    /// The epoch of the lease.
    pub epoch: u64,
}

/// A report of the owner of a line, for the API and the command line.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LineReport {
    /// The worker that owns the line.
    pub worker: String,
    /// Current rate in messages per second.
    pub rate: f64,
    /// Whether the rate is reduced because Meta throttles the line.
    pub throttled: bool,
    /// Whether Meta is unreachable.
    pub unreachable: bool,
    /// Why Meta is unreachable, if it is. Older versions do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unreachable_because: Option<String>,
    /// What arrives instead of Meta's responses, while the path to Meta is broken. Older versions do not report it.
    #[serde(default)]
    pub path_broken: Option<String>,
    /// Since when the line is slowed down or stopped, if it is: it is throttled, Meta does not answer, or the share of
    /// its warm-up is spent. Older versions do not report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<UnixMs>,
    /// When the next day of the line's warm-up begins, while the share of this day is spent. Older versions do not
    /// report it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm_up_until: Option<UnixMs>,
    /// Attempts in flight.
    pub in_flight: usize,
    /// Messages per second that Meta accepted, over about the last second.
    pub accepted_per_second: f64,
    /// The features of the worker. It sends no campaign that requires another one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub features: Vec<String>,
    /// Time of the report.
    pub at: UnixMs,
}

/// The workers that are alive, as returned by a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveWorkers {
    /// Their names, sorted.
    pub workers: Vec<String>,
    /// Whether the registry has the list of lines of the calling worker.
    pub is_registered: bool,
    /// Another number after each change of a list of lines. The lists have to be read after it.
    pub lists_version: u64,
}

impl Store {
    /// Takes or renews leases of `length`, in one round trip. Each target comes with the epoch of the caller's lease
    /// on it, if it has one.
    ///
    /// Returns an epoch for each target; `None` if another worker has the lease, or if the caller's lease has expired.
    pub async fn acquire(
        &self,
        targets: &[(LeaseTarget, Option<u64>)],
        worker: &str,
        length: Duration,
    ) -> Result<Vec<Option<u64>>> {
        let calls = targets.iter().map(|(target, held)| {
            let keys = self.lease_keys(target);
            let rise = rand::random_range(1..=EPOCH_RISE_MAX);
            Call::new(&script::ACQUIRE, &keys).arg(worker).arg(ms(length)).arg(held.unwrap_or(0)).arg(rise)
        });
        let results: Vec<Result<(u8, u64)>> = self.call_all(&calls.collect::<Vec<_>>()).await?;
        let keys: Vec<String> = targets.iter().map(|(target, _)| self.lease_keys(target)[0].clone()).collect();
        self.wait_replicated(&keys, length / 3).await?;
        results.into_iter().map(|result| result.map(|(got, epoch)| (got == 1).then_some(epoch))).collect()
    }

    /// Releases a lease. Does nothing if the worker no longer has the lease of `epoch`.
    pub async fn release(&self, target: &LeaseTarget, worker: &str, epoch: u64) -> Result<()> {
        let [lease, _] = self.lease_keys(target);
        self.call::<u8>(Call::new(&script::RELEASE, &[lease]).arg(worker).arg(epoch)).await.map(drop)
    }

    /// Stores that a worker is alive at `now`.
    pub async fn beat(&self, worker: &str, now: UnixMs) -> Result<()> {
        self.query::<u8>("HSET beats", cmd("HSET").arg(self.keys.beats()).arg(worker).arg(now.0)).await.map(drop)
    }

    /// When each worker was last alive. Workers of older releases have no entry.
    pub async fn beats(&self) -> Result<HashMap<String, UnixMs>> {
        let beats: HashMap<String, u64> = self.query("HGETALL beats", cmd("HGETALL").arg(self.keys.beats())).await?;
        Ok(beats.into_iter().map(|(worker, at)| (worker, UnixMs(at))).collect())
    }

    /// The owners of `lines`; `None` for a line without one.
    pub async fn owners(&self, lines: &[LineId]) -> Result<Vec<Option<LeaseHolder>>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.get(self.keys.lease(line));
        }
        let leases: Vec<Option<String>> = self.query_all("GET lease", &pipeline).await?;
        let owner = |lease: Option<String>| {
            let lease = lease?;
            let (worker, epoch) = lease.split_once(' ')?;
            Some(LeaseHolder { worker: worker.to_owned(), epoch: epoch.parse().ok()? })
        };
        Ok(leases.into_iter().map(owner).collect())
    }

    /// The remaining time of each lease of `lines`; `None` for a line without one.
    pub async fn lease_ttls(&self, lines: &[LineId]) -> Result<Vec<Option<Duration>>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.pttl(self.keys.lease(line));
        }
        let ttls: Vec<i64> = self.query_all("PTTL lease", &pipeline).await?;
        Ok(ttls.into_iter().map(|ms| u64::try_from(ms).ok().map(Duration::from_millis)).collect())
    }

    fn lease_keys(&self, target: &LeaseTarget) -> [String; 2] {
        match target {
            LeaseTarget::Line(line) => [self.keys.lease(line), self.keys.epoch(line)],
            LeaseTarget::Duty(duty) => [self.keys.duty_lease(duty), self.keys.duty_epoch(duty)],
        }
    }

    /// Records that `worker` is alive until `until`, and removes the workers that are dead at `now`. Returns the live
    /// ones.
    ///
    /// An entry that ends more than `until` − `now` after `until` was written before the clock of Redis was set back.
    /// It is removed too: a live worker writes it again with its next heartbeat.
    pub async fn worker_heartbeat(&self, worker: &str, now: UnixMs, until: UnixMs) -> Result<LiveWorkers> {
        let key = self.keys.workers();
        let too_late = format!("({}", until.after(until.since(now)).0);
        let mut pipeline = Pipeline::new();
        pipeline
            .zadd(&key, worker, until.0)
            .zrembyscore(&key, 0, now.0)
            .zrembyscore(&key, too_late, "+inf")
            .zrange(&key, 0, -1)
            .hexists(self.keys.line_lists(), worker)
            .get(self.keys.line_lists_version());
        let mut answers: Vec<Value> = self.query_all("ZADD workers", &pipeline).await?;
        let lists_version: Option<u64> = read("GET line_lists_version", answers.pop().unwrap_or_default())?;
        let is_registered = read("HEXISTS line_lists", answers.pop().unwrap_or_default())?;
        let mut workers: Vec<String> = read("ZRANGE workers", answers.pop().unwrap_or_default())?;
        workers.sort_unstable();
        Ok(LiveWorkers { workers, is_registered, lists_version: lists_version.unwrap_or(0) })
    }

    /// Removes a worker that stops.
    pub async fn remove_worker(&self, worker: &str) -> Result<()> {
        let mut pipeline = Pipeline::new();
        pipeline.zrem(self.keys.workers(), worker).hdel(self.keys.line_lists(), worker);
        pipeline.hdel(self.keys.readable_versions(), worker).hdel(self.keys.beats(), worker);
        pipeline.hdel(self.keys.pauses(), obedience_of(worker));
        self.query_all::<u8>("ZREM workers", &pipeline).await.map(drop)
    }

    /// The parts in the work of `line`.
    pub async fn work(&self, line: &LineId) -> Result<Vec<PartId>> {
        let key = self.keys.work(line);
        let parts: Vec<String> = self.query("SMEMBERS work", cmd("SMEMBERS").arg(&key)).await?;
        let read = |text: String| {
            text.parse().map_err(|_| StoreError::Corrupt { key: key.clone(), reason: format!("{text} is not a part") })
        };
        parts.into_iter().map(read).collect()
    }

    /// Removes parts, at least one, from the work of `line`, because they have no open rows left.
    pub async fn work_done(&self, line: &LineId, parts: &[PartId]) -> Result<()> {
        let parts: Vec<String> = parts.iter().map(PartId::to_string).collect();
        self.query("SREM work", cmd("SREM").arg(self.keys.work(line)).arg(parts)).await
    }

    /// Adds parts to the work of their lines again and wakes every worker. For parts with reopened rows.
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

    /// The parts among `parts` that are missing from the work of their lines, in one round trip.
    pub async fn parts_not_listed(&self, parts: &[(PartId, LineId)]) -> Result<Vec<PartId>> {
        let mut listed = Pipeline::with_capacity(parts.len());
        for (part, line) in parts {
            listed.sismember(self.keys.work(line), part.to_string());
        }
        let listed: Vec<bool> = self.query_all("SISMEMBER work", &listed).await?;
        Ok(parts.iter().zip(listed).filter(|(_, listed)| !listed).map(|((part, _), _)| *part).collect())
    }

    /// The counter that rises whenever a line may have new work.
    pub async fn pulse(&self) -> Result<u64> {
        let pulse: Option<u64> = self.query("GET pulse", cmd("GET").arg(self.keys.pulse())).await?;
        Ok(pulse.unwrap_or(0))
    }

    /// Wakes every worker: raises the pulse, which they watch.
    pub async fn wake(&self) -> Result<()> {
        self.query("INCR pulse", cmd("INCR").arg(self.keys.pulse())).await
    }

    /// The operators' settings of `lines`, and what Meta allows on them.
    pub async fn controls(&self, lines: &[LineId]) -> Result<Vec<LineControl>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.cmd("HMGET").arg(self.keys.control(line)).arg(&["rate", "paused", "paused_since", "allowance"]);
        }
        type Fields = (Option<f64>, Option<u8>, Option<u64>, Option<String>);
        let fields: Vec<Fields> = self.query_all("HMGET control", &pipeline).await?;
        // An earlier version accepted any rate above 0, and the limiter can't represent the lowest.
        let usable = |rate: Option<f64>| rate.map(|rate| rate.clamp(LINE_RATE_MIN, LINE_RATE_MAX));
        let control = |(rate, paused, since, allowance): Fields| LineControl {
            rate: usable(rate),
            paused: paused == Some(1),
            paused_since: since.map(UnixMs),
            allowance: read_allowance(allowance.as_deref()),
        };
        Ok(fields.into_iter().map(control).collect())
    }

    /// Stores what Meta allows on lines, and wakes every worker if any of it changed. Returns for each line whether it
    /// changed.
    pub async fn put_allowances(&self, allowances: &[(LineId, LineAllowance)]) -> Result<Vec<bool>> {
        let ids: Vec<LineId> = allowances.iter().map(|(line, _)| line.clone()).collect();
        let before = self.controls(&ids).await?;
        let changed: Vec<bool> =
            allowances.iter().zip(&before).map(|((_, now), before)| before.allowance != *now).collect();
        let mut pipeline = Pipeline::new();
        for ((line, allowance), _) in allowances.iter().zip(&changed).filter(|(_, changed)| **changed) {
            match allowance_text(*allowance) {
                Some(text) => pipeline.hset(self.keys.control(line), "allowance", text),
                None => pipeline.hdel(self.keys.control(line), "allowance"),
            };
        }
        if changed.contains(&true) {
            pipeline.incr(self.keys.pulse(), 1);
            self.query_all::<Value>("HSET allowance", &pipeline).await?;
        }
        Ok(changed)
    }

    /// Sets the rate of a line in messages per second; `None` restores the configured rate, or what Meta allows. Wakes
    /// every worker. Returns whether the rate changed.
    pub async fn set_rate(&self, line: &LineId, rate: Option<f64>) -> Result<bool> {
        let key = self.keys.control(line);
        let mut change = Pipeline::new();
        match rate {
            Some(rate) => change.hset(&key, "rate", rate),
            None => change.hdel(&key, "rate"),
        };
        let before: Option<f64> = self.control_before(&key, "rate", &change).await?;
        Ok(before != rate)
    }

    /// Pauses or resumes a line. Wakes every worker. Returns whether that changed the line.
    pub async fn set_paused(&self, line: &LineId, paused: bool) -> Result<bool> {
        let (key, now) = (self.keys.control(line), self.time().await?);
        let mut change = Pipeline::new();
        change.hset(&key, "paused", u8::from(paused));
        if paused {
            change.hset_nx(&key, "paused_since", now.0);
        } else {
            change.hdel(&key, "paused_since");
        }
        let before: Option<u8> = self.control_before(&key, "paused", &change).await?;
        Ok((before == Some(1)) != paused)
    }

    /// Changes a line's control and wakes every worker. Returns the previous value of a field.
    async fn control_before<T: FromRedisValue>(&self, key: &str, field: &str, change: &Pipeline) -> Result<Option<T>> {
        let mut pipeline = Pipeline::new();
        pipeline.hget(key, field);
        for cmd in change.cmd_iter() {
            pipeline.add_command(cmd.clone());
        }
        pipeline.incr(self.keys.pulse(), 1);
        let mut answers: Vec<Value> = self.query_all("control", &pipeline).await?;
        read("HGET control", answers.swap_remove(0))
    }

    /// Stores reports on lines. Each expires after `lifetime` unless it is replaced.
    pub async fn put_reports(&self, reports: &[(LineId, LineReport)], lifetime: Duration) -> Result<()> {
        let mut pipeline = Pipeline::new();
        for (line, report) in reports {
            let json = serde_json::to_string(report).expect("a report has only strings and numbers");
            pipeline.cmd("SET").arg(self.keys.report(line)).arg(json).arg("PX").arg(ms(lifetime));
        }
        self.query_all::<()>("SET report", &pipeline).await.map(drop)
    }

    /// The reports on `lines`; `None` if a line has none that can be parsed.
    pub async fn reports(&self, lines: &[LineId]) -> Result<Vec<Option<LineReport>>> {
        let mut pipeline = Pipeline::new();
        for line in lines {
            pipeline.get(self.keys.report(line));
        }
        let reports: Vec<Option<String>> = self.query_all("GET report", &pipeline).await?;
        // Reports are only informative, so one that an older worker wrote in another form is skipped.
        Ok(reports.into_iter().map(|json| serde_json::from_str(&json?).ok()).collect())
    }
}

/// Whole milliseconds, the unit of times in Redis.
pub fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The text to store for an allowance; `None` if Meta was not asked.
fn allowance_text(allowance: LineAllowance) -> Option<String> {
    match allowance {
        LineAllowance::Unasked => None,
        LineAllowance::Unknown => Some(UNKNOWN_ALLOWANCE.to_owned()),
        LineAllowance::Known(allowed) => Some(allowed.to_string()),
    }
}

/// Reads the stored text of an allowance.
fn read_allowance(text: Option<&str>) -> LineAllowance {
    match text.map(str::parse::<f64>) {
        None => LineAllowance::Unasked,
        Some(Ok(allowed)) if (LINE_RATE_MIN..=LINE_RATE_MAX).contains(&allowed) => LineAllowance::Known(allowed),
        // A newer release may have stored another word.
        Some(_) => LineAllowance::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_allowance_is_read_as_it_was_stored() {
        for allowance in
            [LineAllowance::Unasked, LineAllowance::Unknown, LineAllowance::Known(80.0), LineAllowance::Known(0.5)]
        {
            assert_eq!(read_allowance(allowance_text(allowance).as_deref()), allowance);
        }
        assert_eq!(["", "fast", "-1", "inf"].map(|text| read_allowance(Some(text))), [LineAllowance::Unknown; 4]);
    }
}
