//! Whether the path to Meta works, judged by the attempts of one line.
//!
//! An answer of Meta's, an error included, proves that it works. A request that gets no answer, or one that is not Meta's
//! JSON (a proxy's HTML, an empty body), leaves its recipient in doubt. One of those is bad luck. Several in a row mean that
//! every further message would be lost the same way, so the line stops and asks Meta about itself, with growing pauses,
//! until that works. Then a single message goes first, and the others follow when it is answered.
//!
//! Time-outs end too late for that count: they are as long as the client waits, and a fast line fills all its slots
//! meanwhile. So while no answer has come for `SILENCE`, only one further message is on its way at a time.
//!
//! Never: reads a clock, asks Meta, or writes to Redis. If the process dies, the next owner of the line counts anew.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::domain::WabaId;

/// Attempts in a row without an answer of Meta's that stop a line. Where every twentieth answer is lost at random, a line of
/// 80 messages a second stops for a second about twice a day; and these few are what an outage costs, besides what was in
/// flight.
const STREAK: u32 = 5;

/// No answer for this long, with an attempt open: a send takes Meta well under a second.
const SILENCE: Duration = Duration::from_secs(3);

/// The first and the longest pause before Meta is asked. A short outage costs little, and a long one few calls.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15 * 60));

/// The path to Meta, as one line knows it.
#[derive(Default)]
pub struct PathHealth {
    /// Attempts that ended in a row without an answer of Meta's.
    streak: u32,
    /// When Meta last answered an attempt.
    answered_at: Option<Instant>,
    /// When the first attempt began since Meta's last answer.
    silent_since: Option<Instant>,
    /// When the attempt began that is on its way alone: no other begins before it ends.
    alone: Option<Instant>,
    trouble: Option<Trouble>,
}

/// The path is broken: what is known until Meta answers a message.
struct Trouble {
    /// What came in the place of an answer.
    cause: String,
    phase: Phase,
    /// Questions and messages in a row that brought nothing.
    failures: u32,
    /// Meta answered a question, and then not the message: the answers that other lines got prove nothing here.
    answers_questions_only: bool,
}

enum Phase {
    /// Nothing is sent.
    Stopped {
        /// Answers that are older say nothing new.
        heard: Instant,
        ask_at: Instant,
    },
    /// Meta answered a question at this time: one message goes.
    Trial(Instant),
}

impl PathHealth {
    /// Whether another message may go.
    pub fn may_send(&self) -> bool {
        self.alone.is_none() && !self.is_stopped()
    }

    /// Nothing is sent until Meta has answered a question.
    pub fn is_stopped(&self) -> bool {
        self.trouble.as_ref().is_some_and(|trouble| matches!(trouble.phase, Phase::Stopped { .. }))
    }

    /// What came in the place of an answer, while the line is stopped because of it.
    pub fn stopped_by(&self) -> Option<&str> {
        self.trouble.as_ref().filter(|_| self.is_stopped()).map(|trouble| trouble.cause.as_str())
    }

    /// An attempt begins at `now`.
    pub fn began(&mut self, now: Instant) {
        let silent = self.silent_since.is_some_and(|since| now - since >= SILENCE);
        if silent || self.trouble.is_some() {
            self.alone = Some(now);
        }
        self.silent_since.get_or_insert(now);
    }

    /// Meta answered an attempt. Gives whether the path was broken until now.
    pub fn answered(&mut self, now: Instant) -> bool {
        (self.streak, self.answered_at) = (0, Some(now));
        (self.silent_since, self.alone) = (None, None);
        self.trouble.take().is_some()
    }

    /// The attempt that began at `began` was certainly not written: it tells nothing of the path behind the connection.
    pub fn not_written(&mut self, began: Instant) {
        self.alone.take_if(|alone| *alone == began);
    }

    /// The attempt that began at `began` ended without an answer of Meta's, for `cause`. `jitter` is random, 0 to 1. Gives the
    /// pause before Meta is asked where the line stops because of it.
    pub fn unanswered(&mut self, began: Instant, now: Instant, cause: &str, jitter: f64) -> Option<Duration> {
        self.alone.take_if(|alone| *alone == began);
        // What hung from before Meta's last answer on tells of an outage that is over.
        let is_old = now - began >= SILENCE && self.answered_at.is_some_and(|at| began < at);
        match &mut self.trouble {
            None if is_old => None,
            None => {
                self.streak += 1;
                let stops = self.streak >= STREAK;
                stops.then(|| self.stop(now, cause, 0, false, jitter))
            }
            Some(Trouble { phase: Phase::Trial(from), failures, .. }) if began >= *from => {
                let failures = *failures + 1;
                Some(self.stop(now, cause, failures, true, jitter))
            }
            Some(_) => None,
        }
    }

