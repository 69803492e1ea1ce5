//! Reads the templates of a WABA from Meta, stores them in Redis, holds the templates that Meta does not send, and
//! pauses campaigns whose template was edited so that it takes other values.
//!
//! If the process dies: each step is idempotent, and the next read of the list does the rest.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::Duration,
};

use tracing::{info, warn};

use crate::{
    domain::{
        Campaign, CampaignId, CampaignState, Hold, HoldScope, Language, Lines, Secret, Template, TemplateStatus,
        UnixMs, WabaId, campaign::PauseReason, template::TemplateError,
    },
    graph::{
        client::GraphClient,
        management::{GraphError, Unpaused},
    },
    redis::{
        Store, StoreError,
        campaigns::{Definition, StateChange},
        installation::StoredTemplate,
    },
};

/// How far Meta's template list may lag behind Meta's webhooks.
pub const LIST_LAG_MAX: Duration = Duration::from_secs(30);

/// Campaigns that are compared with the lists in one round trip.
const CAMPAIGNS_AT_ONCE: usize = 256;

/// The start of the reason of every hold that was set because of Meta's template list. Older releases wrote it with a
/// small letter.
const LISTED_REASON_PREFIX: &str = "Meta lists it as ";

fn is_of_list(reason: &str) -> bool {
    reason.get(..LISTED_REASON_PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(LISTED_REASON_PREFIX))
}

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

/// Reads the templates of `wabas`, each with its access token, and applies the new lists to the campaigns on `lines`.
/// Returns, for each WABA, the number of templates or the error. After an error, the stored templates of that WABA stay
/// as they are.
pub async fn sync_all(
    store: &Store,
    graph: &GraphClient,
    lines: &Lines,
    wabas: BTreeMap<&WabaId, &Secret>,
    now: UnixMs,
) -> Vec<(WabaId, Result<usize, String>)> {
    let mut results = Vec::with_capacity(wabas.len());
    let mut read = BTreeSet::new();
    for (waba, token) in wabas {
        let result = sync(store, graph, waba, token, now).await;
        if result.is_ok() {
            read.insert(waba);
        }
        match &result {
            Ok(n) => info!(waba.id = %waba, n, "templates read"),
            Err(error) => warn!(waba.id = %waba, %error, "templates could not be read"),
        }
        results.push((waba.clone(), result.map_err(|error| format!("waba {waba}: {error}"))));
    }
    if let Err(error) = follow(store, lines, &read, now).await {
        warn!(%error, "campaigns could not be compared with the templates: they are after the next read");
    }
    results
}

/// Applies the stored lists to the launched campaigns of `wabas`: stores the category of each template, and pauses
/// running campaigns whose template now takes other values.
///
/// A template that is missing from the list, or that cannot be parsed, pauses no running campaign: Meta's answers to
/// its messages show what is wrong.
async fn follow(store: &Store, lines: &Lines, wabas: &BTreeSet<&WabaId>, now: UnixMs) -> Result<(), StoreError> {
    let active: Vec<CampaignId> = store.active_campaigns(now).await?.into_iter().map(|(id, _)| id).collect();
    for ids in active.chunks(CAMPAIGNS_AT_ONCE) {
        let states = store.campaign_states(ids).await?;
        let has_ended = |state| matches!(state, Some(CampaignState::Completed | CampaignState::Cancelled) | None);
        let states: HashMap<CampaignId, CampaignState> = ids
            .iter()
            .copied()
            .zip(states)
            .filter(|(_, state)| !has_ended(*state))
            .filter_map(|(id, state)| Some((id, state?)))
            .collect();
        let ids: Vec<CampaignId> = states.keys().copied().collect();
        for Definition { campaign, .. } in store.definitions(&ids).await?.into_iter().flatten() {
            let Some(line) = lines.first_of(&campaign.lines).filter(|line| wabas.contains(&line.waba)) else {
                continue;
            };
            let fits = check_still_fits(store, Some(&line.waba), &campaign).await?;
            if let (Err(problem), Some(CampaignState::Running)) = (fits, states.get(&campaign.id))
                && !matches!(problem, TemplateError::Gone { .. } | TemplateError::Unreadable { .. })
            {
                pause(store, campaign.id, &problem, now).await?;
            }
        }
    }
    Ok(())
}

