//! Tests of the shared algorithms between real threads. They are quick here and also run under Miri.
//!
//! `MIRIFLAGS="-Zmiri-disable-weak-memory-emulation" cargo +nightly miri test -p harrier-ringbuf --test integration threads::`
//!
//! Miri checks bounds, lifetimes, alignment and data races. The loom models check reordering.
#![expect(clippy::disallowed_methods, reason = "threads are what is tested")]

use std::thread;

use harrier_ringbuf::append::{ConcurrentAppender, ExclusiveAppender, OfferError};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::broadcast::{self, Receiver, Transmitter};
use harrier_ringbuf::clean::clean_publication;
use harrier_ringbuf::counters::{AtomicCounter, CountersManager, METADATA_LENGTH, VALUE_LENGTH};
use harrier_ringbuf::error_log::{self, DistinctErrorLog};
use harrier_ringbuf::image_reader::ImageReader;
use harrier_ringbuf::logbuffer::{LogBuffers, LogSettings, LogType, file_length};
use harrier_ringbuf::many_to_one::{self, ManyToOneRing, RingError};
use harrier_ringbuf::position::HEADER_LENGTH;
use harrier_ringbuf::{AtomicBuffer, Region, one_to_one, rebuild, scan};

const TERM: usize = 64 << 10;
const MESSAGES: usize = if cfg!(miri) { 40 } else { 20_000 };

fn settings(log_type: LogType, start_term_offset: usize) -> LogSettings {
    LogSettings {
        initial_term_id: i32::MAX,
        start_term_id: i32::MAX,
        start_term_offset: start_term_offset as i32,
        mtu_length: 128,
        log_type,
        ..LogSettings::default()
    }
}

/// Creates a log that begins near the end of its first term, so that it rotates and its term ids wrap soon.
fn log(log_type: LogType) -> LogBuffers {
    let buffer = AtomicBuffer::heap(file_length(TERM, 4_096));
    let log = LogBuffers::initialise(buffer, &settings(log_type, TERM - 1_024)).unwrap();
    log.set_connected(true);
    log
}

fn counter(position: i64) -> AtomicCounter {
    let (metadata, values) = (AtomicBuffer::heap(METADATA_LENGTH * 8), AtomicBuffer::heap(VALUE_LENGTH * 8));
    let mut manager = CountersManager::new(metadata, values, 1_000).unwrap();
    let id = manager.allocate(4, b"", "position", 0).unwrap();
    let counter = manager.counter(id).unwrap();
    counter.set_ordered(position);
    counter
}

fn payload(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|index| (number + index) as u8).collect()
}

/// Start position of the reader, and the distance by which the writer may be ahead of it.
const START: i64 = (TERM - 1_024) as i64;
const WINDOW: i64 = (TERM / 2) as i64;

#[test]
fn an_exclusive_publication_is_read_while_it_is_written() {
    let log = log(LogType::Exclusive);
    let position = counter(START);
    let mut reader = ImageReader::new(log.clone(), position.clone());
    let writer = thread::spawn(move || {
        let mut appender = ExclusiveAppender::new(log);
        for number in 0..MESSAGES {
            // Every third message takes several frames.
            let message = payload(number, if number % 3 == 0 { 300 } else { 40 });
            loop {
                let limit = position.get() + WINDOW;
                match appender.append(&[&message[..8], &message[8..]], Some(number as i64), limit) {
                    Ok(_) => break,
                    Err(OfferError::AdminAction) => {}
                    Err(OfferError::BackPressured) => thread::yield_now(),
                    Err(error) => panic!("{error}"),
                }
            }
        }
    });
    let (mut assembler, mut next, mut clean) = (FragmentAssembler::new(), 0, START);
    while next < MESSAGES {
        clean = clean_publication(reader.log(), clean, reader.position());
        let work = reader.poll(10, &mut |bytes, header| {
            assembler.on_fragment(bytes, header, &mut |message, header| {
                assert_eq!(message, payload(next, message.len()));
                assert_eq!(header.reserved_value(), next as i64);
                next += 1;
            });
        });
        if work == 0 {
            thread::yield_now();
        }
    }
    writer.join().unwrap();
}

