//! `pregon line list|show|rate|pause|resume`: one API call for each page or line.

use serde_json::json;

use super::{CommandError, arguments, each::each, out, pages::all_pages, table};
use crate::{
    api_types::LineView,
    client::{Client, ControlAction, Known},
    domain::LineId,
};

/// Prints the lines.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let lines = all_pages(async |cursor| client.lines(cursor.as_deref()).await).await?;
    Ok(if json { out::json(&json!({ "lines": lines })) } else { out::line(&table::lines(&lines)) }?)
}

/// Prints one line.
pub async fn show(client: &Client, id: &LineId, json: bool) -> Result<(), CommandError> {
    print(&client.line(id).await?, json)
}

/// Sets the rate of a line, or with `None` resets it to the configured rate.
pub async fn rate(
    client: &Client,
    id: &LineId,
    messages_per_second: Option<f64>,
    json: bool,
) -> Result<(), CommandError> {
    print(&client.set_rate(id, messages_per_second).await?, json)
}

/// Pauses or resumes lines, one by one. A failure does not affect the others.
pub async fn change(
    client: &Client,
    lines: &arguments::LineArguments,
    action: ControlAction,
) -> Result<(), CommandError> {
    let call = async |id: &LineId| client.change_line(id, action).await;
    each(&lines.ids, call, |id, line| match lines.output.json {
        true => out::json(&line),
        false => {
            let name = Some(table::line_name(&line)).filter(|name| !name.is_empty());
            let name = name.map(|name| format!(" “{name}”")).unwrap_or_default();
            out::line(&format!("line {id}{name} is {}", table::line_state(&line)))
        }
    })
    .await
}

fn print(line: &Known<LineView>, json: bool) -> Result<(), CommandError> {
    Ok(if json { out::json(line) } else { out::line(&table::line(line)) }?)
}
