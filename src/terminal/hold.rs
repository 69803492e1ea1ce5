//! `pregon hold list|lift`: one API call for each page or hold.

use serde_json::json;

use super::{CommandError, arguments::HoldArguments, each::each, out, pages::all_pages, table};
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
    let call = async |id: &String| client.lift_hold(id).await;
    each("hold ", &holds.ids, call, |id, lifted| match lifted.changed {
        _ if holds.output.json => out::json(&lifted),
        true => out::line(&format!("the hold {id} is lifted")),
        false => out::line(&format!("{id} is not held")),
    })
    .await
}
