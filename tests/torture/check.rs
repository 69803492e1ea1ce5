//! Finds the problems of a round: compares every recipient with Meta's ledger, and every count with a recount.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use pregon::stats::{self, StateCounts};
use serde_json::Value;

use crate::{
    chats::{self, Chats},
    feed, forgetting,
    meta::{ChatSends, Ledger, LedgerEntry, Troubles},
    round::{Campaign, Event, Happened},
    schedule::{Fault, LEASE, LINES, Schedule, THROTTLED, Wire},
    stage::{Stage, WorkerSlot},
    support::{
        hostile::{Arrival, REFUSED, worst_second},
        server::Api,
        world,
    },
};

/// How long the statistics may differ after the last status was acknowledged.
const SETTLE_MAX: Duration = Duration::from_secs(10);
/// A killed worker counts as the owner of a line if it sent on the line this recently.
const OWNER_SENT_WITHIN: Duration = Duration::from_millis(300);
/// A take-over is measured only if no other fault occurred for this long before.
const QUIET_BEFORE: Duration = Duration::from_secs(1);
/// The longest take-over, beyond the length of a lease.
const TAKE_OVER_MAX: Duration = Duration::from_secs(1);
/// Take-overs are not measured if the machine delayed the harness by more than this.
const LATE_MAX: Duration = Duration::from_millis(200);
/// The number of consecutive attempts without an answer from Meta that stops a line.
const FAILURES_IN_A_ROW: u32 = 5;
/// The longest response time without a slow link.
const ANSWER_MAX: Duration = Duration::from_millis(100);
/// A line stops within this time after a status that blames it. Meta's timestamps have a resolution of one second:
/// a status from the second in which an operator resumed a line may be older than the resume, and holds nothing.
const HOLDS_WITHIN: Duration = Duration::from_millis(1_500);
/// The most examples in a problem.
const EXAMPLES: usize = 5;

/// The result of a round.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Recipients that are missing, or in no final state although their campaign has completed.
    pub lost: u64,
    /// Recipients in no final state because their campaign did not complete after all faults had ended.
    pub stuck: u64,
    /// Recipients with more than one message.
    pub twice: u64,
    pub unknown: Unknown,
    /// People who were erased.
    pub forgotten: u64,
    /// Messages that Meta returned.
    pub returned: u64,
    /// Recipients whose message was returned and not sent again, because their campaign had ended. They failed with
    /// the code of the return.
    pub returned_late: u64,
    /// How many messages a proxy answered in Meta's place, for each process, line and streak. A streak is one period
    /// during which the path to Meta is broken.
    pub streaks: Vec<u64>,
    /// By line: sends in its worst second, and its rate.
    pub worst: Vec<(usize, u64)>,
    /// Whether two workers could own a line for a moment: [`Schedule::lets_owners_overlap`].
    pub owners_overlap: bool,
    /// The longest time that the machine delayed the harness.
    pub machine_was_late: Duration,
    /// Times from a SIGKILL until another worker sent on the line; only where no other fault interfered and the
    /// machine was not late.
    pub take_overs: Vec<Duration>,
    pub chats: Chats,
    /// Violations, as text.
    pub problems: Vec<String>,
}

/// Recipients that ended as unknown, by what Meta received for them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unknown {
    /// No request, or none since Meta returned a message: a worker died after the claim, or the request was lost.
    pub never_seen: u64,
    /// A request that Meta did not accept, and whose response was lost or never written.
    pub not_taken: u64,
    /// A message that Meta accepted and reported, so unknown is wrong.
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

    pub fn wrong(&mut self, what: &str, examples: &[String]) {
        if !examples.is_empty() {
            let (n, some) = (examples.len(), &examples[..examples.len().min(EXAMPLES)]);
            self.problems.push(format!("{what}: {n}, such as {}", some.join("; ")));
        }
    }
}

