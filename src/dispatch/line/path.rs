//! Path health: whether the path to Meta works, judged by the attempts of one line.
//!
//! An answer from Meta, even an error, proves that the path works. An attempt is *unanswered* if nothing comes back, or
//! something that is not Meta's JSON (a proxy's HTML, an empty body). Its recipient is then in doubt. A single
//! unanswered attempt can be chance. Several in a row mean that every further message would be lost the same way, so
//! the line stops. It probes Meta with a read request, with growing pauses, until a probe is answered. Then one trial
//! message is sent, and the others follow when it is answered.
//!
//! Timeouts come too late for that count: a fast line fills all its slots while the client waits. So while no answer
//! has come for `SILENCE`, only one further message is in flight at a time.
//!
//! If the process dies: the next owner of the line starts counting again.
//! Never: reads a clock, calls Meta, or writes to Redis.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::domain::WabaId;

/// Unanswered attempts in a row that stop a line. If every twentieth answer is lost at random, a line of 80 messages
/// per second stops for a second about twice a day. An outage costs this many messages, besides those that were in
/// flight.
const STREAK: u32 = 5;

/// The path is silent if an attempt is open and no answer has come for this long. Meta answers a send well within a
/// second.
const SILENCE: Duration = Duration::from_secs(3);

/// The first and the longest pause before a probe, so that a short outage costs little time, and a long one few calls.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15 * 60));

/// A line with messages to send uses a probe's answer well within this time. Later the line has nothing to send, and
/// whether the path is still broken is not known.
const UNUSED: Duration = Duration::from_secs(60);

/// The health of the path to Meta, as one line sees it.
#[derive(Default)]
pub struct PathHealth {
    /// Unanswered attempts in a row.
    streak: u32,
    answered_at: Option<Instant>,
    /// When the first attempt since Meta's last answer began.
    silent_since: Option<Instant>,
    /// When the only attempt that is allowed for now began: no other attempt begins until it ends.
    sole_attempt: Option<Instant>,
    outage: Option<Outage>,
}

/// An outage of the path. It ends when Meta answers a message.
struct Outage {
    /// What came instead of an answer.
    cause: String,
    phase: Phase,
    /// Probes and trial messages in a row that were not answered.
    failures: u32,
    /// Whether Meta answered a probe but not the trial message after it. Then answered probes of other lines do not
    /// count for this line.
    answers_probes_only: bool,
}

enum Phase {
    Stopped {
        /// The time of the last probe result that was applied. An older result is ignored.
        last_result: Instant,
        probe_at: Instant,
    },
    /// A probe was answered at this time, and one trial message may be sent.
    Trial(Instant),
}

impl PathHealth {
    /// Whether another message may be sent.
    pub fn may_send(&self) -> bool {
        self.sole_attempt.is_none() && !self.is_stopped()
    }

    /// Whether nothing is sent until Meta has answered a probe.
    pub fn is_stopped(&self) -> bool {
        self.outage.as_ref().is_some_and(|outage| matches!(outage.phase, Phase::Stopped { .. }))
    }

    /// While the path is broken: what came instead of an answer. A probe's answer does not repair the path, because a
    /// path may answer probes alone.
    pub fn broken_by(&self, now: Instant) -> Option<&str> {
        let Outage { cause, phase, .. } = self.outage.as_ref()?;
        let is_unused = matches!(phase, Phase::Trial(from) if self.sole_attempt.is_none() && now - *from >= UNUSED);
        (!is_unused).then_some(cause)
    }

    /// Records that an attempt begins.
    pub fn began(&mut self, now: Instant) {
        let silent = self.silent_since.is_some_and(|since| now - since >= SILENCE);
        if silent || self.outage.is_some() {
            self.sole_attempt = Some(now);
        }
        self.silent_since.get_or_insert(now);
    }

    /// Records that Meta answered an attempt. Returns whether that ends an outage.
    pub fn answered(&mut self, now: Instant) -> bool {
        (self.streak, self.answered_at) = (0, Some(now));
        (self.silent_since, self.sole_attempt) = (None, None);
        self.outage.take().is_some()
    }

