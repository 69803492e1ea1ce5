//! Dispatch: claims messages from Redis, sends them to Meta, and settles their outcomes.
//!
//! - [`worker`] holds the leases on its share of the lines, and starts a runner for each.
//! - [`leases`] decides which leases a worker acquires, renews and releases.
//! - [`mod@line`] decides when a message leaves: rate, attempts in flight, holds, the path to Meta.
//! - [`lanes`] decide what leaves. The campaigns are a lane.
//! - [`shard`] is what the lines on one thread share, and [`batch`] how much goes to Redis in one call.
//! - [`allowances`] reads from Meta what each line may send, and [`inbound`] measures the rate of its inbound messages.
//! - [`housekeeping`] does the work that belongs to no line, and [`indexing`] the index of message ids.
//!
//! If the process dies: its leases expire. The next owners put the messages that were in flight in doubt, and go on.

pub mod allowances;
mod backlogs;
pub mod batch;
pub mod housekeeping;
pub mod inbound;
pub mod indexing;
pub mod lanes;
pub mod lease;
pub mod leases;
pub mod line;
pub mod roster;
pub mod shard;
pub mod template_reads;
pub mod unlisted;
pub mod worker;

use std::{collections::HashMap, sync::Arc, time::Duration};

use self::inbound::InboundRates;
use crate::{
    domain::{
        BusinessId, Hold, HoldScope, LineId, Lines, Live, MessagingLimit, Pauses, UnixMs, WabaId, retry::RetryPolicy,
    },
    redis::lines::LineControl,
    rules::contact_hours::ContactHours,
    telemetry::traces::Traces,
};

/// The settings of dispatch.
#[derive(Clone, Debug)]
pub struct DispatchSettings {
    /// The share of each line's rate that campaigns leave free for replies and inbound messages: from 0, less than 1.
    pub headroom: f64,
    /// How long a message may stay in doubt.
    pub doubt_deadline: Duration,
    /// How long a line belongs to one worker without renewal.
    pub lease: Duration,
    /// When and how often an attempt that failed temporarily is retried.
    pub retry: RetryPolicy,
    /// Maximum number of attempts in flight on one line.
    pub in_flight_max: usize,
    /// Minimum time between two messages of a line to the same person; zero for no minimum.
    pub pair_spacing: Duration,
    /// How long message ids can be looked up.
    pub id_retention: Duration,
    /// The features that this worker has. It sends no campaign that requires another one.
    pub features: &'static [&'static str],
    /// When marketing may leave to numbers with some prefixes.
    pub contact_hours: Live<ContactHours>,
    /// Where the traces of sampled recipients are recorded.
    pub traces: Traces,
}

/// What a worker broadcasts to all its runners.
#[derive(Clone, Debug, Default)]
pub struct RunnerSignals {
    /// A counter that rises whenever a line may have something new to do.
    pub pulse: u64,
    /// The configured lines of the worker.
    pub lines: Lines,
    /// What operators have set and what Meta allows, by line: of each of `lines`, once that was read. Until then the line
    /// claims nothing, because it could be paused.
    pub controls: HashMap<LineId, LineControl>,
    /// The holds, by scope.
    pub holds: HashMap<HoldScope, Hold>,
    /// The pauses of everything.
    pub pauses: Pauses,
    /// The messaging limits that are known, by business.
    pub messaging_limits: HashMap<BusinessId, MessagingLimit>,
    /// The WABAs that send marketing through the Marketing Messages API because Meta demanded it, and until when each
    /// does.
    pub rerouted: HashMap<WabaId, UnixMs>,
    /// The rate of inbound messages on each line. It changes between broadcasts; the runners read it once a second.
    pub inbound: Arc<InboundRates>,
}
