//! Who may call: `Authorization: Bearer KEY`.
//!
//! Keys are compared by their digests and all of them each time, so that the time of an answer tells nothing about them.

use axum::http::{HeaderMap, header};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::ops::config::ApiKey;

/// The keys that are taken.
pub(super) struct Keys(Vec<(String, [u8; 32])>);

impl Keys {
    /// Keeps names and digests.
    pub(super) fn new(keys: &[ApiKey]) -> Self {
        Self(keys.iter().map(|key| (key.name.clone(), digest(key.secret.expose()))).collect())
    }

    /// The name of the key that a call brings; `None` if it brings none that is taken.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Option<&str> {
        let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
        let (scheme, key) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let given = digest(key.trim());
        let mut found = u64::MAX;
        for (index, (_, known)) in (0u64..).zip(&self.0) {
            let same: Choice = known.ct_eq(&given);
            found.conditional_assign(&index, same);
        }
        let (name, _) = self.0.get(usize::try_from(found).ok()?)?;
        Some(name)
    }
}

fn digest(key: &str) -> [u8; 32] {
    Sha256::digest(key.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Secret;

    #[test]
    fn only_a_key_that_is_taken_names_its_caller() {
        let key = |name: &str, secret: &str| ApiKey { name: name.into(), secret: Secret::new(secret) };
        let keys = Keys::new(&[key("backend", "k-1"), key("office", "k-2")]);
        let caller = |value: &str| {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("a value"))]);
            keys.caller(&headers).map(str::to_owned)
        };
        assert_eq!(caller("Bearer k-1").as_deref(), Some("backend"));
        assert_eq!(caller("bearer k-2").as_deref(), Some("office"));
        for wrong in ["", "Bearer", "Bearer ", "Bearer k-", "Bearer k-11", "Basic k-1", "k-1"] {
            assert_eq!(caller(wrong), None, "{wrong}");
        }
        assert_eq!(keys.caller(&HeaderMap::new()), None);
        assert_eq!(
            Keys::new(&[])
                .caller(&HeaderMap::from_iter([(header::AUTHORIZATION, "Bearer k".parse().expect("a value"))])),
            None
        );
    }
}
