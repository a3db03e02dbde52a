//! States of an election.

/// A state with its code in the counter of election states (spec 04 §5.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum State {
    /// Stops the log and rolls back what was not committed.
    Init,
    /// Exchanges log positions with the other members.
    Canvass,
    /// Waits before it stands, so that the best log stands first.
    Nominate,
    /// Stands, and counts votes.
    CandidateBallot,
    /// Voted for another member, and waits for its result.
    FollowerBallot,
    /// Elected: waits until a quorum holds its log.
    LeaderLogReplication,
    /// Waits until a quorum knows the term, then replays its log to the services.
    LeaderReplay,
    /// Records its log, and lets the services join it.
    LeaderInit,
    /// Waits until a quorum has joined the log.
    LeaderReady,
    /// Replicates a term from the leader's archive.
    FollowerLogReplication,
    /// Replays its log to the services.
    FollowerReplay,
    /// Asks for what it lacks of the current term.
    FollowerCatchupInit,
    /// Waits for the replay, and lets the services join it.
    FollowerCatchupAwait,
    /// Reads the replay until it has caught up.
    FollowerCatchup,
    /// Subscribes to the leader's log.
    FollowerLogInit,
    /// Waits for the leader's log, and lets the services join it.
    FollowerLogAwait,
    /// Tells the leader that it has joined.
    FollowerReady,
    /// No election: leads or follows.
    Closed,
}

impl State {
    /// All states by code.
    pub const ALL: [Self; 18] = [
        Self::Init,
        Self::Canvass,
        Self::Nominate,
        Self::CandidateBallot,
        Self::FollowerBallot,
        Self::LeaderLogReplication,
        Self::LeaderReplay,
        Self::LeaderInit,
        Self::LeaderReady,
        Self::FollowerLogReplication,
        Self::FollowerReplay,
        Self::FollowerCatchupInit,
        Self::FollowerCatchupAwait,
        Self::FollowerCatchup,
        Self::FollowerLogInit,
        Self::FollowerLogAwait,
        Self::FollowerReady,
        Self::Closed,
    ];

    /// Code in the counter of election states.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// Name in reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Init => "INIT",
            Self::Canvass => "CANVASS",
            Self::Nominate => "NOMINATE",
            Self::CandidateBallot => "CANDIDATE_BALLOT",
            Self::FollowerBallot => "FOLLOWER_BALLOT",
            Self::LeaderLogReplication => "LEADER_LOG_REPLICATION",
            Self::LeaderReplay => "LEADER_REPLAY",
            Self::LeaderInit => "LEADER_INIT",
            Self::LeaderReady => "LEADER_READY",
            Self::FollowerLogReplication => "FOLLOWER_LOG_REPLICATION",
            Self::FollowerReplay => "FOLLOWER_REPLAY",
            Self::FollowerCatchupInit => "FOLLOWER_CATCHUP_INIT",
            Self::FollowerCatchupAwait => "FOLLOWER_CATCHUP_AWAIT",
            Self::FollowerCatchup => "FOLLOWER_CATCHUP",
            Self::FollowerLogInit => "FOLLOWER_LOG_INIT",
            Self::FollowerLogAwait => "FOLLOWER_LOG_AWAIT",
            Self::FollowerReady => "FOLLOWER_READY",
            Self::Closed => "CLOSED",
        }
    }

    /// True in the states of a leader-elect (5 to 8).
    pub const fn is_leading(self) -> bool {
        matches!(self, Self::LeaderLogReplication | Self::LeaderReplay | Self::LeaderInit | Self::LeaderReady)
    }

    /// True in the states of a member that has adopted a leader (9 to 16).
    pub const fn is_following(self) -> bool {
        self as u8 >= Self::FollowerLogReplication as u8 && self as u8 <= Self::FollowerReady as u8
    }

    /// True in the states in which a member may vote for another (1 to 4).
    pub const fn is_open_to_votes(self) -> bool {
        self as u8 >= Self::Canvass as u8 && self as u8 <= Self::FollowerBallot as u8
    }
}
