//! The job stream: backends add entries to a Redis stream to create campaigns, add recipients and change campaigns.
//!
//! One worker at a time reads the stream, one entry after the other, in order. It applies an entry, and then removes
//! the entry. An invalid entry moves to the dead letters and does not block the entries after it. An entry that
//! failed because Redis was unavailable, full, read-only or loading stays in the stream and is retried.
//!
//! If the process dies: the next reader applies the entry again. Every effect is idempotent.
//! If Redis dies and loses its last writes: an entry whose effect was lost is still in the stream.
//! Never: drops an entry, or reads past an unfinished one.

use std::{convert::Infallible, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    CampaignAction, Intake, IntakeError, TemplateProblem,
    job::{CampaignRef, Job, RecipientsJob},
    upload::UploadId,
};
use crate::{
    api_types::UploadResult,
    domain::{CampaignId, reject::json_fault},
    redis::{
        duty::backoff,
        jobs::{DeadLetter, JobEntry, NextJob},
    },
    telemetry::metrics::{self, JobResult},
};

/// How often an empty stream is polled.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long after its start a reader retries campaigns whose templates were never synced. A new installation reads its
/// templates during startup.
const TEMPLATES_WAIT: Duration = Duration::from_secs(60);

/// Why an entry was not applied.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("the entry has no field `job`: add the job, a JSON object, as the value of a field of this name")]
    NoJob,
    #[error("the job can't be read: {}", json_fault(.0))]
    Unreadable(#[from] serde_json::Error),
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

/// Reads the job stream while this worker has the lease on it, until `stop` is cancelled. An entry in progress is
/// finished first.
pub async fn read_jobs(
    intake: Intake,
    worker: String,
    stop: CancellationToken,
    lease: Duration,
) -> Result<(), Infallible> {
    let read = || async {
        let templates_until = Instant::now() + TEMPLATES_WAIT;
        Reader { intake: &intake, templates_until }.read(&stop).await;
    };
    intake.store.on_duty("jobs", &worker, lease, &stop, read).await;
    Ok(())
}

/// The reader of the stream while it has the lease.
struct Reader<'a> {
    intake: &'a Intake,
    /// Until this time, an error because templates were never synced counts as transient.
    templates_until: Instant,
}

impl Reader<'_> {
    async fn read(&self, stop: &CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            // Bound to one incarnation of Redis, so that no entry is removed after a restart of Redis lost its effect.
            let intake = self.intake.in_this_incarnation();
            match (Reader { intake: &intake, ..*self }).next().await {
                Ok(found) => {
                    failures = 0;
                    if !found {
                        stop.run_until_cancelled(sleep(POLL_INTERVAL)).await;
                    }
                }
                Err(error) => {
                    failures += 1;
                    if failures == 1 {
                        warn!(%error, "jobs wait");
                    }
                    stop.run_until_cancelled(sleep(backoff(failures))).await;
                }
            }
        }
    }

    /// Applies the next entry and removes it. Returns whether there was one.
    ///
    /// Errors: the entry stays in the stream and has to be retried.
    async fn next(&self) -> Result<bool, JobError> {
        let store = &self.intake.store;
        let next = store.next_job().await.map_err(IntakeError::Store)?;
        let Some(NextJob { entry, was_pending }) = next else { return Ok(false) };
        // An earlier reader may have died after it added the dead letter and before it removed the entry. Then only
        // the removal is left to do.
        if !(was_pending && store.has_dead_letter(&entry.id).await.map_err(IntakeError::Store)?) {
            metrics::job(self.process(&entry).await?, 1);
        }
        // A single server persists the effect before the removal of the entry. In a cluster the two can be on different
        // servers, which lose writes independently.
        if store.is_spread() {
            store.make_durable().await.map_err(IntakeError::Store)?;
        }
        store.finish_job(&entry.id).await.map_err(IntakeError::Store)?;
        Ok(true)
    }

    /// Applies an entry. Adds a dead letter if the entry is invalid or some of its recipients were rejected.
    ///
    /// Errors: only transient ones.
    async fn process(&self, entry: &JobEntry) -> Result<JobResult, JobError> {
        let at = self.intake.clock.now();
        let (result, letter) = match self.apply(entry).await {
            Err(error) if self.is_transient(&error) => return Err(error),
            Err(error) => {
                let (code, reason) = (error.kind(), error.to_string());
                // The reason may quote a phone number, so it is only in the dead letter, not in the log.
                warn!(entry.id, code, "job rejected and moved to the dead letters");
                (JobResult::Dead, DeadLetter { entry, code, reason, rejected: None, at })
            }
            Ok((upload, result)) if upload.rejected_count == 0 => return Ok(result),
            Ok((UploadResult { accepted, rejected_count, rejected }, result)) => {
                let n = accepted + rejected_count;
                let reason = format!("{rejected_count} of {n} recipients were rejected, the others were accepted");
                info!(entry.id, reason, "job done, but some of its recipients were rejected");
                let rejected = serde_json::to_string(&rejected).expect("rejections have only numbers and strings");
                (result, DeadLetter { entry, code: "recipients-rejected", reason, rejected: Some(rejected), at })
            }
        };
        self.intake.store.add_dead_letter(&letter).await.map_err(IntakeError::Store)?;
        Ok(result)
    }

    /// Applies an entry. Returns the result for its recipients, and whether anything changed.
    async fn apply(&self, entry: &JobEntry) -> Result<(UploadResult, JobResult), JobError> {
        let (upload, changed) = match Job::read(entry.job().ok_or(JobError::NoJob)?)? {
            Job::Campaign(mut new) => {
                // Without an external_id, applying the entry again would create a second campaign.
                new.external_id.get_or_insert_with(|| format!("job:{}", entry.id));
                let submitted = self.intake.submit_undurably(*new).await?;
                (submitted.upload, submitted.created)
            }
            Job::Recipients(RecipientsJob { external_id, upload_id, recipients }) => {
                let upload_id =
                    upload_id.as_deref().map_or(Ok(UploadId::Entry(entry.id.clone())), UploadId::of_caller)?;
                let id = self.find(&external_id).await?;
                let (upload, repeated) = self.intake.upload_values(id, &upload_id, &recipients).await?;
                (upload, !repeated)
            }
            Job::Change(action, CampaignRef { external_id }) => self.change(&external_id, action).await?,
        };
        Ok((upload, if changed { JobResult::Taken } else { JobResult::Repeated }))
    }

    async fn change(&self, external_id: &str, action: CampaignAction) -> Result<(UploadResult, bool), IntakeError> {
        let (_, changed) = self.intake.change(self.find(external_id).await?, action).await?;
        Ok((UploadResult::default(), changed))
    }

    async fn find(&self, external_id: &str) -> Result<CampaignId, IntakeError> {
        let record = self.intake.find(external_id).await?;
        let record = record.ok_or_else(|| IntakeError::NotFound(format!("with the external_id {external_id}")))?;
        Ok(record.campaign.id)
    }

    /// Whether the same entry can succeed later.
    fn is_transient(&self, error: &JobError) -> bool {
        match error {
            JobError::NoJob | JobError::Unreadable(_) => false,
            JobError::Intake(IntakeError::Template(TemplateProblem::NotSynced(_))) => {
                Instant::now() < self.templates_until
            }
            JobError::Intake(error) => error.is_transient(),
        }
    }
}

impl JobError {
    /// A stable name for programs.
    fn kind(&self) -> &'static str {
        match self {
            JobError::NoJob => "no-job",
            JobError::Unreadable(_) => "job-unreadable",
            JobError::Intake(error) => error.kind(),
        }
    }
}
