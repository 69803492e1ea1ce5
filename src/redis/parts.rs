//! Parts in Redis: claims rows, settles attempts, applies Meta's statuses, and reads parts for statistics and reports.
//!
//! Each lease of a line has an epoch, a number that rises when another worker takes the line over. If a worker dies
//! with claimed rows, they stay in flight until the first claim of a newer epoch puts them in doubt.

mod packed;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use deadpool_redis::redis::{Pipeline, Value, cmd};

use self::packed::{PackedFacts, PackedOutcomes, pack_claims, pack_facts, pack_outcomes, read_claim, time};
use super::{
    Call, Result, Store, StoreError,
    history::{StateTimes, changes, note},
    lines::ms,
    phone_index::{self, IndexedBy},
    script,
    stored::{number_of, reason_of},
    untold::Untold,
    wamids::BLOCK_ROWS,
};
use crate::domain::{
    Applied, CampaignId, ClaimedRow, Fact, FailureReason, News, PartId, Phone, RowReason, Settled, SkipReason, State,
    UnixMs, policy,
};
use crate::telemetry::metrics::{self, DoubtEnd};

/// Maximum number of rows in a part: a row fits 16 bits.
pub const PART_ROWS: usize = 65_536;

/// Maximum number of facts in one call of `status.lua`, limited by the number of values that Lua can return.
const FACTS_MAX: usize = 1_000;
/// How long a campaign waits for messages that Meta keeps back, from the last such message. Meta aims to decide within
/// an hour, so after a day the webhooks are considered lost.
const HELD_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// Parts whose counters are read in one round trip.
const COUNTED_AT_ONCE: usize = 4_096;

/// The arguments of a claim.
#[derive(Clone, Copy, Debug)]
pub struct ClaimRequest {
    /// The epoch of the caller's lease on the line.
    pub epoch: u64,
    /// Rises with each claim of an epoch. A claim that reaches Redis after a later one claims nothing.
    pub number: u64,
    /// The caller's time.
    pub now: UnixMs,
    /// Maximum number of rows. With 0 nothing is claimed, but the part is taken over.
    pub limit: usize,
    /// The deadline of the doubt in which the script puts rows that an older epoch left in flight.
    pub doubt_until: UnixMs,
    /// The number of an earlier claim of the epoch that got no response. The script returns its rows.
    pub unanswered: Option<u64>,
    /// Whether another worker may still have to replay writes that Redis lost. If so, the part is not taken over.
    pub in_grace_period: bool,
}

/// A row to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToSend {
    /// The row, which is now in flight.
    pub claimed: ClaimedRow,
    /// The number of this attempt, from 1, without the attempts that did not count.
    pub attempt: u8,
}

/// The result of a claim.
#[derive(Debug)]
pub enum Claim {
    /// Rows to send, and what is left in the part.
    Rows {
        /// The rows, maybe none: due retries first, then fresh rows in their order.
        rows: Vec<ToSend>,
        /// When the next retry is due.
        next_due: Option<UnixMs>,
        /// When the next doubt ends.
        next_doubt: Option<UnixMs>,
        /// Rows that were never claimed, including rows without a recipient.
        fresh: u64,
        /// Recipients pending, retrying, in flight or in doubt.
        open: u64,
        /// The rows of the unanswered claim.
        lost: Vec<ToSend>,
        /// Rises when recipients of the part are erased. Chunks that were read before still have their numbers.
        erased: u64,
    },
    /// The campaign is not running.
    Held {
        /// When the next doubt ends.
        next_doubt: Option<UnixMs>,
        /// Recipients pending, retrying, in flight or in doubt.
        open: u64,
        /// The rows of the unanswered claim.
        lost: Vec<ToSend>,
    },
    /// The campaign's `expires_at` has passed.
    Expired {
        /// The rows of the unanswered claim.
        lost: Vec<ToSend>,
    },
    /// A later claim reached Redis first, so this one claimed nothing.
    Late,
    /// The claim would take the part over, which the grace period forbids.
    InGracePeriod,
    /// A newer epoch has the part.
    Fenced {
        /// The newer epoch.
        epoch: u64,
        /// The rows of the unanswered claim.
        lost: Vec<ToSend>,
    },
}

/// A part after outcomes were settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SettledPart {
    /// The part.
    pub part: PartId,
    /// Recipients pending, retrying, in flight or in doubt.
    pub open: u64,
}

