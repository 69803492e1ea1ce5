//! The deliveries of events: a task for each subscriber, so that none waits for another.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Context, ServeError};
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

    /// Deliveries to `subscribers`, which have not started.
    pub(super) fn to(&self, subscribers: &[Subscriber]) -> Result<Vec<(SubscriberId, Delivery)>, NoEndpointClient> {
        let delivery = |subscriber: &Subscriber| {
            let (store, clock, worker) = (self.store.clone(), self.clock.clone(), self.worker.clone());
            let delivery = Delivery::new(subscriber.clone(), store, clock, worker, self.settings.clone())?;
            Ok((subscriber.id.clone(), delivery))
        };
        subscribers.iter().map(delivery).collect()
    }

    /// Starts `deliveries` in place of those that run. Each begins when the one to the same subscriber has ended, which
    /// waits for its attempt in progress, so that no event is delivered twice.
    pub(super) fn restart(&mut self, deliveries: Vec<(SubscriberId, Delivery)>) {
        let mut before = std::mem::take(&mut self.running);
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
