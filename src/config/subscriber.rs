//! Reads `[[subscriber]]`.

use std::time::Duration;

use super::{endpoint, reader::Section};
use crate::{
    domain::EventType,
    subscribers::{BATCH_MAX, SigningKey, Subscriber},
};

/// The default of `disable_after`.
const DISABLE_AFTER_DEFAULT: Duration = Duration::from_secs(3 * 86_400);

pub(super) fn read(mut section: Section<'_>) -> Subscriber {
    let id = section.plain_id("id");
    let disable_after = section.duration("disable_after", "1m..30d");
    let subscriber = Subscriber {
        id: id.as_str().into(),
        endpoint: endpoint::read(&mut section),
        keys: keys(&mut section),
        types: types(&mut section),
        batch: section.parsed("batch", &format!("a whole number, 1..{BATCH_MAX}"), batch).unwrap_or(1),
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

/// Reads the signing keys, the current one first.
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
