//! The registry: which worker lists which lines and reads which versions of the data, and which lines are known to the
//! installation.
//!
//! Processes may have different `[[line]]` lists, for example while a change is rolled out. A worker writes its list
//! before its first heartbeat, and its lines with their WABAs into the known lines. A line stays known for
//! `id_retention` after a worker last listed it. Until then every process accepts the statuses of the line's
//! messages. A worker that replaces its list raises the version of the lists, after which the others read them again.
//!
//! If a worker dies: housekeeping removes its list. Its lines stay known until they expire.

use std::collections::{BTreeMap, HashMap, HashSet};

use deadpool_redis::redis::{Pipeline, cmd};
use serde::{Deserialize, Serialize};

use super::{Result, Store, data_version, pauses::obedience_of};
use crate::domain::{CampaignId, CampaignState, Line, LineId, OnDoubt, PartId, State, UnixMs, WabaId};

/// What an operator can do about a line that has work and is listed by no worker.
pub const UNLISTED_REMEDY: &str =
    "list the line again ([[line]]) until its campaigns have ended, or cancel these campaigns";

/// A part with open recipients.
#[derive(Clone, Debug)]
pub struct OpenPart {
    /// The part.
    pub part: PartId,
    /// What its campaign does with messages that stay in doubt.
    pub on_doubt: OnDoubt,
    /// Recipients by open state.
    counts: Vec<(State, u64)>,
}

impl OpenPart {
    /// Number of recipients in an open `state`.
    pub fn count(&self, state: State) -> u64 {
        self.counts.iter().find(|(counted, _)| *counted == state).map_or(0, |(_, n)| *n)
    }

    /// Number of open recipients.
    pub fn open(&self) -> u64 {
        self.counts.iter().map(|(_, n)| n).sum()
    }
}

/// A known line, as stored.
#[derive(Debug, Serialize, Deserialize)]
struct KnownLine {
    waba: WabaId,
    /// When the line is removed, unless a worker lists it again.
    until: UnixMs,
}

impl Store {
    /// Stores the list of lines of `worker` and the newest version of the data that it reads, and makes these lines
    /// known until `until`.
    pub async fn register_lines(&self, worker: &str, lines: &[Line], until: UnixMs) -> Result<()> {
        let ids: Vec<&LineId> = lines.iter().map(|line| &line.id).collect();
        let list = serde_json::to_string(&ids).expect("ids are strings");
        let mut pipeline = Pipeline::new();
        for line in lines {
            let known = KnownLine { waba: line.waba.clone(), until };
            let json = serde_json::to_string(&known).expect("a known line has only a string and a number");
            pipeline.hset(self.keys.known_lines(), line.id.as_str(), json);
        }
        pipeline.hset(self.keys.readable_versions(), worker, data_version::READS);
        pipeline.hset(self.keys.line_lists(), worker, list);
        self.query_all::<u8>("HSET lines", &pipeline).await.map(drop)
    }

    /// Makes the other workers read the lists again, after a worker has replaced its list.
    pub async fn announce_line_lists(&self) -> Result<()> {
        self.query("INCR line_lists_version", cmd("INCR").arg(self.keys.line_lists_version())).await
    }

    /// The version of the lists: another number after each change of one.
    pub async fn line_lists_version(&self) -> Result<u64> {
        let version: Option<u64> =
            self.query("GET line_lists_version", cmd("GET").arg(self.keys.line_lists_version())).await?;
        Ok(version.unwrap_or(0))
    }

    /// The lines that each of `workers` lists; `None` for a worker without a list, as older versions are.
    pub async fn line_lists(&self, workers: &[String]) -> Result<Vec<Option<HashSet<LineId>>>> {
        if workers.is_empty() {
            return Ok(Vec::new());
        }
        let lists: Vec<Option<String>> =
            self.query("HMGET line_lists", cmd("HMGET").arg(self.keys.line_lists()).arg(workers)).await?;
        Ok(lists.into_iter().map(|list| serde_json::from_str(&list?).ok()).collect())
    }

