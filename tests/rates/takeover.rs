//! Promises 1, 2 and 3 while workers and Redis stop and restart: two processes, three lines of 80 messages a second.
//!
//! The tests measure rates, so they run one at a time.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use pregon::{
    dispatch::DispatchSettings,
    domain::{CampaignId, CampaignState, OnDoubt, State},
    redis::{Address, Store},
    stats::{self, StateCounts},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    task::JoinHandle,
};

use crate::{
    ONE_AT_A_TIME,
    support::{
        self,
        hostile::{self, AcceptAll, Arrival, Conduct, Courier, Meta, Reply, Sent, Status, worst_second},
        redis::TestRedis,
        server::{Api, Installation, Server},
        world::{self, TestWorker},
    },
};

const RECIPIENTS: u64 = 2_100;
const FIRST: u64 = 5_491_150_000_000;
const LINES: [&str; 3] = ["3001", "3002", "3003"];
/// 5 % above a line's rate of 80 messages a second.
const WORST_SECOND_MAX: usize = 84;
/// Maximum number of rows that a line has claimed and not sent: two claims, each of what it sends in 50 ms.
const CLAIMED_MAX: usize = 8;

/// Accepts every message, and reports those to even numbers as sent.
struct EvenSent;

impl Conduct for EvenSent {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let wamid = hostile::wamid(&sent.to, 1);
        let answer = hostile::accepted(&sent.to, &wamid);
        if is_even(&sent.to) {
            let Sent { line, to, token, .. } = sent;
            let status = Status { line, to, wamid, token: Some(token), word: "sent".into() };
            courier.report(Duration::from_millis(100), status);
        }
        Reply::of(answer, Duration::from_millis(20))
    }
}

fn is_even(to: &str) -> bool {
    to.parse::<u64>().expect("a number").is_multiple_of(2)
}

/// Two processes: `first` has only the role dispatch, `second` has all roles.
struct Pair {
    redis: TestRedis,
    meta: Meta,
    first: Server,
    second: Server,
    api: Api,
    id: String,
    /// The number of lines that `first` owned when the campaign started.
    lines_of_first: usize,
}

impl Pair {
    /// Starts both processes, waits until each owns a line, and launches the campaign.
    async fn start() -> Self {
        let seed = support::seed();
        let redis = TestRedis::start().await;
        let meta = Meta::start(EvenSent, seed);
        let lines = LINES.map(|line| (line, 80.0));
        let installation = Installation::new(&redis, &meta.url(), &lines, "doubt_deadline = \"6s\"");
        let first = installation.serve("first", "dispatch").await;
        let second = installation.serve("second", "api,webhook,dispatch").await;
        meta.set_webhook(second.webhook());
        let api = second.api();
        let mut lines_of_first = 0;
        support::until("both have lines", async || {
            let owners = api.owners().await;
            let of = |worker: &str| owners.iter().filter(|(_, owner)| owner.as_deref() == Some(worker)).count();
            lines_of_first = of(&first.worker);
            lines_of_first > 0 && of(&second.worker) > 0 && owners.iter().all(|(_, owner)| owner.is_some())
        })
        .await;
        let id = api.campaign(&LINES, FIRST..FIRST + RECIPIENTS, json!({})).await;
        Self { redis, meta, first, second, api, id, lines_of_first }
    }

    async fn wait_for_requests(&self, requests: usize) {
        support::until("messages are sent", async || self.meta.requests() >= requests).await;
    }

    /// Waits until `worker` owns all lines.
    async fn wait_for_owner(&self, worker: &str) {
        support::until("one worker owns all lines", async || {
            self.api.owners().await.iter().all(|(_, owner)| owner.as_deref() == Some(worker))
        })
        .await;
    }

