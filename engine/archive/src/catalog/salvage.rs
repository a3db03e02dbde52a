//! Reading a catalog with damaged entries: they are set aside, all others are served (spec 03 §4.3).

use super::{
    Catalog, CatalogEntry, CatalogError, CatalogWrite, Checksum, HEADER_LENGTH, RecordingState,
    check_positions, int, read_entry, read_header,
};
use crate::descriptor::{ALIGNMENT, ENTRY_HEADER_LENGTH};

/// An entry that cannot be read.
#[derive(Debug, Clone)]
pub(super) struct Unreadable {
    pub(super) offset: usize,
    /// The whole entry.
    pub(super) bytes: Vec<u8>,
    /// Reason why it cannot be read.
    reason: String,
    /// Recording ids before and after the entry; its own is between them.
    after: i64,
    before: i64,
}

/// A damaged entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// Offset of the entry in the file.
    pub offset: usize,
    /// Description of the damage.
    pub reason: String,
}

/// A catalog without its damaged entries.
#[derive(Debug)]
pub struct Salvaged {
    /// The catalog.
    pub catalog: Catalog,
    /// Writes that mark the damaged entries as INVALID.
    pub writes: Vec<CatalogWrite>,
    /// Entries that were not marked before.
    pub damage: Vec<Damage>,
}

impl Catalog {
    /// Reads a catalog and sets damaged entries aside, however many there are.
    ///
    /// # Errors
    /// A damaged header: it may belong to another version of the format.
    pub fn salvage(bytes: &[u8], checksum: Option<Checksum>) -> Result<Salvaged, CatalogError> {
        let next = read_header(bytes)?;
        let mut reader =
            Reader { bytes, next, entries: Vec::new(), unreadable: Vec::new(), damage: Vec::new() };
        let mut writes = reader.read();
        writes.extend(reader.check_last()?);
        let Reader { entries, mut unreadable, damage, .. } = reader;
        for frame in &mut unreadable {
            let id_at =
                |entry: &CatalogEntry| (entry.offset > frame.offset).then_some(entry.descriptor.recording_id);
            frame.before = entries.iter().find_map(id_at).unwrap_or(i64::MAX);
        }
        let last = entries.last().map_or(-1, |entry| entry.descriptor.recording_id);
        // An unreadable entry behind the last one had an id that must not be given again.
        let behind = unreadable.iter().filter(|frame| frame.before == i64::MAX).count() as i64;
        let next_recording_id = next.max(last.saturating_add(1 + behind));
        let catalog = Catalog { entries, unreadable, next_recording_id, capacity: bytes.len(), checksum };
        Ok(Salvaged { catalog, writes, damage })
    }

    /// Entries that cannot be read. They are INVALID, and their bytes are kept.
    pub fn unreadable(&self) -> impl Iterator<Item = Damage> {
        self.unreadable.iter().map(|frame| Damage { offset: frame.offset, reason: frame.reason.clone() })
    }

    /// True when the recording's entry may be one of the unreadable ones.
    pub(crate) fn may_be_unreadable(&self, recording_id: i64) -> bool {
        self.unreadable
            .iter()
            .any(|frame| (frame.after.saturating_add(1)..frame.before).contains(&recording_id))
    }

    /// Marks a valid entry as invalid.
    pub(crate) fn invalidate(&mut self, recording_id: i64) -> Option<CatalogWrite> {
        let index = self.index_of(recording_id)?;
        self.entries[index].state = RecordingState::Invalid;
        Some(invalid_state(self.entries[index].offset))
    }
}

impl CatalogEntry {
    /// True when a checksum of the entry's bytes in a file is the one in its header. An archive that ends a recording at
    /// its start, and a tool that verifies it, change the stop position without the checksum (spec 03 §4.3).
    pub(crate) fn is_confirmed(&self, bytes: &[u8]) -> bool {
        self.algorithm(bytes).is_some()
    }

    /// Algorithm of the entry's checksum; `None` when no algorithm confirms it.
    pub(crate) fn algorithm(&self, bytes: &[u8]) -> Option<Checksum> {
        let body = bytes.get(self.offset + ENTRY_HEADER_LENGTH..self.offset + self.length)?;
        let mut descriptor = self.descriptor.clone();
        (descriptor.stop_position, descriptor.stop_timestamp) = (-1, -1);
        let unstopped = descriptor.to_entry_body(body.len());
        [Checksum::Crc32, Checksum::Crc32c]
            .into_iter()
            .find(|checksum| [body, &unstopped].iter().any(|body| checksum.of(body) == self.checksum))
    }
}

/// Write that sets the state of the entry at an offset to INVALID.
fn invalid_state(offset: usize) -> CatalogWrite {
    CatalogWrite { offset: offset as u64 + 4, bytes: (RecordingState::Invalid as i32).to_le_bytes().to_vec() }
}

struct Reader<'a> {
    bytes: &'a [u8],
    next: i64,
    entries: Vec<CatalogEntry>,
    unreadable: Vec<Unreadable>,
    damage: Vec<Damage>,
}

