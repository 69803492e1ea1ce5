//! Verifies `X-Hub-Signature-256`, which shows that a webhook comes from Meta.
//!
//! The HMAC covers the bytes as they are received. Meta escapes all non-ASCII characters of a body before signing it,
//! so a body that was parsed and serialized again has another signature.
//!
//! Source:
//! <https://developers.facebook.com/documentation/business-messaging/whatsapp/webhooks/create-webhook-endpoint>, read
//! 2026-11-22.

use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

use crate::domain::Secret;

/// The header that carries the signature.
pub const HEADER: &str = "x-hub-signature-256";

/// The signature in the header, not verified yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature([u8; 32]);

impl Signature {
    /// Parses the value of the header; `None` unless it is `sha256=` and 64 hex digits.
    pub fn read(header: &[u8]) -> Option<Self> {
        let mut signature = [0; 32];
        hex::decode_to_slice(header.strip_prefix(b"sha256=")?, &mut signature).ok()?;
        Some(Self(signature))
    }
}

/// Verifies signatures with the app secret; with the old and the new secret during a rotation.
#[derive(Clone)]
pub struct Verifier(Vec<Hmac<Sha256>>);

impl Verifier {
    /// A verifier that accepts any of `app_secrets`.
    pub fn new<'s>(app_secrets: impl IntoIterator<Item = &'s Secret>) -> Self {
        let mac = |secret: &Secret| {
            Hmac::new_from_slice(secret.expose().as_bytes()).expect("an HMAC accepts a key of any length")
        };
        Self(app_secrets.into_iter().map(mac).collect())
    }

    /// Whether `signature` is valid for exactly these bytes. Compares in constant time.
    pub fn accepts(&self, signature: &Signature, body: &[u8]) -> bool {
        self.0.iter().any(|mac| mac.clone().chain_update(body).verify_slice(&signature.0).is_ok())
    }
}

#[cfg(test)]
mod tests {
    use std::slice;

    use super::*;

    const EMPTY: &[u8] = include_bytes!("../../tests/fixtures/webhooks/signed_empty.json");
    const ESCAPED: &[u8] = include_bytes!("../../tests/fixtures/webhooks/signed_escaped.json");
    const EMPTY_SIGNATURE: &str = "1ca363dab318df784e1963b29dca91e2098e6cf2fbf0d3c14e09580a90684a61";
    const ESCAPED_SIGNATURE: &str = "26457da083d0f90fa33abc1c6e87f837556a6581d83dd094a0539a74b0979775";
    const REWRITTEN_SIGNATURE: &str = "995f31b9284c917430091d27984cb57d053ad22a59591238b55375ff94400e25";

    fn accepts(digits: &str, body: &[u8]) -> bool {
        let signature = Signature::read(format!("sha256={digits}").as_bytes()).expect("a signature");
        Verifier::new(&[Secret::new("app-secret-for-tests")]).accepts(&signature, body)
    }

    /// The same JSON, decoded and serialized again as UTF-8.
    fn rewritten() -> Vec<u8> {
        let text = std::str::from_utf8(ESCAPED).expect("ASCII");
        text.replace(r"\u00fc", "ü").replace(r"\ud83d\ude80", "🚀").replace(r"\/", "/").into_bytes()
    }

    #[test]
    fn the_bytes_as_they_came_are_what_is_signed() {
        assert_eq!((EMPTY.len(), ESCAPED.len(), rewritten().len()), (49, 159, 144));
        let cases = [
            (EMPTY_SIGNATURE, EMPTY.to_vec(), true),
            (ESCAPED_SIGNATURE, ESCAPED.to_vec(), true),
            (REWRITTEN_SIGNATURE, rewritten(), true),
            (ESCAPED_SIGNATURE, rewritten(), false),
            (REWRITTEN_SIGNATURE, ESCAPED.to_vec(), false),
            (EMPTY_SIGNATURE, ESCAPED.to_vec(), false),
            (EMPTY_SIGNATURE, Vec::new(), false),
        ];
        for (digits, body, accepted) in cases {
            assert_eq!(accepts(digits, &body), accepted, "{digits} for {}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn one_changed_byte_is_refused() {
        for at in 0..EMPTY.len() {
            let mut body = EMPTY.to_vec();
            body[at] ^= 1;
            assert!(!accepts(EMPTY_SIGNATURE, &body), "byte {at}");
        }
    }

    #[test]
    fn another_secret_is_rejected() {
        let signature = Signature::read(format!("sha256={EMPTY_SIGNATURE}").as_bytes()).expect("a signature");
        let other = Secret::new("app-secret-for-test");
        assert!(!Verifier::new(slice::from_ref(&other)).accepts(&signature, EMPTY));
        assert!(!Verifier::new(&[]).accepts(&signature, EMPTY));
    }

    #[test]
    fn both_secrets_are_accepted_during_a_rotation() {
        let signature = Signature::read(format!("sha256={EMPTY_SIGNATURE}").as_bytes()).expect("a signature");
        let (old, new) = (Secret::new("app-secret-for-tests"), Secret::new("another"));
        assert!(Verifier::new(&[new.clone(), old.clone()]).accepts(&signature, EMPTY));
        assert!(Verifier::new(&[old, new]).accepts(&signature, EMPTY));
    }

    #[test]
    fn a_malformed_header_is_rejected() {
        let whole = format!("sha256={EMPTY_SIGNATURE}");
        assert_eq!(whole.len(), 71);
        assert!(Signature::read(whole.as_bytes()).is_some());
        let malformed = [
            String::new(),
            "sha256=".into(),
            EMPTY_SIGNATURE.into(),
            format!("sha1={EMPTY_SIGNATURE}"),
            format!("sha256={}", &EMPTY_SIGNATURE[..62]),
            format!("sha256={}", &EMPTY_SIGNATURE[..63]),
            format!("sha256={EMPTY_SIGNATURE}00"),
            format!("sha256={}", EMPTY_SIGNATURE.replace('1', "g")),
            format!(" sha256={EMPTY_SIGNATURE}"),
            format!("sha256= {EMPTY_SIGNATURE}"),
        ];
        for header in malformed {
            assert_eq!(Signature::read(header.as_bytes()), None, "{header}");
        }
        assert_eq!(Signature::read(&[0xff; 71]), None);
    }
}