async fn pause(store: &Store, id: CampaignId, problem: &TemplateError, now: UnixMs) -> Result<(), StoreError> {
    let reason = PauseReason { code: None, details: problem.to_string() };
    let from = [CampaignState::Running];
    if store.change_campaign(id, &from, CampaignState::Paused, now, Some(&reason)).await? == StateChange::Done {
        warn!(campaign.id = %id, reason = reason.details, "campaign paused: its template was edited");
    }
    Ok(())
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
                let hold = Hold { code: None, reason, since: now, until: None };
                // Do not hold a template whose hold was lifted or ended a moment ago: the list may not show that yet.
                let listed_at = UnixMs(now.0.saturating_sub(LIST_LAG_MAX.as_millis() as u64));
                store.hold_if_new(&scope, &hold, listed_at).await?;
            }
            // The reason names the remedy for the status, which may have changed, for example from PENDING to REJECTED.
            (false, Some(hold)) if is_of_list(&hold.reason) => {
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
/// the values of the campaign's recipients. Stores the category of the template if it has changed. Does not call Meta:
/// the list is read again when a webhook reports a change.
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
        StoredTemplate::Found(template) => Some(*template),
    };
    if let Some(listed) = listed.as_ref().filter(|listed| listed.category != campaign.template.category) {
        store.set_category(campaign.id, &listed.category).await?;
    }
    Ok(campaign.template.check_still_fits(listed.as_ref()))
}

/// Why a template was not unpaused.
#[derive(Debug, thiserror::Error)]
pub enum UnpauseError {
    /// The WABA has no such template.
    #[error("waba {waba} has no template {name} in {language}")]
    Missing {
        /// The WABA.
        waba: WabaId,
        /// The name.
        name: String,
        /// The language.
        language: Language,
    },
    /// Meta lists the template with another status.
    #[error("template {name} is not paused: Meta lists it as {status}")]
    NotPaused {
        /// Name and language.
        name: String,
        /// The status, and the remedy if it is not `APPROVED`.
        status: String,
    },
    /// Meta did not lift the pause, for this reason.
    #[error("Meta does not lift the pause: {0}")]
    Refused(String),
    /// Meta did not answer, or returned an error.
    #[error(transparent)]
    Graph(GraphError),
    /// Redis failed. Meta may have lifted the pause.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<GraphError> for UnpauseError {
    fn from(error: GraphError) -> Self {
        match error {
            GraphError::Refused { .. } => UnpauseError::Refused(error.to_string()),
            GraphError::Unreachable { .. } | GraphError::NotMeta { .. } | GraphError::BadToken(_) => {
                UnpauseError::Graph(error)
            }
        }
    }
}

/// Asks Meta to lift the pause of a template of `waba`, and then lifts the hold on it. If the process dies in between,
/// the hold ends with Meta's webhook, or after the next read of the list.
///
/// Meta is asked for the template first, because the stored list may not show the pause yet.
pub async fn unpause(
    store: &Store,
    graph: &GraphClient,
    (waba, token): (&WabaId, &Secret),
    name: &str,
    language: &Language,
) -> Result<(), UnpauseError> {
    let listed = graph.templates_named(waba, token, name).await?;
    let wanted = |template: &Template| template.name == name && template.language == *language;
    let Some(template) = listed.iter().map(Template::read).find(wanted) else {
        return Err(UnpauseError::Missing { waba: waba.clone(), name: name.to_owned(), language: language.clone() });
    };
    if template.status != TemplateStatus::Paused {
        return Err(UnpauseError::NotPaused { name: template.to_string(), status: template.status_text() });
    }
    match graph.unpause_template(&template.id, token).await? {
        Unpaused::Done => {}
        Unpaused::Refused(reason) => return Err(UnpauseError::Refused(reason)),
    }
    store.note_changed_templates(waba).await?;
    let scope = HoldScope::of_template(waba, name, language);
    store.unhold(&scope).await?;
    info!(scope = %scope, "template unpaused, and its hold lifted");
    Ok(())
}
