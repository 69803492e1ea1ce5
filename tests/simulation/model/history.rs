//! Random histories of a part, with a `Debug` format that lists the steps.

use std::fmt;

use pregon::domain::{FailureReason, News, SkipReason, State, campaign::RetriedState};
use proptest::{collection::vec, prelude::*, sample::select};

use super::spec::Gate;
use crate::support;

/// Workers that send: two, which take the line over from each other.
pub const WORKERS: usize = 2;

/// All processes: the workers, and two that receive Meta's statuses.
pub const PROCESSES: usize = 4;

/// A history of a part.
#[derive(Clone)]
pub struct History {
    /// The first row that may hold a recipient. 253 puts the recipients on more than one page of the scripts.
    pub first_row: u16,
    /// Which rows were admitted, in chunks.
    pub chunks: Vec<Vec<bool>>,
    /// The most attempts per row, if the campaign resends messages that stay in doubt; otherwise 0.
    pub resends: u8,
    /// Ms from the beginning until the campaign expires, if it does.
    pub expires: Option<u64>,
    /// How often every row was claimed and given back before the first step: 13 is just before the claim number
    /// leaves the state byte, 253 just before it wraps around.
    pub prior_claims: u32,
    /// What happens to the messages, in the order in which rows are handed out. After the last, the list repeats.
    pub fates: Vec<Fate>,
    pub steps: Vec<Step>,
}

/// What happens to a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    /// Meta accepts it and the response is lost.
    AnswerLost,
    /// The request is lost, and the worker cannot tell whether Meta got it.
    Lost,
    /// Meta refuses it for good.
    Refused,
    /// It is skipped, and certainly not sent.
    Skip,
    /// It was certainly not sent, and the attempt counts.
    Retry,
    /// It was certainly not sent, and the attempt does not count.
    Back,
    /// Meta accepts it and later reports that it was not delivered because of an account fault.
    Returned,
    /// Meta accepts it and later reports that it was withheld from the recipient.
    Withheld,
}

impl Fate {
    /// Whether the recipient certainly does not get the message, so the row is to be sent again.
    pub fn is_negative(self) -> bool {
        matches!(self, Fate::Retry | Fate::Back | Fate::Returned | Fate::Withheld)
    }

    /// Whether Meta accepted the message.
    pub fn is_sent(self) -> bool {
        matches!(self, Fate::Accepted | Fate::AnswerLost | Fate::Returned | Fate::Withheld)
    }

    /// The status that Meta can report for such a message in place of `news`.
    pub fn status_for(self, news: News) -> News {
        match (self, news) {
            (Fate::Returned, News::Sent) => News::Sent,
            (Fate::Returned, News::Failed(reason) | News::Returned(reason) | News::Withheld(reason)) => {
                News::Returned(reason)
            }
            (Fate::Returned, News::Delivered | News::Read | News::Replied) => News::Returned(REASONS[0]),
            (Fate::Withheld, News::Sent) => News::Sent,
            (Fate::Withheld, _) => News::Withheld(REASONS[2]),
            (_, News::Returned(reason) | News::Withheld(reason)) => News::Failed(reason),
            (_, news) => news,
        }
    }
}

/// A step of a history.
#[derive(Clone)]
pub enum Step {
    /// A claim of `limit` rows. `lost`: its response is lost. `asks`: it requests the rows of the last claim whose
    /// response was lost.
    Claim { by: Claimer, limit: usize, asks: bool, lost: bool },
    /// The owner or the previous owner settles outcomes. `twice`: settles them a second time.
    Settle { by: Claimer, outcomes: Vec<(Pick, Ended)>, twice: bool },
    /// Process `by` applies statuses from Meta, each with or without the message id. `twice`: as in `Settle`.
    Report { by: usize, news: Vec<(Pick, News, bool)>, twice: bool },
    /// Doubts past their deadline end.
    EndDoubts,
    /// The part receives a gate. `newer`: with a newer version of the campaign, otherwise with an older one.
    Follow { gate: Gate, newer: bool },
    /// The campaign is completed, if no row is open.
    Complete,
    /// The campaign, if it is completed, is sent again to the rows in some states, with any code or only with the first
    /// of [`REASONS`]. The process dies after this many calls; another one continues with a later step.
    Retry { states: Vec<RetriedState>, any_code: bool, calls: usize },
    /// The rows that can still be claimed end in this state.
    Sweep(State),
    /// The retention of the recipients ends, if the campaign has ended.
    ForgetRecipients,
    /// The recipient of the `n`th row is erased, modulo the number of rows.
    Erase(usize),
    /// A chunk is activated again.
    Activate(usize),
    /// This many milliseconds pass.
    Wait(u64),
    /// An earlier `Settle` or `Report` is delivered again: the last if 0, the one before if 1, and so on.
    Redeliver(usize),
    /// Redis saves its state to disk.
    Synced,
    /// Redis restarts with the state on its disk. Each process has to replay what it wrote since that state was saved,
    /// and what it wrote among this many earlier entries.
    Forget(usize),
    /// One process replays its journal.
    Replay(usize),
}

