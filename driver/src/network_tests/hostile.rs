//! Datagrams that no correct peer sends (spec 02 §8).

use std::net::SocketAddr;

use harrier_protocol::udp::{
    DataHeader, ErrorFrame, Frame, Nak, ResponseSetup, Rttm, Setup, StatusMessage, flag, frame_type,
};
use harrier_ringbuf::Rng;

use super::rig::{
    MS, MTU, Options, Rig, SECOND, SESSION, STREAM, TERM_LENGTH, US, address, receiver_address,
    sender_address,
};
use crate::handover::ReceiverCommand;
use crate::system_counters::SystemCounter as C;

pub(super) const TERM_ID: i32 = 100;

pub(super) fn data(term_id: i32, term_offset: i32, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xAB; length];
    DataHeader {
        frame_length: length as i32,
        flags: flag::UNFRAGMENTED,
        frame_type: frame_type::DATA,
        term_offset,
        session_id: SESSION,
        stream_id: STREAM,
        term_id,
        reserved_value: 0,
    }
    .encode(&mut bytes)
    .unwrap();
    bytes
}

pub(super) fn heartbeat(term_id: i32, term_offset: i32, flags: u8) -> Vec<u8> {
    let mut bytes = vec![0; 32];
    DataHeader::heartbeat(SESSION, STREAM, term_id, term_offset, flags).encode(&mut bytes).unwrap();
    bytes
}

pub(super) fn setup(session_id: i32) -> Setup {
    Setup {
        flags: 0,
        term_offset: 0,
        session_id,
        stream_id: STREAM,
        initial_term_id: TERM_ID,
        active_term_id: TERM_ID,
        term_length: TERM_LENGTH as i32,
        mtu: MTU as i32,
        ttl: 0,
    }
}

pub(super) fn encoded(encode: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut bytes = vec![0; 2_048];
    let length = encode(&mut bytes);
    bytes.truncate(length);
    bytes
}

fn nak(term_id: i32, term_offset: i32, length: i32) -> Vec<u8> {
    let nak = Nak { session_id: SESSION, stream_id: STREAM, term_id, term_offset, length };
    encoded(|bytes| nak.encode(bytes).unwrap())
}

fn status(term_id: i32, term_offset: i32, window: i32) -> Vec<u8> {
    let status = StatusMessage {
        flags: 0,
        session_id: SESSION,
        stream_id: STREAM,
        consumption_term_id: term_id,
        consumption_term_offset: term_offset,
        receiver_window: window,
        receiver_id: 77,
        group_tag: None,
    };
    encoded(|bytes| status.encode(bytes).unwrap())
}

fn set(mut bytes: Vec<u8>, offset: usize, value: &[u8]) -> Vec<u8> {
    bytes[offset..offset + value.len()].copy_from_slice(value);
    bytes
}

/// Returns a connected stream that was read up to position 64.
pub(super) fn connected() -> Rig {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"x");
    rig.run(MS, 10 * US);
    rig
}

pub(super) fn inject(rig: &mut Rig, to: SocketAddr, datagram: &[u8]) {
    let from = if to == sender_address() { receiver_address(0) } else { sender_address() };
    rig.net.inject(from, to, datagram);
    rig.step(10 * US);
    rig.step(10 * US);
}

