//! Snapshots of a container and its service, taken and loaded (spec 04 §4.9, §6.5, §7.1).

use std::rc::Rc;

use harrier_archive::client::{ArchiveClient, ArchiveClientContext};
use harrier_cluster::codec::{
    CloseReason, ClusterAction, Role, SnapshotMark, SnapshotMarker, SnapshotMessage, TimeUnit, snapshot_type,
};
use harrier_cluster::snapshot::SnapshotTaker;
use harrier_platform::PausingClock;
use harrier_ringbuf::Clock;

use super::recorder::Orders;
use super::rig::{Host, Recovery, Running, World};

/// A world with a snapshot: its host and recovery position.
fn snapshot(state_length: usize, before: impl FnOnce(&mut World)) -> (Host, Recovery) {
    let mut world = World::leading();
    world.containers[0].orders.state_length.set(state_length);
    before(&mut world);
    let position = world.action(ClusterAction::Snapshot, 0);
    let ack = world.ack(2);
    assert_eq!((ack.log_position, ack.timestamp), (position, world.tick() - 1));
    assert_ne!(ack.relevant_id, -1, "{:?}", world.containers[0].error());
    let recovery = Recovery {
        leadership_term_id: 0,
        log_position: position,
        timestamp: ack.timestamp,
        recording_ids: vec![ack.relevant_id],
    };
    (world.end(), recovery)
}

fn restart(host: Host, recovery: &Recovery) -> World {
    let mut world = World::on(host, recovery);
    world.containers.push(Running::start(&world.host, 0, |_| ()));
    world
}

