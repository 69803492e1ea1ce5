//! Logins of agents at a provider that speaks OpenID Connect. The provider is a server that signs what the test says.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use axum::{Json, Router, extract::State, http::HeaderMap, response::IntoResponse, routing};
use base64::{
    Engine as _,
    prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD},
};
use openidconnect::{
    PrivateSigningKey as _,
    core::{CoreEdDsaPrivateSigningKey, CoreJwsSigningAlgorithm},
};
use pregon::{config::OidcConfig, domain::Secret, postgres::Database};
use reqwest::{Method, StatusCode, Url, header, redirect::Policy};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::{
    agents::invited,
    harness::{Answer, Api, answer},
};
use crate::support::{hooks::now, postgres::TestPostgres, serve::serve};

const CLIENT: &str = "pregon";
const SECRET: &str = "client-secret";
const CODE: &str = "the-code";
const PUBLIC_URL: &str = "https://pregon.example/console";

/// What the provider answers about itself, and what it wants and answers in exchange for the code.
#[derive(Default)]
struct Provided {
    metadata: Value,
    keys: Vec<Value>,
    challenge: String,
    token: String,
    /// How often the metadata was read.
    reads: u32,
}

#[derive(Clone)]
struct Provider {
    issuer: String,
    provided: Arc<Mutex<Provided>>,
}

impl Provider {
    async fn start() -> Self {
        let provided = Arc::new(Mutex::new(Provided::default()));
        let metadata = async |State(provided): State<Arc<Mutex<Provided>>>| {
            let mut provided = provided.lock().expect("no panic");
            provided.reads += 1;
            Json(provided.metadata.clone())
        };
        let keys = async |State(provided): State<Arc<Mutex<Provided>>>| {
            Json(json!({ "keys": provided.lock().expect("no panic").keys }))
        };
        let router = Router::new()
            .route("/.well-known/openid-configuration", routing::get(metadata))
            .route("/keys", routing::get(keys))
            .route("/token", routing::post(token))
            .with_state(provided.clone());
        let issuer = serve(router).await;
        provided.lock().expect("no panic").metadata = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["EdDSA"],
        });
        let provider = Self { issuer, provided };
        provider.sign_with(&key("first"));
        provider
    }

    /// Publishes a key.
    fn sign_with(&self, key: &CoreEdDsaPrivateSigningKey) {
        let key = serde_json::to_value(key.as_verification_key()).expect("JSON");
        self.provided.lock().expect("no panic").keys.push(key);
    }
}

/// Exchanges the code, if the client shows its secret and the verifier of the challenge.
async fn token(State(provided): State<Arc<Mutex<Provided>>>, headers: HeaderMap, body: String) -> impl IntoResponse {
    let provided = provided.lock().expect("no panic");
    let form = pairs(&Url::parse(&format!("http://form/?{body}")).expect("a form"));
    let challenge = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&form["code_verifier"]));
    let client = format!("Basic {}", BASE64_STANDARD.encode(format!("{CLIENT}:{SECRET}")));
    let is_right = form["code"] == CODE
        && challenge == provided.challenge
        && headers.get(header::AUTHORIZATION).is_some_and(|given| given == client.as_str())
        && form["redirect_uri"] == format!("{PUBLIC_URL}/v1/session/oidc/callback");
    match is_right {
        true => (
            StatusCode::OK,
            Json(json!({ "access_token": "unused", "token_type": "Bearer", "id_token": provided.token })),
        ),
        false => (StatusCode::BAD_REQUEST, Json(json!({ "error": "invalid_grant" }))),
    }
}

fn pairs(url: &Url) -> HashMap<String, String> {
    url.query_pairs().map(|(name, value)| (name.into_owned(), value.into_owned())).collect()
}

/// A key of the provider, the same for the same name.
fn key(name: &str) -> CoreEdDsaPrivateSigningKey {
    // A PKCS #8 document of an Ed25519 key is this prefix and 32 bytes.
    let mut document = hex::decode("302e020100300506032b657004220420").expect("hex");
    document.extend(Sha256::digest(name));
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{}\n-----END PRIVATE KEY-----\n", BASE64_STANDARD.encode(document));
    CoreEdDsaPrivateSigningKey::from_ed25519_pem(&pem, Some(openidconnect::JsonWebKeyId::new(name.into())))
        .expect("a key")
}