/// A part after facts were applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppliedFacts {
    /// The result of each fact.
    pub applied: Vec<Applied>,
    /// Recipients pending, retrying, in flight or in doubt.
    pub open: u64,
}

/// A part after doubts ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoubtsEnded {
    /// When the next doubt ends.
    pub next: Option<UnixMs>,
    /// Recipients pending, retrying, in flight or in doubt.
    pub open: u64,
}

/// The counters of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartCounts {
    /// Recipients by state.
    pub by_state: HashMap<State, u64>,
    /// All recipients.
    pub recipients: u64,
    /// Failed recipients by reason.
    pub failures: HashMap<FailureReason, u64>,
    /// Skipped recipients by reason.
    pub skips: HashMap<SkipReason, u64>,
    /// The newest error text by reason.
    pub details: HashMap<FailureReason, String>,
    /// Recipients that replied.
    pub replied: u64,
    /// Accepted recipients whose message Meta keeps back for a quality assessment.
    pub held: u64,
    /// Acceptances by Unix second. A second replaces an earlier one that is equal modulo ten, so there are at most ten.
    pub accepted_by_second: HashMap<u64, u64>,
    /// The epoch of the last claim; 0 before the first one.
    pub epoch: u64,
}

/// All data of the rows of a part except the recipients.
#[derive(Debug, Default)]
pub struct PartRows {
    /// One state byte per row.
    pub states: Vec<u8>,
    /// The reason by row, for rows that are returned, retrying, in doubt, failed, refused or skipped.
    pub why: HashMap<u16, RowReason>,
    /// Attempts that counted before the last claim, by row, for rows that were retried.
    pub tries: HashMap<u16, u8>,
    /// When each row entered its states.
    pub times: Vec<StateTimes>,
    /// The first rows of the part's chunks, in order.
    pub chunks: Vec<u16>,
}

/// A phone number that is looked up in a campaign.
#[derive(Clone, Copy, Debug)]
pub struct PhoneQuery {
    /// The campaign.
    pub campaign: CampaignId,
    /// The number of buckets of the campaign's phone index.
    pub buckets: u32,
    /// Whether that index has an entry for each number or for each person.
    pub indexed_by: IndexedBy,
    /// The number.
    pub phone: Phone,
}

impl Store {
    /// The keys common to the scripts that change states of recipients, followed by `more`.
    fn part_keys<const N: usize>(&self, part: PartId, more: [String; N]) -> Vec<String> {
        let keys = &self.keys;
        let mut all = vec![keys.part(part), keys.states(part), keys.history(part), keys.sends(part)];
        all.extend([keys.retry(part), keys.doubt(part)]);
        all.extend(more);
        all
    }

    /// Claims rows of a part for sending.
    ///
    /// Errors: after `OutcomeUnknown` rows may be in flight that the caller does not know of. Its next claim asks for
    /// them by `unanswered`, and the caller gives them back.
    pub async fn claim(&self, part: PartId, request: &ClaimRequest) -> Result<Claim> {
        let incarnation = self.incarnations.newest();
        let [tries, codes, before] = [self.keys.tries(part), self.keys.error_codes(part), self.keys.before(part)];
        let call = Call::new(&script::CLAIM, &self.part_keys(part, [tries, codes, before]))
            .arg(request.epoch)
            .arg(request.now.0)
            .arg(request.limit)
            .arg(request.doubt_until.0)
            .arg(request.number)
            // Numbers of claims begin at 1, and 0 means none.
            .arg(request.unanswered.unwrap_or(0))
            .arg(u8::from(request.in_grace_period));
        let answer: Vec<Value> = self.call(call).await?;
        let claim = read_claim(answer)
            .ok_or_else(|| StoreError::Refused { operation: "claim", message: "unexpected answer".into() })?;
        if let Claim::Rows { rows, .. } = &claim
            && !rows.is_empty()
        {
            let packed = pack_claims(rows, request.doubt_until);
            // A claim stores no ids, so their lifetime is not used.
            let call = self.settle_call(part, request.epoch, request.now, Duration::ZERO, packed);
            self.incarnations.record(incarnation, [call.into_journal_entry()])?;
        }
        Ok(claim)
    }

