//! What is sent to a contact: messages with their content, and marks. Pure.
//!
//! Limits from <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/send-messages>, read
//! 2026-12-01.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::{MediaId, Phone, inbound::MediaKind};

/// What the lane of a line sends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChatRequest {
    /// A message.
    Message(ChatReply),
    /// A read mark or a typing indicator.
    Mark(ReadMark),
}

/// A message to a contact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ChatReply {
    /// The contact.
    pub to: ReplyTo,
    /// Meta's id of the message that it answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    /// What it says.
    pub content: ReplyContent,
}

/// How Meta knows a contact. One of the two is set; the number wins.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyTo {
    /// The phone number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub number: Option<Phone>,
    /// The id of the person in the business portfolio.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
}

/// Shows a contact that a message was read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadMark {
    /// Meta's id of the message.
    pub message_id: String,
    /// Whether to show as well that somebody is typing.
    #[serde(default)]
    pub typing: bool,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schema(as = MessageContent)]
pub enum ReplyContent {
    /// A text.
    Text {
        /// At most 4,096 characters.
        body: String,
        /// Whether WhatsApp shows a preview of the first link.
        #[serde(default, skip_serializing_if = "is_false")]
        preview_url: bool,
    },
    /// A picture.
    Image(MediaFile),
    /// A video.
    Video(MediaFile),
    /// A recording.
    Audio(MediaFile),
    /// A file.
    Document(MediaFile),
    /// A sticker.
    Sticker(MediaFile),
    /// A text with up to three buttons.
    Buttons {
        /// At most 60 characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        header: Option<String>,
        /// At most 1,024 characters.
        body: String,
        /// At most 60 characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        footer: Option<String>,
        /// The buttons.
        buttons: Vec<ReplyButton>,
    },
    /// A text with a list of up to ten choices.
    List {
        /// At most 60 characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        header: Option<String>,
        /// At most 1,024 characters.
        body: String,
        /// At most 60 characters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        footer: Option<String>,
        /// The button that opens the list, at most 20 characters.
        button: String,
        /// The choices, in sections.
        sections: Vec<ListSection>,
    },
    /// A place.
    Location {
        /// From -90 to 90.
        latitude: f64,
        /// From -180 to 180.
        longitude: f64,
        /// Its name.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        name: Option<String>,
        /// Its address.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schema(nullable = false)]
        address: Option<String>,
    },
    /// Contact cards.
    Contacts {
        /// The cards, as Meta documents them: each with `name` and usually `phones`.
        #[schema(value_type = Vec<Object>)]
        contacts: Vec<Value>,
    },
    /// A reaction to a message.
    Reaction {
        /// Meta's id of the message.
        message_id: String,
        /// One emoji; empty removes the reaction.
        emoji: String,
    },
    /// A template. It may be sent at any time.
    Template {
        /// Its name.
        name: String,
        /// Its language.
        language: String,
        /// The values, as Meta documents `components`.
        #[serde(default)]
        #[schema(value_type = Vec<Object>)]
        components: Vec<Value>,
    },
}

/// A file: one of Pregón, one at Meta, or one that Meta fetches. Exactly one of `media`, `id` and `link` is given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MediaFile {
    /// The id of a file that was uploaded with `POST /v1/media`, or that a contact sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub media: Option<MediaId>,
    /// Meta's id of an uploaded file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub id: Option<String>,
    /// The https address of a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub link: Option<String>,
    /// At most 1,024 characters; not for recordings and stickers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub caption: Option<String>,
    /// The name of a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub filename: Option<String>,
}

/// A button.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplyButton {
    /// What the answer names, at most 256 characters.
    pub id: String,
    /// Its label, at most 20 characters.
    pub title: String,
}

/// Choices of a list under a title.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListSection {
    /// At most 24 characters. Needed if there are several sections.
    #[serde(default)]
    pub title: String,
    /// The choices.
    pub rows: Vec<ListRow>,
}

/// A choice of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ListRow {
    /// What the answer names, at most 200 characters.
    pub id: String,
    /// Its label, at most 24 characters.
    pub title: String,
    /// At most 72 characters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub description: Option<String>,
}

