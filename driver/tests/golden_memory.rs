//! Every file captured from the released drivers and clients (spec 01 §9) is decoded and encoded again to the same
//! bytes.

use std::io::Read;
use std::path::Path;
use std::sync::atomic::Ordering;

use flate2::read::GzDecoder;
use harrier_protocol::cnc::{CNC_HEADER_LENGTH, CncHeader};
use harrier_protocol::command::Command;
use harrier_protocol::event::Event;
use harrier_ringbuf::broadcast;
use harrier_ringbuf::counters::{CountersManager, CountersReader, METADATA_LENGTH, VALUE_LENGTH};
use harrier_ringbuf::error_log::{self, DistinctErrorLog};
use harrier_ringbuf::frame::FrameHeader;
use harrier_ringbuf::logbuffer::{self, LogBuffers, LogType};
use harrier_ringbuf::loss_report::{self, LossReport};
use harrier_ringbuf::many_to_one::{self, ManyToOneRing};
use harrier_ringbuf::position::HEADER_LENGTH;
use harrier_ringbuf::{AtomicBuffer, Region};

/// Decodes and encodes the content of the named file.
type Check = fn(&str, &[u8]);

/// Parts of file names, with the check for such files. The first match counts.
const KINDS: [(&str, Check); 17] = [
    ("cnc_header", cnc_header),
    ("cnc.dat", cnc_file),
    ("logbuffer", log_file),
    ("_wrap_128", ring_or_broadcast),
    ("events_trailer", broadcast_trailer),
    ("clients_", clients),
    ("events_all", events),
    ("commands_all", commands),
    ("ring_", ring),
    ("counter_reclaimed", reclaimed_counter),
    ("counters_", counters),
    ("error_log", errors),
    ("loss_report", losses),
    ("padding_header", frames),
    ("_metadata", log_metadata),
    ("_head", frames),
    ("unblocked", frames),
];

#[test]
fn every_golden_file_is_decoded_and_encoded() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/memory");
    let mut count = 0;
    for folder in ["java", "c", "verify"] {
        let mut names: Vec<_> =
            std::fs::read_dir(root.join(folder)).unwrap().map(|entry| entry.unwrap().path()).collect();
        names.sort();
        for path in names.iter().filter(|path| path.extension().is_some_and(|e| e == "bin" || e == "gz")) {
            let name = format!("{folder}/{}", path.file_name().unwrap().to_string_lossy());
            let kind = KINDS.iter().find(|(part, _)| name.contains(part));
            let (_, check) = kind.unwrap_or_else(|| panic!("{name} is of no known kind"));
            check(&name, &content(path));
            count += 1;
        }
    }
    assert!(count > 75, "{count} files");
}

fn content(path: &Path) -> Vec<u8> {
    let bytes = std::fs::read(path).unwrap();
    if path.extension().is_none_or(|extension| extension != "gz") {
        return bytes;
    }
    let mut unpacked = Vec::new();
    GzDecoder::new(bytes.as_slice()).read_to_end(&mut unpacked).unwrap();
    unpacked
}

fn companion(name: &str, part: &str, other: &str) -> Vec<u8> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/memory");
    content(&root.join(name.replace(part, other)))
}

fn heap(bytes: &[u8]) -> AtomicBuffer {
    let buffer = AtomicBuffer::heap(bytes.len());
    buffer.copy_in(0, bytes);
    buffer
}

fn bytes_of<R: Region>(region: &R) -> Vec<u8> {
    let mut bytes = vec![0; region.capacity()];
    region.copy_out(0, &mut bytes);
    bytes
}

#[track_caller]
fn assert_same(name: &str, ours: &[u8], golden: &[u8]) {
    assert_eq!(ours.len(), golden.len(), "{name}");
    let different = ours.iter().zip(golden).position(|(a, b)| a != b);
    assert_eq!(different, None, "{name}: first byte that differs");
}

fn cnc_header(name: &str, golden: &[u8]) {
    let header = CncHeader::decode(golden).unwrap_or_else(|error| panic!("{name}: {error}"));
    assert_same(name, &header.encode()[..golden.len().min(CNC_HEADER_LENGTH)], golden);
}

