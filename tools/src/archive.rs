//! `harrier archive`: the directory of an archive, its catalog and its segments.

mod change;
mod describe;

use std::io::{BufRead, IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use harrier::archive::catalog::{CatalogEntry, RecordingState};
use harrier::archive::tool::{ArchiveEditor, ArchiveFiles, ToolError};
use harrier::archive::{ArchiveMark, Checksum};
use harrier::platform::{FileStorage, MappedMemory, SystemClock};
use harrier::ringbuf::Clock;

use crate::CommandError;

const EXAMPLES: &str = "\
Examples:
  harrier archive /var/lib/harrier/archive describe
  harrier archive /var/lib/harrier/archive describe 7 --json
  harrier archive /var/lib/harrier/archive dump 20
      the first 20 frames of each recording
  harrier archive /var/lib/harrier/archive verify -a --checksum CRC-32C
  harrier archive /var/lib/harrier/archive compact --yes
  harrier archive /var/lib/harrier/archive migrate --yes
      files of versions before 3; each step leaves a stamp, migration-FROM-to-TO.dat

Commands that change files refuse while an archive lives in the directory, and take it from every archive while they work.
Exit codes: 0 done, 1 failed or a recording is faulty, 2 wrong usage.";

/// Arguments of `harrier archive`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct ArchiveArguments {
    /// Directory of the archive.
    pub dir: PathBuf,
    /// The command.
    #[command(subcommand)]
    pub command: ArchiveCommand,
}

