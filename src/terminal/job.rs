//! `pregon job list|show|retry|delete`: one API call for each page or dead letter.

use serde_json::json;

use super::{CommandError, arguments, each::each, out, pages::first_rows, table};
use crate::{client::Client, domain::EntryId};

/// Prints the dead letters, newest first, at most `limit`.
pub async fn list(client: &Client, limit: usize, json: bool) -> Result<(), CommandError> {
    let (jobs, cut) = first_rows(limit, async |next| client.dead_jobs(next.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "jobs": jobs }))?);
    }
    out::line(&table::dead_jobs(&jobs))?;
    if cut {
        out::line(&format!("\nOnly the newest {limit} are shown; a larger --limit shows more."))?;
    }
    Ok(())
}

/// Prints one dead letter with its whole job.
pub async fn show(client: &Client, id: EntryId, json: bool) -> Result<(), CommandError> {
    let job = client.dead_job(id).await?;
    Ok(if json { out::json(&job) } else { out::line(&table::dead_job(&job)) }?)
}

/// Retries the jobs of dead letters, one by one. A failure does not affect the others.
pub async fn retry(client: &Client, letters: &arguments::DeadLetterArguments) -> Result<(), CommandError> {
    let call = async |id: &EntryId| client.retry_dead_job(*id).await;
    each(&letters.ids, call, |id, retried| match letters.output.json {
        true => out::json(&retried),
        false => out::line(&format!(
            "dead letter {id} is being retried; if it fails again, it becomes dead letter {}",
            retried.entry
        )),
    })
    .await
}

/// Deletes dead letters, one by one. A failure does not affect the others.
pub async fn delete(client: &Client, letters: &arguments::DeadLetterArguments) -> Result<(), CommandError> {
    let call = async |id: &EntryId| client.delete_dead_job(*id).await;
    each(&letters.ids, call, |id, ()| match letters.output.json {
        true => out::json(&json!({ "id": id, "deleted": true })),
        false => out::line(&format!("dead letter {id} is deleted")),
    })
    .await
}