fn is_false(value: &bool) -> bool {
    !value
}

impl ReplyContent {
    /// Whether it may be sent only within the window of 24 hours.
    pub fn is_free(&self) -> bool {
        !matches!(self, Self::Template { .. })
    }

    /// Its file, and the kind that the file has to have.
    pub fn file(&self) -> Option<(MediaKind, &MediaFile)> {
        match self {
            Self::Image(file) => Some((MediaKind::Image, file)),
            Self::Video(file) => Some((MediaKind::Video, file)),
            Self::Audio(file) => Some((MediaKind::Audio, file)),
            Self::Document(file) => Some((MediaKind::Document, file)),
            Self::Sticker(file) => Some((MediaKind::Sticker, file)),
            _ => None,
        }
    }

    /// The same content with Meta's id of its file.
    pub fn with_meta_id(mut self, meta_id: String) -> Self {
        if let Self::Image(file) | Self::Video(file) | Self::Audio(file) | Self::Document(file) | Self::Sticker(file) =
            &mut self
        {
            (file.media, file.id) = (None, Some(meta_id));
        }
        self
    }

    /// What Meta would refuse, one sentence each; none if it can be sent.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = Problems::default();
        match self {
            Self::Text { body, .. } => problems.text("body", body, 1, 4_096),
            Self::Image(media) | Self::Video(media) => problems.media(media, true, false),
            Self::Document(media) => problems.media(media, true, true),
            Self::Audio(media) | Self::Sticker(media) => problems.media(media, false, false),
            Self::Buttons { header, body, footer, buttons } => {
                problems.frame(header.as_deref(), body, footer.as_deref());
                problems.count("buttons", buttons.len(), 3);
                for button in buttons {
                    problems.text("buttons.id", &button.id, 1, 256);
                    problems.text("buttons.title", &button.title, 1, 20);
                }
                problems.distinct("buttons.id", buttons.iter().map(|button| button.id.as_str()));
                problems.distinct("buttons.title", buttons.iter().map(|button| button.title.as_str()));
            }
            Self::List { header, body, footer, button, sections } => {
                problems.frame(header.as_deref(), body, footer.as_deref());
                problems.text("button", button, 1, 20);
                let rows = || sections.iter().flat_map(|section| &section.rows);
                problems.count("sections.rows", rows().count(), 10);
                for section in sections {
                    problems.text("sections.title", &section.title, usize::from(sections.len() > 1), 24);
                    problems.count("sections.rows", section.rows.len(), 10);
                }
                for row in rows() {
                    problems.text("rows.id", &row.id, 1, 200);
                    problems.text("rows.title", &row.title, 1, 24);
                    problems.text("rows.description", row.description.as_deref().unwrap_or_default(), 0, 72);
                }
                problems.distinct("rows.id", rows().map(|row| row.id.as_str()));
            }
            Self::Location { latitude, longitude, .. } => {
                problems.check((-90.0..=90.0).contains(latitude), || "latitude is from -90 to 90".to_owned());
                problems.check((-180.0..=180.0).contains(longitude), || "longitude is from -180 to 180".to_owned());
            }
            Self::Contacts { contacts } => problems.count("contacts", contacts.len(), 257),
            Self::Reaction { message_id, .. } => problems.text("message_id", message_id, 1, 256),
            Self::Template { name, language, .. } => {
                problems.text("name", name, 1, 512);
                problems.text("language", language, 1, 16);
            }
        }
        problems.0
    }
}

#[derive(Default)]
struct Problems(Vec<String>);

impl Problems {
    fn check(&mut self, is_good: bool, problem: impl FnOnce() -> String) {
        if !is_good {
            self.0.push(problem());
        }
    }

    fn text(&mut self, field: &str, text: &str, least: usize, most: usize) {
        let length = text.chars().count();
        self.check(length >= least, || format!("{field} is empty"));
        self.check(length <= most, || format!("{field} has {length} characters, and at most {most} are possible"));
        self.check(!text.contains('\0'), || format!("{field} contains the character NUL"));
    }

    fn count(&mut self, field: &str, n: usize, most: usize) {
        self.check((1..=most).contains(&n), || format!("{field} has {n} entries, and 1 to {most} are possible"));
    }

