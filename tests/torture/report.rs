//! The report over many rounds: a line per round, and Markdown tables.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{
    chats::Chats,
    check::Verdict,
    round::Outcome,
    schedule::{Fault, Fsync},
    turns,
};

/// The lines of a document between which the report goes.
const BEGIN: &str = "<!-- torture: the report begins -->";
const END: &str = "<!-- torture: the report ends -->";

/// The directory of reports, and of the logs of rounds with problems.
pub fn dir() -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("it is in the target directory");
    target.join("torture")
}

/// Prints one line about a round, and the details of a round with problems.
pub fn print(outcome: &Outcome) {
    let Outcome { schedule, verdict, .. } = outcome;
    let unknown = &verdict.unknown;
    let worst: Vec<String> = verdict.worst.iter().map(|(worst, rate)| format!("{worst}/{rate}")).collect();
    println!(
        "seed {}: {} recipients, {} workers, {:?}, {} faults, {:.1} s (machine late by {} ms): lost {}, twice {}, stuck {}, \
        unknown {} ({} never seen, {} not taken), forgotten {}, returned {} ({} too late), lost to streaks {:?}, worst seconds {}, \
        {}, {}",
        schedule.seed,
        schedule.all_recipients(),
        schedule.workers,
        schedule.fsync,
        outcome.events.len(),
        outcome.took.as_secs_f64(),
        verdict.machine_was_late.as_millis(),
        verdict.lost,
        verdict.twice,
        verdict.stuck,
        unknown.never_seen + unknown.not_taken + unknown.taken,
        unknown.never_seen,
        unknown.not_taken,
        verdict.forgotten,
        verdict.returned,
        verdict.returned_late,
        verdict.streaks,
        worst.join(" "),
        of_chats(&verdict.chats),
        if verdict.is_good() { "good" } else { "WRONG" }
    );
    let Some(logs) = &outcome.logs else { return };
    for event in &outcome.events {
        let (from, until) = (event.began - outcome.launched, event.ended - outcome.launched);
        let forgotten = if event.forgotten > 0 { format!(", {} bytes lost", event.forgotten) } else { String::new() };
        println!("  {:6.3} to {:6.3} s  {}{forgotten}", from.as_secs_f64(), until.as_secs_f64(), event.fault);
    }
    verdict.problems.iter().for_each(|problem| println!("  {problem}"));
    println!("  again: {}", command(schedule.seed));
    println!("  logs: {}", logs.display());
}

/// The messages of chats, as text.
fn of_chats(chats: &Chats) -> String {
    let Chats { inbound, inbound_lost, shown_twice, replies, replies_lost, sent_twice, unknown } = chats;
    format!(
        "{inbound} messages from people (lost {inbound_lost}, shown twice {shown_twice}), {replies} replies (lost \
        {replies_lost}, sent twice {sent_twice}, unknown {unknown})"
    )
}

/// The command that repeats a round.
pub fn command(seed: u64) -> String {
    format!("make torture ROUNDS=1 SEED={seed}")
}

/// Sums over rounds.
#[derive(Default)]
struct Sum {
    rounds: usize,
    times: usize,
    recipients: u64,
    lost: u64,
    twice: u64,
    stuck: u64,
    never_seen: u64,
    not_taken: u64,
    taken: u64,
    wrong: usize,
    /// The worst second of any line, in percent of its rate, over the rounds whose rates count for the row.
    worst_percent: Option<f64>,
}

impl Sum {
    fn add(&mut self, outcome: &Outcome, times: usize, rates_count: bool) {
        let verdict = &outcome.verdict;
        self.rounds += 1;
        self.times += times;
        self.recipients += outcome.schedule.all_recipients();
        self.lost += verdict.lost;
        self.twice += verdict.twice;
        self.stuck += verdict.stuck;
        self.never_seen += verdict.unknown.never_seen;
        self.not_taken += verdict.unknown.not_taken;
        self.taken += verdict.unknown.taken;
        self.wrong += usize::from(!verdict.is_good());
        if rates_count {
            self.worst_percent = Some(self.worst_percent.unwrap_or_default().max(verdict.worst_percent()));
        }
    }