/// The caller of a claim or a settlement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimer {
    Owner,
    /// The owner, with a claim that arrives after a later one.
    Overtaken,
    /// The next owner.
    Next,
    /// The next owner, during the grace period after a restart of Redis.
    Early,
    /// The previous owner.
    Older,
}

/// A row, and one of its claims.
#[derive(Clone, Copy)]
pub struct Pick {
    pub row: usize,
    pub claim: Which,
}

/// Which claim of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    Last,
    Ago(u32),
    /// A claim that Redis does not have.
    Ahead(u32),
    /// The fact names no claim, so it is about the row's last one.
    Unnamed,
    /// Claim 1 of a row that holds no recipient.
    NoRecipient,
}

/// How an attempt ended, with times in ms from now and the reasons of failures.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    Accepted,
    Retry(u64, FailureReason),
    Withheld(u64, FailureReason),
    Back(u64),
    InDoubt(u64),
    Refused(FailureReason),
    Skipped(SkipReason),
}

const TIMES_MS: [u64; 6] = [0, 0, 0, 400, 1_000, 3_000];
pub const REASONS: [FailureReason; 3] =
    [support::meta_code(131_000), support::meta_code(131_026), support::meta_code(131_049)];

fn time() -> impl Strategy<Value = u64> {
    select(&TIMES_MS)
}

fn reason() -> impl Strategy<Value = FailureReason> {
    select(&REASONS)
}

fn pick() -> impl Strategy<Value = Pick> {
    let claim = prop_oneof![
        16 => Just(Which::Last),
        4 => (1..4u32).prop_map(Which::Ago),
        2 => (1..4u32).prop_map(Which::Ahead),
        2 => Just(Which::Unnamed),
        1 => Just(Which::NoRecipient),
    ];
    (0..30usize, claim).prop_map(|(row, claim)| Pick { row, claim })
}

fn ended() -> impl Strategy<Value = Ended> {
    prop_oneof![
        1 => Just(Ended::Accepted),
        3 => (time(), reason()).prop_map(|(wait, reason)| Ended::Retry(wait, reason)),
        2 => (time(), reason()).prop_map(|(wait, reason)| Ended::Withheld(wait, reason)),
        3 => time().prop_map(Ended::Back),
        3 => time().prop_map(Ended::InDoubt),
        1 => reason().prop_map(Ended::Refused),
        1 => select(&SkipReason::ALL).prop_map(Ended::Skipped),
    ]
}

fn news() -> impl Strategy<Value = News> {
    prop_oneof![
        Just(News::Sent),
        Just(News::Delivered),
        Just(News::Read),
        reason().prop_map(News::Failed),
        reason().prop_map(News::Returned),
        reason().prop_map(News::Withheld),
        Just(News::Replied),
    ]
}

fn one_in(n: u32) -> impl Strategy<Value = bool> {
    prop::bool::weighted(1.0 / f64::from(n))
}

fn claim(by: impl Strategy<Value = Claimer>) -> impl Strategy<Value = Step> {
    let limit = prop_oneof![1 => Just(0), 4 => 1..5usize, 3 => Just(256)];
    (by, limit, one_in(4), one_in(8)).prop_map(|(by, limit, asks, lost)| Step::Claim { by, limit, asks, lost })
}

fn settle(by: impl Strategy<Value = Claimer>) -> impl Strategy<Value = Step> {
    let outcomes = vec((pick(), ended()), 1..5);
    (by, outcomes, one_in(3)).prop_map(|(by, outcomes, twice)| Step::Settle { by, outcomes, twice })
}

