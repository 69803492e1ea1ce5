//! What the lines of a thread share: its time, its connections, and the plans of their campaigns.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::sync::Notify;

use super::{batch, path::Questions, plans::SendPlans};

/// An answer that takes this long waited for Meta, and not for this thread.
pub(super) const NOT_FOR_US: Duration = Duration::from_millis(50);

/// A thread is busy that works for this share of the time, ...
const BUSY: f64 = 0.85;

/// ... which is looked at this often.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Attempts in flight with which a thread has enough to do if answers come at once: with fewer it waits, with more each costs
/// more, for what belongs to it is no longer in the processor's cache.
const ENOUGH: usize = 32;

/// What each of many lines may have of them, and each of few.
const EACH: (usize, usize) = (1, 8);

/// The attempts in flight on a thread grow by one in this time at most. Over HTTP/1.1 each one is a connection, which costs as much
/// as dozens of messages: were a thousand lines that are late for a moment to make one each, they would be late by that.
const GROW_EVERY: Duration = Duration::from_millis(1);

/// The same beyond [`ENOUGH`] where answers come at once.
const GROW_SLOWLY_EVERY: Duration = Duration::from_millis(5);

/// Connections are taken to be there for so long after they were used; they are closed when idle for longer.
const KEPT: Duration = Duration::from_secs(15);

/// Of what is in flight at Meta by the quickest answer, so many times as much are enough: others take longer.
const SPARE: f64 = 4.0;

/// A thread of runners.
pub struct Shard {
    /// The campaigns that its lines work on.
    pub plans: SendPlans,
    /// Whether Meta answers, where the path to it is broken.
    pub questions: Questions,
    began: Instant,
    busy: Cell<bool>,
    sending: Cell<usize>,
    in_flight: InFlight,
}

/// The attempts in flight on a thread.
#[derive(Default)]
struct InFlight {
    now: Cell<usize>,
    /// So many may be: they were before, and have their connections.
    most: Cell<usize>,
    grown_at: Cell<Option<Instant>>,
    /// Answers came at once when the thread was looked at.
    quick: Cell<bool>,
    /// The most since `recent_from`.
    recent: Cell<usize>,
    recent_from: Cell<Option<Instant>>,
    /// Answers since the thread was looked at, and the quickest of them.
    answers: Cell<(u32, Duration)>,
    /// The lines that wait for another's attempt to end, in their order.
    waiting: RefCell<VecDeque<Rc<CapacityWaiter>>>,
}

/// A line that may wait for room on its thread.
#[derive(Default)]
pub struct CapacityWaiter {
    /// It was handed room that another line left.
    pub handed: Notify,
    room: Cell<Option<AttemptPermit>>,
    waits: Cell<bool>,
}

/// A line sends, as long as this is kept.
pub struct ActiveLine(Rc<Shard>);

/// LineCapacity for an attempt, as long as this is kept.
pub struct AttemptPermit(Rc<Shard>);

impl Shard {
    /// A thread that begins at `now`.
    pub fn new(now: Instant) -> Self {
        Self {
            plans: SendPlans::default(),
            questions: Questions::default(),
            began: now,
            busy: Cell::default(),
            sending: Cell::default(),
            in_flight: InFlight::default(),
        }
    }

    /// The next time from `at` on at which its lines ask Redis together.
    pub fn next_tick(&self, at: Instant) -> Instant {
        batch::next_tick(self.began, at)
    }

    /// A line begins to send.
    pub fn activate_line(self: &Rc<Self>) -> ActiveLine {
        self.sending.set(self.sending.get() + 1);
        ActiveLine(self.clone())
    }

    /// What there is for each line.
    pub fn room(&self) -> LineCapacity {
        let (least, most) = EACH;
        LineCapacity { each: (ENOUGH / self.sending.get().max(1)).clamp(least, most), busy: self.busy.get() }
    }

