//! Text that no log may show.

use std::{fmt, sync::Arc};

/// An access token, a key, a password. `Debug` and `Display` write `***`; only [`Secret::expose`] shows it.
///
/// It has no `==`, which would leak by its time how far two texts agree: whoever compares does it in constant time. It
/// does not deserialize either: a secret comes from the environment or a file, never from the configuration itself.
#[derive(Clone)]
pub struct Secret(Arc<str>);

impl Secret {
    /// The text itself. Never log it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for Secret {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_expose_shows_a_secret() {
        let secret = Secret::from("EAAJ-token");
        assert_eq!(secret.expose(), Secret::from("EAAJ-token".to_owned()).expose());
        assert_eq!(format!("{secret} {secret:?} {:#?}", Some(&secret)), "*** *** Some(\n    ***,\n)");
    }
}
