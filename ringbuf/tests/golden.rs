//! Files of a released driver and client are decoded and encoded again (spec 01 §9).

use harrier_ringbuf::append::{ConcurrentAppender, ExclusiveAppender, OfferError};
use harrier_ringbuf::broadcast::{self, Receiver, Transmitter};
use harrier_ringbuf::clean::clean_publication;
use harrier_ringbuf::counters::{
    AtomicCounter, CountersManager, CountersReader, METADATA_LENGTH, VALUE_LENGTH,
};
use harrier_ringbuf::image_reader::ImageReader;
use harrier_ringbuf::logbuffer::{LogBuffers, LogSettings, LogType, file_length};
use harrier_ringbuf::many_to_one::{self, ManyToOneRing};
use harrier_ringbuf::unblock::{Unblocked, unblock};
use harrier_ringbuf::{AtomicBuffer, Region, error_log, loss_report};

macro_rules! golden {
    ($name:literal) => {
        include_bytes!(concat!("../testdata/", $name)).as_slice()
    };
}

const TERM: usize = 64 * 1024;

/// Settings of the publication behind `ipc_pub_*` (spec 01 §9.6).
fn settings() -> LogSettings {
    LogSettings {
        correlation_id: 2,
        initial_term_id: 7,
        session_id: 1001,
        stream_id: 42,
        publication_window_length: 32_768,
        os_default_socket_sndbuf_length: 106_496,
        os_max_socket_sndbuf_length: 4_194_304,
        os_default_socket_rcvbuf_length: 106_496,
        os_max_socket_rcvbuf_length: 4_194_304,
        rejoin: false,
        reliable: false,
        tether: false,
        start_term_id: 7,
        ..LogSettings::default()
    }
}

fn fresh(settings: &LogSettings) -> LogBuffers {
    let buffer = AtomicBuffer::heap(file_length(settings.term_length, settings.page_size));
    LogBuffers::initialise(buffer, settings).unwrap()
}

fn bytes<R: Region>(region: &R, offset: usize, length: usize) -> Vec<u8> {
    let mut out = vec![0; length];
    region.copy_out(offset, &mut out);
    out
}

fn heap_of(content: &[u8]) -> AtomicBuffer {
    let buffer = AtomicBuffer::heap(content.len());
    buffer.copy_in(0, content);
    buffer
}

fn counter() -> AtomicCounter {
    let (metadata, values) = (AtomicBuffer::heap(METADATA_LENGTH * 8), AtomicBuffer::heap(VALUE_LENGTH * 8));
    let mut manager = CountersManager::new(metadata, values, 1_000).unwrap();
    let id = manager.allocate(4, b"", "position", 0).unwrap();
    manager.counter(id).unwrap()
}

#[test]
fn fresh_metadata_is_that_of_the_driver() {
    let log = fresh(&settings());
    assert_eq!(bytes(log.metadata(), 0, 4096), golden!("ipc_pub_fresh_metadata.bin"));
}

#[test]
fn term_ids_wrap_in_a_fresh_exclusive_log() {
    let golden = golden!("ipc_xpub_fresh_metadata.bin");
    let buffer = AtomicBuffer::heap(file_length(TERM, 4096));
    buffer.copy_in(3 * TERM, golden);
    let mapped = LogBuffers::map(buffer).unwrap();
    let mut wanted = mapped.settings();
    assert_eq!((wanted.initial_term_id, wanted.log_type), (i32::MIN, LogType::Exclusive));
    wanted.start_term_id = i32::MIN + 1;
    wanted.start_term_offset = 96;
    let log = fresh(&wanted);
    assert_eq!(bytes(log.metadata(), 0, 4096), golden);
    assert_eq!(log.producer_position(), 65_536 + 96);
}

#[test]
fn appends_make_the_frames_of_the_client() {
    let log = fresh(&settings());
    let appender = ConcurrentAppender::new(log.clone());
    let limit = 32_768;
    appender.append(&[b"hello ", b"aeron"], None, limit).unwrap();
    let golden = golden!("ipc_pub_data_term0_head.bin");
    let mut long: Vec<u8> = Vec::new();
    for (from, length) in [(64, 1376), (1472, 1376), (2880, 248)] {
        long.extend_from_slice(&golden[from + 32..from + 32 + length]);
    }
    appender.append(&[&long[..5], &long[5..]], Some(0x1122_3344_5566_7788), limit).unwrap();
    let mut claim = appender.claim(20, limit).unwrap();
    claim.put(0, &[0x5a; 20]);
    claim.set_reserved_value(0x0102_0304_0506_0708);
    let open = bytes(log.term(0), 3168, 32);
    assert_eq!(open, golden!("ipc_pub_claim_open_term0_head.bin")[3168..3200]);
    claim.commit();
    appender.claim(10, limit).unwrap().abort();
    assert_eq!(appender.append(&[b""], None, limit), Ok(3328));
    assert_eq!(bytes(log.term(0), 0, 3328), golden[..3328]);
}

