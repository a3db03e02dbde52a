//! Models of the shared algorithms: every interleaving and every reordering that the language allows, within bounds.
//!
//! `RUSTFLAGS="--cfg loom" cargo test --release -p harrier-ringbuf --test loom`
#![cfg(loom)]

mod shadow;

use harrier_ringbuf::Region;
use harrier_ringbuf::append::{ConcurrentAppender, OfferError};
use harrier_ringbuf::broadcast::{Receiver, Transmitter};
use harrier_ringbuf::frame::{frame_length_acquire, frame_type, is_padding};
use harrier_ringbuf::logbuffer::{LogBuffers, LogSettings};
use harrier_ringbuf::many_to_one::{self, ManyToOneRing};
use harrier_ringbuf::position::HEADER_LENGTH;
use harrier_ringbuf::unblock::unblock;
use harrier_ringbuf::{broadcast, one_to_one};
use loom::thread;
use shadow::ShadowRegion;

/// Limit of forced switches in an interleaving; three find nearly all races.
const PREEMPTIONS: usize = 3;
const TERM_LENGTH: usize = 64 << 10;

fn model(check: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(check);
}

fn message(value: u8) -> [u8; 8] {
    [value; 8]
}

/// Returns the value of a message, which must not be torn.
fn whole(bytes: &[u8]) -> u8 {
    assert_eq!(bytes, message(bytes[0]), "torn record");
    bytes[0]
}

/// A many-to-one ring: data as pairs of 32-bit words, the trailer as 64-bit words.
fn ring_region(capacity: usize) -> ShadowRegion {
    let region = ShadowRegion::new(capacity + many_to_one::TRAILER_LENGTH);
    region.words_32(0..capacity);
    for at in [0, 128, 256, 384, 512, 640] {
        region.words_64(capacity + at..capacity + at + 8);
    }
    region
}

#[test]
fn many_to_one_ring_delivers_each_record_once_and_whole() {
    model(|| {
        let ring = ManyToOneRing::new(ring_region(64)).unwrap();
        let producers: Vec<_> = [1u8, 2]
            .into_iter()
            .map(|value| {
                let ring = ring.clone();
                thread::spawn(move || ring.write(i32::from(value), &message(value)).unwrap())
            })
            .collect();
        let reader = {
            let ring = ring.clone();
            thread::spawn(move || {
                let mut seen = Vec::new();
                ring.read(2, &mut |type_id, bytes: &[u8]| {
                    assert_eq!(type_id, i32::from(whole(bytes)));
                    seen.push(type_id);
                });
                seen
            })
        };
        for producer in producers {
            producer.join().unwrap();
        }
        let mut seen = reader.join().unwrap();
        ring.read(2, &mut |type_id, bytes: &[u8]| {
            assert_eq!(type_id, i32::from(whole(bytes)));
            seen.push(type_id);
        });
        seen.sort_unstable();
        assert_eq!(seen, [1, 2]);
        assert_eq!(ring.size(), 0);
    });
}

/// Returns the values of the records that `calls` calls of read return.
fn taken(ring: &ManyToOneRing<ShadowRegion>, calls: usize) -> Vec<u8> {
    let mut seen = Vec::new();
    for _ in 0..calls {
        ring.read(4, &mut |_, bytes: &[u8]| seen.push(whole(bytes)));
    }
    seen
}

#[test]
fn many_to_one_ring_wraps_with_a_reader_beside_it() {
    model(|| {
        let ring = ManyToOneRing::new(ring_region(64)).unwrap();
        for value in [1u8, 2, 3] {
            ring.write(i32::from(value), &message(value)).unwrap();
        }
        let writer = {
            let ring = ring.clone();
            thread::spawn(move || (4u8..=5).filter(|value| ring.write(9, &message(*value)).is_ok()).count())
        };
        let reader = {
            let ring = ring.clone();
            thread::spawn(move || taken(&ring, 2))
        };
        let written = writer.join().unwrap();
        let mut seen = reader.join().unwrap();
        seen.extend(taken(&ring, 3));
        assert_eq!(seen.len(), 3 + written);
        assert!(seen.is_sorted());
    });
}