    fn stop(
        &mut self,
        now: Instant,
        cause: &str,
        failures: u32,
        answers_questions_only: bool,
        jitter: f64,
    ) -> Duration {
        let pause = pause(failures, jitter);
        let phase = Phase::Stopped { heard: now, ask_at: now + pause };
        self.trouble = Some(Trouble { cause: cause.to_owned(), phase, failures, answers_questions_only });
        pause
    }

    /// When to ask Meta next, while the line is stopped.
    pub fn ask_at(&self) -> Option<Instant> {
        match self.trouble.as_ref()?.phase {
            Phase::Stopped { ask_at, .. } => Some(ask_at),
            Phase::Trial(_) => None,
        }
    }

    /// Meta was asked, by this line or another one: `found`. `jitter` is random, 0 to 1. Gives whether a message goes to try
    /// the path.
    pub fn learn(&mut self, found: Found, now: Instant, jitter: f64) -> bool {
        let Some(trouble) = &mut self.trouble else { return false };
        let Phase::Stopped { heard, ask_at } = &mut trouble.phase else { return false };
        let is_due = now >= *ask_at;
        if found.at <= *heard {
            return false;
        }
        if !found.answers {
            if is_due {
                trouble.failures += 1;
                (*heard, *ask_at) = (found.at, now + pause(trouble.failures, jitter));
            }
            return false;
        }
        let tries = is_due || !trouble.answers_questions_only;
        if tries {
            trouble.phase = Phase::Trial(now);
            self.alone = None;
        }
        tries
    }
}

/// The pause after `failures` in a row. Up to half of it is random, so that many lines do not ask at the same moment.
fn pause(failures: u32, jitter: f64) -> Duration {
    let (first, longest) = PAUSE;
    (first * 2u32.saturating_pow(failures.min(16))).min(longest).mul_f64(1.0 - jitter / 2.0)
}

/// What came of asking Meta.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// When the question ended.
    pub at: Instant,
    /// It was Meta who answered.
    pub answers: bool,
}

/// The questions of the lines of a thread: one for each WABA at a time, whose answer all its lines share.
#[derive(Default)]
pub struct Questions(RefCell<HashMap<WabaId, Rc<Question>>>);

/// Whether Meta answers for a WABA.
#[derive(Default)]
pub struct Question {
    is_asked: Cell<bool>,
    found: Cell<Option<Found>>,
}

/// A question on its way, as long as this is kept.
pub struct Asked(Rc<Question>);

impl Questions {
    /// That of `waba`.
    pub fn of(&self, waba: &WabaId) -> Rc<Question> {
        self.0.borrow_mut().entry(waba.clone()).or_default().clone()
    }
}

impl Question {
    /// What came of it last.
    pub fn found(&self) -> Option<Found> {
        self.found.get()
    }

    /// Asks it, unless somebody does already.
    pub fn ask(self: &Rc<Self>) -> Option<Asked> {
        (!self.is_asked.replace(true)).then(|| Asked(self.clone()))
    }
}

impl Asked {
    /// Meta has answered, or has not.
    pub fn found(self, found: Found) {
        self.0.found.set(Some(found));
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.0.is_asked.set(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSE: &str = "HTTP 503 with 33 bytes that are not Meta's JSON";
    const LATENCY: Duration = Duration::from_millis(50);
    const SECOND: Duration = Duration::from_secs(1);

    /// Sends one message after the other from `at` on, of which none is answered, as long as the path takes them. Gives how
    /// many went, and when the last one ended.
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

    fn found(at: Instant, answers: bool) -> Found {
        Found { at, answers }
    }

    #[test]
    fn a_streak_without_an_answer_of_metas_stops_the_line() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (sent, stopped) = lose_all(&mut path, start);
        assert_eq!((sent, path.is_stopped(), path.stopped_by()), (STREAK, true, Some(CAUSE)));
        assert_eq!(path.ask_at(), Some(stopped + SECOND), "a short outage costs little");
    }

    #[test]
    fn any_answer_of_metas_ends_the_streak_and_the_stop() {
        let (mut path, now) = (PathHealth::default(), Instant::now());
        for _ in 0..10 {
            for _ in 1..STREAK {
                assert_eq!(path.unanswered(now, now, CAUSE, 0.0), None);
            }
            assert!(!path.answered(now), "it was never broken");
        }
        lose_all(&mut path, now);
        assert!(path.answered(now), "a message that was on its way is answered after all");
        assert!(path.may_send() && path.stopped_by().is_none());
    }

    #[test]
    fn a_message_that_was_not_written_counts_for_nothing() {
        let (mut path, now) = (PathHealth::default(), Instant::now());
        for _ in 0..10 * STREAK {
            path.began(now);
            path.not_written(now);
        }
        assert!(path.may_send());
    }

    #[test]
    fn after_an_answered_question_one_message_goes_before_the_others() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (_, stopped) = lose_all(&mut path, start);
        let asked = stopped + SECOND;
        assert!(path.learn(found(asked, true), asked, 0.0));
        assert!(path.may_send() && path.stopped_by().is_none());
        path.began(asked);
        assert!(!path.may_send());
        assert_eq!(path.unanswered(start, asked, CAUSE, 0.0), None, "it hung from before the stop on");
        assert!(!path.may_send() && !path.is_stopped());
        assert!(path.answered(asked + LATENCY));
        for _ in 0..100 {
            assert!(path.may_send());
            path.began(asked + LATENCY);
        }
    }

