//! The messaging limits of businesses, as Meta reported them last.
//!
//! Owns: HASH `messaging_limits`.
//!
//! If a process dies: each change is one command. The later of two concurrent changes wins, until Meta is asked again.

use std::collections::HashMap;

use deadpool_redis::redis::{Pipeline, cmd};
use serde::{Deserialize, Serialize};

use super::{Result, Store};
use crate::domain::{BusinessId, MessagingLimit, UnixMs};

/// The messaging limit of a business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownLimit {
    /// The limit.
    pub limit: MessagingLimit,
    /// Since when it is known.
    pub since: UnixMs,
}

#[derive(Serialize, Deserialize)]
struct StoredLimit {
    /// `None`: unlimited.
    people: Option<u32>,
    since: UnixMs,
}

impl Store {
    /// The limits of all businesses about which Meta was asked.
    pub async fn messaging_limits(&self) -> Result<HashMap<BusinessId, KnownLimit>> {
        let key = self.keys.messaging_limits();
        let fields: HashMap<String, String> = self.query("HGETALL messaging_limits", cmd("HGETALL").arg(key)).await?;
        let read = |(business, json): (String, String)| {
            // A malformed limit counts as missing, so Meta is asked again.
            let StoredLimit { people, since } = serde_json::from_str(&json).ok()?;
            Some((BusinessId::from(&*business), KnownLimit { limit: people.into(), since }))
        };
        Ok(fields.into_iter().filter_map(read).collect())
    }

    /// Stores the limit of a business, and wakes every worker.
    pub async fn set_messaging_limit(&self, business: &BusinessId, known: KnownLimit) -> Result<()> {
        let KnownLimit { limit, since } = known;
        let stored = StoredLimit { people: limit.people(), since };
        let json = serde_json::to_string(&stored).expect("a limit has only numbers");
        let mut pipeline = Pipeline::new();
        pipeline.cmd("HSET").arg(self.keys.messaging_limits()).arg(business.as_str()).arg(json);
        pipeline.incr(self.keys.pulse(), 1);
        self.query_all::<u64>("HSET messaging_limits", &pipeline).await.map(drop)
    }
}
