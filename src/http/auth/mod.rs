//! API keys and their scopes: `Authorization: Bearer KEY`.
//!
//! The digest of a key is compared in constant time with the digest of every configured key, so that response times
//! leak nothing about the keys.
//! Never: stores a key, only its digest.

pub mod oidc;
pub mod passwords;
mod throttle;

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use governor::clock::DefaultClock;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use self::throttle::Throttle;
use super::problem::Problem;
use crate::{
    config::{ApiKey, KeyScope},
    domain::{Live, SecretDigest},
};

/// Logins that each network may try per minute. Each password is limited too.
const LOGINS_PER_MINUTE: NonZeroU32 = NonZeroU32::new(60).expect("60 is not 0");

/// The configured API keys, which a reload can replace, and the throttle for unknown ones.
pub struct ApiKeys {
    keys: Live<Arc<[ApiKey]>>,
    throttle: Throttle,
    logins: Throttle,
}

/// Why a request is rejected.
#[derive(Debug, PartialEq, Eq)]
pub enum AuthError {
    /// The request has no key.
    NoKey,
    /// The key is unknown.
    UnknownKey,
    /// The client's network sent too many unknown keys. The response does not reveal whether this key is valid.
    RateLimited {
        /// How long until the next attempt is allowed.
        wait: Duration,
    },
    /// The key lacks the scope.
    NoScope {
        /// The name of the key.
        name: String,
        /// The missing scope.
        scope: KeyScope,
    },
}

impl ApiKeys {
    /// `failures_per_minute`: requests with an unknown key that each network may make per minute.
    pub fn new(keys: Live<Arc<[ApiKey]>>, failures_per_minute: NonZeroU32) -> Self {
        let throttle = |per_minute| Throttle::new(per_minute, DefaultClock::default());
        Self { keys, throttle: throttle(failures_per_minute), logins: throttle(LOGINS_PER_MINUTE) }
    }

    /// Counts a login that is tried from `client`.
    ///
    /// Errors: how long to wait until the next one.
    pub fn admit_login(&self, client: IpAddr) -> Result<(), Duration> {
        self.logins.check(client, None)
    }

    /// Checks the key of a request from `client`, and returns it as configured. `scope` is the scope that the key
    /// needs.
    pub fn admit(&self, headers: &HeaderMap, client: IpAddr, scope: Option<KeyScope>) -> Result<ApiKey, AuthError> {
        let keys = self.keys.get();
        let found = find(&keys, bearer(headers).ok_or(AuthError::NoKey)?);
        self.throttle.check(client, found).map_err(|wait| AuthError::RateLimited { wait })?;
        let key = found.and_then(|index| keys.get(index)).ok_or(AuthError::UnknownKey)?;
        match scope {
            Some(scope) if !key.scopes.contains(&scope) => Err(AuthError::NoScope { name: key.name.clone(), scope }),
            _ => Ok(key.clone()),
        }
    }
}

/// The index of `key` in `keys`. Compares with all of them, without an early exit.
fn find(keys: &[ApiKey], key: &str) -> Option<usize> {
    let digest = SecretDigest::of(key);
    let mut found = u64::MAX;
    for (index, configured) in (0u64..).zip(keys) {
        let same: Choice = configured.digest.ct_eq(&digest);
        found.conditional_assign(&index, same);
    }
    usize::try_from(found).ok().filter(|&index| index < keys.len())
}

impl From<AuthError> for Problem {
    fn from(refusal: AuthError) -> Self {
        match refusal {
            AuthError::NoKey | AuthError::UnknownKey => Self::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "send `Authorization: Bearer KEY` with a key of http.api_keys, or log in with POST /v1/session",
            )
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            AuthError::RateLimited { wait } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-unknown-keys",
                "too many calls from your address had an unknown key; check your key, and try again later",
            )
            .with_header(header::RETRY_AFTER, HeaderValue::from(wait.as_secs() + 1)),
            AuthError::NoScope { name, scope } => {
                let scope = scope.name();
                let detail =
                    format!("this call needs the scope `{scope}`, which the key `{name}` of http.api_keys lacks");
                Self::new(StatusCode::FORBIDDEN, "forbidden", detail)
            }
        }
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, key) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim()).filter(|key| !key.is_empty())
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::domain::Secret;

    fn keys(of: &[(&str, &str)]) -> ApiKeys {
        let key = |(name, secret): &(&str, &str)| ApiKey::new(*name, &Secret::new(*secret));
        ApiKeys::new(Live::new(of.iter().map(key).collect()), NonZeroU32::MAX)
    }

    fn admit(keys: &ApiKeys, authorization: &str, scope: KeyScope) -> Result<String, AuthError> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().expect("a value"))]);
        keys.admit(&headers, Ipv4Addr::LOCALHOST.into(), Some(scope)).map(|key| key.name)
    }

    #[test]
    fn a_configured_key_returns_its_name() {
        let keys = keys(&[("backend", "k-1"), ("office", "k-2")]);
        let admit = |authorization: &str| admit(&keys, authorization, KeyScope::Read);
        assert_eq!(admit("Bearer k-1"), Ok("backend".into()));
        assert_eq!(admit("bearer k-2"), Ok("office".into()));
        for no_key in ["", "Bearer", "Bearer ", "Basic k-1", "k-1"] {
            assert_eq!(admit(no_key), Err(AuthError::NoKey), "{no_key}");
        }
        for wrong in ["Bearer k-", "Bearer k-11", "Bearer K-1", "Bearer k-1 k-1"] {
            assert_eq!(admit(wrong), Err(AuthError::UnknownKey), "{wrong}");
        }
        let without = keys.admit(&HeaderMap::new(), Ipv4Addr::LOCALHOST.into(), None);
        assert_eq!(without.map(|key| key.name), Err(AuthError::NoKey));
    }

    #[test]
    fn without_configured_keys_every_key_is_unknown() {
        assert_eq!(admit(&keys(&[]), "Bearer k", KeyScope::Read), Err(AuthError::UnknownKey));
    }

    #[test]
    fn debug_output_contains_no_api_key() {
        let keys = keys(&[("backend", "k-secret")]);
        assert!(!format!("{:?}", keys.keys).contains("secret"), "{:?}", keys.keys);
    }
}
