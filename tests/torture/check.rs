//! What is wrong after a round: every recipient against what Meta knows of it, every count against a recount.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use pregon::{
    redis::Store,
    stats::{self, StateCounts},
};
use serde_json::Value;

use crate::{
    meta::{Known, Ledger, Troubles},
    round::{Campaign, Event},
    schedule::{Fault, LEASE, LINES, Schedule, THROTTLED, Wire},
    stage::{Post, Stage},
    support::{
        hostile::{Arrival, REFUSED, worst_second},
        server::Api,
        world,
    },
};

/// How long after the last status was acknowledged the statistics may still differ.
const SETTLED_AFTER: Duration = Duration::from_secs(10);
/// A worker had a line when it was killed if it had sent on it so recently.
const OWNED: Duration = Duration::from_millis(300);
/// A take-over is measured where nothing else was wrong since so long before.
const QUIET: Duration = Duration::from_secs(1);
/// Take-over takes at most a lease and this.
const TAKE_OVER: Duration = Duration::from_secs(1);
/// It is not measured on a machine that is later than this.
const LATE: Duration = Duration::from_millis(200);
/// Attempts in a row without an answer of Meta's that stop a line.
const IN_A_ROW: u32 = 5;
/// An answer takes less than this, without a link.
const ANSWER_MAX: Duration = Duration::from_millis(100);
/// A line rests so soon after a status that blames it. Meta tells times in seconds: what comes in the second in which an
/// operator let something go may be older than that, and holds nothing.
const HOLDS_WITHIN: Duration = Duration::from_millis(1_500);
/// So many examples of what is wrong are told.
const EXAMPLES: usize = 5;

/// What a round came to.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Recipients that are nowhere, or in no final state although their campaign has completed.
    pub lost: u64,
    /// Recipients in no final state whose campaign did not complete after everything was well again: nobody works on it.
    pub stuck: u64,
    /// Recipients with more than one message.
    pub twice: u64,
    pub unknown: Unknown,
    /// Messages that Meta returned.
    pub returned: u64,
    /// Recipients who failed with the code of a return: their campaign had ended.
    pub returned_late: u64,
    /// Per worker, line and streak: the messages that a proxy answered in Meta's place.
    pub streaks: Vec<u64>,
    /// Per line: sends in its worst second, and its rate.
    pub worst: Vec<(usize, u64)>,
    /// Two workers could own a line for a moment: [`Schedule::lets_owners_overlap`].
    pub owners_overlap: bool,
    /// How long the machine let the harness wait at most.
    pub machine_was_late: Duration,
    /// From a SIGKILL until another worker sent on the line; where nothing else was wrong, and the machine not late.
    pub take_overs: Vec<Duration>,
    /// What must not be, in words.
    pub problems: Vec<String>,
}

/// Recipients that ended as unknown, by what Meta had of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unknown {
    /// No request, or none since Meta returned a message: it was claimed by a worker that died, or lost on its way.
    pub never_seen: u64,
    /// A request that Meta did not take, and the answer was lost or never given.
    pub not_taken: u64,
    /// A message: Meta told of it, so this is wrong.
    pub taken: u64,
}

impl Verdict {
    pub fn is_good(&self) -> bool {
        self.problems.is_empty()
    }

    /// The worst second of any line, in percent of its rate.
    pub fn worst_percent(&self) -> f64 {
        self.worst.iter().map(|(worst, rate)| 100.0 * *worst as f64 / *rate as f64).fold(0.0, f64::max)
    }

    fn wrong(&mut self, what: &str, n: u64, examples: &[String]) {
        if n > 0 {
            self.problems.push(format!("{what}: {n}, such as {}", examples.join("; ")));
        }
    }
}