    /// The names of the live workers.
    pub async fn live_workers(&self, now: UnixMs) -> Result<Vec<String>> {
        let range = cmd("ZRANGEBYSCORE").arg(self.keys.workers()).arg(format!("({}", now.0)).arg("+inf").clone();
        self.query("ZRANGEBYSCORE workers", &range).await
    }

    /// For each of `lines`, whether there are live workers and none of them lists it.
    pub async fn unlisted(&self, lines: &[LineId], now: UnixMs) -> Result<Vec<bool>> {
        let workers = self.live_workers(now).await?;
        let lists = self.line_lists(&workers).await?;
        let is_listed = |line| lists.iter().any(|list| list.as_ref().is_none_or(|list| list.contains(line)));
        Ok(lines.iter().map(|line| !lists.is_empty() && !is_listed(line)).collect())
    }

    /// The parts with open recipients of campaigns that are launched at `now`, by line. Lines for which `is_wanted`
    /// is false are left out.
    pub async fn open_parts(
        &self,
        now: UnixMs,
        is_wanted: impl Fn(&LineId) -> bool,
    ) -> Result<BTreeMap<LineId, Vec<OpenPart>>> {
        let ids: Vec<CampaignId> = self.active_campaigns(now).await?.into_iter().map(|(id, _)| id).collect();
        let records = self.campaigns(&ids).await?.into_iter().flatten();
        let launched = records
            .filter(|record| !matches!(record.state, CampaignState::Draft | CampaignState::Scheduled))
            .map(|record| (record.campaign.on_doubt, record.parts));
        let parts: Vec<(OnDoubt, PartId, LineId)> = launched
            .flat_map(|(on_doubt, parts)| parts.into_iter().map(move |(part, line)| (on_doubt, part, line)))
            .filter(|(.., line)| is_wanted(line))
            .collect();
        let ids: Vec<PartId> = parts.iter().map(|(_, part, _)| *part).collect();
        let mut by_line: BTreeMap<LineId, Vec<OpenPart>> = BTreeMap::new();
        for ((on_doubt, part, line), counts) in parts.into_iter().zip(self.open_counts(&ids).await?) {
            let open_part = OpenPart { part, on_doubt, counts };
            if open_part.open() > 0 {
                by_line.entry(line).or_default().push(open_part);
            }
        }
        Ok(by_line)
    }

    /// The known lines, with their WABAs.
    pub async fn known_lines(&self) -> Result<HashMap<LineId, WabaId>> {
        Ok(self.read_known_lines().await?.into_iter().map(|(line, known)| (line, known.waba)).collect())
    }

    async fn read_known_lines(&self) -> Result<HashMap<LineId, KnownLine>> {
        let fields: HashMap<String, String> =
            self.query("HGETALL known_lines", cmd("HGETALL").arg(self.keys.known_lines())).await?;
        let read = |(line, json): (String, String)| Some((LineId::from(&*line), serde_json::from_str(&json).ok()?));
        Ok(fields.into_iter().filter_map(read).collect())
    }

    /// Removes the lists of dead workers, the records of processes that have ended, and the known lines that have
    /// expired.
    pub async fn tidy_registry(&self, now: UnixMs) -> Result<()> {
        let listing: Vec<String> = self.query("HKEYS line_lists", cmd("HKEYS").arg(self.keys.line_lists())).await?;
        let live: HashSet<String> = self.live_workers(now).await?.into_iter().collect();
        let expired = |(line, known): (LineId, KnownLine)| (known.until <= now).then_some(line);
        let expired: Vec<LineId> = self.read_known_lines().await?.into_iter().filter_map(expired).collect();
        let mut pipeline = Pipeline::new();
        for worker in listing.iter().filter(|worker| !live.contains(*worker)) {
            pipeline.hdel(self.keys.line_lists(), worker).hdel(self.keys.readable_versions(), worker);
            pipeline.hdel(self.keys.beats(), worker);
            pipeline.hdel(self.keys.pauses(), obedience_of(worker));
        }
        for worker in self.ended_processes(now).await? {
            pipeline.hdel(self.keys.processes(), worker);
        }
        for line in &expired {
            pipeline.hdel(self.keys.known_lines(), line.as_str());
        }
        self.query_all::<u8>("HDEL lines", &pipeline).await.map(drop)
    }
}
