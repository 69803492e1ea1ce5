//! One part as mathematics: what the scripts promise, in the fewest words, without Redis. Read it as the specification.
//!
//! Nothing here is kept beside what it follows from: counters are counted, schedules are sorted when they are asked for,
//! and claims are numbered 1, 2, 3 without an end, where Redis has a byte ([`send`]).

use std::collections::{BTreeMap, HashMap};

use pregon::{
    domain::{State, UnixMs, Wamid},
    redis::parts::{Applied, Claim, ClaimWish, ClaimedRow, News, PartCounts, Settled, ToSend},
};

/// Facts are told apart if they are about claims not further from the last one than this.
pub const FAR: u32 = 126;

/// What Redis keeps of the number of a claim: 0 before the first, then 1 to 255 and from 2 again.
pub fn send(claim: u32) -> u8 {
    if claim < 2 { claim as u8 } else { ((claim - 2) % 254) as u8 + 2 }
}

/// A recipient.
#[derive(Clone, Debug)]
pub struct Row {
    pub state: State,
    /// Claims of it so far. Each fact is about one of them.
    pub claims: u32,
    /// Attempts that counted, before the last claim.
    pub attempts: u8,
    /// Meta's code for why it is where it is, 0 for none. Stays until another fact takes its place.
    pub why: u32,
    /// Pending or retrying, and claimed before: from when it may be claimed again.
    pub due: Option<UnixMs>,
    /// Pending or retrying, because Meta said that she did not deliver its last message. Nothing more is taken of that claim.
    pub returned: bool,
    /// In doubt: until when.
    pub doubt: Option<UnixMs>,
    pub replied: bool,
}

impl Row {
    fn can_be_claimed(&self) -> bool {
        matches!(self.state, State::Pending | State::Retrying)
    }

    /// Whether it is known what became of its last claim.
    fn is_unanswered(&self) -> bool {
        matches!(self.state, State::InFlight | State::InDoubt | State::Unknown)
    }

    /// It ended without being sent.
    fn was_never_sent(&self) -> bool {
        matches!(self.state, State::Skipped | State::Expired | State::Cancelled)
    }

    /// From when it may be claimed again. What is returned comes behind what is due at once for another reason.
    fn due_at(&self) -> Option<(UnixMs, bool)> {
        Some((self.due?, self.returned))
    }

    fn becomes(&mut self, state: State) {
        (self.state, self.due, self.returned, self.doubt) = (state, None, false, None);
    }

    fn becomes_because(&mut self, state: State, why: u32) {
        self.becomes(state);
        self.why = why;
    }

    fn is_claimed(&mut self, claim: u32) {
        self.becomes(State::InFlight);
        self.claims = claim;
    }

    fn is_in_doubt(&mut self, until: UnixMs) {
        self.becomes(State::InDoubt);
        self.doubt = Some(until);
    }
}

/// Who may claim from a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    Held,
    Completed,
    Cancelled,
}

/// What is told of a row; `claim` is `None` for whichever was the last.
#[derive(Clone, Debug)]
pub struct Fact {
    pub row: u16,
    pub claim: Option<u32>,
    pub news: News,
    pub at: UnixMs,
    pub message: Option<Wamid>,
}

/// A part. A row that is not in `rows` holds no recipient.
#[derive(Clone, Debug)]
pub struct Part {
    pub rows: BTreeMap<u16, Row>,
    /// Rows, those without a recipient included.
    pub len: u64,
    /// From here on no row was ever claimed.
    pub next: u64,
    pub gate: Gate,
    /// The retention of its recipients has ended: of a row only the state is kept, and under which code it is counted.
    pub forgotten: bool,
    /// Of the campaign, that the gate follows.
    pub version: Option<u64>,
    pub expires: Option<UnixMs>,
    pub epoch: u64,
    /// The number of the last claim in that epoch.
    pub number: u64,
    /// Epoch, number and rows of the last claim that brought any, and of the last before a take-over from somebody at work.
    claimed: Option<(u64, u64, Vec<ToSend>)>,
    claimed_before: Option<(u64, u64, Vec<ToSend>)>,
    /// Message ids, as they came.
    pub ids: Vec<(Wamid, ClaimedRow)>,
    /// Acceptances in the last ten seconds that had any: by the last digit of the second.
    accepted: BTreeMap<u64, (u64, u64)>,
}