/// Checks everything. `problems`: the problems found before.
pub async fn judge(
    stage: &Stage,
    schedule: &Schedule,
    (ledger, chat_sends, troubles): (&Ledger, &ChatSends, &Troubles),
    happened: &Happened,
    problems: Vec<String>,
) -> Verdict {
    let mut verdict = Verdict { problems, machine_was_late: stage.machine_was_late(), ..Verdict::default() };
    let api = Api::at(&stage.front.url());
    let Happened { events, campaigns, .. } = happened;
    let truth = Truth::of(ledger, stage, happened);
    verdict.returned = truth.ledger.values().map(|entry| entry.returned.len() as u64).sum();
    let began = Instant::now();
    let n_campaigns = api.get("campaigns?limit=100").await["campaigns"].as_array().map_or(0, Vec::len);
    if n_campaigns != campaigns.len() {
        verdict.problems.push(format!("{n_campaigns} campaigns are there, of {}", campaigns.len()));
    }
    for campaign in campaigns {
        let Some(id) = &campaign.id else {
            verdict.lost += campaign.recipients();
            verdict
                .problems
                .push(format!("lost: {} recipients of a campaign whose jobs had no effect", campaign.recipients()));
            continue;
        };
        let mut shown = api.recipients(id).await;
        while !truth.is_shown_by(&shown, campaign) && began.elapsed() < SETTLE_MAX {
            tokio::time::sleep(Duration::from_millis(200)).await;
            shown = api.recipients(id).await;
        }
        recipients(&mut verdict, campaign, &truth, &shown);
        counts(&mut verdict, stage, &api.get(&format!("campaigns/{id}")).await, &shown, id).await;
    }
    feed::check(&mut verdict, stage, &truth, happened).await;
    forgetting::check(&mut verdict, stage, happened).await;
    let sends = std::mem::take(&mut *chat_sends.lock().expect("no panic"));
    chats::check(&mut verdict, stage, &sends, happened).await;
    let mut direct = stage.meta.arrivals();
    direct.retain(|arrival| is_direct(&arrival.version, schedule));
    rates(&mut verdict, &direct, schedule);
    streaks(&mut verdict, schedule, troubles);
    direct.retain(|arrival| !chats::is_person(&arrival.to));
    holds(&mut verdict, &direct, stage, schedule, events);
    if verdict.machine_was_late < LATE_MAX {
        take_overs(&mut verdict, &stage.meta.arrivals(), events);
    }
    // A machine that stops for the length of a lease suspends every worker.
    let explained = verdict.machine_was_late >= LEASE || events.iter().any(may_leave_unknown);
    if verdict.unknown.never_seen > 0 && !explained {
        let n = verdict.unknown.never_seen;
        verdict.problems.push(format!("{n} unknown that Meta never saw, and no event explains them"));
    }
    verdict
}

/// Whether the event can leave a recipient unknown that Meta never saw: a worker died after a claim, a worker was
/// cut off from Redis for longer than the next owner waits, or a request was lost.
fn may_leave_unknown(event: &Event) -> bool {
    match event.fault {
        Fault::WorkerKilled { .. } | Fault::WorkerAsleep { .. } => true,
        Fault::Cut { wire: Wire::Meta(_) } | Fault::Held { wire: Wire::Meta(_) | Wire::Redis(_), .. } => true,
        // Another worker may have put the owner's claims in doubt, and the same jump may have ended the doubt.
        Fault::ClockSet { .. } | Fault::ClockWrong { .. } => event.fault.ends_leases(),
        Fault::RedisKilled { .. } | Fault::PowerLoss { .. } | Fault::RedisAsleep { .. } => false,
        Fault::RedisPaused { .. } | Fault::RedisSlow { .. } | Fault::RedisFull { .. } => false,
        Fault::RollingRestart | Fault::LinesChanged { .. } | Fault::ScriptsFlushed | Fault::Slow { .. } => false,
        Fault::PostgresKilled { .. } => false,
        Fault::Cut { .. } | Fault::Held { .. } | Fault::AccountBlocked { .. } | Fault::PathBroken { .. } => false,
    }
}

