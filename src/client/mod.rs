//! A typed client of the HTTP API.
//!
//! Owns: connections to one server, and the API key.
//! Never: sends the key to another host (it follows no redirects and uses no proxy of the environment); retries a call.

mod error;
mod events;
mod feed;
mod known;
mod sse;
mod stream;

use std::{fs, path::Path, time::Duration};

use reqwest::{
    Body, Certificate, Method, RequestBuilder, Response, StatusCode, Url, header::HeaderValue, redirect::Policy,
};
use serde::de::DeserializeOwned;

use self::stream::Stream;
pub use self::{
    error::ClientError,
    events::{CampaignEvent, Events},
    feed::{FeedQuery, FeedReader},
    known::Known,
};
use crate::{
    api_types::{
        AgentChangeBody, AgentView, BusinessView, CampaignChange, CampaignCreated, CampaignRetried, CampaignView,
        ChatMessageView, ChatView, DeadJobView, Discovery, ForgottenView, GroupChange, GroupView, HoldView,
        InvitedAgent, LiftedHold, LineChange, LineView, NewAgentBody, NewCampaign, NewChatMessage, NewGroup,
        NewPresence, NewRetry, NewSuppression, NewTest, Page, PauseChange, PauseTarget, Preflight, RecipientView,
        RetriedJob, SuppressionView, SyncedTemplates, TemplateView, UnpausedTemplate, UploadResult, WorkerView,
    },
    coding::Coding,
    domain::{
        AgentId, BusinessId, CampaignId, CampaignState, EntryId, Language, LineId, Phone, Presence, Secret,
        SuppressionReason, SuppressionScope, WabaId,
    },
    intake::{Format, UploadLayout},
};

/// Time limit for establishing a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Timeout of a call that is not a stream. The longest call launches a campaign of millions of recipients.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

/// The result of creating a campaign.
#[derive(Clone, Debug, PartialEq)]
pub struct Created {
    /// The id of the campaign.
    pub id: CampaignId,
    /// The state of the campaign: always a draft if this call created it.
    pub state: CampaignState,
    /// Whether this call created the campaign (status 201). If not, one with the same external id existed (200).
    pub created: bool,
}

/// A state change of a campaign, of a line or of all lines. Its name is the last segment of the URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ControlAction {
    /// Start sending.
    Launch,
    /// Send nothing more until resumed.
    Pause,
    /// Continue sending.
    Resume,
    /// Stop for good: the remaining messages are never sent.
    Cancel,
}

impl ControlAction {
    fn word(self) -> &'static str {
        match self {
            ControlAction::Launch => "launch",
            ControlAction::Pause => "pause",
            ControlAction::Resume => "resume",
            ControlAction::Cancel => "cancel",
        }
    }
}

/// The defaults of the rows of an imported list of suppressions.
#[derive(Clone, Debug, Default)]
pub struct ImportTarget {
    /// The business; `None` for the only business that the key may use.
    pub business: Option<BusinessId>,
    /// The scope of rows without one.
    pub scope: Option<SuppressionScope>,
    /// The reason of rows without one.
    pub reason: Option<SuppressionReason>,
}

/// The query of a call about a business.
fn of(business: Option<&BusinessId>) -> Vec<(&'static str, &str)> {
    business.map(|business| ("business", business.as_str())).into_iter().collect()
}

/// The builder of every HTTP client of the command line.
pub fn http() -> reqwest::ClientBuilder {
    // reqwest uses the crypto provider of the process. An error means that it is installed already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder()
        .user_agent(concat!("pregon/", env!("CARGO_PKG_VERSION")))
        .redirect(Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_TIMEOUT)
}

