//! Sender and receiver together, over a network in memory (spec 02 §2–§4, §8).

mod floods;
mod golden;
mod groups;
mod hostile;
mod life;
mod names;
mod net;
mod options;
mod reader;
mod responses;
mod rig;
mod tethers;
mod windows;

use std::sync::atomic::Ordering;

use harrier_protocol::udp::{Frame, flag, frame_type};
use harrier_ringbuf::{Agent, Rng};

use crate::handover::{ImageState, ReceiverCommand, RefusedUntil, SenderCommand};
use crate::system_counters::SystemCounter as C;
use net::Sent;
use rig::{MS, Options, Rig, SECOND, SESSION, STREAM, US, sender_address};

fn message(number: usize, length: usize) -> Vec<u8> {
    (0..length).map(|at| (number * 31 + at) as u8).collect()
}

/// Publishes `count` messages of different lengths, some of them in fragments.
fn publish_many(rig: &mut Rig, count: usize) -> Vec<Vec<u8>> {
    let messages: Vec<_> = (0..count).map(|number| message(number, 1 + (number * 97) % 3_000)).collect();
    for message in &messages {
        rig.publish(message);
    }
    messages
}

fn is_data(sent: &Sent) -> bool {
    matches!(sent.frame(), Frame::Data(data) if !data.is_heartbeat())
}

fn heartbeat_flags(sent: &Sent) -> Option<u8> {
    match sent.frame() {
        Frame::Data(data) if data.is_heartbeat() => Some(data.first.flags),
        _ => None,
    }
}

#[test]
fn a_stream_starts_with_setup_status_heartbeat_and_data() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"first");
    rig.run(MS, 10 * US);
    let kinds: Vec<u16> =
        rig.net.take_sent().iter().map(|sent| u16::from_le_bytes([sent.bytes[6], sent.bytes[7]])).collect();
    assert_eq!(kinds, [frame_type::SETUP, frame_type::SM, frame_type::DATA, frame_type::DATA]);
    assert_eq!(rig.readers[0].messages, [b"first"]);
    assert_eq!((rig.count(C::HeartbeatsSent), rig.count(C::HeartbeatsReceived)), (1, 1));
    assert_eq!((rig.count(C::StatusMessagesSent), rig.count(C::StatusMessagesReceived)), (1, 1));
    assert_eq!(rig.count(C::BytesSent), 40 + 36 + 32 + 64);
    assert_eq!(rig.count(C::BytesReceived), rig.count(C::BytesSent));
}

#[test]
fn messages_arrive_in_order_over_many_terms_and_wrapping_ids() {
    let mut rig = Rig::with(Options { initial_term_id: i32::MAX - 1, ..Options::default() });
    rig.connect();
    let expected = publish_many(&mut rig, 400);
    rig.run(10 * MS, 10 * US);
    assert!(rig.appender.position() > 8 * rig::TERM_LENGTH as i64);
    assert!(rig.readers[0].messages == expected);
    assert_eq!((rig.count(C::NaksSent), rig.count(C::InvalidPackets)), (0, 0));
    assert_eq!((rig.count(C::FlowControlOverRuns), rig.count(C::FlowControlUnderRuns)), (0, 0));
}

#[test]
fn short_messages_share_a_datagram() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    rig.net.take_sent();
    for number in 0..3 {
        rig.offer(&message(number, 5)).unwrap();
    }
    rig.step(10 * US);
    let data: Vec<usize> =
        rig.net.take_sent().iter().filter(|sent| is_data(sent)).map(|sent| sent.bytes.len()).collect();
    assert_eq!(data, [3 * 64]);
}

