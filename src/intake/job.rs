//! What a job says: the JSON of one entry of the stream.
//!
//! The type is read first and the rest as that type says, so that recipients stay the text that they came as: read into
//! a tree, a job of a few bytes for each recipient would take a hundred times its size.

use std::{borrow::Cow, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, IgnoredAny, IntoDeserializer as _, MapAccess, Visitor, value::MapAccessDeserializer},
};
use serde_json::value::RawValue;

use super::{CampaignAction, NewCampaign};
use crate::json;

/// The field that says what a job is.
const TYPE: &str = "type";

/// An entry's field `job`.
#[derive(Debug)]
pub enum Job {
    /// Create a campaign.
    Campaign(Box<NewCampaign>),
    /// Add recipients to a campaign.
    Recipients(RecipientsJob),
    /// Do something with a campaign.
    Change(CampaignAction, Named),
}

/// Recipients for a campaign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecipientsJob {
    /// The campaign's.
    pub external_id: String,
    /// The caller's name for them; without one the entry's id is taken.
    pub upload_id: Option<String>,
    /// As `RawRecipient` describes them, each one yet to be read.
    pub recipients: Vec<Box<RawValue>>,
}

/// The name of a campaign.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The campaign's.
    pub external_id: String,
}

impl Job {
    /// Reads a job.
    ///
    /// Errors: it is no JSON object, or not one of those above; what is wrong, and where.
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
        }

        #[derive(Deserialize)]
        struct Typed {
            r#type: Type,
        }

        let mut json = serde_json::Deserializer::from_slice(job);
        let action = match json::object::<Typed, _>(&mut json)?.r#type {
            Type::Campaign => return untyped(job).map(Box::new).map(Job::Campaign),
            Type::Recipients => return untyped(job).map(Job::Recipients),
            Type::Launch => CampaignAction::Launch,
            Type::Pause => CampaignAction::Pause,
            Type::Resume => CampaignAction::Resume,
            Type::Cancel => CampaignAction::Cancel,
        };
        Ok(Job::Change(action, untyped(job)?))
    }
}

/// Everything but the type, read as a `T`.
fn untyped<'de, T: Deserialize<'de>>(job: &'de [u8]) -> serde_json::Result<T> {
    struct Untyped<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Untyped<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a job object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(WithoutType(map)))
        }
    }

    let mut json = serde_json::Deserializer::from_slice(job);
    let read = json.deserialize_map(Untyped(PhantomData))?;
    json.end()?;
    Ok(read)
}

/// The fields of an object without [`TYPE`].
struct WithoutType<A>(A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for WithoutType<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, A::Error> {
        while let Some(name) = self.0.next_key::<Cow<'de, str>>()? {
            if name != TYPE {
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
    fn a_job_is_read_wherever_its_type_stands() {
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
    fn a_job_that_can_not_be_read_says_why() {
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
        ];
        for (job, why) in cases {
            let error = Job::read(job.as_bytes()).expect_err(job).to_string();
            assert!(error.contains(why), "{job}: {error}");
        }
    }

    #[test]
    fn a_recipient_is_the_same_inside_of_a_job() {
        let row = r#"{"to":"+5491155550001","params":{"1":12.50,"2":-3},"header":{"id":17},"buttons":{"0":"x"}}"#;
        let job = format!(r#"{{"type":"recipients","external_id":"a","recipients":[ {row} ]}}"#);
        let Ok(Job::Recipients(RecipientsJob { recipients, .. })) = Job::read(job.as_bytes()) else { panic!("{job}") };
        let inside = RawRecipient::from_json(recipients[0].get().as_bytes()).expect("a row");
        assert!(inside == RawRecipient::from_json(row.as_bytes()).expect("a row"));
    }
}
