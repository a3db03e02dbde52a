//! Messages between clients and members: ingress and egress (spec 04 §1.3).

use harrier_protocol::sbe::{Decoder, Encoder, NULL_I64, SbeError};

use super::{EventCode, SCHEMA_ID, SESSION_HEADER_LENGTH, event_code, header};

/// Header before the payload of a session's message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionHeader {
    /// Leadership term id.
    pub leadership_term_id: i64,
    /// Session id; negative for messages of services in the log.
    pub session_id: i64,
    /// Cluster time in log and egress; ignored in ingress.
    pub timestamp: i64,
}

impl SessionHeader {
    /// Encodes the header.
    pub fn encode(&self) -> [u8; SESSION_HEADER_LENGTH] {
        let mut bytes = [0; SESSION_HEADER_LENGTH];
        bytes[..8].copy_from_slice(&header(1, 24).encode());
        bytes[8..16].copy_from_slice(&self.leadership_term_id.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.session_id.to_le_bytes());
        bytes[24..].copy_from_slice(&self.timestamp.to_le_bytes());
        bytes
    }

    /// Decodes message 1 into its header and payload.
    pub(super) fn decode<'a>(m: &Decoder<'a>) -> (Self, &'a [u8]) {
        let b = m.block();
        let header =
            Self { leadership_term_id: b.i64(0, 0), session_id: b.i64(8, 0), timestamp: b.i64(16, 0) };
        (header, m.rest())
    }
}

/// Messages from clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ingress<'a> {
    /// A message of a session, message 1.
    Message {
        /// Header of the session's message.
        header: SessionHeader,
        /// Payload of the application.
        payload: &'a [u8],
    },
    /// A client requests a session, message 3.
    Connect {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Protocol version of the sender, as a packed semantic version.
        version: i32,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
        /// Name and version of the client as text; empty from older clients.
        client_info: &'a str,
    },
    /// A client closes its session, message 4.
    Close {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Session id.
        session_id: i64,
    },
    /// A client keeps its session alive, message 5.
    KeepAlive {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Session id.
        session_id: i64,
    },
    /// A client answers a challenge, message 8.
    ChallengeResponse {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Session that was challenged.
        session_id: i64,
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
    },
    /// A client requests a snapshot, message 26.
    Admin {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Session id.
        session_id: i64,
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Type of the admin request; 0 is a snapshot.
        request_type: i32,
    },
}

impl<'a> Ingress<'a> {
    /// Decodes a message; `None` for other templates.
    ///
    /// # Errors
    /// A message of another schema, or a truncated one.
    #[inline]
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            1 => {
                let (header, payload) = SessionHeader::decode(&m);
                Self::Message { header, payload }
            }
            3 => Self::Connect {
                correlation_id: b.i64(0, 0),
                response_stream_id: b.i32(8, 0),
                version: b.version(12, 2),
                response_channel: m.text("response channel", 0)?,
                credentials: m.bytes("credentials", 0)?,
                client_info: m.text("client info", 14)?,
            },
            4 => Self::Close { leadership_term_id: b.i64(0, 0), session_id: b.i64(8, 0) },
            5 => Self::KeepAlive { leadership_term_id: b.i64(0, 0), session_id: b.i64(8, 0) },
            8 => Self::ChallengeResponse {
                correlation_id: b.i64(0, 0),
                session_id: b.i64(8, 0),
                credentials: m.bytes("credentials", 0)?,
            },
            26 => Self::Admin {
                leadership_term_id: b.i64(0, 0),
                session_id: b.i64(8, 0),
                correlation_id: b.i64(16, 0),
                request_type: b.i32(24, 0),
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
            Self::Message { header, payload } => {
                let required = SESSION_HEADER_LENGTH + payload.len();
                let available = buffer.len();
                let target =
                    buffer.get_mut(..required).ok_or(SbeError::BufferTooSmall { required, available })?;
                target[..SESSION_HEADER_LENGTH].copy_from_slice(&header.encode());
                target[SESSION_HEADER_LENGTH..].copy_from_slice(payload);
                Ok(required)
            }
            Self::Connect {
                correlation_id,
                response_stream_id,
                version,
                response_channel,
                credentials,
                client_info,
            } => Encoder::new(buffer, header(3, 16))
                .i64(0, correlation_id)
                .i32(8, response_stream_id)
                .i32(12, version)
                .text(response_channel)
                .bytes(credentials)
                .text(client_info)
                .finish(),
            Self::Close { leadership_term_id, session_id } => {
                Encoder::new(buffer, header(4, 16)).i64(0, leadership_term_id).i64(8, session_id).finish()
            }
            Self::KeepAlive { leadership_term_id, session_id } => {
                Encoder::new(buffer, header(5, 16)).i64(0, leadership_term_id).i64(8, session_id).finish()
            }
            Self::ChallengeResponse { correlation_id, session_id, credentials } => {
                Encoder::new(buffer, header(8, 16))
                    .i64(0, correlation_id)
                    .i64(8, session_id)
                    .bytes(credentials)
                    .finish()
            }
            Self::Admin { leadership_term_id, session_id, correlation_id, request_type } => {
                Encoder::new(buffer, header(26, 28))
                    .i64(0, leadership_term_id)
                    .i64(8, session_id)
                    .i64(16, correlation_id)
                    .i32(24, request_type)
                    .bytes(&[])
                    .finish()
            }
        }
    }
}