impl Part {
    pub fn new() -> Self {
        let (rows, claimed, claimed_before, ids, accepted) = Default::default();
        Self {
            rows,
            len: 0,
            next: 0,
            gate: Gate::Held,
            forgotten: false,
            version: None,
            expires: None,
            epoch: 0,
            number: 0,
            claimed,
            claimed_before,
            ids,
            accepted,
        }
    }

    /// Admitted rows become recipients. Gives how many are new.
    pub fn activate(&mut self, start: u16, mask: &[bool]) -> u64 {
        let before = self.rows.len();
        for (row, _) in (start..).zip(mask).filter(|(_, admitted)| **admitted) {
            let (claims, attempts, why, due, returned, doubt, replied) = Default::default();
            let state = State::Pending;
            self.rows.entry(row).or_insert(Row { state, claims, attempts, why, due, returned, doubt, replied });
        }
        self.len = self.len.max(u64::from(start) + mask.len() as u64);
        (self.rows.len() - before) as u64
    }

    /// The gate follows the newest version of the campaign. Gives how many rows are open.
    pub fn follow(&mut self, version: u64, gate: Gate, expires: Option<UnixMs>) -> u64 {
        if self.version.is_none_or(|known| version > known) {
            (self.version, self.gate, self.expires) = (Some(version), gate, expires.or(self.expires));
        }
        self.open()
    }

    /// Only the newest epoch claims, and each of its claims once: what is due again first, then what never was claimed.
    pub fn claim(&mut self, wish: &ClaimWish) -> Claim {
        let lost = self.brought(wish.epoch, wish.unanswered);
        if wish.epoch < self.epoch {
            return Claim::Fenced { epoch: self.epoch, lost };
        }
        let takes_over = wish.epoch > self.epoch;
        if !takes_over && wish.number <= self.number {
            return Claim::Late;
        }
        if takes_over && wish.in_grace_period {
            return Claim::Young;
        }
        (self.epoch, self.number) = (wish.epoch, wish.number);
        if takes_over {
            // Who had claimed them may have sent them or not.
            let mut left: Vec<_> = self.rows.values_mut().filter(|row| row.state == State::InFlight).collect();
            left.iter_mut().for_each(|row| row.is_in_doubt(wish.doubt_until));
            if !left.is_empty() {
                self.claimed_before = self.claimed.clone();
            }
        }
        let next_doubt = self.next_doubt();
        if self.gate != Gate::Open {
            return Claim::Held { next_doubt, open: self.open(), lost };
        }
        if self.expires.is_some_and(|at| at <= wish.now) {
            return Claim::Expired { lost };
        }
        let mut rows: Vec<ToSend> = Vec::new();
        for row in self.due_by(wish.now).into_iter().take(wish.limit) {
            rows.extend(self.hand_out(row));
        }
        // Ten rows are looked at for each that is wanted, so that a call is never long where most were refused.
        let mut wanted = ((wish.limit - rows.len()) as u64).min(self.len - self.next);
        let stop = self.len.min(self.next + 10 * wanted);
        while wanted > 0 && self.next < stop {
            let row = self.next as u16;
            self.next += 1;
            if self.rows.get(&row).is_some_and(|row| row.state == State::Pending && row.claims == 0) {
                rows.extend(self.hand_out(row));
                wanted -= 1;
            }
        }
        if !rows.is_empty() {
            self.claimed = Some((wish.epoch, wish.number, rows.clone()));
        }
        let next_due = self.rows.values().filter_map(Row::due_at).min().map(|(at, _)| at);
        Claim::Rows { rows, next_due, next_doubt, fresh: self.len - self.next, open: self.open(), lost }
    }

    fn brought(&self, epoch: u64, number: u64) -> Vec<ToSend> {
        let mut kept = [&self.claimed, &self.claimed_before].into_iter().flatten();
        let asked = kept.find(|claimed| (claimed.0, claimed.1) == (epoch, number));
        asked.map_or_else(Vec::new, |(.., rows)| rows.clone())
    }

    fn hand_out(&mut self, number: u16) -> Option<ToSend> {
        let row = self.rows.get_mut(&number)?;
        row.is_claimed(row.claims + 1);
        let claimed = ClaimedRow { row: number, send: send(row.claims) };
        Some(ToSend { claimed, attempt: row.attempts + 1 })
    }

