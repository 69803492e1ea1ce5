//! Parts in Redis: claim, settle, apply; and reading them for people.
//!
//! If a worker dies with rows claimed, they stay in flight; the first claim of the next epoch puts them in doubt.

mod packed;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use deadpool_redis::redis::{Pipeline, Value, cmd};
use siphasher::sip::SipHasher24;

use self::packed::{PackedOutcomes, pack_claims, pack_facts, pack_outcomes, read_claim, time};
use super::{Call, Result, Store, StoreError, lines::ms, phone_index, script};
use crate::domain::{CampaignId, PartId, Phone, State, UnixMs, Wamid};

/// Rows in a part: a row fits 16 bits.
pub const PART_ROWS: usize = 65_536;

/// Facts in one call of `status.lua` at most: Lua can not return more values than its stack holds.
const FACTS_MAX: usize = 1_000;
/// Parts whose counters are read in one round trip.
const COUNTED_AT_ONCE: usize = 4_096;

/// A row that was claimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClaimedRow {
    /// The row in its part.
    pub row: u16,
    /// The number of this claim among those of the row, 1 to 255 and from 2 again. An outcome or a status names it, so that
    /// none is ever taken for one of another claim.
    pub send: u8,
}

/// What a claim asks for.
#[derive(Clone, Copy, Debug)]
pub struct ClaimWish {
    /// The epoch of the caller's lease on the line.
    pub epoch: u64,
    /// Rises with each claim of the epoch: one that was overtaken on its way claims nothing.
    pub number: u64,
    /// The time.
    pub now: UnixMs,
    /// Rows at most; with 0 it only looks, and takes the part over.
    pub limit: usize,
    /// The deadline for what an older epoch left in flight.
    pub doubt_until: UnixMs,
    /// An earlier claim of the epoch that went without an answer, 0 for none: to be told what it brought.
    pub unanswered: u64,
    /// Another worker may not yet have repeated what Redis forgot: nothing is taken over.
    pub in_grace_period: bool,
}

/// A row to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ToSend {
    /// The row, in flight from now on.
    pub claimed: ClaimedRow,
    /// Which attempt this is, from 1: those that did not count left out.
    pub attempt: u8,
}

/// What a claim brought.
#[derive(Debug)]
pub enum Claim {
    /// Rows to send, perhaps none, and what else the part has.
    Rows {
        /// Those that were due again first, then fresh ones in their order.
        rows: Vec<ToSend>,
        /// When the next retry is due.
        next_due: Option<UnixMs>,
        /// When the next doubt ends.
        next_doubt: Option<UnixMs>,
        /// Rows never claimed, some of which may hold no recipient.
        fresh: u64,
        /// Recipients pending, retrying, in flight or in doubt.
        open: u64,
        /// What the claim without an answer had brought.
        lost: Vec<ToSend>,
    },
    /// The campaign is not running.
    Held {
        /// When the next doubt ends.
        next_doubt: Option<UnixMs>,
        /// Recipients pending, retrying, in flight or in doubt.
        open: u64,
        /// What the claim without an answer had brought.
        lost: Vec<ToSend>,
    },
    /// Its `expires_at` has passed.
    Expired {
        /// What the claim without an answer had brought.
        lost: Vec<ToSend>,
    },
    /// A later claim overtook this one on its way: it claimed nothing.
    Late,
    /// It would take the part over, and it is too early for that.
    Young,
    /// A newer epoch owns the line.
    Fenced {
        /// That epoch.
        epoch: u64,
        /// What the claim without an answer had brought.
        lost: Vec<ToSend>,
    },
}

/// What an attempt ended in, as it is stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Settled {
    /// Meta took it.
    Accepted(Wamid),
    /// Certainly not sent; the attempt counts.
    Retry {
        /// When it is due again.
        at: UnixMs,
        /// Why.
        code: u32,
    },
    /// Certainly not sent; the attempt does not count.
    Back {
        /// When it may be claimed again.
        at: UnixMs,
    },
    /// Perhaps sent.
    InDoubt {
        /// When the doubt ends.
        until: UnixMs,
    },
    /// Meta refused it for good.
    Refused {
        /// Why.
        code: u32,
    },
}

