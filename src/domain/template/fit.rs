//! Checks a recipient against a form. Every rule of Meta that can be checked before sending is checked here, so that
//! a bad row is rejected on upload and does not fail later, when it is sent.
//!
//! Sources: Meta's pages on template components (lengths) and error 132018 (white space), read 2026-11-22.

use super::{
    Column, Form, Media, Slot, header,
    text::{URL_CHARS_MAX, check_length, check_text, is_blank, too_long},
};
use crate::domain::{
    RawRecipient, Recipient, Reject,
    reject::{HeaderNeeds, RejectedField},
};

/// The maximum length of a rendered body, in characters.
const BODY_CHARS_MAX: usize = 1024;
/// The maximum length of a rendered text header, in characters.
const HEADER_CHARS_MAX: usize = 60;
/// The maximum length of a coupon code, in characters; 15 until 3 December 2025.
const COUPON_CHARS_MAX: usize = 20;
/// The maximum length of a one-time code, in characters.
const ONE_TIME_CODE_CHARS_MAX: usize = 15;
/// The maximum length of a quick reply payload, in characters. Meta's pages give both 128 and 256.
const PAYLOAD_CHARS_MAX: usize = 128;

impl Form {
    /// Converts a raw recipient to one value for each slot.
    ///
    /// Errors: the first [`Reject`] that applies. It names the parameter, the header or the button.
    pub fn fit(&self, raw: RawRecipient) -> Result<Recipient, Reject> {
        let to = raw.to.parse().map_err(|_| Reject::not_e164("to", &raw.to))?;
        let mut values: Vec<Option<String>> = vec![None; self.slots.len()];
        for (name, value) in raw.params {
            let at = self.slots.iter().position(|slot| slot.parameter() == Some(&name));
            let at = at.ok_or_else(|| Reject::parameter_unknown(&name))?;
            if values[at].replace(value).is_some() {
                return Err(Reject::GivenTwice(RejectedField::Parameter(name)));
            }
        }
        for (index, value) in raw.buttons {
            let at =
                index.parse().ok().and_then(|index| self.slots.iter().position(|slot| slot.button() == Some(index)));
            let at = at.ok_or_else(|| Reject::button_unknown(&index))?;
            if values[at].replace(value).is_some() {
                return Err(Reject::GivenTwice(self.slots[at].place()));
            }
        }
        if let Some(header) = raw.header {
            let slot = self.slots.first().filter(|slot| slot.header().is_some()).ok_or(Reject::HeaderUnexpected)?;
            values[0] = Some(header::value(slot, header)?);
        }
        let filled = self.slots.iter().zip(values);
        let values = filled.map(|(slot, value)| check(slot, value)).collect::<Result<Vec<_>, _>>()?;
        self.check_body(&values)?;
        Ok(Recipient { to, values })
    }

    /// The columns of a CSV file with recipients for this form.
    pub fn columns(&self) -> Vec<Column> {
        let column = |name: &str, is_required| Column { name: name.to_owned(), is_required };
        let mut columns = vec![column("to", true)];
        for slot in &self.slots {
            let is_required = slot.missing().is_some();
            if let Some(name) = slot.parameter() {
                columns.push(column(name, is_required));
            }
            if let Some(button) = slot.button() {
                columns.push(column(&format!("button.{button}"), is_required));
            }
            let fields: &[(&str, bool)] = match slot.header() {
                None => &[],
                Some(HeaderNeeds::Text | HeaderNeeds::Media) => &[("header", true)],
                Some(HeaderNeeds::Document) => &[("header", true), ("header.filename", false)],
                Some(HeaderNeeds::Location) => &[
                    ("header.latitude", true),
                    ("header.longitude", true),
                    ("header.name", false),
                    ("header.address", false),
                ],
            };
            columns.extend(fields.iter().map(|&(name, is_required)| column(name, is_required)));
        }
        if columns.iter().all(|column| column.name != "zone") {
            columns.push(column("zone", false));
        }
        columns
    }

