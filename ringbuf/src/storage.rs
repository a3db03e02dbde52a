//! The seam to files that are read and written, not mapped: catalog, segments, recording.log, node state.
//!
//! Operations are submitted and complete later. Positions advance only on completion, so the same engine code runs on
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
    /// The file must exist; it is only read.
    Read,
    /// The file must exist; it is read and written.
    ReadWrite,
    /// The file must not exist.
    CreateNew,
    /// The file is created when it is absent and kept when it is present.
    CreateOrOpen,
}

/// Extent of a sync.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncLevel {
    /// The sync covers the content of the file (fdatasync).
    Data,
    /// The sync covers content and metadata (fsync).
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
    /// Bytes whose ownership passes to the storage.
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
        /// Mode of opening.
        mode: OpenMode,
    },
    /// Writes all of `bytes` at `offset`; completes with [`Output::Done`] and is never short.
    Write {
        /// The file.
        file: FileId,
        /// First byte in the file.
        offset: u64,
        /// Bytes to write.
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
        /// Buffer for the bytes.
        into: Vec<u8>,
    },
    /// Makes earlier completed writes survive a crash of the machine.
    Sync {
        /// The file.
        file: FileId,
        /// Extent of the sync.
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
    /// Removes a file; a missing file is no error.
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

/// Result of a finished operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// The operation has succeeded and has no other result.
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

/// Reason why an operation failed.
#[derive(Debug, Error)]
#[error("cannot {operation} {path}: {source}")]
pub struct StorageError {
    /// Operation that was attempted, such as `open`.
    pub operation: &'static str,
    /// Path of the file or directory.
    pub path: PathBuf,
    /// Error of the system.
    pub source: std::io::Error,
}

impl StorageError {
    /// Adds operation and path to an error of the system.
    pub fn new(operation: &'static str, path: &Path, source: std::io::Error) -> Self {
        Self { operation, path: path.to_owned(), source }
    }

    /// True when a file was not there.
    pub fn is_not_found(&self) -> bool {
        self.source.kind() == std::io::ErrorKind::NotFound
    }
}

/// Files that are used through submissions and completions.
///
/// Operations on one file take effect in the order of their submission; across files there is no order.
pub trait Storage {
    /// Queues an operation. `token` comes back with its completion.
    fn submit(&mut self, token: u64, operation: Operation);

    /// Reports finished operations; returns how many. Never blocks.
    fn poll(&mut self, visit: &mut dyn FnMut(u64, Result<Output, StorageError>)) -> usize;

    /// Runs one operation until it is complete. Only start-up and tools use this; an agent in service submits and
    /// polls. The completions of operations that were submitted before must have been polled.
    fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError>;
}
