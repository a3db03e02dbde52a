//! Offline changes to the files of an archive.

use std::path::Path;

use harrier_ringbuf::position::{FRAME_ALIGNMENT, align};
use harrier_ringbuf::storage::{
    FileId, OpenMode, Operation, Output, Storage, StorageError, SyncLevel, WriteBuffer,
};
use harrier_ringbuf::{Memory, Now};

use super::{ArchiveFiles, SegmentFile, ToolError};
use crate::catalog::{CATALOG_FILE, Catalog, CatalogEntry, RecordingState};
use crate::checksum::{Checksum, frame_length, is_padding};
use crate::descriptor::{ENTRY_HEADER_LENGTH, RecordingDescriptor};
use crate::mark_file::{ArchiveMark, lock_out};
use crate::recovery;
use crate::seal::{SEAL_SUFFIX, SegmentSeal};

const STATE: usize = 4;
const CHECKSUM: usize = 8;
const STOP_TIMESTAMP: usize = 64;
const START_POSITION: usize = 72;
const STOP_POSITION: usize = 80;
const SESSION_ID: usize = 12;

/// Exclusive write access to the files of an archive. No archive can start while this exists.
pub struct ArchiveEditor<M: Memory, S: Storage> {
    pub(super) files: ArchiveFiles<S>,
    pub(super) now_ms: i64,
    _lock: M::Lock,
}

impl<M: Memory, S: Storage> ArchiveEditor<M, S> {
    /// Locks a directory.
    ///
    /// # Errors
    /// [`MarkFileError::Active`](crate::MarkFileError::Active) while an archive runs in it; as [`ArchiveFiles::open`].
    pub fn take(directory: &Path, memory: &M, storage: S, now: &Now) -> Result<Self, ToolError> {
        // Opened before locking so that a directory without an archive gets no lock file; read again afterwards.
        let files = ArchiveFiles::open(directory, storage)?;
        let mark = ArchiveMark::read(memory, directory)?;
        let lock = lock_out(memory, directory, mark.as_ref(), now.epoch_ms)?;
        let files = ArchiveFiles::open(directory, files.storage)?;
        Ok(Self { files, now_ms: now.epoch_ms, _lock: lock })
    }

    /// Read access to the files.
    pub fn files(&mut self) -> &mut ArchiveFiles<S> {
        &mut self.files
    }

    /// Marks a recording as valid or invalid. Returns false when nothing changes.
    ///
    /// # Errors
    /// [`ToolError::Unknown`], [`ToolError::Deleted`], or a file that cannot be written.
    pub fn set_valid(&mut self, recording_id: i64, is_valid: bool) -> Result<bool, ToolError> {
        let entry = self.files.entry(recording_id)?;
        let wanted = if is_valid { RecordingState::Valid } else { RecordingState::Invalid };
        if entry.state == RecordingState::Deleted {
            return Err(ToolError::Deleted(recording_id));
        }
        if entry.state == wanted {
            return Ok(false);
        }
        let offset = entry.offset;
        self.write_catalog(&[(offset + STATE, (wanted as i32).to_le_bytes().to_vec())])?;
        Ok(true)
    }

    /// Writes the stop position of a recording. The checksum of an entry that had none yet stays (spec 03 §4.3); that of
    /// another entry is computed again, because an archive of ours checks it.
    pub(super) fn set_stop(&mut self, entry: &CatalogEntry, position: i64) -> Result<(), ToolError> {
        let timestamp = self.now_ms.to_le_bytes().to_vec();
        let writes = [(STOP_TIMESTAMP, timestamp), (STOP_POSITION, position.to_le_bytes().to_vec())];
        self.change_entry(entry, &writes, !entry.descriptor.is_active())
    }

    /// Changes fields of an entry, given by their offsets in it, and its checksum if it has one and `is_confirmed`.
    fn change_entry(
        &mut self,
        entry: &CatalogEntry,
        changes: &[(usize, Vec<u8>)],
        is_confirmed: bool,
    ) -> Result<(), ToolError> {
        let offset = entry.offset;
        let algorithm = entry.algorithm(&self.files.bytes).filter(|_| is_confirmed && entry.checksum != 0);
        let mut writes: Vec<_> =
            changes.iter().map(|(field, bytes)| (offset + field, bytes.clone())).collect();
        if let Some(checksum) = algorithm {
            let mut bytes = self.files.bytes[offset..offset + entry.length].to_vec();
            for (field, change) in changes {
                bytes[*field..field + change.len()].copy_from_slice(change);
            }
            let sum = checksum.of(&bytes[ENTRY_HEADER_LENGTH..]);
            writes.push((offset + CHECKSUM, sum.to_le_bytes().to_vec()));
        }
        self.write_catalog(&writes)
    }

