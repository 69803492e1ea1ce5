//! Phone numbers in E.164.

use std::{
    fmt,
    num::{NonZeroU64, ParseIntError},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A phone number in E.164: `+`, then 7 to 15 digits, the first of which is not 0. Stored as the number of its digits.
/// +1000000 is not valid: see [`Phone::REMOVED_DIGITS`].
///
/// `Display` writes the full number, for Meta and for reports. `Debug` writes only the last four digits, for logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Phone(NonZeroU64);

impl Phone {
    /// Replaces a removed number in stored data. Nobody has this number: no area code of North America begins with 0.
    /// Releases that do not know its meaning treat it as an ordinary number.
    pub const REMOVED_DIGITS: u64 = 1_000_000;

    /// The digits as an integer, below 10^15.
    pub fn digits(self) -> u64 {
        self.0.get()
    }

    /// The inverse of [`Phone::digits`]; `None` if the digits are not a number in E.164.
    pub fn from_digits(digits: u64) -> Option<Self> {
        let digits = NonZeroU64::new(digits)?;
        (Self::REMOVED_DIGITS + 1..1_000_000_000_000_000).contains(&digits.get()).then_some(Self(digits))
    }
}

impl FromStr for Phone {
    type Err = NotE164;

    fn from_str(text: &str) -> Result<Self, NotE164> {
        let digits = text.strip_prefix('+').ok_or(NotE164)?;
        let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
        if !plain || !(7..=15).contains(&digits.len()) {
            return Err(NotE164);
        }
        digits.parse().ok().and_then(Self::from_digits).ok_or(NotE164)
    }
}

impl fmt::Display for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "+{}", self.0)
    }
}

impl fmt::Debug for Phone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "…{:04}", self.digits() % 10_000)
    }
}

impl Serialize for Phone {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Phone {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// The calling code of a country, or of the countries that share it, such as 1 for North America.
///
/// Source: ITU-T, list of country codes assigned under E.164.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallingCode(u16);

impl CallingCode {
    /// The calling code of a number.
    pub fn of(phone: Phone) -> Self {
        let digits = phone.digits();
        let first = |n: u32| (digits / 10_u64.pow(digits.ilog10() + 1 - n)) as u16;
        Self(match first(2) {
            10..=19 | 70..=79 => first(1),
            20 | 27 | 30..=34 | 36 | 39..=41 | 43..=49 | 51..=58 | 60..=66 | 81 | 82 | 84 | 86 | 90..=95 | 98 => {
                first(2)
            }
            _ => first(3),
        })
    }
}

impl fmt::Display for CallingCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for CallingCode {
    type Err = ParseIntError;

    fn from_str(text: &str) -> Result<Self, ParseIntError> {
        text.parse().map(Self)
    }
}

/// The text is not a phone number in E.164.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a phone number in E.164, such as +5491155550001")]
pub struct NotE164;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_e164_is_a_phone_number() {
        for good in ["+5491155550001", "+1234567", "+447700900123", "+123456789012345"] {
            assert_eq!(good.parse::<Phone>().expect("a number in E.164").to_string(), good);
        }
        for bad in [
            "",
            "+",
            "5491155550001",
            "+0123456789",
            "+1000000",
            "+123456",
            "+1234567890123456",
            "+54 911",
            "+54a1155550001",
            "++5491155550001",
        ] {
            assert_eq!(bad.parse::<Phone>(), Err(NotE164), "{bad}");
        }
    }

    #[test]
    fn a_log_shows_only_the_last_four_digits() {
        assert_eq!(format!("{:?}", Phone::from_digits(5_491_155_550_001).expect("a number")), "…0001");
    }

    #[test]
    fn the_calling_code_has_one_to_three_digits() {
        for (number, code) in [
            ("+12025550123", "1"),
            ("+79161234567", "7"),
            ("+5491155550001", "54"),
            ("+447700900123", "44"),
            ("+919876543210", "91"),
            ("+59899123456", "598"),
            ("+2348012345678", "234"),
            ("+35312345678", "353"),
            ("+1234567", "1"),
        ] {
            assert_eq!(CallingCode::of(number.parse().expect(number)).to_string(), code, "{number}");
        }
    }
}
