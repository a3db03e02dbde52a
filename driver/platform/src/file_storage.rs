//! Files that are read and written.
//!
//! Writes and reads go through the page cache and run when they are submitted. A sync may take long, so a worker
//! thread runs it, unless the storage was created [`inline`](FileStorage::inline). While a file is being synced,
//! later operations on any file of this storage wait, so that effects keep their order.

use harrier_ringbuf::Storage;
use harrier_ringbuf::storage::{FileId, OpenMode, Operation, Output, StorageError, SyncLevel, WriteBuffer};
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};

use crate::mapped_memory::space;

/// Number of completions that can wait without an allocation.
const COMPLETION_CAPACITY: usize = 1_024;

struct OpenFile {
    file: Arc<File>,
    path: PathBuf,
}

struct SyncJob {
    token: u64,
    file: Arc<File>,
    path: PathBuf,
    level: SyncLevel,
}

type SyncDone = (u64, Result<Output, StorageError>);

struct Worker {
    jobs: Sender<SyncJob>,
    done: Receiver<SyncDone>,
}

/// Files of the host.
pub struct FileStorage {
    files: Vec<Option<OpenFile>>,
    completions: VecDeque<(u64, Result<Output, StorageError>)>,
    worker: Option<Worker>,
    is_syncing: bool,
    waiting: VecDeque<(u64, Operation)>,
}

impl FileStorage {
    /// Creates a storage whose syncs run on a thread of its own.
    ///
    /// # Errors
    ///
    /// The system refuses another thread.
    pub fn threaded() -> std::io::Result<Self> {
        let (jobs, job_receiver) = channel::<SyncJob>();
        let (done_sender, done) = channel();
        #[expect(clippy::disallowed_methods, reason = "the one thread for work that blocks")]
        std::thread::Builder::new().name("file-sync".to_owned()).spawn(move || {
            while let Ok(job) = job_receiver.recv() {
                let result =
                    sync(&job.file, job.level).map_err(|error| StorageError::new("sync", &job.path, error));
                if done_sender.send((job.token, result.map(|()| Output::Done))).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { worker: Some(Worker { jobs, done }), ..Self::inline() })
    }

    /// Creates a storage that syncs in place. It is the simplest, and fast enough when syncs are rare or off.
    pub fn inline() -> Self {
        Self {
            files: Vec::new(),
            completions: VecDeque::with_capacity(COMPLETION_CAPACITY),
            worker: None,
            is_syncing: false,
            waiting: VecDeque::new(),
        }
    }

    fn start(&mut self, token: u64, operation: Operation) {
        if let (Operation::Sync { file, level }, Some(worker)) = (&operation, &self.worker) {
            match self.files.get(file.0 as usize).and_then(Option::as_ref) {
                Some(open) => {
                    let job =
                        SyncJob { token, file: open.file.clone(), path: open.path.clone(), level: *level };
                    if worker.jobs.send(job).is_ok() {
                        self.is_syncing = true;
                        return;
                    }
                }
                None => {
                    self.completions.push_back((token, Err(closed())));
                    return;
                }
            }
        }
        let result = self.run(operation);
        self.completions.push_back((token, result));
    }

    fn open_file(&self, file: FileId) -> Result<&OpenFile, StorageError> {
        self.files.get(file.0 as usize).and_then(Option::as_ref).ok_or_else(closed)
    }

    fn run(&mut self, operation: Operation) -> Result<Output, StorageError> {
        match operation {
            Operation::Open { path, mode } => self.open(path, mode),
            Operation::Write { file, offset, bytes } => {
                let open = self.open_file(file)?;
                write(&open.file, offset, &bytes)
                    .map_err(|error| StorageError::new("write", &open.path, error))?;
                Ok(Output::Done)
            }
            Operation::Read { file, offset, length, into } => {
                let open = self.open_file(file)?;
                read(&open.file, offset, length, into)
                    .map(Output::Data)
                    .map_err(|error| StorageError::new("read", &open.path, error))
            }
            Operation::Sync { file, level } => {
                let open = self.open_file(file)?;
                sync(&open.file, level).map_err(|error| StorageError::new("sync", &open.path, error))?;
                Ok(Output::Done)
            }
            Operation::SetLength { file, length } => {
                let open = self.open_file(file)?;
                let set = open.file.set_len(length);
                set.map_err(|error| StorageError::new("set the length of", &open.path, error))?;
                Ok(Output::Done)
            }
            Operation::Close { file } => {
                if let Some(slot) = self.files.get_mut(file.0 as usize) {
                    *slot = None;
                }
                Ok(Output::Done)
            }
            other => run_on_path(other),
        }
    }

    fn open(&mut self, path: PathBuf, mode: OpenMode) -> Result<Output, StorageError> {
        let mut options = OpenOptions::new();
        options.read(true);
        match mode {
            OpenMode::Read => {}
            OpenMode::ReadWrite => {
                options.write(true);
            }
            OpenMode::CreateNew => {
                options.write(true).create_new(true);
            }
            OpenMode::CreateOrOpen => {
                options.write(true).create(true).truncate(false);
            }
        }
        let file = options.open(&path).map_err(|error| StorageError::new("open", &path, error))?;
        let length = file.metadata().map_err(|error| StorageError::new("measure", &path, error))?.len();
        let open = OpenFile { file: Arc::new(file), path };
        let index = match self.files.iter().position(Option::is_none) {
            Some(index) => index,
            None => {
                self.files.push(None);
                self.files.len() - 1
            }
        };
        self.files[index] = Some(open);
        Ok(Output::Opened(FileId(index as u32), length))
    }
}

fn run_on_path(operation: Operation) -> Result<Output, StorageError> {
    match operation {
        Operation::Remove { path } => match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(StorageError::new("remove", &path, error))
            }
            _ => Ok(Output::Done),
        },
        Operation::Rename { from, to } => {
            std::fs::rename(&from, to).map_err(|error| StorageError::new("rename", &from, error))?;
            Ok(Output::Done)
        }
        Operation::SyncDirectory { path } => {
            let synced = File::open(&path).and_then(|directory| directory.sync_all());
            synced.map_err(|error| StorageError::new("sync", &path, error))?;
            Ok(Output::Done)
        }
        Operation::CreateDirectory { path } => {
            std::fs::create_dir_all(&path).map_err(|error| StorageError::new("create", &path, error))?;
            Ok(Output::Done)
        }
        Operation::List { path } => list(&path).map(Output::Names),
        Operation::Space { path } => {
            let (usable, total) =
                space(&path).map_err(|error| StorageError::new("ask the space of", &path, error))?;
            Ok(Output::Space { usable, total })
        }
        _ => Err(closed()),
    }
}

