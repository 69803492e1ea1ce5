//! The store of files: a directory, or a bucket of S3 or of a server that speaks its protocol.
//!
//! Owns: the objects `PREFIX/XX/ID`, where XX are the last two characters of the id. An object appears whole or not at
//! all, and never changes.
//! If the process dies: a file that was being written is not there. In a bucket, its parts stay until a rule of the
//! bucket aborts incomplete uploads.
//! Never: decides whether a file is kept (PostgreSQL says so), or holds a whole file in memory.

mod url;

use std::{fmt, fs, ops::Range, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use object_store::{
    BackoffConfig, ClientOptions, GetOptions, ObjectStore, ObjectStoreExt as _, RetryConfig, aws::AmazonS3Builder,
    buffered::BufWriter, local::LocalFileSystem, path::Path,
};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

pub use self::url::{BadMediaUrl, MediaUrl};
use crate::domain::{MediaId, media::HEAD_BYTES};

/// How much of a file is in memory while it is written, twice: one part is collected while another one is on its way.
/// The smallest part that S3 accepts.
const PART_BYTES: usize = 5 * 1024 * 1024;

/// How long the store may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// How long a failed request to the store is repeated.
const RETRY_FOR: Duration = Duration::from_secs(20);

/// Where files are stored: `[media]`.
#[derive(Clone, Debug)]
pub struct MediaSettings {
    /// The directory or bucket.
    pub url: MediaUrl,
    /// The address of a server that speaks the protocol of S3; `None`: that of AWS.
    pub endpoint: Option<String>,
    /// The largest file, in bytes.
    pub bytes_max: u64,
}

/// Why the store did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MediaStoreError {
    /// The store has no such file.
    #[error("the store has no such file")]
    Missing,
    /// The file is larger than it may be, in bytes.
    #[error("the file is larger than {0} bytes")]
    TooLarge(u64),
    /// The store failed or cannot be reached.
    #[error("the store of files failed: {0}")]
    Failed(String),
}

impl From<object_store::Error> for MediaStoreError {
    fn from(error: object_store::Error) -> Self {
        match error {
            object_store::Error::NotFound { .. } => Self::Missing,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// A store of files. Clones share its connections.
#[derive(Clone)]
pub struct MediaStore {
    objects: Arc<dyn ObjectStore>,
    prefix: Path,
    bytes_max: u64,
}

impl MediaStore {
    /// Opens the store. Creates a directory that is missing. A bucket is not asked yet; its credentials come from the
    /// variables and files that the tools of AWS read.
    ///
    /// Errors: the directory cannot be created; the values of a bucket are invalid.
    pub fn open(settings: &MediaSettings) -> Result<Self, MediaStoreError> {
        let failed = |error: &dyn fmt::Display| MediaStoreError::Failed(error.to_string());
        let (objects, prefix): (Arc<dyn ObjectStore>, _) = match &settings.url {
            MediaUrl::Directory(directory) => {
                fs::create_dir_all(directory).map_err(|error| failed(&error))?;
                (Arc::new(LocalFileSystem::new_with_prefix(directory)?.with_fsync(true)), "")
            }
            MediaUrl::Bucket { bucket, prefix } => {
                // reqwest takes the TLS library from here. Another part of the process may have set it.
                let _ = rustls::crypto::ring::default_provider().install_default();
                let mut client = ClientOptions::new().with_timeout_disabled().with_read_timeout(SILENCE_MAX);
                let retry = RetryConfig { backoff: BackoffConfig::default(), max_retries: 5, retry_timeout: RETRY_FOR };
                let mut builder = AmazonS3Builder::from_env().with_bucket_name(bucket).with_retry(retry);
                // Files are removed one by one, and not every server has the call for several.
                builder = builder.with_disable_bulk_delete(true);
                if let Some(endpoint) = &settings.endpoint {
                    client = client.with_allow_http(endpoint.starts_with("http://"));
                    builder = builder.with_endpoint(endpoint);
                }
                (Arc::new(builder.with_client_options(client).build()?), prefix.as_str())
            }
        };
        Ok(Self { objects, prefix: Path::from(prefix), bytes_max: settings.bytes_max })
    }

    /// The largest file, in bytes.
    pub fn bytes_max(&self) -> u64 {
        self.bytes_max
    }

    /// A writer of the file `id`, which may have `bytes_max` bytes.
    pub fn writer(&self, id: MediaId, bytes_max: u64) -> MediaWriter {
        let writer = BufWriter::with_capacity(self.objects.clone(), self.path(id), PART_BYTES);
        let writer = writer.with_max_concurrency(1);
        let bytes_max = bytes_max.min(self.bytes_max);
        MediaWriter { writer, size: 0, bytes_max, hash: Sha256::new(), head: Vec::new() }
    }

    /// The bytes of a file, or those in `range`.
    ///
    /// Errors: [`MediaStoreError::Missing`] or [`MediaStoreError::Failed`], also within the stream.
    pub async fn read(
        &self,
        id: MediaId,
        range: Option<Range<u64>>,
    ) -> Result<BoxStream<'static, Result<Bytes, MediaStoreError>>, MediaStoreError> {
        let options = GetOptions::new().with_range(range);
        let file = self.objects.get_opts(&self.path(id), options).await?;
        Ok(file.into_stream().map_err(MediaStoreError::from).boxed())
    }

    /// Removes a file. Does nothing if there is no such file.
    pub async fn remove(&self, id: MediaId) -> Result<(), MediaStoreError> {
        match self.objects.delete(&self.path(id)).await.map_err(MediaStoreError::from) {
            Err(MediaStoreError::Missing) => Ok(()),
            removed => removed,
        }
    }

    fn path(&self, id: MediaId) -> Path {
        let id = id.to_string();
        let folder = &id[id.len() - 2..];
        self.prefix.clone().join(folder).join(id.as_str())
    }
}

/// Writes a file. Nothing is stored unless it is finished.
pub struct MediaWriter {
    writer: BufWriter,
    size: u64,
    bytes_max: u64,
    hash: Sha256,
    head: Vec<u8>,
}

impl MediaWriter {
    /// Appends bytes.
    ///
    /// Errors: [`MediaStoreError::TooLarge`], after which nothing more may be written; [`MediaStoreError::Failed`].
    pub async fn put(&mut self, bytes: Bytes) -> Result<(), MediaStoreError> {
        self.size += bytes.len() as u64;
        if self.size > self.bytes_max {
            return Err(MediaStoreError::TooLarge(self.bytes_max));
        }
        self.hash.update(&bytes);
        let missing = HEAD_BYTES.saturating_sub(self.head.len()).min(bytes.len());
        self.head.extend_from_slice(&bytes[..missing]);
        Ok(self.writer.put(bytes).await?)
    }

    /// The number of bytes so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The first bytes, at most [`HEAD_BYTES`].
    pub fn head(&self) -> &[u8] {
        &self.head
    }

    /// The SHA-256 of the bytes so far.
    pub fn sha256(&self) -> [u8; 32] {
        self.hash.clone().finalize().into()
    }

    /// Stores the file.
    pub async fn finish(mut self) -> Result<(), MediaStoreError> {
        self.writer.shutdown().await.map_err(|error| MediaStoreError::Failed(error.to_string()))
    }

    /// Removes what was written.
    pub async fn abort(mut self) -> Result<(), MediaStoreError> {
        Ok(self.writer.abort().await?)
    }
}
