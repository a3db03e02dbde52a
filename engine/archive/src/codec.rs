//! Messages of the archive's control protocol (spec 03 §1, §2).

mod event;
mod request;
mod response;

pub use event::RecordingEvent;
pub use request::{ReplayRequest, ReplicateRequest, Request, RequestBody};
pub use response::{ControlCode, Response, Signal};

use harrier_protocol::sbe::{MessageHeader, SbeError};
use harrier_protocol::semantic_version;

/// Schema of all control messages and of the catalog.
pub const SCHEMA_ID: u16 = 101;
/// Version of the schema.
pub const SCHEMA_VERSION: u16 = 13;
/// Version of the protocol that clients and archives exchange; only the major number is significant.
pub const PROTOCOL_VERSION: i32 = semantic_version(1, 12, 0);

/// Source of a recorded stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceLocation {
    /// A publication on the archive's own driver.
    Local,
    /// Any publication.
    Remote,
}

impl SourceLocation {
    fn from_wire(value: i32) -> Result<Self, SbeError> {
        match value {
            0 => Ok(Self::Local),
            1 => Ok(Self::Remote),
            _ => Err(SbeError::Enumeration { field: "source location", value }),
        }
    }

    fn to_wire(self) -> i32 {
        self as i32
    }
}

/// Error codes of responses (spec 03 §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveErrorCode {
    /// An error without a specific code.
    Generic = 0,
    /// The session is listing already.
    ActiveListing = 1,
    /// The recording is active.
    ActiveRecording = 2,
    /// The channel and stream are recorded already.
    ActiveSubscription = 3,
    /// There is no such recording subscription.
    UnknownSubscription = 4,
    /// There is no such recording.
    UnknownRecording = 5,
    /// There is no such replay.
    UnknownReplay = 6,
    /// The maximum number of replays is active.
    MaxReplays = 7,
    /// The maximum number of recordings is active.
    MaxRecordings = 8,
    /// The stream does not continue the recording.
    InvalidExtension = 9,
    /// The credentials were rejected.
    AuthenticationRejected = 10,
    /// Too little space is left.
    StorageSpace = 11,
    /// There is no such replication.
    UnknownReplication = 12,
    /// The client is not authorised for the request.
    UnauthorisedAction = 13,
    /// The source archive cannot be reached.
    ReplicationConnectionFailure = 14,
    /// The recording has nothing to replay.
    EmptyRecording = 15,
    /// The position is outside the recording.
    InvalidPosition = 16,
}

fn header(template_id: u16, block_length: u16) -> MessageHeader {
    MessageHeader { block_length, template_id, schema_id: SCHEMA_ID, version: SCHEMA_VERSION }
}

/// Replaces the null value of an absent optional field by -1 (spec 03 §1).
fn or_null(value: i64, null: i64) -> i64 {
    if value == null { -1 } else { value }
}
