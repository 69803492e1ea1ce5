//! Validates the body of a send: all of Meta's checks except the rate limits.

use std::time::Duration;

use super::{
    blocks::Kind,
    free::Free,
    inbound::{Content, Tap},
    line::LineState,
    people,
    request::{SendRequest, TemplateRequest, Text, TypingIndicator},
    template::TemplateStatus,
    wire::Refusal,
    world::World,
};
use crate::domain::Phone;

/// Meta's limit on `biz_opaque_callback_data`, in characters.
const CALLBACK_CHARS_MAX: usize = 512;

/// The body of a send, parsed as far as the referee needs: the person and the template.
pub(super) struct Incoming<'a> {
    request: SendRequest<'a>,
    /// The whole body, for the contents of a message without a template.
    body: &'a [u8],
    to: Option<Phone>,
    /// The index of the template in [`World::templates`], if there is one with this name and language.
    template: Option<usize>,
    waba: usize,
    edge: Edge,
}

/// The edge of a line that a send is posted to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Messages,
    MarketingMessages,
}

impl Edge {
    /// The edge with this name in the URL.
    pub(super) fn named(name: &str) -> Option<Self> {
        match name {
            "messages" => Some(Self::Messages),
            "marketing_messages" => Some(Self::MarketingMessages),
            _ => None,
        }
    }
}

/// A valid send.
pub(super) enum ValidSend<'a> {
    Message(ValidMessage<'a>),
    /// A read receipt for the message with this id.
    Receipt(Text<'a>),
}

/// A message that Meta accepts if no rate limit refuses it.
pub(super) struct ValidMessage<'a> {
    pub(super) to: Phone,
    /// `to` as in the request: digits, spaces and `+-()`; or the user id.
    pub(super) input: Text<'a>,
    /// The request names the person by a user id.
    pub(super) by_user_id: bool,
    callback: Option<Text<'a>>,
    content: Sent<'a>,
}

/// The content of a message.
enum Sent<'a> {
    /// A template, by its index in [`World::templates`].
    Template(usize, TemplateRequest<'a>),
    Free(Free),
}

impl<'a> Incoming<'a> {
    /// Errors: the refusal of a body that is not JSON, or not of Meta's form.
    pub(super) fn read(world: &World, waba: usize, edge: Edge, body: &'a [u8]) -> Result<Self, Refusal> {
        let request: SendRequest<'a> =
            serde_json::from_slice(body).map_err(|error| Refusal::new(100, format!("Invalid JSON: {error}")))?;
        let to = match (&request.to, &request.recipient) {
            (Some(to), _) => phone(to.as_str()),
            (None, Some(user_id)) => people::person_of(user_id.as_str()),
            (None, None) => None,
        };
        let template = request.template.as_ref().filter(|_| request.is_of_kind("template"));
        let template =
            template.and_then(|named| world.template(waba, named.name.as_str(), named.language.code.as_str()));
        Ok(Self { request, body, to, template, waba, edge })
    }

    /// The recipient of the message; `None` for a read receipt, or without a valid number.
    pub(super) fn person(&self) -> Option<Phone> {
        self.to.filter(|_| !self.request.is_receipt())
    }

    /// The properties of the message to `person` by which a sanction refuses it.
    pub(super) fn kind(&self, world: &World, line: &LineState, person: Phone, now: Duration) -> Kind {
        Kind {
            is_utility: self.template.is_some_and(|template| world.templates[template].state().is_utility()),
            in_service_window: line.in_service_window(person, now),
        }
    }

    /// Whether it is a message without a template.
    pub(super) fn is_free(&self) -> bool {
        !self.request.is_receipt() && !self.request.is_of_kind("template")
    }

    /// The index of the template in [`World::templates`]; `None` for a message without a template of the WABA.
    pub(super) fn template(&self) -> Option<usize> {
        self.template
    }
}

