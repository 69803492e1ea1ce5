//! Files at Meta: reads the node of a file, downloads its bytes, and uploads a file for a line.
//!
//! Source: <https://developers.facebook.com/documentation/business-messaging/whatsapp/business-phone-numbers/media>,
//! read 2026-12-01.
//! If the process dies: a file that was uploaded stays at Meta for 30 days without being used.
//! Never: holds a whole file in memory. The token is sent to the address that Meta names in the node of a file, over TLS
//! wherever the Graph API itself is reached over TLS.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use reqwest::{
    Body, Method, Request, Response, Url,
    header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use tokio::time::timeout;

use super::{
    GraphClient, GraphError, answer,
    client::{authorized, describe, whole_body},
    management::Subject,
};
use crate::domain::{LineId, Secret};

/// How long the whole transfer of a file may take. It may be silent only for the timeout of the client.
const TRANSFER_MAX: Duration = Duration::from_mins(5);

/// The largest answer that is not a file, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

/// A file at Meta.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct MediaNode {
    /// Where it can be downloaded with the token, for five minutes.
    pub url: String,
    /// Its type.
    pub mime_type: Option<String>,
    /// Its SHA-256, in hexadecimal.
    pub sha256: Option<String>,
}

/// The bytes of a file, as they arrive.
pub struct MediaDownload {
    what: Subject,
    response: Response,
    silence_max: Duration,
}

impl MediaDownload {
    /// The next bytes; `None` at the end.
    ///
    /// Errors: [`GraphError::Unreachable`] if the connection broke or was silent for too long.
    pub async fn next(&mut self) -> Result<Option<Bytes>, GraphError> {
        let failed = |reason| GraphError::Unreachable { what: self.what.clone(), reason };
        match timeout(self.silence_max, self.response.chunk()).await {
            Ok(piece) => piece.map_err(|error| failed(describe(error))),
            Err(_) => Err(failed(format!("nothing arrived for {:?}", self.silence_max))),
        }
    }
}

/// A file to upload.
pub struct MediaUpload<B> {
    /// Its type.
    pub mime_type: String,
    /// Its size in bytes.
    pub size: u64,
    /// Its bytes.
    pub bytes: B,
}

impl GraphClient {
    /// The node of the file with Meta's id `id`, which was sent to `line`.
    ///
    /// # Errors
    /// [`GraphError`]
    pub async fn media(&self, id: &str, line: &LineId, token: &Secret) -> Result<MediaNode, GraphError> {
        let mut url = self.endpoint([id]);
        url.query_pairs_mut().append_pair("phone_number_id", line.as_str());
        self.read(&Subject::Media(id.to_owned()), url, token).await
    }

    /// Begins to download the file `id` from its node.
    ///
    /// # Errors
    /// [`GraphError`]
    pub async fn download(&self, id: &str, node: &MediaNode, token: &Secret) -> Result<MediaDownload, GraphError> {
        let what = Subject::Media(id.to_owned());
        let not_meta = |reason: String| GraphError::NotMeta { what: what.clone(), reason };
        let url: Url = node.url.parse().map_err(|_| not_meta("its address is not a URL".to_owned()))?;
        if url.scheme() != "https" && url.scheme() != self.endpoint([]).scheme() {
            return Err(not_meta("its address is not an https URL".to_owned()));
        }
        let response = self.transfer(&what, Request::new(Method::GET, url), authorized(token)?).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(MediaDownload { what, response, silence_max: self.timeout() });
        }
        let answer = answer_of(&what, response).await?;
        Err(refused(&what, status.as_u16(), &answer))
    }

    /// Uploads a file for `line`. Returns Meta's id of it, which is valid for 30 days.
    ///
    /// # Errors
    /// [`GraphError`]. Meta may have the file nevertheless, which does no harm.
    pub async fn upload<B, E>(&self, line: &LineId, token: &Secret, file: MediaUpload<B>) -> Result<String, GraphError>
    where
        B: Stream<Item = Result<Bytes, E>> + Send + 'static,
        E: std::error::Error + Send + Sync + 'static,
    {
        let what = Subject::Upload(line.clone());
        let boundary = format!("pregon-{:032x}", rand::random::<u128>());
        // A type without line breaks, because it is one that Meta takes.
        let head = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"messaging_product\"\r\n\r\nwhatsapp\r\n\
             --{boundary}\r\ncontent-disposition: form-data; name=\"type\"\r\n\r\n{0}\r\n\
             --{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"file\"\r\n\
             content-type: {0}\r\n\r\n",
            file.mime_type
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = head.len() as u64 + file.size + tail.len() as u64;
        let part = |text: String| stream::once(async move { Ok(Bytes::from(text)) });
        let body = part(head).chain(file.bytes).chain(part(tail));
        let mut headers = authorized(token)?;
        let form = format!("multipart/form-data; boundary={boundary}");
        headers.insert(CONTENT_TYPE, HeaderValue::try_from(form).expect("visible ASCII"));
        headers.insert(CONTENT_LENGTH, length.into());
        let mut request = Request::new(Method::POST, self.endpoint([line.as_str(), "media"]));
        *request.body_mut() = Some(Body::wrap_stream(body));
        let response = self.transfer(&what, request, headers).await?;
        let status = response.status().as_u16();
        let answer = answer_of(&what, response).await?;
        let uploaded = serde_json::from_slice(&answer).ok().filter(|_| (200..300).contains(&status));
        uploaded.map(|Uploaded { id }| id).ok_or_else(|| refused(&what, status, &answer))
    }

    async fn transfer(&self, what: &Subject, mut request: Request, headers: HeaderMap) -> Result<Response, GraphError> {
        *request.headers_mut() = headers;
        *request.timeout_mut() = Some(TRANSFER_MAX);
        self.respond(request).await.map_err(|reason| GraphError::Unreachable { what: what.clone(), reason })
    }
}

/// Meta's answer to an upload.
#[derive(Deserialize)]
struct Uploaded {
    id: String,
}

async fn answer_of(what: &Subject, response: Response) -> Result<Bytes, GraphError> {
    let unreachable = |reason| GraphError::Unreachable { what: what.clone(), reason };
    whole_body(response, ANSWER_BYTES_MAX).await.map_err(unreachable)
}

fn refused(what: &Subject, status: u16, body: &[u8]) -> GraphError {
    match answer::refusal(body) {
        Some(answer::MetaError { code, details }) => GraphError::Refused { what: what.clone(), code, details },
        None => GraphError::NotMeta { what: what.clone(), reason: answer::not_meta(status, body) },
    }
}
