//! The form of a template: the slots that a recipient fills.
//!
//! Slots have the order of the send request: header, body, buttons. A stored recipient has one value for each slot.

use std::ops::Range;

use super::{Button, Category, Component, ParameterFormat, Template};

/// The slots of a template, and what is needed to check the values for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub(super) slots: Vec<Slot>,
    /// The number of characters of the body outside its placeholders.
    pub(super) body_chars: usize,
}

/// One value that a recipient gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The variable of a text header.
    HeaderText {
        /// The variable's name in the template: `1`, or a word.
        name: String,
        /// The number of characters of the header outside the variable.
        fixed_chars: usize,
    },
    /// An image, video or document, stored as the JSON object that Meta accepts.
    HeaderMedia(Media),
    /// A location on the map, stored as the JSON object that Meta accepts.
    HeaderLocation,
    /// A parameter of the body.
    Parameter {
        /// The parameter's name: `1`, or `first_name`.
        name: String,
        /// How often the parameter occurs in the body.
        times: usize,
    },
    /// The end of a button's URL.
    UrlSuffix {
        /// The button's index among all buttons, from 0.
        button: u8,
        /// The number of characters of the URL outside the variable.
        fixed_chars: usize,
    },
    /// The payload that a tap on a quick reply sends back. Optional: if empty, the message's token is sent.
    Payload {
        /// The button's index among all buttons, from 0.
        button: u8,
    },
    /// A coupon code that a button copies.
    CopyCode {
        /// The button's index among all buttons, from 0.
        button: u8,
    },
    /// The one-time code of an authentication template: parameter `1`, sent in the body and in the button.
    OneTimeCode {
        /// The button's index among all buttons, from 0.
        button: u8,
    },
}

/// A column of a CSV file with recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The column's name: `to`, `1`, `header`, `button.0`, `zone`.
    pub name: String,
    /// Whether every row must have a value.
    pub is_required: bool,
}

/// The type of a media header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// An image.
    Image,
    /// A video.
    Video,
    /// A document, usually a PDF. It may have a file name.
    Document,
}

impl Media {
    /// The type's name in a send request.
    pub fn name(self) -> &'static str {
        match self {
            Media::Image => "image",
            Media::Video => "video",
            Media::Document => "document",
        }
    }
}

/// Why a template cannot be used in a campaign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// The template has a component that Pregón cannot send.
    #[error("template {template} has {part}, which pregon cannot send: use a template without it")]
    Unsupported {
        /// Name and language.
        template: String,
        /// The component, with its article.
        part: String,
    },
    /// Every message of this sub-category needs a component with the details of an order, which Pregón cannot send.
    #[error(
        "template {template} has the sub-category {sub_category}, and each of its messages needs the details of an order, \
        which pregon cannot send: use a template of another kind"
    )]
    SubCategory {
        /// Name and language.
        template: String,
        /// Meta's name of the sub-category.
        sub_category: String,
    },
    /// The body of an authentication template has values besides the code.
    #[error(
        "template {template} has the category AUTHENTICATION, and its body takes {}, where pregon sends only the code: \
        use a template whose body has the single value {{{{1}}}}, or one of another category", describe_placeholders(.placeholders)
    )]
    NotOnlyTheCode {
        /// Name and language.
        template: String,
        /// The placeholders of the body.
        placeholders: Vec<String>,
    },
    /// The template was edited after the campaign was created, and now accepts other values.
    #[error(
        "template {template} was edited at Meta after the campaign was created: {}; the recipients have values for it as \
        it was, so cancel this campaign, and submit them as a new one", .changes.join("; ")
    )]
    Changed {
        /// Name and language.
        template: String,
        /// The differences: `the body takes 3 values now, and took 2`.
        changes: Vec<String>,
    },
    /// Meta no longer lists the template.
    #[error(
        "template {template} is no longer in Meta's list: cancel this campaign, and submit its recipients as a new one with \
        another template; or make it again at Meta, and read the templates again (`pregon template sync`, or POST \
        /v1/templates/sync)"
    )]
    Gone {
        /// Name and language.
        template: String,
    },
    /// Meta returned the template in a form that this version cannot parse.
    #[error(
        "template {template} cannot be read as Meta lists it ({reason}): use another template, or a newer version of \
        pregon"
    )]
    Unreadable {
        /// Name and language.
        template: String,
        /// The JSON path and the error.
        reason: String,
    },
    /// A positional template has a placeholder that is not a number.
    #[error(
        "template {template} has the placeholder {placeholder}, but Meta lists its parameters as numbered: read the \
        templates again (`pregon template sync`, or POST /v1/templates/sync), or edit it in WhatsApp Manager"
    )]
    NotANumber {
        /// Name and language.
        template: String,
        /// The placeholder's name.
        placeholder: String,
    },
}

