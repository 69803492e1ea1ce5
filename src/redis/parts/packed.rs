//! The binary arguments and results of the scripts of a part. The head of each script defines their layout.

use deadpool_redis::redis::Value;

use super::{Claim, ToSend};
use crate::{
    domain::{ClaimedRow, Due, Fact, Fingerprint, News, Settled, State, UnixMs, Wamid},
    redis::{
        stored::number_of,
        wamids::{NewWamids, write_packed},
    },
};

/// Minimum number of consecutive rows that are settled as a run. A shorter run costs more than its single rows.
const RUN_ROWS_MIN: usize = 4;

/// The stored due time of a row that is due at once. It has passed even if the clock is set back.
const AT_ONCE: UnixMs = UnixMs(0);

/// Outcomes as `settle.lua` reads them.
#[derive(Default)]
pub(super) struct PackedOutcomes {
    /// Acceptances as stored in the list of message ids. Those of the runs come first.
    pub(super) accepted: Vec<u8>,
    /// The whole ids of the acceptances.
    pub(super) wamids: NewWamids,
    /// The rows and sends of the acceptances whose message Meta keeps back.
    pub(super) held: Vec<u8>,
    /// The history entries of the acceptances.
    pub(super) entries: Vec<u8>,
    pub(super) others: Vec<u8>,
    /// Runs of consecutive rows, each accepted by its first send.
    pub(super) runs: Vec<u8>,
    /// Claimed rows.
    pub(super) claims: Vec<u8>,
    /// The doubt deadline of `claims`, if there are any, for the case that a newer epoch has the part.
    pub(super) doubt_until: Option<UnixMs>,
}

pub(super) fn pack_claims(rows: &[ToSend], doubt_until: UnixMs) -> PackedOutcomes {
    let mut packed = PackedOutcomes { doubt_until: Some(doubt_until), ..PackedOutcomes::default() };
    for run in rows.chunk_by(|ToSend { claimed: a, .. }, ToSend { claimed: b, .. }| follows(*a, *b)) {
        pack_run(&mut packed.claims, run[0].claimed, run.len());
        packed.claims.push(run[0].claimed.send);
    }
    packed
}

pub(super) fn pack_outcomes(outcomes: &[(ClaimedRow, Settled)], now: UnixMs) -> PackedOutcomes {
    let second = u32::try_from(now.seconds()).unwrap_or(u32::MAX).to_le_bytes();
    let mut packed = PackedOutcomes::default();
    let mut accepted: Vec<(ClaimedRow, &Wamid)> = Vec::with_capacity(outcomes.len());
    for (claimed, settled) in outcomes {
        let (kind, code, tail) = match settled {
            Settled::Accepted(wamid) => {
                accepted.push((*claimed, wamid));
                continue;
            }
            Settled::Held(wamid) => {
                accepted.push((*claimed, wamid));
                packed.held.extend(claimed.row.to_le_bytes());
                packed.held.push(claimed.send);
                continue;
            }
            Settled::Retry { at, reason } => (b'R', number_of(*reason), packed_time(*at)),
            Settled::Withheld { at, reason } => (b'W', number_of(*reason), packed_time(*at)),
            Settled::Back { at: Due::AtOnce } => (b'B', 0, packed_time(AT_ONCE)),
            Settled::Back { at: Due::At(at) } => (b'B', 0, packed_time(*at)),
            Settled::InDoubt { until } => (b'D', 0, packed_time(*until)),
            Settled::Refused { reason } => (b'F', number_of(*reason), [0; 8]),
            Settled::Skipped { reason } => (b'S', u32::from(reason.byte()), [0; 8]),
        };
        pack_outcome(&mut packed.others, *claimed, kind, code, tail);
    }
    accepted.sort_unstable_by_key(|(claimed, _)| claimed.row);
    packed.wamids = NewWamids::of(&accepted);
    let (runs, rest): (Vec<_>, Vec<_>) =
        accepted.chunk_by(|(a, _), (b, _)| a.send == 1 && follows(*a, *b)).partition(|run| run.len() >= RUN_ROWS_MIN);
    for run in &runs {
        pack_run(&mut packed.runs, run[0].0, run.len());
    }
    for (claimed, wamid) in runs.into_iter().chain(rest).flatten() {
        packed.accepted.extend(claimed.row.to_le_bytes());
        packed.accepted.push(claimed.send);
        packed.accepted.extend(Fingerprint::of(wamid.as_str()).0);
        packed.entries.extend(claimed.row.to_le_bytes());
        packed.entries.push(claimed.send.min(State::SEND_OVERFLOW) << 4 | State::Accepted.code());
        packed.entries.extend(second);
    }
    packed
}

/// Whether `b` is the next row after `a`, with the same send number.
fn follows(a: ClaimedRow, b: ClaimedRow) -> bool {
    a.send == b.send && a.row.checked_add(1) == Some(b.row)
}

fn pack_run(packed: &mut Vec<u8>, first: ClaimedRow, count: usize) {
    packed.extend(first.row.to_le_bytes());
    packed.extend((count as u16).to_le_bytes());
}

fn pack_outcome(packed: &mut Vec<u8>, claimed: ClaimedRow, kind: u8, code: u32, tail: [u8; 8]) {
    packed.extend(claimed.row.to_le_bytes());
    packed.extend([claimed.send, kind]);
    packed.extend(code.to_le_bytes());
    packed.extend(tail);
}

