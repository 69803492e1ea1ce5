//! The HTTP API over real HTTP and a real Redis.

mod access;
mod audit;
mod businesses;
mod campaigns;
mod chats;
mod document;
mod encodings;
mod events;
mod feed;
mod guard;
pub mod harness;
mod holds;
mod jobs;
mod lines;
mod pauses;
mod people;
mod preflight;
mod recipients;
mod retries;
mod stream;
mod suppressions;
mod truth;
mod workers;
