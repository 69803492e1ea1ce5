//! The URL of an endpoint, which may contain a password or a token.

use std::{fmt, net::IpAddr, str::FromStr};

use reqwest::Url;

use super::addresses::is_public;

/// The URL of an endpoint, `http` or `https`. `Debug` and `Display` leave out the parts that may be secret: user,
/// password and query.
#[derive(Clone, PartialEq, Eq)]
pub struct EndpointUrl(Url);

/// The text is not the URL of an endpoint. The error contains nothing of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an https URL without a fragment")]
pub struct BadEndpointUrl;

impl EndpointUrl {
    /// Whether requests are encrypted.
    pub fn uses_tls(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Whether the URL has a password, or a user in front of the host.
    pub fn has_credentials(&self) -> bool {
        self.0.password().is_some() || !self.0.username().is_empty()
    }

    /// The address in the URL, if the URL has a non-public address instead of a name.
    pub fn private_address(&self) -> Option<IpAddr> {
        // `Url` normalizes every form of an address, such as 0x7f.1.
        let host = self.0.host_str().unwrap_or_default();
        let address: IpAddr = host.trim_start_matches('[').trim_end_matches(']').parse().ok()?;
        (!is_public(address)).then_some(address)
    }

    /// The whole URL, with its secrets. Only for the client that sends requests to it.
    pub fn expose(&self) -> &Url {
        &self.0
    }
}

impl FromStr for EndpointUrl {
    type Err = BadEndpointUrl;

    fn from_str(text: &str) -> Result<Self, BadEndpointUrl> {
        let url = Url::parse(text).map_err(|_| BadEndpointUrl)?;
        let is_usable = matches!(url.scheme(), "http" | "https") && url.has_host() && url.fragment().is_none();
        if is_usable { Ok(Self(url)) } else { Err(BadEndpointUrl) }
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut url = self.0.clone();
        url.set_query(None);
        // The setters fail only for URLs without a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.fmt(f)
    }
}

impl fmt::Debug for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> EndpointUrl {
        text.parse().expect(text)
    }

    #[test]
    fn what_may_be_secret_in_a_url_is_not_printed() {
        let secret = url("https://user:hunter2@backend.example:8443/hooks/pregon?token=hunter2");
        assert_eq!(format!("{secret} {secret:?}"), "https://backend.example:8443/hooks/pregon ".repeat(2).trim_end());
        assert!(secret.has_credentials() && url("https://token@a.example").has_credentials());
        assert!(!url("https://a.example/?token=1").has_credentials());
    }

    #[test]
    fn a_private_address_is_found_however_it_is_written() {
        for private in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "127.0.0.1.",
            "10.0.0.1",
            "169.254.169.254",
            "0",
            "[::1]",
            "[::]",
            "[::ffff:10.0.0.1]",
            "[fd00::1]",
            "%31%32%37.0.0.1",
            "１２７.0.0.1",
        ] {
            assert!(url(&format!("https://{private}:8443/hook")).private_address().is_some(), "{private}");
        }
        for other in ["1.1.1.1", "[2606:4700::1111]", "backend.example", "localhost", "127.0.0.1.example"] {
            assert_eq!(url(&format!("https://{other}/hook")).private_address(), None, "{other}");
        }
    }

    #[test]
    fn a_url_of_another_kind_is_refused() {
        for bad in ["", "backend.example/hook", "ftp://backend.example", "https://", "https://a.example/#b", "data:,a"]
        {
            assert!(bad.parse::<EndpointUrl>().is_err(), "{bad}");
        }
    }
}
