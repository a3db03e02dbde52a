//! Files mapped into memory.

use harrier_ringbuf::buffer::Backing;
use harrier_ringbuf::memory::{MapMode, Memory, MemoryError};
use harrier_ringbuf::{AtomicBuffer, Region};
use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Maps files of the host. A file that one process maps more than once for writing, as a driver and its clients on a
/// shared thread do, has one mapping: its pages are entered once, and each cached translation serves all users.
#[derive(Debug, Default, Clone, Copy)]
pub struct MappedMemory;

/// Device and inode of a file. They are unique for as long as a mapping keeps the inode.
type FileIdentity = (u64, u64);

/// The writable mappings of this process.
static WRITABLE: Mutex<BTreeMap<FileIdentity, Weak<Mapping>>> = Mutex::new(BTreeMap::new());

fn writable() -> MutexGuard<'static, BTreeMap<FileIdentity, Weak<Mapping>>> {
    WRITABLE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A lock that the system releases when its process dies.
#[derive(Debug)]
pub struct FileLock {
    file: File,
}

impl FileLock {
    /// True while the path names the locked file.
    fn is_at(&self, path: &Path) -> Result<bool, Error> {
        let locked = self.file.metadata()?;
        match std::fs::symlink_metadata(path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (locked.dev(), locked.ino())),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

struct Mapping {
    address: NonNull<u8>,
    length: usize,
    file: FileIdentity,
}

// SAFETY: a mapping is plain memory of the process; it is unmapped once, by whoever drops it last.
unsafe impl Send for Mapping {}
// SAFETY: `Mapping` itself gives no access.
unsafe impl Sync for Mapping {}
impl Backing for Mapping {}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut mappings = writable();
        if mappings.get(&self.file).is_some_and(|known| std::ptr::eq(known.as_ptr(), self)) {
            mappings.remove(&self.file);
        }
        drop(mappings);
        // SAFETY: mapped with this address and length, and unmapped only here.
        unsafe { libc::munmap(self.address.as_ptr().cast(), self.length) };
    }
}

fn io(operation: &'static str, path: &Path, source: Error) -> MemoryError {
    MemoryError::Io { operation, path: path.to_owned(), source }
}

fn map_file(file: &File, path: &Path, length: usize, mode: MapMode) -> Result<AtomicBuffer, MemoryError> {
    if length == 0 {
        return Ok(AtomicBuffer::heap(0));
    }
    let identity = file.metadata().map_err(|error| io("look at", path, error))?;
    let identity = (identity.dev(), identity.ino());
    // Declared before the guard and therefore dropped after it: the end of a mapping takes the lock.
    let known;
    let (protection, mut mappings) = match mode {
        MapMode::ReadOnly => (libc::PROT_READ, None),
        // Held until the new mapping is registered, so that two threads that map a file at the same time get the same
        // mapping.
        MapMode::ReadWrite => (libc::PROT_READ | libc::PROT_WRITE, Some(writable())),
    };
    known = mappings.as_ref().and_then(|mappings| mappings.get(&identity)).and_then(Weak::upgrade);
    if let Some(mapping) = known.as_ref().filter(|mapping| mapping.length == length) {
        return Ok(buffer_of(mapping.clone()));
    }
    // SAFETY: a fresh shared mapping of an open file, at an address that the system chooses.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), length, protection, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    if address == libc::MAP_FAILED {
        return Err(io("map", path, Error::last_os_error()));
    }
    let Some(address) = NonNull::new(address.cast::<u8>()) else {
        return Err(io("map", path, Error::from(ErrorKind::Other)));
    };
    let mapping = Arc::new(Mapping { address, length, file: identity });
    if let Some(mappings) = &mut mappings {
        mappings.insert(identity, Arc::downgrade(&mapping));
    }
    Ok(buffer_of(mapping))
}

fn buffer_of(mapping: Arc<Mapping>) -> AtomicBuffer {
    let (address, length) = (mapping.address, mapping.length);
    // SAFETY: the mapping lives for as long as any buffer on it; pages are aligned; no reference to its bytes exists.
    unsafe { AtomicBuffer::from_raw(address, length, mapping) }
}

