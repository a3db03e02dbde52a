//! Messages of a cluster (spec 04 §1).

mod backup;
mod consensus;
mod control;
mod log;
mod session;
mod snapshot;

pub use backup::{BackupAnswer, BackupRequest, SnapshotRecording};
pub use consensus::{
    AppendPosition, CATCHUP_FLAG, CONSENSUS_VERSION, CanvassPosition, CatchupPosition, CommitPosition,
    ConsensusMessage, JOINED_FLAG, NewLeadershipTerm, RequestVote, StopCatchup, TerminationAck,
    TerminationPosition, Vote,
};
pub use control::{ActiveMember, ModuleMessage, ServiceMessage};
pub use log::{ClusterAction, LogMessage};
pub use session::{Egress, Ingress, SessionHeader};
pub use snapshot::{SnapshotMark, SnapshotMarker, SnapshotMessage, snapshot_type};

use harrier_protocol::sbe::{MessageHeader, SbeError};
use harrier_protocol::semantic_version;

/// Schema of all messages on the wire, in the log and in snapshots.
pub const SCHEMA_ID: u16 = 111;
/// Version of the schema.
pub const SCHEMA_VERSION: u16 = 16;
/// Version of the protocol between clients and members.
pub const PROTOCOL_VERSION: i32 = semantic_version(0, 3, 0);
/// Length of the header before a session's payload, bytes.
pub const SESSION_HEADER_LENGTH: usize = 32;

/// Result of a connect, or reason of a session event (spec 04 §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventCode {
    /// The session is open.
    Ok = 0,
    /// The session was refused.
    Error,
    /// The client must connect to the leader.
    Redirect,
    /// The credentials were rejected.
    AuthenticationRejected,
    /// The session was closed.
    Closed,
}

/// Reason why a session ended (spec 04 §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// The client closed it.
    ClientAction = 0,
    /// A service closed it.
    ServiceAction,
    /// The client timed out.
    Timeout,
}

impl CloseReason {
    /// Name of the reason in SessionEvents.
    pub fn name(self) -> &'static str {
        match self {
            Self::ClientAction => "CLIENT_ACTION",
            Self::ServiceAction => "SERVICE_ACTION",
            Self::Timeout => "TIMEOUT",
        }
    }
}

/// Unit of the cluster's clock (spec 04 §4.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimeUnit {
    /// Milliseconds.
    Millis = 0,
    /// Microseconds.
    Micros,
    /// Nanoseconds.
    Nanos,
}

/// Role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Follows a leader.
    Follower = 0,
    /// Stands for election as leader.
    Candidate,
    /// Leads the cluster.
    Leader,
}

fn enumeration<V: Copy>(values: &[V], value: i32, field: &'static str) -> Result<V, SbeError> {
    usize::try_from(value)
        .ok()
        .and_then(|index| values.get(index))
        .copied()
        .ok_or(SbeError::Enumeration { field, value })
}

fn role(value: i32) -> Result<Role, SbeError> {
    enumeration(&[Role::Follower, Role::Candidate, Role::Leader], value, "role")
}

fn close_reason(value: i32) -> Result<CloseReason, SbeError> {
    let all = [CloseReason::ClientAction, CloseReason::ServiceAction, CloseReason::Timeout];
    enumeration(&all, value, "close reason")
}

fn event_code(value: i32) -> Result<EventCode, SbeError> {
    let all = [
        EventCode::Ok,
        EventCode::Error,
        EventCode::Redirect,
        EventCode::AuthenticationRejected,
        EventCode::Closed,
    ];
    enumeration(&all, value, "event code")
}

/// Decodes a time unit; an absent one means milliseconds (spec 04 §4.13).
fn time_unit(value: i32) -> Result<TimeUnit, SbeError> {
    if value == harrier_protocol::sbe::NULL_I32 {
        return Ok(TimeUnit::Millis);
    }
    enumeration(&[TimeUnit::Millis, TimeUnit::Micros, TimeUnit::Nanos], value, "time unit")
}

fn header(template_id: u16, block_length: u16) -> MessageHeader {
    MessageHeader { block_length, template_id, schema_id: SCHEMA_ID, version: SCHEMA_VERSION }
}