impl<'a> ValidSend<'a> {
    /// Validates a send.
    ///
    /// Errors: the refusal that Meta would return.
    pub(super) fn of(world: &World, incoming: Incoming<'a>) -> Result<Self, Refusal> {
        let Incoming { request, body, to, template: found, waba, edge } = incoming;
        if request.messaging_product.as_ref().is_none_or(|product| product.as_str() != "whatsapp") {
            return Err(Refusal::new(100, "Param messaging_product must be one of {WHATSAPP}"));
        }
        if request.is_receipt() && edge == Edge::Messages {
            return receipt(request);
        }
        let is_marketing = found.map(|template| world.templates[template].state().is_marketing());
        check_edge(world, waba, edge, is_marketing, request.product_policy.as_ref().map(|policy| policy.as_str()))?;
        if request
            .biz_opaque_callback_data
            .as_ref()
            .is_some_and(|data| data.as_str().chars().count() > CALLBACK_CHARS_MAX)
        {
            return Err(Refusal::new(100, "Param biz_opaque_callback_data must be at most 512 characters long"));
        }
        let (input, by_user_id) = match (request.to, request.recipient) {
            (Some(input), _) => (input, false),
            (None, Some(user_id)) => (user_id, true),
            (None, None) => return Err(Refusal::new(100, "The parameter to is required.")),
        };
        let name = if by_user_id { "recipient is not a valid user ID" } else { "to is not a valid phone number" };
        let to = to.ok_or_else(|| Refusal::new(131_009, format!("Param {name}")))?;
        let content = match (request.kind.as_ref().map_or("text", |kind| kind.as_str()), request.template) {
            ("template", Some(template)) => {
                let index = sendable(world, found, &template)?;
                if by_user_id && world.templates[index].state().is_authentication() {
                    return Err(Refusal::bare(131_062));
                }
                Sent::Template(index, template)
            }
            ("template", None) => return Err(Refusal::new(131_008, "The parameter template is required.")),
            (kind, _) => Sent::Free(free(world, waba, kind, body)?),
        };
        let callback = request.biz_opaque_callback_data;
        Ok(Self::Message(ValidMessage { to, input, by_user_id, callback, content }))
    }
}

impl ValidMessage<'_> {
    /// `biz_opaque_callback_data`, or an empty text.
    pub(super) fn callback(&self) -> &str {
        self.callback.as_ref().map_or("", |data| data.as_str())
    }

    /// The index of the template in [`World::templates`]; `None` for a message without a template.
    pub(super) fn template(&self) -> Option<usize> {
        match &self.content {
            Sent::Template(index, _) => Some(*index),
            Sent::Free(_) => None,
        }
    }

    /// The content of a message without a template.
    pub(super) fn free(&self) -> Option<&Free> {
        match &self.content {
            Sent::Template(..) => None,
            Sent::Free(free) => Some(free),
        }
    }

    /// What a tap on each quick-reply button, reply button or row would return.
    pub(super) fn offered(&self, world: &World) -> Vec<Content> {
        let (index, request) = match &self.content {
            Sent::Template(index, request) => (index, request),
            Sent::Free(free) => return free.choices.iter().cloned().map(Content::Choice).collect(),
        };
        let payload = |button: usize| {
            let sent = request.components.iter().find(|c| c.is("button") && c.index == Some(button))?;
            sent.parameters.first()?.payload.as_ref()
        };
        world.templates[*index]
            .state()
            .requirements
            .quick_replies()
            .map(|(button, label)| {
                let payload = payload(button).map_or(label, |payload| payload.as_str()).into();
                Content::Tap(Tap { payload, label: label.into() })
            })
            .collect()
    }
}

