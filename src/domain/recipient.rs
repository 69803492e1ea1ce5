//! A recipient as the caller wrote it, and as it is stored once it fits its template.
//!
//! The only JSON form:
//!
//! ```json
//! {"to": "+5491155550001",
//!  "params": {"1": "Maria", "2": "A-10"},
//!  "header": "Spring",
//!  "buttons": {"0": "u/abc", "1": "SAVE20"},
//!  "zone": "America/Bogota"}
//! ```
//!
//! `header` is a text for a text header, `{"link"}` or `{"id"}` (and `"filename"` for a document) for media, and
//! `{"latitude", "longitude", "name", "address"}` for a location. The keys of `buttons` are the positions among all
//! buttons of the template, from 0. A number is accepted wherever a text is expected, and is read as its text.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{DeserializeSeed, Error, MapAccess, Visitor, value::MapAccessDeserializer},
};

use super::{Phone, Reject};

/// 2^53: a JSON number of this size or more, parsed as `f64`, may have lost digits.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// One recipient as the caller wrote it, not yet checked against a template.
#[derive(Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, expecting = "a recipient object")]
pub struct RawRecipient {
    /// The phone number, not yet checked.
    #[serde(deserialize_with = "text")]
    pub to: String,
    /// Values of body parameters by name, in the caller's order. A name may occur twice.
    #[serde(default, deserialize_with = "pairs")]
    pub params: Vec<(String, String)>,
    /// The value of the header.
    #[serde(default)]
    pub header: Option<RawHeader>,
    /// Values of buttons by index, in the caller's order. An index may occur twice.
    #[serde(default, deserialize_with = "pairs")]
    pub buttons: Vec<(String, String)>,
    /// The name of the time zone where the person is, not yet checked. `None`: go by the phone number.
    #[serde(default)]
    pub zone: Option<String>,
}

impl RawRecipient {
    /// Parses one line of NDJSON.
    ///
    /// Errors: [`Reject::Malformed`] with the cause and the column.
    pub fn from_json(line: &[u8]) -> Result<Self, Reject> {
        json_row(line, "{\"to\": \"+5491155550001\"}")
    }
}

/// One line of NDJSON. `example` is a row for the message about a line that is a list.
pub(super) fn json_row<'de, T: Deserialize<'de>>(line: &'de [u8], example: &str) -> Result<T, Reject> {
    // serde would accept an array for a struct, with the fields identified by position.
    if line.trim_ascii_start().first() == Some(&b'[') {
        return Err(Reject::Malformed(format!("it is a JSON list; write one object a line, such as {example}")));
    }
    serde_json::from_slice(line).map_err(|error| Reject::malformed_json(&error))
}

/// The value of a header as the caller wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawHeader {
    /// A JSON string, or the CSV column `header`. For media it is a link or an id.
    Text(String),
    /// A JSON object, or the CSV columns `header.link`, `header.latitude` and so on.
    Fields(Box<HeaderFields>),
}

/// The fields of a media or location header.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderFields {
    /// The URL from which Meta fetches the media.
    #[serde(deserialize_with = "optional_text")]
    pub link: Option<String>,
    /// The id of media uploaded to Meta.
    #[serde(deserialize_with = "optional_text")]
    pub id: Option<String>,
    /// The file name of a document on the recipient's phone.
    #[serde(deserialize_with = "optional_text")]
    pub filename: Option<String>,
    /// In degrees, north is positive.
    #[serde(deserialize_with = "optional_text")]
    pub latitude: Option<String>,
    /// In degrees, east is positive.
    #[serde(deserialize_with = "optional_text")]
    pub longitude: Option<String>,
    /// The name of the location.
    #[serde(deserialize_with = "optional_text")]
    pub name: Option<String>,
    /// The address of the location.
    #[serde(deserialize_with = "optional_text")]
    pub address: Option<String>,
}

impl HeaderFields {
    /// Media written as one text: a link if it starts with `https://`, else an id.
    pub fn medium(text: String) -> Self {
        if text.starts_with("https://") {
            Self { link: Some(text), ..Self::default() }
        } else {
            Self { id: Some(text), ..Self::default() }
        }
    }
}

