//! Uploads: rows become recipients of a campaign, at constant memory and in batches, each of which counts whole or not at
//! all.
//!
//! If the connection is cut, or the process dies: the batches that were committed stay. The same upload under the same
//! id skips them, and ends with the answer that it would have had uncut. Batches are cut by the rows alone, so that they
//! are the same each time.
//! Never: holds more than two batches, the one that is being committed and the one that is being read.

use std::{collections::VecDeque, fmt::Display, hash::Hasher as _, pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use siphasher::sip::SipHasher24;
use tokio::sync::mpsc;
use ulid::Ulid;

use super::{
    Format, Intake, IntakeError, Rejection, UploadLayout, UploadResult,
    rows::{Columns, Row, RowReader},
};
use crate::{
    domain::{CampaignId, CampaignState, Form, LineId, Recipient, Reject, reject::shown},
    redis::{
        StoreError,
        campaigns::CampaignRecord,
        uploads::{Admitted, Batch, Packed, Upload, UploadProgress},
    },
    telemetry::metrics::{self, RecipientResult},
};

/// Rows that are committed together: some milliseconds of Redis.
const BATCH_ROWS: usize = 2_048;
/// Bytes of values after which a batch is full, however few its rows are.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of a body that are read at once.
const PIECE_BYTES: usize = 64 * 1024;
/// The longest `Upload-Id`, in characters.
const UPLOAD_ID_CHARS_MAX: usize = 128;
/// How long an upload can be repeated under its id, from its last batch on.
const KEPT: Duration = Duration::from_secs(7 * 24 * 3600);
/// How long the record of an upload without an id is kept: it serves only that upload itself.
const KEPT_WITHOUT_ID: Duration = Duration::from_secs(3600);

/// What names an upload within its campaign. Ids of callers and our own never meet.
#[derive(Debug)]
pub(super) enum UploadId {
    /// The caller named it.
    Caller(String),
    /// The recipients that came along with the campaign.
    Submission,
    /// An entry of the stream of jobs that names no upload.
    Entry(String),
    /// Nobody named it.
    Unnamed,
}

impl UploadId {
    /// Errors: `Invalid` if it is not 1 to 128 visible ASCII characters.
    pub(super) fn of_caller(id: &str) -> Result<Self, IntakeError> {
        if (1..=UPLOAD_ID_CHARS_MAX).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Ok(Self::Caller(id.to_owned()));
        }
        Err(IntakeError::Invalid(vec![format!(
            "the upload id is “{}”: it must have 1 to {UPLOAD_ID_CHARS_MAX} characters, all of them visible ASCII",
            shown(id)
        )]))
    }

    /// Its name in Redis, and how long its record is kept.
    fn record(&self) -> (String, Duration) {
        match self {
            UploadId::Caller(id) => (format!("id:{id}"), KEPT),
            UploadId::Submission => ("create".to_owned(), KEPT),
            UploadId::Entry(id) => (format!("job:{id}"), KEPT),
            UploadId::Unnamed => (format!("unnamed:{}", Ulid::generate()), KEPT_WITHOUT_ID),
        }
    }
}

