//! Subscribers that are left behind, and images that nobody feeds any more (spec 02 §3.7, §3.11).

use harrier_protocol::udp::{Frame, StatusMessage, flag};

use super::rig::{MS, Rig, SESSION, STREAM, TERM_LENGTH, US, receiver_address, sender_address};
use crate::handover::ImageState;
use crate::subscribers::{TetherChange, UntetheredTimeouts};

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
        // As long as receivers ask it answers.
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
    // It is too slow by any measure.
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
