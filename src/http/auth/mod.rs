//! Who may call, and do what: `Authorization: Bearer KEY`.
//!
//! Keys are compared by their digests and all of them each time, so that the time of an answer tells nothing about them.
//! Never: knows a key itself.

mod throttle;

use std::{net::IpAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use governor::clock::DefaultClock;
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

use self::throttle::Throttle;
use super::problem::Problem;
use crate::{
    config::{ApiKey, KeyScope},
    domain::SecretDigest,
};

/// The keys that are taken.
pub struct ApiKeys {
    keys: Arc<[ApiKey]>,
    throttle: Throttle,
}

/// Why a call is not let in.
#[derive(Debug, PartialEq, Eq)]
pub enum AuthError {
    /// It brings no key.
    NoKey,
    /// It brings one that is not taken.
    UnknownKey,
    /// Too many calls from there brought one that is not taken; whether this one is good was not told.
    TooOften {
        /// Until it is listened to again.
        wait: Duration,
    },
    /// Its key may not do that.
    NoScope {
        /// The name of the key.
        name: String,
        /// What it lacks.
        scope: KeyScope,
    },
}

impl ApiKeys {
    /// `failures_per_minute`: calls with an unknown key that are listened to, of each network.
    pub fn new(keys: Arc<[ApiKey]>, failures_per_minute: NonZeroU32) -> Self {
        Self { keys, throttle: Throttle::new(failures_per_minute, DefaultClock::default()) }
    }

    /// The name of the key that a call from `client` brings. `scope`: what it has to allow.
    pub fn admit(&self, headers: &HeaderMap, client: IpAddr, scope: Option<KeyScope>) -> Result<&str, AuthError> {
        let found = self.find(bearer(headers).ok_or(AuthError::NoKey)?);
        self.throttle.count(client, found).map_err(|wait| AuthError::TooOften { wait })?;
        let ApiKey { name, scopes, .. } = found.and_then(|at| self.keys.get(at)).ok_or(AuthError::UnknownKey)?;
        match scope {
            Some(scope) if !scopes.contains(&scope) => Err(AuthError::NoScope { name: name.clone(), scope }),
            _ => Ok(name),
        }
    }

    /// The number of the key that this one is.
    fn find(&self, key: &str) -> Option<usize> {
        let given = SecretDigest::of(key);
        let mut found = u64::MAX;
        for (number, known) in (0u64..).zip(self.keys.iter()) {
            let same: Choice = known.digest.ct_eq(&given);
            found.conditional_assign(&number, same);
        }
        usize::try_from(found).ok().filter(|&number| number < self.keys.len())
    }
}

impl From<AuthError> for Problem {
    fn from(refusal: AuthError) -> Self {
        match refusal {
            AuthError::NoKey | AuthError::UnknownKey => Self::new(
                StatusCode::UNAUTHORIZED,
                "unauthorized",
                "send `Authorization: Bearer KEY` with a key of http.api_keys",
            )
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer")),
            AuthError::TooOften { wait } => Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "too-many-unknown-keys",
                "too many calls from your address brought a key that is not known; look at your key, and wait",
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
        ApiKeys::new(of.iter().map(key).collect(), NonZeroU32::MAX)
    }

    fn admit<'a>(keys: &'a ApiKeys, authorization: &str, scope: KeyScope) -> Result<&'a str, AuthError> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, authorization.parse().expect("a value"))]);
        keys.admit(&headers, Ipv4Addr::LOCALHOST.into(), Some(scope))
    }

    #[test]
    fn only_a_key_that_is_taken_names_its_caller() {
        let keys = keys(&[("backend", "k-1"), ("office", "k-2")]);
        let admit = |authorization: &str| admit(&keys, authorization, KeyScope::Read);
        assert_eq!(admit("Bearer k-1"), Ok("backend"));
        assert_eq!(admit("bearer k-2"), Ok("office"));
        for none in ["", "Bearer", "Bearer ", "Basic k-1", "k-1"] {
            assert_eq!(admit(none), Err(AuthError::NoKey), "{none}");
        }
        for wrong in ["Bearer k-", "Bearer k-11", "Bearer K-1", "Bearer k-1 k-1"] {
            assert_eq!(admit(wrong), Err(AuthError::UnknownKey), "{wrong}");
        }
        assert_eq!(keys.admit(&HeaderMap::new(), Ipv4Addr::LOCALHOST.into(), None), Err(AuthError::NoKey));
    }

    #[test]
    fn without_keys_nobody_is_let_in() {
        assert_eq!(admit(&keys(&[]), "Bearer k", KeyScope::Read), Err(AuthError::UnknownKey));
    }

    #[test]
    fn a_key_is_nowhere_in_memory_that_can_be_shown() {
        let keys = keys(&[("backend", "k-secret")]);
        assert!(!format!("{:?}", keys.keys).contains("secret"), "{:?}", keys.keys);
    }
}
