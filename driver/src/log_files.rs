//! Log files in the driver's directory (spec 02 §5.9).

use std::path::{Path, PathBuf};

use harrier_ringbuf::logbuffer::{LogBuffers, LogSettings, file_length};
use harrier_ringbuf::{Memory, MemoryError};

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
}

/// Where a publication's log lies.
pub(crate) fn publication_path(directory: &Path, registration_id: i64) -> PathBuf {
    directory.join(PUBLICATIONS).join(format!("{registration_id}.logbuffer"))
}

/// Where an image's log lies.
pub(crate) fn image_path(directory: &Path, correlation_id: i64) -> PathBuf {
    directory.join(IMAGES).join(format!("{correlation_id}.logbuffer"))
}

/// What is asked of the file system when a log is made (spec 02 §5.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StorageChecks {
    /// That the log fits; a warning when no more than so many bytes were left.
    Warn(u64),
    /// Nothing.
    Off,
}

/// Creates and initialises a log; the file is removed again when that fails.
pub(crate) fn create<M: Memory>(
    memory: &M,
    path: &Path,
    settings: &LogSettings,
    storage: StorageChecks,
) -> Result<LogFile, Failure> {
    let length = file_length(settings.term_length, settings.page_size);
    let created = match storage {
        StorageChecks::Warn(_) => memory.create(path, length, settings.sparse),
        StorageChecks::Off => memory.create_unasked(path, length, settings.sparse),
    };
    let buffer = created.map_err(|error| of_folder(error, path))?;
    match LogBuffers::initialise(buffer, settings) {
        Ok(log) => Ok(LogFile { path: path.to_owned(), log, length }),
        Err(error) => {
            memory.remove(path)?;
            Err(error.into())
        }
    }
}

/// The same text for every log that a folder does not take: names of files are never the same, and each would be a new
/// entry of the error log.
fn of_folder(error: MemoryError, path: &Path) -> MemoryError {
    match error {
        MemoryError::Io { operation, source, .. } => {
            MemoryError::Io { operation, path: path.parent().unwrap_or(path).join("*"), source }
        }
        other => other,
    }
}

/// A warning when the file system runs low.
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

/// Removes a log's file and lets its mapping go.
pub(crate) fn free<M: Memory>(memory: &M, file: LogFile) -> Result<(), MemoryError> {
    memory.remove(&file.path)
}