    fn row(&self, name: &str) -> String {
        let Self { rounds, times, recipients, lost, twice, stuck, never_seen, not_taken, taken, wrong, worst_percent } =
            self;
        let worst_percent = worst_percent.map_or("–".to_owned(), |percent| format!("{percent:.1}"));
        format!(
            "| {name} | {rounds} | {times} | {recipients} | {lost} | {twice} | {stuck} | {never_seen} | {not_taken} | \
            {taken} | {worst_percent} | {wrong} |\n"
        )
    }
}

/// The report as Markdown.
pub fn markdown(seed: u64, outcomes: &[Outcome], campaigns: &[turns::Figures], jobs: usize, took: Duration) -> String {
    let mut text = format!(
        "`make torture ROUNDS={} SEED={seed} JOBS={jobs}` at commit {} on {}: {} minutes on {} cores with {} of memory, {} {}, \
        {}.\n\n",
        outcomes.len(),
        output_of("git", &["describe", "--always", "--dirty"]),
        output_of("date", &["-u", "+%Y-%m-%d"]),
        took.as_secs().div_ceil(60),
        std::thread::available_parallelism().map_or(0, usize::from),
        memory(),
        // Without the suffix that a distribution or host appends to the kernel version.
        output_of("uname", &["-sr"]).split('-').next().unwrap_or_default(),
        std::env::consts::ARCH,
        output_of("redis-server", &["--version"]).split(" sha").next().unwrap_or_default(),
    );
    rounds(&mut text, outcomes);
    overlaps(&mut text, outcomes);
    take_overs(&mut text, outcomes);
    forgotten(&mut text, outcomes);
    returned_and_foreign(&mut text, outcomes);
    let restarts: usize = outcomes.iter().map(|outcome| outcome.restarts).sum();
    let people: u64 = outcomes.iter().map(|outcome| outcome.verdict.forgotten).sum();
    let _ = writeln!(text, "\nWorkers were started again {restarts} times. {people} people were forgotten.");
    let chats = outcomes.iter().fold(Chats::default(), |sum, outcome| sum.and(&outcome.verdict.chats));
    let _ = writeln!(text, "\nIn the chats there were {}.", of_chats(&chats));
    in_turn(&mut text, campaigns);
    text
}

fn rounds(text: &mut String, outcomes: &[Outcome]) {
    let (mut all, mut by_fault): (Sum, BTreeMap<&str, Sum>) = Default::default();
    for outcome in outcomes {
        let one_owner = !outcome.verdict.owners_overlap;
        all.add(outcome, outcome.events.len(), one_owner);
        let disk = match outcome.schedule.fsync {
            Fsync::Everysec => "(every fault, with `appendfsync everysec`)",
            Fsync::Always => "(every fault, with `appendfsync always`)",
        };
        by_fault.entry(disk).or_default().add(outcome, outcome.events.len(), one_owner);
        if let Some(link) = outcome.schedule.link() {
            by_fault.entry(link).or_default().add(outcome, outcome.events.len(), one_owner);
        }
        let mut times: BTreeMap<&str, (usize, bool)> = BTreeMap::new();
        for event in &outcome.events {
            let of_kind = times.entry(event.fault.name()).or_default();
            *of_kind = (of_kind.0 + 1, event.fault.ends_leases());
        }
        for (name, (times, ends_leases)) in times {
            by_fault.entry(name).or_default().add(outcome, times, one_owner || ends_leases);
        }
    }
    text.push_str(
        "| fault | rounds with it | times | recipients | lost | twice | stuck | unknown: never seen by Meta | not taken | \
        taken | worst second, % of the rate | rounds with anything wrong |\n|---|---|---|---|---|---|---|---|---|---|---|---|\n",
    );
    by_fault.iter().for_each(|(name, sum)| text.push_str(&sum.row(name)));
    text.push_str(&all.row("**all rounds**"));
}

/// Writes in how many of the rounds in which two workers could own a line a line exceeded its rate.
fn overlaps(text: &mut String, outcomes: &[Outcome]) {
    let percents: Vec<f64> = outcomes
        .iter()
        .map(|outcome| &outcome.verdict)
        .filter(|verdict| verdict.owners_overlap)
        .map(Verdict::worst_percent)
        .collect();
    if !percents.is_empty() {
        let _ = write!(
            text,
            "\nIn {} rounds Redis' clock jumped ahead by more than the margin of a lease. In {} of these rounds a line \
            exceeded 105 % of its rate in a second; the worst second had {:.1} %. The worst seconds of the other rows \
            leave these rounds out.",
            percents.len(),
            percents.iter().filter(|percent| **percent > 105.0).count(),
            percents.iter().copied().fold(0.0, f64::max)
        );
    }
}

