//! Termination of a container: requested, unexpected, by failure (spec 04 §4.11, §7.1), and acks on request.

use std::rc::Rc;

use harrier_cluster::codec::{ModuleMessage, Role};
use harrier_cluster::mark::MarkError;
use harrier_cluster::service::{ContainerError, ServiceContainer, ServiceContainerContext};
use harrier_platform::{MappedMemory, PausingClock};
use harrier_ringbuf::Clock;
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::ThreadPace;

use super::recorder::{Orders, Recorder, Seen};
use super::rig::{Host, Recovery, Running, World};

fn ended(world: &mut World) -> String {
    world.until(
        "the end",
        |world| {
            if world.containers[0].has_ended() { world.containers[0].error() } else { None }
        },
    )
}

#[test]
fn a_termination_at_a_position_is_expected_there() {
    let mut world = World::leading();
    let position = world.open(1);
    world.send(&ModuleMessage::TerminationPosition { log_position: position });
    let error = ended(&mut world);
    assert!(error.contains("terminated: expected termination"), "{error}");
    let ack = world.ack(2);
    assert_eq!((ack.log_position, ack.relevant_id), (position, -1));
    let seen = world.containers[0].seen();
    assert!(seen.iter().filter(|text| text.starts_with("terminate")).count() == 1, "{seen:?}");
    assert!(seen.last().unwrap().starts_with(&format!("terminate @{position}")), "{seen:?}");
}

#[test]
fn a_termination_waits_for_its_position() {
    let mut world = World::leading();
    world.send(&ModuleMessage::TerminationPosition { log_position: 192 });
    for _ in 0..100 {
        world.step();
    }
    assert!(!world.containers[0].has_ended());
    assert_eq!(world.open(1), 192);
    let error = ended(&mut world);
    assert!(error.contains("terminated: expected termination"), "{error}");
}

#[test]
fn a_termination_before_the_services_position_is_unexpected() {
    let mut world = World::leading();
    world.open(1);
    world.noted("open 1");
    world.send(&ModuleMessage::TerminationPosition { log_position: 0 });
    let error = ended(&mut world);
    assert!(error.contains("unexpected termination"), "{error}");
    assert_eq!((world.ack(2).log_position, world.ack(2).relevant_id), (192, -1));
}

#[test]
fn an_ack_is_sent_on_request_at_its_position() {
    let mut world = World::leading();
    world.send(&ModuleMessage::RequestAck { log_position: 192 });
    world.noted("LeadershipTerm");
    for _ in 0..100 {
        world.step();
    }
    assert_eq!(world.module.acks.len(), 2);
    world.open(1);
    assert_eq!((world.ack(2).log_position, world.ack(2).relevant_id), (192, -1));
    assert!(!world.containers[0].has_ended());
}

#[test]
fn without_a_module_the_container_ends() {
    let mut world = World::leading();
    world.noted("LeadershipTerm");
    world.module.drop_commit_position();
    let error = ended(&mut world);
    assert!(error.contains("commit position counter has disappeared"), "{error}");
    assert!(world.containers[0].seen().last().unwrap().starts_with("terminate"));
}

#[test]
fn a_service_that_cannot_start_says_so() {
    for is_panic in [false, true] {
        let mut world = World::new(&Recovery::NONE);
        let orders = Rc::new(Orders::default());
        let order = if is_panic { &orders.panics_in } else { &orders.fails_in };
        order.set(Some("on_start"));
        world.containers.push(Running::start_with(&world.host, 0, orders.clone(), |_| ()));
        assert_eq!(world.ack(0).relevant_id, -1);
        let error = ended(&mut world);
        let text = if is_panic { "told to panic in on_start" } else { "told to fail in on_start" };
        assert!(error.contains(text), "{error}");
        // A service that never ran gets no `on_terminate`.
        assert!(world.containers[0].seen().is_empty());
    }
}