/// Malformed datagrams: name, address of the socket that refuses them, bytes.
fn malformed(receiver: SocketAddr) -> Vec<(&'static str, SocketAddr, Vec<u8>)> {
    let short = |bytes: Vec<u8>, length: usize| bytes[..length].to_vec();
    let two = |second: Vec<u8>| [data(TERM_ID, 64, 64), second].concat();
    let pad = |length: i32| {
        set(set(data(TERM_ID, 64, 32), 6, &frame_type::PAD.to_le_bytes()), 0, &length.to_le_bytes())
    };
    vec![
        ("nothing", receiver, Vec::new()),
        ("4 bytes", receiver, vec![0; 4]),
        ("version 1", receiver, set(data(TERM_ID, 64, 64), 4, &[1])),
        ("data of 16 bytes", receiver, short(data(TERM_ID, 64, 64), 16)),
        ("frame longer than its datagram", receiver, set(data(TERM_ID, 64, 64), 0, &65_i32.to_le_bytes())),
        ("frame shorter than its datagram", receiver, set(data(TERM_ID, 64, 96), 0, &64_i32.to_le_bytes())),
        ("frame shorter than a header", receiver, set(data(TERM_ID, 64, 64), 0, &31_i32.to_le_bytes())),
        ("negative length", receiver, set(data(TERM_ID, 64, 64), 0, &(-64_i32).to_le_bytes())),
        ("heartbeat with a payload", receiver, set(data(TERM_ID, 64, 64), 0, &0_i32.to_le_bytes())),
        ("unaligned offset", receiver, data(TERM_ID, 65, 64)),
        ("negative offset", receiver, data(TERM_ID, -64, 64)),
        ("offset past the term", receiver, data(TERM_ID, TERM_LENGTH as i32, 64)),
        ("frame past the term", receiver, data(TERM_ID, TERM_LENGTH as i32 - 32, 64)),
        ("term before the first", receiver, data(TERM_ID - 1, 64, 64)),
        ("second frame of another session", receiver, two(set(data(TERM_ID, 128, 64), 12, &[9]))),
        ("second frame of another stream", receiver, two(set(data(TERM_ID, 128, 64), 16, &[9]))),
        ("second frame of another term", receiver, two(data(TERM_ID + 1, 128, 64))),
        ("second frame elsewhere", receiver, two(data(TERM_ID, 192, 64))),
        ("second frame is a heartbeat", receiver, two(heartbeat(TERM_ID, 128, 0))),
        ("padding past the term", receiver, pad(TERM_LENGTH as i32)),
        ("padding of no length", receiver, pad(0)),
        ("padding before data", receiver, [pad(64), data(TERM_ID, 128, 64)].concat()),
        ("setup of 20 bytes", receiver, short(encoded(|b| setup(1).encode(b).unwrap()), 20)),
        ("status of 20 bytes", sender_address(), short(status(TERM_ID, 0, 0), 20)),
        ("negative window", sender_address(), status(TERM_ID, 0, -1)),
        ("unaligned consumption", sender_address(), status(TERM_ID, 33, 1_000)),
        ("nak of 27 bytes", sender_address(), short(nak(TERM_ID, 0, 32), 27)),
        (
            "nak longer than its datagram",
            sender_address(),
            set(nak(TERM_ID, 0, 32), 0, &29_i32.to_le_bytes()),
        ),
        ("nak of negative length", sender_address(), set(nak(TERM_ID, 0, 32), 0, &(-1_i32).to_le_bytes())),
        ("nak at an unaligned offset", sender_address(), nak(TERM_ID, 1, 32)),
        ("nak inside a header", sender_address(), nak(TERM_ID, 8, 32)),
        ("nak at a negative offset", sender_address(), nak(TERM_ID, -32, 32)),
        ("nak past the term", sender_address(), nak(TERM_ID, TERM_LENGTH as i32, 32)),
        ("nak for negative bytes", sender_address(), nak(TERM_ID, 0, -32)),
        ("rttm of 39 bytes", sender_address(), short(encoded(|b| rttm(0).encode(b).unwrap()), 39)),
        ("response setup of 19 bytes", sender_address(), {
            let frame = ResponseSetup { session_id: SESSION, stream_id: STREAM, response_session_id: 1 };
            short(encoded(|bytes| frame.encode(bytes).unwrap()), 19)
        }),
        ("error of 39 bytes", sender_address(), short(error(b"text"), 39)),
        ("error text outside", sender_address(), set(error(b"text"), 36, &5_i32.to_le_bytes())),
        ("error text of negative length", sender_address(), set(error(b"text"), 36, &(-1_i32).to_le_bytes())),
    ]
}

#[test]
fn malformed_datagrams_are_counted_and_change_nothing() {
    let receiver = receiver_address(0);
    let tables = malformed(receiver);
    let mut rig = connected();
    let other = |to| if to == receiver { sender_address() } else { receiver };
    // Both sockets refuse a datagram that cannot be decoded. Only the stream's socket refuses one that contradicts the
    // stream.
    let everywhere = tables.into_iter().flat_map(|(name, to, datagram)| {
        let is_unreadable = Frame::decode(&datagram).is_err();
        let both = is_unreadable.then(|| (name, other(to), datagram.clone()));
        [Some((name, to, datagram)), both].into_iter().flatten()
    });
    for (name, to, datagram) in everywhere {
        let (before, publication) = (rig.system_values(), rig.publication_values());
        rig.net.take_sent();
        inject(&mut rig, to, &datagram);
        // A NAK for an impossible place is counted as a NAK, too (spec 02 §2.7).
        let is_nak = matches!(Frame::decode(&datagram), Ok(Frame::Nak(_)));
        let expected: Vec<(i32, i64)> = before
            .into_iter()
            .map(|(id, value)| match id {
                id if id == C::InvalidPackets as i32 => (id, value + 1),
                id if id == C::BytesReceived as i32 => (id, value + datagram.len() as i64),
                id if id == C::NaksReceived as i32 => (id, value + i64::from(is_nak)),
                _ => (id, value),
            })
            .collect();
        assert_eq!(rig.system_values(), expected, "{name}");
        let mut expected = publication;
        // The publication's own count of NAKs is the last counter before that of receivers.
        expected[5] += i64::from(is_nak);
        assert_eq!(rig.publication_values(), expected, "{name}");
        assert_eq!(rig.net.take_sent().len(), 0, "{name}");
        assert_eq!(rig.readers[0].image.counters.high_water_mark.get(), 64, "{name}");
    }
    rig.publish(b"y");
    rig.run(MS, 10 * US);
    assert_eq!(rig.readers[0].messages, [b"x", b"y"]);
    assert!(rig.errors.is_empty() && rig.refusals.is_empty());
}

