//! `POST /sim/template`: changes the status of templates.

use serde::Deserialize;
use serde_json::json;

use super::{Changed, problem};
use crate::sim::{announce::announce, template::TemplateStatus, world::SharedWorld};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TemplateChange {
    /// Without it, the template changes in all WABAs.
    waba: Option<String>,
    name: String,
    /// Without it, the template changes in all languages.
    language: Option<String>,
    status: TemplateStatus,
}

pub(super) fn change(world: &SharedWorld, change: &TemplateChange) -> Changed {
    let mut found = false;
    for template in &world.templates {
        let spec = &template.spec;
        let fits = spec.name == change.name
            && change.language.as_ref().is_none_or(|language| *language == spec.language)
            && change.waba.as_ref().is_none_or(|waba| *waba == spec.waba);
        if !fits {
            continue;
        }
        found = true;
        template.set_status(change.status);
        let value = json!({
            "event": change.status,
            "message_template_id": template.id,
            "message_template_name": spec.name,
            // Meta writes the language with a hyphen here, and with an underscore everywhere else.
            "message_template_language": spec.language.replace('_', "-"),
            "reason": "NONE",
        });
        announce(world, template.waba, "message_template_status_update", value);
    }
    if found { Ok(()) } else { Err(problem(format!("there is no template {}", change.name))) }
}
