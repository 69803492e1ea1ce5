//! `pregon worker list`: one API call for each page.

use serde_json::json;

use super::{CommandError, out, pages::all_pages, table};
use crate::client::Client;

/// Prints all workers.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let workers = all_pages(async |cursor| client.workers(cursor.as_deref()).await).await?;
    Ok(if json { out::json(&json!({ "workers": workers })) } else { out::line(&table::workers(&workers)) }?)
}
