//! Agents and their groups.

use axum::{Json, extract::State, http::StatusCode};
use serde::Deserialize;
use tracing::debug;
use ulid::Ulid;
use utoipa::IntoParams;

use super::{
    Shared, SharedState,
    access::{Access, agent_not_found, group_not_found},
    audit::Audit,
    extract::{AgentPath, GroupPath, JsonBody},
    session_token::random_text,
    values::{group_id, invalid, name},
};
use crate::{
    api_types::{
        AgentChangeBody, AgentPage, AgentView, GroupChange, GroupPage, GroupView, InvitedAgent, NewAgentBody, NewGroup,
        NewPresence, Page,
    },
    config::KeyScope,
    domain::{AgentId, AgentRole, BusinessId, GroupId, Presence, SecretDigest, agent},
    http::{
        page,
        problem::{Problem, Result},
        request::Params,
    },
    postgres::agents::{Agent, AgentChange, AgentGroup, AgentRefused, NewAgent},
};

/// The capacity of an agent, unless it is given.
const CAPACITY: u32 = 5;

/// The query parameters of the list of agents.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AgentListParams {
    /// `true`: those who were removed too.
    #[param(value_type = Option<bool>, nullable = false)]
    removed: Option<String>,
    /// `next` of the page before. Without it the list begins.
    #[param(nullable = false)]
    cursor: Option<String>,
    /// The maximum number of rows.
    #[param(value_type = Option<u16>, nullable = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<String>,
}

/// List agents, in the order of their creation.
#[utoipa::path(
    get, path = "/v1/agents", tag = "agents", operation_id = "list_agents",
    security(("api_key" = [KeyScope::Chats])),
    params(AgentListParams),
    responses((status = 200, description = "A page of agents.", body = AgentPage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn list(
    State(shared): SharedState,
    access: Access,
    Params(params): Params<AgentListParams>,
) -> Result<Json<AgentPage>> {
    let limit = page::limit(params.limit.as_deref())?;
    let after = page::cursor::<AgentId>(params.cursor.as_deref())?;
    let all = page::non_empty(params.removed.as_deref()) == Some("true");
    let mut agents = shared.database()?.agents(access.names().as_deref(), all, after, limit + 1).await?;
    let has_more = agents.len() > limit;
    agents.truncate(limit);
    let next = agents.last().filter(|_| has_more).map(|agent| agent.id.to_string());
    Ok(Json(Page { rows: agents.into_iter().map(agent_view).collect(), next }))
}

/// Create an agent.
///
/// The response has an `invitation`: whoever has it sets the password of the agent with `POST /v1/session`, once.
#[utoipa::path(
    post, path = "/v1/agents", tag = "agents", operation_id = "create_agent",
    security(("api_key" = [KeyScope::Admin])),
    request_body = NewAgentBody,
    responses((status = 201, description = "The agent and the invitation.", body = InvitedAgent)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "agent-exists", "invalid"]))),
)]
pub(super) async fn create(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewAgentBody>,
) -> Result<(StatusCode, Json<InvitedAgent>)> {
    let business = shared.business(&access, new.business.as_deref())?;
    let id = AgentId(Ulid::from_parts(shared.now().0, rand::random()));
    let agent = NewAgent {
        id,
        business: business.clone(),
        email: email(&new.email)?,
        name: name(&new.name)?,
        role: new.role.as_deref().map(role).transpose()?.unwrap_or(AgentRole::Agent),
        capacity: capacity(new.capacity.unwrap_or(CAPACITY))?,
        groups: new.groups.iter().map(|group| group_id(group)).collect::<Result<_>>()?,
    };
    let created = shared.database()?.create_agent(&agent, shared.now()).await?;
    created.map_err(|refused| refusal(id, refused))?;
    audit.on(id);
    Ok((StatusCode::CREATED, Json(shared.invited(&business, id).await?)))
}

/// Get an agent.
#[utoipa::path(
    get, path = "/v1/agents/{agent}", tag = "agents", operation_id = "get_agent",
    security(("api_key" = [KeyScope::Chats])),
    params(AgentPath),
    responses((status = 200, description = "The agent.", body = AgentView)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn one(AgentPath(agent): AgentPath) -> Json<AgentView> {
    Json(agent_view(agent))
}

/// Change an agent.
#[utoipa::path(
    patch, path = "/v1/agents/{agent}", tag = "agents", operation_id = "change_agent",
    security(("api_key" = [KeyScope::Admin])),
    params(AgentPath),
    request_body = AgentChangeBody,
    responses((status = 200, description = "The agent after the change.", body = AgentView)),
    extensions(("x-problems" = json!(["no-database", "agent-exists", "invalid"]))),
)]
pub(super) async fn change(
    State(shared): SharedState,
    AgentPath(agent): AgentPath,
    JsonBody(new): JsonBody<AgentChangeBody>,
) -> Result<Json<AgentView>> {
    let change = AgentChange {
        email: new.email.as_deref().map(email).transpose()?,
        name: new.name.as_deref().map(name).transpose()?,
        role: new.role.as_deref().map(role).transpose()?,
        capacity: new.capacity.map(capacity).transpose()?,
        groups: match new.groups {
            Some(groups) => Some(groups.iter().map(|group| group_id(group)).collect::<Result<_>>()?),
            None => None,
        },
    };
    let changed = shared.database()?.change_agent(&agent.business, agent.id, &change).await?;
    changed.map_err(|refused| refusal(agent.id, refused))?;
    shared.assign(&agent.business).await;
    shared.agent(agent.id).await.map(Json)
}

