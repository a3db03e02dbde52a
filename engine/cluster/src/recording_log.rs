//! recording.log: the leadership terms and snapshots of a member (spec 04 §6.1, §6.2).
//!
//! [`parse`] reads a file, [`RecordingLog`] changes one, and [`RecoveryPlan`] is the starting point of a member.

mod entry;
mod plan;
mod seal;
mod terms;

pub use entry::{Entry, EntryType, compare, parse};
pub use plan::{
    LogExtent, PlanError, PlannedLog, RecoveryPlan, backup_snapshots, last_term, latest_snapshot,
    standby_snapshots,
};
pub use seal::SEAL_FILE;
pub use terms::{IncoherentTerm, MAX_TERM_GAP, TermRange};

use std::path::{Path, PathBuf};

use harrier_protocol::record::UnknownVersion;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel, WriteBuffer,
};
use thiserror::Error;

use entry::{LOG_POSITION_OFFSET, RECORD_LENGTH, TYPE_OFFSET, without_torn_tail};

/// Name of the file.
pub const RECORDING_LOG_FILE: &str = "recording.log";

/// Errors of a recording log.
#[derive(Debug, Error)]
pub enum RecordingLogError {
    /// An inconsistent entry.
    #[error("{} entry at {offset}: {reason}; restore it from a backup or remove the member's directory", path.display())]
    Entry {
        /// The file.
        path: PathBuf,
        /// Offset of the entry in the file.
        offset: usize,
        /// Description of the inconsistency.
        reason: String,
    },
    /// The file differs from its sealed copy in a way that no program causes.
    #[error(
        "{} entry at {offset} is damaged: it differs from the sealed copy in {SEAL_FILE}; run harrier cluster DIR \
         rebuild-recording-log to restore the file from that copy",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Offset of the entry in the file.
        offset: usize,
    },
    /// A seal of a newer program.
    #[error("{}: {error}", path.display())]
    Seal {
        /// The file of the seal.
        path: PathBuf,
        /// Version found and the supported one.
        error: UnknownVersion,
    },
    /// The file could not be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The entries of the file. Methods that change it return the file operations to submit, in order.
#[derive(Debug)]
pub struct RecordingLog {
    path: PathBuf,
    file: FileId,
    seal_file: FileId,
    /// Bytes of the file, copied into the seal.
    image: Vec<u8>,
    entries: Vec<Entry>,
    end: usize,
    next_index: usize,
    sync: Option<SyncLevel>,
}

impl RecordingLog {
    /// Opens or creates the file without using the seal. Blocks, so only tools call it.
    ///
    /// # Errors
    /// See [`RecordingLogError`].
    pub fn open<S: Storage>(
        storage: &mut S,
        directory: &Path,
        sync: Option<SyncLevel>,
    ) -> Result<Self, RecordingLogError> {
        Self::open_checked(storage, directory, sync, false)
    }

    /// Opens or creates the file and renews its seal. Blocks, so only the start calls it. `was_ours` is true when no
    /// other implementation has run on the directory since the seal was written, so that file and seal must agree.
    ///
    /// # Errors
    /// See [`RecordingLogError`].
    pub fn open_sealed<S: Storage>(
        storage: &mut S,
        directory: &Path,
        sync: Option<SyncLevel>,
        was_ours: bool,
    ) -> Result<Self, RecordingLogError> {
        let log = Self::open_checked(storage, directory, sync, was_ours)?;
        for operation in log.seal_operations() {
            storage.blocking(operation)?;
        }
        Ok(log)
    }

    fn open_checked<S: Storage>(
        storage: &mut S,
        directory: &Path,
        sync: Option<SyncLevel>,
        is_checked: bool,
    ) -> Result<Self, RecordingLogError> {
        let path = directory.join(RECORDING_LOG_FILE);
        let seal_path = directory.join(SEAL_FILE);
        let (file, bytes) = open_and_read(storage, &path)?;
        let (seal_file, sealed) = open_and_read(storage, &seal_path)?;
        // Synced so that a machine crash cannot lose the file name, which would look like a removed file.
        storage.blocking(Operation::SyncDirectory { path: directory.to_owned() })?;
        let copy = seal::read(&sealed).map_err(|error| RecordingLogError::Seal { path: seal_path, error })?;
        if let Some(copy) = copy.filter(|_| is_checked)
            && let Some(offset) = seal::find_damage(copy, &bytes)
            // A machine crash may keep the seal of a change but lose the change itself.
            && seal::find_damage(without_torn_tail(&bytes), copy).is_some()
        {
            return Err(RecordingLogError::Damaged { path, offset });
        }
        let image = without_torn_tail(&bytes).to_vec();
        let entries = parse(&path, &image)?;
        let end = image.len().next_multiple_of(RECORD_LENGTH);
        let next_index = entries.last().map_or(0, |entry| entry.entry_index + 1);
        Ok(Self { path, file, seal_file, image, entries, end, next_index, sync })
    }