#[test]
fn an_aborted_or_unblocked_claim_is_skipped() {
    model(|| {
        let ring = ManyToOneRing::new(ring_region(64)).unwrap();
        // The producer dies inside its claim.
        ring.try_claim(1, 8).unwrap();
        let writer = {
            let ring = ring.clone();
            thread::spawn(move || {
                ring.write(2, &message(2)).unwrap();
                let claim = ring.try_claim(3, 8).unwrap();
                ring.abort(claim);
            })
        };
        let reader = {
            let ring = ring.clone();
            thread::spawn(move || {
                assert_eq!(taken(&ring, 1), []);
                assert!(ring.unblock());
                taken(&ring, 1)
            })
        };
        writer.join().unwrap();
        let mut seen = reader.join().unwrap();
        seen.extend(taken(&ring, 2));
        assert_eq!(seen, [2]);
    });
}

#[test]
fn one_to_one_ring_keeps_order_over_its_end() {
    model(|| {
        let (mut producer, mut consumer) = one_to_one::ring(ring_region(64)).unwrap();
        for value in [1u8, 2] {
            producer.write(1, &message(value)).unwrap();
        }
        let writer =
            thread::spawn(move || (3u8..=5).take_while(|v| producer.write(1, &message(*v)).is_ok()).count());
        let reader = thread::spawn(move || {
            let mut seen = Vec::new();
            for _ in 0..2 {
                consumer.read(2, &mut |_, bytes: &[u8]| seen.push(whole(bytes)));
            }
            (consumer, seen)
        });
        let written = writer.join().unwrap();
        let (mut consumer, mut seen) = reader.join().unwrap();
        for _ in 0..3 {
            consumer.read(4, &mut |_, bytes: &[u8]| seen.push(whole(bytes)));
        }
        assert!(written >= 1);
        assert_eq!(seen, (1..=2 + written as u8).collect::<Vec<_>>());
    });
}

fn broadcast_region(capacity: usize) -> ShadowRegion {
    let region = ShadowRegion::new(capacity + broadcast::TRAILER_LENGTH);
    region.words_32(0..capacity);
    region.words_64(capacity..capacity + 24);
    region
}

#[test]
fn a_broadcast_receiver_gets_a_whole_record_or_is_lapped() {
    model(|| {
        let region = broadcast_region(32);
        let mut transmitter = Transmitter::new(region.clone()).unwrap();
        let mut receiver = Receiver::new(region).unwrap();
        let writer = thread::spawn(move || {
            // Writes more than one round of the buffer, so that records may be overwritten while they are read.
            for value in 1u8..=3 {
                transmitter.transmit(i32::from(value), &message(value)[..4]).unwrap();
            }
        });
        let reader = thread::spawn(move || {
            // Being lapped is a valid result: the writer may be a round ahead.
            let _lapped = receiver.receive(&mut |type_id, bytes: &[u8]| {
                assert_eq!(bytes, [type_id as u8; 4], "torn record");
            });
        });
        writer.join().unwrap();
        reader.join().unwrap();
    });
}

fn log(start_offset: usize) -> LogBuffers<ShadowRegion> {
    let length = LogBuffers::<ShadowRegion>::file_length(TERM_LENGTH, 4_096);
    let region = ShadowRegion::new(length);
    let metadata = length - 4_096;
    region.words_64(metadata..metadata + 24);
    region.words_32(metadata + 24..metadata + 32);
    region.words_64(metadata + 128..metadata + 136);
    region.words_32(metadata + 136..metadata + 144);
    region.words_64(metadata + 256..metadata + 264);
    region.words_32(metadata + 264..metadata + 448);
    region.words_64(metadata + 448..metadata + 488);
    region.words_32(metadata + 488..metadata + 512);
    region.words_32(start_offset..(start_offset + 160).min(TERM_LENGTH));
    region.words_32(TERM_LENGTH..TERM_LENGTH + 96);
    let settings = LogSettings { start_term_offset: start_offset as i32, ..LogSettings::default() };
    let log = LogBuffers::initialise(region, &settings).unwrap();
    log.set_connected(true);
    log
}

