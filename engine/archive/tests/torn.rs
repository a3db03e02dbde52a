//! Partial entries and frames that a machine crash leaves.

use std::path::Path;

use harrier_archive::catalog::Catalog;
use harrier_archive::{Checksum, RecordingDescriptor, cut_torn_tail, segment};
use harrier_ringbuf::heap::HeapStorage;

const TERM_LENGTH: i32 = 64 << 10;
const CRC: Option<Checksum> = Some(Checksum::Crc32c);

fn descriptor() -> RecordingDescriptor {
    RecordingDescriptor {
        control_session_id: 1,
        correlation_id: 2,
        recording_id: 0,
        start_timestamp: 3,
        stop_timestamp: -1,
        start_position: 0,
        stop_position: -1,
        initial_term_id: 7,
        segment_file_length: TERM_LENGTH,
        term_buffer_length: TERM_LENGTH,
        mtu_length: 1_408,
        session_id: 9,
        stream_id: 100,
        stripped_channel: "aeron:udp?endpoint=a:1".into(),
        original_channel: "aeron:udp?endpoint=a:1|alias=log".into(),
        source_identity: "10.0.0.1:40000".into(),
    }
}

/// Builds a catalog of two recordings; also returns the offset of the second.
fn catalog_bytes() -> (Vec<u8>, usize) {
    let (mut catalog, header) = Catalog::create(4_096, CRC);
    let mut bytes = vec![0; 4_096];
    let mut writes = vec![header];
    for _ in 0..2 {
        writes.extend(catalog.add(descriptor()).unwrap().1);
    }
    for write in writes {
        bytes[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
    }
    let second = catalog.entries()[1].offset;
    (bytes, second)
}

#[test]
fn an_entry_that_was_being_added_is_dropped_wherever_it_is_torn() {
    let (whole, second) = catalog_bytes();
    let end = Catalog::read(&whole, CRC).unwrap().entries()[1].length + second;
    let mut dropped = 0;
    for torn in second..end {
        for is_head_lost in [false, true] {
            let mut bytes = whole.clone();
            if is_head_lost {
                bytes[second..torn].fill(0)
            } else {
                bytes[torn..end].fill(0)
            }
            let (catalog, damaged) = Catalog::recover(&bytes, CRC).unwrap();
            let kept = catalog.entries().len();
            assert!(
                kept == 1
                    || catalog.entries()[1].descriptor.stripped_channel == descriptor().stripped_channel
            );
            assert!(damaged.is_none_or(|damaged| damaged.recording_id == 1 && kept == 1));
            dropped += usize::from(kept == 1);
            if kept == 1 && bytes[second..end].iter().any(|byte| *byte != 0) {
                let clear = catalog.clear_rest(&bytes).unwrap();
                assert_eq!(clear.offset as usize, second);
                assert!(clear.bytes.iter().all(|byte| *byte == 0));
            }
        }
    }
    assert!(dropped > 300, "{dropped}");
}

#[test]
fn a_header_that_was_lost_behind_whole_entries_is_made_good() {
    let (whole, second) = catalog_bytes();
    let with_next = |next: i64| {
        let mut bytes = whole.clone();
        bytes[8..16].copy_from_slice(&next.to_le_bytes());
        bytes
    };
    for next in 1..=2 {
        let (mut catalog, damaged) = Catalog::recover(&with_next(next), CRC).unwrap();
        assert_eq!((catalog.entries().len(), damaged), (2, None));
        assert_eq!(catalog.add(descriptor()).unwrap().0, 2, "ids are not given twice");
    }
    // Without checksums this models a process crash between the writes of an entry and of the header.
    let (mut catalog, damaged) = Catalog::recover(&with_next(1), None).unwrap();
    assert_eq!((catalog.entries().len(), damaged), (2, None));
    assert_eq!(catalog.add(descriptor()).unwrap().0, 2, "ids are not given twice");
    // More than one was never on its way.
    assert!(Catalog::recover(&with_next(-1), None).is_err());
    let mut torn = with_next(1);
    torn[second + 50] ^= 1;
    assert!(Catalog::recover(&torn, CRC).is_err());
}

#[test]
fn damage_before_the_newest_entry_is_an_error() {
    let (mut bytes, second) = catalog_bytes();
    bytes[second - 150..second].fill(0);
    assert!(Catalog::recover(&bytes, CRC).is_err() || Catalog::read(&bytes, CRC).is_err());
}

fn frame(offset: usize, payload: &[u8]) -> Vec<u8> {
    let length = 32 + payload.len();
    let mut frame = vec![0; length.next_multiple_of(32)];
    frame[..4].copy_from_slice(&(length as i32).to_le_bytes());
    frame[5] = 0xC0;
    frame[6] = 1;
    frame[8..12].copy_from_slice(&(offset as i32).to_le_bytes());
    frame[16..20].copy_from_slice(&100_i32.to_le_bytes());
    frame[20..24].copy_from_slice(&7_i32.to_le_bytes());
    frame[32..length].copy_from_slice(payload);
    frame
}

/// Builds a segment of ten frames of 1 KiB; also returns their offsets.
fn segment_bytes(checksum: Option<Checksum>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for number in 0..10_u8 {
        let offset = bytes.len();
        bytes.extend(frame(offset, &[number + 1; 992]));
    }
    if let Some(checksum) = checksum {
        checksum.stamp(&mut bytes);
    }
    bytes.resize(TERM_LENGTH as usize, 0);
    bytes
}

fn cut(bytes: Vec<u8>, checksum: Option<Checksum>) -> (i64, Vec<u8>) {
    let mut storage = HeapStorage::new();
    let directory = Path::new("/archive");
    let path = segment::path(directory, 0, 0);
    storage.put(&path, bytes);
    let end = cut_torn_tail(&mut storage, directory, &descriptor(), checksum, None).unwrap();
    (end, storage.content(&path).unwrap())
}

#[test]
fn a_recording_ends_before_the_first_frame_that_is_not_whole() {
    for lost in 0..20 {
        let mut bytes = segment_bytes(CRC);
        bytes[lost * 512..][..512].fill(0);
        let (end, after) = cut(bytes.clone(), CRC);
        assert_eq!(end as usize, lost / 2 * 1_024, "sector {lost}");
        assert_eq!(after[..end as usize], bytes[..end as usize]);
        assert!(after[end as usize..].iter().all(|byte| *byte == 0), "sector {lost}");
        assert_eq!(after.len(), TERM_LENGTH as usize);
    }
}

#[test]
fn whole_recordings_keep_all_frames_also_those_that_end_in_zeros() {
    assert_eq!(cut(segment_bytes(CRC), CRC).0, 10_240);
    let mut bytes = segment_bytes(None);
    bytes[10_240 - 992..10_240].fill(0);
    assert_eq!(cut(bytes, None).0, 10_240);
}

#[test]
fn remains_of_another_position_are_no_frames() {
    let mut bytes = segment_bytes(CRC);
    let stale = bytes[1_024..2_048].to_vec();
    bytes[10_240..11_264].copy_from_slice(&stale);
    assert_eq!(cut(bytes, CRC).0, 10_240);
}
