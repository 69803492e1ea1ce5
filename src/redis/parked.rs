//! Failed statuses and answers that came without our token, and of which it is not known yet which message they are about.
//!
//! Meta may tell that a message failed before its answer to our own request has come, or has been stored; and a search may have
//! been too long to wait for. What came is answered 200 only after it is kept here, and is looked for again until its message is
//! known or it is too old.
//!
//! If the process dies: it stays here, and any process that takes webhooks looks for it.

use deadpool_redis::redis::{Pipeline, cmd};
use serde::{Deserialize, Serialize};

use super::{Result, Store, StoreError, durability::journal::JournalEntry};
use crate::domain::{LineId, UnixMs, Wamid};

/// Kept at most, some 5 MB. Beyond it those go that were looked for the most: what other apps send on our lines fails
/// too, and is never found.
const PARKED_MAX: isize = 20_000;

/// A message that failed, or was answered.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Parked {
    /// The line that sent it.
    pub line: LineId,
    /// Meta's id of it.
    pub wamid: Wamid,
    /// Why it failed; `None` if it was answered.
    pub code: Option<u32>,
    /// Meta's words.
    pub details: String,
    /// Meta's time of it.
    pub at: UnixMs,
}

impl Store {
    /// Keeps statuses until they are looked for at `due`. One that is kept already stays as it is.
    pub async fn park(&self, statuses: &[Parked], due: UnixMs) -> Result<()> {
        if statuses.is_empty() {
            return Ok(());
        }
        let key = self.keys.parked();
        let mut add = cmd("ZADD");
        add.arg(&key).arg("NX");
        for status in statuses {
            add.arg(due.0).arg(member(status));
        }
        let mut pipeline = Pipeline::new();
        pipeline.add_command(add.clone()).zremrangebyrank(&key, PARKED_MAX, -1);
        let incarnation = self.incarnations.newest();
        self.query_all::<u64>("ZADD parked", &pipeline).await?;
        self.incarnations.record(incarnation, [JournalEntry { key, head: 2, command: add }])
    }

    /// Statuses that are to be looked for at `now`, the longest due first.
    pub async fn parked(&self, now: UnixMs, limit: usize) -> Result<Vec<Parked>> {
        let key = self.keys.parked();
        let mut range = cmd("ZRANGEBYSCORE");
        range.arg(&key).arg("-inf").arg(now.0).arg("LIMIT").arg(0).arg(limit);
        let members: Vec<String> = self.query("ZRANGEBYSCORE parked", &range).await?;
        let read = |json: &String| {
            serde_json::from_str(json)
                .map_err(|error| StoreError::Corrupt { key: key.clone(), reason: error.to_string() })
        };
        members.iter().map(read).collect()
    }

    /// Forgets some of them, and looks for others again at a later time.
    pub async fn repark(&self, forget: &[Parked], again: &[(Parked, UnixMs)]) -> Result<()> {
        let key = self.keys.parked();
        let mut pipeline = Pipeline::new();
        for (status, due) in again {
            pipeline.cmd("ZADD").arg(&key).arg("XX").arg(due.0).arg(member(status));
        }
        for status in forget {
            pipeline.zrem(&key, member(status));
        }
        self.query_all::<u64>("ZREM parked", &pipeline).await.map(drop)
    }
}

fn member(status: &Parked) -> String {
    serde_json::to_string(status).expect("a parked status has only strings and numbers")
}
