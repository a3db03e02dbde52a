//! Messages between services and the consensus module (spec 04 §1.5).

use harrier_protocol::sbe::{Decoder, Encoder, SbeError};

use super::{Role, SCHEMA_ID, SessionHeader, header, role};

/// Messages from services and tools to the consensus module, stream 105.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceMessage<'a> {
    /// A message for the log; its session is the service's id.
    Offer {
        /// Header; its session is the service's id.
        header: SessionHeader,
        /// Payload of the application.
        payload: &'a [u8],
    },
    /// A service closes a session, message 30.
    CloseSession {
        /// Session to close.
        session_id: i64,
    },
    /// A service sets a timer, message 31.
    ScheduleTimer {
        /// Id of the timer.
        correlation_id: i64,
        /// Cluster time at which the timer fires.
        deadline: i64,
    },
    /// A service cancels a timer, message 32.
    CancelTimer {
        /// Id of the timer.
        correlation_id: i64,
    },
    /// A service acknowledges a position, message 33.
    Ack {
        /// Log position that the service has reached, bytes.
        log_position: i64,
        /// Cluster time, in the unit of the cluster's clock.
        timestamp: i64,
        /// Sequence number of the ack, from 0 at start.
        ack_id: i64,
        /// Id related to the ack: a client id at start, a snapshot's recording id, or -1.
        relevant_id: i64,
        /// Id of the service.
        service_id: i32,
    },
    /// A query for the members, message 34.
    MembersQuery {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// True to request message 43 instead of message 41.
        is_extended: bool,
    },
}

impl<'a> ServiceMessage<'a> {
    /// Decodes a message; `None` for ignored templates.
    ///
    /// # Errors
    /// A message of another schema, or a truncated one.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            1 => {
                let (header, payload) = SessionHeader::decode(&m);
                Self::Offer { header, payload }
            }
            30 => Self::CloseSession { session_id: b.i64(0, 0) },
            31 => Self::ScheduleTimer { correlation_id: b.i64(0, 0), deadline: b.i64(8, 0) },
            32 => Self::CancelTimer { correlation_id: b.i64(0, 0) },
            33 => Self::Ack {
                log_position: b.i64(0, 0),
                timestamp: b.i64(8, 0),
                ack_id: b.i64(16, 0),
                relevant_id: b.i64(24, 0),
                service_id: b.i32(32, 0),
            },
            34 => Self::MembersQuery { correlation_id: b.i64(0, 0), is_extended: b.i32(8, 5) == 1 },
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::Offer { header, payload } => super::Ingress::Message { header, payload }.encode(buffer),
            Self::CloseSession { session_id } => {
                Encoder::new(buffer, header(30, 8)).i64(0, session_id).finish()
            }
            Self::ScheduleTimer { correlation_id, deadline } => {
                Encoder::new(buffer, header(31, 16)).i64(0, correlation_id).i64(8, deadline).finish()
            }
            Self::CancelTimer { correlation_id } => {
                Encoder::new(buffer, header(32, 8)).i64(0, correlation_id).finish()
            }
            Self::Ack { log_position, timestamp, ack_id, relevant_id, service_id } => {
                Encoder::new(buffer, header(33, 36))
                    .i64(0, log_position)
                    .i64(8, timestamp)
                    .i64(16, ack_id)
                    .i64(24, relevant_id)
                    .i32(32, service_id)
                    .finish()
            }
            Self::MembersQuery { correlation_id, is_extended } => Encoder::new(buffer, header(34, 12))
                .i64(0, correlation_id)
                .i32(8, i32::from(is_extended))
                .finish(),
        }
    }
}

/// A member in the extended answer to a members query.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ActiveMember<'a> {
    /// Leadership term id of the member.
    pub leadership_term_id: i64,
    /// Log position up to which the member has appended, bytes.
    pub log_position: i64,
    /// Time of the last append position that the leader received, ns of its clock.
    pub time_of_last_append_ns: i64,
    /// Id of the member.
    pub member_id: i32,
    /// Endpoint for clients.
    pub ingress_endpoint: &'a str,
    /// Endpoint for other members.
    pub consensus_endpoint: &'a str,
    /// Endpoint of the log.
    pub log_endpoint: &'a str,
    /// Endpoint that receives catch-up replays.
    pub catchup_endpoint: &'a str,
    /// Endpoint of the member's archive.
    pub archive_endpoint: &'a str,
}

/// Block length of an [`ActiveMember`], bytes.
const ACTIVE_MEMBER_BLOCK: u16 = 28;

impl<'a> ActiveMember<'a> {
    /// Decodes the members of an extended answer, active members first; empty for other messages.
    ///
    /// # Errors
    /// A truncated message.
    pub fn decode_all(message: &'a [u8]) -> Result<Vec<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        let mut all = Vec::new();
        if m.header().template_id != MEMBERS_EXTENDED_RESPONSE {
            return Ok(all);
        }
        for name in ["active members", "passive members"] {
            let mut group = m.group(name, 0)?;
            while let Some(b) = m.entry(name, &mut group)? {
                all.push(Self {
                    leadership_term_id: b.i64(0, 0),
                    log_position: b.i64(8, 0),
                    time_of_last_append_ns: b.i64(16, 0),
                    member_id: b.i32(24, 0),
                    ingress_endpoint: m.text("ingress endpoint", 0)?,
                    consensus_endpoint: m.text("consensus endpoint", 0)?,
                    log_endpoint: m.text("log endpoint", 0)?,
                    catchup_endpoint: m.text("catchup endpoint", 0)?,
                    archive_endpoint: m.text("archive endpoint", 0)?,
                });
            }
        }
        Ok(all)
    }
}