    #[test]
    fn pauses_double_up_to_the_longest_while_questions_bring_nothing() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (_, mut now) = lose_all(&mut path, start);
        let mut pauses = Vec::new();
        for _ in 0..13 {
            let ask_at = path.ask_at().expect("it is stopped");
            pauses.push((ask_at - now).as_secs());
            now = ask_at;
            assert!(!path.learn(found(now, false), now, 0.0));
        }
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]);
        assert_eq!((pause(0, 1.0), pause(20, 1.0)), (SECOND / 2, PAUSE.1 / 2), "half of a pause is chance");
    }

    #[test]
    fn a_path_that_answers_questions_alone_costs_one_message_a_pause() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        let (_, mut now) = lose_all(&mut path, start);
        let mut lost = 0;
        while now < start + Duration::from_secs(3_600) {
            now = path.ask_at().expect("it is stopped");
            assert!(path.learn(found(now, true), now, 0.0));
            let (sent, ended) = lose_all(&mut path, now);
            (lost, now) = (lost + sent, ended);
            let ask_at = path.ask_at().expect("it is stopped");
            assert!(!path.learn(found(now + LATENCY, true), ask_at - LATENCY, 0.0), "another line's answer");
        }
        assert!((10..15).contains(&lost), "{lost} in an hour");
    }

    #[test]
    fn lines_share_what_one_of_them_found() {
        let ([mut one, mut other], start) = ([(); 2].map(|()| PathHealth::default()), Instant::now());
        let (_, stopped) = lose_all(&mut one, start);
        lose_all(&mut other, start);
        let now = stopped + SECOND;
        for path in [&mut one, &mut other] {
            assert!(!path.learn(found(stopped - LATENCY, true), now, 0.0), "older than the stop");
            assert!(!path.learn(found(now, false), now, 0.0));
            assert_eq!(path.ask_at(), Some(now + 2 * SECOND));
            assert!(!path.learn(found(now, false), now + 2 * SECOND, 0.0), "the same again");
            assert_eq!(path.ask_at(), Some(now + 2 * SECOND), "it is asked anew");
            assert!(path.learn(found(now + SECOND, true), now + SECOND, 0.0), "before its own time");
        }
        let questions = Questions::default();
        let question = questions.of(&"2001".into());
        let asked = question.ask().expect("nobody asks");
        assert!(questions.of(&"2001".into()).ask().is_none(), "one at a time");
        assert!(questions.of(&"2002".into()).ask().is_some(), "but another WABA's");
        asked.found(found(now, true));
        assert_eq!(questions.of(&"2001".into()).found(), Some(found(now, true)));
        assert!(question.ask().is_some());
    }

    #[test]
    fn where_nothing_answers_for_three_seconds_messages_go_one_at_a_time() {
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
        assert_eq!(open.len(), 3 * 80 + 1, "all of three seconds, and the one that goes alone");
        // They time out after 20 seconds, in their order.
        let ended: Vec<Option<Duration>> =
            open.iter().map(|began| path.unanswered(*began, *began + Duration::from_secs(20), CAUSE, 0.0)).collect();
        assert_eq!(ended.iter().flatten().count(), 1, "and stop the line once");
        assert!(path.is_stopped());
    }

    #[test]
    fn an_answer_after_a_silence_lets_all_go_again() {
        let (mut path, start) = (PathHealth::default(), Instant::now());
        path.began(start);
        let late = start + SILENCE;
        path.began(late);
        assert!(!path.may_send());
        path.answered(late + LATENCY);
        path.began(late + LATENCY);
        assert!(path.may_send());
        // Those that hung before end in a row, while others are answered.
        for _ in 0..10 * STREAK {
            assert_eq!(path.unanswered(start, late + SILENCE, CAUSE, 0.0), None);
        }
        assert!(path.may_send());
    }

    #[test]
    fn a_message_alone_that_ends_makes_room_for_the_next() {
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
