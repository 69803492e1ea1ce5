//! `pregon job list|show|retry|delete`: one API call for each page or dead letter.

use serde_json::json;

use super::{CommandError, arguments, out, table};
use crate::{
    api_types::DeadJobView,
    client::{Client, Known},
    domain::EntryId,
};

/// Prints the dead letters, newest first, at most `limit`.
pub async fn list(client: &Client, limit: usize, json: bool) -> Result<(), CommandError> {
    let mut jobs: Vec<Known<DeadJobView>> = Vec::new();
    let mut next = None;
    loop {
        let page = client.dead_jobs(next.as_deref()).await?;
        jobs.extend(page.rows);
        next = page.next;
        if next.is_none() || jobs.len() >= limit {
            break;
        }
    }
    let cut = jobs.len() > limit || next.is_some();
    jobs.truncate(limit);
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
    let mut failed = false;
    for &id in &letters.ids {
        match client.retry_dead_job(id).await {
            Ok(retried) if letters.output.json => out::json(&retried)?,
            Ok(retried) => {
                out::line(&format!("dead letter {id} is being retried; if it fails again, it is {}", retried.entry))?;
            }
            Err(error) => {
                failed = true;
                eprintln!("pregon: dead letter {id}: {error}");
            }
        }
    }
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}

/// Deletes dead letters, one by one. A failure does not affect the others.
pub async fn delete(client: &Client, letters: &arguments::DeadLetterArguments) -> Result<(), CommandError> {
    let mut failed = false;
    for &id in &letters.ids {
        match client.delete_dead_job(id).await {
            Ok(()) if letters.output.json => out::json(&json!({ "id": id, "deleted": true }))?,
            Ok(()) => out::line(&format!("dead letter {id} is deleted"))?,
            Err(error) => {
                failed = true;
                eprintln!("pregon: dead letter {id}: {error}");
            }
        }
    }
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}
