//! Captured datagrams of peers, as spec 02 §9.3 uses them.

use harrier_protocol::udp::{Frame, Setup};

use super::rig::{MS, Options, Rig, STREAM, US, receiver_address, sender_address};
use crate::handover::ReceiverCommand;
use crate::system_counters::SystemCounter as C;

const SESSION: i32 = 0x0102_0304;

macro_rules! golden {
    ($peer:literal, $name:literal) => {
        include_bytes!(concat!("../../protocol/testdata/udp/", $peer, "-", $name, ".bin"))
    };
}

macro_rules! peers {
    ($check:ident, $($name:literal),*) => {
        $check([$(golden!("java", $name).as_slice()),*]);
        $check([$(golden!("c", $name).as_slice()),*]);
    };
}

fn rig() -> Rig {
    Rig::with(Options { session_id: SESSION, initial_term_id: 7, ..Options::default() })
}

/// Returns a receiver of a stream whose sender is the test.
fn receiver() -> Rig {
    let mut rig = rig();
    rig.net.lose(|sent| sent.from == sender_address());
    rig.run(MS, 100 * US);
    rig.net.take_sent();
    rig
}

fn receive(rig: &mut Rig, datagrams: &[&[u8]]) {
    for datagram in datagrams {
        rig.net.inject(sender_address(), receiver_address(0), datagram);
        rig.run(50 * US, 10 * US);
    }
}

fn long_message() -> Vec<u8> {
    (0..3_000).map(|at| at as u8).collect()
}

#[test]
fn a_setup_makes_an_image_that_answers() {
    fn check([setup, status]: [&[u8]; 2]) {
        let mut rig = receiver();
        receive(&mut rig, &[setup]);
        let identity = &rig.readers[0].image.identity;
        assert_eq!((identity.session_id, identity.stream_id), (SESSION, 1_001));
        let sent = rig.net.take_sent();
        let answer = sent.iter().find(|sent| sent.from == receiver_address(0)).unwrap();
        let (Frame::StatusMessage(mut ours), Ok(Frame::StatusMessage(theirs))) =
            (answer.frame(), Frame::decode(status))
        else {
            panic!("no status message: {answer:?}");
        };
        ours.receiver_id = theirs.receiver_id;
        assert_eq!(ours, theirs);
    }
    peers!(check, "01-setup", "02-sm");
}

#[test]
fn a_gap_is_asked_for_and_repaired() {
    fn check([setup, hello, middle, end, nak, repeated]: [&[u8]; 6]) {
        let mut rig = receiver();
        receive(&mut rig, &[setup, hello, middle, end]);
        let counters = &rig.readers[0].image.counters;
        assert_eq!(counters.rebuild_position.get(), 64);
        assert_eq!(counters.high_water_mark.get(), 3_168);
        assert!(rig.net.take_sent().iter().any(|sent| sent.bytes == nak));
        receive(&mut rig, &[repeated]);
        assert_eq!(rig.readers[0].image.counters.rebuild_position.get(), 3_168);
        assert_eq!(rig.readers[0].messages, [b"hello".to_vec(), long_message()]);
    }
    peers!(
        check,
        "01-setup",
        "04-data-unfragmented",
        "06-data-middle",
        "07-data-end",
        "12-nak",
        "13-retransmit"
    );
}

#[test]
fn padding_and_ends_are_taken() {
    fn check([setup, pad, two, eos, revoked]: [&[u8]; 5]) {
        let mut rig = receiver();
        receive(&mut rig, &[setup, pad, two, eos, revoked]);
        assert_eq!(rig.count(C::InvalidPackets), 0);
    }
    peers!(check, "01-setup", "09-pad", "08-data-two-frames", "10-heartbeat-eos", "19-heartbeat-revoked");
}

#[test]
fn a_nak_brings_the_same_bytes_again() {
    fn check([hello, nak, repeated]: [&[u8]; 3]) {
        let mut rig = rig();
        rig.connect();
        rig.run(MS, 10 * US);
        rig.net.take_sent();
        let limit = rig.publication.counters.publisher_limit.get();
        rig.appender.append(&[b"hello"], Some(0x1122_3344_5566_7788), limit).unwrap();
        rig.step(10 * US);
        assert_eq!(rig.net.take_sent()[0].bytes, hello);
        rig.offer(&long_message()).unwrap();
        rig.run(50 * US, 10 * US);
        rig.net.take_sent();
        rig.net.inject(receiver_address(0), sender_address(), nak);
        rig.step(10 * US);
        assert_eq!(rig.net.take_sent()[0].bytes, repeated);
    }
    peers!(check, "04-data-unfragmented", "12-nak", "13-retransmit");
}

#[test]
fn a_request_and_who_answers_it_are_those_of_peers() {
    fn check([setup, response]: [&[u8]; 2]) {
        const SUBSCRIPTION: i64 = 640;
        let (Ok(Frame::Setup(captured)), Ok(Frame::ResponseSetup(told))) =
            (Frame::decode(setup), Frame::decode(response))
        else {
            panic!("no SETUP and RSP_SETUP");
        };
        let options = || Options { session_id: SESSION, initial_term_id: 7, ..Options::default() };
        // The requester.
        let mut rig = Rig::with(Options { response_subscription: Some(SUBSCRIPTION), ..options() });
        rig.run(MS, 10 * US);
        let sent = rig.net.take_sent();
        let Frame::Setup(setup) = sent[0].frame() else { panic!("{sent:?}") };
        assert_eq!(Setup { stream_id: captured.stream_id, ..setup }, captured);
        let mut response = response.to_vec();
        response[12..16].copy_from_slice(&STREAM.to_le_bytes());
        rig.net.inject(receiver_address(0), sender_address(), &response);
        rig.run(50 * US, 10 * US);
        assert_eq!(rig.response_setups, [(SUBSCRIPTION, told.response_session_id)]);
        // The responder.
        let mut rig = Rig::with(options());
        rig.connect();
        let correlation_id = rig.readers[0].image.identity.correlation_id;
        let session_id = Some(told.response_session_id);
        rig.tell_receiver(ReceiverCommand::SetResponseSession { correlation_id, session_id });
        rig.net.take_sent();
        rig.run(300 * MS, MS);
        assert!(rig.net.take_sent().iter().any(|sent| sent.bytes == response));
    }
    peers!(check, "23-setup-response", "24-rsp-setup");
}
