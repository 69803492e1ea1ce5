//! `POST {line}/media`, the node of a file, and the download of its bytes.
//! Source: developers.facebook.com/docs/whatsapp/cloud-api/reference/media, read in a copy of 11 Dec 2025.

use bytes::Bytes;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{form, reply::Reply, wire::Refusal, world::World};

const MIB: usize = 1 << 20;
/// How long a URL is valid.
const URL_SECONDS: u64 = 5 * 60;
/// The largest body of an upload: the largest file, and the rest of its form.
pub(super) const UPLOAD_BYTES_MAX: usize = 101 * MIB;

/// The types of files that Meta takes, with the largest size of each in bytes.
const TYPES: [(usize, &[&str]); 4] = [
    (5 * MIB, &["image/jpeg", "image/png"]),
    (16 * MIB, &["audio/aac", "audio/amr", "audio/mpeg", "audio/mp4", "audio/ogg", "video/mp4", "video/3gpp"]),
    (
        100 * MIB,
        &[
            "text/plain",
            "application/pdf",
            "application/msword",
            "application/vnd.ms-excel",
            "application/vnd.ms-powerpoint",
            "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
            "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
            "application/vnd.openxmlformats-officedocument.presentationml.presentation",
        ],
    ),
    (500 * 1024, &["image/webp"]),
];
/// The largest size of a sticker that is not animated, in bytes.
const STATIC_STICKER_BYTES_MAX: usize = 100 * 1024;

/// Responds to `POST {line}/media`.
///
/// Errors: 190 for a wrong token; 100 for a form without a file or with a type that Meta does not take; 131053 for a
/// file that is too large.
pub(super) fn upload(
    world: &World,
    token: Option<&str>,
    line: &str,
    content_type: Option<&str>,
    body: &Bytes,
) -> Result<Value, Refusal> {
    let waba = world.authorize(token, world.line(line).map(|line| line.waba), line)?;
    let boundary =
        content_type.and_then(form::boundary).ok_or_else(|| Refusal::new(100, "The body is no multipart form"))?;
    let parts = form::parts(body, boundary);
    let part = |name: &str| parts.iter().find(|part| part.name == name);
    if part("messaging_product").is_none_or(|part| part.bytes != "whatsapp") {
        return Err(Refusal::new(100, "The parameter messaging_product is required."));
    }
    let file = part("file").ok_or_else(|| Refusal::new(100, "The parameter file is required."))?;
    let given = part("type").map(|part| String::from_utf8_lossy(&part.bytes).into_owned());
    let mime_type = given.or_else(|| file.content_type.clone()).unwrap_or_default();
    let plain = mime_type.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    let Some((bytes_max, _)) = TYPES.iter().find(|(_, types)| types.contains(&plain.as_str())) else {
        let known: Vec<&str> = TYPES.iter().flat_map(|(_, types)| types.iter().copied()).collect();
        let details = format!(
            "Param file must be a file with one of the following types: {}. Received file of type '{mime_type}'.",
            known.join(", ")
        );
        return Err(Refusal::new(100, details));
    };
    let is_static = plain == "image/webp" && memchr::memmem::find(&file.bytes, b"ANIM").is_none();
    let bytes_max = if is_static { STATIC_STICKER_BYTES_MAX } else { *bytes_max };
    if file.bytes.len() > bytes_max {
        let details = format!("The file has {} bytes, and {plain} at most {bytes_max}", file.bytes.len());
        return Err(Refusal::new(131_053, details));
    }
    let id = world.files.upload(waba, &mime_type, file.bytes.clone(), world.clock.now());
    Ok(json!({"id": id.to_string()}))
}

/// The node of a file, with a URL on `host`. `None` if the id is not valid.
pub(super) fn node(world: &World, host: &str, id: &str) -> Option<Value> {
    let now = world.clock.now();
    let file = world.files.find(id, now)?;
    let expires = world.clock.unix(now).seconds() + URL_SECONDS;
    Some(json!({
        "messaging_product": "whatsapp",
        "url": format!("http://{host}/media/{id}?ext={expires}"),
        "mime_type": file.mime_type,
        "sha256": hex::encode(Sha256::digest(&file.bytes)),
        "file_size": file.bytes.len(),
        "id": id,
    }))
}

/// Responds to a `GET` of the URL of a file. `query`: that of the URL.
///
/// Errors: 190 for a wrong token; Meta's "does not exist" for an unknown file, one of another WABA, and a URL that has
/// expired.
pub(super) fn download(world: &World, token: Option<&str>, id: &str, query: Option<&str>) -> Result<Reply, Refusal> {
    let now = world.clock.now();
    let file = world.files.find(id, now);
    world.authorize(token, file.as_ref().map(|file| file.waba), id)?;
    let expires: Option<u64> = query.and_then(|query| query.strip_prefix("ext=")?.parse().ok());
    let is_valid = expires.is_some_and(|expires| world.clock.unix(now).seconds() <= expires);
    let file = file.filter(|_| is_valid).ok_or_else(|| Refusal::no_such_object(id))?;
    Ok(Reply::File(file.mime_type, file.bytes))
}
