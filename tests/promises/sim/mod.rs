//! The stand-in for Meta over real HTTP: what it takes and refuses, what it tells, and that its ledger is true.

mod faults;
pub mod kit;
mod limits;
mod reading;
mod sends;
mod webhooks;
