//! Data and heartbeats around the end of the window and of the allocated pages (spec 02 §3.4).

use harrier_protocol::udp::Frame;

use super::hostile::{TERM_ID, connected, data, heartbeat, inject};
use super::net::Sent;
use super::rig::{MS, MTU, Options, Rig, TERM_LENGTH, US, receiver_address, sender_address};
use crate::handover::ImageState;
use crate::system_counters::SystemCounter as C;

#[test]
fn data_outside_the_window_is_counted() {
    let mut rig = Rig::new();
    rig.connect();
    for number in 0..30 {
        rig.publish(&[number; 1_000]);
        rig.step(10 * US);
    }
    rig.run(300 * MS, MS);
    let receiver = receiver_address(0);
    inject(&mut rig, receiver, &data(TERM_ID + 1, 0, 64));
    assert_eq!((rig.count(C::FlowControlOverRuns), rig.count(C::FlowControlUnderRuns)), (1, 0));
    inject(&mut rig, receiver, &heartbeat(TERM_ID + 2, 0, 0));
    assert_eq!((rig.count(C::FlowControlOverRuns), rig.count(C::FlowControlUnderRuns)), (2, 0));
    inject(&mut rig, receiver, &data(TERM_ID, 0, 64));
    assert_eq!((rig.count(C::FlowControlOverRuns), rig.count(C::FlowControlUnderRuns)), (2, 1));
    assert_eq!(rig.count(C::InvalidPackets), 0);
    assert_eq!(rig.readers[0].messages.len(), 30);
}

/// Padding carries a sender past its window: a receiver that has lost all of the window learns of it by heartbeats
/// only.
#[test]
fn a_heartbeat_just_behind_the_window_tells_of_a_gap() {
    let mut rig = Rig::new();
    rig.connect();
    for number in 0..30 {
        rig.publish(&[number; 1_000]);
        rig.step(10 * US);
    }
    rig.run(300 * MS, MS);
    let receiver = receiver_address(0);
    let told = |sent: &Sent| match sent.frame() {
        Frame::StatusMessage(status) => Some(status.consumption_term_offset),
        _ => None,
    };
    let told = rig.net.take_sent().iter().filter_map(told).next_back().unwrap();
    // The window ends inside the first term, so that the sender is at the start of the next one.
    let window_end = told + (TERM_LENGTH / 2) as i32;
    assert!((TERM_LENGTH as i32 - TERM_LENGTH as i32 / 8..TERM_LENGTH as i32).contains(&window_end));
    for (over_runs, (term_id, term_offset)) in
        [(TERM_ID, window_end + 32), (TERM_ID + 1, 32), (TERM_ID + 2, 0)].into_iter().enumerate()
    {
        inject(&mut rig, receiver, &heartbeat(term_id, term_offset, 0));
        rig.run(2 * MS, 10 * US);
        assert_eq!((rig.count(C::FlowControlOverRuns), rig.count(C::NaksSent)), (1 + over_runs as i64, 0));
    }
    inject(&mut rig, receiver, &heartbeat(TERM_ID + 1, 0, 0));
    rig.run(2 * MS, 10 * US);
    assert_eq!(rig.count(C::FlowControlOverRuns), 3);
    assert!(rig.count(C::NaksSent) > 0);
    assert_eq!(rig.readers[0].image.counters.high_water_mark.get(), i64::from(window_end));
}

/// Padding cannot lead to a start of a term that is at least the longest message beyond the window.
#[test]
fn a_heartbeat_too_far_behind_the_window_is_an_over_run() {
    let mut rig = Rig::new();
    rig.connect();
    for number in 0..20 {
        rig.publish(&[number; 1_000]);
        rig.step(10 * US);
    }
    rig.run(300 * MS, MS);
    let read = rig.readers[0].image.counters.rebuild_position.get();
    assert!(read + (TERM_LENGTH / 2 + TERM_LENGTH / 8) as i64 <= TERM_LENGTH as i64);
    inject(&mut rig, receiver_address(0), &heartbeat(TERM_ID + 1, 0, 0));
    assert_eq!(rig.count(C::FlowControlOverRuns), 1);
    assert_eq!(rig.readers[0].image.counters.high_water_mark.get(), read);
}

/// A reader that was outrun ends with the image time-out, so that it can read the rest elsewhere.
#[test]
fn the_image_of_an_outrun_reader_is_not_kept_alive_by_heartbeats() {
    let mut rig = connected();
    rig.run(300 * MS, MS);
    // Only heartbeats from the sender's later position still arrive.
    rig.net.lose(|sent| sent.from == sender_address());
    let outrun = heartbeat(TERM_ID, 64 + 34_816, 0);
    let over_runs = rig.count(C::FlowControlOverRuns);
    for second in 0..12 {
        for _ in 0..10 {
            inject(&mut rig, receiver_address(0), &outrun);
            rig.run(100 * MS, MS);
        }
        let is_gone = rig.readers.is_empty() || rig.readers[0].image.shared.state() > ImageState::Active;
        // The image ends at the latest a second after the time-out.
        assert!(is_gone == (second > 9) || second == 9, "after {second} s");
    }
    assert!(rig.count(C::FlowControlOverRuns) > over_runs + 90);
}

