//! Order and content of the callbacks (spec 04 §7.1).

use harrier_cluster::codec::{CloseReason, ClusterAction, ModuleMessage, Role};

use super::rig::{Recovery, Running, World, mark_file};

/// Writes one event of each kind and returns the texts that a service notes for them, without its role.
fn write_all(world: &mut World) {
    world.append_term();
    world.open(1);
    world.open(2);
    world.message(1, b"hello");
    world.message(2, &[b'x'; 5_000]);
    world.message(i64::MIN + 1, b"of a service");
    world.timer(42);
    world.action(ClusterAction::Suspend, 0);
    world.action(ClusterAction::Resume, 0);
    world.close(2, CloseReason::Timeout);
    world.close(1, CloseReason::ClientAction);
    world.noted("close 1");
}

fn expected(role: &str) -> Vec<String> {
    [
        "open 1 me 102 @192 t1002",
        "open 2 me 102 @288 t1003",
        "message Some(1) hello +5: done @384 t1004",
        "message Some(2) xxxxxxxxxxxxxxxx +5000: done @5568 t1005",
        "message None of a service +12: done @5664 t1006",
        "timer 42 @5728 t1007",
        "close 2 TIMEOUT false @6016 t1010",
        "close 1 CLIENT_ACTION false @6112 t1011",
    ]
    .iter()
    .map(|text| format!("{text} {role}"))
    .collect()
}

fn events(seen: &[String]) -> Vec<String> {
    seen.iter().filter(|text| !text.starts_with("start") && !text.starts_with("role")).cloned().collect()
}

#[test]
fn a_leaders_service_sees_each_event_once_and_in_order() {
    let mut world = World::started();
    let first = world.ack(0);
    assert_eq!((first.log_position, first.timestamp), (0, 0));
    assert_ne!(first.relevant_id, -1, "the first ack names the client of the driver");
    world.join(0, Role::Leader, i64::MAX);
    assert_eq!((world.ack(1).log_position, world.ack(1).relevant_id), (0, -1));
    write_all(&mut world);
    let seen = world.containers[0].seen();
    assert_eq!(seen[0], "start member -1 None @0 t0 Follower");
    assert_eq!(seen[1], "role Leader member 5 @0 t0 Leader");
    let session_id = world.module.log.as_ref().unwrap().session_id();
    let term = format!(
        "LeadershipTerm {{ leadership_term_id: 0, log_position: 96, timestamp: 1001, term_base_log_position: 0, \
         leader_member_id: 5, log_session_id: {session_id}, time_unit: Millis, app_version: 1 }} @96 t1001 Leader"
    );
    let events = events(&seen);
    assert_eq!(events[0], term);
    let sizes: Vec<&String> = events[1..].iter().collect();
    assert_eq!(sizes, expected("Leader").iter().collect::<Vec<_>>());
    assert!(world.containers[0].orders.background.get() > 10);
}

#[test]
fn a_follower_and_a_replay_see_the_same() {
    let mut world = World::started();
    world.join(0, Role::Follower, i64::MAX);
    write_all(&mut world);
    let seen = world.containers[0].seen();
    assert_eq!(events(&seen)[1..], expected("Follower"));
    assert!(!seen.iter().any(|text| text.starts_with("role")));
}

#[test]
fn the_log_is_read_up_to_the_commit_position_only() {
    let mut world = World::leading();
    world.open(1);
    world.noted("open 1");
    let log = world.module.log.as_mut().unwrap();
    let committed = log.position();
    let mut buffer = [0; 128];
    let header =
        harrier_cluster::codec::SessionHeader { leadership_term_id: 0, session_id: 1, timestamp: 1_500 };
    let message = harrier_cluster::codec::LogMessage::Session { header, payload: b"uncommitted" };
    let length = message.encode(&mut buffer).unwrap();
    log.offer(&buffer[..length]).unwrap();
    for _ in 0..100 {
        world.step();
    }
    assert!(!world.containers[0].seen().iter().any(|text| text.contains("uncommitted")), "{committed}");
    world.message(1, b"committed");
    world.noted("message Some(1) committed");
    world.noted("message Some(1) uncommitted");
}

