//! Messages between backups, standbys and members, stream 108 (spec 04 §1.6, §8.1, §8.2).

use harrier_protocol::sbe::{Block, Decoder, Encoder, NULL_I64, SbeError};

use super::{SCHEMA_ID, header};

/// Block length of a [`SnapshotRecording`], bytes.
const SNAPSHOT_BLOCK: u16 = 44;

/// A snapshot of one service or of the consensus module, with its recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotRecording<'a> {
    /// Recording of the snapshot.
    pub recording_id: i64,
    /// Leadership term id.
    pub leadership_term_id: i64,
    /// Log position at which the term begins, bytes.
    pub term_base_log_position: i64,
    /// Log position of the snapshot, bytes.
    pub log_position: i64,
    /// Cluster time, in the unit of the cluster's clock.
    pub timestamp: i64,
    /// Id of the service; -1 for the consensus module.
    pub service_id: i32,
    /// Endpoint of the standby's archive; empty in answers to backups.
    pub archive_endpoint: &'a str,
}

impl<'a> SnapshotRecording<'a> {
    fn of_block(b: &Block<'_>, archive_endpoint: &'a str) -> Self {
        Self {
            recording_id: b.i64(0, 0),
            leadership_term_id: b.i64(8, 0),
            term_base_log_position: b.i64(16, 0),
            log_position: b.i64(24, 0),
            timestamp: b.i64(32, 0),
            service_id: b.i32(40, 0),
            archive_endpoint,
        }
    }

    fn encode<'b>(&self, e: Encoder<'b>) -> Encoder<'b> {
        e.entry(SNAPSHOT_BLOCK)
            .i64(0, self.recording_id)
            .i64(8, self.leadership_term_id)
            .i64(16, self.term_base_log_position)
            .i64(24, self.log_position)
            .i64(32, self.timestamp)
            .i32(40, self.service_id)
    }
}

/// Requests of backups and standbys to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupRequest<'a> {
    /// Asks for the recordings of log and snapshots, message 77.
    Query {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Protocol version of the sender, as a packed semantic version.
        version: i32,
        /// Position at or before which a snapshot is wanted; peers that do not set it want the newest.
        log_position: i64,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
    },
    /// Asks for a heartbeat, message 79.
    Heartbeat {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
    },
    /// Reports snapshots that a standby has taken, message 81.
    StandbySnapshot {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Protocol version of the sender, as a packed semantic version.
        version: i32,
        /// Stream on which the client receives the answers.
        response_stream_id: i32,
        /// Snapshots that can be retrieved.
        snapshots: Vec<SnapshotRecording<'a>>,
        /// Channel on which the client receives the answers.
        response_channel: &'a str,
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
    },
    /// Answers a challenge, message 8.
    ChallengeResponse {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Session that was challenged.
        session_id: i64,
        /// Encoded credentials; empty for none.
        credentials: &'a [u8],
    },
}

impl<'a> BackupRequest<'a> {
    /// Decodes a request; `None` for other templates.
    ///
    /// # Errors
    /// A message of another schema, or a truncated one.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            77 => Self::Query {
                correlation_id: b.i64(0, 0),
                response_stream_id: b.i32(8, 0),
                version: b.version(12, 2),
                log_position: match b.i64(16, 16) {
                    NULL_I64 => i64::MAX,
                    position => position,
                },
                response_channel: m.text("response channel", 0)?,
                credentials: m.bytes("credentials", 0)?,
            },
            79 => Self::Heartbeat {
                correlation_id: b.i64(0, 0),
                response_stream_id: b.i32(8, 0),
                response_channel: m.text("response channel", 0)?,
                credentials: m.bytes("credentials", 0)?,
            },
            81 => {
                let mut snapshots = Vec::new();
                let mut group = m.group("snapshots", 0)?;
                while let Some(block) = m.entry("snapshots", &mut group)? {
                    snapshots.push(SnapshotRecording::of_block(&block, m.text("archive endpoint", 0)?));
                }
                Self::StandbySnapshot {
                    correlation_id: b.i64(0, 0),
                    version: b.version(8, 0),
                    response_stream_id: b.i32(12, 0),
                    snapshots,
                    response_channel: m.text("response channel", 0)?,
                    credentials: m.bytes("credentials", 0)?,
                }
            }
            8 => Self::ChallengeResponse {
                correlation_id: b.i64(0, 0),
                session_id: b.i64(8, 0),
                credentials: m.bytes("credentials", 0)?,
            },
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match self {
            Self::Query {
                correlation_id,
                response_stream_id,
                version,
                log_position,
                response_channel,
                credentials,
            } => Encoder::new(buffer, header(77, 24))
                .i64(0, *correlation_id)
                .i32(8, *response_stream_id)
                .i32(12, *version)
                .i64(16, *log_position)
                .text(response_channel)
                .bytes(credentials)
                .finish(),
            Self::Heartbeat { correlation_id, response_stream_id, response_channel, credentials } => {
                Encoder::new(buffer, header(79, 12))
                    .i64(0, *correlation_id)
                    .i32(8, *response_stream_id)
                    .text(response_channel)
                    .bytes(credentials)
                    .finish()
            }
            Self::StandbySnapshot {
                correlation_id,
                version,
                response_stream_id,
                snapshots,
                response_channel,
                credentials,
            } => {
                let mut e = Encoder::new(buffer, header(81, 16))
                    .i64(0, *correlation_id)
                    .i32(8, *version)
                    .i32(12, *response_stream_id)
                    .group(SNAPSHOT_BLOCK, snapshots.len() as u16);
                for snapshot in snapshots {
                    e = snapshot.encode(e).text(snapshot.archive_endpoint);
                }
                e.text(response_channel).bytes(credentials).finish()
            }
            Self::ChallengeResponse { correlation_id, session_id, credentials } => {
                super::Ingress::ChallengeResponse {
                    correlation_id: *correlation_id,
                    session_id: *session_id,
                    credentials,
                }
                .encode(buffer)
            }
        }
    }
}

