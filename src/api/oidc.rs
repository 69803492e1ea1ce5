//! Logins of agents at a provider that speaks OpenID Connect.
//!
//! A login belongs to the browser that began it: the secrets of the login are derived from its cookie. It ends once.

use axum::{
    Extension, Json,
    extract::{Query, State},
    http::{HeaderMap, HeaderName, StatusCode, header},
    response::AppendHeaders,
};
use serde::Deserialize;
use subtle::ConstantTimeEq as _;
use tracing::{info, warn};
use utoipa::IntoParams;

use super::{Shared, SharedState, guard::Client, session_token::LoginToken, sessions::too_many_logins};
use crate::{
    api_types::{LoginMethods, ProviderView},
    domain::{AgentId, agent},
    http::{
        auth::oidc::{Oidc, OidcError},
        problem::{Problem, Result},
    },
    postgres::sessions::PROVIDER_LOGIN,
};

/// The response that sends a browser elsewhere, with cookies.
type Redirect = (StatusCode, AppendHeaders<Vec<(HeaderName, String)>>);

/// How the provider sends the browser back. Providers add parameters of their own.
#[derive(Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct Callback {
    /// The code of the login.
    code: Option<String>,
    /// The secret that the login began with.
    state: Option<String>,
    /// Why the provider refuses the login.
    error: Option<String>,
    /// The issuer.
    iss: Option<String>,
}

/// How agents can log in.
#[utoipa::path(
    get, path = "/v1/session/methods", tag = "agents", operation_id = "login_methods",
    security(()),
    responses((status = 200, description = "The methods.", body = LoginMethods)),
)]
pub(super) async fn methods(State(shared): SharedState) -> Json<LoginMethods> {
    let oidc = shared.state.oidc.as_ref().map(|oidc| ProviderView { label: oidc.label().to_owned() });
    Json(LoginMethods { oidc })
}

/// Log in at the provider. For a browser.
///
/// Sends the browser to the provider of `[agents.oidc]`, which sends it back to `GET /v1/session/oidc/callback`. That
/// takes at most ten minutes.
#[utoipa::path(
    get, path = "/v1/session/oidc", tag = "agents", operation_id = "log_in_at_provider",
    security(()),
    responses((status = 303, description = "To the provider.")),
    extensions(("x-problems" = json!(["no-database", "no-login-provider", "login-provider-unavailable", "too-many-logins"]))),
)]
pub(super) async fn begin(
    State(shared): SharedState,
    Extension(Client(client)): Extension<Client>,
) -> Result<Redirect> {
    let oidc = shared.oidc()?;
    let database = shared.database()?;
    shared.keys.admit_login(client).map_err(|wait| too_many_logins(wait.as_secs() + 1))?;
    let token = LoginToken::random();
    let url = Box::pin(oidc.login_url(&token.secrets())).await.map_err(problem)?;
    database.begin_provider_login(&token.digest(), shared.now()).await?;
    let cookie = token.cookie(PROVIDER_LOGIN);
    Ok(redirect(url, vec![(header::SET_COOKIE, cookie.to_string())]))
}

/// End a login at the provider. For a browser.
///
/// Opens the session of the agent with the email address that the provider has verified, and sends the browser to the
/// console. An agent has to exist: none is created. With the first login, the agent becomes this account of the
/// provider, and another account with the same address cannot log in until an admin changes the email address.
#[utoipa::path(
    get, path = "/v1/session/oidc/callback", tag = "agents", operation_id = "end_login_at_provider",
    security(()),
    params(Callback),
    responses((status = 303, description = "To the console, with the cookie of the session.")),
    extensions(("x-problems" = json!([
        "no-database", "no-login-provider", "login-provider-unavailable", "login-refused", "too-many-logins",
    ]))),
)]
pub(super) async fn end(
    State(shared): SharedState,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    callback: std::result::Result<Query<Callback>, axum::extract::rejection::QueryRejection>,
) -> Result<Redirect> {
    let oidc = shared.oidc()?;
    shared.database()?;
    shared.keys.admit_login(client).map_err(|wait| too_many_logins(wait.as_secs() + 1))?;
    let Query(callback) = callback.unwrap_or_default();
    let agent = Box::pin(shared.agent_of(oidc, &headers, callback)).await.inspect_err(|_| {
        info!(target: "audit", what = "log_in", by = "oidc", result = "refused", %client, "login refused");
    })?;
    let token = shared.open_session(agent, "oidc", client).await?;
    let cookies = [token.cookie(), LoginToken::removal()];
    Ok(redirect(oidc.console(), cookies.map(|cookie| (header::SET_COOKIE, cookie.to_string())).into()))
}

impl Shared {
    fn oidc(&self) -> Result<&Oidc> {
        self.state.oidc.as_deref().ok_or_else(|| {
            let detail = "the server has no provider of logins: `agents.oidc` is not set; log in with POST /v1/session";
            Problem::new(StatusCode::CONFLICT, "no-login-provider", detail)
        })
    }

    /// The agent who has logged in at the provider with the browser of a request.
    async fn agent_of(&self, oidc: &Oidc, headers: &HeaderMap, callback: Callback) -> Result<AgentId> {
        let database = self.database()?;
        let not_begun = || refused("this browser has not begun the login, or took too long: begin again");
        let token = LoginToken::of(headers).ok_or_else(not_begun)?;
        let secrets = token.secrets();
        let is_of_browser: bool = secrets.state.as_bytes().ct_eq(callback.state.unwrap_or_default().as_bytes()).into();
        if !is_of_browser || !database.end_provider_login(&token.digest(), self.now()).await? {
            return Err(not_begun());
        }
        if callback.iss.is_some_and(|issuer| issuer != oidc.issuer()) {
            return Err(refused("another provider has sent the browser here: begin again"));
        }
        let code = match callback {
            Callback { error: None, code: Some(code), .. } => code,
            _ => return Err(refused("the provider refuses the login: begin again, or ask who administers it")),
        };
        let account = oidc.account(code, &secrets).await.map_err(problem)?;
        let agent = match agent::email(&account.email) {
            Some(email) => database.agent_at_provider(&email, &account.subject).await?,
            None => None,
        };
        agent.ok_or_else(|| {
            refused("no agent has this account's email address, or the agent is another account: ask an admin")
        })
    }
}

fn redirect(to: String, mut headers: Vec<(HeaderName, String)>) -> Redirect {
    headers.push((header::LOCATION, to));
    headers.push((header::CACHE_CONTROL, "no-store".to_owned()));
    (StatusCode::SEE_OTHER, AppendHeaders(headers))
}

fn refused(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "login-refused", detail)
}

fn problem(error: OidcError) -> Problem {
    match error {
        OidcError::Refused(detail) => refused(detail),
        error @ OidcError::Unavailable(_) => {
            warn!(%error, "nobody can log in at the provider");
            let detail = "the provider of logins does not answer as it should: try again, or log in with a password";
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "login-provider-unavailable", detail)
        }
    }
}