/// Messages to clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Egress<'a> {
    /// A message of a service, message 1.
    Message {
        /// Header of the session's message.
        header: SessionHeader,
        /// Payload of the application.
        payload: &'a [u8],
    },
    /// An event of a session, message 2.
    SessionEvent {
        /// Session id.
        session_id: i64,
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Leadership term id.
        leadership_term_id: i64,
        /// Id of the leader; -1 when there is none.
        leader_member_id: i32,
        /// Code of the event.
        code: EventCode,
        /// Protocol version of the sender, as a packed semantic version.
        version: i32,
        /// Heartbeat timeout of the leader, ns; `None` from members older than schema version 13.
        leader_heartbeat_timeout_ns: Option<i64>,
        /// Detail: the members' endpoints of a redirect, the reason of a close, or an error text.
        detail: &'a str,
    },
    /// The cluster has a new leader, message 6.
    NewLeader {
        /// Leadership term id.
        leadership_term_id: i64,
        /// Session id.
        session_id: i64,
        /// Id of the leader; -1 when there is none.
        leader_member_id: i32,
        /// Ingress endpoints of the members, `id=host:port` with commas.
        ingress_endpoints: &'a str,
    },
    /// The client must answer a challenge, message 7.
    Challenge {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Session id.
        session_id: i64,
        /// Encoded challenge.
        challenge: &'a [u8],
    },
    /// Outcome of an admin request, message 27.
    AdminResponse {
        /// Session id.
        session_id: i64,
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Type of the admin request; 0 is a snapshot.
        request_type: i32,
        /// 0 for success, 1 for an error, 2 for an unauthorised action.
        code: i32,
        /// Text of the error; empty when there is none.
        message: &'a str,
    },
}

impl<'a> Egress<'a> {
    /// Decodes a message; `None` for other templates.
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
                Self::Message { header, payload }
            }
            2 => Self::SessionEvent {
                session_id: b.i64(0, 0),
                correlation_id: b.i64(8, 0),
                leadership_term_id: b.i64(16, 0),
                leader_member_id: b.i32(24, 0),
                code: event_code(b.i32(28, 0))?,
                version: b.version(32, 6),
                leader_heartbeat_timeout_ns: Some(b.i64(36, 13)).filter(|timeout| *timeout != NULL_I64),
                detail: m.text("detail", 0)?,
            },
            6 => Self::NewLeader {
                leadership_term_id: b.i64(0, 0),
                session_id: b.i64(8, 0),
                leader_member_id: b.i32(16, 0),
                ingress_endpoints: m.text("ingress endpoints", 0)?,
            },
            7 => Self::Challenge {
                correlation_id: b.i64(0, 0),
                session_id: b.i64(8, 0),
                challenge: m.bytes("challenge", 0)?,
            },
            27 => Self::AdminResponse {
                session_id: b.i64(0, 0),
                correlation_id: b.i64(8, 0),
                request_type: b.i32(16, 0),
                code: b.i32(20, 0),
                message: m.text("message", 0)?,
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
            Self::Message { header, payload } => Ingress::Message { header, payload }.encode(buffer),
            Self::SessionEvent {
                session_id,
                correlation_id,
                leadership_term_id,
                leader_member_id,
                code,
                version,
                leader_heartbeat_timeout_ns,
                detail,
            } => Encoder::new(buffer, header(2, 44))
                .i64(0, session_id)
                .i64(8, correlation_id)
                .i64(16, leadership_term_id)
                .i32(24, leader_member_id)
                .i32(28, code as i32)
                .i32(32, version)
                .i64(36, leader_heartbeat_timeout_ns.unwrap_or(NULL_I64))
                .text(detail)
                .finish(),
            Self::NewLeader { leadership_term_id, session_id, leader_member_id, ingress_endpoints } => {
                Encoder::new(buffer, header(6, 20))
                    .i64(0, leadership_term_id)
                    .i64(8, session_id)
                    .i32(16, leader_member_id)
                    .text(ingress_endpoints)
                    .finish()
            }
            Self::Challenge { correlation_id, session_id, challenge } => Encoder::new(buffer, header(7, 16))
                .i64(0, correlation_id)
                .i64(8, session_id)
                .bytes(challenge)
                .finish(),
            Self::AdminResponse { session_id, correlation_id, request_type, code, message } => {
                Encoder::new(buffer, header(27, 24))
                    .i64(0, session_id)
                    .i64(8, correlation_id)
                    .i32(16, request_type)
                    .i32(20, code)
                    .text(message)
                    .bytes(&[])
                    .finish()
            }
        }
    }
}
