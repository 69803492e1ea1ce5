//! Promises 1, 2 and 4 against a hostile fake Meta: lost, late, repeated and contradictory responses and webhooks.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex},
    time::Duration,
};

use pregon::{
    redis::Store,
    stats::{self, StateCounts},
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};

use crate::support::{
    self,
    hostile::{self, Conduct, Courier, End, Meta, Reply, Sent, Status},
    redis::TestRedis,
    server::Installation,
    world,
};

const RECIPIENTS: u64 = 2_000;
const FIRST: u64 = 5_491_140_000_000;

/// The fake Meta's record of a recipient.
#[derive(Clone, Debug, Default)]
struct LedgerEntry {
    /// Accepted messages.
    messages: u64,
    /// The last complete response that reached the sender: accepted, or the code of a permanent refusal.
    answered: Option<Result<(), u32>>,
    /// Requests answered with an error that uses up an attempt, plus one for `answered`.
    attempts: u64,
}

type Ledger = Arc<Mutex<HashMap<String, LedgerEntry>>>;

/// Everything that happens to one recipient, drawn from the seed and the recipient's number.
struct Fate {
    /// Errors before the request succeeds: HTTP status and code.
    hurdles: Vec<(u16, u32)>,
    end: End,
    rng: StdRng,
}

struct Hostile {
    seed: u64,
    rng: StdRng,
    fates: HashMap<String, Fate>,
    ledger: Ledger,
}

impl Fate {
    fn draw(seed: u64, to: &str) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ to.parse::<u64>().expect("a number"));
        let hurdles = match rng.random_range(0..100) {
            0..2 => vec![(429, 130_429)],
            2..4 => vec![(400, 130_429), (429, 130_429)],
            4..6 => vec![(400, 131_056)],
            6..9 => vec![(500, 131_000), (500, 131_000)],
            9 => vec![(429, 130_429), (500, 131_000), (400, 130_429), (500, 131_000)],
            _ => Vec::new(),
        };
        let end = match rng.random_range(0..1_000) {
            0..50 => End::Lost,
            50..80 => End::LostToProxy,
            80..90 => End::LostToSilence,
            90..120 => End::Closed,
            120..150 => End::Proxy,
            150..155 => End::Silence,
            155..200 => End::Refused,
            _ => End::Answered,
        };
        Self { hurdles, end, rng }
    }

    /// The statuses of the message: the word of each, and whether it has our token.
    fn statuses(&mut self) -> Vec<(&'static str, bool)> {
        let answered = self.end == End::Answered;
        match self.rng.random_range(0..100) {
            0..15 => vec![],
            15..30 => vec![("sent", true)],
            30..55 => vec![("sent", true), ("delivered", true)],
            55..80 => vec![("sent", true), ("delivered", true), ("read", true)],
            80..85 => vec![("failed 131026", true)],
            85..88 => vec![("sent", true), ("failed 131049", true)],
            // A status without our token can only be matched if the response with the message id arrived.
            88..93 if answered => vec![("failed 131053", false)],
            88..97 => vec![("sent", true), ("failed 131053", false)],
            97..99 => vec![("failed 131026", true), ("delivered", true)],
            _ => vec![("read", true)],
        }
    }
}

