//! The webhook of one WABA: the calendar of its updates, and the signed POSTs that deliver them.
//!
//! Never: drops an update without counting it.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::debug;

use super::{
    lock, millis,
    notice::NoticeId,
    pending::Pending,
    scenario::{Target, Webhooks},
};
use crate::domain::State;

/// An update for the webhook of a WABA.
#[derive(Clone, Copy, Debug)]
pub(super) enum Update {
    /// A status of a message.
    Status(StatusUpdate),
    /// A person answers a message. It becomes `Inbound` when its POST is built.
    Answer { line: u16, message: u32 },
    /// An inbound message, by its index on the line.
    Inbound { line: u16, inbound: u32 },
    /// A notice of the current run.
    Notice(NoticeId),
}

/// A status of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct StatusUpdate {
    pub(super) line: u16,
    /// The index of the message on the line.
    pub(super) message: u32,
    /// The timestamp in the status, in milliseconds since the start of the simulator.
    pub(super) at_ms: u32,
    pub(super) status: State,
    /// The status carries the callback data of its send.
    pub(super) token: bool,
    /// A duplicate of an earlier status.
    pub(super) duplicate: bool,
}

/// The webhook of one WABA, with its pending updates.
pub(super) struct Courier {
    url: Mutex<String>,
    key: Hmac<Sha256>,
    pub(super) settings: Webhooks,
    http: reqwest::Client,
    permits: Arc<Semaphore>,
    pub(super) calendar: Mutex<Calendar>,
    /// Notified when the next due time of the calendar has changed.
    pub(super) changed: Notify,
}

/// Pending updates by due time, in milliseconds since the start of the simulator.
pub(super) struct Calendar {
    /// The current run: the Unix time in ms at which it began. Updates of any other run are ignored.
    pub(super) run: u64,
    fresh: BTreeMap<u64, Vec<Update>>,
    retries: BTreeMap<u64, Vec<Post>>,
    retries_len: usize,
}

/// One POST to the webhook. Every try sends the same bytes.
pub(super) struct Post {
    pub(super) run: u64,
    pub(super) body: Bytes,
    pub(super) signature: String,
    pub(super) updates: Vec<Update>,
    /// The time of the first try, since the start of the simulator.
    pub(super) first_try: Duration,
    pub(super) failures: u32,
    /// Dropped when the first try ends, successful or not.
    pub(super) first_try_done: Option<oneshot::Sender<()>>,
}

/// While this many POSTs wait for a retry, fresh updates stay in the calendar, where they take less memory.
const RETRIES_MAX: usize = 1_000;

impl Courier {
    pub(super) fn new(target: &Target, settings: &Webhooks, run: u64, http: reqwest::Client) -> Self {
        Self {
            url: Mutex::new(target.url.clone()),
            key: Hmac::new_from_slice(target.app_secret.as_bytes()).expect("HMAC takes a key of any length"),
            settings: settings.clone(),
            http,
            permits: Arc::new(Semaphore::new(settings.posts_at_once)),
            calendar: Mutex::new(Calendar { run, fresh: BTreeMap::new(), retries: BTreeMap::new(), retries_len: 0 }),
            changed: Notify::new(),
        }
    }

    /// Adds updates of `run` to the calendar, each with its delivery time. Does nothing if `run` is not the current
    /// run.
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

    /// Empties the calendar for a new run. Returns the number of updates dropped.
    pub(super) fn reset(&self, run: u64) -> u64 {
        let mut calendar = lock(&self.calendar);
        let dropped = calendar.updates();
        *calendar = Calendar { run, fresh: BTreeMap::new(), retries: BTreeMap::new(), retries_len: 0 };
        dropped
    }

    /// Whether `run` is the current run.
    pub(super) fn is_current_run(&self, run: u64) -> bool {
        lock(&self.calendar).run == run
    }

    pub(super) fn sign(&self, body: &[u8]) -> String {
        let mut mac = self.key.clone();
        mac.update(body);
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    }

    pub(super) async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so this always returns a permit.
        self.permits.clone().acquire_owned().await.ok()
    }

    /// Where the updates are sent.
    pub(super) fn url(&self) -> String {
        lock(&self.url).clone()
    }

    /// Sends the updates to `url` from now on.
    pub(super) fn redirect(&self, url: String) {
        *lock(&self.url) = url;
    }

    /// Whether the callback `url` accepts `verify_token`, as it answers a challenge.
    pub(super) async fn verify(&self, url: &str, verify_token: &str) -> bool {
        const CHALLENGE: &str = "1158201444";
        let Ok(mut url) = reqwest::Url::parse(url) else { return false };
        url.query_pairs_mut()
            .append_pair("hub.mode", "subscribe")
            .append_pair("hub.challenge", CHALLENGE)
            .append_pair("hub.verify_token", verify_token);
        let Ok(answer) = self.http.get(url).send().await else { return false };
        answer.status() == reqwest::StatusCode::OK && answer.text().await.is_ok_and(|text| text == CHALLENGE)
    }

    /// Makes one try. Returns whether the webhook answered 200.
    pub(super) async fn post(&self, post: &Post) -> bool {
        let url = self.url();
        let sent = self
            .http
            .post(&url)
            .header("content-type", "application/json")
            .header("user-agent", "facebookexternalua")
            .header("x-hub-signature-256", &post.signature)
            .body(post.body.clone())
            .send()
            .await;
        match sent {
            Ok(answer) => {
                let status = answer.status();
                // Read to the end, or the connection cannot be reused.
                let _ = answer.bytes().await;
                debug!(url, %status, updates = post.updates.len(), "webhook answered");
                status == reqwest::StatusCode::OK
            }
            Err(error) => {
                debug!(url, %error, updates = post.updates.len(), "webhook not answered");
                false
            }
        }
    }
}

impl Calendar {
    /// The next due time. Fresh updates do not count while [`RETRIES_MAX`] POSTs wait for a retry.
    pub(super) fn next(&self) -> Option<u64> {
        let retry = self.retries.first_key_value().map(|(due, _)| *due);
        let fresh = self.fresh.first_key_value().map(|(due, _)| *due).filter(|_| self.retries_len < RETRIES_MAX);
        retry.into_iter().chain(fresh).min()
    }

    /// The number of updates in the calendar.
    pub(super) fn updates(&self) -> u64 {
        let fresh: usize = self.fresh.values().map(Vec::len).sum();
        let retries: usize = self.retries.values().flatten().map(|post| post.updates.len()).sum();
        (fresh + retries) as u64
    }

    /// Removes and returns the retries and the fresh updates that are due at `now_ms`.
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

    /// Schedules a retry of a POST that failed.
    pub(super) fn retry(&mut self, at_ms: u64, post: Post) {
        self.retries.entry(at_ms).or_default().push(post);
        self.retries_len += 1;
    }
}
