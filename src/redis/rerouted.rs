//! The WABAs whose marketing Meta takes only through the Marketing Messages API (131063).
//!
//! Owns: HASH `rerouted`.
//!
//! If a process dies: each change is one command. A lost entry returns when Meta next refuses a message with the code.

use std::collections::HashMap;

use deadpool_redis::redis::{Pipeline, cmd};

use super::{Result, Store};
use crate::domain::{UnixMs, WabaId};

impl Store {
    /// The WABAs whose marketing Meta refused through `/messages`, and until when each sends marketing through the
    /// other API.
    pub async fn rerouted(&self) -> Result<HashMap<WabaId, UnixMs>> {
        let fields: HashMap<String, u64> =
            self.query("HGETALL rerouted", cmd("HGETALL").arg(self.keys.rerouted())).await?;
        Ok(fields.into_iter().map(|(waba, until)| (WabaId::from(waba.as_str()), UnixMs(until))).collect())
    }

    /// Stores that a WABA sends marketing through the Marketing Messages API until a time, and wakes every worker.
    pub async fn reroute(&self, waba: &WabaId, until: UnixMs) -> Result<()> {
        let mut pipeline = Pipeline::new();
        pipeline.cmd("HSET").arg(self.keys.rerouted()).arg(waba.as_str()).arg(until.0);
        pipeline.incr(self.keys.pulse(), 1);
        self.query_all::<u64>("HSET rerouted", &pipeline).await.map(drop)
    }
}
