//! Delivers the events of the feed to one subscriber.
//!
//! The position in Redis is behind the events of the last successful webhook. It moves only after the success, and only
//! if neither an operator nor another worker has changed the record meanwhile.
//!
//! If the process dies: the next worker repeats the webhook that was not confirmed, with the same `webhook-id`.

use std::{convert::Infallible, sync::Arc, time::Duration};

use serde::Serialize;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::{Subscriber, reader::FeedReader, request::WebhookRequest};
use crate::{
    domain::{Event, EventType, RetryPolicy, SubscriberId, UnixMs},
    endpoint::{DeliveryError, EndpointClient, NoEndpointClient},
    redis::{
        self, Store,
        clock::Clock,
        duty::backoff,
        feed::FeedLimits,
        position::Position,
        subscribers::{DeliveryChange, SubscriberRecord},
    },
    telemetry::{
        clock,
        metrics::{DeliveryResult, SubscriberMetrics},
    },
};

/// How deliveries to all subscribers are made.
#[derive(Clone, Debug)]
pub struct DeliverySettings {
    /// How long a worker delivers to a subscriber without renewing its lease.
    pub lease: Duration,
    /// The timeout of an attempt.
    pub timeout: Duration,
    /// The waits between attempts. The number of attempts in this schedule, at least 2, only limits the growth of the
    /// waits: there is no last attempt.
    pub retry: RetryPolicy,
    /// How often a worker looks for new events, and for changes by an operator.
    pub poll: Duration,
    /// How long a stop waits for the attempt in progress.
    pub stop_timeout: Duration,
}

/// The deliveries of one worker to one subscriber.
pub struct Delivery {
    subscriber: Subscriber,
    client: EndpointClient,
    store: Store,
    clock: Arc<Clock>,
    worker: String,
    settings: DeliverySettings,
    metrics: SubscriberMetrics,
}

/// The fields that only `subscriber.disabled` has.
#[derive(Serialize)]
struct Disabled<'a> {
    subscriber: &'a SubscriberId,
    reason: &'a str,
}

impl Delivery {
    /// Deliveries to `subscriber` by `worker`.
    ///
    /// # Errors
    /// No HTTP client can be made.
    pub fn new(
        subscriber: Subscriber,
        store: Store,
        clock: Arc<Clock>,
        worker: String,
        settings: DeliverySettings,
    ) -> Result<Self, NoEndpointClient> {
        let client = EndpointClient::new(subscriber.endpoint.clone(), settings.timeout)?;
        let metrics = SubscriberMetrics::new(&subscriber.id);
        Ok(Self { subscriber, client, store, clock, worker, settings, metrics })
    }

