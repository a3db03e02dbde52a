//! The catalog: all recordings of an archive in one file (spec 03 §4.2–4.4).
//!
//! The file is kept whole in memory; every change names the bytes to write, and the caller submits them.

mod salvage;

use harrier_protocol::semantic_version_major;
use harrier_ringbuf::planted::{Bug, is_planted};
use thiserror::Error;

use crate::checksum::Checksum;
use crate::descriptor::{ALIGNMENT, ENTRY_HEADER_LENGTH, RecordingDescriptor};
use salvage::Unreadable;
pub use salvage::{Damage, Salvaged};

/// Name of the catalog file.
pub const CATALOG_FILE: &str = "archive.catalog";
/// Version of the files.
pub const FILE_VERSION: i32 = harrier_protocol::semantic_version(3, 1, 0);
/// Bytes of the file's header, and least capacity.
pub const HEADER_LENGTH: usize = 32;
const MAX_CAPACITY: usize = i32::MAX as usize;

/// State of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordingState {
    /// Found bad by a verification; not used.
    Invalid,
    /// In use.
    Valid,
    /// Purged.
    Deleted,
}

/// Errors of reading or growing a catalog.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CatalogError {
    /// Shorter than a header.
    #[error("catalog of {0} bytes has no header; restore it from a backup or remove the directory")]
    Short(usize),
    /// Another major version.
    #[error("catalog has version {}.{}, this archive reads 3.x; run harrier archive DIR migrate", .0 >> 16, (.0 >> 8) & 0xFF)]
    Version(i32),
    /// A header that contradicts itself.
    #[error(
        "catalog header has {field}={value}; no command can repair it: restore the catalog from a backup"
    )]
    Header {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// An inconsistent entry.
    #[error(
        "catalog entry at {offset}: {reason}; no command can repair it: restore the catalog from a backup"
    )]
    Entry {
        /// Offset of the entry in the file.
        offset: usize,
        /// Description of the inconsistency.
        reason: String,
    },
    /// No room for another entry.
    #[error("catalog is full at {MAX_CAPACITY} bytes; purge recordings and compact it")]
    Full,
}

/// One entry.
#[derive(Debug, Clone)]
pub struct CatalogEntry {
    /// Offset in the file.
    pub offset: usize,
    /// Length in bytes, padding included.
    pub length: usize,
    /// State of the entry.
    pub state: RecordingState,
    /// Checksum in the entry's header; 0 for none.
    pub checksum: i32,
    /// Descriptor of the recording.
    pub descriptor: RecordingDescriptor,
}

/// A write to the catalog file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CatalogWrite {
    /// Offset in the file.
    pub offset: u64,
    /// Bytes to write.
    pub bytes: Vec<u8>,
}

/// An incomplete newest entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DamagedEntry {
    /// Recording id that the entry has or would have had.
    pub recording_id: i64,
    /// Error found in the entry.
    pub error: CatalogError,
}

/// All recordings of an archive.
#[derive(Debug, Clone)]
pub struct Catalog {
    entries: Vec<CatalogEntry>,
    /// Entries that cannot be read, by ascending offset. Their bytes are kept.
    unreadable: Vec<Unreadable>,
    next_recording_id: i64,
    capacity: usize,
    checksum: Option<Checksum>,
}

impl Catalog {
    /// Creates an empty catalog. Also returns the write of the file's header.
    pub fn create(capacity: usize, checksum: Option<Checksum>) -> (Self, CatalogWrite) {
        let catalog = Self {
            entries: Vec::new(),
            unreadable: Vec::new(),
            next_recording_id: 0,
            capacity: capacity.max(HEADER_LENGTH),
            checksum,
        };
        let write = catalog.header_write();
        (catalog, write)
    }

