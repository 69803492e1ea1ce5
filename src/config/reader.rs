//! Reads typed values from the merged configuration, and collects its problems.
//!
//! A getter that finds a problem records it and returns a placeholder value, so that reading continues and finds all
//! problems. Placeholders are never used, because a configuration with a problem is rejected.

use std::{
    cell::RefCell,
    fmt::Display,
    fs,
    net::SocketAddr,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use config::{File, FileFormat, Map, Value, ValueKind};
use jiff::{Span, SpanRelativeTo};

use super::settings::Settings;
use crate::domain::Secret;

/// Prefix of the variables that set a key.
pub(super) const PREFIX: &str = "PREGON__";

/// The maximum length of an id that the operator chose.
const ID_LEN_MAX: usize = 64;

/// The problems found so far, and the values read.
#[derive(Default)]
pub(super) struct Findings {
    /// The problems. Each is a key, and the rest of a sentence that begins with the key.
    problems: RefCell<Vec<(String, String)>>,
    settings: RefCell<Settings>,
}

impl Findings {
    /// No problems yet, and `values` as the values.
    pub(super) fn of(values: &Map<String, Value>) -> Self {
        Self { problems: RefCell::default(), settings: RefCell::new(Settings::of(values)) }
    }

    /// Records a problem with `key`. `text` is the rest of the sentence.
    pub(super) fn add(&self, key: impl Into<String>, text: impl Into<String>) {
        self.problems.borrow_mut().push((key.into(), text.into()));
    }

    /// Records `text` as a problem with the first of `keys`, unless the relation is `valid`. If one of `keys`, or a
    /// table around it, has a problem already, nothing is recorded, because its value is a placeholder.
    pub(super) fn relation(&self, keys: &[&str], valid: bool, text: impl Display) {
        let within = |key: &str, table: &str| {
            key.strip_prefix(table).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let has_problem = self.problems.borrow().iter().any(|(faulty, _)| keys.iter().any(|key| within(key, faulty)));
        if !has_problem && !valid {
            self.add(keys[0], text.to_string());
        }
    }

    /// The values, and one line per problem, in the order in which they were found.
    pub(super) fn into_parts(self) -> (Settings, Vec<String>) {
        let problems = self.problems.into_inner().into_iter().map(|(key, text)| format!("{key} {text}")).collect();
        (self.settings.into_inner(), problems)
    }
}

/// Environment variables by name.
pub(super) type Environment = Map<String, String>;

/// A table of the configuration. Each getter removes its key. [`Section::finish`] reports the remaining, unknown keys.
pub(super) struct Section<'a> {
    path: String,
    values: Map<String, Value>,
    known: Vec<&'static str>,
    findings: &'a Findings,
    surroundings: Surroundings<'a>,
}

/// The variables and files that values can name.
#[derive(Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// The variables that secrets name.
    pub(super) environment: &'a Environment,
    /// The folder of the configuration file; empty if there is none.
    pub(super) folder: &'a Path,
}

impl<'a> Section<'a> {
    /// The whole configuration.
    pub(super) fn root(values: Map<String, Value>, findings: &'a Findings, surroundings: Surroundings<'a>) -> Self {
        Self { path: String::new(), values, known: Vec::new(), findings, surroundings }
    }

    /// The full name of a key of this table.
    pub(super) fn name(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    /// The environment variable that sets a key of this table.
    pub(super) fn variable(&self, key: &str) -> String {
        variable_of(&self.name(key))
    }

    /// Records a problem with a key of this table.
    pub(super) fn problem(&self, key: &str, text: impl Into<String>) {
        self.findings.add(self.name(key), text);
    }

    /// Whether the table has this key.
    pub(super) fn has(&self, key: &str) -> bool {
        self.values.contains_key(key)
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.values.remove(key)
    }

    /// Reads a single value. Also returns it as text for errors, with the variable if it comes from the environment.
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

    /// Reads an optional text.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.scalar(key).map(|(kind, _)| kind.to_string())
    }

