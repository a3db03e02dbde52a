//! Messages that members exchange on the consensus stream (spec 04 §1.6).

use harrier_protocol::sbe::{Block, Decoder, Encoder, NULL_I64, NULL_U8, SbeError};
use harrier_protocol::semantic_version;
use harrier_ringbuf::position::FRAME_ALIGNMENT;

use super::{SCHEMA_ID, enumeration, header};

/// Version of the protocol between members: 1.0.0.
pub const CONSENSUS_VERSION: i32 = semantic_version(1, 0, 0);

/// Flag of an AppendPosition that was sent during catch-up (spec 04 §4.3).
pub const CATCHUP_FLAG: u8 = 0x01;
/// Flag of an AppendPosition that one of our members sent after it joined the log of the leader's term (spec 07 §21).
pub const JOINED_FLAG: u8 = 0x20;

/// A member in an election tells the others how far its log reaches, message 50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CanvassPosition {
    /// Term of the last entry in the member's log; -1 for an empty log.
    pub log_leadership_term_id: i64,
    /// Append position of the member's log, bytes.
    pub log_position: i64,
    /// Term that the member believes in.
    pub leadership_term_id: i64,
    /// Id of the sender.
    pub follower_member_id: i32,
    /// Version of the protocol, as a packed semantic version.
    pub protocol_version: i32,
}

/// A candidate asks for a vote, message 51.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestVote {
    /// Term of the last entry in the candidate's log.
    pub log_leadership_term_id: i64,
    /// Append position of the candidate's log, bytes.
    pub log_position: i64,
    /// Term for which it stands.
    pub candidate_term_id: i64,
    /// Id of the sender.
    pub candidate_member_id: i32,
    /// Version of the protocol, as a packed semantic version.
    pub protocol_version: i32,
}

/// The answer to a candidate, message 52.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Vote {
    /// Term of the ballot.
    pub candidate_term_id: i64,
    /// Term of the last entry in the voter's log.
    pub log_leadership_term_id: i64,
    /// Append position of the voter's log, bytes.
    pub log_position: i64,
    /// Id of the candidate.
    pub candidate_member_id: i32,
    /// Id of the sender.
    pub follower_member_id: i32,
    /// True for YES.
    pub vote: bool,
}

/// A leader announces its term, and what the receiver lacks before it, message 53 (spec 04 §5.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NewLeadershipTerm {
    /// The receiver's log term in an answer, the leader's in a broadcast.
    pub log_leadership_term_id: i64,
    /// Term after that one in the leader's log; -1 for none.
    pub next_leadership_term_id: i64,
    /// Log position at which the next term begins, bytes; -1 when unknown.
    pub next_term_base_log_position: i64,
    /// Log position at which the next term ends, bytes; -1 while it is open.
    pub next_log_position: i64,
    /// The leader's term.
    pub leadership_term_id: i64,
    /// Log position at which the leader's term begins, bytes.
    pub term_base_log_position: i64,
    /// Position of the leader's log, bytes.
    pub log_position: i64,
    /// Recording of the log in the leader's archive; -1 for none.
    pub leader_recording_id: i64,
    /// The leader's cluster time, in the unit of the cluster's clock.
    pub timestamp: i64,
    /// Id of the sender.
    pub leader_member_id: i32,
    /// Session id of the leader's log publication.
    pub log_session_id: i32,
    /// Version of the application, as a packed semantic version.
    pub app_version: i32,
    /// True when the leader's node has just started.
    pub is_startup: bool,
    /// Commit position, bytes; -1 when the sender is too old to tell it.
    pub commit_position: i64,
}

/// A follower reports how far the log is recorded, message 54.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AppendPosition {
    /// Term of the log at this position.
    pub leadership_term_id: i64,
    /// Append position, bytes.
    pub log_position: i64,
    /// Id of the sender.
    pub follower_member_id: i32,
    /// [`CATCHUP_FLAG`], [`JOINED_FLAG`]; 0 when the sender is too old for flags.
    pub flags: u8,
}

/// A leader tells what is committed, message 55.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CommitPosition {
    /// The leader's term.
    pub leadership_term_id: i64,
    /// Commit position, bytes.
    pub log_position: i64,
    /// Id of the sender.
    pub leader_member_id: i32,
}

/// A follower asks for a replay of what it lacks of the current term, message 56.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CatchupPosition<'a> {
    /// Term that the follower has adopted.
    pub leadership_term_id: i64,
    /// Position at which the replay begins, bytes.
    pub log_position: i64,
    /// Id of the sender.
    pub follower_member_id: i32,
    /// Endpoint that receives the replay.
    pub catchup_endpoint: &'a str,
}

/// A leader tells a follower that it has caught up, message 57.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StopCatchup {
    /// Term of the AppendPosition that ended the catch-up.
    pub leadership_term_id: i64,
    /// Id of the follower.
    pub follower_member_id: i32,
}

