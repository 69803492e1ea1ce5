//! The part in Redis: calls the scripts and reads the state that they leave.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    time::Duration,
};

use deadpool_redis::redis::{Pipeline, Value, cmd};
use pregon::{
    domain::{
        CampaignId, ClaimedRow, Fact, FailureReason, Fingerprint, PartId, Settled, SkipReason, State, UnixMs, Wamid,
        campaign::CampaignRetry,
    },
    redis::{
        Call, Result, Store, StoreError,
        message_ids::IdPage,
        parts::{AppliedFacts, ClaimRequest, DoubtsEnded, PartCounts},
        script,
    },
};
use tokio::try_join;

use super::spec::{self, Gate, send};
use crate::support;

/// How long message ids are kept: longer than any history runs.
const ID_RETENTION: Duration = Duration::from_secs(3600);

/// The state of a part, in Redis or in the model.
#[derive(Clone, Debug, PartialEq)]
pub struct View {
    /// State bytes, up to the last recipient.
    pub bytes: Vec<u8>,
    /// Claim numbers of 15 and above, which do not fit into the state byte.
    pub sends: BTreeMap<u16, u8>,
    pub counts: PartCounts,
    pub attempts: BTreeMap<u16, u8>,
    /// Meta's codes, without the rows that have none.
    pub why: BTreeMap<u16, FailureReason>,
    pub due: BTreeMap<u16, u64>,
    /// The rows that were reopened, with the hundredths of a millisecond in their due time.
    pub reopened: BTreeMap<u16, u8>,
    /// The rows that are sent again, with the number of the state that they had and its code; zeros if they went back
    /// to it.
    pub before: BTreeMap<u16, (u8, u32)>,
    pub doubt: BTreeMap<u16, u64>,
    /// The accepted rows whose message Meta keeps back.
    pub held: BTreeSet<u16>,
    /// Why rows are skipped.
    pub skips: BTreeMap<u16, SkipReason>,
    /// The rows whose message Meta withheld once.
    pub withheld: BTreeSet<u16>,
    /// `next`, `rows`, `epoch`, `claim`.
    pub marks: [u64; 4],
}

impl View {
    /// The state of the model.
    pub fn of(model: &spec::Part) -> Self {
        let each = || model.rows.iter();
        let with_details = || each().filter(|_| !model.forgotten);
        let mut bytes = vec![0; model.rows.last_key_value().map_or(0, |(last, _)| usize::from(*last) + 1)];
        for (row, it) in each() {
            bytes[usize::from(*row)] = send(it.claims).min(State::SEND_OVERFLOW) << 4 | it.state.code();
        }
        let sends = each().map(|(row, it)| (*row, send(it.claims)));
        Self {
            bytes,
            sends: sends.filter(|(_, send)| *send >= State::SEND_OVERFLOW).collect(),
            counts: model.counts(),
            attempts: with_details().filter(|(_, it)| it.attempts > 0).map(|(row, it)| (*row, it.attempts)).collect(),
            why: with_details()
                .filter_map(|(row, it)| Some((*row, it.why.filter(|why| *why != FailureReason::NoAnswer)?)))
                .collect(),
            due: each().filter_map(|(row, it)| Some((*row, it.due?.0))).collect(),
            reopened: each().map(|(row, it)| (*row, it.due_percent())).filter(|(_, percent)| *percent > 0).collect(),
            before: each().filter_map(|(row, it)| Some((*row, before(it)?))).collect(),
            doubt: each().filter_map(|(row, it)| Some((*row, it.doubt?.0))).collect(),
            held: each().filter(|(_, it)| it.held).map(|(row, _)| *row).collect(),
            skips: each().filter_map(|(row, it)| Some((*row, it.skip?))).collect(),
            withheld: each().filter(|(_, it)| it.withheld).map(|(row, _)| *row).collect(),
            marks: [model.next, model.len, model.epoch, model.number],
        }
    }

