//! Reads typed values out of the merged configuration, and collects everything that is wrong with it.
//!
//! A getter that finds a problem notes it and returns a stand-in of the right type, so that reading goes on to the next
//! problem; nobody sees the stand-in, because any problem refuses the whole configuration.

use std::{cell::RefCell, fmt::Display, fs, net::SocketAddr, ops::RangeInclusive, str::FromStr, time::Duration};

use config::{Map, Value, ValueKind};
use jiff::{Span, SpanRelativeTo};

use crate::domain::Secret;

/// Prefix of the variables that set a key.
pub(super) const PREFIX: &str = "PREGON__";

/// What is wrong so far: the key, and the rest of the sentence.
#[derive(Default)]
pub(super) struct Problems(RefCell<Vec<(String, String)>>);

impl Problems {
    /// Notes that something is wrong with `key`; `text` is the rest of the sentence.
    pub(super) fn add(&self, key: impl Into<String>, text: impl Into<String>) {
        self.0.borrow_mut().push((key.into(), text.into()));
    }

    /// Notes `text` about the first of `keys` unless `holds`. Left out where one of `keys`, or a table around it, has a
    /// problem already, for then its value is a stand-in.
    pub(super) fn relation(&self, keys: &[&str], holds: bool, text: impl Display) {
        let within = |key: &str, table: &str| {
            key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let sound = !self.0.borrow().iter().any(|(noted, _)| keys.iter().any(|key| within(key, noted)));
        if sound && !holds {
            self.add(keys[0], text.to_string());
        }
    }

    /// One line for each problem, in the order they were found.
    pub(super) fn into_lines(self) -> Vec<String> {
        self.0.into_inner().into_iter().map(|(key, text)| format!("{key} {text}")).collect()
    }
}

/// Where the secrets named by `{ env = "NAME" }` are found.
pub(super) type Environment = Map<String, String>;

/// A table of the configuration. Each getter takes its key out; what [`Section::finish`] finds left is unknown.
pub(super) struct Section<'a> {
    path: String,
    values: Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'a Problems,
    environment: &'a Environment,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(super) fn root(values: Map<String, Value>, problems: &'a Problems, environment: &'a Environment) -> Self {
        Self { path: String::new(), values, known: Vec::new(), problems, environment }
    }

    /// The full name of a key of this table.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// Notes a problem with a key of this table.
    pub(super) fn problem(&self, key: &str, text: impl Into<String>) {
        self.problems.add(self.name(key), text);
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.values.remove(key)
    }

    /// The value as it was written, and where: an override by environment names its variable.
    fn scalar(&mut self, key: &'static str) -> Option<(ValueKind, String)> {
        let value = self.take(key)?;
        let shown = match value.origin() {
            Some(variable) => format!("({}, from {variable})", value.kind),
            None => format!("({})", value.kind),
        };
        match value.kind {
            ValueKind::Nil => None,
            ValueKind::Table(_) | ValueKind::Array(_) => {
                self.problem(key, "must be a single value, and is a table or a list");
                None
            }
            kind => Some((kind, shown)),
        }
    }

    /// A text; `None` if it was not given.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key).map(|(kind, _)| kind.to_string())
    }

    /// A text that has to be given.
    pub(super) fn required(&mut self, key: &'static str) -> String {
        let text = self.text(key).filter(|text| !text.is_empty());
        text.unwrap_or_else(|| {
            let variable = variable_of(&self.name(key));
            self.problem(key, format!("must be given, in the file or as the environment variable {variable}"));
            String::new()
        })
    }

    /// A text that `read` understands; `None` is noted with what `must` says of a good one.
    pub(super) fn parsed<T>(&mut self, key: &'static str, must: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (kind, shown) = self.scalar(key)?;
        let value = read(&kind.to_string());
        if value.is_none() {
            self.problem(key, format!("{shown} must be {must}"));
        }
        value
    }

    /// Words of a list, each of which means something; in the environment they are separated by commas. `None` if it was
    /// not given, or with a problem noted.
    pub(super) fn words<T: Copy>(&mut self, key: &'static str, known: &[(&str, T)]) -> Option<Vec<T>> {
        let kind = self.take(key)?.kind;
        let given: Vec<String> = match &kind {
            ValueKind::Array(words) => words.iter().map(|word| word.kind.to_string()).collect(),
            ValueKind::String(words) => words.split(',').map(|word| word.trim().to_owned()).collect(),
            _ => Vec::new(),
        };
        let mean = |word: &String| known.iter().find(|(name, _)| name == word).map(|(_, meaning)| *meaning);
        let meant: Option<Vec<T>> = given.iter().map(mean).collect();
        if meant.as_ref().is_none_or(Vec::is_empty) {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            self.problem(key, format!("({}) must be a list of {}", given.join(", "), names.join(", ")));
            return None;
        }
        meant
    }

    /// A whole number within `range`.
    pub(super) fn integer<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> T {
        let must = format!("a whole number, {}..{}", range.start(), range.end());
        let value = self.parsed(key, &must, |text| text.parse().ok().filter(|value| range.contains(value)));
        value.unwrap_or(*range.start())
    }

    /// An address to listen on.
    pub(super) fn address(&mut self, key: &'static str) -> SocketAddr {
        let value = self.parsed(key, "an address and a port, such as 0.0.0.0:8080", |text| text.parse().ok());
        value.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// One of Meta's ids, which has to be given: digits, and in other installations letters, `-` and `_`. It stands in
    /// Redis keys, URLs and metrics.
    pub(super) fn id(&mut self, key: &'static str) -> String {
        let id = self.required(key);
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            self.problem(key, format!("({id}) must be of digits, letters, - and _"));
        }
        id
    }

    /// A number that `good` accepts; `must` says in words which those are.
    pub(super) fn number(&mut self, key: &'static str, must: &str, good: impl Fn(f64) -> bool) -> Option<f64> {
        self.parsed(key, must, |text| text.parse().ok().filter(|value| good(*value)))
    }

    /// A duration within `range`, which is written as in the comments of the file: `3s..60s`.
    pub(super) fn duration(&mut self, key: &'static str, range: &str) -> Duration {
        let Some((kind, shown)) = self.scalar(key) else { return Duration::ZERO };
        let text = kind.to_string();
        let text = text.trim();
        if text.parse::<f64>().is_ok() {
            self.problem(key, format!("{shown} must have a unit, such as \"{text}s\""));
            return Duration::ZERO;
        }
        let bounds = range.split_once("..").and_then(|(from, to)| Some(duration(from)?..=duration(to)?));
        let bounds = bounds.unwrap_or_else(|| panic!("{key}: {range} is no range of durations"));
        duration(text).filter(|value| bounds.contains(value)).unwrap_or_else(|| {
            self.problem(key, format!("{shown} must be a duration, {range}"));
            Duration::ZERO
        })
    }

    /// A secret, read from where it is kept; `None` if it was not given, or with a problem noted.
    pub(super) fn secret(&mut self, key: &'static str) -> Option<Secret> {
        let value = self.take(key)?;
        if !matches!(value.kind, ValueKind::Nil | ValueKind::Table(_)) {
            self.problem(
                key,
                "is a secret and must not be written here, where it could be committed or shown: \
                 name where it is kept, { env = \"NAME\" } or { file = \"PATH\" }",
            );
            return None;
        }
        let ValueKind::Table(values) = value.kind else { return None };
        let mut place = Section {
            path: self.name(key),
            values,
            known: Vec::new(),
            problems: self.problems,
            environment: self.environment,
        };
        let (env, file) = (place.text("env"), place.text("file"));
        place.finish();
        match resolve(env, file, self.environment) {
            Ok(secret) => Some(secret),
            Err(text) => {
                self.problem(key, text);
                None
            }
        }
    }

    /// A secret that has to be given.
    pub(super) fn required_secret(&mut self, key: &'static str) -> Secret {
        if !self.values.contains_key(key) {
            self.problem(key, "must be given, as { env = \"NAME\" } or { file = \"PATH\" }");
        }
        self.secret(key).unwrap_or_else(|| Secret::new(""))
    }

    /// Whether the value is a table, and whether it came by environment.
    pub(super) fn kind_of(&self, key: &str) -> (bool, bool) {
        let value = self.values.get(key);
        let is_table = value.is_some_and(|value| matches!(value.kind, ValueKind::Table(_)));
        (is_table, value.is_some_and(|value| value.origin().is_some()))
    }

    /// A table within this one.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.name(key);
        let values = self.take(key);
        self.table(path, values)
    }

    /// A table within this one that may be left out.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Section<'a>> {
        let path = self.name(key);
        let values = self.take(key)?;
        Some(self.table(path, Some(values)))
    }

    /// The tables of a list, `[[key]]` in the file; none if it was not given.
    pub(super) fn list(&mut self, key: &'static str) -> Vec<Section<'a>> {
        let path = self.name(key);
        match self.take(key).map(|value| value.kind) {
            None => Vec::new(),
            Some(ValueKind::Array(entries)) => entries
                .into_iter()
                .enumerate()
                .map(|(number, entry)| self.table(format!("{path}[{number}]"), Some(entry)))
                .collect(),
            Some(_) => {
                let text = format!("must be a list of tables, each written as [[{path}]]");
                self.problems.add(path, text);
                Vec::new()
            }
        }
    }

    fn table(&self, path: String, value: Option<Value>) -> Section<'a> {
        let values = match value.map(|value| value.kind) {
            Some(ValueKind::Table(values)) => values,
            None => Map::new(),
            Some(_) => {
                self.problems.add(&path, format!("must be a table, written as [{path}]"));
                Map::new()
            }
        };
        Section { path, values, known: Vec::new(), problems: self.problems, environment: self.environment }
    }

    /// Notes the keys that nobody asked for.
    pub(super) fn finish(self) {
        let mut unknown: Vec<_> = self.values.iter().collect();
        unknown.sort_by_key(|(key, _)| *key);
        let known = self.known.join(", ");
        for (key, value) in unknown {
            let from = value.origin().map(|variable| format!("(from {variable}) ")).unwrap_or_default();
            self.problem(key, format!("{from}is not a key; the keys here are {known}"));
        }
    }
}

