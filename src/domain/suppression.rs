//! Suppression: people who want no messages from a business.

use serde::{Deserialize, Serialize};
use siphasher::sip::SipHasher24;
use utoipa::ToSchema;

use super::{Person, Phone, TokenKey, UnixMs};

/// A person in the lists of suppressed people: a keyed hash, from which the number cannot be computed without the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PersonHash(pub u64);

impl PersonHash {
    /// The hash of a person in the installation with this `key`.
    pub fn of(person: Person, key: &TokenKey) -> Self {
        // The key also signs tokens. No token is eight bytes long, so the two uses never hash the same input.
        Self(SipHasher24::new_with_key(key.secret()).hash(&person.digits().to_be_bytes()))
    }
}

/// Which messages a person does not want.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionScope {
    /// Messages of the category marketing.
    #[default]
    Marketing,
    /// All messages of campaigns.
    All,
}

impl SuppressionScope {
    /// Every scope.
    pub const ALL: [Self; 2] = [Self::Marketing, Self::All];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Marketing => "marketing",
            Self::All => "all",
        }
    }
}

/// Why a person gets no messages.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionReason {
    /// The person asked for it.
    #[default]
    OptOut,
    /// The person complained.
    Complaint,
    /// The number is in a register of people who want no advertising.
    Register,
    /// Anything else.
    Other,
}

impl SuppressionReason {
    /// Every reason.
    pub const ALL: [Self; 4] = [Self::OptOut, Self::Complaint, Self::Register, Self::Other];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::OptOut => "opt_out",
            Self::Complaint => "complaint",
            Self::Register => "register",
            Self::Other => "other",
        }
    }
}

/// The source of a suppression.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionSource {
    /// A call of the API or the command line.
    Api,
    /// An uploaded list.
    Import,
    /// A message with a stop word.
    StopWord,
    /// A button that a campaign marks as an opt-out.
    Button,
    /// Meta: the person stopped marketing of the business in WhatsApp.
    Meta,
}

impl SuppressionSource {
    /// Every source.
    pub const ALL: [Self; 5] = [Self::Api, Self::Import, Self::StopWord, Self::Button, Self::Meta];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Import => "import",
            Self::StopWord => "stop_word",
            Self::Button => "button",
            Self::Meta => "meta",
        }
    }
}

/// A suppressed person.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppression {
    /// The number; `None` once the person was erased.
    pub phone: Option<Phone>,
    /// Which messages the person does not get.
    pub scope: SuppressionScope,
    /// Why.
    pub reason: SuppressionReason,
    /// The source.
    pub source: SuppressionSource,
    /// Since when, in whole seconds.
    pub since: UnixMs,
}

impl Suppression {
    /// Whether the suppression covers the messages of a campaign. `is_marketing`: whether its template is marketing.
    pub fn covers(&self, is_marketing: bool) -> bool {
        match self.scope {
            SuppressionScope::All => true,
            SuppressionScope::Marketing => is_marketing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_the_wire() {
        let json = |value: serde_json::Result<serde_json::Value>| value.expect("a text");
        for scope in SuppressionScope::ALL {
            assert_eq!(json(serde_json::to_value(scope)), scope.name());
        }
        for reason in SuppressionReason::ALL {
            assert_eq!(json(serde_json::to_value(reason)), reason.name());
        }
        for source in SuppressionSource::ALL {
            assert_eq!(json(serde_json::to_value(source)), source.name());
        }
    }

    #[test]
    fn both_forms_of_a_number_have_one_hash_that_depends_on_the_key() {
        let hash = |number: &str, key: u8| {
            PersonHash::of(number.parse::<Phone>().expect("a number").into(), &TokenKey::new([key; 16]))
        };
        assert_eq!(hash("+5491155550001", 1), hash("+541155550001", 1));
        assert_ne!(hash("+5491155550001", 1), hash("+5491155550002", 1));
        assert_ne!(hash("+5491155550001", 1), hash("+5491155550001", 2));
    }
}