    /// The fields in which the two states differ, as text.
    pub fn against(&self, other: &Self) -> String {
        let of = |view: &Self| {
            let states: Vec<_> = view.states().collect();
            let mut by_state: Vec<_> = view.counts.by_state.iter().filter(|(_, n)| **n > 0).collect();
            by_state.sort();
            [
                format!("states {states:?}"),
                format!("attempts {:?}", view.attempts),
                format!("why {:?}", view.why),
                format!("due {:?}", view.due),
                format!("reopened {:?}", view.reopened),
                format!("before {:?}", view.before),
                format!("doubt {:?}", view.doubt),
                format!("held {:?}", view.held),
                format!("skips {:?}", view.skips),
                format!("withheld {:?}", view.withheld),
                format!("next, rows, epoch, claim {:?}", view.marks),
                format!("by state {by_state:?}"),
                format!("counts {:?}", PartCounts { by_state: HashMap::new(), ..view.counts.clone() }),
            ]
        };
        let both = of(self).into_iter().zip(of(other)).filter(|(here, there)| here != there);
        both.map(|(here, there)| format!("\n  {here}\n  {there}")).collect()
    }

    /// The state of each recipient, with the number of its last claim.
    pub fn states(&self) -> impl Iterator<Item = (u16, State, u8)> {
        let rows = (0..).zip(&self.bytes);
        let send = |row: u16, byte| self.sends.get(&row).copied().unwrap_or(State::send_of(byte));
        rows.filter_map(move |(row, &byte)| Some((row, State::of(byte)?, send(row, byte))))
    }
}

fn before(row: &spec::Row) -> Option<(u8, u32)> {
    let code = |why: Option<FailureReason>| why.and_then(|why| why.code()).map_or(0, |code| code.0);
    row.before.map(|(state, why)| (state.code(), code(why))).or(row.is_back.then_some((0, 0)))
}

/// A response as text, to be compared with the model's.
pub fn response_text<T: Debug>(answer: Result<T>) -> String {
    match answer {
        Ok(answer) => format!("{answer:?}"),
        Err(StoreError::Refused { .. }) => refused(),
        Err(error) => format!("{error}"),
    }
}

/// The text of [`response_text`] for a refusal.
pub fn refused() -> String {
    "refused".to_owned()
}

/// The keys of a part and their dumps: the state that Redis restarts with.
pub type Dump = Vec<(String, Option<Vec<u8>>)>;

/// A part in Redis.
pub struct Real<'a> {
    store: &'a Store,
    part: PartId,
}

impl<'a> Real<'a> {
    /// Part `n` of these tests.
    pub fn new(store: &'a Store, n: u64) -> Self {
        let campaign = CampaignId(ulid::Ulid::from_parts(n >> 16, 0));
        Self { store, part: PartId { campaign, number: n as u16 } }
    }

    fn keys(&self) -> [String; 15] {
        let (keys, part) = (&self.store.keys, self.part);
        [
            keys.part(part),
            keys.states(part),
            keys.history(part),
            keys.sends(part),
            keys.retry(part),
            keys.doubt(part),
            keys.error_codes(part),
            keys.ids(part),
            keys.tries(part),
            keys.wamids(part),
            keys.held(part),
            keys.skips(part),
            keys.withheld(part),
            keys.before(part),
            keys.replied(part),
        ]
    }

    pub async fn activate(&self, start: u16, mask: &[bool]) -> String {
        let [meta, states, ..] = self.keys();
        let mask: Vec<u8> = mask.iter().map(|&admitted| u8::from(admitted)).collect();
        response_text(self.store.call::<u64>(Call::new(&script::ACTIVATE, &[meta, states]).arg(start).arg(mask)).await)
    }

    pub async fn follow(&self, version: u64, gate: Gate, expires: Option<UnixMs>) -> String {
        let [meta, states, ..] = self.keys();
        let gate = match gate {
            Gate::Open => "open",
            Gate::Held => "held",
            Gate::Completed => "completed",
            Gate::Cancelled => "cancelled",
        };
        let expires = expires.map_or(String::new(), |at| at.0.to_string());
        response_text(
            self.store.call::<u64>(Call::new(&script::GATE, &[meta, states]).arg(version).arg(gate).arg(expires)).await,
        )
    }

    pub async fn claim(&self, request: &ClaimRequest) -> String {
        response_text(self.store.claim(self.part, request).await)
    }