/// Looks at everything. `problems`: what was wrong before.
pub async fn judge(
    stage: &Stage,
    schedule: &Schedule,
    (ledger, troubles): (&Ledger, &Troubles),
    events: &[Event],
    campaigns: &[Campaign],
    problems: Vec<String>,
) -> Verdict {
    let mut verdict = Verdict { problems, machine_was_late: stage.machine_was_late(), ..Verdict::default() };
    let api = Api::at(&stage.front.url());
    let truth = Truth::of(ledger, stage);
    verdict.returned = truth.ledger.values().map(|known| known.returned.len() as u64).sum();
    let began = Instant::now();
    let n_campaigns = api.get("campaigns?limit=100").await["campaigns"].as_array().map_or(0, Vec::len);
    if n_campaigns != campaigns.len() {
        verdict.problems.push(format!("{n_campaigns} campaigns are there, of {}", campaigns.len()));
    }
    for campaign in campaigns {
        let Some(id) = &campaign.id else {
            verdict.lost += campaign.recipients();
            verdict.problems.push(format!("lost: {} recipients of jobs without effect", campaign.recipients()));
            continue;
        };
        let mut shown = api.recipients(id).await;
        while !truth.is_shown_by(&shown, campaign) && began.elapsed() < SETTLED_AFTER {
            tokio::time::sleep(Duration::from_millis(200)).await;
            shown = api.recipients(id).await;
        }
        recipients(&mut verdict, campaign, &truth, &shown);
        counts(&mut verdict, stage, &api.get(&format!("campaigns/{id}")).await, &shown, id).await;
    }
    let mut straight = stage.meta.arrivals();
    straight.retain(|arrival| is_straight(&arrival.version, schedule));
    rates(&mut verdict, &straight, schedule);
    streaks(&mut verdict, schedule, troubles);
    holds(&mut verdict, &straight, stage, schedule, events);
    if verdict.machine_was_late < LATE {
        take_overs(&mut verdict, &stage.meta.arrivals(), events);
    }
    // A machine that stops for a lease puts every worker to sleep.
    let explained = verdict.machine_was_late >= LEASE || events.iter().any(may_leave_unknown);
    if verdict.unknown.never_seen > 0 && !explained {
        let n = verdict.unknown.never_seen;
        verdict.problems.push(format!("{n} unknown that Meta never saw, and nothing happened that explains it"));
    }
    verdict
}

/// Whether it can leave somebody unknown whom Meta never saw: a worker died with what it had claimed, was away from Redis for longer
/// than the next owner waits, or a request was lost on its way.
fn may_leave_unknown(event: &Event) -> bool {
    match event.fault {
        Fault::WorkerKilled { .. } | Fault::WorkerAsleep { .. } => true,
        Fault::Cut { wire: Wire::Meta(_) } | Fault::Held { wire: Wire::Meta(_) | Wire::Redis(_), .. } => true,
        // What the owner had claimed was put in doubt by another, and the doubt may have ended by the same jump.
        Fault::ClockSet { .. } | Fault::ClockWrong { .. } => event.fault.ends_leases(),
        Fault::RedisKilled { .. } | Fault::PowerLoss { .. } | Fault::RedisAsleep { .. } => false,
        Fault::RedisPaused { .. } | Fault::RedisSlow { .. } | Fault::RedisFull { .. } => false,
        Fault::RollingRestart | Fault::LinesChanged { .. } | Fault::ScriptsFlushed | Fault::Slow { .. } => false,
        Fault::Cut { .. } | Fault::Held { .. } | Fault::AccountBlocked { .. } | Fault::PathBroken { .. } => false,
    }
}

/// What Meta knows, and told.
struct Truth {
    ledger: HashMap<String, Known>,
    /// Of the message that a recipient has.
    told: HashMap<String, Vec<String>>,
    /// By the id of a message that Meta returned: how many statuses were taken before the one that says so, and its code.
    returned: HashMap<String, (usize, u64)>,
}

impl Truth {
    fn of(ledger: &Ledger, stage: &Stage) -> Self {
        let ledger = ledger.lock().expect("no panic").clone();
        let mut told: HashMap<String, Vec<String>> = HashMap::new();
        let mut returned = HashMap::new();
        for (before, status) in stage.meta.reported().into_iter().enumerate() {
            if !ledger.get(&status.to).is_some_and(|known| known.returned.contains(&status.wamid)) {
                told.entry(status.to).or_default().push(status.word);
            } else if let Some(code) = code_of(&status.word) {
                returned.entry(status.wamid).or_insert((before, code));
            }
        }
        Self { ledger, told, returned }
    }