impl Conduct for Hostile {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let fate = self.fates.entry(sent.to.clone()).or_insert_with(|| Fate::draw(self.seed, &sent.to));
        let mut ledger = self.ledger.lock().expect("no panic");
        let entry = ledger.entry(sent.to.clone()).or_default();
        let delay = Duration::from_millis(self.rng.random_range(0..60));
        if !fate.hurdles.is_empty() {
            let (http_status, code) = fate.hurdles.remove(0);
            entry.attempts += u64::from(code == 131_000);
            return Reply::of(hostile::refused(http_status, code), delay);
        }
        let taken = fate.end.is_accepted();
        entry.messages += u64::from(taken);
        let wamid = hostile::wamid(&sent.to, entry.messages);
        let mut first = Vec::new();
        for (word, with_token) in if taken { fate.statuses() } else { Vec::new() } {
            let token = with_token.then(|| sent.token.clone());
            let status =
                Status { line: sent.line.clone(), to: sent.to.clone(), wamid: wamid.clone(), token, word: word.into() };
            let times = if fate.rng.random_bool(0.3) { 2 } else { 1 };
            for _ in 0..times {
                courier.report(Duration::from_millis(fate.rng.random_range(0..1_500)), status.clone());
            }
            if with_token && fate.rng.random_bool(0.05) {
                first.push(status);
            }
        }
        if fate.rng.random_bool(0.02) {
            // A forged status: an altered token, and the id of a message that was never sent.
            let mut token = sent.token.clone();
            let last = token.pop().expect("a token");
            token.push(if last == '0' { '1' } else { '0' });
            let (line, wamid) = (sent.line.clone(), format!("wamid.nobody.{}", sent.to));
            let nobody = Status { line, to: String::new(), wamid, token: Some(token), word: "read".into() };
            courier.report(delay, nobody);
        }
        let answered = match fate.end {
            End::Answered => Some(Ok(())),
            End::Refused => Some(Err(hostile::REFUSED)),
            _ => None,
        };
        if answered.is_some() {
            (entry.answered, entry.attempts) = (answered, entry.attempts + 1);
        }
        let answer = fate.end.answer(&sent.to, &wamid);
        Reply { first, hang_up: self.rng.random_bool(0.05), ..Reply::of(answer, delay) }
    }

    fn drops(&mut self) -> bool {
        !self.fates.is_empty() && self.rng.random_bool(0.03)
    }
}

/// The expected state of a recipient, and its code if it failed.
fn expected(entry: Option<&LedgerEntry>, reported: &[&str]) -> (&'static str, Option<u32>) {
    let answered = entry.and_then(|entry| entry.answered);
    if let Some(Err(code)) = answered {
        assert!(reported.is_empty(), "a refused message has no statuses");
        return ("failed", Some(code));
    }
    let said = |word: &str| reported.iter().find(|reported| reported.starts_with(word));
    if said("read").is_some() {
        ("read", None)
    } else if said("delivered").is_some() {
        ("delivered", None)
    } else if let Some(failed) = said("failed") {
        ("failed", failed.split_once(' ').map(|(_, code)| code.parse().expect("a code")))
    } else if said("sent").is_some() {
        ("sent", None)
    } else if answered.is_some() {
        ("accepted", None)
    } else {
        ("unknown", None)
    }
}

/// The statistics as the fake Meta's ledger has them: recipients by state, failures by code, and messages that Meta is
/// known to have accepted, by a response or a status.
#[derive(Debug, Default, PartialEq)]
struct Truth {
    by_state: BTreeMap<String, u64>,
    failures: BTreeMap<u64, u64>,
    accepted: u64,
}

