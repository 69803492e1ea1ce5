//! The index of numbers of a campaign: finds duplicates exactly, and a recipient by phone.
//!
//! Linear hashing over small Redis hashes. A hash of at most 512 short entries (`hash-max-listpack-entries`, which is
//! `hash-max-ziplist-entries` before Redis 7) is packed and costs about 15 bytes an entry, so buckets are split
//! (`scripts/split.lua`) before they hold that many. A field is the phone number, mixed so that its bits are evenly
//! spread; mixing can be undone, hence two numbers never share a field.

use crate::domain::Phone;

/// Mean entries of a bucket above which one is split. Those whose turn to be split comes last hold up to twice as many,
/// and chance adds some: even the fullest of a million buckets is far below what Redis packs, and quick to look through.
pub const ENTRIES_MEAN_MAX: u64 = 72;

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
    let half = half(buckets);
    match hash % (half * 2) {
        whole if whole < buckets => whole,
        _ => hash % half,
    }
}

/// The split that grows an index of `buckets` by one: the bucket to split, and the bit of the hash that decides.
pub fn split(buckets: u32) -> (u32, u32) {
    let half = half(buckets);
    (buckets - half, half)
}

/// The largest power of two that is not above `buckets`.
fn half(buckets: u32) -> u32 {
    1 << buckets.ilog2()
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
        // Just before the number of buckets is doubled, the last ones to be split are the fullest.
        for n in [1_000u64, 50_000, 72 * 1_023, 400_000, 72 * 8_191] {
            let buckets = u32::try_from(n.div_ceil(ENTRIES_MEAN_MAX)).expect("few buckets");
            let mut filled: HashMap<u32, u32> = HashMap::new();
            for phone in phones(n) {
                *filled.entry(bucket(field(phone), buckets)).or_default() += 1;
            }
            let fullest = filled.values().copied().max().expect("some");
            assert!(fullest <= 256, "{n} numbers in {buckets} buckets: {fullest}");
        }
    }

    #[test]
    fn a_split_moves_numbers_only_between_its_two_buckets() {
        for buckets in 1..200u32 {
            let (from, bit) = split(buckets);
            for field in phones(500).map(field) {
                let (before, after) = (bucket(field, buckets), bucket(field, buckets + 1));
                let hash = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
                let expected = if before == from && (hash / bit) % 2 == 1 { buckets } else { before };
                assert_eq!(after, expected, "{buckets} buckets");
            }
        }
    }
}
