//! What a caller may see and change: the lines, templates and campaigns of the businesses of its key, or of the business
//! of an agent; and of an agent who is no manager, the chats of the own groups.
//!
//! The guard puts the [`Access`] of the key or session into the request. The extractors of ids in paths check it, so a handler
//! gets only an id that its caller may know. Calls without an id ask here for what the caller may see.
//!
//! Never: reveals whether something of another business exists, except that its `external_id` is in use.

use std::{collections::HashMap, fmt, sync::Arc};

use axum::{
    extract::FromRequestParts,
    http::{StatusCode, request::Parts},
};

use super::{Shared, session_token::SessionToken};
use crate::{
    config::{ApiKey, KeyScope},
    domain::{
        AgentId, AgentRole, BusinessId, Campaign, CampaignId, HoldScope, Language, Line, LineId, Lines, PauseScope,
        WabaId, agent::Visibility,
    },
    http::{
        page,
        problem::{Problem, Result},
    },
    intake::Intake,
    postgres::sessions::Session,
    telemetry::traces::Origin,
};

/// How many definitions of campaigns are read in one round trip. Each has a template: some kB.
const DEFINITIONS_AT_ONCE: usize = 256;

/// The name of the key of a request or the id of its agent, the businesses that it is limited to, and the trace of its
/// caller.
#[derive(Clone)]
pub(super) struct Access {
    who: Arc<str>,
    businesses: Option<Arc<[BusinessId]>>,
    /// Of an agent.
    session: Option<Arc<(Session, SessionToken)>>,
    origin: Option<Origin>,
}

/// What agents of a role may do.
pub(super) fn scopes(role: AgentRole) -> &'static [KeyScope] {
    use KeyScope::{Chats, Contacts, Operate, Read, Submit};
    match role {
        AgentRole::Agent => &[Contacts, Chats],
        AgentRole::Manager => &[Read, Submit, Operate, Contacts, Chats],
        AgentRole::Admin => &KeyScope::ALL,
    }
}

impl Access {
    /// What `key` may see.
    pub(super) fn of(key: &ApiKey) -> Self {
        let businesses = key.businesses.as_deref().map(Into::into);
        Self { who: key.name.as_str().into(), businesses, session: None, origin: None }
    }

    /// What the agent of a session may see.
    pub(super) fn of_session(session: Session, token: SessionToken) -> Self {
        Self {
            who: session.agent.to_string().into(),
            businesses: Some([session.business.clone()].into()),
            session: Some(Arc::new((session, token))),
            origin: None,
        }
    }

    /// The same, with the trace of a request.
    pub(super) fn traced(self, origin: Option<Origin>) -> Self {
        Self { origin, ..self }
    }

