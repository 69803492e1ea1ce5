//! HTTP as every room serves it: listeners, TLS, the probes of an orchestrator. Knows no resource.

pub mod listener;
pub mod ops;
pub mod tls;
