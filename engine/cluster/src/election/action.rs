//! Actions: requests of an election to its owner.

use crate::codec::Role;

use super::{MemberMessage, State, TimerKind};

/// Largest [`Delay::Nomination`] attempt.
pub const MAX_ATTEMPT: u8 = 4;
/// Largest number of actions of one input.
pub const MAX_ACTIONS: usize = 40;

/// One action. Requests carry the epoch that their completion returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// Send a message to a member: up to three tries, then drop it (spec 07 §30). The owner stamps the time into
    /// NewLeadershipTerm and the endpoint into CatchupPosition.
    Send {
        /// The member.
        to: i32,
        /// The message.
        message: MemberMessage,
    },
    /// Send a message to all other members.
    Broadcast(MemberMessage),
    /// Set a timer, or replace it.
    SetTimer {
        /// The timer.
        kind: TimerKind,
        /// Time until it expires.
        delay: Delay,
    },
    /// Cancel a timer.
    CancelTimer(TimerKind),
    /// Make the terms of node-state.dat durable, at every sync level (spec 07 §1). Requests end in their order.
    Persist {
        /// Highest term voted for or proposed.
        candidate_term_id: i64,
        /// Highest term that binds this member (spec 07 §1).
        voted_term_id: i64,
        /// Log position for the file, bytes (spec 07 §32).
        position: i64,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Prepare for a new leadership (spec 07 §27), and end every request of an older epoch.
    Prepare {
        /// True for the first pass after a steady state.
        is_first: bool,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Cut the recording of the log, end the last term there in recording.log, and invalidate the entries of terms that
    /// begin above it (spec 07 §3).
    Truncate {
        /// Last term of the log.
        term_id: i64,
        /// New end, bytes.
        position: i64,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Make recording.log contain an open TERM entry and sync it, before the first byte of the term is recorded (spec 07
    /// §4). An entry that was closed is opened again.
    WriteTerm {
        /// The term.
        term_id: i64,
        /// Log position at which it begins, bytes.
        base: i64,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Write the end of a term and sync it.
    CloseTerm {
        /// The term.
        term_id: i64,
        /// Log position at which it ends, bytes.
        position: i64,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Replicate the leader's recording behind the end of the own one (spec 07 §12).
    Replicate {
        /// Member whose archive holds the source.
        source: i32,
        /// Recording there.
        recording_id: i64,
        /// Log position at which to stop, bytes.
        stop: i64,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Replay the own log to the module and its services (spec 04 §4.14).
    Replay {
        /// First log position, bytes.
        from: i64,
        /// Log position at which the replay ends, bytes.
        to: i64,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Create the log publication at a position.
    PublishLog {
        /// The leader's term.
        term_id: i64,
        /// Log position, bytes.
        position: i64,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Subscribe to the leader's log, for catch-up or live.
    SubscribeLog {
        /// Session of the leader's log.
        session_id: i32,
        /// True: a replay from the leader's archive comes first.
        with_catchup: bool,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Start or extend the recording of the log; the role tells whose publication it is.
    RecordLog {
        /// Role in the term.
        role: Role,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Let the services join the log. Nobody reads the log before they have (spec 07 §9).
    JoinLog {
        /// Role in the term.
        role: Role,
        /// Log position of the join, bytes.
        position: i64,
        /// True when the leader's node has just started.
        is_startup: bool,
        /// Epoch of the request.
        epoch: u32,
    },
    /// Let the live log reach the image of the catch-up.
    AddLiveDestination {
        /// Epoch of the request.
        epoch: u32,
    },
    /// The replay from the leader's archive is no longer needed.
    RemoveCatchupDestination,
    /// Replay the own recording to a member. A replay for it that is running is stopped first.
    StartCatchup {
        /// The member.
        member_id: i32,
        /// First log position, bytes.
        position: i64,
    },
    /// Stop a member's replay.
    StopCatchup {
        /// The member.
        member_id: i32,
    },
    /// Append NewLeadershipTermEvent; retried until the log takes it.
    AppendTermEvent {
        /// Epoch of the request.
        epoch: u32,
    },
    /// The election is complete (spec 04 §5.7).
    Complete {
        /// Own role.
        role: Role,
        /// The leader.
        leader: i32,
        /// Its term.
        term_id: i64,
    },
    /// The role changed.
    Role(Role),
    /// The state changed.
    State(State),
    /// A leader was heard: remember the time for [`Delay::SinceLeaderHeard`] and for the leader time-out (spec 07 §15).
    LeaderHeard,
    /// An election began, for this reason.
    Begun(Reason),
    /// Record a warning or an error, or count a refusal.
    Record(Reason),
    /// Record an error and end the node.
    Fatal(Reason),
}

/// The time until a timer expires, as the name of a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delay {
    /// electionStatusInterval.
    StatusInterval,
    /// startupCanvassTimeout.
    StartupCanvass,
    /// leaderHeartbeatTimeout after the last [`Action::LeaderHeard`]; none yet: at once.
    SinceLeaderHeard,
    /// Before a nomination. With `part` = electionTimeout / (2 × members): rank × part, and a random time below
    /// part × 2^attempt.
    Nomination {
        /// Number of members that should stand first: their logs are better, or as good and their ids lower.
        rank: u8,
        /// Number of ballots that this member lost in a row, at most [`MAX_ATTEMPT`].
        attempt: u8,
    },
    /// electionTimeout.
    ElectionTimeout,
    /// leaderHeartbeatInterval.
    HeartbeatInterval,
    /// leaderHeartbeatTimeout.
    HeartbeatTimeout,
}

/// Event or refusal that an election reports in the error log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The node starts.
    NodeStarted,
    /// Leader heartbeat timeout.
    LeaderHeartbeatTimeout,
    /// Inactive follower quorum.
    InactiveFollowerQuorum,
    /// Log disconnected from leader.
    LogDisconnected,
    /// Log recording stopped.
    RecordingStopped,
    /// A message had a higher term.
    HigherTerm {
        /// Its sender, or the candidate.
        member_id: i32,
        /// The term.
        term_id: i64,
    },
    /// Canvass of a later term, from a log that holds all that is committed (spec 07 §6).
    CanvassOfLaterTerm {
        /// The member.
        member_id: i32,
        /// Its log term.
        term_id: i64,
    },
    /// A leader of a lower term than this member is bound to was not followed (spec 07 §1).
    LowerLeaderRefused {
        /// The leader.
        member_id: i32,
        /// Its term.
        term_id: i64,
        /// The own voted term or log term.
        bound: i64,
    },
    /// A candidate lacks what is committed (spec 07 §6).
    CandidateLacksCommitted {
        /// The candidate.
        member_id: i32,
        /// End of its log, bytes.
        position: i64,
        /// Own commit position, bytes.
        commit: i64,
    },
    /// A log outranks committed entries and must be removed (spec 07 §6).
    LogOutranksCommitted {
        /// The member.
        member_id: i32,
        /// Its log term.
        term_id: i64,
        /// End of its log, bytes.
        position: i64,
        /// Own commit position, bytes.
        commit: i64,
    },
    /// Committed log would be truncated (spec 07 §3).
    CommittedWouldBeTruncated {
        /// The leader.
        member_id: i32,
        /// Its term.
        term_id: i64,
        /// Own log term.
        own_term_id: i64,
        /// Position at which the leader's log differs, bytes.
        position: i64,
        /// Own commit position, or the begin of what the member can restore, bytes.
        commit: i64,
    },
    /// Truncating cluster log.
    Truncating {
        /// Own log term.
        term_id: i64,
        /// Old end, bytes.
        from: i64,
        /// New end, bytes.
        to: i64,
    },
    /// The log of the leader starts above the own end: a backup must be restored (spec 07 §31).
    LeaderLogStartsAbove {
        /// The leader.
        member_id: i32,
        /// Begin of its log, bytes; -1 when unknown.
        start: i64,
        /// End of the own log, bytes.
        position: i64,
    },
    /// A NewLeadershipTerm does not say what lies between the own log and the leader's term.
    NextTermUnknown {
        /// The leader.
        member_id: i32,
        /// Its term.
        term_id: i64,
    },
    /// A term is further above the own one than any number of ballots explains.
    TermTooHigh {
        /// Sender or candidate.
        member_id: i32,
        /// The term.
        term_id: i64,
    },
    /// No term follows the highest one.
    TermsExhausted,
    /// The version of another member's application is incompatible.
    IncompatibleVersion {
        /// The member.
        member_id: i32,
        /// Its version.
        version: i32,
    },
    /// A message names a member that is not of the cluster.
    UnknownMember {
        /// The id.
        member_id: i32,
    },
    /// Another member uses the own id.
    OwnIdUsed,
    /// A request failed.
    RequestFailed {
        /// State in which it failed.
        state: State,
    },
    /// A time-out in a state.
    TimedOut {
        /// The state.
        state: State,
        /// The timer.
        timer: TimerKind,
    },
    /// A replication ended before its stop position (spec 07 §12).
    ReplicationCutShort {
        /// Position at which it ended, bytes.
        position: i64,
        /// Position at which it should have ended, bytes.
        stop: i64,
    },
    /// The image of the log does not begin at the own log position.
    JoinPositionDiffers {
        /// Position at which it begins, bytes.
        join_position: i64,
        /// Own log position, bytes.
        log_position: i64,
    },
    /// Append position below the notified commit position: this member does not stand (spec 07 §6).
    LacksCommitted {
        /// End of the own log, bytes.
        append: i64,
        /// Notified commit position, bytes.
        commit: i64,
    },
}

/// Actions of one input, in the order in which to carry them out.
#[derive(Debug, Clone)]
pub struct Actions {
    list: [Action; MAX_ACTIONS],
    length: usize,
}

impl Default for Actions {
    fn default() -> Self {
        Self::new()
    }
}

impl Actions {
    /// Creates an empty list.
    pub const fn new() -> Self {
        Self { list: [Action::LeaderHeard; MAX_ACTIONS], length: 0 }
    }

    /// Adds an action.
    ///
    /// # Panics
    /// When the list is full: no input causes that many actions.
    pub fn push(&mut self, action: Action) {
        assert!(self.length < MAX_ACTIONS, "an input caused too many actions");
        self.list[self.length] = action;
        self.length += 1;
    }

    /// Removes all actions.
    pub fn clear(&mut self) {
        self.length = 0;
    }

    /// The actions.
    pub fn as_slice(&self) -> &[Action] {
        &self.list[..self.length]
    }

    /// True without actions.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}