impl Intake {
    /// Takes recipients into a campaign that is a draft or scheduled, as they arrive.
    ///
    /// With an `upload_id` (1 to 128 visible ASCII characters) an upload that was cut can be repeated for seven days: what
    /// was taken is skipped, and the answer is that of one whole upload. Without one, rows that were taken before are
    /// rejected as duplicates. When it has answered, the recipients outlive Redis as far as that can promise it.
    ///
    /// Errors: `Interrupted` if the body breaks off, and `Store`: repeat the upload under the same id. `UploadConflict` if
    /// the id belongs to other rows. `Upload` for a CSV whose header row does not fit: nothing was changed.
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
        let (result, _) = intake.take_rows(id, &upload_id, pin!(rows_of(reader, body))).await?;
        intake.store.make_durable().await?;
        Ok(result)
    }

    /// Takes rows into a campaign. Tells too whether all of them had been taken before.
    pub(super) async fn take_rows(
        &self,
        id: CampaignId,
        upload_id: &UploadId,
        rows: impl Stream<Item = Result<Vec<Row>, IntakeError>> + Unpin,
    ) -> Result<(UploadResult, bool), IntakeError> {
        let record = self.campaign(id).await?;
        let form = Form::of(&record.campaign.template).map_err(super::TemplateProblem::Unsupported)?;
        let lines = self.weights(&record)?;
        let (upload_id, kept) = upload_id.record();
        let begun = self.store.begin_upload(id, &upload_id, lines, duplicate(), kept).await?;
        let Some((upload, state)) = begun else { return Err(IntakeError::NotFound(id.to_string())) };
        let repeated = upload.progress.done;
        if !repeated && !matches!(state, CampaignState::Draft | CampaignState::Scheduled) {
            return Err(closed(id, state));
        }
        let mut batches = Batches {
            id,
            rows,
            waiting: VecDeque::new(),
            form,
            before: upload.progress.clone(),
            digest: SipHasher24::new(),
            number: 0,
        };
        let (lines, (ready, to_commit)) = (upload.lines(), mpsc::channel(1));
        // A task of its own: what is read is parsed and packed on one core while another waits for Redis and serves it.
        let committing = tokio::spawn(self.clone().commit(id, upload, to_commit));
        let read = async {
            // Room first, so that there are never more than the one that is read and the one that is committed. There is none
            // where a batch could not be committed.
            while let Ok(room) = ready.reserve().await {
                let batch = batches.next().await?;
                let done = batch.done;
                // One that was done before has brought the same rows again, and its last batch is empty.
                if !repeated {
                    room.send(batch.pack(lines));
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
        let UploadProgress { accepted, rejected: rejected_count, .. } = committed?;
        read?;
        let rejected = if rejected_count == 0 { Vec::new() } else { self.rejections(id, &upload_id).await? };
        Ok((UploadResult { accepted, rejected_count, rejected }, repeated))
    }

    /// The first rejections of an upload.
    async fn rejections(&self, id: CampaignId, upload_id: &str) -> Result<Vec<Rejection>, StoreError> {
        let read = |json: String| {
            serde_json::from_str(&json).map_err(|error| StoreError::Corrupt {
                key: self.store.keys.rejections(id, upload_id),
                reason: error.to_string(),
            })
        };
        self.store.rejections(id, upload_id).await?.into_iter().map(read).collect()
    }

    /// The lines of a campaign, each with its rate as its share.
    fn weights(&self, record: &CampaignRecord) -> Result<Vec<(LineId, f64)>, IntakeError> {
        let lines = record.campaign.lines.iter();
        // A line that is not configured any more would not send what it was given.
        let lines: Vec<_> = lines.filter_map(|line| Some((line.clone(), self.lines.get(line)?.1))).collect();
        if lines.is_empty() {
            let named: Vec<&str> = record.campaign.lines.iter().map(LineId::as_str).collect();
            let problem = format!(
                "none of the lines of campaign {} ({}) is configured any more: configure one of them, or make a new campaign on \
                 other lines",
                record.campaign.id,
                named.join(", ")
            );
            return Err(IntakeError::Invalid(vec![problem]));
        }
        Ok(lines)
    }

    /// Commits batches one after the other until there are no more, or one can't be.
    async fn commit(
        self,
        id: CampaignId,
        mut upload: Upload,
        mut batches: mpsc::Receiver<Packed>,
    ) -> Result<UploadProgress, IntakeError> {
        while let Some(batch) = batches.recv().await {
            self.admit(id, &mut upload, batch).await?;
        }
        Ok(upload.progress)
    }

    async fn admit(&self, id: CampaignId, upload: &mut Upload, batch: Packed) -> Result<(), IntakeError> {
        // Those of them that the campaign has already are not told apart here. What other uploads are just bringing is not
        // seen: then it may have more by a batch of each.
        let max = self.recipients_max;
        if batch.recipients() > 0 && upload.numbers() + batch.recipients() > max {
            return Err(IntakeError::OverLimit { id, max });
        }
        let rejected_before = upload.progress.rejected;
        match upload.admit(batch).await? {
            Admitted::Done { accepted } => {
                metrics::recipients(RecipientResult::Accepted, accepted);
                metrics::recipients(RecipientResult::Rejected, upload.progress.rejected - rejected_before);
                Ok(())
            }
            Admitted::Closed(state) => Err(closed(id, state)),
            Admitted::Gone => Err(IntakeError::NotFound(id.to_string())),
            Admitted::Overtaken => Err(IntakeError::UploadInProgress),
            Admitted::Full => Err(IntakeError::TooManyRecipients(id)),
        }
    }
}

/// The rows of a body, as its bytes arrive.
fn rows_of<E: Display>(
    reader: RowReader,
    body: impl Stream<Item = Result<Bytes, E>> + Unpin,
) -> impl Stream<Item = Result<Vec<Row>, IntakeError>> {
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
        // However large the body's own pieces are, the rows of one of ours are few.
        let piece = bytes.split_to(bytes.len().min(PIECE_BYTES));
        reader.push(&piece, &mut rows)?;
        Ok(Some((rows, Some((reader, body, bytes)))))
    })
}

