//! A disk that forgets: it models what a machine crash leaves of files and of their names.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use harrier_ringbuf::{AtomicBuffer, Region, Rng};

use crate::trace::Coverage;

/// Length of a sector, bytes: a disk usually writes it whole or not at all.
pub const SECTOR: usize = 512;

/// Number of a file.
pub type Inode = u64;

enum Content {
    /// A file that is read and written. `before` holds the old content of the sectors that were changed since the
    /// last sync.
    Plain { bytes: Vec<u8>, before: BTreeMap<usize, [u8; SECTOR]>, synced_length: usize },
    /// A mapped file. `synced` is its content at the last flush; it is empty for a file that was never flushed.
    Mapped { buffer: AtomicBuffer, synced: Vec<u8> },
}

/// Files of one host. They survive its process, and some survive a machine crash.
#[derive(Default)]
pub struct Disk {
    inodes: BTreeMap<Inode, Content>,
    names: BTreeMap<PathBuf, Inode>,
    durable_names: BTreeMap<PathBuf, Inode>,
    next_inode: Inode,
    /// Shared memory by path. It is lost with the machine.
    volatile: BTreeMap<PathBuf, AtomicBuffer>,
}

impl Disk {
    /// True for paths of files in memory.
    pub fn is_volatile(path: &Path) -> bool {
        path.starts_with("/dev/shm")
    }

    /// Returns the file with a name.
    pub fn find(&self, path: &Path) -> Option<Inode> {
        self.names.get(path).copied()
    }

    /// Creates an empty file that is read and written.
    pub fn create(&mut self, path: &Path) -> Inode {
        let content = Content::Plain { bytes: Vec::new(), before: BTreeMap::new(), synced_length: 0 };
        self.add(path, content)
    }

    fn add(&mut self, path: &Path, content: Content) -> Inode {
        self.next_inode += 1;
        self.inodes.insert(self.next_inode, content);
        self.names.insert(path.to_owned(), self.next_inode);
        self.next_inode
    }

    /// Returns the content of a file that is read and written.
    pub fn bytes(&self, inode: Inode) -> &[u8] {
        match self.inodes.get(&inode) {
            Some(Content::Plain { bytes, .. }) => bytes,
            _ => &[],
        }
    }

    /// Length of a file.
    pub fn length(&self, inode: Inode) -> usize {
        match self.inodes.get(&inode) {
            Some(Content::Plain { bytes, .. }) => bytes.len(),
            Some(Content::Mapped { buffer, .. }) => buffer.capacity(),
            None => 0,
        }
    }

    /// Writes into a file, growing it.
    pub fn write(&mut self, inode: Inode, offset: usize, fill: impl FnOnce(&mut [u8]), length: usize) {
        let Some(Content::Plain { bytes, before, .. }) = self.inodes.get_mut(&inode) else { return };
        let end = offset + length;
        if end > bytes.len() {
            bytes.resize(end, 0);
        }
        keep(bytes, before, offset, end);
        fill(&mut bytes[offset..end]);
    }

    /// Cuts or grows a file.
    pub fn set_length(&mut self, inode: Inode, length: usize) {
        let Some(Content::Plain { bytes, before, .. }) = self.inodes.get_mut(&inode) else { return };
        if length < bytes.len() {
            keep(bytes, before, length, bytes.len());
        }
        bytes.resize(length, 0);
    }

    /// Makes a file's content durable.
    pub fn sync(&mut self, inode: Inode) {
        match self.inodes.get_mut(&inode) {
            Some(Content::Plain { bytes, before, synced_length }) => {
                before.clear();
                *synced_length = bytes.len();
            }
            Some(Content::Mapped { buffer, synced }) => {
                synced.resize(buffer.capacity(), 0);
                buffer.copy_out(0, synced);
            }
            None => {}
        }
    }

    /// Makes the names in a directory durable.
    pub fn sync_directory(&mut self, directory: &Path) {
        self.durable_names.retain(|path, _| path.parent() != Some(directory));
        for (path, inode) in &self.names {
            if path.parent() == Some(directory) {
                self.durable_names.insert(path.clone(), *inode);
            }
        }
    }

