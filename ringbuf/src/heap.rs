//! Back ends in plain memory, for tests and as the disk of the simulator.
//!
//! Cloned handles share one set of files. Nothing here is fast; everything is deterministic.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::memory::{MapMode, Memory, MemoryError};
use crate::storage::{FileId, OpenMode, Operation, Output, Storage, StorageError, WriteBuffer};
use crate::{AtomicBuffer, Region};

/// Mapped files, kept in memory.
#[derive(Clone, Default)]
pub struct HeapMemory {
    shared: Arc<Mutex<MappedFiles>>,
}

#[derive(Default)]
struct MappedFiles {
    files: BTreeMap<PathBuf, AtomicBuffer>,
    locks: BTreeMap<PathBuf, ()>,
    capacity: Option<u64>,
}

impl HeapMemory {
    /// Creates a memory without files and without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the bytes of all files together, as a small /dev/shm does.
    pub fn set_capacity(&self, bytes: u64) {
        self.files().capacity = Some(bytes);
    }

    /// Forgets all files below `directory`, as a crash of the machine does to /dev/shm. Mappings stay readable.
    pub fn forget(&self, directory: &Path) {
        self.files().files.retain(|path, _| !path.starts_with(directory));
    }

    fn files(&self) -> MutexGuard<'_, MappedFiles> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MappedFiles {
    fn usable(&self) -> u64 {
        let used: u64 = self.files.values().map(|buffer| buffer.capacity() as u64).sum();
        self.capacity.unwrap_or(1 << 40).saturating_sub(used)
    }
}

fn io(operation: &'static str, path: &Path, kind: ErrorKind) -> MemoryError {
    MemoryError::Io { operation, path: path.to_owned(), source: Error::from(kind) }
}

/// A lock that is released when its holder is dropped.
pub struct HeapLock {
    path: PathBuf,
    shared: Arc<Mutex<MappedFiles>>,
}

impl Drop for HeapLock {
    fn drop(&mut self) {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).locks.remove(&self.path);
    }
}

impl Memory for HeapMemory {
    type Lock = HeapLock;

    fn create(&self, path: &Path, length: usize, _sparse: bool) -> Result<AtomicBuffer, MemoryError> {
        let mut files = self.files();
        if files.files.contains_key(path) {
            return Err(io("create", path, ErrorKind::AlreadyExists));
        }
        let (required, usable) = (length as u64, files.usable());
        if required > usable {
            let directory = path.parent().unwrap_or(path).to_owned();
            return Err(MemoryError::Space { directory, required, usable });
        }
        let buffer = AtomicBuffer::heap(length);
        files.files.insert(path.to_owned(), buffer.clone());
        Ok(buffer)
    }

    fn map(&self, path: &Path, _mode: MapMode) -> Result<AtomicBuffer, MemoryError> {
        self.files().files.get(path).cloned().ok_or_else(|| io("map", path, ErrorKind::NotFound))
    }

    fn length(&self, path: &Path) -> Result<usize, MemoryError> {
        let files = self.files();
        files.files.get(path).map(Region::capacity).ok_or_else(|| io("measure", path, ErrorKind::NotFound))
    }

    fn remove(&self, path: &Path) -> Result<(), MemoryError> {
        self.files().files.remove(path);
        Ok(())
    }

