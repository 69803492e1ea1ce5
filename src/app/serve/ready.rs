//! The ready file, which gives the addresses of the process to the program that started it.
//!
//! The file exists while the process serves. If the process dies, the file remains until the next process starts.

use std::{fs, io, net::SocketAddr, path::PathBuf};

use serde::Serialize;
use tempfile::NamedTempFile;

/// The content of the file: one JSON object.
#[derive(Serialize)]
pub(super) struct Ready<'a> {
    /// The process id. A file with a different one was left by an earlier process.
    pub(super) pid: u32,
    /// The id of the process among the workers.
    pub(super) worker: &'a str,
    /// The address of the API and the webhooks; `null` if no role needs them.
    pub(super) http: Option<SocketAddr>,
    /// The address of `/metrics`, `/healthz` and `/readyz`.
    pub(super) ops: SocketAddr,
}

/// A ready file, which is removed when this is dropped.
pub(super) struct ReadyFile(PathBuf);

impl ReadyFile {
    /// Removes the file that an earlier process may have left.
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self(path)),
        }
    }

    /// Writes the file atomically, so that nobody reads a partial file.
    pub(super) fn write(&self, ready: &Ready<'_>) -> io::Result<()> {
        let folder = self.0.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = NamedTempFile::new_in(folder.unwrap_or(".".as_ref()))?;
        serde_json::to_writer(&mut file, ready)?;
        file.persist(&self.0)?;
        Ok(())
    }
}

impl Drop for ReadyFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}