    /// Whether a recipient of `campaign` may stand so.
    fn allows(&self, to: &str, state: &str, code: Option<u64>, campaign: &Campaign) -> bool {
        let Some(known) = self.ledger.get(to) else { return state == "unknown" };
        if known.messages == 0 {
            // Who was returned and not sent again failed only if the campaign had ended.
            let last = known.returned.last().filter(|_| !known.seen).and_then(|wamid| self.returned.get(wamid));
            let ended = last.filter(|(before, _)| *before >= campaign.told_while_it_ran());
            let failed = ended.is_some_and(|(_, told)| code == Some(*told))
                || (known.refused && code == Some(u64::from(REFUSED)));
            return state == "unknown" || (state == "failed" && failed);
        }
        let told = self.told.get(to).map_or(&[][..], Vec::as_slice);
        let said = |word: &str| told.iter().find(|told| told.starts_with(word));
        for word in ["read", "delivered", "failed", "sent"] {
            if let Some(said) = said(word) {
                return state == word && (word != "failed" || code == code_of(said));
            }
        }
        false
    }

    fn is_shown_by(&self, shown: &[Value], campaign: &Campaign) -> bool {
        let allowed = |recipient: &Value| {
            let (to, state, code) = standing(recipient);
            self.allows(to, state, code, campaign)
        };
        shown.len() as u64 == campaign.recipients() && shown.iter().all(allowed)
    }
}

/// The code in `failed CODE`.
fn code_of(word: &str) -> Option<u64> {
    word.split_once(' ')?.1.parse().ok()
}

fn standing(recipient: &Value) -> (&str, &str, Option<u64>) {
    let text = |key: &str| recipient[key].as_str().unwrap_or_default();
    (text("to").trim_start_matches('+'), text("state"), recipient["code"].as_u64())
}

fn recipients(verdict: &mut Verdict, campaign: &Campaign, truth: &Truth, shown: &[Value]) {
    let by_number: HashMap<&str, &Value> = shown.iter().map(|recipient| (standing(recipient).0, recipient)).collect();
    let (mut lost, mut stuck, mut twice, mut other) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for to in campaign.numbers.clone().map(|to| to.to_string()) {
        let known = truth.ledger.get(&to);
        if known.is_some_and(|known| known.messages > 1 || known.sent_blindly) {
            twice.push(format!("{to} ({known:?}, {})", by_number.get(to.as_str()).copied().unwrap_or(&Value::Null)));
        }
        let Some(recipient) = by_number.get(to.as_str()) else {
            lost.push(format!("{to} is nowhere"));
            continue;
        };
        let (_, state, code) = standing(recipient);
        if ["pending", "retrying", "in_flight", "in_doubt"].contains(&state) {
            let open = if campaign.has_completed() { &mut lost } else { &mut stuck };
            open.push(format!("{to} is {state}"));
        } else if !truth.allows(&to, state, code, campaign) {
            other.push(format!("{recipient}, and Meta has {known:?} and told {:?}", truth.told.get(&to)));
        }
        let is_returned = known.is_some_and(|known| !known.seen && state == "failed");
        verdict.returned_late += u64::from(is_returned);
        if state == "unknown" {
            let count = match known {
                None => &mut verdict.unknown.never_seen,
                Some(known) if !known.seen => &mut verdict.unknown.never_seen,
                Some(known) if known.messages == 0 => &mut verdict.unknown.not_taken,
                Some(_) => &mut verdict.unknown.taken,
            };
            *count += 1;
        }
    }
    verdict.lost += lost.len() as u64;
    verdict.stuck += stuck.len() as u64;
    verdict.twice += twice.len() as u64;
    for (what, examples) in [("lost", lost), ("stuck", stuck), ("twice", twice), ("not as Meta has it", other)] {
        verdict.wrong(what, examples.len() as u64, &examples[..examples.len().min(EXAMPLES)]);
    }
    if shown.len() as u64 != campaign.recipients() {
        verdict.problems.push(format!("{} recipients are shown, of {}", shown.len(), campaign.recipients()));
    }
}