    /// Reads a catalog file.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn read(bytes: &[u8], checksum: Option<Checksum>) -> Result<Self, CatalogError> {
        match Self::recover(bytes, checksum)? {
            (catalog, None) => Ok(catalog),
            (_, Some(damaged)) => Err(damaged.error),
        }
    }

    /// Reads a catalog file for a tool. Accepts invalid positions so that a verification can report them, and sets
    /// entries that cannot be read aside ([`unreadable`](Self::unreadable)).
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn inspect(bytes: &[u8]) -> Result<Self, CatalogError> {
        match Self::read_entries(bytes, None, &|_| Ok(())) {
            Ok((catalog, None)) if !catalog.hides_entries(bytes) => Ok(catalog),
            Ok(_) | Err(CatalogError::Entry { .. }) => Ok(Self::salvage(bytes, None)?.catalog),
            Err(error) => Err(error),
        }
    }

    /// Reads a catalog file whose newest entry a machine crash may have torn, and drops that entry. The caller must
    /// make sure that nothing was recorded under its id.
    ///
    /// # Errors
    /// See [`CatalogError`].
    pub fn recover(
        bytes: &[u8],
        checksum: Option<Checksum>,
    ) -> Result<(Self, Option<DamagedEntry>), CatalogError> {
        Self::read_entries(bytes, checksum, &check_positions)
    }

    fn read_entries(
        bytes: &[u8],
        checksum: Option<Checksum>,
        check: &dyn Fn(&RecordingDescriptor) -> Result<(), String>,
    ) -> Result<(Self, Option<DamagedEntry>), CatalogError> {
        let next = read_header(bytes)?;
        let mut entries: Vec<CatalogEntry> = Vec::new();
        let mut offset = HEADER_LENGTH;
        let mut damage = None;
        loop {
            match read_next(bytes, offset, entries.last(), checksum, check) {
                Ok(None) => break,
                Ok(Some(entry)) => {
                    offset += entry.length;
                    entries.push(entry);
                }
                Err(error) => {
                    damage = Some(error);
                    break;
                }
            }
        }
        let after_last = entries.last().map_or(0, |last| last.descriptor.recording_id.saturating_add(1));
        let capacity = bytes.len();
        let unreadable = Vec::new();
        if let Some(error) = damage {
            // Only the entry being added at the crash may be damaged; the header may or may not count it.
            if next > after_last.saturating_add(1) || has_entry_behind(bytes, offset) {
                return Err(error);
            }
            let catalog = Self { entries, unreadable, next_recording_id: after_last, capacity, checksum };
            if !(next == 0 || catalog.may_be_newer_than_header(next)) {
                return Err(error);
            }
            return Ok((catalog, Some(DamagedEntry { recording_id: after_last, error })));
        }
        let next_recording_id = match next {
            0 => after_last,
            next => next.max(after_last),
        };
        let catalog = Self { entries, unreadable, next_recording_id, capacity, checksum };
        if !(next == 0 || catalog.may_be_newer_than_header(next)) {
            return Err(CatalogError::Header { field: "nextRecordingId", value: next });
        }
        Ok((catalog, None))
    }

    /// True when entries beyond the header's count may be valid. A machine crash can lose the header write, because
    /// header and entries are in different sectors; the entries' checksums prove them. Without checksums only a process
    /// crash is survivable, and it leaves at most one such entry.
    fn may_be_newer_than_header(&self, next_recording_id: i64) -> bool {
        let mut uncounted =
            self.entries.iter().filter(|entry| entry.descriptor.recording_id >= next_recording_id);
        match self.checksum {
            Some(_) => uncounted.all(|entry| self.is_checksum_right(entry)),
            None => uncounted.all(|entry| entry.descriptor.recording_id == next_recording_id),
        }
    }

    /// Zeroes bytes after the last entry that are not zero in `bytes`, the file as read. Otherwise remains of an
    /// interrupted addition could be read as an entry.
    pub fn clear_rest(&self, bytes: &[u8]) -> Option<CatalogWrite> {
        let end = self.end();
        let rest = bytes.get(end..)?;
        let last = rest.iter().rposition(|byte| *byte != 0)?;
        Some(CatalogWrite { offset: end as u64, bytes: vec![0; last + 1] })
    }

    /// True when the file has bytes behind the last entry and its header counts more entries: the length of an entry is
    /// damaged.
    pub(crate) fn hides_entries(&self, bytes: &[u8]) -> bool {
        let after_last = self.entries.last().map_or(0, |last| last.descriptor.recording_id.saturating_add(1));
        self.next_recording_id > after_last && self.clear_rest(bytes).is_some()
    }

    /// All entries in any state, by ascending recording id.
    pub fn entries(&self) -> &[CatalogEntry] {
        &self.entries
    }

    /// Length of the file in bytes.
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Id that the next new recording gets.
    pub fn next_recording_id(&self) -> i64 {
        self.next_recording_id
    }

    fn index_of(&self, recording_id: i64) -> Option<usize> {
        let index = self.entries.binary_search_by_key(&recording_id, |e| e.descriptor.recording_id).ok()?;
        (self.entries[index].state == RecordingState::Valid).then_some(index)
    }

    /// Returns a valid recording.
    pub fn get(&self, recording_id: i64) -> Option<&RecordingDescriptor> {
        self.index_of(recording_id).map(|index| &self.entries[index].descriptor)
    }

    /// Returns an entry in any state.
    pub fn entry(&self, recording_id: i64) -> Option<&CatalogEntry> {
        let index = self.entries.binary_search_by_key(&recording_id, |e| e.descriptor.recording_id).ok()?;
        Some(&self.entries[index])
    }

    /// Valid recordings from an id on.
    pub fn valid_from(&self, recording_id: i64) -> impl Iterator<Item = &RecordingDescriptor> {
        let first = self.entries.partition_point(|entry| entry.descriptor.recording_id < recording_id);
        self.entries[first..]
            .iter()
            .filter(|entry| entry.state == RecordingState::Valid)
            .map(|entry| &entry.descriptor)
    }

    /// Adds a recording and sets its id. The writes are ordered so that a crash leaves a readable file (spec 03 §4.3):
    /// the entry first, then the header.
    ///
    /// # Errors
    /// [`CatalogError::Full`].
    pub fn add(
        &mut self,
        mut descriptor: RecordingDescriptor,
    ) -> Result<(i64, Vec<CatalogWrite>), CatalogError> {
        let id = self.next_recording_id;
        descriptor.recording_id = id;
        let offset = self.end();
        let length = descriptor.frame_length();
        let mut writes = self.grow_to(offset + length)?;
        let mut entry =
            CatalogEntry { offset, length, state: RecordingState::Valid, checksum: 0, descriptor };
        writes.push(self.entry_write(&mut entry));
        self.entries.push(entry);
        self.next_recording_id += 1;
        writes.push(self.header_write());
        Ok((id, writes))
    }

    fn end(&self) -> usize {
        let end = self.entries.last().map_or(HEADER_LENGTH, |last| last.offset + last.length);
        self.unreadable.last().map_or(end, |last| end.max(last.offset + last.bytes.len()))
    }

    /// Changes a valid recording without its strings; `None` when it does not exist.
    pub fn update(
        &mut self,
        recording_id: i64,
        change: impl FnOnce(&mut RecordingDescriptor),
    ) -> Option<CatalogWrite> {
        let index = self.index_of(recording_id)?;
        let mut entry = self.entries[index].clone();
        change(&mut entry.descriptor);
        assert!(entry.descriptor.frame_length() <= entry.length, "an update keeps the texts");
        let write = self.entry_write(&mut entry);
        self.entries[index] = entry;
        Some(write)
    }

    /// Changes a valid recording, including its strings. A grown entry moves the entries after it; a shrunk one keeps
    /// its length. Returns no writes when the recording does not exist.
    ///
    /// # Errors
    /// [`CatalogError::Full`]; nothing has changed then.
    pub fn replace(
        &mut self,
        recording_id: i64,
        change: impl FnOnce(&mut RecordingDescriptor),
    ) -> Result<Vec<CatalogWrite>, CatalogError> {
        let Some(index) = self.index_of(recording_id) else { return Ok(Vec::new()) };
        let mut entry = self.entries[index].clone();
        change(&mut entry.descriptor);
        let growth = entry.descriptor.frame_length().saturating_sub(entry.length);
        entry.length += growth;
        let mut writes = self.grow_to(self.end() + growth)?;
        let mut replaced = self.entry_write(&mut entry);
        self.entries[index] = entry;
        if growth > 0 {
            // One write, so that another process never reads half-moved entries.
            let first = self.entries[index].offset;
            let mut moved = Vec::new();
            for at in index + 1..self.entries.len() {
                let mut entry = self.entries[at].clone();
                entry.offset += growth;
                let checksum = entry.checksum;
                let mut bytes = self.entry_write(&mut entry).bytes;
                bytes[8..12].copy_from_slice(&checksum.to_le_bytes());
                entry.checksum = checksum;
                moved.push((entry.offset, bytes));
                self.entries[at] = entry;
            }
            for unreadable in self.unreadable.iter_mut().filter(|frame| frame.offset > first) {
                unreadable.offset += growth;
                moved.push((unreadable.offset, unreadable.bytes.clone()));
            }
            moved.sort_by_key(|(offset, _)| *offset);
            moved.iter().for_each(|(_, bytes)| replaced.bytes.extend_from_slice(bytes));
        }
        writes.push(replaced);
        Ok(writes)
    }

    /// Grows the file so that entries fit up to an offset.
    fn grow_to(&mut self, end: usize) -> Result<Vec<CatalogWrite>, CatalogError> {
        if end <= self.capacity {
            return Ok(Vec::new());
        }
        let grown = (self.capacity + self.capacity / 2).max(end).min(MAX_CAPACITY);
        if end > grown {
            return Err(CatalogError::Full);
        }
        self.capacity = grown;
        Ok(vec![CatalogWrite { offset: grown as u64 - 1, bytes: vec![0] }])
    }

    /// Marks a recording as deleted.
    pub fn delete(&mut self, recording_id: i64) -> Option<CatalogWrite> {
        let index = self.index_of(recording_id)?;
        self.entries[index].state = RecordingState::Deleted;
        let state = RecordingState::Deleted as i32;
        Some(CatalogWrite {
            offset: self.entries[index].offset as u64 + 4,
            bytes: state.to_le_bytes().to_vec(),
        })
    }

    fn entry_write(&self, entry: &mut CatalogEntry) -> CatalogWrite {
        let body = entry.descriptor.to_entry_body(entry.length - ENTRY_HEADER_LENGTH);
        entry.checksum = self.checksum.map_or(0, |checksum| checksum.of(&body));
        let mut bytes = vec![0; ENTRY_HEADER_LENGTH];
        bytes[..4].copy_from_slice(&(body.len() as i32).to_le_bytes());
        bytes[4..8].copy_from_slice(&(entry.state as i32).to_le_bytes());
        bytes[8..12].copy_from_slice(&entry.checksum.to_le_bytes());
        bytes.extend_from_slice(&body);
        CatalogWrite { offset: entry.offset as u64, bytes }
    }

    fn header_write(&self) -> CatalogWrite {
        let mut bytes = vec![0; HEADER_LENGTH];
        bytes[..4].copy_from_slice(&FILE_VERSION.to_le_bytes());
        bytes[4..8].copy_from_slice(&(HEADER_LENGTH as i32).to_le_bytes());
        bytes[8..16].copy_from_slice(&self.next_recording_id.to_le_bytes());
        bytes[16..20].copy_from_slice(&(ALIGNMENT as i32).to_le_bytes());
        CatalogWrite { offset: 0, bytes }
    }

    /// True when an entry's checksum is right, or when the archive has no checksums.
    pub fn is_checksum_right(&self, entry: &CatalogEntry) -> bool {
        self.checksum.is_none_or(|checksum| {
            let body = entry.descriptor.to_entry_body(entry.length - ENTRY_HEADER_LENGTH);
            checksum.of(&body) == entry.checksum
        })
    }
}

