//! Entries of recording.log and their encoding (spec 04 §6.1).

use std::cmp::Ordering;
use std::path::Path;

use super::RecordingLogError;

/// Length of a record, bytes; standby snapshots are longer.
pub(super) const RECORD_LENGTH: usize = 64;
const MAX_RECORD_LENGTH: usize = 4_096;
/// Offset of the archive endpoint in a standby snapshot.
const ENDPOINT_OFFSET: usize = 52;
pub(super) const INVALID_FLAG: u32 = 1 << 31;
/// Offset of the log position in a record.
pub(super) const LOG_POSITION_OFFSET: u64 = 24;
/// Offset of the type in a record.
pub(super) const TYPE_OFFSET: u64 = 44;

/// Type of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryType {
    /// A leadership term.
    Term,
    /// A snapshot of a service, or of the consensus module.
    Snapshot,
    /// A snapshot that a standby took.
    StandbySnapshot,
}

impl EntryType {
    /// Sort rank: snapshots follow the term in which they were taken.
    fn rank(self) -> u8 {
        match self {
            Self::Term => 0,
            Self::StandbySnapshot => 1,
            Self::Snapshot => 2,
        }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Recording of the log or of the snapshot.
    pub recording_id: i64,
    /// Leadership term id.
    pub leadership_term_id: i64,
    /// Log position at which the term begins, bytes.
    pub term_base_log_position: i64,
    /// Log position of the snapshot or of the term's end; -1 while the term is open.
    pub log_position: i64,
    /// Cluster time, in the unit of the cluster's clock.
    pub timestamp: i64,
    /// Id of the service; -1 for terms and for snapshots of the consensus module.
    pub service_id: i32,
    /// Type of the entry.
    pub entry_type: EntryType,
    /// False for an entry that was invalidated.
    pub is_valid: bool,
    /// Archive endpoint of a standby's snapshot; empty for other entries.
    pub archive_endpoint: String,
    /// Index in the file, counting removed entries.
    pub entry_index: usize,
    /// Offset of the record in the file, bytes.
    pub offset: usize,
}

impl Entry {
    /// True for a valid snapshot of the consensus module.
    pub fn is_module_snapshot(&self) -> bool {
        self.is_snapshot() && self.service_id == -1
    }

    /// True for a valid snapshot of this node.
    pub fn is_snapshot(&self) -> bool {
        self.is_valid && self.entry_type == EntryType::Snapshot
    }

    /// True for a valid term.
    pub fn is_term(&self) -> bool {
        self.is_valid && self.entry_type == EntryType::Term
    }

    /// Length of the record in the file, bytes.
    pub fn record_length(&self) -> usize {
        match self.entry_type {
            EntryType::StandbySnapshot => {
                (ENDPOINT_OFFSET + self.archive_endpoint.len()).next_multiple_of(RECORD_LENGTH)
            }
            _ => RECORD_LENGTH,
        }
    }

    /// Encodes the record.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.record_length()];
        let mut put =
            |offset: usize, value: i64| bytes[offset..offset + 8].copy_from_slice(&value.to_le_bytes());
        put(0, self.recording_id);
        put(8, self.leadership_term_id);
        put(16, self.term_base_log_position);
        put(24, self.log_position);
        put(32, self.timestamp);
        bytes[40..44].copy_from_slice(&self.service_id.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.type_word().to_le_bytes());
        if self.entry_type == EntryType::StandbySnapshot {
            let endpoint = self.archive_endpoint.as_bytes();
            bytes[48..52].copy_from_slice(&(endpoint.len() as u32).to_le_bytes());
            bytes[ENDPOINT_OFFSET..ENDPOINT_OFFSET + endpoint.len()].copy_from_slice(endpoint);
        }
        bytes
    }

    /// Type with the invalid flag as stored in the file.
    pub(super) fn type_word(&self) -> u32 {
        let flag = if self.is_valid { 0 } else { INVALID_FLAG };
        self.entry_type as u32 | flag
    }

    /// True for the same snapshot in any recording.
    pub(super) fn is_same_snapshot(&self, other: &Self) -> bool {
        self.entry_type == other.entry_type && self.is_same_set(other) && self.service_id == other.service_id
    }

    /// True for parts of the same snapshot of a whole node.
    pub(super) fn is_same_set(&self, other: &Self) -> bool {
        self.leadership_term_id == other.leadership_term_id
            && self.term_base_log_position == other.term_base_log_position
            && self.log_position == other.log_position
    }
}

