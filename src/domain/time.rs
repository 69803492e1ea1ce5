//! Points in time.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Unix time in milliseconds. Serialized as RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixMs(pub u64);

impl UnixMs {
    /// Unix time in whole seconds.
    pub fn seconds(self) -> u64 {
        self.0 / 1000
    }

    /// This time plus `duration`. Saturates.
    pub fn after(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// This time minus `duration`. Saturates.
    pub fn before(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)))
    }

    /// The duration since `earlier`; zero if `earlier` is later than this time.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// Parses RFC 3339, such as `2026-11-22T18:00:00Z`. `None` if it is something else, or before 1970.
    pub fn parse(text: &str) -> Option<Self> {
        Self::of(text.parse().ok()?)
    }

    fn of(at: jiff::Timestamp) -> Option<Self> {
        u64::try_from(at.as_millisecond()).map(Self).ok()
    }

    /// As a timestamp of `jiff`; the latest one if it is later than that.
    pub fn timestamp(self) -> jiff::Timestamp {
        i64::try_from(self.0)
            .ok()
            .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok())
            .unwrap_or(jiff::Timestamp::MAX)
    }
}

/// When something is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Now, even if the clock is set back.
    AtOnce,
    /// From this time on.
    At(UnixMs),
}

impl Due {
    /// Whether it is due at `now`.
    pub fn is_due(self, now: UnixMs) -> bool {
        self <= Due::At(now)
    }

    /// How long after `now` it is due; zero if it is due.
    pub fn wait(self, now: UnixMs) -> Duration {
        match self {
            Due::AtOnce => Duration::ZERO,
            Due::At(at) => at.since(now),
        }
    }
}

impl fmt::Display for UnixMs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.timestamp().fmt(f)
    }
}

impl Serialize for UnixMs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.timestamp().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for UnixMs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::of(jiff::Timestamp::deserialize(deserializer)?).ok_or_else(|| serde::de::Error::custom("before 1970"))
    }
}
