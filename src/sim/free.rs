//! Messages without a template, as the body of a send writes them, and Meta's checks of their contents.
//!
//! Source: developers.facebook.com/docs/whatsapp/cloud-api, service messages, read in a copy of 23 Apr 2026.
//!
//! Never: looks up what a message refers to, such as a file or another message.

use std::{collections::HashSet, ops::RangeInclusive};

use serde_json::{Map, Value};

use super::wire::Refusal;

/// Meta's limits, in characters.
const TEXT_CHARS_MAX: usize = 4096;
const BODY_CHARS_MAX: usize = 1024;
const HEADER_CHARS_MAX: usize = 60;
const BUTTON_CHARS_MAX: usize = 20;
const BUTTON_ID_CHARS_MAX: usize = 256;
const ROW_TITLE_CHARS_MAX: usize = 24;
const ROW_DESCRIPTION_CHARS_MAX: usize = 72;
const ROW_ID_CHARS_MAX: usize = 200;
/// Meta's limits on numbers of items.
const BUTTONS_MAX: usize = 3;
const ROWS_MAX: usize = 10;
const CONTACTS_MAX: usize = 257;

const KINDS: [&str; 10] =
    ["text", "image", "video", "audio", "document", "sticker", "interactive", "location", "contacts", "reaction"];
/// Types of interactive messages of which only the body is checked.
const OTHER_INTERACTIVE: [&str; 9] = [
    "cta_url",
    "flow",
    "product",
    "product_list",
    "catalog_message",
    "location_request_message",
    "call_permission_request",
    "request_contact_info",
    "carousel",
];

/// A message without a template.
pub(super) struct Free {
    /// Meta's type, such as `image`.
    pub(super) kind: &'static str,
    /// The text that a person reads: the text or caption, the body of an interactive message, the emoji of a reaction.
    /// Empty if there is none.
    pub(super) text: Box<str>,
    /// The reply buttons, or the rows of a list.
    pub(super) choices: Vec<Choice>,
    /// The id of the uploaded file that it shows, with the path of the parameter.
    pub(super) file: Option<(String, Box<str>)>,
    /// The id of the message that a reaction is about.
    pub(super) reacts_to: Option<Box<str>>,
}

/// A reply button, or a row of a list.
#[derive(Clone)]
pub(super) struct Choice {
    pub(super) is_row: bool,
    pub(super) id: Box<str>,
    pub(super) title: Box<str>,
    /// Empty for a button, and for a row without one.
    pub(super) description: Box<str>,
}

impl Free {
    /// Reads the message of this type from the body of a send.
    ///
    /// Errors: 131051 for an unknown type; 131008 for a missing parameter; 100 or 131009 for one that is too long,
    /// empty or otherwise not valid.
    pub(super) fn read(kind: &str, body: &[u8]) -> Result<Self, Refusal> {
        let unsupported = || Refusal::new(131_051, format!("Message type {kind} is not supported"));
        let kind = KINDS.into_iter().find(|known| *known == kind).ok_or_else(unsupported)?;
        let body: Map<String, Value> =
            serde_json::from_slice(body).map_err(|error| Refusal::new(100, format!("Invalid JSON: {error}")))?;
        if let Some(quoted) = body.get("context").filter(|context| !context.is_null()) {
            Field { path: "context".into(), value: Some(quoted), code: 100 }.at("message_id").message_id()?;
        }
        let code = if kind == "interactive" { 131_009 } else { 100 };
        let content = Field { path: kind.into(), value: body.get(kind), code };
        content.value()?;
        let mut free = Self { kind, text: "".into(), choices: Vec::new(), file: None, reacts_to: None };
        match kind {
            "text" => free.text = content.at("body").text(1..=TEXT_CHARS_MAX)?.into(),
            "interactive" => free.read_interactive(&content)?,
            "location" => {
                content.at("latitude").degrees(90.0)?;
                content.at("longitude").degrees(180.0)?;
            }
            "contacts" => {
                for contact in content.items(1..=CONTACTS_MAX)? {
                    contact.at("name").at("formatted_name").text(1..=TEXT_CHARS_MAX)?;
                }
            }
            "reaction" => {
                free.reacts_to = Some(content.at("message_id").message_id()?.into());
                free.text = content.at("emoji").optional_text(TEXT_CHARS_MAX)?.into();
            }
            _ => free.read_medium(&content)?,
        }
        Ok(free)
    }

    fn read_medium(&mut self, content: &Field<'_>) -> Result<(), Refusal> {
        let caption = content.at("caption");
        if matches!(self.kind, "audio" | "sticker") && caption.is_given() {
            return Err(Refusal::new(100, format!("Unexpected key \"caption\" on param \"{}\"", self.kind)));
        }
        self.text = caption.optional_text(BODY_CHARS_MAX)?.into();
        self.file = content.source()?;
        Ok(())
    }