#[test]
fn rotation_leaves_the_tails_of_the_client() {
    let log = fresh(&settings());
    let appender = ConcurrentAppender::new(log.clone());
    while log.producer_position() < 64_576 {
        appender.append(&[&[0; 32]], None, i64::MAX).unwrap();
    }
    // The frame does not fit into the 960 bytes that are left.
    assert_eq!(appender.append(&[&[0; 1024]], None, i64::MAX), Err(OfferError::AdminAction));
    assert_eq!(bytes(log.term(0), 64_576, 32), golden!("term_end_padding_header.bin"));
    let rotated = golden!("ipc_pub_rotated_metadata.bin");
    assert_eq!(bytes(log.metadata(), 8, 20), rotated[8..28]);
    assert_eq!(appender.append(&[&[0; 32]], None, i64::MAX), Ok(65_536 + 64));
}

#[test]
fn padding_of_an_exclusive_publication() {
    let buffer = AtomicBuffer::heap(file_length(TERM, 4096));
    buffer.copy_in(3 * TERM, golden!("ipc_xpub_fresh_metadata.bin"));
    let log = LogBuffers::map(buffer).unwrap();
    let mut appender = ExclusiveAppender::new(log.clone());
    appender.append(&[b"hello aeron"], None, i64::MAX).unwrap();
    appender.append_padding(100, i64::MAX).unwrap();
    let golden = golden!("ipc_xpub_data_term1_head.bin");
    assert_eq!(bytes(log.term(1), 96, 96), golden[96..192]);
}

#[test]
fn what_was_appended_is_polled() {
    let log = fresh(&settings());
    let appender = ConcurrentAppender::new(log.clone());
    let mut reader = ImageReader::new(log.clone(), counter());
    let mut clean = 0;
    let mut assembler = harrier_ringbuf::assembly::ImageFragmentAssembler::new();
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for round in 0..200_usize {
        let message = vec![round as u8; (round * 37) % 4_000];
        let limit = reader.position() + 32_768;
        while let Err(error) = appender.append(&[&message], None, limit) {
            assert!(error.is_retryable(), "{error}");
        }
        expected.push(message);
        reader.poll(10, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| seen.push(message.to_vec()));
        });
        clean = clean_publication(&log, clean, reader.position());
    }
    while reader.poll(10, &mut |payload, header| {
        assembler.on_fragment(payload, header, &mut |message, _| seen.push(message.to_vec()));
    }) > 0
    {}
    assert_eq!(seen, expected);
}

#[test]
fn dead_publishers_are_unblocked() {
    let wanted =
        LogSettings { initial_term_id: 5, start_term_id: 5, session_id: 9, stream_id: 1, ..settings() };
    for (name, golden) in
        [("claim", golden!("v_unblocked_claim_head.bin")), ("tail", golden!("v_unblocked_lost_tail.bin"))]
    {
        let log = fresh(&wanted);
        let appender = ConcurrentAppender::new(log.clone());
        let mut at = 0;
        if name == "claim" {
            std::mem::forget(appender.claim(100, i64::MAX).unwrap());
        } else {
            appender.append(&[&[1; 192]], None, i64::MAX).unwrap();
            at = 224;
            log.metadata().fetch_add_i64(0, 128);
        }
        appender.append(&[b"after"], None, i64::MAX).unwrap();
        assert_eq!(unblock(&log, at as i64), Unblocked::Unblocked);
        let header = bytes(log.term(0), at, 32);
        assert_eq!(header[..4], golden[..4], "{name}");
        assert_eq!(header[5..8], golden[5..8], "{name}");
        assert_eq!(unblock(&log, at as i64), Unblocked::NoAction);
    }
}

