//! The value of `redis.url`.

use std::{fmt, path::PathBuf, str::FromStr};

use crate::redis::deployment::{BadUrl, Deployment};

/// A Redis to connect to, or one to start. `Debug` and `Display` hide a password.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisUrl {
    /// A running Redis: the URL of a [`Deployment`].
    Server(String),
    /// A private redis-server to start in this directory, `spawn:DIR`.
    Spawn(PathBuf),
}

impl RedisUrl {
    /// Whether the URL contains a password, which makes it a secret.
    pub fn has_password(&self) -> bool {
        self.deployment().is_some_and(|deployment| deployment.has_password())
    }

    /// Whether connections to the servers of the URL use TLS.
    pub fn uses_tls(&self) -> bool {
        self.deployment().is_some_and(|deployment| deployment.uses_tls())
    }

    fn deployment(&self) -> Option<Deployment> {
        match self {
            RedisUrl::Server(url) => url.parse().ok(),
            RedisUrl::Spawn(_) => None,
        }
    }
}

impl FromStr for RedisUrl {
    type Err = BadUrl;

    fn from_str(text: &str) -> Result<Self, BadUrl> {
        if let Some(dir) = text.strip_prefix("spawn:") {
            return if dir.is_empty() { Err(BadUrl::Unreadable) } else { Ok(Self::Spawn(dir.into())) };
        }
        text.parse::<Deployment>().map(|_| Self::Server(text.to_owned()))
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedisUrl::Spawn(dir) => write!(f, "spawn:{}", dir.display()),
            RedisUrl::Server(_) => match self.deployment() {
                Some(deployment) => fmt::Display::fmt(&deployment, f),
                None => f.write_str("redis"),
            },
        }
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
