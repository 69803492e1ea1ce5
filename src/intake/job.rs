//! Parses a job: the JSON of one entry of the job stream.
//!
//! A job is parsed in two passes: first its `type`, then the fields of that type. Recipients stay raw JSON text. Parsed
//! into a tree of values, a job with a few bytes per recipient would need a hundred times its size in memory.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, IntoDeserializer as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::{json, value::RawValue};

use super::CampaignAction;
use crate::{api_types::NewCampaign, domain::EntryId, json};

/// The field with the type of a job.
const TYPE: &str = "type";

/// The field with the trace of the caller, in the format of W3C Trace Context.
const TRACEPARENT: &str = "traceparent";

/// The content of an entry's field `job`.
#[derive(Debug)]
pub enum Job {
    /// Create a campaign.
    Campaign(Box<NewCampaign>),
    /// Add recipients to a campaign.
    Recipients(RecipientsJob),
    /// Launch, pause, resume or cancel a campaign.
    Change(CampaignAction, CampaignRef),
    /// Retry the job of a dead letter.
    Retry(RetryJob),
}

/// Recipients for a campaign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientsJob {
    /// The `external_id` of the campaign.
    pub external_id: String,
    /// The caller's id for this upload. Default: the id of the entry.
    pub upload_id: Option<String>,
    /// One JSON object per recipient, not parsed yet. `RawRecipient` defines their form.
    pub recipients: Vec<Box<RawValue>>,
}

/// The campaign that a job changes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CampaignRef {
    /// The `external_id` of the campaign.
    pub external_id: String,
}

/// The dead letter whose job is retried.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RetryJob {
    /// The id of the dead letter.
    pub dead_letter: EntryId,
}

impl RetryJob {
    /// The job as JSON, as [`Job::read`] reads it.
    pub fn to_json(&self) -> String {
        json!({ TYPE: "retry", "dead_letter": self.dead_letter }).to_string()
    }
}

impl Job {
    /// Parses a job.
    ///
    /// Errors: the text is not a JSON object, or not a valid job; what is wrong, and where.
    pub fn read(job: &[u8]) -> serde_json::Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "snake_case")]
        enum Type {
            Campaign,
            Recipients,
            Launch,
            Pause,
            Resume,
            Cancel,
            Retry,
        }

        #[derive(Deserialize)]
        struct Typed {
            r#type: Type,
        }

        let mut json = serde_json::Deserializer::from_slice(job);
        let action = match json::object::<Typed, _>(&mut json)?.r#type {
            Type::Campaign => return read_fields(job).map(Box::new).map(Job::Campaign),
            Type::Recipients => return read_fields(job).map(Job::Recipients),
            Type::Retry => return read_fields(job).map(Job::Retry),
            Type::Launch => CampaignAction::Launch,
            Type::Pause => CampaignAction::Pause,
            Type::Resume => CampaignAction::Resume,
            Type::Cancel => CampaignAction::Cancel,
        };
        Ok(Job::Change(action, read_fields(job)?))
    }
}

/// The field `traceparent` of a job; `None` if it is not a text.
pub fn traceparent(job: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Traced {
        traceparent: String,
    }

    let traced = json::object::<Traced, _>(&mut serde_json::Deserializer::from_slice(job));
    traced.ok().map(|traced| traced.traceparent)
}

/// Parses all fields except those that every job has as a `T`.
fn read_fields<'de, T: Deserialize<'de>>(job: &'de [u8]) -> serde_json::Result<T> {
    struct Fields<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a job object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(OwnFields(map)))
        }
    }

    let mut json = serde_json::Deserializer::from_slice(job);
    let fields = json.deserialize_map(Fields(PhantomData))?;
    json.end()?;
    Ok(fields)
}