fn list(path: &Path) -> Result<Vec<String>, StorageError> {
    let failed = |error| StorageError::new("list", path, error);
    let mut names = Vec::new();
    for entry in std::fs::read_dir(path).map_err(failed)? {
        names.push(entry.map_err(failed)?.file_name().to_string_lossy().into_owned());
    }
    names.sort_unstable();
    Ok(names)
}

fn closed() -> StorageError {
    StorageError::new("use", Path::new("a closed file"), Error::from(ErrorKind::InvalidInput))
}

fn write(file: &File, mut offset: u64, bytes: &WriteBuffer) -> Result<(), Error> {
    match bytes {
        WriteBuffer::Owned(bytes) => file.write_all_at(bytes, offset),
        WriteBuffer::Log { buffer, offset: start, length } => {
            // Checks the range before its address goes to the kernel.
            let range = harrier_ringbuf::Region::capacity(buffer);
            assert!(*start <= range && *length <= range - start, "write outside the log");
            let mut done = 0;
            while done < *length {
                // SAFETY: the range lies in a mapping that `buffer` keeps alive; the kernel only reads it.
                let written = unsafe {
                    let from = buffer.as_ptr().add(start + done);
                    libc::pwrite(file.as_raw_fd(), from.cast(), length - done, offset as libc::off_t)
                };
                match written {
                    0 => return Err(Error::from(ErrorKind::WriteZero)),
                    written if written > 0 => {
                        done += written as usize;
                        offset += written as u64;
                    }
                    _ => {
                        let error = Error::last_os_error();
                        if error.kind() != ErrorKind::Interrupted {
                            return Err(error);
                        }
                    }
                }
            }
            Ok(())
        }
    }
}

