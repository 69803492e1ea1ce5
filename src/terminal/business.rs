//! `pregon business list|discover`: one API call for each page, and one for a discovery.

use serde_json::json;

use super::{CommandError, out, pages::all_pages, table, words};
use crate::client::Client;

/// Prints all businesses.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let businesses = all_pages(async |cursor| client.businesses(cursor.as_deref()).await).await?;
    if json {
        return Ok(out::json(&json!({ "businesses": businesses }))?);
    }
    Ok(out::line(&table::businesses(&businesses))?)
}

/// Prints what the businesses have at Meta, and how the configuration differs.
pub async fn discover(client: &Client, json: bool) -> Result<(), CommandError> {
    let found = client.discovery().await?;
    if json {
        return Ok(out::json(&found)?);
    }
    out::line(&table::discovery(&found.businesses))?;
    for drift in found.businesses.iter().flat_map(|business| &business.drift) {
        let (detail, remedy) = (words::printable(&drift.detail), words::printable(&drift.remedy));
        out::line(&format!("\n{detail}\n→ {remedy}"))?;
    }
    Ok(())
}
