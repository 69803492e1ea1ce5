//! `pregon template list|show|sync|unpause`: one API call for each page or template, and one for a sync.

use serde_json::json;

use super::{
    CommandError,
    arguments::{TemplateArguments, TemplateId},
    each::each,
    out,
    pages::all_pages,
    table, words,
};
use crate::{
    api_types::{SyncedWaba, TemplateView},
    client::Client,
    domain::{Form, template::Component},
};

/// Prints all templates.
pub async fn list(client: &Client, json: bool) -> Result<(), CommandError> {
    let templates = all_pages(async |cursor| client.templates(cursor.as_deref()).await).await?;
    Ok(if json { out::json(&json!({ "templates": templates })) } else { out::line(&table::templates(&templates)) }?)
}

/// Prints one template.
pub async fn show(client: &Client, id: &TemplateId, json: bool) -> Result<(), CommandError> {
    let template = client.template(&id.waba, &id.name, &id.language).await?;
    Ok(if json { out::json(&template) } else { out::line(&text(&template)) }?)
}

/// Reads the templates of all WABAs from Meta.
pub async fn sync(client: &Client, json: bool) -> Result<(), CommandError> {
    let synced = client.sync_templates().await?;
    if json {
        return Ok(out::json(&synced)?);
    }
    let line =
        |waba: &SyncedWaba| out::line(&format!("WABA {}: {}", waba.waba, words::counted(waba.templates, "template")));
    Ok(synced.wabas.iter().try_for_each(line)?)
}

/// Asks Meta to lift the pause of templates, one by one. A failure does not affect the others.
pub async fn unpause(client: &Client, templates: &TemplateArguments) -> Result<(), CommandError> {
    let call = async |id: &TemplateId| client.unpause_template(&id.waba, &id.name, &id.language).await;
    each(&templates.ids, call, |id, unpaused| match templates.output.json {
        true => out::json(&unpaused),
        false => out::line(&format!("Meta has lifted the pause of {id}")),
    })
    .await
}

/// A template for people: its fields, the columns of a file with recipients, and its text.
fn text(view: &TemplateView) -> String {
    let TemplateView { template, problem, synced_at, .. } = view;
    let fields = table::fields([
        ("template", table::template_id(view)),
        ("category", template.category.to_string()),
        ("status", template.status_text()),
        ("quality", words::printable(&template.quality_score)),
        ("problem", problem.as_deref().map(words::printable).unwrap_or_default()),
        ("columns", columns(view)),
        ("read", words::time(*synced_at)),
    ]);
    let components = template.components.iter().map(component).filter(|text| !text.is_empty());
    [fields].into_iter().chain(components).collect::<Vec<_>>().join("\n\n")
}

/// The columns of a file with recipients; those in brackets may be left out. Empty if no campaign can use the template.
fn columns(view: &TemplateView) -> String {
    let Ok(form) = Form::of(&view.template) else { return String::new() };
    let columns = form.columns().into_iter();
    let named = columns.map(|column| if column.is_required { column.name } else { format!("[{}]", column.name) });
    named.collect::<Vec<_>>().join(", ")
}

/// The text of a component, or a description if it has no text.
fn component(component: &Component) -> String {
    let mut lines: Vec<String> = component.text.lines().map(words::printable).collect();
    if lines.is_empty() && !component.format.is_empty() {
        lines.push(format!("({})", words::printable(&component.format.to_lowercase())));
    }
    for button in &component.buttons {
        let url = if button.url.is_empty() { String::new() } else { format!(" {}", words::printable(&button.url)) };
        lines.push(format!("[{}]{url}", words::printable(&button.text)));
    }
    lines.iter().map(|line| format!(" {line}")).collect::<Vec<_>>().join("\n")
}
