//! How many messages people have sent to each line.
//!
//! Owns: HASH `inbound_counts`: line → count. The processes that receive webhooks add to it, and workers compute the
//! rates from it. It is one key, so lines without messages cost nothing.
//!
//! If a process dies, or Redis loses its last writes: some messages are missing, and the rate is too low for a few
//! seconds.

use std::{collections::HashMap, time::Duration};

use deadpool_redis::redis::{Pipeline, Value, cmd};

use super::{Result, Store, lines::ms};
use crate::domain::LineId;

/// How long the counts are kept after the last message.
const LIFETIME: Duration = Duration::from_secs(60);

impl Store {
    /// Adds to the numbers of messages that people have sent to lines.
    pub async fn count_inbound(&self, counts: &HashMap<LineId, u64>) -> Result<()> {
        let key = self.keys.inbound_counts();
        let mut pipeline = Pipeline::with_capacity(counts.len() + 1);
        for (line, n) in counts {
            pipeline.cmd("HINCRBY").arg(&key).arg(line.as_str()).arg(*n);
        }
        pipeline.cmd("PEXPIRE").arg(&key).arg(ms(LIFETIME));
        self.query_all::<Value>("HINCRBY inbound_counts", &pipeline).await.map(drop)
    }

    /// How many messages people have sent to each line since the counters started. They restart at 0 after a minute
    /// without a message to any line.
    pub async fn inbound_counts(&self) -> Result<HashMap<LineId, u64>> {
        let counts: HashMap<String, u64> =
            self.query("HGETALL inbound_counts", cmd("HGETALL").arg(self.keys.inbound_counts())).await?;
        Ok(counts.into_iter().map(|(line, n)| (LineId::from(line.as_str()), n)).collect())
    }
}
