//! The sealed copy of recording.log (docs/protocol/own-files.md).
//!
//! Aeron's format has no checksums, so `recording.log.seal` holds a copy of the file. Aeron's member and tools change
//! recording.log without updating the copy. Changes that they can make are therefore accepted; every other difference
//! is damage.

use std::path::Path;

use harrier_protocol::record::{RecordKind, UnknownVersion};

use super::entry::{Entry, EntryType, INVALID_FLAG, RECORD_LENGTH, length_in_file, parse};

/// Name of the file.
pub const SEAL_FILE: &str = "recording.log.seal";
const KIND: RecordKind = RecordKind { magic: *b"HRLG", version: 1, name: "seal of recording.log" };
const LOG_POSITION: std::ops::Range<usize> = 24..32;
const TYPE: std::ops::Range<usize> = 44..48;
/// Length of the significant part of a record; the rest may hold remains of earlier records.
const USED_LENGTH: usize = 48;

/// Encodes the seal of a file.
pub(super) fn encode(file: &[u8]) -> Vec<u8> {
    KIND.seal(file)
}

/// Returns the copy in a seal; `None` without a complete seal.
pub(super) fn read(bytes: &[u8]) -> Result<Option<&[u8]>, UnknownVersion> {
    KIND.open(bytes)
}

/// Compares a file with its copy. Returns the offset of a difference that no program causes.
pub(super) fn find_damage(copy: &[u8], file: &[u8]) -> Option<usize> {
    let mut offset = 0;
    while offset < copy.len() {
        let length = length_in_file(&copy[offset..]).min(copy.len() - offset);
        let old = &copy[offset..offset + length];
        if !file.get(offset..offset + length).is_some_and(|new| is_changed_rightly(old, new)) {
            return (!is_rewritten(copy, file)).then_some(offset);
        }
        offset += length;
    }
    None
}

/// True for a record that is unchanged or that a member or tool may have changed in place (spec 04 §6.1).
fn is_changed_rightly(old: &[u8], new: &[u8]) -> bool {
    let word = |record: &[u8]| record[TYPE].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
    let (Some(used), Some(_)) = (old.get(..USED_LENGTH), new.get(..USED_LENGTH)) else { return old == new };
    let kind = word(used) & !INVALID_FLAG;
    let used = if kind == EntryType::StandbySnapshot as u32 { old.len() } else { USED_LENGTH };
    if old[..used] == new[..used] {
        return true;
    }
    let is_equal_but = |range: std::ops::Range<usize>| {
        old[..range.start] == new[..range.start] && old[range.end..used] == new[range.end..used]
    };
    let long =
        |record: &[u8], at: usize| record[at..].first_chunk().map_or(0, |word| i64::from_le_bytes(*word));
    if word(old) == EntryType::Term as u32 {
        // An open term was ended.
        let (base, end) = (long(old, 16), long(new, LOG_POSITION.start));
        return is_equal_but(LOG_POSITION)
            && long(old, LOG_POSITION.start) == -1
            && end >= base
            && end % 32 == 0;
    }
    let is_snapshot =
        [EntryType::Snapshot, EntryType::StandbySnapshot].map(|kind| kind as u32).contains(&kind);
    // A snapshot was invalidated or revalidated.
    if is_snapshot && is_equal_but(TYPE) && word(old) ^ word(new) == INVALID_FLAG {
        return true;
    }
    // An invalid snapshot was replaced by a new one at the same position.
    let is_same_set = old[8..32] == new[8..32] && old[40..44] == new[40..44];
    is_snapshot && word(old) == kind | INVALID_FLAG && word(new) == kind && is_same_set
}