/// Answers of a member to backups and standbys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupAnswer<'a> {
    /// Recordings of log and snapshots, message 78.
    Query {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Recording id of the log.
        log_recording_id: i64,
        /// Last leadership term id in recording.log.
        log_leadership_term_id: i64,
        /// Log position at which that term begins, bytes.
        log_term_base_log_position: i64,
        /// Last leadership term id of the log.
        last_leadership_term_id: i64,
        /// Log position at which that term begins, bytes.
        last_term_base_log_position: i64,
        /// Id of the commit position counter in the member's driver.
        commit_position_counter_id: i32,
        /// Id of the leader; -1 when there is none.
        leader_member_id: i32,
        /// Id of the member.
        member_id: i32,
        /// Snapshots that can be retrieved.
        snapshots: Vec<SnapshotRecording<'a>>,
        /// The members, in the form of `aeron.cluster.members`.
        cluster_members: &'a str,
    },
    /// A heartbeat, message 80.
    Heartbeat {
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
    },
}

impl<'a> BackupAnswer<'a> {
    /// Decodes an answer; `None` for other templates.
    ///
    /// # Errors
    /// A message of another schema, or a truncated one.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            78 => {
                let mut snapshots = Vec::new();
                let mut group = m.group("snapshots", 0)?;
                while let Some(block) = m.entry("snapshots", &mut group)? {
                    snapshots.push(SnapshotRecording::of_block(&block, ""));
                }
                Self::Query {
                    correlation_id: b.i64(0, 0),
                    log_recording_id: b.i64(8, 0),
                    log_leadership_term_id: b.i64(16, 0),
                    log_term_base_log_position: b.i64(24, 0),
                    last_leadership_term_id: b.i64(32, 0),
                    last_term_base_log_position: b.i64(40, 0),
                    commit_position_counter_id: b.i32(48, 0),
                    leader_member_id: b.i32(52, 0),
                    member_id: b.i32(56, 10),
                    snapshots,
                    cluster_members: m.text("cluster members", 0)?,
                }
            }
            80 => Self::Heartbeat { correlation_id: b.i64(0, 0) },
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match self {
            Self::Query {
                correlation_id,
                log_recording_id,
                log_leadership_term_id,
                log_term_base_log_position,
                last_leadership_term_id,
                last_term_base_log_position,
                commit_position_counter_id,
                leader_member_id,
                member_id,
                snapshots,
                cluster_members,
            } => {
                let mut e = Encoder::new(buffer, header(78, 60))
                    .i64(0, *correlation_id)
                    .i64(8, *log_recording_id)
                    .i64(16, *log_leadership_term_id)
                    .i64(24, *log_term_base_log_position)
                    .i64(32, *last_leadership_term_id)
                    .i64(40, *last_term_base_log_position)
                    .i32(48, *commit_position_counter_id)
                    .i32(52, *leader_member_id)
                    .i32(56, *member_id)
                    .group(SNAPSHOT_BLOCK, snapshots.len() as u16);
                for snapshot in snapshots {
                    e = snapshot.encode(e);
                }
                e.text(cluster_members).finish()
            }
            Self::Heartbeat { correlation_id } => {
                Encoder::new(buffer, header(80, 8)).i64(0, *correlation_id).finish()
            }
        }
    }
}