    /// Records that the attempt that began at `began` was certainly not written. It says nothing about the path
    /// behind the connection.
    pub fn not_written(&mut self, began: Instant) {
        self.sole_attempt.take_if(|sole_attempt| *sole_attempt == began);
    }

    /// Records that the attempt that began at `began` was unanswered, because of `cause`. If that stops the line,
    /// returns the pause before the next probe. `jitter` is random, 0 to 1.
    pub fn unanswered(&mut self, began: Instant, now: Instant, cause: &str, jitter: f64) -> Option<Duration> {
        self.sole_attempt.take_if(|sole_attempt| *sole_attempt == began);
        // An attempt that has hung since before Meta's last answer belongs to an outage that is over.
        let is_old = now - began >= SILENCE && self.answered_at.is_some_and(|at| began < at);
        match &mut self.outage {
            None if is_old => None,
            None => {
                self.streak += 1;
                let stops = self.streak >= STREAK;
                stops.then(|| self.stop(now, cause, 0, false, jitter))
            }
            Some(Outage { phase: Phase::Trial(from), failures, .. }) if began >= *from => {
                let failures = *failures + 1;
                Some(self.stop(now, cause, failures, true, jitter))
            }
            Some(_) => None,
        }
    }

    fn stop(&mut self, now: Instant, cause: &str, failures: u32, answers_probes_only: bool, jitter: f64) -> Duration {
        let pause = pause(failures, jitter);
        let phase = Phase::Stopped { last_result: now, probe_at: now + pause };
        self.outage = Some(Outage { cause: cause.to_owned(), phase, failures, answers_probes_only });
        pause
    }

    /// When to probe Meta next, while the line is stopped.
    pub fn probe_at(&self) -> Option<Instant> {
        match self.outage.as_ref()?.phase {
            Phase::Stopped { probe_at, .. } => Some(probe_at),
            Phase::Trial(_) => None,
        }
    }

    /// Applies the result of a probe by this line or another one. Returns whether a trial message may be sent.
    /// `jitter` is random, 0 to 1.
    pub fn apply_probe(&mut self, result: ProbeResult, now: Instant, jitter: f64) -> bool {
        let Some(outage) = &mut self.outage else { return false };
        let Phase::Stopped { last_result, probe_at } = &mut outage.phase else { return false };
        let is_due = now >= *probe_at;
        if result.at <= *last_result {
            return false;
        }
        if !result.answered {
            if is_due {
                outage.failures += 1;
                (*last_result, *probe_at) = (result.at, now + pause(outage.failures, jitter));
            }
            return false;
        }
        let tries = is_due || !outage.answers_probes_only;
        if tries {
            outage.phase = Phase::Trial(now);
            self.sole_attempt = None;
        }
        tries
    }
}

/// The pause after `failures` in a row. Up to half of it is random, so that many lines do not probe at the same moment.
fn pause(failures: u32, jitter: f64) -> Duration {
    let (first, longest) = PAUSE;
    (first * 2u32.saturating_pow(failures.min(16))).min(longest).mul_f64(1.0 - jitter / 2.0)
}

/// The result of a probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// When the probe ended.
    pub at: Instant,
    /// Whether Meta answered the probe.
    pub answered: bool,
}

/// The probes of a shard, by WABA. The lines of a WABA share one probe at a time, and its result.
#[derive(Default)]
pub struct Probes(RefCell<HashMap<WabaId, Rc<Probe>>>);

/// The probe of one WABA.
#[derive(Default)]
pub struct Probe {
    in_flight: Cell<bool>,
    result: Cell<Option<ProbeResult>>,
}

/// A probe in flight. Dropped without a result, it lets the next probe start.
pub struct ProbeGuard(Rc<Probe>);

impl Probes {
    /// The probe of `waba`.
    pub fn get(&self, waba: &WabaId) -> Rc<Probe> {
        self.0.borrow_mut().entry(waba.clone()).or_default().clone()
    }
}

