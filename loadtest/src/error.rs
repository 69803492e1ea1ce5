//! The error type of a run.

use std::{fmt, io};

use pregon::{
    client::ClientError,
    redis::{StoreError, spawn::SpawnError},
    terminal::CommandError,
};

/// Why a run did not complete. A missed goal is not an error.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file, a process or a connection failed.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A request to the worker's API failed.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Redis could not be started.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// A Redis command failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Any other failure.
    #[error("{0}")]
    Failed(String),
}

impl LoadError {
    /// An error with the message of `error`.
    pub fn of(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<LoadError> for CommandError {
    fn from(error: LoadError) -> Self {
        CommandError::Failed(error.to_string())
    }
}
