//! Delivers the updates of a WABA: each at its time, in batches, signed, again until it is answered 200.
//!
//! If the stand-in stops, what is not delivered is lost; the ledger says how much.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::warn;

use super::{
    courier::{Post, StatusUpdate, Update},
    lock, millis, payload,
    world::SharedWorld,
};

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
            calendar.retry(millis(world.now() + wait), post);
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