/// One recipient that fits its template.
#[derive(Clone, PartialEq, Eq)]
pub struct Recipient {
    /// The phone number.
    pub to: Phone,
    /// One value for each slot of the template's form, in the order of the slots.
    pub values: Vec<String>,
}

// `RawRecipient` and `Recipient` contain personal data, so `Debug` writes only the last four characters of the phone
// number, and how many values there are.

impl fmt::Debug for RawRecipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.to.char_indices().rev().nth(3).map_or("", |(at, _)| &self.to[at..]);
        f.debug_struct("RawRecipient")
            .field("to", &format_args!("…{last}"))
            .field("params", &self.params.len())
            .field("header", &self.header.is_some())
            .field("buttons", &self.buttons.len())
            .field("zone", &self.zone.is_some())
            .finish()
    }
}

impl fmt::Debug for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recipient").field("to", &self.to).field("values", &self.values.len()).finish()
    }
}

/// Reads a JSON string, or a number as its text. `name` is the parameter to name in an error.
pub(super) struct Text<'a> {
    pub(super) name: &'a str,
}

impl<'de> DeserializeSeed<'de> for Text<'_> {
    type Value = String;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<String, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Visitor<'_> for Text<'_> {
    type Value = String;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a string or a number for `{}`", self.name)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_string<E: Error>(self, text: String) -> Result<String, E> {
        Ok(text)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }

    /// A fraction becomes its shortest text: `12.50` becomes `12.5`, which most JSON writers produce anyway.
    fn visit_f64<E: Error>(self, number: f64) -> Result<String, E> {
        match serde_json::Number::from_f64(number).filter(|_| number.abs() < WHOLE_MAX) {
            Some(number) => Ok(number.to_string()),
            None => Err(E::custom(format_args!("the number for `{}` loses digits: write it as a string", self.name))),
        }
    }
}

fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(Text { name: "to" })
}

/// A text of the header object; `null` counts as absent.
fn optional_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    struct Field(String);

    impl<'de> Deserialize<'de> for Field {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            deserializer.deserialize_any(Text { name: "header" }).map(Field)
        }
    }

    Ok(Option::<Field>::deserialize(deserializer)?.map(|field| field.0))
}

