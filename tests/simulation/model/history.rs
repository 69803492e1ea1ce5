//! Histories: what may happen to a part, drawn at random, and printed as a list that a person can read.

use std::fmt;

use pregon::{domain::State, redis::parts::News};
use proptest::{collection::vec, prelude::*, sample::select};

use super::spec::Gate;

/// Who sends: two workers, that take the line from each other again and again.
pub const WORKERS: usize = 2;

/// Who hears of Meta's statuses: two more processes.
pub const PROCESSES: usize = 4;

/// What happens to a part.
#[derive(Clone)]
pub struct History {
    /// Rows before the first that was admitted: more than one page of the scripts, or none.
    pub room: u16,
    /// Which rows were admitted, in chunks.
    pub chunks: Vec<Vec<bool>>,
    /// Attempts at most, where the campaign sends again what stayed in doubt; 0 where it does not.
    pub resends: u8,
    /// How many ms after the beginning the campaign expires, if it does.
    pub expires: Option<u64>,
    /// So often have the rows been claimed and given back: until their numbers are about to leave the state byte, or to begin again.
    pub worn: u32,
    /// What becomes of the messages that are sent, one after the other and from the front again.
    pub fates: Vec<Fate>,
    pub steps: Vec<Step>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    Accepted,
    /// Meta has it, and her answer is lost.
    AnswerLost,
    /// It is lost itself; nobody knows.
    Lost,
    Refused,
    Retry,
    Back,
    /// Meta accepts it, and says later that the person did not get it for a fault of the account.
    Returned,
}

impl Fate {
    /// The person certainly does not get it, and it is to be sent again.
    pub fn is_negative(self) -> bool {
        matches!(self, Fate::Retry | Fate::Back | Fate::Returned)
    }

    /// Meta has it.
    pub fn is_sent(self) -> bool {
        matches!(self, Fate::Accepted | Fate::AnswerLost | Fate::Returned)
    }

    /// What Meta can tell of such a message in place of `news`.
    pub fn tells(self, news: News) -> News {
        match (self, news) {
            (Fate::Returned, News::Sent) => News::Sent,
            (Fate::Returned, News::Failed(code) | News::Returned(code)) => News::Returned(code),
            (Fate::Returned, News::Delivered | News::Read | News::Replied) => News::Returned(CODES[0]),
            (_, News::Returned(code)) => News::Failed(code),
            (_, news) => news,
        }
    }
}

/// One thing that happens.
#[derive(Clone)]
pub enum Step {
    /// A claim of `limit` rows. `lost`: its answer never comes; `asks`: what the last such claim brought.
    Claim {
        by: Claimer,
        limit: usize,
        asks: bool,
        lost: bool,
    },
    /// Outcomes are settled, by the owner or the one before.
    Settle {
        by: Claimer,
        outcomes: Vec<(Pick, Ended)>,
        twice: bool,
    },
    /// Process `by` is told by Meta.
    Tell {
        by: usize,
        news: Vec<(Pick, News, bool)>,
        twice: bool,
    },
    EndDoubts,
    Follow {
        gate: Gate,
        newer: bool,
    },
    /// The campaign is completed, if nothing is open.
    Complete,
    Sweep(State),
    /// The retention of the recipients ends, if the campaign has.
    ForgetRecipients,
    /// A chunk is activated once more.
    Activate(usize),
    Wait(u64),
    /// What was settled or told, counted from the last, is so once more.
    Again(usize),
    /// What was written so far is on the disk.
    Synced,
    /// Redis comes back without what was not. Each process has to repeat it, and so much before.
    Forget(usize),
    /// One process repeats what Redis may have forgotten.
    Repeat(usize),
}

/// Who claims or settles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claimer {
    Owner,
    /// The owner, with a claim that was overtaken on its way.
    Overtaken,
    /// The next owner.
    Next,
    /// The next owner, while that is too early.
    Early,
    /// The owner before.
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
    /// One that Redis does not know of.
    Ahead(u32),
    /// Whichever was the last: the fact does not say.
    Unnamed,
    /// The last of a row that holds no recipient.
    Nobody,
}

/// How an attempt ended, with times in ms from now.
#[derive(Clone, Copy, Debug)]
pub enum Ended {
    Accepted,
    Retry(u64, u32),
    Back(u64),
    InDoubt(u64),
    Refused(u32),
}

const TIMES_MS: [u64; 6] = [0, 0, 0, 400, 1_000, 3_000];
const CODES: [u32; 3] = [131_000, 131_026, 131_049];

fn time() -> impl Strategy<Value = u64> {
    select(&TIMES_MS)
}

fn code() -> impl Strategy<Value = u32> {
    select(&CODES)
}

fn pick() -> impl Strategy<Value = Pick> {
    let claim = prop_oneof![
        16 => Just(Which::Last),
        4 => (1..4u32).prop_map(Which::Ago),
        2 => (1..4u32).prop_map(Which::Ahead),
        2 => Just(Which::Unnamed),
        1 => Just(Which::Nobody),
    ];
    (0..30usize, claim).prop_map(|(row, claim)| Pick { row, claim })
}

fn ended() -> impl Strategy<Value = Ended> {
    prop_oneof![
        1 => Just(Ended::Accepted),
        3 => (time(), code()).prop_map(|(wait, code)| Ended::Retry(wait, code)),
        3 => time().prop_map(Ended::Back),
        3 => time().prop_map(Ended::InDoubt),
        1 => code().prop_map(Ended::Refused),
    ]
}