/// Command of `harrier archive`.
#[derive(Debug, Subcommand)]
pub enum ArchiveCommand {
    /// Shows the mark file and all valid recordings, or one recording of any state.
    Describe {
        /// The recording.
        recording_id: Option<i64>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows the mark file and all recordings with their states.
    DescribeAll {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Shows one recording of any state with its segment files.
    DescribeRecording {
        /// The recording.
        recording_id: i64,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints the number of valid recordings.
    CountEntries,
    /// Shows the frames of all recordings that were not purged.
    Dump {
        /// Most frames of each recording [default: all].
        frames: Option<u64>,
        /// Shows only this recording.
        #[arg(long)]
        recording_id: Option<i64>,
    },
    /// Shows the errors of the archive, and of its driver if there is one.
    Errors {
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Prints the process id of the archive that created the mark file.
    Pid,
    /// Verifies recordings: positions, segment files, frames; faulty ones become invalid.
    Verify {
        /// Verifies only this recording.
        recording_id: Option<i64>,
        /// Verifies every segment file instead of the last one of each recording.
        #[arg(short, long = "all")]
        all: bool,
        /// Checks checksums of entries and frames too: CRC-32 or CRC-32C.
        #[arg(long, value_name = "NAME", value_parser = parse_checksum)]
        checksum: Option<Checksum>,
        /// Answers without asking what to do with a last frame that may be torn.
        #[arg(long, value_enum, value_name = "WHAT")]
        torn: Option<TornChoice>,
        /// Prints JSON.
        #[arg(long)]
        json: bool,
    },
    /// Computes checksums and writes them into catalog and segments; they replace the session ids of frames.
    Checksum {
        /// CRC-32 or CRC-32C.
        #[arg(value_parser = parse_checksum)]
        checksum: Checksum,
        /// Changes only this recording.
        recording_id: Option<i64>,
        /// Changes every segment file instead of the last one of each recording.
        #[arg(short, long = "all")]
        all: bool,
    },
    /// Removes entries that are not valid from the catalog, with their segment files. Asks first.
    Compact {
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Removes segment files outside the positions of their recordings. Asks first.
    DeleteOrphanedSegments {
        /// Checks only this recording.
        recording_id: Option<i64>,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Removes whole segments before a position; the last one stays. Asks first. For a stopped archive; a running one takes
    /// the request to purge segments.
    PurgeTo {
        /// The recording.
        recording_id: i64,
        /// First position to keep, bytes; the segment that holds it stays.
        position: i64,
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
    /// Makes an invalid recording valid.
    MarkValid {
        /// The recording.
        recording_id: i64,
    },
    /// Makes a recording invalid: requests no longer find it.
    MarkInvalid {
        /// The recording.
        recording_id: i64,
    },
    /// Prints the length of the catalog file, or extends it.
    Capacity {
        /// New capacity, bytes.
        bytes: Option<u64>,
    },
    /// Kept for scripts: the number of entries is limited only by the capacity of the catalog.
    MaxEntries {
        /// Ignored.
        entries: Option<u64>,
    },
    /// Migrates an archive of an older major version (0, 1, 2) to version 3. Asks first; make a backup before.
    Migrate {
        /// Does not ask.
        #[arg(long)]
        yes: bool,
    },
}

/// Answer to a last frame that may be torn.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum TornChoice {
    /// The recording ends before the frame.
    Truncate,
    /// The frame is complete.
    Keep,
}

fn parse_checksum(name: &str) -> Result<Checksum, String> {
    Checksum::by_name(name).ok_or_else(|| format!("'{name}' is no checksum; there are CRC-32 and CRC-32C"))
}

type Files = ArchiveFiles<FileStorage>;
type Editor = ArchiveEditor<MappedMemory, FileStorage>;

impl From<ToolError> for CommandError {
    fn from(error: ToolError) -> Self {
        Self::failed(error)
    }
}

/// Runs the command.
///
/// # Errors
/// See [`CommandError`].
pub fn run(arguments: &ArchiveArguments) -> Result<(), CommandError> {
    let directory = arguments.dir.as_path();
    match &arguments.command {
        ArchiveCommand::Describe { recording_id: Some(id), json }
        | ArchiveCommand::DescribeRecording { recording_id: id, json } => {
            describe::one(directory, *id, *json)
        }
        ArchiveCommand::Describe { recording_id: None, json } => describe::all(directory, false, *json),
        ArchiveCommand::DescribeAll { json } => describe::all(directory, true, *json),
        ArchiveCommand::CountEntries => describe::count(directory),
        ArchiveCommand::Dump { frames, recording_id } => describe::dump(directory, *frames, *recording_id),
        ArchiveCommand::Errors { json } => describe::errors(directory, *json),
        ArchiveCommand::Pid => describe::pid(directory),
        ArchiveCommand::Verify { recording_id, all, checksum, torn, json } => {
            let wanted = change::Verification { all: *all, checksum: *checksum, torn: *torn, json: *json };
            change::verify(directory, *recording_id, &wanted)
        }
        ArchiveCommand::Checksum { checksum, recording_id, all } => {
            change::checksum(directory, *checksum, *recording_id, *all)
        }
        ArchiveCommand::Compact { yes } => change::compact(directory, *yes),
        ArchiveCommand::DeleteOrphanedSegments { recording_id, yes } => {
            change::delete_orphaned(directory, *recording_id, *yes)
        }
        ArchiveCommand::PurgeTo { recording_id, position, yes } => {
            change::purge_to(directory, *recording_id, *position, *yes)
        }
        ArchiveCommand::MarkValid { recording_id } => change::mark(directory, *recording_id, true),
        ArchiveCommand::MarkInvalid { recording_id } => change::mark(directory, *recording_id, false),
        ArchiveCommand::Capacity { bytes } => change::capacity(directory, *bytes),
        ArchiveCommand::MaxEntries { .. } => {
            crate::print::text("max-entries does nothing: use capacity, which is in bytes\n")
        }
        ArchiveCommand::Migrate { yes } => change::migrate(directory, *yes),
    }
}

fn files(directory: &Path) -> Result<Files, CommandError> {
    Ok(ArchiveFiles::open(directory, FileStorage::inline())?)
}

fn editor(directory: &Path) -> Result<Editor, CommandError> {
    Ok(ArchiveEditor::take(directory, &MappedMemory, FileStorage::inline(), &SystemClock.now())?)
}

fn mark(directory: &Path) -> Result<Option<ArchiveMark>, CommandError> {
    ArchiveMark::read(&MappedMemory, directory).map_err(CommandError::failed)
}

fn state_name(entry: &CatalogEntry) -> &'static str {
    match entry.state {
        RecordingState::Invalid => "INVALID",
        RecordingState::Valid => "VALID",
        RecordingState::Deleted => "DELETED",
    }
}

/// Asks on the terminal, or reads an answer that is piped in. An empty line means yes on a terminal only.
fn is_confirmed(question: &str) -> Result<bool, CommandError> {
    let mut errors = std::io::stderr().lock();
    let _nobody_looks = write!(errors, "{question} (y/n): ").and_then(|()| errors.flush());
    let mut answer = String::new();
    let count = std::io::stdin().lock().read_line(&mut answer).map_err(CommandError::failed)?;
    if count == 0 {
        let _nobody_looks = writeln!(errors);
        return Ok(false);
    }
    let answer = answer.trim().to_lowercase();
    Ok(answer == "y" || answer == "yes" || (answer.is_empty() && std::io::stdin().is_terminal()))
}