/// An ID token with these claims, by the key of this name.
fn signed(claims: &Value, by: &str) -> String {
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", part(&json!({ "alg": "EdDSA", "kid": by })), part(claims));
    let signature = key(by).sign(&CoreJwsSigningAlgorithm::EdDsa, signed.as_bytes()).expect("a signature");
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

fn now_s() -> u64 {
    now().0 / 1_000
}

/// An API server whose agents log in at a provider.
struct Logins {
    api: Api,
    provider: Provider,
    _postgres: TestPostgres,
    http: reqwest::Client,
}

/// A login that has begun: what the browser has.
struct Begun {
    cookie: String,
    state: String,
    nonce: String,
}

impl Logins {
    async fn start() -> Self {
        let (postgres, provider) = (TestPostgres::start().await, Provider::start().await);
        let oidc = OidcConfig {
            issuer: provider.issuer.clone(),
            client_id: CLIENT.to_owned(),
            client_secret: Secret::new(SECRET),
            public_url: PUBLIC_URL.to_owned(),
            label: "Example".to_owned(),
        };
        let api = Api::start_with_oidc(postgres.connect(), oidc).await;
        let _: Database = postgres.database(api.now()).await;
        let http = reqwest::Client::builder().redirect(Policy::none()).build().expect("a client");
        Self { api, provider, _postgres: postgres, http }
    }

    async fn get(&self, path: &str, cookie: &str) -> Answer {
        answer(self.http.get(format!("{}{path}", self.api.base)).header(header::COOKIE, cookie)).await
    }

    async fn begin(&self) -> Begun {
        let begun = self.get("/v1/session/oidc", "").await;
        assert_eq!(begun.status, StatusCode::SEE_OTHER, "{}", begun.body);
        let url = Url::parse(begun.headers[header::LOCATION].to_str().expect("text")).expect("a URL");
        assert!(url.as_str().starts_with(&format!("{}/authorize?", self.provider.issuer)), "{url}");
        let query = pairs(&url);
        assert_eq!((query["response_type"].as_str(), query["client_id"].as_str()), ("code", CLIENT));
        assert_eq!((query["code_challenge_method"].as_str(), query["scope"].as_str()), ("S256", "openid email"));
        self.provider.provided.lock().expect("no panic").challenge = query["code_challenge"].clone();
        let cookie = begun.headers[header::SET_COOKIE].to_str().expect("text");
        for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/", "Max-Age=600"] {
            assert!(cookie.contains(attribute), "{attribute}: {cookie}");
        }
        Begun {
            cookie: cookie.split(';').next().expect("a cookie").to_owned(),
            state: query["state"].clone(),
            nonce: query["nonce"].clone(),
        }
    }

    /// The claims of Ana, for a login.
    fn claims(&self, begun: &Begun) -> Value {
        json!({
            "iss": self.provider.issuer, "aud": CLIENT, "sub": "ana-1", "nonce": begun.nonce,
            "iat": now_s(), "exp": now_s() + 300, "email": "Ana@example.com", "email_verified": true,
        })
    }

    /// The provider answers with this token, and sends the browser back.
    async fn end(&self, begun: &Begun, token: String) -> Answer {
        self.provider.provided.lock().expect("no panic").token = token;
        let path = format!("/v1/session/oidc/callback?code={CODE}&state={}&session_state=x", begun.state);
        self.get(&path, &begun.cookie).await
    }

    /// A login with the claims of Ana after a change.
    async fn log_in(&self, change: impl FnOnce(&mut Value)) -> Answer {
        let begun = self.begin().await;
        let mut claims = self.claims(&begun);
        change(&mut claims);
        self.end(&begun, signed(&claims, "first")).await
    }
}

/// Checks that a login has opened the session of an agent.
async fn is_session_of(logins: &Logins, ended: &Answer, agent: &str) {
    assert_eq!(ended.status, StatusCode::SEE_OTHER, "{}", ended.body);
    assert_eq!(ended.headers[header::LOCATION], format!("{PUBLIC_URL}/"));
    let cookies: Vec<&str> =
        ended.headers.get_all(header::SET_COOKIE).iter().map(|cookie| cookie.to_str().expect("text")).collect();
    let [session, removal] = cookies[..] else { panic!("{cookies:?}") };
    assert!(removal.starts_with("__Host-pregon-login=;") && removal.contains("Max-Age=0"), "{removal}");
    let session = logins.get("/v1/session", session.split(';').next().expect("a cookie")).await;
    assert_eq!((session.status, &session.body["agent"]["id"]), (StatusCode::OK, &json!(agent)), "{}", session.body);
}

#[tokio::test]
async fn an_agent_logs_in_at_the_provider() {
    let logins = Logins::start().await;
    let (ana, _) = invited(&logins.api, "ana", "agent", &[]).await;
    let methods = logins.get("/v1/session/methods", "").await;
    assert_eq!(methods.body, json!({ "oidc": { "label": "Example" } }));
    for _ in 0..2 {
        is_session_of(&logins, &logins.log_in(|_| ()).await, &ana).await;
    }
    assert_eq!(logins.provider.provided.lock().expect("no panic").reads, 1, "the provider's addresses are kept");
}

