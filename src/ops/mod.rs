//! What surrounds the work: configuration, metrics, health, logs, the clock and the clean stop.

pub mod clock;
pub mod config;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod shutdown;