/// What Meta said later of a recipient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fact {
    /// The row in its part.
    pub row: u16,
    /// The send it is about.
    pub send: u8,
    /// What it says.
    pub news: News,
    /// Meta's time of it.
    pub at: UnixMs,
    /// The message it is about, if it says that too: found again by this where Meta leaves out our token.
    pub message: Option<Fingerprint>,
}

/// What is kept of a message id: enough to find it again among all of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprint(pub(super) [u8; 8]);

impl Fingerprint {
    /// The fingerprint of Meta's message id.
    pub fn of(wamid: &str) -> Self {
        Self(SipHasher24::new().hash(wamid.as_bytes()).to_le_bytes())
    }
}

/// What a fact says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// On its way.
    Sent,
    /// On the phone.
    Delivered,
    /// Read.
    Read,
    /// It failed, with Meta's code.
    Failed(u32),
    /// It failed, with Meta's code, and neither the recipient nor the message is to blame but the account, line, token or template: the
    /// recipient is sent to again while the campaign runs or is paused, and failed if the campaign has ended.
    Returned(u32),
    /// The recipient answered.
    Replied,
}

/// What became of a fact.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// It moved the recipient.
    Moved,
    /// The recipient is pending or retrying again. The line's work lists its part before [`Store::apply`] returns.
    Reopened,
    /// It was known, or less than what is known.
    Known,
    /// It is about an earlier send, or about nobody.
    Stale,
}

/// The counters of a part.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartCounts {
    /// Recipients by state.
    pub by_state: HashMap<State, u64>,
    /// Recipients in all.
    pub recipients: u64,
    /// Failed recipients by Meta's code.
    pub failures: HashMap<u32, u64>,
    /// The newest words of Meta for a code.
    pub details: HashMap<u32, String>,
    /// Recipients that answered.
    pub replied: u64,
    /// Acceptances by second, for the last ten seconds in which there was one.
    pub accepted_by_second: HashMap<u64, u64>,
}

/// Everything there is about the rows of a part but who they are.
#[derive(Debug, Default)]
pub struct PartRows {
    /// A state byte for each row.
    pub states: Vec<u8>,
    /// Codes of those that are retrying or failed.
    pub why: HashMap<u16, u32>,
    /// Attempts that counted before the last claim, of those that were tried again.
    pub tries: HashMap<u16, u8>,
    /// For each row the time in seconds at which it came into a state, by the state's code; 0 for never.
    pub times: Vec<[u32; 16]>,
    /// The first rows of its chunks, in order.
    pub chunks: Vec<u16>,
}

impl Store {
    /// The keys that every script which moves recipients begins with, and `more`.
    fn part_keys<const N: usize>(&self, part: PartId, more: [String; N]) -> Vec<String> {
        let keys = &self.keys;
        let mut all = vec![keys.part(part), keys.states(part), keys.history(part), keys.sends(part)];
        all.extend([keys.retry(part), keys.doubt(part)]);
        all.extend(more);
        all
    }

    /// Claims rows of a part for sending.
    ///
    /// Errors: after `OutcomeUnknown` rows may be in flight that nobody sends: the next claim asks what this one brought, and that is
    /// given back.
    pub async fn claim(&self, part: PartId, wish: &ClaimWish) -> Result<Claim> {
        let incarnation = self.incarnations.newest();
        let call = Call::new(&script::CLAIM, &self.part_keys(part, [self.keys.tries(part)]))
            .arg(wish.epoch)
            .arg(wish.now.0)
            .arg(wish.limit)
            .arg(wish.doubt_until.0)
            .arg(wish.number)
            .arg(wish.unanswered)
            .arg(u8::from(wish.in_grace_period));
        let answer: Vec<Value> = self.call(call).await?;
        let claim = read_claim(answer)
            .ok_or_else(|| StoreError::Refused { operation: "claim", message: "unexpected answer".into() })?;
        if let Claim::Rows { rows, .. } = &claim
            && !rows.is_empty()
        {
            let packed = pack_claims(rows, wish.doubt_until);
            // Ids are not told by a claim: their lifetime is without meaning.
            let call = self.settle_call(part, wish.epoch, wish.now, Duration::ZERO, packed);
            self.incarnations.record(incarnation, [call.into_journal_entry()])?;
        }
        Ok(claim)
    }

