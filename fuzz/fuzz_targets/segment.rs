//! The last segment of a recording whose archive died (spec 03 §4.5).
#![no_main]

use std::path::Path;

use harrier_archive::{Checksum, RecordingDescriptor, find_stop_position};
use harrier_ringbuf::heap::HeapStorage;
use libfuzzer_sys::fuzz_target;

const TERM_LENGTH: i32 = 64 << 10;

fuzz_target!(|bytes: &[u8]| {
    let Some((start, content)) = bytes.split_first() else { return };
    let descriptor = RecordingDescriptor {
        start_position: i64::from(*start) * 32,
        stop_position: -1,
        stop_timestamp: -1,
        segment_file_length: TERM_LENGTH,
        term_buffer_length: TERM_LENGTH,
        mtu_length: 1_408,
        control_session_id: 0,
        correlation_id: 0,
        recording_id: 0,
        start_timestamp: 0,
        initial_term_id: 0,
        session_id: 1,
        stream_id: 1,
        stripped_channel: String::new(),
        original_channel: String::new(),
        source_identity: String::new(),
    };
    let mut storage = HeapStorage::new();
    storage.put(Path::new("/archive/0-0.rec"), content.to_vec());
    for checksum in [None, Some(Checksum::Crc32c)] {
        if let Ok(stop) = find_stop_position(&mut storage, Path::new("/archive"), &descriptor, checksum) {
            assert!(
                stop >= descriptor.start_position
                    && stop <= i64::from(TERM_LENGTH).max(descriptor.start_position)
            );
        }
    }
});