fn cnc_file(name: &str, golden: &[u8]) {
    let header = CncHeader::decode(golden).unwrap();
    let layout = header.layout().unwrap();
    layout.check_file_length(golden.len()).unwrap();
    assert_same(name, &header.encode(), &golden[..CNC_HEADER_LENGTH]);
    let ring = ManyToOneRing::new(heap(&golden[layout.to_driver.clone()])).unwrap();
    assert!(ring.consumer_heartbeat_ms() > 0 && ring.consumer_position() <= ring.producer_position());
    broadcast::Receiver::new(heap(&golden[layout.to_clients.clone()])).unwrap();
    recreate_counters(
        name,
        &golden[layout.counters_metadata.clone()],
        &golden[layout.counters_values.clone()],
    );
    errors(name, &golden[layout.error_log.clone()]);
}

fn log_file(name: &str, golden: &[u8]) {
    let log = LogBuffers::map(heap(golden)).unwrap_or_else(|error| panic!("{name}: {error}"));
    log_metadata(name, &bytes_of(log.metadata()));
    for index in 0..3 {
        frames(name, &bytes_of(log.term(index)));
    }
}

/// Returns the records of a ring or broadcast buffer, up to the first unfinished one.
fn records(bytes: &[u8]) -> impl Iterator<Item = (usize, i32, &[u8])> {
    let word = |offset: usize| i32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap());
    let mut offset = 0;
    std::iter::from_fn(move || {
        if offset + 8 > bytes.len() || word(offset) <= 0 {
            return None;
        }
        let (at, length) = (offset, word(offset) as usize);
        offset += length.next_multiple_of(8);
        Some((at, word(at + 4), &bytes[at + 8..at + length]))
    })
}

