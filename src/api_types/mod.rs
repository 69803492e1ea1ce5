//! The bodies of the HTTP API's requests and responses: each type once, for the server and for the client of the
//! command line. `docs/openapi.json` describes them as JSON schemas, which `ToSchema` derives.
//!
//! The client also reads the answers of servers of other versions. So a field has `serde(default)` wherever the client
//! can do without it, and `schema(required)` says that this version of the server always writes it. Fields that a type
//! does not have are kept by the client (`client::Known`).
//!
//! Never: decides or computes anything.

mod agent;
mod business;
mod campaign;
mod chat;
mod contact;
mod conversation;
mod discovery;
mod hold;
mod inbound_link;
mod job;
mod line;
mod page;
mod pause;
mod person;
mod preflight;
mod problem;
mod recipient;
mod schemas;
mod statistics;
mod subscriber;
mod suppression;
mod tag;
mod template;
mod upload;
mod worker;

pub use self::{
    agent::{
        AgentChangeBody, AgentPage, AgentView, AssignChat, GroupChange, GroupPage, GroupView, InvitedAgent, LogIn,
        LoginMethods, NewAgentBody, NewGroup, NewPassword, NewPresence, ProviderView, SessionView, SnoozeChat,
    },
    business::{BusinessPage, BusinessView},
    campaign::{
        CampaignChange, CampaignCreated, CampaignPage, CampaignRetried, CampaignView, NewCampaign, NewRetry, NewTest,
        StateEvent, TemplateName,
    },
    chat::{
        ChatMessageEvent, ChatMessagePage, ChatMessageView, ChatPage, ChatView, ContactView, FinishChat, MediaView,
        NewChatMessage, NewNote,
    },
    contact::{
        ContactChangeBody, ContactDetails, ContactPage, ContactStatisticsView, NewContact, NewProperty,
        PropertyChangeBody, PropertyPage, PropertyView,
    },
    conversation::{ConversationCountPage, ConversationCountView, ConversationPage, ConversationView},
    discovery::{DRIFT_KINDS, DiscoveredApp, DiscoveredBusiness, DiscoveredLine, DiscoveredWaba, Discovery, Drift},
    hold::{HoldPage, HoldView, LiftedHold},
    inbound_link::{InboundLinkChangeBody, InboundLinkPage, InboundLinkView, NewInboundLink},
    job::{DeadJobPage, DeadJobView, RetriedJob},
    line::{LINE_STATES, LineChange, LinePage, LineView, RATE_SOURCES},
    page::{Listed, Page},
    pause::{PauseChange, PauseTarget, PauseView},
    person::ForgottenView,
    preflight::{
        CostRow, Preflight, PreflightBudget, PreflightCost, PreflightProblem, PreflightRejects, PreflightTemplate,
        ProblemCode,
    },
    problem::{PROBLEM_PREFIX, ProblemBody},
    recipient::{RecipientPage, RecipientView, Times},
    schemas::recipient_state,
    statistics::{ByState, CampaignChatsView, FailureCount, Funnel, SkipCount, Statistics, WaitReason, Waiting},
    subscriber::{SubscriberPage, SubscriberView},
    suppression::{NewSuppression, SuppressionPage, SuppressionView},
    tag::{
        CannedReplyChangeBody, CannedReplyPage, CannedReplyView, FillIn, FilledIn, NewCannedReply, NewTag, NewTags,
        TagChangeBody, TagPage, TagView,
    },
    template::{SyncedTemplates, SyncedWaba, TemplatePage, TemplateView, UnpausedTemplate},
    upload::{Rejection, UploadResult},
    worker::{WorkerPage, WorkerView},
};