#[test]
fn a_lost_datagram_is_asked_for_and_repeated() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    rig.net.take_sent();
    let mut count = 0;
    rig.net.lose(move |sent| {
        count += usize::from(is_data(sent));
        count == 2 && is_data(sent)
    });
    let expected: Vec<_> = (0..5).map(|number| message(number, 1_000)).collect();
    for message in &expected {
        rig.publish(message);
        rig.step(10 * US);
    }
    rig.run(MS, 10 * US);
    assert!(rig.readers[0].messages == expected);
    let sent = rig.net.take_sent();
    let naks: Vec<_> = sent.iter().filter(|sent| matches!(sent.frame(), Frame::Nak(_))).collect();
    let Frame::Nak(nak) = naks[0].frame() else { unreachable!() };
    assert_eq!((nak.session_id, nak.stream_id, nak.term_id), (SESSION, STREAM, 100));
    assert_eq!((nak.term_offset, nak.length), (1_056, 1_056));
    assert_eq!(naks[0].to, sender_address());
    assert_eq!((rig.count(C::NaksSent), rig.count(C::NaksReceived)), (1, 1));
    assert_eq!((rig.count(C::RetransmitsSent), rig.count(C::RetransmittedBytes)), (1, 1_056));
    assert_eq!(rig.readers[0].image.counters.naks_sent.get(), 1);
    assert_eq!(rig.publication.counters.naks_received.get(), 1);
    let losses = rig.losses();
    assert_eq!((losses[0].observation_count, losses[0].total_bytes_lost), (1, 1_056));
}

#[test]
fn a_gap_that_nobody_fills_is_asked_for_every_retry_interval() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    // The first datagram of data and all its copies.
    rig.net.lose(|sent| matches!(sent.frame(), Frame::Data(data) if !data.is_heartbeat() && data.first.term_offset == 0));
    rig.publish(&message(0, 100));
    rig.step(10 * US);
    rig.publish(&message(1, 100));
    rig.run(50 * MS, 10 * US);
    let naks = rig.count(C::NaksSent);
    assert!((400..=500).contains(&naks), "{naks}");
    // Each repeat lingers for 10 ms, so only five of the NAKs are answered.
    assert!((4..=6).contains(&rig.count(C::RetransmitsSent)));
    assert_eq!(rig.losses()[0].observation_count, 1);
}

#[test]
fn a_tail_loss_is_found_by_the_heartbeat() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    let mut is_first = true;
    rig.net.lose(move |sent| is_data(sent) && std::mem::take(&mut is_first));
    rig.publish(b"last");
    rig.run(50 * MS, 10 * US);
    assert!(rig.readers[0].messages.is_empty());
    rig.run(60 * MS, 10 * US);
    assert_eq!(rig.readers[0].messages, [b"last"]);
}

#[test]
fn whatever_is_lost_doubled_or_late_arrives_once_and_in_order() {
    for seed in 0..12 {
        let mut rig = Rig::with(Options { initial_term_id: -3, ..Options::default() });
        let (mut rng, net) = (Rng::new(seed), rig.net.clone());
        let late = std::sync::Mutex::new(Vec::<Sent>::new());
        rig.net.lose(move |_| rng.chance(15, 100));
        rig.connect();
        let mut expected = Vec::new();
        let mut chaos = Rng::new(seed + 1_000);
        for number in 0..120 {
            let message = message(number, 1 + chaos.below(2_500) as usize);
            rig.publish(&message);
            expected.push(message);
            rig.run(chaos.below(40) as i64 * US, 10 * US);
            // Duplicates of some datagrams arrive, some of them much later.
            let mut late = late.lock().unwrap();
            late.extend(net.take_sent().into_iter().filter(|_| chaos.chance(20, 100)));
            while late.len() > 8 {
                let copy = late.swap_remove(chaos.below(8) as usize);
                net.inject(copy.from, copy.to, &copy.bytes);
            }
        }
        rig.run(500 * MS, 50 * US);
        assert!(rig.readers[0].messages == expected, "seed {seed}: {}", rig.readers[0].messages.len());
        assert_eq!(rig.readers.len(), 1, "seed {seed}");
    }
}

#[test]
fn an_unreliable_image_fills_its_gaps_itself() {
    let mut rig = Rig::with(Options { is_reliable: false, ..Options::default() });
    rig.connect();
    rig.run(MS, 10 * US);
    let mut count = 0;
    rig.net.lose(move |sent| {
        count += usize::from(is_data(sent));
        count == 2 && is_data(sent)
    });
    for number in 0..3 {
        rig.publish(&message(number, 100));
        rig.step(10 * US);
    }
    rig.run(MS, 10 * US);
    assert_eq!(rig.readers[0].messages, [message(0, 100), message(2, 100)]);
    assert_eq!((rig.count(C::LossGapFills), rig.count(C::NaksSent)), (1, 0));
}

