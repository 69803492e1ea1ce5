//! Delivers the updates of a WABA at their due times, in signed batches, and retries until the webhook answers 200.
//!
//! If the simulator stops, undelivered updates are lost; the ledger counts them as pending.

use std::{sync::atomic::Ordering, time::Duration};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::warn;

use super::{
    courier::{Post, StatusUpdate, Update},
    lock,
    marketing::WITHHELD,
    millis, payload,
    world::SharedWorld,
};
use crate::domain::State;

/// Delivers the updates of a WABA until the simulator stops.
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
                Some(ms) => world.clock.sleep_until(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = due => {}
            () = courier.changed.notified() => continue,
        }
        let (run, (retries, fresh)) = {
            let mut calendar = lock(&courier.calendar);
            (calendar.run, calendar.take(millis(world.clock.now())))
        };
        for post in retries {
            spawn_delivery(world, waba, post, courier.permit().await);
        }
        for updates in fresh.chunks(courier.settings.batch_updates_max) {
            // Acquire the permit before building the POST: unbuilt updates take less memory while they wait.
            let permit = courier.permit().await;
            spawn_delivery(world, waba, build_post(world, waba, run, updates.to_vec()), permit);
        }
    }
}

/// Delivers one update immediately, bypassing the calendar and the limit on concurrent POSTs. Resolves when the first
/// try has ended.
pub(super) async fn deliver_now(world: &SharedWorld, waba: usize, run: u64, update: Update) {
    world.counts.pending.add(1);
    let (first_try_done, over) = oneshot::channel();
    let post = Post { first_try_done: Some(first_try_done), ..build_post(world, waba, run, vec![update]) };
    spawn_delivery(world, waba, post, None);
    // Nothing is ever sent on the channel. It resolves when the sender is dropped.
    let _ = over.await;
}

fn build_post(world: &SharedWorld, waba: usize, run: u64, mut updates: Vec<Update>) -> Post {
    let body = Bytes::from(payload::body(world, waba, run, &mut updates));
    let signature = world.wabas[waba].courier.as_ref().map(|courier| courier.sign(&body)).unwrap_or_default();
    Post { run, body, signature, updates, first_try: world.clock.now(), failures: 0, first_try_done: None }
}

fn spawn_delivery(world: &SharedWorld, waba: usize, post: Post, permit: Option<OwnedSemaphorePermit>) {
    let task = world.clone();
    world.tasks.spawn(async move {
        let stop = task.stop.clone();
        tokio::select! {
            () = stop.cancelled() => {}
            () = deliver(&task, waba, post) => {}
        }
        drop(permit);
    });
}

/// Tries until the webhook answers 200, until the POST goes back to the calendar because its retry has to wait, or
/// until `webhooks.retry_for` has passed.
async fn deliver(world: &SharedWorld, waba: usize, mut post: Post) {
    let Some(courier) = &world.wabas[waba].courier else { return };
    let counts = &world.counts;
    let updates = post.updates.len() as u64;
    loop {
        let is_200 = courier.is_current_run(post.run) && courier.post(&post).await;
        if !courier.is_current_run(post.run) {
            // A reset has started a new run: the update no longer counts.
            counts.pending.settle(updates);
            return;
        }
        counts.posts.fetch_add(1, Ordering::Relaxed);
        if is_200 {
            record_acknowledged(world, &post);
            counts.delivered.fetch_add(updates, Ordering::Relaxed);
            counts.pending.settle(updates);
            return;
        }
        counts.posts_failed.fetch_add(1, Ordering::Relaxed);
        post.failures += 1;
        post.first_try_done = None;
        let wait = backoff(post.failures);
        if world.clock.now() - post.first_try + wait > courier.settings.retry_for {
            warn!(url = courier.url(), updates, "webhook given up");
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
            calendar.retry(millis(world.clock.now() + wait), post);
            courier.changed.notify_one();
            return;
        }
    }
}

/// How long to wait after this many failures: zero after the first, then 0.5 s, doubling up to 30 s.
fn backoff(failures: u32) -> Duration {
    match failures {
        0 | 1 => Duration::ZERO,
        more => Duration::from_millis(500 << (more - 2).min(6)).min(Duration::from_secs(30)),
    }
}

/// Records the updates of a POST that was answered 200.
fn record_acknowledged(world: &SharedWorld, post: &Post) {
    for update in &post.updates {
        match *update {
            Update::Status(update) => record_status(world, post.run, update),
            Update::Notice(notice) => world.notices.tell(post.run, notice, world.clock.now()),
            Update::Answer { .. } | Update::Inbound { .. } => {}
        }
    }
}

fn record_status(world: &SharedWorld, run: u64, update: StatusUpdate) {
    let StatusUpdate { line, message, at_ms, status, token, duplicate } = update;
    world.counts.duplicated.fetch_add(u64::from(duplicate), Ordering::Relaxed);
    let line = &world.lines[usize::from(line)];
    let now = world.clock.now();
    let mut state = line.state();
    if state.run != run {
        return;
    }
    state.acknowledge(message, status, token, now);
    let failed = state.messages.get(message).filter(|failed| status == State::Failed && failed.code == WITHHELD);
    if let Some((to, Some(template))) = failed.map(|failed| (failed.to, failed.template)) {
        drop(state);
        if world.templates[template.get()].state().is_marketing() {
            world.wabas[line.waba].withheld.tell(to, Duration::from_millis(at_ms.into()), now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_start_at_once_and_back_off_up_to_30_s() {
        let waits: Vec<_> = (1..=9).map(|failures| backoff(failures).as_secs_f64()).collect();
        assert_eq!(waits, [0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]);
    }
}
