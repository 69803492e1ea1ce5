//! What surrounds the work: configuration, listeners, metrics, health, logs, the clock and the clean stop.

pub mod clock;
pub mod config;
pub mod health;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod shutdown;
pub mod tls;
