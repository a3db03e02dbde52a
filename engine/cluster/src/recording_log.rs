//! recording.log: the leadership terms of a member and its snapshots (spec 04 §6.1).

use std::path::{Path, PathBuf};

use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel, WriteBuffer,
};
use thiserror::Error;

/// Name of the file.
pub const RECORDING_LOG_FILE: &str = "recording.log";
const RECORD_LENGTH: usize = 64;
const MAX_RECORD_LENGTH: usize = 4_096;
const INVALID_FLAG: u32 = 1 << 31;
const LOG_POSITION_OFFSET: u64 = 24;

/// Why a file is no recording log.
#[derive(Debug, Error)]
pub enum RecordingLogError {
    /// An entry that contradicts itself or the others.
    #[error("{} entry at {offset}: {reason}; restore it from a backup or remove the member's directory", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Where the entry starts.
        offset: usize,
        /// What is wrong.
        reason: String,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// What an entry is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// A leadership term.
    Term,
    /// A snapshot of a service, or of the consensus module.
    Snapshot,
    /// A snapshot that a standby took.
    StandbySnapshot,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of spec 04 §6.1")]
pub struct Entry {
    pub recording_id: i64,
    pub leadership_term_id: i64,
    pub term_base_log_position: i64,
    /// -1 while a term is open.
    pub log_position: i64,
    pub timestamp: i64,
    pub service_id: i32,
    pub entry_type: EntryType,
    pub is_valid: bool,
    offset: usize,
}

/// The entries of the file and where the next goes.
#[derive(Debug)]
pub struct RecordingLog {
    path: PathBuf,
    file: FileId,
    entries: Vec<Entry>,
    end: usize,
    sync: Option<SyncLevel>,
}

impl RecordingLog {
    /// Opens or creates the file. Blocks; for launches.
    ///
    /// # Errors
    /// See [`RecordingLogError`].
    pub fn open<S: Storage>(
        storage: &mut S,
        directory: &Path,
        sync: Option<SyncLevel>,
    ) -> Result<Self, RecordingLogError> {
        let path = directory.join(RECORDING_LOG_FILE);
        let opened =
            storage.blocking(Operation::Open { path: path.clone(), mode: OpenMode::CreateOrOpen })?;
        let Output::Opened(file, length) = opened else { unreachable!("opening a file opens it") };
        let read = Operation::Read { file, offset: 0, length: length as usize, into: Vec::new() };
        let Output::Data(bytes) = storage.blocking(read)? else { unreachable!("reading a file reads it") };
        if sync.is_some() {
            storage.blocking(Operation::SyncDirectory { path: directory.to_owned() })?;
        }
        let bytes = without_torn_tail(&bytes);
        let entries = parse(&path, bytes)?;
        let end = bytes.len().next_multiple_of(RECORD_LENGTH);
        Ok(Self { path, file, entries, end, sync })
    }

    /// All entries that were not removed, in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The last valid term.
    pub fn last_term(&self) -> Option<&Entry> {
        self.entries
            .iter()
            .filter(|entry| entry.entry_type == EntryType::Term && entry.is_valid)
            .max_by_key(|entry| entry.leadership_term_id)
    }

    /// Appends a term; the one before ends where this one begins. Returns the operations to submit, in order.
    pub fn append_term(
        &mut self,
        recording_id: i64,
        leadership_term_id: i64,
        base: i64,
        timestamp: i64,
    ) -> Vec<Operation> {
        let mut operations = Vec::new();
        if let Some(previous) = self.last_term().map(|entry| entry.leadership_term_id) {
            operations.extend(self.write_position(previous, base));
        }
        let entry = Entry {
            recording_id,
            leadership_term_id,
            term_base_log_position: base,
            log_position: -1,
            timestamp,
            service_id: -1,
            entry_type: EntryType::Term,
            is_valid: true,
            offset: self.end,
        };
        self.end += RECORD_LENGTH;
        operations.push(Operation::Write {
            file: self.file,
            offset: entry.offset as u64,
            bytes: WriteBuffer::Owned(encode(&entry)),
        });
        self.entries.push(entry);
        operations.extend(self.sync_operation());
        operations
    }

    /// Ends a term at a position.
    pub fn commit_term(&mut self, leadership_term_id: i64, position: i64) -> Vec<Operation> {
        let mut operations: Vec<Operation> =
            self.write_position(leadership_term_id, position).into_iter().collect();
        operations.extend(self.sync_operation());
        operations
    }

    fn write_position(&mut self, leadership_term_id: i64, position: i64) -> Option<Operation> {
        let entry = self.entries.iter_mut().find(|entry| {
            entry.entry_type == EntryType::Term
                && entry.is_valid
                && entry.leadership_term_id == leadership_term_id
        })?;
        entry.log_position = position;
        Some(Operation::Write {
            file: self.file,
            offset: entry.offset as u64 + LOG_POSITION_OFFSET,
            bytes: WriteBuffer::Owned(position.to_le_bytes().to_vec()),
        })
    }

    fn sync_operation(&self) -> Option<Operation> {
        if is_planted(Bug::UnsyncedRecordingLog) {
            return None;
        }
        self.sync.map(|level| Operation::Sync { file: self.file, level })
    }