    fn settle_call(&self, part: PartId, epoch: u64, now: UnixMs, ids_kept: Duration, packed: PackedOutcomes) -> Call {
        let keys = self.part_keys(part, [self.keys.why(part), self.keys.ids(part), self.keys.tries(part)]);
        let call = Call::new(&script::SETTLE, &keys).arg(now.0).arg(ms(ids_kept)).arg(epoch);
        let call = call.arg(packed.accepted).arg(packed.entries).arg(packed.others).arg(packed.runs);
        call.arg(packed.claims).arg(packed.doubt_until.0)
    }

    /// Stores what attempts ended in, from whichever epoch, in one round trip. Gives how many recipients of each part are open.
    ///
    /// An outcome of an older epoch can reopen a row after the newer owner took its part off the line's work: the part is listed again
    /// before this returns.
    ///
    /// `epoch`: under which they were claimed; `ids_kept`: how long message ids are found again.
    pub async fn settle(
        &self,
        outcomes: &BTreeMap<PartId, Vec<(ClaimedRow, Settled)>>,
        epoch: u64,
        now: UnixMs,
        ids_kept: Duration,
    ) -> Result<Vec<(PartId, u64)>> {
        let calls = outcomes
            .iter()
            .map(|(&part, outcomes)| self.settle_call(part, epoch, now, ids_kept, pack_outcomes(outcomes, now)));
        let settled = self.call_journaled::<(u64, u8, u8)>(calls.collect()).await?;
        let settled: Vec<(u64, u8, u8)> = settled.into_iter().collect::<Result<_>>()?;
        let parts = || outcomes.keys().copied().zip(&settled);
        let unlisted: Vec<PartId> =
            parts().filter(|(_, (_, unlisted, _))| *unlisted == 1).map(|(part, _)| part).collect();
        self.requeue(&unlisted).await?;
        let unindexed = parts().filter(|(_, (_, _, unindexed))| *unindexed == 1).map(|(part, _)| part.campaign);
        self.name_unindexed(unindexed.collect::<Vec<_>>()).await?;
        Ok(parts().map(|(part, (open, ..))| (part, *open)).collect())
    }

    /// Keeps the newest words of Meta for an error code of a part.
    pub async fn note_details(&self, part: PartId, code: u32, details: &str) -> Result<()> {
        self.query("HSET details", cmd("HSET").arg(self.keys.part(part)).arg(format!("e{code}")).arg(details)).await
    }

