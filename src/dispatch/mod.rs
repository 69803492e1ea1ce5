//! The life of one message: lease, claim, pace, send, settle.
//!
//! [`worker`] holds the leases of its share of the lines and starts a [`runner`] for each; a runner claims the next
//! moments of its line ([`backlog`] says from where, [`share`] for whom), [`pace`] and [`slots`] let them go, and what
//! came of them is settled in batches ([`settle`]). [`housekeeping`] does what belongs to no line, and [`indexing`] moves the message ids of what was
//! sent.
//!
//! If the process dies: its leases end, the next owners put what was in flight in doubt, and go on.

pub mod backlog;
pub mod batch;
pub mod calls;
pub mod holds;
pub mod housekeeping;
pub mod indexing;
pub mod lease;
pub mod message;
pub mod pace;
pub mod path;
pub mod plans;
pub mod recipients;
pub mod roster;
pub mod runner;
pub mod settle;
pub mod shard;
pub mod share;
pub mod slots;
pub mod unlisted;
pub mod worker;

use std::{collections::HashMap, time::Duration};

use crate::{
    domain::{Hold, HoldScope, LineId, retry::RetryPolicy},
    redis::lines::LineControl,
};

/// What dispatch needs to know.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    /// Share of each line's rate that campaigns leave for answers and inbound, 0 to below 1.
    pub headroom: f64,
    /// How long a message may stay in doubt.
    pub doubt_deadline: Duration,
    /// How long a line belongs to one worker without renewal.
    pub lease: Duration,
    /// When what failed for now is tried again.
    pub retry: RetryPolicy,
    /// Attempts in flight on one line at most.
    pub in_flight_max: usize,
    /// How long message ids are found again.
    pub ids_kept: Duration,
}

/// What all runners of a worker are told.
#[derive(Clone, Debug, Default)]
pub struct RunnerSignals {
    /// Rises whenever a line may have something new to do.
    pub pulse: u64,
    /// What operators set.
    pub controls: HashMap<LineId, LineControl>,
    /// What is held back.
    pub holds: HashMap<HoldScope, Hold>,
}