    /// The session of the caller.
    ///
    /// Errors: 403 for a key.
    pub(super) fn session(&self) -> Result<&(Session, SessionToken)> {
        let detail = "this call is for an agent who has logged in, not for a key";
        self.session.as_deref().ok_or_else(|| Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }

    /// The token of the session; `None` for a key.
    pub(super) fn token(&self) -> Option<&SessionToken> {
        self.session.as_deref().map(|(_, token)| token)
    }

    /// The chats that the caller sees, of its businesses; `None`: all.
    pub(super) fn visibility(&self) -> Option<Visibility> {
        let (session, _) = self.session.as_deref().filter(|(session, _)| session.role == AgentRole::Agent)?;
        Some(Visibility { agent: session.agent.to_string(), groups: session.groups.clone() })
    }

    /// Errors: 403 if the caller is neither the agent `id` nor a manager.
    pub(super) fn check_self_or_manager(&self, id: AgentId) -> Result<()> {
        match self.session.as_deref() {
            Some((session, _)) if session.role < AgentRole::Manager && session.agent != id => {
                let detail = "agents say only of themselves whether they are there; managers say it of everybody";
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
            }
            _ => Ok(()),
        }
    }

    /// Errors: 403 if the caller is an agent and no manager.
    pub(super) fn check_manager(&self) -> Result<()> {
        match self.session.as_deref() {
            Some((session, _)) if session.role < AgentRole::Manager => {
                Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "this call is for managers"))
            }
            _ => Ok(()),
        }
    }

    /// The name of the key or the agent.
    pub(super) fn name(&self) -> &str {
        self.session.as_deref().map_or(&self.who, |(session, _)| &session.name)
    }

    /// The name of the key, or the id of the agent.
    pub(super) fn who(&self) -> &str {
        &self.who
    }

    /// Whether the key is limited to some businesses.
    pub(super) fn is_limited(&self) -> bool {
        self.businesses.is_some()
    }

    /// Whether the caller may see what belongs to `business`. What belongs to none is only for keys without a limit.
    pub(super) fn allows(&self, business: Option<&BusinessId>) -> bool {
        self.businesses.as_ref().is_none_or(|own| business.is_some_and(|business| own.contains(business)))
    }

    /// The businesses that the key is limited to; `None`: it is not.
    pub(super) fn names(&self) -> Option<Vec<String>> {
        self.businesses.as_ref().map(|own| own.iter().map(ToString::to_string).collect())
    }

    /// Whether the caller may see a pause. That of everything stops its lines too.
    pub(super) fn sees(&self, scope: &PauseScope) -> bool {
        match scope {
            PauseScope::Installation => true,
            PauseScope::Business(business) => self.allows(Some(business)),
        }
    }

    /// Whether the caller may see a hold that belongs to `business`. That of the platform stops its lines too.
    pub(super) fn sees_hold(&self, scope: &HoldScope, business: Option<&BusinessId>) -> bool {
        *scope == HoldScope::Platform || self.allows(business)
    }

    /// Errors: 403 if the caller may not pause and resume `scope`.
    pub(super) fn check_pause(&self, scope: &PauseScope) -> Result<()> {
        let Some(own) = &self.businesses else { return Ok(()) };
        if *scope != PauseScope::Installation && self.sees(scope) {
            return Ok(());
        }
        let own: Vec<&str> = own.iter().map(BusinessId::as_str).collect();
        let detail = format!("this key is limited: name one of its businesses in `business`: {}", own.join(", "));
        Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", detail))
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Access {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self> {
        let access = parts.extensions.get::<Access>().cloned();
        access.ok_or_else(|| Problem::internal("a call that the guard has not admitted"))
    }
}

/// 404 for the campaign `id`: it does not exist, or the caller may not see it.
pub(super) fn campaign_not_found(id: impl fmt::Display) -> Problem {
    Problem::not_found("campaign-not-found", format!("there is no campaign {id}"))
}

/// 404 for the agent `id`: there is none, or the caller may not see it.
pub(super) fn agent_not_found(id: impl fmt::Display) -> Problem {
    Problem::not_found("agent-not-found", format!("there is no agent {id}; GET /v1/agents lists the agents"))
}

/// 404 for the group `id`.
pub(super) fn group_not_found(id: impl fmt::Display) -> Problem {
    Problem::not_found("group-not-found", format!("there is no group {id}; GET /v1/groups lists the groups"))
}

/// 404 for the tag `id`.
pub(super) fn tag_not_found(id: impl fmt::Display) -> Problem {
    Problem::not_found("tag-not-found", format!("there is no tag {id}; GET /v1/tags lists the tags"))
}

/// 404 for the canned reply `id`: there is none, or the caller does not use it.
pub(super) fn reply_not_found(id: impl fmt::Display) -> Problem {
    Problem::not_found("reply-not-found", format!("there is no canned reply {id}; GET /v1/replies lists them"))
}

/// 404 for the inbound link `id`: there is none, or the caller may not see it.
pub(super) fn link_not_found(id: impl fmt::Display) -> Problem {
    Problem::not_found("link-not-found", format!("there is no inbound link {id}; GET /v1/inbound-links lists them"))
}

/// 404 for the contact `id`: there is none, or the caller may not see it.
pub(super) fn contact_not_found(id: impl fmt::Display) -> Problem {
    Problem::not_found("contact-not-found", format!("there is no contact {id}"))
}

/// 404 for the property `key`.
pub(super) fn property_not_found(key: impl fmt::Display) -> Problem {
    Problem::not_found("property-not-found", format!("there is no property {key}; GET /v1/properties lists them"))
}

/// 404 for the hold `id`: it is no scope, or the caller may not see it.
pub(super) fn hold_not_found(id: &str) -> Problem {
    let detail = format!(
        "there is no hold {id}: `pregon hold list` and GET /v1/holds list the holds; encode a slash in an id as %2F"
    );
    Problem::not_found("hold-not-found", detail)
}

/// 404 for a template: it does not exist, or the caller may not see its WABA.
pub(super) fn template_not_found(waba: &WabaId, name: &str, language: &Language) -> Problem {
    let detail = format!(
        "there is no template {name} in {language} of WABA {waba}: `pregon template list` and GET /v1/templates list \
        the templates"
    );
    Problem::not_found("template-not-found", detail)
}

impl Shared {
    /// The business of a hold, by the configured lines and WABAs.
    pub(super) fn business_of(&self, scope: &HoldScope) -> Option<BusinessId> {
        let of_waba = || self.state.wabas.get().get(scope.waba()?).cloned();
        scope.business(&self.state.lines.get()).cloned().or_else(of_waba)
    }

    /// The lines that the caller may see, in the order of the configuration.
    pub(super) fn lines(&self, access: &Access) -> Lines {
        let lines = self.state.lines.get();
        if !access.is_limited() {
            return lines;
        }
        lines.iter().filter(|line| access.allows(Some(&line.business))).cloned().collect()
    }

    /// The line `id`.
    ///
    /// Errors: 404 if the caller may not see it, or if it is not configured.
    pub(super) fn line(&self, access: &Access, id: &LineId) -> Result<Line> {
        let lines = self.state.lines.get();
        let line = lines.by_id(id).filter(|line| access.allows(Some(&line.business)));
        line.cloned()
            .ok_or_else(|| Problem::not_found("line-not-found", format!("there is no line {id} in the configuration")))
    }

    /// The business that a call is about: the one it names, or the only one that the caller may see.
    ///
    /// Errors: 400 if it names none and the caller sees several; 404 if the caller may not see it, or if it is not
    /// configured.
    pub(super) fn business(&self, access: &Access, named: Option<&str>) -> Result<BusinessId> {
        let businesses = self.state.businesses.get();
        let visible = || businesses.iter().filter(|business| access.allows(Some(business)));
        if let Some(name) = page::non_empty(named) {
            return visible().find(|business| business.as_str() == name).cloned().ok_or_else(|| {
                let detail = format!(
                    "there is no business {name} in the configuration: `pregon business list` and GET /v1/businesses \
                    list the businesses"
                );
                Problem::not_found("business-not-found", detail)
            });
        }
        let businesses: Vec<&BusinessId> = visible().collect();
        if let [business] = businesses[..] {
            return Ok(business.clone());
        }
        let names: Vec<&str> = businesses.iter().map(|business| business.as_str()).collect();
        let detail = format!("name the business in `business`: one of {}", names.join(", "));
        Err(Problem::bad_request("business-missing", detail))
    }

    /// Errors: 404 if the caller may not see the campaign `id`. For a caller without a limit, the campaign need not
    /// exist.
    pub(super) async fn check_campaign(&self, access: &Access, id: CampaignId) -> Result<()> {
        match self.visible(access, &[id]).await?.as_slice() {
            [true] => Ok(()),
            _ => Err(campaign_not_found(id)),
        }
    }

    /// Whether the caller may see each of the campaigns `ids`.
    pub(super) async fn visible(&self, access: &Access, ids: &[CampaignId]) -> Result<Vec<bool>> {
        if !access.is_limited() {
            return Ok(vec![true; ids.len()]);
        }
        let mut visible = Vec::with_capacity(ids.len());
        for ids in ids.chunks(DEFINITIONS_AT_ONCE) {
            let definitions = self.state.store.definitions(ids).await?.into_iter();
            let campaigns: Vec<_> = definitions.map(|definition| Some(definition?.campaign)).collect();
            let businesses = self.businesses_of(&campaigns).await?;
            visible.extend(businesses.iter().map(|business| access.allows(business.as_ref())));
        }
        Ok(visible)
    }

    /// The businesses of campaigns: those of their lines. A line that is no longer configured belongs to the business of
    /// its WABA, while the installation knows the line.
    async fn businesses_of(&self, campaigns: &[Option<Campaign>]) -> Result<Vec<Option<BusinessId>>> {
        let (lines, wabas) = (self.state.lines.get(), self.state.wabas.get());
        let configured = |campaign: &Campaign| lines.first_of(&campaign.lines).map(|line| &line.business);
        let known = match campaigns.iter().flatten().all(|campaign| configured(campaign).is_some()) {
            true => HashMap::new(),
            false => self.state.store.known_lines().await?,
        };
        let of_waba = |campaign: &Campaign| {
            let waba = campaign.lines.iter().find_map(|line| known.get(line))?;
            wabas.get(waba)
        };
        let business = |campaign: &Campaign| configured(campaign).or_else(|| of_waba(campaign));
        Ok(campaigns.iter().map(|campaign| business(campaign.as_ref()?).cloned()).collect())
    }

    /// The intake for the caller: other lines, and their campaigns, do not exist for it.
    pub(super) fn intake(&self, access: &Access) -> Intake {
        let lines = match access.is_limited() {
            true => self.lines(access).into(),
            false => self.state.lines.clone(),
        };
        let intake = self.state.intake.clone();
        let origin = access.origin.clone().unwrap_or(intake.origin);
        Intake { lines, is_limited: access.is_limited(), origin, ..intake }
    }
}
