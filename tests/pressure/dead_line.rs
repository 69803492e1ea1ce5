//! A thousand lines, three of them dead: the other lines do not slow down.
//!
//! The three lines are dead in different ways: the sends of one are never answered, the connections of another end
//! without a response, and Meta refuses the token of the third.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::{
    LONG_TIMEOUTS, disable_persistence,
    memory::{Memory, mib},
    support::{
        self,
        hostile::{self, Answer, Arrival, Conduct, Courier, Meta, Reply, Sent, worst_second},
        redis::TestRedis,
        server::{Api, Installation},
    },
};

const SILENT: &str = "silent";
const CUT: &str = "cut";
/// A line of a separate WABA, because a refused token holds every line of its WABA.
const REFUSED: &str = "refused";
/// The number of healthy lines.
const HEALTHY: usize = 997;
/// Recipients of each line: the fewest that an upload assigns to a line at once.
const EACH: usize = 16;
const FIRST: u64 = 5_491_160_000_000;
/// Difference between the first phone numbers of two campaigns.
const APART: u64 = 1_000_000;
/// Meta's code for an invalid token.
const BAD_TOKEN: u32 = 190;
const TIMEOUT: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
pub struct Size {
    /// Messages per second of each line.
    pub rate: f64,
    /// The healthy lines are compared when they have sent this many messages each on average.
    pub compared_at: usize,
}

/// How much the healthy lines had sent when their messages reached a given total.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Messages of the healthy line with the fewest. Zero if a healthy line sent none.
    pub fewest: usize,
    /// Messages of the healthy line with the most.
    pub most: usize,
    /// Time from the first to the last message.
    pub took: Duration,
}

pub struct Figures {
    pub without_dead: Progress,
    pub with_dead: Progress,
    pub before: Memory,
    pub after: Memory,
}

/// Accepts every message, except on dead lines.
#[derive(Clone, Default)]
struct DeadLines {
    dead: Arc<AtomicBool>,
    /// Messages on healthy lines.
    accepted: Arc<AtomicUsize>,
}

impl Conduct for DeadLines {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let dead = self.dead.load(Ordering::SeqCst);
        if is_healthy(&sent.line) {
            self.accepted.fetch_add(1, Ordering::SeqCst);
        }
        let answer = match sent.line.as_str() {
            SILENT if dead => Answer::Silence,
            CUT if dead => Answer::Nothing,
            REFUSED if dead => hostile::refused(401, BAD_TOKEN),
            _ => hostile::accepted(&sent.to, &hostile::wamid(&sent.to, 1)),
        };
        Reply::of(answer, Duration::from_millis(20))
    }
}

struct Thousand {
    meta: Meta,
    conduct: DeadLines,
    api: Api,
    /// The lines of the first WABA.
    lines: Vec<String>,
    numbers: u64,
}

impl Thousand {
    /// Starts two campaigns: one on the lines of the first WABA, and one on the line of the separate WABA. Waits until
    /// the healthy lines have sent `size.compared_at` messages each on average. Returns their progress, and the ids of
    /// the two campaigns, which continue.
    async fn campaign(&mut self, size: Size) -> (Progress, String, String) {
        let first = self.numbers;
        self.numbers += APART;
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        let draft = self.api.draft(&lines, first..first + (lines.len() * EACH) as u64, json!({})).await;
        let (before, accepted) = (self.meta.requests(), self.conduct.accepted.load(Ordering::SeqCst));
        let other = self.numbers;
        self.numbers += APART;
        let other = self.api.campaign(&[REFUSED], other..other + EACH as u64, json!({})).await;
        self.api.post(&format!("campaigns/{draft}/launch")).await;
        let enough = accepted + size.compared_at * HEALTHY;
        support::until("enough is sent", async || self.conduct.accepted.load(Ordering::SeqCst) >= enough).await;
        (progress_at(&self.meta.arrivals()[before..], size.compared_at * HEALTHY), draft, other)
    }
}

/// The progress of the healthy lines when they had sent `n` messages in total.
fn progress_at(arrivals: &[Arrival], n: usize) -> Progress {
    let arrivals: Vec<&Arrival> = arrivals.iter().filter(|arrival| is_healthy(&arrival.line)).take(n).collect();
    let mut each: HashMap<&str, usize> = HashMap::new();
    arrivals.iter().for_each(|arrival| *each.entry(&arrival.line).or_default() += 1);
    let fewest = if each.len() == HEALTHY { each.values().min().copied() } else { None };
    let took = arrivals.last().zip(arrivals.first()).map(|(last, first)| last.latest - first.latest);
    Progress {
        fewest: fewest.unwrap_or_default(),
        most: each.values().max().copied().unwrap_or_default(),
        took: took.unwrap_or_default(),
    }
}

