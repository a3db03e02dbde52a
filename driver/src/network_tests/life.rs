//! Publications that lose their receivers, their writers or their clients (spec 02 §2.3, §2.8).

use std::sync::atomic::Ordering;

use super::rig::{MS, Options, Rig, SECOND, US};
use super::{heartbeat_flags, is_data, message};
use crate::ipc_publication::State;
use crate::system_counters::SystemCounter as C;

#[test]
fn a_publication_without_receivers_takes_nothing_more() {
    let mut rig = Rig::new();
    rig.connect();
    rig.publish(b"x");
    rig.run(MS, 10 * US);
    assert!(rig.publication.counters.publisher_limit.get() > 64);
    rig.net.lose(|sent| matches!(sent.bytes[6], 3));
    rig.run(5_100 * MS, MS);
    assert!(!rig.publication.shared.has_receivers.load(Ordering::Acquire));
    assert!(!rig.publication.file.log.is_connected());
    assert_eq!(rig.publication.counters.publisher_limit.get(), 64);
    assert!(rig.offer(b"y").is_err());
}

#[test]
fn what_an_abandoned_claim_blocks_is_sent_when_the_publication_closes() {
    let mut rig = Rig::new();
    rig.connect();
    rig.run(MS, 10 * US);
    let limit = rig.publication.counters.publisher_limit.get();
    std::mem::forget(rig.appender.claim(100, limit).unwrap());
    rig.publish(b"behind");
    rig.run(10 * MS, 100 * US);
    assert!(rig.readers[0].messages.is_empty());
    rig.publication.release();
    rig.run(10 * MS, 100 * US);
    assert_eq!(rig.readers[0].messages, [b"behind"]);
    assert_eq!(rig.count(C::UnblockedPublications), 1);
}

#[test]
fn a_closed_publication_waits_for_its_receivers_and_spies() {
    let mut rig = Rig::new();
    let spy = rig.new_counter(0);
    rig.publication.spies.add(9, spy.clone(), true, true, rig.now.ns);
    rig.connect();
    rig.run(MS, 10 * US);
    rig.readers[0].is_stuck = true;
    let mut expected = Vec::new();
    while rig.appender.position() < 40_000 {
        if rig.offer(&message(expected.len(), 1_000)).is_ok() {
            expected.push(message(expected.len(), 1_000));
        }
        spy.set_ordered(rig.publication.counters.sender_position.get());
        rig.step(10 * US);
    }
    rig.publication.release();
    rig.net.take_sent();
    rig.run(SECOND, MS);
    assert_eq!(rig.publication.state, State::Draining);
    assert!(rig.net.take_sent().iter().all(|sent| heartbeat_flags(sent) != Some(0xE0)));
    rig.readers[0].is_stuck = false;
    rig.run(SECOND, MS);
    assert!(rig.readers[0].messages == expected);
    assert_eq!(rig.publication.state, State::Draining, "the spy has not read all");
    spy.set_ordered(rig.appender.position());
    rig.run(10 * MS, MS);
    assert!(rig.publication.state != State::Draining || rig.is_publication_gone);
}

#[test]
fn streams_that_start_anywhere_arrive() {
    for initial_term_id in [i32::MIN, -1, 0, i32::MAX] {
        let mut rig = Rig::with(Options { initial_term_id, ..Options::default() });
        rig.connect();
        let expected: Vec<_> = (0..150).map(|number| message(number, 2_000)).collect();
        for message in &expected {
            rig.publish(message);
        }
        rig.run(MS, 10 * US);
        assert!(rig.readers[0].messages == expected, "{initial_term_id}");
        assert!(rig.net.take_sent().iter().any(is_data));
    }
}

/// A name is resolved again 5 s after the endpoint last heard a status message, however many publications join
/// meanwhile.
#[test]
fn a_new_publication_does_not_put_off_the_next_resolution() {
    let mut rig = Rig::with(Options { is_named: true, ..Options::default() });
    rig.connect();
    rig.run(6 * SECOND, MS);
    assert_eq!(rig.resolutions, [], "receivers are heard");
    rig.net.lose(|sent| matches!(sent.bytes[6], 3));
    rig.run(4 * SECOND, MS);
    let another = rig.send_publication();
    rig.tell_sender(crate::handover::SenderCommand::AddPublication(Box::new(another)));
    rig.run(SECOND - 200 * MS, MS);
    assert_eq!(rig.resolutions, []);
    // The sender checks once a second.
    rig.run(SECOND + 300 * MS, MS);
    assert_eq!(rig.resolutions, [1]);
    rig.run(3 * SECOND, MS);
    assert_eq!(rig.resolutions, [1]);
    rig.run(4 * SECOND, MS);
    assert_eq!(rig.resolutions, [1, 1]);
}
