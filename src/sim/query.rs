//! Reads of nodes and edges: the query parameters, the selection of fields, and paging, as at Meta.

use serde_json::{Map, Value, json};

use super::wire::Refusal;

/// Rows on a page without `limit`.
const PAGE_LEN: usize = 25;
const PAGE_LEN_MAX: usize = 100;

/// The query parameters of a request, with its host and path for `next` URLs.
pub(super) struct Query<'a> {
    host: &'a str,
    path: &'a str,
    pairs: Vec<(String, String)>,
}

impl<'a> Query<'a> {
    pub(super) fn new(host: &'a str, path: &'a str, query: &str) -> Self {
        let base = reqwest::Url::parse(&format!("http://localhost/?{query}"));
        let pairs = base.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default();
        Self { host, path, pairs }
    }

    /// The host that the client called.
    pub(super) fn host(&self) -> &str {
        self.host
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.pairs.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The top-level names in `fields`, without nested fields; `None` if the parameter is absent.
    fn fields(&self) -> Option<Vec<&str>> {
        let mut depth = 0;
        let top_level = self.get("fields")?.split(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ',' && depth == 0
        });
        Some(top_level.map(|field| field.split(['{', '.']).next().unwrap_or(field).trim()).collect())
    }
}

/// Selects the requested fields and `id`. Fields without a value are omitted.
pub(super) fn select(node: Value, default_fields: &str, query: &Query<'_>, kind: &str) -> Result<Value, Refusal> {
    let fields = query.fields().unwrap_or_else(|| default_fields.split(',').collect());
    let mut chosen = Map::new();
    for field in std::iter::once("id").chain(fields) {
        match node.get(field) {
            Some(Value::Null) => {}
            Some(value) => drop(chosen.insert(field.into(), value.clone())),
            None => {
                let details = format!("Tried accessing nonexisting field ({field}) on node type ({kind})");
                return Err(Refusal::new(100, details));
            }
        }
    }
    Ok(Value::Object(chosen))
}

/// One page of the rows, with cursors, and with `next` if there are more rows.
pub(super) fn page(rows: Vec<Value>, default_fields: &str, query: &Query<'_>, kind: &str) -> Result<Value, Refusal> {
    let number = |name: &str| query.get(name).map(str::parse::<usize>).transpose();
    let limit = number("limit").map_err(|_| Refusal::new(100, "limit must be a number"))?.unwrap_or(PAGE_LEN);
    let limit = limit.clamp(1, PAGE_LEN_MAX);
    let begin = match query.get("after") {
        None => 0,
        Some(cursor) => after(cursor).ok_or_else(|| Refusal::new(100, "Invalid cursors values"))?,
    };
    let end = rows.len().min(begin.saturating_add(limit));
    let data: Vec<Value> = rows
        .get(begin..end)
        .unwrap_or_default()
        .iter()
        .map(|node| select(node.clone(), default_fields, query, kind))
        .collect::<Result<_, _>>()?;
    if data.is_empty() {
        return Ok(json!({"data": []}));
    }
    let mut paging = json!({"cursors": {"before": cursor(begin), "after": cursor(end)}});
    if end < rows.len() {
        paging["next"] = json!(next_url(query, limit, &cursor(end)));
    }
    Ok(json!({"data": data, "paging": paging}))
}

/// The cursor before `row`; opaque to clients.
fn cursor(row: usize) -> String {
    format!("QVFIU{row:08x}ZD")
}

fn after(cursor: &str) -> Option<usize> {
    usize::from_str_radix(cursor.strip_prefix("QVFIU")?.strip_suffix("ZD")?, 16).ok()
}

fn next_url(query: &Query<'_>, limit: usize, after: &str) -> String {
    let unchanged = query.pairs.iter().filter(|(name, _)| name != "after" && name != "limit");
    let limit = limit.to_string();
    let added = [("limit", limit.as_str()), ("after", after)];
    let pairs = unchanged.map(|(name, value)| (name.as_str(), value.as_str())).chain(added);
    let url = format!("http://{}{}", query.host, query.path);
    reqwest::Url::parse_with_params(&url, pairs).map(String::from).unwrap_or(url)
}
