//! The webhook of one WABA: a calendar of updates, and the signed requests in which they travel.
//!
//! Never: drops an update unseen.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::debug;

use super::{
    lock, millis,
    pending::Pending,
    scenario::{Target, Webhooks},
};
use crate::domain::State;

/// Something to tell the owner of a WABA.
#[derive(Clone, Copy, Debug)]
pub(super) enum Update {
    /// Of a message.
    Status(StatusUpdate),
    /// Somebody taps a button of a message: becomes `Inbound` when it travels.
    Tap { line: u16, message: u32 },
    /// From a person, by its number on the line.
    Inbound { line: u16, inbound: u32 },
    /// The status of a template has changed.
    Template { template: usize },
}

/// A status of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatusUpdate {
    pub(super) line: u16,
    /// Its number on the line.
    pub(super) message: u32,
    /// Its timestamp, in milliseconds since the start.
    pub(super) at_ms: u32,
    pub(super) status: State,
    /// It carries the token of its send.
    pub(super) token: bool,
    /// It has travelled before.
    pub(super) again: bool,
}

/// The updates of one WABA.
pub(super) struct Courier {
    pub(super) url: String,
    key: Hmac<Sha256>,
    pub(super) settings: Webhooks,
    http: reqwest::Client,
    slots: Arc<Semaphore>,
    pub(super) calendar: Mutex<Calendar>,
    /// The calendar's next time has changed.
    pub(super) changed: Notify,
}

/// What is due when, in milliseconds since the start.
pub(super) struct Calendar {
    /// Updates of any other run are refused.
    pub(super) run: u64,
    fresh: BTreeMap<u64, Vec<Update>>,
    retries: BTreeMap<u64, Vec<Post>>,
    retries_len: usize,
}

/// One request to the webhook, the same bytes at each try.
pub(super) struct Post {
    pub(super) run: u64,
    pub(super) body: Bytes,
    pub(super) signature: String,
    pub(super) updates: Vec<Update>,
    pub(super) first_try: Instant,
    pub(super) failures: u32,
    /// Dropped when the first try is over, however it ended.
    pub(super) tried: Option<oneshot::Sender<()>>,
}

/// While so many requests wait for a retry, fresh updates wait in the calendar, where they take less memory.
const RETRIES_MAX: usize = 1_000;

impl Courier {
    pub(super) fn new(target: &Target, settings: &Webhooks, run: u64, http: reqwest::Client) -> Self {
        Self {
            url: target.url.clone(),
            key: Hmac::new_from_slice(target.app_secret.as_bytes()).expect("HMAC takes a key of any length"),
            settings: settings.clone(),
            http,
            slots: Arc::new(Semaphore::new(settings.posts_at_once)),
            calendar: Mutex::new(Calendar { run, fresh: BTreeMap::new(), retries: BTreeMap::new(), retries_len: 0 }),
            changed: Notify::new(),
        }
    }

    /// Puts updates of `run` on the calendar, each at the time when it travels.
    pub(super) fn schedule(&self, run: u64, pending: &Pending, updates: impl IntoIterator<Item = (Duration, Update)>) {
        let window_ms = millis(self.settings.batch_window).max(1);
        let mut calendar = lock(&self.calendar);
        if calendar.run != run {
            return;
        }
        let next = calendar.next();
        let mut count = 0;
        for (due, update) in updates {
            calendar.fresh.entry(millis(due).next_multiple_of(window_ms)).or_default().push(update);
            count += 1;
        }
        pending.add(count);
        if calendar.next() != next {
            self.changed.notify_one();
        }
    }

    /// Empties the calendar for a new run. Returns how many updates it held.
    pub(super) fn reset(&self, run: u64) -> u64 {
        let mut calendar = lock(&self.calendar);
        let fresh: usize = calendar.fresh.values().map(Vec::len).sum();
        let retries: usize = calendar.retries.values().flatten().map(|post| post.updates.len()).sum();
        *calendar = Calendar { run, fresh: BTreeMap::new(), retries: BTreeMap::new(), retries_len: 0 };
        (fresh + retries) as u64
    }

    /// Whether this is the run that is on.
    pub(super) fn is_of(&self, run: u64) -> bool {
        lock(&self.calendar).run == run
    }

    pub(super) fn sign(&self, body: &[u8]) -> String {
        let mut mac = self.key.clone();
        mac.update(body);
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    }

    pub(super) async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so that there is always a permit.
        self.slots.clone().acquire_owned().await.ok()
    }

    /// One try. True if it was answered 200.
    pub(super) async fn post(&self, post: &Post) -> bool {
        let sent = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("user-agent", "facebookexternalua")
            .header("x-hub-signature-256", &post.signature)
            .body(post.body.clone())
            .send()
            .await;
        match sent {
            Ok(answer) => {
                let status = answer.status();
                // Read to the end, or the connection is not used again.
                let _ = answer.bytes().await;
                debug!(url = self.url, %status, updates = post.updates.len(), "webhook answered");
                status == reqwest::StatusCode::OK
            }
            Err(error) => {
                debug!(url = self.url, %error, updates = post.updates.len(), "webhook not answered");
                false
            }
        }
    }
}

impl Calendar {
    /// When something is due next.
    pub(super) fn next(&self) -> Option<u64> {
        let retry = self.retries.first_key_value().map(|(due, _)| *due);
        let fresh = self.fresh.first_key_value().map(|(due, _)| *due).filter(|_| self.retries_len < RETRIES_MAX);
        retry.into_iter().chain(fresh).min()
    }

    /// What is due at `now_ms`.
    pub(super) fn take(&mut self, now_ms: u64) -> (Vec<Post>, Vec<Update>) {
        let mut retries = Vec::new();
        while let Some(entry) = self.retries.first_entry().filter(|entry| *entry.key() <= now_ms) {
            retries.append(&mut entry.remove());
        }
        let mut fresh = Vec::new();
        if self.retries_len < RETRIES_MAX {
            while let Some(entry) = self.fresh.first_entry().filter(|entry| *entry.key() <= now_ms) {
                fresh.append(&mut entry.remove());
            }
        }
        self.retries_len -= retries.len();
        (retries, fresh)
    }

    /// Puts a request that failed on the calendar again.
    pub(super) fn retry(&mut self, at_ms: u64, post: Post) {
        self.retries.entry(at_ms).or_default().push(post);
        self.retries_len += 1;
    }
}
