//! Files: those that the business uploads, and those that people send.
//!
//! Owns: the bytes of all files, until the simulator is reset. An id is usable only for as long as Meta keeps it.
//! Source: developers.facebook.com/docs/whatsapp/cloud-api/reference/media, read in a copy of 11 Dec 2025.

use std::{
    collections::HashMap,
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::lock;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long the id of an uploaded file is valid.
const UPLOADED: Duration = DAY.saturating_mul(30);
/// How long the id of a file that a person sent is valid.
const RECEIVED: Duration = DAY.saturating_mul(7);
const FIRST_ID: u64 = 800_000_000_000_001;
/// A type of file that people send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Medium {
    Image,
    Audio,
    Document,
}

impl Medium {
    pub(super) const ALL: [Medium; 3] = [Medium::Image, Medium::Audio, Medium::Document];

    /// Meta's name of the type.
    pub(super) fn name(self) -> &'static str {
        match self {
            Medium::Image => "image",
            Medium::Audio => "audio",
            Medium::Document => "document",
        }
    }

    fn mime_type(self) -> &'static str {
        match self {
            Medium::Image => "image/png",
            Medium::Audio => "audio/ogg; codecs=opus",
            Medium::Document => "application/pdf",
        }
    }

    /// A small file of the type: an image of one pixel, the head of a voice note, a document without a page.
    fn sample(self) -> &'static [u8] {
        match self {
            Medium::Image => {
                b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\0\x01\0\0\0\x01\x08\0\0\0\0:~\x9bU\0\0\0\nIDA\
                  Tx\xdach\0\0\0\x82\0\x81\xdaE\x08;\0\0\0\0IEND\xaeB`\x82"
            }
            Medium::Audio => {
                b"OggS\0\x02\0\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01\x01\0\0\x80>\0\0\0\0\0"
            }
            Medium::Document => {
                b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[]/Count 0>>endobj\n\
                  trailer<</Root 1 0 R>>\n%%EOF\n"
            }
        }
    }

    /// The object that the webhook of a person's message has for it.
    pub(super) fn body(self, id: u64) -> Value {
        let digest = STANDARD.encode(Sha256::digest(self.sample()));
        let mut body = json!({"id": id.to_string(), "mime_type": self.mime_type(), "sha256": digest});
        match self {
            Medium::Image => body["caption"] = json!("Mirá"),
            Medium::Audio => body["voice"] = json!(true),
            Medium::Document => body["filename"] = json!("comprobante.pdf"),
        }
        body
    }
}

/// All files, by id.
pub(super) struct Files {
    files: Mutex<HashMap<u64, File>>,
    next: AtomicU64,
}

#[derive(Clone)]
pub(super) struct File {
    pub(super) waba: usize,
    pub(super) mime_type: Box<str>,
    pub(super) bytes: Bytes,
    /// When its id ends, since the start of the simulator.
    until: Duration,
}

impl Files {
    pub(super) fn new() -> Self {
        Self { files: Mutex::default(), next: AtomicU64::new(FIRST_ID) }
    }

    fn add(&self, file: File) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        lock(&self.files).insert(id, file);
        id
    }

    /// Adds a file that the business uploads. Returns its id.
    pub(super) fn upload(&self, waba: usize, mime_type: &str, bytes: Bytes, at: Duration) -> u64 {
        self.add(File { waba, mime_type: mime_type.into(), bytes, until: at + UPLOADED })
    }

    /// Adds a file that a person sends to a line of the WABA. Returns its id.
    pub(super) fn receive(&self, waba: usize, medium: Medium, at: Duration) -> u64 {
        let bytes = Bytes::from_static(medium.sample());
        self.add(File { waba, mime_type: medium.mime_type().into(), bytes, until: at + RECEIVED })
    }

    /// The WABA of the file, if the id is valid now.
    pub(super) fn owner(&self, id: &str, now: Duration) -> Option<usize> {
        self.find(id, now).map(|file| file.waba)
    }

    /// The file, if the id is valid now.
    pub(super) fn find(&self, id: &str, now: Duration) -> Option<File> {
        lock(&self.files).get(&id.parse().ok()?).filter(|file| now < file.until).cloned()
    }

    /// Forgets all files. Ids are not used again.
    pub(super) fn reset(&self) {
        lock(&self.files).clear();
    }
}