fn follow() -> impl Strategy<Value = Step> {
    let gate = prop_oneof![8 => Just(Gate::Open), 2 => Just(Gate::Held), 1 => Just(Gate::Cancelled)];
    (gate, one_in(5)).prop_map(|(gate, older)| Step::Follow { gate, newer: !older })
}

fn retry() -> impl Strategy<Value = Step> {
    let states = prop_oneof![
        3 => Just(vec![RetriedState::Failed, RetriedState::Unknown]),
        2 => Just(vec![RetriedState::Failed]),
        1 => Just(vec![RetriedState::Unknown]),
    ];
    (states, one_in(4), 1..5usize).prop_map(|(states, one_code, calls)| Step::Retry {
        states,
        any_code: !one_code,
        calls,
    })
}

/// Any single step.
fn step() -> impl Strategy<Value = Step> {
    let claimer = prop_oneof![
        16 => Just(Claimer::Owner),
        4 => Just(Claimer::Next),
        1 => Just(Claimer::Overtaken),
        1 => Just(Claimer::Early),
        1 => Just(Claimer::Older),
    ];
    let settler = prop_oneof![3 => Just(Claimer::Owner), 1 => Just(Claimer::Older)];
    let report = (WORKERS..PROCESSES, vec((pick(), news(), one_in(2)), 1..4), one_in(3));
    prop_oneof![
        14 => claim(claimer),
        12 => settle(settler),
        4 => report.prop_map(|(by, news, twice)| Step::Report { by, news, twice }),
        3 => Just(Step::EndDoubts),
        2 => follow(),
        3 => Just(Step::Complete),
        3 => retry(),
        2 => select(&[State::Cancelled, State::Expired, State::Failed]).prop_map(Step::Sweep),
        1 => Just(Step::ForgetRecipients),
        1 => (0..30usize).prop_map(Step::Erase),
        1 => (0..3usize).prop_map(Step::Activate),
        6 => select(&TIMES_MS[3..]).prop_map(Step::Wait),
        3 => (0..6usize).prop_map(Step::Redeliver),
        3 => Just(Step::Synced),
        3 => (0..4usize).prop_map(Step::Forget),
        3 => (0..PROCESSES).prop_map(Step::Replay),
    ]
}

/// A sequence that random steps seldom form: a campaign ends, is sent again, and statuses of its first messages arrive.
fn sent_again() -> impl Strategy<Value = Vec<Step>> {
    let owner = || Just(Claimer::Owner);
    let report = || {
        let news = vec((pick(), news(), one_in(2)), 1..4);
        (WORKERS..PROCESSES, news).prop_map(|(by, news)| Step::Report { by, news, twice: false })
    };
    some(vec![
        Just(Step::Follow { gate: Gate::Open, newer: true }).boxed(),
        Just(Step::Claim { by: Claimer::Owner, limit: 256, asks: false, lost: false }).boxed(),
        settle(owner()).boxed(),
        settle(owner()).boxed(),
        report().boxed(),
        Just(Step::Wait(3_000)).boxed(),
        Just(Step::EndDoubts).boxed(),
        Just(Step::Complete).boxed(),
        retry().boxed(),
        report().boxed(),
        retry().boxed(),
        claim(owner()).boxed(),
        report().boxed(),
        select(vec![Step::Forget(0), Step::Follow { gate: Gate::Cancelled, newer: true }]).boxed(),
        claim(owner()).boxed(),
        settle(owner()).boxed(),
        Just(Step::Complete).boxed(),
    ])
}

/// Each step may be left out, so that shrinking finds the steps that the failure needs.
fn some(steps: Vec<BoxedStrategy<Step>>) -> impl Strategy<Value = Vec<Step>> {
    let some: Vec<_> = steps.into_iter().map(|step| prop::option::weighted(0.95, step)).collect();
    some.prop_map(|steps| steps.into_iter().flatten().collect())
}

/// A sequence that random steps seldom form: a line changes owner while messages are in flight.
fn take_over() -> impl Strategy<Value = Vec<Step>> {
    let owner = || Just(Claimer::Owner);
    let looks = Step::Claim { by: Claimer::Next, limit: 0, asks: false, lost: false };
    let cancel = Step::Follow { gate: Gate::Cancelled, newer: true };
    let doubts_end = vec![
        claim(owner()).boxed(),
        Just(looks.clone()).boxed(),
        Just(Step::Wait(3_000)).boxed(),
        select(vec![Step::EndDoubts, cancel]).boxed(),
        select(vec![Step::EndDoubts, Step::Complete]).boxed(),
        settle(Just(Claimer::Older)).boxed(),
    ];
    let forgotten = vec![
        claim(owner()).boxed(),
        Just(looks).boxed(),
        Just(Step::Synced).boxed(),
        settle(Just(Claimer::Older)).boxed(),
        claim(owner()).boxed(),
        Just(Step::Forget(0)).boxed(),
        claim(owner()).boxed(),
    ];
    prop_oneof![some(doubts_end), some(forgotten)]
}

