//! A thousand lines, and a dead one among them: the others do not notice.
//!
//! Dead is a line in three ways, so that there are three of them: one whose sends are never answered, one whose
//! connections end without an answer, and one whose token Meta refuses.

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
    PATIENT, keeps_no_file,
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
/// Of a WABA of its own, for Meta refuses a token for all that it is of.
const REFUSED: &str = "refused";
/// Lines that are well.
const WELL: usize = 997;
/// Recipients of each line: the smallest piece that an upload gives to a line.
const EACH: usize = 16;
const FIRST: u64 = 5_491_160_000_000;
/// Numbers between the campaigns.
const APART: u64 = 1_000_000;
/// Meta's code for a token that is no good.
const BAD_TOKEN: u32 = 190;
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Clone, Copy)]
pub struct Size {
    /// Messages a second of each line.
    pub rate: f64,
    /// The lines are compared when they have so many messages on average.
    pub compared_at: usize,
}

/// How the lines that are well stood when they had a certain number of messages together.
#[derive(Clone, Copy, Debug)]
pub struct Standing {
    /// Messages of the line that had fewest, and of the one that had most.
    pub fewest: usize,
    pub most: usize,
    /// From the first to the last of them.
    pub took: Duration,
}

pub struct Figures {
    pub well: Standing,
    pub with_dead: Standing,
    pub before: Memory,
    pub after: Memory,
}

/// Takes every message, but of lines that are dead.
#[derive(Clone, Default)]
struct Deadly {
    dead: Arc<AtomicBool>,
    /// Messages of lines that are well.
    taken: Arc<AtomicUsize>,
}