    /// Reports claims the way a [`Store`] replays them to a new incarnation of Redis.
    pub async fn claimed_before(&self, epoch: u64, now: UnixMs, until: UnixMs, rows: &[(u16, u32)]) -> String {
        let [keys @ .., _replied] = self.keys();
        let mut packed = Vec::new();
        for run in rows.chunk_by(|(row, claim), (next, again)| row + 1 == *next && claim == again) {
            packed.extend(run[0].0.to_le_bytes());
            packed.extend((run.len() as u16).to_le_bytes());
            packed.push(send(run[0].1));
        }
        let call = Call::new(&script::SETTLE, &keys);
        let call = ["", "", "", ""].iter().fold(call.arg(now.0).arg(0).arg(epoch), |call, none| call.arg(none));
        response_text(
            self.store.call::<(u64, u8, u8)>(call.arg(packed).arg(until.0).arg("")).await.map(|(open, ..)| open),
        )
    }

    pub async fn settle(&self, epoch: u64, now: UnixMs, outcomes: &[(u16, u32, Settled)]) -> String {
        let claimed = |row: u16, claim: u32| ClaimedRow { row, send: send(claim) };
        let outcomes = outcomes.iter().map(|(row, claim, settled)| (claimed(*row, *claim), settled.clone())).collect();
        let settled = self.store.settle(&BTreeMap::from([(self.part, outcomes)]), epoch, now, ID_RETENTION).await;
        response_text(settled.map(|settled| settled[0].open))
    }

    pub async fn apply(&self, facts: &[spec::Fact]) -> String {
        let facts = facts.iter().map(|fact| Fact {
            row: fact.row,
            send: fact.claim.map_or(0, send),
            news: fact.news,
            at: fact.at,
            message: fact.message.clone(),
        });
        let applied = self.store.apply(&[(self.part, facts.collect())], ID_RETENTION).await;
        response_text(applied.map(|mut parts| parts.remove(0)).map(|AppliedFacts { applied, open }| (applied, open)))
    }

    pub async fn end_doubts(&self, now: UnixMs, attempts_max: u8) -> String {
        let ended = self.store.end_doubts(self.part, now, attempts_max).await;
        response_text(ended.map(|DoubtsEnded { next, open }| (next, open)))
    }

    pub async fn reopen(&self, version: u64, retry: &CampaignRetry, now: UnixMs, limit: usize) -> String {
        response_text(self.store.reopen_some(self.part, retry, version, now, limit).await)
    }

    pub async fn sweep(&self, to: State, now: UnixMs) -> String {
        response_text(self.store.sweep(self.part, to, now).await)
    }

    /// Erases the recipient of a row, with a placeholder as its chunk, because these tests store no chunks.
    pub async fn erase(&self, row: u16, now: UnixMs) -> String {
        const CHUNK: &str = "chunk";
        let [meta, states, history, sends, retry, _, codes, _, _, wamids, _, skips, _, before, _] = self.keys();
        let chunks = self.store.keys.chunks(self.part);
        let written = self.store.query::<u8>("HSET", cmd("HSET").arg(&chunks).arg(row).arg(CHUNK)).await;
        let keys = [meta, states, history, sends, retry, codes, skips, chunks.clone(), wamids, before];
        let call = Call::new(&script::ERASE, &keys)
            .arg(now.0)
            .arg(row)
            .arg(CHUNK)
            .arg(CHUNK)
            .arg(SkipReason::Forgotten.byte());
        let erased = self.store.call::<(u64, u64)>(call.arg(row.to_le_bytes().to_vec())).await;
        let removed = self.store.query::<u8>("UNLINK", cmd("UNLINK").arg(chunks)).await;
        response_text(written.and(erased).and_then(|erased| removed.map(|_| erased)))
    }

    pub async fn find(&self, wamids: &[Wamid]) -> Result<Vec<Option<ClaimedRow>>> {
        let pieces = self.store.read_ids(&[(self.part, None)]).await?;
        let ids: HashMap<Fingerprint, ClaimedRow> = pieces.iter().flat_map(IdPage::ids).collect();
        Ok(wamids.iter().map(|wamid| ids.get(&Fingerprint::of(wamid.as_str())).copied()).collect())
    }

    pub async fn whole_ids(&self, messages: &[ClaimedRow]) -> Result<Vec<Option<Wamid>>> {
        self.store.wamids(self.part, messages).await
    }

