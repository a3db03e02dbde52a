//! Bugs that a simulator plants to prove that its checkers find them.
//!
//! Without the feature `planted-bugs` nothing can be planted, and every check is `false` at compile time.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A gap counts as requested although no NAK was sent.
    SkippedNak,
    /// The commit position follows the appended position, not the recorded position.
    EarlyCommit,
    /// Changes of recording.log are not synced.
    UnsyncedRecordingLog,
    /// A timer stays set after it has fired.
    TimerFiresTwice,
    /// The close request of a client is accepted but not appended to the log.
    LostClose,
    /// An entry of the catalog is used although its checksum is wrong.
    TornCatalogEntry,
    /// Timers are missing from the consensus module's snapshot.
    SnapshotWithoutTimers,
    /// Messages of services that wait for the log are missing from the consensus module's snapshot.
    SnapshotWithoutQueue,
    /// Sessions are missing from a service container's snapshot.
    SnapshotWithoutSessions,
    /// The positions of service messages are not restored from a snapshot.
    TrackerNotRestored,
    /// The log grows while a snapshot is taken.
    SnapshotWhileOpen,
    /// A suspended node continues.
    SuspendedGoesOn,
    /// A new leadership term does not extend the expiries of leases.
    LeaseNotExtended,
    /// The token of a tenure is not above all earlier tokens.
    TokenNotMonotonic,
    /// A waiter for a tenure that ended while the node restarted is not woken, but waits for the end of the next
    /// tenure.
    WakeUpLost,
    /// Waiters are missing from the lease service's snapshot.
    SnapshotWithoutWaiters,
    /// A NAK for a gap is not repeated.
    NakNotRepeated,
    /// A gap of a reliable stream is filled with padding.
    ReliableGapFilled,
    /// The slowest receiver of a group does not limit the sender.
    SlowestReceiverIgnored,
    /// An untethered subscriber that is too slow still limits the publisher.
    LaggardHoldsBack,
    /// A range that was retransmitted once is never retransmitted again.
    ResentOnlyOnce,
    /// An image stays although nothing arrives for it any more.
    ImageOutlivesSender,
    /// Receivers of a group send NAKs at once and all the time.
    BackOffIgnored,
    /// A receiver of a group that has fallen silent still counts.
    StaleMemberCounts,
    /// Each NAK of a group is answered, even while a retransmission of the range is under way.
    EveryNakAnswered,
    /// A member follows a leader of a lower term than the one that it voted in (spec 07 §1).
    LowerLeaderFollowed,
    /// A vote is sent before it is durable (spec 07 §1).
    VoteBeforeDisk,
    /// A candidate asks for votes before its term is durable (spec 07 §1).
    StandBeforeDisk,
    /// Positions on another branch of the log count for the quorum (spec 07 §2).
    BranchCounted,
    /// A leader-elect tells entries of older terms as committed before a quorum knows its term (spec 07 §2).
    OldTermCommitted,
    /// A member truncates what it has applied (spec 07 §3).
    CommittedTruncated,
    /// The entry of a term is written after entries of the term were recorded (spec 07 §4).
    LateTermEntry,
    /// A leader-elect ignores leaders and candidates of higher terms (spec 07 §5).
    LeaderElectStays,
    /// A member votes for a candidate that lacks what is committed (spec 07 §6).
    LackingCandidateElected,
    /// A repeated request for a vote that was given is answered with NO (spec 07 §7).
    RepeatedVoteRefused,
    /// A follower reads the log before its services have joined it (spec 07 §9).
    LogReadBeforeJoin,
    /// A follower waits for a commit position without a time-out (spec 07 §11).
    ReplayWaitsForEver,
    /// A replication that ended early counts as complete (spec 07 §12).
    ReplicationCutShort,
    /// Members that have not joined the log count as ready (spec 07 §21).
    ReadyWithoutJoin,
    /// A follower joins a log that begins above its own end.
    JoinGapAccepted,
    /// A follower replays its log past the commit position.
    ReplayPastCommit,
    /// A member whose log ends below the begin of the leader's starts election after election (spec 07 §31).
    EndlessAfterPurge,
    /// A candidate leads without the votes of a quorum.
    MinorityElected,
    /// A member votes for a candidate whose log is worse than its own.
    WorseLogElected,
    /// The end of a request of an earlier election is used.
    StaleCompletionUsed,
}

