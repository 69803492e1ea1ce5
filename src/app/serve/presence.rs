//! The record of this process in the list of running processes, for `GET /v1/workers`.
//!
//! The record is rewritten at intervals until [`Presence::end`] removes it, after the work of the process has ended.
//! If the process dies: the record expires within [`KEPT`].

use std::{env, sync::Arc, time::Duration};

use rustix::system::uname;
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    config::Role,
    redis::{Store, clock::Clock, processes::ProcessRecord},
};

/// How often the record is written.
const EVERY: Duration = Duration::from_secs(2);

/// How long a record is valid without being rewritten. Long enough for several failed writes.
const KEPT: Duration = Duration::from_secs(10);

/// Maximum number of characters of a name, as for a DNS label.
const NAME_CHARS_MAX: usize = 63;

/// The task that writes the record.
pub(super) struct Presence {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Presence {
    /// Starts to write the record of the process `worker`.
    pub(super) fn start(worker: &str, name: String, roles: &[Role], store: Store, clock: Arc<Clock>) -> Self {
        let (since, stop) = (clock.now(), CancellationToken::new());
        let record = ProcessRecord {
            name,
            version: env!("CARGO_PKG_VERSION").into(),
            roles: roles.iter().map(|role| role.name().to_owned()).collect(),
            since,
            until: since,
        };
        let task = tokio::spawn(write(worker.to_owned(), record, store, clock, stop.clone()));
        Self { stop, task }
    }

    /// Removes the record.
    pub(super) async fn end(self) {
        self.stop.cancel();
        // The task returns no error and does not panic.
        let _ = self.task.await;
    }
}

/// Writes the record at intervals until `stop`, and then removes it.
async fn write(worker: String, mut record: ProcessRecord, store: Store, clock: Arc<Clock>, stop: CancellationToken) {
    let mut is_written = true;
    while !stop.is_cancelled() {
        record.until = clock.now().after(KEPT);
        let written = store.put_process(&worker, &record).await;
        // Log once for each outage of Redis. Errors that stop work are logged where they occur.
        if let Some(error) = written.as_ref().err().filter(|_| is_written) {
            warn!(%error, "the list of workers lacks this process for now");
        }
        is_written = written.is_ok();
        tokio::select! {
            () = sleep(EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
    if let Err(error) = store.remove_process(&worker).await {
        warn!(%error, "the list of workers has this process for some seconds more");
    }
}

/// The name by which people know this process: that of its pod (`POD_NAME`), otherwise the host name.
pub(super) fn name() -> String {
    let pod = env::var("POD_NAME").unwrap_or_default();
    let host = || uname().nodename().to_string_lossy().into_owned();
    clean(&if pod.is_empty() { host() } else { pod })
}

/// `name` without characters such as a space, which would end the id that contains it.
fn clean(name: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' };
    let name: String = name.chars().take(NAME_CHARS_MAX).map(allowed).collect();
    if name.is_empty() { "pregon".into() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_can_be_a_part_of_an_id() {
        let cleaned = ["pregon-0", "host.example", "a b/ñ", ""].map(clean);
        assert_eq!(cleaned, ["pregon-0", "host.example", "a-b--", "pregon"]);
        assert_eq!(clean(&"x".repeat(200)).len(), NAME_CHARS_MAX);
        assert!(!name().is_empty());
    }
}