    /// The file's path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn encode(entry: &Entry) -> Vec<u8> {
    let mut bytes = vec![0; RECORD_LENGTH];
    let mut put = |offset: usize, value: i64| bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
    put(0, entry.recording_id);
    put(8, entry.leadership_term_id);
    put(16, entry.term_base_log_position);
    put(24, entry.log_position);
    put(32, entry.timestamp);
    bytes[40..44].copy_from_slice(&entry.service_id.to_le_bytes());
    let flag = if entry.is_valid { 0 } else { INVALID_FLAG };
    bytes[44..48].copy_from_slice(&(entry.entry_type as u32 | flag).to_le_bytes());
    bytes
}

/// The file without the term that was being appended when the machine died: the bytes of a record are written in order,
/// so a torn one has no timestamp. Nothing was done in that term, and the next takes its place.
fn without_torn_tail(bytes: &[u8]) -> &[u8] {
    let Some(start) = bytes.len().checked_sub(RECORD_LENGTH) else { return bytes };
    let last = &bytes[start..];
    let is_torn = start.is_multiple_of(RECORD_LENGTH) && last[32..40] == [0; 8] && last[44..48] == [0; 4];
    if is_torn { &bytes[..start] } else { bytes }
}

/// Reads the entries of a file.
///
/// # Errors
/// [`RecordingLogError::Entry`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, RecordingLogError> {
    let mut entries = Vec::new();
    let mut offset = 0;
    let mut log_recording = None;
    while offset < bytes.len() {
        let error = |reason: String| RecordingLogError::Entry { path: path.to_owned(), offset, reason };
        let record = bytes
            .get(offset..offset + 48)
            .ok_or_else(|| error(format!("cut after {} bytes", bytes.len() - offset)))?;
        let long = |at: usize| record[at..].first_chunk().map_or(0, |word| i64::from_le_bytes(*word));
        let int = |at: usize| record[at..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
        let type_word = int(44);
        if type_word == -1 {
            offset += RECORD_LENGTH;
            continue;
        }
        let is_valid = type_word as u32 & INVALID_FLAG == 0;
        let (entry_type, length) = match type_word & i32::MAX {
            0 => (EntryType::Term, RECORD_LENGTH),
            1 => (EntryType::Snapshot, RECORD_LENGTH),
            2 => {
                let text = bytes.get(offset + 48..).and_then(|rest| rest.first_chunk::<4>());
                let text = text.map_or(usize::MAX, |word| u32::from_le_bytes(*word) as usize);
                if text > MAX_RECORD_LENGTH - 52 {
                    return Err(error(format!("archive endpoint of {text} bytes")));
                }
                (EntryType::StandbySnapshot, (52 + text).next_multiple_of(RECORD_LENGTH))
            }
            other => return Err(error(format!("unknown type {other}"))),
        };
        let entry = Entry {
            recording_id: long(0),
            leadership_term_id: long(8),
            term_base_log_position: long(16),
            log_position: long(24),
            timestamp: long(32),
            service_id: int(40),
            entry_type,
            is_valid,
            offset,
        };
        if entry.recording_id < 0 || entry.leadership_term_id < 0 || entry.term_base_log_position < 0 {
            return Err(error("negative recording, term or position".into()));
        }
        if entry_type == EntryType::Term && is_valid {
            if log_recording.is_some_and(|id| id != entry.recording_id) {
                return Err(error(format!(
                    "term in recording {} instead of {log_recording:?}",
                    entry.recording_id
                )));
            }
            log_recording = Some(entry.recording_id);
        }
        entries.push(entry);
        offset += length;
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::heap::HeapStorage;

    fn run(storage: &mut HeapStorage, operations: Vec<Operation>) {
        for operation in operations {
            storage.blocking(operation).unwrap();
        }
    }

    #[test]
    fn terms_are_read_back_and_end_where_the_next_begins() {
        let mut storage = HeapStorage::new();
        let directory = Path::new("/cluster");
        let mut log = RecordingLog::open(&mut storage, directory, Some(SyncLevel::Data)).unwrap();
        let operations = log.append_term(7, 0, 0, 11);
        run(&mut storage, operations);
        let operations = log.append_term(7, 1, 640, 12);
        run(&mut storage, operations);
        let again = RecordingLog::open(&mut storage, directory, None).unwrap();
        assert_eq!(again.entries(), log.entries());
        assert_eq!(again.entries()[0].log_position, 640);
        assert_eq!(again.last_term().unwrap().log_position, -1);
    }

    #[test]
    fn a_term_that_was_being_appended_is_dropped_and_overwritten() {
        for torn in [0, 8, 16, 31] {
            let mut storage = HeapStorage::new();
            let directory = Path::new("/c");
            let mut log = RecordingLog::open(&mut storage, directory, None).unwrap();
            for term in 0..2 {
                let operations = log.append_term(7, term, 640 * term, 11);
                run(&mut storage, operations);
            }
            let path = directory.join(RECORDING_LOG_FILE);
            let mut bytes = storage.content(&path).unwrap();
            bytes[RECORD_LENGTH + torn..].fill(0);
            storage.put(&path, bytes);
            let mut again = RecordingLog::open(&mut storage, directory, None).unwrap();
            assert_eq!(again.last_term().map(|term| term.leadership_term_id), Some(0));
            let operations = again.append_term(7, 2, 640, 12);
            run(&mut storage, operations);
            let last = RecordingLog::open(&mut storage, directory, None).unwrap();
            assert_eq!(last.entries().len(), 2);
            assert_eq!(last.last_term(), again.last_term());
        }
    }

    #[test]
    fn cut_and_damaged_files_are_errors() {
        let mut storage = HeapStorage::new();
        let mut log = RecordingLog::open(&mut storage, Path::new("/c"), None).unwrap();
        let operations = log.append_term(7, 0, 0, 11);
        run(&mut storage, operations);
        let bytes = storage.content(&Path::new("/c").join(RECORDING_LOG_FILE)).unwrap();
        for length in 1..48 {
            assert!(parse(Path::new("r"), &bytes[..length]).is_err());
        }
        let mut damaged = bytes.clone();
        damaged[44] = 9;
        assert!(parse(Path::new("r"), &damaged).unwrap_err().to_string().contains("unknown type 9"));
    }
}
