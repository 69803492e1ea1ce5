//! A fake Meta that loses responses, returns errors, throttles, and reports every message that it accepted, so that
//! the state of each recipient is certain in the end.
//!
//! During an account fault it *returns* what it accepted: a `failed` status says that the message was not delivered.
//! While the path to Meta is broken, a proxy answers in its place; each such time is a *streak*.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::{Duration, Instant},
};

use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};

use crate::{
    chats,
    schedule::Foreign,
    support::hostile::{self, Answer, Conduct, Courier, End, Reply, Sent, Status},
};

/// An error that does not tell whether the message was accepted.
const ERROR: (u16, u32) = (500, 999_001);

/// The ledger entry of a recipient.
#[derive(Clone, Debug, Default)]
pub struct LedgerEntry {
    /// Messages that Meta accepted and did not return.
    pub messages: u64,
    /// How many of these failed for good, so that the recipient did not get them.
    pub failed: u64,
    /// The id of the last of these.
    pub last: String,
    /// Ids of messages that Meta returned: the recipient did not get them.
    pub returned: Vec<String>,
    /// When Meta first reports the last message that it returned, or that failed for good.
    return_reported_at: Option<Instant>,
    /// Whether a message was sent again before the return or failure of the previous one was reported.
    pub sent_before_return: bool,
    /// Whether a request arrived since the last return or, without a return, at all.
    pub requested: bool,
    /// Whether Meta refused a message for good. The response may have been lost.
    pub refused: bool,
}

/// The current faults of Meta, and what they cost.
#[derive(Default)]
pub struct Trouble {
    /// The current account fault: messages are returned with its code.
    pub account: Option<AccountFault>,
    /// If set, a proxy answers every request with this response.
    pub path: Option<Foreign>,
    /// The number of streaks so far.
    streaks: usize,
    /// Sends that a proxy answered, by streak, API version of the process, and line.
    pub lost: HashMap<(usize, String, String), u64>,
}

#[derive(Clone, Copy)]
pub struct AccountFault {
    pub code: u32,
    /// The blamed line; `None`: all lines.
    pub line: Option<&'static str>,
}

impl LedgerEntry {
    /// Whether the recipient's last message failed for good.
    pub fn has_failed(&self) -> bool {
        self.has_none() && (self.failed > 0 || self.refused)
    }

    /// Whether the recipient has got no message.
    pub fn has_none(&self) -> bool {
        self.messages == self.failed
    }
}

impl Trouble {
    pub fn break_path(&mut self, foreign: Foreign) {
        self.path = Some(foreign);
        self.streaks += 1;
    }

    /// The code with which a message on `line` is returned now.
    fn returns(&self, line: &str) -> Option<u32> {
        self.account.filter(|fault| fault.line.is_none_or(|blamed| blamed == line)).map(|fault| fault.code)
    }

    /// The proxy's answer to a send, if the path is broken.
    fn proxy_answer(&mut self, sent: &Sent) -> Option<Foreign> {
        if self.path.is_some() {
            let of = (self.streaks, sent.version.clone(), sent.line.clone());
            *self.lost.entry(of).or_default() += 1;
        }
        self.path
    }
}

/// The faults, shared by the round and its Meta.
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

    /// Whether the response is that of a gateway that got no usable answer: Meta may have accepted the message.
    fn may_pass_on(self) -> bool {
        matches!(self, Self::Html(502 | 504))
    }
}

/// The ledger of every recipient, by phone number.
pub type Ledger = Arc<Mutex<HashMap<String, LedgerEntry>>>;

/// What happens to one recipient, drawn only from the seed and the phone number.
struct Fate {
    /// Errors before a message is accepted.
    errors: Vec<(u16, u32)>,
    end: End,
    rng: StdRng,
}

impl Fate {
    fn draw(seed: u64, to: &str, throttles: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed ^ to.parse::<u64>().expect("a number"));
        let errors = match rng.random_range(0..1_000) {
            0..30 => vec![ERROR],
            30..40 => vec![ERROR, ERROR],
            // Each throttle halves the line's rate, so a few are enough.
            40..43 if throttles => vec![(429, 130_429)],
            // A throttled pair waits at least six seconds.
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
        Self { errors, end, rng }
    }

    /// The statuses of the message, in order.
    fn statuses(&mut self) -> &'static [&'static str] {
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

    /// The delay of a status: mostly short, sometimes longer than the doubt deadline.
    fn delay(&mut self) -> Duration {
        let longest = if self.rng.random_bool(0.03) { 6_000 } else { 1_200 };
        Duration::from_millis(self.rng.random_range(0..longest))
    }
}

/// A message of a chat that arrived.
pub struct ChatSend {
    pub token: String,
    pub to: String,
    pub is_accepted: bool,
}

/// The messages of chats that arrived.
pub type ChatSends = Arc<Mutex<Vec<ChatSend>>>;

/// The behaviour of Meta in a round.
pub struct FaultyMeta {
    seed: u64,
    throttles: bool,
    rng: StdRng,
    fates: HashMap<String, Fate>,
    ledger: Ledger,
    chats: ChatSends,
    troubles: Troubles,
}

