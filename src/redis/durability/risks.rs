//! Whether Redis keeps what it is given: it has to write it down, and must not evict it to make room.

use std::fmt;

use deadpool_redis::redis::cmd;

use crate::redis::{Result, Store, fleet::field};

/// A setting of Redis that can lose campaigns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Risk {
    /// There is no append-only file.
    NoAppendOnlyFile,
    /// Keys are evicted when the memory is full.
    Evicts {
        /// The value of `maxmemory-policy`.
        policy: String,
    },
}

impl Risk {
    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoAppendOnlyFile => "CONFIG SET appendonly yes, and the same in redis.conf",
            Self::Evicts { .. } => "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        }
    }

    /// The risks that `info`, the answer to INFO, shows.
    pub fn of(info: &str) -> Vec<Self> {
        let file = (field(info, "aof_enabled") != "1").then_some(Self::NoAppendOnlyFile);
        let (policy, limit) = (field(info, "maxmemory_policy"), field(info, "maxmemory"));
        let evicts = policy != "noeviction" && !matches!(limit, "" | "0");
        file.into_iter().chain(evicts.then(|| Self::Evicts { policy: policy.to_owned() })).collect()
    }
}

impl fmt::Display for Risk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAppendOnlyFile => write!(f, "the append-only file is off: a restart would forget campaigns"),
            Self::Evicts { policy } => {
                write!(f, "maxmemory-policy is {policy}: a full Redis would evict campaigns")
            }
        }
    }
}

impl Store {
    /// The settings of this Redis that can lose campaigns.
    pub async fn risks(&self) -> Result<Vec<Risk>> {
        let info: String = self.query("INFO", &cmd("INFO")).await?;
        Ok(Risk::of(&info))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_that_can_lose_campaigns_is_a_risk() {
        let risks = |aof, maxmemory, policy| {
            Risk::of(&format!(
                "# Memory\r\nmaxmemory:{maxmemory}\r\nmaxmemory_human:1G\r\nmaxmemory_policy:{policy}\r\naof_enabled:{aof}\r\n"
            ))
        };
        let evicts = Risk::Evicts { policy: "volatile-lru".into() };
        assert_eq!(risks(1, 0, "noeviction"), []);
        assert_eq!(risks(1, 0, "allkeys-lru"), [], "without a limit nothing is ever evicted");
        assert_eq!(risks(1, 100, "noeviction"), []);
        assert_eq!(risks(1, 100, "volatile-lru"), std::slice::from_ref(&evicts));
        assert_eq!(risks(0, 100, "volatile-lru"), [Risk::NoAppendOnlyFile, evicts]);
    }
}
