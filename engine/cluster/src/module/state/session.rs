//! A client's session as the log knows it (spec 04 §3.3–§3.5).

use crate::codec::CloseReason;

/// The part of a session that all members share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::module) struct LoggedSession {
    pub(in crate::module) id: i64,
    /// Correlation id of the request that opened the session.
    pub(in crate::module) correlation_id: i64,
    /// Position after the event that opened the session.
    pub(in crate::module) opened_position: i64,
    pub(in crate::module) response_stream_id: i32,
    pub(in crate::module) response_channel: String,
    /// Encoded principal; empty after a snapshot was loaded, because snapshots do not hold it.
    pub(in crate::module) principal: Vec<u8>,
    /// Reason of a close that is to be appended.
    pub(in crate::module) close_reason: Option<CloseReason>,
}
