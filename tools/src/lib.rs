//! The `harrier` command line as a library, with one module for each subcommand.
#![forbid(unsafe_code)]

pub mod aeron_directory;
pub mod archive;
pub mod bench;
pub mod cluster;
pub mod completions;
pub mod demo;
pub mod doctor;
pub mod errors;
pub mod export;
pub mod lease;
pub mod loss;
pub mod node;
pub mod orders;
mod own_driver;
mod plot;
pub mod print;
mod screen;
pub mod stat;
pub mod stream_table;
pub mod streams;
pub mod top;
pub mod traffic;
pub mod watch;

use thiserror::Error;

/// Reason why a command ends without success.
#[derive(Debug, Error)]
pub enum CommandError {
    /// The arguments do not fit together; exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The work could not be done; exit code 1.
    #[error("{0}")]
    Failed(String),
    /// The output is complete; the exit code is the answer, as the command's help says.
    #[error("")]
    Answer(u8),
}

impl CommandError {
    /// Returns the exit code of the process.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Failed(_) => 1,
            Self::Answer(code) => *code,
        }
    }

    /// Wraps the error of a failed command.
    pub fn failed(error: impl std::fmt::Display) -> Self {
        Self::Failed(error.to_string())
    }
}