/// Logical order of entries: by term, a term before its snapshots, snapshots by position, the consensus module's last
/// (spec 04 §6.1).
pub fn compare(a: &Entry, b: &Entry) -> Ordering {
    let key =
        |entry: &Entry| (entry.leadership_term_id, entry.term_base_log_position, entry.entry_type.rank());
    key(a).cmp(&key(b)).then_with(|| match a.entry_type {
        EntryType::Term => a.entry_index.cmp(&b.entry_index),
        _ => a.log_position.cmp(&b.log_position).then(b.service_id.cmp(&a.service_id)),
    })
}

/// Cuts off records whose append a machine crash interrupted. A record's words are written in order, so a torn record
/// has no type. No later action depends on it, and the next record replaces it.
pub(super) fn without_torn_tail(bytes: &[u8]) -> &[u8] {
    if !bytes.len().is_multiple_of(RECORD_LENGTH) {
        return bytes;
    }
    let mut end = bytes.len();
    let (mut offset, mut starts) = (0, Vec::new());
    while offset < end {
        starts.push(offset);
        offset += length_in_file(&bytes[offset..]);
    }
    while let Some(start) = starts.pop().filter(|start| is_torn(&bytes[*start..end])) {
        end = start;
    }
    &bytes[..end]
}

/// Length of the record at the start of `rest`, including an endpoint that is present.
pub(super) fn length_in_file(rest: &[u8]) -> usize {
    let word = |offset: usize| {
        rest.get(offset..).and_then(<[u8]>::first_chunk).map_or(0, |word| u32::from_le_bytes(*word))
    };
    if word(44) & !INVALID_FLAG != EntryType::StandbySnapshot as u32 {
        return RECORD_LENGTH;
    }
    let length = (ENDPOINT_OFFSET + word(48) as usize).next_multiple_of(RECORD_LENGTH);
    if length > MAX_RECORD_LENGTH { RECORD_LENGTH } else { length }
}

/// True when the type is missing: a term with a service id is a record that lost its last words.
fn lacks_type(record: &[u8]) -> bool {
    record[40..48] == [0; 8]
}

/// True for a standby's snapshot without its endpoint.
fn is_torn(record: &[u8]) -> bool {
    if record[44..48] != (EntryType::StandbySnapshot as u32).to_le_bytes() {
        return lacks_type(record);
    }
    let length = record[48..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word)) as usize;
    let endpoint = record.get(ENDPOINT_OFFSET..ENDPOINT_OFFSET + length);
    endpoint.is_none_or(|endpoint| endpoint.is_empty() || endpoint.contains(&0))
}

/// Decodes the entries of a file in file order, without removed entries.
///
/// # Errors
/// [`RecordingLogError::Entry`] for an entry that is cut, unknown, or of another log than the others.
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Vec<Entry>, RecordingLogError> {
    let mut entries = Vec::new();
    let (mut offset, mut entry_index) = (0, 0);
    let mut log_recording = None;
    while offset < bytes.len() {
        let error = |reason: String| RecordingLogError::Entry { path: path.to_owned(), offset, reason };
        let record = bytes
            .get(offset..offset + 48)
            .ok_or_else(|| error(format!("cut after {} bytes", bytes.len() - offset)))?;
        let read = read_record(record, &bytes[offset + 48..]).map_err(error)?;
        let Some(mut entry) = read else {
            offset += RECORD_LENGTH;
            entry_index += 1;
            continue;
        };
        if entry.recording_id < 0 || entry.leadership_term_id < 0 || entry.term_base_log_position < 0 {
            return Err(error("negative recording, term or position".into()));
        }
        if entry.is_term() {
            if log_recording.is_some_and(|id| id != entry.recording_id) {
                return Err(error(format!(
                    "term in recording {} instead of {log_recording:?}",
                    entry.recording_id
                )));
            }
            log_recording = Some(entry.recording_id);
        }
        (entry.offset, entry.entry_index) = (offset, entry_index);
        offset += entry.record_length();
        entry_index += 1;
        entries.push(entry);
    }
    Ok(entries)
}

