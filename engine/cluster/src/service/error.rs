//! Errors of a container.

use harrier_archive::client::ArchiveClientError;
use harrier_client::ClientError;
use harrier_protocol::uri::UriError;
use thiserror::Error;

use super::InvalidServiceSetting;
use crate::mark::MarkError;
use crate::snapshot::SnapshotError;

/// Errors of a container.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// Invalid setting.
    #[error(transparent)]
    Setting(#[from] InvalidServiceSetting),
    /// The directory belongs to another container of the service.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The driver is gone or refused a request.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The archive is gone or refused a request.
    #[error(transparent)]
    Archive(#[from] ArchiveClientError),
    /// A snapshot cannot be taken or loaded.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// Invalid channel.
    #[error(transparent)]
    Channel(#[from] UriError),
    /// A step took longer than its time-out.
    #[error("timed out {0}; is the consensus module running?")]
    Timeout(&'static str),
    /// The log cannot be followed.
    #[error("log: {0}")]
    Log(String),
    /// The cluster's snapshot does not fit this service.
    #[error("recovery: {0}")]
    Recovery(String),
    /// The service itself failed.
    #[error("service failed in {callback}: {reason}")]
    Service {
        /// Name of the callback.
        callback: &'static str,
        /// Text of the service's failure.
        reason: String,
    },
    /// The service panicked while it handled an event of the log.
    #[error(
        "service {service_id} panicked: {reason}; it was handling {event}, which ends at log position {position}. The log is \
         right: fix the service and start the node again, and the service handles the event again"
    )]
    Panic {
        /// The service.
        service_id: i32,
        /// Text of the panic.
        reason: String,
        /// The event: for a message its session, length and first bytes.
        event: String,
        /// Log position after the event.
        position: i64,
    },
    /// The consensus module is gone.
    #[error("the commit position counter has disappeared: the consensus module is gone")]
    ModuleGone,
}