#[test]
fn concurrent_publications_share_a_log_with_claims() {
    let log = log(LogType::Concurrent);
    let position = counter(START);
    let mut reader = ImageReader::new(log.clone(), position.clone());
    let writers: Vec<_> = (0..2u8)
        .map(|writer| {
            let (appender, position) = (ConcurrentAppender::new(log.clone()), position.clone());
            thread::spawn(move || {
                let mut number = 0;
                while number < MESSAGES {
                    let limit = position.get() + WINDOW;
                    match appender.claim(9, limit) {
                        Ok(mut claim) => {
                            claim.put(0, &[writer]);
                            claim.put(1, &(number as u64).to_le_bytes());
                            if number % 5 == 4 && claim.position() % 64 == 0 {
                                // An aborted message is offered again.
                                claim.abort();
                                continue;
                            }
                            claim.commit();
                            number += 1;
                        }
                        Err(OfferError::AdminAction) => {}
                        Err(OfferError::BackPressured) => thread::yield_now(),
                        Err(error) => panic!("{error}"),
                    }
                    if number % 5 == 4 {
                        // Uses numbers beyond those whose claims may stay aborted.
                        let message = [&[writer][..], &(number as u64).to_le_bytes()];
                        while appender.append(&message, None, position.get() + WINDOW).is_err() {
                            thread::yield_now();
                        }
                        number += 1;
                    }
                }
            })
        })
        .collect();
    let (mut next, mut clean) = ([0; 2], START);
    while next.iter().any(|number| *number < MESSAGES) {
        clean = clean_publication(reader.log(), clean, reader.position());
        let work = reader.poll(10, &mut |bytes, _| {
            let (writer, number) = (usize::from(bytes[0]), bytes[1..].try_into().unwrap());
            assert_eq!(u64::from_le_bytes(number), next[writer] as u64);
            next[writer] += 1;
        });
        if work == 0 {
            thread::yield_now();
        }
    }
    for writer in writers {
        writer.join().unwrap();
    }
}

#[test]
fn commands_of_many_clients_reach_one_driver() {
    let ring = ManyToOneRing::new(AtomicBuffer::heap(512 + many_to_one::TRAILER_LENGTH)).unwrap();
    let producers: Vec<_> = (1..=2)
        .map(|producer| {
            let ring = ring.clone();
            thread::spawn(move || {
                for number in 0..MESSAGES {
                    while ring.write(producer, &payload(number, number % 40)) == Err(RingError::Full) {
                        thread::yield_now();
                    }
                }
            })
        })
        .collect();
    let mut next = [0; 3];
    while next[1] < MESSAGES || next[2] < MESSAGES {
        let work = ring.read(8, &mut |producer, bytes| {
            let number = &mut next[producer as usize];
            assert_eq!(bytes, payload(*number, *number % 40));
            *number += 1;
        });
        if work == 0 {
            thread::yield_now();
        }
    }
    for producer in producers {
        producer.join().unwrap();
    }
    assert_eq!(ring.size(), 0);
}

#[test]
fn a_one_to_one_ring_keeps_what_it_takes() {
    let (mut producer, mut consumer) =
        one_to_one::ring(AtomicBuffer::heap(256 + many_to_one::TRAILER_LENGTH)).unwrap();
    let writer = thread::spawn(move || {
        for number in 0..MESSAGES {
            while producer.write(1, &payload(number, number % 33)) == Err(RingError::Full) {
                thread::yield_now();
            }
        }
    });
    let mut next = 0;
    while next < MESSAGES {
        let work = consumer.read(8, &mut |_, bytes| {
            assert_eq!(bytes, payload(next, next % 33));
            next += 1;
        });
        if work == 0 {
            thread::yield_now();
        }
    }
    writer.join().unwrap();
}

