//! Runs the model and the scripts through one history and compares them after each step.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::Debug,
};

use pregon::{
    domain::{
        Applied, ClaimedRow, Due, FailureReason, News, Settled, SkipReason, State, UnixMs, Wamid,
        campaign::{CampaignRetry, RetriedState},
    },
    redis::{
        StoreError,
        parts::{Claim, ClaimRequest, ToSend},
    },
};

use super::{
    history::{Claimer, Ended, Fate, History, PROCESSES, Pick, REASONS, Step, WORKERS, Which},
    real::{Dump, Real, View, refused},
    spec::{CLAIM_DISTANCE_MAX, Fact, Gate, Part, Row},
    watch::{HandOut, Lowering, Watch},
};

/// Time at which a history begins.
const BEGINNING: UnixMs = UnixMs(1_800_000_000_000);
/// How long the rows that a take-over finds in flight stay in doubt.
const DOUBT_MS: u64 = 400;
/// How many rows one call reopens at most.
const REOPENED_AT_ONCE: usize = 2;
/// Longer than any delay in a history.
const DAY_MS: u64 = 86_400_000;

/// Which facts a history may report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Facts {
    /// Any facts, even impossible ones.
    Any,
    /// Only the true results of the messages that were handed out.
    True,
}

/// Totals over all histories.
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
    /// Steps after which a message was held.
    pub held: u64,
    /// Rows that a retry of the campaign reopened.
    pub retried: u64,
}

/// What a process writes to Redis and keeps in its journal, to replay it if Redis loses the write.
#[derive(Clone, Debug)]
enum Entry {
    Claimed { epoch: u64, now: UnixMs, until: UnixMs, rows: Vec<(u16, u32)> },
    Settled { epoch: u64, now: UnixMs, outcomes: Vec<(u16, u32, Settled)> },
    Facts(Vec<Fact>),
}

/// The state that Redis has on disk.
struct Disk {
    dump: Dump,
    model: Part,
    /// Length of the journal when the state was saved.
    journal_len: usize,
    /// The value of [`Drive::taken_over_early`] when the state was saved.
    taken_over_early: bool,
    /// The value of [`Watch::retries_in_redis`] when the state was saved.
    retries: BTreeMap<u16, u32>,
}

struct Drive<'a> {
    history: &'a History,
    facts: Facts,
    real: &'a Real<'a>,
    model: Part,
    watch: Watch,
    now: UnixMs,
    /// The epoch of the newest lease, and the number of the last claim in that epoch.
    epoch: u64,
    number: u64,
    /// The last claim without a response, by epoch.
    unanswered: HashMap<u64, u64>,
    version: u64,
    /// The retry of the campaign that is not finished, and the version of the campaign that it began with.
    retrying: Option<(u64, CampaignRetry)>,
    /// All entries so far, each with the process that wrote it.
    journal: Vec<(usize, Entry)>,
    /// The journal position from which each process has to replay, if Redis lost writes.
    replay_from: [Option<usize>; PROCESSES],
    disk: Disk,
    /// The part was taken over before every process had replayed its journal.
    taken_over_early: bool,
    handed_out: usize,
    /// The history is over: from now on every message is accepted.
    ending: bool,
    trace: &'a mut Vec<String>,
    figures: &'a mut Figures,
}

type Checked = Result<(), String>;

/// Runs the model and the scripts through `history`. `trace` collects each request and its response.
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
        let (actual, expected) = (real.activate(start, mask).await, model.activate(start, mask));
        same(&actual, &debug_text(&expected))?;
    }
    let watch = Watch::new(model.rows.len() as u64, real.view().await.map_err(failed)?);
    let disk = Disk {
        dump: real.dump().await.map_err(failed)?,
        model: model.clone(),
        journal_len: 0,
        taken_over_early: false,
        retries: BTreeMap::new(),
    };
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
        retrying: None,
        journal: Vec::new(),
        replay_from: [None; PROCESSES],
        disk,
        taken_over_early: false,
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

