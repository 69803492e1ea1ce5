//! Whether recipients who filled the form of a template as it was still fit the template as it is now.
//!
//! Only what a recipient gives is compared. A text may change: Meta has it, and the request names the template alone.

use std::collections::BTreeSet;

use super::{Form, Media, ParameterFormat, Slot, Template, TemplateError};

impl Template {
    /// Errors: [`TemplateError::Gone`] if Meta does not list the template any more (`listed`), [`TemplateError::Changed`] if
    /// it takes other values than `self`, with which the recipients were checked, or why it cannot be sent now.
    pub fn check_still_fits(&self, listed: Option<&Template>) -> Result<(), TemplateError> {
        let template = self.to_string();
        let Some(listed) = listed else { return Err(TemplateError::Gone { template }) };
        let changes = changes(&Wants::of(self)?, &Wants::of(listed)?);
        if changes.is_empty() { Ok(()) } else { Err(TemplateError::Changed { template, changes }) }
    }
}

/// What a template takes, in words.
struct Wants {
    are_named: bool,
    header: String,
    body: Vec<String>,
    /// By place.
    buttons: Vec<(u8, &'static str)>,
}

impl Wants {
    fn of(template: &Template) -> Result<Self, TemplateError> {
        let form = Form::of(template)?;
        let are_named = template.parameter_format == ParameterFormat::Named;
        let mut wants = Self { are_named, header: "nothing".to_owned(), body: Vec::new(), buttons: Vec::new() };
        for slot in form.slots() {
            match slot {
                Slot::HeaderText { name, .. } if are_named => wants.header = format!("the text {name}"),
                Slot::HeaderText { .. } => wants.header = "a text".to_owned(),
                Slot::HeaderMedia(Media::Image) => wants.header = "an image".to_owned(),
                Slot::HeaderMedia(Media::Video) => wants.header = "a video".to_owned(),
                Slot::HeaderMedia(Media::Document) => wants.header = "a document".to_owned(),
                Slot::HeaderLocation => wants.header = "a location".to_owned(),
                Slot::Parameter { name, .. } => wants.body.push(name.clone()),
                Slot::UrlSuffix { button, .. } => wants.buttons.push((*button, "the end of its URL")),
                Slot::Payload { button } => wants.buttons.push((*button, "a payload")),
                Slot::CopyCode { button } => wants.buttons.push((*button, "a coupon")),
                Slot::OneTimeCode { button } => {
                    wants.body.push("1".to_owned());
                    wants.buttons.push((*button, "the one-time code"));
                }
            }
        }
        Ok(wants)
    }

    fn button(&self, place: u8) -> &'static str {
        self.buttons.iter().find(|(known, _)| *known == place).map_or("nothing", |(_, what)| what)
    }
}

/// What differs, a clause each: `the body takes 3 values now, and took 2`.
fn changes(then: &Wants, now: &Wants) -> Vec<String> {
    let mut changes = Vec::new();
    if then.are_named != now.are_named && !(then.body.is_empty() && now.body.is_empty()) {
        let kind = |are_named| if are_named { "names" } else { "numbers" };
        changes.push(format!("its parameters have {} now, and had {}", kind(now.are_named), kind(then.are_named)));
    }
    let mut compare = |place: &str, now: &str, then: &str| {
        if now != then {
            changes.push(format!("{place} takes {now} now, and took {then}"));
        }
    };
    compare("the header", &now.header, &then.header);
    if now.body.len() == then.body.len() {
        compare("the body", &now.body.join(", "), &then.body.join(", "));
    } else {
        let count =
            |body: &[String]| if body.len() == 1 { "1 value".to_owned() } else { format!("{} values", body.len()) };
        compare("the body", &count(&now.body), &then.body.len().to_string());
    }
    let places: BTreeSet<u8> = then.buttons.iter().chain(&now.buttons).map(|(place, _)| *place).collect();
    for place in places {
        compare(&format!("button {place}"), now.button(place), then.button(place));
    }
    changes
}
