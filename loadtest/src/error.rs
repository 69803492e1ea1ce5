//! Why a scenario could not be played to its end.

use std::{fmt, io};

use pregon::{
    client::ClientError,
    redis::{StoreError, spawn::SpawnError},
    terminal::CommandError,
};

/// Why a scenario could not be played to its end. A goal that is missed is none.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// A file, a process or a connection.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// The worker's API.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// There is no Redis.
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    /// Redis does not do what it is asked.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Anything else.
    #[error("{0}")]
    Failed(String),
}

impl LoadError {
    /// With the words of `error`.
    pub fn of(error: impl fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}

impl From<LoadError> for CommandError {
    fn from(error: LoadError) -> Self {
        CommandError::Failed(error.to_string())
    }
}
