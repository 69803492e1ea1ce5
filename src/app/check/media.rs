//! Checks the store of files: that a small file can be written, read and removed.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use ulid::Ulid;

use super::Check;
use crate::{
    config::{Config, Role},
    domain::MediaId,
    media::{MediaStore, MediaStoreError},
    telemetry::clock,
};

const CONTENT: &[u8] = b"pregon check";

/// Checks the store of `config`, if a role uses it.
pub(super) async fn check(config: &Config, roles: &[Role]) -> Vec<Check> {
    let needed = roles.iter().any(|role| role.uses_database());
    let Some(settings) = config.media.as_ref().filter(|_| needed) else { return Vec::new() };
    let (name, url) = ("media", &settings.url);
    let tried = async { write_and_read(&MediaStore::open(settings)?).await };
    vec![match tried.await {
        Ok(()) => Check::ok(name, format!("{url}: a file was written, read and removed")),
        Err(error) => {
            let remedy = "correct media.url, and let this process write, read and remove files there";
            Check::failed(name, format!("{url}: {error}"), remedy)
        }
    }]
}

async fn write_and_read(store: &MediaStore) -> Result<(), MediaStoreError> {
    let id = MediaId(Ulid::from_parts(clock::now().0, rand::random()));
    let mut writer = store.writer(id, CONTENT.len() as u64);
    writer.put(Bytes::from_static(CONTENT)).await?;
    writer.finish().await?;
    let read = async { store.read(id, None).await?.try_collect::<Vec<Bytes>>().await };
    // Removed also if it could not be read.
    let (read, removed) = (read.await, store.remove(id).await);
    if read?.concat() != CONTENT {
        return Err(MediaStoreError::Failed("it returned other bytes than were written".to_owned()));
    }
    removed
}
