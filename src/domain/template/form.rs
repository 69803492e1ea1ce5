//! What a recipient must give for a template: its slots.
//!
//! The order of the slots is that of the request: header, body, buttons. A stored recipient has one value for each.

use std::ops::Range;

use super::{Button, Category, Component, ParameterFormat, Template};

/// The slots of a template, and what is needed to check that a recipient fills them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    pub(super) slots: Vec<Slot>,
    /// Characters of the body outside of its placeholders.
    pub(super) body_chars: usize,
}

/// One value that a recipient gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Slot {
    /// The variable of a text header.
    HeaderText {
        /// Its name in the template: `1`, or a word.
        name: String,
        /// Characters of the header around it.
        around: usize,
    },
    /// An image, video or document, stored as the JSON object that Meta takes.
    HeaderMedia(Media),
    /// A place on the map, stored as the JSON object that Meta takes.
    HeaderLocation,
    /// A parameter of the body.
    Parameter {
        /// Its name: `1`, or `first_name`.
        name: String,
        /// How often the body repeats it.
        times: usize,
    },
    /// The end of a button's URL.
    UrlSuffix {
        /// The button's place among all buttons, from 0.
        button: u8,
        /// Characters of the URL before it.
        around: usize,
    },
    /// What a tap on a quick reply sends back. Optional: empty means that the message's token is sent.
    Payload {
        /// The button's place among all buttons, from 0.
        button: u8,
    },
    /// A coupon that a button copies.
    CopyCode {
        /// The button's place among all buttons, from 0.
        button: u8,
    },
    /// The one-time code of an authentication template: parameter `1`, sent in the body and in the button.
    OneTimeCode {
        /// The button's place among all buttons, from 0.
        button: u8,
    },
}

/// A column of a CSV with recipients.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name: `to`, `1`, `header`, `button.0`.
    pub name: String,
    /// A row can't do without it.
    pub is_needed: bool,
}

/// What a media header shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// A picture.
    Image,
    /// A film.
    Video,
    /// A document, usually a PDF; it may have a filename.
    Document,
}

impl Media {
    /// The name in the request.
    pub fn name(self) -> &'static str {
        match self {
            Media::Image => "image",
            Media::Video => "video",
            Media::Document => "document",
        }
    }
}

/// A template that cannot be used in a campaign.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It has a part for which a recipient has no slot.
    #[error("template {template} has {part}, which pregon cannot send: use a template without it")]
    Unsupported {
        /// Name and language.
        template: String,
        /// The part, with its article.
        part: String,
    },
    /// Each message of its kind needs a component that only its sender can fill.
    #[error(
        "template {template} has the sub-category {sub_category}, and each of its messages needs the details of an order, \
         which pregon cannot send: use a template of another kind"
    )]
    SubCategory {
        /// Name and language.
        template: String,
        /// Meta's word.
        sub_category: String,
    },
    /// The body of an authentication template takes the code, and nothing else.
    #[error(
        "template {template} has the category AUTHENTICATION, and its body takes {}, where pregon sends the code alone: \
         use one whose body has the one value {{{{1}}}}, or one of another category", taken(.placeholders)
    )]
    NotOnlyTheCode {
        /// Name and language.
        template: String,
        /// What its body takes.
        placeholders: Vec<String>,
    },
    /// It was edited after a campaign was made with it, and takes other values.
    #[error(
        "template {template} was edited at Meta after the campaign was created: {}; the recipients have values for it as \
         it was, so cancel this campaign, and submit them as a new one", .changes.join("; ")
    )]
    Changed {
        /// Name and language.
        template: String,
        /// What is different: `the body takes 3 values now, and took 2`.
        changes: Vec<String>,
    },
    /// Meta does not list it any more.
    #[error(
        "template {template} is no longer in Meta's list: cancel this campaign, and submit its recipients as a new one with \
         another template; or make it again at Meta, and read the templates again (POST /v1/templates/sync)"
    )]
    Gone {
        /// Name and language.
        template: String,
    },
    /// Meta describes it in a form that this version does not know.
    #[error(
        "template {template} cannot be read as Meta lists it ({reason}): use another template, or a newer version of pregon"
    )]
    Unreadable {
        /// Name and language.
        template: String,
        /// The place, and what is wrong there.
        reason: String,
    },
    /// A positional template with a placeholder that is not a number.
    #[error(
        "template {template} has the placeholder {placeholder}, but Meta lists its parameters as numbered: read the \
         templates again (POST /v1/templates/sync), or edit it in WhatsApp Manager"
    )]
    NotANumber {
        /// Name and language.
        template: String,
        /// The placeholder's name.
        placeholder: String,
    },
}

impl Form {
    /// The form that recipients of `template` fill.
    ///
    /// Errors: [`TemplateError`] if the template has a part that this version cannot send.
    pub fn of(template: &Template) -> Result<Self, TemplateError> {
        if !template.unreadable.is_empty() {
            let reason = template.unreadable.clone();
            return Err(TemplateError::Unreadable { template: template.to_string(), reason });
        }
        if is_about_an_order(&template.sub_category) {
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
            if let Some(known) = parameters.iter_mut().find(|known| known.1 == name) {
                known.2 += 1;
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
        // Stable: named parameters all have number 0 and keep the order of the text.
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
                around: text.chars().count() - text[span].chars().count(),
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
            let around = |span: Range<usize>| button.url.chars().count() - button.url[span].chars().count();
            let mut found = placeholders(&button.url);
            let slot = found.next().map(|(span, _)| Slot::UrlSuffix { button: index, around: around(span) });
            if found.next().is_some() {
                return Err(unsupported(template, "a button whose URL has more than one variable"));
            }
            return Ok(slot);
        }
        "COPY_CODE" => return Ok(Some(Slot::CopyCode { button: index })),
        // The same for every recipient: the request does not mention them.
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

/// Meta takes the button of an authentication template as `OTP` and gives it back as `URL`. The text of its body is Meta's own,
/// with the code as `{{1}}`; some answers leave it out.
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
    let mut taken: Vec<String> = placeholders(text).map(|(_, name)| name.to_owned()).collect();
    taken.sort_unstable();
    taken.dedup();
    if !text.is_empty() && taken != ["1"] {
        return Err(TemplateError::NotOnlyTheCode { template: template.to_string(), placeholders: taken });
    }
    Ok(Slot::OneTimeCode { button: 0 })
}

/// Every message of these templates has a component with the order, whatever the template's own components are.
/// Source: order details and order status templates, read 2026-11-28.
fn is_about_an_order(sub_category: &str) -> bool {
    sub_category.ends_with("ORDER_STATUS") || sub_category.ends_with("ORDER_DETAILS")
}

/// `2 values, {{1}}, {{2}}`
fn taken(placeholders: &[String]) -> String {
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

/// The placeholders of a text, `{{1}}` or `{{first_name}}`: where each stands, braces included, and its name.
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
            // Not a placeholder: look again one brace further on, as in `{{{1}}`.
            from = start + 1;
        }
    })
}
