//! The value of `database.url`.

use std::{fmt, path::PathBuf, str::FromStr};

use reqwest::Url;
use sqlx::{ConnectOptions as _, postgres::PgConnectOptions};

/// A PostgreSQL to connect to, or one to start. `Debug` and `Display` hide a password.
#[derive(Clone)]
pub enum DatabaseUrl {
    /// A running PostgreSQL.
    Server {
        /// The URL, for display.
        url: Box<Url>,
        /// How to connect to it.
        options: Box<PgConnectOptions>,
    },
    /// A private PostgreSQL to start in this directory, `spawn:DIR`.
    Spawn(PathBuf),
}

/// The text is not a URL of PostgreSQL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not of the form postgres://USER@HOST:5432/DATABASE or spawn:DIR ({0})")]
pub struct BadDatabaseUrl(String);

impl DatabaseUrl {
    /// Whether the URL contains a password, which makes it a secret.
    pub fn has_password(&self) -> bool {
        matches!(self, Self::Server { url, .. } if url.password().is_some())
    }
}

impl FromStr for DatabaseUrl {
    type Err = BadDatabaseUrl;

    fn from_str(text: &str) -> Result<Self, BadDatabaseUrl> {
        if let Some(dir) = text.strip_prefix("spawn:") {
            return if dir.is_empty() {
                Err(BadDatabaseUrl("no directory".into()))
            } else {
                Ok(Self::Spawn(dir.into()))
            };
        }
        // Neither error shows the text, which may hold a password.
        let url: Url = text.parse().map_err(|error| BadDatabaseUrl(format!("{error}")))?;
        if !["postgres", "postgresql"].contains(&url.scheme()) || url.path().trim_matches('/').is_empty() {
            return Err(BadDatabaseUrl("it must begin with postgres:// and name a database".into()));
        }
        let options: PgConnectOptions =
            text.parse().map_err(|_| BadDatabaseUrl("a parameter is not one of PostgreSQL's".into()))?;
        Ok(Self::Server { url: Box::new(url), options: Box::new(options.disable_statement_logging()) })
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spawn(dir) => write!(f, "spawn:{}", dir.display()),
            Self::Server { url, .. } => {
                let host = url.host_str().unwrap_or_default();
                let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
                write!(f, "postgres://{host}{port}{}", url.path())
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_password() {
        let url: DatabaseUrl =
            "postgres://pregon:hunter2@db.example:6432/people?sslmode=verify-full".parse().expect("a URL");
        assert!(url.has_password());
        assert_eq!(format!("{url} {url:?}"), ["postgres://db.example:6432/people"; 2].join(" "));
        let spawn: DatabaseUrl = "spawn:./people".parse().expect("a private server");
        assert!(!spawn.has_password());
        assert_eq!(spawn.to_string(), "spawn:./people");
    }

    #[test]
    fn a_url_without_a_database_and_one_of_another_kind_are_refused() {
        for bad in [
            "postgres://hunter2@db",
            "mysql://hunter2@db/people",
            "spawn:",
            "hunter2",
            "postgres://h/p?sslmode=hunter2",
        ] {
            let error = bad.parse::<DatabaseUrl>().expect_err(bad).to_string();
            assert!(error.starts_with("is not of the form") && !error.contains("hunter2"), "{error}");
        }
    }
}
