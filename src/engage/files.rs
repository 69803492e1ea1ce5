//! Files of chats: those that people send are fetched from Meta into the store, those that agents send are uploaded to
//! Meta, and those that were removed leave the store.
//!
//! The readers of the lines do none of this, so a slow Meta or store delays no message but those that wait for a file.
//!
//! If the process dies: what it claimed ends after the time of a lease, and another process takes it up. A file that is
//! fetched again replaces the same file.

use std::time::Duration;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use super::Engage;
use crate::{
    domain::{
        Line, LineId, MediaId, MetaCode, Outcome, State, UnixMs,
        chat::ChatStatus,
        media::{GoneReason, UPLOAD_USED},
        policy,
    },
    graph::{
        GraphClient, GraphError,
        media::{MediaNode, MediaUpload},
    },
    media::{MediaStore, MediaStoreError},
    postgres::{
        DatabaseError,
        media::{DueFetch, DueUpload},
    },
};

/// Maximum number of files that are fetched at the same time, and of those that are uploaded: each has at most 10 MB in
/// memory.
const FETCHES_MAX: usize = 4;
const UPLOADS_MAX: usize = 4;

/// How often PostgreSQL is asked for files to fetch, to upload and to remove.
const FETCHES_EVERY: Duration = Duration::from_secs(1);
const UPLOADS_EVERY: Duration = Duration::from_millis(250);
const REMOVALS_EVERY: Duration = Duration::from_secs(2);

/// Maximum number of files that are removed at once.
const REMOVALS_MAX: usize = 100;

/// The wait after the first failure; each further one doubles it.
const WAIT_MIN: Duration = Duration::from_secs(1);
const WAIT_MAX: Duration = Duration::from_mins(10);

/// After how many failures Meta is believed that it does not have the file, or has another one.
const BELIEVED_AFTER: u32 = 3;

/// After how many failures the log warns of a file, because it is no hiccup.
const WARNED_AFTER: u32 = 5;

/// How long a message waits for the upload of its file: as long as free text may be sent.
const UPLOAD_FOR: Duration = Duration::from_hours(24);

/// What files need.
#[derive(Clone)]
pub struct FileTransfers {
    /// Where files are stored.
    pub media: MediaStore,
    /// Meta, over HTTP/1.1, which every server of files speaks.
    pub graph: GraphClient,
}

/// Why a file was not fetched or uploaded.
enum Failure {
    /// It never will be.
    Gone(GoneReason),
    /// Meta does not have the file, or it is another one: likely final.
    Doubtful(GoneReason, String),
    /// A later attempt may succeed.
    Transient(String),
    /// Meta does not take the file: its code and words.
    Refused(Option<MetaCode>, String),
}

impl From<MediaStoreError> for Failure {
    fn from(error: MediaStoreError) -> Self {
        match error {
            MediaStoreError::TooLarge(_) => Self::Gone(GoneReason::TooLarge),
            MediaStoreError::Missing => Self::Refused(None, "the file was removed".to_owned()),
            MediaStoreError::Failed(_) => Self::Transient(error.to_string()),
        }
    }
}

impl From<GraphError> for Failure {
    fn from(error: GraphError) -> Self {
        const TOO_LARGE_OR_UNKNOWN: MetaCode = MetaCode(131_053);
        match error {
            GraphError::Refused { code: MetaCode(policy::NO_SUCH_OBJECT), .. } => {
                Self::Doubtful(GoneReason::Missing, error.to_string())
            }
            GraphError::Refused { code, details, .. }
                if code == TOO_LARGE_OR_UNKNOWN
                    || matches!(policy::outcome(400, code, String::new()), Outcome::Failed { .. }) =>
            {
                Self::Refused(Some(code), details)
            }
            error => Self::Transient(error.to_string()),
        }
    }
}

impl Engage {
    /// Runs until `stop`.
    pub(super) async fn transfer_files(&self, transfers: &FileTransfers, stop: &CancellationToken) {
        let files = Files { engage: self, media: &transfers.media, graph: &transfers.graph };
        let fetches =
            work_off(FETCHES_MAX, FETCHES_EVERY, |room| files.claim_fetches(room), |fetch| files.fetch(fetch));
        let uploads =
            work_off(UPLOADS_MAX, UPLOADS_EVERY, |room| files.claim_uploads(room), |upload| files.upload(upload));
        let work = async { tokio::join!(fetches, uploads, files.remove()) };
        // What is in progress is taken up by another process.
        stop.run_until_cancelled(work).await;
    }
}

/// Works on at most `most` things at a time, and claims more whenever there is room.
async fn work_off<T, C: Future<Output = Vec<T>>, W: Future<Output = ()>>(
    most: usize,
    every: Duration,
    claim: impl Fn(usize) -> C,
    work: impl Fn(T) -> W,
) {
    let mut working = FuturesUnordered::new();
    loop {
        if working.len() < most {
            working.extend(claim(most - working.len()).await.into_iter().map(&work));
        }
        tokio::select! {
            Some(()) = working.next(), if !working.is_empty() => {}
            () = sleep(every) => {}
        }
    }
}

