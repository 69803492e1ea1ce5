//! Reads `url` and `allow_private` of an endpoint.

use super::reader::Section;
use crate::{
    domain::Secret,
    endpoint::{Endpoint, EndpointUrl},
};

/// The placeholder for a URL with a problem.
const NO_URL: &str = "https://none.invalid";

pub(super) fn read(section: &mut Section<'_>) -> Endpoint {
    let allow_private = section.parsed("allow_private", "true or false", |text| text.parse().ok()).unwrap_or_default();
    Endpoint { url: url(section, allow_private), allow_private }
}

/// Reads the URL. One with a password is a secret: in the file it must be a reference to a variable or a file.
fn url(section: &mut Section<'_>, allow_private: bool) -> EndpointUrl {
    let (is_table, by_environment) = section.kind_of("url");
    let text = match is_table {
        true => section.secret("url").unwrap_or_else(|| Secret::new("")),
        false => Secret::new(section.required("url")),
    };
    let problem = match text.expose().parse::<EndpointUrl>() {
        // The problem is already recorded.
        _ if text.expose().is_empty() => None,
        Err(error) => Some(error.to_string()),
        Ok(url) if !url.uses_tls() && !allow_private => {
            Some(format!("({url}) must be an https URL, or an http one with allow_private = true"))
        }
        Ok(url) if url.has_credentials() && !is_table && !by_environment => Some(
            "holds a password, which must not be written in this file: use { env = \"NAME\" } or { file = \"PATH\" }"
                .into(),
        ),
        Ok(url) => match url.private_address() {
            Some(address) if !allow_private => Some(format!(
                "({url}) has the address {address}, which is not public: set allow_private if you mean it"
            )),
            _ => return url,
        },
    };
    if let Some(problem) = problem {
        section.problem("url", problem);
    }
    NO_URL.parse().expect("a URL")
}
