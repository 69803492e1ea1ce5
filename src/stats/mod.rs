//! Statistics: the results of a campaign so far, the same object everywhere.
//!
//! The counters of the parts are authoritative: the scripts update them in the same step as the state bytes. This
//! module adds them up ([`counts`]) and combines them with the state of the lines: why sending is not faster
//! ([`waiting`]) and when the campaign will end ([`eta`]). Those modules do no I/O. [`reader`] reads Redis for them,
//! and [`recount`] and [`counters_agree`] count the state bytes again, to check the counters.
//!
//! Never: changes anything, or stores a count of its own.

pub mod counts;
pub mod eta;
pub mod line;
pub mod reader;
pub mod share;
pub mod waiting;

use crate::{
    domain::PartId,
    redis::{Result, Store, campaigns::CampaignRecord},
};

pub use counts::StateCounts;
pub use reader::{Forecast, StatisticsReader};

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

/// Whether the counters of a part equal a recount; `None` if a state changed meanwhile.
pub async fn counters_agree(store: &Store, part: PartId) -> Result<Option<bool>> {
    let counters = async || Ok(StateCounts::of(&store.part_counts(&[part]).await?));
    let (before, mut recounted) = (counters().await?, StateCounts::default());
    recounted.add_bytes(&store.state_bytes(part).await?);
    Ok((before == counters().await?).then_some(before == recounted))
}
