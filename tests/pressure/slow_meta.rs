//! Meta answers one line slowly and then not at all: that line has a bounded number of open attempts, and the other
//! lines do not wait for it.

use std::{
    collections::{HashSet, VecDeque},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_redis::redis::AsyncCommands as _;
use pregon::{
    domain::State,
    redis::{RedisKeys, Store},
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    LONG_TIMEOUTS, disable_persistence,
    memory::{Memory, mib},
    support::{
        self,
        hostile::{self, Conduct, Courier, Meta, Reply, Sent},
        redis::TestRedis,
        server::{Installation, Server},
        world,
    },
};

const SLOW: &str = "3001";
const QUICK: [&str; 2] = ["3002", "3003"];
const LINES: [&str; 3] = [SLOW, QUICK[0], QUICK[1]];
const SLOW_FIRST: u64 = 5_491_160_000_000;
const QUICK_FIRST: u64 = 5_491_170_000_000;
/// Messages per second of a quick line.
const RATE: u64 = 60;
const QUICK_SECONDS: u64 = 2;
/// Lease renewals to observe while nothing is answered.
const RENEWALS: usize = 3;
const TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Copy)]
pub struct Size {
    pub in_flight_max: usize,
    /// Latency of the responses on the slow line, until the test withholds them.
    pub latency: Duration,
    /// The most bytes of memory that an open attempt may add to the worker.
    pub attempt_bytes_max: u64,
}

pub struct Figures {
    pub most_open: usize,
    pub before: Memory,
    pub after: Memory,
}

/// Answers at once on the quick lines. On the slow line, answers after `latency`. The answers to requests that arrive
/// while `withholds` is true wait for [`SlowLine::answer_withheld`].
#[derive(Clone, Default)]
struct SlowLine {
    latency: Duration,
    withholds: Arc<AtomicBool>,
    withheld: Arc<Mutex<VecDeque<oneshot::Sender<()>>>>,
    open: Arc<AtomicUsize>,
    most_open: Arc<AtomicUsize>,
}

impl Conduct for SlowLine {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let reply = Reply::of(hostile::accepted(&sent.to, &hostile::wamid(&sent.to, 1)), Duration::ZERO);
        if sent.line != SLOW {
            return reply;
        }
        let open = self.open.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_open.fetch_max(open, Ordering::SeqCst);
        let (answer, gate) = oneshot::channel();
        if self.withholds.load(Ordering::SeqCst) {
            self.withheld.lock().expect("no panic").push_back(answer);
        } else {
            let (meta, latency) = (self.clone(), self.latency);
            tokio::spawn(async move {
                tokio::time::sleep(latency).await;
                meta.answer(answer);
            });
        }
        Reply { gate: Some(gate), ..reply }
    }
}

impl SlowLine {
    fn answer(&self, answer: oneshot::Sender<()>) {
        // Decremented before the response is sent, so that an answered attempt no longer counts as open.
        self.open.fetch_sub(1, Ordering::SeqCst);
        let _ = answer.send(());
    }

    fn n_withheld(&self) -> usize {
        self.withheld.lock().expect("no panic").len()
    }

    /// Answers every withheld attempt.
    fn answer_withheld(&self) {
        let withheld = std::mem::take(&mut *self.withheld.lock().expect("no panic"));
        withheld.into_iter().for_each(|answer| self.answer(answer));
    }
}

fn by_state(campaign: &Value, state: &str) -> usize {
    campaign["statistics"]["by_state"][state].as_u64().expect("a count") as usize
}