    /// Removes a name. Mappings and open files stay valid.
    pub fn remove(&mut self, path: &Path) {
        self.names.remove(path);
        self.volatile.remove(path);
    }

    /// Renames a file; returns false when there is no such file.
    pub fn rename(&mut self, from: &Path, to: &Path) -> bool {
        match self.names.remove(from) {
            Some(inode) => {
                self.names.insert(to.to_owned(), inode);
                true
            }
            None => false,
        }
    }

    /// Returns the names in a directory, sorted.
    pub fn list(&self, directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = self
            .names
            .keys()
            .chain(self.volatile.keys())
            .filter_map(|path| path.strip_prefix(directory).ok()?.iter().next())
            .map(|name| name.to_string_lossy().into_owned())
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns the mapping of a file, if it has one.
    pub fn mapping(&self, path: &Path) -> Option<AtomicBuffer> {
        if let Some(buffer) = self.volatile.get(path) {
            return Some(buffer.clone());
        }
        match self.inodes.get(self.names.get(path)?) {
            Some(Content::Mapped { buffer, .. }) => Some(buffer.clone()),
            _ => None,
        }
    }

    /// Adds a mapped file.
    pub fn map(&mut self, path: &Path, buffer: AtomicBuffer) {
        if Self::is_volatile(path) {
            self.volatile.insert(path.to_owned(), buffer);
        } else {
            self.add(path, Content::Mapped { buffer, synced: Vec::new() });
        }
    }

    /// Makes the content of a mapping durable.
    pub fn flush(&mut self, address: *const u8) {
        let found = self.inodes.iter().find_map(|(inode, content)| match content {
            Content::Mapped { buffer, .. } if std::ptr::eq(buffer.as_ptr(), address) => Some(*inode),
            _ => None,
        });
        if let Some(inode) = found {
            self.sync(inode);
        }
    }

    /// Removes everything below a directory.
    pub fn remove_directory(&mut self, directory: &Path) {
        self.names.retain(|path, _| !path.starts_with(directory));
        self.volatile.retain(|path, _| !path.starts_with(directory));
    }

    /// Crashes the machine: memory is lost, and names and sectors that were not synced survive or not.
    pub fn crash(&mut self, rng: &mut Rng, coverage: &mut Coverage) {
        self.volatile.clear();
        let mut paths: Vec<PathBuf> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        paths.sort_unstable();
        paths.dedup();
        let mut names = BTreeMap::new();
        for path in paths {
            let (now, before) = (self.names.get(&path).copied(), self.durable_names.get(&path).copied());
            let is_kept = now == before || rng.chance(1, 2);
            if !is_kept {
                coverage.hit("crash lost a directory entry");
            }
            if let Some(inode) = if is_kept { now } else { before } {
                names.insert(path, inode);
            }
        }
        let mut inodes = std::mem::take(&mut self.inodes);
        for inode in names.values() {
            let Some(content) = inodes.remove(inode) else { continue };
            self.inodes.insert(*inode, content.after_crash(rng, coverage));
        }
        self.durable_names.clone_from(&names);
        self.names = names;
    }
}

/// Saves the sectors of a range before they are changed.
fn keep(bytes: &[u8], before: &mut BTreeMap<usize, [u8; SECTOR]>, begin: usize, end: usize) {
    for sector in begin / SECTOR..end.div_ceil(SECTOR) {
        before.entry(sector).or_insert_with(|| sector_of(bytes, sector));
    }
}

fn sector_of(bytes: &[u8], sector: usize) -> [u8; SECTOR] {
    let mut copy = [0; SECTOR];
    let start = (sector * SECTOR).min(bytes.len());
    let range = &bytes[start..bytes.len().min(start + SECTOR)];
    copy[..range.len()].copy_from_slice(range);
    copy
}

impl Content {
    fn after_crash(self, rng: &mut Rng, coverage: &mut Coverage) -> Self {
        match self {
            Self::Plain { mut bytes, mut before, synced_length } => {
                let length = if bytes.len() == synced_length || rng.chance(1, 2) {
                    bytes.len()
                } else {
                    synced_length
                };
                // Most crashes lose some of the data in flight; some lose all of it, some nothing.
                let lost_of_8 = rng.below(9);
                for (sector, old) in std::mem::take(&mut before) {
                    let end = (sector + 1) * SECTOR;
                    if bytes.len() < end {
                        bytes.resize(end, 0);
                    }
                    tear(&mut bytes[sector * SECTOR..end], &old, lost_of_8, rng, coverage);
                }
                bytes.resize(length, 0);
                Self::Plain { bytes, before: BTreeMap::new(), synced_length: length }
            }
            Self::Mapped { buffer, synced } => {
                let mut bytes = vec![0; buffer.capacity()];
                buffer.copy_out(0, &mut bytes);
                let lost_of_8 = rng.below(9);
                for sector in 0..bytes.len().div_ceil(SECTOR) {
                    let old = sector_of(&synced, sector);
                    let end = bytes.len().min((sector + 1) * SECTOR);
                    let own = &mut bytes[sector * SECTOR..end];
                    if own[..] != old[..own.len()] {
                        tear(own, &old, lost_of_8, rng, coverage);
                    }
                }
                let fresh = AtomicBuffer::heap(bytes.len());
                fresh.copy_in(0, &bytes);
                Self::Mapped { buffer: fresh, synced: bytes }
            }
        }
    }
}

/// Leaves a sector new, old, or new up to one of its words: no system tears an aligned word.
fn tear(own: &mut [u8], old: &[u8; SECTOR], lost_of_8: u64, rng: &mut Rng, coverage: &mut Coverage) {
    if !rng.chance(lost_of_8, 8) {
        return;
    }
    let begin = if rng.chance(1, 2) { rng.below(own.len() as u64 / 8) as usize * 8 } else { 0 };
    coverage.hit(if begin > 0 { "crash tore a sector" } else { "crash lost a sector" });
    let length = own.len();
    own[begin..].copy_from_slice(&old[begin..length]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &mut Disk, inode: Inode, offset: usize, text: &[u8]) {
        disk.write(inode, offset, |bytes| bytes.copy_from_slice(text), text.len());
    }

    #[test]
    fn what_was_synced_survives_every_crash() {
        for seed in 0..200 {
            let (mut disk, mut rng) = (Disk::default(), Rng::new(seed));
            let path = Path::new("/d/f");
            let inode = disk.create(path);
            put(&mut disk, inode, 0, b"safe");
            disk.sync(inode);
            disk.sync_directory(Path::new("/d"));
            put(&mut disk, inode, 4_096, b"in flight");
            disk.crash(&mut rng, &mut Coverage::default());
            let inode = disk.find(path).unwrap();
            assert_eq!(&disk.bytes(inode)[..4], b"safe");
        }
    }

    #[test]
    fn what_was_not_synced_is_sometimes_lost_and_sometimes_kept() {
        let mut lengths = std::collections::BTreeSet::new();
        let mut found = 0;
        for seed in 0..200 {
            let (mut disk, mut rng) = (Disk::default(), Rng::new(seed));
            let inode = disk.create(Path::new("/d/f"));
            put(&mut disk, inode, 0, &[1; 2_048]);
            disk.crash(&mut rng, &mut Coverage::default());
            let Some(inode) = disk.find(Path::new("/d/f")) else { continue };
            found += 1;
            lengths.insert(disk.bytes(inode).iter().filter(|byte| **byte == 1).count());
        }
        assert!((50..150).contains(&found), "{found}");
        assert!(lengths.contains(&0) && lengths.contains(&2_048) && lengths.len() > 4, "{lengths:?}");
    }

    #[test]
    fn memory_is_gone_with_the_machine() {
        let mut disk = Disk::default();
        disk.map(Path::new("/dev/shm/a"), AtomicBuffer::heap(64));
        disk.map(Path::new("/d/mark"), AtomicBuffer::heap(64));
        disk.sync_directory(Path::new("/d"));
        disk.crash(&mut Rng::new(1), &mut Coverage::default());
        assert!(disk.mapping(Path::new("/dev/shm/a")).is_none());
        assert!(disk.mapping(Path::new("/d/mark")).is_some());
    }
}
