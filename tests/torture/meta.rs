//! A Meta that loses its answers, errs and throttles, and tells of every message that it took: so that what became of
//! each is known in the end, to us and to the product. For a while it returns what it took, or a proxy answers in its place.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    schedule::Foreign,
    support::hostile::{self, Answer, Conduct, Courier, End, Reply, Sent, Status},
};

/// An error that does not say whether the message was taken.
const ERROR: (u16, u32) = (500, 999_001);

/// What Meta knows of a recipient.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Messages that it took and did not return.
    pub messages: u64,
    /// Ids of messages that it returned: the recipient did not get them.
    pub returned: Vec<String>,
    /// Before that it told nobody of the last return.
    told_from: Option<Instant>,
    /// A message came again before it could be known that the one before it had been returned.
    pub sent_blindly: bool,
    /// A request came since the last return, or at all.
    pub seen: bool,
    /// It refused one for good; the answer may have been lost.
    pub refused: bool,
}

/// What a round does to Meta, and what came of it.
#[derive(Default)]
pub struct Trouble {
    /// Every message is returned with this code.
    pub account: Option<AccountFault>,
    /// A proxy answers everything.
    pub path: Option<Foreign>,
    /// How often the path broke so far.
    streaks: usize,
    /// Sends that a proxy answered, by streak, the version of the API of the process, and the line.
    pub lost: HashMap<(usize, String, String), u64>,
}

#[derive(Clone, Copy)]
pub struct AccountFault {
    pub code: u32,
    /// All lines, if there is none.
    pub line: Option<&'static str>,
}

impl Trouble {
    pub fn break_path(&mut self, foreign: Foreign) {
        self.path = Some(foreign);
        self.streaks += 1;
    }

    /// The code with which a message on `line` is returned.
    fn returns(&self, line: &str) -> Option<u32> {
        self.account.filter(|fault| fault.line.is_none_or(|blamed| blamed == line)).map(|fault| fault.code)
    }

    /// What a proxy answers to a send.
    fn stands_in(&mut self, sent: &Sent) -> Option<Foreign> {
        if self.path.is_some() {
            let of = (self.streaks, sent.version.clone(), sent.line.clone());
            *self.lost.entry(of).or_default() += 1;
        }
        self.path
    }
}

/// Shared by the round and its Meta.
#[derive(Clone, Default)]
pub struct Troubles(Arc<Mutex<Trouble>>);

impl Troubles {
    pub fn lock(&self) -> MutexGuard<'_, Trouble> {
        self.0.lock().expect("no panic under the lock")
    }
}

impl Foreign {
    fn answer(self) -> Answer {
        match self {
            Self::Html(http_status) => Answer::Html(http_status),
            Self::Plain(200) => Answer::Plain(200, ""),
            Self::Plain(http_status) => Answer::Plain(http_status, "slow down, or log in"),
        }
    }

    /// A gateway that got no answer in time: Meta may have taken the message.
    fn passes_on(self) -> bool {
        matches!(self, Self::Html(502 | 504))
    }
}

/// By number.
pub type Ledger = Arc<Mutex<HashMap<String, Known>>>;

/// Everything that happens to one recipient, drawn from the seed and its number alone.
struct Fate {
    /// Errors before it gets through.
    hurdles: Vec<(u16, u32)>,
    end: End,
    rng: StdRng,
}

