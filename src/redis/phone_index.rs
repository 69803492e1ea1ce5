//! The phone index of a campaign: detects duplicates exactly, and finds a recipient by phone number.
//!
//! The index has one entry per person: a person whose number has two forms is found by either. Indexes of release 0.1.0
//! have one entry per number, and stay that way: field `index` of the campaign names the kind.
//!
//! Linear hashing over small Redis hashes. Redis packs a hash of at most 512 short entries
//! (`hash-max-listpack-entries`, which is `hash-max-ziplist-entries` before Redis 7), at about 15 bytes an entry.
//! Buckets are split (`scripts/split.lua`) before they reach this limit. A field is a phone number after a mixing
//! function that spreads its bits evenly. The function is invertible, so two phone numbers never have the same field.

use crate::domain::{Person, Phone};

/// Mean number of entries in a bucket above which a bucket is split. A lookup scans the entries of its bucket, and
/// each bucket has an overhead of about a hundred bytes. Half this value would cost three more bytes per phone
/// number; twice this value would cost a third of the upload speed. The buckets that are split last in a round have
/// up to four times as many entries, and some more by chance. Even the fullest of a million buckets is far below the
/// limit for packing.
pub const ENTRIES_MEAN_MAX: u64 = 32;

/// Buckets into which a bucket is split. With four, an index needs a third as many splits as with two.
const SPLIT: u32 = 4;

/// Whether a phone index has an entry for each number or for each person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexedBy {
    /// An entry for each number. A person whose number has two forms can be in the campaign twice.
    Number,
    /// An entry for each person.
    Person,
}

impl IndexedBy {
    /// Reads field `index` of a campaign, which campaigns of 0.1.0 lack.
    pub(super) fn read(field: Option<&str>) -> Self {
        if field == Some("person") { IndexedBy::Person } else { IndexedBy::Number }
    }

    /// The field of `phone` in its bucket.
    pub fn field(self, phone: Phone) -> [u8; 7] {
        match self {
            IndexedBy::Number => mixed(phone.digits()),
            IndexedBy::Person => mixed(Person::from(phone).digits()),
        }
    }
}

fn mixed(digits: u64) -> [u8; 7] {
    const MASK: u64 = (1 << 56) - 1;
    let mut mixed = digits;
    for odd in [0x9e_3779_b97f_4a7d, 0xbf_5847_6d1c_e4e5] {
        mixed = mixed.wrapping_mul(odd) & MASK;
        mixed ^= mixed >> 29;
    }
    let [a, b, c, d, e, f, g, _] = mixed.to_le_bytes();
    [a, b, c, d, e, f, g]
}

/// The bucket of a field in an index with this number of `buckets`.
pub fn bucket(field: [u8; 7], buckets: u32) -> u32 {
    let hash = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
    let round = round(buckets);
    let before = hash % round;
    if before < (buckets - round) / (SPLIT - 1) { bucket_number(hash % (round * SPLIT)) } else { bucket_number(before) }
}

/// The split of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// The bucket to split.
    pub from: u32,
    /// The new buckets.
    pub to: [u32; SPLIT as usize - 1],
    /// The divisor of a hash. `(hash / divisor) % 4` selects the bucket of an entry: 0 is `from`, 1 to 3 are in `to`.
    pub divisor: u32,
}

impl Split {
    /// Buckets that each split adds.
    pub const ADDS: u32 = SPLIT - 1;

    /// The next split of an index with `buckets` buckets.
    pub fn next(buckets: u32) -> Self {
        let round = round(buckets);
        let from = bucket_number((buckets - round) / (SPLIT - 1));
        Self { from, to: [buckets, buckets + 1, buckets + 2], divisor: round }
    }
}

/// The number of buckets at the start of the current round of splits, in an index of `buckets` buckets. Each of these
/// is split once in the round. A hash modulo this number selects one of them.
fn round(buckets: u32) -> u32 {
    SPLIT.pow(buckets.ilog2() / SPLIT.ilog2())
}

/// The number of the bucket for `remainder`, a hash modulo a number of buckets. Buckets are numbered in order of
/// creation: each split adds three, after all buckets of earlier rounds.
fn bucket_number(remainder: u32) -> u32 {
    if remainder == 0 {
        return 0;
    }
    let round = round(remainder);
    round + (SPLIT - 1) * (remainder % round) + remainder / round - 1
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use super::*;

    fn field(phone: Phone) -> [u8; 7] {
        IndexedBy::Person.field(phone)
    }

    #[test]
    fn only_an_index_by_number_tells_two_forms_of_a_number_apart() {
        let [with, without] = ["+5491155550001", "+541155550001"].map(|number| number.parse::<Phone>().expect(number));
        assert_eq!(IndexedBy::Person.field(with), IndexedBy::Person.field(without));
        assert_ne!(IndexedBy::Number.field(with), IndexedBy::Number.field(without));
    }

    fn phones(n: u64) -> impl Iterator<Item = Phone> {
        (0..n).map(|i| Phone::from_digits(5_491_100_000_000 + i).expect("in range"))
    }

    #[test]
    fn two_phone_numbers_never_have_the_same_field() {
        let fields: HashSet<_> = phones(200_000).map(field).collect();
        assert_eq!(fields.len(), 200_000);
    }

    #[test]
    fn consecutive_phone_numbers_fill_buckets_evenly() {
        // Just before the end of a round, the buckets that are split last are the fullest.
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
    fn a_split_moves_phone_numbers_only_between_its_buckets() {
        let mut buckets = 1u32;
        while buckets < 600 {
            let split = Split::next(buckets);
            for field in phones(500).map(field) {
                let (before, after) = (bucket(field, buckets), bucket(field, buckets + Split::ADDS));
                let hash = u32::from_le_bytes([field[0], field[1], field[2], field[3]]);
                let expected = match (hash / split.divisor) % SPLIT {
                    rest if before == split.from && rest > 0 => split.to[rest as usize - 1],
                    _ => before,
                };
                assert_eq!(after, expected, "{buckets} buckets");
            }
            buckets += Split::ADDS;
        }
    }
}
