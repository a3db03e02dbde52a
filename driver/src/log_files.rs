//! Log files in the driver's directory (spec 02 §5.9).

use std::ops::Range;
use std::path::{Path, PathBuf};

use harrier_ringbuf::logbuffer::{LogBuffers, LogSettings, METADATA_LENGTH, file_length};
use harrier_ringbuf::{AtomicBuffer, Memory, MemoryError, Region};

use crate::allocation::{file_ranges, first_pages};
use crate::failure::Failure;

/// Directory of publication logs, below the driver's.
pub(crate) const PUBLICATIONS: &str = "publications";
/// Directory of image logs, below the driver's.
pub(crate) const IMAGES: &str = "images";

/// A mapped log file.
#[derive(Debug)]
pub(crate) struct LogFile {
    pub(crate) path: PathBuf,
    pub(crate) log: LogBuffers,
    pub(crate) length: usize,
    /// True when not all pages of a log that is not sparse are allocated.
    pub(crate) is_partial: bool,
}

/// Path of a publication's log.
pub(crate) fn publication_path(directory: &Path, registration_id: i64) -> PathBuf {
    directory.join(PUBLICATIONS).join(format!("{registration_id}.logbuffer"))
}

/// Path of an image's log.
pub(crate) fn image_path(directory: &Path, correlation_id: i64) -> PathBuf {
    directory.join(IMAGES).join(format!("{correlation_id}.logbuffer"))
}

/// Checks of the file system when a log is created (spec 02 §5.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorageChecks {
    /// Requires that the log fits, and warns when at most this many bytes are left.
    Warn(u64),
    /// No checks.
    Off,
}

/// Creates and initialises a log. Only the pages of the positions `first` are allocated when it is given. The file is
/// removed again when something fails.
pub(crate) fn create<M: Memory>(
    memory: &M,
    path: &Path,
    settings: &LogSettings,
    storage: StorageChecks,
    first: Option<Range<i64>>,
) -> Result<LogFile, Failure> {
    let length = file_length(settings.term_length, settings.page_size);
    let sparse = settings.sparse || first.is_some();
    let created = match storage {
        StorageChecks::Warn(_) => memory.create(path, length, sparse),
        StorageChecks::Off => memory.create_unasked(path, length, sparse),
    };
    let buffer = created.map_err(|error| of_folder(error, path))?;
    initialise(memory, path, settings, buffer, first).inspect_err(|_| {
        // The first error is more useful than a failure to remove the file.
        let _best_effort = memory.remove(path);
    })
}

fn initialise<M: Memory>(
    memory: &M,
    path: &Path,
    settings: &LogSettings,
    buffer: AtomicBuffer,
    first: Option<Range<i64>>,
) -> Result<LogFile, Failure> {
    let length = buffer.capacity();
    let is_partial = first.is_some();
    if let Some(positions) = &first {
        let metadata = length - METADATA_LENGTH..length;
        for range in std::iter::once(metadata).chain(first_pages(settings.term_length)) {
            memory.allocate(path, range).map_err(|error| of_folder(error, path))?;
        }
        allocate(memory, path, settings.term_length, positions.clone())?;
    }
    let log = LogBuffers::initialise(buffer, settings)?;
    let file = LogFile { path: path.to_owned(), log, length, is_partial };
    if let Some(positions) = first {
        populate(memory, &file.log, positions);
    }
    Ok(file)
}

/// Allocates the pages of a range of positions of a log.
pub(crate) fn allocate<M: Memory>(
    memory: &M,
    path: &Path,
    term_length: usize,
    positions: Range<i64>,
) -> Result<(), Failure> {
    for range in file_ranges(positions, term_length) {
        memory.allocate(path, range).map_err(|error| of_folder(error, path))?;
    }
    Ok(())
}

/// Enters the pages of a range of positions, which are allocated, ahead of the writers.
pub(crate) fn populate<M: Memory>(memory: &M, log: &LogBuffers, positions: Range<i64>) {
    let term_length = log.term_length();
    for range in file_ranges(positions, term_length) {
        let (term, offset) = (range.start / term_length, range.start % term_length);
        memory.populate(&log.term(term).slice(offset, range.len()));
    }
}

/// Replaces the name of a log by `*`. Names of logs differ each time, and each would be a new entry in the error log.
fn of_folder(error: MemoryError, path: &Path) -> MemoryError {
    match error {
        MemoryError::Io { operation, source, .. } => {
            MemoryError::Io { operation, path: path.parent().unwrap_or(path).join("*"), source }
        }
        other => other,
    }
}

/// Returns a warning when the file system runs low.
pub(crate) fn low_space_warning<M: Memory>(
    memory: &M,
    directory: &Path,
    storage: StorageChecks,
) -> Option<String> {
    let StorageChecks::Warn(threshold) = storage else { return None };
    let usable = memory.usable_space(directory).ok()?;
    (usable <= threshold).then(|| {
        format!(
            "WARN: space is running low: threshold={threshold} usable={usable} in {}",
            directory.display()
        )
    })
}

/// Removes a log's file and drops its mapping.
pub(crate) fn free<M: Memory>(memory: &M, file: LogFile) -> Result<(), MemoryError> {
    memory.remove(&file.path)
}
