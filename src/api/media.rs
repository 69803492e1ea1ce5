//! Files of chats: served to consoles, and uploaded by them.
//!
//! What people send is served as if it were hostile: with a type that no browser runs, without sniffing, and in a
//! sandbox.

use std::{ops::Range, time::Duration};

use axum::{
    Json,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::Response,
};
use futures_util::StreamExt as _;
use serde::Deserialize;
use tracing::{debug, error, warn};
use ulid::Ulid;
use utoipa::{IntoParams, ToSchema};

use super::{
    Shared, SharedState, access::Access, audit::Audit, extract::MediaPath, stream_permit, uploads::is_timeout,
};
use crate::{
    api_types::MediaView,
    config::KeyScope,
    domain::{
        MediaId,
        media::{FileState, UNSENT_KEPT, bytes_max, is_animated, sendable, served_as, types},
    },
    http::{
        page,
        problem::{Problem, Result},
        request::{Params, bad_query, content_coding, too_slow},
    },
    media::{MediaStore, MediaStoreError, MediaWriter},
    postgres::media::{FileRecord, NewFile},
};

/// How long an upload may take. What there is of a longer one is removed.
const UPLOAD_MAX: Duration = Duration::from_hours(1);

/// Maximum length of the name of a file, as Meta has it for documents.
const FILENAME_CHARS_MAX: usize = 240;

/// A file never changes, but its person may be forgotten.
const CACHE_CONTROL: &str = "private, max-age=86400, immutable";

/// Whatever the file contains, a browser runs nothing of it.
const CONTENT_SECURITY_POLICY: &str = "sandbox; default-src 'none'";

/// The query parameters of an upload of a file.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct FileUploadParams {
    /// The name of the file, at most 240 characters.
    #[param(nullable = false, example = "offer.pdf")]
    filename: Option<String>,
    /// The business of the file. May be left out if the key sees only one.
    #[param(nullable = false)]
    business: Option<String>,
}

/// The bytes of a file.
#[derive(ToSchema)]
#[schema(as = File, value_type = String, format = Binary)]
#[expect(dead_code, reason = "only its schema is used")]
struct FileBytes(Bytes);

/// Get a file.
///
/// Only files that a browser cannot run have their own `Content-Type`; others are `application/octet-stream`. `Range`
/// with one range, `If-None-Match` and HEAD are supported.
#[utoipa::path(
    get, path = "/v1/media/{media}", tag = "chats", operation_id = "get_media",
    security(("api_key" = [KeyScope::Chats])),
    params(MediaPath),
    responses(
        (status = 200, description = "The file.", body = FileBytes, content_type = "*/*"),
        (status = 206, description = "The part of the file that `Range` names.", body = FileBytes, content_type = "*/*"),
        (status = 304, description = "The file is the one in `If-None-Match`."),
    ),
    extensions(("x-problems" = json!([
        "no-database", "no-media-store", "media-pending", "media-gone", "range-not-satisfiable", "too-many-streams"
    ]))),
)]
pub(super) async fn download(
    State(shared): SharedState,
    method: Method,
    MediaPath(file): MediaPath,
    headers: HeaderMap,
) -> Result<Response> {
    let store = shared.media()?;
    let size = stored_size(&file)?;
    let etag = format!("\"{}\"", file.id);
    let mut response = Response::new(Body::empty());
    set_headers(response.headers_mut(), &file, &etag);
    if headers.get(header::IF_NONE_MATCH).is_some_and(|tags| names(tags, &etag)) {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return Ok(response);
    }
    // A range of another file is none of this one.
    let is_same = headers.get(header::IF_RANGE).is_none_or(|tag| tag.as_bytes() == etag.as_bytes());
    let asked = headers.get(header::RANGE).filter(|_| is_same).and_then(|range| range.to_str().ok());
    let range = match asked.and_then(|asked| range(asked, size)) {
        None => None,
        Some(Ok(range)) => Some(range),
        Some(Err(OutOfRange)) => {
            let detail = format!("the header Range begins after the end of the file, which has {size} bytes");
            let problem = Problem::new(StatusCode::RANGE_NOT_SATISFIABLE, "range-not-satisfiable", detail);
            return Err(problem.with_header(header::CONTENT_RANGE, value(format!("bytes */{size}"))));
        }
    };
    let length = range.as_ref().map_or(size, |range| range.end - range.start);
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    if let Some(range) = &range {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let content_range = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        response.headers_mut().insert(header::CONTENT_RANGE, value(content_range));
    }
    if method != Method::HEAD {
        let permit = stream_permit(&shared.file_downloads, "downloads of files")?;
        let bytes = store.read(file.id, range).await.map_err(|error| unreadable(&file, error))?;
        *response.body_mut() = Body::from_stream(bytes.inspect(move |_| {
            let _held = &permit;
        }));
    }
    Ok(response)
}