/// Meta's ledger, and the statuses that Meta reported.
pub struct Truth {
    ledger: HashMap<String, LedgerEntry>,
    /// By phone number: the statuses of the last message that Meta did not return, and of earlier ones that arrived.
    reported: HashMap<String, Vec<String>>,
    /// By the id of a returned message: how many statuses were acknowledged before the one that reports the return,
    /// and its code.
    returned: HashMap<String, (usize, u64)>,
    /// The phone numbers of the people who were erased.
    forgotten: HashSet<String>,
}

impl Truth {
    fn of(ledger: &Ledger, stage: &Stage, happened: &Happened) -> Self {
        let ledger = ledger.lock().expect("no panic").clone();
        let mut reported: HashMap<String, Vec<String>> = HashMap::new();
        let mut returned = HashMap::new();
        for (before, status) in stage.meta.reported().into_iter().enumerate() {
            let entry = ledger.get(&status.to);
            if !entry.is_some_and(|entry| entry.returned.contains(&status.wamid)) {
                let is_last = entry.is_some_and(|entry| entry.last == status.wamid);
                if is_last || ["delivered", "read"].contains(&status.word.as_str()) {
                    reported.entry(status.to).or_default().push(status.word);
                }
            } else if let Some(code) = code_of(&status.word) {
                returned.entry(status.wamid).or_insert((before, code));
            }
        }
        let forgotten = happened.forgotten.iter().map(|person| person.to.clone()).collect();
        Self { ledger, reported, returned, forgotten }
    }

    /// Whether a recipient of `campaign` may have this state and code.
    fn allows(&self, to: &str, state: &str, code: Option<u64>, campaign: &Campaign) -> bool {
        self.allows_known(to, state, code, campaign)
            || (self.forgotten.contains(to) && self.allows_forgotten(to, state, code))
    }

    /// Whether an erased person may have this state and code because nothing was sent any more.
    fn allows_forgotten(&self, to: &str, state: &str, code: Option<u64>) -> bool {
        let Some(entry) = self.ledger.get(to) else { return state == "skipped" };
        let returned = entry.returned.last().and_then(|wamid| self.returned.get(wamid));
        let is_failed = state == "failed" && returned.is_some_and(|(_, reported)| code == Some(*reported));
        entry.messages == 0 && (state == "skipped" || is_failed)
    }

    fn allows_known(&self, to: &str, state: &str, code: Option<u64>, campaign: &Campaign) -> bool {
        let Some(entry) = self.ledger.get(to) else { return state == "unknown" };
        if entry.messages == 0 {
            // A recipient whose message was returned and not sent again may be failed only if the campaign had
            // ended.
            let last = entry.returned.last().filter(|_| !entry.requested).and_then(|wamid| self.returned.get(wamid));
            let ended = last.filter(|(before, _)| *before >= campaign.n_statuses_while_running());
            let failed = ended.is_some_and(|(_, reported)| code == Some(*reported))
                || (entry.refused && code == Some(u64::from(REFUSED)));
            return state == "unknown" || (state == "failed" && failed);
        }
        // The campaign was sent again, and the second message to this recipient may not have left.
        if state == "unknown" && campaign.is_retried() && entry.has_none() {
            return true;
        }
        let reported = self.reported.get(to).map_or(&[][..], Vec::as_slice);
        let status_with = |word: &str| reported.iter().find(|status| status.starts_with(word));
        for word in ["read", "delivered", "failed", "sent"] {
            if let Some(status) = status_with(word) {
                return state == word && (word != "failed" || code == code_of(status));
            }
        }
        false
    }