/// True when an entry can be read behind an offset.
fn has_entry_behind(bytes: &[u8], offset: usize) -> bool {
    let mut places = (offset + ALIGNMENT..bytes.len()).step_by(ALIGNMENT);
    places.any(|at| matches!(read_entry(bytes, at), Ok(Some(_))))
}

/// Checks the file's header; returns the next recording id.
fn read_header(bytes: &[u8]) -> Result<i64, CatalogError> {
    if bytes.len() < HEADER_LENGTH {
        return Err(CatalogError::Short(bytes.len()));
    }
    let version = int(bytes, 0);
    if semantic_version_major(version) != semantic_version_major(FILE_VERSION) {
        return Err(CatalogError::Version(version));
    }
    let alignment = int(bytes, 16);
    if alignment != ALIGNMENT as i32 {
        return Err(CatalogError::Header { field: "alignment", value: i64::from(alignment) });
    }
    Ok(long(bytes, 8))
}

fn int(bytes: &[u8], offset: usize) -> i32 {
    bytes[offset..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word))
}

fn long(bytes: &[u8], offset: usize) -> i64 {
    bytes[offset..].first_chunk().map_or(0, |word| i64::from_le_bytes(*word))
}

/// Reads the entry at an offset and checks it against the one before it.
fn read_next(
    bytes: &[u8],
    offset: usize,
    previous: Option<&CatalogEntry>,
    checksum: Option<Checksum>,
    check: &dyn Fn(&RecordingDescriptor) -> Result<(), String>,
) -> Result<Option<CatalogEntry>, CatalogError> {
    let Some(entry) = read_entry(bytes, offset)? else { return Ok(None) };
    let error = |reason: String| CatalogError::Entry { offset, reason };
    let d = &entry.descriptor;
    check(d).map_err(error)?;
    let id = d.recording_id;
    if previous.is_some_and(|last| last.descriptor.recording_id >= id) {
        return Err(error(format!("recording id {id} does not ascend")));
    }
    // A torn entry has holes in its strings. Only with checksums can they be told from unusual strings.
    let texts = [&d.stripped_channel, &d.original_channel, &d.source_identity];
    let has_holes = texts.iter().any(|text| text.is_empty() || text.contains('\0'));
    if checksum.is_some() && has_holes && !is_planted(Bug::TornCatalogEntry) {
        return Err(error(format!("texts of recording {id} have holes")));
    }
    Ok(Some(entry))
}

