//! Errors that keep a consensus module from starting, or that end it.

use std::path::PathBuf;

use thiserror::Error;

use harrier_archive::client::ArchiveClientError;
use harrier_client::ClientError;
use harrier_protocol::uri::UriError;
use harrier_ringbuf::MemoryError;
use harrier_ringbuf::memory::Overlap;
use harrier_ringbuf::storage::StorageError;

use super::context::InvalidSetting;
use super::log::LogLost;
use crate::codec::TimeUnit;
use crate::mark::MarkError;
use crate::node_state::NodeStateError;
use crate::recording_log::{PlanError, RecordingLogError};
use crate::snapshot::SnapshotError;

/// Errors that keep a consensus module from starting, or that end it.
#[derive(Debug, Error)]
pub enum ModuleError {
    /// Invalid setting.
    #[error(transparent)]
    Setting(#[from] InvalidSetting),
    /// A directory of the member and the driver's overlap.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// The directory belongs to another consensus module.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// node-state.dat is unusable.
    #[error(transparent)]
    NodeState(#[from] NodeStateError),
    /// recording.log is unusable.
    #[error(transparent)]
    RecordingLog(#[from] RecordingLogError),
    /// recording.log is missing, although the member has had one.
    #[error(
        "no recording.log in {}, but {found}; run harrier cluster DIR rebuild-recording-log --archive ARCHIVE_DIR to write it \
         anew from its sealed copy or the archive, restore it from a backup, or start with --start-anew \
         (harrier.cluster.start.anew=true) to begin an empty log",
        directory.display()
    )]
    RecordingLogMissing {
        /// The member's directory.
        directory: PathBuf,
        /// Evidence that the member had a recording log.
        found: String,
    },
    /// recording.log and the archive do not allow a recovery plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file could not be written.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// A file could not be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The driver has gone, or has refused a request.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Another consensus module of the cluster runs on the driver.
    #[error(
        "another consensus module with cluster id {0} is active on the media driver; stop it or choose another id"
    )]
    ActiveModule(i32),
    /// The archive has gone, or cannot be reached.
    #[error(transparent)]
    Archive(#[from] ArchiveClientError),
    /// The archive refused a request that the member cannot do without.
    #[error("archive refused to {request}: error {code}: {message}")]
    ArchiveRefused {
        /// The request, as an infinitive.
        request: &'static str,
        /// Error code of spec 03 §1.2.
        code: i64,
        /// Text of the archive.
        message: String,
    },
    /// The archive's disk is full, so nothing can be recorded.
    #[error("archive has no storage space left: {0}")]
    StorageFull(String),
    /// The archive has stopped the recording of the log while the member ended.
    #[error("recording of the log has stopped at position {0}; see the archive's errors")]
    RecordingStopped(i64),
    /// The archive does not have the recording in recording.log.
    #[error("archive has no recording {0} of the log; was its directory removed?")]
    LogRecordingUnknown(i64),
    /// The log ends before the snapshot that is to be loaded.
    #[error(
        "log is recorded from {start} to {stop}, the snapshot was taken at {snapshot}; invalidate it or restore the archive"
    )]
    LogTooShort {
        /// Start of the recording, bytes.
        start: i64,
        /// End of the recording, bytes.
        stop: i64,
        /// Position of the snapshot, bytes.
        snapshot: i64,
    },
    /// A snapshot could not be loaded.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// A channel of the settings cannot be parsed.
    #[error(transparent)]
    Channel(#[from] UriError),
    /// The log publication is lost.
    #[error(transparent)]
    Log(#[from] LogLost),
    /// A wait took too long.
    #[error("timed out {0}")]
    Timeout(&'static str),
    /// A service has failed, has gone, or has reported a wrong position.
    #[error("service {service_id}: {reason}")]
    Service {
        /// The service.
        service_id: usize,
        /// Description of the failure.
        reason: String,
    },
    /// An application of another major version wrote the log.
    #[error("incompatible version: {own} log={log}")]
    Version {
        /// Version of this application.
        own: String,
        /// Version in the log.
        log: String,
    },
    /// The log counts time in another unit.
    #[error("log has time unit {log:?} but the cluster's clock counts {own:?}")]
    TimeUnit {
        /// Unit of this member's clock.
        own: TimeUnit,
        /// Unit in the log.
        log: TimeUnit,
    },
    /// An answer of the archive that does not fit the request.
    #[error("archive gave an unexpected answer to the request to {0}; do its version and this member's fit?")]
    UnexpectedAnswer(&'static str),
    /// The log could not be replayed.
    #[error("log replay: {0}")]
    Replay(String),
}
