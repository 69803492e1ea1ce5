//! Logs, metrics, traces and health of a process, and the wall clock.

pub mod clock;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod traces;
