//! The version of the data in Redis: which releases can read it.
//!
//! Owns: ZSET `data_version`, member = the oldest release that reads a version, score = that version. The highest one
//! is the version of the data. Data without the key was written by release 0.1.0, and has version 1. Also HASH
//! `readable_versions`: worker → the newest version that it reads.
//!
//! A release reads a new format before a later release writes it. The first process that writes a new format raises the
//! version, if every live worker reads it. A process that cannot read the version does not start, and a running one
//! stops.
//!
//! If the process dies: the version may be raised although no data is in the new format, which is harmless.

use deadpool_redis::redis::cmd;

use super::{Result, Store, StoreError};

/// The newest version that this release reads.
pub const READS: u32 = 1;

/// The version that this release writes, and the oldest release that reads it. At most [`READS`]. Lower than [`READS`]
/// in the first release that reads a new version.
const WRITES: (u32, &str) = (1, "0.1.0");

/// A version of the data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DataVersion {
    /// The version.
    pub version: u32,
    /// The oldest release that reads it.
    pub release: String,
}

impl Store {
    /// The version of the data.
    pub async fn data_version(&self) -> Result<DataVersion> {
        let stored = self.stored_data_version().await?;
        Ok(stored.unwrap_or_else(|| DataVersion { version: 1, release: "0.1.0".into() }))
    }

    async fn stored_data_version(&self) -> Result<Option<DataVersion>> {
        let newest = cmd("ZRANGE").arg(self.keys.data_version()).arg(&["0", "0", "REV", "WITHSCORES"]).clone();
        let newest: Vec<(String, u32)> = self.query("ZRANGE data_version", &newest).await?;
        Ok(newest.into_iter().next().map(|(release, version)| DataVersion { version, release }))
    }

    /// Checks that this release can read the data.
    ///
    /// Errors: `Unusable`, which names the release that can.
    pub async fn check_data_version(&self) -> Result<()> {
        let DataVersion { version, release } = self.data_version().await?;
        if version <= READS {
            return Ok(());
        }
        Err(StoreError::Unusable(format!(
            "the data in redis has version {version}, and this is release {}, which reads up to version {READS}: use \
             release {release} or newer",
            env!("CARGO_PKG_VERSION")
        )))
    }

    /// Prepares the data for this release: checks its version, and raises it to the version that this release writes.
    /// Each process calls this as soon as it is connected.
    ///
    /// Errors: those of [`Store::check_data_version`] and [`Store::raise_data_version`].
    pub async fn open_data(&self) -> Result<()> {
        self.check_data_version().await?;
        let (version, release) = WRITES;
        self.raise_data_version(version, release).await?;
        let _ = self.installation.data_is_open.set(());
        Ok(())
    }

    /// Raises the version of the data to `version`, which `release` is the oldest to read. Does nothing if the version
    /// is as high already.
    ///
    /// Errors: `Unusable` with the live workers that cannot read `version`: nothing was changed.
    pub async fn raise_data_version(&self, version: u32, release: &str) -> Result<()> {
        if self.stored_data_version().await?.is_some_and(|stored| stored.version >= version) {
            return Ok(());
        }
        let behind = self.workers_behind(version).await?;
        if !behind.is_empty() {
            return Err(StoreError::Unusable(format!(
                "this release writes data of version {version}, which these workers cannot read: {}; upgrade them to \
                 release {release} or newer first",
                behind.join(", ")
            )));
        }
        let key = self.keys.data_version();
        self.query::<u8>("ZADD data_version", cmd("ZADD").arg(&key).arg(version).arg(release)).await?;
        self.wait_durable_if_spread(&[key]).await
    }

    /// The live workers that cannot read `version`. A worker that has not published what it reads is of release 0.1.0.
    async fn workers_behind(&self, version: u32) -> Result<Vec<String>> {
        let workers = self.live_workers(self.time().await?).await?;
        if workers.is_empty() {
            return Ok(workers);
        }
        let reads = cmd("HMGET").arg(self.keys.readable_versions()).arg(&workers).clone();
        let reads: Vec<Option<u32>> = self.query("HMGET readable_versions", &reads).await?;
        let behind = workers.into_iter().zip(reads).filter(|(_, reads)| reads.unwrap_or(1) < version);
        Ok(behind.map(|(worker, _)| worker).collect())
    }

    /// Writes the version again if `incarnation`, which has just begun, lacks it.
    pub(super) async fn restore_data_version(&self, incarnation: u64) -> Result<()> {
        let (key, (version, release)) = (self.keys.data_version(), WRITES);
        // Writes only if needed, because a replica or a full Redis refuses writes.
        let score = cmd("ZSCORE").arg(&key).arg(release).clone();
        let is_open = self.installation.data_is_open.get().is_some();
        if is_open && self.query_in::<Option<u32>>(Some(incarnation), &score).await?.is_none() {
            let add = cmd("ZADD").arg(&key).arg(version).arg(release).clone();
            self.query_in::<u8>(Some(incarnation), &add).await?;
        }
        Ok(())
    }
}
