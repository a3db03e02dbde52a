//! The files of a member.

use std::path::{Path, PathBuf};

use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel, WriteBuffer,
};
use harrier_ringbuf::{AtomicBuffer, Memory, MemoryError, Now, Region};
use thiserror::Error;

use harrier_archive::is_owned;
use harrier_archive::tool::ToolError;

use crate::mark::MarkHeader;
use crate::recording_log::{
    Entry, PlanError, RECORDING_LOG_FILE, RecordingLog, RecordingLogError, SEAL_FILE, compare, encode, parse,
    seal_of,
};

/// Mark file of a consensus module.
const MODULE_MARK: &str = "cluster-mark";
const SERVICE_MARK: &str = "cluster-mark-service-";
const HEADER_LENGTH: usize = 8_192;
const ACTIVITY_TIMEOUT_MS: i64 = 10_000;
/// Suffix of the previous recording log after seeding.
pub(super) const BACKUP_SUFFIX: &str = "bak";

/// Errors of a member's files.
#[derive(Debug, Error)]
pub enum ClusterFilesError {
    /// No member has ever run in the directory.
    #[error("no member in {}: there is no {MODULE_MARK}.dat; name the directory of a consensus module", directory.display())]
    Absent {
        /// The directory.
        directory: PathBuf,
    },
    /// There is no recording log.
    #[error("no {RECORDING_LOG_FILE} in {}", directory.display())]
    NoRecordingLog {
        /// The directory.
        directory: PathBuf,
    },
    /// A member is running in the directory.
    #[error("{}: the member is running; stop it first", path.display())]
    Active {
        /// Path of its mark file.
        path: PathBuf,
    },
    /// A truncated mark file.
    #[error("mark file {} is cut; restore it from a backup or remove it", path.display())]
    Mark {
        /// The mark file.
        path: PathBuf,
    },
    /// The recording log cannot be read.
    #[error(transparent)]
    RecordingLog(#[from] RecordingLogError),
    /// The recording log holds an incomplete snapshot.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The recording log cannot be rebuilt.
    #[error("cannot rebuild recording.log: {0}")]
    NotRebuilt(String),
    /// The files of the archive cannot be read.
    #[error(transparent)]
    Archive(#[from] ToolError),
    /// A file cannot be mapped or locked.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// A file cannot be read or written.
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// A mark file.
#[derive(Debug, Clone)]
pub struct ClusterMark {
    /// The file.
    pub path: PathBuf,
    /// Header of the mark file.
    pub header: MarkHeader,
    /// The component's error log; its capacity is 0 in files without one.
    pub errors: AtomicBuffer,
    is_ours: bool,
}

impl ClusterMark {
    /// Reads a mark file, or the one that a link of the same name points to; `None` when there is neither.
    fn read<M: Memory>(memory: &M, directory: &Path, stem: &str) -> Result<Option<Self>, ClusterFilesError> {
        let path = linked(memory, directory, stem)?.join(format!("{stem}.dat"));
        let buffer = match memory.map(&path, MapMode::ReadOnly) {
            Ok(buffer) => buffer,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut bytes = vec![0; buffer.capacity().min(HEADER_LENGTH)];
        buffer.copy_out(0, &mut bytes);
        let header =
            MarkHeader::parse(&bytes).ok_or_else(|| ClusterFilesError::Mark { path: path.clone() })?;
        let start = header.header_length.max(0) as usize;
        let length = header.error_buffer_length.max(0) as usize;
        let has_errors = start >= bytes.len() && start + length <= buffer.capacity();
        let errors = if has_errors { buffer.slice(start, length) } else { AtomicBuffer::heap(0) };
        Ok(Some(Self { errors, header, is_ours: is_owned(&buffer).unwrap_or(true), path }))
    }

    /// True when the component has updated its activity within the last 10 s.
    pub fn is_active(&self, now_ms: i64) -> bool {
        let at = self.header.activity_timestamp_ms;
        at > 0 && now_ms - at <= ACTIVITY_TIMEOUT_MS
    }

    /// Name of the component's type.
    pub fn component(&self) -> &'static str {
        match self.header.component_type {
            1 => "CONSENSUS_MODULE",
            2 => "CONTAINER",
            3 => "BACKUP",
            4 => "STANDBY",
            _ => "UNKNOWN",
        }
    }
}

fn linked<M: Memory>(memory: &M, directory: &Path, stem: &str) -> Result<PathBuf, ClusterFilesError> {
    match memory.map(&directory.join(format!("{stem}.lnk")), MapMode::ReadOnly) {
        Ok(buffer) => {
            let mut bytes = vec![0; buffer.capacity()];
            buffer.copy_out(0, &mut bytes);
            Ok(PathBuf::from(String::from_utf8_lossy(&bytes).trim()))
        }
        Err(error) if error.is_not_found() => Ok(directory.to_owned()),
        Err(error) => Err(error.into()),
    }
}

/// The mark file of a directory's consensus module or backup.
///
/// # Errors
/// [`ClusterFilesError::Absent`], or a file that cannot be read.
pub fn module_mark<M: Memory>(memory: &M, directory: &Path) -> Result<ClusterMark, ClusterFilesError> {
    ClusterMark::read(memory, directory, MODULE_MARK)?
        .ok_or_else(|| ClusterFilesError::Absent { directory: directory.to_owned() })
}

/// All mark files of a member: first the consensus module's, if any, then those of services by id.
///
/// # Errors
/// A file that cannot be read.
pub fn marks<M: Memory>(memory: &M, directory: &Path) -> Result<Vec<ClusterMark>, ClusterFilesError> {
    let mut all: Vec<ClusterMark> = ClusterMark::read(memory, directory, MODULE_MARK)?.into_iter().collect();
    let services = all.first().map(|module| PathBuf::from(&module.header.services_directory));
    let services =
        services.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| directory.to_owned());
    let mut ids: Vec<i32> = Vec::new();
    for name in memory.list(&services)? {
        let stem = name.strip_suffix(".dat").or_else(|| name.strip_suffix(".lnk"));
        let id = stem.and_then(|stem| stem.strip_prefix(SERVICE_MARK)?.parse().ok());
        ids.extend(id.filter(|id| !ids.contains(id)));
    }
    ids.sort_unstable();
    for id in ids {
        all.extend(ClusterMark::read(memory, &services, &format!("{SERVICE_MARK}{id}"))?);
    }
    Ok(all)
}

/// Excludes members from the directory while the lock is held.
pub(super) fn lock_out<M: Memory>(
    memory: &M,
    directory: &Path,
    now: &Now,
) -> Result<M::Lock, ClusterFilesError> {
    let mark = ClusterMark::read(memory, directory, MODULE_MARK)?;
    let path =
        mark.as_ref().map_or_else(|| directory.join(format!("{MODULE_MARK}.dat")), |mark| mark.path.clone());
    if mark.is_some_and(|mark| !mark.is_ours && mark.is_active(now.epoch_ms)) {
        return Err(ClusterFilesError::Active { path });
    }
    match memory.lock(&path.with_extension("lock")) {
        Err(MemoryError::Locked { .. }) => Err(ClusterFilesError::Active { path }),
        other => Ok(other?),
    }
}

fn open<S: Storage>(storage: &mut S, path: &Path, mode: OpenMode) -> Result<(FileId, u64), StorageError> {
    let Output::Opened(file, length) = storage.blocking(Operation::Open { path: path.to_owned(), mode })?
    else {
        unreachable!("opening a file opens it")
    };
    Ok((file, length))
}

pub(super) fn read_log<S: Storage>(storage: &mut S, directory: &Path) -> Result<Vec<u8>, ClusterFilesError> {
    let (file, length) = match open(storage, &directory.join(RECORDING_LOG_FILE), OpenMode::Read) {
        Ok(opened) => opened,
        Err(error) if error.is_not_found() => {
            return Err(ClusterFilesError::NoRecordingLog { directory: directory.to_owned() });
        }
        Err(error) => return Err(error.into()),
    };
    let read =
        storage.blocking(Operation::Read { file, offset: 0, length: length as usize, into: Vec::new() });
    storage.blocking(Operation::Close { file })?;
    match read? {
        Output::Data(bytes) => Ok(bytes),
        _ => Ok(Vec::new()),
    }
}

/// Entries of a member's recording log in logical order, without removed ones.
///
/// # Errors
/// [`ClusterFilesError::NoRecordingLog`], or a file that cannot be read.
pub fn recording_log_entries<S: Storage>(
    storage: &mut S,
    directory: &Path,
) -> Result<Vec<Entry>, ClusterFilesError> {
    let mut entries = file_entries(storage, directory)?;
    entries.sort_by(compare);
    Ok(entries)
}

fn file_entries<S: Storage>(storage: &mut S, directory: &Path) -> Result<Vec<Entry>, ClusterFilesError> {
    let bytes = read_log(storage, directory)?;
    Ok(parse(&directory.join(RECORDING_LOG_FILE), &bytes)?)
}

/// Replaces a recording log; the previous file stays until the new one is synced.
pub(super) fn replace_log<S: Storage>(
    storage: &mut S,
    directory: &Path,
    bytes: Vec<u8>,
) -> Result<(), StorageError> {
    let path = directory.join(RECORDING_LOG_FILE);
    let temporary = directory.join(format!("{RECORDING_LOG_FILE}.tmp"));
    let seal = seal_of(&bytes);
    write_file(storage, &temporary, bytes)?;
    storage.blocking(Operation::Rename { from: temporary, to: path })?;
    write_file(storage, &directory.join(SEAL_FILE), seal)?;
    storage.blocking(Operation::SyncDirectory { path: directory.to_owned() })?;
    Ok(())
}

pub(super) fn write_file<S: Storage>(
    storage: &mut S,
    path: &Path,
    bytes: Vec<u8>,
) -> Result<(), StorageError> {
    storage.blocking(Operation::Remove { path: path.to_owned() })?;
    let (file, _) = open(storage, path, OpenMode::CreateNew)?;
    let bytes = WriteBuffer::Owned(bytes);
    let written = storage
        .blocking(Operation::Write { file, offset: 0, bytes })
        .and_then(|_| storage.blocking(Operation::Sync { file, level: SyncLevel::All }));
    storage.blocking(Operation::Close { file })?;
    written.map(|_| ())
}

/// Sorts the entries of a recording log and keeps invalid ones invalid. Returns false when they are sorted already.
///
/// # Errors
/// [`ClusterFilesError::Active`] while the member runs, or a file that cannot be read or written.
pub fn sort_recording_log<M: Memory, S: Storage>(
    memory: &M,
    storage: &mut S,
    directory: &Path,
    now: &Now,
) -> Result<bool, ClusterFilesError> {
    let entries = file_entries(storage, directory)?;
    if entries.is_sorted_by(|a, b| compare(a, b).is_le()) {
        return Ok(false);
    }
    let _lock = lock_out(memory, directory, now)?;
    let sorted = recording_log_entries(storage, directory)?;
    replace_log(storage, directory, encode(&sorted))?;
    Ok(true)
}

/// Result of seeding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seeded {
    /// Path of the previous recording log.
    pub backup: PathBuf,
    /// Entries of the new recording log: the latest snapshot at position 0. Empty when there was no valid snapshot.
    pub entries: Vec<Entry>,
}

/// Replaces the recording log with one that holds only the latest valid snapshot, at the start of a new log.
///
/// # Errors
/// [`ClusterFilesError::Active`] while the member runs, half a snapshot, or a file that cannot be read or written.
pub fn seed_recording_log_from_snapshot<M: Memory, S: Storage>(
    memory: &M,
    storage: &mut S,
    directory: &Path,
    now: &Now,
) -> Result<Seeded, ClusterFilesError> {
    let entries = file_entries(storage, directory)?;
    let _lock = lock_out(memory, directory, now)?;
    let bytes = read_log(storage, directory)?;
    let log = RecordingLog::open(storage, directory, None)?;
    let seeded = log.seeded_from_latest_snapshot(services_of_latest_snapshot(&entries))?.unwrap_or_default();
    let backup = directory.join(format!("{RECORDING_LOG_FILE}.{BACKUP_SUFFIX}"));
    write_file(storage, &backup, bytes)?;
    let entries = parse(&backup, &seeded)?;
    replace_log(storage, directory, seeded)?;
    Ok(Seeded { backup, entries })
}

/// Number of services in the latest valid snapshot.
fn services_of_latest_snapshot(entries: &[Entry]) -> usize {
    let module = entries.iter().filter(|entry| entry.is_module_snapshot()).max_by(|a, b| compare(a, b));
    let Some(module) = module else { return 0 };
    entries
        .iter()
        .filter(|entry| {
            entry.is_snapshot()
                && entry.service_id >= 0
                && entry.leadership_term_id == module.leadership_term_id
                && entry.log_position == module.log_position
        })
        .map(|entry| entry.service_id as usize + 1)
        .max()
        .unwrap_or(0)
}

/// Invalidates the latest snapshot, so that the one before is loaded. Returns false when there is none.
///
/// # Errors
/// [`ClusterFilesError::Active`] while the member runs, or a file that cannot be read or written.
pub fn invalidate_latest_snapshot<M: Memory, S: Storage>(
    memory: &M,
    storage: &mut S,
    directory: &Path,
    now: &Now,
) -> Result<bool, ClusterFilesError> {
    file_entries(storage, directory)?;
    let _lock = lock_out(memory, directory, now)?;
    let mut log = RecordingLog::open(storage, directory, Some(SyncLevel::All))?;
    let operations = log.invalidate_latest_snapshot();
    let has_any = !operations.is_empty();
    for operation in operations {
        storage.blocking(operation)?;
    }
    Ok(has_any)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording_log::EntryType;
    use harrier_ringbuf::heap::{HeapMemory, HeapStorage};
    use std::sync::atomic::Ordering;

    const DIRECTORY: &str = "/cluster";
    const NOW: Now = Now { ns: 0, epoch_ms: 1_795_315_500_000 };

    fn directory() -> (HeapMemory, HeapStorage) {
        let (memory, storage) = (HeapMemory::new(), HeapStorage::new());
        let log = include_bytes!("../../testdata/recording.log");
        storage.put(&Path::new(DIRECTORY).join(RECORDING_LOG_FILE), log.to_vec());
        for (stem, bytes) in [
            (MODULE_MARK, &include_bytes!("../../testdata/marks/cluster-mark.head8192.dat")[..]),
            (
                "cluster-mark-service-0",
                &include_bytes!("../../testdata/marks/cluster-mark-service-0.head8192.dat")[..],
            ),
        ] {
            let path = Path::new(DIRECTORY).join(format!("{stem}.dat"));
            memory.create(&path, 1_056_768, true).unwrap().copy_in(0, bytes);
        }
        (memory, storage)
    }

    fn content(storage: &HeapStorage, name: &str) -> Vec<u8> {
        storage.content(&Path::new(DIRECTORY).join(name)).unwrap()
    }

    #[test]
    fn marks_of_module_and_services_are_found() {
        let (memory, _) = directory();
        let all = marks(&memory, Path::new(DIRECTORY)).unwrap();
        // The golden module's services used a separate directory that is not part of the golden files.
        assert_eq!(all.iter().map(ClusterMark::component).collect::<Vec<_>>(), ["CONSENSUS_MODULE"]);
        assert_eq!((all[0].header.member_id, all[0].errors.capacity()), (0, 1 << 20));
        let alone = HeapMemory::new();
        let bytes = include_bytes!("../../testdata/marks/cluster-mark-service-0.head8192.dat");
        let path = Path::new(DIRECTORY).join("cluster-mark-service-0.dat");
        alone.create(&path, 1_056_768, true).unwrap().copy_in(0, bytes);
        let all = marks(&alone, Path::new(DIRECTORY)).unwrap();
        assert_eq!(all.iter().map(ClusterMark::component).collect::<Vec<_>>(), ["CONTAINER"]);
        assert!(matches!(module_mark(&alone, Path::new(DIRECTORY)), Err(ClusterFilesError::Absent { .. })));
    }

    #[test]
    fn a_cut_mark_file_and_a_missing_log_are_named() {
        let memory = HeapMemory::new();
        memory.create(&Path::new(DIRECTORY).join("cluster-mark.dat"), 64, true).unwrap();
        assert!(matches!(module_mark(&memory, Path::new(DIRECTORY)), Err(ClusterFilesError::Mark { .. })));
        let error = recording_log_entries(&mut HeapStorage::new(), Path::new(DIRECTORY)).unwrap_err();
        assert!(error.to_string().contains("no recording.log in /cluster"), "{error}");
    }

    #[test]
    fn a_log_is_sorted_once_and_keeps_what_is_invalid() {
        let (memory, mut storage) = directory();
        let path = Path::new(DIRECTORY).join(RECORDING_LOG_FILE);
        let mut entries = recording_log_entries(&mut storage, Path::new(DIRECTORY)).unwrap();
        let snapshot = entries.iter().position(|entry| entry.entry_type == EntryType::Snapshot).unwrap();
        entries[snapshot].is_valid = false;
        let sorted = encode(&entries);
        storage.put(&path, sorted.clone());
        assert!(!sort_recording_log(&memory, &mut storage, Path::new(DIRECTORY), &NOW).unwrap());
        entries.reverse();
        storage.put(&path, encode(&entries));
        assert!(sort_recording_log(&memory, &mut storage, Path::new(DIRECTORY), &NOW).unwrap());
        let again = recording_log_entries(&mut storage, Path::new(DIRECTORY)).unwrap();
        assert_eq!(again.iter().filter(|entry| !entry.is_valid).count(), 1);
        assert!(!sort_recording_log(&memory, &mut storage, Path::new(DIRECTORY), &NOW).unwrap());
    }

    #[test]
    fn a_seeded_log_holds_the_latest_snapshot_and_the_old_log_is_kept() {
        let (memory, mut storage) = directory();
        let before = content(&storage, RECORDING_LOG_FILE);
        let seeded =
            seed_recording_log_from_snapshot(&memory, &mut storage, Path::new(DIRECTORY), &NOW).unwrap();
        assert_eq!(content(&storage, "recording.log.bak"), before);
        let services: Vec<_> =
            seeded.entries.iter().map(|entry| (entry.service_id, entry.log_position)).collect();
        assert_eq!(services, [(0, 0), (-1, 0)]);
        assert_eq!(content(&storage, RECORDING_LOG_FILE), encode(&seeded.entries));
    }

    #[test]
    fn the_latest_snapshot_is_invalidated_until_none_is_left() {
        let (memory, mut storage) = directory();
        let mut invalidate =
            || invalidate_latest_snapshot(&memory, &mut storage, Path::new(DIRECTORY), &NOW).unwrap();
        let mut count = 0;
        while invalidate() {
            count += 1;
        }
        let entries = recording_log_entries(&mut storage, Path::new(DIRECTORY)).unwrap();
        assert!(count > 0 && entries.iter().all(|entry| !entry.is_snapshot()));
        assert!(entries.iter().any(Entry::is_term));
    }

    #[test]
    fn a_running_member_is_left_alone() {
        let (memory, mut storage) = directory();
        let buffer = memory.map(&Path::new(DIRECTORY).join("cluster-mark.dat"), MapMode::ReadWrite).unwrap();
        buffer.store_i64(16, NOW.epoch_ms - 1_000, Ordering::Release);
        let before = content(&storage, RECORDING_LOG_FILE);
        let refused = invalidate_latest_snapshot(&memory, &mut storage, Path::new(DIRECTORY), &NOW);
        assert!(matches!(refused, Err(ClusterFilesError::Active { .. })));
        let refused = seed_recording_log_from_snapshot(&memory, &mut storage, Path::new(DIRECTORY), &NOW);
        assert!(matches!(refused, Err(ClusterFilesError::Active { .. })));
        assert_eq!(content(&storage, RECORDING_LOG_FILE), before);
    }
}
