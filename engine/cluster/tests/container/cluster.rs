//! The functions of the cluster in callbacks (spec 04 §7.2, §7.3), live and in replay.

use harrier_cluster::codec::{CloseReason, Role};

use super::rig::{Recovery, Running, World};

/// A world whose service has two sessions.
fn with_sessions(role: Role) -> World {
    let mut world = World::started();
    world.join(0, role, i64::MAX);
    world.append_term();
    world.open(1);
    world.open(2);
    world.noted("open 2");
    world
}

fn heard(world: &mut World, text: &str) {
    let is_heard = |world: &mut World| world.module.heard.iter().any(|message| message == text).then_some(());
    world.until(text, is_heard);
}

#[test]
fn timers_and_messages_go_to_the_module_on_every_member() {
    for role in [Role::Leader, Role::Follower] {
        let mut world = with_sessions(role);
        world.message(1, b"timer 7 5000");
        world.message(1, b"timer 7 6000");
        world.message(1, b"cancel 7");
        world.message(1, b"offer this");
        world.message(1, b"claim that");
        world.noted("claim that");
        heard(&mut world, "offer 0 claim that");
        assert_eq!(
            world.module.heard,
            [
                "ScheduleTimer { correlation_id: 7, deadline: 5000 }",
                "ScheduleTimer { correlation_id: 7, deadline: 6000 }",
                "CancelTimer { correlation_id: 7 }",
                "offer 0 offer this",
                "offer 0 claim that",
            ]
        );
    }
}

#[test]
fn messages_of_a_service_carry_its_id() {
    let mut world = World::new(&Recovery::NONE);
    world.containers.push(Running::start(&world.host, 3, |_| ()));
    world.until("the ack", |world| world.module.acks.first().copied());
    world.join(0, Role::Leader, i64::MAX);
    world.append_term();
    world.open(1);
    world.message(1, b"offer this");
    heard(&mut world, "offer 3 offer this");
    world.message(1, b"facts");
    let noted = world.noted("facts");
    assert!(noted.contains("member 5 service 3 unit Some(Millis)"), "{noted}");
}

#[test]
fn only_a_leader_answers_clients() {
    let mut world = with_sessions(Role::Leader);
    world.message(1, b"send 2");
    world.message(1, b"claim-to 2");
    let noted = world.noted("claim-to 2");
    assert!(noted.contains("claimed 1"), "{noted}");
    world.until("both answers", |world| (world.module.egress_messages.len() == 2).then_some(()));
    assert_eq!(world.module.egress_messages, ["send 2", "claim-to 2"]);

    let mut world = with_sessions(Role::Follower);
    world.message(1, b"send 2");
    world.message(1, b"claim-to 2");
    world.message(1, b"send 3");
    let noted = world.noted("claim-to 2");
    assert!(noted.contains("claimed 0"), "{noted}");
    let noted = world.noted("send 3");
    assert!(noted.contains("unknown session 3"), "{noted}");
    assert!(world.module.egress_messages.is_empty());
}

#[test]
fn a_service_that_does_not_respond_has_no_streams_to_clients() {
    let mut world = World::new(&Recovery::NONE);
    world.containers.push(Running::start(&world.host, 0, |context| context.is_responder = false));
    world.ack(0);
    world.join(0, Role::Leader, i64::MAX);
    world.append_term();
    world.open(1);
    world.message(1, b"send 1");
    let noted = world.noted("send 1");
    assert!(noted.contains("not connected"), "{noted}");
}

#[test]
fn sessions_are_listed_by_ascending_id() {
    let mut world = with_sessions(Role::Leader);
    world.open(12);
    world.open(5);
    world.message(1, b"sessions");
    let noted = world.noted("message Some(1) sessions");
    assert!(noted.contains("[1, 2, 5, 12] true"), "{noted}");
    world.close(2, CloseReason::ServiceAction);
    world.message(5, b"sessions");
    let noted = world.noted("message Some(5) sessions");
    assert!(noted.contains("[1, 5, 12]"), "{noted}");
}

#[test]
fn a_session_is_closed_once() {
    let mut world = with_sessions(Role::Leader);
    world.message(1, b"close 1");
    world.message(2, b"close 1");
    world.message(2, b"close 9");
    let noted = world.noted("close 9");
    assert!(noted.contains("unknown session 9"), "{noted}");
    heard(&mut world, "CloseSession { session_id: 1 }");
    for _ in 0..50 {
        world.step();
    }
    assert_eq!(world.module.heard.len(), 1);
}

#[test]
fn closes_that_were_asked_for_are_asked_for_again_by_a_new_leader() {
    let mut world = with_sessions(Role::Leader);
    world.message(1, b"close 1");
    heard(&mut world, "CloseSession { session_id: 1 }");
    let end = world.message(2, b"sessions");
    world.noted("message Some(2) sessions");
    let old = world.module.log.take();
    world.join(end, Role::Leader, i64::MAX);
    world.append_term();
    world.message(1, b"close 1 again");
    world.noted("close 1 again");
    world.until("the second close", |world| (world.module.heard.len() == 2).then_some(()));
    drop(old);
}

#[test]
fn callbacks_that_must_not_send_are_refused() {
    let mut world = World::new(&Recovery::NONE);
    let orders = std::rc::Rc::new(super::recorder::Orders::default());
    orders.sends_everywhere.set(true);
    world.containers.push(Running::start_with(&world.host, 0, orders, |_| ()));
    world.ack(0);
    world.join(0, Role::Leader, i64::MAX);
    world.append_term();
    world.noted("LeadershipTerm");
    world.containers[0].close();
    let seen = world.containers[0].seen();
    for callback in ["on_start", "on_role_change", "do_background_work", "on_terminate"] {
        let wanted = format!("refused in {callback}");
        assert!(seen.iter().any(|text| text.starts_with(&wanted)), "{seen:?}");
    }
    assert!(world.module.heard.is_empty());
}

#[test]
fn a_callback_that_waits_keeps_the_container_alive() {
    let mut world = with_sessions(Role::Leader);
    let before = super::rig::mark_file(world.host.directory.path(), 0)[16..24].to_vec();
    world.message(1, b"idle 1500");
    world.noted("idled");
    let after = super::rig::mark_file(world.host.directory.path(), 0)[16..24].to_vec();
    assert_ne!(before, after, "the mark file's activity went on");
    assert_eq!(world.containers[0].error(), None);
    world.message(1, b"send 2");
    world.noted("send 2");
}

#[test]
fn back_pressure_of_the_module_is_told_and_over_once_it_reads() {
    let mut world = with_sessions(Role::Leader);
    let world_messages = |world: &mut World, text: &[u8], noted: &str| {
        world.message(1, text);
        world.noted(noted)
    };
    let noted = world_messages(&mut world, b"flood", "message Some(1) flood");
    let taken: usize = noted.split(" taken").next().unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!(taken > 3, "{noted}");
    assert!(noted.contains("taken, then true publication is back-pressured"), "{noted}");
    world.until("all that was taken", |world| (world.module.heard.len() == taken).then_some(()));
    world_messages(&mut world, b"offer again", "offer again");
    heard(&mut world, "offer 0 offer again");
    assert_eq!(world.module.heard.len(), taken + 1);
}
