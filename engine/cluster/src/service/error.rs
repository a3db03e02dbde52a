//! Why a container does not start, or ends.

use harrier_archive::client::ArchiveClientError;
use harrier_client::ClientError;
use harrier_protocol::uri::UriError;
use thiserror::Error;

use super::InvalidServiceSetting;
use crate::mark::MarkError;
use crate::snapshot::SnapshotError;

/// Why a container does not start, or ends.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// A setting that cannot be.
    #[error(transparent)]
    Setting(#[from] InvalidServiceSetting),
    /// The directory belongs to another container of the service.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The driver is gone, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The archive is gone, or refuses.
    #[error(transparent)]
    Archive(#[from] ArchiveClientError),
    /// A snapshot cannot be taken or loaded.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A channel that cannot be read.
    #[error(transparent)]
    Channel(#[from] UriError),
    /// Something did not come in time.
    #[error("timed out {0}; is the consensus module running?")]
    Timeout(&'static str),
    /// The log cannot be followed.
    #[error("log: {0}")]
    Log(String),
    /// The cluster begins with a snapshot that does not fit this service.
    #[error("recovery: {0}")]
    Recovery(String),
    /// The service itself failed.
    #[error("service failed in {callback}: {reason}")]
    Service {
        /// The callback.
        callback: &'static str,
        /// The service's words.
        reason: String,
    },
    /// The consensus module is gone.
    #[error("the commit position counter has disappeared: the consensus module is gone")]
    ModuleGone,
}