#[test]
fn ring_wraps_like_the_client() {
    let region = AtomicBuffer::heap(128 + many_to_one::TRAILER_LENGTH);
    let ring = ManyToOneRing::new(region.clone()).unwrap();
    let message = |number: u8| [number; 13];
    for number in 1..=4 {
        ring.write(i32::from(number), &message(number)).unwrap();
    }
    assert_eq!(ring.read(3, &mut |_, _| ()), 3);
    for number in 5..=7 {
        ring.write(i32::from(number), &message(number)).unwrap();
    }
    ring.try_claim(9, 4).unwrap();
    let golden = golden!("mpsc_wrap_128.bin");
    assert_eq!(bytes(&region, 0, 128), golden[..128]);
    assert_eq!(bytes(&region, 128 + 128, 8), golden[256..264], "tail");
    assert_eq!(bytes(&region, 128 + 256, 8), golden[384..392], "head cache");
    assert_eq!(bytes(&region, 128 + 384, 8), golden[512..520], "head");
}

#[test]
fn broadcast_wraps_like_the_driver() {
    let region = AtomicBuffer::heap(128 + broadcast::TRAILER_LENGTH);
    let mut receiver = Receiver::new(region.clone()).unwrap();
    let mut transmitter = Transmitter::new(region.clone()).unwrap();
    for number in 1..=9_u8 {
        transmitter.transmit(i32::from(number), &[number; 13]).unwrap();
    }
    assert_eq!(bytes(&region, 0, 256), golden!("broadcast_wrap_128.bin"));
    assert!(receiver.receive(&mut |_, _| ()).is_err());
    let mut seen = Vec::new();
    receiver.receive(&mut |type_id, _| seen.push(type_id)).unwrap();
    assert_eq!(seen, [9]);
}

#[test]
fn counters_of_a_driver_are_read() {
    let metadata = heap_of(golden!("counters_full_metadata.bin"));
    let values = heap_of(golden!("counters_full_values.bin"));
    let reader = CountersReader::new(metadata, values).unwrap();
    assert_eq!(reader.label(49), "sub-pos: 3 1001 42 aeron:ipc @0");
    assert_eq!((reader.type_id(49), reader.value(49)), (4, 64_576));
    assert_eq!((reader.registration_id(49), reader.owner_id(49), reader.reference_id(49)), (3, 1, 2));
    assert_eq!(reader.find_by_registration(4, 3), Some(49));
}

#[test]
fn freed_counters_look_like_those_of_the_driver() {
    let (metadata, values) = (AtomicBuffer::heap(METADATA_LENGTH), AtomicBuffer::heap(VALUE_LENGTH));
    let mut manager = CountersManager::new(metadata.clone(), values.clone(), 1_000).unwrap();
    let golden = golden!("counter_reclaimed_record.bin");
    let deadline = i64::from_le_bytes(golden[8..16].try_into().unwrap());
    let id = manager.allocate(1001, b"key", "my counter", 0).unwrap();
    manager.set_registration_id(id, 6);
    manager.set_owner_id(id, 1);
    manager.counter(id).unwrap().set_ordered(77);
    manager.free(id, deadline - 1_000);
    assert_eq!(bytes(&metadata, 0, METADATA_LENGTH), golden);
    assert_eq!(bytes(&values, 0, VALUE_LENGTH), golden!("counter_reclaimed_value.bin"));
    assert!(manager.allocate(1, b"", "too early", deadline - 1).is_err());
    assert_eq!(manager.allocate(1, b"", "in time", deadline), Ok(id));
}

#[test]
fn error_log_and_loss_report_are_read() {
    let mut texts = Vec::new();
    error_log::read(&heap_of(golden!("error_log_head.bin")), 0, &mut |count, _, _, text: &str| {
        texts.push((count, text.to_owned()));
    });
    assert_eq!(texts[0].0, 1);
    assert!(texts[0].1.starts_with("org.agrona.AsciiNumberFormatException"));

    let golden = golden!("loss_report_head.bin");
    let losses = loss_report::read(&heap_of(golden));
    assert_eq!(losses.len(), 2);
    let buffer = AtomicBuffer::heap(golden.len());
    let mut report = loss_report::LossReport::new(buffer.clone());
    for loss in &losses {
        let (times, ms) = (loss.observation_count, loss.first_observation_ms);
        let first = loss.total_bytes_lost - (times - 1) * 32;
        let entry = report
            .create_entry(first, ms, loss.session_id, loss.stream_id, &loss.channel, &loss.source)
            .unwrap();
        (1..times).for_each(|_| report.record(entry, 32, loss.last_observation_ms));
    }
    assert_eq!(bytes(&buffer, 0, golden.len()), golden);
}
