//! Dead letters, as operators handle them: read, retry, delete.
//!
//! A retry is a job on the stream that names the dead letter. The reader of the stream applies the job of the letter
//! and then deletes the letter, so nothing is lost or applied twice if a process dies in between.

use tracing::info;

use super::{Intake, IntakeError, job::RetryJob};
use crate::{domain::EntryId, redis::dead_letters::DeadLetter};

impl Intake {
    /// Reads a dead letter.
    ///
    /// Errors: `NoDeadLetter` if it does not exist.
    pub async fn dead_letter(&self, id: EntryId) -> Result<DeadLetter, IntakeError> {
        self.store.dead_letter(id).await?.ok_or(IntakeError::NoDeadLetter(id))
    }

    /// Adds a job that retries the job of a dead letter to the end of the stream, and returns its entry. The letter
    /// stays until the reader of the stream has applied the retry. Further retries of the same letter change nothing.
    /// The result is durable, as far as [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it.
    ///
    /// Errors: `NoDeadLetter` if it does not exist. `Store`: repeat the call.
    pub async fn retry_dead_letter(&self, id: EntryId) -> Result<EntryId, IntakeError> {
        let store = self.store.in_this_incarnation();
        store.dead_letter(id).await?.ok_or(IntakeError::NoDeadLetter(id))?;
        let entry = store.add_job(&RetryJob { dead_letter: id }.to_json()).await?;
        store.make_durable().await?;
        info!(dead_letter.id = %id, entry.id = %entry, "dead letter will be retried");
        Ok(entry)
    }

    /// Deletes a dead letter. A retry that is still in the stream then changes nothing. The result is durable, as far
    /// as [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it.
    ///
    /// Errors: `NoDeadLetter` if it does not exist. `Store`: repeat the call.
    pub async fn delete_dead_letter(&self, id: EntryId) -> Result<(), IntakeError> {
        let store = self.store.in_this_incarnation();
        if !store.delete_dead_letter(id).await? {
            return Err(IntakeError::NoDeadLetter(id));
        }
        store.make_durable().await?;
        info!(dead_letter.id = %id, "dead letter deleted");
        Ok(())
    }
}
