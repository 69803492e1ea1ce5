//! `pregon template unpause`: one API call for each template.

use super::{
    CommandError,
    arguments::{TemplateArguments, TemplateId},
    each::each,
    out,
};
use crate::client::Client;

/// Asks Meta to lift the pause of templates, one by one. A failure does not affect the others.
pub async fn unpause(client: &Client, templates: &TemplateArguments) -> Result<(), CommandError> {
    let call = async |id: &TemplateId| client.unpause_template(&id.waba, &id.name, &id.language).await;
    each("template ", &templates.ids, call, |id, unpaused| match templates.output.json {
        true => out::json(&unpaused),
        false => out::line(&format!("Meta has lifted the pause of {id}")),
    })
    .await
}
