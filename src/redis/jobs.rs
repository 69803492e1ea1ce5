//! The stream of jobs: entries that backends add, read by one worker at a time in their order.
//!
//! An entry that was handed out stays in the list of pending ones of the consumer group until it is finished, and so on
//! the stream. Whoever reads holds the duty: it does not matter which reader an entry was handed to before.
//!
//! If a reader dies: the next one finds what it had under [`Store::pending_job`]. An entry that can't be taken is copied
//! to the dead letters first, under its own id, and then finished; a crash between the two leaves one copy.
//! Never: looks into a job.

use deadpool_redis::redis::{Cmd, FromRedisValue, Value, cmd};

use super::{Call, Result, Store, StoreError, script};
use crate::domain::UnixMs;

/// The consumer group: part of the contract with backends.
const GROUP: &str = "pregon";
/// All readers use one name, for only one reads at a time; a name for each worker would stay in the group for ever.
const CONSUMER: &str = "reader";
/// The field that holds the job.
const FIELD: &str = "job";

/// An entry as Redis gives it.
type RawEntry = (String, Vec<Vec<u8>>);
/// Streams with their entries; nothing instead of no entries.
type RawStreams = Option<Vec<(String, Vec<RawEntry>)>>;

/// An entry of the stream.
#[derive(Clone, Debug)]
pub struct JobEntry {
    /// Its id in the stream.
    pub id: String,
    /// What is in it: fields and values by turns, whatever bytes they are.
    content: Vec<Vec<u8>>,
}

impl JobEntry {
    /// The value of its field `job`.
    pub fn job(&self) -> Option<&[u8]> {
        let [_, job] = self.content.as_chunks::<2>().0.iter().find(|[field, _]| field == FIELD.as_bytes())?;
        Some(job)
    }
}

/// An entry that could not be taken, or not whole.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    /// The entry.
    pub entry: &'a JobEntry,
    /// For programs: a name of the reason that never changes.
    pub code: &'static str,
    /// For people.
    pub reason: String,
    /// The recipients that were rejected, as JSON.
    pub rejected: Option<String>,
    /// When.
    pub at: UnixMs,
}

impl Store {
    /// The oldest entry that was handed out and not finished.
    pub async fn pending_job(&self) -> Result<Option<JobEntry>> {
        let key = self.keys.jobs();
        let mut pending = cmd("XPENDING");
        pending.arg(&key).arg(GROUP).arg("-").arg("+").arg(1);
        loop {
            let oldest: Option<Vec<(String, String, u64, u64)>> = self.of_group("XPENDING jobs", &pending).await?;
            let Some((id, ..)) = oldest.into_iter().flatten().next() else { return Ok(None) };
            let entry = self.entry("XRANGE jobs", &key, &id).await?;
            if entry.is_some() {
                return Ok(entry);
            }
            // Somebody deleted it from the stream: nothing is left to be done but to forget it.
            self.finish_job(&id).await?;
        }
    }

    /// The oldest entry that was not handed out yet; it is from now on.
    pub async fn new_job(&self) -> Result<Option<JobEntry>> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(CONSUMER).arg("COUNT").arg(1).arg("STREAMS").arg(self.keys.jobs()).arg(">");
        let streams: Option<RawStreams> = self.of_group("XREADGROUP jobs", &read).await?;
        let mut entries = streams.flatten().into_iter().flatten().flat_map(|(_, entries)| entries);
        Ok(entries.next().map(|(id, content)| JobEntry { id, content }))
    }

    async fn entry(&self, operation: &'static str, stream: &str, id: &str) -> Result<Option<JobEntry>> {
        let found: Vec<RawEntry> = self.query(operation, cmd("XRANGE").arg(stream).arg(id).arg(id)).await?;
        Ok(found.into_iter().next().map(|(id, content)| JobEntry { id, content }))
    }

    /// Takes an entry off the stream.
    pub async fn finish_job(&self, id: &str) -> Result<()> {
        self.call::<u8>(Call::new(&script::FINISH_JOB, &[self.keys.jobs()]).arg(GROUP).arg(id)).await.map(drop)
    }

    /// Whether an entry lies with the dead letters.
    pub async fn is_dead_job(&self, id: &str) -> Result<bool> {
        Ok(self.entry("XRANGE dead", &self.keys.dead_jobs(), id).await?.is_some())
    }

    /// Leaves a dead letter, once: what was in the entry, and beside it why it is there.
    pub async fn bury_job(&self, letter: &DeadLetter<'_>) -> Result<()> {
        let JobEntry { id, content } = letter.entry;
        if self.is_dead_job(id).await? {
            return Ok(());
        }
        let add = |under: &str| {
            let mut add = cmd("XADD");
            add.arg(self.keys.dead_jobs()).arg(under);
            add.arg("reason").arg(&letter.reason).arg("code").arg(letter.code);
            add.arg("id").arg(id).arg("at").arg(letter.at.to_string());
            if let Some(rejected) = &letter.rejected {
                add.arg("rejected").arg(rejected);
            }
            add.arg(content);
            add
        };
        match self.query::<String>("XADD dead", &add(id)).await {
            // Ids only rise: a younger letter is there already, from an earlier incarnation of the stream of jobs.
            Err(StoreError::Refused { message, .. }) if message.contains("equal or smaller") => {
                self.query::<String>("XADD dead", &add("*")).await.map(drop)
            }
            added => added.map(drop),
        }
    }

    /// A command about the group. Without the group, which a Redis that lost its data does not have, it is made, and
    /// there is nothing: done entries are off the stream, so it begins with the oldest that is there.
    async fn of_group<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<Option<T>> {
        match self.query(operation, command).await {
            Err(StoreError::Refused { message, .. }) if message.contains("NOGROUP") => {
                let mut create = cmd("XGROUP");
                create.arg("CREATE").arg(self.keys.jobs()).arg(GROUP).arg(0).arg("MKSTREAM");
                match self.query::<Value>("XGROUP CREATE", &create).await {
                    Err(StoreError::Refused { message, .. }) if message.contains("BUSYGROUP") => Ok(None),
                    created => created.map(|_| None),
                }
            }
            answer => answer.map(Some),
        }
    }
}
