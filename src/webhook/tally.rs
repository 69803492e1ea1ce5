//! Counts statuses, and records the counts together.

use crate::{
    domain::News,
    telemetry::metrics::{self, StatusName, StatusResult},
};

/// The number of statuses by name and result.
#[derive(Debug, Default)]
pub struct StatusTally([[u64; StatusResult::ALL.len()]; StatusName::ALL.len()]);

impl StatusTally {
    /// Counts one status. A reply is not a status and is not counted here.
    pub fn add(&mut self, news: News, result: StatusResult) {
        let name = match news {
            News::Sent => StatusName::Sent,
            News::Delivered => StatusName::Delivered,
            News::Read => StatusName::Read,
            News::Failed(_) | News::Returned(_) | News::Withheld(_) => StatusName::Failed,
            News::Replied => return,
        };
        self.add_named(name, result);
    }

    /// Counts one status by its name.
    pub fn add_named(&mut self, name: StatusName, result: StatusResult) {
        self.0[name as usize][result as usize] += 1;
    }

    /// Adds the counts to the metrics.
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