/// The statistics against the recipients one by one, and the counters against the state bytes.
async fn counts(verdict: &mut Verdict, stage: &Stage, campaign: &Value, shown: &[Value], id: &str) {
    let count = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    let (mut by_state, mut failures): (BTreeMap<String, u64>, BTreeMap<u64, u64>) = Default::default();
    for recipient in shown {
        let (_, state, code) = standing(recipient);
        *by_state.entry(state.to_owned()).or_default() += 1;
        if state == "failed" {
            *failures.entry(code.unwrap_or(0)).or_default() += 1;
        } else if state == "unknown" {
            *failures.entry(0).or_default() += 1;
        }
    }
    let statistics = &campaign["statistics"];
    let told: BTreeMap<String, u64> = statistics["by_state"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(state, n)| (state.clone(), count(n)))
        .filter(|(_, n)| *n > 0)
        .collect();
    if told != by_state {
        verdict.problems.push(format!("statistics say {told:?}, the recipients are {by_state:?}"));
    }
    let told = statistics["failures"].as_array().into_iter().flatten();
    let told: BTreeMap<u64, u64> = told.map(|failure| (count(&failure["code"]), count(&failure["count"]))).collect();
    if told != failures {
        verdict.problems.push(format!("statistics say failures {told:?}, the recipients have {failures:?}"));
    }
    let disk = stage.redis.lock().await;
    let store = Store::connect(&world::address(&disk.server)).await.expect("a store");
    let record = store.campaign(id.parse().expect("an id")).await.expect("redis").expect("a campaign");
    let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
    let counters = StateCounts::of(&store.part_counts(&parts).await.expect("counters"));
    let bytes = stats::recount(&store, &record).await.expect("state bytes");
    if counters != bytes {
        verdict.problems.push(format!("counters {counters:?}, state bytes {bytes:?}"));
    }
}

/// Whether the way to Meta of a worker is straight: what a harmed network delivers at once is not what the worker did.
/// `version`: that of the API which it uses.
fn is_straight(version: &str, schedule: &Schedule) -> bool {
    let harmed = (0..schedule.workers).filter(|worker| schedule.harms_the_way_to_meta_of(*worker));
    !harmed.map(Post::version).any(|harmed| version.starts_with(&harmed))
}

/// Where two workers may own a line at once, each keeps to its rate.
fn rates(verdict: &mut Verdict, arrivals: &[Arrival], schedule: &Schedule) {
    verdict.owners_overlap = schedule.lets_owners_overlap();
    let owners = if verdict.owners_overlap { 2 } else { 1 };
    for (line, rate) in LINES.into_iter().zip(schedule.rates) {
        let worst = worst_second(arrivals, line);
        // What a late machine held back comes at once.
        let late = (rate as f64 * verdict.machine_was_late.as_secs_f64()).ceil() as u64;
        if worst as u64 > owners * (rate * 105).div_ceil(100) + late {
            let by = worst_senders(arrivals, line);
            verdict.problems.push(format!("line {line} of {rate} a second got {worst} within one: {by}"));
        }
        verdict.worst.push((worst, rate));
    }
}

/// A path that breaks costs a line no more than a few messages and those that were on their way.
fn streaks(verdict: &mut Verdict, schedule: &Schedule, troubles: &Troubles) {
    for ((_, version, line), lost) in &troubles.lock().lost {
        if !is_straight(version, schedule) {
            continue;
        }
        let rate = LINES.into_iter().zip(schedule.rates).find(|(id, _)| id == line).map_or(0, |(_, rate)| rate);
        let on_their_way = rate as f64 * (ANSWER_MAX + 2 * schedule.delay_to_meta).as_secs_f64();
        // A line that comes back to a worker within the streak begins anew.
        let most = 2.0 * (f64::from(IN_A_ROW) + on_their_way);
        verdict.streaks.push(*lost);
        if *lost as f64 > most {
            let problem =
                format!("worker {version} lost {lost} messages of line {line} to one streak, at {rate} a second");
            verdict.problems.push(problem);
        }
    }
}