    fn settle_call(
        &self,
        part: PartId,
        epoch: u64,
        now: UnixMs,
        id_retention: Duration,
        packed: PackedOutcomes,
    ) -> Call {
        let [codes, ids] = [self.keys.error_codes(part), self.keys.ids(part)];
        let [tries, wamids, held] = [self.keys.tries(part), self.keys.wamids(part), self.keys.held(part)];
        let [skips, withheld, before] = [self.keys.skips(part), self.keys.withheld(part), self.keys.before(part)];
        let keys = self.part_keys(part, [codes, ids, tries, wamids, held, skips, withheld, before]);
        let call = Call::new(&script::SETTLE, &keys).arg(now.0).arg(ms(id_retention)).arg(epoch);
        let call = call.arg(packed.accepted).arg(packed.entries).arg(packed.others).arg(packed.runs);
        let call = call.arg(packed.claims).arg(packed.doubt_until.map_or(0, |until| until.0)).arg(packed.held);
        packed.wamids.blocks().fold(call, |call, (block, ids)| call.arg(block).arg(ids))
    }

    /// Stores the outcomes of attempts, in one round trip.
    ///
    /// An outcome of an older epoch can reopen a row after the newer owner removed the row's part from the work of the
    /// line. The part is then added to the work again before this returns.
    ///
    /// `epoch`: the epoch of the claims; `id_retention`: how long message ids can be looked up.
    pub async fn settle(
        &self,
        outcomes: &BTreeMap<PartId, Vec<(ClaimedRow, Settled)>>,
        epoch: u64,
        now: UnixMs,
        id_retention: Duration,
    ) -> Result<Vec<SettledPart>> {
        let calls = outcomes
            .iter()
            .map(|(&part, outcomes)| self.settle_call(part, epoch, now, id_retention, pack_outcomes(outcomes, now)));
        let changed = outcomes.keys().map(|&part| Untold::Part(part));
        let settled = self.call_journaled_noting::<(u64, u8, u8)>(calls.collect(), changed).await?;
        let settled: Vec<(u64, u8, u8)> = settled.into_iter().collect::<Result<_>>()?;
        let parts = || outcomes.keys().copied().zip(&settled);
        let unlisted: Vec<PartId> =
            parts().filter(|(_, (_, unlisted, _))| *unlisted == 1).map(|(part, _)| part).collect();
        self.requeue(&unlisted).await?;
        let unindexed = parts().filter(|(_, (_, _, unindexed))| *unindexed == 1).map(|(part, _)| part.campaign);
        self.mark_unindexed(unindexed.collect::<Vec<_>>()).await?;
        Ok(parts().map(|(part, &(open, ..))| SettledPart { part, open }).collect())
    }

    /// Stores the newest error text for a reason of a part, unless its campaign was deleted.
    pub async fn note_details(&self, part: PartId, reason: FailureReason, details: &str) -> Result<()> {
        let field = format!("e{}", number_of(reason));
        let call = Call::new(&script::NOTE_DETAILS, &[self.keys.part(part)]).arg(field).arg(details);
        self.call::<u8>(call).await.map(drop)
    }

    /// Applies facts to parts, in one round trip. Returns the results by part.
    ///
    /// Parts with reopened rows are added to the work of their lines again before this returns.
    ///
    /// `id_retention`: how long message ids that came with a fact can be looked up.
    pub async fn apply(&self, batches: &[(PartId, Vec<Fact>)], id_retention: Duration) -> Result<Vec<AppliedFacts>> {
        let mut calls = Vec::new();
        for (part, facts) in batches {
            let [why, replied] = [self.keys.error_codes(*part), self.keys.replied(*part)];
            let [ids, tries, wamids] = [self.keys.ids(*part), self.keys.tries(*part), self.keys.wamids(*part)];
            let [held, skips, withheld] = [self.keys.held(*part), self.keys.skips(*part), self.keys.withheld(*part)];
            let before = self.keys.before(*part);
            let keys = self.part_keys(*part, [why, replied, ids, tries, wamids, held, skips, withheld, before]);
            for facts in facts.chunks(FACTS_MAX) {
                let PackedFacts { facts, ids } = pack_facts(facts);
                let call = Call::new(&script::STATUS, &keys).arg(ms(id_retention));
                calls.push(call.arg(facts).arg(ids).arg(BLOCK_ROWS).arg(ms(policy::WITHHELD_FOR)));
            }
        }
        let changed = batches.iter().map(|(part, _)| Untold::Part(*part));
        let mut answers = self.call_journaled_noting::<Vec<u64>>(calls, changed).await?.into_iter();
        let mut results = Vec::with_capacity(batches.len());
        let mut unindexed = Vec::new();
        for (part, facts) in batches {
            let (mut applied, mut open) = (Vec::with_capacity(facts.len()), 0);
            for _ in facts.chunks(FACTS_MAX) {
                let answer =
                    answers.next().unwrap_or_else(|| Err(StoreError::OutcomeUnknown("no answer to status".into())))?;
                open = answer.get(1).copied().unwrap_or(0);
                unindexed.extend((answer.get(2) == Some(&1)).then_some(part.campaign));
                applied.extend(answer.iter().skip(3).map(|&code| match code {
                    1 => Applied::Moved,
                    2 => Applied::Stale,
                    3 => Applied::Reopened,
                    _ => Applied::Repeated,
                }));
            }
            results.push(AppliedFacts { applied, open });
        }
        let reopened = batches.iter().zip(&results).filter(|((_, facts), result)| {
            // Selected by the fact, not by its result: an earlier call whose response was lost may have reopened the
            // row.
            result.open > 0 && facts.iter().any(|fact| matches!(fact.news, News::Returned(_) | News::Withheld(_)))
        });
        self.requeue(&reopened.map(|((part, _), _)| *part).collect::<Vec<_>>()).await?;
        self.mark_unindexed(unindexed).await?;
        Ok(results)
    }

