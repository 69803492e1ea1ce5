//! `pregon hold list|lift`: one API call for each page or hold.

use serde_json::json;

use super::{CommandError, arguments::HoldArguments, out, pages::all_pages, table};
use crate::client::Client;

/// Prints all holds.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let holds = all_pages(async |cursor| client.holds(cursor.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "holds": holds }))?);
    }
    Ok(out::line(&table::holds(&holds))?)
}

/// Lifts holds, one by one. A failure does not affect the others.
pub async fn lift(client: &Client, holds: &HoldArguments) -> Result<(), CommandError> {
    let mut failed = false;
    for id in &holds.ids {
        match client.lift_hold(id).await {
            Ok(lifted) if holds.output.json => out::json(&lifted)?,
            Ok(lifted) if lifted.changed => out::line(&format!("the hold {id} is lifted"))?,
            Ok(_) => out::line(&format!("{id} is not held"))?,
            Err(error) => {
                failed = true;
                eprintln!("pregon: hold {id}: {error}");
            }
        }
    }
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}
