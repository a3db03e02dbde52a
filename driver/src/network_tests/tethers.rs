//! Subscribers that are left behind, and images without a sender (spec 02 §3.7, §3.11).

use std::sync::atomic::Ordering;

use harrier_protocol::udp::{Frame, StatusMessage, flag};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::counters::AtomicCounter;

use super::message;
use super::rig::{
    MS, Options, Rig, SECOND, SESSION, STREAM, TERM_LENGTH, US, receiver_address, sender_address,
};
use crate::handover::ImageState;
use crate::subscribers::{TetherChange, UntetheredTimeouts};
use crate::system_counters::SystemCounter as C;

#[test]
fn one_that_holds_back_all_of_the_window_but_less_than_a_frame_is_too_slow() {
    let mut rig = Rig::new();
    rig.connect();
    let image = &mut rig.readers[0].image;
    let window = TERM_LENGTH as i64 / 2;
    image.subscribers.iter().for_each(|one| one.position.set_ordered(window - 1_376));
    image.counters.high_water_mark.set_ordered(window - 1_408);
    assert_eq!(image.untethered_limit(), window / 4 - 1_376);
    image.counters.high_water_mark.set_ordered(window - 1_376);
    assert_eq!(image.untethered_limit(), window / 4 - 1_376 + 1_408);
}

#[test]
fn setups_alone_keep_no_image_alive() {
    let mut rig = Rig::new();
    rig.connect();
    rig.net.lose(|sent| sent.from == sender_address() && !matches!(sent.frame(), Frame::Setup(_)));
    let elicit = |rig: &mut Rig| {
        // The sender answers as long as receivers ask.
        let status = StatusMessage {
            flags: flag::SM_SEND_SETUP,
            session_id: SESSION,
            stream_id: STREAM,
            consumption_term_id: 0,
            consumption_term_offset: 0,
            receiver_window: 0,
            receiver_id: 7,
            group_tag: None,
        };
        let mut bytes = [0; 36];
        status.encode(&mut bytes).unwrap();
        rig.net.inject(receiver_address(0), sender_address(), &bytes);
        rig.run(200 * MS, MS);
    };
    for _ in 0..49 {
        elicit(&mut rig);
    }
    assert_eq!(rig.readers[0].image.shared.state(), ImageState::Active);
    for _ in 0..2 {
        elicit(&mut rig);
    }
    assert_eq!(rig.readers[0].image.shared.state(), ImageState::Draining);
}

#[test]
fn readers_that_all_rest_come_back_and_others_may_join_them() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"x");
    rig.run(MS, 10 * US);
    let position = rig.new_counter(0);
    let image = &mut rig.readers[0].image;
    image.subscribers.add(2, position.clone(), false, true, 0);
    let timeouts = UntetheredTimeouts { window_limit_ns: 10, linger_ns: 20, resting_ns: 30 };
    // This position makes the subscriber too slow for any window.
    position.set_ordered(-(TERM_LENGTH as i64));
    let mut changes = Vec::new();
    for now_ns in [10, 30, 59, 60] {
        changes.clear();
        if now_ns == 59 {
            image.subscribers.remove(1);
        }
        let (limit, join_position) = (image.untethered_limit(), image.join_position());
        image.subscribers.check_untethered(limit, join_position, &timeouts, now_ns, &mut changes);
        assert!(image.accepts_subscribers(), "{now_ns}");
    }
    let counter_id = position.id();
    assert_eq!(changes, [TetherChange::Available { registration_id: 2, counter_id, join_position: 64 }]);
}

#[test]
fn who_does_not_read_an_image_that_has_ended_keeps_its_session_away_for_a_while_only() {
    let mut rig = Rig::new();
    rig.connect();
    let laggard = rig.new_counter(0);
    rig.readers[0].image.subscribers.add(2, laggard, false, true, rig.now.ns);
    rig.publish(b"before");
    rig.run(MS, 10 * US);
    rig.net.lose(|sent| sent.from == sender_address());
    rig.run(10_100 * MS, MS);
    assert_eq!(rig.readers[0].image.shared.state(), ImageState::Draining);
    let naks = rig.count(C::NaksSent);
    let high_water_mark = rig.readers[0].image.counters.high_water_mark.get();
    rig.net.lose(|_| false);
    for _ in 0..40 {
        rig.run(100 * MS, MS);
        let image = &rig.readers[0].image;
        assert_eq!(
            image.file.log.active_transport_count(),
            0,
            "its sender is heard, and nothing comes of it"
        );
        assert_eq!(image.counters.high_water_mark.get(), high_water_mark);
    }
    assert_eq!((rig.released.len(), rig.count(C::NaksSent)), (0, naks));
    rig.run(3 * SECOND, MS);
    assert_eq!(rig.tether_changes, [TetherChange::Unavailable { registration_id: 2 }]);
    assert_eq!(rig.released, [101]);
    rig.publish(b"after");
    rig.run(MS, 10 * US);
    assert_eq!(rig.readers[0].messages, [b"after"]);
}

/// Publishes as much as possible for a time and reads all of it as a spy; appends the messages to `messages`.
fn spy_for(rig: &mut Rig, spy: &AtomicCounter, ns: i64, messages: &mut Vec<Vec<u8>>) {
    let end_ns = rig.now.ns + ns;
    while rig.now.ns < end_ns {
        loop {
            let next = message(messages.len(), 1 + messages.len() * 37 % 1_300);
            match rig.offer(&next) {
                Ok(_) => messages.push(next),
                Err(OfferError::AdminAction) => {}
                Err(_) => break,
            }
        }
        spy.set_ordered(rig.appender.position());
        rig.step(MS);
    }
}

#[test]
fn a_receiver_joins_a_stream_that_spies_carry_on() {
    let channel = "aeron:udp?endpoint=127.0.0.1:2000|term-length=64k|ssc=true".into();
    let mut rig = Rig::with(Options { channel, ..Options::default() });
    let (spy, mut messages) = (rig.new_counter(0), Vec::new());
    rig.publication.spies.add(9, spy.clone(), true, true, rig.now.ns);
    rig.publication.on_spies_changed();
    rig.net.lose(|sent| sent.to == receiver_address(0));
    spy_for(&mut rig, &spy, SECOND, &mut messages);
    let alone = rig.publication.counters.sender_position.get();
    assert!(alone > 200 * TERM_LENGTH as i64, "where nobody joins spies wait for nobody: {alone}");
    rig.net.lose(|_| false);
    spy_for(&mut rig, &spy, SECOND, &mut messages);
    assert!(rig.count(C::StatusMessagesRejected) > 0, "the first SETUP was sent before anybody was known");
    // The image that was too late ends, and the sender waits for the next one.
    spy_for(&mut rig, &spy, 12 * SECOND, &mut messages);
    assert!(rig.publication.shared.has_receivers.load(Ordering::Acquire));
    rig.run(SECOND, 100 * US);
    let read = &rig.readers[0].messages;
    assert!(read.len() > 100 && messages.ends_with(read), "{} of {}", read.len(), messages.len());
}