/// A gap is filled up to the start of a frame, wherever the window ends.
#[test]
fn an_unreliable_gap_behind_the_window_ends_with_a_frame() {
    let mut rig = Rig::with(Options { is_reliable: false, ..Options::default() });
    rig.connect();
    for number in 0..30 {
        rig.publish(&[number; 1_000]);
        rig.step(10 * US);
    }
    rig.run(300 * MS, MS);
    assert_eq!(rig.readers[0].image.counters.rebuild_position.get(), 30 * 1_056);
    inject(&mut rig, receiver_address(0), &heartbeat(TERM_ID + 1, 0, 0));
    rig.run(2 * MS, 10 * US);
    assert_eq!(rig.count(C::LossGapFills), 1);
    assert_eq!(rig.readers[0].image.counters.rebuild_position.get(), TERM_LENGTH as i64);
}

/// An image takes no frames beyond its allocated pages, and its sender is granted no more.
#[test]
fn an_image_stands_still_where_its_log_is_not_allocated() {
    let mut rig = Rig::with(Options { allocation_length: 40_960, ..Options::default() });
    rig.allocates = false;
    rig.connect();
    // The first allocation without the pages that readers and the starts of terms need.
    let usable = rig.readers[0].image.allocation.usable_position();
    assert_eq!(usable, 40_960 - 5 * 4_096);
    let mut expected = Vec::new();
    for step in 0..200_000 {
        let message = [expected.len() as u8; 1_000];
        if rig.offer(&message).is_ok() {
            expected.push(message.to_vec());
        }
        rig.step(10 * US);
        if step % 1_000 == 0 {
            inject(&mut rig, receiver_address(0), &data(TERM_ID, usable as i32, 64));
            inject(&mut rig, receiver_address(0), &heartbeat(TERM_ID, usable as i32 + 4_096, 0));
        }
    }
    let stuck_at = rig.readers[0].image.rebuild_position();
    assert!((usable - MTU as i64..=usable).contains(&stuck_at), "{stuck_at} of {usable}");
    assert_eq!(rig.readers[0].image.counters.high_water_mark.get(), usable, "as far as heartbeats tell");
    assert!(rig.count(C::FlowControlOverRuns) >= 200, "{}", rig.count(C::FlowControlOverRuns));
    assert_eq!(rig.readers[0].messages.len() as i64, stuck_at / 1_056);
    rig.allocates = true;
    for number in expected.len()..1_000 {
        expected.push([number as u8; 1_000].to_vec());
        rig.publish(&[number as u8; 1_000]);
    }
    rig.run(10 * MS, 10 * US);
    assert!(rig.readers[0].messages == expected);
    assert!(rig.readers[0].image.allocation.is_whole());
}

/// Subscribers' positions are written by clients. One that goes back, or off the frames, does not move the window
/// there.
#[test]
fn a_subscriber_that_breaks_its_position_does_not_move_the_window_back() {
    let mut rig = Rig::new();
    rig.connect();
    for number in 0..30 {
        rig.publish(&[number; 1_000]);
        rig.step(10 * US);
    }
    rig.run(300 * MS, MS);
    let read = rig.readers[0].position.get();
    assert_eq!(read, 30 * 1_056);
    let granted = |rig: &Rig| {
        let sent = rig.net.take_sent();
        let position = |sent: &Sent| match sent.frame() {
            Frame::StatusMessage(status) => Some(i64::from(status.consumption_term_offset)),
            _ => None,
        };
        sent.iter().filter_map(position).collect::<Vec<_>>()
    };
    rig.readers[0].is_stuck = true;
    granted(&rig);
    for position in [0, 33, -64, read - 32, read + 7] {
        rig.readers[0].position.set_ordered(position);
        rig.run(300 * MS, MS);
        let all = granted(&rig);
        assert!(
            !all.is_empty() && all.iter().all(|told| *told <= read && told % 32 == 0),
            "{position}: {all:?}"
        );
        assert!(all.is_sorted(), "{position}: {all:?}");
    }
    rig.readers[0].position.set_ordered(read);
    rig.readers[0].is_stuck = false;
    for number in 30..100 {
        rig.publish(&[number; 1_000]);
    }
    rig.run(300 * MS, MS);
    assert_eq!(rig.readers[0].messages.len(), 100);
}
