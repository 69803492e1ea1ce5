//! The way out of one line: from the outbox in PostgreSQL into the lane of the line in Redis, and what became of the
//! messages back into PostgreSQL.
//!
//! One task does both, one after the other. So a message whose result was just stored is never put into the lane again by
//! a read of the outbox that began before.
//!
//! If the process dies: the next reader of the line puts all that is in the outbox, and what is in the lane stays as it
//! is. A row leaves the outbox only with the result of its message.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::{
    sync::Notify,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::Outage;
use crate::{
    domain::{ChatMessageId, LineId, chat::ChatStatus},
    postgres::Database,
    redis::{Store, StoreError, clock::Clock, doorbells::Doorbell, duty::backoff},
    telemetry::metrics::{self, DutyGauge},
};

/// Maximum number of messages in the lane of a line, and of those that one call puts there.
const LANE_MAX: usize = 1_000;
const PUT_MAX: usize = 100;

/// Maximum number of results in a transaction.
const RESULTS_MAX: usize = 200;

/// How often the results are read: at first, and after some time in which nothing happened.
const WAIT_MIN: Duration = Duration::from_millis(20);
const WAIT_MAX: Duration = Duration::from_millis(250);

/// How often the age of the oldest message is read.
const AGE_EVERY: Duration = Duration::from_secs(5);

/// How often the outbox is read although nobody rings, and how often the owner of the line is told of messages that have
/// no result.
const LOOK_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Outbound<'a> {
    pub(super) line: &'a LineId,
    pub(super) store: &'a Store,
    pub(super) database: &'a Database,
    pub(super) clock: &'a Clock,
    /// The epoch of the duty to read the line.
    pub(super) epoch: u64,
    pub(super) rung: Arc<Notify>,
    /// The age of the oldest message that is not sent.
    pub(super) age: DutyGauge,
}

/// What is in the lane.
struct Lane {
    put: HashSet<ChatMessageId>,
    /// The run of Redis in which it was put. Another one may have lost it.
    incarnation: u64,
    look_at: Instant,
    /// When the age of the oldest message is read.
    age_at: Instant,
}

/// Why a step failed.
enum Failed {
    Redis(StoreError),
    Database(crate::postgres::DatabaseError),
    /// Another process reads the line.
    Fenced,
}

impl Outbound<'_> {
    /// Runs until `stop`, or until another process reads the line.
    pub(super) async fn run(&self, stop: &CancellationToken) {
        let now = Instant::now();
        let mut lane = Lane { put: HashSet::new(), incarnation: self.store.incarnation(), look_at: now, age_at: now };
        let (mut outage, mut wait, mut failures) = (Outage::default(), WAIT_MIN, 0);
        while !stop.is_cancelled() {
            wait = match self.step(&mut lane).await {
                Ok(has_moved) => {
                    failures = 0;
                    outage.ended(self.line, "messages to people leave again");
                    if has_moved { WAIT_MIN } else { (wait * 2).min(WAIT_MAX) }
                }
                Err(Failed::Fenced) => return,
                Err(Failed::Redis(error)) => {
                    failures += 1;
                    error.report("messages of chats cannot be exchanged with Redis");
                    backoff(failures)
                }
                Err(Failed::Database(error)) => {
                    let what = "PostgreSQL does not answer: messages to people wait there";
                    outage.began(self.line, what, &error, error.is_transient())
                }
            };
            tokio::select! {
                () = self.rung.notified(), if failures == 0 => lane.look_at = Instant::now(),
                () = sleep(wait) => {}
                () = stop.cancelled() => {}
            }
        }
    }

    /// Stores the results that there are, and puts what is new. Returns whether there was anything.
    async fn step(&self, lane: &mut Lane) -> Result<bool, Failed> {
        let has_results = self.store_results(lane).await?;
        let incarnation = self.store.incarnation();
        if incarnation != lane.incarnation {
            (lane.incarnation, lane.look_at) = (incarnation, Instant::now());
            lane.put.clear();
        }
        if lane.look_at > Instant::now() {
            return Ok(has_results);
        }
        if lane.age_at <= Instant::now() {
            lane.age_at = Instant::now() + AGE_EVERY;
            let oldest = self.database.oldest_waiting(self.line).await.map_err(Failed::Database)?;
            let now = self.clock.now();
            self.age.set(oldest.map_or(Duration::ZERO, |at| now.since(at)).as_secs_f64());
        }
        let room = LANE_MAX.saturating_sub(lane.put.len()).min(PUT_MAX);
        let rows = self.database.outbox(self.line, &lane.put, room).await.map_err(Failed::Database)?;
        lane.look_at = if rows.len() == PUT_MAX { Instant::now() } else { Instant::now() + LOOK_EVERY };
        if rows.is_empty() && lane.put.is_empty() {
            return Ok(has_results);
        }
        let put = self.store.put_chats(self.line, self.epoch, self.clock.now(), &rows).await;
        let Some(owner) = put.map_err(Failed::Redis)? else { return Err(Failed::Fenced) };
        lane.put.extend(rows.iter().map(|row| row.id));
        if !owner.is_empty() {
            self.store.ring(Doorbell::Dispatch, &owner, self.line).await.map_err(Failed::Redis)?;
        }
        Ok(has_results || !rows.is_empty())
    }

    /// Stores the oldest results, and removes them from Redis. Returns whether there were any.
    async fn store_results(&self, lane: &mut Lane) -> Result<bool, Failed> {
        let results = self.store.chat_results(self.line, RESULTS_MAX).await.map_err(Failed::Redis)?;
        let Some(last) = results.last().map(|result| result.entry) else { return Ok(false) };
        let news: Vec<ChatStatus> = results.into_iter().map(|result| result.status).collect();
        let ended = self.database.store_message_news(self.line, &news).await.map_err(Failed::Database)?;
        let is_done = self.store.ack_chats(self.line, self.epoch, last, &ended).await.map_err(Failed::Redis)?;
        if !is_done {
            return Err(Failed::Fenced);
        }
        let is_message = |status: &&ChatStatus| status.id.is_some_and(|id| id.message > 0);
        news.iter().filter(is_message).for_each(|status| metrics::chat_replies(status.state, 1));
        if ended.iter().any(|id| lane.put.remove(id)) {
            // There is room for more.
            lane.look_at = Instant::now();
        }
        Ok(true)
    }
}
