//! Messages that people send to a line: taps, replies and everything else they write.
//!
//! An [`Inbound`] owns its text: it is stored, and handled after the webhook that brought it is answered. It serializes
//! to one JSON document, without its missing fields, and deserializes to an equal value. A reader skips fields that it
//! does not know; a variant of [`Content`] that it does not know is an error.
//!
//! Never: interprets what a person wrote.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::value::RawValue;

use super::{MetaCode, UnixMs, Wamid};

/// Declares structs whose missing and empty fields are left out of the JSON document.
macro_rules! documents {
    ($($(#[$about:meta])* $name:ident { $($(#[$field_about:meta])* $field:ident: $kind:ty,)* })*) => {
        $($(#[$about])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        #[serde(default)]
        pub struct $name {
            $($(#[$field_about])* #[serde(skip_serializing_if = "is_default")] pub $field: $kind,)*
        })*
    };
}

documents! {
    /// A message from a person to a line.
    Inbound {
        /// Meta's id of the message.
        id: Option<Wamid>,
        /// Meta's timestamp.
        #[serde(with = "unix_ms")]
        at: Option<UnixMs>,
        /// The person.
        sender: Sender,
        /// The id of the group in which the message was written.
        group: Option<String>,
        /// The message that this one answers or forwards.
        context: Option<Box<Context>>,
        /// The advertisement that led the person to the line.
        referral: Option<Box<Referral>>,
        /// Why Meta could not pass on the whole message.
        errors: Vec<InboundError>,
        /// What the person wrote.
        content: Content,
    }
    /// The person who wrote a message. Meta omits the number of a person who has a username and whom it does not
    /// consider known to the line. Older webhooks omit the ids.
    Sender {
        /// The phone number as Meta writes it: without `+`, and not always the number to which a message was sent.
        number: Option<String>,
        /// The person's id, which is valid in one business portfolio.
        user_id: Option<String>,
        /// The person's id, which is valid in all portfolios of one business.
        parent_user_id: Option<String>,
        /// The name in the person's profile.
        name: Option<String>,
        /// The person's username.
        username: Option<String>,
        /// Changes when the person's WhatsApp account is installed again or moves to another phone.
        identity_key_hash: Option<String>,
    }
    /// The message that another one answers or forwards.
    Context {
        /// Meta's id of the answered message: ours, if the line sent it.
        message: Option<Wamid>,
        /// The number that sent the answered message.
        from: Option<String>,
        /// Whether the message was forwarded.
        forwarded: bool,
        /// Whether the message was forwarded more than five times.
        frequently_forwarded: bool,
        /// The product about which the person asks.
        product: Option<Product>,
    }
    /// A product in a catalog.
    Product {
        /// The catalog's id.
        catalog: Option<String>,
        /// The seller's id of the product.
        retailer_id: Option<String>,
    }
    /// An advertisement or post that opens a chat.
    Referral {
        /// The address of the advertisement or post.
        source_url: Option<String>,
        /// Meta's id of the advertisement or post.
        source_id: Option<String>,
        /// `ad` or `post`.
        source_type: Option<String>,
        /// The headline.
        headline: Option<String>,
        /// The text.
        body: Option<String>,
        /// `image` or `video`.
        media_type: Option<String>,
        /// The address of the image or video.
        media_url: Option<String>,
        /// The address of a smaller image.
        thumbnail_url: Option<String>,
        /// The id of the click, for Meta's conversions API.
        click_id: Option<String>,
        /// The text with which the advertisement greets the person.
        welcome_message: Option<String>,
    }
    /// An error that Meta reports with a message.
    InboundError {
        /// Meta's code.
        code: Option<MetaCode>,
        /// Meta's text; may be empty.
        text: String,
    }
    /// A tap on a quick-reply button of a template.
    Tap {
        /// The payload that was sent with the button: our token, unless the campaign sets its own.
        payload: Option<String>,
        /// The text on the button.
        text: Option<String>,
    }
    /// A chosen reply button or row of a list.
    Choice {
        /// The id that was sent with the button or row.
        id: Option<String>,
        /// The text on the button or row.
        title: Option<String>,
        /// The second text on the row.
        description: Option<String>,
    }
    /// A completed form.
    FormReply {
        /// The kind of form: `flow` or `address_message`.
        name: Option<String>,
        /// The text in the chat.
        body: Option<String>,
        /// What the person entered: JSON as text, as Meta writes it.
        response: Option<String>,
    }
    /// An answer to the request for permission to call.
    CallPermission {
        /// `accept` or `reject`.
        response: Option<String>,
        /// Whether the permission does not end.
        is_permanent: bool,
        /// When the permission ends.
        #[serde(with = "unix_ms")]
        until: Option<UnixMs>,
        /// Whether the person answered, or Meta for the person: `user_action` or `automatic`.
        source: Option<String>,
    }
    /// A file.
    Media {
        /// What kind of file.
        kind: MediaKind,
        /// Meta's id of the file, with which it is downloaded.
        id: Option<String>,
        /// The type of the file, such as `image/jpeg`.
        mime_type: Option<String>,
        /// The hash of the file, as Meta writes it.
        sha256: Option<String>,
        /// The address from which the file is downloaded with the access token.
        url: Option<String>,
        /// The text below the file.
        caption: Option<String>,
        /// The name of a document.
        filename: Option<String>,
        /// Whether an audio file was recorded in the chat.
        is_voice: bool,
        /// Whether a sticker moves.
        is_animated: bool,
    }
    /// A place on the map.
    SharedLocation {
        /// Degrees north, as a decimal number: text, because it is passed on unchanged.
        latitude: Option<String>,
        /// Degrees east, as a decimal number.
        longitude: Option<String>,
        /// The name of the place.
        name: Option<String>,
        /// Its address.
        address: Option<String>,
        /// Its page on the web.
        url: Option<String>,
    }
    /// An entry of the person's address book, or the person's own number.
    SharedContact {
        /// The name as it is displayed.
        name: Option<String>,
        /// The phone numbers.
        phones: Vec<SharedPhone>,
        /// The employer.
        organization: Option<Box<Organization>>,
        /// `contact_request` if the person was asked for the number, else `other`.
        origin: Option<String>,
        /// The whole entry as a vCard.
        vcard: Option<String>,
    }
    /// A phone number in a shared contact.
    SharedPhone {
        /// The number as the person stored it.
        number: Option<String>,
        /// The WhatsApp account of the number, if it has one.
        wa_id: Option<String>,
        /// `HOME`, `WORK`, …
        kind: Option<String>,
    }
    /// The employer in a shared contact.
    Organization {
        /// Its name.
        company: Option<String>,
        /// The department.
        department: Option<String>,
        /// The person's title.
        title: Option<String>,
    }
    /// An emoji on a message.
    Reaction {
        /// Meta's id of the message.
        message: Option<Wamid>,
        /// The emoji; `None` if it was removed.
        emoji: Option<String>,
    }
    /// An order from a catalog.
    Order {
        /// The catalog's id.
        catalog: Option<String>,
        /// The person's text.
        text: Option<String>,
        /// What is ordered.
        items: Vec<OrderItem>,
    }
    /// One product of an order. Amounts are text, because a binary fraction cannot represent every amount of money.
    OrderItem {
        /// The seller's id of the product.
        retailer_id: Option<String>,
        /// How many.
        quantity: Option<String>,
        /// The price of one.
        price: Option<String>,
        /// The currency: `EUR`.
        currency: Option<String>,
    }
    /// A change of the person's account.
    SystemNotice {
        /// Meta's name of the change: `user_changed_number`, `user_changed_user_id`, `customer_identity_changed`, …
        kind: Option<String>,
        /// The text in the chat.
        body: Option<String>,
        /// The new phone number. The message is from the old one.
        number: Option<String>,
        /// The new id of the person.
        user_id: Option<String>,
        /// The id of the person before the change.
        previous_user_id: Option<String>,
    }
}

/// What a person wrote. The large variants are boxed, because a webhook may have very many messages.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// Text.
    Text(String),
    /// A tap on a quick-reply button of a template.
    Tap(Box<Tap>),
    /// A tap on a reply button.
    ButtonReply(Box<Choice>),
    /// A row chosen from a list.
    ListReply(Box<Choice>),
    /// A completed form.
    FormReply(Box<FormReply>),
    /// An answer to the request for permission to call.
    CallPermission(Box<CallPermission>),
    /// An image, video, audio file, document or sticker.
    Media(Box<Media>),
    /// A place on the map.
    Location(Box<SharedLocation>),
    /// Entries of the person's address book.
    Contacts(Vec<SharedContact>),
    /// An emoji on a message, or its removal.
    Reaction(Box<Reaction>),
    /// An order from a catalog.
    Order(Box<Order>),
    /// A change of the person's account.
    System(Box<SystemNotice>),
    /// A message that Meta does not pass on; [`Inbound::errors`] says why.
    Unsupported {
        /// Meta's name of the type, such as `poll_creation`.
        #[serde(default, skip_serializing_if = "is_default")]
        kind: Option<String>,
    },
    /// An earlier message of the person has new content.
    Edit {
        /// Meta's id of the earlier message.
        #[serde(default, skip_serializing_if = "is_default")]
        original: Option<Wamid>,
        /// The new content.
        content: Box<Content>,
    },
    /// An earlier message of the person was deleted.
    Revoke {
        /// Meta's id of the earlier message.
        #[serde(default, skip_serializing_if = "is_default")]
        original: Option<Wamid>,
    },
    /// Not from the person: the business wrote it to the person in the WhatsApp Business app.
    Echo {
        /// What it wrote.
        content: Box<Content>,
    },
    /// Anything else: a type that is not known here, or a known one in another form.
    Other {
        /// Meta's name of the type; may be empty.
        kind: String,
        /// The value that Meta sent under this name.
        #[serde(default, skip_serializing_if = "is_default")]
        json: Option<RawJson>,
    },
}

/// The kind of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaKind {
    /// A picture.
    Image,
    /// A video.
    Video,
    /// Sound: a file, or a recording made in the chat.
    Audio,
    /// Any other file.
    #[default]
    Document,
    /// A sticker.
    Sticker,
}

/// A JSON value, kept as it was written. Equal to another one with the same text.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RawJson(pub Box<RawValue>);

impl PartialEq for RawJson {
    fn eq(&self, other: &Self) -> bool {
        self.0.get() == other.0.get()
    }
}

impl Eq for RawJson {}

impl Default for Content {
    fn default() -> Self {
        Self::Other { kind: String::new(), json: None }
    }
}

impl Inbound {
    /// The payload or id of the button or row that the person tapped.
    pub fn payload(&self) -> Option<&str> {
        match &self.content {
            Content::Tap(tap) => tap.payload.as_deref(),
            Content::ButtonReply(choice) | Content::ListReply(choice) => choice.id.as_deref(),
            _ => None,
        }
    }

    /// Meta's id of the message that this one answers.
    pub fn answers(&self) -> Option<&Wamid> {
        self.context.as_ref()?.message.as_ref()
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Serializes a time as an integer: shorter than the text of [`UnixMs`], and exact for any number that Meta may send.
mod unix_ms {
    use super::{Deserialize as _, Deserializer, Serialize as _, Serializer, UnixMs};

    pub(super) fn serialize<S: Serializer>(at: &Option<UnixMs>, serializer: S) -> Result<S::Ok, S::Error> {
        at.map(|at| at.0).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<UnixMs>, D::Error> {
        Ok(Option::deserialize(deserializer)?.map(UnixMs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_has_only_what_the_message_has() {
        let sender = Sender { number: Some("5491155550103".into()), name: Some("José".into()), ..Sender::default() };
        let (id, at) = (Some(Wamid::from("wamid.IN")), Some(UnixMs(1_795_300_042_000)));
        let of = |content| Inbound { id: id.clone(), at, sender: sender.clone(), content, ..Inbound::default() };
        let raw = |json: &str| Some(RawJson(RawValue::from_string(json.to_owned()).expect("JSON")));
        let start =
            r#"{"id":"wamid.IN","at":1795300042000,"sender":{"number":"5491155550103","name":"José"},"content":"#;
        for (content, json) in [
            (Content::Text("Hola".into()), r#"{"text":"Hola"}"#),
            (Content::Tap(Box::new(Tap { payload: Some("c42".into()), text: None })), r#"{"tap":{"payload":"c42"}}"#),
            (Content::Media(Box::new(Media { is_voice: true, ..Media::default() })), r#"{"media":{"is_voice":true}}"#),
            (Content::Revoke { original: Some(Wamid::from("wamid.A")) }, r#"{"revoke":{"original":"wamid.A"}}"#),
            (
                Content::Other { kind: "poll".into(), json: raw(r#"{"a": [1.0]}"#) },
                r#"{"other":{"kind":"poll","json":{"a": [1.0]}}}"#,
            ),
        ] {
            let (inbound, document) = (of(content), format!("{start}{json}}}"));
            assert_eq!(serde_json::to_string(&inbound).expect("a document"), document);
            assert_eq!(serde_json::from_str::<Inbound>(&document).expect("an inbound"), inbound, "{document}");
        }
    }

    #[test]
    fn a_document_of_any_time_and_none_is_read_back() {
        for at in [None, Some(UnixMs(0)), Some(UnixMs(u64::MAX))] {
            let inbound = Inbound { at, ..Inbound::default() };
            let document = serde_json::to_string(&inbound).expect("a document");
            assert_eq!(serde_json::from_str::<Inbound>(&document).expect("an inbound"), inbound, "{document}");
        }
        assert_eq!(serde_json::to_string(&Inbound::default()).expect("a document"), "{}");
    }

    #[test]
    fn an_unknown_field_of_a_document_is_skipped() {
        let document = r#"{"id":"wamid.IN","mood":{"a":1},"sender":{"shoe":42},"content":{"tap":{"text":"Sí","x":1}}}"#;
        let tap = Tap { payload: None, text: Some("Sí".into()) };
        let expected =
            Inbound { id: Some("wamid.IN".into()), content: Content::Tap(Box::new(tap)), ..Inbound::default() };
        assert_eq!(serde_json::from_str::<Inbound>(document).expect("an inbound"), expected);
    }
}