    /// A claim is told again, in case that Redis forgot it. Where it did, it also forgot what allowed the claim.
    pub fn claimed_before(&mut self, epoch: u64, until: UnixMs, rows: &[(u16, u32)]) -> u64 {
        for (row, claim) in rows {
            let Some(row) = self.rows.get_mut(row) else { continue };
            if *claim > row.claims && !row.was_never_sent() && !self.forgotten {
                row.is_claimed(*claim);
                if epoch < self.epoch {
                    row.is_in_doubt(until);
                }
            }
        }
        self.open()
    }

    /// Outcomes of claims that were made in `epoch`, the accepted ones before the others. Gives how many rows are open.
    pub fn settle(&mut self, epoch: u64, now: UnixMs, outcomes: &[(u16, u32, Settled)]) -> u64 {
        let mut outcomes: Vec<_> = outcomes.iter().collect();
        outcomes.sort_by_key(|(.., settled)| !matches!(settled, Settled::Accepted(_)));
        for (number, claim, settled) in outcomes {
            if let Settled::Accepted(wamid) = settled
                && !self.forgotten
            {
                self.ids.push((wamid.clone(), ClaimedRow { row: *number, send: send(*claim) }));
            }
            let gate = self.gate;
            let mut others = epoch < self.epoch;
            let Some(row) = self.rows.get_mut(number) else { continue };
            if *claim > row.claims && !row.was_never_sent() && !self.forgotten {
                // Redis forgot that it was claimed.
                row.is_claimed(*claim);
                others = false;
            }
            if let Settled::Accepted(_) = settled {
                // An acceptance wins over whatever is less.
                if *claim >= row.claims && State::Accepted.rank() > row.state.rank() && !row.returned {
                    row.becomes_because(State::Accepted, 0);
                    row.claims = *claim;
                    let slot = self.accepted.entry(now.seconds() % 10).or_default();
                    *slot = (now.seconds(), if slot.0 == now.seconds() { slot.1 + 1 } else { 1 });
                }
            } else if *claim == row.claims && row.is_unanswered() {
                match settled {
                    // What is in flight is of the newest epoch.
                    _ if others && row.state == State::InFlight => {}
                    // A doubt that has ended does not begin again; nor does anything that is completed.
                    Settled::InDoubt { .. } if row.state == State::Unknown => {}
                    Settled::Retry { .. } | Settled::Back { .. }
                        if row.state == State::Unknown && gate == Gate::Completed => {}
                    // The way back: this very claim certainly sent nothing.
                    Settled::Retry { .. } | Settled::Back { .. } if gate == Gate::Cancelled => {
                        row.becomes_because(State::Cancelled, 0);
                    }
                    Settled::Retry { code, .. } if gate == Gate::Completed => {
                        row.becomes_because(State::Refused, *code);
                    }
                    Settled::Back { .. } if gate == Gate::Completed => row.becomes_because(State::Unknown, 0),
                    Settled::Retry { at, code } => {
                        row.becomes_because(State::Retrying, *code);
                        row.attempts += 1;
                        row.due = Some(*at);
                    }
                    Settled::Back { at } => {
                        row.becomes_because(if row.attempts > 0 { State::Retrying } else { State::Pending }, 0);
                        row.due = Some(*at);
                    }
                    Settled::InDoubt { until } => {
                        row.is_in_doubt(*until);
                        row.why = 0;
                    }
                    Settled::Refused { code } => row.becomes_because(State::Refused, *code),
                    Settled::Accepted(_) => unreachable!("above"),
                }
            }
        }
        self.open()
    }

    /// What Meta tells later. Gives what became of each fact, and how many rows are open.
    pub fn apply(&mut self, facts: &[Fact]) -> (Vec<Applied>, u64) {
        let applied = facts.iter().map(|fact| self.apply_one(fact)).collect();
        (applied, self.open())
    }