fn take_overs(text: &mut String, outcomes: &[Outcome]) {
    let mut take_overs: Vec<Duration> =
        outcomes.iter().flat_map(|outcome| outcome.verdict.take_overs.iter().copied()).collect();
    take_overs.sort_unstable();
    if let (Some(median), Some(longest)) = (take_overs.get(take_overs.len() / 2), take_overs.last()) {
        let _ = write!(
            text,
            "\nTake-overs after a SIGKILL, without another fault at the time and without a delay of the machine: {} lines, \
            median {:.2} s, longest {:.2} s.",
            take_overs.len(),
            median.as_secs_f64(),
            longest.as_secs_f64()
        );
    }
}

fn forgotten(text: &mut String, outcomes: &[Outcome]) {
    let forgotten: Vec<u64> = outcomes
        .iter()
        .flat_map(|outcome| &outcome.events)
        .filter(|event| matches!(event.fault, Fault::PowerLoss { .. }))
        .map(|event| event.forgotten)
        .collect();
    if !forgotten.is_empty() {
        let _ = write!(
            text,
            "\nAt {} power losses Redis lost {} kB of its file, at most {} kB at once.",
            forgotten.len(),
            forgotten.iter().sum::<u64>() / 1_000,
            forgotten.iter().max().unwrap_or(&0) / 1_000
        );
    }
}

/// The messages that Meta returned, and those that a proxy answered.
fn returned_and_foreign(text: &mut String, outcomes: &[Outcome]) {
    let verdicts = outcomes.iter().map(|outcome| &outcome.verdict);
    let sum = |of: fn(&Verdict) -> u64| verdicts.clone().map(of).sum::<u64>();
    let (returned, late) = (sum(|verdict| verdict.returned), sum(|verdict| verdict.returned_late));
    if returned > 0 {
        let _ = write!(text, "\nMeta returned {returned} messages, {late} of them when their campaign had ended.");
    }
    let mut streaks: Vec<u64> = verdicts.flat_map(|verdict| verdict.streaks.iter().copied()).collect();
    streaks.sort_unstable();
    if let (Some(median), Some(most)) = (streaks.get(streaks.len() / 2), streaks.last()) {
        let _ = write!(
            text,
            "\nA streak of answers that were not Meta's cost a line of a worker {median} messages in the median, and \
            {most} at most."
        );
    }
}

/// The campaigns with one repeated fault.
fn in_turn(text: &mut String, campaigns: &[turns::Figures]) {
    if campaigns.is_empty() {
        return;
    }
    text.push_str(
        "\n| one fault again and again | times | recipients | sent | twice | unknown | of these never seen by Meta | worst second, % of the \
        rate | seconds |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for figures in campaigns {
        let turns::Figures { fault, times, recipients, sent, twice, unknown, never_seen, worst_percent, took } =
            figures;
        let seconds = took.as_secs();
        let _ = writeln!(
            text,
            "| {fault} | {times} | {recipients} | {sent} | {twice} | {unknown} | {never_seen} | {worst_percent:.1} | \
            {seconds} |"
        );
    }
}

/// Writes the report, and inserts it into `document` if one is given.
pub fn write(text: &str, document: Option<&Path>) {
    let path = dir().join("report.md");
    std::fs::create_dir_all(dir()).expect("a directory");
    std::fs::write(&path, text).expect("the report is written");
    println!("{}", path.display());
    let Some(document) = document else { return };
    let old = std::fs::read_to_string(document).unwrap_or_else(|error| panic!("{}: {error}", document.display()));
    let (before, rest) = old.split_once(BEGIN).unwrap_or_else(|| panic!("{} has no {BEGIN}", document.display()));
    let (_, after) = rest.split_once(END).unwrap_or_else(|| panic!("{} has no {END}", document.display()));
    std::fs::write(document, format!("{before}{BEGIN}\n{text}{END}{after}")).expect("the document is written");
    println!("{}", document.display());
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map_or_else(|_| "unknown".to_owned(), |output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// The memory of this machine, from Linux' `/proc/meminfo`.
fn memory() -> String {
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    kib.map_or("an unknown amount".to_owned(), |kib| format!("{} GiB", (kib + (1 << 19)) >> 20))
}
