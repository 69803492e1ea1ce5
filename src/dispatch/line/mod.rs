//! A line: when a message may leave.
//!
//! [`runner`] sends the messages of the line's lane. [`clearance`] decides by lease and pace when one may leave.
//! [`pace`] keeps the rate, [`slots`] limits the attempts in flight, [`path`] notices when the path to Meta is broken,
//! and [`holds`] what Meta or an operator has stopped. [`warm_up`] limits the messages of a line's first days. [`state`] is
//! what of this a lane may ask about.

pub mod clearance;
pub mod consequence;
pub mod holds;
pub mod pace;
pub mod path;
pub mod runner;
pub mod slots;
pub mod state;
pub mod warm_up;