    pub async fn view(&self) -> Result<View> {
        let (counts, held, withheld, skips, seen) = try_join!(
            self.store.part_counts(std::slice::from_ref(&self.part)),
            self.store.held_rows(self.part),
            self.store.withheld_rows(self.part),
            self.store.skips(self.part),
            self.look()
        )?;
        let (mut bytes, mut sends, attempts, why, due, doubt, before, marks) = seen;
        bytes.truncate(bytes.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1));
        // A row whose claim number wrapped around leaves its last overflowed number in the hash.
        let elsewhere =
            |row: &u16| bytes.get(usize::from(*row)).is_some_and(|&byte| State::send_of(byte) == State::SEND_OVERFLOW);
        sends.retain(|row, _| elsewhere(row));
        let why =
            why.into_iter().filter(|(_, code)| *code > 0).map(|(row, code)| (row, support::meta_code(code))).collect();
        let marks = marks.map(Option::unwrap_or_default);
        let percent = |at: f64| (at.fract() * 100.0) as u8;
        let reopened = due.iter().map(|(row, at)| (*row, percent(*at))).filter(|(_, percent)| *percent > 0).collect();
        let due = due.into_iter().map(|(row, at)| (row, at as u64)).collect();
        let number = |text: &str| text.parse().unwrap_or_default();
        let numbers =
            |text: &str| text.split_once(' ').map_or((0, 0), |(state, code)| (number(state) as u8, number(code)));
        let before = before.iter().map(|(row, text)| (*row, numbers(text))).collect();
        let counts = counts.into_iter().next().unwrap_or_default();
        let (held, withheld) = (held.into_iter().collect(), withheld.into_iter().collect());
        let skips = (0..).zip(skips).filter_map(|(row, skip)| Some((row, skip?))).collect();
        Ok(View { bytes, sends, counts, attempts, why, due, reopened, before, doubt, held, skips, withheld, marks })
    }

    async fn look(&self) -> Result<RawPart> {
        let [meta, states, _, sends, retry, doubt, why, _, tries, .., before, _] = self.keys();
        let mut look = Pipeline::new();
        look.atomic().get(states).hgetall(sends).hgetall(tries).hgetall(why);
        look.zrange_withscores(retry, 0, -1).zrange_withscores(doubt, 0, -1).hgetall(before);
        look.cmd("HMGET").arg(meta).arg(&["next", "rows", "epoch", "claim"]);
        let mut seen = self.store.query_all("look", &look).await?;
        Ok(seen.remove(0))
    }

    pub async fn dump(&self) -> Result<Dump> {
        let mut dump = Pipeline::new();
        for key in self.keys() {
            dump.cmd("DUMP").arg(key);
        }
        Ok(self.keys().into_iter().zip(self.store.query_all("DUMP", &dump).await?).collect())
    }

    pub async fn restore(&self, dump: &Dump) -> Result<()> {
        self.forget().await?;
        let mut restore = Pipeline::new();
        for (key, value) in dump {
            if let Some(value) = value {
                restore.cmd("RESTORE").arg(key).arg(0).arg(value.as_slice());
            }
        }
        self.store.query_all::<Value>("RESTORE", &restore).await.map(drop)
    }

    /// What a [`Store`] does when the retention of the recipients ends.
    pub async fn forget_recipients(&self) -> Result<()> {
        let [meta, _, history, _, _, _, why, ids, tries, wamids, held, _, withheld, before, _] = self.keys();
        let mut forget = Pipeline::new();
        forget.hset(&meta, "forgotten", 1).hdel(&meta, "held");
        forget.unlink([history, why, ids, tries, wamids, held, withheld, before].as_slice());
        self.store.query_all::<Value>("forget", &forget).await.map(drop)
    }

    /// How many keys that must be deleted with the recipients still exist.
    pub async fn traces(&self) -> Result<u64> {
        let [_, _, history, _, _, _, why, ids, tries, wamids, held, _, withheld, before, _] = self.keys();
        let deleted = [history, why, ids, tries, wamids, held, withheld, before];
        self.store.query("EXISTS", cmd("EXISTS").arg(&deleted)).await
    }

    /// Deletes the part.
    pub async fn forget(&self) -> Result<()> {
        self.store.query("UNLINK", cmd("UNLINK").arg(&self.keys())).await
    }
}

type RawPart = (
    Vec<u8>,
    BTreeMap<u16, u8>,
    BTreeMap<u16, u8>,
    BTreeMap<u16, u32>,
    BTreeMap<u16, f64>,
    BTreeMap<u16, u64>,
    BTreeMap<u16, String>,
    [Option<u64>; 4],
);