/// Any history.
pub fn any() -> impl Strategy<Value = History> {
    let first_row = prop_oneof![3 => Just(0u16), 1 => Just(253)];
    // Few rows, so that each takes part in many steps.
    let chunks = prop_oneof![vec(vec(Just(true), 1..4), 1..2), vec(vec(prop::bool::weighted(0.85), 1..5), 1..4),];
    let resends = prop_oneof![2 => Just(0), 1 => 2..5u8];
    let expires = prop_oneof![5 => Just(None), 1 => time().prop_map(|ms| Some(5 * ms))];
    let fates = vec(
        prop_oneof![
            2 => Just(Fate::Accepted),
            2 => Just(Fate::AnswerLost),
            1 => Just(Fate::Lost),
            1 => Just(Fate::Refused),
            1 => Just(Fate::Skip),
            2 => Just(Fate::Returned),
            2 => Just(Fate::Withheld),
            3 => Just(Fate::Retry),
            4 => Just(Fate::Back),
        ],
        1..8,
    );
    let prior_claims = prop_oneof![8 => Just(0), 1 => Just(13), 1 => Just(253)];
    let steps = vec(prop_oneof![12 => step().prop_map(|step| vec![step]), 1 => take_over(), 2 => sent_again()], 1..40);
    (first_row, chunks, resends, expires, prior_claims, fates, steps).prop_map(
        |(first_row, chunks, resends, expires, prior_claims, fates, steps)| {
            let steps = steps.concat();
            History { first_row, chunks, resends, expires, prior_claims, fates, steps }
        },
    )
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<String> =
            self.chunks.iter().map(|chunk| chunk.iter().map(|&it| if it { '#' } else { '.' }).collect()).collect();
        write!(f, "rows {} from {} (#: admitted), resends {}", rows.join("|"), self.first_row, self.resends)?;
        write!(f, ", expires {:?}, prior_claims {}, fates {:?}", self.expires, self.prior_claims, self.fates)?;
        for (n, step) in self.steps.iter().enumerate() {
            write!(f, "\n{:3}. {step:?}", n + 1)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let twice = |twice: &bool| if *twice { " twice" } else { "" };
        match self {
            Step::Claim { by, limit, asks, lost } => {
                write!(f, "{by:?} claims {limit}")?;
                f.write_str(if *asks { ", and requests the rows of the last claim without a response" } else { "" })?;
                f.write_str(if *lost { ", and the response is lost" } else { "" })
            }
            Step::Settle { by, outcomes, twice: again } => write!(f, "{by:?} settles{} {outcomes:?}", twice(again)),
            Step::Report { by, news, twice: again } => write!(f, "process {by} receives{} {news:?}", twice(again)),
            Step::EndDoubts => f.write_str("doubts end"),
            Step::Follow { gate, newer } => {
                write!(f, "gate {gate:?}{}", if *newer { "" } else { ", of an older version" })
            }
            Step::Complete => f.write_str("the campaign is completed"),
            Step::Retry { states, any_code, calls } => {
                write!(f, "sent again to {states:?}{}, in {calls} calls", if *any_code { "" } else { " with one code" })
            }
            Step::Sweep(to) => write!(f, "sweep {to:?}"),
            Step::ForgetRecipients => f.write_str("the recipients are forgotten"),
            Step::Erase(row) => write!(f, "the recipient of row {row} is forgotten"),
            Step::Activate(chunk) => write!(f, "chunk {chunk} is activated again"),
            Step::Wait(ms) => write!(f, "{ms} ms later"),
            Step::Redeliver(ago) => write!(f, "entry {ago} before the last is delivered again"),
            Step::Synced => f.write_str("Redis saves its state"),
            Step::Forget(before) => {
                write!(f, "Redis restarts from disk ({before} earlier entries are replayed too)")
            }
            Step::Replay(process) => write!(f, "process {process} replays its journal"),
        }
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} {:?}", self.row, self.claim)
    }
}
