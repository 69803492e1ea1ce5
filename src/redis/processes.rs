//! The running processes of an installation, whatever their roles.
//!
//! Owns: HASH `processes`: worker → its [`ProcessRecord`], JSON. A running process rewrites its record periodically; a
//! record is valid until its `until`. Processes of release 0.1.0 write none.
//!
//! If a process dies: its record expires, and housekeeping removes it.

use std::collections::BTreeMap;

use deadpool_redis::redis::cmd;
use serde::{Deserialize, Serialize};

use super::{Result, Store};
use crate::domain::UnixMs;

/// A running process. Later releases may add fields.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessRecord {
    /// The name of its pod or host, for people.
    pub name: String,
    /// Its release.
    pub version: String,
    /// The names of its roles.
    pub roles: Vec<String>,
    /// When it started.
    pub since: UnixMs,
    /// When the record expires, unless the process writes it again.
    pub until: UnixMs,
}

impl Store {
    /// Stores the record of the process `worker`.
    pub async fn put_process(&self, worker: &str, record: &ProcessRecord) -> Result<()> {
        let json = serde_json::to_string(record).expect("a record has only texts and numbers");
        let put = cmd("HSET").arg(self.keys.processes()).arg(worker).arg(json).clone();
        self.query::<u8>("HSET processes", &put).await.map(drop)
    }

    /// Removes the record of a process that stops.
    pub async fn remove_process(&self, worker: &str) -> Result<()> {
        self.query::<u8>("HDEL processes", cmd("HDEL").arg(self.keys.processes()).arg(worker)).await.map(drop)
    }

    /// The processes that run at `now`, by their worker ids. A record that cannot be read is left out.
    pub async fn processes(&self, now: UnixMs) -> Result<BTreeMap<String, ProcessRecord>> {
        let mut processes = self.read_processes().await?;
        processes.retain(|_, record| record.until > now);
        Ok(processes)
    }

    /// The processes whose records have expired.
    pub(super) async fn ended_processes(&self, now: UnixMs) -> Result<Vec<String>> {
        let processes = self.read_processes().await?.into_iter();
        Ok(processes.filter(|(_, record)| record.until <= now).map(|(worker, _)| worker).collect())
    }

    async fn read_processes(&self) -> Result<BTreeMap<String, ProcessRecord>> {
        let fields: BTreeMap<String, String> =
            self.query("HGETALL processes", cmd("HGETALL").arg(self.keys.processes())).await?;
        let read = |(worker, json): (String, String)| Some((worker, serde_json::from_str(&json).ok()?));
        Ok(fields.into_iter().filter_map(read).collect())
    }
}