#[test]
fn idle_streams_are_kept_alive_by_heartbeats_and_status_messages() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 100 * US);
    rig.net.take_sent();
    rig.run(20 * SECOND, MS);
    let sent = rig.net.take_sent();
    let heartbeats: Vec<u8> = sent.iter().filter_map(heartbeat_flags).collect();
    assert!((190..=200).contains(&heartbeats.len()), "{}", heartbeats.len());
    assert!(heartbeats.iter().all(|flags| *flags == 0xC0));
    let status = sent.iter().filter(|sent| matches!(sent.frame(), Frame::StatusMessage(_))).count();
    assert!((98..=100).contains(&status), "{status}");
    assert_eq!(rig.readers[0].image.shared.state(), ImageState::Active);
    assert!(rig.publication.file.log.is_connected());
    assert_eq!(rig.readers[0].image.file.log.active_transport_count(), 1);
}

#[test]
fn the_end_of_a_stream_is_told_both_ways() {
    let mut rig = Rig::new();
    rig.connect();
    let expected = publish_many(&mut rig, 20);
    rig.publication.release();
    rig.net.take_sent();
    rig.run(150 * MS, 100 * US);
    assert!(rig.readers[0].messages == expected);
    let sent = rig.net.take_sent();
    assert!(sent.iter().filter_map(heartbeat_flags).any(|flags| flags == 0xE0));
    let eos_status = |sent: &Sent| matches!(sent.frame(), Frame::StatusMessage(s) if s.flags == flag::SM_EOS);
    assert!(sent.iter().any(eos_status));
    let image_log = &rig.readers[0].image.file.log;
    assert_eq!(image_log.end_of_stream_position(), rig.appender.position());
    rig.run(10 * MS, MS);
    assert!(rig.is_publication_gone, "the status message ends the linger time early");
    rig.run(1_100 * MS, 5 * MS);
    assert!(rig.readers.is_empty());
    assert_eq!(rig.released, [101]);
}

#[test]
fn a_stream_whose_end_is_lost_ends_by_timeouts() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"x");
    rig.run(MS, 100 * US);
    rig.net.lose(|_| true);
    rig.publication.release();
    rig.run(5_100 * MS, 5 * MS);
    assert!(rig.is_publication_gone);
    assert_eq!(rig.readers.len(), 1);
    let log = rig.readers[0].image.file.log.clone();
    assert_eq!(log.active_transport_count(), 1);
    rig.run(6_100 * MS, 5 * MS);
    assert!(rig.readers.is_empty());
    // Readers of the image see that no transport feeds it any more.
    assert_eq!(log.active_transport_count(), 0);
}

#[test]
fn a_revoked_stream_ends_at_once_with_a_last_status_message() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"x");
    rig.run(MS, 100 * US);
    rig.publication.file.log.set_publication_revoked();
    rig.publication.release();
    rig.net.take_sent();
    rig.run(120 * MS, 100 * US);
    let sent = rig.net.take_sent();
    assert!(sent.iter().filter_map(heartbeat_flags).any(|flags| flags == 0xF0));
    assert!(sent.iter().any(|s| matches!(s.frame(), Frame::StatusMessage(s) if s.flags & flag::SM_EOS != 0)));
    assert_eq!((rig.count(C::PublicationsRevoked), rig.count(C::PublicationImagesRevoked)), (1, 1));
    assert!(rig.is_publication_gone && rig.readers.is_empty());
}

#[test]
fn a_revoke_of_an_incomplete_image_still_answers_with_its_end() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 100 * US);
    rig.net.lose(is_data);
    rig.publish(b"lost");
    rig.run(MS, 100 * US);
    rig.publication.file.log.set_publication_revoked();
    rig.publication.release();
    rig.net.take_sent();
    rig.run(120 * MS, 100 * US);
    let is_end = |s: &Sent| matches!(s.frame(), Frame::StatusMessage(s) if s.flags & flag::SM_EOS != 0);
    assert_eq!(rig.net.take_sent().iter().filter(|sent| is_end(sent)).count(), 1);
    assert!(rig.is_publication_gone && rig.readers.is_empty());
}