/// Upload a file for messages of chats.
///
/// The body is the file, and `Content-Type` its type: one that Meta takes. Meta's limits: images 5 MB, audio and video
/// 16 MB, documents 100 MB, stickers 100 kB or, if they move, 500 kB.
#[utoipa::path(
    post, path = "/v1/media", tag = "chats", operation_id = "upload_media",
    security(("api_key" = [KeyScope::Chats])),
    params(FileUploadParams),
    request_body(content(
        (FileBytes = "image/jpeg"), (FileBytes = "image/png"), (FileBytes = "image/webp"), (FileBytes = "audio/aac"),
        (FileBytes = "audio/amr"), (FileBytes = "audio/mpeg"), (FileBytes = "audio/mp4"), (FileBytes = "audio/ogg"),
        (FileBytes = "video/mp4"), (FileBytes = "video/3gpp"), (FileBytes = "text/plain"), (FileBytes = "application/pdf"),
        (FileBytes = "application/msword"), (FileBytes = "application/vnd.ms-excel"),
        (FileBytes = "application/vnd.ms-powerpoint"),
        (FileBytes = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
        (FileBytes = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
        (FileBytes = "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
    )),
    responses((status = 201, description = "The file: name its `id` as `media` of a message.", body = MediaView)),
    extensions(("x-problems" = json!([
        "no-database", "no-media-store", "business-missing", "business-not-found", "unsupported-encoding",
        "unsupported-media-type", "body-cut", "body-too-slow", "body-too-large", "invalid", "too-many-streams"
    ]))),
)]
pub(super) async fn upload(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    Params(params): Params<FileUploadParams>,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<MediaView>)> {
    let (database, store) = (shared.database()?, shared.media()?);
    let business = shared.business(&access, params.business.as_deref())?;
    content_coding(&headers, &[])?;
    let given = headers.get(header::CONTENT_TYPE).and_then(|given| given.to_str().ok()).unwrap_or("missing");
    let (kind, mime_type) = sendable(given).ok_or_else(|| unsupported(given))?;
    let filename = page::non_empty(params.filename.as_deref());
    if filename.is_some_and(|name| name.chars().count() > FILENAME_CHARS_MAX || name.contains('\0')) {
        return Err(bad_query(format!("filename has more than {FILENAME_CHARS_MAX} characters, or the character NUL")));
    }
    let _permit = stream_permit(&shared.file_uploads, "uploads of files")?;
    let now = shared.now();
    let id = MediaId(Ulid::from_parts(now.0, rand::random()));
    audit.on(id);
    let new = NewFile { id, business: &business, mime_type, filename };
    database.announce_file(&new, now, now.after(UPLOAD_MAX)).await?;
    let mut writer = store.writer(id, bytes_max(kind, true));
    let received = receive(body, &mut writer, shared.state.stall_timeout).await;
    let size = writer.size();
    let refused = match received {
        Err(problem) => Some(problem),
        Ok(()) if size == 0 => {
            Some(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", "the body, which is the file, is empty"))
        }
        Ok(()) => Some(bytes_max(kind, is_animated(writer.head()))).filter(|most| size > *most).map(too_large),
    };
    if let Some(problem) = refused {
        if let Err(error) = writer.abort().await {
            debug!(%error, media.id = %id, "what arrived of a file is not removed");
        }
        return Err(problem);
    }
    writer.finish().await.map_err(failed)?;
    if !database.file_uploaded(id, size, shared.now().after(UNSENT_KEPT)).await? {
        return Err(Problem::unavailable("timeout", format!("the upload took longer than {UPLOAD_MAX:?}")));
    }
    let view = MediaView {
        id,
        state: FileState::Stored.name().to_owned(),
        mime_type: mime_type.to_owned(),
        filename: filename.map(str::to_owned),
        size: Some(size),
        reason: None,
    };
    Ok((StatusCode::CREATED, Json(view)))
}

/// Writes the body, as it arrives.
async fn receive(body: Body, writer: &mut MediaWriter, stall_timeout: Duration) -> Result<()> {
    let mut pieces = body.into_data_stream();
    while let Some(piece) = pieces.next().await {
        let bytes: Bytes = piece.map_err(|error| match is_timeout(&error) {
            true => too_slow(stall_timeout),
            false => Problem::bad_request("body-cut", format!("the body could not be read: {error}")),
        })?;
        writer.put(bytes).await.map_err(failed)?;
    }
    Ok(())
}

impl Shared {
    /// Errors: 409 without a store of files.
    pub(super) fn media(&self) -> Result<&MediaStore> {
        self.state.media.as_ref().ok_or_else(|| {
            let detail = "this server stores no files, so they are only at Meta: set media.url in its configuration";
            Problem::new(StatusCode::CONFLICT, "no-media-store", detail)
        })
    }

    /// The file `id`.
    ///
    /// Errors: 404 if the caller may not see it, or if it does not exist.
    pub(super) async fn file(&self, access: &Access, id: &str) -> Result<FileRecord> {
        let missing = || Problem::not_found("media-not-found", format!("there is no file {id}"));
        let media: MediaId = id.parse().map_err(|_| missing())?;
        let file = self.database()?.file(media, access.names().as_deref(), access.visibility().as_ref()).await?;
        file.ok_or_else(missing)
    }

    /// Removes files that nobody can see any more from the store. What fails is removed later, by a process with the
    /// role `engage`.
    pub(super) async fn remove_files(&self, files: &[MediaId]) -> Result<()> {
        let (database, Some(store)) = (self.database()?, &self.state.media) else { return Ok(()) };
        let mut removed = Vec::new();
        for id in files {
            match store.remove(*id).await {
                Ok(()) => removed.push(*id),
                Err(error) => warn!(%error, media.id = %id, "a file is not removed yet"),
            }
        }
        Ok(database.drop_files(&removed, self.now()).await?)
    }
}

/// The size of a file that is in the store.
///
/// Errors: 409 if it is not there yet, 404 if it never will be.
fn stored_size(file: &FileRecord) -> Result<u64> {
    match (file.state, file.size) {
        (FileState::Stored, Some(size)) => Ok(size),
        (FileState::Pending, _) => {
            let detail = format!("file {} is not fetched from Meta yet: repeat the call in a second", file.id);
            Err(Problem::new(StatusCode::CONFLICT, "media-pending", detail))
        }
        _ => Err(gone(file)),
    }
}

fn gone(file: &FileRecord) -> Problem {
    let reason = file.reason.as_deref().unwrap_or("removed");
    Problem::not_found("media-gone", format!("file {} is gone: {reason}", file.id))
}

fn unreadable(file: &FileRecord, cause: MediaStoreError) -> Problem {
    match cause {
        MediaStoreError::Missing => {
            error!(media.id = %file.id, "a file is not in the store that should have it");
            gone(file)
        }
        cause => failed(cause),
    }
}

/// The problem of a store that did not take or give a file.
fn failed(cause: MediaStoreError) -> Problem {
    match cause {
        MediaStoreError::TooLarge(most) => too_large(most),
        MediaStoreError::Missing | MediaStoreError::Failed(_) => {
            error!(error = %cause, "the store of files failed");
            Problem::unavailable("unavailable", "the store of files is not available")
        }
    }
}

fn too_large(most: u64) -> Problem {
    let detail = format!("the file is larger than {most} bytes, the most for its type");
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "body-too-large", detail)
}

fn unsupported(given: &str) -> Problem {
    let known: Vec<&str> = types().collect();
    let detail = format!("the header Content-Type is {given}; Meta takes {}", known.join(", "));
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported-media-type", detail)
}

fn set_headers(headers: &mut HeaderMap, file: &FileRecord, etag: &str) {
    let served = served_as(&file.mime_type);
    let nosniff = HeaderValue::from_static("nosniff");
    let policy = HeaderValue::from_static(CONTENT_SECURITY_POLICY);
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(served.content_type));
    headers.insert(header::CONTENT_DISPOSITION, value(disposition(served.inline, file.filename.as_deref())));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, nosniff);
    headers.insert(HeaderName::from_static("content-security-policy"), policy);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(CACHE_CONTROL));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(header::ETAG, value(etag.to_owned()));
}

