//! The seam to files that are read and written, not mapped: catalog, segments, recording.log, node state.
//!
//! Operations are submitted and later complete; positions move only on completion, so the same engine code runs on
//! plain writes, on io_uring and in the simulator.

use std::path::{Path, PathBuf};
use thiserror::Error;

use crate::AtomicBuffer;

/// An open file of a [`Storage`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(pub u32);

/// How a file is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// Must exist; reads only.
    Read,
    /// Must exist; reads and writes.
    ReadWrite,
    /// Must not exist.
    CreateNew,
    /// Created when absent, kept when present.
    CreateOrOpen,
}

/// How much a sync covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncLevel {
    /// The file's content (fdatasync).
    Data,
    /// Content and metadata (fsync).
    All,
}

/// Bytes to write.
#[derive(Debug, Clone)]
pub enum WriteBuffer {
    /// A range of a log whose mapping lives until the write completes.
    Log {
        /// The mapped term or log; cloning shares the mapping.
        buffer: AtomicBuffer,
        /// First byte.
        offset: usize,
        /// Number of bytes.
        length: usize,
    },
    /// Bytes handed over.
    Owned(Vec<u8>),
}

impl WriteBuffer {
    /// Number of bytes.
    pub fn len(&self) -> usize {
        match self {
            Self::Log { length, .. } => *length,
            Self::Owned(bytes) => bytes.len(),
        }
    }

    /// True when there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// One request to the storage.
#[derive(Debug)]
pub enum Operation {
    /// Opens a file; completes with [`Output::Opened`].
    Open {
        /// The file.
        path: PathBuf,
        /// How.
        mode: OpenMode,
    },
    /// Writes all of `bytes` at `offset`; completes with [`Output::Done`] and is never short.
    Write {
        /// The file.
        file: FileId,
        /// First byte in the file.
        offset: u64,
        /// What to write.
        bytes: WriteBuffer,
    },
    /// Reads up to `length` bytes; completes with [`Output::Data`], shorter at the end of the file. The buffer's
    /// content is replaced and its capacity reused.
    Read {
        /// The file.
        file: FileId,
        /// First byte in the file.
        offset: u64,
        /// Most bytes to read.
        length: usize,
        /// Where to.
        into: Vec<u8>,
    },
    /// Makes earlier completed writes survive a crash of the machine.
    Sync {
        /// The file.
        file: FileId,
        /// How much.
        level: SyncLevel,
    },
    /// Sets the length; grown space reads as zero and may be sparse.
    SetLength {
        /// The file.
        file: FileId,
        /// New length in bytes.
        length: u64,
    },
    /// Closes a file; its id is free afterwards.
    Close {
        /// The file.
        file: FileId,
    },
    /// Removes a file; missing files are no error.
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// Renames a file, replacing `to`.
    Rename {
        /// Old name.
        from: PathBuf,
        /// New name.
        to: PathBuf,
    },
    /// Makes the entries of a directory survive a crash of the machine.
    SyncDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Creates a directory and its parents.
    CreateDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// Lists the names in a directory, sorted; completes with [`Output::Names`].
    List {
        /// The directory.
        path: PathBuf,
    },
    /// Asks for usable and total bytes of the file system; completes with [`Output::Space`].
    Space {
        /// A path on the file system.
        path: PathBuf,
    },
}

/// What a finished operation brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Nothing but success.
    Done,
    /// The file and its length in bytes.
    Opened(FileId, u64),
    /// The bytes read.
    Data(Vec<u8>),
    /// Names in a directory, sorted.
    Names(Vec<String>),
    /// Usable and total bytes.
    Space {
        /// Bytes that an unprivileged process may still write.
        usable: u64,
        /// Size of the file system.
        total: u64,
    },
}

/// Why an operation failed.
#[derive(Debug, Error)]
#[error("cannot {operation} {path}: {source}")]
pub struct StorageError {
    /// What was tried, such as `open`.
    pub operation: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// The system's reason.
    pub source: std::io::Error,
}

impl StorageError {
    /// Ties the system's reason to what was tried.
    pub fn new(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self { operation, path: path.to_owned(), source }
    }

    /// True when a file was not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}

/// Files behind submissions and completions.
///
/// Operations on one file take effect in the order of their submission; across files there is no order.
pub trait Storage {
    /// Queues an operation. `token` comes back with its completion.
    fn submit(&mut self, token: u64, operation: Operation);

    /// Reports finished operations; returns how many. Never blocks.
    fn poll(&mut self, visit: &mut dyn FnMut(u64, Result<Output, StorageError>)) -> usize;

    /// Runs one operation to its end, for start-up and tools only: an agent in service submits and polls. Completions
    /// of operations submitted before must have been polled.
    fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError>;
}
