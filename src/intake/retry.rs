//! Retries of completed campaigns: which recipients are sent to again, and when a retry is refused.
//!
//! If the process dies during a retry: the record of the campaign says whether the retry has begun. If it has,
//! housekeeping finishes it, and a repetition of the call returns its result.

use super::{Intake, IntakeError, submit::check_external_id};
use crate::{
    domain::{CampaignId, CampaignState, campaign::CampaignRetry},
    redis::{StoreError, campaigns::CampaignRecord, retries::RetryChange},
};

/// What a retry did.
#[derive(Clone, Debug)]
pub struct Retried {
    /// The campaign after the retry.
    pub record: CampaignRecord,
    /// The number of recipients that are sent to again.
    pub recipients: u64,
    /// Whether this call started the retry.
    pub changed: bool,
}

impl Intake {
    /// Sends a completed campaign again to the recipients that `retry` selects, with the same values. The retry is
    /// durable, as far as [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it. If there are no
    /// such recipients, nothing changes.
    ///
    /// A call whose response was lost can be repeated: while the campaign runs, the same retry does not start again.
    /// With an `external_id` it does not start again even if the campaign has been completed meanwhile.
    ///
    /// Errors: `Invalid`, `NotRetriable`, `Forgotten`, `RetryConflict`, `Expired` or `Template`: nothing was changed.
    /// `Store`: repeat the call.
    pub async fn retry(&self, id: CampaignId, retry: &CampaignRetry) -> Result<Retried, IntakeError> {
        let intake = self.in_this_incarnation();
        let retried = intake.retry_undurably(id, retry).await?;
        intake.store.make_durable().await?;
        Ok(retried)
    }

    async fn retry_undurably(&self, id: CampaignId, retry: &CampaignRetry) -> Result<Retried, IntakeError> {
        check(retry)?;
        let record = self.campaign(id).await?;
        if is_begun(&record, retry)? {
            return self.begun(record).await;
        }
        self.check_is_retriable(&record).await?;
        if !self.store.has_retriable(&record, retry).await? {
            return Ok(Retried { record, recipients: 0, changed: false });
        }
        match self.store.retry_campaign(id, retry, self.clock.now()).await? {
            RetryChange::Done => Ok(Retried { changed: true, ..self.begun(self.campaign(id).await?).await? }),
            RetryChange::Not(state) => {
                // Another connection may have made the same call.
                let record = self.campaign(id).await?;
                if is_begun(&record, retry)? {
                    return self.begun(record).await;
                }
                Err(IntakeError::NotRetriable { id, state })
            }
            RetryChange::Forgotten => Err(IntakeError::Forgotten(id)),
            RetryChange::Missing => Err(IntakeError::NotFound(id.to_string())),
        }
    }

    /// The result of a retry that has started. Finishes it if an earlier call was interrupted.
    async fn begun(&self, mut record: CampaignRecord) -> Result<Retried, IntakeError> {
        if record.applied < record.version {
            self.check_grace_period()?;
            self.store.follow(record.campaign.id, self.clock.now()).await?;
            record = self.campaign(record.campaign.id).await?;
        }
        let recipients = self.store.reopened(&record).await?;
        Ok(Retried { record, recipients, changed: false })
    }

    async fn check_is_retriable(&self, record: &CampaignRecord) -> Result<(), IntakeError> {
        let (id, campaign) = (record.campaign.id, &record.campaign);
        if record.state != CampaignState::Completed {
            return Err(IntakeError::NotRetriable { id, state: record.state });
        }
        if record.forgotten {
            return Err(IntakeError::Forgotten(id));
        }
        if let Some(at) = campaign.expires_at.filter(|at| *at <= self.clock.now()) {
            return Err(IntakeError::Expired { id, at });
        }
        self.check_grace_period()?;
        self.check_template_still_fits(campaign).await
    }

    /// Errors: transient while another process may still have to replay that a recipient got the message.
    fn check_grace_period(&self) -> Result<(), IntakeError> {
        if self.store.in_grace_period(self.grace_period) {
            return Err(StoreError::NotApplied("it has just restarted or failed over".to_owned()).into());
        }
        Ok(())
    }
}

/// Whether the newest retry of a campaign is `retry`, so that it must not start again.
///
/// Errors: `RetryConflict` if it has the same `external_id` and selects other recipients.
fn is_begun(record: &CampaignRecord, retry: &CampaignRetry) -> Result<bool, IntakeError> {
    let Some((newest, _)) = &record.retry else { return Ok(false) };
    let is_running = matches!(record.state, CampaignState::Running | CampaignState::Paused);
    match &retry.external_id {
        Some(external_id) if newest.external_id.as_ref() == Some(external_id) && newest != retry => {
            Err(IntakeError::RetryConflict { id: record.campaign.id, external_id: external_id.clone() })
        }
        external_id => Ok(newest == retry && (is_running || external_id.is_some())),
    }
}

fn check(retry: &CampaignRetry) -> Result<(), IntakeError> {
    let mut problems = Vec::new();
    if retry.states.is_empty() {
        problems.push("states is empty: name failed, unknown or both".to_owned());
    }
    check_external_id(retry.external_id.as_deref(), &mut problems);
    if problems.is_empty() { Ok(()) } else { Err(IntakeError::invalid(problems)) }
}