    /// Delivers until `stop`, whenever this worker has the duty.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Infallible> {
        let duty = format!("subscriber:{}", self.subscriber.id);
        self.store.on_duty(&duty, &self.worker, self.settings.lease, &stop, |_| self.run_duty(&stop)).await;
        Ok(())
    }

    async fn run_duty(&self, stop: &CancellationToken) {
        // The metrics are hidden at the end of this future, because then another worker has the duty and reports them.
        let _hidden = self.metrics.hide_at_end();
        let mut failures = 0;
        while !stop.is_cancelled() {
            let Err(error) = self.deliver_all(stop).await else { return };
            failures += 1;
            if failures == 1 {
                warn!(subscriber = %self.subscriber.id, %error, "events can't be read for delivery");
            }
            stop.run_until_cancelled(sleep(backoff(failures))).await;
        }
    }

    /// Delivers until `stop`, or until another worker delivers to the subscriber.
    async fn deliver_all(&self, stop: &CancellationToken) -> redis::Result<()> {
        let Some(feed) = self.store.feed() else { return Ok(()) };
        let deliverer = format!("{}:{:016x}", self.worker, rand::random::<u64>());
        let mut record = self.store.begin_delivery(&self.subscriber.id, &deliverer).await?;
        while let Some(ours) = record.filter(|record| record.deliverer == deliverer && !stop.is_cancelled()) {
            match ours.disabled_because {
                Some(_) => while self.wait(self.settings.poll, &ours, None, stop).await? {},
                None => self.deliver_from(feed, ours, stop).await?,
            }
            record = self.read().await?;
        }
        Ok(())
    }

    /// Delivers the events after the position of `record`, until `stop`, or until the stored record changes.
    async fn deliver_from(
        &self,
        feed: FeedLimits,
        mut record: SubscriberRecord,
        stop: &CancellationToken,
    ) -> redis::Result<()> {
        let mut reader = FeedReader::new(&self.store, feed, &self.subscriber, record.position.clone());
        while !stop.is_cancelled() {
            let Some(batch) = reader.next().await? else {
                if self.wait(self.settings.poll, &record, None, stop).await? {
                    continue;
                }
                return Ok(());
            };
            let is_told = match &batch.webhook {
                Some(webhook) => self.deliver(webhook, batch.oldest, &mut record, stop).await?,
                None => true,
            };
            if !is_told || !self.confirm(&batch.position, &record, stop).await? {
                return Ok(());
            }
            (record.failing_since, record.last_error) = (None, None);
        }
        Ok(())
    }

    /// Attempts to deliver a webhook until one attempt succeeds. Returns false if it gave up, because of `stop` or
    /// because the stored record has changed.
    async fn deliver(
        &self,
        webhook: &WebhookRequest,
        oldest: UnixMs,
        record: &mut SubscriberRecord,
        stop: &CancellationToken,
    ) -> redis::Result<bool> {
        let mut failures = 0;
        loop {
            self.report_lag(Some(oldest));
            let Some(result) = self.attempt(webhook, stop).await else { return Ok(false) };
            let Err(error) = result else { return Ok(true) };
            failures = u8::saturating_add(failures, 1);
            if failures == 1 {
                warn!(subscriber = %self.subscriber.id, %error, "events could not be delivered: they are retried");
            }
            let is_disabled = self.note_failure(record, &error).await?;
            if is_disabled || !self.wait(self.retry_wait(failures, &error), record, Some(oldest), stop).await? {
                return Ok(false);
            }
        }
    }

    /// Makes one attempt. `None` if the process stops before the attempt has ended.
    async fn attempt(&self, webhook: &WebhookRequest, stop: &CancellationToken) -> Option<Result<(), DeliveryError>> {
        let too_late = async {
            stop.cancelled().await;
            sleep(self.settings.stop_timeout).await;
        };
        let headers = webhook.headers(&self.subscriber.keys, clock::now());
        let result = tokio::select! {
            result = self.client.post(headers, webhook.body.clone()) => result,
            () = too_late => return None,
        };
        self.metrics.delivery(result.as_ref().map_or_else(DeliveryError::result, |()| DeliveryResult::Delivered));
        Some(result)
    }

    /// The wait before the next attempt, with jitter: from half of the upper limit to all of it.
    fn retry_wait(&self, failures: u8, error: &DeliveryError) -> Duration {
        let retry = &self.settings.retry;
        let last = retry.attempts_max().saturating_sub(1);
        let wait = retry.delay(failures.min(last), rand::random_range(0.5..=1.0)).unwrap_or_default();
        wait.max(error.retry_after().unwrap_or_default())
    }

    /// Stores that a delivery failed. If deliveries have failed for too long, disables the subscriber and returns true.
    async fn note_failure(&self, record: &mut SubscriberRecord, error: &DeliveryError) -> redis::Result<bool> {
        let (id, now, text) = (&self.subscriber.id, self.clock.now(), error.to_string());
        let since = *record.failing_since.get_or_insert(now);
        if !self.store.settle_delivery(id, record, &DeliveryChange::Failing { since, error: &text }).await? {
            return Ok(false);
        }
        let lasts_too_long = now.since(since) >= self.subscriber.disable_after;
        if !lasts_too_long && *error != DeliveryError::Gone {
            return Ok(false);
        }
        let reason = match error {
            DeliveryError::Gone => text,
            _ => format!("no delivery succeeded since {since}; the last one failed: {text}"),
        };
        self.disable(record, since, &reason).await?;
        Ok(true)
    }

    /// Disables the subscriber. The event is written first: if the process dies in between, the next delivery fails
    /// again, and the event is written again with the same id.
    async fn disable(&self, record: &SubscriberRecord, since: UnixMs, reason: &str) -> redis::Result<()> {
        let id = &self.subscriber.id;
        let event_id = format!("subscriber:{id}:disabled:{}", since.0);
        let details = Disabled { subscriber: id, reason };
        let event = Event::new(event_id, EventType::SubscriberDisabled, self.clock.now(), details);
        self.store.append_events(None, &[event.to_json()]).await?;
        if self.store.settle_delivery(id, record, &DeliveryChange::Disabled { because: reason }).await? {
            error!(subscriber = %id, reason, "subscriber disabled: it gets no events until POST /v1/subscribers/{id}/enable");
        }
        Ok(())
    }

    /// Stores that all events up to `position` were delivered. Waits while Redis is unavailable, so that an outage
    /// causes no repeats. Returns false if the stored record has changed.
    async fn confirm(
        &self,
        position: &Position,
        record: &SubscriberRecord,
        stop: &CancellationToken,
    ) -> redis::Result<bool> {
        let mut failures = 0;
        loop {
            match self.store.settle_delivery(&self.subscriber.id, record, &DeliveryChange::Told(position)).await {
                Err(error) if error.is_transient() && !stop.is_cancelled() => {
                    failures += 1;
                    stop.run_until_cancelled(sleep(backoff(failures))).await;
                }
                settled => return settled,
            }
        }
    }

    /// Waits for `length`. Returns false if the wait ends early, because of `stop` or because the stored record differs
    /// from `record`. `oldest`: when the oldest undelivered event was written.
    async fn wait(
        &self,
        length: Duration,
        record: &SubscriberRecord,
        oldest: Option<UnixMs>,
        stop: &CancellationToken,
    ) -> redis::Result<bool> {
        let end = Instant::now() + length;
        loop {
            match record.disabled_because {
                Some(_) => self.metrics.set_disabled(),
                None => self.report_lag(oldest),
            }
            let next = end.min(Instant::now() + self.settings.poll);
            if stop.run_until_cancelled(sleep_until(next)).await.is_none() {
                return Ok(false);
            }
            if self.read().await?.is_none_or(|stored| stored.was_changed_since(record)) {
                return Ok(false);
            }
            if next == end {
                return Ok(true);
            }
        }
    }

    async fn read(&self) -> redis::Result<Option<SubscriberRecord>> {
        Ok(self.store.subscribers(&[&self.subscriber.id]).await?.pop().flatten())
    }

    fn report_lag(&self, oldest: Option<UnixMs>) {
        self.metrics.set_lag(oldest.map_or(Duration::ZERO, |oldest| self.clock.now().since(oldest)));
    }
}
