//! Counts of statuses, gathered and recorded together.

use crate::{
    redis::parts::News,
    telemetry::metrics::{self, StatusName, StatusResult},
};

/// How many statuses of each word had each result.
#[derive(Debug, Default)]
pub struct StatusTally([[u64; StatusResult::ALL.len()]; StatusName::ALL.len()]);

impl StatusTally {
    /// One more. An answer of a recipient is no status, and is not counted here.
    pub fn add(&mut self, news: News, result: StatusResult) {
        let name = match news {
            News::Sent => StatusName::Sent,
            News::Delivered => StatusName::Delivered,
            News::Read => StatusName::Read,
            News::Failed(_) | News::Returned(_) => StatusName::Failed,
            News::Replied => return,
        };
        self.add_named(name, result);
    }

    /// One more, of which only the word is known.
    pub fn add_named(&mut self, name: StatusName, result: StatusResult) {
        self.0[name as usize][result as usize] += 1;
    }

    /// Adds them to the series.
    pub fn record(&self) {
        for (name, results) in StatusName::ALL.iter().zip(&self.0) {
            for (result, &n) in StatusResult::ALL.iter().zip(results) {
                if n > 0 {
                    metrics::status(*name, *result, n);
                }
            }
        }
    }
}
