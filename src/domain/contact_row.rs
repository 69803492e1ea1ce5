//! A contact in an imported list, as the caller wrote it.
//!
//! The JSON form, of which only `phone` is required:
//!
//! ```json
//! {"phone": "+5491155550001", "name": "Maria", "tags": ["vip"], "properties": {"city": "Rosario"}}
//! ```
//!
//! A CSV has the columns `phone`, `name`, `tags` (separated by blanks, commas or semicolons), and one for each property.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{
    Phone, Reject, TagId, agent,
    property::{self, PropertyKind},
    recipient::{Text, json_row},
    reject::{quoted, redacted},
};

/// With these a spreadsheet begins a formula.
const BEGINS_FORMULA: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

/// A row of an import of contacts. An empty text counts as absent.
#[derive(Clone, Default, PartialEq, Deserialize, ToSchema)]
#[schema(as = ContactRow)]
#[serde(deny_unknown_fields, expecting = "a contact object")]
pub struct RawContact {
    /// The phone number in E.164.
    #[serde(deserialize_with = "phone")]
    #[schema(value_type = Phone)]
    pub phone: String,
    /// The name.
    #[serde(default)]
    #[schema(example = "Maria")]
    pub name: Option<String>,
    /// The ids of tags, which the contact gets in addition.
    #[serde(default)]
    pub tags: Vec<String>,
    /// Values of properties, by their keys; null removes one.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"city": "Rosario"}))]
    pub properties: Map<String, Value>,
}

// The number and what is known about the person are personal data.
impl fmt::Debug for RawContact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawContact").field("phone", &redacted(&self.phone)).finish_non_exhaustive()
    }
}

/// What a business has defined for its contacts.
#[derive(Clone, Debug, Default)]
pub struct ContactSchema {
    /// The types of its properties, with their choices, by key.
    pub properties: HashMap<String, (PropertyKind, Vec<String>)>,
    /// Its tags.
    pub tags: HashSet<String>,
}

/// A contact of an import, once it is checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ImportedContact {
    /// The number.
    pub phone: Phone,
    /// The name.
    pub name: Option<String>,
    /// The tags.
    pub tags: Vec<TagId>,
    /// Values of properties in their canonical form; null removes one.
    pub properties: Map<String, Value>,
}

impl RawContact {
    /// The columns of a CSV, beside those of properties.
    pub const COLUMNS: [&str; 3] = ["phone", "name", "tags"];

    /// Sets the field of a column of a CSV. An empty cell is ignored.
    pub fn set(&mut self, column: &str, cell: &str) {
        let text = from_csv(cell).trim();
        if text.is_empty() {
            return;
        }
        match column {
            "name" => self.name = Some(text.to_owned()),
            "tags" => {
                let tags = text.split([' ', ',', ';']).filter(|tag| !tag.is_empty());
                self.tags = tags.map(str::to_owned).collect();
            }
            key => drop(self.properties.insert(key.to_owned(), text.into())),
        }
    }

    /// Parses one line of NDJSON.
    ///
    /// Errors: [`Reject::Malformed`] with the cause and the column.
    pub fn from_json(line: &[u8]) -> Result<Self, Reject> {
        json_row(line, "{\"phone\": \"+5491155550001\", \"name\": \"Maria\"}")
    }

    /// Checks the row.
    ///
    /// Errors: the first thing that is wrong, with its field.
    pub fn fit(self, schema: &ContactSchema) -> Result<ImportedContact, Reject> {
        let phone: Phone = self.phone.parse().map_err(|_| Reject::not_e164("phone", &self.phone))?;
        let name = match self.name.filter(|name| !name.trim().is_empty()) {
            None => None,
            Some(name) => {
                let name = agent::name(&name).map(str::to_owned);
                Some(name.ok_or_else(|| Reject::Contact("`name` has 1 to 100 characters, without line breaks".into()))?)
            }
        };
        if let Some(tag) = self.tags.iter().find(|tag| !schema.tags.contains(*tag)) {
            return Err(Reject::Contact(format!("`tags`: the business has no tag “{}”", quoted(tag))));
        }
        let mut properties = Map::new();
        for (key, value) in self.properties {
            let Some((kind, choices)) = schema.properties.get(&key) else {
                return Err(Reject::Contact(format!("the business has no property “{}”", quoted(&key))));
            };
            let value = match value {
                Value::Null => Value::Null,
                value => property::canonical(*kind, choices, &value)
                    .map_err(|what| Reject::Contact(format!("property `{key}` {what}")))?,
            };
            properties.insert(key, value);
        }
        Ok(ImportedContact { phone, name, tags: self.tags.iter().map(|tag| tag.as_str().into()).collect(), properties })
    }
}

/// A text as a cell of a CSV, which a spreadsheet does not take for a formula.
pub fn to_csv(text: &str) -> String {
    if text.starts_with(BEGINS_FORMULA) { format!("'{text}") } else { text.to_owned() }
}

/// The inverse of [`to_csv`].
fn from_csv(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|text| text.starts_with(BEGINS_FORMULA)).unwrap_or(cell)
}

fn phone<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    deserializer.deserialize_any(Text { name: "phone" })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> ContactSchema {
        let number = (PropertyKind::Number, Vec::new());
        ContactSchema {
            properties: HashMap::from([
                ("age".to_owned(), number),
                ("city".to_owned(), (PropertyKind::Text, Vec::new())),
            ]),
            tags: HashSet::from(["vip".to_owned()]),
        }
    }

    #[test]
    fn a_row_of_a_csv_is_that_of_json() {
        let mut cells = RawContact { phone: "+5491155550001".into(), ..RawContact::default() };
        for (column, cell) in [("name", " Maria "), ("tags", "vip; vip"), ("age", "33"), ("city", "")] {
            cells.set(column, cell);
        }
        let json = r#"{"phone":"+5491155550001","name":"Maria","tags":["vip","vip"],"properties":{"age":33}}"#;
        let json = RawContact::from_json(json.as_bytes()).expect("a contact");
        assert_eq!(cells.fit(&schema()), json.fit(&schema()));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_field() {
        for (row, part) in [
            (json!({ "phone": "12" }), "phone"),
            (json!({ "phone": "+5491155550001", "name": "a\nb" }), "name"),
            (json!({ "phone": "+5491155550001", "tags": ["old"] }), "no tag “old”"),
            (json!({ "phone": "+5491155550001", "properties": { "size": 3 } }), "no property “size”"),
            (json!({ "phone": "+5491155550001", "properties": { "age": "old" } }), "`age` is a number"),
        ] {
            let raw = RawContact::from_json(row.to_string().as_bytes()).expect("a row");
            let error = raw.fit(&schema()).expect_err("rejected").to_string();
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_spreadsheet_takes_no_text_for_a_formula_and_the_text_comes_back() {
        for text in ["=1+1", "+54", "-", "@a", "Maria", "'quoted'", ""] {
            let cell = to_csv(text);
            assert!(!cell.starts_with(BEGINS_FORMULA), "{cell}");
            assert_eq!(from_csv(&cell), text);
        }
    }
}