/// The first row of a chunk, and which of its rows were admitted.
fn chunk(history: &History, n: usize) -> (u16, &[bool]) {
    let before: usize = history.chunks[..n].iter().map(Vec::len).sum();
    (history.first_row + before as u16, &history.chunks[n])
}

fn same(actual: &str, expected: &str) -> Checked {
    if actual == expected { Ok(()) } else { Err(format!("Redis returned     {actual}\nthe model expects  {expected}")) }
}

fn debug_text(answer: &impl Debug) -> String {
    format!("{answer:?}")
}

fn failed(error: StoreError) -> String {
    error.to_string()
}

impl Drive<'_> {
    async fn begin(&mut self) -> Checked {
        self.follow(Gate::Open, true).await?;
        if self.history.prior_claims > 0 {
            for claim in (CLAIM_DISTANCE_MAX..self.history.prior_claims)
                .step_by(CLAIM_DISTANCE_MAX as usize)
                .chain([self.history.prior_claims])
            {
                let back = |row: &u16| (*row, claim, Settled::Back { at: Due::At(BEGINNING) });
                let outcomes = self.model.rows.keys().map(back).collect();
                self.write_entry(&Entry::Settled { epoch: self.epoch, now: self.now, outcomes }).await?;
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
                self.record(self.worker(epoch), entry, *twice).await
            }
            Step::Report { by, news, twice } => {
                let facts = news.iter().filter_map(|&(pick, news, named)| self.fact(pick, news, named)).collect();
                self.record(*by, Entry::Facts(facts), *twice).await
            }
            Step::EndDoubts => self.end_doubts().await,
            // The gate of a completed or forgotten part changes only by a retry.
            Step::Follow { .. } if self.has_completed() || self.model.forgotten => Ok(()),
            Step::Follow { gate, newer } => Box::pin(self.follow_change(*gate, *newer)).await,
            Step::Complete if self.model.open() > 0 || self.must_replay() || self.model.forgotten => Ok(()),
            Step::Complete if self.retrying.is_some() => Ok(()),
            Step::Complete => self.follow(Gate::Completed, true).await,
            // Boxed, because a future of all steps would overflow the stack of a test.
            Step::Retry { states, any_code, calls } => Box::pin(self.retry(states, *any_code, *calls)).await,
            Step::Sweep(to) => self.sweep(*to).await,
            Step::ForgetRecipients => self.forget_recipients().await,
            Step::Erase(n) => Box::pin(self.erase(*n)).await,
            Step::Activate(n) => {
                let (start, mask) = chunk(self.history, n % self.history.chunks.len());
                let (actual, expected) = (self.real.activate(start, mask).await, self.model.activate(start, mask));
                self.compare("activate", &actual, &debug_text(&expected), Lowering::default()).await
            }
            Step::Wait(ms) => {
                self.now.0 += ms;
                Ok(())
            }
            Step::Redeliver(ago) => {
                let mut repeatable =
                    self.journal.iter().rev().filter(|(_, entry)| !matches!(entry, Entry::Claimed { .. }));
                let Some((process, entry)) = repeatable.nth(*ago).cloned() else { return Ok(()) };
                self.replay(process).await?;
                self.write_entry(&entry).await
            }
            Step::Synced => self.synced().await,
            Step::Forget(before) => self.forget(*before).await,
            Step::Replay(process) => self.replay(*process).await,
        }
    }

    /// Whether any process has yet to replay what Redis lost.
    fn must_replay(&self) -> bool {
        self.replay_from.iter().any(Option::is_some)
    }

    fn worker(&self, epoch: u64) -> usize {
        epoch as usize % WORKERS
    }

    async fn claim(&mut self, by: Claimer, limit: usize, asks: bool, lost: bool) -> Checked {
        // Whether the part knows the newest epoch. Until then it would accept a claim of an older epoch. No worker
        // makes such a claim, because the previous owner stopped when its lease ended.
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
        self.replay(worker).await?;
        let number = if by == Claimer::Overtaken {
            self.number.min(self.model.number)
        } else {
            self.number += 1;
            self.number
        };
        // One lease after Redis lost writes, every other process has replayed its journal or no longer sends. A
        // take-over from a process that stopped without replaying could send a message again, if Redis lost the first
        // send. Pregón does not promise otherwise, so such a claim asks for 0 rows.
        let takes_over = epoch > self.model.epoch;
        self.taken_over_early = self.must_replay() && (self.taken_over_early || takes_over && limit == 0);
        let limit = if self.taken_over_early { 0 } else { limit };
        let in_grace_period = by == Claimer::Early || self.must_replay() && !self.taken_over_early;
        let doubt_until = UnixMs(self.now.0 + DOUBT_MS);
        let unanswered = self.unanswered.get(&epoch).copied().filter(|_| asks);
        let request = ClaimRequest { epoch, number, now: self.now, limit, doubt_until, unanswered, in_grace_period };
        let (actual, expected) = (self.real.claim(&request).await, self.model.claim(&request));
        self.compare(&debug_text(&request), &actual, &debug_text(&expected), Lowering::default()).await?;
        let Claim::Rows { rows, .. } = expected else { return Ok(()) };
        if epoch < self.epoch && !rows.is_empty() {
            return Err(format!("epoch {epoch} claimed rows, but the lease has epoch {}", self.epoch));
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
            self.journal.push((worker, Entry::Claimed { epoch, now: self.now, until: doubt_until, rows }));
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

    /// The outcome of the picked claim, to be settled in `epoch`. `None`: no claim fits.
    fn outcome(&self, epoch: u64, pick: Pick, ended: Ended) -> Option<(u16, u32, Settled)> {
        let (row, claim, ended) = match self.facts {
            Facts::Any => {
                let (row, claim) = self.any_claim(pick)?;
                (row, claim?, ended)
            }
            Facts::True => {
                let (row, hand_out) =
                    self.true_claim(pick, |it, is_last| it.epoch == epoch && (!it.lost || is_last))?;
                let (ms, reason) = match ended {
                    Ended::Accepted => (0, FailureReason::NoAnswer),
                    Ended::Retry(ms, reason) | Ended::Withheld(ms, reason) => (ms, reason),
                    Ended::Back(ms) | Ended::InDoubt(ms) => (ms, FailureReason::NoAnswer),
                    Ended::Refused(reason) => (0, reason),
                    Ended::Skipped(_) => (0, FailureReason::NoAnswer),
                };
                let ended = match hand_out.fate {
                    Fate::Accepted | Fate::Returned | Fate::Withheld => Ended::Accepted,
                    Fate::AnswerLost | Fate::Lost => Ended::InDoubt(ms),
                    Fate::Refused => Ended::Refused(reason),
                    Fate::Skip => Ended::Skipped(SkipReason::Suppressed),
                    Fate::Retry => Ended::Retry(ms, reason),
                    Fate::Back => Ended::Back(ms),
                };
                (row, hand_out.claim, ended)
            }
        };
        let at = |ms: u64| UnixMs(self.now.0 + ms);
        let settled = match ended {
            // The same message of a row is held in each report of it.
            Ended::Accepted if (u32::from(row) + claim) % 3 == 0 => Settled::Held(wamid(row, claim)),
            Ended::Accepted => Settled::Accepted(wamid(row, claim)),
            Ended::Retry(ms, reason) => Settled::Retry { at: at(ms), reason },
            Ended::Withheld(ms, reason) => Settled::Withheld { at: at(ms), reason },
            Ended::Back(ms) => Settled::Back { at: Due::At(at(ms)) },
            Ended::InDoubt(ms) => Settled::InDoubt { until: at(ms) },
            Ended::Refused(reason) => Settled::Refused { reason },
            Ended::Skipped(reason) => Settled::Skipped { reason },
        };
        Some((row, claim, settled))
    }

    /// A status from Meta for the picked claim. `named`: with the message id. `None`: no claim fits.
    fn fact(&self, pick: Pick, news: News, named: bool) -> Option<Fact> {
        let (row, claim, news) = match self.facts {
            Facts::Any => {
                let (row, claim) = self.any_claim(pick)?;
                (row, claim, news)
            }
            Facts::True => {
                let (row, hand_out) = self.true_claim(pick, |it, _| it.fate.is_sent() && !it.lost)?;
                (row, Some(hand_out.claim), hand_out.fate.status_for(news))
            }
        };
        // A message id belongs to one claim, and an earlier fact of the same call can change which claim is the last.
        let message = claim.filter(|_| named).map(|claim| wamid(row, claim));
        Some(Fact { row, claim, news, at: self.now, message })
    }

    /// Any row and any of its claims, even a claim that was never made.
    fn any_claim(&self, pick: Pick) -> Option<(u16, Option<u32>)> {
        if pick.claim == Which::NoRecipient {
            let row = (self.history.first_row..).filter(|row| !self.model.rows.contains_key(row)).nth(pick.row % 3)?;
            return Some((row, Some(1)));
        }
        let ahead = matches!(pick.claim, Which::Ahead(_));
        let rows = self.model.rows.iter().filter(|(_, row)| ahead || row.claims > 0);
        let (row, known) = nth(rows, pick.row)?;
        let claim = match pick.claim {
            Which::Last | Which::NoRecipient => Some(known.claims),
            Which::Ago(ago) => Some(known.claims.checked_sub(ago).filter(|claim| *claim > 0)?),
            Which::Ahead(by) => Some(known.claims + by),
            Which::Unnamed => None,
        };
        Some((*row, claim))
    }

    /// A row that was handed out, and one of its claims for which `may` returns true. `may` also receives whether
    /// the claim is the row's last.
    fn true_claim(&self, pick: Pick, may: impl Fn(&HandOut, bool) -> bool) -> Option<(u16, &HandOut)> {
        let allowed = |hand_outs: &'_ Vec<HandOut>| -> Vec<usize> {
            let last = hand_outs.len() - 1;
            (0..=last).filter(|&n| may(&hand_outs[n], n == last)).collect()
        };
        let rows =
            self.watch.hand_outs.iter().map(|(row, all)| (row, all, allowed(all))).filter(|(.., may)| !may.is_empty());
        let (row, all, may) = nth(rows, pick.row)?;
        let ago = if let Which::Ago(ago) = pick.claim { ago as usize } else { 0 };
        let which = may[(may.len() - 1).saturating_sub(ago)];
        Some((*row, &all[which]))
    }

    /// `process` writes an entry for the first time and adds it to the journal. `twice`: it writes the entry a
    /// second time, which must change nothing.
    async fn record(&mut self, process: usize, entry: Entry, twice: bool) -> Checked {
        self.replay(process).await?;
        let is_ahead = self.is_ahead(&entry);
        self.watch.unmade.extend(self.with_unmade_claims(&entry));
        self.write_entry(&entry).await?;
        if self.facts == Facts::True {
            self.remember(&entry);
            self.facts_are_stored()?;
        }
        if twice && !is_ahead {
            let once = self.watch.before.clone();
            self.write_entry(&entry).await?;
            if self.watch.before != once {
                return Err(format!("repeating the entry changed {}", self.watch.before.against(&once)));
            }
        }
        self.journal.push((process, entry));
        Ok(())
    }

    /// Whether writing the entry twice may have a different result from writing it once. Both cases need impossible
    /// facts. An outcome of a claim that was never made is applied or not, depending on how other outcomes of the same
    /// call moved the row. A fact that names no claim is about the row's last claim, and other facts of the same call
    /// may give the row a later one.
    fn is_ahead(&self, entry: &Entry) -> bool {
        let is_ahead = match entry {
            Entry::Claimed { .. } => false,
            Entry::Settled { .. } => !self.with_unmade_claims(entry).is_empty(),
            Entry::Facts(facts) => facts.iter().any(|fact| fact.claim.is_none()),
        };
        self.facts == Facts::Any && is_ahead
    }

    /// The rows of which the entry names a claim that was never made.
    fn with_unmade_claims(&self, entry: &Entry) -> Vec<u16> {
        let is_unmade = |(row, claim): &(u16, u32)| *claim > self.model.rows.get(row).map_or(0, |row| row.claims);
        let claims: Vec<(u16, u32)> = match entry {
            Entry::Claimed { .. } => Vec::new(),
            Entry::Settled { outcomes, .. } => outcomes.iter().map(|(row, claim, _)| (*row, *claim)).collect(),
            Entry::Facts(facts) => facts.iter().filter_map(|fact| Some((fact.row, fact.claim?))).collect(),
        };
        claims.into_iter().filter(is_unmade).map(|(row, _)| row).collect()
    }

    fn remember(&mut self, entry: &Entry) {
        match entry {
            Entry::Claimed { .. } => {}
            Entry::Settled { outcomes, .. } => {
                for (row, claim, settled) in outcomes {
                    if matches!(settled, Settled::Accepted(_) | Settled::Held(_)) {
                        self.watch.reported(*row, *claim, Some(State::Accepted));
                    }
                }
            }
            Entry::Facts(facts) => {
                for fact in facts {
                    let state = match fact.news {
                        News::Sent => Some(State::Sent),
                        News::Delivered => Some(State::Delivered),
                        News::Read => Some(State::Read),
                        News::Failed(_) => Some(State::Failed),
                        News::Returned(_) | News::Withheld(_) => None,
                        News::Replied => continue,
                    };
                    self.watch.reported(fact.row, fact.claim.expect("a true fact names its claim"), state);
                }
            }
        }
    }

    fn facts_are_stored(&self) -> Checked {
        if self.must_replay() {
            return Ok(());
        }
        self.watch.retried_rows_count_as_sent()?;
        self.watch.facts_are_stored()
    }

    /// Writes an entry to Redis and to the model, even if they have it already.
    async fn write_entry(&mut self, entry: &Entry) -> Checked {
        let mut lowering = Lowering::default();
        match entry {
            Entry::Claimed { epoch, now, until, rows } => {
                let mut distinguishable = self.distinguishable();
                let rows: Vec<(u16, u32)> =
                    rows.iter().copied().filter(|(row, claim)| distinguishable(*row, Some(*claim))).collect();
                let actual = self.real.claimed_before(*epoch, *now, *until, &rows).await;
                let expected = self.model.claimed_before(*epoch, *until, &rows);
                let what = format!("claimed in epoch {epoch}: {rows:?}");
                lowering.claims = rows;
                self.compare(&what, &actual, &debug_text(&expected), lowering).await
            }
            Entry::Settled { epoch, now, outcomes } => {
                let mut distinguishable = self.distinguishable();
                let mut outcomes = outcomes.clone();
                outcomes.retain(|(row, claim, _)| distinguishable(*row, Some(*claim)));
                let negative = |settled: &Settled| {
                    use Settled::{Back, Retry, Skipped, Withheld};
                    matches!(settled, Retry { .. } | Withheld { .. } | Back { .. } | Skipped { .. })
                };
                let negatives = outcomes.iter().filter(|(.., settled)| negative(settled));
                lowering.negative = negatives.map(|(row, claim, _)| (*row, *claim)).collect();
                lowering.claims = outcomes.iter().map(|(row, claim, _)| (*row, *claim)).collect();
                self.figures.facts += outcomes.len() as u64;
                let actual = self.real.settle(*epoch, *now, &outcomes).await;
                let expected = self.model.settle(*epoch, *now, &outcomes);
                self.compare(
                    &format!("settle in epoch {epoch}: {outcomes:?}"),
                    &actual,
                    &debug_text(&expected),
                    lowering,
                )
                .await
            }
            Entry::Facts(facts) => {
                let mut distinguishable = self.distinguishable();
                let mut facts = facts.clone();
                facts.retain(|fact| distinguishable(fact.row, fact.claim));
                if facts.is_empty() {
                    return Ok(());
                }
                self.figures.facts += facts.len() as u64;
                let last = |row: u16| self.model.rows.get(&row).map(|row| row.claims);
                let about =
                    || facts.iter().filter_map(|fact| Some((fact.row, fact.claim.or(last(fact.row))?, fact.news)));
                lowering.claims = about().map(|(row, claim, _)| (row, claim)).collect();
                let returned = about().filter(|(.., news)| matches!(news, News::Returned(_) | News::Withheld(_)));
                lowering.returned = returned.map(|(row, claim, _)| (row, claim)).collect();
                let (actual, expected) = (self.real.apply(&facts).await, self.model.apply(&facts));
                self.figures.reopened += expected.0.iter().filter(|it| **it == Applied::Reopened).count() as u64;
                self.compare(&format!("apply {facts:?}"), &actual, &debug_text(&expected), lowering).await
            }
        }
    }

    /// Returns a filter over the facts of one call, to be called in their order: whether the stored claim number
    /// (one byte) distinguishes the claim from the row's other claims, including those of earlier facts.
    fn distinguishable(&self) -> impl FnMut(u16, Option<u32>) -> bool + use<> {
        let known = self.model.rows.iter().map(|(row, known)| (*row, (known.claims, known.claims)));
        let mut known: HashMap<u16, (u32, u32)> = known.collect();
        move |row, claim| {
            let Some((least, most)) = known.get_mut(&row) else { return true };
            let claim = claim.unwrap_or(*most);
            let is_distinguishable = claim <= *least + CLAIM_DISTANCE_MAX && claim + CLAIM_DISTANCE_MAX >= *most;
            if is_distinguishable {
                *most = claim.max(*most);
            }
            is_distinguishable
        }
    }

    async fn end_doubts(&mut self) -> Checked {
        self.replay(self.worker(self.epoch)).await?;
        let attempts_max = self.history.resends;
        let actual = self.real.end_doubts(self.now, attempts_max).await;
        let expected = self.model.end_doubts(self.now, attempts_max);
        let lowering = Lowering { resends: attempts_max > 0, ..Lowering::default() };
        self.compare("end doubts", &actual, &debug_text(&expected), lowering).await
    }

    async fn follow(&mut self, gate: Gate, newer: bool) -> Checked {
        if newer {
            self.version += 1;
        }
        let version = if newer { self.version } else { self.version.saturating_sub(1) };
        self.set_gate(version, gate).await
    }

    async fn set_gate(&mut self, version: u64, gate: Gate) -> Checked {
        let expires = self.history.expires.map(|ms| UnixMs(BEGINNING.0 + ms));
        let actual = self.real.follow(version, gate, expires).await;
        let expected = self.model.follow(version, gate, expires);
        self.compare(
            &format!("gate {gate:?} of version {version}"),
            &actual,
            &debug_text(&expected),
            Lowering::default(),
        )
        .await
    }

    fn has_completed(&self) -> bool {
        self.model.gate == Gate::Completed && self.retrying.is_none()
    }

    /// The gate follows a change of the campaign. A retry is finished first, unless the campaign is cancelled.
    async fn follow_change(&mut self, gate: Gate, newer: bool) -> Checked {
        if newer && gate == Gate::Cancelled {
            self.retrying = None;
        }
        if newer && self.retrying.is_some() {
            if self.must_replay() {
                return Ok(());
            }
            self.reopen(usize::MAX).await?;
        }
        self.follow(gate, newer).await
    }

    /// Begins a retry of a completed campaign, or continues the one that is not finished, with this many calls.
    async fn retry(&mut self, states: &[RetriedState], any_code: bool, calls: usize) -> Checked {
        if self.must_replay() || self.model.forgotten {
            return Ok(());
        }
        if self.has_completed() {
            self.version += 2;
            let codes = REASONS.iter().filter(|_| !any_code).take(1).filter_map(|reason| reason.code()).collect();
            let retry = CampaignRetry { states: states.iter().copied().collect(), codes, external_id: None };
            self.retrying = Some((self.version, retry));
        }
        self.reopen(calls).await
    }

    async fn reopen(&mut self, calls: usize) -> Checked {
        let Some((version, retry)) = self.retrying.clone() else { return Ok(()) };
        self.set_gate(version - 1, Gate::Held).await?;
        let states: Vec<State> = State::ALL.into_iter().filter(|state| is_retried(*state, &retry)).collect();
        let codes: Vec<FailureReason> = retry.codes.iter().map(|code| FailureReason::Meta(*code)).collect();
        for _ in 0..calls {
            let before = self.model.rows.clone();
            let actual = self.real.reopen(version - 1, &retry, self.now, REOPENED_AT_ONCE).await;
            let expected = self.model.reopen(version - 1, &states, &codes, REOPENED_AT_ONCE);
            let lowering = Lowering { retries: true, ..Lowering::default() };
            self.compare(&format!("reopen {retry:?}"), &actual, &debug_text(&expected), lowering).await?;
            for (row, it) in self.model.rows.iter().filter(|(row, it)| it.state != before[row].state) {
                self.watch.retried(*row, it.claims);
                self.figures.retried += 1;
            }
            if !expected.0 {
                // Rows can be claimed once it is durable that they were reopened.
                self.synced().await?;
                self.retrying = None;
                return self.set_gate(version, Gate::Open).await;
            }
        }
        Ok(())
    }

    async fn sweep(&mut self, to: State) -> Checked {
        let actual = self.real.sweep(to, self.now).await;
        let expected = self.model.sweep(to, self.now).map_or(refused(), |open| debug_text(&open));
        self.compare(&format!("sweep {to:?}"), &actual, &expected, Lowering::default()).await
    }

    async fn erase(&mut self, n: usize) -> Checked {
        self.replay(self.worker(self.epoch)).await?;
        let row = self.history.first_row + (n as u64 % self.model.len.max(1)) as u16;
        let (actual, expected) = (self.real.erase(row, self.now).await, self.model.erase(row));
        self.compare(
            &format!("forget the recipient of row {row}"),
            &actual,
            &debug_text(&expected),
            Lowering::default(),
        )
        .await
    }

    async fn forget_recipients(&mut self) -> Checked {
        let has_ended = matches!(self.model.gate, Gate::Completed | Gate::Cancelled) && self.model.open() == 0;
        if !has_ended || self.must_replay() || self.retrying.is_some() {
            return Ok(());
        }
        self.real.forget_recipients().await.map_err(failed)?;
        self.model.forget();
        self.watch.recipients_forgotten = true;
        self.compare("forget the recipients", "", "", Lowering::default()).await
    }

    async fn synced(&mut self) -> Checked {
        let dump = self.real.dump().await.map_err(failed)?;
        // What Redis lost earlier and no process has replayed yet is not on disk either.
        let journal_len = self.replay_from.iter().flatten().copied().min().unwrap_or(self.journal.len());
        self.disk = Disk {
            dump,
            model: self.model.clone(),
            journal_len,
            taken_over_early: self.taken_over_early && self.must_replay(),
            retries: self.watch.retries_in_redis.clone(),
        };
        Ok(())
    }

    async fn forget(&mut self, before: usize) -> Checked {
        let far = |(row, known): (&u16, &Row)| known.claims > self.disk.model.rows[row].claims + CLAIM_DISTANCE_MAX;
        if self.model.rows.iter().any(far) {
            return Ok(());
        }
        self.real.restore(&self.disk.dump).await.map_err(failed)?;
        self.model = self.disk.model.clone();
        self.watch.recipients_forgotten = self.model.forgotten;
        self.watch.retries_in_redis = self.disk.retries.clone();
        self.taken_over_early |= self.disk.taken_over_early;
        self.replay_from = [Some(self.disk.journal_len.saturating_sub(before)); PROCESSES];
        self.figures.forgotten += 1;
        let view = self.real.view().await.map_err(failed)?;
        self.watch.before = view.clone();
        self.agree(&view)
    }

    /// A process replays its journal before it sends any other command to a Redis that may have lost writes.
    async fn replay(&mut self, process: usize) -> Checked {
        let Some(from) = self.replay_from[process].take() else { return Ok(()) };
        let entries: Vec<Entry> =
            self.journal[from..].iter().filter(|(by, _)| *by == process).map(|(_, entry)| entry.clone()).collect();
        self.trace.push(format!("   process {process} replays {} entries", entries.len()));
        for entry in entries {
            self.write_entry(&entry).await?;
        }
        self.facts_are_stored()
    }

    /// Runs only what is due, until every row is in a final state.
    async fn end(&mut self) -> Checked {
        self.ending = true;
        for process in 0..PROCESSES {
            self.replay(process).await?;
        }
        Box::pin(self.reopen(usize::MAX)).await?;
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
            self.record(self.worker(self.epoch), entry, false).await?;
            self.now.0 += DAY_MS;
            self.end_doubts().await?;
        }
        if let Some((row, state, _)) = self.watch.before.states().find(|(_, state, _)| state.is_open()) {
            return Err(format!("row {row} stays {state:?}"));
        }
        let wamids: Vec<Wamid> = self.model.ids.iter().map(|(wamid, _)| wamid.clone()).collect();
        let found = self.real.find(&wamids).await.map_err(failed)?;
        let expected: Vec<_> = wamids.iter().map(|wamid| self.model.find(wamid)).collect();
        same(&debug_text(&found), &debug_text(&expected))?;
        // Without the rows of erased recipients: `Real::erase` leaves the ids that were stored before.
        let is_stored = |message: &ClaimedRow| !self.model.erased.contains(&message.row);
        let messages: Vec<_> = self.model.ids.iter().map(|(_, message)| *message).filter(is_stored).collect();
        let whole = self.real.whole_ids(&messages).await.map_err(failed)?;
        let expected: Vec<_> = messages.iter().map(|message| self.model.whole_id(*message)).collect();
        same(&debug_text(&whole), &debug_text(&expected))
    }

    /// Compares a response, and the state that the call left in Redis.
    async fn compare(&mut self, what: &str, actual: &str, expected: &str, lowering: Lowering) -> Checked {
        self.trace.push(format!("   {what}\n   = {actual}"));
        same(actual, expected)?;
        let view = self.real.view().await.map_err(failed)?;
        self.agree(&view)?;
        self.figures.held += u64::from(!view.held.is_empty());
        if self.model.forgotten && self.real.traces().await.map_err(failed)? > 0 {
            return Err("data of forgotten recipients remains".to_owned());
        }
        let resent = self.watch.look(view, &lowering)?;
        self.figures.resent += resent;
        Ok(())
    }

    fn agree(&self, view: &View) -> Checked {
        let expected = View::of(&self.model);
        if *view == expected {
            Ok(())
        } else {
            Err(format!("Redis and the model differ in {}", view.against(&expected)))
        }
    }
}

/// Whether a retry reopens rows in this state.
fn is_retried(state: State, retry: &CampaignRetry) -> bool {
    match state {
        State::Failed | State::Refused => retry.states.contains(&RetriedState::Failed),
        State::Unknown => retry.states.contains(&RetriedState::Unknown),
        _ => false,
    }
}

/// Meta's message id for the message of a claim.
fn wamid(row: u16, claim: u32) -> Wamid {
    Wamid::from(format!("wamid.{row}.{claim}").as_str())
}

/// The `n`th item, modulo their number.
fn nth<T>(all: impl Iterator<Item = T>, n: usize) -> Option<T> {
    let mut all: Vec<T> = all.collect();
    if all.is_empty() { None } else { Some(all.swap_remove(n % all.len())) }
}
