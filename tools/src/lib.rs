//! The `harrier` command line as a library: one module a subcommand.
#![forbid(unsafe_code)]

pub mod bench;
pub mod demo;
pub mod node;
pub mod orders;

use thiserror::Error;

/// Why a command ends without success.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The arguments do not fit together; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The work could not be done; exit code 1.
    #[error("{0}")]
    Failed(String),
}

impl CommandError {
    /// The process's exit code.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
        }
    }

    /// Wraps what went wrong.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}