impl Probe {
    /// The last result, if there is one.
    pub fn result(&self) -> Option<ProbeResult> {
        self.result.get()
    }

    /// Starts a probe, unless one is in flight.
    pub fn start(self: &Rc<Self>) -> Option<ProbeGuard> {
        (!self.in_flight.replace(true)).then(|| ProbeGuard(self.clone()))
    }
}

impl ProbeGuard {
    /// Ends the probe with `result`.
    pub fn finish(self, result: ProbeResult) {
        self.0.result.set(Some(result));
    }
}

impl Drop for ProbeGuard {
    fn drop(&mut self) {
        self.0.in_flight.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSE: &str = "HTTP 503 with 33 bytes that are not Meta's JSON";
    const LATENCY: Duration = Duration::from_millis(50);
    const SECOND: Duration = Duration::from_secs(1);

    /// Sends unanswered messages one after the other from `at` on, until the path stops. Returns how many, and when
    /// the last one ended.
    fn lose_all(path: &mut PathHealth, mut at: Instant) -> (u32, Instant) {
        let mut sent = 0;
        while path.may_send() {
            path.began(at);
            path.unanswered(at, at + LATENCY, CAUSE, 0.0);
            at += LATENCY;
            sent += 1;
        }
        (sent, at)
    }

    fn result(at: Instant, answered: bool) -> ProbeResult {
        ProbeResult { at, answered }
    }

    #[test]
    fn a_streak_of_unanswered_attempts_stops_the_line() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (sent, stopped) = lose_all(&mut path, start);
        assert_eq!((sent, path.is_stopped(), path.broken_by(stopped)), (STREAK, true, Some(CAUSE)));
        assert_eq!(path.probe_at(), Some(stopped + SECOND), "a short outage costs little");
    }

    #[test]
    fn an_answer_ends_the_streak_and_the_outage() {
        let (mut path, now) = (PathHealth::default(), Instant::now());
        for _ in 0..10 {
            for _ in 1..STREAK {
                assert_eq!(path.unanswered(now, now, CAUSE, 0.0), None);
            }
            assert!(!path.answered(now), "there was no outage");
        }
        lose_all(&mut path, now);
        assert!(path.answered(now), "a message that was in flight is answered after all");
        assert!(path.may_send() && path.broken_by(now).is_none());
    }

    #[test]
    fn a_message_that_was_not_written_does_not_count() {
        let (mut path, now) = (PathHealth::default(), Instant::now());
        for _ in 0..10 * STREAK {
            path.began(now);
            path.not_written(now);
        }
        assert!(path.may_send());
    }

    #[test]
    fn after_an_answered_probe_one_trial_message_goes_first() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (_, stopped) = lose_all(&mut path, start);
        let probed = stopped + SECOND;
        assert!(path.apply_probe(result(probed, true), probed, 0.0));
        assert!(path.may_send() && path.broken_by(probed) == Some(CAUSE), "no message has been answered");
        assert_eq!(path.broken_by(probed + UNUSED), None, "there is nothing to send");
        path.began(probed);
        assert_eq!(path.broken_by(probed + UNUSED), Some(CAUSE), "the trial message is not answered");
        assert!(!path.may_send());
        assert_eq!(path.unanswered(start, probed, CAUSE, 0.0), None, "it has hung since before the stop");
        assert!(!path.may_send() && !path.is_stopped());
        assert!(path.answered(probed + LATENCY) && path.broken_by(probed + LATENCY).is_none());
        for _ in 0..100 {
            assert!(path.may_send());
            path.began(probed + LATENCY);
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_while_probes_fail() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (_, mut now) = lose_all(&mut path, start);
        let mut pauses = Vec::new();
        for _ in 0..13 {
            let probe_at = path.probe_at().expect("it is stopped");
            pauses.push((probe_at - now).as_secs());
            now = probe_at;
            assert!(!path.apply_probe(result(now, false), now, 0.0));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
        assert_eq!((pause(0, 1.0), pause(20, 1.0)), (SECOND / 2, PAUSE.1 / 2), "half of a pause is random");
    }

    #[test]
    fn a_path_that_answers_only_probes_costs_one_message_a_pause() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (_, mut now) = lose_all(&mut path, start);
        let mut lost = 0;
        while now < start + Duration::from_secs(3_600) {
            now = path.probe_at().expect("it is stopped");
            assert!(path.apply_probe(result(now, true), now, 0.0));
            let (sent, ended) = lose_all(&mut path, now);
            (lost, now) = (lost + sent, ended);
            let probe_at = path.probe_at().expect("it is stopped");
            assert!(!path.apply_probe(result(now + LATENCY, true), probe_at - LATENCY, 0.0), "another line's probe");
        }
        assert!((10..15).contains(&lost), "{lost} in an hour");
    }