fn read_entry(bytes: &[u8], offset: usize) -> Result<Option<CatalogEntry>, CatalogError> {
    let error = |reason: String| CatalogError::Entry { offset, reason };
    let Some(header) = bytes.get(offset..offset + ENTRY_HEADER_LENGTH) else {
        // The rest is too short for an entry, so it is empty unless the file was truncated.
        let rest = bytes.get(offset..).unwrap_or_default();
        if rest.iter().any(|byte| *byte != 0) {
            return Err(error(format!("cut after {} bytes", rest.len())));
        }
        return Ok(None);
    };
    let length = int(header, 0);
    if length <= 0 {
        return Ok(None);
    }
    let body = bytes
        .get(offset + ENTRY_HEADER_LENGTH..)
        .and_then(|rest| rest.get(..length as usize))
        .ok_or_else(|| error(format!("{length} bytes run past the end of the file")))?;
    let frame_length = ENTRY_HEADER_LENGTH + length as usize;
    if !frame_length.is_multiple_of(ALIGNMENT) {
        return Err(error(format!("{frame_length} bytes are not aligned")));
    }
    let state = match int(header, 4) {
        0 => RecordingState::Invalid,
        1 => RecordingState::Valid,
        2 => RecordingState::Deleted,
        other => return Err(error(format!("state {other} is unknown"))),
    };
    let descriptor = RecordingDescriptor::from_entry(body).map_err(|cause| error(cause.to_string()))?;
    check_descriptor(&descriptor).map_err(error)?;
    if descriptor.frame_length() > frame_length {
        return Err(error("texts run past the entry".into()));
    }
    Ok(Some(CatalogEntry { offset, length: frame_length, state, checksum: int(header, 8), descriptor }))
}

/// Explains why the lengths of a descriptor are invalid.
pub(crate) fn check_descriptor(d: &RecordingDescriptor) -> Result<(), String> {
    let is_length = |length: i32| length.count_ones() == 1 && (64 << 10..=1 << 30).contains(&length);
    if !is_length(d.term_buffer_length) {
        return Err(format!("term length {}", d.term_buffer_length));
    }
    if !is_length(d.segment_file_length) || d.segment_file_length < d.term_buffer_length {
        return Err(format!("segment length {}", d.segment_file_length));
    }
    if d.recording_id < 0 {
        return Err(format!("recording id {}", d.recording_id));
    }
    Ok(())
}

/// Explains why the positions of a descriptor are invalid.
pub(crate) fn check_positions(d: &RecordingDescriptor) -> Result<(), String> {
    let is_position = |position: i64| position >= 0 && position % 32 == 0;
    if !is_position(d.start_position) || (d.stop_position != -1 && !is_position(d.stop_position)) {
        return Err(format!("positions {}..{}", d.start_position, d.stop_position));
    }
    Ok(())
}