fn news() -> impl Strategy<Value = News> {
    prop_oneof![
        Just(News::Sent),
        Just(News::Delivered),
        Just(News::Read),
        code().prop_map(News::Failed),
        code().prop_map(News::Returned),
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

/// Anything.
fn step() -> impl Strategy<Value = Step> {
    let claimer = prop_oneof![
        16 => Just(Claimer::Owner),
        4 => Just(Claimer::Next),
        1 => Just(Claimer::Overtaken),
        1 => Just(Claimer::Early),
        1 => Just(Claimer::Older),
    ];
    let settler = prop_oneof![3 => Just(Claimer::Owner), 1 => Just(Claimer::Older)];
    let tell = (WORKERS..PROCESSES, vec((pick(), news(), one_in(2)), 1..4), one_in(3));
    prop_oneof![
        14 => claim(claimer),
        12 => settle(settler),
        4 => tell.prop_map(|(by, news, twice)| Step::Tell { by, news, twice }),
        3 => Just(Step::EndDoubts),
        2 => follow(),
        3 => Just(Step::Complete),
        2 => select(&[State::Cancelled, State::Expired, State::Failed]).prop_map(Step::Sweep),
        1 => Just(Step::ForgetRecipients),
        1 => (0..3usize).prop_map(Step::Activate),
        6 => select(&TIMES_MS[3..]).prop_map(Step::Wait),
        3 => (0..6usize).prop_map(Step::Again),
        3 => Just(Step::Synced),
        3 => (0..4usize).prop_map(Step::Forget),
        3 => (0..PROCESSES).prop_map(Step::Repeat),
    ]
}

/// What seldom happens by chance: a line changes hands while messages are on their way.
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
    // Each step may be left out, so that those are found without which it does not fail.
    let some = |steps: Vec<BoxedStrategy<Step>>| {
        let some: Vec<_> = steps.into_iter().map(|step| prop::option::weighted(0.95, step)).collect();
        some.prop_map(|steps| steps.into_iter().flatten().collect())
    };
    prop_oneof![some(doubts_end), some(forgotten)]
}

/// Any history.
pub fn any() -> impl Strategy<Value = History> {
    let room = prop_oneof![3 => Just(0u16), 1 => Just(253)];
    // Few rows, so that much happens to each.
    let chunks = prop_oneof![vec(vec(Just(true), 1..4), 1..2), vec(vec(prop::bool::weighted(0.85), 1..5), 1..4),];
    let resends = prop_oneof![2 => Just(0), 1 => 2..5u8];
    let expires = prop_oneof![5 => Just(None), 1 => time().prop_map(|ms| Some(5 * ms))];
    let fates = vec(
        prop_oneof![
            2 => Just(Fate::Accepted),
            2 => Just(Fate::AnswerLost),
            1 => Just(Fate::Lost),
            1 => Just(Fate::Refused),
            2 => Just(Fate::Returned),
            3 => Just(Fate::Retry),
            4 => Just(Fate::Back),
        ],
        1..8,
    );
    let worn = prop_oneof![8 => Just(0), 1 => Just(13), 1 => Just(253)];
    let steps = vec(prop_oneof![12 => step().prop_map(|step| vec![step]), 1 => take_over()], 1..40);
    (room, chunks, resends, expires, worn, fates, steps).prop_map(
        |(room, chunks, resends, expires, worn, fates, steps)| {
            let steps = steps.concat();
            History { room, chunks, resends, expires, worn, fates, steps }
        },
    )
}

impl fmt::Debug for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rows: Vec<String> =
            self.chunks.iter().map(|chunk| chunk.iter().map(|&it| if it { '#' } else { '.' }).collect()).collect();
        write!(f, "rows {} from {} (#: admitted), resends {}", rows.join("|"), self.room, self.resends)?;
        write!(f, ", expires {:?}, worn {}, fates {:?}", self.expires, self.worn, self.fates)?;
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
                f.write_str(if *asks { ", and asks what the one before without an answer brought" } else { "" })?;
                f.write_str(if *lost { ", and gets no answer" } else { "" })
            }
            Step::Settle { by, outcomes, twice: again } => write!(f, "{by:?} settles{} {outcomes:?}", twice(again)),
            Step::Tell { by, news, twice: again } => write!(f, "Meta tells {by}{} {news:?}", twice(again)),
            Step::EndDoubts => f.write_str("doubts end"),
            Step::Follow { gate, newer } => {
                write!(f, "gate {gate:?}{}", if *newer { "" } else { ", of an older version" })
            }
            Step::Complete => f.write_str("it is completed"),
            Step::Sweep(to) => write!(f, "sweep {to:?}"),
            Step::ForgetRecipients => f.write_str("the recipients are forgotten"),
            Step::Activate(chunk) => write!(f, "chunk {chunk} is activated again"),
            Step::Wait(ms) => write!(f, "{ms} ms later"),
            Step::Again(ago) => write!(f, "what was told {ago} before the last is told again"),
            Step::Synced => f.write_str("all is on the disk"),
            Step::Forget(before) => {
                write!(f, "Redis forgets what is not on the disk ({before} before it are repeated too)")
            }
            Step::Repeat(process) => write!(f, "{process} repeats what it told"),
        }
    }
}

impl fmt::Debug for Pick {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "row {} {:?}", self.row, self.claim)
    }
}
