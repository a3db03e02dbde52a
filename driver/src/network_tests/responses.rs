//! Streams that answer one requester (spec 02 §2.12).

use harrier_protocol::udp::{Frame, ResponseSetup, Rttm, StatusMessage, flag};
use harrier_ringbuf::Agent;

use super::publish_many;
use super::rig::{MS, Options, Rig, SECOND, SESSION, STREAM, US, receiver_address, sender_address};
use crate::handover::ReceiverCommand;

const SUBSCRIPTION: i64 = 640;

fn responder() -> Rig {
    let mut rig = Rig::with(Options { is_response: true, ..Options::default() });
    rig.run(MS, 100 * US);
    rig
}

fn ask(rig: &Rig, asker: std::net::SocketAddr) {
    let ask = StatusMessage {
        flags: flag::SM_SEND_SETUP,
        session_id: SESSION,
        stream_id: STREAM,
        consumption_term_id: 0,
        consumption_term_offset: 0,
        receiver_window: 0,
        receiver_id: 900,
        group_tag: None,
    };
    let mut bytes = [0; 44];
    let length = ask.encode(&mut bytes).unwrap();
    rig.net.inject(asker, sender_address(), &bytes[..length]);
}

fn tell_response(rig: &mut Rig, response_session_id: i32) {
    let frame = ResponseSetup { session_id: SESSION, stream_id: STREAM, response_session_id };
    let mut bytes = [0; 20];
    let length = frame.encode(&mut bytes).unwrap();
    rig.net.inject(receiver_address(0), sender_address(), &bytes[..length]);
    rig.run(100 * US, 10 * US);
}

#[test]
fn the_session_that_answers_is_told_with_each_timed_out_status_message() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 100 * US);
    let correlation_id = rig.readers[0].image.identity.correlation_id;
    rig.tell_receiver(ReceiverCommand::SetResponseSession { correlation_id, session_id: Some(77) });
    rig.net.take_sent();
    rig.run(SECOND, MS);
    rig.tell_receiver(ReceiverCommand::SetResponseSession { correlation_id, session_id: None });
    rig.run(SECOND, MS);
    let sent = rig.net.take_sent();
    let told: Vec<_> = sent.iter().filter(|sent| matches!(sent.frame(), Frame::ResponseSetup(_))).collect();
    assert!((4..=5).contains(&told.len()), "{}", told.len());
    let Frame::ResponseSetup(frame) = told[0].frame() else { unreachable!() };
    assert_eq!((frame.session_id, frame.stream_id, frame.response_session_id), (SESSION, STREAM, 77));
    assert_eq!(told[0].to, sender_address());
    // The sender ignores the frames, because its publication requests no response.
    assert!(rig.response_setups.is_empty());
}

#[test]
fn the_session_that_answers_is_told_while_the_requests_flow() {
    let mut rig = Rig::new();
    rig.connect();
    let correlation_id = rig.readers[0].image.identity.correlation_id;
    rig.tell_receiver(ReceiverCommand::SetResponseSession { correlation_id, session_id: Some(77) });
    rig.net.take_sent();
    // Each step carries so much data that no status message is due by time.
    for _ in 0..100 {
        publish_many(&mut rig, 12);
        rig.run(10 * MS, MS);
    }
    let sent = rig.net.take_sent();
    let count = |kind: fn(&Frame<'_>) -> bool| sent.iter().filter(|sent| kind(&sent.frame())).count();
    assert!(count(|frame| matches!(frame, Frame::StatusMessage(_))) > 20);
    let told = count(|frame| matches!(frame, Frame::ResponseSetup(_)));
    assert!((4..=5).contains(&told), "{told}");
}

#[test]
fn a_request_publication_asks_for_a_response_and_passes_on_who_answers() {
    let mut rig = Rig::with(Options { response_subscription: Some(SUBSCRIPTION), ..Options::default() });
    rig.connect();
    let sent = rig.net.take_sent();
    let setups: Vec<_> = sent
        .iter()
        .filter_map(|sent| match sent.frame() {
            Frame::Setup(setup) => Some(setup.flags),
            _ => None,
        })
        .collect();
    assert!(setups.iter().all(|flags| *flags == flag::SETUP_SEND_RESPONSE) && !setups.is_empty());
    tell_response(&mut rig, 77);
    assert_eq!(rig.response_setups, [(SUBSCRIPTION, 77)]);
    // A flood of reports is not passed on.
    for session_id in 0..50 {
        tell_response(&mut rig, session_id);
    }
    assert_eq!(rig.response_setups.len(), 1);
    rig.run(200 * MS, MS);
    tell_response(&mut rig, 77);
    assert_eq!(rig.response_setups, [(SUBSCRIPTION, 77); 2]);
}

#[test]
fn a_response_publication_is_silent_until_it_is_asked_and_answers_only_then() {
    let mut rig = responder();
    rig.run(SECOND, MS);
    assert!(rig.net.take_sent().is_empty());
    assert!(rig.sender.next_deadline().is_none_or(|deadline_ns| deadline_ns > rig.now.ns));
    let asker = receiver_address(0);
    ask(&rig, asker);
    rig.connect();
    let expected = publish_many(&mut rig, 20);
    rig.run(10 * MS, 100 * US);
    assert!(rig.readers[0].messages == expected);
    let sent = rig.net.take_sent();
    assert!(sent.iter().filter(|sent| sent.from == sender_address()).all(|sent| sent.to == asker));
    assert_eq!(rig.responses_connected.len(), 1, "once, not with each status message");
}

#[test]
fn a_stranger_does_not_draw_a_living_response_to_itself() {
    let mut rig = responder();
    let (asker, stranger) = (receiver_address(0), receiver_address(9));
    // Before the requester has answered, the last address that asked counts.
    ask(&rig, stranger);
    rig.run(MS, 100 * US);
    ask(&rig, asker);
    rig.connect();
    rig.net.take_sent();
    ask(&rig, stranger);
    rig.run(SECOND, MS);
    let sent = rig.net.take_sent();
    assert!(sent.iter().filter(|sent| sent.from == sender_address()).all(|sent| sent.to == asker));
    // When the requester is silent, another one may take its place.
    rig.net.lose(move |sent| sent.from == asker);
    rig.run(6 * SECOND, 10 * MS);
    rig.net.take_sent();
    ask(&rig, stranger);
    rig.run(MS, 100 * US);
    assert!(rig.net.take_sent().iter().any(|sent| sent.to == stranger));
}

#[test]
fn a_round_trip_is_answered_to_who_asked() {
    let mut rig = responder();
    ask(&rig, receiver_address(0));
    rig.connect();
    rig.net.take_sent();
    let frame = Rttm {
        flags: flag::RTTM_REPLY,
        session_id: SESSION,
        stream_id: STREAM,
        echo_timestamp_ns: 5,
        reception_delta_ns: 0,
        receiver_id: 900,
    };
    let mut bytes = [0; 40];
    let length = frame.encode(&mut bytes).unwrap();
    rig.net.inject(receiver_address(0), sender_address(), &bytes[..length]);
    rig.run(MS, 100 * US);
    let sent = rig.net.take_sent();
    let reply = sent.iter().find(|sent| matches!(sent.frame(), Frame::Rttm(_))).unwrap();
    assert_eq!(reply.to, receiver_address(0));
}