fn read(file: &File, mut offset: u64, length: usize, mut into: Vec<u8>) -> Result<Vec<u8>, Error> {
    into.resize(length, 0);
    let mut done = 0;
    while done < length {
        match file.read_at(&mut into[done..], offset) {
            Ok(0) => break,
            Ok(count) => {
                done += count;
                offset += count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    into.truncate(done);
    Ok(into)
}

fn sync(file: &File, level: SyncLevel) -> Result<(), Error> {
    match level {
        SyncLevel::Data => file.sync_data(),
        SyncLevel::All => file.sync_all(),
    }
}

impl Storage for FileStorage {
    fn submit(&mut self, token: u64, operation: Operation) {
        if self.is_syncing {
            self.waiting.push_back((token, operation));
        } else {
            self.start(token, operation);
        }
    }

    fn poll(&mut self, visit: &mut dyn FnMut(u64, Result<Output, StorageError>)) -> usize {
        let mut done = 0;
        while let Some((token, result)) = self.completions.pop_front() {
            visit(token, result);
            done += 1;
        }
        if self.is_syncing
            && let Some(worker) = &self.worker
        {
            match worker.done.try_recv() {
                Ok((token, result)) => {
                    visit(token, result);
                    done += 1;
                    self.is_syncing = false;
                    while !self.is_syncing
                        && let Some((token, operation)) = self.waiting.pop_front()
                    {
                        self.start(token, operation);
                    }
                }
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.is_syncing = false,
            }
        }
        done
    }

    fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError> {
        self.run(operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use harrier_ringbuf::{AtomicBuffer, Region};

    fn drain(storage: &mut FileStorage, wanted: usize) -> Vec<(u64, Output)> {
        let mut seen = Vec::new();
        while seen.len() < wanted {
            storage.poll(&mut |token, result| seen.push((token, result.unwrap())));
            std::thread::yield_now();
        }
        seen
    }

    #[test]
    fn effects_keep_their_order_around_a_sync() {
        let directory = tempfile::tempdir().unwrap();
        for mut storage in [FileStorage::threaded().unwrap(), FileStorage::inline()] {
            let path = directory.path().join("file");
            let opened = storage.blocking(Operation::Open { path, mode: OpenMode::CreateOrOpen }).unwrap();
            let Output::Opened(file, _) = opened else { panic!("{opened:?}") };
            let log = AtomicBuffer::heap(64);
            log.copy_in(8, b"from the log");
            let bytes = WriteBuffer::Log { buffer: log, offset: 8, length: 12 };
            storage.submit(1, Operation::Write { file, offset: 4, bytes });
            storage.submit(2, Operation::Sync { file, level: SyncLevel::Data });
            storage
                .submit(3, Operation::Write { file, offset: 0, bytes: WriteBuffer::Owned(b"1234".to_vec()) });
            storage.submit(4, Operation::Read { file, offset: 0, length: 100, into: Vec::new() });
            let seen = drain(&mut storage, 4);
            assert_eq!(seen.iter().map(|(token, _)| *token).collect::<Vec<_>>(), [1, 2, 3, 4]);
            assert_eq!(seen[3].1, Output::Data(b"1234from the log".to_vec()));
        }
    }

    #[test]
    fn errors_name_file_and_operation() {
        let directory = tempfile::tempdir().unwrap();
        let mut storage = FileStorage::inline();
        let path = directory.path().join("missing");
        let error = storage.blocking(Operation::Open { path, mode: OpenMode::Read }).unwrap_err();
        assert!(error.is_not_found() && error.to_string().contains("missing"));
        assert!(storage.blocking(Operation::Close { file: FileId(9) }).is_ok());
        assert!(storage.blocking(Operation::SetLength { file: FileId(9), length: 1 }).is_err());
    }
}