    fn create_directory(&self, _path: &Path) -> Result<(), MemoryError> {
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> Result<(), MemoryError> {
        self.forget(path);
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, MemoryError> {
        Ok(names_in(self.files().files.keys(), path))
    }

    fn usable_space(&self, _path: &Path) -> Result<u64, MemoryError> {
        Ok(self.files().usable())
    }

    fn lock(&self, path: &Path) -> Result<HeapLock, MemoryError> {
        if self.files().locks.insert(path.to_owned(), ()).is_some() {
            return Err(MemoryError::Locked { path: path.to_owned() });
        }
        Ok(HeapLock { path: path.to_owned(), shared: self.shared.clone() })
    }

    fn flush(&self, _buffer: &AtomicBuffer) -> Result<(), MemoryError> {
        Ok(())
    }
}

/// Returns the names directly below a directory, sorted.
fn names_in<'a>(paths: impl Iterator<Item = &'a PathBuf>, directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = paths
        .filter_map(|path| path.strip_prefix(directory).ok()?.iter().next())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Files that are read and written, kept in memory. Clones share the disk; each clone has completions of its own.
#[derive(Default)]
pub struct HeapStorage {
    disk: Arc<Mutex<Disk>>,
    completions: VecDeque<(u64, Result<Output, StorageError>)>,
}

#[derive(Default)]
struct Disk {
    files: BTreeMap<PathBuf, Vec<u8>>,
    open: BTreeMap<u32, PathBuf>,
    next_id: u32,
    capacity: Option<u64>,
}

impl Clone for HeapStorage {
    fn clone(&self) -> Self {
        Self { disk: self.disk.clone(), completions: VecDeque::new() }
    }
}

impl HeapStorage {
    /// Creates a disk without files and without a limit.
    pub fn new() -> Self {
        Self::default()
    }

    /// Limits the bytes of all files together.
    pub fn set_capacity(&self, bytes: u64) {
        self.disk().capacity = Some(bytes);
    }

    /// Returns the content of a file, for tests.
    pub fn content(&self, path: &Path) -> Option<Vec<u8>> {
        self.disk().files.get(path).cloned()
    }

    /// Puts a file on the disk, for tests.
    pub fn put(&self, path: &Path, content: Vec<u8>) {
        self.disk().files.insert(path.to_owned(), content);
    }

    fn disk(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Disk {
    fn path_of(&self, file: FileId) -> Result<PathBuf, StorageError> {
        self.open.get(&file.0).cloned().ok_or_else(|| {
            StorageError::new("use", Path::new("closed file"), Error::from(ErrorKind::InvalidInput))
        })
    }

    fn file(&mut self, file: FileId, operation: &'static str) -> Result<&mut Vec<u8>, StorageError> {
        let path = self.path_of(file)?;
        let missing = || StorageError::new(operation, &path, Error::from(ErrorKind::NotFound));
        self.files.get_mut(&path).ok_or_else(missing)
    }

    fn usable(&self) -> u64 {
        let used: u64 = self.files.values().map(|content| content.len() as u64).sum();
        self.capacity.unwrap_or(1 << 40).saturating_sub(used)
    }

    fn run(&mut self, operation: Operation) -> Result<Output, StorageError> {
        match operation {
            Operation::Open { path, mode } => self.open(path, mode),
            Operation::Write { file, offset, bytes } => self.write(file, offset, &bytes),
            Operation::Read { file, offset, length, mut into } => {
                let content = self.file(file, "read")?;
                let start = (offset as usize).min(content.len());
                let end = start.saturating_add(length).min(content.len());
                into.clear();
                into.extend_from_slice(&content[start..end]);
                Ok(Output::Data(into))
            }
            Operation::Sync { file, .. } => self.file(file, "sync").map(|_| Output::Done),
            Operation::SetLength { file, length } => {
                self.file(file, "set the length of")?.resize(length as usize, 0);
                Ok(Output::Done)
            }
            Operation::Close { file } => {
                self.open.remove(&file.0);
                Ok(Output::Done)
            }
            Operation::Remove { path } => {
                self.files.remove(&path);
                Ok(Output::Done)
            }
            Operation::Rename { from, to } => match self.files.remove(&from) {
                Some(content) => {
                    self.files.insert(to, content);
                    Ok(Output::Done)
                }
                None => Err(StorageError::new("rename", &from, Error::from(ErrorKind::NotFound))),
            },
            Operation::SyncDirectory { .. } | Operation::CreateDirectory { .. } => Ok(Output::Done),
            Operation::List { path } => Ok(Output::Names(names_in(self.files.keys(), &path))),
            Operation::Space { .. } => {
                Ok(Output::Space { usable: self.usable(), total: self.capacity.unwrap_or(1 << 40) })
            }
        }
    }

    fn open(&mut self, path: PathBuf, mode: OpenMode) -> Result<Output, StorageError> {
        let exists = self.files.contains_key(&path);
        let refused = match mode {
            OpenMode::Read | OpenMode::ReadWrite => (!exists).then_some(ErrorKind::NotFound),
            OpenMode::CreateNew => exists.then_some(ErrorKind::AlreadyExists),
            OpenMode::CreateOrOpen => None,
        };
        if let Some(kind) = refused {
            return Err(StorageError::new("open", &path, Error::from(kind)));
        }
        let length = self.files.entry(path.clone()).or_default().len() as u64;
        let id = self.next_id;
        self.next_id += 1;
        self.open.insert(id, path);
        Ok(Output::Opened(FileId(id), length))
    }

    fn write(&mut self, file: FileId, offset: u64, bytes: &WriteBuffer) -> Result<Output, StorageError> {
        let usable = self.usable();
        let path = self.path_of(file)?;
        let content = self.file(file, "write")?;
        let end = offset as usize + bytes.len();
        if end > content.len() {
            if (end - content.len()) as u64 > usable {
                return Err(StorageError::new("write", &path, Error::from(ErrorKind::StorageFull)));
            }
            content.resize(end, 0);
        }
        let target = &mut content[offset as usize..end];
        match bytes {
            WriteBuffer::Log { buffer, offset, .. } => buffer.copy_out(*offset, target),
            WriteBuffer::Owned(bytes) => target.copy_from_slice(bytes),
        }
        Ok(Output::Done)
    }
}

impl Storage for HeapStorage {
    fn submit(&mut self, token: u64, operation: Operation) {
        let result = self.disk().run(operation);
        self.completions.push_back((token, result));
    }

    fn poll(&mut self, visit: &mut dyn FnMut(u64, Result<Output, StorageError>)) -> usize {
        let mut done = 0;
        while let Some((token, result)) = self.completions.pop_front() {
            visit(token, result);
            done += 1;
        }
        done
    }

    fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError> {
        self.disk().run(operation)
    }
}
