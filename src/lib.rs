//! Pregón sends WhatsApp campaigns: a Meta-approved template to every recipient, at each line's own rate, nothing
//! lost, nothing twice, counted exactly.
//!
//! ```text
//! backend ──HTTP──▶ api ─┐                        ┌─▶ line runner (3001) ──▶ Graph API
//! backend ──XADD──▶ jobs ┴▶ intake ─▶ parts ─▶ leases ─▶ line runner (3002) ──▶ Graph API
//!                              ▲ Redis                └─▶ …
//! Meta ─────POST──▶ webhook ───┴▶ status apply ─▶ state bytes + counters ─▶ statistics
//! ```
//!
//! Read in this order: [`domain`] (the rules, no I/O), [`redis`] (what is stored, and the scripts that change it), [`intake`],
//! [`dispatch`] with [`graph`], [`webhook`], [`stats`], [`api`], then what surrounds them: [`config`], [`telemetry`], [`http`],
//! [`client`], [`terminal`], the stand-in for Meta [`sim`], and [`app`], which puts all of them together.

pub mod api;
pub mod app;
pub mod client;
pub mod coding;
pub mod config;
pub mod dispatch;
pub mod domain;
pub mod graph;
pub mod http;
pub mod intake;
mod json;
pub mod redis;
pub mod sim;
pub mod stats;
pub mod telemetry;
pub mod templates;
pub mod terminal;
pub mod webhook;