    /// All entries that were not removed, in file order.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// All entries in logical order, see [`compare`].
    pub fn sorted_entries(&self) -> Vec<Entry> {
        let mut entries = self.entries.clone();
        entries.sort_by(compare);
        entries
    }

    /// The last valid term.
    pub fn last_term(&self) -> Option<&Entry> {
        last_term(&self.entries)
    }

    /// Appends a term and ends the one before where this one begins. Terms in between that were never led are written
    /// as empty (spec 04 §6.1, "ensure coherent").
    pub fn append_term(
        &mut self,
        recording_id: i64,
        leadership_term_id: i64,
        base: i64,
        timestamp: i64,
    ) -> Vec<Operation> {
        let mut operations = Vec::new();
        let mut next = 0;
        if let Some(previous) = self.last_term().map(|entry| entry.leadership_term_id) {
            operations.extend(self.write_position(previous, base));
            next = previous + 1;
        }
        let mut bytes = Vec::new();
        let first = self.end as u64;
        for term in next.min(leadership_term_id)..=leadership_term_id {
            let mut entry = self.new_entry(EntryType::Term, recording_id, -1);
            entry.leadership_term_id = term;
            entry.term_base_log_position = base;
            entry.log_position = if term == leadership_term_id { -1 } else { base };
            entry.timestamp = timestamp;
            bytes.extend(self.push(entry));
        }
        operations.push(self.write(first, bytes));
        self.seal(operations)
    }

    /// Ends a term at a position.
    pub fn commit_term(&mut self, leadership_term_id: i64, position: i64) -> Vec<Operation> {
        let operations = self.write_position(leadership_term_id, position).into_iter().collect();
        self.seal(operations)
    }

    /// Appends a snapshot of the whole node. `recordings` are those of services 0, 1, …. The consensus module's entry
    /// follows once the services' entries are synced, because it validates the set.
    pub fn append_snapshot(
        &mut self,
        snapshot: &SnapshotPosition,
        recordings: &[i64],
        module_recording_id: i64,
    ) -> Vec<Operation> {
        let mut operations = Vec::new();
        for (service_id, recording_id) in recordings.iter().enumerate().rev() {
            operations.extend(self.append_snapshot_entry(snapshot, *recording_id, service_id as i32));
        }
        operations.extend(self.sync_operation());
        operations.extend(self.append_snapshot_entry(snapshot, module_recording_id, -1));
        self.seal(operations)
    }

    /// Appends a snapshot, or revalidates an invalid entry of the same snapshot with the new recording.
    fn append_snapshot_entry(
        &mut self,
        snapshot: &SnapshotPosition,
        recording_id: i64,
        service_id: i32,
    ) -> Option<Operation> {
        let mut entry = self.new_entry(EntryType::Snapshot, recording_id, service_id);
        entry.leadership_term_id = snapshot.leadership_term_id;
        entry.term_base_log_position = snapshot.term_base_log_position;
        entry.log_position = snapshot.log_position;
        entry.timestamp = snapshot.timestamp;
        let invalid = self.entries.iter_mut().find(|other| !other.is_valid && other.is_same_snapshot(&entry));
        if let Some(other) = invalid {
            (entry.offset, entry.entry_index) = (other.offset, other.entry_index);
            other.clone_from(&entry);
            return Some(self.write(entry.offset as u64, entry.encode()));
        }
        let offset = self.end as u64;
        let bytes = self.push(entry);
        Some(self.write(offset, bytes))
    }