struct Files<'a> {
    engage: &'a Engage,
    media: &'a MediaStore,
    graph: &'a GraphClient,
}

impl Files<'_> {
    fn now(&self) -> UnixMs {
        self.engage.clock.now()
    }

    /// Until when a claim made now lasts.
    fn claimed_until(&self) -> UnixMs {
        self.now().after(self.engage.lease)
    }

    async fn claim_fetches(&self, room: usize) -> Vec<DueFetch> {
        let lines = self.engage.lines.get().ids();
        claimed(self.engage.database.claim_fetches(&lines, room, self.now(), self.claimed_until()).await)
    }

    async fn claim_uploads(&self, room: usize) -> Vec<DueUpload> {
        let lines = self.engage.lines.get().ids();
        claimed(self.engage.database.claim_uploads(&lines, room, self.now(), self.claimed_until()).await)
    }

    /// Fetches a file, or decides when it is tried again.
    async fn fetch(&self, fetch: DueFetch) {
        let database = &self.engage.database;
        let keep = self.keep(|until| database.keep_fetch(fetch.id, until));
        let fetched = tokio::select! {
            fetched = self.download(&fetch) => fetched,
            () = keep => return,
        };
        let gone = match fetched {
            Ok(size) => return noted(database.file_fetched(fetch.id, size).await.map(drop)),
            Err(Failure::Gone(reason)) => Some(reason),
            Err(Failure::Doubtful(reason, _)) if fetch.failures + 1 >= BELIEVED_AFTER => Some(reason),
            Err(_) if self.now() >= fetch.until => Some(GoneReason::Expired),
            Err(Failure::Doubtful(_, error) | Failure::Transient(error) | Failure::Refused(_, error)) => {
                again_later(&fetch.line, fetch.id, fetch.failures, &error);
                None
            }
        };
        match gone {
            Some(reason) => {
                warn!(line.id = %fetch.line, media.id = %fetch.id, reason = reason.name(), "a file cannot be fetched");
                noted(database.give_up_fetch(fetch.id, reason).await);
            }
            None => noted(database.retry_fetch(fetch.id, self.now().after(wait(fetch.failures))).await),
        }
    }

    /// Fetches a file into the store. Returns its size.
    async fn download(&self, fetch: &DueFetch) -> Result<u64, Failure> {
        let line = self.line(&fetch.line)?;
        let node = self.graph.media(&fetch.meta_id, &line.id, &line.token).await?;
        let mut download = self.graph.download(&fetch.meta_id, &node, &line.token).await?;
        let mut writer = self.media.writer(fetch.id, u64::MAX);
        let received = async {
            while let Some(bytes) = download.next().await? {
                writer.put(bytes).await?;
            }
            match is_the_file(&node, &writer.sha256()) {
                true => Ok(writer.size()),
                false => Err(Failure::Doubtful(GoneReason::Corrupt, "it has another SHA-256".to_owned())),
            }
        };
        match received.await {
            Ok(size) => writer.finish().await.map(|()| size).map_err(Failure::from),
            Err(failure) => {
                if let Err(error) = writer.abort().await {
                    debug!(%error, media.id = %fetch.id, "what was fetched of a file is not removed");
                }
                Err(failure)
            }
        }
    }

    /// Uploads a file, or decides when it is tried again, or that its messages fail.
    async fn upload(&self, upload: DueUpload) {
        let database = &self.engage.database;
        let keep = self.keep(|until| database.keep_upload(&upload, until));
        let uploaded = tokio::select! {
            uploaded = self.send_to_meta(&upload) => uploaded,
            () = keep => return,
        };
        let (code, details) = match uploaded {
            Ok(meta_id) => {
                let stored = database.file_at_meta(&upload, &meta_id, self.now().after(UPLOAD_USED)).await;
                noted(stored);
                if let Err(error) = self.engage.store.ring_reader(&upload.line).await {
                    // The reader looks once a second by itself.
                    debug!(%error, line.id = %upload.line, "the reader of the line is not told of its outbox");
                }
                return;
            }
            Err(Failure::Refused(code, details)) => (code, details),
            Err(Failure::Gone(reason)) => (None, reason.name().to_owned()),
            Err(Failure::Doubtful(_, error) | Failure::Transient(error)) => {
                if self.now() < upload.asked_at.after(UPLOAD_FOR) {
                    again_later(&upload.line, upload.id, upload.failures, &error);
                    return noted(database.retry_upload(&upload, self.now().after(wait(upload.failures))).await);
                }
                (None, error)
            }
        };
        warn!(line.id = %upload.line, media.id = %upload.id, details, "a file cannot be uploaded: its messages fail");
        noted(self.fail(&upload, code, &details).await);
    }

    async fn send_to_meta(&self, upload: &DueUpload) -> Result<String, Failure> {
        let line = self.line(&upload.line)?;
        let bytes = self.media.read(upload.id, None).await?;
        let file = MediaUpload { mime_type: upload.mime_type.clone(), size: upload.size, bytes };
        Ok(self.graph.upload(&line.id, &line.token, file).await?)
    }

    /// Fails the messages that wait for an upload. A message that is added meanwhile fails too.
    async fn fail(&self, upload: &DueUpload, code: Option<MetaCode>, details: &str) -> Result<(), DatabaseError> {
        loop {
            let messages = self.engage.database.give_up_upload(upload).await?;
            if messages.is_empty() {
                return Ok(());
            }
            let failed = |id| ChatStatus {
                id: Some(id),
                send: 1,
                state: State::Refused,
                at: self.now(),
                wamid: None,
                code,
                details: details.to_owned(),
            };
            let news: Vec<ChatStatus> = messages.into_iter().map(failed).collect();
            self.engage.database.store_message_news(&upload.line, &news).await?;
        }
    }

    /// Removes files from the store that are not wanted any more. Never returns.
    async fn remove(&self) {
        let mut failures = 0;
        loop {
            let (database, now) = (&self.engage.database, self.now());
            let due = async {
                database.remove_unsent(REMOVALS_MAX, now).await?;
                database.removed_files(REMOVALS_MAX, now).await
            };
            let removed = claimed(due.await);
            let mut done = Vec::new();
            for id in removed {
                if let Err(error) = self.media.remove(id).await {
                    failures += 1;
                    if failures == 1 {
                        warn!(%error, media.id = %id, "a file is not removed yet");
                    }
                    break;
                }
                failures = 0;
                done.push(id);
            }
            noted(database.drop_files(&done, self.now()).await);
            sleep(REMOVALS_EVERY.max(wait(failures))).await;
        }
    }

    /// Extends a claim until it is lost. Returns then: the file is not wanted any more.
    async fn keep<F: Future<Output = Result<bool, DatabaseError>>>(&self, keep: impl Fn(UnixMs) -> F) {
        loop {
            sleep(self.engage.lease / 3).await;
            if let Ok(false) = keep(self.claimed_until()).await {
                return;
            }
        }
    }

    /// The line, as it is configured now.
    fn line(&self, id: &LineId) -> Result<Line, Failure> {
        let lines = self.engage.lines.get();
        lines.by_id(id).cloned().ok_or_else(|| Failure::Transient(format!("line {id} is not configured any more")))
    }
}

