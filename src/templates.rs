//! Reads the templates of a WABA from Meta, stores them in Redis, and holds the templates that Meta does not send.

use std::{collections::BTreeMap, time::Duration};

use tracing::{info, warn};

use crate::{
    domain::{Campaign, Hold, HoldScope, Secret, Template, UnixMs, WabaId, template::TemplateError},
    graph::{client::GraphClient, management::GraphError},
    redis::{Store, StoreError, installation::StoredTemplate},
};

/// How far Meta's template list may lag behind Meta's webhooks.
const LIST_LAG_MAX: Duration = Duration::from_secs(30);

/// The start of the reason of every hold that was set because of Meta's template list.
const LISTED_REASON_PREFIX: &str = "meta lists it as ";

/// Why a template sync failed.
#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// Meta did not return the templates.
    #[error("{error}{help}", error = .0, help = remedy(.0))]
    Graph(#[from] GraphError),
    /// The templates could not be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The remedy for an error whose own text does not include one.
fn remedy(error: &GraphError) -> &'static str {
    match error {
        GraphError::Refused { .. } => {
            "; check that the id of the [[waba]] is that of a WhatsApp Business Account, and that its access_token is valid and may use \
             whatsapp_business_management"
        }
        GraphError::BadToken(_) => "; correct the access_token of the [[waba]]",
        GraphError::Unreachable { .. } | GraphError::NotMeta { .. } => "",
    }
}

/// Reads the templates of `wabas`, each with its access token. Returns, for each WABA, the number of templates or the
/// error. After an error, the stored templates of that WABA stay as they are.
pub async fn sync_all(
    store: &Store,
    graph: &GraphClient,
    wabas: BTreeMap<&WabaId, &Secret>,
    now: UnixMs,
) -> Vec<(WabaId, Result<usize, String>)> {
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

/// Reads and stores the templates of a WABA, and adds, updates or removes their holds. Returns the number of templates.
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
            warn!(waba.id = %waba, template = %template, reason = template.unreadable, "a template cannot be read");
        }
        templates.push(template);
    }
    store.put_templates(waba, &templates, now).await?;
    let held = store.holds(now).await?;
    for template in &templates {
        let scope = HoldScope::of_template(waba, &template.name, &template.language);
        match (template.is_sendable(), held.get(&scope)) {
            // Keep a hold that has an end: it was set by Meta's response to a send, which is more reliable than the
            // list. Keep a recent hold too: the list may not show yet what a webhook reported.
            (true, Some(hold)) if hold.until.is_none() && now.since(hold.since) >= LIST_LAG_MAX => {
                store.unhold(&scope).await?;
            }
            (false, None) => {
                let reason = format!("{LISTED_REASON_PREFIX}{}", template.status_text());
                store.hold(&scope, &Hold { code: None, reason, since: now, until: None }).await?;
            }
            // The reason names the remedy for the status, which may have changed, for example from PENDING to REJECTED.
            (false, Some(hold)) if hold.reason.starts_with(LISTED_REASON_PREFIX) => {
                let reason = format!("{LISTED_REASON_PREFIX}{}", template.status_text());
                if reason != hold.reason {
                    store.reword_hold(&scope, &reason).await?;
                }
            }
            _ => {}
        }
    }
    Ok(templates.len())
}

/// Checks that the stored template list still contains the template of `campaign`, and that the template still accepts
/// the values of the campaign's recipients. Does not call Meta: the list is read again when a webhook reports a change.
///
/// `waba` is `None` if no line of the campaign is configured any more; the check is then skipped.
pub async fn check_still_fits(
    store: &Store,
    waba: Option<&WabaId>,
    campaign: &Campaign,
) -> Result<Result<(), TemplateError>, StoreError> {
    let Some(waba) = waba else { return Ok(Ok(())) };
    let Template { name, language, .. } = &campaign.template;
    let listed = match store.template(waba, name, language.as_str()).await? {
        // Meta's responses to sends will show the status of the template.
        StoredTemplate::NotSynced => return Ok(Ok(())),
        StoredTemplate::Missing => None,
        StoredTemplate::Found(template) => Some(template),
    };
    Ok(campaign.template.check_still_fits(listed.as_ref()))
}