impl Bug {
    /// All planted bugs.
    pub const ALL: [Self; 45] = [
        Self::SkippedNak,
        Self::EarlyCommit,
        Self::UnsyncedRecordingLog,
        Self::TimerFiresTwice,
        Self::LostClose,
        Self::TornCatalogEntry,
        Self::SnapshotWithoutTimers,
        Self::SnapshotWithoutQueue,
        Self::SnapshotWithoutSessions,
        Self::TrackerNotRestored,
        Self::SnapshotWhileOpen,
        Self::SuspendedGoesOn,
        Self::LeaseNotExtended,
        Self::TokenNotMonotonic,
        Self::WakeUpLost,
        Self::SnapshotWithoutWaiters,
        Self::NakNotRepeated,
        Self::ReliableGapFilled,
        Self::SlowestReceiverIgnored,
        Self::LaggardHoldsBack,
        Self::ResentOnlyOnce,
        Self::ImageOutlivesSender,
        Self::BackOffIgnored,
        Self::StaleMemberCounts,
        Self::EveryNakAnswered,
        Self::LowerLeaderFollowed,
        Self::VoteBeforeDisk,
        Self::StandBeforeDisk,
        Self::BranchCounted,
        Self::OldTermCommitted,
        Self::CommittedTruncated,
        Self::LateTermEntry,
        Self::LeaderElectStays,
        Self::LackingCandidateElected,
        Self::RepeatedVoteRefused,
        Self::LogReadBeforeJoin,
        Self::ReplayWaitsForEver,
        Self::ReplicationCutShort,
        Self::ReadyWithoutJoin,
        Self::JoinGapAccepted,
        Self::ReplayPastCommit,
        Self::EndlessAfterPurge,
        Self::MinorityElected,
        Self::WorseLogElected,
        Self::StaleCompletionUsed,
    ];

    /// Name of the bug in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::SkippedNak => "skipped-nak",
            Self::EarlyCommit => "early-commit",
            Self::UnsyncedRecordingLog => "unsynced-recording-log",
            Self::TimerFiresTwice => "timer-fires-twice",
            Self::LostClose => "lost-close",
            Self::TornCatalogEntry => "torn-catalog-entry",
            Self::SnapshotWithoutTimers => "snapshot-without-timers",
            Self::SnapshotWithoutQueue => "snapshot-without-queue",
            Self::SnapshotWithoutSessions => "snapshot-without-sessions",
            Self::TrackerNotRestored => "tracker-not-restored",
            Self::SnapshotWhileOpen => "snapshot-while-open",
            Self::SuspendedGoesOn => "suspended-goes-on",
            Self::LeaseNotExtended => "lease-not-extended",
            Self::TokenNotMonotonic => "token-not-monotonic",
            Self::WakeUpLost => "wake-up-lost",
            Self::SnapshotWithoutWaiters => "snapshot-without-waiters",
            Self::NakNotRepeated => "nak-not-repeated",
            Self::ReliableGapFilled => "reliable-gap-filled",
            Self::SlowestReceiverIgnored => "slowest-receiver-ignored",
            Self::LaggardHoldsBack => "laggard-holds-back",
            Self::ResentOnlyOnce => "resent-only-once",
            Self::ImageOutlivesSender => "image-outlives-sender",
            Self::BackOffIgnored => "back-off-ignored",
            Self::StaleMemberCounts => "stale-member-counts",
            Self::EveryNakAnswered => "every-nak-answered",
            Self::LowerLeaderFollowed => "lower-leader-followed",
            Self::VoteBeforeDisk => "vote-before-disk",
            Self::StandBeforeDisk => "stand-before-disk",
            Self::BranchCounted => "branch-counted",
            Self::OldTermCommitted => "old-term-committed",
            Self::CommittedTruncated => "committed-truncated",
            Self::LateTermEntry => "late-term-entry",
            Self::LeaderElectStays => "leader-elect-stays",
            Self::LackingCandidateElected => "lacking-candidate-elected",
            Self::RepeatedVoteRefused => "repeated-vote-refused",
            Self::LogReadBeforeJoin => "log-read-before-join",
            Self::ReplayWaitsForEver => "replay-waits-for-ever",
            Self::ReplicationCutShort => "replication-cut-short",
            Self::ReadyWithoutJoin => "ready-without-join",
            Self::JoinGapAccepted => "join-gap-accepted",
            Self::ReplayPastCommit => "replay-past-commit",
            Self::EndlessAfterPurge => "endless-after-purge",
            Self::MinorityElected => "minority-elected",
            Self::WorseLogElected => "worse-log-elected",
            Self::StaleCompletionUsed => "stale-completion-used",
        }
    }
}

#[cfg(feature = "planted-bugs")]
mod switch {
    use super::Bug;
    use std::cell::Cell;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
    }

    /// Plants a bug for everything that this thread runs, or removes it.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// True when the bug is planted on this thread.
    #[inline]
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{is_planted, plant};

/// True when this build can plant bugs.
pub const IS_AVAILABLE: bool = cfg!(feature = "planted-bugs");

/// Does nothing: this build cannot plant bugs.
#[cfg(not(feature = "planted-bugs"))]
pub fn plant(_bug: Option<Bug>) {}

/// Returns false: this build cannot plant bugs.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}