fn rttm(flags: u8) -> Rttm {
    Rttm {
        flags,
        session_id: SESSION,
        stream_id: STREAM,
        echo_timestamp_ns: i64::MIN,
        reception_delta_ns: i64::MAX,
        receiver_id: 0,
    }
}

fn error(text: &[u8]) -> Vec<u8> {
    let frame = ErrorFrame {
        session_id: SESSION,
        stream_id: STREAM,
        receiver_id: 12_345,
        group_tag: None,
        code: 13,
        text,
    };
    encoded(|bytes| frame.encode(bytes).unwrap())
}

#[test]
fn well_formed_datagrams_that_fit_nothing_are_ignored() {
    let receiver = receiver_address(0);
    let before = TERM_ID.wrapping_sub(1);
    let tables: Vec<(&str, SocketAddr, Vec<u8>)> = vec![
        ("unknown type", receiver, set(data(TERM_ID, 64, 64), 6, &0x77_u16.to_le_bytes())),
        ("security extension", receiver, set(data(TERM_ID, 64, 64), 6, &0x08_u16.to_le_bytes())),
        ("nak on a receive socket", receiver, nak(TERM_ID, 0, 64)),
        ("status on a receive socket", receiver, status(TERM_ID, 0, 1_000)),
        ("another stream", receiver, set(data(TERM_ID, 64, 64), 16, &[9, 9, 9, 9])),
        ("round trip of another clock", receiver, encoded(|bytes| rttm(0).encode(bytes).unwrap())),
        ("setup on a send socket", sender_address(), encoded(|bytes| setup(SESSION).encode(bytes).unwrap())),
        ("data on a send socket", sender_address(), data(TERM_ID, 64, 64)),
        ("response setup", sender_address(), {
            let frame = ResponseSetup { session_id: SESSION, stream_id: STREAM, response_session_id: 1 };
            encoded(|bytes| frame.encode(bytes).unwrap())
        }),
        ("nak of another session", sender_address(), set(nak(TERM_ID, 0, 64), 8, &[8])),
        ("nak for what is not sent yet", sender_address(), nak(TERM_ID, 64, 64)),
        ("nak for a later term", sender_address(), nak(TERM_ID + 1, 0, 64)),
        ("nak for the term before the first", sender_address(), nak(before, TERM_LENGTH as i32 - 32, 32)),
        ("nak for a term long before", sender_address(), nak(TERM_ID.wrapping_add(i32::MIN), 0, 64)),
        ("nak for nothing", sender_address(), nak(TERM_ID, 0, 0)),
        ("status of another session", sender_address(), set(status(TERM_ID, 0, 1_000), 8, &[8])),
        ("error of another receiver", sender_address(), error(b"no")),
    ];
    let mut rig = connected();
    let limit = rig.publication.counters.sender_limit.get();
    for (name, to, datagram) in tables {
        rig.net.take_sent();
        inject(&mut rig, to, &datagram);
        assert_eq!(rig.count(C::InvalidPackets), 0, "{name}");
        assert_eq!(rig.net.take_sent().len(), 0, "{name}");
        assert_eq!(rig.publication.counters.sender_limit.get(), limit, "{name}");
    }
    rig.publish(b"y");
    rig.run(MS, 10 * US);
    assert_eq!(rig.readers[0].messages, [b"x", b"y"]);
    assert!(rig.errors.is_empty() && rig.refusals.is_empty());
}

#[test]
fn status_messages_far_off_are_rejected() {
    let mut rig = connected();
    let limit = rig.publication.counters.sender_limit.get();
    let half = TERM_LENGTH as i32 / 2;
    for (term_id, term_offset) in
        [(TERM_ID, half + 96), (TERM_ID - 1, 0), (TERM_ID.wrapping_add(i32::MAX), 0)]
    {
        let rejected = rig.count(C::StatusMessagesRejected);
        inject(&mut rig, sender_address(), &status(term_id, term_offset, 1 << 20));
        assert_eq!(rig.count(C::StatusMessagesRejected), rejected + 1);
    }
    assert_eq!(rig.publication.counters.sender_limit.get(), limit);
}

