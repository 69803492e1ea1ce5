//! The dead letters: jobs that failed, or of which some recipients were rejected, on a stream of their own.
//!
//! Owns: STREAM `jobs:dead`. A letter has the fields `reason`, `code`, `id` (the entry of the job) and `at`, with
//! rejected recipients also `rejected`, and then all fields of the entry. Its id is that of the entry whose processing
//! wrote it: the entry of the job, or of its last retry.
//! If the process dies: a letter is there as a whole, or not at all.
//! Never: deletes a letter unless an operator asks for that, or retries its job.

use deadpool_redis::redis::cmd;

use super::{
    Call, Result, Store, StoreError,
    jobs::{JobEntry, RawEntry, entry_id},
    script,
};
use crate::domain::{EntryId, UnixMs};

/// The code of a job that took effect, except for the recipients in `rejected`.
pub const RECIPIENTS_REJECTED: &str = "recipients-rejected";

/// Size of a list of dead letters, in bytes, after which it ends. The last letter of a list may exceed the size.
const LIST_BYTES_MAX: usize = 4 << 20;

/// A dead letter to be written.
#[derive(Debug)]
pub struct NewDeadLetter<'a> {
    /// The id of the letter: of the entry that is being processed.
    pub id: EntryId,
    /// The letter that the entry retries. It is deleted after this one is written.
    pub retried: Option<EntryId>,
    /// The entry of the job, whose id differs from `id` if the job was retried.
    pub entry: &'a JobEntry,
    /// A stable name of the reason, for programs.
    pub code: &'static str,
    /// The reason as a sentence, for people.
    pub reason: String,
    /// The rejected recipients, as JSON: if and only if `code` is [`RECIPIENTS_REJECTED`].
    pub rejected: Option<String>,
    /// Time of the failure.
    pub at: UnixMs,
}

/// A dead letter.
#[derive(Debug)]
pub struct DeadLetter {
    /// Its id.
    pub id: EntryId,
    /// The entry of the job.
    pub entry: JobEntry,
    /// A stable name of the reason, for programs.
    pub code: String,
    /// The reason as a sentence, for people.
    pub reason: String,
    /// The rejected recipients, as JSON.
    pub rejected: Option<String>,
    /// Time of the failure; `None` if it can't be read.
    pub at: Option<UnixMs>,
}

impl DeadLetter {
    /// Reads a letter. One that was written by hand may lack fields.
    fn read((id, mut content): RawEntry) -> Result<Self> {
        let id = entry_id(&id)?;
        let mut rest = content.as_slice();
        let mut take = |name: &str| match rest {
            [field, value, more @ ..] if field == name.as_bytes() => {
                rest = more;
                Some(String::from_utf8_lossy(value).into_owned())
            }
            _ => None,
        };
        let reason = take("reason").unwrap_or_default();
        let code = take("code").unwrap_or_default();
        let of = take("id").and_then(|id| id.parse().ok()).unwrap_or(id);
        let at = take("at").and_then(|at| UnixMs::parse(&at));
        // Any other letter may have a field of this name that belongs to the entry.
        let rejected = if code == RECIPIENTS_REJECTED { take("rejected") } else { None };
        let content = content.split_off(content.len() - rest.len());
        Ok(Self { id, entry: JobEntry { id: of, content }, code, reason, rejected, at })
    }
}

impl Store {
    /// Reads a dead letter.
    pub async fn dead_letter(&self, id: EntryId) -> Result<Option<DeadLetter>> {
        let text = id.to_string();
        let range = cmd("XRANGE").arg(self.keys.dead_jobs()).arg(&text).arg(&text).take();
        let mut found: Vec<RawEntry> = self.query("XRANGE dead", &range).await?;
        found.pop().map(DeadLetter::read).transpose()
    }

    /// Whether the dead letter with the id `id` was written for the entry `entry`, by a reader that retried the letter
    /// `retried`, or none.
    pub async fn has_dead_letter(&self, id: EntryId, entry: EntryId, retried: Option<EntryId>) -> Result<bool> {
        // Another letter, even the one that is being retried, can have the id if the stream of jobs was lost and
        // started over, or if the letter was added by hand.
        Ok(retried != Some(id) && self.dead_letter(id).await?.is_some_and(|found| found.entry.id == entry))
    }

