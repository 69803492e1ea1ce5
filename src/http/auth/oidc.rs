//! Logins at a provider that speaks OpenID Connect: the authorization code flow, with PKCE, state and nonce.
//!
//! Never: accepts an ID token without a signature by a public key of the provider, exactly its issuer, Pregón as its
//! only audience, and the nonce of the login.

use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use openidconnect::{
    AsyncHttpClient, AuthType, AuthenticationFlow, AuthorizationCode, ClaimsVerificationError, ClientId, ClientSecret,
    CsrfToken, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse, IssuerUrl, Nonce,
    PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, RequestTokenError, Scope, SignatureVerificationError,
    core::{
        CoreClient, CoreClientAuthMethod, CoreErrorResponseType, CoreIdToken, CoreIdTokenClaims,
        CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreResponseType,
    },
};
use reqwest::redirect::Policy;
use tokio::sync::Mutex;

use crate::config::OidcConfig;

/// The timeout of a request to the provider.
const TIMEOUT: Duration = Duration::from_secs(10);

/// The longest answer of the provider that is read.
const ANSWER_BYTES_MAX: usize = 1 << 20;

/// How long the addresses and keys of the provider are used before they are read again.
const KNOWN_FOR: Duration = Duration::from_hours(1);

/// How old the keys must be before an unknown one makes them be read again, so that nobody else decides how often.
const KEYS_AT_LEAST: Duration = Duration::from_secs(30);

/// Signatures that are accepted: those by a key pair.
const ALGORITHMS: [CoreJwsSigningAlgorithm; 4] = [
    CoreJwsSigningAlgorithm::RsaSsaPkcs1V15Sha256,
    CoreJwsSigningAlgorithm::RsaSsaPssSha256,
    CoreJwsSigningAlgorithm::EcdsaP256Sha256,
    CoreJwsSigningAlgorithm::EdDsa,
];

/// Where the provider sends browsers back to, under the public URL.
const CALLBACK: &str = "/v1/session/oidc/callback";

type ProviderClient =
    CoreClient<EndpointSet, EndpointNotSet, EndpointNotSet, EndpointNotSet, EndpointMaybeSet, EndpointMaybeSet>;

/// No client can be made: the system's certificate authorities cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("no HTTP client for agents.oidc: are the system's root certificates (ca-certificates) installed?")]
pub struct NoOidcClient(#[from] reqwest::Error);

/// Why a login fails.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidcError {
    /// The provider does not answer, or not as it should. The text is for the log.
    #[error("the provider of logins: {0}")]
    Unavailable(String),
    /// The login is not accepted. The text says why.
    #[error("{0}")]
    Refused(String),
}

/// What binds a login to the browser that began it. Each is 256 random bits as text.
pub struct LoginSecrets {
    /// Comes back from the provider with the browser.
    pub state: String,
    /// Comes back in the ID token.
    pub nonce: String,
    /// Shows that the code was asked for here.
    pub verifier: String,
}

/// The account with which somebody has logged in at the provider.
#[derive(Debug, PartialEq, Eq)]
pub struct Account {
    /// The `sub`: an id that never changes.
    pub subject: String,
    /// The email address, which the provider has verified.
    pub email: String,
}

/// A provider of logins.
pub struct Oidc {
    config: OidcConfig,
    http: Http,
    /// Its addresses and keys, and when they were read.
    known: Mutex<Option<(Instant, CoreProviderMetadata)>>,
}

