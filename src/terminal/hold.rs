//! `pregon hold list|lift`: one API call for each page or hold, and for each page of lines.

use serde_json::json;

use super::{CommandError, arguments::HoldArguments, each::each, out, pages::all_pages, table, words};
use crate::client::Client;

/// Prints all holds; for people also which lines do not get through to Meta, which is no hold and stops a line as one
/// does.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let holds = all_pages(async |cursor| client.holds(cursor.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "holds": holds }))?);
    }
    let lines = all_pages(async |cursor| client.lines(cursor.as_deref()).await).await?;
    let outages: Vec<_> = lines.iter().filter_map(|line| words::outage(line)).collect();
    let outages = words::waiting_for(&outages).into_iter().map(|outage| format!("\n\n{}", words::printable(&outage)));
    Ok(out::line(&(table::holds(&holds) + &outages.collect::<String>()))?)
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
