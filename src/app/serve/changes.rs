//! What a reload changes, as a text for the log.
//!
//! Never: shows a value other than the rate of a line, because values can be secrets.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::Config;

/// How many entries are named of each kind of change.
const NAMED_MAX: usize = 5;

/// The lists with named entries, and what the entries are called.
const LISTS: [(&str, &str); 6] = [
    (LINE, "lines"),
    ("waba", "WABAs"),
    ("business", "businesses"),
    ("subscriber", "subscribers"),
    ("http.api_keys", "API keys"),
    ("contact_hours", "contact hours"),
];
const LINE: &str = "line";

/// The entries of a list that differ.
#[derive(Default)]
struct Entries<'k> {
    added: BTreeSet<&'k str>,
    removed: BTreeSet<&'k str>,
    /// With the fields that have changed.
    changed: BTreeMap<&'k str, BTreeSet<&'k str>>,
    is_reordered: bool,
}

/// Describes the keys that have `changed` between two configurations. At most [`NAMED_MAX`] entries of each list are
/// named as added, removed or changed; the others are counted.
pub(super) fn describe(before: &Config, after: &Config, changed: &[String]) -> String {
    let mut lists: BTreeMap<&str, Entries<'_>> = BTreeMap::new();
    let mut others = BTreeSet::new();
    for key in changed {
        let (list, rest) = key.split_once('[').unwrap_or((key, ""));
        let Some((name, field)) = rest.split_once(']').filter(|_| LISTS.iter().any(|(known, _)| *known == list)) else {
            others.insert(list.trim_end_matches(" (content)"));
            continue;
        };
        let entries = lists.entry(list).or_default();
        let entry = format!("{list}[{name}]");
        if name.is_empty() {
            entries.is_reordered = true;
        } else if !before.settings.has_entry(&entry) {
            entries.added.insert(name);
        } else if !after.settings.has_entry(&entry) {
            entries.removed.insert(name);
        } else {
            let field = field.trim_start_matches('.').split(['.', '[', ' ']).next().unwrap_or_default();
            entries.changed.entry(name).or_default().insert(field);
        }
    }
    let mut texts = Vec::new();
    for (list, what) in LISTS {
        let Some(Entries { added, removed, changed, is_reordered }) = lists.remove(list) else { continue };
        let fields = |(name, fields): (&&str, &BTreeSet<&str>)| {
            let fields: Vec<String> = fields.iter().map(|field| shown(before, after, list, name, field)).collect();
            format!("{name} ({})", fields.join(", "))
        };
        let name = |name: &&str| (*name).to_owned();
        let kinds = [
            ("added", named(added.len(), added.iter().map(name))),
            ("removed", named(removed.len(), removed.iter().map(name))),
            ("changed", named(changed.len(), changed.iter().map(fields))),
        ];
        let is_reordered = is_reordered && added.is_empty() && removed.is_empty();
        let kinds = kinds.into_iter().filter_map(|(how, names)| Some(format!("{what} {how}: {}", names?)));
        texts.extend(kinds.chain(is_reordered.then(|| format!("{what} reordered"))));
    }
    texts.extend(others.into_iter().map(str::to_owned));
    if texts.is_empty() { "nothing".to_owned() } else { texts.join("; ") }
}

/// The first of `n` names, and how many more there are; `None` if there are none.
fn named(n: usize, names: impl Iterator<Item = String>) -> Option<String> {
    let first: Vec<String> = names.take(NAMED_MAX).collect();
    let more = n - first.len();
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    (n > 0).then(|| first.join(", ") + &more)
}

/// A field that has changed; the rate of a line with its values.
fn shown(before: &Config, after: &Config, list: &str, name: &str, field: &str) -> String {
    if (list, field) != (LINE, "messages_per_second") {
        return field.to_owned();
    }
    let rate = |config: &Config| {
        let line = config.lines.iter().find(|line| line.id.as_str() == name);
        line.and_then(|line| line.messages_per_second).map_or_else(|| "none".to_owned(), |rate| rate.to_string())
    };
    format!("{field} {} → {}", rate(before), rate(after))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Settings;

    const INSTALLATION: &str = r#"
http.api_keys = [{ name = "backend", secret = { env = "PATH" } }]
[[business]]
id = "1001"
[[waba]]
id = "2001"
business = "1001"
access_token = { env = "PATH" }
"#;

    fn line(id: usize, rate: u32) -> String {
        format!("[[line]]\nid = \"{id}\"\nwaba = \"2001\"\nmessages_per_second = {rate}\n")
    }

    fn changes(before: &str, after: &str) -> String {
        let [before, after] = [before, after].map(|text| Config::from_toml(text).expect(text));
        describe(&before, &after, &Settings::changed(&before.settings, &after.settings))
    }

    /// The changes between installations with these lines.
    fn of_lines(before: &[String], after: &[String]) -> String {
        changes(&format!("{INSTALLATION}{}", before.concat()), &format!("{INSTALLATION}{}", after.concat()))
    }

    #[test]
    fn lines_are_named_by_their_ids_wherever_they_stand() {
        let all = [3001, 3002, 3003].map(|id| line(id, 20));
        assert_eq!(of_lines(&all, &all), "nothing");
        assert_eq!(of_lines(&all, &all[1..]), "lines removed: 3001");
        assert_eq!(of_lines(&all[1..], &all), "lines added: 3001");
        let changed = [all[1].clone(), line(3003, 100).replace("\"2001\"\n", "\"2001\"\nname = \"sales\"\n")];
        assert_eq!(
            of_lines(&all, &changed),
            "lines removed: 3001; lines changed: 3003 (messages_per_second 20 → 100, name)"
        );
        assert_eq!(of_lines(&all, &[&all[1..], &all[..1]].concat()), "lines reordered");
        let without = line(3001, 20).replace("messages_per_second = 20\n", "");
        assert_eq!(of_lines(&all[..1], &[without]), "lines changed: 3001 (messages_per_second 20 → none)");
    }

    #[test]
    fn of_thousands_of_changes_the_first_are_named_and_the_others_counted() {
        let of = |rate| (10_001..13_001).map(|id| line(id, rate)).collect::<Vec<_>>();
        let first = "10001, 10002, 10003, 10004, 10005 and 2995 more";
        assert_eq!(of_lines(&[], &of(20)), format!("lines added: {first}"));
        let text = of_lines(&of(20), &of(30));
        let named = "lines changed: 10001 (messages_per_second 20 → 30), 10002 (";
        assert!(text.starts_with(named) && text.ends_with(" and 2995 more") && text.len() < 300, "{text}");
    }

    #[test]
    fn secrets_are_named_and_not_shown() {
        let other = INSTALLATION.replace("env = \"PATH\"", "env = \"HOME\"");
        let text = changes(INSTALLATION, &format!("log.level = \"debug\"\n{other}"));
        assert_eq!(text, "WABAs changed: 2001 (access_token); API keys changed: backend (secret); log.level");
    }

    #[test]
    fn entries_without_a_name_are_a_change_of_their_list() {
        let words = "[[stop_words]]\nlanguage = \"es\"\nwords = [\"nunca\", \"jamás\"]\n";
        let more = format!("{INSTALLATION}[[business]]\nid = \"1002\"\n{words}");
        assert_eq!(changes(INSTALLATION, &more), "businesses added: 1002; stop_words");
    }
}
