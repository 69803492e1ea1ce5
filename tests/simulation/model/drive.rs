//! Takes model and scripts through the same history, and compares them after each thing that happens.

use std::{collections::HashMap, fmt::Debug};

use pregon::{
    domain::{State, UnixMs, Wamid},
    redis::{
        StoreError,
        parts::{Applied, Claim, ClaimWish, News, Settled, ToSend},
    },
};

use super::{
    history::{Claimer, Ended, Fate, History, PROCESSES, Pick, Step, WORKERS, Which},
    real::{Dump, Real, View, refused},
    spec::{FAR, Fact, Gate, Part, Row},
    watch::{HandOut, Lowering, Watch},
};

/// When a history begins.
const BEGINNING: UnixMs = UnixMs(1_800_000_000_000);
/// How long a claim of an older epoch stays in doubt.
const DOUBT_MS: u64 = 400;
/// Longer than anything in a history takes.
const DAY_MS: u64 = 86_400_000;

/// What may be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Whatever the history says, also what can't be.
    Any,
    /// What came of the messages that were handed out.
    True,
}

/// What happened in histories.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub histories: u64,
    pub steps: u64,
    pub hand_outs: u64,
    pub take_overs: u64,
    pub facts: u64,
    pub forgotten: u64,
    pub resent: u64,
    pub reopened: u64,
}

/// What a process tells Redis, and keeps in case that Redis forgets it.
#[derive(Clone, Debug)]
enum Entry {
    Claimed { epoch: u64, now: UnixMs, until: UnixMs, rows: Vec<(u16, u32)> },
    Settled { epoch: u64, now: UnixMs, outcomes: Vec<(u16, u32, Settled)> },
    Told(Vec<Fact>),
}

/// What is on Redis' disk.
struct Disk {
    dump: Dump,
    model: Part,
    /// So much had been told.
    told: usize,
    /// The part had been taken over before everybody had repeated what Redis forgot.
    is_hasty: bool,
}

struct Drive<'a> {
    history: &'a History,
    facts: Facts,
    real: &'a Real<'a>,
    model: Part,
    watch: Watch,
    now: UnixMs,
    /// The newest lease, and the last claim under it.
    epoch: u64,
    number: u64,
    /// By epoch, the last claim without an answer.
    unanswered: HashMap<u64, u64>,
    version: u64,
    /// What was told so far, and by which process.
    told: Vec<(usize, Entry)>,
    /// From where on each process has to repeat it.
    behind: [Option<usize>; PROCESSES],
    disk: Disk,
    /// The part was taken over before everybody had repeated what Redis forgot.
    is_hasty: bool,
    handed_out: usize,
    /// The end has come: everything is accepted from now on.
    ending: bool,
    trace: &'a mut Vec<String>,
    figures: &'a mut Figures,
}

type Checked = Result<(), String>;

/// Takes both through `history`. `trace` tells what was asked and answered.
pub async fn drive(
    history: &History,
    facts: Facts,
    real: &Real<'_>,
    trace: &mut Vec<String>,
    figures: &mut Figures,
) -> Checked {
    let mut model = Part::new();
    for n in 0..history.chunks.len() {
        let (start, mask) = chunk(history, n);
        let (said, should) = (real.activate(start, mask).await, model.activate(start, mask));
        same(&said, &words(&should))?;
    }
    let watch = Watch::new(model.rows.len() as u64, real.view().await.map_err(failed)?);
    let disk = Disk { dump: real.dump().await.map_err(failed)?, model: model.clone(), told: 0, is_hasty: false };
    let mut drive = Drive {
        history,
        facts,
        real,
        model,
        watch,
        now: BEGINNING,
        epoch: 1,
        number: 0,
        unanswered: HashMap::new(),
        version: 0,
        told: Vec::new(),
        behind: [None; PROCESSES],
        disk,
        is_hasty: false,
        handed_out: 0,
        ending: false,
        trace,
        figures,
    };
    drive.figures.histories += 1;
    drive.begin().await?;
    for step in &history.steps {
        drive.trace.push(format!("{step:?}"));
        drive.step(step).await?;
        drive.figures.steps += 1;
    }
    drive.trace.push("the end".to_owned());
    drive.end().await?;
    real.forget().await.map_err(failed)
}

