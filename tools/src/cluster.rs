//! `harrier cluster`: the directory of a member, and the member while it runs.

mod files;
mod live;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use harrier::cluster::tool::{ClusterFilesError, ToggleCommand};

use crate::CommandError;

const EXAMPLES: &str = "\
Examples:
  harrier cluster /var/lib/harrier/cluster describe
  harrier cluster /var/lib/harrier/cluster list-members --json
  harrier cluster /var/lib/harrier/cluster snapshot
      has the leader take a snapshot and waits until it is taken
  harrier cluster /var/lib/harrier/cluster is-leader && echo this one leads
  harrier cluster /var/lib/harrier/cluster recording-log

Commands that change files refuse while the member runs. Commands to a running member use the driver that its mark file names.
Exit codes: 0 done, 1 failed, 2 wrong usage. is-leader: 0 leader, 1 not; sort-recording-log: 1 when it is sorted already.";

/// Arguments of `harrier cluster`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ClusterArguments {
    /// Directory of the member (`cluster` below the directory of a node).
    pub dir: PathBuf,
    /// The command.
    #[command(subcommand)]
    pub command: ClusterCommand,
}

/// Options of commands to a running member.
#[derive(Debug, Clone, Args)]
pub struct LiveArguments {
    /// Time in which an answer must come, ms.
    #[arg(long, value_name = "MS", default_value_t = 5_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub timeout_ms: u64,
}

/// Command of `harrier cluster`.
#[derive(Debug, Subcommand)]
pub enum ClusterCommand {
    /// Shows the mark files of the member and its services.
    Describe {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints the process id of the member.
    Pid,
    /// Shows where the member would start after a restart. Needs its archive.
    RecoveryPlan {
        /// Number of services [default: as many as have mark files].
        service_count: Option<usize>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        /// Options of the request to the member.
        #[command(flatten)]
        live: LiveArguments,
    },
    /// Shows terms and snapshots in their order.
    RecordingLog {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Sorts the entries of recording.log; invalid ones stay invalid.
    SortRecordingLog,
    /// Creates recording.log anew with the latest snapshot; the old file is kept as recording.log.bak.
    SeedRecordingLogFromSnapshot,
    /// Writes a missing or damaged recording.log anew: from its sealed copy, or from the log that the archive has. The old file
    /// is kept as recording.log.bak.
    RebuildRecordingLog {
        /// Directory of the archive [default: archive beside the member's directory].
        #[arg(long, value_name = "DIR")]
        archive: Option<PathBuf>,
    },
    /// Shows the errors of the member, its services and their driver.
    Errors {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Asks the member for the leader and the members of the cluster.
    ListMembers {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
        /// Options of the request to the member.
        #[command(flatten)]
        live: LiveArguments,
    },
    /// Shows when a backup asks the cluster next, or makes it ask after a delay.
    BackupQuery {
        /// Delay until it asks, ms.
        delay_ms: Option<i64>,
    },
    /// Invalidates the latest snapshot: after a restart the one before is loaded.
    InvalidateLatestSnapshot,
    /// Exits with 0 when the member leads and with 1 when it does not.
    IsLeader,
    /// Makes the leader take a snapshot and waits up to 30 s for it.
    Snapshot(LiveArguments),
    /// Makes the leader append nothing more.
    Suspend(LiveArguments),
    /// Makes a suspended leader continue, and waits for it.
    Resume(LiveArguments),
    /// Terminates the cluster with a snapshot.
    Shutdown(LiveArguments),
    /// Terminates the cluster without a snapshot.
    Abort(LiveArguments),
    /// Shows the latest snapshot of the consensus module. Needs the member's archive.
    DescribeLatestCmSnapshot {
        /// Prints JSON, one object per line.
        #[arg(long)]
        json: bool,
        /// Channel on which the snapshot is replayed.
        #[arg(long, default_value = "aeron:ipc")]
        replay_channel: String,
        /// Stream on which the snapshot is replayed.
        #[arg(long, default_value_t = 103)]
        replay_stream_id: i32,
        /// Options of the request to the member.
        #[command(flatten)]
        live: LiveArguments,
    },
    /// Makes the member check that its archive has all recordings of recording.log, and waits up to 30 s.
    ValidateRecordingLog(LiveArguments),
    /// Makes the member fetch snapshots of standbys that are newer than its own, and waits up to 30 s until it has
    /// begun.
    ReplicateStandbySnapshot(LiveArguments),
}

impl From<ClusterFilesError> for CommandError {
    fn from(error: ClusterFilesError) -> Self {
        Self::failed(error)
    }
}

/// Runs the command.
///
/// # Errors
/// See [`CommandError`].
pub fn run(arguments: &ClusterArguments) -> Result<(), CommandError> {
    let directory = arguments.dir.as_path();
    match &arguments.command {
        ClusterCommand::Describe { json } => files::describe(directory, *json),
        ClusterCommand::Pid => files::pid(directory),
        ClusterCommand::RecordingLog { json } => files::recording_log(directory, *json),
        ClusterCommand::SortRecordingLog => files::sort(directory),
        ClusterCommand::SeedRecordingLogFromSnapshot => files::seed(directory),
        ClusterCommand::RebuildRecordingLog { archive } => files::rebuild(directory, archive.as_deref()),
        ClusterCommand::Errors { json } => files::errors(directory, *json),
        ClusterCommand::InvalidateLatestSnapshot => files::invalidate(directory),
        ClusterCommand::RecoveryPlan { service_count, json, live } => {
            live::recovery_plan(directory, *service_count, *json, live)
        }
        ClusterCommand::ListMembers { json, live } => live::list_members(directory, *json, live),
        ClusterCommand::BackupQuery { delay_ms } => live::backup_query(directory, *delay_ms),
        ClusterCommand::IsLeader => live::is_leader(directory),
        ClusterCommand::DescribeLatestCmSnapshot { json, replay_channel, replay_stream_id, live } => {
            live::describe_snapshot(directory, *json, replay_channel, *replay_stream_id, live)
        }
        ClusterCommand::Snapshot(live) => toggle(directory, ToggleCommand::Snapshot, live),
        ClusterCommand::Suspend(live) => toggle(directory, ToggleCommand::Suspend, live),
        ClusterCommand::Resume(live) => toggle(directory, ToggleCommand::Resume, live),
        ClusterCommand::Shutdown(live) => toggle(directory, ToggleCommand::Shutdown, live),
        ClusterCommand::Abort(live) => toggle(directory, ToggleCommand::Abort, live),
        ClusterCommand::ValidateRecordingLog(live) => {
            toggle(directory, ToggleCommand::ValidateRecordingLog, live)
        }
        ClusterCommand::ReplicateStandbySnapshot(live) => {
            toggle(directory, ToggleCommand::ReplicateStandbySnapshot, live)
        }
    }
}

fn toggle(directory: &Path, command: ToggleCommand, live: &LiveArguments) -> Result<(), CommandError> {
    live::toggle(directory, command, live)
}