    /// Whether Meta's ledger or a reported status explains an event of this type about this recipient. The result
    /// `unknown` needs no explanation.
    pub fn explains(&self, to: &str, event: &str) -> bool {
        let word = event.strip_prefix("recipient.").unwrap_or_default();
        let reported = self.reported.get(to).into_iter().flatten().any(|status| status.starts_with(word));
        let entry = self.ledger.get(to);
        let is_accepted = entry.is_some_and(|entry| entry.messages > 0 || !entry.returned.is_empty());
        reported || is_accepted && matches!(word, "accepted" | "sent") || word == "unknown"
    }

    fn is_shown_by(&self, shown: &[Value], campaign: &Campaign) -> bool {
        let allowed = |(to, recipient): (&str, &Value)| {
            let (state, code) = state_of(recipient);
            self.allows(to, state, code, campaign)
        };
        shown.len() as u64 == campaign.recipients() && named(campaign, shown).all(allowed)
    }
}

/// The code in `failed CODE`.
fn code_of(word: &str) -> Option<u64> {
    word.split_once(' ')?.1.parse().ok()
}

/// The phone number of a listed recipient without its plus; empty if the person was erased.
pub fn number(recipient: &Value) -> &str {
    recipient["to"].as_str().unwrap_or_default().trim_start_matches('+')
}

/// The listed recipients of a campaign, each with its phone number. An erased person is listed without a number: the
/// number is the one that was listed in the same place before.
fn named<'a>(campaign: &'a Campaign, shown: &'a [Value]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    shown.iter().enumerate().map(|(place, recipient)| match number(recipient) {
        "" => (campaign.listed.get(place).map_or("", String::as_str), recipient),
        number => (number, recipient),
    })
}

fn state_of(recipient: &Value) -> (&str, Option<u64>) {
    (recipient["state"].as_str().unwrap_or_default(), recipient["code"].as_u64())
}

fn recipients(verdict: &mut Verdict, campaign: &Campaign, truth: &Truth, shown: &[Value]) {
    let by_number: HashMap<&str, &Value> = named(campaign, shown).collect();
    let (mut lost, mut stuck, mut twice, mut other, mut known) = <(Vec<_>, Vec<_>, Vec<_>, Vec<_>, Vec<_>)>::default();
    for to in campaign.numbers.clone().map(|to| to.to_string()) {
        let entry = truth.ledger.get(&to);
        let may_have = |entry: &LedgerEntry| 1 + if campaign.is_retried() { entry.failed } else { 0 };
        if entry.is_some_and(|entry| entry.messages > may_have(entry) || entry.sent_before_return) {
            twice.push(format!("{to} ({entry:?}, {})", by_number.get(to.as_str()).copied().unwrap_or(&Value::Null)));
        }
        let Some(recipient) = by_number.get(to.as_str()) else {
            lost.push(format!("{to} is missing"));
            continue;
        };
        let (state, code) = state_of(recipient);
        if number(recipient).is_empty() != truth.forgotten.contains(&to)
            || (number(recipient).is_empty() && recipient["wamid"].is_string())
        {
            known.push(format!("{to}: {recipient}"));
        }
        if ["pending", "retrying", "in_flight", "in_doubt"].contains(&state) {
            let open = if campaign.has_completed() { &mut lost } else { &mut stuck };
            open.push(format!("{to} is {state}"));
        } else if !truth.allows(&to, state, code, campaign) {
            other.push(format!("{recipient}, but Meta has {entry:?} and reported {:?}", truth.reported.get(&to)));
        }
        let is_returned = entry.is_some_and(|entry| !entry.requested && state == "failed");
        verdict.returned_late += u64::from(is_returned);
        if state == "unknown" {
            let count = match entry {
                None => &mut verdict.unknown.never_seen,
                Some(entry) if !entry.requested => &mut verdict.unknown.never_seen,
                Some(entry) if entry.messages == 0 => &mut verdict.unknown.not_taken,
                Some(entry) if campaign.is_retried() && entry.has_none() => &mut verdict.unknown.never_seen,
                Some(_) => &mut verdict.unknown.taken,
            };
            *count += 1;
        }
    }
    verdict.lost += lost.len() as u64;
    verdict.stuck += stuck.len() as u64;
    verdict.twice += twice.len() as u64;
    for (what, examples) in [("lost", lost), ("stuck", stuck), ("twice", twice), ("not as Meta's ledger says", other)] {
        verdict.wrong(what, &examples);
    }
    verdict.wrong("forgotten and shown, or the other way round", &known);
    if shown.len() as u64 != campaign.recipients() {
        verdict.problems.push(format!("{} recipients are shown, of {}", shown.len(), campaign.recipients()));
    }
}

