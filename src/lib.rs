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
//! Read in this order: [`domain`] (the rules, no I/O), [`store`] (what is in Redis and the scripts that change it),
//! [`intake`], [`dispatch`] with [`graph`], [`webhook`], [`stats`], [`api`], then [`ops`] and the tools
//! [`sim`], [`demo`], [`load`] and [`cli`].

pub mod api;
pub mod cli;
pub mod coding;
pub mod demo;
pub mod dispatch;
pub mod domain;
pub mod graph;
pub mod intake;
mod json;
pub mod load;
pub mod ops;
pub mod serve;
pub mod sim;
pub mod size;
pub mod stats;
pub mod store;
pub mod templates;
pub mod webhook;