impl Fate {
    fn draw(seed: u64, to: &str, throttles: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ to.parse::<u64>().expect("a number"));
        let hurdles = match rng.random_range(0..1_000) {
            0..30 => vec![ERROR],
            30..40 => vec![ERROR, ERROR],
            // A throttle halves the line's rate: a few are enough.
            40..43 if throttles => vec![(429, 130_429)],
            // A pair waits at least six seconds.
            43..45 if throttles => vec![(400, 131_056)],
            _ => Vec::new(),
        };
        let end = match rng.random_range(0..1_000) {
            0..40 => End::Lost,
            40..60 => End::LostToProxy,
            60..65 => End::LostToSilence,
            65..80 => End::Closed,
            80..90 => End::Proxy,
            90..93 => End::Silence,
            93..113 => End::Refused,
            _ => End::Answered,
        };
        Self { hurdles, end, rng }
    }

    /// What is told of the message, in the order in which it happens.
    fn story(&mut self) -> &'static [&'static str] {
        match self.rng.random_range(0..100) {
            0..25 => &["sent"],
            25..55 => &["sent", "delivered"],
            55..90 => &["sent", "delivered", "read"],
            90..94 => &["sent", "failed 131049"],
            94..96 => &["failed 131053"],
            96..98 => &["sent", "failed 131049", "delivered"],
            _ => &["read"],
        }
    }

    /// When a status of it is told: mostly soon, sometimes when its doubt has ended.
    fn delay(&mut self) -> Duration {
        let longest = if self.rng.random_bool(0.03) { 6_000 } else { 1_200 };
        Duration::from_millis(self.rng.random_range(0..longest))
    }
}

/// The conduct of a round.
pub struct Torturer {
    seed: u64,
    throttles: bool,
    rng: StdRng,
    fates: HashMap<String, Fate>,
    ledger: Ledger,
    troubles: Troubles,
}

impl Torturer {
    pub fn new(seed: u64, throttles: bool, ledger: Ledger, troubles: Troubles) -> Self {
        Self { seed, throttles, rng: StdRng::seed_from_u64(seed), fates: HashMap::new(), ledger, troubles }
    }
}

impl Conduct for Torturer {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let draw = || Fate::draw(self.seed, &sent.to, self.throttles);
        let fate = self.fates.entry(sent.to.clone()).or_insert_with(draw);
        let mut ledger = self.ledger.lock().expect("no panic");
        let known = ledger.entry(sent.to.clone()).or_default();
        known.sent_blindly |= known.told_from.is_some_and(|from| Instant::now() < from);
        known.seen = true;
        let delay = Duration::from_millis(self.rng.random_range(0..60));
        let mut trouble = self.troubles.lock();
        let foreign = trouble.stands_in(&sent);
        if foreign.is_none() && !fate.hurdles.is_empty() {
            let (http_status, code) = fate.hurdles.remove(0);
            return Reply::of(hostile::refused(http_status, code), delay);
        }
        let taken = match foreign {
            Some(foreign) => foreign.passes_on() && self.rng.random_bool(0.3),
            None => fate.end.is_taken(),
        };
        known.refused |= foreign.is_none() && fate.end == End::Refused;
        let wamid = hostile::wamid(&sent.to, known.messages + known.returned.len() as u64 + 1);
        // Who has a message gets a second one if it is sent, and that is found out.
        let returns = trouble.returns(&sent.line).filter(|_| taken && known.messages == 0);
        let mut story: Vec<(Duration, String)> = Vec::new();
        if let Some(code) = returns {
            let after = fate.delay();
            if fate.rng.random_bool(0.3) {
                story.push((fate.delay(), "sent".to_owned()));
            }
            story.push((after, format!("failed {code}")));
            known.told_from = Some(Instant::now() + after);
            known.returned.push(wamid.clone());
            known.seen = false;
        } else if taken {
            known.messages += 1;
            story.extend(fate.story().iter().map(|word| (fate.delay(), (*word).to_owned())));
        }
        for (after, word) in story {
            let (line, to, wamid) = (sent.line.clone(), sent.to.clone(), wamid.clone());
            let status = Status { line, to, wamid, token: Some(sent.token.clone()), word };
            if fate.rng.random_bool(0.3) {
                courier.report(after + fate.delay(), status.clone());
            }
            courier.report(after, status);
        }
        let answer = foreign.map_or_else(|| fate.end.answer(&sent.to, &wamid), Foreign::answer);
        Reply::of(answer, delay)
    }

    fn stands_in(&mut self) -> Option<Answer> {
        self.troubles.lock().path.map(Foreign::answer)
    }
}
