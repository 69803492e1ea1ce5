//! HTTP shared by all modules that serve it: listener, TLS, API keys, problem responses, paging, health endpoints.
//!
//! Never: knows a resource of the API.

pub mod auth;
mod connection;
pub mod listener;
pub mod ops;
pub mod page;
pub mod problem;
pub mod request;
mod streams;
pub mod tls;