    fn check_body(&self, values: &[String]) -> Result<(), Reject> {
        let parameters = || {
            self.slots.iter().zip(values).filter_map(|(slot, value)| match slot {
                Slot::Parameter { name, times } => Some((name, *times, value)),
                _ => None,
            })
        };
        // Avoid counting characters: a text has at most as many characters as bytes, and most bodies are far below
        // the limit.
        let bytes: usize = parameters().map(|(_, times, value)| times * value.len()).sum();
        if self.body_chars + bytes <= BODY_CHARS_MAX {
            return Ok(());
        }
        let chars = |(_, times, value): (&String, usize, &String)| times * value.chars().count();
        let length = self.body_chars + parameters().map(chars).sum::<usize>();
        match parameters().max_by_key(|parameter| chars(*parameter)) {
            Some((longest, _, value)) if length > BODY_CHARS_MAX => {
                Err(too_long(RejectedField::Body { longest: longest.clone() }, value, length, BODY_CHARS_MAX))
            }
            _ => Ok(()),
        }
    }
}

impl Slot {
    /// The key in `params` of the value for this slot; `None` if the value is not in `params`.
    fn parameter(&self) -> Option<&str> {
        match self {
            Slot::Parameter { name, .. } => Some(name),
            Slot::OneTimeCode { .. } => Some("1"),
            _ => None,
        }
    }

    /// The key in `buttons` of the value for this slot; `None` if the value is not in `buttons`.
    fn button(&self) -> Option<u8> {
        match self {
            Slot::UrlSuffix { button, .. } | Slot::Payload { button } | Slot::CopyCode { button } => Some(*button),
            _ => None,
        }
    }

    /// What the header accepts; `None` if the slot is not a header.
    fn header(&self) -> Option<HeaderNeeds> {
        match self {
            Slot::HeaderText { .. } => Some(HeaderNeeds::Text),
            Slot::HeaderMedia(Media::Document) => Some(HeaderNeeds::Document),
            Slot::HeaderMedia(_) => Some(HeaderNeeds::Media),
            Slot::HeaderLocation => Some(HeaderNeeds::Location),
            _ => None,
        }
    }

    /// The rejection if the value is missing; `None` if the slot is optional.
    fn missing(&self) -> Option<Reject> {
        match self {
            Slot::HeaderText { .. } | Slot::HeaderMedia(_) | Slot::HeaderLocation => {
                self.header().map(Reject::HeaderMissing)
            }
            Slot::Parameter { name, .. } => Some(Reject::ParameterMissing(name.clone())),
            Slot::OneTimeCode { .. } => Some(Reject::ParameterMissing("1".to_owned())),
            Slot::UrlSuffix { button, .. } | Slot::CopyCode { button } => Some(Reject::ButtonMissing(*button)),
            Slot::Payload { .. } => None,
        }
    }

    fn place(&self) -> RejectedField {
        match self {
            Slot::HeaderText { .. } | Slot::HeaderMedia(_) | Slot::HeaderLocation => RejectedField::Header,
            Slot::Parameter { name, .. } => RejectedField::Parameter(name.clone()),
            Slot::OneTimeCode { .. } => RejectedField::Parameter("1".to_owned()),
            Slot::UrlSuffix { button, .. } | Slot::Payload { button } | Slot::CopyCode { button } => {
                RejectedField::Button(*button)
            }
        }
    }
}

/// Checks a value and returns it as it is stored. Media and locations have been checked by [`header::value`] before.
fn check(slot: &Slot, value: Option<String>) -> Result<String, Reject> {
    let Some(value) = value else { return slot.missing().map_or(Ok(String::new()), Err) };
    match slot {
        Slot::HeaderMedia(_) | Slot::HeaderLocation => {}
        Slot::Parameter { .. } => check_text(&value, || slot.place())?,
        Slot::HeaderText { fixed_chars, .. } => {
            check_text(&value, || slot.place())?;
            check_length(&value, *fixed_chars, HEADER_CHARS_MAX, || RejectedField::Header)?;
        }
        Slot::UrlSuffix { button, fixed_chars } => {
            check_text(&value, || slot.place())?;
            check_length(&value, *fixed_chars, URL_CHARS_MAX, || RejectedField::Url(*button))?;
        }
        // A payload is not shown to the recipient, so line breaks and runs of spaces are allowed.
        Slot::Payload { .. } if is_blank(&value) => return Err(Reject::Empty(slot.place())),
        Slot::Payload { .. } => check_length(&value, 0, PAYLOAD_CHARS_MAX, || slot.place())?,
        Slot::CopyCode { .. } => {
            check_text(&value, || slot.place())?;
            check_length(&value, 0, COUPON_CHARS_MAX, || slot.place())?;
        }
        Slot::OneTimeCode { .. } => {
            check_text(&value, || slot.place())?;
            check_length(&value, 0, ONE_TIME_CODE_CHARS_MAX, || slot.place())?;
        }
    }
    Ok(value)
}
