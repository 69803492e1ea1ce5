//! Delivers the updates of one WABA: each at its time, in batches, signed, again until it is answered 200.
//!
//! If the stand-in stops, what is not delivered is lost; the ledger says how much. Never: drops an update unseen.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, atomic::Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tracing::{debug, warn};

use super::{
    lock, payload,
    scenario::{Target, Webhooks},
    world::{Pending, SharedWorld, millis},
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
    url: String,
    key: Hmac<Sha256>,
    settings: Webhooks,
    http: reqwest::Client,
    slots: Arc<Semaphore>,
    calendar: Mutex<Calendar>,
    /// The calendar's next time has changed.
    changed: Notify,
}

/// What is due when, in milliseconds since the start.
struct Calendar {
    /// Updates of any other run are refused.
    run: u64,
    fresh: BTreeMap<u64, Vec<Update>>,
    retries: BTreeMap<u64, Vec<Post>>,
    retries_len: usize,
}

/// One request to the webhook, the same bytes at each try.
struct Post {
    run: u64,
    body: Bytes,
    signature: String,
    updates: Vec<Update>,
    first_try: Instant,
    failures: u32,
    /// Dropped when the first try is over, however it ended.
    tried: Option<oneshot::Sender<()>>,
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
    fn is_of(&self, run: u64) -> bool {
        lock(&self.calendar).run == run
    }

    fn sign(&self, body: &[u8]) -> String {
        let mut mac = self.key.clone();
        mac.update(body);
        format!("sha256={}", hex::encode(mac.finalize().into_bytes()))
    }

    async fn slot(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed, so that there is always a permit.
        self.slots.clone().acquire_owned().await.ok()
    }

    /// One try. True if it was answered 200.
    async fn post(&self, post: &Post) -> bool {
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
    fn next(&self) -> Option<u64> {
        let retry = self.retries.first_key_value().map(|(due, _)| *due);
        let fresh = self.fresh.first_key_value().map(|(due, _)| *due).filter(|_| self.retries_len < RETRIES_MAX);
        retry.into_iter().chain(fresh).min()
    }

    /// What is due at `now_ms`.
    fn take(&mut self, now_ms: u64) -> (Vec<Post>, Vec<Update>) {
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
}

/// Delivers the updates of a WABA until the stand-in stops.
pub(super) async fn run(world: SharedWorld, waba: usize) {
    let stop = world.stop.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = deliver_all(&world, waba) => {}
    }
}

async fn deliver_all(world: &SharedWorld, waba: usize) {
    let Some(courier) = &world.wabas[waba].courier else { return };
    loop {
        let next = lock(&courier.calendar).next();
        let due = async {
            match next {
                Some(ms) => tokio::time::sleep_until(world.instant(Duration::from_millis(ms)).into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = courier.changed.notified() => continue,
        }
        let (run, (retries, fresh)) = {
            let mut calendar = lock(&courier.calendar);
            (calendar.run, calendar.take(millis(world.now())))
        };
        for post in retries {
            launch(world, waba, post, courier.slot().await);
        }
        for updates in fresh.chunks(courier.settings.batch_updates_max) {
            // The slot first: while all are taken, updates stay in a form that takes little memory.
            let slot = courier.slot().await;
            launch(world, waba, post_of(world, waba, run, updates.to_vec()), slot);
        }
    }
}

/// Delivers one update at once, past the queue. Resolves when the first try is over.
pub(super) async fn deliver_now(world: &SharedWorld, waba: usize, run: u64, update: Update) {
    world.counts.pending.add(1);
    let (tried, over) = oneshot::channel();
    let post = Post { tried: Some(tried), ..post_of(world, waba, run, vec![update]) };
    launch(world, waba, post, None);
    // Nothing is ever sent: it ends when the sender is dropped.
    let _ = over.await;
}

fn post_of(world: &SharedWorld, waba: usize, run: u64, mut updates: Vec<Update>) -> Post {
    let body = Bytes::from(payload::body(world, waba, run, &mut updates));
    let signature = world.wabas[waba].courier.as_ref().map(|courier| courier.sign(&body)).unwrap_or_default();
    Post { run, body, signature, updates, first_try: Instant::now(), failures: 0, tried: None }
}

fn launch(world: &SharedWorld, waba: usize, post: Post, slot: Option<OwnedSemaphorePermit>) {
    let task = world.clone();
    world.tasks.spawn(async move {
        let stop = task.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = deliver(&task, waba, post) => {}
        }
        drop(slot);
    });
}

/// Tries until the answer is 200, a longer wait is due, or it is given up.
async fn deliver(world: &SharedWorld, waba: usize, mut post: Post) {
    let Some(courier) = &world.wabas[waba].courier else { return };
    let counts = &world.counts;
    let updates = post.updates.len() as u64;
    loop {
        let is_200 = courier.is_of(post.run) && courier.post(&post).await;
        if !courier.is_of(post.run) {
            // A reset came in between: this is no longer anybody's update.
            counts.pending.settle(updates);
            return;
        }
        counts.posts.fetch_add(1, Ordering::Relaxed);
        if is_200 {
            tell(world, &post);
            counts.delivered.fetch_add(updates, Ordering::Relaxed);
            counts.pending.settle(updates);
            return;
        }
        counts.posts_failed.fetch_add(1, Ordering::Relaxed);
        post.failures += 1;
        post.tried = None;
        let wait = wait_after(post.failures);
        if post.first_try.elapsed() + wait > courier.settings.retry_for {
            warn!(url = courier.url, updates, "webhook given up");
            counts.given_up.fetch_add(updates, Ordering::Relaxed);
            counts.pending.settle(updates);
            return;
        }
        if !wait.is_zero() {
            let mut calendar = lock(&courier.calendar);
            if calendar.run != post.run {
                counts.pending.settle(updates);
                return;
            }
            calendar.retries.entry(millis(world.now() + wait)).or_default().push(post);
            calendar.retries_len += 1;
            courier.changed.notify_one();
            return;
        }
    }
}

/// At once, then half a second, doubling up to 30 s.
fn wait_after(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(500 << (more - 2).min(6)).min(Duration::from_secs(30)),
    }
}

/// Books what a webhook that was answered 200 has told.
fn tell(world: &SharedWorld, post: &Post) {
    for update in &post.updates {
        if let Update::Status(StatusUpdate { line, message, status, token, again, .. }) = *update {
            world.counts.duplicated.fetch_add(u64::from(again), Ordering::Relaxed);
            let mut state = world.lines[usize::from(line)].state();
            if state.run == post.run {
                state.told(message, status, token, world.now());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_webhook_is_tried_again_at_once_and_then_ever_more_rarely() {
        let waits: Vec<_> = (1..=9).map(|failures| wait_after(failures).as_secs_f64()).collect();
        assert_eq!(waits, [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    }
}
