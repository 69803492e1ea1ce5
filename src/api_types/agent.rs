//! Agents, their groups and sessions.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::page::{Listed, Page};
use crate::domain::{AgentId, BusinessId, GroupId, UnixMs};

/// An agent: a person who answers chats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Agent)]
pub struct AgentView {
    /// The id, which is the `agent` of chats and the `author` of messages.
    #[schema(value_type = String, example = "01KBCNYG3T8R7Q6P5N4M3K2J1H")]
    pub id: AgentId,
    /// The business.
    pub business: BusinessId,
    /// The email address. Null if the agent was removed.
    #[schema(required, example = "ana@example.com")]
    pub email: Option<String>,
    /// The name.
    #[schema(example = "Ana Gómez")]
    pub name: String,
    /// `agent`, `manager` or `admin`.
    #[schema(example = "agent")]
    pub role: String,
    /// How many chats the agent is given at once. 0: none, the agent takes them.
    #[schema(example = 5)]
    pub capacity: u32,
    /// `available` (gets chats), `away` (keeps the chats, and gets no more) or `offline`.
    #[schema(example = "available")]
    pub presence: String,
    /// The ids of the groups.
    #[schema(value_type = Vec<String>)]
    pub groups: Vec<GroupId>,
    /// How many chats the agent has.
    pub chats: u32,
    /// Whether the agent has set a password.
    pub has_password: bool,
    /// When the agent was created.
    pub created_at: UnixMs,
    /// When the agent was removed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    pub removed_at: Option<UnixMs>,
}

impl Listed for AgentView {
    const NAME: &str = "agents";
}

/// A page of agents.
pub type AgentPage = Page<AgentView>;

/// A new agent.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAgentBody {
    /// The business. May be left out if the caller sees only one.
    #[serde(default)]
    #[schema(nullable = false, value_type = Option<String>)]
    pub business: Option<String>,
    /// The email address, by which the agent logs in.
    #[schema(example = "ana@example.com")]
    pub email: String,
    /// The name.
    #[schema(example = "Ana Gómez")]
    pub name: String,
    /// `agent`, `manager` or `admin`.
    #[serde(default)]
    #[schema(nullable = false, default = "agent")]
    pub role: Option<String>,
    /// How many chats the agent is given at once, 0 to 1,000.
    #[serde(default)]
    #[schema(nullable = false, default = 5)]
    pub capacity: Option<u32>,
    /// The ids of the groups.
    #[serde(default)]
    pub groups: Vec<String>,
}

/// The agent, and the invitation with which the agent sets a password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct InvitedAgent {
    /// The agent.
    #[serde(flatten)]
    pub agent: AgentView,
    /// For `POST /v1/session`, once. It is not shown again.
    pub invitation: String,
    /// Until when the invitation can be used.
    pub invitation_until: UnixMs,
}

/// What is changed of an agent; what is missing stays as it is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields, default)]
pub struct AgentChangeBody {
    /// The email address.
    #[schema(nullable = false)]
    pub email: Option<String>,
    /// The name.
    #[schema(nullable = false)]
    pub name: Option<String>,
    /// `agent`, `manager` or `admin`.
    #[schema(nullable = false)]
    pub role: Option<String>,
    /// How many chats the agent is given at once, 0 to 1,000.
    #[schema(nullable = false)]
    pub capacity: Option<u32>,
    /// The ids of all groups.
    #[schema(nullable = false)]
    pub groups: Option<Vec<String>>,
}

/// Whether an agent is there.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPresence {
    /// `available`, `away` or `offline`.
    #[schema(example = "available")]
    pub presence: String,
}

/// A group of agents.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Group)]
pub struct GroupView {
    /// The id, unique in the business.
    #[schema(value_type = String, example = "sales")]
    pub id: GroupId,
    /// The business.
    pub business: BusinessId,
    /// The name.
    #[schema(example = "Ventas")]
    pub name: String,
    /// How many agents are in it.
    pub agents: u32,
    /// How many of its chats wait for an agent.
    pub queued: u32,
    /// When it was created.
    pub created_at: UnixMs,
}

impl Listed for GroupView {
    const NAME: &str = "groups";
}

/// Groups.
pub type GroupPage = Page<GroupView>;

/// A new group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewGroup {
    /// The business. May be left out if the caller sees only one.
    #[serde(default)]
    #[schema(nullable = false, value_type = Option<String>)]
    pub business: Option<String>,
    /// 1 to 32 of `a-z`, `0-9`, `-` and `_`. It does not change.
    #[schema(example = "sales")]
    pub id: String,
    /// The name.
    #[schema(example = "Ventas")]
    pub name: String,
}

/// The new name of a group.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GroupChange {
    /// The name.
    #[schema(example = "Ventas")]
    pub name: String,
}

/// A login: with `email` and `password`, or with an `invitation` and the new `password`.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogIn {
    /// The email address.
    #[serde(default)]
    #[schema(nullable = false, example = "ana@example.com")]
    pub email: Option<String>,
    /// An invitation.
    #[serde(default)]
    #[schema(nullable = false)]
    pub invitation: Option<String>,
    /// The password.
    #[schema(format = Password)]
    pub password: String,
}

/// A new password.
#[derive(Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPassword {
    /// The password until now.
    #[schema(format = Password)]
    pub current: String,
    /// The new one: 12 to 128 characters, and not soon guessed.
    #[schema(format = Password)]
    pub password: String,
}

/// How agents can log in, besides with a password.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct LoginMethods {
    /// The provider of logins, at which `GET /v1/session/oidc` logs in; null: there is none.
    pub oidc: Option<ProviderView>,
}

/// A provider of logins.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = LoginProvider)]
pub struct ProviderView {
    /// What people call it.
    #[schema(example = "Google")]
    pub label: String,
}

/// The session of an agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Session)]
pub struct SessionView {
    /// The agent.
    pub agent: AgentView,
    /// What the agent may call: the scopes.
    pub scopes: Vec<String>,
    /// For the header `X-CSRF-Token` of every call that changes something.
    pub csrf_token: String,
    /// When the session ends, unless it is idle before.
    pub until: UnixMs,
}

/// To whom a chat is given: one of the two.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AssignChat {
    /// The id of an agent.
    #[serde(default)]
    #[schema(nullable = false)]
    pub agent: Option<String>,
    /// The id of a group, whose queue the chat joins.
    #[serde(default)]
    #[schema(nullable = false, example = "sales")]
    pub group: Option<String>,
}

/// Until when a chat is put aside.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SnoozeChat {
    /// A time in the future.
    pub until: UnixMs,
}