fn commands(name: &str, golden: &[u8]) {
    let mut count = 0;
    for (_, type_id, body) in records(golden) {
        let command = Command::decode(type_id, body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut buffer = [0; 2_048];
        let length = command.encode(&mut buffer).unwrap();
        // Java clients claim four bytes more for counters; a driver accepts both (spec 01 §4.3).
        assert!(body.len() - length <= 4, "{name}: {command:?}");
        assert_same(name, &buffer[..length], &body[..length]);
        assert_eq!(command.type_id(), type_id);
        count += 1;
    }
    assert!(count > 0, "{name} holds no command");
}

fn ring(name: &str, golden: &[u8]) {
    if name.contains("records") {
        return commands(name, golden);
    }
    assert_eq!(golden.len(), many_to_one::TRAILER_LENGTH, "{name}");
    let mut whole = vec![0; 1_024];
    whole.extend_from_slice(golden);
    let ring = ManyToOneRing::new(heap(&whole)).unwrap();
    let (tail, head) = (ring.producer_position(), ring.consumer_position());
    assert!(head <= tail && head % 8 == 0 && tail % 8 == 0, "{name}");
    let again = AtomicBuffer::heap(whole.len());
    let word = |offset: usize| i64::from_le_bytes(golden[offset..offset + 8].try_into().unwrap());
    for (offset, value) in [(128, tail), (256, word(256)), (384, head), (512, ring.next_correlation_id())] {
        again.store_i64(1_024 + offset, value, Ordering::Relaxed);
    }
    ManyToOneRing::new(again.clone()).unwrap().set_consumer_heartbeat_ms(ring.consumer_heartbeat_ms());
    assert_same(name, &bytes_of(&again), &whole);
}

fn events(name: &str, golden: &[u8]) {
    let mut count = 0;
    for (_, type_id, body) in records(golden) {
        if type_id == broadcast::PADDING_TYPE_ID {
            continue;
        }
        let event = Event::decode(type_id, body).unwrap_or_else(|error| panic!("{name}: {error}"));
        let mut buffer = [0; 4_096];
        let length = event.encode(&mut buffer).unwrap();
        // The C driver fills the record up to a multiple of 4 behind the last string (spec 01 §4.5).
        assert!(body.len() >= length && body.len() - length < 4, "{name}: {event:?}");
        // Between two strings up to three bytes are filler, which the drivers leave as it was (spec 01 §8, 1).
        let differing = (0..length).filter(|at| buffer[*at] != body[*at]);
        let filler: Vec<_> =
            differing.inspect(|at| assert_eq!(buffer[*at], 0, "{name}: {event:?}")).collect();
        assert!(filler.len() < 4, "{name}: {event:?}");
        count += 1;
    }
    assert!(count > 0 || name.contains("idle"), "{name} holds no event");
}

fn clients(name: &str, golden: &[u8]) {
    if name.contains("records") { events(name, golden) } else { broadcast_trailer(name, golden) }
}

fn broadcast_trailer(name: &str, golden: &[u8]) {
    assert_eq!(golden.len(), broadcast::TRAILER_LENGTH, "{name}");
    let word = |offset: usize| i64::from_le_bytes(golden[offset..offset + 8].try_into().unwrap());
    let (intent, tail, latest) = (word(0), word(8), word(16));
    assert!(intent == tail && latest <= tail, "{name}: at rest");
    let again = AtomicBuffer::heap(golden.len());
    for (offset, value) in [(0, intent), (8, tail), (16, latest)] {
        again.store_i64(offset, value, Ordering::Relaxed);
    }
    assert_same(name, &bytes_of(&again), golden);
}

/// Small buffers after more than one round. The tests of `harrier-ringbuf` make the same bytes with the same calls.
fn ring_or_broadcast(name: &str, golden: &[u8]) {
    if name.contains("mpsc") {
        let ring = ManyToOneRing::new(heap(golden)).unwrap();
        assert_eq!(ring.capacity(), 128, "{name}");
        assert!(ring.size() > 0, "{name}");
    } else {
        let mut receiver = broadcast::Receiver::new(heap(golden)).unwrap();
        assert_eq!(receiver.receive(&mut |type_id, _| assert!(type_id > 0)), Ok(1), "{name}");
    }
}

fn reclaimed_counter(name: &str, golden: &[u8]) {
    let (metadata, values) = if name.contains("record") {
        (golden.to_vec(), companion(name, "record", "value"))
    } else {
        (companion(name, "value", "record"), golden.to_vec())
    };
    let reader = CountersReader::new(heap(&metadata), heap(&values)).unwrap();
    assert!(!reader.is_allocated(0) && reader.free_for_reuse_deadline_ms(0) > 0);
    assert_eq!((reader.label(0).as_str(), reader.value(0)), ("my counter", 77));
}

fn counters(name: &str, golden: &[u8]) {
    let (metadata, values) = if name.contains("metadata") {
        (golden.to_vec(), companion(name, "metadata", "values"))
    } else {
        (companion(name, "values", "metadata"), golden.to_vec())
    };
    recreate_counters(name, &metadata, &values);
}

/// Allocates every counter again in a fresh manager; the used bytes must be the same.
fn recreate_counters(name: &str, metadata: &[u8], values: &[u8]) {
    let capacity = values.len() / VALUE_LENGTH;
    let metadata = &metadata[..(capacity * METADATA_LENGTH).min(metadata.len())];
    let reader = CountersReader::new(heap(metadata), heap(values)).unwrap();
    // One record more than there are counters: a manager keeps its last one free.
    let fresh_metadata = AtomicBuffer::heap(metadata.len() + METADATA_LENGTH);
    let fresh_values = AtomicBuffer::heap(values.len() + VALUE_LENGTH);
    let mut manager = CountersManager::new(fresh_metadata.clone(), fresh_values.clone(), 1_000).unwrap();
    let mut count = 0;
    while count < capacity as i32 && reader.state(count) != 0 {
        let (label, key) = (reader.label(count), reader.key(count));
        let id = manager.allocate(reader.type_id(count), &key, &label, 0).unwrap();
        manager.set_registration_id(id, reader.registration_id(count));
        manager.set_owner_id(id, reader.owner_id(count));
        manager.set_reference_id(id, reader.reference_id(count));
        manager.counter(id).unwrap().set_ordered(reader.value(count));
        count += 1;
    }
    assert!(count > 30, "{name}: {count} counters");
    let (fresh_metadata, fresh_values) = (bytes_of(&fresh_metadata), bytes_of(&fresh_values));
    for id in 0..count as usize {
        if !reader.is_allocated(id as i32) {
            continue;
        }
        let record = |bytes: &[u8], length: usize| bytes[id * length..(id + 1) * length].to_vec();
        let whose = format!("{name}, counter {id} '{}'", reader.label(id as i32));
        let label_end = 132 + reader.label(id as i32).len();
        let (ours, theirs) = (record(&fresh_metadata, METADATA_LENGTH), record(metadata, METADATA_LENGTH));
        // The rest of an earlier, longer label may follow a label.
        assert_same(&whose, &ours[..label_end], &theirs[..label_end]);
        let (ours, theirs) = (record(&fresh_values, VALUE_LENGTH), record(values, VALUE_LENGTH));
        assert_same(&whose, &ours, &theirs);
    }
}

fn errors(name: &str, golden: &[u8]) {
    let mut found = Vec::new();
    error_log::read(&heap(golden), 0, &mut |count, first, last, text: &str| {
        found.push((count, first, last, text.to_owned()));
    });
    assert!(!found.is_empty() || name.contains("cnc"), "{name} holds no error");
    let again = AtomicBuffer::heap(golden.len());
    let mut log = DistinctErrorLog::new(again.clone());
    for (count, first, last, text) in &found {
        for time in std::iter::once(first).chain(std::iter::repeat_n(last, *count as usize - 1)) {
            assert!(log.record(*time, text));
        }
    }
    // The heads of longer logs are cut inside a record.
    let used: usize = found.iter().map(|(_, _, _, text)| (24 + text.len()).next_multiple_of(8)).sum();
    let end = if name.contains("head") { used } else { golden.len() };
    assert_same(name, &bytes_of(&again)[..end], &golden[..end]);
}

fn losses(name: &str, golden: &[u8]) {
    let again = AtomicBuffer::heap(golden.len());
    let mut report = LossReport::new(again.clone());
    for loss in loss_report::read(&heap(golden)) {
        let later = loss.observation_count - 1;
        let first = loss.total_bytes_lost - later * 32;
        let entry = report.create_entry(
            first,
            loss.first_observation_ms,
            loss.session_id,
            loss.stream_id,
            &loss.channel,
            &loss.source,
        );
        (0..later).for_each(|_| report.record(entry.unwrap(), 32, loss.last_observation_ms));
    }
    assert_same(name, &bytes_of(&again), golden);
}

/// Reads the settings and creates a fresh log from them. Fields that change during a log's life are copied one by one.
fn log_metadata(name: &str, golden: &[u8]) {
    let int = |offset: usize| i32::from_le_bytes(golden[offset..offset + 4].try_into().unwrap());
    let length = logbuffer::file_length(int(276) as usize, int(280) as usize);
    let buffer = AtomicBuffer::heap(length);
    buffer.copy_in(length - golden.len(), golden);
    let log = LogBuffers::map(buffer).unwrap_or_else(|error| panic!("{name}: {error}"));
    let settings = log.settings();
    let again = LogBuffers::initialise(AtomicBuffer::heap(length), &settings)
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    again.set_end_of_stream_position(log.end_of_stream_position());
    again.set_connected(log.is_connected());
    again.set_active_transport_count(log.active_transport_count());
    if log.is_publication_revoked() {
        again.set_publication_revoked();
    }
    for index in 0..3 {
        again.metadata().store_i64(index * 8, log.raw_tail_acquire(index), Ordering::Relaxed);
    }
    again.metadata().store_i32(24, log.active_term_count(), Ordering::Relaxed);
    if settings.log_type != LogType::Image {
        assert!(log.producer_position() >= 0, "{name}");
    }
    assert_same(name, &bytes_of(again.metadata()), golden);
}

/// Encodes the header of each frame again from its fields.
fn frames(name: &str, golden: &[u8]) {
    let region = heap(golden);
    let mut offset = 0;
    while offset + HEADER_LENGTH <= golden.len() {
        let header = FrameHeader::read(&region, offset);
        let length = header.frame_length();
        if length == 0 {
            offset += 32;
            continue;
        }
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&[0, header.flags()]);
        bytes.extend_from_slice(&header.frame_type().to_le_bytes());
        for word in [header.term_offset(), header.session_id(), header.stream_id(), header.term_id()] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.extend_from_slice(&header.reserved_value().to_le_bytes());
        assert_same(name, &bytes, &golden[offset..offset + HEADER_LENGTH]);
        assert!(header.frame_type() <= 1, "{name}: frame type {}", header.frame_type());
        offset += (length.unsigned_abs() as usize).next_multiple_of(32);
    }
}
