//! Mapped files of a simulated host.

use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, Memory, MemoryError};

use crate::kernel::{HostId, Kernel};

/// Free bytes of a host's file systems.
pub(crate) const USABLE_BYTES: u64 = 1 << 40;

type Locks = Arc<Mutex<std::collections::BTreeSet<PathBuf>>>;

/// Memory of the processes of one host.
#[derive(Clone)]
pub struct SimMemory {
    kernel: Kernel,
    host: HostId,
    /// Process whose calls are counted.
    process: HostId,
    locks: Locks,
}

impl SimMemory {
    /// Creates the memory of a host.
    pub fn new(kernel: Kernel, host: HostId) -> Self {
        Self { kernel, host, process: host, locks: Locks::default() }
    }

    /// Returns the same memory for another process of the host.
    pub fn of_process(&self, process: HostId) -> Self {
        Self { process, ..self.clone() }
    }
}

/// A lock that is released when its holder is dropped.
pub struct SimLock {
    path: PathBuf,
    locks: Locks,
}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.path);
    }
}

fn io(operation: &'static str, path: &Path, kind: ErrorKind) -> MemoryError {
    MemoryError::Io { operation, path: path.to_owned(), source: Error::from(kind) }
}

impl Memory for SimMemory {
    type Lock = SimLock;

    fn create(&self, path: &Path, length: usize, _sparse: bool) -> Result<AtomicBuffer, MemoryError> {
        self.kernel.enter(self.process);
        let mut state = self.kernel.state();
        state.note("create mapping", &[self.host as u64, length as u64]);
        let disk = &mut state.hosts[self.host].disk;
        if disk.find(path).is_some() || disk.mapping(path).is_some() {
            return Err(io("create", path, ErrorKind::AlreadyExists));
        }
        let buffer = AtomicBuffer::heap(length);
        disk.map(path, buffer.clone());
        Ok(buffer)
    }

    fn map(&self, path: &Path, _mode: MapMode) -> Result<AtomicBuffer, MemoryError> {
        let found = self.kernel.state().hosts[self.host].disk.mapping(path);
        found.ok_or_else(|| io("map", path, ErrorKind::NotFound))
    }

    fn length(&self, path: &Path) -> Result<usize, MemoryError> {
        use harrier_ringbuf::Region;
        let found = self.kernel.state().hosts[self.host].disk.mapping(path);
        found.map(|buffer| buffer.capacity()).ok_or_else(|| io("measure", path, ErrorKind::NotFound))
    }

    fn remove(&self, path: &Path) -> Result<(), MemoryError> {
        self.kernel.enter(self.process);
        self.kernel.state().hosts[self.host].disk.remove(path);
        Ok(())
    }

    fn create_directory(&self, _path: &Path) -> Result<(), MemoryError> {
        Ok(())
    }

    fn remove_directory(&self, path: &Path) -> Result<(), MemoryError> {
        self.kernel.enter(self.process);
        self.kernel.state().hosts[self.host].disk.remove_directory(path);
        Ok(())
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, MemoryError> {
        Ok(self.kernel.state().hosts[self.host].disk.list(path))
    }

    fn usable_space(&self, _path: &Path) -> Result<u64, MemoryError> {
        Ok(USABLE_BYTES)
    }

    fn lock(&self, path: &Path) -> Result<SimLock, MemoryError> {
        let is_free = self.locks.lock().unwrap_or_else(PoisonError::into_inner).insert(path.to_owned());
        if !is_free {
            return Err(MemoryError::Locked { path: path.to_owned() });
        }
        Ok(SimLock { path: path.to_owned(), locks: self.locks.clone() })
    }

    fn flush(&self, buffer: &AtomicBuffer) -> Result<(), MemoryError> {
        self.kernel.enter(self.process);
        if self.kernel.is_last_sync(self.process, false) {
            self.kernel.die(self.process);
        }
        let mut state = self.kernel.state();
        state.note("flush", &[self.host as u64]);
        state.hosts[self.host].disk.flush(buffer.as_ptr());
        Ok(())
    }
}
