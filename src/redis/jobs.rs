//! The stream of jobs: entries that backends add, read in order by one worker at a time.
//!
//! A delivered entry stays on the stream, and in the pending list of the consumer group, until it is finished. The next
//! entry is always the oldest of the stream, so the pending list only shows others what is being processed.
//!
//! If a reader dies: the next one gets the same entry. A failed entry is first copied to the dead letters under its own
//! id, and then finished; a crash between the two leaves one copy.
//! Never: parses a job.

use deadpool_redis::redis::{Value, cmd};

use super::{Call, Result, Store, StoreError, script};
use crate::domain::UnixMs;

/// The consumer group. Part of the contract with backends.
const GROUP: &str = "pregon";
/// The consumer, one name for all readers, because only one reads at a time. A name for each worker would stay in the
/// group forever.
const CONSUMER: &str = "reader";
/// The field that has the job.
const FIELD: &str = "job";

/// An entry as returned by Redis: id, then fields and values alternating.
type RawEntry = (String, Vec<Vec<u8>>);

/// An entry of the stream.
#[derive(Clone, Debug)]
pub struct JobEntry {
    /// Its id in the stream.
    pub id: String,
    /// Fields and values alternating, as raw bytes.
    content: Vec<Vec<u8>>,
}

/// The entry to process next.
#[derive(Debug)]
pub struct NextJob {
    /// The oldest entry of the stream.
    pub entry: JobEntry,
    /// Whether it was delivered to a reader before: it may have been applied, in part or whole.
    pub was_pending: bool,
}

impl JobEntry {
    /// The value of its field `job`.
    pub fn job(&self) -> Option<&[u8]> {
        let [_, job] = self.content.as_chunks::<2>().0.iter().find(|[field, _]| field == FIELD.as_bytes())?;
        Some(job)
    }
}

/// A job that failed, or of which some recipients were rejected.
#[derive(Debug)]
pub struct DeadLetter<'a> {
    /// The entry of the job.
    pub entry: &'a JobEntry,
    /// A stable name of the reason, for programs.
    pub code: &'static str,
    /// The reason as a sentence, for people.
    pub reason: String,
    /// The rejected recipients, as JSON.
    pub rejected: Option<String>,
    /// Time of the failure.
    pub at: UnixMs,
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
        Ok(next.map(|((id, content), was_pending)| NextJob { entry: JobEntry { id, content }, was_pending }))
    }

    /// Finishes an entry: acknowledges it and deletes it from the stream.
    pub async fn finish_job(&self, id: &str) -> Result<()> {
        self.call::<u8>(Call::new(&script::FINISH_JOB, &[self.keys.jobs()]).arg(GROUP).arg(id)).await.map(drop)
    }

    /// Whether there is a dead letter under the id of an entry.
    pub async fn has_dead_letter(&self, id: &str) -> Result<bool> {
        let range = cmd("XRANGE").arg(self.keys.dead_jobs()).arg(id).arg(id).clone();
        let found: Vec<RawEntry> = self.query("XRANGE dead", &range).await?;
        Ok(!found.is_empty())
    }

    /// Adds a dead letter, once: the fields of the entry, and fields with the reason.
    pub async fn add_dead_letter(&self, letter: &DeadLetter<'_>) -> Result<()> {
        let JobEntry { id, content } = letter.entry;
        if self.has_dead_letter(id).await? {
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
            // Ids in a stream must rise. The dead letters have a later id already if the stream of jobs was lost and
            // started over: use a new id.
            Err(StoreError::Refused { message, .. }) if message.contains("equal or smaller") => {
                self.query::<String>("XADD dead", &add("*")).await.map(drop)
            }
            added => added.map(drop),
        }
    }

    /// Creates the consumer group, unless another reader did. It is missing before the first job and after a loss of all
    /// data. It begins at the oldest entry, because finished entries are no longer on the stream.
    async fn create_job_group(&self) -> Result<()> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(self.keys.jobs()).arg(GROUP).arg(0).arg("MKSTREAM");
        match self.query::<Value>("XGROUP CREATE", &create).await {
            Err(StoreError::Refused { message, .. }) if message.contains("BUSYGROUP") => Ok(()),
            created => created.map(drop),
        }
    }
}