    fn read_interactive(&mut self, content: &Field<'_>) -> Result<(), Refusal> {
        let kind = content.at("type");
        self.text = content.at("body").at("text").text(1..=BODY_CHARS_MAX)?.into();
        content.at("footer").at("text").optional_text(HEADER_CHARS_MAX)?;
        let header = content.at("header");
        if header.is_given() {
            match header.at("type").text(1..=HEADER_CHARS_MAX)? {
                "text" => drop(header.at("text").text(1..=HEADER_CHARS_MAX)?),
                medium @ ("image" | "video" | "document") => self.file = header.at(medium).source()?,
                _ => return Err(header.at("type").bad("one of {TEXT, IMAGE, VIDEO, DOCUMENT}")),
            }
        }
        let action = content.at("action");
        match kind.text(1..=HEADER_CHARS_MAX)? {
            "button" => {
                for button in action.at("buttons").items(1..=BUTTONS_MAX)? {
                    let reply = button.at("reply");
                    self.choices.push(Choice {
                        is_row: false,
                        id: reply.at("id").text(1..=BUTTON_ID_CHARS_MAX)?.into(),
                        title: reply.at("title").text(1..=BUTTON_CHARS_MAX)?.into(),
                        description: "".into(),
                    });
                }
                self.check_unique(&action, "title", |choice| &choice.title)?;
            }
            "list" => {
                action.at("button").text(1..=BUTTON_CHARS_MAX)?;
                let sections = action.at("sections").items(1..=ROWS_MAX)?;
                for section in &sections {
                    if sections.len() > 1 {
                        section.at("title").text(1..=ROW_TITLE_CHARS_MAX)?;
                    }
                    for row in section.at("rows").items(1..=ROWS_MAX)? {
                        self.choices.push(Choice {
                            is_row: true,
                            id: row.at("id").text(1..=ROW_ID_CHARS_MAX)?.into(),
                            title: row.at("title").text(1..=ROW_TITLE_CHARS_MAX)?.into(),
                            description: row.at("description").optional_text(ROW_DESCRIPTION_CHARS_MAX)?.into(),
                        });
                    }
                }
                if self.choices.len() > ROWS_MAX {
                    return Err(action.at("sections").bad("of at most 10 rows in total"));
                }
            }
            other if OTHER_INTERACTIVE.contains(&other) => {}
            _ => return Err(kind.bad("a type of interactive messages, such as button or list")),
        }
        self.check_unique(&action, "id", |choice| &choice.id)
    }

    fn check_unique(&self, action: &Field<'_>, name: &str, of: impl Fn(&Choice) -> &Box<str>) -> Result<(), Refusal> {
        let mut seen = HashSet::new();
        let is_unique = self.choices.iter().all(|choice| seen.insert(of(choice)));
        if is_unique { Ok(()) } else { Err(action.bad(&format!("without a duplicate {name}"))) }
    }
}

/// A parameter of a send, which may be absent.
struct Field<'v> {
    /// As Meta writes it in errors, such as `text['body']`.
    path: String,
    value: Option<&'v Value>,
    /// The code for a value that is not valid.
    code: u32,
}

impl<'v> Field<'v> {
    fn at(&self, name: &str) -> Self {
        let value = self.value.and_then(|value| value.get(name)).filter(|value| !value.is_null());
        Self { path: format!("{}['{name}']", self.path), value, code: self.code }
    }

    fn is_given(&self) -> bool {
        self.value.is_some()
    }

    fn value(&self) -> Result<&'v Value, Refusal> {
        let missing = || Refusal::new(131_008, format!("The parameter {} is required.", self.path));
        self.value.ok_or_else(missing)
    }

    fn bad(&self, must_be: &str) -> Refusal {
        Refusal::new(self.code, format!("Param {} must be {must_be}", self.path))
    }

    fn text(&self, chars: RangeInclusive<usize>) -> Result<&'v str, Refusal> {
        let text = self.value()?.as_str().ok_or_else(|| self.bad("a string"))?;
        let valid = chars.contains(&text.chars().count());
        let (least, most) = chars.into_inner();
        if valid { Ok(text) } else { Err(self.bad(&format!("{least} to {most} characters long"))) }
    }

    /// An absent text is empty.
    fn optional_text(&self, chars_max: usize) -> Result<&'v str, Refusal> {
        if self.is_given() { self.text(0..=chars_max) } else { Ok("") }
    }

    fn items(&self, len: RangeInclusive<usize>) -> Result<Vec<Self>, Refusal> {
        let items = self.value()?.as_array().ok_or_else(|| self.bad("an array"))?;
        if !len.contains(&items.len()) {
            let (least, most) = len.into_inner();
            return Err(self.bad(&format!("{least} to {most} items long")));
        }
        let item =
            |(index, value)| Self { path: format!("{}[{index}]", self.path), value: Some(value), code: self.code };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A number, or its text, that is at most `limit` from 0.
    fn degrees(&self, limit: f64) -> Result<(), Refusal> {
        let value = self.value()?;
        let degrees = value.as_f64().or_else(|| value.as_str()?.parse().ok());
        let valid = degrees.is_some_and(|degrees| degrees.abs() <= limit);
        if valid { Ok(()) } else { Err(Refusal::new(131_009, format!("Param {} is not valid", self.path))) }
    }

    fn message_id(&self) -> Result<&'v str, Refusal> {
        let id = self.value()?.as_str().filter(|id| id.starts_with("wamid."));
        id.ok_or_else(|| Refusal::new(131_009, format!("Param {} is not a message ID", self.path)))
    }

    /// The uploaded file of a medium, with the path of its id; `None` for a link.
    fn source(&self) -> Result<Option<(String, Box<str>)>, Refusal> {
        let (id, link) = (self.at("id"), self.at("link"));
        if id.is_given() {
            let text = id.text(1..=TEXT_CHARS_MAX)?.into();
            return Ok(Some((id.path, text)));
        }
        if !link.is_given() {
            return Err(Refusal::new(131_008, format!("The parameter {} or {} is required.", id.path, link.path)));
        }
        let url = link.text(1..=TEXT_CHARS_MAX)?;
        let valid = url.starts_with("http://") || url.starts_with("https://");
        if valid { Ok(None) } else { Err(link.bad("a valid URL")) }
    }
}
