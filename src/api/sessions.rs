//! Sessions of agents, who log in and out, and change their password.

use std::net::IpAddr;

use axum::{
    Extension, Json,
    extract::State,
    http::{HeaderName, StatusCode, header},
};
use tracing::info;

use super::{
    Shared, SharedState,
    access::{Access, scopes},
    agents::agent_view,
    extract::JsonBody,
    guard::Client,
    session_token::SessionToken,
};
use crate::{
    api_types::{LogIn, NewPassword, SessionView},
    domain::{AgentId, SecretDigest, UnixMs, agent},
    http::problem::{Problem, Result},
    postgres::{
        Database,
        sessions::{Login, Session},
    },
};

/// Wrong passwords in a row after which an agent waits after each further one.
const FAILURES_MAX: u32 = 5;

/// How long.
const FAILURE_WAIT: std::time::Duration = std::time::Duration::from_mins(1);

/// The response with a session, and the cookie.
type LoggedIn = ([(HeaderName, String); 1], Json<SessionView>);

/// Log in.
///
/// Sets the cookie of the session. With an `invitation`, sets the password of the agent first, which ends other sessions.
#[utoipa::path(
    post, path = "/v1/session", tag = "agents", operation_id = "log_in",
    security(()),
    request_body = LogIn,
    responses((status = 200, description = "The session.", body = SessionView)),
    extensions(
        ("x-problems" = json!(["no-database", "login-refused", "too-many-logins", "invalid"])),
        ("x-unaudited" = json!(true)),
    ),
)]
pub(super) async fn log_in(
    State(shared): SharedState,
    Extension(Client(client)): Extension<Client>,
    JsonBody(login): JsonBody<LogIn>,
) -> Result<LoggedIn> {
    let database = shared.database()?;
    shared.keys.admit_login(client).map_err(|wait| too_many_logins(wait.as_secs() + 1))?;
    let agent = match (login.email, login.invitation) {
        (Some(email), None) => shared.checked(database, &email, &login.password).await,
        (None, Some(invitation)) => shared.accepted(database, &invitation, &login.password).await,
        _ => Err(Problem::bad_request("malformed-body", "send either `email` or `invitation`, with `password`")),
    };
    let agent = agent.inspect_err(|_| {
        info!(target: "audit", what = "log_in", by = "password", result = "refused", %client, "login refused");
    })?;
    let until = shared.now().after(shared.state.sessions.age);
    let token = shared.open_session(agent, "password", client).await?;
    let view = shared.session_view(agent, &token, until).await?;
    Ok(([(header::SET_COOKIE, token.cookie().to_string())], Json(view)))
}

/// Get the own session.
#[utoipa::path(
    get, path = "/v1/session", tag = "agents", operation_id = "get_session",
    security(("session" = [])),
    responses((status = 200, description = "The session.", body = SessionView)),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn session(State(shared): SharedState, access: Access) -> Result<Json<SessionView>> {
    let (session, token) = access.session()?;
    shared.session_view(session.agent, token, session.until).await.map(Json)
}

/// Log out.
#[utoipa::path(
    delete, path = "/v1/session", tag = "agents", operation_id = "log_out",
    security(("session" = [])),
    responses((status = 204, description = "The session has ended.")),
    extensions(("x-problems" = json!(["no-database"]))),
)]
pub(super) async fn log_out(
    State(shared): SharedState,
    access: Access,
) -> Result<(StatusCode, [(HeaderName, String); 1])> {
    let (_, token) = access.session()?;
    shared.database()?.end_session(&token.digest()).await?;
    Ok((StatusCode::NO_CONTENT, [(header::SET_COOKIE, SessionToken::removal().to_string())]))
}

/// Change the own password. Other sessions of the agent end.
#[utoipa::path(
    put, path = "/v1/session/password", tag = "agents", operation_id = "change_password",
    security(("session" = [])),
    request_body = NewPassword,
    responses((status = 204, description = "The password is changed.")),
    extensions(("x-problems" = json!(["no-database", "login-refused", "too-many-logins", "invalid"]))),
)]
pub(super) async fn change_password(
    State(shared): SharedState,
    access: Access,
    JsonBody(new): JsonBody<NewPassword>,
) -> Result<StatusCode> {
    let (session, token) = access.session()?;
    let database = shared.database()?;
    let agent = database.agent(access.names().as_deref(), session.agent).await?.and_then(|agent| agent.email);
    let email = agent.ok_or_else(|| Problem::internal("a session of an agent who was removed"))?;
    shared.checked(database, &email, &new.current).await?;
    let hash = shared.new_hash(&new.password, &[&email, &session.name]).await?;
    database.set_password(session.agent, &hash, Some(&token.digest())).await?;
    Ok(StatusCode::NO_CONTENT)
}

