//! A Meta that loses its answers, errs and throttles, and tells of every message that it took: so that what became of
//! each is known in the end, to us and to the product.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::support::hostile::{self, Conduct, Courier, End, Reply, Sent, Status};

/// An error that says nothing: worth another attempt.
const ERROR: (u16, u32) = (500, 999_001);

/// What Meta knows of a recipient.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Messages that it took.
    pub messages: u64,
    /// It refused one for good; the answer may have been lost.
    pub refused: bool,
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
}

impl Torturer {
    pub fn new(seed: u64, throttles: bool, ledger: Ledger) -> Self {
        Self { seed, throttles, rng: StdRng::seed_from_u64(seed), fates: HashMap::new(), ledger }
    }
}

impl Conduct for Torturer {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        let draw = || Fate::draw(self.seed, &sent.to, self.throttles);
        let fate = self.fates.entry(sent.to.clone()).or_insert_with(draw);
        let mut ledger = self.ledger.lock().expect("no panic");
        let known = ledger.entry(sent.to.clone()).or_default();
        let delay = Duration::from_millis(self.rng.random_range(0..60));
        if !fate.hurdles.is_empty() {
            let (http_status, code) = fate.hurdles.remove(0);
            return Reply::of(hostile::refused(http_status, code), delay);
        }
        let taken = fate.end.is_taken();
        known.refused |= fate.end == End::Refused;
        known.messages += u64::from(taken);
        let wamid = hostile::wamid(&sent.to, known.messages);
        for word in if taken { fate.story() } else { &[] } {
            let (line, to, wamid) = (sent.line.clone(), sent.to.clone(), wamid.clone());
            let status = Status { line, to, wamid, token: Some(sent.token.clone()), word: (*word).into() };
            let times = if fate.rng.random_bool(0.3) { 2 } else { 1 };
            for _ in 0..times {
                courier.tell(fate.delay(), status.clone());
            }
        }
        Reply::of(fate.end.answer(&sent.to, &wamid), delay)
    }
}
