//! The registry of lines: which worker lists which lines, and which lines the installation has had lately.
//!
//! Processes may have different `[[line]]` lists, as in every rolling change of them. A worker writes its list before it counts
//! as living, and the lines with their WABAs into the known lines, which outlive it by `id_retention`. Until then,
//! every process takes the statuses of the line's messages.
//! If a worker dies: whoever keeps house removes its list; its lines stay known until their time is over.

use std::collections::{BTreeMap, HashMap, HashSet};

use deadpool_redis::redis::{Pipeline, cmd};
use serde::{Deserialize, Serialize};

use super::{Result, Store};
use crate::domain::{CampaignId, CampaignState, Line, LineId, OnDoubt, PartId, State, UnixMs, WabaId};

/// What helps where a line has work and no worker lists it.
pub const UNLISTED_REMEDY: &str = "list the line again ([[line]]) until its campaigns have ended, or cancel them";

/// A part with recipients that are open.
#[derive(Clone, Debug)]
pub struct OpenPart {
    /// The part.
    pub part: PartId,
    /// What its campaign wants with messages that stay in doubt.
    pub on_doubt: OnDoubt,
    counts: Vec<(State, u64)>,
}

impl OpenPart {
    /// How many are in an open `state`.
    pub fn count(&self, state: State) -> u64 {
        self.counts.iter().find(|(counted, _)| *counted == state).map_or(0, |(_, n)| *n)
    }

    /// How many are open.
    pub fn open(&self) -> u64 {
        self.counts.iter().map(|(_, n)| n).sum()
    }
}

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

    /// For each of `lines`, whether living workers exist and none of them lists it.
    pub async fn unlisted(&self, lines: &[LineId], now: UnixMs) -> Result<Vec<bool>> {
        let workers = self.living_workers(now).await?;
        let lists = self.line_lists(&workers).await?;
        let is_listed = |line| lists.iter().any(|list| list.as_ref().is_none_or(|list| list.contains(line)));
        Ok(lines.iter().map(|line| !lists.is_empty() && !is_listed(line)).collect())
    }

    /// The parts of launched campaigns on lines that `is_wanted` accepts, where something in them is open at `now`; by line.
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
        let numbers: Vec<PartId> = parts.iter().map(|(_, part, _)| *part).collect();
        let mut work: BTreeMap<LineId, Vec<OpenPart>> = BTreeMap::new();
        for ((on_doubt, part, line), counts) in parts.into_iter().zip(self.open_counts(&numbers).await?) {
            let open = OpenPart { part, on_doubt, counts };
            if open.open() > 0 {
                work.entry(line).or_default().push(open);
            }
        }
        Ok(work)
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