impl Reader<'_> {
    /// Reads all entries; returns the writes that mark the damaged ones.
    fn read(&mut self) -> Vec<CatalogWrite> {
        let mut writes = Vec::new();
        let end = self.end_of_entries();
        let mut offset = HEADER_LENGTH;
        while offset < end {
            let read = self.readable(offset);
            match read {
                Ok(mut entry) => {
                    offset += entry.length;
                    if entry.state == RecordingState::Valid
                        && let Err(reason) = check_positions(&entry.descriptor)
                    {
                        entry.state = RecordingState::Invalid;
                        writes.push(invalid_state(entry.offset));
                        self.damage.push(Damage { offset: entry.offset, reason });
                    }
                    self.entries.push(entry);
                }
                Err(reason) => {
                    let length = self.length_of_unreadable(offset, end);
                    writes.extend(self.set_aside(offset, length, reason));
                    offset += length;
                }
            }
        }
        writes
    }

    /// Checks the id of the last entry, which no entry follows, against the header. The header may lag behind by one
    /// entry. When it contradicts more of them the header is wrong.
    fn check_last(&mut self) -> Result<Option<CatalogWrite>, CatalogError> {
        let ids = |entry: &CatalogEntry| entry.descriptor.recording_id;
        let is_wrong = |id: i64| self.next > 0 && id > self.next;
        let Some(last) = self.entries.last().map(ids).filter(|id| is_wrong(*id)) else { return Ok(None) };
        let before = self.entries.iter().rev().nth(1).map(ids);
        if before.is_none_or(|id| id >= self.next) {
            return Err(CatalogError::Header { field: "nextRecordingId", value: self.next });
        }
        let Some(entry) = self.entries.pop() else { return Ok(None) };
        let reason = format!("recording id {last} is not below the next one, {}", self.next);
        let write = self.set_aside(entry.offset, entry.length, reason);
        self.unreadable.sort_by_key(|frame| frame.offset);
        Ok(write)
    }

    /// Returns the end of the last entry.
    fn end_of_entries(&self) -> usize {
        let entries = &self.bytes[HEADER_LENGTH..];
        let length = entries.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        (HEADER_LENGTH + length.next_multiple_of(ALIGNMENT)).min(self.bytes.len())
    }

    /// Reads the entry at an offset.
    fn readable(&self, offset: usize) -> Result<CatalogEntry, String> {
        let entry = self.entry_at(offset)?;
        let follows = self.entry_at(offset + entry.length).ok();
        let id = entry.descriptor.recording_id;
        // Of two entries out of order the first one is wrong when the second fits without it.
        match follows {
            Some(next) if next.descriptor.recording_id <= id => {
                Err(format!("recording id {id} does not ascend"))
            }
            _ => Ok(entry),
        }
    }

    /// Reads an entry whose id is higher than that of the last readable entry.
    fn entry_at(&self, offset: usize) -> Result<CatalogEntry, String> {
        let entry = match read_entry(self.bytes, offset) {
            Ok(Some(entry)) => entry,
            Ok(None) => return Err("length 0".to_owned()),
            Err(CatalogError::Entry { reason, .. }) => return Err(reason),
            Err(error) => return Err(error.to_string()),
        };
        let id = entry.descriptor.recording_id;
        match self.entries.last() {
            Some(last) if last.descriptor.recording_id >= id => {
                Err(format!("recording id {id} does not ascend"))
            }
            _ => Ok(entry),
        }
    }

    /// Finds the end of an unreadable entry: its own length when an entry or the end follows, otherwise the next
    /// readable entry.
    fn length_of_unreadable(&self, offset: usize, end: usize) -> usize {
        let stated = ENTRY_HEADER_LENGTH + int_at(self.bytes, offset);
        let is_end = |at: usize| at == end || self.entry_at(at).is_ok();
        if stated.is_multiple_of(ALIGNMENT) && offset + stated <= end && is_end(offset + stated) {
            return stated;
        }
        let candidates = (offset + ALIGNMENT..end).step_by(ALIGNMENT);
        candidates.into_iter().find(|at| self.entry_at(*at).is_ok()).unwrap_or(end) - offset
    }

    /// Keeps the bytes of an unreadable entry, with its real length and the state INVALID.
    fn set_aside(&mut self, offset: usize, length: usize, reason: String) -> Option<CatalogWrite> {
        let mut bytes = self.bytes[offset..offset + length].to_vec();
        let after = self.entries.last().map_or(-1, |entry| entry.descriptor.recording_id);
        let mut write = None;
        if length >= ENTRY_HEADER_LENGTH {
            let before = bytes[..8].to_vec();
            bytes[..4].copy_from_slice(&((length - ENTRY_HEADER_LENGTH) as i32).to_le_bytes());
            bytes[4..8].copy_from_slice(&(RecordingState::Invalid as i32).to_le_bytes());
            if bytes[..8] != before {
                write = Some(CatalogWrite { offset: offset as u64, bytes: bytes[..8].to_vec() });
                self.damage.push(Damage { offset, reason: reason.clone() });
            }
        }
        self.unreadable.push(Unreadable { offset, bytes, reason, after, before: i64::MAX });
        write
    }
}

/// Length field of an entry; 0 when it is not positive or cut off.
fn int_at(bytes: &[u8], offset: usize) -> usize {
    if offset + 4 > bytes.len() {
        return 0;
    }
    usize::try_from(int(bytes, offset)).unwrap_or(0)
}