/// A JSON object of texts, read as a list of pairs. A row has only a few, so a map would cost more than it saves.
/// `null` is read as empty.
fn pairs<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<(String, String)>, D::Error> {
    struct Pairs;

    impl<'de> Visitor<'de> for Pairs {
        type Value = Vec<(String, String)>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object of texts by name")
        }

        fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
            Ok(Vec::new())
        }

        fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
            let mut pairs = Vec::new();
            while let Some(name) = map.next_key::<String>()? {
                let value = map.next_value_seed(Text { name: &name })?;
                pairs.push((name, value));
            }
            Ok(pairs)
        }
    }

    deserializer.deserialize_any(Pairs)
}

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Header;

        impl<'de> Visitor<'de> for Header {
            type Value = RawHeader;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an object for `header`")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<RawHeader, E> {
                Ok(RawHeader::Text(text.to_owned()))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<RawHeader, E> {
                Ok(RawHeader::Text(number.to_string()))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<RawHeader, E> {
                Ok(RawHeader::Text(number.to_string()))
            }

            fn visit_f64<E: Error>(self, number: f64) -> Result<RawHeader, E> {
                Text { name: "header" }.visit_f64(number).map(RawHeader::Text)
            }

            fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<RawHeader, M::Error> {
                HeaderFields::deserialize(MapAccessDeserializer::new(map))
                    .map(|fields| RawHeader::Fields(Box::new(fields)))
            }
        }

        deserializer.deserialize_any(Header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn a_number_is_read_as_its_text() {
        let line = br#"{"to":"+5491155550001","params":{"1":7,"2":-3,"3":12.5,"b":"x"},"buttons":{"0":482913}}"#;
        let raw = RawRecipient::from_json(line).expect("a recipient");
        assert!(raw.params == [pair("1", "7"), pair("2", "-3"), pair("3", "12.5"), pair("b", "x")]);
        assert!(raw.buttons == [pair("0", "482913")]);
        assert_eq!(raw.header, None);
    }

    #[test]
    fn a_header_is_a_text_or_an_object() {
        let header = |json: &str| {
            let line = format!(r#"{{"to":"+5491155550001","header":{json}}}"#);
            RawRecipient::from_json(line.as_bytes()).map(|raw| raw.header)
        };
        assert_eq!(header(r#""Spring""#), Ok(Some(RawHeader::Text("Spring".into()))));
        assert_eq!(header("2026"), Ok(Some(RawHeader::Text("2026".into()))));
        assert_eq!(header("null"), Ok(None));
        assert_eq!(header(r#"{"link":null}"#), Ok(Some(RawHeader::Fields(Box::default()))));
        let fields = HeaderFields {
            latitude: Some("-34.6".into()),
            longitude: Some("-58".into()),
            name: Some("Obelisco".into()),
            ..HeaderFields::default()
        };
        assert_eq!(
            header(r#"{"latitude":-34.6,"longitude":"-58","name":"Obelisco"}"#),
            Ok(Some(RawHeader::Fields(Box::new(fields))))
        );
        assert!(header("[]").is_err());
        assert!(header(r#"{"lat":1}"#).is_err());
    }

    #[test]
    fn a_recipient_inside_a_job_parses_the_same() {
        // serde buffers a tagged job before it parses the fields, which breaks some ways of parsing numbers.
        #[derive(Deserialize)]
        #[serde(tag = "type", rename_all = "lowercase")]
        enum Job {
            Recipients { recipients: Vec<RawRecipient> },
        }
        let row = r#"{"to":"+5491155550001","params":{"1":12.5,"2":-3},"header":{"id":17},"buttons":{"0":"x"}}"#;
        let Job::Recipients { recipients } =
            serde_json::from_str(&format!(r#"{{"recipients":[{row}],"type":"recipients"}}"#)).expect("a job");
        assert_eq!(recipients, [RawRecipient::from_json(row.as_bytes()).expect("a row")]);
    }

    #[test]
    fn a_malformed_recipient_is_rejected_with_cause_and_column() {
        let cases: [(&str, &str); 11] = [
            (r#"["+5491155550001",{"1":"a"}]"#, "it is a JSON list; write one object a line"),
            (" [", "it is a JSON list; write one object a line"),
            ("{", "EOF while parsing an object"),
            ("\"x\"", "there is the text \"x\" where a recipient object is expected"),
            (r#"{"params":{}}"#, "the field `to` is missing"),
            (
                r#"{"to":"+1","parms":{}}"#,
                "there is no field `parms`: its fields are `to`, `params`, `header`, `buttons`, `zone`, at column 18 of",
            ),
            (
                r#"{"to":"+1","params":{"name":null}}"#,
                "there is null where a string or a number for `name` is expected",
            ),
            (r#"{"to":"+1","params":{"2":[1]}}"#, "there is a list where a string or a number for `2` is expected"),
            (r#"{"to":"+1","params":{"2":12345678901234567890123}}"#, "the number for `2` loses digits"),
            (r#"{"to":"+1"} x"#, "there is more text after its end, at column 13"),
            (r#"{"to":"+1","to":"+2"}"#, "the field `to` is given twice"),
        ];
        for (line, why) in cases {
            let reject = RawRecipient::from_json(line.as_bytes()).expect_err(line);
            assert!(reject.to_string().contains(why), "{line}: {reject}");
            assert_eq!(reject.code(), "malformed");
        }
    }

    #[test]
    fn a_rejection_of_a_huge_row_stays_small() {
        let line = format!(r#"{{"to":"+1","{}":1}}"#, "ñ".repeat(30_000));
        let reject = RawRecipient::from_json(line.as_bytes()).expect_err("an unknown field");
        assert!(reject.to_string().len() < 300, "{}", reject.to_string().len());
    }

    #[test]
    fn a_log_shows_no_personal_data() {
        let raw = RawRecipient::from_json(br#"{"to":"+5491155550001","params":{"1":"Maria"}}"#).expect("a recipient");
        let shown = format!("{raw:?}");
        assert!(shown.contains("…0001") && !shown.contains("549") && !shown.contains("Maria"), "{shown}");
    }
}