fn certificates(file: &Path) -> Result<Vec<Certificate>> {
    let unusable = |why: String| ClientError::Unusable(format!("--ca {}: {why}", file.display()));
    let pem = fs::read(file).map_err(|error| unusable(error.to_string()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(|error| unusable(error.to_string()))?;
    if certificates.is_empty() { Err(unusable("it has no certificate".into())) } else { Ok(certificates) }
}

/// A client of one server. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    http: reqwest::Client,
    server: Url,
    key: Option<Secret>,
}

/// The result of a call.
pub type Result<T> = std::result::Result<T, ClientError>;

impl Client {
    /// Builds a client, which connects on the first call. `server` may have a path, which precedes that of the API.
    /// `ca` is a PEM file with the only certificates to trust; without it, the client trusts those of the system.
    ///
    /// Errors: [`ClientError::Unusable`] if the URL is not HTTP or HTTPS, the key is not a valid header value, or the
    /// file has no readable certificates.
    pub fn new(server: Url, key: Option<Secret>, ca: Option<&Path>) -> Result<Self> {
        if !matches!(server.scheme(), "http" | "https") || server.cannot_be_a_base() {
            return Err(ClientError::Unusable(format!("--server {server} is not an address of http:// or https://")));
        }
        if key.as_ref().is_some_and(|key| HeaderValue::from_str(key.expose()).is_err()) {
            return Err(ClientError::Unusable("the API key has a character that is not allowed in a header".into()));
        }
        let http = match ca {
            Some(file) => http().tls_certs_only(certificates(file)?),
            None => http(),
        };
        let http = http.build().map_err(|error| ClientError::Unusable(format!("no HTTP client: {error}")))?;
        Ok(Self { http, server, key })
    }

    /// Creates a campaign, or returns the one that has the same external id.
    pub async fn create(&self, campaign: &NewCampaign) -> Result<Created> {
        let request = self.request(Method::POST, &["campaigns"]).json(campaign).timeout(CALL_TIMEOUT);
        let response = self.send(request).await?;
        let created = response.status() == StatusCode::CREATED;
        let CampaignCreated { id, state, .. } = self.read(response).await?;
        Ok(Created { id, state, created })
    }

    /// Streams recipients into a campaign. Idempotent: repeating the rows with the same `upload_id` adds nothing.
    pub async fn upload(
        &self,
        id: CampaignId,
        upload_id: &str,
        layout: &UploadLayout,
        coding: Option<Coding>,
        rows: Body,
    ) -> Result<UploadResult> {
        let request = self.request(Method::POST, &["campaigns", &id.to_string(), "recipients"]);
        self.send_rows(request, upload_id, layout, coding, rows).await
    }

    async fn send_rows(
        &self,
        request: RequestBuilder,
        upload_id: &str,
        layout: &UploadLayout,
        coding: Option<Coding>,
        rows: Body,
    ) -> Result<UploadResult> {
        let content_type = match layout.format {
            Format::Ndjson => "application/x-ndjson",
            Format::Csv => "text/csv",
        };
        let request = request.header("Upload-Id", upload_id).header("Content-Type", content_type).body(rows);
        let request = match coding {
            Some(coding) => request.header("Content-Encoding", coding.name()),
            None => request,
        };
        let request = match layout.ignored.as_slice() {
            [] => request,
            ignored => request.query(&[("ignore", ignored.join(","))]),
        };
        self.read(self.send(request).await?).await
    }

    /// Launches, pauses, resumes or cancels a campaign, and returns its new state.
    pub async fn change_campaign(&self, id: CampaignId, action: ControlAction) -> Result<Known<CampaignView>> {
        self.call(self.request(Method::POST, &["campaigns", &id.to_string(), action.word()])).await
    }

    /// Changes values of a campaign, and returns it.
    pub async fn amend_campaign(&self, id: CampaignId, change: &CampaignChange) -> Result<Known<CampaignView>> {
        self.call(self.request(Method::PATCH, &["campaigns", &id.to_string()]).json(change)).await
    }

    /// Sends a completed campaign again to some of its recipients. Idempotent with an `external_id`.
    pub async fn retry_campaign(&self, id: CampaignId, retry: &NewRetry) -> Result<Known<CampaignRetried>> {
        self.call(self.request(Method::POST, &["campaigns", &id.to_string(), "retry"]).json(retry)).await
    }

    /// Returns what would happen if a campaign were launched now.
    pub async fn preflight(&self, id: CampaignId) -> Result<Known<Preflight>> {
        self.call(self.request(Method::GET, &["campaigns", &id.to_string(), "preflight"])).await
    }

    /// Sends the message of a campaign to a few numbers. Idempotent with an `external_id`. Returns the test, which is a
    /// campaign.
    pub async fn test_campaign(&self, id: CampaignId, test: &NewTest) -> Result<Known<CampaignCreated>> {
        self.call(self.request(Method::POST, &["campaigns", &id.to_string(), "test"]).json(test)).await
    }

    /// Deletes a draft, or a campaign that has ended.
    pub async fn delete_campaign(&self, id: CampaignId) -> Result<()> {
        self.delete(self.request(Method::DELETE, &["campaigns", &id.to_string()])).await
    }

    /// A page of campaigns, newest first. `cursor` is `next` of the previous page.
    pub async fn campaigns(
        &self,
        state: Option<CampaignState>,
        cursor: Option<&str>,
    ) -> Result<Page<Known<CampaignView>>> {
        let mut query = Vec::new();
        query.extend(state.map(|state| ("state", state.name())));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        self.call(self.request(Method::GET, &["campaigns"]).query(&query)).await
    }

    /// The id of the campaign with this external id.
    ///
    /// Errors: [`ClientError::NoCampaign`].
    pub async fn campaign_id(&self, external_id: &str) -> Result<CampaignId> {
        let request = self.request(Method::GET, &["campaigns"]).query(&[("external_id", external_id)]);
        let found: Page<Known<CampaignView>> = self.call(request).await?;
        let campaign = found.rows.first().ok_or_else(|| ClientError::NoCampaign(external_id.to_owned()))?;
        Ok(campaign.id)
    }

    /// Fetches a campaign with its statistics.
    pub async fn campaign(&self, id: CampaignId) -> Result<Known<CampaignView>> {
        self.call(self.request(Method::GET, &["campaigns", &id.to_string()])).await
    }

    /// Streams the state and the statistics of a campaign as they change.
    pub async fn events(&self, id: CampaignId) -> Result<Events> {
        let request = self.request(Method::GET, &["campaigns", &id.to_string(), "events"]);
        Ok(Events::new(self.stream(request).await?))
    }

    /// Streams the event feed.
    pub async fn feed(&self, query: &FeedQuery) -> Result<FeedReader> {
        let names: Vec<_> = query.types.iter().map(|kind| kind.name()).collect();
        let mut parameters = Vec::new();
        parameters.extend(query.after.as_ref().map(|after| ("after", after.clone())));
        parameters.extend((!names.is_empty()).then(|| ("types", names.join(","))));
        parameters.extend(query.campaign.map(|campaign| ("campaign", campaign.to_string())));
        let request = self.request(Method::GET, &["events"]).query(&parameters);
        Ok(FeedReader::new(self.stream(request).await?))
    }

    async fn stream(&self, request: RequestBuilder) -> Result<Stream> {
        let response = self.send(request.header("Accept", "text/event-stream")).await?;
        Ok(Stream::new(self.server.clone(), response))
    }

    /// A page of the recipients of a campaign; with `state`, only those in that state. `cursor` is `next` of the
    /// previous page.
    pub async fn recipients(
        &self,
        id: CampaignId,
        state: Option<&str>,
        cursor: Option<&str>,
    ) -> Result<Page<Known<RecipientView>>> {
        let mut query = Vec::new();
        query.extend(state.map(|state| ("state", state)));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        self.call(self.request(Method::GET, &["campaigns", &id.to_string(), "recipients"]).query(&query)).await
    }

    /// Fetches a recipient of a campaign.
    pub async fn recipient(&self, id: CampaignId, to: Phone) -> Result<Known<RecipientView>> {
        let path = ["campaigns", &id.to_string(), "recipients", &to.to_string()];
        self.call(self.request(Method::GET, &path)).await
    }

    /// Requests every recipient with its outcome, as CSV. Read the body with [`Client::chunk`].
    pub async fn report(&self, id: CampaignId) -> Result<Response> {
        self.send(self.request(Method::GET, &["campaigns", &id.to_string(), "report.csv"])).await
    }

    /// The next chunk of a streamed response; `None` at its end.
    pub async fn chunk(&self, response: &mut Response) -> Result<Option<bytes::Bytes>> {
        response.chunk().await.map_err(|error| ClientError::of_request(&self.server, &error))
    }

    /// A page of lines. `cursor` is `next` of the previous page.
    pub async fn lines(&self, cursor: Option<&str>) -> Result<Page<Known<LineView>>> {
        let query: Vec<_> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
        self.call(self.request(Method::GET, &["lines"]).query(&query)).await
    }

    /// A page of chats, those with the newest message first. `view`: those of `mine`, `queue` or `closed` only. `cursor`
    /// is `next` of the previous page.
    pub async fn chats(&self, view: Option<&str>, cursor: Option<&str>) -> Result<Page<Known<ChatView>>> {
        let query: Vec<_> = [("view", view), ("cursor", cursor)]
            .into_iter()
            .filter_map(|(name, value)| value.map(|value| (name, value)))
            .collect();
        self.call(self.request(Method::GET, &["chats"]).query(&query)).await
    }

    /// A page of the messages of a chat, the newest first. `before` is `next` of the previous page.
    pub async fn chat_messages(&self, chat: &str, before: Option<&str>) -> Result<Page<Known<ChatMessageView>>> {
        let query: Vec<_> = before.map(|before| ("before", before)).into_iter().collect();
        self.call(self.request(Method::GET, &["chats", chat, "messages"]).query(&query)).await
    }

    /// Writes to the contact of a chat, and takes the chat over. Returns the message.
    pub async fn send_chat_message(&self, chat: &str, message: &NewChatMessage) -> Result<Known<ChatMessageView>> {
        self.call(self.request(Method::POST, &["chats", chat, "messages"]).json(message)).await
    }

    /// Closes a chat, and returns it.
    pub async fn close_chat(&self, chat: &str) -> Result<Known<ChatView>> {
        self.call(self.request(Method::POST, &["chats", chat, "close"])).await
    }

    /// A page of agents, in the order of their creation. `removed`: also those who were removed. `cursor` is `next` of
    /// the previous page.
    pub async fn agents(&self, removed: bool, cursor: Option<&str>) -> Result<Page<Known<AgentView>>> {
        let mut query = Vec::new();
        query.extend(removed.then_some(("removed", "true")));
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        self.call(self.request(Method::GET, &["agents"]).query(&query)).await
    }

    /// Fetches an agent.
    pub async fn agent(&self, id: AgentId) -> Result<Known<AgentView>> {
        self.call(self.request(Method::GET, &["agents", &id.to_string()])).await
    }

    /// Creates an agent, and returns the agent with an invitation.
    pub async fn create_agent(&self, agent: &NewAgentBody) -> Result<Known<InvitedAgent>> {
        self.call(self.request(Method::POST, &["agents"]).json(agent)).await
    }

    /// Changes values of an agent, and returns the agent.
    pub async fn change_agent(&self, id: AgentId, change: &AgentChangeBody) -> Result<Known<AgentView>> {
        self.call(self.request(Method::PATCH, &["agents", &id.to_string()]).json(change)).await
    }

    /// Invites an agent again, and returns the agent with the invitation.
    pub async fn invite_agent(&self, id: AgentId) -> Result<Known<InvitedAgent>> {
        self.call(self.request(Method::POST, &["agents", &id.to_string(), "invitation"])).await
    }

    /// Says whether an agent is there, and returns the agent.
    pub async fn set_presence(&self, id: AgentId, presence: Presence) -> Result<Known<AgentView>> {
        let body = NewPresence { presence: presence.name().to_owned() };
        self.call(self.request(Method::PUT, &["agents", &id.to_string(), "presence"]).json(&body)).await
    }

    /// Ends all sessions of an agent.
    pub async fn end_sessions(&self, id: AgentId) -> Result<()> {
        self.delete(self.request(Method::DELETE, &["agents", &id.to_string(), "sessions"])).await
    }

    /// Removes an agent.
    pub async fn remove_agent(&self, id: AgentId) -> Result<()> {
        self.delete(self.request(Method::DELETE, &["agents", &id.to_string()])).await
    }

    /// A page of groups. `cursor` is `next` of the previous page.
    pub async fn groups(&self, cursor: Option<&str>) -> Result<Page<Known<GroupView>>> {
        let query: Vec<_> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
        self.call(self.request(Method::GET, &["groups"]).query(&query)).await
    }

    /// Creates a group, and returns it.
    pub async fn create_group(&self, group: &NewGroup) -> Result<Known<GroupView>> {
        self.call(self.request(Method::POST, &["groups"]).json(group)).await
    }

    /// Renames a group of a business, and returns it.
    pub async fn rename_group(&self, business: Option<&BusinessId>, id: &str, name: &str) -> Result<Known<GroupView>> {
        let change = GroupChange { name: name.to_owned() };
        self.call(self.request(Method::PATCH, &["groups", id]).query(&of(business)).json(&change)).await
    }

    /// Removes a group of a business.
    pub async fn remove_group(&self, business: Option<&BusinessId>, id: &str) -> Result<()> {
        self.delete(self.request(Method::DELETE, &["groups", id]).query(&of(business))).await
    }

    /// Fetches a line.
    pub async fn line(&self, id: &LineId) -> Result<Known<LineView>> {
        self.call(self.request(Method::GET, &["lines", id.as_str()])).await
    }

    /// Sets the rate of a line, or with `None` resets it to the configured rate. Returns the line.
    pub async fn set_rate(&self, id: &LineId, messages_per_second: Option<f64>) -> Result<Known<LineView>> {
        let body = LineChange { messages_per_second };
        self.call(self.request(Method::PATCH, &["lines", id.as_str()]).json(&body)).await
    }

    /// Pauses or resumes a line, and returns it.
    pub async fn change_line(&self, id: &LineId, action: ControlAction) -> Result<Known<LineView>> {
        self.call(self.request(Method::POST, &["lines", id.as_str(), action.word()])).await
    }

    /// A page of dead letters, newest first. `cursor` is `next` of the previous page.
    pub async fn dead_jobs(&self, cursor: Option<&str>) -> Result<Page<Known<DeadJobView>>> {
        let query: Vec<_> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
        self.call(self.request(Method::GET, &["jobs", "dead"]).query(&query)).await
    }

    /// Fetches a dead letter with its whole job.
    pub async fn dead_job(&self, id: EntryId) -> Result<Known<DeadJobView>> {
        self.call(self.request(Method::GET, &["jobs", "dead", &id.to_string()])).await
    }

    /// Retries the job of a dead letter.
    pub async fn retry_dead_job(&self, id: EntryId) -> Result<Known<RetriedJob>> {
        self.call(self.request(Method::POST, &["jobs", "dead", &id.to_string(), "retry"])).await
    }

    /// Deletes a dead letter.
    pub async fn delete_dead_job(&self, id: EntryId) -> Result<()> {
        self.delete(self.request(Method::DELETE, &["jobs", "dead", &id.to_string()])).await
    }

    /// A page of businesses. `cursor` is `next` of the previous page.
    pub async fn businesses(&self, cursor: Option<&str>) -> Result<Page<Known<BusinessView>>> {
        let query: Vec<_> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
        self.call(self.request(Method::GET, &["businesses"]).query(&query)).await
    }

    /// What Meta has of the configured businesses, and how the configuration differs.
    pub async fn discovery(&self) -> Result<Known<Discovery>> {
        self.call(self.request(Method::GET, &["discovery"])).await
    }

    /// A page of holds. `cursor` is `next` of the previous page.
    pub async fn holds(&self, cursor: Option<&str>) -> Result<Page<Known<HoldView>>> {
        let query: Vec<_> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
        self.call(self.request(Method::GET, &["holds"]).query(&query)).await
    }

    /// Lifts a hold.
    pub async fn lift_hold(&self, id: &str) -> Result<Known<LiftedHold>> {
        self.call(self.request(Method::POST, &["holds", id, "lift"])).await
    }

    /// A page of workers. `cursor` is `next` of the previous page.
    pub async fn workers(&self, cursor: Option<&str>) -> Result<Page<Known<WorkerView>>> {
        let query: Vec<_> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
        self.call(self.request(Method::GET, &["workers"]).query(&query)).await
    }

    /// A page of templates. `cursor` is `next` of the previous page.
    pub async fn templates(&self, cursor: Option<&str>) -> Result<Page<Known<TemplateView>>> {
        let query: Vec<_> = cursor.map(|cursor| ("cursor", cursor)).into_iter().collect();
        self.call(self.request(Method::GET, &["templates"]).query(&query)).await
    }

    /// Fetches a template.
    pub async fn template(&self, waba: &WabaId, name: &str, language: &Language) -> Result<Known<TemplateView>> {
        self.call(self.request(Method::GET, &["templates", waba.as_str(), name, language.as_str()])).await
    }

    /// Reads the templates of all WABAs from Meta.
    pub async fn sync_templates(&self) -> Result<Known<SyncedTemplates>> {
        self.call(self.request(Method::POST, &["templates", "sync"])).await
    }

    /// Asks Meta to lift the pause of a template.
    pub async fn unpause_template(
        &self,
        waba: &WabaId,
        name: &str,
        language: &Language,
    ) -> Result<Known<UnpausedTemplate>> {
        let path = ["templates", waba.as_str(), name, language.as_str(), "unpause"];
        self.call(self.request(Method::POST, &path)).await
    }

    /// Suppresses a person, and returns the suppression.
    pub async fn suppress(&self, phone: Phone, suppression: &NewSuppression) -> Result<Known<SuppressionView>> {
        self.call(self.request(Method::PUT, &["suppressions", &phone.to_string()]).json(suppression)).await
    }

    /// Ends the suppression of a person.
    pub async fn unsuppress(&self, phone: Phone, business: Option<&BusinessId>) -> Result<()> {
        self.delete(self.request(Method::DELETE, &["suppressions", &phone.to_string()]).query(&of(business))).await
    }

    /// Forgets a person, and returns what was removed.
    pub async fn forget(&self, phone: Phone) -> Result<Known<ForgottenView>> {
        self.call(self.request(Method::DELETE, &["people", &phone.to_string()])).await
    }

    /// Fetches the suppression of a person.
    pub async fn suppression(&self, phone: Phone, business: Option<&BusinessId>) -> Result<Known<SuppressionView>> {
        self.call(self.request(Method::GET, &["suppressions", &phone.to_string()]).query(&of(business))).await
    }

    /// A page of suppressions. `cursor` is `next` of the previous page.
    pub async fn suppressions(
        &self,
        business: Option<&BusinessId>,
        cursor: Option<&str>,
    ) -> Result<Page<Known<SuppressionView>>> {
        let mut query = of(business);
        query.extend(cursor.map(|cursor| ("cursor", cursor)));
        self.call(self.request(Method::GET, &["suppressions"]).query(&query)).await
    }

    /// Streams a list of people to suppress. `scope` and `reason` apply to rows without one. The call can be repeated.
    pub async fn import_suppressions(
        &self,
        target: &ImportTarget,
        upload_id: &str,
        layout: &UploadLayout,
        coding: Option<Coding>,
        rows: Body,
    ) -> Result<UploadResult> {
        let mut query = of(target.business.as_ref());
        query.extend(target.scope.map(|scope| ("scope", scope.name())));
        query.extend(target.reason.map(|reason| ("reason", reason.name())));
        let request = self.request(Method::POST, &["suppressions"]).query(&query);
        self.send_rows(request, upload_id, layout, coding, rows).await
    }

    /// Requests the suppressions of a business, as CSV. Read the body with [`Client::chunk`].
    pub async fn export_suppressions(&self, business: Option<&BusinessId>) -> Result<Response> {
        self.send(self.request(Method::GET, &["suppressions.csv"]).query(&of(business))).await
    }

    /// Pauses or resumes all sending; with `business`, only that of the business.
    pub async fn change_all(&self, business: Option<&BusinessId>, action: ControlAction) -> Result<Known<PauseChange>> {
        let target = PauseTarget { business: business.cloned() };
        self.call(self.request(Method::POST, &[action.word()]).json(&target)).await
    }

    fn request(&self, method: Method, path: &[&str]) -> RequestBuilder {
        let mut url = self.server.clone();
        url.path_segments_mut()
            .expect("`Client::new` rejects a URL that cannot have a path")
            .pop_if_empty()
            .push("v1")
            .extend(path);
        let request = self.http.request(method, url);
        match &self.key {
            Some(key) => request.bearer_auth(key.expose()),
            None => request,
        }
    }

    async fn delete(&self, request: RequestBuilder) -> Result<()> {
        self.send(request.timeout(CALL_TIMEOUT)).await.map(drop)
    }

    async fn call<T: DeserializeOwned>(&self, request: RequestBuilder) -> Result<T> {
        self.read(self.send(request.timeout(CALL_TIMEOUT)).await?).await
    }

    /// Sends a request and returns a successful response. Every other response is an error.
    async fn send(&self, request: RequestBuilder) -> Result<Response> {
        let broken = |error| ClientError::of_request(&self.server, &error);
        let response = request.send().await.map_err(broken)?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(broken)?;
        Err(ClientError::of_answer(&self.server, self.key.is_some(), status, &body))
    }

    async fn read<T: DeserializeOwned>(&self, response: Response) -> Result<T> {
        let status = response.status();
        let body = response.bytes().await.map_err(|error| ClientError::of_request(&self.server, &error))?;
        serde_json::from_slice(&body).map_err(|_| ClientError::not_pregon(&self.server, status, &body))
    }
}
