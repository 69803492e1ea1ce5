//! The event feed: tells backends what happens to recipients, campaigns, lines, holds, templates and messages.
//!
//! Events are written behind the work, never in its way: `relay` follows what changed and `observer` compares what is
//! held, and in which state lines and templates are, with what was told. Each stream has one relay at a time, by a
//! leased duty. The feed may lag; nothing waits for it.
//!
//! If the process dies: another takes over the duties, and tells again what was told since the last stored position.

mod campaigns;
mod observer;
mod phones;
mod relay;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

use self::{campaigns::Campaigns, observer::Observer, relay::Relay};
use crate::{
    domain::Lines,
    redis::{Store, clock::Clock, feed::FeedLimits},
};

/// What the feed needs.
pub struct Feed {
    /// The name of the worker.
    pub name: String,
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Lines,
    /// How long a duty belongs to one worker without renewal.
    pub lease: Duration,
    /// How long recipients are stored after the end of their campaign.
    pub retention: Duration,
}

impl Feed {
    /// Runs until `stop`: writes the events of the streams whose duty this worker has.
    pub async fn run(self, limits: FeedLimits, stop: CancellationToken) -> Result<(), Infallible> {
        let duties = limits.partitions().map(|partition| self.run_partition(partition, limits, &stop));
        futures_util::future::join_all(duties).await;
        Ok(())
    }

    async fn run_partition(&self, partition: u16, limits: FeedLimits, stop: &CancellationToken) {
        let duty = format!("feed:{partition}");
        let work = || async {
            let campaigns = Campaigns::new(self.lines.clone(), self.retention, limits.retention);
            let mut relay = Relay::new(partition, campaigns);
            // Events of no campaign are in the first stream, and its relay tells them.
            let mut observer = (partition == 0).then(|| Observer::new(self.lines.clone()));
            relay.run(&self.store, &self.clock, observer.as_mut(), stop).await;
        };
        self.store.on_duty(&duty, &self.name, self.lease, stop, work).await;
    }
}
