//! The events that report the result of a job.
//!
//! They are written before the entry of the job is removed, so each is delivered at least once.

use serde::Serialize;

use super::{Intake, IntakeError};
use crate::{
    api_types::UploadResult,
    domain::{CampaignId, EntryId, Event, EventType},
};

/// The fields of `job.done`.
#[derive(Serialize)]
struct DoneFields<'a> {
    job: EntryId,
    #[serde(flatten)]
    upload: &'a UploadResult,
}

/// The fields of `job.dead`.
#[derive(Serialize)]
struct DeadFields<'a> {
    job: EntryId,
    code: &'a str,
    reason: &'a str,
}

impl Intake {
    /// Reports that the entry `id` was applied. `job` is the entry of the job, which is a different one for a retry.
    /// `upload` is the result for the job's recipients.
    pub(super) async fn tell_done(
        &self,
        id: EntryId,
        job: EntryId,
        campaign: CampaignId,
        upload: &UploadResult,
    ) -> Result<(), IntakeError> {
        if self.store.feed().is_none() {
            return Ok(());
        }
        let definition =
            self.store.definitions(&[campaign]).await?.pop().flatten().map(|definition| definition.campaign);
        let lines = self.lines.get();
        let line = definition.as_ref().and_then(|definition| lines.first_of(&definition.lines));
        let event = Event {
            business: line.map(|line| &line.business),
            campaign: Some(campaign),
            external_id: definition.as_ref().and_then(|definition| definition.external_id.as_deref()),
            ..Event::new(format!("job:{id}"), EventType::JobDone, self.clock.now(), DoneFields { job, upload })
        };
        Ok(self.store.append_events(Some(campaign), &[event.to_json()]).await?)
    }

    /// Reports that the entry `id` failed and became a dead letter. `job` is the entry of the job, which is a different
    /// one for a retry.
    pub(super) async fn tell_dead(
        &self,
        id: EntryId,
        job: EntryId,
        code: &str,
        reason: &str,
    ) -> Result<(), IntakeError> {
        let details = DeadFields { job, code, reason };
        let event = Event::new(format!("job:{id}"), EventType::JobDead, self.clock.now(), details);
        Ok(self.store.append_events(None, &[event.to_json()]).await?)
    }
}