/// Returns usable and total bytes of the file system that holds `path`, which must exist.
pub(crate) fn space(path: &Path) -> Result<(u64, u64), Error> {
    let text = CString::new(path.as_os_str().as_bytes()).map_err(|_| Error::from(ErrorKind::InvalidInput))?;
    // SAFETY: an all-zero statvfs is a valid value to be overwritten.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `text` is a C string and `stat` is valid for writing.
    if unsafe { libc::statvfs(text.as_ptr(), &mut stat) } != 0 {
        return Err(Error::last_os_error());
    }
    Ok((stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize))
}

fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

impl Memory for MappedMemory {
    type Lock = FileLock;

    fn create(&self, path: &Path, length: usize, sparse: bool) -> Result<AtomicBuffer, MemoryError> {
        let directory = parent(path);
        let (usable, _) = space(directory).map_err(|error| io("ask the space for", path, error))?;
        let required = length as u64;
        if required > usable {
            return Err(MemoryError::Space { directory: directory.to_owned(), required, usable });
        }
        self.create_unasked(path, length, sparse)
    }

    fn create_unasked(&self, path: &Path, length: usize, sparse: bool) -> Result<AtomicBuffer, MemoryError> {
        let required = length as u64;
        let no_space = || {
            let directory = parent(path).to_owned();
            let usable = space(&directory).map_or(0, |(usable, _)| usable);
            MemoryError::Space { directory, required, usable }
        };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(|error| io("create", path, error))?;
        let grown =
            file.set_len(required).and_then(|()| if sparse { Ok(()) } else { allocate(&file, 0..length) });
        let mapped = grown.map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC) => no_space(),
            _ => io("allocate", path, error),
        });
        let mapped = mapped.and_then(|()| map_file(&file, path, length, MapMode::ReadWrite));
        if mapped.is_err() {
            let _best_effort = std::fs::remove_file(path);
        }
        mapped
    }

    fn allocate(&self, path: &Path, range: Range<usize>) -> Result<(), MemoryError> {
        let file =
            OpenOptions::new().read(true).write(true).open(path).map_err(|error| io("open", path, error))?;
        let required = range.len() as u64;
        allocate(&file, range).map_err(|error| match error.raw_os_error() {
            Some(libc::ENOSPC) => {
                let directory = parent(path).to_owned();
                let usable = space(&directory).map_or(0, |(usable, _)| usable);
                MemoryError::Space { directory, required, usable }
            }
            _ => io("allocate", path, error),
        })
    }

    fn populate(&self, buffer: &AtomicBuffer) {
        if buffer.capacity() > 0 {
            let (start, length) = pages(buffer);
            // SAFETY: the pages belong to a mapping that `buffer` keeps alive; populating them changes no byte.
            let _best_effort = unsafe { libc::madvise(start, length, libc::MADV_POPULATE_WRITE) };
        }
    }

    fn map(&self, path: &Path, mode: MapMode) -> Result<AtomicBuffer, MemoryError> {
        let file = OpenOptions::new()
            .read(true)
            .write(mode == MapMode::ReadWrite)
            .open(path)
            .map_err(|error| io("open", path, error))?;
        let length = file.metadata().map_err(|error| io("measure", path, error))?.len() as usize;
        map_file(&file, path, length, mode)
    }

    fn length(&self, path: &Path) -> Result<usize, MemoryError> {
        std::fs::metadata(path).map(|data| data.len() as usize).map_err(|error| io("measure", path, error))
    }

    fn remove(&self, path: &Path) -> Result<(), MemoryError> {
        ignore_missing(std::fs::remove_file(path)).map_err(|error| io("remove", path, error))
    }

    fn create_directory(&self, path: &Path) -> Result<(), MemoryError> {
        std::fs::create_dir_all(path).map_err(|error| io("create directory", path, error))
    }

    fn remove_directory(&self, path: &Path) -> Result<(), MemoryError> {
        ignore_missing(std::fs::remove_dir_all(path)).map_err(|error| io("remove directory", path, error))
    }

    fn resolve(&self, path: &Path) -> PathBuf {
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        // The longest part that exists is resolved by the system; what is not there yet has no links.
        let existing = path.ancestors().find_map(|part| Some((part, std::fs::canonicalize(part).ok()?)));
        let Some((part, resolved)) = existing else { return path };
        path.strip_prefix(part).map_or(resolved.clone(), |rest| resolved.join(rest))
    }

    fn list(&self, path: &Path) -> Result<Vec<String>, MemoryError> {
        let entries = match std::fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io("list", path, error)),
        };
        let mut names = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|error| io("list", path, error))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn usable_space(&self, path: &Path) -> Result<u64, MemoryError> {
        space(path).map(|(usable, _)| usable).map_err(|error| io("ask the space of", path, error))
    }

    fn lock(&self, path: &Path) -> Result<FileLock, MemoryError> {
        loop {
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .custom_flags(libc::O_NOFOLLOW)
                .open(path)
                .map_err(|error| io("open", path, error))?;
            // SAFETY: the descriptor is open.
            if unsafe { libc::flock(file.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
                return Err(match Error::last_os_error() {
                    error if error.kind() == ErrorKind::WouldBlock => {
                        MemoryError::Locked { path: path.to_owned() }
                    }
                    error => io("lock", path, error),
                });
            }
            // The last holder may have removed the file after it was opened.
            let lock = FileLock { file };
            if lock.is_at(path).map_err(|error| io("look at", path, error))? {
                return Ok(lock);
            }
        }
    }

    fn remove_lock_file(&self, lock: &FileLock, path: &Path) -> Result<(), MemoryError> {
        if lock.is_at(path).map_err(|error| io("look at", path, error))? {
            return self.remove(path);
        }
        Ok(())
    }

    fn flush(&self, buffer: &AtomicBuffer) -> Result<(), MemoryError> {
        if buffer.capacity() == 0 {
            return Ok(());
        }
        let (start, length) = pages(buffer);
        // SAFETY: the pages belong to a mapping that `buffer` keeps alive.
        if unsafe { libc::msync(start, length, libc::MS_SYNC) } != 0 {
            return Err(io("flush", Path::new("a mapping"), Error::last_os_error()));
        }
        Ok(())
    }
}

