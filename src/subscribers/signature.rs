//! Signs webhooks according to the Standard Webhooks specification, so that a subscriber can verify their origin.
//!
//! Source: <https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md>, read
//! 2026-11-29.

use std::fmt;

use base64::{
    Engine as _,
    alphabet::STANDARD,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::{Digest as _, Sha256};

use crate::domain::Secret;

const SECRET_PREFIX: &str = "whsec_";

/// Lengths of keys that the specification allows, in bytes.
const KEY_LEN: std::ops::RangeInclusive<usize> = 24..=64;

/// Maximum length of an event id that is used unchanged as `webhook-id`.
const ID_LEN_MAX: usize = 256;

/// Base64 that is read with or without padding, as libraries do.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A key that signs webhooks. `Debug` shows nothing of it.
#[derive(Clone)]
pub struct SigningKey(Hmac<Sha256>);

/// The secret does not have the form that the specification requires. The error contains nothing of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadSigningKey {
    /// The text does not begin with `whsec_`, or the rest is not Base64.
    #[error("must begin with whsec_, with base64 after it: echo whsec_$(openssl rand -base64 32)")]
    Form,
    /// The key has too few or too many bytes.
    #[error("must have 24 to 64 bytes, written as base64, and has {0}: echo whsec_$(openssl rand -base64 32)")]
    Length(usize),
}

impl SigningKey {
    /// Parses `whsec_` and base64.
    pub fn parse(secret: &Secret) -> Result<Self, BadSigningKey> {
        let text = secret.expose().strip_prefix(SECRET_PREFIX).ok_or(BadSigningKey::Form)?;
        let key = BASE64.decode(text).map_err(|_| BadSigningKey::Form)?;
        if !KEY_LEN.contains(&key.len()) {
            return Err(BadSigningKey::Length(key.len()));
        }
        Ok(Self(Hmac::new_from_slice(&key).expect("an HMAC accepts a key of any length")))
    }

    /// The signature of a webhook: `v1,` and base64.
    fn sign(&self, id: &str, timestamp: u64, body: &[u8]) -> String {
        let mac = self.0.clone().chain_update(format!("{id}.{timestamp}.")).chain_update(body);
        format!("v1,{}", BASE64.encode(mac.finalize().into_bytes()))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The value of the header `webhook-signature`: a signature with each of `keys`, separated by spaces. `timestamp` is in
/// Unix seconds.
pub(super) fn signatures(keys: &[SigningKey], id: &str, timestamp: u64, body: &[u8]) -> String {
    keys.iter().map(|key| key.sign(id, timestamp, body)).collect::<Vec<_>>().join(" ")
}

/// The `webhook-id` of the event `id`: the same text, or its digest if the text is too long or has characters that a
/// header or signature does not allow.
///
/// Full stops separate the signed parts, and event ids contain full stops too. The parts are still unambiguous: the
/// timestamp has only digits, the body begins with a brace or a bracket, and an id has neither.
pub(super) fn webhook_id(id: &str) -> String {
    let is_allowed = |byte: u8| byte.is_ascii_graphic() && !b"{[".contains(&byte);
    if (1..=ID_LEN_MAX).contains(&id.len()) && id.bytes().all(is_allowed) {
        return id.to_owned();
    }
    format!("sha256:{}", hex::encode(Sha256::digest(id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

    fn key(text: &str) -> Result<SigningKey, BadSigningKey> {
        SigningKey::parse(&Secret::new(text))
    }

    /// The expected value was computed with the Python package standardwebhooks 1.1.0.
    #[test]
    fn a_signature_is_that_of_the_specifications_library() {
        let keys =
            [key(SECRET).expect("a key"), key("whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA").expect("a key")];
        let signed = signatures(&keys, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#);
        assert_eq!(
            signed,
            "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE= v1,woH/1mJtZGSMCmpFTxRYbStS24eLLD/oXIYr4PYyZ7g="
        );
    }

    #[test]
    fn a_secret_of_another_form_is_refused() {
        for bad in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLa!w"] {
            let error = key(bad).expect_err(bad);
            assert!(matches!(error, BadSigningKey::Form | BadSigningKey::Length(0)), "{bad}: {error}");
        }
        assert_eq!(key("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2La").map(drop), Err(BadSigningKey::Length(21)));
        let long = format!("whsec_{}", "A".repeat(88));
        assert_eq!(key(&long).map(drop), Err(BadSigningKey::Length(66)));
    }

    #[test]
    fn a_signing_key_is_never_printed() {
        assert_eq!(format!("{:?}", key(SECRET).expect("a key")), "***");
    }

    #[test]
    fn an_id_that_no_header_allows_is_replaced_by_its_digest() {
        for plain in ["01J9ZK3V5T8R7Q6P5N4M3K2J1H.0.17.1.11", "message:3001:wamid.HBgN", "job:1795984075312-0"] {
            assert_eq!(webhook_id(plain), plain);
        }
        for odd in ["", "a b", "é", "a\n", "a.1.{b", &"a".repeat(257)] {
            let id = webhook_id(odd);
            assert!(id.starts_with("sha256:") && id.len() == 71, "{odd}: {id}");
        }
    }
}