    /// Lists dead letters that are older than `before`, newest first. Also returns whether even older ones are left.
    ///
    /// Shape: at most `limit` letters, and about 4 MB; at least one if there is one.
    pub async fn dead_letters(&self, before: Option<EntryId>, limit: usize) -> Result<(Vec<DeadLetter>, bool)> {
        let before = before.map(|id| id.to_string()).unwrap_or_default();
        let call = Call::new(&script::DEAD_LETTERS, &[self.keys.dead_jobs()]).arg(before).arg(limit);
        let (letters, more): (Vec<RawEntry>, bool) = self.call(call.arg(LIST_BYTES_MAX)).await?;
        Ok((letters.into_iter().map(DeadLetter::read).collect::<Result<_>>()?, more))
    }

    /// Adds a dead letter, once.
    pub async fn add_dead_letter(&self, letter: &NewDeadLetter<'_>) -> Result<()> {
        if self.has_dead_letter(letter.id, letter.entry.id, letter.retried).await? {
            return Ok(());
        }
        let add = |id: &str| {
            let mut add = cmd("XADD");
            add.arg(self.keys.dead_jobs()).arg(id);
            add.arg("reason").arg(&letter.reason).arg("code").arg(letter.code);
            add.arg("id").arg(letter.entry.id.to_string()).arg("at").arg(letter.at.to_string());
            if let Some(rejected) = &letter.rejected {
                add.arg("rejected").arg(rejected);
            }
            add.arg(&letter.entry.content);
            add
        };
        match self.query::<String>("XADD dead", &add(&letter.id.to_string())).await {
            // Ids in a stream must rise. The dead letters can have a later id already (see `has_dead_letter`): use a
            // new id.
            Err(StoreError::Refused { message, .. }) if message.contains("equal or smaller") => {
                self.query::<String>("XADD dead", &add("*")).await.map(drop)
            }
            added => added.map(drop),
        }
    }

    /// Deletes a dead letter. Returns whether there was one.
    pub async fn delete_dead_letter(&self, id: EntryId) -> Result<bool> {
        self.query("XDEL dead", cmd("XDEL").arg(self.keys.dead_jobs()).arg(id.to_string())).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[&str]) -> DeadLetter {
        let content = fields.iter().map(|text| text.as_bytes().to_vec()).collect();
        DeadLetter::read(("7-0".into(), content)).expect("a letter")
    }

    #[test]
    fn fields_of_the_entry_are_not_taken_for_those_of_the_letter() {
        let head = ["reason", "because", "code", "invalid", "id", "5-1", "at", "2026-11-22T09:26:48.935Z"];
        let entry = ["rejected", "mine", "code", "mine", "job", "{}"];
        let letter = read(&[head.as_slice(), &entry].concat());
        assert_eq!((letter.id.to_string(), letter.entry.id.to_string()), ("7-0".into(), "5-1".into()));
        assert_eq!((letter.reason.as_str(), letter.code.as_str(), letter.rejected), ("because", "invalid", None));
        assert_eq!(letter.at.map(|at| at.to_string()).as_deref(), Some("2026-11-22T09:26:48.935Z"));
        assert_eq!(letter.entry.content, entry.map(|text| text.as_bytes().to_vec()));
        assert_eq!(letter.entry.job(), Some(b"{}".as_slice()));

        let head = ["reason", "because", "code", RECIPIENTS_REJECTED, "id", "5-1", "at", "noon", "rejected", "[]"];
        let letter = read(&[head.as_slice(), &entry].concat());
        assert_eq!((letter.rejected.as_deref(), letter.at), (Some("[]"), None));
        assert_eq!(letter.entry.content.len(), entry.len());
    }

    #[test]
    fn a_letter_written_by_hand_is_read_as_far_as_possible() {
        let letter = read(&["job", "{}"]);
        assert_eq!(
            (letter.code.as_str(), letter.entry.id, letter.entry.job()),
            ("", letter.id, Some(b"{}".as_slice()))
        );
    }
}
