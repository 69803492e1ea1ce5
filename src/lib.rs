//! Pregón sends WhatsApp campaigns: it sends a Meta-approved template to every recipient at the rate of each line,
//! loses no message, sends none twice, and counts exactly.
//!
//! ```text
//! backend ──HTTP──▶ api ─┐                        ┌─▶ line runner (3001) ──▶ Graph API
//! backend ──XADD──▶ jobs ┴▶ intake ─▶ parts ─▶ leases ─▶ line runner (3002) ──▶ Graph API
//!                              ▲ Redis                └─▶ …
//! Meta ─────POST──▶ webhook ───┴▶ status apply ─▶ state bytes + counters ─▶ statistics
//! ```
//!
//! Reading order: [`domain`] (the rules, no I/O), [`rules`] (Meta's rules, pure), [`redis`] (what is stored, and the
//! scripts that change it), [`intake`], [`dispatch`] with [`graph`], [`webhook`], [`subscribers`], [`stats`],
//! [`preflight`], [`engage`] with [`postgres`] and [`media`], and [`api`] with [`api_types`]. Then the supporting modules: [`config`], [`telemetry`], [`http`],
//! [`client`], [`discovery`], [`terminal`], the simulator [`sim`], and [`app`], which connects all of them.

pub mod api;
pub mod api_types;
pub mod app;
pub mod client;
pub mod coding;
pub mod config;
pub mod discovery;
pub mod dispatch;
pub mod domain;
pub mod endpoint;
pub mod engage;
pub mod feed;
pub mod graph;
pub mod http;
pub mod intake;
mod json;
pub mod media;
pub mod postgres;
pub mod preflight;
mod private_server;
pub mod redis;
pub mod rules;
pub mod sim;
pub mod stats;
pub mod subscribers;
pub mod telemetry;
pub mod templates;
pub mod terminal;
pub mod webhook;