/// Returns the start of the page in which a buffer begins, and the bytes from there to the end of the buffer.
fn pages(buffer: &AtomicBuffer) -> (*mut libc::c_void, usize) {
    let page = 4_096_usize;
    let start = buffer.as_ptr() as usize / page * page;
    (start as *mut libc::c_void, buffer.as_ptr() as usize + buffer.capacity() - start)
}

fn allocate(file: &File, range: Range<usize>) -> Result<(), Error> {
    let (start, length) = (range.start as libc::off_t, range.len() as libc::off_t);
    // SAFETY: the descriptor is open.
    match unsafe { libc::posix_fallocate(file.as_raw_fd(), start, length) } {
        0 => Ok(()),
        code => Err(Error::from_raw_os_error(code)),
    }
}

fn ignore_missing(result: Result<(), Error>) -> Result<(), Error> {
    match result {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::Ordering;

    fn directory() -> tempfile::TempDir {
        let base = if Path::new("/dev/shm").exists() { "/dev/shm" } else { "/tmp" };
        tempfile::tempdir_in(base).unwrap()
    }

    #[test]
    fn two_maps_share_a_file() {
        let directory = directory();
        let path = directory.path().join("file");
        let first = MappedMemory.create(&path, 8_192, false).unwrap();
        let second = MappedMemory.map(&path, MapMode::ReadWrite).unwrap();
        first.store_i64(4_096, 42, Ordering::Release);
        assert_eq!(second.load_i64(4_096, Ordering::Acquire), 42);
        MappedMemory.flush(&second.slice(4_104, 8)).unwrap();
        MappedMemory.remove(&path).unwrap();
        assert_eq!(first.load_i64(4_096, Ordering::Acquire), 42);
        assert!(MappedMemory.map(&path, MapMode::ReadOnly).unwrap_err().is_not_found());
    }

    #[test]
    fn a_file_is_mapped_once_for_writing() {
        let directory = directory();
        let path = directory.path().join("file");
        let first = MappedMemory.create(&path, 8_192, false).unwrap();
        MappedMemory.populate(&first.slice(4_100, 4_000));
        let second = MappedMemory.map(&path, MapMode::ReadWrite).unwrap();
        assert_eq!(first.as_ptr(), second.as_ptr());
        let readable = MappedMemory.map(&path, MapMode::ReadOnly).unwrap();
        assert_ne!(first.as_ptr(), readable.as_ptr());
        drop(first);
        second.store_i32(0, 7, Ordering::Release);
        assert_eq!(readable.load_i32(0, Ordering::Acquire), 7);

        // Another file of the same name, and a file that has grown, have mappings of their own.
        MappedMemory.remove(&path).unwrap();
        let other = MappedMemory.create(&path, 8_192, false).unwrap();
        assert_ne!(other.as_ptr(), second.as_ptr());
        OpenOptions::new().write(true).open(&path).unwrap().set_len(16_384).unwrap();
        let grown = MappedMemory.map(&path, MapMode::ReadWrite).unwrap();
        assert_eq!((grown.capacity(), grown.load_i32(0, Ordering::Acquire)), (16_384, 0));
        drop((second, other));
        let again = MappedMemory.map(&path, MapMode::ReadWrite).unwrap();
        assert_eq!(again.as_ptr(), grown.as_ptr());
    }

    #[test]
    fn pages_of_a_sparse_file_are_allocated_by_range() {
        let directory = directory();
        let path = directory.path().join("sparse");
        let _buffer = MappedMemory.create(&path, 1 << 20, true).unwrap();
        let allocated = || std::fs::metadata(&path).unwrap().blocks() * 512;
        assert_eq!(allocated(), 0);
        MappedMemory.allocate(&path, 65_536..131_072).unwrap();
        MappedMemory.allocate(&path, 65_536..131_072).unwrap();
        assert_eq!(allocated(), 65_536);
        let length = 2 * MappedMemory.usable_space(directory.path()).unwrap() as usize;
        let error = MappedMemory.allocate(&path, 0..length).unwrap_err();
        assert!(matches!(error, MemoryError::Space { .. }), "{error}");
        MappedMemory.remove(&path).unwrap();
        assert!(MappedMemory.allocate(&path, 0..4_096).unwrap_err().is_not_found());
    }

    #[test]
    fn what_does_not_fit_is_refused_and_leaves_nothing() {
        let directory = directory();
        // Twice the free space, because other processes may free some meanwhile.
        let length = 2 * MappedMemory.usable_space(directory.path()).unwrap() as usize + (1 << 20);
        for sparse in [true, false] {
            let path = directory.path().join("large");
            let error = MappedMemory.create(&path, length, sparse).unwrap_err();
            let text = error.to_string();
            assert!(matches!(error, MemoryError::Space { .. }), "{text}");
            assert!(text.contains(&*directory.path().to_string_lossy()) && text.contains("bytes"), "{text}");
            assert!(!path.exists());
        }
    }

    #[test]
    fn one_holder_of_a_lock() {
        let directory = directory();
        let path = directory.path().join("lock");
        let lock = MappedMemory.lock(&path).unwrap();
        assert!(matches!(MappedMemory.lock(&path), Err(MemoryError::Locked { .. })));
        drop(lock);
        MappedMemory.lock(&path).unwrap();
    }

    #[test]
    fn a_lock_is_not_taken_by_a_symbolic_link_and_links_are_removed_alone() {
        let directory = directory();
        let (target, link) = (directory.path().join("target"), directory.path().join("link"));
        std::fs::write(&target, "kept").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        assert!(matches!(MappedMemory.lock(&link), Err(MemoryError::Io { operation: "open", .. })));
        let (data, doomed) = (directory.path().join("data"), directory.path().join("doomed"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(&doomed).unwrap();
        std::fs::write(data.join("file"), "kept").unwrap();
        std::os::unix::fs::symlink(&data, doomed.join("inner")).unwrap();
        std::os::unix::fs::symlink(&data, directory.path().join("outer")).unwrap();
        for name in ["doomed", "outer"] {
            MappedMemory.remove_directory(&directory.path().join(name)).unwrap();
            assert!(std::fs::symlink_metadata(directory.path().join(name)).is_err(), "{name}");
        }
        assert_eq!(std::fs::read_to_string(data.join("file")).unwrap(), "kept");
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "kept");
    }

    #[test]
    fn paths_to_one_place_are_resolved_to_one_path() {
        let directory = directory();
        let base = std::fs::canonicalize(directory.path()).unwrap();
        std::fs::create_dir(base.join("real")).unwrap();
        std::os::unix::fs::symlink(base.join("real"), base.join("link")).unwrap();
        for path in ["real/new/a", "link/new/a", "real/../link/./new/a"] {
            assert_eq!(MappedMemory.resolve(&base.join(path)), base.join("real/new/a"), "{path}");
        }
    }
}