    /// Ends the doubts of a part whose deadline has passed. A row with fewer than `attempts_max` attempts is retried,
    /// any other becomes unknown.
    pub async fn end_doubts(&self, part: PartId, now: UnixMs, attempts_max: u8) -> Result<DoubtsEnded> {
        let [codes, tries, before] = [self.keys.error_codes(part), self.keys.tries(part), self.keys.before(part)];
        let keys = self.part_keys(part, [codes, tries, before]);
        let call = Call::new(&script::DOUBTS, &keys).arg(now.0).arg(FACTS_MAX).arg(attempts_max);
        let (next, open, unknown, retried): (i64, u64, u64, u64) = self.call_noting(call, Untold::Part(part)).await?;
        metrics::doubts_ended(DoubtEnd::Unknown, unknown);
        metrics::doubts_ended(DoubtEnd::Retried, retried);
        Ok(DoubtsEnded { next: time(next), open })
    }

    /// The counters of parts, in one round trip.
    pub async fn part_counts(&self, parts: &[PartId]) -> Result<Vec<PartCounts>> {
        let mut pipeline = Pipeline::new();
        for &part in parts {
            pipeline.hgetall(self.keys.part(part));
        }
        let hashes: Vec<HashMap<String, Vec<u8>>> = self.query_all("HGETALL part", &pipeline).await?;
        Ok(hashes.iter().map(read_counts).collect())
    }

    /// The number of open recipients of parts, by state.
    pub async fn open_counts(&self, parts: &[PartId]) -> Result<Vec<Vec<(State, u64)>>> {
        let open: Vec<State> = State::ALL.into_iter().filter(|state| state.is_open()).collect();
        self.counts_of(parts, &open).await
    }

    /// The number of recipients of parts in each of `states`.
    pub async fn counts_of(&self, parts: &[PartId], states: &[State]) -> Result<Vec<Vec<(State, u64)>>> {
        let fields: Vec<&str> = states.iter().copied().map(script::counter).collect();
        let count = |n: Option<i64>| n.unwrap_or(0).max(0).unsigned_abs();
        let mut all = Vec::with_capacity(parts.len());
        for parts in parts.chunks(COUNTED_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(parts.len());
            for &part in parts {
                pipeline.cmd("HMGET").arg(self.keys.part(part)).arg(&fields);
            }
            let counts: Vec<Vec<Option<i64>>> = self.query_all("HMGET part", &pipeline).await?;
            let by_state =
                |counts: Vec<Option<i64>>| states.iter().copied().zip(counts.into_iter().map(count)).collect();
            all.extend(counts.into_iter().map(by_state));
        }
        Ok(all)
    }