    /// Appends a snapshot of a standby.
    pub fn append_standby_snapshot(
        &mut self,
        snapshot: &SnapshotPosition,
        recording_id: i64,
        service_id: i32,
        archive_endpoint: &str,
    ) -> Vec<Operation> {
        let mut entry = self.new_entry(EntryType::StandbySnapshot, recording_id, service_id);
        entry.leadership_term_id = snapshot.leadership_term_id;
        entry.term_base_log_position = snapshot.term_base_log_position;
        entry.log_position = snapshot.log_position;
        entry.timestamp = snapshot.timestamp;
        entry.archive_endpoint = archive_endpoint.to_owned();
        let offset = self.end as u64;
        let bytes = self.push(entry);
        let operations = vec![self.write(offset, bytes)];
        self.seal(operations)
    }

    /// Invalidates the latest snapshot of the node. Returns no operations when there is none, or when its term is
    /// missing.
    pub fn invalidate_latest_snapshot(&mut self) -> Vec<Operation> {
        let latest = plan::latest_set(&self.entries);
        self.invalidate(&latest)
    }

    /// Invalidates the snapshots in these recordings.
    pub fn invalidate_recordings(&mut self, recording_ids: &[i64]) -> Vec<Operation> {
        let entries = self.entries.iter().enumerate();
        let unknown: Vec<usize> = entries
            .filter(|(_, entry)| entry.is_snapshot() && recording_ids.contains(&entry.recording_id))
            .map(|(index, _)| index)
            .collect();
        self.invalidate(&unknown)
    }

    fn invalidate(&mut self, indices: &[usize]) -> Vec<Operation> {
        let mut operations = Vec::new();
        for index in indices {
            let entry = &mut self.entries[*index];
            entry.is_valid = false;
            let (offset, word) = (entry.offset as u64 + TYPE_OFFSET, entry.type_word());
            operations.push(self.write(offset, word.to_le_bytes().to_vec()));
        }
        if operations.is_empty() { operations } else { self.seal(operations) }
    }

    /// Bytes of a file that holds only the latest snapshot, rebased to the start of a new log; `None` when there is no
    /// snapshot (spec 04 §6.6).
    ///
    /// # Errors
    /// A snapshot that lacks a service.
    pub fn seeded_from_latest_snapshot(&self, service_count: usize) -> Result<Option<Vec<u8>>, PlanError> {
        let mut set = latest_snapshot(&self.entries, service_count)?;
        if set.is_empty() {
            return Ok(None);
        }
        for entry in &mut set {
            (entry.term_base_log_position, entry.log_position) = (0, 0);
        }
        set.sort_by(compare);
        Ok(Some(encode(&set)))
    }

    fn new_entry(&self, entry_type: EntryType, recording_id: i64, service_id: i32) -> Entry {
        Entry {
            recording_id,
            leadership_term_id: -1,
            term_base_log_position: 0,
            log_position: -1,
            timestamp: -1,
            service_id,
            entry_type,
            is_valid: true,
            archive_endpoint: String::new(),
            entry_index: 0,
            offset: 0,
        }
    }

    /// Appends an entry and returns its bytes.
    fn push(&mut self, mut entry: Entry) -> Vec<u8> {
        (entry.offset, entry.entry_index) = (self.end, self.next_index);
        self.end += entry.record_length();
        self.next_index += 1;
        let bytes = entry.encode();
        self.entries.push(entry);
        bytes
    }

    fn write(&mut self, offset: u64, bytes: Vec<u8>) -> Operation {
        let (start, end) = (offset as usize, offset as usize + bytes.len());
        assert!(start <= self.end, "recording.log has no holes");
        if self.image.len() < end {
            self.image.resize(end, 0);
        }
        self.image[start..end].copy_from_slice(&bytes);
        Operation::Write { file: self.file, offset, bytes: WriteBuffer::Owned(bytes) }
    }

    fn write_position(&mut self, leadership_term_id: i64, position: i64) -> Option<Operation> {
        let entry = self
            .entries
            .iter_mut()
            .find(|entry| entry.is_term() && entry.leadership_term_id == leadership_term_id)?;
        entry.log_position = position;
        let offset = entry.offset as u64 + LOG_POSITION_OFFSET;
        Some(self.write(offset, position.to_le_bytes().to_vec()))
    }

    /// Appends the operations that make a change durable: the file is synced before the seal confirms it.
    fn seal(&self, mut operations: Vec<Operation>) -> Vec<Operation> {
        operations.extend(self.sync_operation());
        operations.extend(self.seal_operations());
        operations
    }