impl Form {
    /// The form of `template`.
    ///
    /// Errors: [`TemplateError`] if this version cannot send the template.
    pub fn of(template: &Template) -> Result<Self, TemplateError> {
        if !template.unreadable.is_empty() {
            let reason = template.unreadable.clone();
            return Err(TemplateError::Unreadable { template: template.to_string(), reason });
        }
        if needs_order_details(&template.sub_category) {
            let sub_category = template.sub_category.clone();
            return Err(TemplateError::SubCategory { template: template.to_string(), sub_category });
        }
        let mut form = Form { slots: Vec::new(), body_chars: 0 };
        for component in &template.components {
            match component.kind.as_str() {
                "HEADER" | "BODY" | "FOOTER" | "BUTTONS" => {}
                other => return Err(unsupported(template, component_name(other))),
            }
        }
        if let Some(header) = template.component("HEADER") {
            form.slots.extend(header_slot(template, header)?);
        }
        let buttons = template.component("BUTTONS").map_or(&[][..], |component| &component.buttons);
        if template.category == Category::Authentication {
            form.slots.push(one_time_code(template, buttons)?);
            return Ok(form);
        }
        if let Some(body) = template.component("BODY") {
            form.add_body(template, &body.text)?;
        }
        for (button, index) in buttons.iter().zip(0..) {
            form.slots.extend(button_slot(template, button, index)?);
        }
        Ok(form)
    }

    /// The slots, in the order in which values are stored and sent.
    pub fn slots(&self) -> &[Slot] {
        &self.slots
    }

    fn add_body(&mut self, template: &Template, text: &str) -> Result<(), TemplateError> {
        let mut parameters: Vec<(u32, String, usize)> = Vec::new();
        self.body_chars = text.chars().count();
        for (span, name) in placeholders(text) {
            self.body_chars -= text[span].chars().count();
            if let Some(parameter) = parameters.iter_mut().find(|parameter| parameter.1 == name) {
                parameter.2 += 1;
                continue;
            }
            let number = match template.parameter_format {
                ParameterFormat::Named => 0,
                ParameterFormat::Positional => name.parse().map_err(|_| TemplateError::NotANumber {
                    template: template.to_string(),
                    placeholder: name.to_owned(),
                })?,
            };
            parameters.push((number, name.to_owned(), 1));
        }
        // A stable sort: named parameters all have number 0 and keep the order of the text.
        parameters.sort_by_key(|(number, ..)| *number);
        self.slots.extend(parameters.into_iter().map(|(_, name, times)| Slot::Parameter { name, times }));
        Ok(())
    }
}

fn header_slot(template: &Template, header: &Component) -> Result<Option<Slot>, TemplateError> {
    let text = header.text.as_str();
    Ok(match header.format.as_str() {
        "TEXT" => {
            let mut found = placeholders(text);
            let slot = found.next().map(|(span, name)| Slot::HeaderText {
                name: name.to_owned(),
                fixed_chars: text.chars().count() - text[span].chars().count(),
            });
            if found.next().is_some() {
                return Err(unsupported(template, "a header with more than one variable"));
            }
            slot
        }
        "IMAGE" => Some(Slot::HeaderMedia(Media::Image)),
        "VIDEO" => Some(Slot::HeaderMedia(Media::Video)),
        "DOCUMENT" => Some(Slot::HeaderMedia(Media::Document)),
        "LOCATION" => Some(Slot::HeaderLocation),
        "PRODUCT" => return Err(unsupported(template, "a product header")),
        other => return Err(unsupported(template, format!("a header of format {other}"))),
    })
}

