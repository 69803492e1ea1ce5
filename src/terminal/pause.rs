//! `pregon pause` and `pregon resume`: one API call.

use super::{CommandError, out, words};
use crate::{
    client::{Client, ControlAction},
    domain::BusinessId,
};

/// Pauses or resumes all sending; with `business`, only that of the business. Prints the pauses that are in force
/// afterwards.
pub async fn change(
    client: &Client,
    business: Option<&BusinessId>,
    action: ControlAction,
    json: bool,
) -> Result<(), CommandError> {
    let change = client.change_all(business, action).await?;
    if json {
        return Ok(out::json(&change)?);
    }
    if change.pauses.is_empty() {
        return Ok(out::line("all sending is resumed; lines and campaigns with a pause of their own stay paused")?);
    }
    change.pauses.iter().try_for_each(|pause| out::line(&words::pause(pause))).map_err(CommandError::from)
}