/// After the first status that says so, what an account fault is about sends no more while it lasts.
fn holds(verdict: &mut Verdict, arrivals: &[Arrival], stage: &Stage, schedule: &Schedule, events: &[Event]) {
    if events.iter().any(|event| event.fault.is_of_the_clock()) {
        // What an operator lets go by a clock that is ahead, no status holds until Meta's has come as far.
        return;
    }
    let within = HOLDS_WITHIN + verdict.machine_was_late;
    for event in events {
        let Fault::AccountBlocked { code, line, .. } = event.fault else { continue };
        if code == THROTTLED {
            // Its hold ends by itself, again and again.
            continue;
        }
        // A hold may be forgotten; the next status brings it back.
        let forgot = events.iter().filter(|other| matches!(other.fault, Fault::PowerLoss { .. }));
        let forgot = forgot.filter(|other| other.began < event.ended).map(|other| other.ended).max();
        let from = forgot.map_or(event.began, |forgot| forgot.max(event.began));
        let Some(told) = stage.meta.first_reported(&format!("failed {code}"), from) else { continue };
        for (number, (id, rate)) in LINES.into_iter().zip(schedule.rates).enumerate() {
            if event.fault.blames_a_line() && number != line {
                continue;
            }
            let late = |arrival: &&Arrival| {
                arrival.line == id && arrival.earliest > told + within && arrival.latest < event.ended
            };
            let late = arrivals.iter().filter(late).count() as u64;
            if late > rate / 10 {
                let problem =
                    format!("line {id} sent {late} messages later than {within:?} after a status with {code}");
                verdict.problems.push(problem);
            }
        }
    }
}

/// Who sent in the worst second of a line, and from when on in seconds after the first send of all.
fn worst_senders(arrivals: &[Arrival], line: &str) -> String {
    let Some(first) = arrivals.first() else { return String::new() };
    let ours: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.line == line).collect();
    let window = |from: usize| {
        let until = ours[from].earliest + Duration::from_secs(1);
        ours[from..].iter().take_while(|arrival| arrival.latest < until).count()
    };
    let Some(from) = (0..ours.len()).max_by_key(|from| window(*from)) else { return String::new() };
    let mut senders: BTreeMap<&str, usize> = BTreeMap::new();
    ours[from..from + window(from)].iter().for_each(|arrival| *senders.entry(&arrival.version).or_default() += 1);
    let at = ours[from].latest.saturating_duration_since(first.latest).as_secs_f64();
    format!("{senders:?} in the second from {at:.3} s on")
}

fn take_overs(verdict: &mut Verdict, arrivals: &[Arrival], events: &[Event]) {
    let killed = events.iter().filter_map(|event| match event.fault {
        Fault::WorkerKilled { worker, .. } => Some((worker, event)),
        _ => None,
    });
    for (worker, kill) in killed {
        for line in LINES {
            let ours: Vec<&Arrival> = arrivals.iter().filter(|arrival| arrival.line == line).collect();
            let next = ours.partition_point(|arrival| arrival.latest <= kill.began);
            let Some(last) = next.checked_sub(1).map(|last| ours[last]) else { continue };
            if !last.version.starts_with(&Post::version(worker)) || kill.began - last.latest > OWNED {
                continue;
            }
            let Some(first) = ours[next..].iter().find(|arrival| arrival.version != last.version) else { continue };
            let disturbs = |event: &Event| {
                let other = !std::ptr::eq(event, kill) && event.fault.delays_a_take_over();
                let lasts = event.fault.is_of_meta() || event.ended + QUIET > kill.began;
                other && event.began < first.latest && lasts
            };
            if events.iter().any(disturbs) {
                continue;
            }
            let took = first.latest - kill.began;
            if took > LEASE + TAKE_OVER {
                verdict.problems.push(format!("line {line} was taken over {took:?} after its worker was killed"));
            }
            verdict.take_overs.push(took);
        }
    }
}