    fn distinct<'a>(&mut self, field: &str, mut values: impl Iterator<Item = &'a str>) {
        let mut seen = HashSet::new();
        let twice = values.find(|value| !seen.insert(*value));
        self.check(twice.is_none(), || format!("{field} {} occurs twice", twice.unwrap_or_default()));
    }

    fn frame(&mut self, header: Option<&str>, body: &str, footer: Option<&str>) {
        self.text("body", body, 1, 1_024);
        for (field, text) in [("header", header), ("footer", footer)] {
            text.into_iter().for_each(|text| self.text(field, text, 1, 60));
        }
    }

    fn media(&mut self, media: &MediaFile, has_caption: bool, has_filename: bool) {
        let MediaFile { media, id, link, caption, filename } = media;
        let named = [media.is_some(), id.is_some(), link.is_some()].into_iter().filter(|given| *given).count();
        self.check(named == 1, || "a file has exactly one of media, id and link".to_owned());
        let is_https = link.as_ref().is_none_or(|link| link.starts_with("https://"));
        self.check(is_https, || "link is not an https address".to_owned());
        self.check(caption.is_none() || has_caption, || "caption is not possible here".to_owned());
        self.check(filename.is_none() || has_filename, || "filename is only possible for a document".to_owned());
        self.text("caption", caption.as_deref().unwrap_or_default(), 0, 1_024);
        self.text("filename", filename.as_deref().unwrap_or_default(), 0, 240);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn problems(content: Value) -> Vec<String> {
        serde_json::from_value::<ReplyContent>(content).expect("content").problems()
    }

    #[test]
    fn what_meta_would_refuse_is_named() {
        let button = |id: &str, title: &str| json!({"id": id, "title": title});
        for good in [
            json!({"type": "text", "body": "¡Hola!"}),
            json!({"type": "image", "link": "https://example.org/a.png", "caption": "A"}),
            json!({"type": "document", "id": "77", "filename": "a.pdf"}),
            json!({"type": "sticker", "media": "01J9ZK3V5T8R7Q6P5N4M3K2J1H"}),
            json!({"type": "buttons", "body": "¿Sí?", "buttons": [button("yes", "Sí"), button("no", "No")]}),
            json!({"type": "list", "body": "b", "button": "Menu", "sections": [{"rows": [{"id": "1", "title": "One"}]}]}),
            json!({"type": "location", "latitude": -34.6, "longitude": -58.4}),
            json!({"type": "reaction", "message_id": "wamid.A", "emoji": ""}),
            json!({"type": "template", "name": "order_update", "language": "es_AR"}),
        ] {
            assert_eq!(problems(good.clone()), Vec::<String>::new(), "{good}");
        }
        for (bad, expected) in [
            (json!({"type": "text", "body": ""}), "body is empty"),
            (
                json!({"type": "text", "body": "a".repeat(4_097)}),
                "body has 4097 characters, and at most 4096 are possible",
            ),
            (json!({"type": "audio", "id": "1", "caption": "c"}), "caption is not possible here"),
            (json!({"type": "image"}), "a file has exactly one of media, id and link"),
            (json!({"type": "image", "link": "http://example.org"}), "link is not an https address"),
            (json!({"type": "buttons", "body": "b", "buttons": []}), "buttons has 0 entries, and 1 to 3 are possible"),
            (
                json!({"type": "buttons", "body": "b", "buttons": [button("1", "A"), button("2", "A")]}),
                "buttons.title A occurs twice",
            ),
            (json!({"type": "location", "latitude": 91, "longitude": 0}), "latitude is from -90 to 90"),
        ] {
            assert_eq!(problems(bad.clone()), [expected], "{bad}");
        }
        let unknown = json!({"type": "text", "body": "b", "colour": "red"});
        assert!(serde_json::from_value::<ReplyContent>(unknown).is_err());
    }

    #[test]
    fn only_a_template_may_be_sent_at_any_time() {
        let content = |json: Value| serde_json::from_value::<ReplyContent>(json).expect("content");
        assert!(content(json!({"type": "text", "body": "b"})).is_free());
        assert!(!content(json!({"type": "template", "name": "n", "language": "es"})).is_free());
    }
}