/// The environment variable that sets a key: `PREGON__LINE__0__ID` for `line[0].id`.
fn variable_of(key: &str) -> String {
    let words = key.replace(']', "").replace(['[', '.'], "__");
    format!("{PREFIX}{}", words.to_uppercase())
}

/// `10s`, `1h 30m`, `30d`; a day has 24 hours. `None` for what is no duration, or below zero.
fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

fn resolve(env: Option<String>, file: Option<String>, environment: &Environment) -> Result<Secret, String> {
    let (secret, place) = match (env, file) {
        (Some(name), None) => match environment.get(&name) {
            Some(text) => (Secret::new(text), format!("environment variable {name}")),
            None => {
                return Err(format!("needs the environment variable {name}, which is not set: set it to the secret"));
            }
        },
        (None, Some(path)) => {
            let bytes =
                fs::read(&path).map_err(|error| format!("needs the file {path}, which cannot be read: {error}"))?;
            let Ok(text) = String::from_utf8(bytes) else {
                return Err(format!("(file {path}) is not UTF-8 text: save it as UTF-8 without a byte order mark"));
            };
            (Secret::new(text.trim_end_matches(['\r', '\n'])), format!("file {path}"))
        }
        _ => return Err("must be one of { env = \"NAME\" } and { file = \"PATH\" }".into()),
    };
    match secret.flaw() {
        None => Ok(secret),
        Some(flaw) => Err(format!("({place}) {flaw}")),
    }
}