    /// Waits until the campaign is completed and all statuses are delivered, and checks the promises: no
    /// duplicates, no line above its rate, exact states and counts. Returns the arrivals, and the states of the
    /// recipients by number.
    async fn finish(&self) -> (Vec<Arrival>, BTreeMap<String, String>) {
        let completed = self.api.wait_for_state(&self.id, "completed", Duration::from_secs(120)).await;
        support::until("every status is delivered", async || self.meta.is_idle()).await;
        let arrivals = self.meta.arrivals();
        let mut messages: HashMap<&str, u64> = HashMap::new();
        arrivals.iter().for_each(|arrival| *messages.entry(&arrival.to).or_default() += 1);
        let twice: Vec<_> = messages.iter().filter(|(_, n)| **n > 1).collect();
        assert!(twice.is_empty(), "two messages: {twice:?}");
        for line in LINES {
            let worst = worst_second(&arrivals, line);
            println!("line {line}: {worst} in its worst second");
            assert!(worst <= WORST_SECOND_MAX, "line {line} got {worst} messages within a second");
        }

        let campaign = self.api.get(&format!("campaigns/{}", self.id)).await;
        let shown: BTreeMap<String, String> =
            self.api.recipients(&self.id).await.iter().map(number_and_state).collect();
        assert_eq!(shown.len() as u64, RECIPIENTS, "{completed}");
        for (to, state) in &shown {
            let arrived = messages.contains_key(to.as_str());
            let fits = match state.as_str() {
                "sent" => arrived && is_even(to),
                "accepted" => arrived && !is_even(to),
                // Only if Meta reported nothing: it never got the message, or its response was lost with the process.
                "unknown" => !arrived || !is_even(to),
                _ => false,
            };
            assert!(fits, "{to} is {state}, and its message arrived: {arrived}");
        }
        let mut by_state: BTreeMap<&str, u64> = BTreeMap::new();
        shown.values().for_each(|state| *by_state.entry(state).or_default() += 1);
        println!("{by_state:?}");
        let counted = campaign["statistics"]["by_state"].as_object().expect("an object").iter();
        let counted = counted.map(|(state, n)| (state.as_str(), n.as_u64().expect("a count"))).filter(|(_, n)| *n > 0);
        assert_eq!(counted.collect::<BTreeMap<_, _>>(), by_state);

        let store = Store::connect(&world::address(&self.redis)).await.expect("a store");
        let record = store.campaign(self.id.parse().expect("an id")).await.expect("redis").expect("a campaign");
        let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
        let counters = StateCounts::of(&store.part_counts(&parts).await.expect("counters"));
        assert_eq!(stats::recount(&store, &record).await.expect("state bytes"), counters);
        (arrivals, shown)
    }
}

fn number_and_state(recipient: &Value) -> (String, String) {
    let text = |key: &str| recipient[key].as_str().expect("text").to_owned();
    (text("to").trim_start_matches('+').to_owned(), text("state"))
}

