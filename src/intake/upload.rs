//! Uploads: rows become recipients of a campaign, at constant memory, in batches that are committed atomically.
//!
//! If the connection closes or the process dies: committed batches stay. A repetition with the same upload id skips
//! their rows, and returns the result of one complete upload. The boundaries of batches depend only on the rows, so a
//! repetition forms the same batches.
//! Never: buffers more than two batches: one being committed and one being read.

use std::{collections::VecDeque, fmt::Display, hash::Hasher as _, mem, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use siphasher::sip::SipHasher24;
use tokio::sync::mpsc;
use ulid::Ulid;

use super::{
    Format, Intake, IntakeError, UploadLayout,
    groups::Groups,
    rows::{Columns, Row, RowReader, UploadRow},
};
use crate::{
    api_types::{Rejection, UploadResult},
    domain::{CampaignId, CampaignState, EntryId, Form, Line, LineId, Recipient, Reject, reject::quoted},
    redis::{
        StoreError,
        campaigns::CampaignRecord,
        lines::LineControl,
        uploads::{Admitted, Batch, Packed, Upload, UploadProgress},
    },
    rules,
    telemetry::{
        clock,
        metrics::{self, RecipientResult},
    },
};

/// Maximum number of rows of a batch. Committing a full one keeps Redis busy for a few milliseconds.
const BATCH_ROWS: usize = 2_048;
/// Bytes of values after which a batch is full, even with fewer rows.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of a body that are parsed at once.
const PIECE_BYTES: usize = 64 * 1024;
/// The longest `Upload-Id`, in characters.
const UPLOAD_ID_CHARS_MAX: usize = 128;
/// How long after its last batch an upload can be repeated under its id.
const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the record of an upload without an id is kept. Only the upload itself needs it.
const RETENTION_WITHOUT_ID: Duration = Duration::from_secs(3600);

/// The id of an upload within its campaign. Each kind has its own prefix in Redis, so they can't collide.
#[derive(Debug)]
pub(super) enum UploadId {
    /// The caller's id.
    Caller(String),
    /// The recipients within the submission of the campaign.
    Submission,
    /// The id of the job stream entry, for a job without an `upload_id`.
    Entry(EntryId),
    /// An upload without an id.
    Unnamed,
}

impl UploadId {
    /// Validates the caller's id.
    ///
    /// Errors: `Invalid` if it is not 1 to 128 visible ASCII characters.
    pub(super) fn of_caller(id: &str) -> Result<Self, IntakeError> {
        if (1..=UPLOAD_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self::Caller(id.to_owned()));
        }
        Err(IntakeError::Invalid(vec![format!(
            "the upload id is “{}”: it must have 1 to {UPLOAD_ID_CHARS_MAX} characters, all of them visible ASCII",
            quoted(id)
        )]))
    }

    /// The id in Redis, and how long the record of the upload is kept.
    fn record(&self) -> (String, Duration) {
        match self {
            UploadId::Caller(id) => (format!("id:{id}"), RETENTION),
            UploadId::Submission => ("create".to_owned(), RETENTION),
            UploadId::Entry(id) => (format!("job:{id}"), RETENTION),
            UploadId::Unnamed => (format!("unnamed:{}", Ulid::generate()), RETENTION_WITHOUT_ID),
        }
    }
}

impl Intake {
    /// Stores recipients in a draft or scheduled campaign as they arrive. The result is durable, as far as
    /// [`Store::make_durable`](crate::redis::Store::make_durable) can confirm it.
    ///
    /// With an `upload_id` (1 to 128 visible ASCII characters) an interrupted upload can be repeated for seven days:
    /// stored rows are skipped, and the result is that of one complete upload. Without one, stored rows are rejected
    /// as duplicates.
    ///
    /// Errors: `Interrupted` if the body ends early, `RedisFull`, and `Store`: repeat the upload with the same id.
    /// `UploadConflict` if an upload with this id had other rows. `Upload` for a CSV with a bad header row: nothing
    /// was changed.
    pub async fn upload<E: Display>(
        &self,
        id: CampaignId,
        upload_id: Option<&str>,
        layout: impl Into<UploadLayout>,
        body: impl Stream<Item = Result<Bytes, E>> + Unpin,
    ) -> Result<UploadResult, IntakeError> {
        let upload_id = upload_id.map_or(Ok(UploadId::Unnamed), UploadId::of_caller)?;
        let intake = self.in_this_incarnation();
        let UploadLayout { format, ignored } = layout.into();
        let reader = match format {
            Format::Ndjson => RowReader::ndjson(),
            Format::Csv => {
                let template = intake.campaign(id).await?.campaign.template;
                let form = Form::of(&template).map_err(super::TemplateProblem::Unsupported)?;
                RowReader::csv(Columns::of(&form, &ignored))
            }
        };
        let (result, _) = intake.upload_rows(id, &upload_id, pin!(rows_of(reader, body))).await?;
        intake.store.make_durable().await?;
        Ok(result)
    }