/// Compares the statistics with the list of recipients, and the counters with the state bytes.
async fn counts(verdict: &mut Verdict, stage: &Stage, campaign: &Value, shown: &[Value], id: &str) {
    let count = |value: &Value| value.as_u64().unwrap_or(u64::MAX);
    let (mut by_state, mut failures): (BTreeMap<String, u64>, BTreeMap<u64, u64>) = Default::default();
    for recipient in shown {
        let (state, code) = state_of(recipient);
        *by_state.entry(state.to_owned()).or_default() += 1;
        if state == "failed" {
            *failures.entry(code.unwrap_or(0)).or_default() += 1;
        } else if state == "unknown" {
            *failures.entry(0).or_default() += 1;
        }
    }
    let statistics = &campaign["statistics"];
    let counted: BTreeMap<String, u64> = statistics["by_state"]
        .as_object()
        .into_iter()
        .flatten()
        .map(|(state, n)| (state.clone(), count(n)))
        .filter(|(_, n)| *n > 0)
        .collect();
    if counted != by_state {
        verdict.problems.push(format!("the statistics are {counted:?}, the recipients {by_state:?}"));
    }
    let counted = statistics["failures"].as_array().into_iter().flatten();
    let counted: BTreeMap<u64, u64> =
        counted.map(|failure| (count(&failure["code"]), count(&failure["count"]))).collect();
    if counted != failures {
        verdict.problems.push(format!("the statistics have failures {counted:?}, the recipients {failures:?}"));
    }
    let store = stage.store().await;
    let record = store.campaign(id.parse().expect("an id")).await.expect("redis").expect("a campaign");
    let parts: Vec<_> = record.parts.iter().map(|(part, _)| *part).collect();
    let counts = store.part_counts(&parts).await.expect("counters");
    let counters = StateCounts::of(&counts);
    let bytes = stats::recount(&store, &record).await.expect("state bytes");
    if counters != bytes {
        verdict.problems.push(format!("counters {counters:?}, state bytes {bytes:?}"));
    }
    let (held, recounted) = (stats::counts::held(&counts), world::recount_held(&store, &record).await);
    if held != recounted {
        verdict.problems.push(format!("{held} messages are held, but {recounted} are marked"));
    }
}

/// Whether the process with this API `version` reaches Meta without a faulty proxy. If not, the proxy decides when its
/// messages arrive. Each process has its own API version, which identifies the sender of a message.
fn is_direct(version: &str, schedule: &Schedule) -> bool {
    let harmed = (0..schedule.workers).filter(|worker| schedule.has_meta_faults_for(*worker));
    !harmed.map(WorkerSlot::version).any(|harmed| version.starts_with(&harmed))
}

/// Checks that no line got more than its rate and 5 % in any second. In a round in which two workers may own a line at
/// once, each of them may send that much.
fn rates(verdict: &mut Verdict, arrivals: &[Arrival], schedule: &Schedule) {
    verdict.owners_overlap = schedule.lets_owners_overlap();
    let owners = if verdict.owners_overlap { 2 } else { 1 };
    for (line, rate) in LINES.into_iter().zip(schedule.rates) {
        let worst = worst_second(arrivals, line);
        // Messages that a late machine delayed arrive at once.
        let late = (rate as f64 * verdict.machine_was_late.as_secs_f64()).ceil() as u64;
        if worst as u64 > owners * (rate * 105).div_ceil(100) + late {
            let by = worst_senders(arrivals, line);
            verdict.problems.push(format!("line {line} of {rate} a second got {worst} within one: {by}"));
        }
        verdict.worst.push((worst, rate));
    }
}

