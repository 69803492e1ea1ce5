//! The values of all keys as digests, so that two configurations can be compared without keeping secrets.

use std::{
    collections::BTreeMap,
    fmt::{self, Display},
};

use config::{Map, Value, ValueKind};
use sha2::{Digest as _, Sha256};

/// The values of a configuration by their keys, such as `line[0].name`. A secret, and a file that a key names, counts
/// with its content.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings(BTreeMap<String, [u8; 32]>);

impl Settings {
    /// The values of the keys in `values`, and of the keys within them.
    pub(super) fn of(values: &Map<String, Value>) -> Self {
        let mut settings = Self::default();
        values.iter().for_each(|(key, value)| settings.add_value(key, &value.kind));
        settings
    }

    /// Adds the content of the secret or the file that `key` names.
    pub(super) fn add_content(&mut self, key: &str, content: &[u8]) {
        self.0.insert(format!("{key} (content)"), Sha256::digest(content).into());
    }

    fn add_value(&mut self, key: &str, value: &ValueKind) {
        match value {
            ValueKind::Table(values) => {
                values.iter().for_each(|(name, value)| self.add_value(&format!("{key}.{name}"), &value.kind));
            }
            ValueKind::Array(values) => {
                values.iter().enumerate().for_each(|(at, value)| self.add_value(&format!("{key}[{at}]"), &value.kind));
            }
            value => drop(self.0.insert(key.to_owned(), Sha256::digest(value.to_string()).into())),
        }
    }

    /// The keys whose values differ in `other`, or that only one of the two has, in order.
    pub fn changed(&self, other: &Self) -> Vec<String> {
        let differs = |key: &&String| self.0.get(*key) != other.0.get(*key);
        let mut keys: Vec<String> = self.0.keys().chain(other.0.keys()).filter(differs).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

/// A digest of the whole, equal for equal configurations.
impl Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digest = Sha256::new();
        for (key, value) in &self.0 {
            digest.update(key);
            digest.update(value);
        }
        f.write_str(&hex::encode(&digest.finalize()[..6]))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Settings({self})")
    }
}
