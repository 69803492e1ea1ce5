//! The person behind a phone number.

use std::fmt;

use super::Phone;

/// A person, as far as the number tells: two numbers that differ only in a prefix of mobile phones are the same person.
///
/// Meta may name the recipient of a message by another form of the number than the one that was sent to: in Brazil with
/// or without the 9 before the eight digits, in Mexico with or without the 1 after 52, in Argentina with or without the 9
/// after 54.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Person(u64);

impl Person {
    /// Identifies the person: the digits of the number, below 10^15.
    pub fn digits(self) -> u64 {
        self.0
    }
}

impl From<Phone> for Person {
    fn from(phone: Phone) -> Self {
        // Each of these forms has 13 digits with the prefix, and 12 without it.
        let digits = phone.digits();
        let without = |power: u32| digits / 10_u64.pow(power + 1) * 10_u64.pow(power) + digits % 10_u64.pow(power);
        let is_brazilian_mobile = digits / 10_u64.pow(11) == 55 && digits / 10_u64.pow(8) % 10 == 9;
        Self(match digits / 10_u64.pow(10) {
            521 | 549 => without(10),
            _ if is_brazilian_mobile => without(8),
            _ => digits,
        })
    }
}

/// Only the last four digits, for logs.
impl fmt::Debug for Person {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "…{:04}", self.0 % 10_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn person(number: &str) -> Person {
        number.parse::<Phone>().expect(number).into()
    }

    #[test]
    fn both_forms_of_a_mobile_number_are_one_person() {
        for (with, without) in [
            ("+5511987654321", "+551187654321"),
            ("+5215512345678", "+525512345678"),
            ("+5491155550001", "+541155550001"),
        ] {
            assert_eq!(person(with), person(without));
        }
    }

    #[test]
    fn other_numbers_are_people_of_their_own() {
        let numbers =
            ["+551187654321", "+551137654321", "+5511887654321", "+12025550123", "+5219876543", "+54911555500"];
        for number in numbers {
            assert_eq!(format!("+{}", person(number).digits()), number);
        }
    }
}
