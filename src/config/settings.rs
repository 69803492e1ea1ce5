//! The values of all keys as digests, so that two configurations can be compared without keeping secrets.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Display},
};

use config::{Map, Value, ValueKind};
use sha2::{Digest as _, Sha256};

/// The values of a configuration by their keys, such as `line[3001].name`. A secret, and a file that a key names,
/// counts with its content.
///
/// An entry of a list is named by its `id`, otherwise by its `name`, so that it keeps its keys when the entries before
/// it change; without either, by its index. The key `line[]` stands for the order of the entries.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, [u8; 32]>,
    /// The names of entries by their index: `line[3001]` for `line[0]`.
    names: HashMap<String, String>,
}

impl Settings {
    /// The values of the keys in `values`, and of the keys within them.
    pub(super) fn of(values: &Map<String, Value>) -> Self {
        let mut settings = Self::default();
        values.iter().for_each(|(key, value)| settings.add_value(key, &value.kind));
        settings
    }

    /// Adds the content of the secret or the file that `key` names. In `key`, entries of lists have their index.
    pub(super) fn add_content(&mut self, key: &str, content: &[u8]) {
        let (entry, field) = key.split_at(key.find(']').map_or(0, |end| end + 1));
        let entry = self.names.get(entry).map_or(entry, String::as_str);
        self.values.insert(format!("{entry}{field} (content)"), Sha256::digest(content).into());
    }

    fn add_value(&mut self, key: &str, value: &ValueKind) {
        match value {
            ValueKind::Table(values) => {
                values.iter().for_each(|(name, value)| self.add_value(&format!("{key}.{name}"), &value.kind));
            }
            ValueKind::Array(values) => self.add_list(key, values),
            value => drop(self.values.insert(key.to_owned(), Sha256::digest(value.to_string()).into())),
        }
    }

    fn add_list(&mut self, key: &str, values: &[Value]) {
        let mut order = Sha256::new();
        for (at, value) in values.iter().enumerate() {
            let by_index = format!("{key}[{at}]");
            let entry = name(&value.kind).map_or_else(|| by_index.clone(), |name| format!("{key}[{name}]"));
            order.update(&entry);
            self.add_value(&entry, &value.kind);
            self.names.insert(by_index, entry);
        }
        if !values.is_empty() {
            self.values.insert(format!("{key}[]"), order.finalize().into());
        }
    }

    /// Whether there is this entry of a list, such as `line[3001]`.
    pub fn has_entry(&self, entry: &str) -> bool {
        let fields = format!("{entry}.");
        self.values.range(fields.clone()..).next().is_some_and(|(key, _)| key.starts_with(&fields))
    }

    /// The keys whose values differ in `other`, or that only one of the two has, in order.
    pub fn changed(&self, other: &Self) -> Vec<String> {
        let differs = |key: &&String| self.values.get(*key) != other.values.get(*key);
        let mut keys: Vec<String> = self.values.keys().chain(other.values.keys()).filter(differs).cloned().collect();
        keys.sort();
        keys.dedup();
        keys
    }
}

/// The name of an entry of a list: its `id`, otherwise its `name`.
fn name(entry: &ValueKind) -> Option<String> {
    let ValueKind::Table(fields) = entry else { return None };
    ["id", "name"].into_iter().find_map(|key| fields.get(key)).map(ToString::to_string)
}

/// A digest of the whole, equal for equal configurations.
impl Display for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digest = Sha256::new();
        for (key, value) in &self.values {
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
