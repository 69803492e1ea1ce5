//! The OpenAPI document as one HTML page, without scripts.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

/// The style sheet of the page.
pub(super) const STYLE: &str = include_str!("docs_page.css");

const METHODS: [&str; 5] = ["get", "put", "post", "patch", "delete"];

/// The page for `document`, the OpenAPI document.
pub(super) fn render(document: &Value) -> String {
    let info = &document["info"];
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n<title>Pregón: HTTP API</title>\n\
         <link rel=\"stylesheet\" href=\"docs.css\">\n<h1>Pregón {}: HTTP API</h1>\n<p>{}\n\
         <p>The same as <a href=\"openapi.json\">OpenAPI 3.1</a>. Schemas are <a href=\"#schemas\">below</a>.\n",
        prose(&info["version"]),
        prose(&info["description"]),
    );
    let mut sections: BTreeMap<String, (String, String)> = BTreeMap::new();
    for (path, item) in fields(&document["paths"]) {
        for method in METHODS.into_iter().filter(|method| item.get(method).is_some()) {
            let operation = &item[method];
            let (index, calls) = sections.entry(prose(&operation["tags"][0])).or_default();
            let (id, name) = (prose(&operation["operationId"]), format!("{} {path}", method.to_uppercase()));
            let summary = prose(&operation["summary"]);
            *index += &format!("<p><a href=\"#{id}\"><code>{name}</code></a> {summary}\n");
            *calls += &call(&id, &name, operation);
        }
    }
    for (tag, (index, _)) in &sections {
        page += &format!("<h2>{tag}</h2>\n{index}");
    }
    page.extend(sections.into_values().map(|(_, calls)| calls));
    page += "<h2 id=\"schemas\">Schemas</h2>\n";
    for (name, schema) in fields(&document["components"]["schemas"]) {
        page += &format!("<h3 id=\"{name}\">{name}</h3>\n<p>{}\n", prose(&schema["description"]));
        page += &match properties(schema) {
            rows if rows.is_empty() => format!("<p>{}\n", kind(schema)),
            rows => table(["field", "type", "", "meaning"], &rows),
        };
    }
    page
}

fn call(id: &str, name: &str, operation: &Value) -> String {
    let mut text = format!("<h2 id=\"{id}\"><code>{name}</code></h2>\n<p>{}\n", prose(&operation["summary"]));
    text += &format!("<p>{}\n", prose(&operation["description"]));
    let scopes = list(&operation["security"]).iter().flat_map(fields).flat_map(|(_, scopes)| list(scopes));
    let scopes: Vec<_> = scopes.map(|scope| format!("<code>{}</code>", prose(scope))).collect();
    text += &format!("<p>Scope of the key: {}\n", scopes.join(", "));
    let parameter = |parameter: &Value| {
        let needed = if parameter["required"] == true { "required" } else { "" };
        let place = format!("{} {needed}", prose(&parameter["in"]));
        [code(&parameter["name"]), kind(&parameter["schema"]), place, prose(&parameter["description"])]
    };
    let parameters: Vec<_> = list(&operation["parameters"]).iter().map(parameter).collect();
    if !parameters.is_empty() {
        text += &table(["parameter", "type", "in", "meaning"], &parameters);
    }
    let body = &operation["requestBody"];
    let bodies: Vec<_> = fields(&body["content"])
        .map(|(media_type, content)| [escaped(media_type), kind(&content["schema"]), prose(&body["description"])])
        .collect();
    if !bodies.is_empty() {
        text += &table(["body", "type", "meaning"], &bodies);
    }
    let response = |(status, response): (&String, &Value)| {
        let contents = fields(&response["content"]);
        let contents: Vec<_> = contents
            .map(|(media_type, content)| format!("{} {}", escaped(media_type), kind(&content["schema"])))
            .collect();
        [escaped(status), contents.join("<br>"), prose(&response["description"])]
    };
    let responses: Vec<_> = fields(&operation["responses"]).map(response).collect();
    text + &table(["status", "body", "meaning"], &responses)
}