#[test]
fn a_broadcast_receiver_gets_records_whole_and_in_order() {
    let region = AtomicBuffer::heap(512 + broadcast::TRAILER_LENGTH);
    let mut transmitter = Transmitter::new(region.clone()).unwrap();
    let mut receiver = Receiver::new(region).unwrap();
    let sender = thread::spawn(move || {
        for number in 1..=MESSAGES {
            transmitter.transmit(number as i32, &payload(number, 40)).unwrap();
        }
    });
    let mut last = 0;
    while last < MESSAGES {
        // A lapped receiver continues with the latest record.
        let taken = receiver.receive(&mut |type_id, bytes| {
            assert!(type_id as usize > last);
            last = type_id as usize;
            assert_eq!(bytes, payload(last, 40));
        });
        if taken != Ok(1) {
            if sender.is_finished() && taken == Ok(0) {
                break;
            }
            thread::yield_now();
        }
    }
    sender.join().unwrap();
    assert!(last > 0 || receiver.lapped_count() > 0);
}

#[test]
fn an_image_is_rebuilt_while_it_is_read() {
    let log = log(LogType::Image);
    let (received, position) = (counter(START), counter(START));
    let mut reader = ImageReader::new(log.clone(), position.clone());
    let source = self::log(LogType::Exclusive);
    let mut appender = ExclusiveAppender::new(source.clone());
    let (number, first) = (16, source.term(0).clone());
    for index in 0..number {
        appender.append(&[&payload(index, 32)], None, i64::MAX).unwrap();
    }
    let network = thread::spawn(move || {
        // Every second packet arrives late; gaps are found and closed.
        let start = TERM - 1_024;
        for parity in [0, 1] {
            for index in (parity..number).step_by(2) {
                let offset = start + index * 64;
                let mut packet = [0; 64];
                first.copy_out(offset, &mut packet);
                rebuild::insert(log.term(0), offset, &packet);
            }
            if parity == 0 {
                let (end, gap) = scan::gap_scan(log.term(0), start, TERM);
                assert_eq!((end, gap.is_some()), (start + 64, true));
            }
        }
        received.set_ordered(TERM as i64);
    });
    let mut next = 0;
    while next < number {
        let work = reader.poll(4, &mut |bytes, _| {
            assert_eq!(bytes, payload(next, 32));
            next += 1;
        });
        if work == 0 {
            thread::yield_now();
        }
    }
    network.join().unwrap();
    assert_eq!(reader.position(), TERM as i64);
    assert_eq!(HEADER_LENGTH + 32, 64);
}

#[test]
fn counters_and_errors_are_read_by_others_while_they_change() {
    let (metadata, values) = (AtomicBuffer::heap(METADATA_LENGTH * 4), AtomicBuffer::heap(VALUE_LENGTH * 4));
    let errors = AtomicBuffer::heap(4_096);
    let mut manager = CountersManager::new(metadata, values, 0).unwrap();
    let reader = manager.reader().clone();
    let log = errors.clone();
    let owner = thread::spawn(move || {
        let mut errors = DistinctErrorLog::new(log);
        for round in 0..MESSAGES as i64 / 4 {
            let id = manager.allocate(9, b"key", "a counter", round).unwrap();
            manager.counter(id).unwrap().set_ordered(round);
            errors.record(round, if round % 2 == 0 { "even" } else { "odd" });
            manager.free(id, round);
        }
    });
    while !owner.is_finished() {
        reader.for_each(&mut |_, type_id, _, label| {
            assert_eq!((type_id, label), (9, "a counter"));
        });
        error_log::read(&errors, 0, &mut |_, _, _, text| assert!(text == "even" || text == "odd"));
        thread::yield_now();
    }
    owner.join().unwrap();
    assert_eq!(error_log::read(&errors, 0, &mut |_, _, _, _| ()), 2);
}
