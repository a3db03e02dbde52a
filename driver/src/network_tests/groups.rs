//! Several receivers of one stream, and several routes to one receiver (spec 02 §2.9, §3.12, §4).

use std::sync::atomic::Ordering;

use harrier_protocol::udp::{DATA_HEADER_LENGTH, DataHeader, Frame, flag};

use super::net::Sent;
use super::rig::{MS, Options, Rig, SECOND, SESSION, STREAM, US, address, receiver_address, sender_address};
use super::{heartbeat_flags, is_data, message, publish_many};
use crate::handover::{ImageState, ReceiverCommand};
use crate::receiver::transport::MulticastGroup;
use crate::system_counters::SystemCounter as C;

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

/// Returns a subscription with two destinations that both receive the stream.
fn two_ways() -> Rig {
    let mut rig = Rig::with(Options { is_manual_receiver: true, receivers: 1, ..group() });
    rig.add_destination(0);
    rig.add_destination(1);
    rig.run(250 * MS, 100 * US);
    assert_eq!(rig.readers.len(), 1);
    rig
}

#[test]
fn a_stream_that_comes_twice_is_read_once_and_answered_both_ways() {
    let mut rig = two_ways();
    rig.net.take_sent();
    let expected = publish_many(&mut rig, 60);
    rig.run(300 * MS, 100 * US);
    assert!(rig.readers[0].messages == expected);
    assert_eq!(rig.readers[0].image.file.log.active_transport_count(), 2);
    let sent = rig.net.take_sent();
    for number in 0..2 {
        let status = sent.iter().filter(|sent| {
            sent.from == receiver_address(number) && matches!(sent.frame(), Frame::StatusMessage(_))
        });
        assert!(status.count() >= 2);
    }
}

/// On one route the sender may hear nobody, for instance when one of its destinations is a group.
#[test]
fn a_setup_is_asked_for_once_on_each_way() {
    let mut rig = two_ways();
    rig.net.take_sent();
    let other = DataHeader::heartbeat(SESSION + 1, STREAM, 100, 0, 0xC0);
    let mut heartbeat = [0; DATA_HEADER_LENGTH];
    other.encode(&mut heartbeat).unwrap();
    for _ in 0..3 {
        for number in 0..2 {
            rig.net.inject(sender_address(), receiver_address(number), &heartbeat);
        }
        rig.run(10 * MS, MS);
    }
    let sent = rig.net.take_sent();
    let is_asking = |sent: &&Sent| {
        let Frame::StatusMessage(status) = sent.frame() else { return false };
        status.is_send_setup() && status.session_id == SESSION + 1
    };
    let asked: Vec<_> = sent.iter().filter(is_asking).map(|sent| sent.from).collect();
    assert_eq!(asked, [receiver_address(0), receiver_address(1)]);
}

#[test]
fn a_way_that_loses_everything_loses_nothing() {
    let mut rig = two_ways();
    rig.net.lose(|sent| is_data(sent) && sent.to == receiver_address(1));
    let expected = publish_many(&mut rig, 60);
    rig.run(10 * MS, 100 * US);
    assert!(rig.readers[0].messages == expected);
    assert_eq!(rig.count(C::RetransmitsSent), 0);
}

#[test]
fn a_stream_ends_when_it_has_ended_in_all_ways_that_are_left() {
    let mut rig = two_ways();
    rig.net.lose(|sent| sent.to == receiver_address(1) && heartbeat_flags(sent) == Some(0xE0));
    rig.publication.release();
    rig.run(500 * MS, MS);
    assert_eq!(rig.readers[0].image.shared.state(), ImageState::Active);
    rig.tell_receiver(ReceiverCommand::RemoveDestination { endpoint_id: 10, registration_id: 301 });
    rig.run(10 * MS, MS);
    assert_eq!(rig.readers[0].image.shared.state(), ImageState::Draining);
    assert_eq!(rig.readers[0].image.file.log.end_of_stream_position(), 0);
}

