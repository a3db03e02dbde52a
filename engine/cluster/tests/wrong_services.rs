//! Services that ack wrongly, too late, or not at all, and services that crash (spec 04 §4.11, §4.14, §10.3).

use crate::rig::stub::{Stub, Told};
use crate::rig::{Node, Plan, counter, directory, ports, value};
use harrier_cluster::codec::{ServiceMessage, SessionHeader};

fn stubbed() -> Plan {
    Plan { services: 0, ..Plan::default() }
}

fn start(plan: &Plan) -> (Node, tempfile::TempDir) {
    let directory = directory();
    let node = Node::start(directory.path(), &ports(), plan);
    (node, directory)
}

const ROLE: &str = "consensus-module-0-0";

#[test]
fn a_service_that_fails_to_start_ends_the_node() {
    let (mut node, _directory) = start(&stubbed());
    node.add_stub();
    node.until_acked(0, 0, -1);
    let text = node.until_end(ROLE);
    assert!(text.contains("service 0: failed to start"), "{text}");
    node.until_told("the end", |told| *told == Told::Terminate(0));
}

#[test]
fn a_service_that_never_comes_is_named() {
    let mut plan = Plan::with(|context| context.startup_timeout_ns = 300_000_000);
    plan.services = 0;
    let (mut node, _directory) = start(&plan);
    let text = node.until_end(ROLE);
    assert!(text.contains("service 0: has not started; is it running?"), "{text}");
}

#[test]
fn an_ack_of_a_position_that_the_log_has_not_come_to_ends_the_node() {
    let (mut node, _directory) = start(&stubbed());
    let client_id = node.add_stub();
    node.until_acked(640, 0, client_id);
    let text = node.until_end(ROLE);
    assert!(text.contains("ack out of sequence") && text.contains("expected position 0"), "{text}");
}

#[test]
fn acks_that_nobody_waits_for_are_said_and_change_nothing() {
    let (mut node, _directory) = start(&stubbed());
    let client_id = node.lead_with_stub();
    // Services of aeron-go answer a standby's snapshot this way.
    node.set(counter::TOGGLE, value::STANDBY_SNAPSHOT);
    node.await_value(counter::COMMIT, 192);
    node.until_acked(192, 2, 44);
    node.until_acked(192, 0, client_id);
    let unknown =
        ServiceMessage::Ack { log_position: 0, timestamp: 0, ack_id: 1, relevant_id: -1, service_id: 7 };
    node.until_sent(&unknown);
    node.set(counter::TOGGLE, value::SNAPSHOT);
    node.await_value(counter::COMMIT, 288);
    node.until_acked(288, 3, 45);
    node.await_value(counter::SNAPSHOTS, 1);
    assert_eq!(node.entries()[1].recording_id, 45);
    let errors = node.logged_errors();
    for text in [
        "stray ack 2 of service 0 at 192",
        "initial ack already received from service 0",
        "ack 1 at 0 of service 7, which this node does not have",
    ] {
        assert!(errors.iter().any(|error| error == text), "{text} in {errors:?}");
    }
}

#[test]
fn a_snapshot_that_a_service_fails_is_none_and_the_node_goes_on() {
    let (mut node, _directory) = start(&stubbed());
    node.lead_with_stub();
    node.set(counter::TOGGLE, value::SNAPSHOT);
    node.await_value(counter::COMMIT, 192);
    node.until_acked(192, 2, -1);
    node.await_value(counter::TOGGLE, value::NEUTRAL);
    node.await_value(counter::STATE, value::ACTIVE);
    assert!(node.is_at(counter::SNAPSHOTS, 0));
    assert_eq!(node.entries().len(), 1);
    let errors = node.logged_errors();
    assert!(errors[0].contains("snapshot at 192 failed in service 0"), "{errors:?}");
    node.set(counter::TOGGLE, value::SNAPSHOT);
    node.await_value(counter::COMMIT, 288);
    node.until_acked(288, 3, 9);
    node.await_value(counter::SNAPSHOTS, 1);
}