fn unknown(shown: &BTreeMap<String, String>) -> HashSet<&str> {
    shown.iter().filter(|(_, state)| *state == "unknown").map(|(to, _)| to.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_of_a_killed_worker_are_finished_without_duplicates() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut pair = Pair::start().await;
    pair.wait_for_requests(RECIPIENTS as usize / 2).await;
    pair.first.signal("KILL");
    pair.first.ended().await;
    let dead = Instant::now();
    let (arrivals, shown) = pair.finish().await;
    pair.wait_for_owner(&pair.second.worker).await;
    let unknown = unknown(&shown);
    let arrived: HashMap<&str, &Arrival> = arrivals.iter().map(|arrival| (arrival.to.as_str(), arrival)).collect();
    for to in &unknown {
        assert!(arrived.get(to).is_none_or(|arrival| arrival.earliest < dead), "{to} was sent by the surviving worker");
    }
    let never_sent = unknown.iter().filter(|to| !arrived.contains_key(*to)).count();
    // Besides the claimed rows, two messages may have been on their way to the socket.
    assert!(never_sent <= (CLAIMED_MAX + 2) * pair.lines_of_first, "{never_sent} claimed and never sent");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_leaves_nothing_in_doubt() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut pair = Pair::start().await;
    pair.wait_for_requests(RECIPIENTS as usize / 2).await;
    pair.first.signal("TERM");
    let ended = pair.first.ended().await;
    assert_eq!(ended.code(), Some(0), "{}", pair.first.log());
    let (arrivals, shown) = pair.finish().await;
    assert_eq!(arrivals.len() as u64, RECIPIENTS);
    assert_eq!(unknown(&shown), HashSet::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_resumed_after_its_lease_sends_no_duplicates() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let pair = Pair::start().await;
    pair.wait_for_requests(RECIPIENTS as usize / 3).await;
    let stopped = Instant::now();
    pair.first.signal("STOP");
    pair.wait_for_owner(&pair.second.worker).await;
    pair.wait_for_requests(RECIPIENTS as usize / 2).await;
    pair.first.signal("CONT");
    let woken = Instant::now();
    let (arrivals, shown) = pair.finish().await;
    println!("asleep for {:?}", woken - stopped);
    let arrived: HashMap<&str, &Arrival> = arrivals.iter().map(|arrival| (arrival.to.as_str(), arrival)).collect();
    for to in unknown(&shown) {
        // The message was in flight when the worker was stopped, so its response may have come too late.
        assert!(arrived.get(to).is_none_or(|arrival| arrival.earliest < woken), "{to}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_claimed_messages_are_sent_during_a_redis_outage() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let mut pair = Pair::start().await;
    // One outage is shorter than a lease, the other longer.
    for (share, outage) in [(3, Duration::from_secs(1)), (2, Duration::from_secs(4))] {
        pair.wait_for_requests(RECIPIENTS as usize / share).await;
        pair.redis.kill_hard().await;
        let away = Instant::now();
        tokio::time::sleep(outage).await;
        let back = Instant::now();
        pair.redis.restart().await;
        let meanwhile =
            pair.meta.arrivals().iter().filter(|arrival| arrival.earliest > away && arrival.latest < back).count();
        println!("{meanwhile} sent during an outage of {outage:?}");
        assert!(meanwhile <= CLAIMED_MAX * LINES.len(), "{meanwhile} messages during an outage of redis");
    }
    let (arrivals, shown) = pair.finish().await;
    assert_eq!(arrivals.len() as u64, RECIPIENTS);
    // No process ended, so each replays Meta's responses and what it did not send.
    assert_eq!(unknown(&shown), HashSet::new());
}

/// A proxy between a worker and its Redis. It closes a connection after Redis has applied a claim and before the worker
/// gets the response, for every 40th claim.
struct ClaimDroppingProxy {
    dir: TempDir,
    wire: Arc<Wire>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Wire {
    claims: AtomicU64,
    lost: AtomicU64,
    /// The next claim gets no response, and then nothing gets through.
    breaks_at_next_claim: AtomicBool,
    is_broken: AtomicBool,
}

impl ClaimDroppingProxy {
    fn before(redis: &TestRedis) -> Self {
        let path = PathBuf::from(redis.url().strip_prefix("redis+unix://").expect("a URL of a socket"));
        let dir = tempfile::tempdir().expect("a directory");
        let listener = UnixListener::bind(dir.path().join("s")).expect("a socket");
        let wire = Arc::new(Wire::default());
        let shared = wire.clone();
        let task = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if !shared.is_broken.load(Ordering::SeqCst) {
                    let server = UnixStream::connect(&path).await.expect("redis");
                    tokio::spawn(shared.clone().pass_on(client, server));
                }
            }
        });
        Self { dir, wire, task }
    }

    fn url(&self) -> String {
        format!("redis+unix://{}", self.dir.path().join("s").display())
    }

    fn lost(&self) -> u64 {
        self.wire.lost.load(Ordering::SeqCst)
    }

    /// Drops the response to the next claim, then blocks all traffic.
    async fn break_at_next_claim(&self) {
        self.wire.breaks_at_next_claim.store(true, Ordering::SeqCst);
        support::until("a claim gets no response", async || self.wire.is_broken.load(Ordering::SeqCst)).await;
    }

    fn restore(&self) {
        self.wire.breaks_at_next_claim.store(false, Ordering::SeqCst);
        self.wire.is_broken.store(false, Ordering::SeqCst);
    }
}

impl Wire {
    fn drops_response(&self) -> bool {
        let is_40th = self.claims.fetch_add(1, Ordering::SeqCst) % 40 == 39;
        self.breaks_at_next_claim.load(Ordering::SeqCst) || is_40th
    }

    async fn pass_on(self: Arc<Self>, mut client: UnixStream, mut server: UnixStream) {
        let (mut question, mut answer) = (vec![0; 64 * 1024], vec![0; 64 * 1024]);
        loop {
            let n = tokio::select! {
                read = client.read(&mut question) => {
                    let Ok(n @ 1..) = read else { return };
                    if self.is_broken.load(Ordering::SeqCst) || server.write_all(&question[..n]).await.is_err() {
                        return;
                    }
                    // Of all scripts, only the claim has a part's key `:t` after its key `:d`.
                    let text = String::from_utf8_lossy(&question[..n]);
                    let after_doubt = text.split_once(":d\r\n").and_then(|(_, rest)| rest.lines().nth(1));
                    let is_claim = after_doubt.is_some_and(|key| key.ends_with(":t"));
                    if is_claim && self.drops_response() {
                        let _ = server.read(&mut answer).await;
                        self.is_broken.store(self.breaks_at_next_claim.load(Ordering::SeqCst), Ordering::SeqCst);
                        self.lost.fetch_add(1, Ordering::SeqCst);
                        return;
                    }
                    continue;
                }
                read = server.read(&mut answer) => {
                    let Ok(n @ 1..) = read else { return };
                    n
                }
            };
            if self.is_broken.load(Ordering::SeqCst) || client.write_all(&answer[..n]).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for ClaimDroppingProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_with_a_lost_response_leaves_no_recipient_in_flight() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let line = Line500::start(world::settings()).await;
    let worker = line.worker("w1", line.proxied_address()).await;
    line.assert_all_sent_once().await;
    worker.stop().await;
    assert!(line.proxy.lost() > 0, "no response to a claim was lost");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_lost_with_its_lease_is_returned_to_the_next_owner() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let line = Line500::start(with_long_doubts(Duration::from_secs(1))).await;
    let first = line.worker_with_a_lost_claim().await;
    let before = line.meta.requests();
    let second = line.worker("w2", world::address(&line.redis)).await;
    // More than the first worker had claimed, so the second one owns the line.
    line.wait_for_requests(before + 300).await;
    line.proxy.restore();
    line.assert_all_sent_once().await;
    tokio::join!(first.stop(), second.stop());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_worker_returns_the_rows_of_an_unanswered_claim() {
    let _alone = ONE_AT_A_TIME.lock().await;
    let line = Line500::start(with_long_doubts(Duration::from_secs(30))).await;
    let first = line.worker_with_a_lost_claim().await;
    // The worker would ask Redis about its claim again a little later, but it stops first.
    let restore = async { line.proxy.restore() };
    tokio::join!(first.stop(), restore);
    let second = line.worker("w2", world::address(&line.redis)).await;
    line.assert_all_sent_once().await;
    second.stop().await;
}

/// Settings with doubts that last longer than any test.
fn with_long_doubts(lease: Duration) -> DispatchSettings {
    DispatchSettings { lease, doubt_deadline: Duration::from_secs(600), ..world::settings() }
}

/// A campaign on a line of 500 messages a second, and a proxy to its Redis that loses responses to claims.
struct Line500 {
    redis: TestRedis,
    proxy: ClaimDroppingProxy,
    meta: Meta,
    store: Store,
    id: CampaignId,
    settings: DispatchSettings,
}

impl Line500 {
    async fn start(settings: DispatchSettings) -> Self {
        let redis = TestRedis::start().await;
        let proxy = ClaimDroppingProxy::before(&redis);
        let meta = Meta::start(AcceptAll { latency: Duration::from_millis(5) }, support::seed());
        let store = Store::connect(&world::address(&redis)).await.expect("a store");
        let id = world::campaign(&store, &["3001"], RECIPIENTS, OnDoubt::Hold).await;
        world::launch(&store, id).await;
        Self { redis, proxy, meta, store, id, settings }
    }

    /// The address of the proxy.
    fn proxied_address(&self) -> Address {
        Address { url: self.proxy.url(), ..world::address(&self.redis) }
    }

    async fn worker(&self, name: &str, address: Address) -> TestWorker {
        let lines = [world::line("3001", 500.0)];
        TestWorker::start_on(name, address, &self.meta.url(), &lines, self.settings.clone()).await
    }

    async fn wait_for_requests(&self, requests: usize) {
        support::until("messages are sent", async || self.meta.requests() >= requests).await;
    }

    /// A worker behind the proxy that has just lost the response to a claim and cannot reach Redis any more.
    async fn worker_with_a_lost_claim(&self) -> TestWorker {
        let worker = self.worker("w1", self.proxied_address()).await;
        self.wait_for_requests(200).await;
        self.proxy.break_at_next_claim().await;
        worker
    }

    /// Waits until the campaign is completed, and checks that every recipient got one message.
    async fn assert_all_sent_once(&self) {
        let record = world::wait_for_state(&self.store, self.id, CampaignState::Completed).await;
        let arrivals = self.meta.arrivals();
        let arrived: HashSet<&str> = arrivals.iter().map(|arrival| arrival.to.as_str()).collect();
        assert_eq!((arrived.len(), arrivals.len()), (RECIPIENTS as usize, RECIPIENTS as usize), "messages");
        let by_state = world::recount(&self.store, &record).await;
        assert_eq!(by_state[&State::Accepted], RECIPIENTS, "{by_state:?}");
        assert_eq!(world::counts(&self.store, &record).await.by_state, by_state);
    }
}