/// Returns the values of the committed frames of a term from `offset`, and the offset where they end. Padding has no
/// value.
fn frames(term: &ShadowRegion, mut offset: usize, limit: usize) -> (Vec<u8>, usize) {
    let mut values = Vec::new();
    while offset < limit {
        let length = frame_length_acquire(term, offset);
        if length <= 0 {
            break;
        }
        if !is_padding(term, offset) {
            assert_eq!(frame_type(term, offset), 1);
            let mut bytes = [0; 8];
            term.copy_out(offset + HEADER_LENGTH, &mut bytes[..length as usize - HEADER_LENGTH]);
            values.push(whole(&bytes));
        }
        offset += (length as usize).next_multiple_of(32);
    }
    (values, offset)
}

#[test]
fn concurrent_appends_are_seen_whole_and_once() {
    model(|| {
        let log = log(0);
        let writers: Vec<_> = [1u8, 2]
            .into_iter()
            .map(|value| {
                let appender = ConcurrentAppender::new(log.clone());
                thread::spawn(move || appender.append(&[&message(value)], None, 1 << 20).unwrap())
            })
            .collect();
        let reader = {
            let log = log.clone();
            thread::spawn(move || frames(log.term(0), 0, 128).0)
        };
        let mut positions: Vec<_> = writers.into_iter().map(|writer| writer.join().unwrap()).collect();
        positions.sort_unstable();
        assert_eq!(positions, [64, 128]);
        let (all, end) = frames(log.term(0), 0, 128);
        assert_eq!(end, 128);
        assert!(all.starts_with(&reader.join().unwrap()), "what was seen early is a prefix");
        let mut values = all;
        values.sort_unstable();
        assert_eq!(values, [1, 2]);
    });
}

#[test]
fn appenders_that_meet_the_end_of_a_term_rotate_it_once() {
    model(|| {
        let log = log(TERM_LENGTH - 96);
        let writers: Vec<_> = [1u8, 2]
            .into_iter()
            .map(|value| {
                let appender = ConcurrentAppender::new(log.clone());
                thread::spawn(move || {
                    for _ in 0..3 {
                        match appender.append(&[&message(value)], None, 1 << 20) {
                            Ok(_) => return true,
                            Err(OfferError::AdminAction) => {}
                            Err(error) => panic!("{error}"),
                        }
                    }
                    false
                })
            })
            .collect();
        let written = writers.into_iter().map(|writer| writer.join().unwrap()).filter(|taken| *taken).count();
        let (mut values, end) = frames(log.term(0), TERM_LENGTH - 96, TERM_LENGTH);
        assert_eq!(end, TERM_LENGTH, "the term is padded to its end");
        assert_eq!(values.len(), 1);
        assert_eq!(log.active_term_count(), 1);
        values.extend(frames(log.term(1), 0, 96).0);
        values.sort_unstable();
        assert_eq!(values.len(), written);
        values.dedup();
        assert_eq!(values.len(), written);
    });
}

#[test]
fn a_dead_claim_is_unblocked_beside_a_living_appender() {
    model(|| {
        let log = log(0);
        let dead = ConcurrentAppender::new(log.clone()).claim(8, 1 << 20).unwrap();
        std::mem::forget(dead);
        let writer = {
            let appender = ConcurrentAppender::new(log.clone());
            thread::spawn(move || appender.append(&[&message(2)], None, 1 << 20).unwrap())
        };
        let driver = {
            let log = log.clone();
            thread::spawn(move || unblock(&log, 0))
        };
        writer.join().unwrap();
        driver.join().unwrap();
        let (values, end) = frames(log.term(0), 0, 128);
        assert_eq!((values, end), (vec![2], 128));
    });
}
