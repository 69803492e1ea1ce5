//! The person behind a phone number.

use super::{Phone, number_plans};

/// A person, as far as the number tells: the [canonical form](number_plans::canonical) of the number. Both forms of a mobile
/// number in Argentina, Brazil and Mexico are the same person.
///
/// `Debug` writes only the last four digits, for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Person(Phone);

impl Person {
    /// The canonical number. The person may be known to others by another form of it, so nothing is sent to it.
    pub fn phone(self) -> Phone {
        self.0
    }

    /// Every number that the person may be known by, the canonical one first: at most two.
    pub fn numbers(self) -> impl Iterator<Item = Phone> {
        number_plans::forms(self.0)
    }

    /// Identifies the person: the digits of the canonical number, below 10^15.
    pub fn digits(self) -> u64 {
        self.0.digits()
    }
}

impl From<Phone> for Person {
    fn from(phone: Phone) -> Self {
        Self(number_plans::canonical(phone))
    }
}
