//! Settings of Redis that can lose campaigns: no append-only file, or eviction when memory is full.

use std::fmt;

use crate::redis::fleet::field;

/// A setting of Redis that can lose campaigns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Risk {
    /// The append-only file is off.
    NoAppendOnlyFile,
    /// Keys are evicted when memory is full.
    Evicts {
        /// The value of `maxmemory-policy`.
        policy: String,
    },
}

impl Risk {
    /// The names of the risks.
    pub const NAMES: [&str; 2] = ["no_append_only_file", "evicts"];

    /// The name, one of [`Risk::NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Self::NoAppendOnlyFile => "no_append_only_file",
            Self::Evicts { .. } => "evicts",
        }
    }

    /// How to fix the setting.
    pub fn remedy(&self) -> &'static str {
        match self {
            Self::NoAppendOnlyFile => "CONFIG SET appendonly yes, and the same in redis.conf",
            Self::Evicts { .. } => "CONFIG SET maxmemory-policy noeviction, and the same in redis.conf",
        }
    }

    /// The risks in `info`, the answer to INFO.
    pub fn of(info: &str) -> Vec<Self> {
        let no_file = (field(info, "aof_enabled") != "1").then_some(Self::NoAppendOnlyFile);
        let (policy, limit) = (field(info, "maxmemory_policy"), field(info, "maxmemory"));
        let evicts = policy != "noeviction" && !matches!(limit, "" | "0");
        no_file.into_iter().chain(evicts.then(|| Self::Evicts { policy: policy.to_owned() })).collect()
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
        assert_eq!(risks(1, 0, "allkeys-lru"), [], "without maxmemory nothing is evicted");
        assert_eq!(risks(1, 100, "noeviction"), []);
        assert_eq!(risks(1, 100, "volatile-lru"), std::slice::from_ref(&evicts));
        assert_eq!(risks(0, 100, "volatile-lru"), [Risk::NoAppendOnlyFile, evicts]);
    }
}