/// What was claimed: nothing while PostgreSQL is away, which the readers of the lines report.
fn claimed<T>(claimed: Result<Vec<T>, DatabaseError>) -> Vec<T> {
    claimed.unwrap_or_else(|error| {
        debug!(%error, "files wait for PostgreSQL");
        Vec::new()
    })
}

/// Reports a failure. `failures`: how many there were before.
fn again_later(line: &LineId, id: MediaId, failures: u32, error: &str) {
    let text = "a file is not transferred yet: tried again";
    if failures + 1 == WARNED_AFTER {
        warn!(line.id = %line, media.id = %id, error, "{text}");
    } else {
        debug!(line.id = %line, media.id = %id, error, "{text}");
    }
}

/// A result that is not stored is found again: the claim ends, and the work is repeated.
fn noted(stored: Result<(), DatabaseError>) {
    if let Err(error) = stored {
        warn!(%error, "what became of a file is not stored: it is tried again");
    }
}

/// Whether the bytes with this SHA-256 are those of the node. Meta writes the hash in hexadecimal, and in webhooks in
/// base64.
fn is_the_file(node: &MediaNode, sha256: &[u8; 32]) -> bool {
    let Some(expected) = &node.sha256 else { return true };
    let read = hex::decode(expected).ok().or_else(|| STANDARD.decode(expected).ok());
    read.is_none_or(|expected| expected == sha256)
}

/// How long a file waits after this many failures and one more.
fn wait(failures: u32) -> Duration {
    WAIT_MIN.saturating_mul(1 << failures.min(16)).min(WAIT_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_known_by_its_hash_in_either_form() {
        let sha256 = [7; 32];
        let node = |sha256: &str| MediaNode { url: String::new(), mime_type: None, sha256: Some(sha256.to_owned()) };
        assert!(is_the_file(&node(&hex::encode(sha256)), &sha256));
        assert!(is_the_file(&node(&STANDARD.encode(sha256)), &sha256));
        assert!(!is_the_file(&node(&hex::encode([8; 32])), &sha256));
        assert!(is_the_file(&node("not a hash"), &sha256), "nothing to compare with");
    }

    #[test]
    fn a_file_is_tried_again_after_growing_waits() {
        assert_eq!([0, 1, 5, 60].map(wait), [1, 2, 32, 600].map(Duration::from_secs));
    }
}