fn button_slot(template: &Template, button: &Button, index: u8) -> Result<Option<Slot>, TemplateError> {
    let part = match button.kind.as_str() {
        "QUICK_REPLY" => return Ok(Some(Slot::Payload { button: index })),
        "URL" => {
            let fixed_chars = |span: Range<usize>| button.url.chars().count() - button.url[span].chars().count();
            let mut found = placeholders(&button.url);
            let slot = found.next().map(|(span, _)| Slot::UrlSuffix { button: index, fixed_chars: fixed_chars(span) });
            if found.next().is_some() {
                return Err(unsupported(template, "a button whose URL has more than one variable"));
            }
            return Ok(slot);
        }
        "COPY_CODE" => return Ok(Some(Slot::CopyCode { button: index })),
        // These buttons are the same for every recipient, and a send request does not mention them.
        "PHONE_NUMBER" | "VOICE_CALL" | "REQUEST_CONTACT_INFO" => return Ok(None),
        "OTP" => "a one-time code button outside of the category AUTHENTICATION".to_owned(),
        "FLOW" => "a flow button".to_owned(),
        "CATALOG" => "a catalog button".to_owned(),
        "MPM" => "a multi-product button".to_owned(),
        "SPM" => "a product button".to_owned(),
        other => format!("a button of type {other}"),
    };
    Err(unsupported(template, part))
}

/// The slot of an authentication template. Meta accepts its button as `OTP` and returns it as `URL`. The body is
/// Meta's own text, with the code as `{{1}}`; some responses leave it out.
fn one_time_code(template: &Template, buttons: &[Button]) -> Result<Slot, TemplateError> {
    let [Button { kind, .. }] = buttons else {
        let part = match buttons {
            [] => "the category AUTHENTICATION and no button for the code",
            _ => "the category AUTHENTICATION and more than one button",
        };
        return Err(unsupported(template, part));
    };
    if !matches!(kind.as_str(), "OTP" | "URL") {
        return Err(unsupported(template, format!("the category AUTHENTICATION and a button of type {kind}")));
    }
    let text = template.component("BODY").map_or("", |body| body.text.as_str());
    let mut names: Vec<String> = placeholders(text).map(|(_, name)| name.to_owned()).collect();
    names.sort_unstable();
    names.dedup();
    if !text.is_empty() && names != ["1"] {
        return Err(TemplateError::NotOnlyTheCode { template: template.to_string(), placeholders: names });
    }
    Ok(Slot::OneTimeCode { button: 0 })
}

/// Whether Meta requires the details of an order in every message of a template of this sub-category. The components
/// of the template do not show it. Source: Meta's pages on order details and order status templates, read 2026-11-28.
fn needs_order_details(sub_category: &str) -> bool {
    sub_category.ends_with("ORDER_STATUS") || sub_category.ends_with("ORDER_DETAILS")
}

/// Describes the placeholders: `2 values, {{1}}, {{2}}`.
fn describe_placeholders(placeholders: &[String]) -> String {
    let names: Vec<String> = placeholders.iter().map(|name| format!("{{{{{name}}}}}")).collect();
    match names.len() {
        0 => "no value".to_owned(),
        1 => format!("the value {}", names[0]),
        n => format!("{n} values, {}", names.join(", ")),
    }
}

fn component_name(kind: &str) -> String {
    match kind {
        "CAROUSEL" => "a carousel".to_owned(),
        "LIMITED_TIME_OFFER" => "a limited-time offer".to_owned(),
        other => format!("a component of type {other}"),
    }
}

fn unsupported(template: &Template, part: impl Into<String>) -> TemplateError {
    TemplateError::Unsupported { template: template.to_string(), part: part.into() }
}

/// The placeholders of a text, `{{1}}` or `{{first_name}}`: the byte range, braces included, and the name.
pub(super) fn placeholders(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    let mut from = 0;
    std::iter::from_fn(move || {
        loop {
            let start = from + text[from..].find("{{")?;
            let end = start + text[start..].find("}}")? + 2;
            let name = text[start + 2..end - 2].trim();
            if !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
                from = end;
                return Some((start..end, name));
            }
            // Not a placeholder. Continue one brace further on, to find the placeholder in `{{{1}}`.
            from = start + 1;
        }
    })
}
