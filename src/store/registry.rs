//! The registry of lines: which worker lists which lines, and which lines the installation has had lately.
//!
//! Processes may have different `[[line]]` lists, as in every rolling change of them. A worker writes its list before it counts
//! as living, and the lines with their WABAs into the known lines, which outlive it by `id_retention`: so long, statuses of
//! a line's messages are taken by every process.
//! If a worker dies: whoever keeps house removes its list; its lines stay known until their time is over.

use std::collections::{HashMap, HashSet};

use deadpool_redis::redis::{Pipeline, cmd};
use serde::{Deserialize, Serialize};

use super::{Result, Store};
use crate::domain::{Line, LineId, UnixMs, WabaId};

/// A line that the installation knows.
#[derive(Debug, Serialize, Deserialize)]
struct KnownLine {
    waba: WabaId,
    /// It is forgotten then, unless a worker lists it.
    until: UnixMs,
}

impl Store {
    /// Writes which lines `worker` lists. They are known until `until`.
    pub async fn register_lines(&self, worker: &str, lines: &[Line], until: UnixMs) -> Result<()> {
        let ids: Vec<&LineId> = lines.iter().map(|line| &line.id).collect();
        let list = serde_json::to_string(&ids).expect("ids are strings");
        let mut pipeline = Pipeline::new();
        for line in lines {
            let known = KnownLine { waba: line.waba.clone(), until };
            let json = serde_json::to_string(&known).expect("a known line has only a string and a number");
            pipeline.hset(self.keys.known_lines(), line.id.as_str(), json);
        }
        pipeline.hset(self.keys.line_lists(), worker, list);
        self.query_all::<u8>("HSET lines", &pipeline).await.map(drop)
    }

    /// The lines that each of `workers` lists; `None` for one that has written no list, as an older version does.
    pub async fn line_lists(&self, workers: &[String]) -> Result<Vec<Option<HashSet<LineId>>>> {
        if workers.is_empty() {
            return Ok(Vec::new());
        }
        let lists: Vec<Option<String>> =
            self.query("HMGET line_lists", cmd("HMGET").arg(self.keys.line_lists()).arg(workers)).await?;
        Ok(lists.into_iter().map(|list| serde_json::from_str(&list?).ok()).collect())
    }

    /// The names of the living workers.
    pub async fn living_workers(&self, now: UnixMs) -> Result<Vec<String>> {
        let range = cmd("ZRANGEBYSCORE").arg(self.keys.workers()).arg(format!("({}", now.0)).arg("+inf").clone();
        self.query("ZRANGEBYSCORE workers", &range).await
    }

    /// The lines that the installation knows, with their WABAs.
    pub async fn known_lines(&self) -> Result<HashMap<LineId, WabaId>> {
        Ok(self.read_known_lines().await?.into_iter().map(|(line, known)| (line, known.waba)).collect())
    }

    async fn read_known_lines(&self) -> Result<HashMap<LineId, KnownLine>> {
        let fields: HashMap<String, String> =
            self.query("HGETALL known_lines", cmd("HGETALL").arg(self.keys.known_lines())).await?;
        let read = |(line, json): (String, String)| Some((LineId::from(&*line), serde_json::from_str(&json).ok()?));
        Ok(fields.into_iter().filter_map(read).collect())
    }

    /// Removes the lists of workers that do not live, and the lines whose time is over.
    pub async fn tidy_registry(&self, now: UnixMs) -> Result<()> {
        let listing: Vec<String> = self.query("HKEYS line_lists", cmd("HKEYS").arg(self.keys.line_lists())).await?;
        let living: HashSet<String> = self.living_workers(now).await?.into_iter().collect();
        let over = |(line, known): (LineId, KnownLine)| (known.until <= now).then_some(line);
        let over: Vec<LineId> = self.read_known_lines().await?.into_iter().filter_map(over).collect();
        let mut pipeline = Pipeline::new();
        for worker in listing.iter().filter(|worker| !living.contains(*worker)) {
            pipeline.hdel(self.keys.line_lists(), worker);
        }
        for line in &over {
            pipeline.hdel(self.keys.known_lines(), line.as_str());
        }
        self.query_all::<u8>("HDEL lines", &pipeline).await.map(drop)
    }
}
