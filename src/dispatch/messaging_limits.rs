//! Learns the messaging limits of the businesses whose lines a worker lists, from Meta.
//!
//! Until Meta was asked about a business, its lines send nothing. Meta's webhooks change a limit at once; asking from time
//! to time is for those that are lost.
//!
//! If the process dies: other workers that list a line of the business ask.

use std::{
    collections::{BTreeMap, HashSet},
    convert::Infallible,
    sync::Arc,
    time::Duration,
};

use futures_util::future::join_all;
use tracing::{debug, info, warn};

use crate::{
    domain::{BusinessId, Line, Lines, MessagingLimit},
    graph::{GraphClient, GraphError},
    redis::{Store, StoreError, clock::Clock, messaging_limits::ReportedLimit},
};

/// How often Meta is asked about each business. Meta allows an app 200 calls an hour for a WABA.
const ASK_EVERY: Duration = Duration::from_secs(600);

/// Pause between two looks at whether it is time to ask. Redis may have lost what it knew, or Meta did not answer.
const PAUSE: Duration = Duration::from_secs(1);

/// How many businesses are asked about at a time.
const ASKED_AT_ONCE: usize = 8;

/// Keeps the messaging limits in Redis up to date.
pub struct MessagingLimits {
    /// Redis.
    pub store: Store,
    /// Redis' time.
    pub clock: Arc<Clock>,
    /// Every configured line.
    pub lines: Lines,
    /// How Meta is reached.
    pub graph: GraphClient,
}

impl MessagingLimits {
    /// Runs until it is aborted.
    pub async fn run(self) -> Infallible {
        let mut unanswered = HashSet::new();
        loop {
            if let Err(error) = self.ask_if_due(&mut unanswered).await {
                debug!(%error, "messaging limits could not be read or stored");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    /// Asks about the businesses for which it is time. `unanswered`: those of which Meta did not answer last time.
    async fn ask_if_due(&self, unanswered: &mut HashSet<BusinessId>) -> Result<(), StoreError> {
        let (known, now) = (self.store.messaging_limits().await?, self.clock.now());
        let mut due: BTreeMap<&BusinessId, (&Line, Option<ReportedLimit>)> = BTreeMap::new();
        for line in self.lines.iter() {
            let known = known.get(&line.business).copied();
            if known.is_none_or(|known| now.since(known.asked_at) >= ASK_EVERY) {
                // Any line of a business has its limit.
                due.entry(&line.business).or_insert((line, known));
            }
        }
        let due: Vec<(&Line, Option<ReportedLimit>)> = due.into_values().collect();
        for at_once in due.chunks(ASKED_AT_ONCE) {
            let answers = join_all(at_once.iter().map(|(line, _)| self.ask(line))).await;
            for ((line, known), answer) in at_once.iter().zip(answers) {
                match answer {
                    Ok(reported) => {
                        unanswered.remove(&line.business);
                        self.store_limit(line, *known, reported).await?;
                    }
                    Err(error) if unanswered.insert(line.business.clone()) && known.is_none() => {
                        warn!(business.id = %line.business, %error, "the business sends nothing until its messaging \
                            limit is known");
                    }
                    Err(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Asks for the messaging limit of a line's business; `None` if Meta reports none.
    async fn ask(&self, line: &Line) -> Result<Option<MessagingLimit>, GraphError> {
        match self.graph.line(&line.id, &line.token).await {
            Ok(info) => Ok(info.messaging_limit.and_then(|limit| limit.parse().ok())),
            Err(GraphError::Refused { .. } | GraphError::BadToken(_)) => Ok(None),
            Err(error @ (GraphError::Unreachable { .. } | GraphError::NotMeta { .. })) => Err(error),
        }
    }

    async fn store_limit(
        &self,
        line: &Line,
        known: Option<ReportedLimit>,
        reported: Option<MessagingLimit>,
    ) -> Result<(), StoreError> {
        let business = &line.business;
        let (limit, now) = (reported.or(known.map(|known| known.limit)), self.clock.now());
        if limit.is_none() {
            warn!(business.id = %business, line.id = %line.id, "meta reports no messaging limit for the business: it \
                counts as unlimited");
        }
        let limit = limit.unwrap_or(MessagingLimit::Unlimited);
        let since = match known {
            Some(known) if known.limit == limit => known.since,
            _ => {
                info!(business.id = %business, %limit, "messaging limit");
                now
            }
        };
        self.store.set_messaging_limit(business, ReportedLimit { limit, since, asked_at: now }).await
    }
}
