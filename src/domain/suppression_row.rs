//! A suppression in an imported list, as the caller wrote it.
//!
//! The only JSON form, of which only `phone` is required:
//!
//! ```json
//! {"phone": "+5491155550001", "business": "1001", "scope": "marketing", "reason": "opt_out",
//!  "since": "2026-11-22T18:00:00Z", "source": "stop_word"}
//! ```
//!
//! These are the fields of an export too, so that an export can be imported.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer};
use utoipa::ToSchema;

use super::{
    BusinessId, Phone, Reject, Suppression, SuppressionReason, SuppressionScope, SuppressionSource, UnixMs,
    recipient::{Text, json_row},
    reject::{quoted, redacted},
};

/// How far in the future a `since` may be by the clock of Redis, because the clock of its writer may be ahead.
const AHEAD_MAX: Duration = Duration::from_secs(24 * 3600);

/// A row of an import of suppressions. An empty text counts as absent.
#[derive(Clone, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[schema(as = SuppressionRow)]
#[serde(deny_unknown_fields, expecting = "a suppression object")]
pub struct RawSuppression {
    /// The phone number in E.164.
    #[serde(deserialize_with = "phone")]
    #[schema(value_type = Phone)]
    pub phone: String,
    /// The business, which must be that of the import.
    #[serde(default)]
    #[schema(value_type = Option<BusinessId>)]
    pub business: Option<String>,
    /// Which messages the person does not want. Without it, the scope of the import.
    #[serde(default)]
    #[schema(value_type = Option<SuppressionScope>)]
    pub scope: Option<String>,
    /// Why the person gets no messages. Without it, the reason of the import.
    #[serde(default)]
    #[schema(value_type = Option<SuppressionReason>)]
    pub reason: Option<String>,
    /// Since when, in whole seconds. Without it, now.
    #[serde(default)]
    #[schema(value_type = Option<UnixMs>)]
    pub since: Option<String>,
    /// Where the suppression came from when it was exported. The entry of an import has the source `import`.
    #[serde(default)]
    #[schema(value_type = Option<SuppressionSource>)]
    pub source: Option<String>,
}

// The phone number is personal data: `Debug` writes its last four digits.
impl fmt::Debug for RawSuppression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawSuppression").field("phone", &redacted(&self.phone)).finish_non_exhaustive()
    }
}

/// What the rows of an import have in common.
#[derive(Clone, Debug)]
pub struct SuppressionDefaults {
    /// The business of the import.
    pub business: BusinessId,
    /// The scope of rows without one.
    pub scope: Option<SuppressionScope>,
    /// The reason of rows without one.
    pub reason: SuppressionReason,
    /// The present, and the `since` of rows without one.
    pub now: UnixMs,
}

impl RawSuppression {
    /// The fields, which are the columns of a CSV.
    pub const COLUMNS: [&str; 6] = ["phone", "business", "scope", "reason", "since", "source"];

    /// Sets the field of a column. An unknown column is ignored.
    pub fn set(&mut self, column: &str, value: &str) {
        let value = Some(value.to_owned());
        match column {
            "business" => self.business = value,
            "scope" => self.scope = value,
            "reason" => self.reason = value,
            "since" => self.since = value,
            "source" => self.source = value,
            _ => {}
        }
    }

    /// Parses one line of NDJSON.
    ///
    /// Errors: [`Reject::Malformed`] with the cause and the column.
    pub fn from_json(line: &[u8]) -> Result<Self, Reject> {
        json_row(line, "{\"phone\": \"+5491155550001\", \"scope\": \"all\"}")
    }

    /// Checks the row, and fills in what it leaves out. Returns the number and the entry to store.
    pub fn fit(&self, defaults: &SuppressionDefaults) -> Result<(Phone, Suppression), Reject> {
        let phone: Phone = self.phone.parse().map_err(|_| Reject::not_e164("phone", &self.phone))?;
        if let Some(other) = given(&self.business).filter(|business| *business != defaults.business.as_str()) {
            return Err(Reject::OtherBusiness(quoted(other)));
        }
        let scope = word("scope", &self.scope, SuppressionScope::ALL, SuppressionScope::name)?;
        let reason = word("reason", &self.reason, SuppressionReason::ALL, SuppressionReason::name)?;
        word("source", &self.source, SuppressionSource::ALL, SuppressionSource::name)?;
        let entry = Suppression {
            phone: Some(phone),
            scope: scope.or(defaults.scope).ok_or(Reject::ScopeMissing)?,
            reason: reason.unwrap_or(defaults.reason),
            source: SuppressionSource::Import,
            since: self.since(defaults.now)?,
        };
        Ok((phone, entry))
    }