/// Skips the fields [`TYPE`] and [`TRACEPARENT`] of an object.
struct OwnFields<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for OwnFields<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.0.next_key::<Cow<'de, str>>()? {
            if name != TYPE && name != TRACEPARENT {
                return seed.deserialize(name.into_deserializer()).map(Some);
            }
            self.0.next_value::<IgnoredAny>()?;
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.0.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::RawRecipient;

    #[test]
    fn the_type_of_a_job_may_be_at_any_position() {
        for job in [
            r#"{"type":"recipients","external_id":"a","recipients":[{"to":"+1"},7],"upload_id":"u"}"#,
            r#"{"external_id":"a","recipients":[{"to":"+1"},7],"upload_id":"u","type":"recipients"}"#,
        ] {
            let Ok(Job::Recipients(RecipientsJob { external_id, upload_id, recipients })) = Job::read(job.as_bytes())
            else {
                panic!("{job}");
            };
            assert_eq!((external_id.as_str(), upload_id.as_deref()), ("a", Some("u")));
            let texts: Vec<&str> = recipients.iter().map(|recipient| recipient.get()).collect();
            assert_eq!(texts, [r#"{"to":"+1"}"#, "7"]);
        }
        let job = br#"{"type":"pause","external_id":"a"}"#;
        assert!(matches!(Job::read(job), Ok(Job::Change(CampaignAction::Pause, named)) if named.external_id == "a"));
    }

    #[test]
    fn a_retry_is_read_as_it_is_written() {
        let retry = RetryJob { dead_letter: EntryId { ms: 1_795_339_608_844, number: 1 } };
        assert_eq!(retry.to_json(), r#"{"dead_letter":"1795339608844-1","type":"retry"}"#);
        let read = Job::read(retry.to_json().as_bytes());
        assert!(matches!(read, Ok(Job::Retry(read)) if read.dead_letter == retry.dead_letter));
    }

    #[test]
    fn an_invalid_job_is_rejected_with_the_reason() {
        let cases = [
            ("", "EOF while parsing a value"),
            ("[]", "expected an object"),
            (r#"["pause","a"]"#, "invalid type: sequence, expected an object"),
            (
                r#"{"type":"campaign","external_id":"a","name":"n","template":["t","es"],"lines":[]}"#,
                "invalid type: sequence",
            ),
            ("{}", "missing field `type`"),
            (r#"{"type":"sing"}"#, "unknown variant `sing`"),
            (r#"{"type":"pause","type":"pause","external_id":"a"}"#, "duplicate field `type`"),
            (r#"{"type":"pause"}"#, "missing field `external_id`"),
            (r#"{"type":"pause","external_id":"a","why":1}"#, "unknown field `why`"),
            (r#"{"type":"pause","external_id":"a"} x"#, "trailing characters"),
            (r#"{"type":"recipients","external_id":"a","recipients":{}}"#, "invalid type: map, expected a sequence"),
            (r#"{"type":"campaign","external_id":"a"}"#, "missing field `name`"),
            (r#"{"type":"retry","dead_letter":"yesterday"}"#, "not the id of an entry, such as 1795339607791-0"),
            (r#"{"type":"retry","dead_letter":"7-0","external_id":"a"}"#, "unknown field `external_id`"),
        ];
        for (job, why) in cases {
            let error = Job::read(job.as_bytes()).expect_err(job).to_string();
            assert!(error.contains(why), "{job}: {error}");
        }
    }

    #[test]
    fn a_recipient_in_a_job_parses_as_in_an_upload() {
        let row = r#"{"to":"+5491155550001","params":{"1":12.50,"2":-3},"header":{"id":17},"buttons":{"0":"x"}}"#;
        let job = format!(r#"{{"type":"recipients","external_id":"a","recipients":[ {row} ]}}"#);
        let Ok(Job::Recipients(RecipientsJob { recipients, .. })) = Job::read(job.as_bytes()) else { panic!("{job}") };
        let inside = RawRecipient::from_json(recipients[0].get().as_bytes()).expect("a row");
        assert!(inside == RawRecipient::from_json(row.as_bytes()).expect("a row"));
    }
}