#[test]
fn a_slow_subscriber_stops_the_sender_and_lets_it_go_on() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    rig.readers[0].is_stuck = true;
    while rig.offer(&message(0, 1_000)).is_ok() {
        rig.step(10 * US);
    }
    rig.run(10 * MS, 10 * US);
    // The receiver takes half a term; the publisher may be half a term ahead of the sender.
    let position = rig.publication.counters.sender_position.get();
    assert!((31 * 1_024..=32_768).contains(&position), "{position}");
    assert!(rig.appender.position() > position + 31 * 1_024);
    assert_eq!(rig.publication.counters.back_pressure_events.get(), 1);
    assert_eq!(rig.count(C::SenderFlowControlLimits), 1);
    rig.readers[0].is_stuck = false;
    rig.run(10 * MS, 10 * US);
    assert_eq!(rig.publication.counters.sender_position.get(), rig.appender.position());
    assert_eq!(rig.count(C::FlowControlOverRuns), 0);
}

#[test]
fn a_short_send_is_repeated_and_moves_nothing() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    rig.net.set_room(Some(0));
    rig.publish(b"x");
    rig.run(MS, 100 * US);
    assert_eq!(rig.publication.counters.sender_position.get(), 0);
    assert!(rig.count(C::ShortSends) >= 10);
    rig.net.set_room(None);
    rig.run(MS, 100 * US);
    assert_eq!(rig.readers[0].messages, [b"x"]);
}

#[test]
fn a_batch_that_is_sent_in_part_goes_on_where_it_ended() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    rig.net.set_room(Some(1));
    for number in 0..4 {
        rig.offer(&message(number, 1_000)).unwrap();
    }
    rig.step(10 * US);
    assert_eq!(rig.publication.counters.sender_position.get(), 1_056);
    rig.run(MS, 10 * US);
    assert_eq!(rig.readers[0].messages.len(), 4);
    assert_eq!((rig.count(C::ShortSends), rig.count(C::NaksSent)), (3, 0));
}

#[test]
fn each_failing_socket_is_reported_once_a_second() {
    let mut rig = Rig::new();
    rig.connect();
    rig.net.set_failing(true);
    rig.publish(b"x");
    rig.run(2_500 * MS, MS);
    for socket in ["127.0.0.1:1000", "127.0.0.1:2000"] {
        let text = format!("WARN: datagram send failed on {socket}: permission denied");
        assert_eq!(rig.errors.iter().filter(|error| **error == text).count(), 3, "{:?}", rig.errors);
    }
    assert_eq!(rig.errors.len(), 6, "{:?}", rig.errors);
    rig.net.set_failing(false);
    rig.run(MS, 100 * US);
    assert_eq!(rig.readers[0].messages, [b"x"]);
}

#[test]
fn spies_alone_keep_a_stream_going() {
    let mut rig = Rig::with(Options {
        channel: "aeron:udp?endpoint=127.0.0.1:2000|term-length=64k|ssc=true".into(),
        receivers: 0,
        ..Options::default()
    });
    let spy = rig.new_counter(0);
    rig.publication.spies.add(9, spy.clone(), true, true, rig.now.ns);
    rig.publication.on_spies_changed();
    assert!(rig.publication.file.log.is_connected());
    for number in 0..200 {
        rig.publish(&message(number, 1_000));
        spy.set_ordered(rig.appender.position());
        rig.step(10 * US);
    }
    rig.run(MS, 10 * US);
    assert_eq!(rig.publication.counters.sender_position.get(), rig.appender.position());
    assert!(rig.net.take_sent().iter().all(|sent| !is_data(sent)));
}

#[test]
fn a_rejected_image_answers_with_errors_until_it_has_timed_out() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"x");
    rig.run(MS, 10 * US);
    let correlation_id = rig.readers[0].image.identity.correlation_id;
    rig.tell_receiver(ReceiverCommand::RejectImage { correlation_id, reason: "bad data".into() });
    rig.net.take_sent();
    rig.run(9_900 * MS, MS);
    let errors = rig.net.take_sent();
    let errors: Vec<_> = errors.iter().filter(|sent| matches!(sent.frame(), Frame::Error(_))).collect();
    assert!((48..=50).contains(&errors.len()), "{}", errors.len());
    assert_eq!(rig.count(C::ErrorFramesSent), rig.count(C::ErrorFramesReceived));
    assert_eq!(rig.refusals, [(900, 13, "bad data".to_owned())]);
    assert!(!rig.publication.file.log.is_connected());
    rig.makes_images = false;
    rig.run(1_500 * MS, MS);
    assert!(rig.readers.is_empty());
}

