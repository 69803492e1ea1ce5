//! A reference model of one part, without Redis: the specification of the scripts.
//!
//! The model stores nothing that it can compute: counters are counted, schedules are sorted on request, and claims
//! are numbered 1, 2, 3 without limit, where Redis has one byte ([`send`]).

use std::collections::{BTreeMap, HashMap};

use pregon::{
    domain::{Applied, ClaimedRow, Due, FailureReason, News, Settled, SkipReason, State, UnixMs, Wamid, policy},
    redis::parts::{Claim, ClaimRequest, PartCounts, ToSend},
};

/// Redis stores claim numbers in one byte. A fact identifies its claim only if that is at most this many claims away
/// from the row's last one.
pub const CLAIM_DISTANCE_MAX: u32 = 126;

/// The pause after a claim in the grace period, if rows wait that were claimed before.
const GRACE_PAUSE_MS: u64 = 100;

/// The claim number that Redis stores: 0 before the first claim, then 1 to 255, then from 2 again.
pub fn send(claim: u32) -> u8 {
    if claim < 2 { claim as u8 } else { ((claim - 2) % 254) as u8 + 2 }
}

/// A recipient.
#[derive(Clone, Debug)]
pub struct Row {
    pub state: State,
    /// The number of claims so far, which is the number of the last claim.
    pub claims: u32,
    /// Attempts before the last claim that count against the campaign's limit: not those that were given back.
    pub attempts: u8,
    /// The reason for the current state, if there is one. Kept until another fact replaces it.
    pub why: Option<FailureReason>,
    /// The earliest time of the next claim, if the row is pending or retrying and was claimed before.
    pub due: Option<UnixMs>,
    /// If the row is pending or retrying because it was reopened: the state to which it goes back if it is not claimed
    /// again. If Meta reported its last message as undelivered or withheld, that is failed; if the campaign is sent
    /// again, the state before that. Further facts about the last claim count as facts about an earlier one.
    pub reopened: Option<State>,
    /// The row was claimed after it was reopened, or after a doubt ended: the state to which it goes back if nothing
    /// more is sent to it, and the reason for that state. Kept until Meta accepts or refuses a message.
    pub before: Option<(State, Option<FailureReason>)>,
    /// The row is unknown because it went back to that: outcomes of its last claim, which sent nothing, change nothing.
    pub is_back: bool,
    /// The deadline of the doubt.
    pub doubt: Option<UnixMs>,
    pub replied: bool,
    /// The row is accepted, and Meta keeps its message back.
    pub held: bool,
    /// Why the row is skipped, if it is.
    pub skip: Option<SkipReason>,
    /// Meta withheld the message of an earlier claim, and the row is or was sent again because of that.
    pub withheld: bool,
}

impl Row {
    fn can_be_claimed(&self) -> bool {
        matches!(self.state, State::Pending | State::Retrying)
    }

    /// Whether the last claim has no final answer from Meta yet.
    fn is_unanswered(&self) -> bool {
        matches!(self.state, State::InFlight | State::InDoubt | State::Unknown)
    }

    /// Whether a fact about a claim that Redis does not have means that Redis lost the claim. False if the row ended
    /// unsent, or if its recipient already has a message.
    fn may_have_lost_a_claim(&self) -> bool {
        !self.was_never_sent() && self.state.rank() < State::Delivered.rank()
    }

    /// Whether the row ended without being sent.
    fn was_never_sent(&self) -> bool {
        matches!(self.state, State::Skipped | State::Expired | State::Cancelled)
    }

    /// The sort key for claims: first the earliest time of the next claim; for equal times, reopened rows come last,
    /// ordered by the state that they had.
    fn due_at(&self) -> Option<(UnixMs, u8)> {
        Some((self.due?, self.due_percent()))
    }

    /// The hundredths of a millisecond that Redis adds to the due time of a reopened row, to remember its state.
    pub fn due_percent(&self) -> u8 {
        match self.reopened {
            Some(State::Unknown) => 25,
            Some(State::Refused) => 75,
            Some(_) => 50,
            None => 0,
        }
    }

    fn becomes(&mut self, state: State) {
        (self.state, self.due, self.reopened, self.doubt) = (state, None, None, None);
        (self.held, self.skip) = (false, None);
    }

    fn reopens(&mut self, state: State, before: State) {
        self.becomes(state);
        (self.due, self.reopened) = (Some(UnixMs(0)), Some(before));
    }

    fn becomes_because(&mut self, state: State, why: Option<FailureReason>) {
        self.becomes(state);
        self.why = why;
    }