/// Checks that a broken path costs a line only the few failures in a row that stop the line, and the messages in
/// flight.
fn streaks(verdict: &mut Verdict, schedule: &Schedule, troubles: &Troubles) {
    for ((_, version, line), lost) in &troubles.lock().lost {
        if !is_direct(version, schedule) {
            continue;
        }
        let rate = LINES.into_iter().zip(schedule.rates).find(|(id, _)| id == line).map_or(0, |(_, rate)| rate);
        let on_their_way = rate as f64 * (ANSWER_MAX + 2 * schedule.delay_to_meta).as_secs_f64();
        // A line that a worker acquires again during the streak starts its count again.
        let most = 2.0 * (f64::from(FAILURES_IN_A_ROW) + on_their_way);
        verdict.streaks.push(*lost);
        if *lost as f64 > most {
            let problem =
                format!("worker {version} lost {lost} messages of line {line} to one streak, at {rate} a second");
            verdict.problems.push(problem);
        }
    }
}

/// Checks that the lines that an account fault blames stop within [`HOLDS_WITHIN`] after the fault's first status, and
/// send nothing more until the fault ends. The messages of a tenth of a second are tolerated.
fn holds(verdict: &mut Verdict, arrivals: &[Arrival], stage: &Stage, schedule: &Schedule, events: &[Event]) {
    if events.iter().any(|event| event.fault.is_of_the_clock()) {
        // A status holds nothing if its time is before the last resume, and Redis' clock may have been ahead at
        // that resume.
        return;
    }
    let within = HOLDS_WITHIN + verdict.machine_was_late;
    for event in events {
        let Fault::AccountBlocked { code, line, .. } = event.fault else { continue };
        if code == THROTTLED {
            // This hold expires by itself, repeatedly.
            continue;
        }
        // After a power loss, Redis may lack the hold; the next status restores it.
        let forgot = events.iter().filter(|other| matches!(other.fault, Fault::PowerLoss { .. }));
        let forgot = forgot.filter(|other| other.began < event.ended).map(|other| other.ended).max();
        let from = forgot.map_or(event.began, |forgot| forgot.max(event.began));
        let Some(reported) = stage.meta.first_reported(&format!("failed {code}"), from) else { continue };
        for (number, (id, rate)) in LINES.into_iter().zip(schedule.rates).enumerate() {
            if event.fault.blames_a_line() && number != line {
                continue;
            }
            let late = |arrival: &&Arrival| {
                arrival.line == id && arrival.earliest > reported + within && arrival.latest < event.ended
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

/// The senders in the worst second of a line, and when that second began, in seconds after the first send of the
/// round.
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
            if !last.version.starts_with(&WorkerSlot::version(worker)) || kill.began - last.latest > OWNER_SENT_WITHIN {
                continue;
            }
            let Some(first) = ours[next..].iter().find(|arrival| arrival.version != last.version) else { continue };
            let disturbs = |event: &Event| {
                let other = !std::ptr::eq(event, kill) && event.fault.delays_a_take_over();
                let lasts = event.fault.is_of_meta() || event.ended + QUIET_BEFORE > kill.began;
                other && event.began < first.latest && lasts
            };
            if events.iter().any(disturbs) {
                continue;
            }
            let took = first.latest - kill.began;
            if took > LEASE + TAKE_OVER_MAX {
                verdict.problems.push(format!("line {line} was taken over {took:?} after its worker was killed"));
            }
            verdict.take_overs.push(took);
        }
    }
}