#[test]
fn naks_for_the_same_bytes_are_answered_once() {
    let mut rig = connected();
    for _ in 0..20 {
        inject(&mut rig, sender_address(), &nak(TERM_ID, 0, 64));
    }
    assert_eq!((rig.count(C::NaksReceived), rig.count(C::RetransmitsSent)), (20, 1));
    rig.run(11 * MS, MS);
    inject(&mut rig, sender_address(), &nak(TERM_ID, 0, i32::MAX));
    assert_eq!((rig.count(C::RetransmitsSent), rig.count(C::RetransmittedBytes)), (2, 128));
}

#[test]
fn bad_setups_are_counted_and_told_once_a_second() {
    let bad = [
        ("term-length", Setup { term_length: 1_000, ..setup(20) }),
        ("term-length", Setup { term_length: 1 << 15, ..setup(21) }),
        ("term-length", Setup { term_length: -1, ..setup(22) }),
        ("mtu", Setup { mtu: 1_407, ..setup(23) }),
        ("mtu", Setup { mtu: 0, ..setup(24) }),
        ("mtu", Setup { mtu: 65_536, ..setup(25) }),
        ("active-term-id", Setup { active_term_id: TERM_ID - 1, ..setup(26) }),
        ("term-offset", Setup { term_offset: 33, ..setup(27) }),
        ("term-offset", Setup { term_offset: TERM_LENGTH as i32 + 32, ..setup(28) }),
        ("term-offset", Setup { term_offset: -32, ..setup(29) }),
    ];
    let mut rig = connected();
    let requests = rig.requests;
    for (field, setup) in bad {
        let datagram = encoded(|bytes| setup.encode(bytes).unwrap());
        let before = rig.error_count;
        for _ in 0..10 {
            inject(&mut rig, receiver_address(0), &datagram);
        }
        assert_eq!(rig.errors.len(), 1, "{field} {:?}", rig.errors);
        rig.run(SECOND + MS, MS);
        assert_eq!((rig.errors.len(), rig.error_count - before), (2, 10), "{field} {:?}", rig.errors);
        for text in rig.errors.drain(..) {
            assert!(text.contains(field) && text.contains("127.0.0.1:1000"), "{text}");
        }
        rig.run(SECOND + MS, MS);
    }
    assert_eq!(rig.requests, requests);
}

#[test]
fn a_forged_bad_setup_does_not_keep_its_session_away() {
    let mut rig = connected();
    let bad = Setup { mtu: 0, ..setup(8) };
    inject(&mut rig, receiver_address(0), &encoded(|bytes| bad.encode(bytes).unwrap()));
    inject(&mut rig, receiver_address(0), &encoded(|bytes| setup(8).encode(bytes).unwrap()));
    assert_eq!((rig.errors.len(), rig.requests, rig.readers.len()), (1, 2, 2));
}

#[test]
fn sessions_above_the_limit_are_counted_and_taken_later() {
    let mut rig = Rig::with(Options { session_limit: 1, ..Options::default() });
    rig.connect();
    let datagram = encoded(|bytes| setup(8).encode(bytes).unwrap());
    for _ in 0..5 {
        inject(&mut rig, receiver_address(0), &datagram);
    }
    assert_eq!((rig.errors.len(), rig.requests), (1, 1));
    assert!(rig.errors[0].contains("session limit"), "{}", rig.errors[0]);
    // Every further SETUP counts, and the error is reported again each second.
    for second in 1..=3 {
        rig.run(SECOND, MS);
        inject(&mut rig, receiver_address(0), &datagram);
        assert_eq!((rig.errors.len(), rig.requests), (1 + second, 1));
    }
    rig.run(SECOND + MS, MS);
    assert_eq!(rig.error_count, 8);
    let correlation_id = rig.readers[0].image.identity.correlation_id;
    rig.tell_receiver(ReceiverCommand::RemoveImage { correlation_id });
    rig.step(10 * US);
    inject(&mut rig, receiver_address(0), &datagram);
    assert_eq!(rig.requests, 2);
}

