//! The index of numbers of a campaign: finds duplicates exactly, and a recipient by phone.
//!
//! Linear hashing over small Redis hashes. A hash of at most 512 short entries (`hash-max-listpack-entries`, which is
//! `hash-max-ziplist-entries` before Redis 7) is packed and costs about 15 bytes an entry, so buckets are split
//! (`scripts/split.lua`) before they hold that many. A field is the phone number, mixed so that its bits are evenly
//! spread; mixing can be undone, hence two numbers never share a field.

use crate::domain::Phone;

/// Mean entries of a bucket above which one is split. Every look into a bucket goes through its entries one by one, and
/// each bucket takes some hundred bytes besides them: half as many would cost three bytes a number, twice as many a third
/// of the speed of an upload. Those whose turn to be split comes last hold up to four times as many, and chance adds some:
/// even the fullest of a million buckets is far below what Redis packs.
pub const ENTRIES_MEAN_MAX: u64 = 32;

/// A bucket is split into so many: each entry then moves a third as often as if it were two.
const SPLIT: u32 = 4;

/// The field of `phone` in its bucket.
pub fn field(phone: Phone) -> [u8; 7] {
    const MASK: u64 = (1 << 56) - 1;
    let mut mixed = phone.digits();
    for odd in [0x9e_3779_b97f_4a7d, 0xbf_5847_6d1c_e4e5] {
        mixed = mixed.wrapping_mul(odd) & MASK;
        mixed ^= mixed >> 29;
    }
    let [a, b, c, d, e, f, g, _] = mixed.to_le_bytes();
    [a, b, c, d, e, f, g]
}

/// The bucket of a field in an index of `buckets`.
pub fn bucket(field: [u8; 7], buckets: u32) -> u32 {
    let hash = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
    let round = round(buckets);
    let before = hash % round;
    if before < (buckets - round) / (SPLIT - 1) { place(hash % (round * SPLIT)) } else { place(before) }
}

/// The split of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// Which bucket.
    pub from: u32,
    /// Where those of its entries go that do not stay.
    pub to: [u32; SPLIT as usize - 1],
    /// What a hash is divided by; by the rest of that by four it is decided who goes where: 0 stays.
    pub by: u32,
}

impl Split {
    /// Buckets that each adds.
    pub const ADDS: u32 = SPLIT - 1;

    /// The one that is next in an index of `buckets`.
    pub fn next(buckets: u32) -> Self {
        let round = round(buckets);
        let from = place((buckets - round) / (SPLIT - 1));
        Self { from, to: [buckets, buckets + 1, buckets + 2], by: round }
    }
}

/// What the hash of an entry was divided by when the round of splits began that an index of `buckets` is in: as many
/// buckets as there were then. Each of them is split once in it.
fn round(buckets: u32) -> u32 {
    SPLIT.pow(buckets.ilog2() / SPLIT.ilog2())
}

/// The number of the bucket for `rest`, the rest of a hash. They are counted as they come into being: three by each
/// split, those of a round after all before.
fn place(rest: u32) -> u32 {
    if rest == 0 {
        return 0;
    }
    let round = round(rest);
    round + (SPLIT - 1) * (rest % round) + rest / round - 1
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn phones(n: u64) -> impl Iterator<Item = Phone> {
        (0..n).map(|i| Phone::from_digits(5_491_100_000_000 + i).expect("in range"))
    }

    #[test]
    fn two_numbers_never_share_a_field() {
        let fields: HashSet<_> = phones(200_000).map(field).collect();
        assert_eq!(fields.len(), 200_000);
    }

    #[test]
    fn numbers_in_a_row_fill_the_buckets_evenly_and_below_what_redis_packs() {
        // Just before a round of splits ends, the last ones to be split are the fullest.
        for n in [1_000u64, 50_000, ENTRIES_MEAN_MAX * 1_021, 400_000, ENTRIES_MEAN_MAX * 16_381] {
            let mut buckets = 1;
            while n > u64::from(buckets) * ENTRIES_MEAN_MAX {
                buckets += Split::ADDS;
            }
            let mut filled: HashMap<u32, u32> = HashMap::new();
            for phone in phones(n) {
                *filled.entry(bucket(field(phone), buckets)).or_default() += 1;
            }
            assert!(filled.keys().all(|bucket| *bucket < buckets), "{n} numbers in {buckets} buckets");
            let fullest = filled.values().copied().max().expect("some");
            assert!(fullest <= 256, "{n} numbers in {buckets} buckets: {fullest}");
        }
    }

    #[test]
    fn a_split_moves_numbers_only_between_its_buckets() {
        let mut buckets = 1u32;
        while buckets < 600 {
            let split = Split::next(buckets);
            for field in phones(500).map(field) {
                let (before, after) = (bucket(field, buckets), bucket(field, buckets + Split::ADDS));
                let hash = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
                let expected = match (hash / split.by) % SPLIT {
                    rest if before == split.from && rest > 0 => split.to[rest as usize - 1],
                    _ => before,
                };
                assert_eq!(after, expected, "{buckets} buckets");
            }
            buckets += Split::ADDS;
        }
    }
}
