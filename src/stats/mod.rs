//! Statistics: what became of a campaign, in one object that is the same everywhere.
//!
//! The counters of the parts are the truth, kept by the scripts in the same step as the state bytes; here they are only
//! added up ([`counts`]), and set beside what is known of the lines: why work is not moving ([`waiting`]) and when it will
//! be done ([`eta`]). All of that is arithmetic; [`reader`] is the one that reads Redis for it, and [`recount`] counts the
//! state bytes again, to check the counters.
//!
//! Never: changes anything, or keeps a number of its own.

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

/// What became of a campaign so far.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Statistics {
    /// Recipients in all.
    pub recipients: u64,
    /// Where they stand. Exclusive: adds up to `recipients`.
    pub by_state: ByState,
    /// How far they came. Cumulative.
    pub funnel: Funnel,
    /// Why recipients failed, the most frequent first. Adds up to `by_state.failed`.
    pub failures: Vec<FailureCount>,
    /// Messages that Meta accepted, per second, over the last seconds.
    pub rate_per_second: f64,
    /// When the last message will have been sent, if nothing changes; `None` where that is not known, or nothing is left.
    pub eta: Option<UnixMs>,
    /// Why work is not moving, or not faster.
    pub waiting_for: Vec<Waiting>,
}

/// Recipients by state, counted again from the state bytes: what the counters have to say too.
///
/// Reads one part at a time, 64 KiB each.
pub async fn recount(store: &Store, record: &CampaignRecord) -> Result<StateCounts> {
    let mut tally = StateCounts::default();
    for &(part, _) in &record.parts {
        tally.add_bytes(&store.state_bytes(part).await?);
    }
    Ok(tally)
}