/// A leader tells its followers where the cluster ends, message 75 (spec 04 §4.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TerminationPosition {
    /// The leader's term.
    pub leadership_term_id: i64,
    /// Log position at which members end, bytes.
    pub log_position: i64,
}

/// A follower has come to the position where it ends, message 76.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TerminationAck {
    /// Term of the termination.
    pub leadership_term_id: i64,
    /// The follower's log position, bytes.
    pub log_position: i64,
    /// Id of the sender.
    pub member_id: i32,
}

/// A message of one member to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ConsensusMessage<'a> {
    /// Message 50.
    CanvassPosition(CanvassPosition),
    /// Message 51.
    RequestVote(RequestVote),
    /// Message 52.
    Vote(Vote),
    /// Message 53.
    NewLeadershipTerm(NewLeadershipTerm),
    /// Message 54.
    AppendPosition(AppendPosition),
    /// Message 55.
    CommitPosition(CommitPosition),
    /// Message 56.
    CatchupPosition(CatchupPosition<'a>),
    /// Message 57.
    StopCatchup(StopCatchup),
    /// Message 75.
    TerminationPosition(TerminationPosition),
    /// Message 76.
    TerminationAck(TerminationAck),
}

impl<'a> ConsensusMessage<'a> {
    /// Decodes a message; `None` for templates that are not of this list.
    ///
    /// # Errors
    /// A message of another schema, a truncated one, or a value outside its enumeration.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        Ok(Some(match m.header().template_id {
            50 => Self::CanvassPosition(CanvassPosition {
                log_leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                leadership_term_id: b.i64(16, 0),
                follower_member_id: b.i32(24, 0),
                protocol_version: b.version(28, 9),
            }),
            51 => Self::RequestVote(RequestVote {
                log_leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                candidate_term_id: b.i64(16, 0),
                candidate_member_id: b.i32(24, 0),
                protocol_version: b.version(28, 9),
            }),
            52 => Self::Vote(Vote {
                candidate_term_id: b.i64(0, 0),
                log_leadership_term_id: b.i64(8, 0),
                log_position: b.i64(16, 0),
                candidate_member_id: b.i32(24, 0),
                follower_member_id: b.i32(28, 0),
                vote: boolean(b.i32(32, 0))?,
            }),
            53 => Self::NewLeadershipTerm(new_leadership_term(&b)?),
            54 => Self::AppendPosition(AppendPosition {
                leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                follower_member_id: b.i32(16, 0),
                flags: Some(b.u8(20, 8)).filter(|flags| *flags != NULL_U8).unwrap_or(0),
            }),
            55 => Self::CommitPosition(CommitPosition {
                leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                leader_member_id: b.i32(16, 0),
            }),
            56 => Self::CatchupPosition(CatchupPosition {
                leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                follower_member_id: b.i32(16, 0),
                catchup_endpoint: m.text("catch-up endpoint", 0)?,
            }),
            57 => Self::StopCatchup(StopCatchup {
                leadership_term_id: b.i64(0, 0),
                follower_member_id: b.i32(8, 0),
            }),
            75 => Self::TerminationPosition(TerminationPosition {
                leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
            }),
            76 => Self::TerminationAck(TerminationAck {
                leadership_term_id: b.i64(0, 0),
                log_position: b.i64(8, 0),
                member_id: b.i32(16, 0),
            }),
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match *self {
            Self::CanvassPosition(own) => Encoder::new(buffer, header(50, 32))
                .i64(0, own.log_leadership_term_id)
                .i64(8, own.log_position)
                .i64(16, own.leadership_term_id)
                .i32(24, own.follower_member_id)
                .i32(28, own.protocol_version)
                .finish(),
            Self::RequestVote(own) => Encoder::new(buffer, header(51, 32))
                .i64(0, own.log_leadership_term_id)
                .i64(8, own.log_position)
                .i64(16, own.candidate_term_id)
                .i32(24, own.candidate_member_id)
                .i32(28, own.protocol_version)
                .finish(),
            Self::Vote(own) => Encoder::new(buffer, header(52, 36))
                .i64(0, own.candidate_term_id)
                .i64(8, own.log_leadership_term_id)
                .i64(16, own.log_position)
                .i32(24, own.candidate_member_id)
                .i32(28, own.follower_member_id)
                .i32(32, i32::from(own.vote))
                .finish(),
            Self::NewLeadershipTerm(own) => encode_new_leadership_term(&own, buffer),
            Self::AppendPosition(own) => Encoder::new(buffer, header(54, 21))
                .i64(0, own.leadership_term_id)
                .i64(8, own.log_position)
                .i32(16, own.follower_member_id)
                .u8(20, own.flags)
                .finish(),
            Self::CommitPosition(own) => Encoder::new(buffer, header(55, 20))
                .i64(0, own.leadership_term_id)
                .i64(8, own.log_position)
                .i32(16, own.leader_member_id)
                .finish(),
            Self::CatchupPosition(own) => Encoder::new(buffer, header(56, 20))
                .i64(0, own.leadership_term_id)
                .i64(8, own.log_position)
                .i32(16, own.follower_member_id)
                .text(own.catchup_endpoint)
                .finish(),
            Self::StopCatchup(own) => Encoder::new(buffer, header(57, 12))
                .i64(0, own.leadership_term_id)
                .i32(8, own.follower_member_id)
                .finish(),
            Self::TerminationPosition(own) => Encoder::new(buffer, header(75, 16))
                .i64(0, own.leadership_term_id)
                .i64(8, own.log_position)
                .finish(),
            Self::TerminationAck(own) => Encoder::new(buffer, header(76, 20))
                .i64(0, own.leadership_term_id)
                .i64(8, own.log_position)
                .i32(16, own.member_id)
                .finish(),
        }
    }

    /// True when terms and positions are such as a member can have: at least -1, positions multiples of 32. Others are
    /// forged or damaged.
    pub fn is_plausible(&self) -> bool {
        let terms = |all: &[i64]| all.iter().all(|term| *term >= -1);
        let positions = |all: &[i64]| all.iter().all(|position| *position == -1 || is_position(*position));
        match *self {
            Self::CanvassPosition(own) => {
                terms(&[own.log_leadership_term_id, own.leadership_term_id]) && is_position(own.log_position)
            }
            Self::RequestVote(own) => {
                terms(&[own.log_leadership_term_id])
                    && own.candidate_term_id >= 0
                    && is_position(own.log_position)
            }
            Self::Vote(own) => {
                terms(&[own.log_leadership_term_id])
                    && own.candidate_term_id >= 0
                    && is_position(own.log_position)
            }
            Self::NewLeadershipTerm(own) => {
                terms(&[own.log_leadership_term_id, own.next_leadership_term_id])
                    && own.leadership_term_id >= 0
                    && positions(&[
                        own.next_term_base_log_position,
                        own.next_log_position,
                        own.commit_position,
                    ])
                    && is_position(own.term_base_log_position)
                    && is_position(own.log_position)
                    && own.leader_recording_id >= -1
            }
            Self::AppendPosition(AppendPosition { leadership_term_id, log_position, .. })
            | Self::CommitPosition(CommitPosition { leadership_term_id, log_position, .. })
            | Self::CatchupPosition(CatchupPosition { leadership_term_id, log_position, .. })
            | Self::TerminationPosition(TerminationPosition { leadership_term_id, log_position })
            | Self::TerminationAck(TerminationAck { leadership_term_id, log_position, .. }) => {
                terms(&[leadership_term_id]) && is_position(log_position)
            }
            Self::StopCatchup(own) => terms(&[own.leadership_term_id]),
        }
    }
}

