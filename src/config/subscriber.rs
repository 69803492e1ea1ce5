//! Reads `[[subscriber]]`.

use std::time::Duration;

use super::reader::{Section, is_plain};
use crate::{
    domain::{EventType, Secret},
    subscribers::{BATCH_MAX, SigningKey, Subscriber, SubscriberUrl},
};

/// How long a subscriber may fail if its configuration does not say.
const DISABLE_AFTER_DEFAULT: Duration = Duration::from_secs(3 * 86_400);

/// The placeholder for a URL with a problem.
const NO_URL: &str = "https://none.invalid";

/// The maximum length of an id.
const ID_LEN_MAX: usize = 64;

pub(super) fn read(mut section: Section<'_>) -> Subscriber {
    let id = section.required("id");
    if !id.is_empty() && !is_plain(&id, ID_LEN_MAX) {
        section.problem("id", format!("({id}) must be 1 to {ID_LEN_MAX} of a-z, 0-9, - and _"));
    }
    let allow_private = section.parsed("allow_private", "true or false", |text| text.parse().ok()).unwrap_or_default();
    let disable_after = section.duration("disable_after", "1m..30d");
    let subscriber = Subscriber {
        id: id.as_str().into(),
        url: url(&mut section, allow_private),
        keys: keys(&mut section),
        types: types(&mut section),
        batch: section.parsed("batch", &format!("a whole number, 1..{BATCH_MAX}"), batch).unwrap_or(1),
        allow_private,
        // The key has no default in the file, because it is in a list.
        disable_after: if disable_after.is_zero() { DISABLE_AFTER_DEFAULT } else { disable_after },
    };
    section.finish();
    subscriber
}

fn batch(text: &str) -> Option<usize> {
    text.parse().ok().filter(|batch| (1..=BATCH_MAX).contains(batch))
}

fn types(section: &mut Section<'_>) -> Option<std::sync::Arc<[EventType]>> {
    let names: Vec<_> = EventType::ALL.iter().map(|kind| (kind.name(), *kind)).collect();
    section.words("types", &names).map(Into::into)
}

/// Reads the keys, the present one first.
fn keys(section: &mut Section<'_>) -> Vec<SigningKey> {
    let given =
        [("secret", Some(section.required_secret("secret"))), ("secret_previous", section.secret("secret_previous"))];
    let mut keys = Vec::new();
    for (key, secret) in given {
        // An empty secret is the placeholder of one with a problem.
        let Some(secret) = secret.filter(|secret| !secret.expose().is_empty()) else { continue };
        match SigningKey::parse(&secret) {
            Ok(parsed) => keys.push(parsed),
            Err(error) => section.problem(key, error.to_string()),
        }
    }
    keys
}

/// Reads the URL. One with a password is a secret: in the file it must be a reference to a variable or a file.
fn url(section: &mut Section<'_>, allow_private: bool) -> SubscriberUrl {
    let (is_table, by_environment) = section.kind_of("url");
    let text = match is_table {
        true => section.secret("url").unwrap_or_else(|| Secret::new("")),
        false => Secret::new(section.required("url")),
    };
    let problem = match text.expose().parse::<SubscriberUrl>() {
        // What is wrong was recorded already.
        _ if text.expose().is_empty() => None,
        Err(error) => Some(error.to_string()),
        Ok(url) if !url.uses_tls() && !allow_private => {
            Some(format!("({url}) must be an https URL, or an http one with allow_private = true"))
        }
        Ok(url) if url.has_credentials() && !is_table && !by_environment => Some(
            "holds a password, which must not be written in this file: use { env = \"NAME\" } or { file = \"PATH\" }"
                .into(),
        ),
        Ok(url) => match url.private_address() {
            Some(address) if !allow_private => Some(format!(
                "({url}) has the address {address}, which is not public: set allow_private if you mean it"
            )),
            _ => return url,
        },
    };
    if let Some(problem) = problem {
        section.problem("url", problem);
    }
    NO_URL.parse().expect("a URL")
}
