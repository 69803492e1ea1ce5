//! Texts that agents write often, with places for what is known about the contact: `Hola {{contact.name|default:'👋'}}`.

use std::collections::BTreeMap;

/// Maximum length of a text, in characters. Meta takes 4,096.
pub const BODY_CHARS_MAX: usize = 4_096;

/// What may be in a place.
pub const PLACES: [&str; 4] = ["contact.name", "contact.phone", "contact.username", "agent.name"];

/// Why a text is no canned reply. The message says where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReply {
    /// It is empty or too long.
    #[error("body has 1 to {BODY_CHARS_MAX} characters")]
    Length,
    /// A place does not end.
    #[error("body has {{{{ without }}}} behind it")]
    Open,
    /// There is no such place.
    #[error("body has {{{{{place}}}}}, but only these can be filled in: {}", PLACES.join(", "))]
    Unknown {
        /// What is between the braces.
        place: String,
    },
}

/// A part of a text.
enum Part<'a> {
    Text(&'a str),
    Place { name: &'a str, default: &'a str },
}

/// The text with its places filled in from `values`. A place without a value has its default, or nothing.
///
/// Errors: it is no canned reply.
pub fn fill_in(body: &str, values: &BTreeMap<&str, String>) -> Result<String, BadReply> {
    let mut text = String::new();
    for part in parts(body)? {
        text.push_str(match part {
            Part::Text(plain) => plain,
            Part::Place { name, default } => values.get(name).map_or(default, String::as_str),
        });
    }
    Ok(text)
}

/// Errors: the text is no canned reply.
pub fn check(body: &str) -> Result<(), BadReply> {
    if !(1..=BODY_CHARS_MAX).contains(&body.trim().chars().count()) {
        return Err(BadReply::Length);
    }
    parts(body).map(drop)
}

fn parts(body: &str) -> Result<Vec<Part<'_>>, BadReply> {
    let (mut parts, mut rest) = (Vec::new(), body);
    while let Some((before, after)) = rest.split_once("{{") {
        let (place, behind) = after.split_once("}}").ok_or(BadReply::Open)?;
        parts.extend([Part::Text(before), self::place(place)?]);
        rest = behind;
    }
    parts.push(Part::Text(rest));
    Ok(parts)
}

/// A place: its name, and `|default:'…'` if it has one.
fn place(text: &str) -> Result<Part<'_>, BadReply> {
    let (name, default) = match text.split_once('|') {
        None => (text.trim(), Some("")),
        Some((name, filter)) => {
            let quoted = filter.trim().strip_prefix("default:").map(str::trim);
            (name.trim(), quoted.and_then(|text| text.strip_prefix('\'')?.strip_suffix('\'')))
        }
    };
    match default {
        Some(default) if PLACES.contains(&name) => Ok(Part::Place { name, default }),
        _ => Err(BadReply::Unknown { place: text.to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(body: &str) -> Result<String, BadReply> {
        let values = BTreeMap::from([("contact.name", "María".to_owned()), ("agent.name", "{{x}}".to_owned())]);
        fill_in(body, &values)
    }

    #[test]
    fn places_are_filled_in_once() {
        assert_eq!(filled("Hola {{contact.name}}.").as_deref(), Ok("Hola María."));
        assert_eq!(filled("{{ contact.name | default:'👋' }}!").as_deref(), Ok("María!"));
        assert_eq!(filled("Hola{{contact.username|default:' tú'}}").as_deref(), Ok("Hola tú"));
        assert_eq!(filled("Hola {{contact.phone}}").as_deref(), Ok("Hola "));
        assert_eq!(filled("{{agent.name}}").as_deref(), Ok("{{x}}"), "a value is text");
        assert_eq!(filled("{ } }} {").as_deref(), Ok("{ } }} {"));
    }

    #[test]
    fn what_cannot_be_filled_in_is_refused() {
        assert_eq!(check("Hola {{contact.name"), Err(BadReply::Open));
        for bad in ["{{contact.age}}", "{{}}", "{{contact.name|upper}}", "{{contact.name|default:x}}"] {
            assert!(matches!(check(bad), Err(BadReply::Unknown { .. })), "{bad}");
        }
        assert_eq!(check(" "), Err(BadReply::Length));
        assert_eq!(check(&"a".repeat(4_097)), Err(BadReply::Length));
        assert_eq!(check("Hola {{contact.name|default:'👋'}}"), Ok(()));
        let text = BadReply::Unknown { place: "contact.age".into() }.to_string();
        assert!(text.starts_with("body has {{contact.age}}, but only these"), "{text}");
    }
}
