//! The stream of jobs: entries that backends add, read in order by one worker at a time.
//!
//! A delivered entry stays on the stream, and in the pending list of the consumer group, until it is finished. The next
//! entry is always the oldest of the stream, so the pending list only shows others what is being processed.
//!
//! If a reader dies: the next one gets the same entry. A failed entry is first copied to the
//! [dead letters](super::dead_letters) under its own id, and then finished; a crash between the two leaves one copy.
//! Never: parses a job.

use deadpool_redis::redis::{Pipeline, Value, cmd};

use super::{Call, Result, Store, StoreError, script};
use crate::domain::EntryId;

/// The consumer group. Part of the contract with backends.
const GROUP: &str = "pregon";
/// The consumer. All readers use the same name, because only one reads at a time, and a name for each worker would stay
/// in the group forever.
const CONSUMER: &str = "reader";
/// The field that has the job.
const FIELD: &str = "job";

/// An entry as returned by Redis: id, then fields and values alternating.
pub(super) type RawEntry = (String, Vec<Vec<u8>>);

/// An entry of the stream.
#[derive(Clone, Debug)]
pub struct JobEntry {
    /// Its id in the stream.
    pub id: EntryId,
    /// Fields and values alternating, as raw bytes.
    pub(super) content: Vec<Vec<u8>>,
}

/// The entry to process next.
#[derive(Debug)]
pub struct NextJob {
    /// The oldest entry of the stream.
    pub entry: JobEntry,
    /// Whether it was delivered to a reader before. If so, it may have been applied, in part or whole.
    pub was_pending: bool,
}

impl JobEntry {
    /// The value of its field `job`.
    pub fn job(&self) -> Option<&[u8]> {
        let [_, job] = self.content.as_chunks::<2>().0.iter().find(|[field, _]| field == FIELD.as_bytes())?;
        Some(job)
    }
}

/// Parses the id of an entry that Redis returned.
pub(super) fn entry_id(id: &str) -> Result<EntryId> {
    let unreadable = |_| StoreError::Corrupt { key: format!("the entry {id} of a stream"), reason: "bad id".into() };
    id.parse().map_err(unreadable)
}

impl Store {
    /// The oldest entry of the stream, which becomes pending unless it is already.
    pub async fn next_job(&self) -> Result<Option<NextJob>> {
        let call = || Call::new(&script::NEXT_JOB, &[self.keys.jobs()]).arg(GROUP).arg(CONSUMER);
        let next: Option<(RawEntry, bool)> = match self.call(call()).await {
            Err(StoreError::Refused { message, .. }) if message.contains("NOGROUP") => {
                self.create_job_group().await?;
                self.call(call()).await?
            }
            next => next?,
        };
        let Some(((id, content), was_pending)) = next else { return Ok(None) };
        Ok(Some(NextJob { entry: JobEntry { id: entry_id(&id)?, content }, was_pending }))
    }

    /// Adds a job to the end of the stream.
    pub async fn add_job(&self, job: &str) -> Result<EntryId> {
        let add = cmd("XADD").arg(self.keys.jobs()).arg("*").arg(FIELD).arg(job).take();
        entry_id(&self.query::<String>("XADD jobs", &add).await?)
    }

    /// Finishes an entry: acknowledges it and deletes it from the stream.
    pub async fn finish_job(&self, id: EntryId) -> Result<()> {
        let call = Call::new(&script::FINISH_JOB, &[self.keys.jobs()]).arg(GROUP).arg(id.to_string());
        self.call::<u8>(call).await.map(drop)
    }

    /// The number of unfinished entries, and the number of dead letters.
    pub async fn job_counts(&self) -> Result<(u64, u64)> {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.xlen(self.keys.jobs()).xlen(self.keys.dead_jobs());
        let counts: Vec<u64> = self.query_all("XLEN jobs", &pipeline).await?;
        Ok((counts.first().copied().unwrap_or(0), counts.get(1).copied().unwrap_or(0)))
    }

    /// Creates the consumer group, unless another reader did. The group is missing before the first job and after a
    /// loss of all data. It begins at the oldest entry, because finished entries are no longer on the stream.
    async fn create_job_group(&self) -> Result<()> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(self.keys.jobs()).arg(GROUP).arg(0).arg("MKSTREAM");
        match self.query::<Value>("XGROUP CREATE", &create).await {
            Err(StoreError::Refused { message, .. }) if message.contains("BUSYGROUP") => Ok(()),
            created => created.map(drop),
        }
    }
}
