//! A second lane on a line: notes, which go ahead of the campaigns. The runner needs no change for it.

use std::{
    cell::RefCell,
    collections::VecDeque,
    rc::Rc,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use pregon::{
    dispatch::{
        lanes::{
            Addressee, Lane,
            campaign::{CampaignLane, screening::Screening},
        },
        line::{runner::Runner, state::LineState},
    },
    domain::{HoldScope, OnDoubt, Outcome, State},
    graph::{Edge, GraphClient, SendRequest},
    redis::{Store, clock::Clock},
};
use serde_json::json;
use tokio::{sync::mpsc, task::LocalSet};
use tokio_util::sync::CancellationToken;

use crate::support::{
    hostile::{self, Conduct, Courier, Reply, Sent, accepted, refused, wamid},
    redis::TestRedis,
    until, world,
};

/// A lane whose messages come from a channel, and whose outcomes go to a list. Each unit is the number of a note.
struct Notes {
    arriving: mpsc::UnboundedReceiver<u64>,
    ready: VecDeque<u64>,
    in_flight: usize,
    outcomes: Rc<RefCell<Vec<(u64, Outcome)>>>,
}

impl Lane for Notes {
    type Unit = u64;

    fn tick(&mut self, _: Instant, _: &LineState) -> bool {
        false
    }

    fn start_calls(&mut self, _: Instant, _: &LineState) {}

    fn poll_calls(&mut self, cx: &mut Context<'_>, _: &LineState) -> Poll<()> {
        let Poll::Ready(Some(note)) = self.arriving.poll_recv(cx) else { return Poll::Pending };
        self.ready.push_back(note);
        Poll::Ready(())
    }

    fn deadline(&self, _: Instant) -> Option<Instant> {
        None
    }

    fn is_done(&self) -> bool {
        self.in_flight == 0
    }

    fn unstored(&self) -> usize {
        0
    }

    fn ready(&self) -> usize {
        self.ready.len()
    }

    fn has_next(&mut self, _: Instant) -> bool {
        !self.ready.is_empty()
    }

    fn take(&mut self, _: Instant, _: &LineState) -> Option<(u64, SendRequest)> {
        let note = self.ready.pop_front()?;
        self.in_flight += 1;
        let body = json!({"to": note_to(note), "type": "text", "biz_opaque_callback_data": format!("note {note}")});
        Some((note, SendRequest { edge: Edge::Messages, body: body.to_string().into() }))
    }

    fn can_be_rerouted(&self, _: &u64) -> bool {
        false
    }

    fn settle(&mut self, note: u64, outcome: &Outcome, _: &LineState) -> bool {
        self.in_flight -= 1;
        self.outcomes.borrow_mut().push((note, outcome.clone()));
        false
    }

    fn give_back(&mut self, note: u64, _: &LineState) {
        self.in_flight -= 1;
        self.ready.push_front(note);
    }

    /// Notes are stored nowhere else, so they wait here until the line may send again.
    fn give_back_ready(&mut self, _: &LineState) {}

    fn give_back_stopped(&mut self, _: &LineState) {}

    fn is_stopped(&self, _: &u64, _: &LineState) -> bool {
        false
    }

    fn template(&self, _: &u64) -> Option<HoldScope> {
        None
    }

    fn addressee(&self, _: &u64) -> Option<Addressee> {
        None
    }

    fn next_addressee(&self) -> Option<Addressee> {
        None
    }

    fn defer_next(&mut self, _: Duration, _: &LineState) {}

    fn changed(&mut self, _: Instant, _: usize) {}

    fn wake(&mut self) {}
}

/// Combines two lanes on one line. Messages of the first are sent first.
struct Ahead<A, B>(A, B);

enum Either<A, B> {
    First(A),
    Second(B),
}

impl<A: Lane, B: Lane> Lane for Ahead<A, B> {
    type Unit = Either<A::Unit, B::Unit>;

    fn tick(&mut self, now: Instant, line: &LineState) -> bool {
        let (first, second) = (self.0.tick(now, line), self.1.tick(now, line));
        first || second
    }

    fn start_calls(&mut self, now: Instant, line: &LineState) {
        self.0.start_calls(now, line);
        self.1.start_calls(now, line);
    }

    fn poll_calls(&mut self, cx: &mut Context<'_>, line: &LineState) -> Poll<()> {
        let (first, second) = (self.0.poll_calls(cx, line), self.1.poll_calls(cx, line));
        if first.is_ready() { first } else { second }
    }

    fn deadline(&self, now: Instant) -> Option<Instant> {
        [self.0.deadline(now), self.1.deadline(now)].into_iter().flatten().min()
    }

    fn is_done(&self) -> bool {
        self.0.is_done() && self.1.is_done()
    }

    fn unstored(&self) -> usize {
        self.0.unstored() + self.1.unstored()
    }

    fn ready(&self) -> usize {
        self.0.ready() + self.1.ready()
    }

    fn has_next(&mut self, now: Instant) -> bool {
        self.0.has_next(now) || self.1.has_next(now)
    }

    fn take(&mut self, now: Instant, line: &LineState) -> Option<(Self::Unit, SendRequest)> {
        if self.0.has_next(now) {
            self.0.take(now, line).map(|(unit, message)| (Either::First(unit), message))
        } else {
            self.1.take(now, line).map(|(unit, message)| (Either::Second(unit), message))
        }
    }

    fn can_be_rerouted(&self, unit: &Self::Unit) -> bool {
        match unit {
            Either::First(unit) => self.0.can_be_rerouted(unit),
            Either::Second(unit) => self.1.can_be_rerouted(unit),
        }
    }

    fn settle(&mut self, unit: Self::Unit, outcome: &Outcome, line: &LineState) -> bool {
        match unit {
            Either::First(unit) => self.0.settle(unit, outcome, line),
            Either::Second(unit) => self.1.settle(unit, outcome, line),
        }
    }

    fn give_back(&mut self, unit: Self::Unit, line: &LineState) {
        match unit {
            Either::First(unit) => self.0.give_back(unit, line),
            Either::Second(unit) => self.1.give_back(unit, line),
        }
    }

    fn give_back_ready(&mut self, line: &LineState) {
        self.0.give_back_ready(line);
        self.1.give_back_ready(line);
    }

    fn give_back_stopped(&mut self, line: &LineState) {
        self.0.give_back_stopped(line);
        self.1.give_back_stopped(line);
    }

    fn is_stopped(&self, unit: &Self::Unit, line: &LineState) -> bool {
        match unit {
            Either::First(unit) => self.0.is_stopped(unit, line),
            Either::Second(unit) => self.1.is_stopped(unit, line),
        }
    }

    fn template(&self, unit: &Self::Unit) -> Option<HoldScope> {
        match unit {
            Either::First(unit) => self.0.template(unit),
            Either::Second(unit) => self.1.template(unit),
        }
    }

    fn addressee(&self, unit: &Self::Unit) -> Option<Addressee> {
        match unit {
            Either::First(unit) => self.0.addressee(unit),
            Either::Second(unit) => self.1.addressee(unit),
        }
    }

    fn next_addressee(&self) -> Option<Addressee> {
        if self.0.ready() > 0 { self.0.next_addressee() } else { self.1.next_addressee() }
    }

    fn defer_next(&mut self, wait: Duration, line: &LineState) {
        if self.0.ready() > 0 { self.0.defer_next(wait, line) } else { self.1.defer_next(wait, line) }
    }

    fn changed(&mut self, now: Instant, lines: usize) {
        self.0.changed(now, lines);
        self.1.changed(now, lines);
    }

    fn wake(&mut self) {
        self.0.wake();
        self.1.wake();
    }
}

/// The recipient of a note. The recipients of the campaign have other numbers.
fn note_to(note: u64) -> String {
    format!("{}", 34_600_000_000 + note)
}

/// A fake Meta that refuses note 7, accepts all else, and records the order of the recipients.
struct Ordered(Arc<Mutex<Vec<String>>>);

impl Conduct for Ordered {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let mut order = self.0.lock().expect("no panic");
        order.push(sent.to.clone());
        let answer = if sent.to == note_to(7) {
            refused(400, 131_026)
        } else {
            accepted(&sent.to, &wamid(&sent.to, order.len() as u64))
        };
        Reply::of(answer, Duration::ZERO)
    }
}

