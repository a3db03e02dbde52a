//! Floods of well-formed datagrams. A stranger can make a driver keep only bounded state, and live streams go on.

use harrier_protocol::udp::{DataHeader, Nak, Setup, StatusMessage};

use super::rig::{
    MS, MTU, Options, Rig, SESSION, STREAM, TERM_LENGTH, US, address, receiver_address, sender_address,
};
use crate::system_counters::SystemCounter as C;

/// Number of datagrams of a flood.
const FLOOD: i32 = 6_000;

fn encoded(encode: impl FnOnce(&mut [u8]) -> usize) -> Vec<u8> {
    let mut bytes = vec![0; 64];
    let length = encode(&mut bytes);
    bytes.truncate(length);
    bytes
}

fn setup(stream_id: i32, session_id: i32) -> Vec<u8> {
    let setup = Setup {
        flags: 0,
        term_offset: 0,
        session_id,
        stream_id,
        initial_term_id: 100,
        active_term_id: 100,
        term_length: TERM_LENGTH as i32,
        mtu: MTU as i32,
        ttl: 0,
    };
    encoded(|bytes| setup.encode(bytes).unwrap())
}

/// Publishes a message for each step of a flood, and checks that the reader got all.
fn flood(rig: &mut Rig, mut datagram: impl FnMut(&mut Rig, i32)) {
    let before = rig.readers[0].messages.len();
    for number in 0..FLOOD {
        datagram(rig, number);
        if number % 10 == 0 {
            rig.publish(&number.to_le_bytes());
            rig.step(10 * US);
        }
    }
    rig.run(50 * MS, 100 * US);
    let expected: Vec<Vec<u8>> =
        (0..FLOOD).filter(|n| n % 10 == 0).map(|n| n.to_le_bytes().to_vec()).collect();
    assert_eq!(rig.readers[0].messages[before..], expected[..]);
}

#[test]
fn setups_and_data_of_unknown_streams_leave_nothing_behind() {
    let mut rig = Rig::new();
    rig.connect();
    let invalid = rig.count(C::InvalidPackets);
    flood(&mut rig, |rig, number| {
        let heartbeat = DataHeader::heartbeat(number, STREAM + 1 + number, 100, 0, 0);
        let heartbeat = encoded(|bytes| heartbeat.encode(bytes).unwrap());
        rig.net.inject(sender_address(), receiver_address(0), &heartbeat);
        rig.net.inject(sender_address(), receiver_address(0), &setup(STREAM + 1 + number, number));
    });
    assert_eq!((rig.requests, rig.readers.len(), rig.errors.len()), (1, 1, 0));
    assert_eq!(rig.count(C::InvalidPackets), invalid);
}

#[test]
fn naks_are_answered_no_faster_than_their_ranges_linger() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"x");
    rig.run(MS, 10 * US);
    let received = rig.count(C::NaksReceived);
    flood(&mut rig, |rig, _| {
        let nak = Nak { session_id: SESSION, stream_id: STREAM, term_id: 100, term_offset: 0, length: 64 };
        let nak = encoded(|bytes| nak.encode(bytes).unwrap());
        rig.net.inject(receiver_address(0), sender_address(), &nak);
    });
    assert_eq!(rig.count(C::NaksReceived), received + i64::from(FLOOD));
    // The range lingers for 10 ms; flood and rest take 56 ms.
    assert!((1..=6).contains(&rig.count(C::RetransmitsSent)), "{}", rig.count(C::RetransmitsSent));
}

#[test]
fn status_messages_of_strangers_fill_bounded_lists() {
    let options = Options { is_dynamic: true, flow_control: Some("max"), ..Options::default() };
    let mut rig = Rig::with(options);
    let status = |session_id: i32, receiver_id: i64| {
        let status = StatusMessage {
            flags: 0,
            session_id,
            stream_id: STREAM,
            consumption_term_id: 100,
            consumption_term_offset: 0,
            receiver_window: 1_000,
            receiver_id,
            group_tag: None,
        };
        encoded(|bytes| status.encode(bytes).unwrap())
    };
    // The real receiver makes itself known first.
    rig.net.inject(receiver_address(0), sender_address(), &status(SESSION, 900));
    rig.connect();
    let errors = rig.errors.len();
    let mut sent = 0;
    flood(&mut rig, |rig, number| {
        let source = address(10_000 + (number % 50_000) as u16);
        // Half of them name an unknown session.
        rig.net.inject(source, sender_address(), &status(SESSION + number % 2, i64::from(number)));
        sent = sent.max(rig.net.take_sent().iter().filter(|one| one.from == sender_address()).count());
    });
    assert_eq!(rig.errors.len(), errors);
    // 1,024 destinations, of which each gets a batch of at most four datagrams, and a heartbeat.
    assert!((1..=5 * 1_024).contains(&sent), "{sent}");
    assert!(rig.count(C::StatusMessagesReceived) >= i64::from(FLOOD));
}