impl Oidc {
    /// A provider that is asked nothing yet.
    pub fn new(config: OidcConfig) -> Result<Self, NoOidcClient> {
        // reqwest uses the crypto provider of the process. An error means that it is installed already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder()
            .user_agent(concat!("pregon/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(TIMEOUT)
            .build()?;
        Ok(Self { config, http: Http(http), known: Mutex::default() })
    }

    /// What people call it.
    pub fn label(&self) -> &str {
        &self.config.label
    }

    /// Its issuer.
    pub fn issuer(&self) -> &str {
        &self.config.issuer
    }

    /// Where the console is, whose sessions these logins open.
    pub fn console(&self) -> String {
        format!("{}/", self.config.public_url)
    }

    /// The URL at the provider where somebody logs in.
    pub async fn login_url(&self, secrets: &LoginSecrets) -> Result<String, OidcError> {
        let client = self.client(KNOWN_FOR).await?;
        let (state, nonce) = (secrets.state.clone(), secrets.nonce.clone());
        let challenge = PkceCodeChallenge::from_code_verifier_sha256(&PkceCodeVerifier::new(secrets.verifier.clone()));
        let (url, ..) = client
            .authorize_url(
                AuthenticationFlow::<CoreResponseType>::AuthorizationCode,
                move || CsrfToken::new(state),
                move || Nonce::new(nonce),
            )
            .add_scope(Scope::new("email".to_owned()))
            .set_pkce_challenge(challenge)
            .url();
        Ok(url.into())
    }

    /// The account that has logged in, by the code with which the provider sent the browser back.
    pub async fn account(&self, code: String, secrets: &LoginSecrets) -> Result<Account, OidcError> {
        let client = self.client(KNOWN_FOR).await?;
        let request = client
            .exchange_code(AuthorizationCode::new(code))
            .map_err(|_| OidcError::Unavailable("its configuration has no token_endpoint".to_owned()))?
            .set_pkce_verifier(PkceCodeVerifier::new(secrets.verifier.clone()));
        let response = request.request_async(&self.http).await.map_err(|error| match error {
            RequestTokenError::ServerResponse(refused) if *refused.error() == CoreErrorResponseType::InvalidGrant => {
                OidcError::Refused("the provider does not know this login any more: begin again".to_owned())
            }
            RequestTokenError::ServerResponse(refused) => {
                OidcError::Unavailable(format!("it refuses to confirm logins: {}", refused.error().as_ref()))
            }
            RequestTokenError::Request(error) => OidcError::Unavailable(error.to_string()),
            error => OidcError::Unavailable(format!("its answer is not one of OpenID Connect: {error}")),
        })?;
        let no_token = || OidcError::Unavailable("its answer has no ID token".to_owned());
        let token = response.extra_fields().id_token().ok_or_else(no_token)?;
        let nonce = Nonce::new(secrets.nonce.clone());
        let claims = match claims(&client, token, &nonce) {
            // The provider signs with a new key.
            Err(ClaimsVerificationError::SignatureVerification(SignatureVerificationError::NoMatchingKey)) => {
                claims(&self.client(KEYS_AT_LEAST).await?, token, &nonce)
            }
            checked => checked,
        };
        let claims =
            claims.map_err(|error| OidcError::Refused(format!("the provider's ID token is not valid: {error}")))?;
        match claims.email() {
            Some(email) if claims.email_verified() == Some(true) => {
                Ok(Account { subject: claims.subject().to_string(), email: email.to_string() })
            }
            Some(_) => Err(OidcError::Refused("the provider has not verified the email address".to_owned())),
            None => Err(OidcError::Refused("the provider does not say the email address".to_owned())),
        }
    }

    /// A client that knows the addresses and keys of the provider, which are read again if older than `age`.
    async fn client(&self, age: Duration) -> Result<ProviderClient, OidcError> {
        let mut known = self.known.lock().await;
        let metadata = match &*known {
            Some((since, metadata)) if since.elapsed() < age => metadata.clone(),
            _ => {
                let issuer = IssuerUrl::new(self.config.issuer.clone()).map_err(unavailable)?;
                let metadata = CoreProviderMetadata::discover_async(issuer, &self.http).await.map_err(unavailable)?;
                known.insert((Instant::now(), metadata)).1.clone()
            }
        };
        drop(known);
        let by_body = metadata.token_endpoint_auth_methods_supported().is_some_and(|methods| {
            methods.contains(&CoreClientAuthMethod::ClientSecretPost)
                && !methods.contains(&CoreClientAuthMethod::ClientSecretBasic)
        });
        let secret = ClientSecret::new(self.config.client_secret.expose().to_owned());
        let redirect = RedirectUrl::new(format!("{}{CALLBACK}", self.config.public_url)).map_err(unavailable)?;
        let client =
            CoreClient::from_provider_metadata(metadata, ClientId::new(self.config.client_id.clone()), Some(secret));
        let auth_type = if by_body { AuthType::RequestBody } else { AuthType::BasicAuth };
        Ok(client.set_redirect_uri(redirect).set_auth_type(auth_type))
    }
}

/// The client of the provider.
struct Http(reqwest::Client);

impl<'a> AsyncHttpClient<'a> for Http {
    type Error = NoAnswer;
    type Future = BoxFuture<'a, Result<HttpResponse, NoAnswer>>;

    fn call(&'a self, request: HttpRequest) -> Self::Future {
        Box::pin(self.answer(request))
    }
}

impl Http {
    /// The answer of the provider to a request.
    async fn answer(&self, request: HttpRequest) -> Result<HttpResponse, NoAnswer> {
        let (head, body) = request.into_parts();
        let request = self.0.request(head.method, head.uri.to_string()).headers(head.headers).body(body);
        let mut response = request.send().await.map_err(reqwest::Error::without_url)?;
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(reqwest::Error::without_url)? {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > ANSWER_BYTES_MAX {
                return Err(NoAnswer::TooLong);
            }
        }
        let mut answer = HttpResponse::new(bytes);
        (*answer.status_mut(), *answer.headers_mut()) = (response.status(), response.headers().clone());
        Ok(answer)
    }
}

/// Why the provider gives no answer.
#[derive(Debug, thiserror::Error)]
enum NoAnswer {
    #[error("{}", with_cause(.0))]
    Failed(#[from] reqwest::Error),
    #[error("its answer is too long")]
    TooLong,
}

/// The error with the innermost cause, which says what went wrong.
fn with_cause(error: &dyn std::error::Error) -> String {
    let innermost = std::iter::successors(error.source(), |cause| cause.source()).last();
    innermost.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

fn unavailable(error: impl std::error::Error) -> OidcError {
    OidcError::Unavailable(with_cause(&error))
}

/// What an ID token says, once everything about it is checked.
fn claims<'a>(
    client: &ProviderClient,
    token: &'a CoreIdToken,
    nonce: &Nonce,
) -> Result<&'a CoreIdTokenClaims, ClaimsVerificationError> {
    token.claims(&client.id_token_verifier().set_allowed_algs(ALGORITHMS), nonce)
}