    fn is_claimed(&mut self, claim: u32) {
        if let Some(before) = self.reopened {
            self.was(before);
        }
        self.becomes(State::InFlight);
        self.claims = claim;
    }

    /// Notes the state to which the row goes back.
    fn was(&mut self, state: State) {
        (self.before, self.is_back) = (Some((state, self.why)), false);
    }

    /// Meta accepted or refused a message of the row.
    fn is_answered(&mut self) {
        (self.before, self.is_back) = (None, false);
    }

    /// Restores a claim that Redis lost.
    fn was_claimed(&mut self, claim: u32) {
        match self.state {
            State::Failed | State::Refused => self.was(self.state),
            // Redis also lost why the message of an accepted or sent row was sent again.
            State::Unknown | State::Accepted | State::Sent => self.was(State::Unknown),
            _ => {}
        }
        self.is_claimed(claim);
    }

    /// The row ends, and nothing was sent by its last claim: it is what it was before it was sent again. Returns
    /// whether it was.
    fn goes_back(&mut self) -> bool {
        let Some((state, why)) = self.reopened.map(|state| (state, self.why)).or(self.before) else { return false };
        let is_back = self.reopened.is_none() && state == State::Unknown;
        self.becomes_because(state, why);
        (self.before, self.is_back) = (None, is_back);
        true
    }

    fn is_in_doubt(&mut self, until: UnixMs) {
        self.becomes(State::InDoubt);
        self.doubt = Some(until);
    }
}

/// Whether rows of a part may be claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    Open,
    Held,
    Completed,
    Cancelled,
}

/// A fact about a row. `claim`: `None` stands for the row's last claim.
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
    /// Number of rows, including those without a recipient.
    pub len: u64,
    /// The first row that claims have not reached yet.
    pub next: u64,
    pub gate: Gate,
    /// The retention of the recipients has ended: only the state of each row and the code under which it is counted
    /// remain.
    pub forgotten: bool,
    /// Rows whose recipients were erased, in that order: no whole message id is stored for them any more.
    pub erased: Vec<u16>,
    /// Version of the campaign that set the gate.
    pub version: Option<u64>,
    pub expires: Option<UnixMs>,
    pub epoch: u64,
    /// The number of the last claim in `epoch`.
    pub number: u64,
    /// Epoch, number and rows of the last claim that returned rows.
    claimed: Option<(u64, u64, Vec<ToSend>)>,
    /// `claimed` as it was at the last take-over that found rows in flight.
    claimed_before: Option<(u64, u64, Vec<ToSend>)>,
    /// Message ids in the order of arrival.
    pub ids: Vec<(Wamid, ClaimedRow)>,
    /// How far a retry of the campaign has reopened rows: the version of the gate, the next row, the number of reopened
    /// rows.
    reopening: Option<(u64, u16, u64)>,
    /// Accepted messages per second, for the last ten seconds that had any. Key: the second modulo 10. Value: the
    /// second and its count.
    accepted: BTreeMap<u64, (u64, u64)>,
}

impl Part {
    pub fn new() -> Self {
        let (rows, claimed, claimed_before, ids, reopening, accepted) = Default::default();
        Self {
            rows,
            len: 0,
            next: 0,
            gate: Gate::Held,
            forgotten: false,
            erased: Vec::new(),
            version: None,
            expires: None,
            epoch: 0,
            number: 0,
            claimed,
            claimed_before,
            ids,
            reopening,
            accepted,
        }
    }

    /// Admitted rows become recipients. Returns the number of new recipients.
    pub fn activate(&mut self, start: u16, mask: &[bool]) -> u64 {
        let before = self.rows.len();
        for (row, _) in (start..).zip(mask).filter(|(_, admitted)| **admitted) {
            let (claims, attempts, why, due, reopened, before) = Default::default();
            let (is_back, doubt, replied, held, skip, withheld) = Default::default();
            let new = Row {
                claims,
                attempts,
                why,
                before,
                is_back,
                replied,
                withheld,
                state: State::Pending,
                due,
                reopened,
                doubt,
                held,
                skip,
            };
            self.rows.entry(row).or_insert(new);
        }
        self.len = self.len.max(u64::from(start) + mask.len() as u64);
        (self.rows.len() - before) as u64
    }

