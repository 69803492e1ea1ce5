//! What a load is offered to: a [`Stage`] of our own, or a [`super::target::Target`] that somebody else has started.

use pregon::{
    client::Client,
    domain::{CampaignId, LineId},
};

use super::{
    error::LoadError,
    recipients::Rows,
    schedule::{Lateness, Schedule},
    stage::{self, Stage, Usage},
    workloads::check_equal,
};

/// An installation, as far as load is offered to it.
pub(crate) trait UnderTest {
    /// Its API.
    fn client(&self) -> &Client;

    /// The lines to send on.
    fn lines(&self) -> &[LineId];

    /// The share of a line's rate that campaigns leave free, from 0 to 0.9.
    fn headroom(&self) -> f64;

    /// Creates a draft with this many recipients on these lines.
    async fn draft(&mut self, lines: &[LineId], recipients: u64) -> Result<CampaignId, LoadError>;

    /// Compares the messages of a campaign, which is the last that was launched, with its schedule.
    async fn lateness(&mut self, id: CampaignId, schedule: &Schedule) -> Result<Lateness, LoadError>;

    /// Forgets the arrivals so far, if they are recorded for us alone.
    async fn forget(&mut self) -> Result<(), LoadError>;

    /// The CPU time that its processes have used; `None` if they are not ours to see.
    fn usage(&self) -> Result<Option<Usage>, LoadError>;
}

impl UnderTest for Stage {
    fn client(&self) -> &Client {
        &self.client
    }

    fn lines(&self) -> &[LineId] {
        &self.lines
    }

    fn headroom(&self) -> f64 {
        stage::HEADROOM
    }

    async fn draft(&mut self, lines: &[LineId], recipients: u64) -> Result<CampaignId, LoadError> {
        let (id, uploaded) = Stage::draft(self, lines, Rows::unique(recipients)).await?;
        check_equal("recipients accepted", uploaded.accepted, recipients)?;
        Ok(id)
    }

    async fn lateness(&mut self, _: CampaignId, schedule: &Schedule) -> Result<Lateness, LoadError> {
        Stage::lateness(self, schedule).await
    }

    async fn forget(&mut self) -> Result<(), LoadError> {
        self.reset_arrivals().await
    }

    fn usage(&self) -> Result<Option<Usage>, LoadError> {
        Stage::usage(self).map(Some)
    }
}
