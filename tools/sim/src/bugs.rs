//! Bugs that are planted to prove that the checkers find them.

use harrier_archive::SyncLevel;
use harrier_ringbuf::planted::{self, Bug};

use crate::area::Area;
use crate::history::Violation;

/// True when this build can plant bugs.
pub const ARE_COMPILED_IN: bool = planted::IS_AVAILABLE;

/// All bugs.
pub const ALL: [Bug; 45] = Bug::ALL;

/// Result of a search for a planted bug.
#[derive(Debug, Clone)]
pub struct Found {
    /// Number of seeds that were run.
    pub seeds: u64,
    /// Seed that showed the bug.
    pub seed: u64,
    /// The first broken rule.
    pub violation: Violation,
}

/// Returns the sync level at which a bug shows: missing syncs need crashes of the machine.
pub fn sync_level_of(bug: Bug) -> SyncLevel {
    match bug {
        Bug::UnsyncedRecordingLog | Bug::TornCatalogEntry | Bug::EarlyCommit => SyncLevel::Data,
        _ => SyncLevel::None,
    }
}

/// Returns the area whose checkers find a bug.
pub fn area_of(bug: Bug) -> Area {
    match bug {
        Bug::LeaseNotExtended | Bug::TokenNotMonotonic | Bug::WakeUpLost | Bug::SnapshotWithoutWaiters => {
            Area::Lease
        }
        Bug::NakNotRepeated
        | Bug::ReliableGapFilled
        | Bug::SlowestReceiverIgnored
        | Bug::LaggardHoldsBack
        | Bug::ResentOnlyOnce
        | Bug::ImageOutlivesSender
        | Bug::BackOffIgnored
        | Bug::StaleMemberCounts
        | Bug::EveryNakAnswered => Area::Streams,
        Bug::LowerLeaderFollowed
        | Bug::VoteBeforeDisk
        | Bug::StandBeforeDisk
        | Bug::BranchCounted
        | Bug::OldTermCommitted
        | Bug::CommittedTruncated
        | Bug::LateTermEntry
        | Bug::LeaderElectStays
        | Bug::LackingCandidateElected
        | Bug::RepeatedVoteRefused
        | Bug::LogReadBeforeJoin
        | Bug::ReplayWaitsForEver
        | Bug::ReplicationCutShort
        | Bug::ReadyWithoutJoin
        | Bug::JoinGapAccepted
        | Bug::ReplayPastCommit
        | Bug::EndlessAfterPurge
        | Bug::MinorityElected
        | Bug::WorseLogElected
        | Bug::StaleCompletionUsed => Area::Election,
        _ => Area::Node,
    }
}

/// Runs seeds with a planted bug until a checker finds it; returns `None` when no checker does. Seeds of area election are
/// short, so it gets four times as many.
pub fn find(bug: Bug, from: u64, seeds: u64) -> Option<Found> {
    let sync_level = sync_level_of(bug);
    let seeds = if area_of(bug) == Area::Election { seeds.saturating_mul(4) } else { seeds };
    for seed in from..from.saturating_add(seeds) {
        planted::plant(Some(bug));
        let outcome = area_of(bug).run(seed, sync_level, false);
        planted::plant(None);
        if let Some(violation) = outcome.violations.into_iter().next() {
            return Some(Found { seeds: seed - from + 1, seed, violation });
        }
    }
    None
}

/// Returns a line for a report.
pub fn describe(bug: Bug, seeds: u64, found: Option<&Found>, json: bool) -> String {
    match (found, json) {
        (Some(found), true) => format!(
            "{{\"bug\":{:?},\"caught\":true,\"seeds\":{},\"seed\":{},\"checker\":{:?}}}",
            bug.name(),
            found.seeds,
            found.seed,
            found.violation.checker
        ),
        (None, true) => format!("{{\"bug\":{:?},\"caught\":false,\"seeds\":{seeds}}}", bug.name()),
        (Some(found), false) => format!(
            "{:<24} caught after {:>3} seeds (seed {}) by [{}] {}",
            bug.name(),
            found.seeds,
            found.seed,
            found.violation.checker,
            found.violation.text
        ),
        (None, false) => format!("{:<24} NOT caught in {seeds} seeds", bug.name()),
    }
}