#[tokio::test]
async fn a_second_lane_sends_ahead_of_the_campaigns() {
    const RECIPIENTS: u64 = 400;
    const NOTES: u64 = 20;
    let redis = TestRedis::start().await;
    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let clock = Arc::new(Clock::start(&store).await.expect("a clock"));
    let id = world::campaign(&store, &["3001"], RECIPIENTS, OnDoubt::Hold).await;
    world::launch(&store, id).await;
    let order = Arc::new(Mutex::new(Vec::new()));
    let meta = hostile::Meta::start(Ordered(order.clone()), 0);
    let graph = GraphClient::new(world::graph(&meta.url())).expect("a client");

    let (notes, arriving) = mpsc::unbounded_channel();
    let outcomes = Rc::new(RefCell::new(Vec::new()));
    let notes_lane = Notes { arriving, ready: VecDeque::new(), in_flight: 0, outcomes: outcomes.clone() };
    let (line, stop) = (world::line("3001", 200.0), CancellationToken::new());
    let key = store.token_key().await.expect("a key");
    let screening = Rc::new(Screening::new(key.clone()));
    let campaigns = CampaignLane::new(store.clone(), key, Rc::default(), screening);
    let setup = world::runner_setup(&store, &clock, &graph, line, world::settings(), &stop);
    let tasks = LocalSet::new();
    let runner = tasks.spawn_local(Runner::new(setup, Ahead(notes_lane, campaigns)).run());
    let sent = || order.lock().expect("no panic").len() as u64;
    let before = tasks
        .run_until(async {
            until("the campaign sends", async || sent() >= 50).await;
            let before = sent();
            (0..NOTES).for_each(|note| notes.send(note).expect("the lane is there"));
            until("every message is sent", async || sent() == RECIPIENTS + NOTES).await;
            stop.cancel();
            runner.await.expect("no panic");
            before
        })
        .await;

    let order = order.lock().expect("no panic").clone();
    let places: Vec<u64> =
        (0..NOTES).map(|note| order.iter().position(|to| *to == note_to(note)).expect("it is sent") as u64).collect();
    // A few messages were already in flight when the notes arrived.
    assert!(*places.last().expect("a note") < before + NOTES + 16, "the notes were sent at {places:?}, from {before}");
    let mut outcomes = outcomes.take();
    outcomes.sort_by_key(|(note, _)| *note);
    assert_eq!(outcomes.len() as u64, NOTES);
    for (note, outcome) in outcomes {
        let is_expected = if note == 7 {
            matches!(outcome, Outcome::Failed { .. })
        } else {
            matches!(outcome, Outcome::Accepted { .. })
        };
        assert!(is_expected, "note {note}: {outcome:?}");
    }
    let record = store.campaign(id).await.expect("redis").expect("a campaign");
    assert_eq!(world::recount(&store, &record).await[&State::Accepted], RECIPIENTS);
}
