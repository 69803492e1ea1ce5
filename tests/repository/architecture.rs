//! The structure of `src/`: which top-level module (here a *room*) may use which, no cycles between files, and one
//! meaning for each public type name.
//!
//! The tests do not compile anything. They search the text of the sources, without unit tests, for paths after
//! `crate::` and `super::` and for declarations of public types.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Each room, and exactly the rooms that it uses. No room uses `app`, which connects the others into one program.
const ARROWS: [(&str, &[&str]); 29] = [
    (
        "api",
        &[
            "api_types",
            "coding",
            "config",
            "domain",
            "http",
            "intake",
            "json",
            "media",
            "postgres",
            "preflight",
            "redis",
            "rules",
            "stats",
            "subscribers",
            "telemetry",
        ],
    ),
    (
        "app",
        &[
            "api",
            "api_types",
            "client",
            "config",
            "discovery",
            "dispatch",
            "domain",
            "endpoint",
            "engage",
            "feed",
            "graph",
            "http",
            "intake",
            "media",
            "postgres",
            "private_server",
            "redis",
            "rules",
            "sim",
            "subscribers",
            "telemetry",
            "templates",
            "terminal",
            "webhook",
        ],
    ),
    ("api_types", &["domain", "json", "rules"]),
    ("client", &["api_types", "coding", "domain", "intake"]),
    ("coding", &[]),
    ("config", &["domain", "endpoint", "graph", "media", "redis", "rules", "subscribers", "telemetry", "webhook"]),
    ("discovery", &["api_types", "domain", "graph"]),
    ("dispatch", &["domain", "graph", "redis", "rules", "stats", "telemetry", "templates"]),
    ("domain", &[]),
    ("endpoint", &["telemetry"]),
    ("engage", &["domain", "feed", "graph", "media", "postgres", "redis", "telemetry"]),
    ("feed", &["domain", "redis", "stats", "telemetry"]),
    ("graph", &["domain", "json"]),
    ("http", &["api_types", "coding", "config", "domain", "telemetry"]),
    ("intake", &["api_types", "domain", "json", "redis", "rules", "telemetry", "templates"]),
    ("json", &[]),
    ("media", &["domain"]),
    ("postgres", &["domain", "private_server", "rules", "telemetry"]),
    ("preflight", &["api_types", "domain", "redis", "stats"]),
    ("private_server", &[]),
    ("redis", &["domain", "private_server", "telemetry"]),
    ("rules", &["domain"]),
    ("sim", &["domain", "telemetry"]),
    ("stats", &["api_types", "domain", "redis", "rules"]),
    ("subscribers", &["domain", "endpoint", "redis", "telemetry"]),
    ("telemetry", &["domain"]),
    ("templates", &["domain", "graph", "redis"]),
    ("terminal", &["api_types", "client", "coding", "config", "domain", "intake", "telemetry"]),
    ("webhook", &["domain", "endpoint", "json", "redis", "rules", "telemetry"]),
];

/// Rooms that may declare a type under the name of a type in another room: the simulator, which has its own
/// implementation of Meta.
const MIRRORS: [&str; 1] = ["sim"];

/// A source file.
struct Source {
    /// The path of its module, such as `["redis", "parts"]`.
    module: Vec<String>,
    /// The paths after `crate::` or `super::` in the file, each from the root of the crate.
    names: Vec<Vec<String>>,
    /// The names of the public types that the file declares.
    types: Vec<String>,
}

#[test]
fn every_room_uses_the_rooms_it_may_use_and_no_others() {
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        let Some(room) = source.module.first() else { continue };
        let used = found.entry(room.clone()).or_default();
        used.extend(source.names.iter().filter_map(|name| name.first()).filter(|name| *name != room).cloned());
    }
    for (room, allowed) in ARROWS {
        let used = found.remove(room).unwrap_or_default();
        let allowed: BTreeSet<String> = allowed.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(used, allowed, "the rooms that {room} uses, and those that ARROWS lists");
    }
    assert!(found.is_empty(), "rooms that ARROWS does not list: {:?}", found.keys());
}