/// True for a file that a tool has rewritten: sorted, or seeded from a snapshot (spec 04 §6.6).
fn is_rewritten(copy: &[u8], file: &[u8]) -> bool {
    let path = Path::new(super::RECORDING_LOG_FILE);
    let (Ok(old), Ok(new)) = (parse(path, copy), parse(path, file)) else { return false };
    let is_seed =
        |entry: &Entry| entry.is_snapshot() && entry.term_base_log_position == 0 && entry.log_position == 0;
    let has_source = |entry: &Entry| {
        let is_source = |item: &&Entry| {
            item.entry_type == entry.entry_type
                && item.leadership_term_id == entry.leadership_term_id
                && item.recording_id == entry.recording_id
                && item.timestamp == entry.timestamp
                && item.service_id == entry.service_id
        };
        old.iter().any(|entry| is_source(&entry))
    };
    if new.iter().all(|entry| is_seed(entry) && has_source(entry)) {
        return file.len().is_multiple_of(RECORD_LENGTH);
    }
    let sorted = |mut entries: Vec<Entry>| {
        for entry in &mut entries {
            (entry.entry_index, entry.offset) = (0, 0);
            // Aeron's tool loses the invalid flag of snapshots; terms are never invalid.
            entry.is_valid |= entry.entry_type != EntryType::Term;
        }
        entries.sort_by_key(Entry::encode);
        entries
    };
    sorted(old) == sorted(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording_log::compare;

    fn entry(entry_type: EntryType, recording_id: i64, service_id: i32, log_position: i64) -> Entry {
        Entry {
            recording_id,
            leadership_term_id: 3,
            term_base_log_position: 640,
            log_position,
            timestamp: 1_795_315_445_404,
            service_id,
            entry_type,
            is_valid: true,
            archive_endpoint: String::new(),
            entry_index: 0,
            offset: 0,
        }
    }

    fn entries() -> Vec<Entry> {
        let mut standby = entry(EntryType::StandbySnapshot, 9, -1, 1_024);
        standby.archive_endpoint = "127.0.0.1:29999".into();
        vec![
            entry(EntryType::Term, 0, -1, -1),
            entry(EntryType::Snapshot, 1, 0, 960),
            entry(EntryType::Snapshot, 2, -1, 960),
            standby,
        ]
    }

    fn bytes(entries: &[Entry]) -> Vec<u8> {
        entries.iter().flat_map(Entry::encode).collect()
    }

    #[test]
    fn every_flipped_bit_that_means_something_is_found_or_is_a_change_of_validity() {
        let copy = bytes(&entries());
        assert_eq!(find_damage(&copy, &copy), None);
        for bit in 0..copy.len() * 8 {
            let mut file = copy.clone();
            file[bit / 8] ^= 1 << (bit % 8);
            let (record, at) = (bit / 8 / RECORD_LENGTH, bit / 8 % RECORD_LENGTH);
            let is_remains = (record < 3 && at >= USED_LENGTH) || (record == 4 && at >= 3);
            let is_validity = (1..4).contains(&record) && at == 47 && bit % 8 == 7;
            let found = find_damage(&copy, &file).is_some();
            assert_eq!(found, !is_remains && !is_validity, "bit {bit}: byte {at} of record {record}");
        }
    }

    #[test]
    fn what_members_and_tools_write_is_no_damage() {
        let all = entries();
        let copy = bytes(&all);
        let changed = |change: &dyn Fn(&mut Vec<Entry>)| {
            let mut changed = all.clone();
            change(&mut changed);
            find_damage(&copy, &bytes(&changed))
        };
        assert_eq!(changed(&|all| all[0].log_position = 2_048), None, "a term ends");
        assert_eq!(changed(&|all| all.push(entry(EntryType::Term, 0, -1, -1))), None, "one is appended");
        assert_eq!(changed(&|all| (all[1].is_valid, all[2].is_valid) = (false, false)), None);
        let mut unsorted = all.clone();
        unsorted.swap(1, 2);
        assert_eq!(find_damage(&bytes(&unsorted), &copy), None, "the entries are sorted");
        let mut seed: Vec<Entry> = all[1..3].to_vec();
        seed.sort_by(compare);
        for entry in &mut seed {
            (entry.term_base_log_position, entry.log_position) = (0, 0);
        }
        assert_eq!(find_damage(&copy, &bytes(&seed)), None, "the log is seeded");
        let mut invalid = all.clone();
        invalid[1].is_valid = false;
        let mut replaced = all.clone();
        (replaced[1].recording_id, replaced[1].timestamp) = (77, 5);
        assert_eq!(find_damage(&bytes(&invalid), &bytes(&replaced)), None, "a snapshot is taken again");
        assert_eq!(find_damage(&copy, &bytes(&replaced)), Some(64));
        assert_eq!(changed(&|all| all[0].log_position = 32), Some(0), "a term does not end before its begin");
        assert_eq!(changed(&|all| drop(all.pop())), Some(192), "an entry is gone");
        assert_eq!(find_damage(&bytes(&all[..2]), &copy), None, "the copy is of before the last entries");
    }
}
