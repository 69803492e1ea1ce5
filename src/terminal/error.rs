//! Errors of commands, and their exit codes.

use std::{io, process::ExitCode};

use super::remedy::with_remedy;
use crate::{client::ClientError, config::ConfigError};

/// Exit code for an invalid command line or configuration.
const USAGE: u8 = 2;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command line is invalid.
    #[error("{0}")]
    Usage(String),
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// A call to the server failed.
    #[error("{}", with_remedy(.0))]
    Client(#[from] ClientError),
    /// The command ran, and its result is a failure.
    #[error("{0}")]
    Failed(String),
    /// The command has already printed why it failed.
    #[error("failed")]
    Reported,
    /// The result could not be written.
    #[error("cannot write the result: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// 2 for an invalid command line or configuration, otherwise 1.
    pub fn exit_code(&self) -> ExitCode {
        match self {
            CommandError::Usage(_) | CommandError::Config(_) | CommandError::Client(ClientError::Unusable(_)) => {
                ExitCode::from(USAGE)
            }
            CommandError::Client(_) | CommandError::Failed(_) | CommandError::Reported | CommandError::Output(_) => {
                ExitCode::FAILURE
            }
        }
    }

    /// Whether no message should be printed: the command has already printed one, or the reader has closed the pipe
    /// (`| head`).
    pub fn is_silent(&self) -> bool {
        match self {
            CommandError::Reported => true,
            CommandError::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}
