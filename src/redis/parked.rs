//! Parked statuses: failed statuses and recipients' replies that carry no token of ours and whose message is not found
//! yet.
//!
//! Meta may report a failure before its response to our own request has arrived or been stored, and a search may take
//! too long for a webhook to wait for. The webhook is answered 200 only after the status is parked. A parked status
//! is searched for again until its message is found or the status is too old.
//!
//! If the process dies: parked statuses stay in Redis, and any process that serves webhooks continues the search.

use deadpool_redis::redis::{Pipeline, cmd};
use serde::{Deserialize, Serialize};

use super::{Result, Store, StoreError, durability::journal::JournalEntry, stored};
use crate::domain::{FailureReason, LineId, UnixMs, Wamid};

/// Maximum number of parked statuses, about 5 MB. Beyond it, the statuses with the latest next search are dropped. They
/// have been searched for most often, so most of them are failures of other apps that send on our lines.
const PARKED_MAX: isize = 20_000;

/// A failed status, or a reply of a recipient.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Parked {
    /// The line that sent the message.
    pub line: LineId,
    /// Meta's id of the message.
    pub wamid: Wamid,
    /// Why the message failed; `None` for a reply.
    #[serde(rename = "code", with = "stored::of_status")]
    pub failure: Option<FailureReason>,
    /// Meta's description of the failure.
    pub details: String,
    /// Meta's timestamp of the status or reply.
    pub at: UnixMs,
}

/// A parked status, as it is stored.
#[derive(Debug)]
pub struct ParkedEntry {
    /// The status.
    pub status: Parked,
    /// The member of the ZSET. A newer release may have written fields that [`Parked`] lacks.
    member: String,
}

impl Store {
    /// Parks statuses, to be searched for at `due`. A status that is already parked keeps its time.
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
        self.incarnations.record(incarnation, [JournalEntry { key, prefix_len: 2, command: add }])
    }

    /// Parked statuses that are due at `now`, at most `limit`, oldest due time first.
    pub async fn parked(&self, now: UnixMs, limit: usize) -> Result<Vec<ParkedEntry>> {
        let key = self.keys.parked();
        let mut range = cmd("ZRANGEBYSCORE");
        range.arg(&key).arg("-inf").arg(now.0).arg("LIMIT").arg(0).arg(limit);
        let members: Vec<String> = self.query("ZRANGEBYSCORE parked", &range).await?;
        let read = |member: String| match serde_json::from_str(&member) {
            Ok(status) => Ok(ParkedEntry { status, member }),
            Err(error) => Err(StoreError::Corrupt { key: key.clone(), reason: error.to_string() }),
        };
        members.into_iter().map(read).collect()
    }

    /// Removes the statuses in `forget`, and sets a later due time for those in `again`.
    pub async fn repark(&self, forget: &[ParkedEntry], again: &[(ParkedEntry, UnixMs)]) -> Result<()> {
        let key = self.keys.parked();
        let mut pipeline = Pipeline::new();
        for (entry, due) in again {
            pipeline.cmd("ZADD").arg(&key).arg("XX").arg(due.0).arg(&entry.member);
        }
        for entry in forget {
            pipeline.zrem(&key, &entry.member);
        }
        self.query_all::<u64>("ZREM parked", &pipeline).await.map(drop)
    }
}

fn member(status: &Parked) -> String {
    serde_json::to_string(status).expect("a parked status has only strings and numbers")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::MetaCode;

    #[test]
    fn a_parked_status_is_stored_as_release_0_1_0_wrote_it() {
        let failures = [
            (None, "null"),
            (Some(FailureReason::Meta(MetaCode(0))), "0"),
            (Some(FailureReason::Meta(MetaCode(131_026))), "131026"),
            (Some(FailureReason::NotGiven), "4294967295"),
        ];
        for (failure, code) in failures {
            let parked = Parked {
                line: "3001".into(),
                wamid: "wamid.1".into(),
                failure,
                details: "why".into(),
                at: UnixMs(1_000),
            };
            let json = format!(
                r#"{{"line":"3001","wamid":"wamid.1","code":{code},"details":"why","at":"1970-01-01T00:00:01Z"}}"#
            );
            assert_eq!(member(&parked), json);
            assert_eq!(serde_json::from_str::<Parked>(&json).expect("a status"), parked);
        }
    }
}