#[test]
fn a_service_that_panics_ends_its_container_and_is_called_no_more() {
    let mut world = World::leading();
    world.open(1);
    world.noted("open 1");
    let client_id = world.ack(0).relevant_id;
    world.containers[0].orders.panics_in.set(Some("on_session_message"));
    world.message(1, b"anything");
    let error = ended(&mut world);
    assert!(error.contains("service 0 panicked: ") && error.contains("told to panic"), "{error}");
    let event =
        "a message of session 1 with 8 bytes (hex 61 6e 79 74 68 69 6e 67), which ends at log position ";
    assert!(error.contains(event), "{error}");
    assert!(!world.containers[0].seen().iter().any(|text| text.starts_with("terminate")));
    // The module detects it by the heartbeat counter of the service's client (spec 04 §4.11).
    world.until("the client's end", |world| {
        let heartbeat = 11;
        let counters = world.module.aeron.counters();
        let found =
            counters.find(&mut |_, type_id, key| type_id == heartbeat && key[..8] == client_id.to_le_bytes());
        found.is_none().then_some(())
    });
}

#[test]
fn a_service_that_fails_while_it_takes_a_snapshot_goes_on() {
    let mut world = World::leading();
    world.open(1);
    world.containers[0].orders.fails_in.set(Some("on_take_snapshot"));
    let position = world.action(harrier_cluster::codec::ClusterAction::Snapshot, 0);
    let ack = world.ack(2);
    assert_eq!((ack.log_position, ack.relevant_id), (position, -1));
    let error = world.until("the error", |world| world.containers[0].error());
    assert!(error.contains("service failed in on_take_snapshot: told to fail"), "{error}");
    world.message(1, b"go on");
    world.noted("go on");
    assert!(!world.containers[0].has_ended());
}

#[test]
fn a_service_that_panics_while_it_takes_a_snapshot_says_so() {
    let mut world = World::leading();
    world.containers[0].orders.panics_in.set(Some("on_take_snapshot"));
    let position = world.action(harrier_cluster::codec::ClusterAction::Snapshot, 0);
    let ack = world.ack(2);
    assert_eq!((ack.log_position, ack.relevant_id), (position, -1));
    ended(&mut world);
}

fn launch(host: &Host, service_id: i32) -> Result<(), ContainerError> {
    let context = ServiceContainerContext::new(
        host.aeron_directory(),
        host.directory.path().join("cluster"),
        service_id,
    );
    let service = Recorder::new(Seen::default(), Rc::default());
    let waiter = Box::new(ThreadPace::new(PausingClock, IdleStrategy::Noop));
    ServiceContainer::launch(context, service, MappedMemory, waiter, &PausingClock.now()).map(drop)
}

#[test]
fn a_service_runs_once_in_a_directory() {
    let world = World::started();
    let error = launch(&world.host, 0).unwrap_err();
    assert!(matches!(error, ContainerError::Mark(MarkError::Active { .. })), "{error}");
    launch(&world.host, 1).unwrap();
    world.containers[0].kill();
    launch(&world.host, 0).unwrap();
    let error = launch(&world.host, 10).unwrap_err();
    assert!(error.to_string().contains("service.id=10 must be from 0 to 9"), "{error}");
}

#[test]
fn a_container_without_a_module_gives_up() {
    let host = Host::new();
    let container = Running::start(&host, 0, |context| context.startup_timeout_ns = 100_000_000);
    let deadline_ns = PausingClock.now().ns + super::rig::PATIENCE_NS;
    while !container.has_ended() {
        assert!(PausingClock.now().ns < deadline_ns);
        host.run();
        container.run();
    }
    let error = container.error().unwrap();
    assert!(error.contains("timed out waiting for the cluster's recovery counter"), "{error}");
}

#[test]
fn a_lost_log_makes_a_follower_of_a_leader() {
    let mut world = World::leading();
    world.noted("LeadershipTerm");
    world.module.log = None;
    let noted = world.noted("role Follower");
    assert!(noted.contains("@96"), "{noted}");
    world.join(96, Role::Leader, i64::MAX);
    world.append_term();
    world.until("the second leadership", |world| {
        let seen = world.containers[0].seen();
        (seen.iter().filter(|text| text.starts_with("role Leader")).count() == 2).then_some(())
    });
}
