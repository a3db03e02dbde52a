//! Bugs that a simulator plants to prove that its checkers bite.
//!
//! Without the feature `planted-bugs` nothing can be planted and every question is answered `false` at compile time.

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A gap counts as asked for although no NAK was sent.
    SkippedNak,
    /// The commit position follows what was appended, not what is recorded.
    EarlyCommit,
    /// Changes of recording.log are not synced.
    UnsyncedRecordingLog,
    /// A timer stays set after it has fired.
    TimerFiresTwice,
    /// A client's close is taken, but not put into the log.
    LostClose,
    /// An entry of the catalog is believed whatever its checksum says.
    TornCatalogEntry,
    /// Timers are left out of the consensus module's snapshot.
    SnapshotWithoutTimers,
    /// Messages of services that wait for the log are left out of the consensus module's snapshot.
    SnapshotWithoutQueue,
    /// Sessions are left out of a service container's snapshot.
    SnapshotWithoutSessions,
    /// Where the messages of services stand is not taken over from a snapshot.
    TrackerNotRestored,
    /// The log grows while a snapshot is taken.
    SnapshotWhileOpen,
    /// A suspended node goes on.
    SuspendedGoesOn,
    /// A new leadership term leaves the expiries of leases as they are.
    LeaseNotExtended,
    /// A tenure's token is not above all earlier ones.
    TokenNotMonotonic,
    /// Who waits for a tenure that ended while the node restarted is not woken, but waits for the next one to end.
    WakeUpLost,
    /// Waits for release are left out of the lease service's snapshot.
    SnapshotWithoutWaiters,
    /// A gap that was asked for once is not asked for again.
    NakNotRepeated,
    /// A gap is filled although the stream is reliable.
    ReliableGapFilled,
    /// The slowest receiver of a group does not hold it back.
    SlowestReceiverIgnored,
    /// An untethered subscriber that is too slow is not left behind.
    LaggardHoldsBack,
    /// What was sent again once is never sent again.
    ResentOnlyOnce,
    /// An image stays although nothing comes for it any more.
    ImageOutlivesSender,
    /// Receivers of a group ask at once and all the time for what they lack.
    BackOffIgnored,
    /// A receiver of a group that has fallen silent still counts.
    StaleMemberCounts,
    /// What a group is being sent again is sent once more for each receiver that asks.
    EveryNakAnswered,
}

impl Bug {
    /// All of them.
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

    /// Name for reports.
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

    /// Plants a bug in all that this thread runs, or takes it out again.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// Whether a bug is planted on this thread.
    #[inline]
    pub fn is_planted(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }
}

#[cfg(feature = "planted-bugs")]
pub use switch::{is_planted, plant};

/// Whether this build can plant bugs.
pub const IS_AVAILABLE: bool = cfg!(feature = "planted-bugs");

/// Plants nothing: this build has no bugs to plant.
#[cfg(not(feature = "planted-bugs"))]
pub fn plant(_bug: Option<Bug>) {}

/// Whether a bug is planted on this thread: never.
#[cfg(not(feature = "planted-bugs"))]
#[inline(always)]
pub const fn is_planted(_bug: Bug) -> bool {
    false
}
