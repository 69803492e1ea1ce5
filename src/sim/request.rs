//! The body of a send: the fields that Meta checks. Borrows from the bytes of the request.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, Unexpected, Visitor},
};

/// The body of `POST {line}/messages`, except the contents of messages without a template, which
/// [`super::free::Free`] reads. Unknown fields are ignored, as at Meta.
#[derive(Deserialize)]
pub(super) struct SendRequest<'a> {
    #[serde(borrow)]
    pub(super) messaging_product: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) to: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) recipient: Option<Text<'a>>,
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) template: Option<TemplateRequest<'a>>,
    /// `read`: the request is a read receipt, not a message.
    #[serde(borrow)]
    pub(super) status: Option<Text<'a>>,
    /// The message that a read receipt is about.
    #[serde(borrow)]
    pub(super) message_id: Option<Text<'a>>,
    /// Of a read receipt: the line is typing an answer.
    #[serde(borrow)]
    pub(super) typing_indicator: Option<TypingIndicator<'a>>,
    #[serde(borrow)]
    pub(super) biz_opaque_callback_data: Option<Text<'a>>,
    /// For the Marketing Messages API: whether a WABA that is not enabled for it sends the message as `/messages` does.
    #[serde(borrow)]
    pub(super) product_policy: Option<Text<'a>>,
}

impl SendRequest<'_> {
    /// Whether the request is a read receipt, not a message.
    pub(super) fn is_receipt(&self) -> bool {
        self.status.as_ref().is_some_and(|status| status.as_str() == "read")
    }

    /// Whether the message is of this type, such as `template`.
    pub(super) fn is_of_kind(&self, kind: &str) -> bool {
        self.kind.as_ref().is_some_and(|named| named.as_str() == kind)
    }
}

#[derive(Deserialize)]
pub(super) struct TemplateRequest<'a> {
    #[serde(borrow)]
    pub(super) name: Text<'a>,
    #[serde(borrow)]
    pub(super) language: Language<'a>,
    #[serde(borrow, default)]
    pub(super) components: Vec<Component<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Language<'a> {
    #[serde(borrow)]
    pub(super) code: Text<'a>,
}

#[derive(Deserialize)]
pub(super) struct Component<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) sub_type: Option<Text<'a>>,
    #[serde(default, deserialize_with = "number_or_text")]
    pub(super) index: Option<usize>,
    #[serde(borrow, default)]
    pub(super) parameters: Vec<Parameter<'a>>,
}

#[derive(Deserialize)]
pub(super) struct Parameter<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Text<'a>,
    #[serde(borrow)]
    pub(super) parameter_name: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) text: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) payload: Option<Text<'a>>,
    #[serde(borrow)]
    pub(super) coupon_code: Option<Text<'a>>,
    #[serde(borrow)]
    currency: Option<Fallback<'a>>,
    #[serde(borrow)]
    date_time: Option<Fallback<'a>>,
    #[serde(borrow)]
    pub(super) image: Option<Media<'a>>,
    #[serde(borrow)]
    pub(super) video: Option<Media<'a>>,
    #[serde(borrow)]
    pub(super) document: Option<Media<'a>>,
    pub(super) location: Option<IgnoredAny>,
}

#[derive(Deserialize)]
pub(super) struct Media<'a> {
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    link: Option<Text<'a>>,
}

#[derive(Deserialize)]
pub(super) struct TypingIndicator<'a> {
    #[serde(borrow, rename = "type")]
    pub(super) kind: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Fallback<'a> {
    #[serde(borrow)]
    fallback_value: Text<'a>,
}

/// Text, borrowed unless it contains escapes. A separate type, because serde does not borrow into `Option<Cow<str>>`.
#[derive(PartialEq, Deserialize)]
#[serde(transparent)]
pub(super) struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Text<'_> {
    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl Component<'_> {
    /// Compares the type, ignoring case as Meta does.
    pub(super) fn is(&self, kind: &str) -> bool {
        self.kind.0.eq_ignore_ascii_case(kind)
    }
}

impl Parameter<'_> {
    /// The fallback text of a currency or a date.
    pub(super) fn fallback(&self) -> Option<&str> {
        let fallback = self.currency.as_ref().or(self.date_time.as_ref())?;
        Some(fallback.fallback_value.as_str())
    }
}

impl Media<'_> {
    /// Whether an uploaded file or a link is given.
    pub(super) fn has_source(&self) -> bool {
        self.id.is_some() || self.link.is_some()
    }
}

/// Parses the index of a button, which Meta accepts as a number or as text.
fn number_or_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<usize>, D::Error> {
    struct Index;

    impl Visitor<'_> for Index {
        type Value = usize;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the index of a button")
        }

        fn visit_u64<E: serde::de::Error>(self, index: u64) -> Result<usize, E> {
            usize::try_from(index).map_err(|_| E::invalid_value(Unexpected::Unsigned(index), &self))
        }

        fn visit_str<E: serde::de::Error>(self, index: &str) -> Result<usize, E> {
            index.parse().map_err(|_| E::invalid_value(Unexpected::Str(index), &self))
        }
    }

    deserializer.deserialize_any(Index).map(Some)
}