/// Remove an agent.
///
/// The sessions of the agent end, and the chats return to the queue. Chats and messages keep the id.
#[utoipa::path(
    delete, path = "/v1/agents/{agent}", tag = "agents", operation_id = "remove_agent",
    security(("api_key" = [KeyScope::Admin])),
    params(AgentPath),
    responses((status = 204, description = "The agent is removed.")),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn remove(
    State(shared): SharedState,
    audit: Audit,
    AgentPath(agent): AgentPath,
) -> Result<StatusCode> {
    audit.changed(shared.database()?.remove_agent(&agent.business, agent.id, shared.now()).await?);
    shared.assign(&agent.business).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Invite an agent again: for a new password.
///
/// The invitation replaces an earlier one. The password stays until the invitation is used.
#[utoipa::path(
    post, path = "/v1/agents/{agent}/invitation", tag = "agents", operation_id = "invite_agent",
    security(("api_key" = [KeyScope::Admin])),
    params(AgentPath),
    responses((status = 200, description = "The agent and the invitation.", body = InvitedAgent)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn invite(State(shared): SharedState, AgentPath(agent): AgentPath) -> Result<Json<InvitedAgent>> {
    shared.invited(&agent.business, agent.id).await.map(Json)
}

/// End all sessions of an agent.
#[utoipa::path(
    delete, path = "/v1/agents/{agent}/sessions", tag = "agents", operation_id = "end_sessions",
    security(("api_key" = [KeyScope::Admin])),
    params(AgentPath),
    responses((status = 204, description = "The sessions have ended.")),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn end_sessions(
    State(shared): SharedState,
    audit: Audit,
    AgentPath(agent): AgentPath,
) -> Result<StatusCode> {
    audit.changed(shared.database()?.end_sessions(agent.id, None).await? > 0);
    Ok(StatusCode::NO_CONTENT)
}

/// Say whether an agent is there.
///
/// An agent sets the own presence, a manager that of every agent. `offline` returns the agent's chats to the queue. An
/// agent of whom nothing is heard for `agents.offline_after` goes offline: a session with an open stream is enough, and
/// without one this call has to be repeated.
#[utoipa::path(
    put, path = "/v1/agents/{agent}/presence", tag = "agents", operation_id = "set_presence",
    security(("api_key" = [KeyScope::Chats])),
    params(AgentPath),
    request_body = NewPresence,
    responses((status = 200, description = "The agent after the change.", body = AgentView)),
    extensions(("x-problems" = json!(["no-database", "invalid"]))),
)]
pub(super) async fn set_presence(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    AgentPath(agent): AgentPath,
    JsonBody(new): JsonBody<NewPresence>,
) -> Result<Json<AgentView>> {
    access.check_self_or_manager(agent.id)?;
    let presence = Presence::named(&new.presence);
    let presence = presence.ok_or_else(|| invalid("presence is available, away or offline"))?;
    audit.changed(presence != agent.presence);
    if !shared.database()?.set_presence(&agent.business, agent.id, presence, shared.now()).await? {
        return Err(agent_not_found(agent.id));
    }
    shared.assign(&agent.business).await;
    shared.agent(agent.id).await.map(Json)
}

/// List the groups.
#[utoipa::path(
    get, path = "/v1/groups", tag = "agents", operation_id = "list_groups",
    security(("api_key" = [KeyScope::Chats])),
    responses((status = 200, description = "All groups.", body = GroupPage)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn groups(State(shared): SharedState, access: Access) -> Result<Json<GroupPage>> {
    let groups = shared.database()?.groups(access.names().as_deref()).await?;
    Ok(Json(Page { rows: groups.into_iter().map(group_view).collect(), next: None }))
}

/// Create a group.
#[utoipa::path(
    post, path = "/v1/groups", tag = "agents", operation_id = "create_group",
    security(("api_key" = [KeyScope::Admin])),
    request_body = NewGroup,
    responses((status = 201, description = "The group.", body = GroupView)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "group-exists", "invalid"]))),
)]
pub(super) async fn create_group(
    State(shared): SharedState,
    access: Access,
    audit: Audit,
    JsonBody(new): JsonBody<NewGroup>,
) -> Result<(StatusCode, Json<GroupView>)> {
    let business = shared.business(&access, new.business.as_deref())?;
    let id = group_id(&new.id)?;
    audit.on(&id);
    if !shared.database()?.create_group(&business, &id, &name(&new.name)?, shared.now()).await? {
        let detail = format!("{business} has a group {id} already: change it with PATCH /v1/groups/{id}");
        return Err(Problem::new(StatusCode::CONFLICT, "group-exists", detail));
    }
    Ok((StatusCode::CREATED, Json(shared.group(&business, &id).await?)))
}