impl Conduct for Deadly {
    fn send(&mut self, sent: Sent, _: &Courier) -> Reply {
        let dead = self.dead.load(Ordering::SeqCst);
        if is_well(&sent.line) {
            self.taken.fetch_add(1, Ordering::SeqCst);
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
    conduct: Deadly,
    api: Api,
    /// Those of the first WABA.
    lines: Vec<String>,
    numbers: u64,
}

impl Thousand {
    /// Sends a campaign to all lines, and gives how those that are well stood at the number of messages of `size`. Their
    /// campaign, and that of the line with a token of its own, go on.
    async fn campaign(&mut self, size: Size) -> (Standing, String, String) {
        let first = self.numbers;
        self.numbers += APART;
        let lines: Vec<&str> = self.lines.iter().map(String::as_str).collect();
        let draft = self.api.draft(&lines, first..first + (lines.len() * EACH) as u64, json!({})).await;
        let (before, taken) = (self.meta.requests(), self.conduct.taken.load(Ordering::SeqCst));
        let other = self.numbers;
        self.numbers += APART;
        let other = self.api.campaign(&[REFUSED], other..other + EACH as u64, json!({})).await;
        self.api.post(&format!("campaigns/{draft}/launch")).await;
        let enough = taken + size.compared_at * WELL;
        support::until("enough is sent", async || self.conduct.taken.load(Ordering::SeqCst) >= enough).await;
        (standing_at(&self.meta.arrivals()[before..], size.compared_at * WELL), draft, other)
    }
}

/// How the lines that are well stood when they had `n` messages together.
fn standing_at(arrivals: &[Arrival], n: usize) -> Standing {
    let arrivals: Vec<&Arrival> = arrivals.iter().filter(|arrival| is_well(&arrival.line)).take(n).collect();
    let mut each: HashMap<&str, usize> = HashMap::new();
    arrivals.iter().for_each(|arrival| *each.entry(&arrival.line).or_default() += 1);
    let fewest = if each.len() == WELL { each.values().min().copied() } else { None };
    let took = arrivals.last().zip(arrivals.first()).map(|(last, first)| last.latest - first.latest);
    Standing {
        fewest: fewest.unwrap_or_default(),
        most: each.values().max().copied().unwrap_or_default(),
        took: took.unwrap_or_default(),
    }
}

fn is_well(line: &str) -> bool {
    ![SILENT, CUT, REFUSED].contains(&line)
}

fn by_state(campaign: &Value) -> HashMap<&str, usize> {
    let states = campaign["statistics"]["by_state"].as_object().expect("an object").iter();
    let states = states.map(|(state, n)| (state.as_str(), n.as_u64().expect("a count") as usize));
    states.filter(|(_, n)| *n > 0).collect()
}

/// Waits until the recipients of a campaign stand so.
async fn stands(api: &Api, id: &str, holds: impl Fn(&HashMap<&str, usize>) -> bool) {
    let began = Instant::now();
    loop {
        let campaign = api.get(&format!("campaigns/{id}")).await;
        if holds(&by_state(&campaign)) {
            return;
        }
        assert!(began.elapsed() < PATIENCE, "after {PATIENCE:?} still {:?}", by_state(&campaign));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

pub async fn play(size: Size) -> Figures {
    let redis = TestRedis::start().await;
    keeps_no_file(&redis).await;
    let conduct = Deadly::default();
    let meta = Meta::start(conduct.clone(), support::seed());
    let lines: Vec<String> = (1..=WELL).map(|n| n.to_string()).chain([SILENT, CUT].map(str::to_owned)).collect();
    let rates: Vec<(&str, f64)> = lines.iter().map(|line| (line.as_str(), size.rate)).collect();
    let other = format!(
        "[[waba]]\nid = \"2002\"\nbusiness = \"1001\"\naccess_token = {{ env = \"PREGON_TEST_ACCESS_TOKEN\" }}\n\
         [[line]]\nid = \"{REFUSED}\"\nwaba = \"2002\"\nmessages_per_second = {}\n",
        size.rate
    );
    let installation = Installation::new(&redis, &meta.url(), &rates, "doubt_deadline = \"10m\"").with(&other);
    // The silent line's attempts are open for as long as the test runs.
    let [timeout, lease] = PATIENT;
    let environment = [("PREGON__GRAPH__TIMEOUT", "2m"), ("PREGON__SHUTDOWN__GRACE", "2m"), timeout, lease];
    let server = installation.serve_with("all", "api,webhook,dispatch", &environment).await;
    let api = server.api();
    let owned = async || api.owners().await.iter().all(|(_, owner)| owner.is_some());
    support::until("the lines have their owner", owned).await;
    let before = Memory::of(server.pid());

    let mut thousand = Thousand { meta, conduct: conduct.clone(), api: api.clone(), lines, numbers: FIRST };
    let (well, first, _) = thousand.campaign(size).await;
    api.post(&format!("campaigns/{first}/cancel")).await;
    let open = ["pending", "retrying", "in_flight"];
    stands(&api, &first, |states| open.iter().all(|state| !states.contains_key(state))).await;

    conduct.dead.store(true, Ordering::SeqCst);
    let (with_dead, second, other) = thousand.campaign(size).await;
    // Of the dead lines some have attempts open that nobody answers, or messages in doubt; the rest waits, and is not lost.
    let stand = |states: &HashMap<&str, usize>| {
        let of = |state| states.get(state).copied().unwrap_or(0);
        let dead = [of("in_flight"), of("in_doubt"), of("pending")];
        of("accepted") == WELL * EACH && dead.iter().sum::<usize>() == 2 * EACH && dead.iter().all(|n| *n > 0)
    };
    stands(&api, &second, stand).await;
    let refused = api.get(&format!("campaigns/{other}")).await;
    assert_eq!(by_state(&refused), HashMap::from([("pending", EACH)]), "{refused}");
    let waits_for = refused["statistics"]["waiting_for"].as_array().expect("a list");
    assert!(waits_for.iter().any(|wait| wait["reason"] == "token"), "{refused}");
    support::until("the lines have their owner", owned).await;
    let after = Memory::of(server.pid());

    let arrivals = thousand.meta.arrivals();
    let mut by_line: HashMap<&str, Vec<Arrival>> = HashMap::new();
    for arrival in &arrivals {
        by_line.entry(&arrival.line).or_default().push(arrival.clone());
    }
    for (line, arrivals) in by_line {
        let worst = worst_second(&arrivals, line);
        // The rate, a message, and one more that a busy machine brought late.
        assert!(worst as f64 <= size.rate + 2.0, "line {line} got {worst} messages within a second");
    }
    println!("all well: {well:?}; with dead ones: {with_dead:?}; grown by {}", mib(after.grown_since(before)));
    Figures { well, with_dead, before, after }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_lines_do_not_wait_for_those_that_are_dead() {
    play(Size { rate: 4.0, compared_at: 4 }).await;
}