#[test]
fn an_image_comes_again_after_its_subscription_did() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"one");
    rig.run(MS, 10 * US);
    rig.remove_interest(0);
    rig.net.take_sent();
    rig.run(20 * MS, 100 * US);
    let is_end = |s: &Sent| matches!(s.frame(), Frame::StatusMessage(s) if s.flags == flag::SM_EOS);
    assert!(rig.net.take_sent().iter().any(is_end));
    rig.run(2 * SECOND, MS);
    assert!(rig.readers.is_empty());
    rig.add_interest(0, None);
    rig.run(300 * MS, MS);
    rig.publish(b"two");
    rig.run(MS, 10 * US);
    assert_eq!(rig.readers[0].messages, [b"two"]);
}

#[test]
fn the_end_of_a_receiver_that_left_is_not_that_of_the_next() {
    let mut rig = Rig::new();
    rig.connect();
    rig.remove_interest(0);
    rig.run(2 * SECOND, MS);
    rig.add_interest(0, None);
    rig.run(300 * MS, MS);
    let mut is_first = true;
    rig.net.lose(move |sent| std::mem::take(&mut is_first) && is_data(sent));
    rig.publish(b"the last message");
    rig.publication.release();
    rig.run(10 * MS, 100 * US);
    assert!(!rig.is_publication_gone);
    rig.run(150 * MS, 100 * US);
    assert_eq!(rig.readers[0].messages, [b"the last message"]);
    assert!(rig.is_publication_gone);
}

#[test]
fn an_image_that_nobody_wants_any_more_is_given_back() {
    let mut rig = Rig::new();
    rig.makes_images = false;
    rig.run(MS, 10 * US);
    assert_eq!(rig.requests, 1);
    rig.run(5 * SECOND, MS);
    assert_eq!(rig.requests, 1, "the conductor is asked once");
    rig.makes_images = true;
    let (endpoint_id, stream_id, session_id, until) = (10, STREAM, SESSION, RefusedUntil::NextSetup);
    rig.tell_receiver(ReceiverCommand::RefuseImage { endpoint_id, stream_id, session_id, until });
    rig.run(200 * MS, MS);
    assert_eq!((rig.requests, rig.readers.len()), (2, 1));
    rig.tell_receiver(ReceiverCommand::RemoveEndpoint { endpoint_id: 10 });
    rig.run(10 * MS, MS);
    assert_eq!(rig.released, [10]);
}

#[test]
fn releases_wait_for_a_full_queue() {
    let mut rig = Rig::with(Options { queue: 1, ..Options::default() });
    rig.run(MS, 100 * US);
    rig.takes_replies = false;
    for endpoint_id in [1, 2, 3] {
        rig.tell_sender(SenderCommand::RemovePublication { registration_id: endpoint_id });
    }
    rig.tell_sender(SenderCommand::RemoveEndpoint { endpoint_id: 1 });
    rig.run(MS, 100 * US);
    assert!(rig.count(C::FailedConductorOffers) > 0);
    assert_eq!(rig.released, []);
    rig.takes_replies = true;
    rig.run(MS, 100 * US);
    assert_eq!(rig.released, [1]);
}

#[test]
fn round_trips_are_measured_and_answered() {
    let mut rig = Rig::with(Options { congestion: "cubic", measures_rtt: true, ..Options::default() });
    rig.connect();
    rig.run(10 * MS, 50 * US);
    let sent = rig.net.take_sent();
    let asked = sent
        .iter()
        .filter(|sent| matches!(sent.frame(), Frame::Rttm(rttm) if rttm.flags == flag::RTTM_REPLY))
        .count();
    let answered = sent.iter().filter(|sent| matches!(sent.frame(), Frame::Rttm(r) if r.flags == 0)).count();
    assert!((10..=25).contains(&asked), "{asked}");
    assert!(asked - answered <= 1, "{asked} {answered}");
    let rtt_ns = rig.readers[0].image.shared.rtt_ns.load(Ordering::Acquire);
    assert!((1..=100 * US).contains(&rtt_ns), "{rtt_ns}");
}

