//! Taking and loading snapshots through the archive, step by step (spec 04 §4.9, §4.14, §6.5).
//!
//! [`SnapshotTaker`] and [`SnapshotLoader`] never block: their owner polls them in its duty cycle and passes them the
//! archive's answers. Service containers and consensus modules share them.

mod loader;
mod markers;
mod taker;

pub use loader::SnapshotLoader;
pub use markers::{MarkerCheck, SnapshotExpectation};
pub use taker::SnapshotTaker;

use harrier_archive::client::ArchiveClientError;
use harrier_client::{ClientError, Image};
use harrier_protocol::sbe::SbeError;
use harrier_protocol::{semantic_version_major, semantic_version_minor, semantic_version_patch};
use harrier_ringbuf::append::OfferError;
use thiserror::Error;

use crate::codec::TimeUnit;

/// Archive error code for a full disk (spec 03 §1.2).
const STORAGE_SPACE: i64 = 11;

/// Errors of taking or loading a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// The driver is gone or refused a stream.
    #[error("snapshot: {0}")]
    Client(#[from] ClientError),
    /// The archive is gone.
    #[error("snapshot: {0}")]
    Archive(#[from] ArchiveClientError),
    /// The archive refused a request.
    #[error("snapshot: archive refused to {request}: error {code}: {message}")]
    Refused {
        /// Name of the request.
        request: &'static str,
        /// Error code of spec 03 §1.2.
        code: i64,
        /// Error text of the archive.
        message: String,
    },
    /// recording.log names a recording that the archive does not have.
    #[error("snapshot: archive has no recording {0}; was its directory removed?")]
    RecordingUnknown(i64),
    /// The recording ended before it contained the whole snapshot.
    #[error(
        "snapshot: recording {recording_id} stopped before position {position}; see the archive's errors"
    )]
    RecordingStopped {
        /// The recording.
        recording_id: i64,
        /// End position of the written snapshot.
        position: i64,
    },
    /// The snapshot's publication accepts no more messages.
    #[error("snapshot: {0}")]
    Offer(#[from] OfferError),
    /// A step timed out.
    #[error("snapshot: timed out {0}; is the archive running?")]
    Timeout(&'static str),
    /// The snapshot ends before its END marker.
    #[error("snapshot recording {recording_id} is cut short: it ends at {position} without its END marker")]
    Cut {
        /// The recording.
        recording_id: i64,
        /// End position of the recording.
        position: i64,
    },
    /// The replay of the snapshot was interrupted; the recording may be intact.
    #[error(
        "snapshot: the replay of recording {recording_id} broke off at {position}; the archive has ended it or is gone, \
         see its errors and start again"
    )]
    BrokenOff {
        /// The recording.
        recording_id: i64,
        /// Position up to which the snapshot was read.
        position: i64,
    },
    /// The message is not a snapshot message.
    #[error("snapshot: undecodable message before position {position}: {error}")]
    Undecodable {
        /// Position after the message.
        position: i64,
        /// Decoding error.
        error: SbeError,
    },
    /// The snapshot holds state of another type.
    #[error("snapshot has type {actual} instead of {expected} (1 consensus module, 2 service)")]
    Type {
        /// Expected type.
        expected: i64,
        /// Type found.
        actual: i64,
    },
    /// A BEGIN marker within a snapshot.
    #[error("snapshot: BEGIN marker at position {0} within a snapshot that has begun")]
    NestedBegin(i64),
    /// An END marker without BEGIN.
    #[error("snapshot: END marker at position {0} without a BEGIN marker")]
    EndWithoutBegin(i64),
    /// State before the BEGIN marker.
    #[error("snapshot: message before position {0} comes before the BEGIN marker")]
    NotBegun(i64),
    /// The cluster's clock has another unit than the snapshot.
    #[error("snapshot has time unit {actual:?} but the cluster's clock counts {expected:?}")]
    TimeUnit {
        /// Unit of the cluster's clock.
        expected: TimeUnit,
        /// Unit of the snapshot.
        actual: TimeUnit,
    },
    /// The snapshot was taken by an application of another major version.
    #[error("incompatible version: {} snapshot={}", version_text(*.own), version_text(*.snapshot))]
    Version {
        /// Version of the reader.
        own: i32,
        /// Version of the snapshot.
        snapshot: i32,
    },
    /// Invalid state.
    #[error("snapshot: {0}")]
    State(String),
}

impl SnapshotError {
    /// Chooses the error for a stream that ended before its snapshot: the recording is too short, or the stream was
    /// interrupted.
    pub(crate) fn of_ended(image: &Image, recording_id: i64) -> Self {
        let position = image.position();
        let is_whole = image.is_end_of_stream() && !image.is_publication_revoked();
        match is_whole {
            true => Self::Cut { recording_id, position },
            false => Self::BrokenOff { recording_id, position },
        }
    }

    /// True when the archive's disk is full, so that no later snapshot will succeed either.
    pub fn is_storage_full(&self) -> bool {
        matches!(self, Self::Refused { code: STORAGE_SPACE, .. })
    }
}

/// Formats a semantic version.
pub fn version_text(version: i32) -> String {
    let (major, minor) = (semantic_version_major(version), semantic_version_minor(version));
    format!("{major}.{minor}.{}", semantic_version_patch(version))
}
