//! Files and messages of the released archive, read and written again.

use std::path::{Path, PathBuf};

use harrier_archive::catalog::{Catalog, RecordingState};
use harrier_archive::codec::{Request, Response};
use harrier_archive::{Checksum, RecordingDescriptor, RecoveryError, find_stop_position};
use harrier_ringbuf::heap::HeapStorage;

fn testdata(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(path)
}

fn catalog_bytes(stage: &str) -> Vec<u8> {
    std::fs::read(testdata(stage).join("archive.catalog")).unwrap()
}

fn hex(line: &str) -> Vec<u8> {
    line.split_whitespace().filter_map(|byte| u8::from_str_radix(byte, 16).ok()).collect()
}

/// Messages of a trace as (kind, bytes).
fn trace(path: &str) -> Vec<(String, Vec<u8>)> {
    let text = std::fs::read_to_string(testdata(path)).unwrap();
    let mut messages: Vec<(String, Vec<u8>)> = Vec::new();
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            messages.push((title.split(' ').next().unwrap().to_owned(), Vec::new()));
        } else if line.starts_with("REQ session=") {
            messages.push(("REQUEST".into(), Vec::new()));
        } else if let Some(first) = line.strip_prefix("REQ ") {
            messages.push(("REQUEST".into(), hex(first)));
        } else if let Some(first) = line.strip_prefix("RSP ") {
            messages.push(("RESPONSE".into(), hex(first)));
        } else if line.split(' ').all(|word| word.len() == 2 || word.is_empty()) && !line.is_empty() {
            messages.last_mut().unwrap().1.extend(hex(line));
        } else {
            messages.push(("BREAK".into(), Vec::new()));
        }
    }
    messages
}

#[test]
fn every_control_message_reads_and_writes_back() {
    let traces = [
        ("plain/control-trace.txt", 20, 30),
        ("traces/auth-challenge-version.txt", 6, 4),
        ("traces/migrate-responsechannel-merge-persistent.txt", 12, 0),
    ];
    for (path, least_requests, least_responses) in traces {
        let (requests, responses) = read_and_write(path);
        assert!(requests >= least_requests && responses >= least_responses, "{path}: {requests} {responses}");
    }
}

fn read_and_write(path: &str) -> (usize, usize) {
    let (mut requests, mut responses) = (0, 0);
    for (kind, bytes) in trace(path) {
        let mut buffer = vec![0; 4_096];
        match kind.as_str() {
            "REQUEST" => {
                let request = Request::decode(&bytes).unwrap().expect("a known request");
                let template_id = u16::from_le_bytes([bytes[2], bytes[3]]);
                // Requests in forms that current clients no longer send are only decoded.
                if request.template_id() == template_id {
                    let length = request.encode(&mut buffer).unwrap();
                    assert_eq!(buffer[..length], bytes, "{request:?}");
                }
                requests += 1;
            }
            "RESPONSE" => {
                let response = Response::decode(&bytes).unwrap().expect("a known response");
                let length = response.encode(&mut buffer).unwrap();
                assert_eq!(buffer[..length], bytes, "{response:?}");
                responses += 1;
            }
            _ => {}
        }
    }
    (requests, responses)
}

#[test]
fn cut_messages_are_errors() {
    for (kind, bytes) in trace("plain/control-trace.txt") {
        for length in 0..bytes.len() {
            match kind.as_str() {
                "REQUEST" => drop(Request::decode(&bytes[..length])),
                "RESPONSE" => drop(Response::decode(&bytes[..length])),
                _ => {}
            }
        }
    }
}

#[test]
fn catalogs_read_as_the_readme_says() {
    let catalog = Catalog::read(&catalog_bytes("plain/stopped"), None).unwrap();
    let recording = catalog.get(0).unwrap();
    assert_eq!((recording.start_position, recording.stop_position), (0, 3_360));
    assert_eq!((recording.session_id, recording.stream_id), (0x1122_3344, 1_001));
    assert_eq!((recording.segment_file_length, recording.term_buffer_length), (131_072, 65_536));
    assert_eq!(recording.source_identity, "aeron:ipc");
    let extended = Catalog::read(&catalog_bytes("plain/extended"), None).unwrap();
    assert_eq!(extended.get(0).unwrap().stop_position, 194_432);
    let last = Catalog::read(&catalog_bytes("plain/final"), None).unwrap();
    assert!(last.get(0).is_none());
    assert_eq!(last.entries()[0].state, RecordingState::Deleted);
    assert_eq!(last.next_recording_id(), 3);
}

#[test]
fn an_entry_is_written_as_the_peer_writes_it() {
    for (stage, checksum) in [("plain/stopped", None), ("crc32c/stopped", Some(Checksum::Crc32c))] {
        let bytes = catalog_bytes(stage);
        let read = Catalog::read(&bytes, checksum).unwrap();
        assert!(read.entries().iter().all(|entry| read.is_checksum_right(entry)));
        let (mut written, header) = Catalog::create(bytes.len(), checksum);
        let mut file = vec![0; bytes.len()];
        let mut apply = |offset: u64, bytes: &[u8]| {
            file[offset as usize..offset as usize + bytes.len()].copy_from_slice(bytes);
        };
        apply(header.offset, &header.bytes);
        for entry in read.entries() {
            let (id, writes) = written.add(entry.descriptor.clone()).unwrap();
            assert_eq!(id, entry.descriptor.recording_id);
            for write in writes {
                apply(write.offset, &write.bytes);
            }
        }
        assert_eq!(file, bytes, "{stage}");
    }
}

#[test]
fn damaged_catalogs_are_errors_not_panics() {
    let bytes = catalog_bytes("plain/extended");
    for length in 0..bytes.len().min(600) {
        let is_read = Catalog::read(&bytes[..length], None).is_ok();
        // A header alone is an empty catalog; the first entry ends at 288.
        assert_eq!(is_read, length == 32 || length >= 288, "{length}");
    }
    for offset in 0..400 {
        for value in [0, 1, 0x7F, 0x80, 0xFF] {
            let mut damaged = bytes.clone();
            damaged[offset] = value;
            drop(Catalog::read(&damaged, None));
            drop(Catalog::salvage(&damaged, None));
        }
    }
}

fn recover(stage: &str, checksum: Option<Checksum>) -> Result<i64, RecoveryError> {
    let directory = testdata(stage);
    let recording: RecordingDescriptor =
        Catalog::read(&catalog_bytes(stage), checksum).unwrap().get(0).unwrap().clone();
    assert_eq!(recording.stop_position, -1);
    let mut storage = HeapStorage::new();
    let root = Path::new("/archive");
    for entry in std::fs::read_dir(&directory).unwrap() {
        let entry = entry.unwrap();
        storage.put(&root.join(entry.file_name()), std::fs::read(entry.path()).unwrap());
    }
    find_stop_position(&mut storage, root, &recording, checksum)
}

#[test]
fn unfinished_recordings_end_where_their_frames_do() {
    assert_eq!(recover("plain/active-unclean", None).unwrap(), 3_360);
    assert_eq!(recover("crc32c/active-unclean", Some(Checksum::Crc32c)).unwrap(), 3_360);
    assert_eq!(recover("recovery/complete-8k", None).unwrap(), 8_256);
    for torn in ["recovery/torn", "recovery/zero-tail"] {
        assert!(matches!(recover(torn, None), Err(RecoveryError::Torn { recording_id: 0, .. })), "{torn}");
    }
    assert!(recover("recovery/padding-tail", None).unwrap() > 3_360);
}