    /// Stores rows in a campaign. Also returns whether the same upload was complete before.
    pub(super) async fn upload_rows(
        &self,
        id: CampaignId,
        upload_id: &UploadId,
        rows: impl Stream<Item = Result<Vec<Row>, IntakeError>> + Unpin,
    ) -> Result<(UploadResult, bool), IntakeError> {
        let record = self.campaign(id).await?;
        let form = Form::of(&record.campaign.template).map_err(super::TemplateProblem::Unsupported)?;
        let lines = self.weights(&record).await?;
        let (upload_id, retention) = upload_id.record();
        let started = self.store.begin_upload(id, &upload_id, lines, duplicate_format(), retention).await?;
        let Some((mut upload, state)) = started else { return Err(IntakeError::NotFound(id.to_string())) };
        upload.grouping = record.grouping;
        let repeated = upload.progress.done;
        if !repeated && !matches!(state, CampaignState::Draft | CampaignState::Scheduled) {
            return Err(closed(id, state));
        }
        if !repeated {
            self.memory.check(&self.store).await?;
        }
        let mut batches = Batches {
            id,
            rows,
            buffered: VecDeque::new(),
            form,
            groups: Groups::of_campaign(&record.campaign, self.contact_hours.get(), self.clock.now()),
            stored: upload.progress.clone(),
            digest: SipHasher24::new(),
            number: 0,
        };
        let (packing, (ready, to_commit)) = (upload.packing(), mpsc::channel(1));
        // Commits run in their own task, so that this task can parse and pack the next batch on another core.
        let committing = tokio::spawn(self.clone().commit(id, upload, to_commit));
        let read = async {
            // Reserve a permit before reading, so that at most one batch is read while one is committed. `reserve`
            // fails after a failed commit, which ends the loop.
            while let Ok(permit) = ready.reserve().await {
                let batch = batches.next().await?;
                let done = batch.done;
                // A repetition of a complete upload has nothing new: its only batch is empty.
                if !repeated {
                    permit.send(batch.pack(packing));
                }
                if done {
                    break;
                }
            }
            Ok::<_, IntakeError>(())
        }
        .await;
        drop(ready);
        let committed = committing.await.unwrap_or_else(|error| match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(IntakeError::Interrupted("the process stops".into())),
        });
        let progress = committed?;
        read?;
        Ok((self.result_of(id, &upload_id, &progress).await?, repeated))
    }

    /// Stores recipients that were checked against the template before, in one batch, as the recipients of the
    /// campaign's submission. Does nothing if an earlier call did. `digest` identifies the recipients.
    ///
    /// Errors: `UploadConflict` if the earlier call had another digest.
    pub(super) async fn upload_fitted(
        &self,
        record: &CampaignRecord,
        digest: &str,
        recipients: impl AsyncFnOnce() -> Result<Vec<Recipient>, IntakeError>,
    ) -> Result<UploadResult, IntakeError> {
        let (id, lines) = (record.campaign.id, self.weights(record).await?);
        let (upload_id, retention) = UploadId::Submission.record();
        let started = self.store.begin_upload(id, &upload_id, lines, duplicate_format(), retention).await?;
        let Some((mut upload, _)) = started else { return Err(IntakeError::NotFound(id.to_string())) };
        if !upload.progress.done {
            let recipients: Vec<(u32, Recipient)> = (1..).zip(recipients().await?).collect();
            let taken = recipients.len() as u64;
            let batch = Batch { recipients, taken, digest: digest.to_owned(), done: true, ..Batch::default() };
            let packed = batch.pack(upload.packing());
            self.admit(id, &mut upload, packed).await?;
        }
        if upload.progress.digest != digest {
            return Err(IntakeError::UploadConflict);
        }
        Ok(self.result_of(id, &upload_id, &upload.progress).await?)
    }

    /// The result of an upload that is complete.
    async fn result_of(
        &self,
        id: CampaignId,
        upload_id: &str,
        progress: &UploadProgress,
    ) -> Result<UploadResult, StoreError> {
        let UploadProgress { accepted, rejected: rejected_count, .. } = *progress;
        let rejected = if rejected_count == 0 { Vec::new() } else { self.rejections(id, upload_id).await? };
        Ok(UploadResult { accepted, rejected_count, rejected })
    }

    /// Reads the rejections of an upload. Only the first ones are stored.
    async fn rejections(&self, id: CampaignId, upload_id: &str) -> Result<Vec<Rejection>, StoreError> {
        let read = |json: String| {
            serde_json::from_str(&json).map_err(|error| StoreError::Corrupt {
                key: self.store.keys.rejections(id, upload_id),
                reason: error.to_string(),
            })
        };
        let rejections: Result<Vec<Rejection>, StoreError> =
            self.store.rejections(id, upload_id).await?.into_iter().map(read).collect();
        // Grouped recipients are not admitted in the order of their rows.
        rejections.map(|mut rejections| {
            rejections.sort_by_key(|rejection| rejection.row);
            rejections
        })
    }

    /// The lines of a campaign, each weighted with its rate.
    ///
    /// Errors: `Invalid` if none of them is configured.
    async fn weights(&self, record: &CampaignRecord) -> Result<Vec<(LineId, f64)>, IntakeError> {
        // Lines that are no longer configured are left out: they would not send their recipients.
        let listed = self.lines.get();
        let lines: Vec<&Line> = record.campaign.lines.iter().filter_map(|line| listed.by_id(line)).collect();
        if lines.is_empty() {
            let ids: Vec<&str> = record.campaign.lines.iter().map(LineId::as_str).collect();
            let problem = format!(
                "none of the lines of campaign {} ({}) is configured any more: configure one of them, or make a new campaign on \
                 other lines",
                record.campaign.id,
                ids.join(", ")
            );
            return Err(IntakeError::Invalid(vec![problem]));
        }
        let ids: Vec<LineId> = lines.iter().map(|line| line.id.clone()).collect();
        let controls = self.store.controls(&ids).await?;
        let rate = |(line, control): (&Line, LineControl)| {
            rules::rate::in_force(control.rate, line.messages_per_second, control.allowance).per_second
        };
        let rates: Vec<f64> = lines.into_iter().zip(controls).map(rate).collect();
        Ok(ids.into_iter().zip(rates).collect())
    }

    /// Commits batches in order, until the last one or the first error.
    async fn commit(
        self,
        id: CampaignId,
        mut upload: Upload,
        mut batches: mpsc::Receiver<Packed>,
    ) -> Result<UploadProgress, IntakeError> {
        while let Some(batch) = batches.recv().await {
            self.memory.check(&self.store).await?;
            self.admit(id, &mut upload, batch).await?;
        }
        Ok(upload.progress)
    }

    async fn admit(&self, id: CampaignId, upload: &mut Upload, batch: Packed) -> Result<(), IntakeError> {
        // This check is approximate. Duplicates in the batch count as recipients, because only Redis can detect them.
        // Batches of concurrent uploads are not counted, so each of these uploads can exceed the limit by one batch.
        let max = self.recipients_max;
        if batch.recipients() > 0 && upload.numbers() + batch.recipients() > max {
            return Err(IntakeError::OverLimit { id, max });
        }
        let (began, rejected_before) = (clock::system_time(), upload.progress.rejected);
        match upload.admit(batch).await? {
            Admitted::Done { accepted } => {
                metrics::recipients(RecipientResult::Accepted, accepted);
                metrics::recipients(RecipientResult::Rejected, upload.progress.rejected - rejected_before);
                for rows in mem::take(&mut upload.admitted) {
                    self.origin.admitted(rows.part, rows.rows(), began);
                }
                Ok(())
            }
            Admitted::Closed(state) => Err(closed(id, state)),
            Admitted::Gone => Err(IntakeError::NotFound(id.to_string())),
            Admitted::Overtaken => Err(IntakeError::UploadInProgress),
            Admitted::Regrouped => Err(IntakeError::Interrupted("the send window was changed meanwhile".into())),
            Admitted::Full => Err(IntakeError::TooManyRecipients(id)),
        }
    }
}

