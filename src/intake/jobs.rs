//! The job stream: backends add entries to a Redis stream to create campaigns, add recipients and change campaigns.
//!
//! One worker at a time reads the stream, one entry after the other, in order. It applies an entry, and then removes
//! the entry. An invalid entry moves to the dead letters and does not block the entries after it. An entry that
//! failed because Redis was unavailable, full, read-only or loading stays in the stream and is retried.
//!
//! A retry is an entry that names a dead letter. The job of the letter is applied under the id of its first entry, so
//! that what an earlier attempt stored is recognized. Then the letter is deleted, and then the retry is removed.
//!
//! If the process dies: the next reader applies the entry again. Every effect is idempotent. A retry whose letter is
//! gone has already taken effect.
//! If Redis dies and loses its last writes: an entry whose effect was lost is still in the stream.
//! Never: drops an entry, or reads past an unfinished one.

use std::{convert::Infallible, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    Intake, IntakeError, TemplateProblem,
    job::{CampaignRef, Job, RecipientsJob, RetryJob, traceparent},
    upload::UploadId,
};
use crate::{
    api_types::UploadResult,
    domain::{CampaignId, EntryId, reject::json_fault},
    redis::{
        dead_letters::{NewDeadLetter, RECIPIENTS_REJECTED},
        duty::backoff,
        jobs::{JobEntry, NextJob},
    },
    telemetry::{
        metrics::{self, JobResult},
        traces::Request,
    },
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
    #[error("the job of the dead letter is itself a retry, of the dead letter {0}: retry that one")]
    RetryOfRetry(EntryId),
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

/// A job that took effect, now or before.
struct AppliedJob {
    campaign: CampaignId,
    /// The result for its recipients.
    upload: UploadResult,
    result: JobResult,
}

/// Reads the job stream while this worker has the lease on it, until `stop` is cancelled. An entry in progress is
/// finished first.
pub async fn read_jobs(
    intake: Intake,
    worker: String,
    stop: CancellationToken,
    lease: Duration,
) -> Result<(), Infallible> {
    let read = |_| async {
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
            // Bind to one incarnation of Redis: if Redis restarts and loses the effect of an entry, the entry is not
            // removed.
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
        let Some(next) = store.next_job().await.map_err(IntakeError::Store)? else { return Ok(false) };
        match read(&next.entry) {
            Ok(Job::Retry(RetryJob { dead_letter })) => self.retry(&next, dead_letter).await?,
            job => self.process(&next, None, &next.entry, job).await?,
        }
        self.persist().await?;
        store.finish_job(next.entry.id).await.map_err(IntakeError::Store)?;
        Ok(true)
    }

    /// Applies the job of the dead letter `id`, and deletes the letter.
    ///
    /// Errors: only transient ones.
    async fn retry(&self, next: &NextJob, id: EntryId) -> Result<(), JobError> {
        let store = &self.intake.store;
        let Some(letter) = store.dead_letter(id).await.map_err(IntakeError::Store)? else {
            info!(entry.id = %next.entry.id, dead_letter.id = %id, "the dead letter to retry is gone");
            metrics::job(JobResult::Repeated, 1);
            return Ok(());
        };
        self.process(next, Some(id), &letter.entry, read(&letter.entry)).await?;
        // A retry whose letter is gone counts as done, so its effect must be stored before the letter is deleted.
        self.persist().await?;
        store.delete_dead_letter(id).await.map_err(IntakeError::Store)?;
        Ok(())
    }

    /// Makes all earlier writes durable before a later one can be. A single server persists its writes in order. In a
    /// cluster they can be on different servers, which lose writes independently.
    async fn persist(&self) -> Result<(), JobError> {
        if self.intake.store.is_spread() {
            self.intake.store.make_durable().await.map_err(IntakeError::Store)?;
        }
        Ok(())
    }

    /// Applies the job of `entry`: that of the next entry, or of the dead letter that it retries.
    ///
    /// Errors: only transient ones.
    async fn process(
        &self,
        next: &NextJob,
        retried: Option<EntryId>,
        entry: &JobEntry,
        job: Result<Job, JobError>,
    ) -> Result<(), JobError> {
        let (store, id) = (&self.intake.store, next.entry.id);
        // An earlier reader may have died after it added the dead letter and before it removed the entry.
        if next.was_pending && store.has_dead_letter(id, entry.id, retried).await.map_err(IntakeError::Store)? {
            return Ok(());
        }
        metrics::job(self.apply_or_reject(id, retried, entry, job).await?, 1);
        Ok(())
    }

    /// Applies the job of `entry`. Adds a dead letter with the given id if the job is invalid or some of its recipients
    /// were rejected.
    ///
    /// Errors: only transient ones.
    async fn apply_or_reject(
        &self,
        id: EntryId,
        retried: Option<EntryId>,
        entry: &JobEntry,
        job: Result<Job, JobError>,
    ) -> Result<JobResult, JobError> {
        let at = self.intake.clock.now();
        let request = entry.job().and_then(|job| self.request(job));
        let applied = match (job, &request) {
            (Ok(job), Some(request)) => {
                let intake = Intake { origin: request.origin(), ..self.intake.clone() };
                (Reader { intake: &intake, ..*self }).apply(entry.id, job).await
            }
            (Ok(job), None) => self.apply(entry.id, job).await,
            (Err(error), _) => Err(error),
        };
        let is_repeated = applied.as_ref().is_err_and(|error| self.is_transient(error));
        if let Some(request) = request.filter(|_| !is_repeated) {
            request.ended(None, applied.is_err());
        }
        let (result, letter) = match applied {
            Err(error) if self.is_transient(&error) => return Err(error),
            Err(error) => {
                let (code, reason) = (error.kind(), error.to_string());
                self.intake.tell_dead(id, entry.id, code, &reason).await?;
                // The reason may quote a phone number, so it is only in the dead letter, not in the log.
                warn!(%entry.id, code, "job rejected and moved to the dead letters");
                (JobResult::Dead, NewDeadLetter { id, retried, entry, code, reason, rejected: None, at })
            }
            Ok(AppliedJob { campaign, upload, result }) => {
                self.intake.tell_done(id, entry.id, campaign, &upload).await?;
                let UploadResult { accepted, rejected_count, rejected } = upload;
                if rejected_count == 0 {
                    return Ok(result);
                }
                let n = accepted + rejected_count;
                let reason = format!("{rejected_count} of {n} recipients were rejected, the others were accepted");
                info!(%entry.id, reason, "job done, but some of its recipients were rejected");
                let rejected = serde_json::to_string(&rejected).expect("rejections have only numbers and strings");
                (
                    result,
                    NewDeadLetter {
                        id,
                        retried,
                        entry,
                        code: RECIPIENTS_REJECTED,
                        reason,
                        rejected: Some(rejected),
                        at,
                    },
                )
            }
        };
        self.intake.store.add_dead_letter(&letter).await.map_err(IntakeError::Store)?;
        Ok(result)
    }

    /// The trace of the caller of a job.
    fn request(&self, job: &[u8]) -> Option<Request> {
        // Reading the field takes another pass over the job.
        let origin = &self.intake.origin;
        origin.is_recording().then(|| origin.request("job".to_owned(), &traceparent(job)?)).flatten()
    }

    /// Applies the job of the entry `id`.
    async fn apply(&self, id: EntryId, job: Job) -> Result<AppliedJob, JobError> {
        let (campaign, upload, changed) = match job {
            Job::Campaign(mut new) => {
                // Without an external_id, applying the entry again would create a second campaign.
                new.external_id.get_or_insert_with(|| format!("job:{id}"));
                let submitted = self.intake.submit_undurably(*new).await?;
                (submitted.id, submitted.upload, submitted.created)
            }
            Job::Recipients(RecipientsJob { external_id, upload_id, recipients }) => {
                let upload_id = upload_id.as_deref().map_or(Ok(UploadId::Entry(id)), UploadId::of_caller)?;
                let campaign = self.find(&external_id).await?;
                let (upload, repeated) = self.intake.upload_values(campaign, &upload_id, &recipients).await?;
                (campaign, upload, !repeated)
            }
            Job::Change(action, CampaignRef { external_id }) => {
                let campaign = self.find(&external_id).await?;
                let (_, changed) = self.intake.change(campaign, action).await?;
                (campaign, UploadResult::default(), changed)
            }
            Job::Retry(RetryJob { dead_letter }) => return Err(JobError::RetryOfRetry(dead_letter)),
        };
        let result = if changed { JobResult::Taken } else { JobResult::Repeated };
        Ok(AppliedJob { campaign, upload, result })
    }

    async fn find(&self, external_id: &str) -> Result<CampaignId, IntakeError> {
        let record = self.intake.find(external_id).await?;
        let record = record.ok_or_else(|| IntakeError::NotFound(format!("with the external_id {external_id}")))?;
        Ok(record.campaign.id)
    }

    /// Whether the same entry can succeed later.
    fn is_transient(&self, error: &JobError) -> bool {
        match error {
            JobError::NoJob | JobError::Unreadable(_) | JobError::RetryOfRetry(_) => false,
            JobError::Intake(IntakeError::Template(TemplateProblem::NotSynced(_))) => {
                Instant::now() < self.templates_until
            }
            JobError::Intake(error) => error.is_transient(),
        }
    }
}

fn read(entry: &JobEntry) -> Result<Job, JobError> {
    Ok(Job::read(entry.job().ok_or(JobError::NoJob)?)?)
}

impl JobError {
    /// A stable name for programs.
    fn kind(&self) -> &'static str {
        match self {
            JobError::NoJob => "no-job",
            JobError::Unreadable(_) => "job-unreadable",
            JobError::RetryOfRetry(_) => "invalid",
            JobError::Intake(error) => error.kind(),
        }
    }
}
