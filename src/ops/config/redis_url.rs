//! Where the work is kept: the kinds of `redis.url`.

use std::{fmt, path::PathBuf, str::FromStr};

use deadpool_redis::redis::IntoConnectionInfo;

/// A Redis to connect to, or one to start. `Debug` and `Display` hide a password.
#[derive(Clone, PartialEq, Eq)]
pub enum RedisUrl {
    /// A server that runs: a URL as the redis crate reads it, `redis://` or `redis+unix://`.
    Server(String),
    /// A private redis-server to start in this directory, `spawn:DIR`.
    Spawn(PathBuf),
}

impl RedisUrl {
    /// The URL holds a password, and so is a secret.
    pub fn has_password(&self) -> bool {
        match self {
            RedisUrl::Server(url) => connection(url).is_some_and(|info| info.redis_settings().password().is_some()),
            RedisUrl::Spawn(_) => false,
        }
    }
}

fn connection(url: &str) -> Option<deadpool_redis::redis::ConnectionInfo> {
    url.into_connection_info().ok()
}

impl FromStr for RedisUrl {
    type Err = BadRedisUrl;

    fn from_str(text: &str) -> Result<Self, BadRedisUrl> {
        if let Some(dir) = text.strip_prefix("spawn:") {
            return if dir.is_empty() { Err(BadRedisUrl::Unreadable) } else { Ok(Self::Spawn(dir.into())) };
        }
        match text.split_once("://").map(|(scheme, _)| scheme) {
            Some("redis" | "redis+unix") if connection(text).is_some() => Ok(Self::Server(text.to_owned())),
            Some("rediss") => Err(BadRedisUrl::Unsupported("Redis over TLS (rediss://)")),
            Some("redis+cluster") => Err(BadRedisUrl::Unsupported("Redis Cluster (redis+cluster://)")),
            Some("redis+sentinel") => Err(BadRedisUrl::Unsupported("Redis Sentinel (redis+sentinel://)")),
            _ => Err(BadRedisUrl::Unreadable),
        }
    }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RedisUrl::Spawn(dir) => write!(f, "spawn:{}", dir.display()),
            // The address without user, password and database: what an operator needs to know, and nothing secret.
            RedisUrl::Server(url) => match connection(url) {
                Some(info) => write!(f, "redis at {}", info.addr()),
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

/// The text is no `redis.url` of a kind that this version can use. The text itself is left out: it may hold a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRedisUrl {
    /// Known, and not built in.
    #[error("names {0}, which this version cannot use: give redis:// or spawn:DIR")]
    Unsupported(&'static str),
    /// Anything else.
    #[error("is not of the form redis://HOST:PORT/DB, redis+unix:///PATH or spawn:DIR")]
    Unreadable,
}