/// Reads a read receipt.
fn receipt(request: SendRequest<'_>) -> Result<ValidSend<'_>, Refusal> {
    let is_typing =
        |indicator: &TypingIndicator<'_>| indicator.kind.as_ref().is_some_and(|kind| kind.as_str() == "text");
    if !request.typing_indicator.as_ref().is_none_or(is_typing) {
        return Err(Refusal::new(100, "Param typing_indicator['type'] must be one of {TEXT}"));
    }
    let missing = || Refusal::new(131_008, "The parameter message_id is required.");
    request.message_id.map(ValidSend::Receipt).ok_or_else(missing)
}

/// Reads a message without a template. Its file must be one of the WABA.
fn free(world: &World, waba: usize, kind: &str, body: &[u8]) -> Result<Free, Refusal> {
    let free = Free::read(kind, body)?;
    if let Some((path, id)) = &free.file
        && world.files.owner(id, world.clock.now()) != Some(waba)
    {
        let details = format!("Param {path} is not a valid whatsapp business account media attachment ID");
        return Err(Refusal::new(100, details));
    }
    Ok(free)
}

/// Checks that the edge accepts the message. `is_marketing`: whether its template is, if it has one.
///
/// Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/marketing-messages/send>, read
/// 2026-11-28.
fn check_edge(
    world: &World,
    waba: usize,
    edge: Edge,
    is_marketing: Option<bool>,
    product_policy: Option<&str>,
) -> Result<(), Refusal> {
    match edge {
        Edge::Messages if product_policy.is_some() => Err(Refusal::new(100, "Unexpected param product_policy")),
        Edge::Messages if is_marketing == Some(true) && world.wabas[waba].spec.marketing_api_only => {
            Err(Refusal::bare(131_063))
        }
        Edge::Messages => Ok(()),
        Edge::MarketingMessages if is_marketing == Some(false) => Err(Refusal::bare(131_055)),
        Edge::MarketingMessages => match product_policy {
            None | Some("CLOUD_API_FALLBACK" | "STRICT") => Ok(()),
            Some(_) => Err(Refusal::new(100, "Param product_policy must be one of {CLOUD_API_FALLBACK, STRICT}")),
        },
    }
}

/// The index of the template.
///
/// Errors: the refusal if the template does not exist, cannot be sent, or does not match the components.
fn sendable(world: &World, found: Option<usize>, request: &TemplateRequest<'_>) -> Result<usize, Refusal> {
    let (name, language) = (request.name.as_str(), request.language.code.as_str());
    let missing = || Refusal::new(132_001, format!("template name ({name}) does not exist in {language}"));
    let index = found.ok_or_else(missing)?;
    let template = &world.templates[index];
    let state = template.state();
    match state.status_at(world.clock.now()) {
        TemplateStatus::Paused => return Err(Refusal::new(132_015, format!("template ({name}) is paused"))),
        TemplateStatus::Disabled => return Err(Refusal::new(132_016, format!("template ({name}) is disabled"))),
        status if status.is_sendable() => {}
        _ => return Err(missing()),
    }
    state.requirements.check(&request.components)?;
    Ok(index)
}

/// Parses a phone number as Meta does, ignoring `+`, spaces, hyphens and parentheses.
pub(super) fn phone(text: &str) -> Option<Phone> {
    let mut digits: u64 = 0;
    let mut len = 0;
    for b in text.bytes() {
        match b {
            b'0'..=b'9' if len < 15 => {
                digits = digits * 10 + u64::from(b - b'0');
                len += 1;
            }
            b'+' | b' ' | b'-' | b'(' | b')' => {}
            _ => return None,
        }
    }
    Phone::from_digits(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_numbers_may_contain_separators() {
        for same in ["+5491155550001", "5491155550001", "+54 9 11 5555-0001", "+54 (9) 11 5555 0001"] {
            assert_eq!(phone(same).map(|phone| phone.to_string()).as_deref(), Some("+5491155550001"), "{same}");
        }
        for bad in ["", "+", "12345", "+54a1155550001", "+1234567890123456"] {
            assert_eq!(phone(bad), None, "{bad}");
        }
    }
}
