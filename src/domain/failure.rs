//! Meta's error codes, and why a recipient failed.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::policy;

/// One of Meta's error codes. 0 is one of them: it is about the access token. [`policy`] has their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetaCode(pub u32);

impl fmt::Display for MetaCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An optional code as the API writes it in `failures` and in the reason of a pause: a number, 0 if there is none.
pub mod code_or_zero {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::MetaCode;

    /// Writes the number of the code, or 0.
    pub fn serialize<S: Serializer>(code: &Option<MetaCode>, serializer: S) -> Result<S::Ok, S::Error> {
        code.map_or(0, |MetaCode(code)| code).serialize(serializer)
    }

    /// Reads 0 as no code.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<MetaCode>, D::Error> {
        let code = u32::deserialize(deserializer)?;
        Ok((code != 0).then_some(MetaCode(code)))
    }
}

/// Why a recipient failed, is retried, or has no result. The order is: no answer, then
/// Meta's codes, then failures without a code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailureReason {
    /// The request got no response, or one that is not Meta's.
    NoAnswer,
    /// Meta reported this error.
    Meta(MetaCode),
    /// Meta reported the failure without a code.
    NotGiven,
}

impl FailureReason {
    /// Meta's code, if it gave one.
    pub fn code(self) -> Option<MetaCode> {
        match self {
            FailureReason::Meta(code) => Some(code),
            FailureReason::NoAnswer | FailureReason::NotGiven => None,
        }
    }

    /// The title in reports and in the failure statistics. A code that is not in the table has the title
    /// `unknown error`.
    pub fn title(self) -> &'static str {
        match self {
            FailureReason::NoAnswer => "no answer",
            FailureReason::Meta(code) => policy::rule(code).map_or("unknown error", |rule| rule.title),
            FailureReason::NotGiven => "Meta reported the failure without a reason",
        }
    }
}

impl From<MetaCode> for FailureReason {
    fn from(code: MetaCode) -> Self {
        FailureReason::Meta(code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Cause;

    #[test]
    fn no_answer_is_distinct_from_metas_code_0() {
        for cause in [Cause::Unreachable(String::new()), Cause::Unanswered(String::new())] {
            assert_eq!((cause.code(), cause.reason()), (None, FailureReason::NoAnswer));
        }
        let token = Cause::Meta { code: MetaCode(0), details: String::new() };
        assert_eq!((token.code(), token.reason()), (Some(MetaCode(0)), FailureReason::Meta(MetaCode(0))));
        let titles = [token.reason(), FailureReason::NoAnswer, FailureReason::NotGiven].map(FailureReason::title);
        let expected =
            ["App user could not be authenticated", "no answer", "Meta reported the failure without a reason"];
        assert_eq!(titles, expected);
        assert_eq!(FailureReason::Meta(MetaCode(999_999)).title(), "unknown error");
    }

    #[test]
    fn reasons_without_a_code_enclose_metas_codes_in_order() {
        let reasons = [
            FailureReason::NoAnswer,
            FailureReason::Meta(MetaCode(0)),
            FailureReason::Meta(MetaCode(131_026)),
            FailureReason::NotGiven,
        ];
        assert!(reasons.is_sorted());
    }
}
