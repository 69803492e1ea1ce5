//! Values that must not appear in logs or output: tokens, keys and passwords.

use std::fmt;

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// A secret. `Debug` and `Display` write `***`. Comparing two secrets of the same length takes constant time.
#[derive(Clone)]
pub struct Secret(String);

impl Secret {
    /// A secret with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// A character or quote in the secret that is there by mistake, for example from a copy or an editor; `None` if
    /// there is none.
    pub fn flaw(&self) -> Option<Flaw> {
        let text = self.0.as_str();
        let quotes = [('"', '"'), ('\'', '\''), ('`', '`'), ('“', '”'), ('‘', '’'), ('«', '»')];
        let is_in = |(open, close): &(char, char)| text.len() > 1 && text.starts_with(*open) && text.ends_with(*close);
        let is_invisible = |c: char| matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}');
        if text.starts_with('\u{feff}') {
            Some(Flaw::ByteOrderMark)
        } else if text.trim().is_empty() {
            Some(Flaw::Empty)
        } else if quotes.iter().any(is_in) {
            Some(Flaw::Quotes)
        } else if text.contains(char::is_control) {
            Some(Flaw::LineBreak)
        } else if text.contains(|c: char| c.is_whitespace() || is_invisible(c)) {
            Some(Flaw::Blank)
        } else {
            None
        }
    }

    /// The text itself. Only for code that has to send it or check it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

/// What is wrong with the text of a secret, and the remedy. The message contains no character of the secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The text is empty or blank.
    #[error("is empty: put the secret there")]
    Empty,
    /// The text starts with a byte order mark, which some editors write.
    #[error("begins with a byte order mark: save it as UTF-8 without one")]
    ByteOrderMark,
    /// Quotes enclose the text, as in a shell. They would become part of the secret.
    #[error("has quotes around it: write the secret without them")]
    Quotes,
    /// The text has a control character, usually a line break with more text after it.
    #[error("contains a line break or another control character: write only the secret, on one line")]
    LineBreak,
    /// The text has white space or an invisible character, copied by mistake or between several words.
    #[error("contains a blank or an invisible character: write the secret without it")]
    Blank,
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The SHA-256 of a secret, for a secret that is only compared and never sent. The secret cannot be recovered from
/// it. Comparison takes constant time and does not reveal the length of the secret.
#[derive(Clone, Copy)]
pub struct SecretDigest([u8; 32]);

impl SecretDigest {
    /// The digest of `text`.
    pub fn of(text: &str) -> Self {
        Self(Sha256::digest(text.as_bytes()).into())
    }

    /// The bytes, for storing them.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl ConstantTimeEq for SecretDigest {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.ct_eq(&other.0)
    }
}

impl PartialEq for SecretDigest {
    fn eq(&self, other: &Self) -> bool {
        self.ct_eq(other).into()
    }
}

impl Eq for SecretDigest {}

impl fmt::Debug for SecretDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_never_printed() {
        let secret = Secret::new("EAAG-token");
        assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "*** *** Some(***)");
        assert_eq!(secret.expose(), "EAAG-token");
    }

    #[test]
    fn each_flaw_in_a_secret_is_found() {
        let cases = [
            (Some(Flaw::Empty), &["", " ", "\n"][..]),
            (Some(Flaw::ByteOrderMark), &["\u{feff}EAAG", "\u{feff}"]),
            (Some(Flaw::Quotes), &["\"EAAG\"", "'EAAG'", "“EAAG”", "\"\""]),
            (Some(Flaw::LineBreak), &["EAAG\n", "EA\r\nAG", "EA\tAG", "EA\0AG"]),
            (Some(Flaw::Blank), &[" EAAG", "EAAG ", "EA AG", "EAAG\u{a0}", "EAAG\u{200b}", "EA\u{feff}AG"]),
            (None, &["EAAG", "\"", "it's", "ñandú-🦤"]),
        ];
        for (flaw, texts) in cases {
            for text in texts {
                assert_eq!(Secret::new(*text).flaw(), flaw, "{text:?}");
            }
        }
    }

    #[test]
    fn a_digest_matches_its_secret_and_prints_nothing() {
        let digest = SecretDigest::of("EAAG-token");
        assert_eq!(digest, SecretDigest::of("EAAG-token"));
        assert_ne!(digest, SecretDigest::of("EAAG-toke"));
        assert_eq!(format!("{digest:?}"), "***");
    }

    #[test]
    fn secrets_are_equal_when_their_text_is() {
        assert_eq!(Secret::new("abc"), Secret::new("abc"));
        assert_ne!(Secret::new("abc"), Secret::new("abd"));
        assert_ne!(Secret::new("abc"), Secret::new("abcd"));
    }
}
