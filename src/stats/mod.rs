//! Statistics: the results of a campaign so far, the same object everywhere.
//!
//! The counters of the parts are authoritative: the scripts update them in the same step as the state bytes. This
//! module adds them up ([`counts`]) and combines them with the state of the lines: why sending is not faster
//! ([`waiting`]) and when it will be done ([`eta`]). Those modules do no I/O. [`reader`] reads Redis for them, and
//! [`recount`] counts the state bytes again, to check the counters.
//!
//! Never: changes anything, or stores a count of its own.

pub mod counts;
pub mod eta;
pub mod line;
pub mod reader;
pub mod waiting;

use serde::Serialize;

use crate::{
    domain::UnixMs,
    redis::{Result, Store, campaigns::CampaignRecord},
};

pub use counts::{ByState, FailureCount, Funnel, StateCounts};
pub use reader::StatisticsReader;
pub use waiting::{WaitReason, Waiting};

/// The results of a campaign so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// The number of recipients.
    pub recipients: u64,
    /// Recipients by state. Each recipient is in one state, so the counts add up to `recipients`.
    pub by_state: ByState,
    /// How far the recipients got. Cumulative.
    pub funnel: Funnel,
    /// Recipients by failure, the most frequent first. Adds up to `by_state.failed` and `by_state.unknown` together.
    pub failures: Vec<FailureCount>,
    /// Messages per second that Meta accepted, over the last few seconds.
    pub rate_per_second: f64,
    /// The estimated time at which the last message will have been sent; `None` if it is unknown, or nothing is left
    /// to send.
    pub eta: Option<UnixMs>,
    /// Why sending is not faster, or has stopped.
    pub waiting_for: Vec<Waiting>,
}

/// Counts recipients by state from the state bytes. The result must equal the counters.
///
/// Reads one part at a time, at most 64 KiB each.
pub async fn recount(store: &Store, record: &CampaignRecord) -> Result<StateCounts> {
    let mut tally = StateCounts::default();
    for &(part, _) in &record.parts {
        tally.add_bytes(&store.state_bytes(part).await?);
    }
    Ok(tally)
}