    /// LineCapacity for one more attempt; without it the line waits its turn, and is told when it has come.
    pub fn begin(self: &Rc<Self>, now: Instant, line: &Rc<CapacityWaiter>) -> Option<AttemptPermit> {
        if let Some(handed) = line.room.take() {
            return Some(handed);
        }
        let InFlight { now: in_flight, most, grown_at, quick, recent, recent_from, waiting, .. } = &self.in_flight;
        let enough = in_flight.get() >= ENOUGH;
        // What a busy thread has more in flight only waits for it.
        let may_grow = !(enough && self.busy.get());
        let every = if enough && quick.get() { GROW_SLOWLY_EVERY } else { GROW_EVERY };
        let grows = may_grow && grown_at.get().is_none_or(|at| now >= at + every);
        let others_wait = !line.waits.get() && !waiting.borrow().is_empty();
        if others_wait || in_flight.get() >= most.get() && !grows {
            if !line.waits.replace(true) {
                waiting.borrow_mut().push_back(line.clone());
            }
            return None;
        }
        in_flight.set(in_flight.get() + 1);
        if recent_from.get().is_none_or(|from| now >= from + KEPT) {
            most.set(recent.replace(0));
            recent_from.set(Some(now));
        }
        recent.set(recent.get().max(in_flight.get()));
        if in_flight.get() > most.get() {
            most.set(in_flight.get());
            grown_at.set(Some(now));
        }
        Some(AttemptPermit(self.clone()))
    }

    /// Meta accepted a message after this time.
    pub fn accepted(&self, after: Duration) {
        let (answers, quickest) = self.in_flight.answers.get();
        self.in_flight.answers.set((answers + 1, if answers == 0 { after } else { quickest.min(after) }));
    }

    /// `passed` has gone by, in which the thread was busy or not. Where it was, and answers come at once, what is in flight beyond
    /// those waits for the thread: it is taken back.
    fn looked(&self, busy: bool, passed: Duration) {
        self.busy.set(busy);
        let (answers, quickest) = self.in_flight.answers.take();
        self.in_flight.quick.set(answers > 0 && quickest < NOT_FOR_US);
        if busy && self.in_flight.quick.get() {
            let at_meta = f64::from(answers) / passed.as_secs_f64() * quickest.as_secs_f64();
            let enough = ENOUGH + (at_meta * SPARE) as usize;
            self.in_flight.most.set(self.in_flight.most.get().min(enough));
        }
    }

    /// Looks whether it is busy, for ever; the time in which others had its processor counts too. Runs on it.
    pub async fn watch(self: Rc<Self>) {
        let metrics = tokio::runtime::Handle::current().metrics();
        let mut before = (Instant::now(), metrics.worker_total_busy_duration(0));
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now = (Instant::now(), metrics.worker_total_busy_duration(0));
            let (passed, worked) = (now.0 - before.0, now.1.saturating_sub(before.1));
            self.looked(worked.as_secs_f64() > BUSY * passed.as_secs_f64(), passed);
            before = now;
        }
    }
}

impl CapacityWaiter {
    /// What it was handed goes to the next one: it has nothing to send now.
    pub fn pass_on(&self) {
        self.room.take();
    }
}

impl Drop for ActiveLine {
    fn drop(&mut self) {
        self.0.sending.set(self.0.sending.get() - 1);
    }
}

impl Drop for AttemptPermit {
    fn drop(&mut self) {
        let InFlight { now, most, waiting, .. } = &self.0.in_flight;
        // One that waits and is gone drops what it was handed, and so the next one gets it.
        let next = (now.get() <= most.get()).then(|| waiting.borrow_mut().pop_front()).flatten();
        let Some(next) = next else {
            now.set(now.get() - 1);
            return;
        };
        next.waits.set(false);
        next.room.set(Some(AttemptPermit(self.0.clone())));
        next.handed.notify_one();
    }
}

