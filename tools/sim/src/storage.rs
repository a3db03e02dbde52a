//! Files of a simulated host: operations take time, and a crash interrupts some of them.

use std::collections::{BTreeMap, VecDeque};
use std::io::{Error, ErrorKind};
use std::path::{Path, PathBuf};

use harrier_archive::catalog::CATALOG_FILE;
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, StorageError, WriteBuffer};
use harrier_ringbuf::{Region, Storage};

use crate::disk::{Disk, Inode};
use crate::kernel::{HostId, Kernel, State};
use crate::memory::USABLE_BYTES;
use crate::trace::hash_bytes;

/// Time from an operation's effect to its completion, ns.
const REPORT_NS: i64 = 2_000;

struct Pending {
    token: u64,
    operation: Option<Operation>,
    effect_ns: i64,
    result: Option<Result<Output, StorageError>>,
}

/// Files of one part of a process.
pub struct SimStorage {
    kernel: Kernel,
    host: HostId,
    open: BTreeMap<u32, (Inode, PathBuf)>,
    next_id: u32,
    pending: VecDeque<Pending>,
    /// Time at which the last operation on a file takes effect; later operations on the file do not overtake it.
    last_effect_ns: BTreeMap<PathBuf, i64>,
}

impl SimStorage {
    /// Creates the files of a host.
    pub fn new(kernel: Kernel, host: HostId) -> Self {
        Self {
            kernel,
            host,
            open: BTreeMap::new(),
            next_id: 0,
            pending: VecDeque::new(),
            last_effect_ns: BTreeMap::new(),
        }
    }

    fn path_of(&self, operation: &Operation) -> PathBuf {
        match operation {
            Operation::Write { file, .. }
            | Operation::Read { file, .. }
            | Operation::Sync { file, .. }
            | Operation::SetLength { file, .. }
            | Operation::Close { file } => {
                self.open.get(&file.0).map(|(_, path)| path.clone()).unwrap_or_default()
            }
            Operation::Open { path, .. }
            | Operation::Remove { path }
            | Operation::SyncDirectory { path }
            | Operation::CreateDirectory { path }
            | Operation::List { path }
            | Operation::Space { path } => path.clone(),
            Operation::Rename { from, .. } => from.clone(),
        }
    }

    /// Counts the call. When a process dies at a sync, all its earlier submissions have been carried out.
    fn enter(&mut self, operation: &Operation) {
        self.kernel.enter(self.host);
        if !matches!(operation, Operation::Sync { .. } | Operation::SyncDirectory { .. }) {
            return;
        }
        let is_of_catalog = self.path_of(operation).ends_with(CATALOG_FILE);
        if self.kernel.is_last_sync(self.host, is_of_catalog) {
            self.run_due(i64::MAX);
            self.kernel.die(self.host);
        }
    }

    /// Carries out operations that are due, in the order in which they take effect.
    fn run_due(&mut self, now_ns: i64) {
        loop {
            let due = (0..self.pending.len())
                .filter(|index| self.pending[*index].operation.is_some())
                .min_by_key(|index| (self.pending[*index].effect_ns, *index));
            let Some(index) = due.filter(|index| self.pending[*index].effect_ns <= now_ns) else { return };
            if let Some(operation) = self.pending[index].operation.take() {
                let result = self.run(operation);
                self.pending[index].result = Some(result);
            }
        }
    }

    fn run(&mut self, operation: Operation) -> Result<Output, StorageError> {
        let kernel = self.kernel.clone();
        let mut state = kernel.state();
        let state = &mut *state;
        let disk = &mut state.hosts[self.host].disk;
        match operation {
            Operation::Open { path, mode } => return self.open(disk, path, mode),
            Operation::Write { file, offset, bytes } => {
                let inode = self.inode(file, "write")?;
                write(disk, inode, offset as usize, &bytes);
                let written = &disk.bytes(inode)[offset as usize..offset as usize + bytes.len()];
                let hash = hash_bytes(written);
                state.note("write", &[self.host as u64, inode, offset, hash]);
            }
            Operation::Read { file, offset, length, mut into } => {
                let inode = self.inode(file, "read")?;
                let content = disk.bytes(inode);
                let start = (offset as usize).min(content.len());
                let end = (start + length).min(content.len());
                into.clear();
                into.extend_from_slice(&content[start..end]);
                return Ok(Output::Data(into));
            }
            Operation::Sync { file, .. } => {
                let inode = self.inode(file, "sync")?;
                disk.sync(inode);
                state.note("sync", &[self.host as u64, inode]);
            }
            Operation::SetLength { file, length } => {
                let inode = self.inode(file, "set the length of")?;
                disk.set_length(inode, length as usize);
            }
            Operation::Close { file } => {
                self.open.remove(&file.0);
            }
            Operation::Remove { path } => disk.remove(&path),
            Operation::Rename { from, to } => {
                if !disk.rename(&from, &to) {
                    return Err(StorageError::new("rename", &from, Error::from(ErrorKind::NotFound)));
                }
            }
            Operation::SyncDirectory { path } => {
                disk.sync_directory(&path);
                state.note("sync directory", &[self.host as u64]);
            }
            Operation::CreateDirectory { .. } => {}
            Operation::List { path } => return Ok(Output::Names(disk.list(&path))),
            Operation::Space { .. } => {
                return Ok(Output::Space { usable: USABLE_BYTES, total: USABLE_BYTES });
            }
        }
        Ok(Output::Done)
    }

