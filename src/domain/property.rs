//! What a business knows about its contacts: typed properties that it defines. Pure.

use serde_json::{Number, Value};

use super::{agent, ids::is_plain};

/// Maximum number of properties that a business defines.
pub const PROPERTIES_MAX: usize = 100;
/// Maximum number of choices of a property.
pub const CHOICES_MAX: usize = 200;
/// Maximum length of a value, in characters.
const VALUE_CHARS_MAX: usize = 1_000;

/// The type of a property.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PropertyKind {
    /// Any text.
    Text,
    /// A number.
    Number,
    /// A day, as `2026-12-01`.
    Date,
    /// Yes or no.
    Boolean,
    /// One of several texts.
    Choice,
    /// An email address, in lower case.
    Email,
    /// An `http` or `https` URL.
    Url,
}

impl PropertyKind {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Text, Self::Number, Self::Date, Self::Boolean, Self::Choice, Self::Email, Self::Url];

    /// The name in the API.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Number => "number",
            Self::Date => "date",
            Self::Boolean => "boolean",
            Self::Choice => "choice",
            Self::Email => "email",
            Self::Url => "url",
        }
    }

    /// The number that is stored.
    pub const fn code(self) -> i16 {
        match self {
            Self::Text => 1,
            Self::Number => 2,
            Self::Date => 3,
            Self::Boolean => 4,
            Self::Choice => 5,
            Self::Email => 6,
            Self::Url => 7,
        }
    }

    /// The inverse of [`PropertyKind::code`].
    pub fn of(code: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// The inverse of [`PropertyKind::name`].
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// The columns of a list of contacts that are no properties.
const COLUMNS: [&str; 10] = [
    "phone",
    "name",
    "tags",
    "last_interaction",
    "conversations_by_client",
    "conversations_by_business",
    "cancelled",
    "received",
    "replies",
    "failures",
];

/// The key of a property; `None` if it is not 1 to 32 of `a-z`, `0-9`, `-` and `_`, or is the name of another column of
/// lists of contacts.
pub fn key(text: &str) -> Option<&str> {
    (is_plain(text) && !COLUMNS.contains(&text)).then_some(text)
}

/// The value of a property in its canonical form, from JSON or from the text of a CSV.
///
/// Errors: what it has to be, as the rest of a sentence that begins with the property.
pub fn canonical(kind: PropertyKind, choices: &[String], value: &Value) -> Result<Value, String> {
    let text = value.as_str().map(str::trim);
    let found = match kind {
        PropertyKind::Text => text.map(Value::from),
        PropertyKind::Number => number(value),
        PropertyKind::Date => {
            text.and_then(|text| text.parse::<jiff::civil::Date>().ok()).map(|day| day.to_string().into())
        }
        PropertyKind::Boolean => value.as_bool().or_else(|| text.and_then(yes_or_no)).map(Value::from),
        PropertyKind::Choice => {
            text.and_then(|text| choices.iter().find(|choice| *choice == text)).cloned().map(Value::from)
        }
        PropertyKind::Email => text.and_then(agent::email).map(Value::from),
        PropertyKind::Url => text.filter(|text| is_url(text)).map(Value::from),
    };
    let is_short =
        |value: &Value| value.as_str().is_none_or(|text| (1..=VALUE_CHARS_MAX).contains(&text.chars().count()));
    found.filter(is_short).ok_or_else(|| match kind {
        PropertyKind::Text => format!("is a text of 1 to {VALUE_CHARS_MAX} characters"),
        PropertyKind::Number => "is a number".to_owned(),
        PropertyKind::Date => "is a day, such as 2026-12-01".to_owned(),
        PropertyKind::Boolean => "is true or false".to_owned(),
        PropertyKind::Choice => format!("is one of {}", choices.join(", ")),
        PropertyKind::Email => "is an email address".to_owned(),
        PropertyKind::Url => "is an http or https URL".to_owned(),
    })
}

/// A number, without a fraction if it has none.
fn number(value: &Value) -> Option<Value> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    let number = number.filter(|number| number.is_finite())?;
    let is_whole = number.fract() == 0.0 && number.abs() < 9e15;
    if is_whole { Some((number as i64).into()) } else { Number::from_f64(number).map(Value::Number) }
}

fn yes_or_no(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "sí" | "si" | "sim" | "1" => Some(true),
        "false" | "no" | "não" | "nao" | "0" => Some(false),
        _ => None,
    }
}

fn is_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn choices() -> Vec<String> {
        ["Oro", "Plata"].map(str::to_owned).to_vec()
    }

    fn of(kind: PropertyKind, value: &Value) -> Option<Value> {
        canonical(kind, &choices(), value).ok()
    }

    #[test]
    fn values_have_one_form_each_whether_from_json_or_from_text() {
        for (kind, value, stored) in [
            (PropertyKind::Text, json!(" Rosario "), json!("Rosario")),
            (PropertyKind::Number, json!("12.50"), json!(12.5)),
            (PropertyKind::Number, json!(3.0), json!(3)),
            (PropertyKind::Date, json!("2026-02-28"), json!("2026-02-28")),
            (PropertyKind::Boolean, json!("Sí"), json!(true)),
            (PropertyKind::Boolean, json!(false), json!(false)),
            (PropertyKind::Choice, json!("Oro"), json!("Oro")),
            (PropertyKind::Email, json!("Ana@Example.com"), json!("ana@example.com")),
            (PropertyKind::Url, json!("https://example.com/a"), json!("https://example.com/a")),
        ] {
            assert_eq!(of(kind, &value), Some(stored), "{value}");
        }
        for (kind, value) in [
            (PropertyKind::Text, json!("")),
            (PropertyKind::Text, json!("a".repeat(1_001))),
            (PropertyKind::Number, json!("1e999")),
            (PropertyKind::Number, json!("dos")),
            (PropertyKind::Date, json!("2026-02-30")),
            (PropertyKind::Boolean, json!("tal vez")),
            (PropertyKind::Choice, json!("oro")),
            (PropertyKind::Email, json!("ana")),
            (PropertyKind::Url, json!("javascript:alert(1)")),
            (PropertyKind::Text, json!(null)),
        ] {
            assert_eq!(of(kind, &value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn the_canonical_form_is_its_own(text in ".{0,40}", number in any::<f64>(), kind in 0..7_usize) {
            let kind = PropertyKind::ALL[kind];
            for value in [Value::from(text), json!(number), json!(number.to_string())] {
                if let Some(stored) = of(kind, &value) {
                    prop_assert_eq!(of(kind, &stored), Some(stored.clone()), "{}", value);
                }
            }
        }
    }

    #[test]
    fn a_key_is_a_column_of_its_own() {
        assert_eq!(key("city"), Some("city"));
        for taken in ["phone", "replies", "City", ""] {
            assert_eq!(key(taken), None, "{taken}");
        }
    }

    #[test]
    fn kinds_are_read_as_they_were_stored() {
        for kind in PropertyKind::ALL {
            assert_eq!((PropertyKind::of(kind.code()), PropertyKind::named(kind.name())), (Some(kind), Some(kind)));
        }
    }
}