    /// Reads the optional path of a file. In the configuration file it is relative to the folder of that file, and in
    /// the environment to the working directory. An empty path counts as missing.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let folder = if self.kind_of(key).1 { Path::new("") } else { self.surroundings.folder };
        self.text(key).filter(|path| !path.is_empty()).map(|path| folder.join(path))
    }

    /// Reads the required path of a file, as [`Section::path`] does. Its content counts as part of the configuration,
    /// but is checked only where it is used.
    pub(super) fn required_path(&mut self, key: &'static str) -> PathBuf {
        let folder = if self.kind_of(key).1 { Path::new("") } else { self.surroundings.folder };
        let path = folder.join(self.required(key));
        if let Ok(content) = fs::read(&path) {
            self.note_content(key, &content);
        }
        path
    }

    /// Reads a required text.
    pub(super) fn required(&mut self, key: &'static str) -> String {
        let text = self.text(key).filter(|text| !text.is_empty());
        text.unwrap_or_else(|| {
            let variable = self.variable(key);
            self.problem(key, format!("must be given, in the file or as the environment variable {variable}"));
            String::new()
        })
    }

    /// Reads a value with `read`. If `read` returns `None`, records a problem; `must` describes a valid value.
    pub(super) fn parsed<T>(&mut self, key: &'static str, must: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (kind, shown) = self.scalar(key)?;
        let value = read(&kind.to_string());
        if value.is_none() {
            self.problem(key, format!("{shown} must be {must}"));
        }
        value
    }

    /// Reads a required value with `read`, of a file that the environment cannot override.
    pub(super) fn given<T>(&mut self, key: &'static str, must: &str, read: impl Fn(&str) -> Option<T>) -> Option<T> {
        if !self.values.contains_key(key) {
            self.problem(key, format!("must be given: {must}"));
        }
        self.parsed(key, must, read)
    }

    /// Reads a list of words, and maps each to its value in `values`. In the environment, the words are separated by
    /// commas. Returns `None` if the key is missing, or after recording a problem.
    pub(super) fn words<T: Copy>(&mut self, key: &'static str, values: &[(&str, T)]) -> Option<Vec<T>> {
        let names: Vec<&str> = values.iter().map(|(name, _)| *name).collect();
        let must = format!("a list of {}", names.join(", "));
        let given = self.texts(key, &must)?;
        let value = |word: &String| values.iter().find(|(name, _)| name == word).map(|(_, value)| *value);
        let list: Option<Vec<T>> = given.iter().map(value).collect();
        if list.is_none() {
            self.problem(key, format!("({}) must be {must}", given.join(", ")));
        }
        list
    }

    /// Reads a list of texts, none of them empty. In the environment, they are separated by commas. Returns `None` if
    /// the key is missing, or after recording a problem; `must` describes a valid list.
    pub(super) fn texts(&mut self, key: &'static str, must: &str) -> Option<Vec<String>> {
        let given: Vec<String> = match self.take(key)?.kind {
            ValueKind::Array(texts) => texts.iter().map(|text| text.kind.to_string()).collect(),
            ValueKind::String(texts) => texts.split(',').map(|text| text.trim().to_owned()).collect(),
            _ => Vec::new(),
        };
        if given.is_empty() || given.iter().any(String::is_empty) {
            self.problem(key, format!("({}) must be {must}", given.join(", ")));
            return None;
        }
        Some(given)
    }

    /// Reads a whole number within `range`.
    pub(super) fn integer<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> T {
        let must = format!("a whole number, {}..{}", range.start(), range.end());
        let value = self.parsed(key, &must, |text| text.parse().ok().filter(|value| range.contains(value)));
        value.unwrap_or(*range.start())
    }

    /// Reads a required whole number within `range`.
    pub(super) fn required_integer<T: FromStr + PartialOrd + Display + Copy>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<T>,
    ) -> T {
        if !self.values.contains_key(key) {
            self.problem(key, format!("must be given: a whole number, {}..{}", range.start(), range.end()));
        }
        self.integer(key, range)
    }

    /// Reads an address to listen on.
    pub(super) fn address(&mut self, key: &'static str) -> SocketAddr {
        let value = self.parsed(key, "an address and a port, such as 0.0.0.0:8080", |text| text.parse().ok());
        value.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Reads a required id. Meta's ids are digits; letters, `-` and `_` are also valid. Other characters are not,
    /// because an id becomes part of Redis keys, URLs and metric labels.
    pub(super) fn id(&mut self, key: &'static str) -> String {
        let id = self.required(key);
        if !id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)) {
            self.problem(key, format!("({id}) must be of digits, letters, - and _"));
        }
        id
    }

    /// Reads a required id that the operator chose.
    pub(super) fn plain_id(&mut self, key: &'static str) -> String {
        let id = self.required(key);
        if !id.is_empty() && !is_plain(&id, ID_LEN_MAX) {
            self.problem(key, format!("({id}) must be 1 to {ID_LEN_MAX} of a-z, 0-9, - and _"));
        }
        id
    }

    /// Reads a number for which `is_valid` returns true. `must` describes a valid number.
    pub(super) fn number(&mut self, key: &'static str, must: &str, is_valid: impl Fn(f64) -> bool) -> Option<f64> {
        self.parsed(key, must, |text| text.parse().ok().filter(|value| is_valid(*value)))
    }

    /// Reads a duration within `range`, which is written as in the comments of `config/pregon.toml`: `3s..60s`.
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

    /// Reads a secret from its variable or file. Returns `None` if the key is missing, or after recording a problem.
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
        let mut source = Section {
            path: self.name(key),
            values,
            known: Vec::new(),
            findings: self.findings,
            surroundings: self.surroundings,
        };
        let (env, file) = (source.text("env"), source.path("file"));
        source.finish();
        match resolve(env, file, self.surroundings.environment) {
            Ok(secret) => {
                self.note_content(key, secret.expose().as_bytes());
                Some(secret)
            }
            Err(text) => {
                self.problem(key, text);
                None
            }
        }
    }

    fn note_content(&self, key: &str, content: &[u8]) {
        self.findings.settings.borrow_mut().add_content(&self.name(key), content);
    }

    /// Reads a required secret.
    pub(super) fn required_secret(&mut self, key: &'static str) -> Secret {
        if !self.has(key) {
            self.problem(key, "must be given, as { env = \"NAME\" } or { file = \"PATH\" }");
        }
        self.secret(key).unwrap_or_else(|| Secret::new(""))
    }

    /// Whether the value is a table, and whether it comes from the environment.
    pub(super) fn kind_of(&self, key: &str) -> (bool, bool) {
        let value = self.values.get(key);
        let is_table = value.is_some_and(|value| matches!(value.kind, ValueKind::Table(_)));
        (is_table, value.is_some_and(|value| value.origin().is_some()))
    }

    /// Reads a table within this one. A missing one counts as empty.
    pub(super) fn section(&mut self, key: &'static str) -> Section<'a> {
        let path = self.name(key);
        let values = self.take(key);
        self.table(path, values)
    }

    /// Reads an optional table within this one.
    pub(super) fn optional(&mut self, key: &'static str) -> Option<Section<'a>> {
        let path = self.name(key);
        let values = self.take(key)?;
        Some(self.table(path, Some(values)))
    }

    /// Reads the TOML file that an optional key names, as a table. Returns `None` if the key is missing, or after
    /// recording a problem.
    pub(super) fn file(&mut self, key: &'static str) -> Option<Section<'a>> {
        let path = self.path(key)?;
        let unusable = |error: String| format!("({}) can't be read: {error}", path.display());
        let values = fs::read_to_string(&path).map_err(|error| error.to_string()).and_then(|text| {
            self.note_content(key, text.as_bytes());
            let file = config::Config::builder().add_source(File::from_str(&text, FileFormat::Toml));
            let parsed = file.build().and_then(|file| file.cache.into_table());
            parsed.map_err(|error| error.to_string())
        });
        match values {
            Ok(values) => {
                let path = self.name(key);
                Some(Section {
                    path,
                    values,
                    known: Vec::new(),
                    findings: self.findings,
                    surroundings: self.surroundings,
                })
            }
            Err(error) => {
                self.problem(key, unusable(error));
                None
            }
        }
    }

    /// Reads a list of tables, `[[key]]` in the file. A missing list counts as empty.
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
                self.findings.add(path, text);
                Vec::new()
            }
        }
    }

    fn table(&self, path: String, value: Option<Value>) -> Section<'a> {
        let values = match value.map(|value| value.kind) {
            Some(ValueKind::Table(values)) => values,
            None => Map::new(),
            Some(_) => {
                self.findings.add(&path, format!("must be a table, written as [{path}]"));
                Map::new()
            }
        };
        Section { path, values, known: Vec::new(), findings: self.findings, surroundings: self.surroundings }
    }

    /// Ends the reading of this table. Records each key that no getter asked for as a problem: it is unknown.
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

