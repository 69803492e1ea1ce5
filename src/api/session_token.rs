//! The token of a session: a cookie with 256 random bits, of which PostgreSQL has the digest.
//!
//! The token for `X-CSRF-Token` is derived from the cookie, so a page of another site, which cannot read either, cannot
//! make a call. A login at a provider has such a cookie too, which binds it to the browser that began it.

use std::time::Duration;

use axum::http::{HeaderMap, header};
use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use cookie::{Cookie, SameSite};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;

use crate::{domain::SecretDigest, http::auth::oidc::LoginSecrets};

/// The browser sends a cookie with this prefix only over HTTPS, and to this host.
const COOKIE: &str = "__Host-pregon";

/// The header that a page of another site cannot set.
const CSRF_TOKEN: &str = "x-csrf-token";

/// The cookie of a login at the provider.
const LOGIN_COOKIE: &str = "__Host-pregon-login";

/// The token of a session. Only its digest is stored.
#[derive(Clone)]
pub(super) struct SessionToken(String);

impl SessionToken {
    /// A new token.
    pub(super) fn random() -> Self {
        Self(random_text())
    }

    /// The token in the cookie of a request.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        cookie_of(headers, COOKIE).map(Self)
    }

    /// What is stored of it.
    pub(super) fn digest(&self) -> SecretDigest {
        SecretDigest::of(&self.0)
    }

    /// The token against forged requests.
    pub(super) fn csrf_token(&self) -> String {
        derived(&self.0, "csrf")
    }

    /// Whether a request has the token against forged ones.
    pub(super) fn confirms(&self, headers: &HeaderMap) -> bool {
        let given = headers.get(CSRF_TOKEN).map(|value| value.as_bytes()).unwrap_or_default();
        self.csrf_token().as_bytes().ct_eq(given).into()
    }

    /// The cookie that sets it.
    pub(super) fn cookie(self) -> Cookie<'static> {
        cookie(COOKIE, self.0)
    }

    /// The cookie that removes it.
    pub(super) fn removal() -> Cookie<'static> {
        let mut cookie = Self(String::new()).cookie();
        cookie.make_removal();
        cookie
    }
}

/// The token of a login at the provider, in the cookie of the browser that began it. Only its digest is stored. The
/// secrets of the login are derived from it.
#[derive(Clone)]
pub(super) struct LoginToken(String);

impl LoginToken {
    /// A new token.
    pub(super) fn random() -> Self {
        Self(random_text())
    }

    /// The token in the cookie of a request.
    pub(super) fn of(headers: &HeaderMap) -> Option<Self> {
        cookie_of(headers, LOGIN_COOKIE).map(Self)
    }

    /// What is stored of it.
    pub(super) fn digest(&self) -> SecretDigest {
        SecretDigest::of(&self.0)
    }

    /// The secrets of the login.
    pub(super) fn secrets(&self) -> LoginSecrets {
        let [state, nonce, verifier] = ["state", "nonce", "verifier"].map(|purpose| derived(&self.0, purpose));
        LoginSecrets { state, nonce, verifier }
    }

    /// The cookie that sets it, for `age`.
    pub(super) fn cookie(self, age: Duration) -> Cookie<'static> {
        let mut cookie = cookie(LOGIN_COOKIE, self.0);
        cookie.set_max_age(cookie::time::Duration::seconds(age.as_secs().try_into().unwrap_or(i64::MAX)));
        cookie
    }

    /// The cookie that removes it.
    pub(super) fn removal() -> Cookie<'static> {
        let mut cookie = cookie(LOGIN_COOKIE, String::new());
        cookie.make_removal();
        cookie
    }
}

/// A cookie of this host that no script and no other site's form can use.
fn cookie(name: &'static str, value: String) -> Cookie<'static> {
    Cookie::build((name, value)).path("/").secure(true).http_only(true).same_site(SameSite::Lax).build()
}

fn cookie_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let cookies = headers.get_all(header::COOKIE).into_iter().filter_map(|value| value.to_str().ok());
    let mut all = cookies.flat_map(Cookie::split_parse).filter_map(std::result::Result::ok);
    all.find(|cookie| cookie.name() == name).map(|cookie| cookie.value().to_owned())
}

/// What only the holder of `token` knows, for one purpose: 256 bits in hex.
fn derived(token: &str, purpose: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(token.as_bytes()).expect("a key of any length");
    mac.update(purpose.as_bytes());
    hex::encode(mac.finalize().into_bytes())
}

/// 256 random bits, as text.
pub(super) fn random_text() -> String {
    BASE64_URL_SAFE_NO_PAD.encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use axum::http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(name: &'static str, value: &str) -> HeaderMap {
        HeaderMap::from_iter([(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))])
    }

    #[test]
    fn the_cookie_is_only_for_this_host_and_no_script() {
        let cookie = SessionToken::random().cookie().to_string();
        assert!(cookie.starts_with("__Host-pregon="), "{cookie}");
        for attribute in ["HttpOnly", "Secure", "SameSite=Lax", "Path=/"] {
            assert!(cookie.contains(attribute), "{attribute}: {cookie}");
        }
        assert!(!cookie.contains("Domain"), "{cookie}");
    }

    #[test]
    fn a_session_is_found_among_other_cookies() {
        let token = |value| SessionToken::of(&headers("cookie", value)).map(|token| token.0);
        assert_eq!(token("theme=dark; __Host-pregon=abc; x=1").as_deref(), Some("abc"));
        assert_eq!(token("pregon=abc"), None);
        assert_eq!(SessionToken::of(&HeaderMap::new()).map(|token| token.0), None);
    }

    #[test]
    fn only_the_holder_of_the_cookie_knows_the_token_against_forged_requests() {
        let (token, other) = (SessionToken::random(), SessionToken::random());
        let confirms = |value: &str| token.confirms(&headers(CSRF_TOKEN, value));
        assert!(confirms(&token.csrf_token()));
        assert!(!confirms(&other.csrf_token()) && !confirms("") && !confirms(&token.0));
        assert!(!token.confirms(&HeaderMap::new()));
    }
}
