//! HTTP as every room serves it: listeners, TLS, the probes of an orchestrator. Knows no resource.

pub mod auth;
pub mod listener;
pub mod ops;
pub mod page;
pub mod problem;
pub mod request;
pub mod tls;