pub async fn run(size: Size) -> Figures {
    let redis = TestRedis::start().await;
    disable_persistence(&redis).await;
    let conduct = SlowLine { latency: size.latency, ..SlowLine::default() };
    let meta = Meta::start(conduct.clone(), support::seed());
    let rates = [(SLOW, 1_000.0), (QUICK[0], RATE as f64), (QUICK[1], RATE as f64)];
    let dispatch = format!("doubt_deadline = \"10m\"\nin_flight_max = {}", size.in_flight_max);
    let installation = Installation::new(&redis, &meta.url(), &rates, &dispatch);
    // Long timeouts, so that no attempt times out.
    let [timeout, lease] = LONG_TIMEOUTS;
    let environment = [("PREGON__GRAPH__TIMEOUT", "2m"), ("PREGON__SHUTDOWN__GRACE", "2m"), timeout, lease];
    let mut server = installation.serve_with("all", "api,webhook,dispatch", &environment).await;
    let api = server.api();
    let get = async |id: &str| api.get(&format!("campaigns/{id}")).await;
    let owned = async || api.owners().await.iter().all(|(_, owner)| owner.is_some());
    support::until("every line has an owner", owned).await;
    let (owners, epochs) = (api.owners().await, epochs(&redis).await);

    let slow = api.campaign(&[SLOW], SLOW_FIRST..SLOW_FIRST + 50 * size.in_flight_max as u64, json!({})).await;
    let before = Memory::of(server.pid());
    let all_open = async || conduct.most_open.load(Ordering::SeqCst) >= size.in_flight_max;
    support::until("the in-flight limit is reached", all_open).await;
    conduct.withholds.store(true, Ordering::SeqCst);
    support::until("every open attempt is withheld", async || conduct.n_withheld() == size.in_flight_max).await;

    // Nothing is answered on the slow line; the other lines and the leases are unaffected.
    let quick = api.campaign(&QUICK, QUICK_FIRST..QUICK_FIRST + 2 * RATE * QUICK_SECONDS, json!({})).await;
    let completed = api.wait_for_state(&quick, "completed", TIMEOUT).await;
    assert_eq!(by_state(&completed, "accepted") as u64, 2 * RATE * QUICK_SECONDS);
    leases_are_renewed(&redis).await;
    assert_eq!(
        (api.owners().await, self::epochs(&redis).await),
        (owners, epochs),
        "no line changed its owner or epoch"
    );
    assert_eq!(conduct.n_withheld(), size.in_flight_max);
    let after = Memory::of(server.pid());

    let paused = api.post(&format!("campaigns/{slow}/pause")).await;
    assert_eq!(paused["state"], "paused");
    let given_back = async || by_state(&get(&slow).await, "in_flight") == size.in_flight_max;
    support::until("claimed rows that were not sent are given back", given_back).await;
    let sent = sent_on_slow(&meta);
    conduct.answer_withheld();
    support::until("open attempts are settled", async || by_state(&get(&slow).await, "in_flight") == 0).await;
    let campaign = get(&slow).await;
    assert_eq!(
        (by_state(&campaign, "accepted"), sent_on_slow(&meta)),
        (sent, sent),
        "nothing more was sent: {campaign}"
    );

    api.post(&format!("campaigns/{slow}/resume")).await;
    support::until("attempts are open again", async || conduct.n_withheld() > 0).await;
    let most_open = conduct.most_open.load(Ordering::SeqCst);
    stop(&mut server, &conduct, &redis, &slow).await;
    let arrivals = meta.arrivals();
    let different: HashSet<&str> = arrivals.iter().map(|arrival| arrival.to.as_str()).collect();
    assert_eq!(different.len(), arrivals.len(), "no recipient gets two messages");

    println!("{most_open} open at most, grown by {}", mib(after.grown_since(before)));
    assert_eq!(most_open, size.in_flight_max);
    let growth_max = (16 << 20) + size.attempt_bytes_max * size.in_flight_max as u64;
    assert!(after.grown_since(before) < growth_max, "grown by {}", mib(after.grown_since(before)));
    Figures { most_open, before, after }
}

fn sent_on_slow(meta: &Meta) -> usize {
    meta.arrivals().iter().filter(|arrival| arrival.line == SLOW).count()
}

async fn epochs(redis: &TestRedis) -> Vec<u64> {
    let (keys, mut connection) = (RedisKeys::new("pregon"), redis.connection().await);
    let mut epochs = Vec::new();
    for line in LINES {
        epochs.push(connection.get(keys.epoch(&line.into())).await.expect("an epoch"));
    }
    epochs
}

/// Waits until the lease of every line was renewed [`RENEWALS`] times. The TTL of a lease rises only when the lease is
/// renewed.
async fn leases_are_renewed(redis: &TestRedis) {
    let (keys, mut connection) = (RedisKeys::new("pregon"), redis.connection().await);
    for line in LINES {
        let (mut left, mut renewals) = (i64::MAX, 0);
        support::until("the lease is renewed", async || {
            let before =
                std::mem::replace(&mut left, connection.pttl(keys.lease(&line.into())).await.expect("a lease"));
            renewals += usize::from(left > before);
            renewals >= RENEWALS
        })
        .await;
    }
}

/// Stops the worker while attempts are open. Checks that the worker sends nothing more, and that it waits for the
/// responses to the open attempts before it exits.
async fn stop(server: &mut Server, conduct: &SlowLine, redis: &TestRedis, campaign: &str) {
    let store = Store::connect(&world::address(redis)).await.expect("a store");
    let id = campaign.parse().expect("an id");
    let counts = async || {
        let record = store.campaign(id).await.expect("redis").expect("a campaign");
        world::counts(&store, &record).await.by_state
    };
    server.signal("TERM");
    support::until("the worker is stopping", async || server.log().contains("stopping")).await;
    let given_back = async || counts().await[&State::InFlight] as usize == conduct.n_withheld();
    support::until("claimed rows that were not sent are given back", given_back).await;
    let accepted = counts().await[&State::Accepted] as usize + conduct.n_withheld();
    conduct.answer_withheld();
    assert!(server.ended().await.success());
    let counts = counts().await;
    let open = [State::InFlight, State::InDoubt].map(|state| counts[&state]);
    assert_eq!((counts[&State::Accepted] as usize, open), (accepted, [0, 0]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_meta_has_bounded_open_attempts_and_delays_no_line() {
    run(Size { in_flight_max: 64, latency: Duration::from_millis(100), attempt_bytes_max: 100 << 10 }).await;
}