/// Panics: `text` is not visible ASCII.
fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).expect("visible ASCII")
}

/// Whether a header `If-None-Match` names the tag.
fn names(tags: &HeaderValue, etag: &str) -> bool {
    let tags = tags.to_str().unwrap_or_default().split(',').map(str::trim);
    tags.into_iter().any(|tag| tag == "*" || tag.strip_prefix("W/").unwrap_or(tag) == etag)
}

/// The header `Content-Disposition`, by RFC 6266.
fn disposition(inline: bool, filename: Option<&str>) -> String {
    let kind = if inline { "inline" } else { "attachment" };
    let name: String = filename.unwrap_or_default().chars().filter(|c| !is_unsafe(*c)).take(200).collect();
    let name = name.trim().trim_start_matches('.');
    if name.is_empty() {
        return kind.to_owned();
    }
    let ascii: String = name.chars().map(|c| if c.is_ascii() { c } else { '_' }).collect();
    let mut encoded = String::new();
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("{kind}; filename=\"{ascii}\"; filename*=UTF-8''{encoded}")
}

/// Whether a character has no place in the name of a file: it ends the header, names a folder, or changes the order in
/// which the name is read.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || ['"', '\\', '/', ':', '*', '?', '<', '>', '|', '%', ';'].contains(&c)
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The range begins after the end of the file.
#[derive(Debug, PartialEq, Eq)]
struct OutOfRange;