/// Rows on their way to becoming batches.
struct Batches<R> {
    id: CampaignId,
    rows: R,
    /// Rows that were read and belong to no batch yet.
    waiting: VecDeque<Row>,
    form: Form,
    /// What an earlier connection brought.
    before: UploadProgress,
    /// Of all rows so far.
    digest: SipHasher24,
    /// Rows so far.
    number: u64,
}

impl<R: Stream<Item = Result<Vec<Row>, IntakeError>> + Unpin> Batches<R> {
    /// The next rows that were not taken before; `done` at the end of the upload.
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
            let recipient = row.recipient.and_then(|raw| self.form.fit(raw));
            self.digest_row(&recipient);
            if self.number <= self.before.taken {
                if self.number == self.before.taken && self.digest_so_far() != self.before.digest {
                    return Err(IntakeError::UploadConflict);
                }
                continue;
            }
            match recipient {
                Ok(recipient) => {
                    bytes += recipient.values.iter().map(String::len).sum::<usize>();
                    batch.recipients.push((number, recipient));
                    batch.lines.push(row.line.map_or(0, |line| u32::try_from(line).unwrap_or(u32::MAX)));
                }
                Err(reject) => batch.rejections.push((number, rejection(row.number, row.line, &reject))),
            }
        }
        let ended_early = batch.done && self.number < self.before.taken;
        if ended_early || (self.before.done && self.number > self.before.taken) {
            return Err(IntakeError::UploadConflict);
        }
        batch.taken = self.number;
        batch.digest = self.digest_so_far();
        Ok(batch)
    }

    async fn next_row(&mut self) -> Result<Option<Row>, IntakeError> {
        loop {
            if let Some(row) = self.waiting.pop_front() {
                return Ok(Some(row));
            }
            match self.rows.next().await {
                Some(rows) => self.waiting.extend(rows?),
                None => return Ok(None),
            }
        }
    }

    /// Takes a row into the digest: its number and values, or why it was rejected.
    fn digest_row(&mut self, recipient: &Result<Recipient, Reject>) {
        match recipient {
            Ok(recipient) => {
                self.digest.write(&recipient.to.digits().to_le_bytes());
                for value in &recipient.values {
                    self.digest.write(&(value.len() as u64).to_le_bytes());
                    self.digest.write(value.as_bytes());
                }
            }
            // No number has so many digits.
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
    let action = "take recipients, which only a draft or a scheduled one does; put them into a new campaign";
    IntakeError::State { id, state, action }
}

fn rejection(row: u64, line: Option<u64>, reject: &Reject) -> String {
    let rejection = Rejection { row, line, code: reject.code().to_owned(), reason: reject.to_string() };
    serde_json::to_string(&rejection).expect("a rejection has only numbers and strings")
}

/// What is said of a duplicate, with `%d` for its row, `%s` for the field of its line, and `%04d` for the end of its number: only
/// Redis knows which rows are.
fn duplicate() -> String {
    let told = rejection(0, None, &Reject::Duplicate("…%04d".to_owned()));
    told.replacen("\"row\":0,", "\"row\":%d,%s", 1)
}