    #[test]
    fn lines_share_the_result_of_a_probe() {
        let ([mut one, mut other], start) = ([(); 2].map(|()| PathHealth::default()), Instant::now());
        let (_, stopped) = lose_all(&mut one, start);
        lose_all(&mut other, start);
        let now = stopped + SECOND;
        for path in [&mut one, &mut other] {
            assert!(!path.apply_probe(result(stopped - LATENCY, true), now, 0.0), "the result is older than the stop");
            assert!(!path.apply_probe(result(now, false), now, 0.0));
            assert_eq!(path.probe_at(), Some(now + 2 * SECOND));
            assert!(!path.apply_probe(result(now, false), now + 2 * SECOND, 0.0), "the result was applied before");
            assert_eq!(path.probe_at(), Some(now + 2 * SECOND), "a new probe is due");
            assert!(
                path.apply_probe(result(now + SECOND, true), now + SECOND, 0.0),
                "a result counts before the line's own probe is due"
            );
        }
        let probes = Probes::default();
        let probe = probes.get(&"2001".into());
        let guard = probe.start().expect("no probe is in flight");
        assert!(probes.get(&"2001".into()).start().is_none(), "one at a time");
        assert!(probes.get(&"2002".into()).start().is_some(), "but another WABA's");
        guard.finish(result(now, true));
        assert_eq!(probes.get(&"2001".into()).result(), Some(result(now, true)));
        assert!(probe.start().is_some());
    }

    #[test]
    fn messages_go_one_at_a_time_after_three_seconds_of_silence() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let times =
            |from: f64, n: u32| (0..n).map(move |n| start + Duration::from_secs_f64(from + f64::from(n) / 80.0));
        let mut open: Vec<Instant> = Vec::new();
        for now in times(0.0, 20 * 80) {
            if path.may_send() {
                path.began(now);
                open.push(now);
            }
        }
        assert_eq!(open.len(), 3 * 80 + 1, "those of three seconds, and the single one");
        // They time out after 20 seconds, in order.
        let ended: Vec<Option<Duration>> =
            open.iter().map(|began| path.unanswered(*began, *began + Duration::from_secs(20), CAUSE, 0.0)).collect();
        assert_eq!(ended.iter().flatten().count(), 1, "the line stops once");
        assert!(path.is_stopped());
    }

    #[test]
    fn an_answer_after_a_silence_lets_messages_go_together_again() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        path.began(start);
        let late = start + SILENCE;
        path.began(late);
        assert!(!path.may_send());
        path.answered(late + LATENCY);
        path.began(late + LATENCY);
        assert!(path.may_send());
        // Attempts that have hung since before end in a row, while others are answered.
        for _ in 0..10 * STREAK {
            assert_eq!(path.unanswered(start, late + SILENCE, CAUSE, 0.0), None);
        }
        assert!(path.may_send());
    }

    #[test]
    fn the_next_single_message_goes_when_the_last_one_has_ended() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        path.began(start);
        for n in 1..STREAK {
            let now = start + SILENCE * n;
            path.began(now);
            assert!(!path.may_send());
            path.unanswered(now, now + SILENCE, CAUSE, 0.0);
            assert!(path.may_send(), "{n}");
        }
    }
}