#[test]
fn a_destination_that_was_removed_can_be_added_again() {
    let mut rig = two_ways();
    for number in [0, 1] {
        let registration_id = 300 + i64::from(number);
        rig.tell_receiver(ReceiverCommand::RemoveDestination { endpoint_id: 10, registration_id });
        rig.run(10 * MS, MS);
        rig.publish(b"while one is away");
        rig.run(10 * MS, MS);
        rig.add_destination(number);
        rig.run(200 * MS, MS);
    }
    assert_eq!(rig.readers[0].messages.len(), 2);
    rig.run(SECOND, MS);
    assert_eq!(rig.readers[0].image.file.log.active_transport_count(), 2);
}

#[test]
fn receivers_of_a_multicast_group_answer_to_its_control_group() {
    let control = address(9_999);
    let multicast = Some(MulticastGroup { control, ttl: 3 });
    let mut rig = Rig::with(Options { multicast, ttl: 4, ..Options::default() });
    rig.run(250 * MS, MS);
    assert_eq!(rig.count(C::PossibleTtlAsymmetry), 1);
    let sent = rig.net.take_sent();
    let mut answers = sent.iter().filter(|sent| sent.from == receiver_address(0)).peekable();
    assert!(answers.peek().is_some());
    assert!(answers.all(|sent| sent.to == control));
}

#[test]
fn few_of_many_receivers_ask_for_what_all_have_lost() {
    const RECEIVERS: usize = 10;
    const GAPS: usize = 20;
    let options = Options { flow_control: Some("max"), receivers: RECEIVERS as u16, ..group() };
    let mut rig = Rig::with(Options { backs_off: true, ..options });
    rig.run(250 * MS, 100 * US);
    assert_eq!(rig.readers.len(), RECEIVERS);
    // The network loses each second of three datagrams once for all receivers.
    let mut losses = std::collections::BTreeMap::<i32, usize>::new();
    rig.net.lose(move |sent| {
        let Ok(Frame::Data(data)) = Frame::decode(&sent.bytes) else { return false };
        let number = data.first.term_offset / 1_056;
        let lost = losses.entry(number).or_default();
        *lost += 1;
        is_data(sent) && number % 3 == 1 && *lost <= RECEIVERS
    });
    let mut expected = Vec::new();
    for gap in 0..GAPS {
        for number in 3 * gap..3 * gap + 3 {
            expected.push(message(number, 1_000));
            rig.publish(&expected[number]);
        }
        rig.run(30 * MS, 100 * US);
    }
    assert!(rig.readers.iter().all(|reader| reader.messages == expected));
    // Without the random delay each receiver would send a NAK for each gap.
    let asked = rig.count(C::NaksSent);
    assert!(asked >= GAPS as i64 && asked < (GAPS * RECEIVERS / 3) as i64, "{asked}");
    assert_eq!(rig.count(C::RetransmitsSent), GAPS as i64);
}

#[test]
fn many_destinations_get_all_of_a_stream_in_spite_of_a_short_queue() {
    let mut rig = Rig::with(Options { flow_control: Some("max"), receivers: 20, ..group() });
    rig.run(250 * MS, 100 * US);
    assert_eq!(rig.readers.len(), 20);
    let expected = publish_many(&mut rig, 60);
    rig.run(10 * MS, 100 * US);
    assert!(rig.readers.iter().all(|reader| reader.messages == expected));
    assert_eq!((rig.count(C::ShortSends), rig.count(C::NaksSent)), (0, 0));
}

#[test]
fn a_short_send_to_one_destination_is_repeated_to_all() {
    let mut rig = Rig::with(group());
    rig.run(250 * MS, 100 * US);
    let before = rig.count(C::ShortSends);
    rig.net.set_room(Some(3));
    for number in 0..2 {
        rig.offer(&message(number, 1_000)).unwrap();
    }
    rig.step(10 * US);
    assert_eq!(rig.count(C::ShortSends), before + 1);
    assert_eq!(rig.publication.counters.sender_position.get(), 1_056);
    rig.net.set_room(None);
    rig.run(MS, 10 * US);
    assert!(rig.readers.iter().all(|reader| reader.messages == [message(0, 1_000), message(1, 1_000)]));
}
