//! Inputs of an election: messages of members, timers, completed requests, positions, and triggers.

use crate::codec::{
    AppendPosition, CanvassPosition, CommitPosition, NewLeadershipTerm, RequestVote, StopCatchup, Vote,
};

/// One input. The owner hands in one at a time and carries out the actions that it causes before the next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Input {
    /// Another member sent a message. The owner has checked that it is plausible
    /// ([`is_plausible`](crate::codec::ConsensusMessage::is_plausible)).
    Message(MemberMessage),
    /// A timer that an action has set expired.
    Timer(TimerKind),
    /// A request of an action ended.
    Done(Done),
    /// The owner noticed progress or silence.
    Observed(Observation),
    /// A reason to enter an election, or a decision of the operator.
    Trigger(Trigger),
}

/// A message of another member.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MemberMessage {
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
    /// Message 56. The owner keeps or adds the endpoint.
    CatchupPosition(CatchupRequest),
    /// Message 57.
    StopCatchup(StopCatchup),
}

/// CatchupPosition without the endpoint, which only the owner needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CatchupRequest {
    /// Term that the follower has adopted.
    pub leadership_term_id: i64,
    /// Position at which the replay begins, bytes.
    pub log_position: i64,
    /// Id of the sender.
    pub follower_member_id: i32,
}

/// A timer of the election. Each kind runs at most once at a time; setting it again replaces it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum TimerKind {
    /// Time to repeat CanvassPosition or RequestVote.
    Status,
    /// The canvass has a deadline after which a quorum suffices (spec 04 §5.2, state 1).
    Canvass,
    /// Nobody of an adequate term was heard after a leader was refused (spec 07 §1), or a leader-elect made no progress after
    /// it had refused a candidate of a higher term (spec 07 §5).
    Stand,
    /// The delay before a nomination is over.
    Nomination,
    /// The ballot is over.
    Ballot,
    /// Time to repeat NewLeadershipTerm, or a follower's report.
    Heartbeat,
    /// Replication, replay or catch-up made no progress for too long.
    Progress,
    /// The leader, or its log, was not heard for too long.
    Deadline,
}

impl TimerKind {
    /// Number of kinds.
    pub const COUNT: usize = 8;
    /// All kinds.
    pub const ALL: [Self; Self::COUNT] = [
        Self::Status,
        Self::Canvass,
        Self::Stand,
        Self::Nomination,
        Self::Ballot,
        Self::Heartbeat,
        Self::Progress,
        Self::Deadline,
    ];

    pub(super) const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// The end of a request that an action made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Done {
    /// Epoch of the request. The end of a request of an older epoch is ignored, except [`Completion::Persisted`].
    pub epoch: u32,
    /// Result.
    pub completion: Completion,
}

/// Result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Completion {
    /// [`Prepare`](super::Action::Prepare): the log and its recording have stopped, what was not committed is rolled
    /// back, and [`Own`](super::Own) holds the positions.
    Prepared,
    /// [`Persist`](super::Action::Persist): both terms are durable.
    Persisted {
        /// Candidate term that is durable.
        candidate_term_id: i64,
        /// Voted term that is durable.
        voted_term_id: i64,
    },
    /// [`Truncate`](super::Action::Truncate): the recording ends at the position, and so does the term's entry.
    Truncated {
        /// New end of the log, bytes.
        position: i64,
    },
    /// [`WriteTerm`](super::Action::WriteTerm) or [`CloseTerm`](super::Action::CloseTerm): recording.log is durable.
    TermWritten {
        /// The term.
        term_id: i64,
    },
    /// [`Replicate`](super::Action::Replicate): the replication ended, at its stop position or before it.
    Replicated {
        /// End of the own recording, bytes.
        position: i64,
    },
    /// [`Replicate`](super::Action::Replicate) or [`SubscribeLog`](super::Action::SubscribeLog) with catch-up: the leader's
    /// recording begins above the end of the own one.
    SourceStartsAbove {
        /// Begin of the leader's recording, bytes.
        position: i64,
    },
    /// [`Replay`](super::Action::Replay): the module has read the log up to the position, which is the commit counter
    /// now, and is not in SNAPSHOT.
    Replayed {
        /// Log position, bytes.
        position: i64,
    },
    /// [`PublishLog`](super::Action::PublishLog): the log publication exists.
    LogPublished {
        /// Its session.
        session_id: i32,
    },
    /// [`RecordLog`](super::Action::RecordLog): the recording counter of the log exists.
    Recording {
        /// The recording.
        recording_id: i64,
    },
    /// [`JoinLog`](super::Action::JoinLog): all services have joined.
    Joined,
    /// [`AppendTermEvent`](super::Action::AppendTermEvent): NewLeadershipTermEvent is in the log.
    TermEventAppended,
    /// [`SubscribeLog`](super::Action::SubscribeLog): the subscription has its destination.
    Subscribed,
    /// [`SubscribeLog`](super::Action::SubscribeLog): the leader's log has an image.
    ImageAvailable {
        /// Position at which it begins, bytes.
        join_position: i64,
    },
    /// [`AddLiveDestination`](super::Action::AddLiveDestination): the live log reaches the image.
    LiveDestinationAdded,
    /// The request failed; the election begins again.
    Failed,
}

/// Progress, or its absence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Observation {
    /// The own recording of the log grew to [`Own::append`](super::Own::append).
    Appended,
    /// The module's log adapter consumed up to [`Own::commit`](super::Own::commit).
    Consumed,
    /// A replication reached a position.
    Replicating {
        /// End of the own recording, bytes.
        position: i64,
    },
    /// A member was not heard for leaderHeartbeatTimeout. The owner keeps the time of each member's last message.
    MemberSilent {
        /// The member.
        member_id: i32,
    },
    /// The archive ended a catch-up replay with an error.
    CatchupFailed {
        /// Member that was catching up.
        member_id: i32,
    },
}

/// Event that makes a member enter an election, or a permission of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Trigger {
    /// The node has recovered: its first election begins.
    NodeStarted,
    /// A follower has not heard the leader for leaderHeartbeatTimeout.
    LeaderSilent,
    /// A leader no longer hears a quorum (spec 04 §4.4).
    QuorumLost,
    /// The image of the log was closed and read to its end.
    LogClosed {
        /// True when the leader ended its log itself.
        end_of_stream: bool,
    },
    /// The recording of the log stopped (spec 07 §17).
    RecordingStopped {
        /// True when it stopped at the end of the leader's log.
        end_of_stream: bool,
    },
    /// The operator lifts the guard of spec 07 §6 until the next election completes.
    GuardLifted,
    /// The operator declares that the log is complete although the machine crashed at sync level 0.
    LogTrusted,
}
