//! The series of the whole installation, which the worker with the duty of housekeeping reads from Redis.
//!
//! Only that worker shows them. It stops when it loses the duty, or when it has read nothing for a minute.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    AGE_MAX,
    series::{
        CAMPAIGNS_HELD, DEAD_LETTERS, HOLDS, HOLDS_BY_CODE, JOBS_WAITING, LINES_UNLISTED, MESSAGING_LIMIT,
        MESSAGING_LIMIT_USED, QUEUE_MESSAGES, QUEUE_OLDEST_AGE, REDIS_MEMORY, REDIS_MEMORY_LIMIT, REDIS_RISK, UNKNOWN,
    },
    text::MetricsText,
};
use crate::domain::{BusinessId, Hold, HoldScope, State};

/// The values that housekeeping has read. Clones share one state.
#[derive(Clone, Debug, Default)]
pub struct HousekeepingMetrics(Arc<Mutex<Read>>);

#[derive(Debug, Default)]
struct Read {
    installation: Option<(Instant, InstallationGauges)>,
    unlisted: Option<(Instant, usize)>,
}

/// The open work of an installation, and what stops it.
#[derive(Clone, Debug, Default)]
pub struct InstallationGauges {
    /// The number of recipients in each open state, in the running campaigns.
    pub queue: Vec<(State, u64)>,
    /// The number of unknown recipients, in the running campaigns.
    pub unknown: u64,
    /// How long the oldest running campaign has run.
    pub oldest_age: Option<Duration>,
    /// The number of running campaigns with recipients to send to, whose template or its category is held.
    pub campaigns_held: usize,
    /// The number of holds of each kind of scope.
    pub holds: Vec<(&'static str, u64)>,
    /// The number of holds of each code.
    pub holds_by_code: Vec<(String, u64)>,
    /// Each limited business with its limit, and how many people count towards it.
    pub messaging_limits: Vec<(BusinessId, u32, u64)>,
    /// Entries of the job stream.
    pub jobs_waiting: u64,
    /// Dead letters of jobs.
    pub dead_letters: u64,
    /// The memory of the fullest Redis server and its limit, in bytes, if there is a limit.
    pub redis_memory: Option<(u64, u64)>,
    /// Each setting of Redis that can lose campaigns, and whether it is set.
    pub redis_risks: Vec<(&'static str, bool)>,
}

impl InstallationGauges {
    /// Sets the number of recipients in each open state to `count` of that state.
    pub fn set_queue(&mut self, count: impl Fn(State) -> u64) {
        let open = State::ALL.into_iter().filter(|state| state.is_open());
        self.queue = open.map(|state| (state, count(state))).collect();
    }

    /// Counts `holds` by scope and by code.
    pub fn set_holds<'a>(&mut self, holds: impl Iterator<Item = (&'a HoldScope, &'a Hold)>) {
        self.holds = HoldScope::KINDS.map(|kind| (kind, 0)).into();
        self.holds_by_code.clear();
        for (scope, hold) in holds {
            self.holds.iter_mut().filter(|(kind, _)| *kind == scope.kind()).for_each(|(_, n)| *n += 1);
            let code = super::code_label(hold.code);
            match self.holds_by_code.iter_mut().find(|(counted, _)| *counted == code) {
                Some((_, n)) => *n += 1,
                None => self.holds_by_code.push((code, 1)),
            }
        }
    }
}

impl HousekeepingMetrics {
    /// Publishes what was read.
    pub fn publish(&self, installation: InstallationGauges) {
        self.lock().installation = Some((Instant::now(), installation));
    }

    /// Publishes the number of lines with work that no process lists.
    pub fn publish_unlisted(&self, lines: usize) {
        self.lock().unlisted = Some((Instant::now(), lines));
    }

    /// Removes the series when the result is dropped, because another worker has the duty from then on.
    pub fn clear_at_end(&self) -> impl Drop + use<> {
        ClearAtEnd(self.clone())
    }

    /// Writes the series as of `now`, unless they are too old.
    pub(super) fn write(&self, text: &mut MetricsText, now: Instant) {
        let read = self.lock();
        let age = |at: Instant| now.saturating_duration_since(at);
        if let Some((_, lines)) = read.unlisted.filter(|(at, _)| age(*at) <= AGE_MAX) {
            text.add(LINES_UNLISTED, [([], lines)]);
        }
        let Some((at, installation)) = read.installation.as_ref().filter(|(at, _)| age(*at) <= AGE_MAX) else {
            return;
        };
        let oldest = installation.oldest_age.map_or(0.0, |oldest| (oldest + age(*at)).as_secs_f64());
        text.add(QUEUE_MESSAGES, installation.queue.iter().map(|(state, n)| ([state.name()], *n)));
        text.add(QUEUE_OLDEST_AGE, [([], oldest)]);
        text.add(UNKNOWN, [([], installation.unknown)]);
        text.add(CAMPAIGNS_HELD, [([], installation.campaigns_held)]);
        text.add(HOLDS, installation.holds.iter().map(|(kind, n)| ([*kind], *n)));
        text.add(HOLDS_BY_CODE, installation.holds_by_code.iter().map(|(code, n)| ([code.as_str()], *n)));
        let limits = || installation.messaging_limits.iter().map(|(id, limit, used)| (id.to_string(), limit, used));
        let businesses: Vec<(String, &u32, &u64)> = limits().collect();
        text.add(MESSAGING_LIMIT, businesses.iter().map(|(id, limit, _)| ([id.as_str()], **limit)));
        text.add(MESSAGING_LIMIT_USED, businesses.iter().map(|(id, _, used)| ([id.as_str()], **used)));
        text.add(JOBS_WAITING, [([], installation.jobs_waiting)]);
        text.add(DEAD_LETTERS, [([], installation.dead_letters)]);
        text.add(REDIS_MEMORY, installation.redis_memory.map(|(used, _)| ([], used)));
        text.add(REDIS_MEMORY_LIMIT, installation.redis_memory.map(|(_, limit)| ([], limit)));
        text.add(REDIS_RISK, installation.redis_risks.iter().map(|(risk, is_set)| ([*risk], u8::from(*is_set))));
    }