fn is_healthy(line: &str) -> bool {
    ![SILENT, CUT, REFUSED].contains(&line)
}

fn by_state(campaign: &Value) -> HashMap<&str, usize> {
    let states = campaign["statistics"]["by_state"].as_object().expect("an object").iter();
    let states = states.map(|(state, n)| (state.as_str(), n.as_u64().expect("a count") as usize));
    states.filter(|(_, n)| *n > 0).collect()
}

/// Waits until the counts of a campaign satisfy `condition`.
async fn wait_for_counts(api: &Api, id: &str, condition: impl Fn(&HashMap<&str, usize>) -> bool) {
    let began = Instant::now();
    loop {
        let campaign = api.get(&format!("campaigns/{id}")).await;
        if condition(&by_state(&campaign)) {
            return;
        }
        assert!(began.elapsed() < TIMEOUT, "after {TIMEOUT:?} still {:?}", by_state(&campaign));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn run(size: Size) -> Figures {
    let redis = TestRedis::start().await;
    disable_persistence(&redis).await;
    let conduct = DeadLines::default();
    let meta = Meta::start(conduct.clone(), support::seed());
    let lines: Vec<String> = (1..=HEALTHY).map(|n| n.to_string()).chain([SILENT, CUT].map(str::to_owned)).collect();
    let rates: Vec<(&str, f64)> = lines.iter().map(|line| (line.as_str(), size.rate)).collect();
    let other = format!(
        "[[waba]]\nid = \"2002\"\nbusiness = \"1001\"\naccess_token = {{ env = \"PREGON_TEST_ACCESS_TOKEN\" }}\n\
         [[line]]\nid = \"{REFUSED}\"\nwaba = \"2002\"\nmessages_per_second = {}\n",
        size.rate
    );
    let installation = Installation::new(&redis, &meta.url(), &rates, "doubt_deadline = \"10m\"").with(&other);
    // The silent line's attempts must stay open until the test ends.
    let [timeout, lease] = LONG_TIMEOUTS;
    let environment = [("PREGON__GRAPH__TIMEOUT", "2m"), ("PREGON__SHUTDOWN__GRACE", "2m"), timeout, lease];
    let server = installation.serve_with("all", "api,webhook,dispatch", &environment).await;
    let api = server.api();
    let owned = async || api.owners().await.iter().all(|(_, owner)| owner.is_some());
    support::until("every line has an owner", owned).await;
    let before = Memory::of(server.pid());

    let mut thousand = Thousand { meta, conduct: conduct.clone(), api: api.clone(), lines, numbers: FIRST };
    let (without_dead, first, _) = thousand.campaign(size).await;
    api.post(&format!("campaigns/{first}/cancel")).await;
    let open = ["pending", "retrying", "in_flight"];
    wait_for_counts(&api, &first, |states| open.iter().all(|state| !states.contains_key(state))).await;

    conduct.dead.store(true, Ordering::SeqCst);
    let (with_dead, second, other) = thousand.campaign(size).await;
    // Some messages of the dead lines are in unanswered attempts or in doubt; the others are pending and not lost.
    let expected = |states: &HashMap<&str, usize>| {
        let of = |state| states.get(state).copied().unwrap_or(0);
        let dead = [of("in_flight"), of("in_doubt"), of("pending")];
        of("accepted") == HEALTHY * EACH && dead.iter().sum::<usize>() == 2 * EACH && dead.iter().all(|n| *n > 0)
    };
    wait_for_counts(&api, &second, expected).await;
    let refused = api.get(&format!("campaigns/{other}")).await;
    assert_eq!(by_state(&refused), HashMap::from([("pending", EACH)]), "{refused}");
    let waits_for = refused["statistics"]["waiting_for"].as_array().expect("a list");
    assert!(waits_for.iter().any(|wait| wait["reason"] == "token"), "{refused}");
    support::until("every line has an owner", owned).await;
    let after = Memory::of(server.pid());

    let arrivals = thousand.meta.arrivals();
    let mut by_line: HashMap<&str, Vec<Arrival>> = HashMap::new();
    for arrival in &arrivals {
        by_line.entry(&arrival.line).or_default().push(arrival.clone());
    }
    for (line, arrivals) in by_line {
        let worst = worst_second(&arrivals, line);
        // Above the rate, allow one message, and one more that a busy machine may deliver late.
        assert!(worst as f64 <= size.rate + 2.0, "line {line} got {worst} messages within a second");
    }
    println!(
        "without dead lines: {without_dead:?}; with dead ones: {with_dead:?}; grown by {}",
        mib(after.grown_since(before))
    );
    Figures { without_dead, with_dead, before, after }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_lines_do_not_wait_for_dead_ones() {
    run(Size { rate: 4.0, compared_at: 4 }).await;
}