#[test]
fn a_service_that_never_acks_its_snapshot_is_not_waited_for_for_ever() {
    let mut plan = Plan::with(|context| context.service_ack_timeout_ns = 200_000_000);
    plan.services = 0;
    let (mut node, _directory) = start(&plan);
    node.lead_with_stub();
    node.set(counter::TOGGLE, value::SNAPSHOT);
    node.await_value(counter::COMMIT, 192);
    node.await_value(counter::STATE, value::ACTIVE);
    node.await_value(counter::TOGGLE, value::NEUTRAL);
    let errors = node.logged_errors();
    assert!(errors[0].contains("snapshot at 192 is given up: services [0]"), "{errors:?}");
    // The late ack must not affect the next snapshot.
    node.set(counter::TOGGLE, value::SNAPSHOT);
    node.await_value(counter::COMMIT, 288);
    node.until_acked(192, 2, 5);
    node.until_acked(288, 3, 6);
    node.await_value(counter::SNAPSHOTS, 1);
    assert_eq!(node.entries()[1].recording_id, 6);
}

#[test]
fn a_service_that_dies_ends_the_node_and_is_named() {
    let (mut node, _directory) = start(&stubbed());
    node.lead_with_stub();
    node.stub = None;
    let text = node.until_end(ROLE);
    assert!(text.contains("Aeron client in service closed unexpectedly: serviceId=0"), "{text}");
}

#[test]
fn a_service_that_panics_ends_the_node() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.send(client, "panic");
    let text = node.until_end("clustered-service-0-0");
    assert!(text.contains("as the client wished"), "{text}");
    node.until_end(ROLE);
}

#[test]
fn services_name_themselves_by_the_sign_that_they_like() {
    let mut plan = stubbed();
    plan.change = Box::new(|context| context.service_count = 2);
    let (mut node, directory) = start(&plan);
    let client_id = node.add_stub();
    let second = |log_position, ack_id, relevant_id| ServiceMessage::Ack {
        log_position,
        timestamp: 0,
        ack_id,
        relevant_id,
        service_id: 1,
    };
    node.until_acked(0, 0, client_id);
    node.until_sent(&second(0, 0, client_id));
    node.until_told("the join", |told| matches!(told, Told::Join { .. }));
    node.until_acked(0, 1, -1);
    node.until_sent(&second(0, 1, -1));
    node.until_leading();
    for session_id in [1, -1, 0, 5] {
        let header = SessionHeader { leadership_term_id: 0, session_id, timestamp: 0 };
        node.until_sent(&ServiceMessage::Offer { header, payload: b"x" });
    }
    node.await_value(counter::COMMIT, 96 + 3 * 96);
    let log = std::fs::read(directory.path().join("archive/0-0.rec")).unwrap();
    let id = |position: usize| i64::from_le_bytes(*log[position + 48..].first_chunk().unwrap());
    let ids: Vec<i64> = [96, 192, 288].map(id).to_vec();
    let base = |service: i64| i64::MIN | (service << 56);
    let mut expected = vec![base(1) + 1, base(1) + 2, base(0) + 1];
    let mut found = ids.clone();
    expected.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, expected);
    assert_eq!(node.logged_errors(), ["message of service 5 was not taken"]);
    let _alive = Stub::new(directory.path());
}

#[test]
fn the_directory_of_a_living_module_is_not_taken_and_that_of_a_dead_one_is() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let other = crate::rig::directory();
    let cluster = directory.path().join("cluster");
    let same = cluster.clone();
    let plan = Plan { services: 0, ..Plan::with(move |context| context.cluster_directory.clone_from(&same)) };
    let Err(text) = Node::try_start(other.path(), &ports, &plan) else { panic!("the directory was taken") };
    assert!(
        text.contains("active mark file") && text.contains("another process uses the directory"),
        "{text}"
    );
    node.kill();
    assert!(cluster.exists());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
}