    fn inode(&self, file: FileId, operation: &'static str) -> Result<Inode, StorageError> {
        let closed = || StorageError::new(operation, Path::new("?"), Error::from(ErrorKind::InvalidInput));
        self.open.get(&file.0).map(|(inode, _)| *inode).ok_or_else(closed)
    }

    fn open(&mut self, disk: &mut Disk, path: PathBuf, mode: OpenMode) -> Result<Output, StorageError> {
        let found = disk.find(&path);
        let refused = match mode {
            OpenMode::Read | OpenMode::ReadWrite => found.is_none().then_some(ErrorKind::NotFound),
            OpenMode::CreateNew => found.is_some().then_some(ErrorKind::AlreadyExists),
            OpenMode::CreateOrOpen => None,
        };
        if let Some(kind) = refused {
            return Err(StorageError::new("open", &path, Error::from(kind)));
        }
        let inode = found.unwrap_or_else(|| disk.create(&path));
        let id = self.next_id;
        self.next_id += 1;
        self.open.insert(id, (inode, path));
        Ok(Output::Opened(FileId(id), disk.length(inode) as u64))
    }

    fn delay_ns(state: &mut State, host: HostId, operation: &Operation) -> i64 {
        let pace = state.hosts[host].disk_pace;
        let most = match operation {
            Operation::Sync { .. } | Operation::SyncDirectory { .. } => pace.sync_ns,
            _ => pace.operation_ns,
        };
        (most / 4 + state.rng.below(most.max(1))) as i64
    }
}

fn write(disk: &mut Disk, inode: Inode, offset: usize, bytes: &WriteBuffer) {
    match bytes {
        WriteBuffer::Log { buffer, offset: from, length } => {
            disk.write(inode, offset, |target| buffer.copy_out(*from, target), *length);
        }
        WriteBuffer::Owned(bytes) => {
            disk.write(inode, offset, |target| target.copy_from_slice(bytes), bytes.len());
        }
    }
}

impl Storage for SimStorage {
    fn submit(&mut self, token: u64, operation: Operation) {
        self.enter(&operation);
        let path = self.path_of(&operation);
        let mut state = self.kernel.state();
        let earliest_ns = state.now_ns + Self::delay_ns(&mut state, self.host, &operation);
        drop(state);
        let last = self.last_effect_ns.entry(path).or_default();
        *last = earliest_ns.max(*last + 1);
        let effect_ns = *last;
        self.kernel.state().wakes.insert((effect_ns + REPORT_NS, self.host));
        self.pending.push_back(Pending { token, operation: Some(operation), effect_ns, result: None });
    }

    fn poll(&mut self, visit: &mut dyn FnMut(u64, Result<Output, StorageError>)) -> usize {
        if self.pending.is_empty() {
            return 0;
        }
        let now_ns = self.kernel.state().now_ns;
        self.run_due(now_ns);
        let mut done = 0;
        let mut index = 0;
        while index < self.pending.len() {
            let own = &self.pending[index];
            if own.result.is_none() || own.effect_ns + REPORT_NS > now_ns {
                index += 1;
                continue;
            }
            if let Some(Pending { token, result: Some(result), .. }) = self.pending.remove(index) {
                self.kernel.enter(self.host);
                visit(token, result);
                done += 1;
            }
        }
        done
    }

    fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError> {
        self.enter(&operation);
        self.run_due(i64::MAX);
        self.run(operation)
    }
}

impl Drop for SimStorage {
    /// The process is gone: its last submissions are carried out as far as the system has come with them.
    fn drop(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let now_ns = self.kernel.state().now_ns;
        self.run_due(now_ns);
        while let Some(index) = self.pending.iter().position(|pending| pending.operation.is_some()) {
            let mut state = self.kernel.state();
            if state.rng.chance(1, 2) {
                state.coverage.hit("crash caught an operation in flight");
                return;
            }
            drop(state);
            if let Some(operation) = self.pending[index].operation.take() {
                let _nobody_asks = self.run(operation);
            }
        }
    }
}