    /// Erases the recipient of a row. A row that can be claimed ends: one that is sent again returns to its earlier
    /// state, any other is skipped. Returns the number of recipients, and how many of them were skipped.
    pub fn erase(&mut self, row: u16) -> (u64, u64) {
        self.erased.push(row);
        let Some(it) = self.rows.get_mut(&row) else { return (0, 0) };
        if !it.can_be_claimed() {
            return (1, 0);
        }
        if it.goes_back() {
            return (1, 0);
        }
        it.becomes_because(State::Skipped, None);
        it.skip = Some(SkipReason::Forgotten);
        (1, 1)
    }

    /// Sets the gate, unless a newer version of the campaign has set it. Returns the number of open rows.
    pub fn follow(&mut self, version: u64, gate: Gate, expires: Option<UnixMs>) -> u64 {
        if self.version.is_none_or(|known| version > known) {
            (self.version, self.gate, self.expires) = (Some(version), gate, expires.or(self.expires));
        }
        self.open()
    }

    /// Claims rows: first those that are due again, then those never claimed. Only the newest epoch may claim, and
    /// each claim number only once.
    pub fn claim(&mut self, request: &ClaimRequest) -> Claim {
        let lost = request.unanswered.map_or_else(Vec::new, |number| self.rows_of_claim(request.epoch, number));
        if request.epoch < self.epoch {
            return Claim::Fenced { epoch: self.epoch, lost };
        }
        let takes_over = request.epoch > self.epoch;
        if !takes_over && request.number <= self.number {
            return Claim::Late;
        }
        if takes_over && request.in_grace_period {
            return Claim::InGracePeriod;
        }
        (self.epoch, self.number) = (request.epoch, request.number);
        if takes_over {
            // The previous owner may or may not have sent these rows.
            let mut left: Vec<_> = self.rows.values_mut().filter(|row| row.state == State::InFlight).collect();
            left.iter_mut().for_each(|row| row.is_in_doubt(request.doubt_until));
            if !left.is_empty() {
                self.claimed_before = self.claimed.clone();
            }
        }
        let next_doubt = self.next_doubt();
        if self.gate != Gate::Open {
            return Claim::Held { next_doubt, open: self.open(), lost };
        }
        if self.expires.is_some_and(|at| at <= request.now) {
            return Claim::Expired { lost };
        }
        let mut rows: Vec<ToSend> = Vec::new();
        // In the grace period Redis may lack the news that a recipient has got an earlier message.
        let due = if request.in_grace_period { Vec::new() } else { self.due_by(request.now) };
        for row in due.into_iter().take(request.limit) {
            rows.extend(self.hand_out(row));
        }
        // At most ten rows are read per wanted row. That bounds the duration of a call if intake rejected most rows.
        let mut wanted = ((request.limit - rows.len()) as u64).min(self.len - self.next);
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
            self.claimed = Some((request.epoch, request.number, rows.clone()));
        }
        let next_due = self.rows.values().filter_map(Row::due_at).min().map(|(at, _)| at);
        let pause_ends = UnixMs(request.now.0 + GRACE_PAUSE_MS);
        let next_due = next_due.map(|at| if request.in_grace_period { at.max(pause_ends) } else { at });
        let erased = 2 * self.erased.len() as u64;
        Claim::Rows { rows, next_due, next_doubt, fresh: self.len - self.next, open: self.open(), lost, erased }
    }

    fn rows_of_claim(&self, epoch: u64, number: u64) -> Vec<ToSend> {
        let mut stored = [&self.claimed, &self.claimed_before].into_iter().flatten();
        let asked = stored.find(|claimed| (claimed.0, claimed.1) == (epoch, number));
        asked.map_or_else(Vec::new, |(.., rows)| rows.clone())
    }

    fn hand_out(&mut self, number: u16) -> Option<ToSend> {
        let row = self.rows.get_mut(&number)?;
        row.is_claimed(row.claims + 1);
        let claimed = ClaimedRow { row: number, send: send(row.claims) };
        Some(ToSend { claimed, attempt: row.attempts + 1 })
    }

    /// Replays a claim that Redis may have lost. The rows need not be claimable: with the claim, Redis also lost the
    /// outcome that had made them claimable.
    pub fn claimed_before(&mut self, epoch: u64, until: UnixMs, rows: &[(u16, u32)]) -> u64 {
        for (row, claim) in rows {
            let Some(row) = self.rows.get_mut(row) else { continue };
            if *claim > row.claims && row.may_have_lost_a_claim() && !self.forgotten {
                row.was_claimed(*claim);
                if epoch < self.epoch {
                    row.is_in_doubt(until);
                }
            }
        }
        self.open()
    }

    /// Settles outcomes of claims made in `epoch`, the accepted ones first. Returns the number of open rows.
    pub fn settle(&mut self, epoch: u64, now: UnixMs, outcomes: &[(u16, u32, Settled)]) -> u64 {
        let mut outcomes: Vec<_> = outcomes.iter().collect();
        outcomes.sort_by_key(|(.., settled)| !matches!(settled, Settled::Accepted(_) | Settled::Held(_)));
        for (number, claim, settled) in outcomes {
            if let Settled::Accepted(wamid) | Settled::Held(wamid) = settled
                && !self.forgotten
            {
                self.ids.push((wamid.clone(), ClaimedRow { row: *number, send: send(*claim) }));
            }
            let gate = self.gate;
            let mut others = epoch < self.epoch;
            let Some(row) = self.rows.get_mut(number) else { continue };
            if *claim > row.claims && row.may_have_lost_a_claim() && !self.forgotten {
                // Redis lost the claim.
                row.was_claimed(*claim);
                others = false;
            }
            if let Settled::Accepted(_) | Settled::Held(_) = settled {
                // An acceptance replaces any state of a lower rank.
                if *claim >= row.claims && State::Accepted.rank() > row.state.rank() && row.reopened.is_none() {
                    row.becomes_because(State::Accepted, None);
                    row.is_answered();
                    row.claims = *claim;
                    count_accepted(&mut self.accepted, now);
                }
                // A row that a status has moved on is not held again.
                let is_this = row.state == State::Accepted && row.claims == *claim;
                row.held |= is_this && matches!(settled, Settled::Held(_)) && !self.forgotten;
            } else if *claim == row.claims && row.is_unanswered() {
                // A message is withheld once. Later it fails.
                let as_retry = match settled {
                    Settled::Withheld { at, reason } if !row.withheld => Settled::Retry { at: *at, reason: *reason },
                    Settled::Withheld { reason, .. } => Settled::Refused { reason: *reason },
                    other => other.clone(),
                };
                let is_withheld = matches!(settled, Settled::Withheld { .. });
                let is_noted = is_withheld && !self.forgotten;
                match &as_retry {
                    _ if row.state == State::Unknown && row.is_back => {}
                    // A row in flight belongs to the newest epoch.
                    _ if others && row.state == State::InFlight => {}
                    // An expired doubt does not begin again, and a completed part does not reopen.
                    Settled::InDoubt { .. } if row.state == State::Unknown => {}
                    Settled::Retry { .. } | Settled::Back { .. } | Settled::Skipped { .. }
                        if row.state == State::Unknown && gate == Gate::Completed => {}
                    _ if is_withheld && row.state == State::Unknown && gate == Gate::Completed => {}
                    // This claim certainly sent nothing. A row that ends goes back to what it was before it was sent
                    // again.
                    Settled::Skipped { .. } if row.goes_back() => {}
                    Settled::Retry { .. } | Settled::Back { .. }
                        if (gate == Gate::Cancelled || gate == Gate::Completed && !is_withheld) && row.goes_back() =>
                    {
                        row.withheld |= is_noted;
                    }
                    // Any other may return to a lower rank.
                    Settled::Skipped { reason } => {
                        row.becomes_because(State::Skipped, None);
                        row.skip = Some(*reason);
                    }
                    Settled::Retry { .. } | Settled::Back { .. } if gate == Gate::Cancelled => {
                        row.becomes_because(State::Cancelled, None);
                        row.withheld |= is_noted;
                    }
                    Settled::Retry { reason, .. } if gate == Gate::Completed => {
                        row.becomes_because(State::Refused, Some(*reason));
                        row.is_answered();
                    }
                    Settled::Back { .. } if gate == Gate::Completed => row.becomes_because(State::Unknown, None),
                    Settled::Retry { at, reason } => {
                        row.becomes_because(State::Retrying, Some(*reason));
                        row.attempts += 1;
                        row.due = Some(*at);
                        row.withheld |= is_noted;
                    }
                    Settled::Back { at } => {
                        row.becomes_because(if row.attempts > 0 { State::Retrying } else { State::Pending }, None);
                        row.due = Some(match at {
                            Due::AtOnce => UnixMs(0),
                            Due::At(at) => *at,
                        });
                    }
                    Settled::InDoubt { until } => {
                        row.is_in_doubt(*until);
                        row.why = None;
                    }
                    Settled::Refused { reason } => {
                        row.becomes_because(State::Refused, Some(*reason));
                        row.is_answered();
                    }
                    Settled::Accepted(_) | Settled::Held(_) | Settled::Withheld { .. } => unreachable!("above"),
                }
            }
        }
        self.open()
    }

    /// Applies statuses from Meta. Returns the result of each fact, and the number of open rows.
    pub fn apply(&mut self, facts: &[Fact]) -> (Vec<Applied>, u64) {
        let applied = facts.iter().map(|fact| self.apply_one(fact)).collect();
        (applied, self.open())
    }

    fn apply_one(&mut self, fact: &Fact) -> Applied {
        let runs = matches!(self.gate, Gate::Open | Gate::Held);
        let Some(row) = self.rows.get_mut(&fact.row) else { return Applied::Stale };
        let claim = fact.claim.unwrap_or(row.claims);
        let is_earlier = claim < row.claims || claim == row.claims && row.reopened.is_some();
        let has_it = matches!(fact.news, News::Delivered | News::Read | News::Replied);
        if claim == 0 || is_earlier && !has_it {
            return Applied::Stale;
        }
        // Redis lost a later claim, and has no other fact about it.
        let lost_a_claim = claim > row.claims && row.state.rank() < State::Delivered.rank();
        let rank = if lost_a_claim { State::InFlight.rank() } else { row.state.rank() };
        let may_reopen = match fact.news {
            News::Returned(_) => true,
            News::Withheld(_) => !row.withheld,
            _ => false,
        };
        let reopens = may_reopen && runs && !row.was_never_sent();
        let (to, why) = match fact.news {
            News::Returned(reason) if reopens => {
                (if row.attempts > 0 { State::Retrying } else { State::Pending }, Some(reason))
            }
            News::Withheld(reason) if reopens => (State::Retrying, Some(reason)),
            News::Returned(reason) | News::Withheld(reason) => (State::Failed, Some(reason)),
            News::Sent => (State::Sent, None),
            News::Delivered => (State::Delivered, None),
            News::Read => (State::Read, None),
            News::Failed(reason) => (State::Failed, Some(reason)),
            News::Replied => {
                let known = std::mem::replace(&mut row.replied, true);
                return if known { Applied::Repeated } else { Applied::Moved };
            }
        };
        if self.forgotten && matches!(row.state, State::Failed | State::Refused) {
            return Applied::Repeated;
        }
        let moves = if reopens { rank <= State::Sent.rank() } else { to.rank() > rank };
        if !moves {
            return Applied::Repeated;
        }
        if let Some(message) = &fact.message
            && rank < State::Accepted.rank()
            && !self.forgotten
        {
            self.ids.push((message.clone(), ClaimedRow { row: fact.row, send: send(claim) }));
        }
        if rank < State::Accepted.rank() {
            count_accepted(&mut self.accepted, fact.at);
        }
        row.claims = claim.max(row.claims);
        row.why = why;
        row.is_answered();
        if reopens {
            row.reopens(to, State::Failed);
            if matches!(fact.news, News::Withheld(_)) {
                row.due = Some(UnixMs((fact.at.seconds() + 1) * 1_000).after(policy::WITHHELD_FOR));
                row.withheld = true;
                row.attempts += 1;
            }
            return Applied::Reopened;
        }
        row.becomes(to);
        Applied::Moved
    }

    /// Looks at up to `limit` rows in the states of a retry, and reopens those with one of `codes`; with any code if
    /// there are none. Only while the gate has this version. Returns whether there are more rows to look at, and how
    /// many the retry has reopened so far.
    pub fn reopen(&mut self, version: u64, states: &[State], codes: &[FailureReason], limit: usize) -> (bool, u64) {
        let (_, mut next, mut reopened) = self.reopening.filter(|known| known.0 == version).unwrap_or((version, 0, 0));
        if self.version != Some(version) || self.forgotten {
            return (false, reopened);
        }
        let mut wanted = self.rows.range_mut(next..).filter(|(_, row)| states.contains(&row.state));
        for (number, row) in wanted.by_ref().take(limit) {
            let is_wanted = codes.is_empty() || row.why.is_some_and(|why| codes.contains(&why));
            if is_wanted && !self.erased.contains(number) {
                row.reopens(State::Pending, row.state);
                row.attempts = 0;
                reopened += 1;
            }
        }
        let more = wanted.next().map(|(row, _)| *row);
        next = more.unwrap_or(u16::MAX);
        self.reopening = Some((version, next, reopened));
        (more.is_some(), reopened)
    }

    /// Ends the doubts whose deadline has passed: as unknown, or by another attempt if the row had fewer than
    /// `attempts_max`. Returns the next deadline, and the number of open rows.
    pub fn end_doubts(&mut self, now: UnixMs, attempts_max: u8) -> (Option<UnixMs>, u64) {
        for row in self.rows.values_mut().filter(|row| row.doubt.is_some_and(|until| until <= now)) {
            if self.gate != Gate::Cancelled && row.attempts + 1 < attempts_max {
                row.becomes(State::Retrying);
                row.was(State::Unknown);
                row.attempts += 1;
                row.due = Some(now);
            } else {
                row.becomes(State::Unknown);
            }
        }
        (self.next_doubt(), self.open())
    }

    /// Ends the rows that can still be claimed. Returns the number of open rows, or `None` if the part is not in the
    /// state that `to` requires.
    ///
    /// A row that is sent again returns to its earlier state: failed with Meta's code, if Meta returned its message. In
    /// a completed part, the other rows were reopened by outcomes just before the gate closed: each becomes refused
    /// with the code of its attempt, or unknown if there is none.
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
                _ if row.goes_back() => {}
                State::Failed if row.why.is_some() => row.becomes(State::Refused),
                State::Failed => row.becomes_because(State::Unknown, None),
                _ => row.becomes_because(to, None),
            }
        }
        self.next = self.len;
        Some(self.open())
    }

    /// The retention of the recipients ends.
    pub fn forget(&mut self) {
        self.forgotten = true;
        self.ids.clear();
        self.rows.values_mut().for_each(|row| {
            (row.held, row.withheld, row.before, row.is_back) = (false, false, None, false);
        });
    }

    /// The message id of a claim; the newest entry wins.
    pub fn whole_id(&self, message: ClaimedRow) -> Option<Wamid> {
        self.ids.iter().rev().find(|(_, claimed)| *claimed == message).map(|(wamid, _)| wamid.clone())
    }

    /// The claim of a message id; the newest entry wins.
    pub fn find(&self, wamid: &Wamid) -> Option<ClaimedRow> {
        self.ids.iter().rev().find(|(known, _)| known == wamid).map(|(_, claimed)| *claimed)
    }

    /// Rows that are pending, retrying, in flight or in doubt.
    pub fn open(&self) -> u64 {
        self.rows.values().filter(|row| row.state.is_open()).count() as u64
    }

    pub fn counts(&self) -> PartCounts {
        let mut by_state: HashMap<State, u64> = State::ALL.into_iter().map(|state| (state, 0)).collect();
        let (mut failures, mut skips) = (HashMap::new(), HashMap::new());
        for row in self.rows.values() {
            if let Some(reason) = row.skip {
                *skips.entry(reason).or_default() += 1;
            }
            *by_state.entry(row.state).or_default() += 1;
            if matches!(row.state, State::Failed | State::Refused) {
                *failures.entry(row.why.unwrap_or(FailureReason::NoAnswer)).or_default() += 1;
            }
        }
        PartCounts {
            by_state,
            recipients: self.rows.len() as u64,
            failures,
            skips,
            details: HashMap::new(),
            replied: self.rows.values().filter(|row| row.replied).count() as u64,
            held: self.rows.values().filter(|row| row.held).count() as u64,
            accepted_by_second: self.accepted.values().copied().collect(),
            epoch: self.epoch,
        }
    }

    fn next_doubt(&self) -> Option<UnixMs> {
        self.rows.values().filter_map(|row| row.doubt).min()
    }

    /// The rows that are due, in the order of their due time; rows with the same time are sorted by their decimal
    /// digits, as in a Redis sorted set.
    fn due_by(&self, now: UnixMs) -> Vec<u16> {
        let come = self.rows.iter().filter_map(|(&number, row)| Some((row.due_at()?, number.to_string(), number)));
        // The due time of a reopened row has a fraction of a millisecond more.
        let mut come: Vec<_> = come.filter(|((at, percent), ..)| at.0 + u64::from(*percent > 0) <= now.0).collect();
        come.sort();
        come.into_iter().map(|(.., number)| number).collect()
    }
}

/// Counts an accepted message, unless the slot of its second has a later one.
fn count_accepted(accepted: &mut BTreeMap<u64, (u64, u64)>, at: UnixMs) {
    let (second, n) = accepted.entry(at.seconds() % 10).or_default();
    if *second < at.seconds() {
        (*second, *n) = (at.seconds(), 0);
    }
    *n += u64::from(*second == at.seconds());
}
