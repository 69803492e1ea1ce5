//! The deliveries of events: a task for each subscriber, so that none waits for another.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Context, ServeError, configured::SUBSCRIBER};
use crate::{
    app::shutdown::Shutdown,
    domain::{RetryPolicy, SubscriberId},
    endpoint::NoEndpointClient,
    redis::{Store, clock::Clock},
    subscribers::{Delivery, DeliverySettings, Subscriber},
};

/// The timeout of an attempt to deliver events. The specification of Standard Webhooks recommends 15 to 30 s.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(15);

/// The waits after failed deliveries: the upper limit of the first one, the factor by which it grows, and that of any.
const DELIVERY_RETRY: (Duration, f64, Duration) = (Duration::from_secs(5), 2.0, Duration::from_secs(600));

/// How often a worker looks for events to deliver. Each costs Redis some microseconds for each subscriber.
const DELIVERY_POLL: Duration = Duration::from_millis(200);

/// The deliveries of this process.
pub(super) struct Deliveries {
    store: Store,
    clock: Arc<Clock>,
    worker: String,
    settings: DeliverySettings,
    shutdown: Shutdown,
    running: HashMap<SubscriberId, Running>,
}

struct Running {
    /// Ends the task.
    stop: CancellationToken,
    /// Cancelled when the task has ended.
    ended: CancellationToken,
}

impl Deliveries {
    /// To no subscriber yet.
    pub(super) fn new(context: &Context<'_>) -> Result<Self, ServeError> {
        let config = context.config;
        let (initial, multiplier, max) = DELIVERY_RETRY;
        let settings = DeliverySettings {
            lease: config.dispatch.lease,
            timeout: DELIVERY_TIMEOUT,
            retry: RetryPolicy::new(initial, multiplier, max, RetryPolicy::ATTEMPTS_MAX)?,
            poll: DELIVERY_POLL,
            // Shorter than the grace period, so that a slow subscriber cannot turn a clean stop into a late one.
            stop_timeout: config.shutdown.grace * 3 / 4,
        };
        Ok(Self {
            store: context.store.clone(),
            clock: context.clock.clone(),
            worker: context.worker.clone(),
            settings,
            shutdown: context.shutdown.clone(),
            running: HashMap::new(),
        })
    }

    /// Deliveries, which have not started, to those of `subscribers` that have none or of which a key has `changed`.
    pub(super) fn to(
        &self,
        subscribers: &[Subscriber],
        changed: &[String],
    ) -> Result<Vec<(SubscriberId, Delivery)>, NoEndpointClient> {
        let is_new = |subscriber: &&Subscriber| {
            let key = format!("{SUBSCRIBER}{}]", subscriber.id);
            !self.running.contains_key(&subscriber.id) || changed.iter().any(|changed| changed.starts_with(&key))
        };
        let delivery = |subscriber: &Subscriber| {
            let (store, clock, worker) = (self.store.clone(), self.clock.clone(), self.worker.clone());
            let delivery = Delivery::new(subscriber.clone(), store, clock, worker, self.settings.clone())?;
            Ok((subscriber.id.clone(), delivery))
        };
        subscribers.iter().filter(is_new).map(delivery).collect()
    }

    /// Starts `deliveries`, and stops those that run in their place and those to nobody of `subscribers`. A delivery
    /// begins when the one to the same subscriber has ended, which waits for its attempt in progress, so that no event
    /// is delivered twice.
    pub(super) fn change(&mut self, deliveries: Vec<(SubscriberId, Delivery)>, subscribers: &[Subscriber]) {
        let is_replaced = |id: &SubscriberId| deliveries.iter().any(|(replaced, _)| replaced == id);
        let is_gone = |id: &SubscriberId| !subscribers.iter().any(|subscriber| subscriber.id == *id);
        let mut before: HashMap<_, _> = self.running.extract_if(|id, _| is_replaced(id) || is_gone(id)).collect();
        before.values().for_each(|running| running.stop.cancel());
        for (id, delivery) in deliveries {
            let before = before.remove(&id);
            let name = format!("deliveries to {id}");
            let running = Running { stop: self.shutdown.stopping().child_token(), ended: CancellationToken::new() };
            let (stop, ended) = (running.stop.clone(), running.ended.clone().drop_guard());
            self.running.insert(id, running);
            self.shutdown.core_until(name, stop.clone(), async move {
                let _ended = ended;
                if let Some(before) = before {
                    before.ended.cancelled().await;
                }
                delivery.run(stop).await
            });
        }
    }
}