    /// Moves the start of a recording to the segment that holds `position`, but not beyond its last segment, and removes
    /// the segments before it. Returns the names of the removed files.
    ///
    /// # Errors
    /// [`ToolError::Unknown`], [`ToolError::Deleted`], or a file that cannot be written or removed.
    pub fn purge_to(&mut self, recording_id: i64, position: i64) -> Result<Vec<String>, ToolError> {
        let entry = self.files.entry(recording_id)?.clone();
        if entry.state == RecordingState::Deleted {
            return Err(ToolError::Deleted(recording_id));
        }
        let recording = &entry.descriptor;
        let segments = self.files.segments(recording_id)?;
        let last = segments.iter().filter_map(|segment| segment.base_position).max();
        let wanted = position.max(recording.start_position);
        let new_start = recording.segment_base(wanted).min(last.unwrap_or(0));
        if new_start <= recording.start_position {
            return Ok(Vec::new());
        }
        // A crash in between leaves files before the start, which delete-orphaned-segments finds.
        self.change_entry(&entry, &[(START_POSITION, new_start.to_le_bytes().to_vec())], true)?;
        let is_before = |segment: &SegmentFile| segment.base_position.is_some_and(|base| base < new_start);
        let names: Vec<String> = segments.into_iter().filter(is_before).map(|segment| segment.name).collect();
        self.remove(&names)?;
        Ok(names)
    }

    /// Computes and writes the checksums of catalog entries, and of the data frames in the last segment of each
    /// recording, or in all. Returns the number of segment files written.
    ///
    /// # Errors
    /// [`ToolError::Unknown`], or a file that cannot be read or written.
    pub fn checksum(
        &mut self,
        checksum: Checksum,
        recording_id: Option<i64>,
        all_segments: bool,
    ) -> Result<usize, ToolError> {
        let mut count = 0;
        for entry in self.chosen(recording_id)? {
            let (offset, id) = (entry.offset, entry.descriptor.recording_id);
            let body = &self.files.bytes[offset + ENTRY_HEADER_LENGTH..offset + entry.length];
            self.write_catalog(&[(offset + CHECKSUM, checksum.of(body).to_le_bytes().to_vec())])?;
            let segments = self.files.segments(id)?;
            let first = if all_segments { 0 } else { segments.len().saturating_sub(1) };
            for segment in &segments[first..] {
                self.stamp_segment(&entry, segment, checksum)?;
                count += 1;
            }
        }
        Ok(count)
    }

    fn stamp_segment(
        &mut self,
        entry: &CatalogEntry,
        segment: &SegmentFile,
        checksum: Checksum,
    ) -> Result<(), ToolError> {
        let Some(base) = segment.base_position else { return Ok(()) };
        let bytes = self.files.read_segment(&entry.descriptor, &segment.name)?;
        let mut offset = recovery::first_offset(&entry.descriptor, base);
        let mut stamps = Vec::new();
        while let Some(length) = frame_length(&bytes, offset) {
            let end = (offset + align(length, FRAME_ALIGNMENT)).min(bytes.len());
            if !is_padding(&bytes, offset) {
                let sum = checksum.of_frame(&bytes[offset..end]);
                stamps.push((offset + SESSION_ID, sum.to_le_bytes().to_vec()));
            }
            offset = end;
        }
        let path = self.files.directory.join(&segment.name);
        self.with_file(&path, |storage, file| {
            stamps.into_iter().try_for_each(|(offset, bytes)| write(storage, file, offset, bytes))
        })?;
        if checksum == Checksum::Crc32c {
            self.seal_segment(&entry.descriptor, segment, base)
        } else {
            Ok(())
        }
    }

    /// Seals all present frames of a stamped segment.
    fn seal_segment(
        &mut self,
        recording: &RecordingDescriptor,
        segment: &SegmentFile,
        base: i64,
    ) -> Result<(), ToolError> {
        let bytes = self.files.read_segment(recording, &segment.name)?;
        let from = recovery::first_offset(recording, base);
        let stop = recording.stop_position;
        let end = if stop == -1 { bytes.len() } else { ((stop - base).max(0) as usize).min(bytes.len()) };
        let mut seal = SegmentSeal::begin(recording, base, base + from as i64);
        seal.add(bytes.get(from..end).unwrap_or_default(), from);
        let directory = self.files.directory.clone();
        let sync = Some(SyncLevel::All);
        Ok(recovery::write_seal(&mut self.files.storage, &directory, &seal, sync)?)
    }

