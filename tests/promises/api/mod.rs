//! The HTTP API over real HTTP and a real Redis.

mod access;
mod agents;
mod audit;
mod businesses;
mod campaigns;
pub mod chats;
mod contacts;
mod document;
mod encodings;
mod events;
mod feed;
mod guard;
pub mod harness;
mod holds;
mod jobs;
mod lines;
mod media;
mod pauses;
mod people;
mod preflight;
mod recipients;
mod retries;
mod stream;
mod suppressions;
mod tags;
mod truth;
mod workers;