/// What a thread has for each of its lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LineCapacity {
    /// Attempts in flight that a line may have in any case.
    pub each: usize,
    /// The thread has hardly a moment without work.
    pub busy: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_lines_may_have_more_in_flight_each_than_many() {
        let thread = Rc::new(Shard::new(Instant::now()));
        let each = |lines: usize| {
            let _sending: Vec<ActiveLine> = (0..lines).map(|_| thread.activate_line()).collect();
            thread.room().each
        };
        assert_eq!([0, 1, 4, 8, 16, 1_000].map(each), [8, 8, 8, 4, 2, 1]);
        assert_eq!(each(0), 8, "who sends no more does not count");
    }

    const ROOM_FOR_ALL: &str = "there is room";

    #[test]
    fn connections_are_made_one_after_the_other() {
        let (thread, line, start) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
        let begin = |now: Instant| thread.begin(now, &line);
        let mut begun = Vec::new();
        for ms in 0..3 {
            let now = start + GROW_EVERY * ms;
            begun.push(begin(now).expect(ROOM_FOR_ALL));
            assert!(begin(now).is_none(), "{ms}");
        }
        let late = start + GROW_EVERY * 50;
        begun.push(begin(late).expect(ROOM_FOR_ALL));
        assert!(begin(late).is_none(), "what was not made in time is not made up for");
        begun.truncate(1);
        begun.extend((0..3).map(|_| begin(late).expect("these are there")));
        assert!(begin(late).is_none());
    }

    #[test]
    fn beyond_enough_connections_are_made_slower_where_answers_come_at_once() {
        let (thread, line, mut now) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
        thread.accepted(Duration::from_micros(100));
        thread.looked(false, LOOK_EVERY);
        let mut begun = Vec::new();
        for _ in 0..ENOUGH {
            begun.push(thread.begin(now, &line).expect(ROOM_FOR_ALL));
            now += GROW_EVERY;
        }
        assert!(thread.begin(now, &line).is_none());
        assert!(thread.begin(now - GROW_EVERY + GROW_SLOWLY_EVERY, &line).is_some());
    }

    #[test]
    fn connections_that_were_not_used_for_long_do_not_count() {
        let (thread, line, start) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
        let begin = |at: Instant, n: u32| -> Vec<AttemptPermit> {
            (0..n).map(|ms| thread.begin(at + GROW_EVERY * ms, &line).expect(ROOM_FOR_ALL)).collect()
        };
        drop(begin(start, 10));
        drop(begin(start + KEPT, 2));
        let _three = begin(start + KEPT * 2, 3);
        assert!(thread.begin(start + KEPT * 2 + GROW_EVERY * 2, &line).is_none(), "the third was made just now");
    }

    #[tokio::test]
    async fn who_waits_is_handed_the_room_of_an_attempt_that_ends_in_the_order_of_asking() {
        let (thread, now) = (Rc::new(Shard::new(Instant::now())), Instant::now());
        let [first, second, third] = [(); 3].map(|()| Rc::new(CapacityWaiter::default()));
        let begun = thread.begin(now, &first).expect(ROOM_FOR_ALL);
        for line in [&second, &third, &first] {
            assert!(thread.begin(now, line).is_none());
        }
        drop(begun);
        second.handed.notified().await;
        assert!(thread.begin(now, &first).is_none() && thread.begin(now, &third).is_none(), "it is the second's turn");
        let begun = thread.begin(now, &second).expect("it was handed to it");
        // The third is gone when its turn comes.
        drop(third);
        drop(begun);
        first.handed.notified().await;
        assert!(thread.begin(now, &first).is_some());
    }

    #[test]
    fn a_busy_thread_takes_back_what_only_waits_for_it() {
        let left = |latency: Duration| {
            let (thread, line, start) = (Rc::new(Shard::new(Instant::now())), Rc::default(), Instant::now());
            let begin = |ms| thread.begin(start + GROW_EVERY * ms, &line).expect(ROOM_FOR_ALL);
            let _begun: Vec<AttemptPermit> = (0..1_000).map(begin).collect();
            for _ in 0..1_000 {
                thread.accepted(latency);
            }
            thread.looked(true, LOOK_EVERY);
            thread.in_flight.most.get()
        };
        // A thousand answers in 50 ms.
        assert_eq!(left(Duration::from_millis(1)), ENOUGH + 80);
        assert_eq!(left(NOT_FOR_US), 1_000, "it is Meta who takes her time");
    }
}
