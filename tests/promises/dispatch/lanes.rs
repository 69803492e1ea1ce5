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
            Addressee, Lane, LaneKind,
            both::Both,
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

    fn has_next(&mut self, _: LaneKind, _: Instant) -> bool {
        !self.ready.is_empty()
    }

    fn take(&mut self, _: LaneKind, _: Instant, _: &LineState) -> Option<(u64, SendRequest)> {
        let note = self.ready.pop_front()?;
        self.in_flight += 1;
        let body = json!({"to": note_to(note), "type": "text", "biz_opaque_callback_data": format!("note {note}")});
        Some((note, SendRequest { edge: Edge::Messages, body: body.to_string().into() }))
    }

    fn kind(&self, _: &u64) -> LaneKind {
        LaneKind::Chats
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
    let runner = tasks.spawn_local(Runner::new(setup, Both(notes_lane, campaigns)).run());
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
    // A few messages were already in flight when the notes arrived. Without headroom, the campaign keeps half of the rate.
    assert!(
        *places.last().expect("a note") < before + 2 * NOTES + 16,
        "the notes were sent at {places:?}, from {before}"
    );
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
