//! What a process tells of itself: logs, metrics, and the clock that stamps them.

pub mod clock;
pub mod health;
pub mod logging;
pub mod metrics;
