//! `pregon hold list|lift`: one API call for each page or hold, and for each page of lines.

use serde_json::json;

use super::{CommandError, arguments::HoldArguments, each::each, out, pages::all_pages, table, words};
use crate::{api_types::HoldView, client::Client, domain::HoldScope};

/// Prints all holds. Those on templates that no running campaign needs are only named. For people also which lines do not
/// get through to Meta, which is no hold and stops a line as one does.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let holds = all_pages(async |cursor| client.holds(cursor.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "holds": holds }))?);
    }
    let lines = all_pages(async |cursor| client.lines(cursor.as_deref()).await).await?;
    let outages: Vec<_> = lines.iter().filter_map(|line| words::outage(line)).collect();
    let (idle, others): (Vec<_>, Vec<_>) = holds.into_iter().partition(|hold| is_idle_template(hold));
    out::line(&table::holds(&others))?;
    if !idle.is_empty() {
        let ids = table::named(idle.iter().map(|hold| words::printable(&hold.id)));
        out::line(&format!("\nHeld too, but needed by no running campaign: {ids}. `pregon template show` says why."))?;
    }
    for outage in words::waiting_for(&outages) {
        out::line(&format!("\n{}", words::printable(&outage)))?;
    }
    Ok(())
}

/// Whether the hold is on a template that no running campaign needs. Pregón holds every template that Meta lists as
/// rejected or paused.
fn is_idle_template(hold: &HoldView) -> bool {
    hold.campaigns == Some(0) && matches!(hold.scope.parse(), Ok(HoldScope::Template { .. }))
}

/// Lifts holds, one by one. A failure does not affect the others.
pub async fn lift(client: &Client, holds: &HoldArguments) -> Result<(), CommandError> {
    let call = async |id: &String| client.lift_hold(id).await;
    each(&holds.ids, call, |id, lifted| match lifted.changed {
        _ if holds.output.json => out::json(&lifted),
        true => out::line(&format!("the hold {id} is lifted")),
        false => out::line(&format!("{id} is not held")),
    })
    .await
}