/// Whether a text is 1 to `length_max` of `a-z`, `0-9`, `-` and `_`.
pub(super) fn is_plain(text: &str, length_max: usize) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    (1..=length_max).contains(&text.len()) && text.bytes().all(is_plain)
}

/// The environment variable that sets a key: `PREGON__LINE__0__ID` for `line[0].id`.
fn variable_of(key: &str) -> String {
    let words = key.replace(']', "").replace(['[', '.'], "__");
    format!("{PREFIX}{}", words.to_uppercase())
}

/// Parses a duration such as `10s`, `1h 30m` or `30d`. A day has 24 hours. Returns `None` if it is invalid or negative.
fn duration(text: &str) -> Option<Duration> {
    let span: Span = text.parse().ok()?;
    span.to_duration(SpanRelativeTo::days_are_24_hours()).ok()?.try_into().ok()
}

/// Reads a secret from a variable or a file.
///
/// Errors: what is wrong, as the rest of a sentence that begins with the key.
fn resolve(env: Option<String>, file: Option<PathBuf>, environment: &Environment) -> Result<Secret, String> {
    let (secret, source) = match (env, file) {
        (Some(name), None) => match environment.get(&name) {
            Some(text) => (Secret::new(text), format!("environment variable {name}")),
            None => {
                return Err(format!("needs the environment variable {name}, which is not set: set it to the secret"));
            }
        },
        (None, Some(path)) => {
            let shown = path.display();
            let bytes =
                fs::read(&path).map_err(|error| format!("needs the file {shown}, which cannot be read: {error}"))?;
            let Ok(text) = String::from_utf8(bytes) else {
                return Err(format!("(file {shown}) is not UTF-8 text: save it as UTF-8 without a byte order mark"));
            };
            (Secret::new(text.trim_end_matches(['\r', '\n'])), format!("file {shown}"))
        }
        _ => return Err("must be one of { env = \"NAME\" } and { file = \"PATH\" }".into()),
    };
    match secret.flaw() {
        None => Ok(secret),
        Some(flaw) => Err(format!("({source}) {flaw}")),
    }
}
