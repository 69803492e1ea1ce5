//! The body of a send request, prepared once for a template and filled in for each recipient.
//!
//! Everything except the phone number, the values and the token is the same for all recipients of a campaign, so it
//! is rendered to JSON once and copied. This is the hot path of dispatch: the only allocation is the growth of the
//! output buffer.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/messages/template-messages>,
//! read 2026-11-22.

use std::io::Write as _;

use serde::Serialize;

use crate::domain::{
    Form, Phone, Template,
    template::{ParameterFormat, Slot},
};

/// The request body of one template, with gaps for what differs between recipients.
#[derive(Clone, Debug)]
pub struct BodyPlan {
    pieces: Vec<Piece>,
    tail: String,
    n_slots: usize,
}

#[derive(Clone, Debug)]
struct Piece {
    before: String,
    gap: Gap,
}

/// What fills a gap. The number is the index of the slot whose value fills it.
#[derive(Clone, Copy, Debug)]
enum Gap {
    To,
    Token,
    /// The value, as a JSON string.
    Text(usize),
    /// The value, which is JSON already.
    Json(usize),
    /// The value as a JSON string, or the token if the value is empty.
    Payload(usize),
}

impl BodyPlan {
    /// A plan for recipients that fit `form`, the form of `template`.
    pub fn new(template: &Template, form: &Form) -> Self {
        let named = template.parameter_format == ParameterFormat::Named;
        let mut plan = PlanBuilder::default();
        plan.push(r#"{"messaging_product":"whatsapp","recipient_type":"individual","to":"#);
        plan.gap(Gap::To);
        plan.push(r#","type":"template","template":{"name":"#);
        plan.string(&template.name);
        plan.push(r#","language":{"code":"#);
        plan.string(template.language.as_str());
        plan.push("}");
        plan.components(form.slots(), named);
        plan.push(r#"},"biz_opaque_callback_data":"#);
        plan.gap(Gap::Token);
        plan.push("}");
        Self { pieces: plan.pieces, tail: plan.text, n_slots: form.slots().len() }
    }

    /// Appends the request body for one recipient to `out`.
    ///
    /// Shape: `values` has one value for each slot of the form, as returned by `Form::fit`. `token` becomes
    /// `biz_opaque_callback_data`, and the payload of every quick reply without a payload of its own.
    ///
    /// Panics if the number of `values` differs from the number of slots: one person's data could end up in the wrong
    /// field.
    pub fn render(&self, to: Phone, values: &[impl AsRef<str>], token: &str, out: &mut Vec<u8>) {
        assert_eq!(values.len(), self.n_slots, "values for a template with another number of slots");
        for piece in &self.pieces {
            out.extend_from_slice(piece.before.as_bytes());
            match piece.gap {
                Gap::To => write!(out, "\"{to}\"").expect("writing to a Vec never fails"),
                Gap::Token => write_json(token, out),
                Gap::Text(slot) => write_json(values[slot].as_ref(), out),
                Gap::Json(slot) => out.extend_from_slice(values[slot].as_ref().as_bytes()),
                Gap::Payload(slot) => match values[slot].as_ref() {
                    "" => write_json(token, out),
                    payload => write_json(payload, out),
                },
            }
        }
        out.extend_from_slice(self.tail.as_bytes());
    }
}

/// Turns a rendered body into one for the Marketing Messages API.
///
/// If the WABA is not enabled for that API, Meta sends the message as if it had been posted to `/messages`.
///
/// Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/marketing-messages/send>, read
/// 2026-11-28.
pub fn for_marketing_api(body: &mut Vec<u8>) {
    let end = body.pop();
    assert_eq!(end, Some(b'}'), "a body is a JSON object");
    body.extend_from_slice(br#","product_policy":"CLOUD_API_FALLBACK"}"#);
}

fn write_json(value: &(impl Serialize + ?Sized), out: &mut Vec<u8>) {
    serde_json::to_writer(out, value).expect("a string always serializes, and writing to a Vec never fails");
}

/// Builds a [`BodyPlan`]. `text` is the text since the last gap.
#[derive(Default)]
struct PlanBuilder {
    pieces: Vec<Piece>,
    text: String,
    has_component: bool,
}

impl PlanBuilder {
    fn push(&mut self, text: &str) {
        self.text.push_str(text);
    }

    fn string(&mut self, value: &str) {
        self.text.push_str(&serde_json::Value::from(value).to_string());
    }

    fn gap(&mut self, gap: Gap) {
        self.pieces.push(Piece { before: std::mem::take(&mut self.text), gap });
    }

    /// Adds only components with something to fill in; Meta accepts no others.
    fn components(&mut self, slots: &[Slot], named: bool) {
        let mut in_body = false;
        for (at, slot) in slots.iter().enumerate() {
            if in_body && !matches!(slot, Slot::Parameter { .. }) {
                in_body = false;
                self.push("]}");
            }
            match slot {
                Slot::HeaderText { name, .. } => {
                    self.open(r#""type":"header","parameters":["#);
                    self.text_parameter(at, named.then_some(name));
                    self.push("]}");
                }
                Slot::HeaderMedia(media) => self.header_object(at, media.name()),
                Slot::HeaderLocation => self.header_object(at, "location"),
                Slot::Parameter { name, .. } => {
                    if in_body {
                        self.push(",");
                    } else {
                        self.open(r#""type":"body","parameters":["#);
                        in_body = true;
                    }
                    self.text_parameter(at, named.then_some(name));
                }
                Slot::UrlSuffix { button, .. } => self.button(*button, "url", "text", "text", Gap::Text(at)),
                Slot::Payload { button } => {
                    self.button(*button, "quick_reply", "payload", "payload", Gap::Payload(at));
                }
                Slot::CopyCode { button } => {
                    self.button(*button, "copy_code", "coupon_code", "coupon_code", Gap::Text(at));
                }
                Slot::OneTimeCode { button } => {
                    self.open(r#""type":"body","parameters":["#);
                    self.text_parameter(at, None);
                    self.push("]}");
                    self.button(*button, "url", "text", "text", Gap::Text(at));
                }
            }
        }
        if in_body {
            self.push("]}");
        }
        if self.has_component {
            self.push("]");
        }
    }

    /// Opens a component. Before the first component, also opens the list of components.
    fn open(&mut self, fields: &str) {
        self.push(if self.has_component { ",{" } else { r#","components":[{"# });
        self.has_component = true;
        self.push(fields);
    }

    fn text_parameter(&mut self, slot: usize, name: Option<&String>) {
        self.push(r#"{"type":"text","#);
        if let Some(name) = name {
            self.push(r#""parameter_name":"#);
            self.string(name);
            self.push(",");
        }
        self.push(r#""text":"#);
        self.gap(Gap::Text(slot));
        self.push("}");
    }

    fn header_object(&mut self, slot: usize, kind: &str) {
        self.open(&format!(r#""type":"header","parameters":[{{"type":"{kind}","{kind}":"#));
        self.gap(Gap::Json(slot));
        self.push("}]}");
    }

    fn button(&mut self, index: u8, sub_type: &str, kind: &str, field: &str, gap: Gap) {
        self.open(&format!(
            r#""type":"button","sub_type":"{sub_type}","index":"{index}","parameters":[{{"type":"{kind}","{field}":"#
        ));
        self.gap(gap);
        self.push("}]}");
    }
}

#[cfg(test)]
mod tests;