/// Decodes one record; `None` for a free slot.
fn read_record(record: &[u8], rest: &[u8]) -> Result<Option<Entry>, String> {
    let long = |at: usize| record[at..].first_chunk().map_or(0, |word| i64::from_le_bytes(*word));
    let int = |at: usize| record[at..].first_chunk().map_or(0, |word| i32::from_le_bytes(*word));
    let type_word = int(44);
    if type_word == -1 || lacks_type(record) {
        return Ok(None);
    }
    let mut archive_endpoint = String::new();
    let entry_type = match type_word & i32::MAX {
        0 => EntryType::Term,
        1 => EntryType::Snapshot,
        2 => {
            let length =
                rest.first_chunk::<4>().map_or(usize::MAX, |word| u32::from_le_bytes(*word) as usize);
            if length > MAX_RECORD_LENGTH - ENDPOINT_OFFSET {
                return Err(format!("archive endpoint of {length} bytes"));
            }
            let text = rest.get(4..4 + length).ok_or("archive endpoint is cut")?;
            archive_endpoint = String::from_utf8_lossy(text).into_owned();
            if archive_endpoint.len() != length {
                return Err("archive endpoint is no text".into());
            }
            EntryType::StandbySnapshot
        }
        other => return Err(format!("unknown type {other}")),
    };
    Ok(Some(Entry {
        recording_id: long(0),
        leadership_term_id: long(8),
        term_base_log_position: long(16),
        log_position: long(24),
        timestamp: long(32),
        service_id: int(40),
        entry_type,
        is_valid: type_word as u32 & INVALID_FLAG == 0,
        archive_endpoint,
        entry_index: 0,
        offset: 0,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(recording_id: i64, service_id: i32, entry_type: EntryType, index: usize) -> Entry {
        Entry {
            recording_id,
            leadership_term_id: 1,
            term_base_log_position: 64,
            log_position: 640,
            timestamp: 9,
            service_id,
            entry_type,
            is_valid: true,
            archive_endpoint: String::new(),
            entry_index: index,
            offset: index * RECORD_LENGTH,
        }
    }

    #[test]
    fn records_of_all_kinds_are_read_back() {
        let mut standby = entry(70, 0, EntryType::StandbySnapshot, 2);
        standby.archive_endpoint = "127.0.0.1:29999".into();
        assert_eq!(standby.record_length(), 128);
        let mut invalid = entry(2, -1, EntryType::Snapshot, 3);
        (invalid.is_valid, invalid.offset) = (false, 256);
        let all = [entry(0, -1, EntryType::Term, 0), entry(1, 0, EntryType::Snapshot, 1), standby, invalid];
        let bytes: Vec<u8> = all.iter().flat_map(Entry::encode).collect();
        assert_eq!(parse(Path::new("r"), &bytes).unwrap(), all);
        assert_eq!(bytes[256 + 44..256 + 48], [1, 0, 0, 0x80]);
    }

    #[test]
    fn a_standby_snapshot_at_the_end_is_whole_unless_its_endpoint_is_torn() {
        let mut standby = entry(70, 0, EntryType::StandbySnapshot, 1);
        standby.archive_endpoint = "127.0.0.1:29999".into();
        let term = entry(0, -1, EntryType::Term, 0).encode();
        let bytes = [term.clone(), standby.encode()].concat();
        assert_eq!(without_torn_tail(&bytes), bytes);
        for kept in [0, 8, 40, 44, 48, 52, 60] {
            let mut torn = bytes.clone();
            torn[RECORD_LENGTH + kept..].fill(0);
            assert_eq!(without_torn_tail(&torn), term, "{kept}");
        }
    }

    #[test]
    fn a_standby_snapshot_that_is_cut_is_an_error() {
        let mut standby = entry(70, 0, EntryType::StandbySnapshot, 0);
        standby.archive_endpoint = "h:1".into();
        let bytes = standby.encode();
        for length in 1..ENDPOINT_OFFSET + 3 {
            assert!(parse(Path::new("r"), &bytes[..length]).is_err(), "{length}");
        }
        let mut long = bytes.clone();
        long[48..52].copy_from_slice(&5_000_u32.to_le_bytes());
        assert!(parse(Path::new("r"), &long).unwrap_err().to_string().contains("5000 bytes"));
    }

    #[test]
    fn the_consensus_modules_snapshot_sorts_behind_those_of_services_and_snapshots_behind_standbys() {
        let mut all = [
            entry(4, -1, EntryType::Snapshot, 0),
            entry(3, 0, EntryType::Snapshot, 1),
            entry(2, 1, EntryType::Snapshot, 2),
            entry(9, -1, EntryType::StandbySnapshot, 3),
            entry(0, -1, EntryType::Term, 4),
        ];
        all.sort_by(compare);
        assert_eq!(all.map(|entry| entry.recording_id), [0, 9, 2, 3, 4]);
    }
}