    fn seal_operations(&self) -> Vec<Operation> {
        let (file, bytes) = (self.seal_file, WriteBuffer::Owned(seal::encode(&self.image)));
        let mut operations = vec![Operation::Write { file, offset: 0, bytes }];
        operations.extend(self.sync.map(|level| Operation::Sync { file, level }));
        operations
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

/// Opens or creates a file and reads it.
fn open_and_read<S: Storage>(storage: &mut S, path: &Path) -> Result<(FileId, Vec<u8>), StorageError> {
    let opened = storage.blocking(Operation::Open { path: path.to_owned(), mode: OpenMode::CreateOrOpen })?;
    let Output::Opened(file, length) = opened else { unreachable!("opening a file opens it") };
    let read = Operation::Read { file, offset: 0, length: length as usize, into: Vec::new() };
    match storage.blocking(read)? {
        Output::Data(bytes) => Ok((file, bytes)),
        _ => Ok((file, Vec::new())),
    }
}

/// True when a directory has a recording log. Blocks.
///
/// # Errors
/// A file that is there and cannot be opened.
pub fn has_recording_log<S: Storage>(storage: &mut S, directory: &Path) -> Result<bool, StorageError> {
    let path = directory.join(RECORDING_LOG_FILE);
    match storage.blocking(Operation::Open { path, mode: OpenMode::Read }) {
        Ok(Output::Opened(file, _)) => storage.blocking(Operation::Close { file }).map(|_| true),
        Err(error) if !error.is_not_found() => Err(error),
        _ => Ok(false),
    }
}

/// True when a directory has no recording log or an empty one. Blocks.
///
/// # Errors
/// A file that cannot be read, or that is no recording log.
pub fn is_recording_log_empty<S: Storage>(
    storage: &mut S,
    directory: &Path,
) -> Result<bool, RecordingLogError> {
    if !has_recording_log(storage, directory)? {
        return Ok(true);
    }
    let path = directory.join(RECORDING_LOG_FILE);
    let (file, bytes) = open_and_read(storage, &path)?;
    storage.blocking(Operation::Close { file })?;
    Ok(parse(&path, without_torn_tail(&bytes))?.is_empty())
}

/// Reads the copy of a recording log in its seal; `None` without a complete seal. Blocks.
///
/// # Errors
/// [`RecordingLogError::Seal`], or a file that cannot be read.
pub fn sealed_copy<S: Storage>(
    storage: &mut S,
    directory: &Path,
) -> Result<Option<Vec<u8>>, RecordingLogError> {
    let path = directory.join(SEAL_FILE);
    let opened = storage.blocking(Operation::Open { path: path.clone(), mode: OpenMode::Read });
    let (file, length) = match opened {
        Ok(Output::Opened(file, length)) => (file, length as usize),
        Err(error) if !error.is_not_found() => return Err(error.into()),
        _ => return Ok(None),
    };
    let read = storage.blocking(Operation::Read { file, offset: 0, length, into: Vec::new() });
    storage.blocking(Operation::Close { file })?;
    let Output::Data(bytes) = read? else { return Ok(None) };
    let copy = seal::read(&bytes).map_err(|error| RecordingLogError::Seal { path, error })?;
    Ok(copy.map(<[u8]>::to_vec))
}

/// Encodes the seal of a file with these bytes.
pub(crate) fn seal_of(file: &[u8]) -> Vec<u8> {
    seal::encode(file)
}

/// Log position of a snapshot, with its term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SnapshotPosition {
    /// Term in which the snapshot was taken.
    pub leadership_term_id: i64,
    /// Log position at which the term begins, bytes.
    pub term_base_log_position: i64,
    /// Log position of the snapshot, bytes.
    pub log_position: i64,
    /// Cluster time, in the unit of the cluster's clock.
    pub timestamp: i64,
}

/// Encodes a file with these entries in this order.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    entries.iter().flat_map(Entry::encode).collect()
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

