//! Webhooks to subscribers: signed, in order, at least once, and only to public addresses. The receivers are real HTTP
//! servers.

mod addresses;
mod delivery;
mod failing;
mod kit;
mod redelivery;
mod secrets;
mod takeover;