const MEMBERS_EXTENDED_RESPONSE: u16 = 43;

/// Messages from the consensus module to services and tools, stream 104.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModuleMessage<'a> {
    /// Services join a log, message 40.
    JoinLog {
        /// Log position at which the services join, bytes.
        log_position: i64,
        /// Log position at which this log ends, bytes.
        max_log_position: i64,
        /// Id of the member.
        member_id: i32,
        /// Session id of the log's publication.
        log_session_id: i32,
        /// Stream of the log.
        log_stream_id: i32,
        /// True for a log that is joined while the node starts.
        is_startup: bool,
        /// Role of the member.
        role: Role,
        /// True when the member takes the snapshots of standby nodes; false from members older than schema version 16.
        is_standby: bool,
        /// Channel of the log.
        log_channel: &'a str,
    },
    /// Services terminate at a position, message 42.
    TerminationPosition {
        /// Position in the log, bytes.
        log_position: i64,
    },
    /// The members, message 41.
    MembersResponse {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Id of the leader; -1 when there is none.
        leader_member_id: i32,
        /// The members, in the form of `aeron.cluster.members`.
        active_members: &'a str,
    },
    /// The members with their positions, message 43; [`ActiveMember::decode_all`] reads them.
    MembersExtendedResponse {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Clock time of the member, ns.
        current_time_ns: i64,
        /// Id of the leader; -1 when there is none.
        leader_member_id: i32,
        /// Id of the answering member.
        member_id: i32,
        /// The members, in the form of `aeron.cluster.members`.
        active_members: &'a [ActiveMember<'a>],
    },
    /// Services acknowledge a position, message 108.
    RequestAck {
        /// Position in the log, bytes.
        log_position: i64,
    },
}

impl<'a> ModuleMessage<'a> {
    /// Decodes a message; `None` for ignored templates.
    ///
    /// # Errors
    /// A message of another schema, a truncated one, or a value outside its enumeration.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            40 => Self::JoinLog {
                log_position: b.i64(0, 0),
                max_log_position: b.i64(8, 0),
                member_id: b.i32(16, 0),
                log_session_id: b.i32(20, 0),
                log_stream_id: b.i32(24, 0),
                is_startup: b.i32(28, 0) == 1,
                role: role(b.i32(32, 0))?,
                is_standby: b.i32(36, 16) == 1,
                log_channel: m.text("log channel", 0)?,
            },
            41 => Self::MembersResponse {
                correlation_id: b.i64(0, 0),
                leader_member_id: b.i32(8, 0),
                active_members: m.text("active members", 0)?,
            },
            42 => Self::TerminationPosition { log_position: b.i64(0, 0) },
            // [`ActiveMember::decode_all`] decodes its members.
            MEMBERS_EXTENDED_RESPONSE => Self::MembersExtendedResponse {
                correlation_id: b.i64(0, 0),
                current_time_ns: b.i64(8, 0),
                leader_member_id: b.i32(16, 0),
                member_id: b.i32(20, 0),
                active_members: &[],
            },
            108 => Self::RequestAck { log_position: b.i64(0, 0) },
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::JoinLog {
                log_position,
                max_log_position,
                member_id,
                log_session_id,
                log_stream_id,
                is_startup,
                role,
                is_standby,
                log_channel,
            } => Encoder::new(buffer, header(40, 40))
                .i64(0, log_position)
                .i64(8, max_log_position)
                .i32(16, member_id)
                .i32(20, log_session_id)
                .i32(24, log_stream_id)
                .i32(28, i32::from(is_startup))
                .i32(32, role as i32)
                .i32(36, i32::from(is_standby))
                .text(log_channel)
                .finish(),
            Self::TerminationPosition { log_position } => {
                Encoder::new(buffer, header(42, 8)).i64(0, log_position).finish()
            }
            Self::MembersResponse { correlation_id, leader_member_id, active_members } => {
                Encoder::new(buffer, header(41, 12))
                    .i64(0, correlation_id)
                    .i32(8, leader_member_id)
                    .text(active_members)
                    .text("")
                    .finish()
            }
            Self::MembersExtendedResponse {
                correlation_id,
                current_time_ns,
                leader_member_id,
                member_id,
                active_members,
            } => {
                let mut m = Encoder::new(buffer, header(MEMBERS_EXTENDED_RESPONSE, 24))
                    .i64(0, correlation_id)
                    .i64(8, current_time_ns)
                    .i32(16, leader_member_id)
                    .i32(20, member_id)
                    .group(ACTIVE_MEMBER_BLOCK, active_members.len() as u16);
                for member in active_members {
                    m = m
                        .entry(ACTIVE_MEMBER_BLOCK)
                        .i64(0, member.leadership_term_id)
                        .i64(8, member.log_position)
                        .i64(16, member.time_of_last_append_ns)
                        .i32(24, member.member_id)
                        .text(member.ingress_endpoint)
                        .text(member.consensus_endpoint)
                        .text(member.log_endpoint)
                        .text(member.catchup_endpoint)
                        .text(member.archive_endpoint);
                }
                m.group(ACTIVE_MEMBER_BLOCK, 0).finish()
            }
            Self::RequestAck { log_position } => {
                Encoder::new(buffer, header(108, 8)).i64(0, log_position).finish()
            }
        }
    }
}
