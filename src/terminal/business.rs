//! `pregon business list`: one API call for each page.

use serde_json::json;

use super::{CommandError, out, pages::all_pages, table};
use crate::client::Client;

/// Prints all businesses.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let businesses = all_pages(async |cursor| client.businesses(cursor.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "businesses": businesses }))?);
    }
    Ok(out::line(&table::businesses(&businesses))?)
}