/// A row for each field of an object. `allOf` adds up.
fn properties(schema: &Value) -> Vec<[String; 4]> {
    let required = list(&schema["required"]);
    let own = fields(&schema["properties"]).map(|(name, property)| {
        let needed = if required.iter().any(|field| field == name) { "always" } else { "" };
        [format!("<code>{name}</code>"), kind(property), needed.to_owned(), prose(&property["description"])]
    });
    let parts = list(&schema["allOf"]).iter().flat_map(|part| match part["$ref"].is_string() {
        true => vec![["…".to_owned(), kind(part), String::new(), "and its fields".to_owned()]],
        false => properties(part),
    });
    own.chain(parts).collect()
}

/// The type that a schema describes, in words, with links to other schemas.
fn kind(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str().and_then(|reference| reference.rsplit('/').next()) {
        return format!("<a href=\"#{name}\">{name}</a>");
    }
    let alternatives = list(&schema["oneOf"]).iter().chain(list(&schema["allOf"]));
    let alternatives: Vec<_> = alternatives.filter(|part| part.get("properties").is_none()).map(kind).collect();
    if !alternatives.is_empty() {
        return alternatives.join(" or ");
    }
    let values: Vec<_> = list(&schema["enum"]).iter().map(code).collect();
    if !values.is_empty() {
        return values.join(", ");
    }
    let types: Vec<_> = match &schema["type"] {
        Value::Array(types) => types.iter().map(prose).collect(),
        one => vec![prose(one)],
    };
    let items = if schema["items"].is_object() { format!(" of {}", kind(&schema["items"])) } else { String::new() };
    let format = schema["format"].as_str().map(|format| format!(" ({})", escaped(format))).unwrap_or_default();
    types.join(" or ") + &items + &format
}

fn table<const N: usize>(header: [&str; N], rows: &[[String; N]]) -> String {
    let row = |cell: &str, cells: &[String; N]| {
        let cells = cells.iter().map(|text| format!("<{cell}>{text}"));
        format!("<tr>{}\n", cells.collect::<String>())
    };
    let rows: String = rows.iter().map(|cells| row("td", cells)).collect();
    format!("<table>\n{}{rows}</table>\n", row("th", &header.map(str::to_owned)))
}

/// A text of the document as HTML, with what is between backticks as code.
fn prose(text: &Value) -> String {
    let pieces = text.as_str().unwrap_or_default().split('`').enumerate();
    pieces
        .map(|(n, piece)| if n % 2 == 1 { format!("<code>{}</code>", escaped(piece)) } else { escaped(piece) })
        .collect()
}

fn code(text: &Value) -> String {
    format!("<code>{}</code>", escaped(text.as_str().unwrap_or_default()))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn fields(value: &Value) -> impl Iterator<Item = (&String, &Value)> {
    value.as_object().into_iter().flat_map(Map::iter)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_text_is_escaped_and_its_code_marked() {
        assert_eq!(prose(&json!("a `b<c>` & \"d\"")), "a <code>b&lt;c&gt;</code> &amp; &quot;d&quot;");
    }

    #[test]
    fn a_type_is_described_in_words() {
        let of = |schema| kind(&schema);
        assert_eq!(of(json!({ "type": ["string", "null"], "format": "date-time" })), "string or null (date-time)");
        assert_eq!(
            of(json!({ "type": "array", "items": { "$ref": "#/a/Line" } })),
            "array of <a href=\"#Line\">Line</a>"
        );
        assert_eq!(of(json!({ "oneOf": [{ "type": "null" }, { "type": "integer" }] })), "null or integer");
        assert_eq!(
            of(json!({ "type": "string", "enum": ["hold", "resend"] })),
            "<code>hold</code>, <code>resend</code>"
        );
    }
}