    /// Lists segment files of recordings in any state that lie outside their positions or whose names hold none.
    ///
    /// # Errors
    /// [`ToolError::Unknown`], or a directory that cannot be read.
    pub fn orphaned_segments(&mut self, recording_id: Option<i64>) -> Result<Vec<String>, ToolError> {
        let mut orphans = Vec::new();
        for entry in self.chosen(recording_id)? {
            let recording = &entry.descriptor;
            let first = recording.segment_base(recording.start_position);
            let last = match recording.stop_position {
                -1 => i64::MAX,
                stop => recording.segment_base(stop),
            };
            let is_orphan = |base: Option<i64>| base.is_none_or(|base| base < first || base > last);
            let segments = self.files.segments(recording.recording_id)?;
            let orphaned = segments.into_iter().filter(|segment| is_orphan(segment.base_position));
            orphans.extend(orphaned.map(|segment| segment.name));
        }
        Ok(orphans)
    }

    /// Removes segment files of the directory with their seals.
    ///
    /// # Errors
    /// A file that cannot be removed; those before it are gone.
    pub fn remove(&mut self, names: &[String]) -> Result<(), ToolError> {
        for name in names {
            let path = self.files.directory.join(name);
            let seal = path.with_extension(&SEAL_SUFFIX[1..]);
            self.files.storage.blocking(Operation::Remove { path: seal })?;
            self.files.storage.blocking(Operation::Remove { path })?;
        }
        Ok(())
    }

    /// Extends the catalog to a capacity in bytes.
    ///
    /// # Errors
    /// [`ToolError::Capacity`], or a file that cannot be written.
    pub fn set_capacity(&mut self, capacity: u64) -> Result<(), ToolError> {
        let present = self.files.bytes.len() as u64;
        if capacity < present || capacity > i32::MAX as u64 {
            return Err(ToolError::Capacity { wanted: capacity, present });
        }
        let path = self.files.directory.join(CATALOG_FILE);
        self.with_file(&path, |storage, file| {
            storage.blocking(Operation::SetLength { file, length: capacity }).map(|_| ())
        })?;
        self.read_again()
    }

    /// Entries that a command applies to: one or all.
    pub(super) fn chosen(&self, recording_id: Option<i64>) -> Result<Vec<CatalogEntry>, ToolError> {
        match recording_id {
            Some(id) => Ok(vec![self.files.entry(id)?.clone()]),
            None => Ok(self.files.catalog.entries().to_vec()),
        }
    }

    fn write_catalog(&mut self, writes: &[(usize, Vec<u8>)]) -> Result<(), ToolError> {
        let path = self.files.directory.join(CATALOG_FILE);
        self.with_file(&path, |storage, file| {
            writes.iter().try_for_each(|(offset, bytes)| write(storage, file, *offset, bytes.clone()))
        })?;
        self.read_again()
    }

    /// Opens, changes, syncs and closes a file.
    pub(super) fn with_file(
        &mut self,
        path: &Path,
        change: impl FnOnce(&mut S, FileId) -> Result<(), StorageError>,
    ) -> Result<(), ToolError> {
        let storage = &mut self.files.storage;
        let open = Operation::Open { path: path.to_owned(), mode: OpenMode::ReadWrite };
        let Output::Opened(file, _) = storage.blocking(open)? else {
            unreachable!("opening a file opens it")
        };
        let changed = change(storage, file)
            .and_then(|()| storage.blocking(Operation::Sync { file, level: SyncLevel::All }).map(|_| ()));
        storage.blocking(Operation::Close { file })?;
        Ok(changed?)
    }

    pub(super) fn read_again(&mut self) -> Result<(), ToolError> {
        let path = self.files.directory.join(CATALOG_FILE);
        self.files.bytes = super::read_file(&mut self.files.storage, &path, u64::MAX)?;
        self.files.catalog =
            Catalog::inspect(&self.files.bytes).map_err(|error| ToolError::Catalog { path, error })?;
        Ok(())
    }
}

pub(super) fn write<S: Storage>(
    storage: &mut S,
    file: FileId,
    offset: usize,
    bytes: Vec<u8>,
) -> Result<(), StorageError> {
    let bytes = WriteBuffer::Owned(bytes);
    storage.blocking(Operation::Write { file, offset: offset as u64, bytes }).map(|_| ())
}