fn is_position(value: i64) -> bool {
    value >= 0 && value % FRAME_ALIGNMENT as i64 == 0
}

fn new_leadership_term(b: &Block<'_>) -> Result<NewLeadershipTerm, SbeError> {
    Ok(NewLeadershipTerm {
        log_leadership_term_id: b.i64(0, 0),
        next_leadership_term_id: b.i64(8, 0),
        next_term_base_log_position: b.i64(16, 0),
        next_log_position: b.i64(24, 0),
        leadership_term_id: b.i64(32, 0),
        term_base_log_position: b.i64(40, 0),
        log_position: b.i64(48, 0),
        leader_recording_id: b.i64(56, 0),
        timestamp: b.i64(64, 0),
        leader_member_id: b.i32(72, 0),
        log_session_id: b.i32(76, 0),
        app_version: b.version(80, 0),
        is_startup: boolean(b.i32(84, 0))?,
        commit_position: Some(b.i64(88, 15)).filter(|position| *position != NULL_I64).unwrap_or(-1),
    })
}

fn encode_new_leadership_term(own: &NewLeadershipTerm, buffer: &mut [u8]) -> Result<usize, SbeError> {
    Encoder::new(buffer, header(53, 96))
        .i64(0, own.log_leadership_term_id)
        .i64(8, own.next_leadership_term_id)
        .i64(16, own.next_term_base_log_position)
        .i64(24, own.next_log_position)
        .i64(32, own.leadership_term_id)
        .i64(40, own.term_base_log_position)
        .i64(48, own.log_position)
        .i64(56, own.leader_recording_id)
        .i64(64, own.timestamp)
        .i32(72, own.leader_member_id)
        .i32(76, own.log_session_id)
        .i32(80, own.app_version)
        .i32(84, i32::from(own.is_startup))
        .i64(88, own.commit_position)
        .finish()
}

fn boolean(value: i32) -> Result<bool, SbeError> {
    enumeration(&[false, true], value, "boolean")
}
