//! How a command ends that did not do what was asked for.

use std::{io, process::ExitCode};

use crate::{client::ClientError, config::ConfigError};

/// Exit code for what the caller wrote: the command line or the configuration.
const USAGE: u8 = 2;

/// Why a command was not done.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command line is at fault.
    #[error("{0}")]
    Usage(String),
    /// The configuration is at fault.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The server could not be asked, or refused.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// It was done, and the result is a failure.
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
    /// 2 for usage and configuration, else 1.
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

    /// Nothing is to be printed: it was told already, or whoever reads the output has gone (`| head`).
    pub fn is_silent(&self) -> bool {
        match self {
            CommandError::Reported => true,
            CommandError::Output(error) => error.kind() == io::ErrorKind::BrokenPipe,
            _ => false,
        }
    }
}