impl Shared {
    /// The agent with this email address and password.
    ///
    /// Errors: 401 if one of both is wrong, without saying which; 429 after several wrong passwords.
    async fn checked(&self, database: &Database, email: &str, password: &str) -> Result<AgentId> {
        let login = match agent::email(email) {
            Some(email) => database.login(&email).await?,
            None => None,
        };
        if let Some(wait) = login.as_ref().and_then(|login| wait(login, self.now())) {
            return Err(too_many_logins(wait));
        }
        let hash = login.as_ref().and_then(|login| login.password.as_deref());
        if self.passwords.is_right(password, hash).await {
            return login.map(|login| login.agent).ok_or_else(login_refused);
        }
        if let Some(login) = login {
            database.login_failed(login.agent, self.now()).await?;
        }
        Err(login_refused())
    }

    /// The agent with this invitation, who has the new password then.
    async fn accepted(&self, database: &Database, invitation: &str, password: &str) -> Result<AgentId> {
        let login = database.invited(&SecretDigest::of(invitation), self.now()).await?;
        let Login { agent, names: [email, name], .. } = login.ok_or_else(|| {
            let detail = "the invitation was used or is too old: ask an admin for another one";
            Problem::new(StatusCode::UNAUTHORIZED, "login-refused", detail)
        })?;
        let hash = self.new_hash(password, &[&email, &name]).await?;
        database.set_password(agent, &hash, None).await?;
        Ok(agent)
    }

    /// The hash of a new password of somebody with these names.
    ///
    /// Errors: 422 if it is too weak.
    async fn new_hash(&self, password: &str, names: &[&str]) -> Result<String> {
        if let Some(fault) = agent::password_fault(password, names) {
            return Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid", fault));
        }
        Ok(self.passwords.hash(password).await)
    }

    /// Opens a session of an agent who has logged in `by` this method.
    pub(super) async fn open_session(&self, agent: AgentId, by: &str, client: IpAddr) -> Result<SessionToken> {
        let token = SessionToken::random();
        self.database()?.open_session(agent, &token.digest(), self.state.sessions, self.now()).await?;
        info!(target: "audit", who = %agent, what = "log_in", by, result = "changed", %client, "logged in");
        Ok(token)
    }

    async fn session_view(&self, agent: AgentId, token: &SessionToken, until: UnixMs) -> Result<SessionView> {
        let agent = self.database()?.agent(None, agent).await?;
        let agent = agent.ok_or_else(|| Problem::internal("a session of an agent that there is not"))?;
        let scopes = scopes(agent.role).iter().map(|scope| scope.name().to_owned()).collect();
        Ok(SessionView { agent: agent_view(agent), scopes, csrf_token: token.csrf_token(), until })
    }

    /// The open session of a request, if its cookie has one.
    pub(super) async fn session_of(&self, token: &SessionToken, is_used: bool) -> Result<Option<Session>> {
        let Some(database) = &self.state.database else { return Ok(None) };
        Ok(database.session(&token.digest(), self.state.sessions, is_used, self.now()).await?)
    }
}

/// How many seconds an agent has to wait before the next login.
fn wait(login: &Login, now: UnixMs) -> Option<u64> {
    let wait = FAILURE_WAIT.checked_sub(now.since(login.failed_at))?;
    (login.failures >= FAILURES_MAX).then(|| wait.as_secs() + 1)
}

fn login_refused() -> Problem {
    let detail = "the email address or the password is wrong";
    Problem::new(StatusCode::UNAUTHORIZED, "login-refused", detail)
}

pub(super) fn too_many_logins(wait_s: u64) -> Problem {
    let detail = "too many logins were tried: wait, and try again";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-logins", detail)
        .with_header(header::RETRY_AFTER, wait_s.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_waits_after_several_wrong_passwords() {
        let login = |failures| Login {
            agent: AgentId(ulid::Ulid(1)),
            names: [String::new(), String::new()],
            password: None,
            failures,
            failed_at: UnixMs(10_000),
        };
        assert_eq!(wait(&login(4), UnixMs(10_000)), None);
        assert_eq!(wait(&login(5), UnixMs(10_000)), Some(61));
        assert_eq!(wait(&login(5), UnixMs(70_001)), None);
    }
}