/// Where a chunk begins, and who of it was admitted.
fn chunk(history: &History, n: usize) -> (u16, &[bool]) {
    let before: usize = history.chunks[..n].iter().map(Vec::len).sum();
    (history.room + before as u16, &history.chunks[n])
}

fn same(said: &str, should: &str) -> Checked {
    if said == should { Ok(()) } else { Err(format!("Redis says    {said}\nand the model {should}")) }
}

/// An answer of the model in words.
fn words(answer: &impl Debug) -> String {
    format!("{answer:?}")
}

fn failed(error: StoreError) -> String {
    error.to_string()
}

impl Drive<'_> {
    async fn begin(&mut self) -> Checked {
        self.follow(Gate::Open, true).await?;
        if self.history.worn > 0 {
            for claim in (FAR..self.history.worn).step_by(FAR as usize).chain([self.history.worn]) {
                let back = |row: &u16| (*row, claim, Settled::Back { at: BEGINNING });
                let outcomes = self.model.rows.keys().map(back).collect();
                self.tell(&Entry::Settled { epoch: self.epoch, now: self.now, outcomes }).await?;
            }
        }
        self.synced().await
    }

    async fn step(&mut self, step: &Step) -> Checked {
        match step {
            Step::Claim { by, limit, asks, lost } => self.claim(*by, *limit, *asks, *lost).await,
            Step::Settle { by, outcomes, twice } => {
                let epoch = if *by == Claimer::Older { (self.epoch - 1).max(1) } else { self.epoch };
                let outcomes = outcomes.iter().filter_map(|&(pick, ended)| self.outcome(epoch, pick, ended)).collect();
                let entry = Entry::Settled { epoch, now: self.now, outcomes };
                self.tell_first(self.worker(epoch), entry, *twice).await
            }
            Step::Tell { by, news, twice } => {
                let facts = news.iter().filter_map(|&(pick, news, named)| self.fact(pick, news, named)).collect();
                self.tell_first(*by, Entry::Told(facts), *twice).await
            }
            Step::EndDoubts => self.end_doubts().await,
            // That is its end: no other state follows.
            Step::Follow { .. } if self.model.gate == Gate::Completed || self.model.forgotten => Ok(()),
            Step::Follow { gate, newer } => self.follow(*gate, *newer).await,
            Step::Complete if self.model.open() > 0 || self.is_behind() || self.model.forgotten => Ok(()),
            Step::Complete => self.follow(Gate::Completed, true).await,
            Step::Sweep(to) => self.sweep(*to).await,
            Step::ForgetRecipients => self.forget_recipients().await,
            Step::Activate(n) => {
                let (start, mask) = chunk(self.history, n % self.history.chunks.len());
                let (said, should) = (self.real.activate(start, mask).await, self.model.activate(start, mask));
                self.compare("activate", &said, &words(&should), Lowering::default()).await
            }
            Step::Wait(ms) => {
                self.now.0 += ms;
                Ok(())
            }
            Step::Again(ago) => {
                let mut told = self.told.iter().rev().filter(|(_, entry)| !matches!(entry, Entry::Claimed { .. }));
                let Some((process, entry)) = told.nth(*ago).cloned() else { return Ok(()) };
                self.catch_up(process).await?;
                self.tell(&entry).await
            }
            Step::Synced => self.synced().await,
            Step::Forget(before) => self.forget(*before).await,
            Step::Repeat(process) => self.catch_up(*process).await,
        }
    }

    /// Whether anybody has yet to repeat what Redis forgot.
    fn is_behind(&self) -> bool {
        self.behind.iter().any(Option::is_some)
    }

    fn worker(&self, epoch: u64) -> usize {
        epoch as usize % WORKERS
    }

    async fn claim(&mut self, by: Claimer, limit: usize, asks: bool, lost: bool) -> Checked {
        // Whether the part knows of the newest lease: who has lost his before that claims no more.
        let is_known = self.model.epoch == self.epoch;
        let epoch = match by {
            Claimer::Owner => self.epoch,
            Claimer::Overtaken if is_known => self.epoch,
            Claimer::Older if is_known && self.epoch > 1 => self.epoch - 1,
            Claimer::Overtaken | Claimer::Older => return Ok(()),
            Claimer::Next | Claimer::Early => {
                (self.epoch, self.number) = (self.epoch + 1, 0);
                self.figures.take_overs += 1;
                self.epoch
            }
        };
        let worker = self.worker(epoch);
        self.catch_up(worker).await?;
        let number = if by == Claimer::Overtaken {
            self.number.min(self.model.number)
        } else {
            self.number += 1;
            self.number
        };
        // Within a lease all others have repeated what they know, or send no more. Who takes the part over from such a one, and
        // what that sent was forgotten, would send it again: that is not promised, and so it only looks.
        let takes_over = epoch > self.model.epoch;
        self.is_hasty = self.is_behind() && (self.is_hasty || takes_over && limit == 0);
        let limit = if self.is_hasty { 0 } else { limit };
        let in_grace_period = by == Claimer::Early || self.is_behind() && !self.is_hasty;
        let doubt_until = UnixMs(self.now.0 + DOUBT_MS);
        let unanswered = self.unanswered.get(&epoch).copied().filter(|_| asks).unwrap_or(0);
        let wish = ClaimWish { epoch, number, now: self.now, limit, doubt_until, unanswered, in_grace_period };
        let (said, should) = (self.real.claim(&wish).await, self.model.claim(&wish));
        self.compare(&words(&wish), &said, &words(&should), Lowering::default()).await?;
        let Claim::Rows { rows, .. } = should else { return Ok(()) };
        if epoch < self.epoch && !rows.is_empty() {
            return Err(format!("epoch {epoch} claimed, and the lease is that of {}", self.epoch));
        }
        let rows: Vec<(u16, u32)> = rows.iter().map(|ToSend { claimed, .. }| self.last_claim(claimed.row)).collect();
        for &(row, claim) in &rows {
            let fate = if lost { Fate::Back } else { self.next_fate() };
            self.watch.hand_out(row, HandOut { claim, epoch, fate, lost }, self.facts == Facts::True)?;
            self.figures.hand_outs += 1;
        }
        if lost {
            self.unanswered.insert(epoch, number);
        } else if !rows.is_empty() {
            self.told.push((worker, Entry::Claimed { epoch, now: self.now, until: doubt_until, rows }));
        }
        Ok(())
    }

    fn next_fate(&mut self) -> Fate {
        if self.ending {
            return Fate::Accepted;
        }
        let fates = &self.history.fates;
        self.handed_out += 1;
        fates[(self.handed_out - 1) % fates.len()]
    }

    fn last_claim(&self, row: u16) -> (u16, u32) {
        (row, self.model.rows[&row].claims)
    }

    /// An outcome to settle under `epoch`, if there can be one.
    fn outcome(&self, epoch: u64, pick: Pick, ended: Ended) -> Option<(u16, u32, Settled)> {
        let (row, claim, ended) = match self.facts {
            Facts::Any => {
                let (row, claim) = self.any_claim(pick)?;
                (row, claim?, ended)
            }
            Facts::True => {
                let (row, hand_out) =
                    self.true_claim(pick, |it, is_last| it.epoch == epoch && (!it.lost || is_last))?;
                let (ms, code) = match ended {
                    Ended::Accepted => (0, 0),
                    Ended::Retry(ms, code) => (ms, code),
                    Ended::Back(ms) | Ended::InDoubt(ms) => (ms, 0),
                    Ended::Refused(code) => (0, code),
                };
                let ended = match hand_out.fate {
                    Fate::Accepted | Fate::Returned => Ended::Accepted,
                    Fate::AnswerLost | Fate::Lost => Ended::InDoubt(ms),
                    Fate::Refused => Ended::Refused(code),
                    Fate::Retry => Ended::Retry(ms, code),
                    Fate::Back => Ended::Back(ms),
                };
                (row, hand_out.claim, ended)
            }
        };
        let at = |ms: u64| UnixMs(self.now.0 + ms);
        let settled = match ended {
            Ended::Accepted => Settled::Accepted(wamid(row, claim)),
            Ended::Retry(ms, code) => Settled::Retry { at: at(ms), code },
            Ended::Back(ms) => Settled::Back { at: at(ms) },
            Ended::InDoubt(ms) => Settled::InDoubt { until: at(ms) },
            Ended::Refused(code) => Settled::Refused { code },
        };
        Some((row, claim, settled))
    }

    /// Something that Meta tells, if she can. `named`: with the id of the message.
    fn fact(&self, pick: Pick, news: News, named: bool) -> Option<Fact> {
        let (row, claim, news) = match self.facts {
            Facts::Any => {
                let (row, claim) = self.any_claim(pick)?;
                (row, claim, news)
            }
            Facts::True => {
                let (row, hand_out) = self.true_claim(pick, |it, _| it.fate.is_sent() && !it.lost)?;
                (row, Some(hand_out.claim), hand_out.fate.tells(news))
            }
        };
        let message = named.then(|| wamid(row, claim.unwrap_or_else(|| self.model.rows[&row].claims)));
        Some(Fact { row, claim, news, at: self.now, message })
    }

    /// Any row and any of its claims, also of those that never were.
    fn any_claim(&self, pick: Pick) -> Option<(u16, Option<u32>)> {
        if pick.claim == Which::Nobody {
            let row = (self.history.room..).filter(|row| !self.model.rows.contains_key(row)).nth(pick.row % 3)?;
            return Some((row, Some(1)));
        }
        let ahead = matches!(pick.claim, Which::Ahead(_));
        let rows = self.model.rows.iter().filter(|(_, row)| ahead || row.claims > 0);
        let (row, known) = nth(rows, pick.row)?;
        let claim = match pick.claim {
            Which::Last | Which::Nobody => Some(known.claims),
            Which::Ago(ago) => Some(known.claims.checked_sub(ago).filter(|claim| *claim > 0)?),
            Which::Ahead(by) => Some(known.claims + by),
            Which::Unnamed => None,
        };
        Some((*row, claim))
    }

    /// A row that was handed out, and one of the claims that `may` be told of; it is said which is the last of its row.
    fn true_claim(&self, pick: Pick, may: impl Fn(&HandOut, bool) -> bool) -> Option<(u16, &HandOut)> {
        let told = |hand_outs: &'_ Vec<HandOut>| -> Vec<usize> {
            let last = hand_outs.len() - 1;
            (0..=last).filter(|&n| may(&hand_outs[n], n == last)).collect()
        };
        let rows =
            self.watch.hand_outs.iter().map(|(row, all)| (row, all, told(all))).filter(|(.., may)| !may.is_empty());
        let (row, all, may) = nth(rows, pick.row)?;
        let ago = if let Which::Ago(ago) = pick.claim { ago as usize } else { 0 };
        let which = may[(may.len() - 1).saturating_sub(ago)];
        Some((*row, &all[which]))
    }

    /// `process` tells something for the first time, and keeps it.
    async fn tell_first(&mut self, process: usize, entry: Entry, twice: bool) -> Checked {
        self.catch_up(process).await?;
        let is_ahead = self.is_ahead(&entry);
        self.tell(&entry).await?;
        if self.facts == Facts::True {
            self.remember(&entry);
            self.truth_is_known()?;
        }
        if twice && !is_ahead {
            let once = self.watch.before.clone();
            self.tell(&entry).await?;
            if self.watch.before != once {
                return Err(format!("the second time changes something: {}", self.watch.before.against(&once)));
            }
        }
        self.told.push((process, entry));
        Ok(())
    }

    /// Of a claim that was never made an outcome may be known or not, as those with it have left the row. And a fact that names no
    /// claim is about another one once those with it have given the row a later number.
    fn is_ahead(&self, entry: &Entry) -> bool {
        let made = |row: &u16| self.model.rows.get(row).map_or(0, |row| row.claims);
        let is_ahead = match entry {
            Entry::Claimed { .. } => false,
            Entry::Settled { outcomes, .. } => outcomes.iter().any(|(row, claim, _)| *claim > made(row)),
            Entry::Told(facts) => facts.iter().any(|fact| fact.claim.is_none()),
        };
        self.facts == Facts::Any && is_ahead
    }

    fn remember(&mut self, entry: &Entry) {
        match entry {
            Entry::Claimed { .. } => {}
            Entry::Settled { outcomes, .. } => {
                for (row, claim, settled) in outcomes {
                    if matches!(settled, Settled::Accepted(_)) {
                        self.watch.told(*row, *claim, Some(State::Accepted));
                    }
                }
            }
            Entry::Told(facts) => {
                for fact in facts {
                    let state = match fact.news {
                        News::Sent => Some(State::Sent),
                        News::Delivered => Some(State::Delivered),
                        News::Read => Some(State::Read),
                        News::Failed(_) => Some(State::Failed),
                        News::Returned(_) => None,
                        News::Replied => continue,
                    };
                    self.watch.told(fact.row, fact.claim.expect("what is true names its claim"), state);
                }
            }
        }
    }

    fn truth_is_known(&self) -> Checked {
        if self.is_behind() { Ok(()) } else { self.watch.truth_is_known() }
    }

    /// Tells Redis and the model something, whether they know it or not.
    async fn tell(&mut self, entry: &Entry) -> Checked {
        let mut lowering = Lowering::default();
        match entry {
            Entry::Claimed { epoch, now, until, rows } => {
                let mut near = self.near();
                let rows: Vec<(u16, u32)> =
                    rows.iter().copied().filter(|(row, claim)| near(*row, Some(*claim))).collect();
                let said = self.real.claimed_before(*epoch, *now, *until, &rows).await;
                let should = self.model.claimed_before(*epoch, *until, &rows);
                let what = format!("claimed in epoch {epoch}: {rows:?}");
                lowering.told = rows;
                self.compare(&what, &said, &words(&should), lowering).await
            }
            Entry::Settled { epoch, now, outcomes } => {
                let mut near = self.near();
                let mut outcomes = outcomes.clone();
                outcomes.retain(|(row, claim, _)| near(*row, Some(*claim)));
                let negative = |settled: &Settled| matches!(settled, Settled::Retry { .. } | Settled::Back { .. });
                let negatives = outcomes.iter().filter(|(.., settled)| negative(settled));
                lowering.negative = negatives.map(|(row, claim, _)| (*row, *claim)).collect();
                lowering.told = outcomes.iter().map(|(row, claim, _)| (*row, *claim)).collect();
                self.figures.facts += outcomes.len() as u64;
                let said = self.real.settle(*epoch, *now, &outcomes).await;
                let should = self.model.settle(*epoch, *now, &outcomes);
                self.compare(&format!("settle in epoch {epoch}: {outcomes:?}"), &said, &words(&should), lowering).await
            }
            Entry::Told(facts) => {
                let mut near = self.near();
                let mut facts = facts.clone();
                facts.retain(|fact| near(fact.row, fact.claim));
                if facts.is_empty() {
                    return Ok(());
                }
                self.figures.facts += facts.len() as u64;
                let last = |row: u16| self.model.rows.get(&row).map(|row| row.claims);
                let about =
                    || facts.iter().filter_map(|fact| Some((fact.row, fact.claim.or(last(fact.row))?, fact.news)));
                lowering.told = about().map(|(row, claim, _)| (row, claim)).collect();
                let returned = about().filter(|(.., news)| matches!(news, News::Returned(_)));
                lowering.returned = returned.map(|(row, claim, _)| (row, claim)).collect();
                let (said, should) = (self.real.apply(&facts).await, self.model.apply(&facts));
                self.figures.reopened += should.0.iter().filter(|it| **it == Applied::Reopened).count() as u64;
                self.compare(&format!("apply {facts:?}"), &said, &words(&should), lowering).await
            }
        }
    }

    /// Says of one fact after the other whether its claim can be told from the others of its row, those before it included.
    fn near(&self) -> impl FnMut(u16, Option<u32>) -> bool + use<> {
        let known = self.model.rows.iter().map(|(row, known)| (*row, (known.claims, known.claims)));
        let mut known: HashMap<u16, (u32, u32)> = known.collect();
        move |row, claim| {
            let Some((least, most)) = known.get_mut(&row) else { return true };
            let claim = claim.unwrap_or(*most);
            let is_near = claim <= *least + FAR && claim + FAR >= *most;
            if is_near {
                *most = claim.max(*most);
            }
            is_near
        }
    }

    async fn end_doubts(&mut self) -> Checked {
        self.catch_up(self.worker(self.epoch)).await?;
        let attempts_max = self.history.resends;
        let said = self.real.end_doubts(self.now, attempts_max).await;
        let should = self.model.end_doubts(self.now, attempts_max);
        let lowering = Lowering { resends: attempts_max > 0, ..Lowering::default() };
        self.compare("end doubts", &said, &words(&should), lowering).await
    }

    async fn follow(&mut self, gate: Gate, newer: bool) -> Checked {
        if newer {
            self.version += 1;
        }
        let version = if newer { self.version } else { self.version.saturating_sub(1) };
        let expires = self.history.expires.map(|ms| UnixMs(BEGINNING.0 + ms));
        let said = self.real.follow(version, gate, expires).await;
        let should = self.model.follow(version, gate, expires);
        self.compare(&format!("gate {gate:?} of version {version}"), &said, &words(&should), Lowering::default()).await
    }

    async fn sweep(&mut self, to: State) -> Checked {
        let said = self.real.sweep(to, self.now).await;
        let should = self.model.sweep(to, self.now).map_or(refused(), |open| words(&open));
        self.compare(&format!("sweep {to:?}"), &said, &should, Lowering::default()).await
    }

    async fn forget_recipients(&mut self) -> Checked {
        let has_ended = matches!(self.model.gate, Gate::Completed | Gate::Cancelled) && self.model.open() == 0;
        if !has_ended || self.is_behind() {
            return Ok(());
        }
        self.real.forget_recipients().await.map_err(failed)?;
        self.model.forget();
        self.watch.recipients_forgotten = true;
        self.compare("forget the recipients", "", "", Lowering::default()).await
    }

    async fn synced(&mut self) -> Checked {
        let dump = self.real.dump().await.map_err(failed)?;
        // What was forgotten before and is not repeated yet is not on the disk either.
        let told = self.behind.iter().flatten().copied().min().unwrap_or(self.told.len());
        self.disk = Disk { dump, model: self.model.clone(), told, is_hasty: self.is_hasty && self.is_behind() };
        Ok(())
    }

    async fn forget(&mut self, before: usize) -> Checked {
        let far = |(row, known): (&u16, &Row)| known.claims > self.disk.model.rows[row].claims + FAR;
        if self.model.rows.iter().any(far) {
            return Ok(());
        }
        self.real.restore(&self.disk.dump).await.map_err(failed)?;
        self.model = self.disk.model.clone();
        self.watch.recipients_forgotten = self.model.forgotten;
        self.is_hasty |= self.disk.is_hasty;
        self.behind = [Some(self.disk.told.saturating_sub(before)); PROCESSES];
        self.figures.forgotten += 1;
        let view = self.real.view().await.map_err(failed)?;
        self.watch.before = view.clone();
        self.agree(&view)
    }

    /// As a process does before it asks anything of a Redis that may have forgotten something.
    async fn catch_up(&mut self, process: usize) -> Checked {
        let Some(from) = self.behind[process].take() else { return Ok(()) };
        let told: Vec<Entry> =
            self.told[from..].iter().filter(|(by, _)| *by == process).map(|(_, entry)| entry.clone()).collect();
        self.trace.push(format!("   process {process} repeats {} things", told.len()));
        for entry in told {
            self.tell(&entry).await?;
        }
        self.truth_is_known()
    }

    /// Nothing happens any more but what has to: everybody comes to an end.
    async fn end(&mut self) -> Checked {
        self.ending = true;
        for process in 0..PROCESSES {
            self.catch_up(process).await?;
        }
        if matches!(self.model.gate, Gate::Open | Gate::Held) {
            self.follow(Gate::Open, true).await?;
        }
        for _ in 0..8 {
            if self.model.open() == 0 {
                break;
            }
            self.now.0 += DAY_MS;
            if self.model.gate == Gate::Cancelled {
                self.sweep(State::Cancelled).await?;
            } else if self.model.expires.is_some() {
                self.sweep(State::Expired).await?;
            } else if self.model.gate == Gate::Completed {
                self.sweep(State::Failed).await?;
            }
            self.claim(Claimer::Next, 256, false, false).await?;
            let claimed = self.model.rows.iter().filter(|(_, row)| row.state == State::InFlight);
            let accepted = claimed.map(|(row, it)| (*row, it.claims, Settled::Accepted(wamid(*row, it.claims))));
            let entry = Entry::Settled { epoch: self.epoch, now: self.now, outcomes: accepted.collect() };
            self.tell_first(self.worker(self.epoch), entry, false).await?;
            self.now.0 += DAY_MS;
            self.end_doubts().await?;
        }
        if let Some((row, state, _)) = self.watch.before.states().find(|(_, state, _)| state.is_open()) {
            return Err(format!("row {row} is {state:?} for ever"));
        }
        let wamids: Vec<Wamid> = self.model.ids.iter().map(|(wamid, _)| wamid.clone()).collect();
        let found = self.real.find(&wamids).await.map_err(failed)?;
        let should: Vec<_> = wamids.iter().map(|wamid| self.model.find(wamid)).collect();
        same(&words(&found), &words(&should))
    }

    /// Compares an answer, and what is left behind it.
    async fn compare(&mut self, what: &str, said: &str, should: &str, lowering: Lowering) -> Checked {
        self.trace.push(format!("   {what}\n   = {said}"));
        same(said, should)?;
        let view = self.real.view().await.map_err(failed)?;
        self.agree(&view)?;
        if self.model.forgotten && self.real.traces().await.map_err(failed)? > 0 {
            return Err("the recipients were forgotten, and something is kept of them".to_owned());
        }
        let resent = self.watch.look(view, &lowering)?;
        self.figures.resent += resent;
        Ok(())
    }

    fn agree(&self, view: &View) -> Checked {
        let should = View::of(&self.model);
        if *view == should { Ok(()) } else { Err(format!("Redis and the model differ in {}", view.against(&should))) }
    }
}

/// Meta's id for the message of a claim.
fn wamid(row: u16, claim: u32) -> Wamid {
    Wamid::from(format!("wamid.{row}.{claim}").as_str())
}

/// The `n`th of them, from the front again.
fn nth<T>(all: impl Iterator<Item = T>, n: usize) -> Option<T> {
    let mut all: Vec<T> = all.collect();
    if all.is_empty() { None } else { Some(all.swap_remove(n % all.len())) }
}