/// Parses the rows of a body as it arrives.
pub(super) fn rows_of<E: Display, T: UploadRow>(
    reader: RowReader,
    body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> impl Stream<Item = Result<Vec<Row<T>>, IntakeError>> {
    stream::try_unfold(Some((reader, body, Bytes::new())), async |state| {
        let Some((mut reader, mut body, mut bytes)) = state else { return Ok(None) };
        let mut rows = Vec::new();
        if bytes.is_empty() {
            match body.next().await {
                Some(Ok(more)) => bytes = more,
                Some(Err(error)) => return Err(IntakeError::Interrupted(error.to_string())),
                None => {
                    reader.finish(&mut rows)?;
                    return Ok(Some((rows, None)));
                }
            }
        }
        // The body may arrive in large chunks. Parsing limited pieces bounds the rows in memory.
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        reader.push(&piece, &mut rows)?;
        Ok(Some((rows, Some((reader, body, bytes)))))
    })
}

/// Groups rows into batches.
struct Batches<R> {
    id: CampaignId,
    rows: R,
    /// Rows that were parsed and are in no batch yet.
    buffered: VecDeque<Row>,
    form: Form,
    groups: Groups,
    /// The progress of earlier attempts at this upload.
    stored: UploadProgress,
    /// The digest of all rows so far.
    digest: SipHasher24,
    /// The number of rows so far.
    number: u64,
}

impl<R: Stream<Item = Result<Vec<Row>, IntakeError>> + Unpin> Batches<R> {
    /// Returns the next batch, without rows that are stored already. `done` marks the end of the upload.
    ///
    /// Errors: `UploadConflict` if the rows differ from those of an earlier attempt.
    async fn next(&mut self) -> Result<Batch, IntakeError> {
        let mut batch = Batch::default();
        let mut bytes = 0;
        while batch.recipients.len() + batch.rejections.len() < BATCH_ROWS && bytes < BATCH_BYTES {
            let Some(row) = self.next_row().await? else {
                batch.done = true;
                break;
            };
            let number = u32::try_from(row.number).map_err(|_| IntakeError::TooManyRecipients(self.id))?;
            self.number = row.number;
            let fitted = row.content.and_then(|mut raw| {
                let zone = raw.zone.take();
                Ok((self.form.fit(raw)?, zone))
            });
            self.digest_row(&fitted);
            if self.number <= self.stored.taken {
                if self.number == self.stored.taken && self.digest_so_far() != self.stored.digest {
                    return Err(IntakeError::UploadConflict);
                }
                continue;
            }
            let grouped =
                fitted.and_then(|(recipient, zone)| Ok((self.groups.of(recipient.to, zone.as_deref())?, recipient)));
            match grouped {
                Ok((group, recipient)) => {
                    if self.groups.are_used() {
                        batch.groups.push(group);
                    }
                    bytes += recipient.values.iter().map(String::len).sum::<usize>();
                    batch.recipients.push((number, recipient));
                    batch.lines.push(row.line.map_or(0, |line| u32::try_from(line).unwrap_or(u32::MAX)));
                }
                Err(reject) => batch.rejections.push((number, rejection(row.number, row.line, &reject))),
            }
        }
        let ended_early = batch.done && self.number < self.stored.taken;
        if ended_early || (self.stored.done && self.number > self.stored.taken) {
            return Err(IntakeError::UploadConflict);
        }
        batch.taken = self.number;
        batch.digest = self.digest_so_far();
        Ok(batch)
    }

    async fn next_row(&mut self) -> Result<Option<Row>, IntakeError> {
        loop {
            if let Some(row) = self.buffered.pop_front() {
                return Ok(Some(row));
            }
            match self.rows.next().await {
                Some(rows) => self.buffered.extend(rows?),
                None => return Ok(None),
            }
        }
    }

    /// Adds a row to the digest: its phone number, its values and its time zone if it names one, or the code of its
    /// rejection.
    fn digest_row(&mut self, fitted: &Result<(Recipient, Option<String>), Reject>) {
        match fitted {
            Ok((recipient, zone)) => {
                self.digest.write(&recipient.to.digits().to_le_bytes());
                for value in recipient.values.iter().chain(zone) {
                    self.digest.write(&(value.len() as u64).to_le_bytes());
                    self.digest.write(value.as_bytes());
                }
            }
            // `u64::MAX` has more digits than any phone number, so a rejection never looks like a recipient.
            Err(reject) => {
                self.digest.write(&u64::MAX.to_le_bytes());
                self.digest.write(reject.code().as_bytes());
            }
        }
    }

    fn digest_so_far(&self) -> String {
        format!("{:016x}", self.digest.finish())
    }
}

fn closed(id: CampaignId, state: CampaignState) -> IntakeError {
    let action = "accept recipients, which only a draft or a scheduled campaign does; put them into a new campaign";
    IntakeError::State { id, state, action }
}

fn rejection(row: u64, line: Option<u64>, reject: &Reject) -> String {
    serde_json::to_string(&Rejection::of(row, line, reject)).expect("a rejection has only numbers and strings")
}

/// The format string for the rejection of a duplicate, which a script in Redis fills in, because only Redis knows
/// which rows are duplicates. `%d` is the row, `%s` the JSON field with the line, `%04d` the last four digits of the
/// phone number.
fn duplicate_format() -> String {
    let json = rejection(0, None, &Reject::Duplicate("…%04d".to_owned()));
    json.replacen("\"row\":0,", "\"row\":%d,%s", 1)
}