impl FaultyMeta {
    pub fn new(seed: u64, throttles: bool, (ledger, chats): (Ledger, ChatSends), troubles: Troubles) -> Self {
        Self { seed, throttles, rng: StdRng::seed_from_u64(seed), fates: HashMap::new(), ledger, chats, troubles }
    }

    /// Handles a message of a chat. Account faults do not concern it, and it has another fate each time.
    fn send_of_chat(&mut self, sent: &Sent, courier: &Courier) -> Reply {
        let delay = Duration::from_millis(self.rng.random_range(0..60));
        let mut fate = Fate::draw(self.rng.random(), &sent.to, self.throttles);
        let foreign = self.troubles.lock().proxy_answer(sent);
        let error = fate.errors.first().filter(|_| foreign.is_none()).copied();
        let is_accepted = match foreign {
            Some(foreign) => foreign.may_pass_on() && self.rng.random_bool(0.3),
            None => error.is_none() && fate.end.is_accepted(),
        };
        let mut chats = self.chats.lock().expect("no panic");
        let wamid = format!("wamid.CHAT{}", chats.len());
        chats.push(ChatSend { token: sent.token.clone(), to: sent.to.clone(), is_accepted });
        if let Some((http_status, code)) = error {
            return Reply::of(hostile::refused(http_status, code), delay);
        }
        if is_accepted {
            let statuses = fate.statuses().iter().map(|word| (fate.delay(), (*word).to_owned())).collect();
            report(sent, &wamid, statuses, &mut fate, courier);
        }
        Reply::of(foreign.map_or_else(|| fate.end.answer(&sent.to, &wamid), Foreign::answer), delay)
    }
}

/// Reports statuses of a message, each after its delay, and some of them twice.
fn report(sent: &Sent, wamid: &str, statuses: Vec<(Duration, String)>, fate: &mut Fate, courier: &Courier) {
    for (after, word) in statuses {
        let (line, to, wamid) = (sent.line.clone(), sent.to.clone(), wamid.to_owned());
        let status = Status { line, to, wamid, token: Some(sent.token.clone()), word };
        if fate.rng.random_bool(0.3) {
            courier.report(after + fate.delay(), status.clone());
        }
        courier.report(after, status);
    }
}

impl Conduct for FaultyMeta {
    fn send(&mut self, sent: Sent, courier: &Courier) -> Reply {
        if chats::is_person(&sent.to) {
            return self.send_of_chat(&sent, courier);
        }
        let draw = || Fate::draw(self.seed, &sent.to, self.throttles);
        let fate = self.fates.entry(sent.to.clone()).or_insert_with(draw);
        let mut ledger = self.ledger.lock().expect("no panic");
        let entry = ledger.entry(sent.to.clone()).or_default();
        entry.sent_before_return |= entry.return_reported_at.is_some_and(|from| Instant::now() < from);
        entry.requested = true;
        let delay = Duration::from_millis(self.rng.random_range(0..60));
        let mut trouble = self.troubles.lock();
        let foreign = trouble.proxy_answer(&sent);
        if foreign.is_none() && !fate.errors.is_empty() {
            let (http_status, code) = fate.errors.remove(0);
            return Reply::of(hostile::refused(http_status, code), delay);
        }
        let accepted = match foreign {
            Some(foreign) => foreign.may_pass_on() && self.rng.random_bool(0.3),
            None => fate.end.is_accepted(),
        };
        entry.refused |= foreign.is_none() && fate.end == End::Refused;
        let wamid = hostile::wamid(&sent.to, entry.messages + entry.returned.len() as u64 + 1);
        // If the recipient already has a message, a second one is not returned, so that the check for two messages
        // finds it.
        let returns = trouble.returns(&sent.line).filter(|_| accepted && entry.messages == entry.failed);
        let mut statuses: Vec<(Duration, String)> = Vec::new();
        if let Some(code) = returns {
            let after = fate.delay();
            if fate.rng.random_bool(0.3) {
                statuses.push((fate.delay(), "sent".to_owned()));
            }
            statuses.push((after, format!("failed {code}")));
            entry.return_reported_at = Some(Instant::now() + after);
            entry.returned.push(wamid.clone());
            entry.requested = false;
        } else if accepted {
            entry.messages += 1;
            entry.last.clone_from(&wamid);
            statuses.extend(fate.statuses().iter().map(|word| (fate.delay(), (*word).to_owned())));
            if let Some((after, _)) = statuses.last().filter(|(_, word)| word.starts_with("failed")) {
                entry.failed += 1;
                entry.return_reported_at = Some(Instant::now() + *after);
            }
        }
        report(&sent, &wamid, statuses, fate, courier);
        let answer = foreign.map_or_else(|| fate.end.answer(&sent.to, &wamid), Foreign::answer);
        Reply::of(answer, delay)
    }

    fn proxy_answer(&mut self) -> Option<Answer> {
        self.troubles.lock().path.map(Foreign::answer)
    }
}