fn packed_time(at: UnixMs) -> [u8; 8] {
    (at.0 as f64).to_le_bytes()
}

/// Facts as `status.lua` reads them.
pub(super) struct PackedFacts {
    pub(super) facts: Vec<u8>,
    /// The message ids of the facts, each as fingerprint and whole.
    pub(super) ids: Vec<u8>,
}

pub(super) fn pack_facts(facts: &[Fact]) -> PackedFacts {
    let (mut packed, mut ids) = (Vec::with_capacity(facts.len() * 14), Vec::with_capacity(facts.len() * 28));
    for fact in facts {
        let (state, code) = match fact.news {
            News::Sent => (State::Sent.code(), 0),
            News::Delivered => (State::Delivered.code(), 0),
            News::Read => (State::Read.code(), 0),
            News::Failed(reason) => (State::Failed.code(), number_of(reason)),
            // No status moves a row to `refused` or `skipped`, so their codes stand for returned and withheld.
            News::Returned(reason) => (State::Refused.code(), number_of(reason)),
            News::Withheld(reason) => (State::Skipped.code(), number_of(reason)),
            News::Replied => (15, 0),
        };
        packed.extend(fact.row.to_le_bytes());
        packed.extend([fact.send, state]);
        packed.extend(code.to_le_bytes());
        packed.extend(u32::try_from(fact.at.seconds()).unwrap_or(u32::MAX).to_le_bytes());
        let start = ids.len();
        if let Some(wamid) = &fact.message {
            ids.extend(Fingerprint::of(wamid.as_str()).0);
            if !write_packed(wamid.as_str(), &mut ids) {
                ids.truncate(start);
            }
        }
        packed.extend(((ids.len() - start) as u16).to_le_bytes());
    }
    PackedFacts { facts: packed, ids }
}

/// A time in a script's result, where -1 means none.
pub(super) fn time(ms: i64) -> Option<UnixMs> {
    u64::try_from(ms).ok().map(UnixMs)
}

pub(super) fn read_claim(answer: Vec<Value>) -> Option<Claim> {
    let mut fields = answer.into_iter();
    let Value::BulkString(kind) = fields.next()? else { return None };
    match kind.as_slice() {
        b"held" => {
            let (next_doubt, open) = (time(int(fields.next())?), int(fields.next())?.unsigned_abs());
            Some(Claim::Held { next_doubt, open, lost: lost(fields.next())? })
        }
        b"expired" => Some(Claim::Expired { lost: lost(fields.next())? }),
        b"late" => Some(Claim::Late),
        b"young" => Some(Claim::InGracePeriod),
        b"fenced" => Some(Claim::Fenced { epoch: int(fields.next())?.unsigned_abs(), lost: lost(fields.next())? }),
        b"claimed" => {
            let (start, count) = (int(fields.next())?, int(fields.next())?);
            Some(Claim::Rows {
                rows: rows_to_send(start as u16, count as u16, &bytes(fields.next())?),
                next_due: time(int(fields.next())?),
                next_doubt: time(int(fields.next())?),
                fresh: int(fields.next())?.unsigned_abs(),
                open: int(fields.next())?.unsigned_abs(),
                lost: lost(fields.next())?,
                erased: int(fields.next())?.unsigned_abs(),
            })
        }
        _ => None,
    }
}

fn int(field: Option<Value>) -> Option<i64> {
    match field {
        Some(Value::Int(n)) => Some(n),
        _ => None,
    }
}

fn bytes(field: Option<Value>) -> Option<Vec<u8>> {
    match field {
        Some(Value::BulkString(bytes)) => Some(bytes),
        _ => None,
    }
}

/// The packed rows, then `count` fresh rows from `start`.
fn rows_to_send(start: u16, count: u16, packed: &[u8]) -> Vec<ToSend> {
    let row = |&[low, high, send, attempt]: &[u8; 4]| ToSend {
        claimed: ClaimedRow { row: u16::from_le_bytes([low, high]), send },
        attempt,
    };
    let fresh = |n| ToSend { claimed: ClaimedRow { row: start + n, send: 1 }, attempt: 1 };
    packed.as_chunks().0.iter().map(row).chain((0..count).map(fresh)).collect()
}

fn lost(field: Option<Value>) -> Option<Vec<ToSend>> {
    let rows = bytes(field)?;
    Some(match rows.split_first_chunk() {
        Some((&[a, b, c, d], packed)) => rows_to_send(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]), packed),
        None => Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claimed_rows_are_packed_as_runs_with_the_same_send() {
        let rows = [(7, 3), (8, 3), (9, 1), (10, 1), (12, 1), (11, 1), (u16::MAX, 1), (0, 1)];
        let rows = rows.map(|(row, send)| ToSend { claimed: ClaimedRow { row, send }, attempt: 1 });
        let packed = pack_claims(&rows, UnixMs(5));
        let unpacked = packed.claims.as_chunks::<5>().0.iter().flat_map(|&[low, high, count_low, count_high, send]| {
            let (first, count) = (u16::from_le_bytes([low, high]), u16::from_le_bytes([count_low, count_high]));
            (0..count).map(move |n| ClaimedRow { row: first + n, send })
        });
        assert!(unpacked.eq(rows.iter().map(|row| row.claimed)));
        assert_eq!(
            (packed.claims.len(), packed.doubt_until),
            (6 * 5, Some(UnixMs(5))),
            "a run ends at a gap and at the last row"
        );
    }
}