    fn apply_one(&mut self, fact: &Fact) -> Applied {
        let runs = matches!(self.gate, Gate::Open | Gate::Held);
        let Some(row) = self.rows.get_mut(&fact.row) else { return Applied::Stale };
        let claim = fact.claim.unwrap_or(row.claims);
        if claim == 0 || claim < row.claims || claim == row.claims && row.returned {
            return Applied::Stale;
        }
        // Redis forgot a later claim: of that one nothing else is known.
        let rank = if claim > row.claims { State::InFlight.rank() } else { row.state.rank() };
        let reopens = matches!(fact.news, News::Returned(_)) && runs && !row.was_never_sent();
        let (to, why) = match fact.news {
            News::Returned(code) if reopens => (if row.attempts > 0 { State::Retrying } else { State::Pending }, code),
            News::Returned(code) => (State::Failed, code),
            News::Sent => (State::Sent, 0),
            News::Delivered => (State::Delivered, 0),
            News::Read => (State::Read, 0),
            News::Failed(code) => (State::Failed, code),
            News::Replied => {
                let known = std::mem::replace(&mut row.replied, true);
                return if known { Applied::Known } else { Applied::Moved };
            }
        };
        if self.forgotten && matches!(row.state, State::Failed | State::Refused) {
            return Applied::Known;
        }
        let moves = if reopens { rank <= State::Sent.rank() } else { to.rank() > rank };
        if !moves {
            return Applied::Known;
        }
        if let Some(message) = &fact.message
            && rank < State::Accepted.rank()
            && !self.forgotten
        {
            self.ids.push((message.clone(), ClaimedRow { row: fact.row, send: send(claim) }));
        }
        row.becomes_because(to, why);
        row.claims = claim;
        if reopens {
            (row.due, row.returned) = (Some(UnixMs(0)), true);
            return Applied::Reopened;
        }
        Applied::Moved
    }

    /// Doubts end at their deadline: as unknown, or by sending again while there were fewer attempts than `attempts_max`.
    /// Gives when the next one ends, and how many rows are open.
    pub fn end_doubts(&mut self, now: UnixMs, attempts_max: u8) -> (Option<UnixMs>, u64) {
        for row in self.rows.values_mut().filter(|row| row.doubt.is_some_and(|until| until <= now)) {
            if self.gate != Gate::Cancelled && row.attempts + 1 < attempts_max {
                row.becomes(State::Retrying);
                row.attempts += 1;
                row.due = Some(now);
            } else {
                row.becomes(State::Unknown);
            }
        }
        (self.next_doubt(), self.open())
    }

    /// What can still be claimed ends. Gives how many rows are open; `None` if it is not the time for that.
    ///
    /// What Meta returned failed with her code. In a completed part the others were reopened by outcomes just before its gate closed: they
    /// are refused with the code of their attempt, or unknown without one.
    pub fn sweep(&mut self, to: State, now: UnixMs) -> Option<u64> {
        let may = match to {
            State::Cancelled => self.gate == Gate::Cancelled,
            State::Failed => self.gate == Gate::Completed,
            _ => self.expires.is_some_and(|at| at <= now),
        };
        if !may {
            return None;
        }
        for row in self.rows.values_mut().filter(|row| row.can_be_claimed()) {
            match to {
                _ if row.returned => row.becomes(State::Failed),
                State::Failed if row.why > 0 => row.becomes(State::Refused),
                State::Failed => row.becomes_because(State::Unknown, 0),
                _ => row.becomes_because(to, 0),
            }
        }
        self.next = self.len;
        Some(self.open())
    }

    /// The retention of the recipients ends.
    pub fn forget(&mut self) {
        self.forgotten = true;
        self.ids.clear();
    }

    /// Where a message id belongs: the newest counts.
    pub fn find(&self, wamid: &Wamid) -> Option<ClaimedRow> {
        self.ids.iter().rev().find(|(known, _)| known == wamid).map(|(_, claimed)| *claimed)
    }

    /// Rows that are pending, retrying, in flight or in doubt.
    pub fn open(&self) -> u64 {
        self.rows.values().filter(|row| row.state.is_open()).count() as u64
    }

    pub fn counts(&self) -> PartCounts {
        let mut by_state: HashMap<State, u64> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        let mut failures = HashMap::new();
        for row in self.rows.values() {
            *by_state.entry(row.state).or_default() += 1;
            if matches!(row.state, State::Failed | State::Refused) {
                *failures.entry(row.why).or_default() += 1;
            }
        }
        PartCounts {
            by_state,
            recipients: self.rows.len() as u64,
            failures,
            details: HashMap::new(),
            replied: self.rows.values().filter(|row| row.replied).count() as u64,
            accepted_by_second: self.accepted.values().copied().collect(),
        }
    }

    fn next_doubt(&self) -> Option<UnixMs> {
        self.rows.values().filter_map(|row| row.doubt).min()
    }

    /// The rows whose time has come, in its order; at the same time in that of their digits, for so Redis sorts them.
    fn due_by(&self, now: UnixMs) -> Vec<u16> {
        let come = self.rows.iter().filter_map(|(&number, row)| Some((row.due_at()?, number.to_string(), number)));
        let mut come: Vec<_> = come.filter(|((at, _), ..)| *at <= now).collect();
        come.sort();
        come.into_iter().map(|(.., number)| number).collect()
    }
}