/// Rename a group.
#[utoipa::path(
    patch, path = "/v1/groups/{group}", tag = "agents", operation_id = "rename_group",
    security(("api_key" = [KeyScope::Admin])),
    params(GroupPath),
    request_body = GroupChange,
    responses((status = 200, description = "The group after the change.", body = GroupView)),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "invalid"]))),
)]
pub(super) async fn rename_group(
    State(shared): SharedState,
    GroupPath { business, group }: GroupPath,
    JsonBody(change): JsonBody<GroupChange>,
) -> Result<Json<GroupView>> {
    if !shared.database()?.rename_group(&business, &group, &name(&change.name)?).await? {
        return Err(group_not_found(&group));
    }
    shared.group(&business, &group).await.map(Json)
}

/// Remove a group that has no chats.
#[utoipa::path(
    delete, path = "/v1/groups/{group}", tag = "agents", operation_id = "remove_group",
    security(("api_key" = [KeyScope::Admin])),
    params(GroupPath),
    responses((status = 204, description = "The group is removed.")),
    extensions(("x-problems" = json!(["no-database", "business-missing", "business-not-found", "group-in-use"]))),
)]
pub(super) async fn remove_group(
    State(shared): SharedState,
    GroupPath { business, group }: GroupPath,
) -> Result<StatusCode> {
    match shared.database()?.remove_group(&business, &group).await? {
        None => Err(group_not_found(&group)),
        Some(0) => Ok(StatusCode::NO_CONTENT),
        Some(chats) => {
            let detail = format!("group {group} has {chats} chats: give them to another group first");
            Err(Problem::new(StatusCode::CONFLICT, "group-in-use", detail))
        }
    }
}

impl Shared {
    /// Gives the queue of a business to its agents. If that fails, a process with the role `engage` does it soon.
    pub(super) async fn assign(&self, business: &BusinessId) {
        let Some(database) = &self.state.database else { return };
        if let Err(error) = database.assign(business, self.now()).await {
            debug!(%error, business.id = %business, "chats are not assigned at once");
        }
    }

    async fn agent(&self, id: AgentId) -> Result<AgentView> {
        let agent = self.database()?.agent(None, id).await?;
        agent.map(agent_view).ok_or_else(|| agent_not_found(id))
    }

    async fn invited(&self, business: &BusinessId, id: AgentId) -> Result<InvitedAgent> {
        let invitation = random_text();
        let invited = self.database()?.invite(business, id, &SecretDigest::of(&invitation), self.now()).await?;
        let invitation_until = invited.ok_or_else(|| agent_not_found(id))?;
        Ok(InvitedAgent { agent: self.agent(id).await?, invitation, invitation_until })
    }

    async fn group(&self, business: &BusinessId, id: &GroupId) -> Result<GroupView> {
        let groups = self.database()?.groups(Some(&[business.to_string()])).await?;
        groups.into_iter().find(|group| group.id == *id).map(group_view).ok_or_else(|| group_not_found(id))
    }
}

fn refusal(id: AgentId, refused: AgentRefused) -> Problem {
    match refused {
        AgentRefused::NoAgent => agent_not_found(id),
        AgentRefused::EmailTaken => {
            Problem::new(StatusCode::CONFLICT, "agent-exists", "another agent has this email address")
        }
        AgentRefused::NoGroup(group) => invalid(format!("the business has no group {group}")),
    }
}

fn email(text: &str) -> Result<String> {
    agent::email(text).ok_or_else(|| invalid("email is not an email address"))
}

fn role(text: &str) -> Result<AgentRole> {
    AgentRole::named(text).ok_or_else(|| invalid("role is agent, manager or admin"))
}

fn capacity(number: u32) -> Result<u32> {
    let is_valid = number <= agent::CAPACITY_MAX;
    is_valid.then_some(number).ok_or_else(|| invalid(format!("capacity is 0 to {}", agent::CAPACITY_MAX)))
}

pub(super) fn agent_view(agent: Agent) -> AgentView {
    AgentView {
        id: agent.id,
        business: agent.business,
        email: agent.email,
        name: agent.name,
        role: agent.role.name().to_owned(),
        capacity: agent.capacity,
        presence: agent.presence.name().to_owned(),
        groups: agent.groups,
        chats: agent.chats,
        has_password: agent.has_password,
        created_at: agent.created_at,
        removed_at: agent.removed_at,
    }
}

fn group_view(group: AgentGroup) -> GroupView {
    let AgentGroup { business, id, name, agents, queued, created_at } = group;
    GroupView { id, business, name, agents, queued, created_at }
}