impl Truth {
    fn claimed_by(campaign: &Value) -> Self {
        let statistics = &campaign["statistics"];
        let n = |value: &Value| value.as_u64().expect("a count");
        let states = statistics["by_state"].as_object().expect("an object").iter();
        let failures = statistics["failures"].as_array().expect("a list").iter();
        Self {
            by_state: states.map(|(state, count)| (state.clone(), n(count))).filter(|(_, count)| *count > 0).collect(),
            failures: failures.map(|failure| (n(&failure["code"]), n(&failure["count"]))).collect(),
            accepted: n(&statistics["funnel"]["accepted"]),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn statistics_match_a_hostile_metas_ledger_without_duplicates() {
    let seed = support::seed();
    let redis = TestRedis::start().await;
    let ledger = Ledger::default();
    let rng = StdRng::seed_from_u64(seed);
    let meta = Meta::start(Hostile { seed, rng, fates: HashMap::new(), ledger: ledger.clone() }, seed);
    let lines = [("3001", 500.0), ("3002", 500.0)];
    let installation = Installation::new(&redis, &meta.url(), &lines, "doubt_deadline = \"6s\"");
    let server = installation.serve("all", "api,webhook,dispatch").await;
    meta.set_webhook(server.webhook());
    let api = server.api();

    let numbers = || (FIRST..FIRST + RECIPIENTS).map(|to| to.to_string());
    let id = api.campaign(&["3001", "3002"], FIRST..FIRST + RECIPIENTS, json!({})).await;
    api.wait_for_state(&id, "completed", Duration::from_secs(240)).await;
    support::until("every status is delivered", async || meta.is_idle()).await;

    let ledger = ledger.lock().expect("no panic").clone();
    let reported = meta.reported();
    let mut words: HashMap<&str, Vec<&str>> = HashMap::new();
    for status in reported.iter().filter(|status| !status.to.is_empty()) {
        words.entry(&status.to).or_default().push(&status.word);
    }
    let words = |to: &str| words.get(to).map_or(&[][..], Vec::as_slice);
    let mut truth = Truth::default();
    let mut standing: BTreeMap<String, (&str, Option<u32>)> = BTreeMap::new();
    for to in numbers() {
        let entry = ledger.get(&to);
        assert!(entry.is_none_or(|entry| entry.messages <= 1), "{to} got two messages: {entry:?}");
        let (state, code) = expected(entry, words(&to));
        *truth.by_state.entry(state.to_owned()).or_default() += 1;
        if let Some(code) = code {
            *truth.failures.entry(u64::from(code)).or_default() += 1;
        } else if state == "unknown" {
            *truth.failures.entry(0).or_default() += 1;
        }
        let answered = entry.and_then(|entry| entry.answered);
        truth.accepted += u64::from(answered == Some(Ok(())) || !words(&to).is_empty());
        standing.insert(format!("+{to}"), (state, code));
    }
    // Every kind of fault happened.
    for state in ["accepted", "sent", "delivered", "read", "failed", "unknown"] {
        assert!(truth.by_state.get(state).is_some_and(|n| *n >= 10), "{state} in {truth:?}");
    }

    // A failure without our token may still be parked.
    let mut claimed = Truth::default();
    for _ in 0..300 {
        claimed = Truth::claimed_by(&api.get(&format!("campaigns/{id}")).await);
        if claimed == truth {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let recipients = api.recipients(&id).await;
    let view = |recipient: &Value| {
        let text = |key: &str| recipient[key].as_str().unwrap_or_default().to_owned();
        (text("to"), text("state"), recipient["code"].as_u64())
    };
    let shown: BTreeMap<String, (String, Option<u64>)> =
        recipients.iter().map(view).map(|(to, state, code)| (to, (state, code))).collect();
    assert_eq!((recipients.len(), shown.len()), (standing.len(), standing.len()));
    for (to, &(state, code)) in &standing {
        let number = &to[1..];
        let (shown_state, shown_code) = &shown[to];
        assert_eq!(shown_state, state, "{to}: {:?}, reported {:?}", ledger.get(number), words(number));
        if state == "failed" {
            assert_eq!(*shown_code, code.map(u64::from), "{to}");
        }
    }
    for recipient in &recipients {
        let to = recipient["to"].as_str().expect("a number").trim_start_matches('+');
        if let Some(entry) = ledger.get(to).filter(|entry| entry.answered.is_some()) {
            assert_eq!(
                recipient["attempts"].as_u64(),
                Some(entry.attempts),
                "being throttled uses up no attempt: {recipient}"
            );
        }
    }
    assert_eq!(claimed, truth);

    // Every status is sent once more, as Meta may do for a week.
    for status in reported {
        meta.courier().report(Duration::ZERO, status);
    }
    support::until("every status is reported again", async || meta.is_idle()).await;
    let campaign = api.get(&format!("campaigns/{id}")).await;
    assert_eq!(Truth::claimed_by(&campaign), truth, "after every status was reported again");
    assert_eq!(campaign["statistics"]["recipients"], RECIPIENTS);

    let store = Store::connect(&world::address(&redis)).await.expect("a store");
    let record = store.campaign(id.parse().expect("an id")).await.expect("redis").expect("a campaign");
    let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
    let counted = StateCounts::of(&store.part_counts(&parts).await.expect("counters"));
    assert_eq!(stats::recount(&store, &record).await.expect("state bytes"), counted);
}