/// The bytes that a header `Range` names. `None`: it names several ranges, or is malformed, and is ignored.
fn range(header: &str, size: u64) -> Option<std::result::Result<Range<u64>, OutOfRange>> {
    let (from, to) = header.strip_prefix("bytes=")?.trim().split_once('-')?;
    let range = match (from, to) {
        ("", last) => size.saturating_sub(last.parse().ok()?)..size,
        (from, "") => from.parse().ok()?..size,
        (from, to) => {
            let (from, to): (u64, u64) = (from.parse().ok()?, to.parse().ok()?);
            if from > to {
                return None;
            }
            from..to.saturating_add(1).min(size)
        }
    };
    Some(if range.start < range.end { Ok(range) } else { Err(OutOfRange) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_served_and_anything_else_is_ignored() {
        for (header, expected) in [
            ("bytes=0-0", Some(Ok(0..1))),
            ("bytes=2-", Some(Ok(2..10))),
            ("bytes=-3", Some(Ok(7..10))),
            ("bytes=-30", Some(Ok(0..10))),
            ("bytes=5-99", Some(Ok(5..10))),
            ("bytes=10-", Some(Err(OutOfRange))),
            ("bytes=10-20", Some(Err(OutOfRange))),
            ("bytes=-0", Some(Err(OutOfRange))),
            ("bytes=3-2", None),
            ("bytes=0-1,3-4", None),
            ("lines=0-1", None),
            ("bytes=a-b", None),
            ("bytes=99999999999999999999-", None),
        ] {
            assert_eq!(range(header, 10), expected, "{header}");
        }
        assert_eq!(range("bytes=0-", 0), Some(Err(OutOfRange)));
    }

    #[test]
    fn a_name_cannot_leave_its_header_or_folder() {
        for (name, expected) in [
            (None, "attachment"),
            (Some("../.."), "attachment"),
            (Some("a.pdf"), "attachment; filename=\"a.pdf\"; filename*=UTF-8''a.pdf"),
            (Some("a\"; x=\r\n/b.pdf"), "attachment; filename=\"a x=b.pdf\"; filename*=UTF-8''a%20x%3Db.pdf"),
            (Some("fdp\u{202e}.exe"), "attachment; filename=\"fdp.exe\"; filename*=UTF-8''fdp.exe"),
            (Some("año.png"), "attachment; filename=\"a_o.png\"; filename*=UTF-8''a%C3%B1o.png"),
        ] {
            assert_eq!(disposition(false, name), expected, "{name:?}");
        }
    }

    #[test]
    fn a_tag_is_found_in_a_list_of_tags() {
        for (tags, expected) in [("\"a\"", true), ("\"b\", W/\"a\"", true), ("*", true), ("\"b\"", false), ("a", false)]
        {
            assert_eq!(names(&HeaderValue::from_static(tags), "\"a\""), expected, "{tags}");
        }
    }
}