    /// Whether a campaign with these parts is unfinished: a recipient is open, or Meta keeps back a message, which it
    /// may return.
    pub async fn has_unfinished(&self, parts: &[PartId], now: UnixMs) -> Result<bool> {
        let mut fields: Vec<&str> =
            State::ALL.into_iter().filter(|state| state.is_open()).map(script::counter).collect();
        let n_open = fields.len();
        fields.extend([script::counter(State::Accepted), "held", "held_at"]);
        let mut pipeline = Pipeline::with_capacity(parts.len());
        for &part in parts {
            pipeline.cmd("HMGET").arg(self.keys.part(part)).arg(&fields);
        }
        let counts: Vec<Vec<Option<i64>>> = self.query_all("HMGET part", &pipeline).await?;
        let is_unfinished = |counts: &Vec<Option<i64>>| {
            let count = |n: usize| counts.get(n).copied().flatten().unwrap_or(0);
            let (held, held_at) =
                (count(n_open).min(count(n_open + 1)), UnixMs(count(n_open + 2).max(0).unsigned_abs()));
            (0..n_open).any(|n| count(n) > 0) || held > 0 && now.since(held_at) < HELD_MAX
        };
        Ok(counts.iter().any(is_unfinished))
    }

    /// When Meta last accepted a message of those parts that have an accepted message without a later status; `None` if
    /// there are no such parts.
    pub async fn last_acceptance(&self, parts: &[PartId]) -> Result<Option<UnixMs>> {
        let counts = self.part_counts(parts).await?;
        let waiting = counts.iter().filter(|counts| counts.by_state[&State::Accepted] > 0);
        Ok(waiting.flat_map(|counts| counts.accepted_by_second.keys()).max().map(|second| UnixMs(second * 1_000)))
    }

    /// Whether Meta accepted and keeps back the message of each send; false for `None`.
    pub async fn are_held(&self, sends: &[Option<(PartId, ClaimedRow)>]) -> Result<Vec<bool>> {
        let mut pipeline = Pipeline::new();
        for &(part, ClaimedRow { row, .. }) in sends.iter().flatten() {
            pipeline.cmd("GETBIT").arg(self.keys.held(part)).arg(row);
            pipeline.cmd("GETRANGE").arg(self.keys.states(part)).arg(row).arg(row);
        }
        if pipeline.is_empty() {
            return Ok(vec![false; sends.len()]);
        }
        let values: Vec<Value> = self.query_all("GETBIT held", &pipeline).await?;
        let mut values = values.as_chunks().0.iter();
        let mut is_held = |ClaimedRow { send, .. }: ClaimedRow| {
            let Some([Value::Int(bit), Value::BulkString(byte)]) = values.next() else { return false };
            let last_send = byte.first().map_or(0, |byte| State::send_of(*byte));
            *bit == 1 && (send == 0 || send.min(State::SEND_OVERFLOW) == last_send)
        };
        Ok(sends.iter().map(|send| send.is_some_and(|(_, claimed)| is_held(claimed))).collect())
    }

    /// The rows of a part whose message Meta keeps back, in order.
    pub async fn held_rows(&self, part: PartId) -> Result<Vec<u16>> {
        self.marked_rows(self.keys.held(part)).await
    }

    /// The rows of a part whose message Meta withheld once, in order.
    pub async fn withheld_rows(&self, part: PartId) -> Result<Vec<u16>> {
        self.marked_rows(self.keys.withheld(part)).await
    }

    async fn marked_rows(&self, bitmap: String) -> Result<Vec<u16>> {
        let bytes: Vec<u8> = self.query("GET bitmap", cmd("GET").arg(bitmap)).await?;
        let is_set = |row: &u16| bytes.get(usize::from(row / 8)).is_some_and(|byte| byte & (0x80 >> (row % 8)) != 0);
        Ok((0..=u16::MAX).take(8 * bytes.len()).filter(is_set).collect())
    }

    /// The state bytes of a part.
    pub async fn state_bytes(&self, part: PartId) -> Result<Vec<u8>> {
        self.query("GET states", cmd("GET").arg(self.keys.states(part))).await
    }

    /// For each row of a part up to the last skipped one, the reason for which it is skipped, if it is.
    pub async fn skips(&self, part: PartId) -> Result<Vec<Option<SkipReason>>> {
        let bytes: Vec<u8> = self.query("GET skips", cmd("GET").arg(self.keys.skips(part))).await?;
        Ok(bytes.into_iter().map(SkipReason::of).collect())
    }

    /// The first rows of the chunks of a part, in order.
    pub async fn chunk_starts(&self, part: PartId) -> Result<Vec<u16>> {
        let mut starts: Vec<u16> = self.query("HKEYS chunks", cmd("HKEYS").arg(self.keys.chunks(part))).await?;
        starts.sort_unstable();
        Ok(starts)
    }

