//! The stream of jobs: what backends that speak Redis add to it becomes campaigns, recipients and changes.
//!
//! One worker at a time reads, entry by entry in the order of the stream. The effect of an entry comes first, and then it
//! is taken off; so if the reader dies it is done again, and every effect is such that doing it again changes nothing. If
//! Redis dies and forgets its end, the entry is never gone where its effect is.
//! An entry that can't be taken goes to the dead letters and never stops those behind it; one that failed because Redis was
//! away, full, read-only or loading stays where it is, and is taken when that has passed.
//! Never: drops an entry, or reads ahead of one that is not finished.

use std::{convert::Infallible, time::Duration};

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::{
    CampaignAction, Intake, IntakeError, TemplateProblem, UploadResult,
    job::{Job, Named, RecipientsJob},
    upload::UploadId,
};
use crate::{
    domain::{CampaignId, reject::json_fault},
    redis::{
        duty::backoff,
        jobs::{DeadLetter, JobEntry},
    },
    telemetry::metrics::{self, JobResult},
};

/// How often an empty stream is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a new reader lets campaigns wait for the first look at the templates of their WABA: in a new installation
/// they are read while it starts.
const TEMPLATES_WAIT: Duration = Duration::from_secs(60);

/// Why an entry was not taken.
#[derive(Debug, thiserror::Error)]
enum JobError {
    #[error("the entry has no field `job`: add the job, a JSON object, as the value of a field of this name")]
    NoJob,
    #[error("the job can't be read: {}", json_fault(.0))]
    Unreadable(#[from] serde_json::Error),
    #[error(transparent)]
    Intake(#[from] IntakeError),
}

/// Reads the stream of jobs whenever this worker has the lease on that, until `stop` is cancelled. An entry that is being
/// taken then is finished first.
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

/// The one reader, for as long as it has the lease.
struct Reader<'a> {
    intake: &'a Intake,
    /// Until then a campaign waits for its templates.
    templates_until: Instant,
}

impl Reader<'_> {
    async fn read(&self, stop: &CancellationToken) {
        // What an earlier reader was handed comes first, and what was handed to us by an answer that got lost.
        let mut pending = true;
        let mut failures = 0;
        while !stop.is_cancelled() {
            // In one life of Redis, so that no entry goes after its effect was forgotten.
            let intake = self.intake.in_this_incarnation();
            match (Reader { intake: &intake, ..*self }).next(pending).await {
                Ok(taken) => {
                    failures = 0;
                    if !taken && !pending {
                        stop.run_until_cancelled(sleep(LOOK_EVERY)).await;
                    }
                    pending &= taken;
                }
                Err(error) => {
                    pending = true;
                    failures += 1;
                    if failures == 1 {
                        warn!(%error, "jobs wait");
                    }
                    stop.run_until_cancelled(sleep(backoff(failures))).await;
                }
            }
        }
    }

    /// Takes the next entry. Gives whether there was one.
    ///
    /// Errors: the entry stays where it is, and is to be taken again.
    async fn next(&self, pending: bool) -> Result<bool, JobError> {
        let store = &self.intake.store;
        let entry = if pending { store.pending_job().await } else { store.new_job().await };
        let Some(entry) = entry.map_err(IntakeError::Store)? else { return Ok(false) };
        // A reader may have died between the dead letter and the end of the entry.
        if !(pending && store.is_dead_job(&entry.id).await.map_err(IntakeError::Store)?) {
            metrics::job(self.take(&entry).await?, 1);
        }
        // One server writes down the effect before the end of the entry. Of several each can forget for itself.
        if store.is_spread() {
            store.make_durable().await.map_err(IntakeError::Store)?;
        }
        store.finish_job(&entry.id).await.map_err(IntakeError::Store)?;
        Ok(true)
    }

    /// Takes an entry, or leaves it with the dead letters.
    async fn take(&self, entry: &JobEntry) -> Result<JobResult, JobError> {
        let at = self.intake.clock.now();
        let (result, letter) = match self.effect(entry).await {
            Err(error) if self.is_transient(&error) => return Err(error),
            Err(error) => {
                let (code, reason) = (error.kind(), error.to_string());
                // The reason may repeat a number of the job, and stands in the dead letter.
                warn!(entry.id, code, "job can't be taken: it is now with the dead letters");
                (JobResult::Dead, DeadLetter { entry, code, reason, rejected: None, at })
            }
            Ok((upload, result)) if upload.rejected_count == 0 => return Ok(result),
            Ok((UploadResult { accepted, rejected_count, rejected }, result)) => {
                let n = accepted + rejected_count;
                let reason = format!("{rejected_count} of {n} recipients were rejected, the others were taken");
                info!(entry.id, reason, "job taken, but not all of its recipients");
                let rejected = serde_json::to_string(&rejected).expect("rejections have only numbers and strings");
                (result, DeadLetter { entry, code: "recipients-rejected", reason, rejected: Some(rejected), at })
            }
        };
        self.intake.store.bury_job(&letter).await.map_err(IntakeError::Store)?;
        Ok(result)
    }

    /// Does what an entry asks for. Tells what came of the recipients in it, and whether it changed anything.
    async fn effect(&self, entry: &JobEntry) -> Result<(UploadResult, JobResult), JobError> {
        let (upload, changed) = match Job::read(entry.job().ok_or(JobError::NoJob)?)? {
            Job::Campaign(mut new) => {
                // Without a name of its own a second reading of the entry would make a second campaign.
                new.external_id.get_or_insert_with(|| format!("job:{}", entry.id));
                let submitted = self.intake.take_campaign(*new).await?;
                (submitted.upload, submitted.created)
            }
            Job::Recipients(RecipientsJob { external_id, upload_id, recipients }) => {
                let upload_id =
                    upload_id.as_deref().map_or(Ok(UploadId::Entry(entry.id.clone())), UploadId::of_caller)?;
                let id = self.find(&external_id).await?;
                let (upload, repeated) = self.intake.take_values(id, &upload_id, &recipients).await?;
                (upload, !repeated)
            }
            Job::Change(action, Named { external_id }) => self.change(&external_id, action).await?,
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

    /// Whether the same entry can be taken a little later.
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
    /// A name for programs that never changes.
    fn kind(&self) -> &'static str {
        match self {
            JobError::NoJob => "no-job",
            JobError::Unreadable(_) => "job-unreadable",
            JobError::Intake(error) => error.kind(),
        }
    }
}