#[test]
fn a_flood_of_sessions_does_not_grow_without_bounds() {
    let mut rig = Rig::new();
    rig.makes_images = false;
    rig.step(10 * US);
    for session in 1_000..7_000_i32 {
        let datagram = set(data(TERM_ID, 0, 64), 12, &session.to_le_bytes());
        rig.net.inject(sender_address(), receiver_address(0), &datagram);
        let datagram = encoded(|bytes| setup(session).encode(bytes).unwrap());
        rig.net.inject(sender_address(), receiver_address(0), &datagram);
        rig.step(US);
        rig.step(US);
    }
    assert!(rig.requests <= 4_096, "{}", rig.requests);
    assert_eq!(rig.errors.iter().filter(|text| text.contains("session limit")).count(), rig.errors.len());
}

#[test]
fn an_unanswered_request_is_forgotten_after_a_second() {
    let mut rig = Rig::new();
    rig.net.lose(|sent| sent.from == sender_address());
    rig.step(10 * US);
    let asks = |rig: &Rig| {
        let sent = rig.net.take_sent();
        sent.iter().filter(|sent| matches!(sent.frame(), Frame::StatusMessage(_))).count()
    };
    for (after_ns, expected) in [(0, 1), (500 * MS, 0), (499 * MS, 0), (10 * MS, 1)] {
        rig.run(after_ns, MS);
        inject(&mut rig, receiver_address(0), &data(TERM_ID, 0, 64));
        assert_eq!(asks(&rig), expected, "{after_ns}");
    }
    inject(&mut rig, receiver_address(0), &heartbeat(TERM_ID, 0, flag::EOS));
    assert_eq!(asks(&rig), 0);
}

#[test]
fn strangers_do_not_reach_a_connected_sender() {
    let mut rig = connected();
    rig.net.inject(address(6_666), sender_address(), &nak(TERM_ID, 0, 64));
    rig.run(MS, 10 * US);
    assert_eq!(rig.count(C::NaksReceived), 0);
}

#[test]
fn no_garbage_stops_the_agents() {
    let seeds: Vec<Vec<u8>> = vec![
        data(TERM_ID, 64, 128),
        [data(TERM_ID, 64, 64), data(TERM_ID, 128, 96)].concat(),
        set(data(TERM_ID, 64, 32), 6, &frame_type::PAD.to_le_bytes()),
        heartbeat(TERM_ID, 64, 0),
        encoded(|bytes| setup(SESSION).encode(bytes).unwrap()),
        encoded(|bytes| setup(30).encode(bytes).unwrap()),
        nak(TERM_ID, 0, 64),
        status(TERM_ID, 64, 4_096),
        error(b"text"),
        encoded(|bytes| rttm(flag::RTTM_REPLY).encode(bytes).unwrap()),
        encoded(|bytes| rttm(0).encode(bytes).unwrap()),
    ];
    for seed in 0..4 {
        let mut rng = Rng::new(seed);
        let mut rig = connected();
        for _ in 0..10_000 {
            let mut bytes = seeds[rng.below(seeds.len() as u64) as usize].clone();
            for _ in 0..rng.below(4) {
                let at = rng.below(bytes.len() as u64) as usize;
                bytes[at] = match rng.below(4) {
                    0 => 0xFF,
                    1 => bytes[at].wrapping_add(32),
                    2 => 0,
                    _ => rng.next_u64() as u8,
                };
            }
            if rng.chance(1, 20) {
                bytes.truncate(rng.below(bytes.len() as u64 + 1) as usize);
            }
            let to = if rng.chance(1, 2) { sender_address() } else { receiver_address(0) };
            let from = if to == sender_address() { receiver_address(0) } else { sender_address() };
            rig.net.inject(from, to, &bytes);
            if rng.chance(1, 4) {
                let _refused = rig.offer(&[1; 300]);
                rig.step(rng.below(MS as u64) as i64);
            }
        }
        rig.run(SECOND, 10 * MS);
    }
}

#[test]
fn naks_beyond_the_resends_that_a_publication_keeps_are_counted() {
    // In a group each range has its own retransmit.
    let mut rig = Rig::with(Options {
        is_dynamic: true,
        control: Some(sender_address()),
        retransmit_delay_ns: MS,
        ..Options::default()
    });
    rig.connect();
    for _ in 0..20 {
        rig.publish(&[7; 100]);
    }
    rig.run(MS, 10 * US);
    for number in 0..20 {
        // A separate NAK asks for each frame of 160 bytes.
        rig.net.inject(receiver_address(0), sender_address(), &nak(TERM_ID, number * 160, 160));
    }
    rig.run(200 * US, 10 * US);
    assert_eq!((rig.count(C::NaksReceived), rig.count(C::RetransmitOverflow)), (20, 4));
    rig.run(2 * MS, 10 * US);
    assert_eq!((rig.count(C::RetransmitsSent), rig.count(C::RetransmittedBytes)), (16, 16 * 160));
}
