//! Stored forms of values that have another form in the domain: failure reasons, holds and pause reasons.
//!
//! Workers of earlier releases and the scripts read the same forms.

use serde::{Deserialize, Serialize};

use crate::domain::{FailureReason, Hold, MetaCode, UnixMs, campaign::PauseReason};

/// The number of [`FailureReason::NoAnswer`]. Meta's own code 0 has the same number; it is about the token and fails
/// no recipient of a running campaign.
const NO_ANSWER: u32 = 0;

/// The number of [`FailureReason::NotGiven`]. No code of Meta is nearly as large.
const NOT_GIVEN: u32 = u32::MAX;

/// The number that is stored for `reason`.
pub(super) fn number_of(reason: FailureReason) -> u32 {
    match reason {
        FailureReason::NoAnswer => NO_ANSWER,
        FailureReason::Meta(MetaCode(code)) => code,
        FailureReason::NotGiven => NOT_GIVEN,
    }
}

/// The reason for which `number` is stored.
pub(super) fn reason_of(number: u32) -> FailureReason {
    match number {
        NO_ANSWER => FailureReason::NoAnswer,
        NOT_GIVEN => FailureReason::NotGiven,
        code => FailureReason::Meta(MetaCode(code)),
    }
}

/// The reason of a failed status as JSON: a number, or null. Each status comes from Meta, so 0 is Meta's code.
pub(super) mod of_status {
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    use super::{NOT_GIVEN, number_of};
    use crate::domain::{FailureReason, MetaCode};

    pub(in crate::redis) fn serialize<S: Serializer>(
        reason: &Option<FailureReason>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        reason.map(number_of).serialize(serializer)
    }

    pub(in crate::redis) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<FailureReason>, D::Error> {
        let reason = |number| match number {
            NOT_GIVEN => FailureReason::NotGiven,
            code => FailureReason::Meta(MetaCode(code)),
        };
        Ok(Option::deserialize(deserializer)?.map(reason))
    }
}

/// The optional code of a hold or a pause, as fields of its JSON.
///
/// Release 0.1.0 requires `code`, writes 0 for no code, and ignores `is_meta_0`.
#[derive(Serialize, Deserialize)]
struct OptionalCode {
    code: u32,
    /// Whether `code` 0 is Meta's code 0. Otherwise 0 means that there is no code.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    is_meta_0: bool,
}

impl From<Option<MetaCode>> for OptionalCode {
    fn from(code: Option<MetaCode>) -> Self {
        Self { code: code.map_or(0, |MetaCode(code)| code), is_meta_0: code == Some(MetaCode(0)) }
    }
}

impl From<OptionalCode> for Option<MetaCode> {
    fn from(OptionalCode { code, is_meta_0 }: OptionalCode) -> Self {
        (code != 0 || is_meta_0).then_some(MetaCode(code))
    }
}

/// A [`Hold`] as JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredHold {
    #[serde(flatten)]
    code: OptionalCode,
    reason: String,
    since: UnixMs,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    until: Option<UnixMs>,
}

impl From<&Hold> for StoredHold {
    fn from(Hold { code, reason, since, until }: &Hold) -> Self {
        Self { code: (*code).into(), reason: reason.clone(), since: *since, until: *until }
    }
}

impl From<StoredHold> for Hold {
    fn from(StoredHold { code, reason, since, until }: StoredHold) -> Self {
        Self { code: code.into(), reason, since, until }
    }
}

/// A [`PauseReason`] as JSON.
#[derive(Serialize, Deserialize)]
pub(super) struct StoredPauseReason {
    #[serde(flatten)]
    code: OptionalCode,
    details: String,
}

impl From<&PauseReason> for StoredPauseReason {
    fn from(PauseReason { code, details }: &PauseReason) -> Self {
        Self { code: (*code).into(), details: details.clone() }
    }
}

impl From<StoredPauseReason> for PauseReason {
    fn from(StoredPauseReason { code, details }: StoredPauseReason) -> Self {
        Self { code: code.into(), details }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_numbers_of_reasons_are_unchanged() {
        let stored = [
            (FailureReason::NoAnswer, 0),
            (FailureReason::Meta(MetaCode(131_026)), 131_026),
            (FailureReason::NotGiven, 4_294_967_295),
        ];
        for (reason, number) in stored {
            assert_eq!((number_of(reason), reason_of(number)), (number, reason));
        }
    }

    #[test]
    fn a_hold_and_a_pause_reason_are_stored_as_0_1_0_reads_them() {
        let stored = [
            (None, r#""code":0"#),
            (Some(MetaCode(190)), r#""code":190"#),
            (Some(MetaCode(0)), r#""code":0,"is_meta_0":true"#),
        ];
        for (code, json) in stored {
            let hold = Hold { code, reason: "why".into(), since: UnixMs(1_000), until: None };
            let json_of_hold = format!(r#"{{{json},"reason":"why","since":"1970-01-01T00:00:01Z"}}"#);
            assert_eq!(serde_json::to_string(&StoredHold::from(&hold)).expect("JSON"), json_of_hold);
            assert_eq!(Hold::from(serde_json::from_str::<StoredHold>(&json_of_hold).expect("a hold")), hold);
            let pause = PauseReason { code, details: "why".into() };
            let json_of_pause = format!(r#"{{{json},"details":"why"}}"#);
            assert_eq!(serde_json::to_string(&StoredPauseReason::from(&pause)).expect("JSON"), json_of_pause);
            let read = serde_json::from_str::<StoredPauseReason>(&json_of_pause).expect("a reason");
            assert_eq!(PauseReason::from(read), pause);
        }
    }
}