#[test]
fn a_log_ends_where_the_next_one_begins() {
    let mut world = World::started();
    world.join(0, Role::Leader, i64::MAX);
    world.append_term();
    let end = world.open(1);
    world.noted("open 1");
    // The old log is still open; the next one is joined at its end.
    let old = world.module.log.take();
    world.join(end, Role::Follower, i64::MAX);
    world.module.leadership_term_id = 1;
    world.append_term();
    world.noted("leadership_term_id: 1");
    let seen = world.containers[0].seen();
    let roles: Vec<&String> = seen.iter().filter(|text| text.starts_with("role")).collect();
    assert_eq!(roles.len(), 2, "{seen:?}");
    assert!(roles[1].starts_with(&format!("role Follower member 5 @{end}")), "{seen:?}");
    drop(old);
}

#[test]
fn a_replay_ends_at_its_max_position_and_the_live_log_follows() {
    let mut world = World::started();
    world.join(0, Role::Follower, 192);
    world.append_term();
    world.open(1);
    world.noted("open 1");
    world.join(192, Role::Leader, i64::MAX);
    world.module.leadership_term_id = 1;
    world.append_term();
    world.message(1, b"send 1");
    let noted = world.noted("send 1");
    // Earlier sessions get their egress once the member leads.
    assert!(noted.contains("sent 1"), "{noted}");
    world.until("the egress", |world| world.module.egress_messages.first().cloned());
    assert_eq!(world.ack(2).log_position, 192);
}

#[test]
fn a_newer_join_replaces_one_whose_image_never_comes() {
    let mut world = World::started();
    world.module.end_recovery();
    // The leader of this log has died: nobody publishes it.
    world.send(&ModuleMessage::JoinLog {
        log_position: 0,
        max_log_position: i64::MAX,
        member_id: 5,
        log_session_id: 4_711,
        log_stream_id: 100,
        is_startup: true,
        role: Role::Follower,
        is_standby: false,
        log_channel: "aeron:ipc?session-id=4711|alias=log",
    });
    world.tell_join(0, Role::Leader, i64::MAX);
    assert_eq!(world.ack(1).log_position, 0);
    world.append_term();
    world.noted("LeadershipTerm");
}

#[test]
fn a_log_of_another_position_ends_the_container() {
    let mut world = World::started();
    world.module.end_recovery();
    world.tell_join(64, Role::Follower, i64::MAX);
    let error = world.until("the end", |world| world.containers[0].error());
    assert!(error.contains("joined at 64 with the service at 0"), "{error}");
}

#[test]
fn an_incompatible_application_ends_the_container() {
    let mut world = World::started();
    world.join(0, Role::Leader, i64::MAX);
    world.append_term_of(2 << 16);
    let error = world.until("the end", |world| world.containers[0].error());
    assert!(error.contains("incompatible version: 0.0.1 log=2.0.0"), "{error}");
}

#[test]
fn a_session_that_opens_twice_ends_the_container() {
    let mut world = World::leading();
    world.open(1);
    world.open(1);
    let error = world.until("the end", |world| world.containers[0].error());
    assert!(error.contains("session 1 was opened twice"), "{error}");
}

#[test]
fn the_close_of_an_unknown_session_is_only_logged() {
    let mut world = World::leading();
    world.close(9, CloseReason::Timeout);
    world.open(1);
    world.noted("open 1");
    assert_eq!(world.containers[0].error(), None);
    let mark = mark_file(world.host.directory.path(), 0);
    let text = String::from_utf8_lossy(&mark).into_owned();
    assert!(text.contains("close of unknown session 9"));
}

#[test]
fn a_foreign_message_in_the_log_ends_the_container() {
    let mut world = World::leading();
    let log = world.module.log.as_mut().unwrap();
    log.offer(&[
        24, 0, 1, 0, 99, 0, 16, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ])
    .unwrap();
    world.timer(1);
    let error = world.until("the end", |world| world.containers[0].error());
    assert!(error.contains("schema 99"), "{error}");
}

#[test]
fn the_mark_file_tells_of_the_member_once_it_has_joined() {
    let mut world = World::new(&Recovery::NONE);
    world.containers.push(Running::start(&world.host, 0, |_| ()));
    world.ack(0);
    let int = |bytes: &[u8], at: usize| i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    let mark = mark_file(world.host.directory.path(), 0);
    assert_eq!((int(&mark, 8), int(&mark, 12), int(&mark, 64), int(&mark, 68)), (768, 2, -1, 0));
    world.join(0, Role::Leader, i64::MAX);
    let mark = mark_file(world.host.directory.path(), 0);
    assert_eq!(int(&mark, 64), 5);
    world.containers[0].close();
    let mark = mark_file(world.host.directory.path(), 0);
    assert_eq!(i64::from_le_bytes(mark[16..24].try_into().unwrap()), -1);
}
