//! The lines that businesses `include`: asks Meta which lines they have, and keeps the list of lines up to date.
//!
//! Asks at the start, at each reload, and from time to time. The processes share what one of them has read.
//! If the process dies: nothing is lost; what was read last is in Redis.
//! Never: removes a line because Meta did not answer, or refused.

use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use tokio::time;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::configured::Configured;
use crate::{
    config::BusinessConfig,
    discovery,
    domain::{BusinessId, MetaLine, MetaLines},
    graph::GraphClient,
    redis::{Store, clock::Clock},
};

/// How often a process looks at what others have read, and asks Meta again if that failed before.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// How old what was read may be. Reading takes two calls for each business, and two for each of its WABAs.
const AGE_MAX: Duration = Duration::from_secs(3600);

/// How old what was read may be at a start, so that not each process of an installation asks.
const AGE_MAX_AT_START: Duration = Duration::from_secs(60);

/// How long a start waits for Meta if nothing was read before.
const FIRST_WAIT: Duration = Duration::from_secs(10);

/// Keeps the included lines up to date.
pub(super) struct Included {
    pub(super) graph: GraphClient,
    pub(super) store: Store,
    pub(super) clock: Arc<Clock>,
    pub(super) configured: Configured,
    /// What was last logged about each business.
    pub(super) logged: BTreeMap<BusinessId, Vec<String>>,
}

impl Included {
    /// Takes the lines that were read last. If a business has none, asks Meta, for a limited time.
    pub(super) async fn begin(&mut self) {
        self.take_stored().await;
        if self.configured.including().iter().any(|business| !self.configured.has_found(&business.id)) {
            let _in_time = time::timeout(FIRST_WAIT, self.refresh(AGE_MAX_AT_START)).await;
        }
    }

    /// Runs until `stop` is cancelled.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), Infallible> {
        let mut age_max = AGE_MAX_AT_START;
        loop {
            let reloaded = self.configured.reloaded.clone();
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = self.refresh(age_max) => {}
            }
            age_max = tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = reloaded.notified() => Duration::ZERO,
                () = time::sleep(LOOK_EVERY) => AGE_MAX,
            };
        }
    }

    /// Takes what was read last, and asks Meta about the businesses whose lines were read longer ago than `age_max`.
    async fn refresh(&mut self, age_max: Duration) {
        let stored = self.take_stored().await;
        for business in self.configured.including() {
            let last = stored.get(&business.id);
            if last.is_none_or(|last| !last.is_fresh(self.clock.now(), age_max)) {
                self.ask(&business, last.map(|last| &*last.lines).unwrap_or_default()).await;
            }
        }
    }

    async fn take_stored(&self) -> HashMap<BusinessId, MetaLines> {
        let including = self.configured.including();
        if including.is_empty() {
            return HashMap::new();
        }
        // A Redis that does not answer is logged elsewhere.
        let stored = self.store.meta_lines().await.unwrap_or_default();
        for business in including {
            if let Some(known) = stored.get(&business.id) {
                self.configured.set_found(&business.id, known.lines.clone());
            }
        }
        stored
    }

    async fn ask(&mut self, business: &BusinessConfig, last: &[MetaLine]) {
        let Some(token) = &business.access_token else { return };
        let at = self.clock.now();
        let read = discovery::read_lines(&self.graph, &business.id, token, last).await;
        let logged = self.logged.entry(business.id.clone()).or_default();
        if *logged != read.unreadable {
            for problem in &read.unreadable {
                warn!(business.id = %business.id, "lines cannot be discovered: {problem}");
            }
            logged.clone_from(&read.unreadable);
        }
        let Some(lines) = read.lines else { return };
        let has_changed = lines != last;
        let read = MetaLines { at, lines };
        // What is not stored is not taken, so that all processes take the same. The next look asks Meta again.
        if self.store.set_meta_lines(&business.id, &read).await.is_ok() {
            if has_changed {
                info!(business.id = %business.id, lines = read.lines.len(), "lines discovered");
            }
            self.configured.set_found(&business.id, read.lines);
        }
    }
}
