//! `pregon template unpause`: one API call for each template.

use super::{CommandError, arguments::TemplateArguments, out};
use crate::client::Client;

/// Asks Meta to lift the pause of templates, one by one. A failure does not affect the others.
pub async fn unpause(client: &Client, templates: &TemplateArguments) -> Result<(), CommandError> {
    let mut failed = false;
    for id in &templates.ids {
        match client.unpause_template(&id.waba, &id.name, &id.language).await {
            Ok(unpaused) if templates.output.json => out::json(&unpaused)?,
            Ok(_) => out::line(&format!("Meta has lifted the pause of {id}"))?,
            Err(error) => {
                failed = true;
                eprintln!("pregon: template {id}: {error}");
            }
        }
    }
    if failed { Err(CommandError::Reported) } else { Ok(()) }
}