#[test]
fn a_cubic_window_is_told_at_once_when_it_shrinks() {
    let mut rig = Rig::with(Options { congestion: "cubic", ..Options::default() });
    rig.connect();
    rig.run(MS, 10 * US);
    let mut count = 0;
    rig.net.lose(move |sent| {
        count += usize::from(is_data(sent));
        count == 2 && is_data(sent)
    });
    let before = rig.readers[0].image.untethered_limit();
    for number in 0..4 {
        rig.publish(&message(number, 1_000));
        rig.step(10 * US);
    }
    rig.net.take_sent();
    rig.run(MS, 10 * US);
    let windows: Vec<i32> = rig
        .net
        .take_sent()
        .iter()
        .filter_map(|sent| match sent.frame() {
            Frame::StatusMessage(status) => Some(status.receiver_window),
            _ => None,
        })
        .collect();
    assert!(before < 0 && !windows.is_empty());
    assert_eq!(rig.readers[0].messages.len(), 4);
}

#[test]
fn interceptors_lose_what_is_received() {
    let mut rig = Rig::with(Options {
        interceptors: ("loss", "rate=0.2|seed=3|recv-msg-mask=0x2", ""),
        ..Options::default()
    });
    rig.connect();
    let expected = publish_many(&mut rig, 100);
    rig.run(300 * MS, 50 * US);
    assert!(rig.readers[0].messages == expected);
    assert!(rig.count(C::NaksSent) > 5);
}

#[test]
fn gaps_of_an_interceptor_are_repaired() {
    let arguments = "term-id=100|gap-radix=4096|gap-length=1408|total-gaps=10";
    let mut rig =
        Rig::with(Options { interceptors: ("multi-gap-loss", "", arguments), ..Options::default() });
    rig.connect();
    let expected = publish_many(&mut rig, 60);
    rig.run(300 * MS, 50 * US);
    assert!(rig.readers[0].messages == expected);
    assert!(rig.count(C::RetransmitsSent) >= 10);
}

#[test]
fn delayed_retransmits_come_after_their_delay() {
    let mut rig = Rig::with(Options { retransmit_delay_ns: 5 * MS, ..Options::default() });
    rig.connect();
    rig.run(MS, 10 * US);
    let mut is_first = true;
    rig.net.lose(move |sent| is_data(sent) && std::mem::take(&mut is_first));
    rig.publish(&message(0, 100));
    rig.step(10 * US);
    rig.publish(&message(1, 100));
    rig.run(4 * MS, 10 * US);
    assert!(rig.readers[0].messages.is_empty());
    assert!(rig.sender.next_deadline().unwrap() <= rig.now.ns + 2 * MS);
    rig.run(2 * MS, 10 * US);
    assert_eq!(rig.readers[0].messages.len(), 2);
    assert_eq!(rig.count(C::RetransmitsSent), 1);
}

#[test]
fn deadlines_lie_ahead_so_that_a_simulator_can_jump() {
    let mut rig = Rig::new();
    rig.connect();
    rig.net.lose(|_| true);
    for _ in 0..2_000 {
        rig.run(10 * MS, 10 * MS);
        for deadline_ns in [rig.sender.next_deadline(), rig.receiver.next_deadline()].into_iter().flatten() {
            assert!(deadline_ns > rig.now.ns, "{deadline_ns} at {}", rig.now.ns);
        }
    }
    assert!(rig.readers.is_empty());
}

#[test]
fn cycle_times_are_tracked() {
    let mut rig = Rig::new();
    rig.step(MS);
    rig.step(MS);
    rig.step(150 * MS);
    assert_eq!(rig.count(C::SenderMaxCycleTime), 150 * MS);
    assert_eq!(rig.count(C::ReceiverMaxCycleTime), 150 * MS);
    assert_eq!(rig.count(C::SenderCycleTimeThresholdExceeded), 1);
    assert_eq!(rig.count(C::ReceiverCycleTimeThresholdExceeded), 1);
}