    /// Applies facts to parts, in one round trip. Gives for each part what became of each fact, and how many recipients are open.
    ///
    /// The parts of rows that were returned are listed in the work of their lines again before this returns.
    ///
    /// `ids_kept`: how long message ids are found again, of those that only a fact told.
    pub async fn apply(&self, batches: &[(PartId, Vec<Fact>)], ids_kept: Duration) -> Result<Vec<(Vec<Applied>, u64)>> {
        let mut calls = Vec::new();
        for (part, facts) in batches {
            let [why, replied] = [self.keys.why(*part), self.keys.replied(*part)];
            let keys = self.part_keys(*part, [why, replied, self.keys.ids(*part), self.keys.tries(*part)]);
            for facts in facts.chunks(FACTS_MAX) {
                calls.push(Call::new(&script::STATUS, &keys).arg(ms(ids_kept)).arg(pack_facts(facts)));
            }
        }
        let mut answers = self.call_journaled::<Vec<u64>>(calls).await?.into_iter();
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
                    _ => Applied::Known,
                }));
            }
            results.push((applied, open));
        }
        let reopened = batches.iter().zip(&results).filter(|((_, facts), (_, open))| {
            // Whether this call reopened them or an earlier one, whose answer was lost.
            *open > 0 && facts.iter().any(|fact| matches!(fact.news, News::Returned(_)))
        });
        self.requeue(&reopened.map(|((part, _), _)| *part).collect::<Vec<_>>()).await?;
        self.name_unindexed(unindexed).await?;
        Ok(results)
    }

    /// Ends the doubts of a part whose deadline has passed: by sending again while a row had fewer than `attempts_max`
    /// attempts, else as unknown. Gives the next deadline and how many recipients are open.
    pub async fn end_doubts(&self, part: PartId, now: UnixMs, attempts_max: u8) -> Result<(Option<UnixMs>, u64)> {
        let keys = self.part_keys(part, [self.keys.why(part), self.keys.tries(part)]);
        let call = Call::new(&script::DOUBTS, &keys).arg(now.0).arg(FACTS_MAX).arg(attempts_max);
        let (next, open, _ended): (i64, u64, u64) = self.call(call).await?;
        Ok((time(next), open))
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

    /// The recipients of parts that are open, by state.
    pub async fn open_counts(&self, parts: &[PartId]) -> Result<Vec<Vec<(State, u64)>>> {
        let open = || State::ALL.into_iter().filter(|state| state.is_open());
        let fields: Vec<&str> = open().map(script::counter).collect();
        let count = |n: Option<i64>| n.unwrap_or(0).max(0).unsigned_abs();
        let mut all = Vec::with_capacity(parts.len());
        for parts in parts.chunks(COUNTED_AT_ONCE) {
            let mut pipeline = Pipeline::with_capacity(parts.len());
            for &part in parts {
                pipeline.cmd("HMGET").arg(self.keys.part(part)).arg(&fields);
            }
            let counts: Vec<Vec<Option<i64>>> = self.query_all("HMGET part", &pipeline).await?;
            all.extend(counts.into_iter().map(|counts| open().zip(counts.into_iter().map(count)).collect()));
        }
        Ok(all)
    }

    /// The state bytes of a part.
    pub async fn state_bytes(&self, part: PartId) -> Result<Vec<u8>> {
        self.query("GET states", cmd("GET").arg(self.keys.states(part))).await
    }

    /// The first rows of the chunks of a part, in order.
    pub async fn chunk_starts(&self, part: PartId) -> Result<Vec<u16>> {
        let mut starts: Vec<u16> = self.query("HKEYS chunks", cmd("HKEYS").arg(self.keys.chunks(part))).await?;
        starts.sort_unstable();
        Ok(starts)
    }

    /// All about the rows of a part, for reports.
    pub async fn part_rows(&self, part: PartId) -> Result<PartRows> {
        let states = self.state_bytes(part).await?;
        let why = self.query("HGETALL why", cmd("HGETALL").arg(self.keys.why(part))).await?;
        let tries = self.query("HGETALL tries", cmd("HGETALL").arg(self.keys.tries(part))).await?;
        let history: Vec<Vec<u8>> =
            self.query("LRANGE history", cmd("LRANGE").arg(self.keys.history(part)).arg(0).arg(-1)).await?;
        let mut times = vec![[0; 16]; states.len()];
        for record in history.iter().flat_map(|entry| entry.as_chunks::<7>().0) {
            let [row_low, row_high, byte, time @ ..] = *record;
            if let Some(row) = times.get_mut(usize::from(u16::from_le_bytes([row_low, row_high]))) {
                row[usize::from(byte & 0x0f)] = u32::from_le_bytes(time);
            }
        }
        Ok(PartRows { states, why, tries, times, chunks: self.chunk_starts(part).await? })
    }

    /// Where a campaign has `phone`.
    pub async fn find_phone(&self, campaign: CampaignId, buckets: u32, phone: Phone) -> Result<Option<(PartId, u16)>> {
        let field = phone_index::field(phone);
        let key = self.keys.numbers(campaign, phone_index::bucket(field, buckets));
        let place: Option<u64> = self.query("HGET number", cmd("HGET").arg(key).arg(field.as_slice())).await?;
        Ok(place.map(|place| {
            let part = PartId { campaign, number: (place >> 16) as u16 };
            (part, (place & 0xffff) as u16)
        }))
    }
}

/// Counters and words; not all that is in the hash of a part is text.
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
    for (field, text) in hash {
        let (kind, rest) = field.split_at(1);
        let (Ok(code), Ok(text)) = (rest.parse::<u32>(), str::from_utf8(text)) else { continue };
        match kind {
            "f" if number(field) > 0 => drop(counts.failures.insert(code, number(field))),
            "e" => drop(counts.details.insert(code, text.to_owned())),
            "r" => {
                let slot = text.split_once(':').and_then(|(second, n)| Some((second.parse().ok()?, n.parse().ok()?)));
                counts.accepted_by_second.extend::<Option<(u64, u64)>>(slot);
            }
            _ => {}
        }
    }
    counts
}
