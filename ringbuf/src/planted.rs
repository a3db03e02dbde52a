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
}

impl Bug {
    /// All planted bugs.
    pub const ALL: [Self; 25] = [
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
