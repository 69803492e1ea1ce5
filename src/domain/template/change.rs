//! Checks whether the values that recipients gave for an earlier version of a template still fit the current version.
//!
//! Only the values that a recipient gives matter. Other texts of the template may change: Meta stores them, and a send
//! request contains only the template's name.

use std::collections::BTreeSet;

use super::{Form, Media, ParameterFormat, Slot, Template, TemplateError};

impl Template {
    /// Checks that `listed`, the template in Meta's current list, accepts the values that recipients gave for `self`.
    ///
    /// Errors: [`TemplateError::Gone`] if Meta no longer lists the template, [`TemplateError::Changed`] if it accepts
    /// other values, or the error of [`Form::of`] if it can no longer be sent.
    pub fn check_still_fits(&self, listed: Option<&Template>) -> Result<(), TemplateError> {
        let template = self.to_string();
        let Some(listed) = listed else { return Err(TemplateError::Gone { template }) };
        let changes = changes(&Inputs::of(self)?, &Inputs::of(listed)?);
        if changes.is_empty() { Ok(()) } else { Err(TemplateError::Changed { template, changes }) }
    }
}

/// The values that a template accepts, in words.
struct Inputs {
    are_named: bool,
    header: String,
    body: Vec<String>,
    /// For each button with a value: its index, and its value in words.
    buttons: Vec<(u8, &'static str)>,
}

impl Inputs {
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
        self.buttons.iter().find(|(index, _)| *index == place).map_or("nothing", |(_, what)| what)
    }
}

/// The differences, one clause each: `the body takes 3 values now, and took 2`.
fn changes(then: &Inputs, now: &Inputs) -> Vec<String> {
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
