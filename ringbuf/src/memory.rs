//! The seam to mapped files: CnC file, logs, loss report and mark files.

use std::ops::Range;
use std::path::{Path, PathBuf};
use thiserror::Error;

use crate::AtomicBuffer;

/// Reason why a file could not be created, mapped or removed.
#[derive(Debug, Error)]
pub enum MemoryError {
    /// The file system cannot hold the file; nothing was created.
    #[error("not enough space in {}: {required} bytes required, {usable} usable; free space or use smaller buffers", directory.display())]
    Space {
        /// Directory of the file.
        directory: PathBuf,
        /// Bytes that the file needs.
        required: u64,
        /// Bytes that the file system offers.
        usable: u64,
    },
    /// Another process holds the lock.
    #[error("{} is in use by another process", path.display())]
    Locked {
        /// The locked file.
        path: PathBuf,
    },
    /// The system refuses for any other reason.
    #[error("cannot {operation} {}: {source}", path.display())]
    Io {
        /// Operation that was attempted.
        operation: &'static str,
        /// Path of the file.
        path: PathBuf,
        /// Error of the system.
        source: std::io::Error,
    },
}

impl MemoryError {
    /// True when a directory was expected and the path names a file.
    pub fn is_not_a_directory(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotADirectory)
    }

    /// True when a file of that name exists already.
    pub fn is_taken(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::AlreadyExists)
    }

    /// True when the file was not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound)
    }
}

/// How a file is mapped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MapMode {
    /// The mapping allows loads only; a store raises a signal.
    ReadOnly,
    /// The mapping allows loads and stores.
    ReadWrite,
}

/// Creates, maps and removes files that processes share.
pub trait Memory: Clone + Send + 'static {
    /// Lock on a file. It is released when it is dropped and when its process dies.
    type Lock: Send + 'static;

    /// Creates a file of `length` zero bytes and maps it for reading and writing. It fails when the file exists. It
    /// checks the free space first and fails, even if `sparse`, when the file system could not hold the file. With
    /// `sparse` false all pages are allocated before this returns, so that no later store can fail.
    fn create(&self, path: &Path, length: usize, sparse: bool) -> Result<AtomicBuffer, MemoryError>;

    /// Works as [`create`](Self::create) but does not check the free space first: a sparse file may then be longer
    /// than the file system could hold.
    fn create_unasked(&self, path: &Path, length: usize, sparse: bool) -> Result<AtomicBuffer, MemoryError> {
        self.create(path, length, sparse)
    }

    /// Allocates the pages of a range of an existing file, so that no later store to them can fail. Nothing to do where
    /// files have all of their pages from the start.
    fn allocate(&self, _path: &Path, _range: Range<usize>) -> Result<(), MemoryError> {
        Ok(())
    }

    /// Makes the first store to each page of a mapping, or of a part of one, as cheap as later stores. This is a best
    /// effort and changes no byte.
    fn populate(&self, _buffer: &AtomicBuffer) {}

    /// Maps a whole existing file.
    fn map(&self, path: &Path, mode: MapMode) -> Result<AtomicBuffer, MemoryError>;

    /// Length of an existing file in bytes.
    fn length(&self, path: &Path) -> Result<usize, MemoryError>;

    /// Removes a file; mappings of it stay valid. A missing file is no error.
    fn remove(&self, path: &Path) -> Result<(), MemoryError>;

    /// Creates a directory and its parents; an existing directory is no error.
    fn create_directory(&self, path: &Path) -> Result<(), MemoryError>;

    /// Removes a directory with its content; a missing directory is no error. Symbolic links are removed, not followed.
    fn remove_directory(&self, path: &Path) -> Result<(), MemoryError>;

    /// The path without symbolic links, also when its last parts do not exist yet: two paths to one place are then equal.
    fn resolve(&self, path: &Path) -> PathBuf {
        path.to_owned()
    }

    /// Names in a directory, sorted; empty when it does not exist.
    fn list(&self, path: &Path) -> Result<Vec<String>, MemoryError>;

    /// Usable bytes of the file system that holds `path`.
    fn usable_space(&self, path: &Path) -> Result<u64, MemoryError>;

    /// Takes an exclusive lock on a file and creates the file when it is absent. It fails with
    /// [`MemoryError::Locked`] while another process, or another holder in this process, has the lock. The lock ends
    /// with the process, however the process dies. A symbolic link is never followed.
    fn lock(&self, path: &Path) -> Result<Self::Lock, MemoryError>;

    /// Removes the file of a lock that is held, so that nothing stays behind. When the path names another file by
    /// now, that file stays. There is nothing to do where locks are not files.
    fn remove_lock_file(&self, _lock: &Self::Lock, _path: &Path) -> Result<(), MemoryError> {
        Ok(())
    }

    /// Writes the dirty pages of a mapping to its file and waits until that is done.
    fn flush(&self, buffer: &AtomicBuffer) -> Result<(), MemoryError>;
}

/// Two directories of which one lies in the other, or that are the same.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "{first} {} and {second} {} overlap; a media driver deletes its directory when it starts, so choose directories apart",
    first_path.display(),
    second_path.display()
)]
pub struct Overlap {
    /// Use of the first directory, such as `archive directory`.
    pub first: &'static str,
    /// The first directory.
    pub first_path: PathBuf,
    /// Use of the second directory.
    pub second: &'static str,
    /// The second directory.
    pub second_path: PathBuf,
}

/// Checks that a media driver's directory has no part in others.
///
/// # Errors
/// The first that overlaps with it.
pub fn check_apart<M: Memory>(
    memory: &M,
    driver: (&'static str, &Path),
    others: &[(&'static str, &Path)],
) -> Result<(), Overlap> {
    let resolved = memory.resolve(driver.1);
    for (name, path) in others {
        let other = memory.resolve(path);
        if other.starts_with(&resolved) || resolved.starts_with(&other) {
            return Err(Overlap {
                first: name,
                first_path: (*path).to_owned(),
                second: driver.0,
                second_path: driver.1.to_owned(),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::heap::HeapMemory;

    #[test]
    fn directories_that_overlap_are_named() {
        let check = |driver: &str, archive: &str| {
            let driver = ("driver directory", Path::new(driver));
            check_apart(&HeapMemory::new(), driver, &[("archive directory", Path::new(archive))])
        };
        assert_eq!(check("/a/driver", "/a/archive"), Ok(()));
        assert_eq!(check("/a/b", "/a/bc"), Ok(()));
        for (driver, archive) in [("/a", "/a"), ("/a", "/a/b"), ("/a/b", "/a")] {
            let text = check(driver, archive).unwrap_err().to_string();
            assert!(
                text.starts_with(&format!("archive directory {archive} and driver directory {driver}")),
                "{text}"
            );
        }
    }
}
