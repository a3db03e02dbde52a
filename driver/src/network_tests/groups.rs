//! Several receivers of one stream (spec 02 §2.9, §4).

use std::sync::atomic::Ordering;

use harrier_protocol::udp::{Frame, flag};

use super::message;
use super::rig::{MS, Options, Rig, SECOND, US, receiver_address, sender_address};

fn group() -> Options {
    Options {
        channel: "aeron:udp?control=127.0.0.1:1000|control-mode=dynamic|term-length=64k".into(),
        flow_control: Some("min,t:300ms"),
        is_dynamic: true,
        receivers: 2,
        control: Some(sender_address()),
        ..Options::default()
    }
}

#[test]
fn the_slowest_receiver_of_a_group_holds_it_until_it_is_silent() {
    let mut rig = Rig::with(group());
    rig.run(150 * MS, 100 * US);
    assert_eq!(rig.readers.len(), 2);
    assert_eq!(rig.publication.counters.receivers.as_ref().unwrap().get(), 2);
    rig.readers[1].is_stuck = true;
    for _ in 0..200 {
        let _full = rig.offer(&message(0, 1_000));
        rig.step(10 * US);
    }
    let held = rig.publication.counters.sender_position.get();
    assert!(held <= 32_768 && held > 31_000, "{held}");
    rig.net.lose(|sent| sent.from == receiver_address(1));
    rig.run(400 * MS, 100 * US);
    assert_eq!(rig.publication.counters.receivers.as_ref().unwrap().get(), 1);
    assert!(rig.publication.counters.sender_position.get() > held);
}

#[test]
fn one_receiver_of_a_group_that_leaves_does_not_end_the_stream() {
    let mut rig = Rig::with(group());
    rig.run(150 * MS, 100 * US);
    rig.remove_interest(1);
    rig.run(SECOND, MS);
    assert!(!rig.publication.shared.is_eos_acknowledged.load(Ordering::Acquire));
    assert_eq!(rig.publication.counters.receivers.as_ref().unwrap().get(), 1);
    assert!(rig.publication.file.log.is_connected());
}

#[test]
fn receivers_of_a_dynamic_channel_ask_for_its_setup_every_second() {
    let mut rig = Rig::with(group());
    rig.net.lose(|sent| sent.to == sender_address());
    rig.run(3_500 * MS, MS);
    let sent = rig.net.take_sent();
    let asks: Vec<_> = sent.iter().filter(|sent| sent.from == receiver_address(0)).collect();
    assert_eq!(asks.len(), 1 + 4, "one when it opens, one with its interest, then one a second");
    for ask in asks {
        let Frame::StatusMessage(ask) = ask.frame() else { unreachable!() };
        assert_eq!((ask.flags, ask.session_id, ask.stream_id), (flag::SM_SEND_SETUP, 0, 0));
    }
    assert_eq!(rig.resolutions, []);
    rig.run(3 * SECOND, MS);
    assert!(rig.resolutions.contains(&10), "a silent control address is looked up again");
}

#[test]
fn dynamic_destinations_go_when_they_are_silent() {
    let mut rig = Rig::with(group());
    rig.run(150 * MS, 100 * US);
    rig.net.lose(|sent| sent.from == receiver_address(1));
    rig.run(5_100 * MS, MS);
    rig.net.take_sent();
    rig.run(300 * MS, MS);
    let sent = rig.net.take_sent();
    assert!(sent.iter().any(|sent| sent.to == receiver_address(0)));
    assert!(sent.iter().all(|sent| sent.to != receiver_address(1)));
}

#[test]
fn tagged_receivers_carry_their_tag() {
    let mut rig = Rig::with(Options { group_tag: Some(5), ..Options::default() });
    rig.connect();
    let sent = rig.net.take_sent();
    let status = sent.iter().find(|sent| matches!(sent.frame(), Frame::StatusMessage(_))).unwrap();
    assert_eq!(status.bytes.len(), 44);
    let Frame::StatusMessage(status) = status.frame() else { unreachable!() };
    assert_eq!(status.group_tag, Some(5));
}
