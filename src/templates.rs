//! Templates: what Meta says is approved, kept in Redis; and what follows for campaigns that send one.

use std::time::Duration;

use tracing::{info, warn};

use crate::{
    domain::{Campaign, Hold, HoldScope, Line, Secret, Template, UnixMs, WabaId, template::TemplateError},
    graph::{client::GraphClient, management::GraphError},
    redis::{Store, StoreError},
};

/// How far Meta's list may be behind what its webhooks say.
const LIST_IS_BEHIND: Duration = Duration::from_secs(30);

/// How the reason of a hold begins that Meta's list of templates set.
const LISTED: &str = "meta lists it as ";

/// Why the templates of a WABA could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Meta did not tell.
    #[error("{error}{help}", error = .0, help = helps(.0))]
    Graph(#[from] GraphError),
    /// They could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What helps against an error that does not say it itself.
fn helps(error: &GraphError) -> &'static str {
    match error {
        GraphError::Refused { .. } => {
            "; check that the id of the [[waba]] is that of a WhatsApp Business Account, and that its access_token is valid and may use \
             whatsapp_business_management"
        }
        GraphError::BadToken(_) => "; correct the access_token of the [[waba]]",
        GraphError::Unreachable { .. } | GraphError::NotMeta { .. } => "",
    }
}

/// Reads the templates of every WABA that has a line, and tells for each how many there are, or why it failed: then what was
/// known stays.
pub async fn sync_all(
    store: &Store,
    graph: &GraphClient,
    lines: &[Line],
    now: UnixMs,
) -> Vec<(WabaId, Result<usize, String>)> {
    let mut wabas: Vec<(&WabaId, &Secret)> = lines.iter().map(|line| (&line.waba, &line.token)).collect();
    wabas.sort_by_key(|(waba, _)| *waba);
    wabas.dedup_by_key(|(waba, _)| *waba);
    let mut results = Vec::with_capacity(wabas.len());
    for (waba, token) in wabas {
        let result = sync(store, graph, waba, token, now).await;
        match &result {
            Ok(n) => info!(waba.id = %waba, n, "templates read"),
            Err(error) => warn!(waba.id = %waba, %error, "templates could not be read"),
        }
        results.push((waba.clone(), result.map_err(|error| format!("waba {waba}: {error}"))));
    }
    results
}

/// Reads the templates of a WABA, and holds back or lets go what follows from them. Gives how many there are.
pub async fn sync(
    store: &Store,
    graph: &GraphClient,
    waba: &WabaId,
    token: &Secret,
    now: UnixMs,
) -> Result<usize, SyncError> {
    let mut templates: Vec<Template> = Vec::new();
    for value in graph.templates(waba, token).await? {
        let template = Template::read(&value);
        if !template.unreadable.is_empty() {
            warn!(waba.id = %waba, template = %template, reason = template.unreadable, "a template can not be read");
        }
        templates.push(template);
    }
    store.put_templates(waba, &templates, now).await?;
    let held = store.holds(now).await?;
    for template in &templates {
        let scope = HoldScope::Template {
            waba: waba.clone(),
            name: template.name.clone(),
            language: template.language.to_string(),
        };
        match (template.is_sendable(), held.get(&scope)) {
            // A hold with an end was set by an answer of Meta to a send, and is believed more than the list. So is a hold that is
            // younger than what the list may show.
            (true, Some(hold)) if hold.until.is_none() && now.since(hold.since) >= LIST_IS_BEHIND => {
                store.unhold(&scope).await?;
            }
            (false, None) => {
                let reason = format!("{LISTED}{}", template.standing());
                store.hold(&scope, &Hold { code: 0, reason, since: now, until: None }).await?;
            }
            // From one status to another, such as from PENDING to REJECTED, what helps is another thing.
            (false, Some(hold)) if hold.reason.starts_with(LISTED) => {
                let reason = format!("{LISTED}{}", template.standing());
                if reason != hold.reason {
                    store.hold(&scope, &Hold { reason, ..hold.clone() }).await?;
                }
            }
            _ => {}
        }
    }
    Ok(templates.len())
}

/// Whether Meta's list, as it was read last, still has the template of `campaign`, with the form that its recipients fill. Meta
/// is not asked: the list is read again when Meta says that a template changed. Lines that are not configured any more tell no `waba`,
/// and then nothing is compared.
pub async fn check_still_fits(
    store: &Store,
    waba: Option<&WabaId>,
    campaign: &Campaign,
) -> Result<Result<(), TemplateError>, StoreError> {
    let Some(waba) = waba else { return Ok(Ok(())) };
    let Template { name, language, .. } = &campaign.template;
    let listed = store.template(waba, name, language.as_str()).await?;
    // Without a list nothing is known of the template: Meta's answers to sends tell.
    if listed.is_none() && store.templates(waba).await?.is_none() {
        return Ok(Ok(()));
    }
    Ok(campaign.template.check_still_fits(listed.as_ref()))
}
