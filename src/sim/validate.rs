//! Validates the body of a send: all of Meta's checks except the rate limits.

use std::time::Duration;

use super::{
    blocks::Kind,
    inbound::Tap,
    line::LineState,
    request::{SendRequest, TemplateRequest, Text},
    template::TemplateStatus,
    wire::Refusal,
    world::World,
};
use crate::domain::Phone;

/// Meta's limit on `biz_opaque_callback_data`, in characters.
const CALLBACK_CHARS_MAX: usize = 512;
/// Meta's limit on the text of a message without a template, in characters.
const TEXT_CHARS_MAX: usize = 4096;
/// Message types other than `template`.
const OTHER_KINDS: [&str; 10] =
    ["text", "image", "audio", "video", "document", "sticker", "interactive", "location", "contacts", "reaction"];

/// The body of a send, parsed as far as the referee needs: the person and the template.
pub(super) struct Incoming<'a> {
    request: SendRequest<'a>,
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
    /// A read receipt.
    Receipt,
}

/// A message that Meta accepts if no rate limit refuses it.
pub(super) struct ValidMessage<'a> {
    pub(super) to: Phone,
    /// `to` as in the request: digits, spaces and `+-()`.
    pub(super) input: Text<'a>,
    callback: Option<Text<'a>>,
    template: Option<(usize, TemplateRequest<'a>)>,
}

impl<'a> Incoming<'a> {
    /// Errors: the refusal of a body that is not JSON, or not of Meta's form.
    pub(super) fn read(world: &World, waba: usize, edge: Edge, body: &'a [u8]) -> Result<Self, Refusal> {
        let request: SendRequest<'a> =
            serde_json::from_slice(body).map_err(|error| Refusal::new(100, format!("Invalid JSON: {error}")))?;
        let to = request.to.as_ref().and_then(|to| phone(to.as_str()));
        let template = request.template.as_ref().filter(|_| request.is_of_kind("template"));
        let template =
            template.and_then(|named| world.template(waba, named.name.as_str(), named.language.code.as_str()));
        Ok(Self { request, to, template, waba, edge })
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
        let Incoming { request, to, template: found, waba, edge } = incoming;
        if request.messaging_product.as_ref().is_none_or(|product| product.as_str() != "whatsapp") {
            return Err(Refusal::new(100, "Param messaging_product must be one of {WHATSAPP}"));
        }
        if request.is_receipt() && edge == Edge::Messages {
            return Ok(Self::Receipt);
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
        let input = match (request.to, request.recipient) {
            (Some(input), _) => input,
            (None, Some(_)) => return Err(Refusal::bare(131_062)),
            (None, None) => return Err(Refusal::new(100, "The parameter to is required.")),
        };
        let to = to.ok_or_else(|| Refusal::new(131_009, "Param to is not a valid phone number"))?;
        let template = match (request.kind.as_ref().map_or("text", |kind| kind.as_str()), request.template) {
            ("template", Some(template)) => Some((sendable(world, found, &template)?, template)),
            ("template", None) => return Err(Refusal::new(131_008, "The parameter template is required.")),
            ("text", _) => {
                let chars = request.text.map_or(0, |text| text.body.as_str().chars().count());
                if !(1..=TEXT_CHARS_MAX).contains(&chars) {
                    return Err(Refusal::new(100, "Param text['body'] must be 1 to 4096 characters long"));
                }
                None
            }
            (kind, _) if OTHER_KINDS.contains(&kind) => None,
            (kind, _) => return Err(Refusal::new(131_051, format!("Message type {kind} is not supported"))),
        };
        Ok(Self::Message(ValidMessage { to, input, callback: request.biz_opaque_callback_data, template }))
    }
}

impl ValidMessage<'_> {
    /// `biz_opaque_callback_data`, or an empty text.
    pub(super) fn callback(&self) -> &str {
        self.callback.as_ref().map_or("", |data| data.as_str())
    }

    /// The index of the template in [`World::templates`]; `None` for a message without a template.
    pub(super) fn template(&self) -> Option<usize> {
        self.template.as_ref().map(|(index, _)| *index)
    }

    /// What a tap on each quick-reply button would return.
    pub(super) fn taps(&self, world: &World) -> Vec<Tap> {
        let Some((index, request)) = &self.template else { return Vec::new() };
        let payload = |button: usize| {
            let sent = request.components.iter().find(|c| c.is("button") && c.index == Some(button))?;
            sent.parameters.first()?.payload.as_ref()
        };
        world.templates[*index]
            .state()
            .requirements
            .quick_replies()
            .map(|(button, label)| Tap {
                payload: payload(button).map_or(label, |payload| payload.as_str()).into(),
                label: label.into(),
            })
            .collect()
    }
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