    fn since(&self, now: UnixMs) -> Result<UnixMs, Reject> {
        let Some(text) = given(&self.since) else { return Ok(now) };
        let since = UnixMs::parse(text).ok_or_else(|| Reject::NotATime(quoted(text)))?;
        if since > now.after(AHEAD_MAX) {
            return Err(Reject::InTheFuture(quoted(text)));
        }
        Ok(since)
    }
}

/// The text of a field, unless it is empty.
fn given(field: &Option<String>) -> Option<&str> {
    field.as_deref().filter(|text| !text.is_empty())
}

/// The value that a field names, if it is given.
fn word<T: Copy, const N: usize>(
    field: &'static str,
    text: &Option<String>,
    values: [T; N],
    name: impl Fn(T) -> &'static str,
) -> Result<Option<T>, Reject> {
    let Some(text) = given(text) else { return Ok(None) };
    let value = values.into_iter().find(|value| name(*value) == text);
    let unknown = || Reject::UnknownWord { field, value: quoted(text), words: values.into_iter().map(&name).collect() };
    value.map(Some).ok_or_else(unknown)
}

fn phone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(Text { name: "phone" })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMs = UnixMs(1_795_300_000_000);

    fn fit(row: &str) -> Result<Suppression, String> {
        let defaults =
            SuppressionDefaults { business: "1001".into(), scope: None, reason: SuppressionReason::Register, now: NOW };
        let fitted = RawSuppression::from_json(row.as_bytes()).and_then(|raw| raw.fit(&defaults));
        fitted.map(|(_, entry)| entry).map_err(|reject| format!("{}: {reject}", reject.code()))
    }

    #[test]
    fn a_row_that_leaves_fields_out_takes_them_from_the_import() {
        let entry = Suppression {
            phone: Phone::from_digits(5_491_155_550_001),
            scope: SuppressionScope::Marketing,
            reason: SuppressionReason::Register,
            source: SuppressionSource::Import,
            since: NOW,
        };
        let bare = r#"{"phone":"+5491155550001","scope":"marketing","reason":"","since":null}"#;
        assert_eq!(fit(bare), Ok(entry));
        let full = r#"{"phone":"+5491155550001","business":"1001","scope":"all","reason":"complaint",
            "since":"2026-01-02T03:04:05Z","source":"stop_word"}"#;
        let since = UnixMs::parse("2026-01-02T03:04:05Z").expect("a time");
        let exported =
            Suppression { scope: SuppressionScope::All, reason: SuppressionReason::Complaint, since, ..entry };
        assert_eq!(fit(full), Ok(exported));
    }

    #[test]
    fn a_row_that_is_wrong_says_how_to_correct_it() {
        let all = |more: &str| format!(r#"{{"phone":"+5491155550001","scope":"all",{more}}}"#);
        for (row, begin) in [
            (r#"{"phone":"5491155550001","scope":"all"}"#.to_owned(), "not_e164: `phone` is …0001: the plus in front"),
            (r#"{"phone":5491155550001,"scope":"all"}"#.to_owned(), "not_e164: `phone` is …0001: the plus in front"),
            (r#"{"phone":"+5491155550001"}"#.to_owned(), "scope_missing: the row has no scope: give it one"),
            (
                r#"{"phone":"+5491155550001","scope":"everything"}"#.to_owned(),
                "unknown_word: scope is everything, and it is one of marketing, all",
            ),
            (all(r#""reason":"stop""#), "unknown_word: reason is stop, and it is one of opt_out, complaint"),
            (all(r#""source":"crm""#), "unknown_word: source is crm, and it is one of api, import"),
            (all(r#""since":"2026-11-22""#), "not_a_time: since is 2026-11-22, which is not a time with its offset"),
            (all(r#""since":"2099-11-22T00:00:00Z""#), "in_the_future: since is "),
            (all(r#""business":"1002""#), "other_business: the row is of business 1002, and the import is not"),
            (all(r#""to":"+1""#), "malformed: the row cannot be read: there is no field `to`"),
            (r#"{"scope":"all"}"#.to_owned(), "malformed: the row cannot be read: the field `phone` is missing"),
            ("[]".to_owned(), "malformed: the row cannot be read: it is a JSON list"),
        ] {
            let reject = fit(&row).expect_err(&row);
            assert!(reject.starts_with(begin), "{reject}");
        }
    }
}
