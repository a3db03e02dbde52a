//! Messages that a leader writes into the log (spec 04 §1.4).

use harrier_protocol::sbe::{Decoder, Encoder, NULL_I32, SbeError};

use super::{CloseReason, SCHEMA_ID, SessionHeader, TimeUnit, close_reason, enumeration, header, time_unit};

/// Action of the whole cluster at a log position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClusterAction {
    /// Suspend ingress, timers and service messages.
    Suspend = 0,
    /// Resume after a suspension.
    Resume,
    /// Take a snapshot.
    Snapshot,
}

/// A message of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogMessage<'a> {
    /// A message of a session or a service, message 1.
    Session {
        /// Header of the session's message.
        header: SessionHeader,
        /// Payload of the application.
        payload: &'a [u8],
    },
    /// A timer has fired, message 20.
    Timer {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Id of the timer.
        correlation_id: i64,
        /// Cluster time, in the unit of the cluster's clock.
        timestamp: i64,
    },
    /// A session was opened, message 21.
    SessionOpen {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Correlation id of the client's last request.
        correlation_id: i64,
        /// Session id.
        session_id: i64,
        /// Cluster time, in the unit of the cluster's clock.
        timestamp: i64,
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
        /// Encoded principal of the authenticated client.
        principal: &'a [u8],
    },
    /// A session was closed, message 22.
    SessionClose {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Session id.
        session_id: i64,
        /// Cluster time, in the unit of the cluster's clock.
        timestamp: i64,
        /// Reason why the session was closed.
        reason: CloseReason,
    },
    /// An action of all members, message 23.
    Action {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Log position after this message, bytes.
        log_position: i64,
        /// Cluster time, in the unit of the cluster's clock.
        timestamp: i64,
        /// Action to take.
        action: ClusterAction,
        /// 1 for a snapshot that only standbys take, otherwise 0.
        flags: i32,
    },
    /// A leadership term begins, message 24.
    NewLeadershipTerm {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Log position after this message, bytes.
        log_position: i64,
        /// Cluster time, in the unit of the cluster's clock.
        timestamp: i64,
        /// Log position at which the term begins, bytes.
        term_base_log_position: i64,
        /// Id of the leader; -1 when there is none.
        leader_member_id: i32,
        /// Session id of the log's publication.
        log_session_id: i32,
        /// Unit of cluster time.
        time_unit: TimeUnit,
        /// Version of the application, as a packed semantic version.
        app_version: i32,
    },
}

impl<'a> LogMessage<'a> {
    /// Decodes a message; `None` for ignored templates.
    ///
    /// # Errors
    /// A message of another schema, a truncated one, or a value outside its enumeration.
    #[inline]
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            1 => {
                let (header, payload) = SessionHeader::decode(&m);
                Self::Session { header, payload }
            }
            20 => Self::Timer {
                leadership_term_id: b.i64(0, 0),
                correlation_id: b.i64(8, 0),
                timestamp: b.i64(16, 0),
            },
            21 => Self::SessionOpen {
                leadership_term_id: b.i64(0, 0),
                correlation_id: b.i64(8, 0),
                session_id: b.i64(16, 0),
                timestamp: b.i64(24, 0),
                response_stream_id: b.i32(32, 0),
                response_channel: m.text("response channel", 0)?,
                principal: m.bytes("principal", 0)?,
            },
            22 => Self::SessionClose {
                leadership_term_id: b.i64(0, 0),
                session_id: b.i64(8, 0),
                timestamp: b.i64(16, 0),
                reason: close_reason(b.i32(24, 0))?,
            },
            23 => {
                let all = [ClusterAction::Suspend, ClusterAction::Resume, ClusterAction::Snapshot];
                let flags = b.i32(28, 11);
                Self::Action {
                    leadership_term_id: b.i64(0, 0),
                    log_position: b.i64(8, 0),
                    timestamp: b.i64(16, 0),
                    action: enumeration(&all, b.i32(24, 0), "cluster action")?,
                    flags: if flags == NULL_I32 { 0 } else { flags },
                }
            }
            24 => Self::NewLeadershipTerm {
                leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                timestamp: b.i64(16, 0),
                term_base_log_position: b.i64(24, 0),
                leader_member_id: b.i32(32, 0),
                log_session_id: b.i32(36, 0),
                time_unit: time_unit(b.i32(40, 4))?,
                app_version: b.version(44, 4),
            },
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::Session { header, payload } => super::Ingress::Message { header, payload }.encode(buffer),
            Self::Timer { leadership_term_id, correlation_id, timestamp } => {
                Encoder::new(buffer, header(20, 24))
                    .i64(0, leadership_term_id)
                    .i64(8, correlation_id)
                    .i64(16, timestamp)
                    .finish()
            }
            Self::SessionOpen {
                leadership_term_id,
                correlation_id,
                session_id,
                timestamp,
                response_stream_id,
                response_channel,
                principal,
            } => Encoder::new(buffer, header(21, 36))
                .i64(0, leadership_term_id)
                .i64(8, correlation_id)
                .i64(16, session_id)
                .i64(24, timestamp)
                .i32(32, response_stream_id)
                .text(response_channel)
                .bytes(principal)
                .finish(),
            Self::SessionClose { leadership_term_id, session_id, timestamp, reason } => {
                Encoder::new(buffer, header(22, 28))
                    .i64(0, leadership_term_id)
                    .i64(8, session_id)
                    .i64(16, timestamp)
                    .i32(24, reason as i32)
                    .finish()
            }
            Self::Action { leadership_term_id, log_position, timestamp, action, flags } => {
                Encoder::new(buffer, header(23, 32))
                    .i64(0, leadership_term_id)
                    .i64(8, log_position)
                    .i64(16, timestamp)
                    .i32(24, action as i32)
                    .i32(28, flags)
                    .finish()
            }
            Self::NewLeadershipTerm {
                leadership_term_id,
                log_position,
                timestamp,
                term_base_log_position,
                leader_member_id,
                log_session_id,
                time_unit,
                app_version,
            } => Encoder::new(buffer, header(24, 48))
                .i64(0, leadership_term_id)
                .i64(8, log_position)
                .i64(16, timestamp)
                .i64(24, term_base_log_position)
                .i32(32, leader_member_id)
                .i32(36, log_session_id)
                .i32(40, time_unit as i32)
                .i32(44, app_version)
                .finish(),
        }
    }
}
