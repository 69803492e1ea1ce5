//! The person behind a phone number.

use super::{Phone, number_plans};

/// A person, identified by the [canonical form](number_plans::canonical) of the phone number. Both forms of a mobile
/// number in Argentina, Brazil and Mexico are the same person.
///
/// `Debug` writes only the last four digits, for logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Person(Phone);

impl Person {
    /// The canonical number. Never send to it: Meta may know the person by the other form.
    pub fn phone(self) -> Phone {
        self.0
    }

    /// Every number that may belong to the person, the canonical one first: at most two.
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
