//! A line: when a message may leave.
//!
//! [`runner`] sends the messages of the line's lane. [`clearance`] decides by lease and pace when one may leave.
//! [`pace`] keeps the rate, [`slots`] limits the attempts in flight, [`path`] detects a broken path to Meta, and
//! [`holds`] has what Meta or an operator has stopped. [`warm_up`] limits the messages of a line's first days.
//! [`state`] is the part of this that a lane may read.

pub mod clearance;
pub mod consequence;
pub mod holds;
mod log;
pub mod pace;
pub mod path;
pub mod runner;
pub mod slots;
pub mod state;
pub mod warm_up;