#[tokio::test]
async fn a_token_that_is_not_for_this_login_opens_no_session() {
    let logins = Logins::start().await;
    invited(&logins.api, "ana", "agent", &[]).await;
    type Change = fn(&mut Value);
    let changes: [(&str, Change); 9] = [
        ("nonce", |claims| claims["nonce"] = json!("another")),
        ("no nonce", |claims| claims["nonce"] = Value::Null),
        ("audience", |claims| claims["aud"] = json!("another")),
        ("audiences", |claims| claims["aud"] = json!([CLIENT, "another"])),
        ("issuer", |claims| claims["iss"] = json!("https://another.example")),
        ("expired", |claims| claims["exp"] = json!(now_s() - 1)),
        ("unverified", |claims| claims["email_verified"] = json!(false)),
        ("verified by nobody", |claims| claims["email_verified"] = Value::Null),
        ("no email", |claims| claims["email"] = Value::Null),
    ];
    for (what, change) in changes {
        let refused = logins.log_in(change).await;
        assert!(!refused.headers.contains_key(header::SET_COOKIE), "{what}");
        refused.problem(401, "login-refused");
    }
    let begun = logins.begin().await;
    let claims = logins.claims(&begun);
    let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(&json!({ "alg": "none" })), part(&claims));
    logins.end(&begun, unsigned).await.problem(401, "login-refused");
    let begun = logins.begin().await;
    let forged =
        signed(&logins.claims(&begun), "forged").replace(&part(&json!({ "alg": "EdDSA", "kid": "forged" })), "");
    let forged = format!("{}{forged}", part(&json!({ "alg": "EdDSA", "kid": "first" })));
    logins.end(&begun, forged).await.problem(401, "login-refused");
}

#[tokio::test]
async fn a_login_belongs_to_the_browser_that_began_it_and_ends_once() {
    let logins = Logins::start().await;
    let (ana, _) = invited(&logins.api, "ana", "agent", &[]).await;
    let (begun, other) = (logins.begin().await, logins.begin().await);
    let token = signed(&logins.claims(&begun), "first");
    for cookie in [&other.cookie, ""] {
        let stolen = Begun { cookie: cookie.to_owned(), state: begun.state.clone(), nonce: String::new() };
        logins.end(&stolen, token.clone()).await.problem(401, "login-refused");
    }
    let begun = logins.begin().await;
    let token = signed(&logins.claims(&begun), "first");
    is_session_of(&logins, &logins.end(&begun, token.clone()).await, &ana).await;
    logins.end(&begun, token).await.problem(401, "login-refused");

    for query in ["error=access_denied", "code=another", &format!("code={CODE}&iss=https://another.example"), ""] {
        let begun = logins.begin().await;
        let path = format!("/v1/session/oidc/callback?state={}&{query}", begun.state);
        logins.get(&path, &begun.cookie).await.problem(401, "login-refused");
    }
    logins.get("/v1/session/oidc/callback", "").await.problem(401, "login-refused");
}

#[tokio::test]
async fn only_an_agent_who_exists_logs_in_and_stays_one_account_of_the_provider() {
    let logins = Logins::start().await;
    logins.log_in(|_| ()).await.problem(401, "login-refused");
    let (ana, _) = invited(&logins.api, "ana", "agent", &[]).await;
    is_session_of(&logins, &logins.log_in(|_| ()).await, &ana).await;
    logins.log_in(|claims| claims["sub"] = json!("ana-2")).await.problem(401, "login-refused");
    let path = format!("/v1/agents/{ana}");
    logins.api.patch_json(&path, &json!({ "email": "ana@example.com", "name": "Ana" })).await;
    logins.log_in(|claims| claims["sub"] = json!("ana-2")).await.problem(401, "login-refused");
    logins.api.patch_json(&path, &json!({ "email": "anna@example.com" })).await;
    let other = |claims: &mut Value| (claims["sub"], claims["email"]) = (json!("ana-2"), json!("anna@example.com"));
    is_session_of(&logins, &logins.log_in(other).await, &ana).await;
    let removed = answer(logins.api.request(Method::DELETE, &path)).await;
    assert_eq!(removed.status, StatusCode::NO_CONTENT);
    logins.log_in(other).await.problem(401, "login-refused");
}

#[tokio::test]
async fn a_provider_that_is_away_is_not_a_wrong_login() {
    let logins = Logins::start().await;
    let metadata = std::mem::take(&mut logins.provider.provided.lock().expect("no panic").metadata);
    logins.get("/v1/session/oidc", "").await.problem(503, "login-provider-unavailable");
    logins.provider.provided.lock().expect("no panic").metadata = metadata;
    logins.begin().await;
    let postgres = TestPostgres::start().await;
    let without = Api::start_with_database(postgres.connect()).await;
    for path in ["/v1/session/oidc", "/v1/session/oidc/callback"] {
        answer(without.http.get(format!("{}{path}", without.base))).await.problem(409, "no-login-provider");
    }
    let methods = answer(without.http.get(format!("{}/v1/session/methods", without.base))).await;
    assert_eq!(methods.body, json!({ "oidc": null }));
}