    fn position(log_position: i64) -> SnapshotPosition {
        SnapshotPosition { leadership_term_id: 0, term_base_log_position: 0, log_position, timestamp: 7 }
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
    fn terms_that_nobody_led_are_empty_ones() {
        let mut storage = HeapStorage::new();
        let mut log = RecordingLog::open(&mut storage, Path::new("/c"), None).unwrap();
        let operations = log.append_term(7, 1, 0, 11);
        run(&mut storage, operations);
        let operations = log.append_term(7, 4, 640, 12);
        run(&mut storage, operations);
        let again = RecordingLog::open(&mut storage, Path::new("/c"), None).unwrap();
        let facts: Vec<(i64, i64, i64)> = again
            .entries()
            .iter()
            .map(|entry| (entry.leadership_term_id, entry.term_base_log_position, entry.log_position))
            .collect();
        assert_eq!(facts, [(0, 0, 0), (1, 0, 640), (2, 640, 640), (3, 640, 640), (4, 640, -1)]);
    }

    #[test]
    fn records_that_were_being_appended_are_dropped_and_overwritten() {
        for torn in [0, 8, 16, 24, 32, 40] {
            let mut storage = HeapStorage::new();
            let directory = Path::new("/c");
            let mut log = RecordingLog::open(&mut storage, directory, None).unwrap();
            let operations = log.append_term(7, 0, 0, 11);
            run(&mut storage, operations);
            let operations = log.append_snapshot(&position(320), &[1, 2], 3);
            run(&mut storage, operations);
            let path = directory.join(RECORDING_LOG_FILE);
            let mut bytes = storage.content(&path).unwrap();
            bytes[RECORD_LENGTH + torn..].fill(0);
            storage.put(&path, bytes);
            let mut again = RecordingLog::open(&mut storage, directory, None).unwrap();
            assert_eq!(again.entries().len(), 1);
            let operations = again.append_term(7, 1, 640, 12);
            run(&mut storage, operations);
            let last = RecordingLog::open(&mut storage, directory, None).unwrap();
            assert_eq!(last.entries().len(), 2);
            assert_eq!(last.last_term(), again.last_term());
        }
    }

    #[test]
    fn snapshots_are_written_services_first_and_an_invalid_one_is_replaced() {
        let mut storage = HeapStorage::new();
        let directory = Path::new("/c");
        let mut log = RecordingLog::open(&mut storage, directory, None).unwrap();
        let operations = log.append_term(0, 0, 0, 11);
        run(&mut storage, operations);
        let operations = log.append_snapshot(&position(320), &[1, 2], 3);
        run(&mut storage, operations);
        let operations = log.append_snapshot(&position(640), &[4, 5], 6);
        run(&mut storage, operations);
        let ids = |log: &RecordingLog| {
            let set = latest_snapshot(log.entries(), 2).unwrap();
            set.iter().map(|entry| entry.recording_id).collect::<Vec<_>>()
        };
        assert_eq!(ids(&log), [6, 4, 5]);
        let services: Vec<i32> = log.entries().iter().map(|entry| entry.service_id).collect();
        assert_eq!(services, [-1, 1, 0, -1, 1, 0, -1]);
        let operations = log.invalidate_latest_snapshot();
        assert_eq!(operations.len(), 4, "three entries are written, then the seal");
        run(&mut storage, operations);
        let mut again = RecordingLog::open(&mut storage, directory, None).unwrap();
        assert_eq!(ids(&again), [3, 1, 2]);
        let operations = again.append_snapshot(&position(640), &[7, 8], 9);
        run(&mut storage, operations);
        let last = RecordingLog::open(&mut storage, directory, None).unwrap();
        assert_eq!((ids(&last), last.entries().len()), (vec![9, 7, 8], 7));
        let mut last = last;
        let operations = last.invalidate_recordings(&[7]);
        run(&mut storage, operations);
        assert!(latest_snapshot(last.entries(), 2).is_err());
    }

    #[test]
    fn a_seed_holds_only_the_latest_snapshot_at_the_begin_of_a_log() {
        let mut storage = HeapStorage::new();
        let mut log = RecordingLog::open(&mut storage, Path::new("/c"), None).unwrap();
        assert_eq!(log.seeded_from_latest_snapshot(1).unwrap(), None);
        let operations = log.append_term(0, 0, 0, 11);
        run(&mut storage, operations);
        let operations = log.append_snapshot(&position(320), &[1], 3);
        run(&mut storage, operations);
        let bytes = log.seeded_from_latest_snapshot(1).unwrap().unwrap();
        let entries = parse(Path::new("r"), &bytes).unwrap();
        let facts: Vec<(i64, i64, i32)> =
            entries.iter().map(|entry| (entry.recording_id, entry.log_position, entry.service_id)).collect();
        assert_eq!(facts, [(1, 0, 0), (3, 0, -1)]);
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