    /// All data of the rows of a part except the recipients, for reports.
    pub async fn part_rows(&self, part: PartId) -> Result<PartRows> {
        let states = self.state_bytes(part).await?;
        let why: HashMap<u16, u32> = self.query("HGETALL why", cmd("HGETALL").arg(self.keys.error_codes(part))).await?;
        let failures = why.into_iter().map(|(row, number)| (row, RowReason::Failure(reason_of(number))));
        let skips = self.skips(part).await?;
        let skips = (0..=u16::MAX).zip(skips).filter_map(|(row, skip)| Some((row, RowReason::Skip(skip?))));
        let why = failures.chain(skips).collect();
        let tries = self.query("HGETALL tries", cmd("HGETALL").arg(self.keys.tries(part))).await?;
        let history: Vec<Vec<u8>> =
            self.query("LRANGE history", cmd("LRANGE").arg(self.keys.history(part)).arg(0).arg(-1)).await?;
        let mut times = vec![StateTimes::default(); states.len()];
        for change in history.iter().flat_map(|entry| changes(entry)) {
            if let Some(row) = times.get_mut(usize::from(change.row)) {
                note(row, change);
            }
        }
        Ok(PartRows { states, why, tries, times, chunks: self.chunk_starts(part).await? })
    }

    /// Finds phone numbers in campaigns, in one round trip. Returns the part and row of each, in order.
    pub async fn find_phones(&self, queries: &[PhoneQuery]) -> Result<Vec<Option<(PartId, u16)>>> {
        let mut pipeline = Pipeline::with_capacity(queries.len());
        for &PhoneQuery { campaign, buckets, indexed_by, phone } in queries {
            let field = indexed_by.field(phone);
            let key = self.keys.phone_bucket(campaign, phone_index::bucket(field, buckets));
            pipeline.cmd("HGET").arg(key).arg(field.as_slice());
        }
        let locations: Vec<Option<u64>> = self.query_all("HGET number", &pipeline).await?;
        let place = |(query, location): (&PhoneQuery, Option<u64>)| {
            let location = location?;
            let part = PartId { campaign: query.campaign, number: (location >> 16) as u16 };
            Some((part, (location & 0xffff) as u16))
        };
        Ok(queries.iter().zip(locations).map(place).collect())
    }

    /// The states of rows, in one round trip; `None` for a row that does not exist.
    pub async fn states_of(&self, rows: &[(PartId, u16)]) -> Result<Vec<Option<State>>> {
        let mut pipeline = Pipeline::with_capacity(rows.len());
        for &(part, row) in rows {
            pipeline.cmd("GETRANGE").arg(self.keys.states(part)).arg(row).arg(row);
        }
        let bytes: Vec<Vec<u8>> = self.query_all("GETRANGE states", &pipeline).await?;
        Ok(bytes.into_iter().map(|bytes| State::of(*bytes.first()?)).collect())
    }
}

/// Reads the counters and error texts of a part's hash, of which some fields are not UTF-8.
fn read_counts(hash: &HashMap<String, Vec<u8>>) -> PartCounts {
    let mut counts = PartCounts::default();
    let number = |name: &str| {
        let n = hash.get(name).and_then(|text| str::from_utf8(text).ok()?.parse::<i64>().ok());
        n.map_or(0, |n| n.max(0).unsigned_abs())
    };
    for state in State::ALL {
        counts.by_state.insert(state, number(script::counter(state)));
    }
    counts.recipients = number("recipients");
    counts.replied = number("replied");
    counts.epoch = number("epoch");
    // A process of an older release does not lower the counter when it moves an accepted row, so the counter is capped.
    counts.held = number("held").min(counts.by_state[&State::Accepted]);
    for (field, text) in hash {
        let (kind, rest) = field.split_at(1);
        let (Ok(n), Ok(text)) = (rest.parse::<u32>(), str::from_utf8(text)) else { continue };
        match kind {
            "f" if number(field) > 0 => drop(counts.failures.insert(reason_of(n), number(field))),
            "k" if number(field) > 0 => {
                let reason = u8::try_from(n).ok().and_then(SkipReason::of);
                counts.skips.extend(reason.map(|reason| (reason, number(field))));
            }
            "e" => drop(counts.details.insert(reason_of(n), text.to_owned())),
            "r" => {
                let slot = text.split_once(':').and_then(|(second, n)| Some((second.parse().ok()?, n.parse().ok()?)));
                counts.accepted_by_second.extend::<Option<(u64, u64)>>(slot);
            }
            _ => {}
        }
    }
    counts
}
