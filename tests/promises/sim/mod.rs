//! The simulator of Meta (`pregon sim`) over real HTTP: what it accepts and rejects, the webhooks it sends,
//! and that its ledger is correct.

mod accounts;
mod businesses;
mod chats;
mod clock;
mod faults;
mod health;
pub mod kit;
mod limits;
mod lines;
mod media;
mod reading;
mod referee;
mod sends;
mod templates;
mod webhooks;
