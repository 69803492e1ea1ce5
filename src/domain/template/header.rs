//! Header values: media and locations are stored as the compact JSON object that Meta accepts.

use serde::Serialize;

use super::{
    Media, Slot,
    text::{URL_CHARS_MAX, check_length, check_text},
};
use crate::domain::{
    Reject,
    recipient::{HeaderFields, RawHeader},
    reject::{HeaderNeeds, RejectedField, quoted},
};

/// The value to store for a header slot.
///
/// Errors: [`Reject::HeaderForm`] if the value has the wrong form for the slot, or the error of a text in the object.
pub(super) fn value(slot: &Slot, raw: RawHeader) -> Result<String, Reject> {
    match (slot, raw) {
        (Slot::HeaderMedia(media), RawHeader::Fields(fields)) => medium(*media, *fields),
        (Slot::HeaderMedia(media), RawHeader::Text(text)) => medium(*media, HeaderFields::medium(text)),
        (Slot::HeaderLocation, RawHeader::Fields(fields)) => location(*fields),
        (Slot::HeaderLocation, RawHeader::Text(text)) => {
            Err(Reject::HeaderForm { value: format!("“{}”", quoted(&text)), needs: HeaderNeeds::Location })
        }
        (_, RawHeader::Text(text)) => Ok(text),
        (_, RawHeader::Fields(fields)) => Err(misfit(&fields, HeaderNeeds::Text)),
    }
}

fn misfit(fields: &HeaderFields, needs: HeaderNeeds) -> Reject {
    let HeaderFields { link, id, filename, latitude, longitude, name, address } = fields;
    let given = [
        ("link", link),
        ("id", id),
        ("filename", filename),
        ("latitude", latitude),
        ("longitude", longitude),
        ("name", name),
        ("address", address),
    ];
    let given = given.into_iter().filter_map(|(name, value)| Some(format!("{name} “{}”", quoted(value.as_deref()?))));
    let given: Vec<String> = given.collect();
    let value = if given.is_empty() { "an empty object".to_owned() } else { given.join(", ") };
    Reject::HeaderForm { value, needs }
}

/// A link that Meta fetches, or the id of media that was uploaded to Meta.
#[derive(Serialize)]
struct Medium<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<&'a str>,
}

fn medium(media: Media, fields: HeaderFields) -> Result<String, Reject> {
    let needs = if media == Media::Document { HeaderNeeds::Document } else { HeaderNeeds::Media };
    let HeaderFields { link, id, filename, latitude: None, longitude: None, name: None, address: None } = &fields
    else {
        return Err(misfit(&fields, needs));
    };
    let fits = match (link, id) {
        (Some(link), None) => link.len() > "https://".len() && link.starts_with("https://") && !link.contains(' '),
        (None, Some(id)) => !id.is_empty() && id.bytes().all(|b| b.is_ascii_digit()),
        _ => false,
    };
    if !fits || (filename.is_some() && media != Media::Document) {
        return Err(misfit(&fields, needs));
    }
    if let Some(link) = link {
        check_text(link, || RejectedField::HeaderField("link"))?;
        check_length(link, 0, URL_CHARS_MAX, || RejectedField::HeaderField("link"))?;
    }
    if let Some(filename) = filename {
        check_text(filename, || RejectedField::HeaderField("filename"))?;
    }
    Ok(json(&Medium { link: link.as_deref(), id: id.as_deref(), filename: filename.as_deref() }))
}

/// A location. Coordinates are texts, as in Meta's own examples.
#[derive(Serialize)]
struct Location<'a> {
    latitude: String,
    longitude: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<&'a str>,
}

fn location(fields: HeaderFields) -> Result<String, Reject> {
    let HeaderFields {
        link: None,
        id: None,
        filename: None,
        latitude: Some(latitude),
        longitude: Some(longitude),
        name,
        address,
    } = &fields
    else {
        return Err(misfit(&fields, HeaderNeeds::Location));
    };
    let (Some(latitude), Some(longitude)) = (degrees(latitude, 90.0), degrees(longitude, 180.0)) else {
        return Err(misfit(&fields, HeaderNeeds::Location));
    };
    for (text, place) in [(name, RejectedField::HeaderField("name")), (address, RejectedField::HeaderField("address"))]
    {
        if let Some(text) = text {
            check_text(text, || place.clone())?;
        }
    }
    Ok(json(&Location { latitude, longitude, name: name.as_deref(), address: address.as_deref() }))
}

/// The angle as plain decimal text; `None` if it is not a number from `-limit` to `limit`.
fn degrees(text: &str, limit: f64) -> Option<String> {
    let angle: f64 = text.trim().parse().ok()?;
    (-limit..=limit).contains(&angle).then(|| angle.to_string())
}

fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).expect("a struct of texts always serialises")
}