    /// Ignores poisoning, because nothing panics while the lock is held.
    fn lock(&self) -> MutexGuard<'_, Read> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct ClearAtEnd(HousekeepingMetrics);

impl Drop for ClearAtEnd {
    fn drop(&mut self) {
        *self.0.lock() = Read::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{MetaCode, UnixMs};

    fn shown(metrics: &HousekeepingMetrics, now: Instant) -> Vec<String> {
        let mut text = MetricsText::default();
        metrics.write(&mut text, now);
        text.into_string().lines().filter(|line| !line.starts_with('#')).map(str::to_owned).collect()
    }

    fn installation() -> InstallationGauges {
        let mut read = InstallationGauges {
            unknown: 3,
            campaigns_held: 1,
            messaging_limits: vec![("1001".into(), 250, 7)],
            redis_memory: Some((60, 100)),
            redis_risks: vec![("evicts", true), ("no_append_only_file", false)],
            ..InstallationGauges::default()
        };
        read.set_queue(|state| u64::from(state.code()) * 10);
        let hold = |code| Hold { code, reason: String::new(), since: UnixMs(0), until: None };
        let holds = [
            (HoldScope::Line("3001".into()), hold(Some(MetaCode(131_048)))),
            (HoldScope::Line("3002".into()), hold(Some(MetaCode(131_048)))),
            (HoldScope::Token("2001".into()), hold(None)),
        ];
        read.set_holds(holds.iter().map(|(scope, hold)| (scope, hold)));
        read
    }

    #[test]
    fn the_worker_with_the_duty_shows_the_queue_and_the_holds() {
        let metrics = HousekeepingMetrics::default();
        metrics.publish(installation());
        metrics.publish_unlisted(2);
        let shown = shown(&metrics, Instant::now());
        for series in [
            "pregon_queue_messages{state=\"pending\"} 10",
            "pregon_queue_messages{state=\"retrying\"} 20",
            "pregon_queue_messages{state=\"in_flight\"} 30",
            "pregon_queue_messages{state=\"in_doubt\"} 40",
            "pregon_queue_oldest_age_seconds 0",
            "pregon_unknown_recipients 3",
            "pregon_campaigns_held 1",
            "pregon_holds{scope=\"line\"} 2",
            "pregon_holds{scope=\"token\"} 1",
            "pregon_holds{scope=\"waba\"} 0",
            "pregon_holds_by_code{code=\"131048\"} 2",
            "pregon_holds_by_code{code=\"other\"} 1",
            "pregon_messaging_limit{business=\"1001\"} 250",
            "pregon_messaging_limit_used{business=\"1001\"} 7",
            "pregon_jobs_waiting 0",
            "pregon_dead_letters 0",
            "pregon_redis_memory_bytes 60",
            "pregon_redis_memory_limit_bytes 100",
            "pregon_redis_risk{risk=\"evicts\"} 1",
            "pregon_redis_risk{risk=\"no_append_only_file\"} 0",
            "pregon_lines_unlisted 2",
        ] {
            assert!(shown.iter().any(|line| line == series), "{series} is not in {shown:#?}");
        }
    }

    #[test]
    fn a_redis_without_a_limit_has_no_series_of_its_memory() {
        let metrics = HousekeepingMetrics::default();
        metrics.publish(InstallationGauges { redis_memory: None, ..installation() });
        let shown = shown(&metrics, Instant::now());
        assert!(!shown.iter().any(|line| line.contains("pregon_redis_memory")), "{shown:#?}");
    }

    #[test]
    fn a_worker_without_the_duty_shows_nothing() {
        let metrics = HousekeepingMetrics::default();
        let duty = metrics.clear_at_end();
        metrics.publish(installation());
        metrics.publish_unlisted(2);
        drop(duty);
        assert!(shown(&metrics, Instant::now()).is_empty());
    }

    #[test]
    fn what_was_read_long_ago_is_not_shown() {
        let metrics = HousekeepingMetrics::default();
        metrics.publish(installation());
        metrics.publish_unlisted(2);
        let now = Instant::now();
        assert!(!shown(&metrics, now + AGE_MAX / 2).is_empty());
        assert!(shown(&metrics, now + AGE_MAX + Duration::from_secs(1)).is_empty());
    }
}
