//! Snapshot messages of services and of the consensus module (spec 04 §1.7).

use harrier_protocol::sbe::{Decoder, Encoder, NULL_I32, NULL_I64, SbeError};

use super::{CloseReason, SCHEMA_ID, SessionHeader, TimeUnit, close_reason, enumeration, header, time_unit};

/// Position of a marker within a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotMark {
    /// The state begins.
    Begin = 0,
    /// A section ends and another begins.
    Section,
    /// The state ends.
    End,
}

/// Type ids of snapshots.
pub mod snapshot_type {
    /// State of the consensus module.
    pub const MODULE: i64 = 1;
    /// State of a service container, followed by the service's own.
    pub const SERVICE: i64 = 2;
}

/// Marker of a snapshot's state (spec 04 §6.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotMarker {
    /// Type of the state, see [`snapshot_type`].
    pub type_id: i64,
    /// Log position of the snapshot, bytes.
    pub log_position: i64,
    /// Leadership term in which the snapshot was taken.
    pub leadership_term_id: i64,
    /// Index of the section.
    pub index: i32,
    /// Kind of marker.
    pub mark: SnapshotMark,
    /// Unit of cluster time; milliseconds from writers older than schema version 4.
    pub time_unit: TimeUnit,
    /// Version of the application; 0 from writers older than schema version 4.
    pub app_version: i32,
}

/// A message of a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SnapshotMessage<'a> {
    /// A pending message of a service; follows the tracker of its service (spec 04 §4.9).
    Pending {
        /// Header of the session's message.
        header: SessionHeader,
        /// Payload of the application.
        payload: &'a [u8],
    },
    /// A marker, message 100.
    Marker(SnapshotMarker),
    /// A session in a service's state, message 102.
    ClientSession {
        /// Session id.
        session_id: i64,
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
        /// Encoded principal of the authenticated client.
        principal: &'a [u8],
    },
    /// A session in the consensus module's state, message 103.
    ClusterSession {
        /// Session id.
        session_id: i64,
        /// Correlation id of the client's last request.
        correlation_id: i64,
        /// Log position after the event that opened the session, bytes.
        opened_log_position: i64,
        /// Cluster time of the session's last message.
        time_of_last_activity: i64,
        /// Reason of a close in progress; `None` for an open session.
        close_reason: Option<CloseReason>,
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
    },
    /// A timer that has not fired, message 104.
    Timer {
        /// Id of the timer.
        correlation_id: i64,
        /// Cluster time at which the timer fires.
        deadline: i64,
    },
    /// State of the consensus module, message 105.
    ConsensusModule {
        /// Id of the next session.
        next_session_id: i64,
        /// Next session id of service messages; `None` from writers older than schema version 3.
        next_service_session_id: Option<i64>,
        /// Last session id of service messages in the log; `None` from writers older than schema version 3.
        log_service_session_id: Option<i64>,
        /// Capacity of the buffer of pending messages, bytes.
        pending_message_capacity: i32,
    },
    /// Members; no longer written, message 106.
    ClusterMembers {
        /// Id of the member.
        member_id: i32,
        /// Highest member id.
        high_member_id: i32,
        /// The members, in the form of `aeron.cluster.members`.
        cluster_members: &'a str,
    },
    /// State of a service's pending messages, message 107.
    PendingMessageTracker {
        /// Session id of the next message of the service.
        next_service_session_id: i64,
        /// Session id of the service's last message in the log.
        log_service_session_id: i64,
        /// Capacity of the buffer of pending messages, bytes.
        pending_message_capacity: i32,
        /// Id of the service.
        service_id: i32,
    },
}

fn optional(value: i64) -> Option<i64> {
    (value != NULL_I64).then_some(value)
}