#[test]
fn a_service_goes_on_from_its_snapshot() {
    let (host, recovery) = snapshot(0, |world| {
        world.open(1);
        world.open(7);
        world.open(3);
        world.close(7, CloseReason::Timeout);
        world.message(1, b"hello");
    });
    let mut world = restart(host, &recovery);
    let first = world.ack(0);
    assert_eq!((first.log_position, first.timestamp), (recovery.log_position, recovery.timestamp));
    let noted = world.noted("start 5");
    let (position, time) = (recovery.log_position, recovery.timestamp);
    let expected = format!(r#"start 5 +0 ["1 me", "3 me"] Some(Millis) @{position} t{time} Follower"#);
    assert_eq!(noted, expected);
    world.join(position, Role::Leader, i64::MAX);
    world.append_term();
    world.message(3, b"send 1");
    let noted = world.noted("send 1");
    assert!(noted.contains("sent 1"), "{noted}");
    world.close(1, CloseReason::ClientAction);
    world.noted("close 1");
}

#[test]
fn a_snapshot_and_the_log_behind_it_make_the_state_of_the_whole_log() {
    let events = |world: &mut World| {
        world.message(1, b"timer 1 5");
        world.timer(1);
        world.close(1, CloseReason::ServiceAction);
        world.open(2);
        world.noted("open 2");
    };
    // Replays the whole log.
    let mut whole = World::leading();
    whole.open(1);
    whole.message(1, b"before");
    whole.action(ClusterAction::Snapshot, 0);
    whole.ack(2);
    events(&mut whole);
    whole.action(ClusterAction::Snapshot, 0);
    whole.ack(3);
    let expected = whole.noted("snapshot 6");
    // A snapshot, and the rest of it.
    let (host, recovery) = snapshot(0, |world| {
        world.open(1);
        world.message(1, b"before");
    });
    let mut rest = restart(host, &recovery);
    rest.ack(0);
    rest.join(recovery.log_position, Role::Leader, i64::MAX);
    while rest.tick() < recovery.timestamp {}
    events(&mut rest);
    rest.action(ClusterAction::Snapshot, 0);
    assert_eq!(rest.noted("snapshot 6"), expected);
}

#[test]
fn a_large_state_goes_through_terms_and_segments() {
    let length = 700_001;
    let (host, recovery) = snapshot(length, |world| {
        world.open(1);
    });
    let mut world = restart(host, &recovery);
    world.ack(0);
    world.noted(&format!("start 1 +{length}"));
}

#[test]
fn many_sessions_are_all_restored() {
    let (host, recovery) = snapshot(0, |world| {
        for id in 1..=900 {
            world.open(id);
        }
    });
    let mut world = restart(host, &recovery);
    world.ack(0);
    let noted = world.noted("start 900");
    assert_eq!(noted.matches(" me").count(), 900);
    assert!(noted.contains(r#""900 me"]"#));
}

#[test]
fn a_snapshot_for_standby_nodes_is_not_taken() {
    let mut world = World::leading();
    world.action(ClusterAction::Snapshot, 1);
    world.open(1);
    world.noted("open 1");
    assert!(!world.containers[0].seen().iter().any(|text| text.starts_with("snapshot")));
    world.action(ClusterAction::Snapshot, 0);
    assert_ne!(world.ack(2).relevant_id, -1);
}

#[test]
fn a_standby_node_takes_its_own_snapshots_and_those_of_all() {
    let mut world = World::started();
    world.module.is_standby = true;
    world.join(0, Role::Follower, i64::MAX);
    world.append_term();
    let position = world.action(ClusterAction::Snapshot, 1);
    let ack = world.ack(2);
    assert_eq!(ack.log_position, position);
    assert_ne!(ack.relevant_id, -1);
    world.action(ClusterAction::Snapshot, 0);
    assert_ne!(world.ack(3).relevant_id, -1);
}

#[test]
fn two_services_take_their_snapshots_at_once() {
    let mut world = World::new(&Recovery::NONE);
    for service_id in 0..2 {
        world.containers.push(Running::start(&world.host, service_id, |_| ()));
    }
    world.until("both acks", |world| (world.module.acks.len() == 2).then_some(()));
    world.containers[1].orders.state_length.set(50_000);
    world.join(0, Role::Leader, i64::MAX);
    world.append_term();
    world.open(1);
    let position = world.action(ClusterAction::Snapshot, 0);
    world.until("all acks", |world| (world.module.acks.len() == 6).then_some(()));
    let recording_of = |world: &World, service_id: i32| {
        let ack = world.module.acks.iter().rfind(|ack| ack.service_id == service_id).copied().unwrap();
        assert_eq!((ack.ack_id, ack.log_position), (2, position));
        ack.relevant_id
    };
    let recording_ids = vec![recording_of(&world, 0), recording_of(&world, 1)];
    assert_ne!(recording_ids[0], recording_ids[1]);
    let recovery =
        Recovery { leadership_term_id: 0, log_position: position, timestamp: 1_003, recording_ids };
    let mut world = World::on(world.end(), &recovery);
    for service_id in 0..2 {
        world.containers.push(Running::start(&world.host, service_id, |_| ()));
    }
    world.until("both acks", |world| (world.module.acks.len() == 2).then_some(()));
    assert!(world.containers[0].seen()[0].starts_with("start 1 +0"));
    assert!(world.containers[1].seen()[0].starts_with("start 1 +50000"));
}

#[test]
fn a_service_that_the_snapshot_does_not_know_cannot_start() {
    let (host, recovery) = snapshot(0, |_| ());
    let mut world = World::on(host, &recovery);
    world.containers.push(Running::start(&world.host, 1, |_| ()));
    world.until("the ack", |world| world.module.acks.iter().find(|ack| ack.relevant_id == -1).copied());
    let error = world.until("the end", |world| world.containers[0].error());
    assert!(error.contains("state of 1 services, none of service 1"), "{error}");
}

/// A snapshot that the test writes itself.
fn forge(host: &Host, messages: &[SnapshotMessage<'_>]) -> i64 {
    let now = PausingClock.now();
    let context = harrier_client::Context::new(host.aeron_directory());
    let mut aeron = harrier_client::Aeron::connect(context, harrier_platform::MappedMemory, &now).unwrap();
    let mut archive = ArchiveClient::new(ArchiveClientContext { seed: 77, ..ArchiveClientContext::ipc() });
    let mut taker = SnapshotTaker::new("aeron:ipc?alias=snapshot", 106, super::rig::PATIENCE_NS);
    let mut next = messages.iter().peekable();
    let deadline_ns = now.ns + super::rig::PATIENCE_NS;
    loop {
        assert!(PausingClock.now().ns < deadline_ns, "no snapshot was forged");
        host.run();
        let now = PausingClock.now();
        aeron.do_work(&now).unwrap();
        archive.poll(&mut aeron, &now).unwrap();
        while let Some(answer) = archive.poll_answer() {
            taker.on_answer(&answer);
        }
        if archive.is_connected() {
            taker.poll(&mut aeron, &mut archive, &now).unwrap();
        }
        if let Some(recording_id) = taker.recording_id() {
            return recording_id;
        }
        while taker.is_writable() && next.peek().is_some_and(|message| taker.offer(message).unwrap()) {
            next.next();
        }
        if next.peek().is_none() {
            taker.finish();
        }
    }
}

fn marker(mark: SnapshotMark, type_id: i64, app_version: i32) -> SnapshotMessage<'static> {
    SnapshotMessage::Marker(SnapshotMarker {
        type_id,
        log_position: 96,
        leadership_term_id: 0,
        index: 0,
        mark,
        time_unit: TimeUnit::Nanos,
        app_version,
    })
}

fn refused(messages: &[SnapshotMessage<'_>]) -> String {
    let host = Host::new();
    let recording_id = forge(&host, messages);
    let recovery = Recovery {
        leadership_term_id: 0,
        log_position: 96,
        timestamp: 1_000,
        recording_ids: vec![recording_id],
    };
    let mut world = restart(host, &recovery);
    assert_eq!(world.ack(0).relevant_id, -1);
    let error = world.until("the end", |world| world.containers[0].error());
    assert!(world.containers[0].seen().is_empty());
    error
}

#[test]
fn bad_snapshots_are_refused_by_name() {
    let service = snapshot_type::SERVICE;
    let begin = marker(SnapshotMark::Begin, service, 1);
    let end = marker(SnapshotMark::End, service, 1);
    let error = refused(&[begin]);
    assert!(error.contains("cut short: it ends at 96 without its END marker"), "{error}");
    let error = refused(&[end]);
    assert!(error.contains("END marker at position 96 without a BEGIN marker"), "{error}");
    let error = refused(&[begin, begin, end]);
    assert!(error.contains("within a snapshot that has begun"), "{error}");
    let error = refused(&[marker(SnapshotMark::Begin, snapshot_type::MODULE, 1)]);
    assert!(error.contains("type 1 instead of 2"), "{error}");
    let error = refused(&[marker(SnapshotMark::Begin, service, 2 << 16)]);
    assert!(error.contains("incompatible version: 0.0.1 snapshot=2.0.0"), "{error}");
    let error = refused(&[begin, SnapshotMessage::Timer { correlation_id: 1, deadline: 1 }, end]);
    assert!(error.contains("is no state of a service"), "{error}");
}

#[test]
fn a_snapshot_in_another_unit_brings_its_unit() {
    let host = Host::new();
    let service = snapshot_type::SERVICE;
    let recording_id =
        forge(&host, &[marker(SnapshotMark::Begin, service, 9), marker(SnapshotMark::End, service, 9)]);
    let recovery =
        Recovery { leadership_term_id: 0, log_position: 96, timestamp: 5, recording_ids: vec![recording_id] };
    let mut world = restart(host, &recovery);
    assert_ne!(world.ack(0).relevant_id, -1);
    world.noted("Some(Nanos) @96 t5");
}

#[test]
fn a_recording_that_is_gone_is_named() {
    let recovery =
        Recovery { leadership_term_id: 0, log_position: 96, timestamp: 5, recording_ids: vec![33] };
    let mut world = restart(Host::new(), &recovery);
    assert_eq!(world.ack(0).relevant_id, -1);
    let error = world.until("the end", |world| world.containers[0].error());
    assert!(error.contains("33"), "{error}");
}

#[test]
fn a_service_that_cannot_read_its_snapshot_says_so() {
    let (host, recovery) = snapshot(10, |_| ());
    let mut world = World::on(host, &recovery);
    let orders = Rc::new(Orders::default());
    orders.fails_in.set(Some("on_start"));
    world.containers.push(Running::start_with(&world.host, 0, orders, |_| ()));
    assert_eq!(world.ack(0).relevant_id, -1);
}

#[test]
fn snapshots_are_counted_by_their_duration() {
    let mut world = World::new(&Recovery::NONE);
    world.containers.push(Running::start(&world.host, 0, |context| context.snapshot_threshold_ns = 1));
    world.ack(0);
    world.join(0, Role::Leader, i64::MAX);
    world.append_term();
    world.action(ClusterAction::Snapshot, 0);
    world.ack(2);
    let value = |world: &World, wanted: i32| {
        let counters = world.module.aeron.counters();
        let key = [0_i32.to_le_bytes(), 0_i32.to_le_bytes()];
        let id =
            counters.find(&mut |_, id, counter| id == wanted && counter[..8] == *key.as_flattened()).unwrap();
        (counters.value(id), counters.label(id))
    };
    assert!(value(&world, 236).0 > 1);
    assert_eq!(value(&world, 237).0, 1);
    assert!(value(&world, 237).1.ends_with("threshold=1ns - clusterId=0 serviceId=0"));
    assert!(value(&world, 218).0 > 0);
    assert_eq!(value(&world, 215).0, 0);
}
