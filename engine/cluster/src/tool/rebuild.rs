//! Rebuilding recording.log from its sealed copy or from the log in the archive.

use std::path::{Path, PathBuf};

use harrier_archive::catalog::RecordingState;
use harrier_archive::tool::{ArchiveFiles, RecordedFrame};
use harrier_ringbuf::storage::Storage;
use harrier_ringbuf::{Memory, Now};

use super::files::{BACKUP_SUFFIX, ClusterFilesError, lock_out, read_log, replace_log, write_file};
use crate::codec::LogMessage;
use crate::recording_log::{
    Entry, EntryType, RECORDING_LOG_FILE, SEAL_FILE, encode, has_recording_log, parse, sealed_copy,
};

/// Stream of the log (spec 04 §2.1).
const LOG_STREAM_ID: i32 = 100;
/// Flags of an unfragmented message.
const UNFRAGMENTED: u8 = 0xC0;

/// Result of rebuilding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rebuilt {
    /// Source of the entries: a file, or a recording of the archive.
    pub source: String,
    /// Path of the previous recording log; `None` when there was none.
    pub backup: Option<PathBuf>,
    /// Entries of the new recording log.
    pub entries: Vec<Entry>,
}

/// Rebuilds recording.log from a complete sealed copy, or else from the terms in the archived log; in the latter case
/// the member replays its log from the start instead of loading a snapshot.
///
/// # Errors
/// [`ClusterFilesError::Active`] while the member runs, [`ClusterFilesError::NotRebuilt`] when neither source is
/// complete, or a file that cannot be read or written.
pub fn rebuild_recording_log<M: Memory, S: Storage>(
    memory: &M,
    storage: &mut S,
    directory: &Path,
    archive: Option<(&Path, S)>,
    now: &Now,
) -> Result<Rebuilt, ClusterFilesError> {
    let _lock = lock_out(memory, directory, now)?;
    let copy = sealed_copy(storage, directory)?.filter(|copy| !copy.is_empty());
    let (source, bytes) = match (copy, archive) {
        (Some(copy), _) => (SEAL_FILE.to_owned(), copy),
        (None, Some((archive, archive_storage))) => {
            let (recording_id, entries) = terms_of_log(archive, archive_storage)?;
            (format!("recording {recording_id} of {}", archive.display()), encode(&entries))
        }
        (None, None) => {
            return Err(ClusterFilesError::NotRebuilt(format!(
                "there is no whole {SEAL_FILE} in {}, and no archive was named; name it with --archive",
                directory.display()
            )));
        }
    };
    let entries = parse(&directory.join(RECORDING_LOG_FILE), &bytes)?;
    let mut backup = None;
    if has_recording_log(storage, directory)? {
        let before = read_log(storage, directory)?;
        let path = directory.join(format!("{RECORDING_LOG_FILE}.{BACKUP_SUFFIX}"));
        write_file(storage, &path, before)?;
        backup = Some(path);
    }
    replace_log(storage, directory, bytes)?;
    Ok(Rebuilt { source, backup, entries })
}

/// Finds the newest log of an archive with its terms.
fn terms_of_log<S: Storage>(archive: &Path, storage: S) -> Result<(i64, Vec<Entry>), ClusterFilesError> {
    let mut files = ArchiveFiles::open(archive, storage)?;
    let failed = |reason: String| ClusterFilesError::NotRebuilt(format!("{}: {reason}", archive.display()));
    let mut logs =
        files.catalog().entries().iter().filter(|entry| {
            entry.state == RecordingState::Valid && entry.descriptor.stream_id == LOG_STREAM_ID
        });
    let Some(log) = logs.next_back().map(|entry| entry.descriptor.clone()) else {
        return Err(failed(format!("there is no recording of stream {LOG_STREAM_ID}, the log")));
    };
    let recording_id = log.recording_id;
    let mut entries = Vec::new();
    files.for_each_frame(recording_id, &mut |frame| {
        if let Some(entry) = term_in(frame, recording_id) {
            entries.push(entry);
        }
        true
    })?;
    let starts_whole = log.start_position == 0
        && entries
            .first()
            .is_some_and(|first| first.leadership_term_id == 0 && first.term_base_log_position == 0);
    if !starts_whole {
        return Err(failed(format!(
            "recording {recording_id} does not begin with term 0 at position 0: the log goes on from a snapshot, and the \
             archive does not tell which; restore {RECORDING_LOG_FILE} from a backup"
        )));
    }
    Ok((recording_id, with_ends(entries)))
}

/// Decodes the term that begins at a frame of the log.
fn term_in(frame: &RecordedFrame<'_>, recording_id: i64) -> Option<Entry> {
    if frame.is_padding || frame.flags & UNFRAGMENTED != UNFRAGMENTED {
        return None;
    }
    let Ok(Some(LogMessage::NewLeadershipTerm {
        leadership_term_id, timestamp, term_base_log_position, ..
    })) = LogMessage::decode(frame.payload)
    else {
        return None;
    };
    Some(Entry {
        recording_id,
        leadership_term_id,
        term_base_log_position,
        log_position: -1,
        timestamp,
        service_id: -1,
        entry_type: EntryType::Term,
        is_valid: true,
        archive_endpoint: String::new(),
        entry_index: 0,
        offset: 0,
    })
}

/// Ends each term where the next begins, and adds empty terms for those that were never led (spec 04 §6.1).
fn with_ends(terms: Vec<Entry>) -> Vec<Entry> {
    let mut all: Vec<Entry> = Vec::new();
    for term in terms {
        let base = term.term_base_log_position;
        if let Some(last) = all.last_mut() {
            last.log_position = base;
        }
        let next = all.last().map_or(0, |last| last.leadership_term_id + 1);
        for leadership_term_id in next..term.leadership_term_id {
            all.push(Entry { leadership_term_id, log_position: base, ..term.clone() });
        }
        all.push(term);
    }
    all
}