impl<'a> SnapshotMessage<'a> {
    /// Decodes a message; `None` for ignored templates.
    ///
    /// # Errors
    /// A message of another schema, a truncated one, or a value outside its enumeration.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            1 => {
                let (header, payload) = SessionHeader::decode(&m);
                Self::Pending { header, payload }
            }
            100 => Self::Marker(SnapshotMarker {
                type_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                leadership_term_id: b.i64(16, 0),
                index: b.i32(24, 0),
                mark: enumeration(
                    &[SnapshotMark::Begin, SnapshotMark::Section, SnapshotMark::End],
                    b.i32(28, 0),
                    "snapshot mark",
                )?,
                time_unit: time_unit(b.i32(32, 4))?,
                app_version: b.version(36, 4),
            }),
            102 => Self::ClientSession {
                session_id: b.i64(0, 0),
                response_stream_id: b.i32(8, 0),
                response_channel: m.text("response channel", 0)?,
                principal: m.bytes("principal", 0)?,
            },
            103 => {
                let reason = b.i32(32, 0);
                Self::ClusterSession {
                    session_id: b.i64(0, 0),
                    correlation_id: b.i64(8, 0),
                    opened_log_position: b.i64(16, 0),
                    time_of_last_activity: b.i64(24, 0),
                    close_reason: if reason == NULL_I32 { None } else { Some(close_reason(reason)?) },
                    response_stream_id: b.i32(36, 0),
                    response_channel: m.text("response channel", 0)?,
                }
            }
            104 => Self::Timer { correlation_id: b.i64(0, 0), deadline: b.i64(8, 0) },
            105 => Self::ConsensusModule {
                next_session_id: b.i64(0, 0),
                next_service_session_id: optional(b.i64(8, 3)),
                log_service_session_id: optional(b.i64(16, 3)),
                pending_message_capacity: b.version(24, 3),
            },
            106 => Self::ClusterMembers {
                member_id: b.i32(0, 0),
                high_member_id: b.i32(4, 0),
                cluster_members: m.text("cluster members", 0)?,
            },
            107 => Self::PendingMessageTracker {
                next_service_session_id: b.i64(0, 0),
                log_service_session_id: b.i64(8, 0),
                pending_message_capacity: b.version(16, 0),
                service_id: b.i32(20, 0),
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
            Self::Pending { header, payload } => super::Ingress::Message { header, payload }.encode(buffer),
            Self::Marker(marker) => marker.encode(buffer),
            Self::ClientSession { session_id, response_stream_id, response_channel, principal } => {
                Encoder::new(buffer, header(102, 12))
                    .i64(0, session_id)
                    .i32(8, response_stream_id)
                    .text(response_channel)
                    .bytes(principal)
                    .finish()
            }
            Self::ClusterSession {
                session_id,
                correlation_id,
                opened_log_position,
                time_of_last_activity,
                close_reason,
                response_stream_id,
                response_channel,
            } => Encoder::new(buffer, header(103, 40))
                .i64(0, session_id)
                .i64(8, correlation_id)
                .i64(16, opened_log_position)
                .i64(24, time_of_last_activity)
                .i32(32, close_reason.map_or(NULL_I32, |reason| reason as i32))
                .i32(36, response_stream_id)
                .text(response_channel)
                .finish(),
            Self::Timer { correlation_id, deadline } => {
                Encoder::new(buffer, header(104, 16)).i64(0, correlation_id).i64(8, deadline).finish()
            }
            Self::ConsensusModule {
                next_session_id,
                next_service_session_id,
                log_service_session_id,
                pending_message_capacity,
            } => Encoder::new(buffer, header(105, 28))
                .i64(0, next_session_id)
                .i64(8, next_service_session_id.unwrap_or(NULL_I64))
                .i64(16, log_service_session_id.unwrap_or(NULL_I64))
                .i32(24, pending_message_capacity)
                .finish(),
            Self::ClusterMembers { member_id, high_member_id, cluster_members } => {
                Encoder::new(buffer, header(106, 8))
                    .i32(0, member_id)
                    .i32(4, high_member_id)
                    .text(cluster_members)
                    .finish()
            }
            Self::PendingMessageTracker {
                next_service_session_id,
                log_service_session_id,
                pending_message_capacity,
                service_id,
            } => Encoder::new(buffer, header(107, 24))
                .i64(0, next_service_session_id)
                .i64(8, log_service_session_id)
                .i32(16, pending_message_capacity)
                .i32(20, service_id)
                .finish(),
        }
    }
}

impl SnapshotMarker {
    fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        Encoder::new(buffer, header(100, 40))
            .i64(0, self.type_id)
            .i64(8, self.log_position)
            .i64(16, self.leadership_term_id)
            .i32(24, self.index)
            .i32(28, self.mark as i32)
            .i32(32, self.time_unit as i32)
            .i32(36, self.app_version)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_protocol::sbe::MessageHeader;

    fn old(template_id: u16, block_length: u16, version: u16, block: &[u8]) -> Vec<u8> {
        let header = MessageHeader { block_length, template_id, schema_id: SCHEMA_ID, version };
        [&header.encode()[..], block].concat()
    }

    #[test]
    fn markers_of_old_writers_are_in_milliseconds() {
        let mut block = [0_u8; 32];
        block[0] = 2;
        let bytes = old(100, 32, 3, &block);
        let Some(SnapshotMessage::Marker(marker)) = SnapshotMessage::decode(&bytes).unwrap() else {
            panic!()
        };
        assert_eq!((marker.type_id, marker.mark), (snapshot_type::SERVICE, SnapshotMark::Begin));
        assert_eq!((marker.time_unit, marker.app_version), (TimeUnit::Millis, 0));
    }

    #[test]
    fn modules_of_old_writers_know_no_service_messages() {
        let bytes = old(105, 8, 2, &9_i64.to_le_bytes());
        let expected = SnapshotMessage::ConsensusModule {
            next_session_id: 9,
            next_service_session_id: None,
            log_service_session_id: None,
            pending_message_capacity: 0,
        };
        assert_eq!(SnapshotMessage::decode(&bytes), Ok(Some(expected)));
    }

    #[test]
    fn longer_blocks_of_newer_writers_are_read() {
        let block: Vec<u8> =
            [4_711_i64.to_le_bytes(), 5_i64.to_le_bytes(), 1_i64.to_le_bytes()].as_flattened().to_vec();
        let bytes = old(104, 24, 17, &block);
        let expected = SnapshotMessage::Timer { correlation_id: 4_711, deadline: 5 };
        assert_eq!(SnapshotMessage::decode(&bytes), Ok(Some(expected)));
    }

    #[test]
    fn members_are_written_as_they_are_read() {
        let members = SnapshotMessage::ClusterMembers {
            member_id: 1,
            high_member_id: 2,
            cluster_members: "0,a:1,a:2,a:3,a:4,a:5",
        };
        let mut buffer = [0; 128];
        let length = members.encode(&mut buffer).unwrap();
        assert_eq!(SnapshotMessage::decode(&buffer[..length]), Ok(Some(members)));
    }

    #[test]
    fn unknown_templates_are_skipped_and_wrong_values_refused() {
        assert_eq!(SnapshotMessage::decode(&old(199, 0, 16, &[])), Ok(None));
        let mut block = [0_u8; 40];
        block[28] = 3;
        let wrong = SbeError::Enumeration { field: "snapshot mark", value: 3 };
        assert_eq!(SnapshotMessage::decode(&old(100, 40, 16, &block)), Err(wrong));
    }
}