#[test]
fn no_files_use_each_other_in_a_circle() {
    let sources = sources();
    let modules: BTreeSet<&Vec<String>> = sources.iter().map(|source| &source.module).collect();
    let mut uses: BTreeMap<&Vec<String>, BTreeSet<&Vec<String>>> = BTreeMap::new();
    for source in &sources {
        let used = source.names.iter().filter_map(|name| {
            let file = (1..=name.len()).rev().find_map(|n| modules.get(&name[..n].to_vec()))?;
            // A module declares the modules below it and holds what they share, so it and they may use each other.
            let is_family = file.starts_with(&source.module) || source.module.starts_with(file);
            (!is_family).then_some(*file)
        });
        uses.insert(&source.module, used.collect());
    }
    for start in uses.keys().copied() {
        let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
        while let Some(module) = next.pop() {
            for used in uses.get(module).into_iter().flatten().copied() {
                assert!(used != start, "{} uses itself by way of {}", start.join("/"), module.join("/"));
                if seen.insert(used) {
                    next.push(used);
                }
            }
        }
    }
}

#[test]
fn a_public_type_name_means_one_type() {
    let mut declared: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for source in sources() {
        if source.module.first().is_some_and(|room| MIRRORS.contains(&room.as_str())) {
            continue;
        }
        // Several modules declare a `Result` with their own error type, as is usual in Rust.
        for name in source.types.into_iter().filter(|name| name != "Result") {
            declared.entry(name).or_default().push(source.module.join("/"));
        }
    }
    assert!(declared.len() > 100, "{} types", declared.len());
    for (name, modules) in declared {
        assert_eq!(modules.len(), 1, "{name} is declared in {}", modules.join(" and "));
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
                let module = module(&root, &path);
                let text = fs::read_to_string(&path).expect("a source");
                let text = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
                sources.push(Source { names: names(text, &module), types: types(text), module });
            }
        }
    }
    sources
}

/// The module path of `file`, which is below the folder `root`.
fn module(root: &Path, file: &Path) -> Vec<String> {
    let path: PathBuf = file.strip_prefix(root).expect("below it").with_extension("");
    let mut module: Vec<String> = path.iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|name| ["mod", "lib", "main"].contains(&name.as_str())) {
        module.pop();
    }
    module
}

/// The names of the types that `text` declares as `pub`.
fn types(text: &str) -> Vec<String> {
    let declaration = |line: &str| {
        let rest = line.trim_start().strip_prefix("pub ")?;
        let rest = ["struct ", "enum ", "trait ", "type "].iter().find_map(|keyword| rest.strip_prefix(keyword))?;
        let end = rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len());
        // Inside a macro, a variable may stand in place of the name.
        (end > 0).then(|| rest[..end].to_owned())
    };
    text.lines().filter_map(declaration).collect()
}

/// The paths after `crate::` or `super::` in `text`, each from the root of the crate. `text` is the source of `module`.
fn names(text: &str, module: &[String]) -> Vec<Vec<String>> {
    let mut names = Vec::new();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n");
    for (at, _) in lines.match_indices("crate::").chain(lines.match_indices("super::")) {
        let is_word = |c: char| c.is_alphanumeric() || c == '_' || c == ':' || c == '$';
        if lines[..at].chars().next_back().is_some_and(is_word) {
            continue;
        }
        let mut rest = &lines[at..];
        let mut base = if rest.starts_with("crate::") { Vec::new() } else { module.to_vec() };
        while let Some(after) = rest.strip_prefix("super::") {
            base.pop();
            rest = after;
        }
        tree(rest.strip_prefix("crate::").unwrap_or(rest), &base, &mut names);
    }
    names
}

/// Adds the paths of a `use` tree, such as `a::{b, c::D}`, to `names`, each with the prefix `base`. `text` begins with
/// the tree. Returns the text after it.
fn tree<'t>(text: &'t str, base: &[String], names: &mut Vec<Vec<String>>) -> &'t str {
    let mut path = base.to_vec();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if let Some(mut inner) = rest.strip_prefix('{') {
            loop {
                inner = inner.trim_start_matches(|c: char| c.is_whitespace() || c == ',');
                if let Some(after) = inner.strip_prefix('}') {
                    return after;
                }
                inner = tree(inner, &path, names);
            }
        }
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if !["self", ""].contains(&name) {
            path.push(name.to_owned());
        }
        match after.strip_prefix("::") {
            Some(after) if !name.is_empty() => rest = after,
            _ => {
                names.push(path);
                // Skip a glob, and the alias after `as`.
                let end = after.find([',', '}', ';', '(', ')', '<', '>', '\n', ' ']).unwrap_or(after.len());
                let after = after[end..].trim_start();
                return after
                    .strip_prefix("as ")
                    .map_or(after, |alias| &alias[alias.find([',', '}', ';']).unwrap_or(alias.len())..]);
            }
        }
    }
}
