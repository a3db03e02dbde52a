//! Conditions that end a member without a command (spec 04 §4.11, §5.6).

use crate::rig::client::{Heard, RawClient};
use crate::rig::{Node, Plan, counter, directory, members, ports, value};
use harrier_archive::client::{ArchiveClient, ArchiveClientContext};
use harrier_cluster::codec::EventCode;
use harrier_cluster::module::{AuthenticatorSupplier, ConsensusModule, ConsensusModuleContext};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::{Agent, Clock};

const ROLE: &str = "consensus-module-0-0";

#[test]
fn a_full_disk() {
    let (directory, ports) = (directory(), ports());
    let plan = Plan { low_storage_threshold: u64::MAX, ..Plan::default() };
    let mut node = Node::start(directory.path(), &ports, &plan);
    let text = node.until_end(ROLE);
    assert!(text.contains("archive has no storage space left"), "{text}");
    assert!(node.logged_errors().iter().any(|error| error.contains("no storage space left")));
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
}

/// Stops the recording of the log by a second client of the archive.
fn stop_recording(node: &mut Node) {
    let settings = ArchiveClientContext { control_response_stream_id: 999, ..ArchiveClientContext::ipc() };
    let mut archive = ArchiveClient::new(settings);
    node.until("the archive", |node| {
        archive.poll(&mut node.tool, &PausingClock.now()).unwrap();
        archive.is_connected().then_some(())
    });
    archive.stop_recording_by_identity(&node.tool, 0).unwrap();
    archive.close();
}

/// Term that a client was told of last.
fn new_term(client: &RawClient) -> Option<i64> {
    client.heard.iter().rev().find_map(|heard| match heard {
        Heard::NewLeader { term_id, .. } => Some(*term_id),
        _ => None,
    })
}

#[test]
fn a_member_whose_log_is_no_longer_recorded_is_elected_again() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "safe");
    for round in 1..=2 {
        stop_recording(&mut node);
        let told = node.until("the next term", |node| {
            new_term(&node.clients[client]).filter(|term_id| *term_id == round)
        });
        node.clients[client].follow(told, ports[0]);
        node.exchange(client, &format!("after {round}"));
        assert!(node.is_at(counter::STATE, value::ACTIVE) && node.is_at(counter::TOGGLE, value::NEUTRAL));
        assert_eq!(node.clients[client].event(EventCode::Closed), None, "the session lives on");
    }
    let warnings = node.logged_errors();
    assert!(
        warnings.iter().any(|text| text.contains("WARN: election: log recording stopped")),
        "{warnings:?}"
    );
    node.take_snapshot();
    node.exchange(client, "after the snapshot");
    let terms: Vec<(i64, i64)> = node
        .entries()
        .iter()
        .filter(|entry| entry.is_term())
        .map(|entry| (entry.leadership_term_id, entry.recording_id))
        .collect();
    assert_eq!(terms, [(0, 0), (1, 0), (2, 0)], "the recording is extended");
    let events = node.clients[client].heard.iter();
    let opened = events.filter(|heard| matches!(heard, Heard::Event { code: EventCode::Ok, .. })).count();
    assert_eq!(opened, 1, "the client is told once that its session is open");
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    assert!(node.has_seen("0 message after the snapshot"));
    assert!(node.errors.borrow().is_empty());
}

#[test]
fn a_client_whose_session_is_not_in_the_log_is_told_of_the_election() {
    let (directory, ports) = (directory(), ports());
    let challenge = || AuthenticatorSupplier::challenge("who?", "me");
    let plan =
        Plan { change: Box::new(move |context| context.authenticator = challenge()), ..Plan::default() };
    let mut node = Node::start(directory.path(), &ports, &plan);
    node.until_leading();
    let client = node.add_client(ports[0]);
    node.until("the request", |node| node.clients[client].connect_normally().then_some(()));
    node.until("the challenge", |node| {
        let heard = &node.clients[client].heard;
        heard.iter().any(|heard| matches!(heard, Heard::Challenge { .. })).then_some(())
    });
    stop_recording(&mut node);
    let (_, detail) = node.until("the close", |node| node.clients[client].event(EventCode::Closed));
    assert_eq!(detail, "election");
    node.await_value(counter::ELECTIONS, 2);
    node.await_value(counter::TOGGLE, value::NEUTRAL);
}

#[test]
fn a_suspended_member_that_is_elected_again_stays_suspended() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "before");
    node.set(counter::TOGGLE, value::SUSPEND);
    node.await_value(counter::STATE, value::SUSPENDED);
    stop_recording(&mut node);
    node.await_value(counter::ELECTIONS, 2);
    node.await_value(counter::TOGGLE, value::SUSPEND);
    assert!(node.is_at(counter::STATE, value::SUSPENDED));
    node.set(counter::TOGGLE, value::RESUME);
    node.await_value(counter::STATE, value::ACTIVE);
    let told = node.until("the next term", |node| new_term(&node.clients[client]));
    node.clients[client].follow(told, ports[0]);
    node.exchange(client, "after");
    node.take_snapshot();
}

#[test]
fn a_second_module_of_the_cluster_on_the_same_driver() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let other = crate::rig::directory();
    let driver = directory.path().join("node");
    let mut context = ConsensusModuleContext::new(driver, other.path(), 0, members(&ports));
    context.startup_timeout_ns = 200_000_000;
    let now = PausingClock.now();
    let mut second = ConsensusModule::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap();
    let error = node.until("the end of the second", |_| second.do_work(&PausingClock.now()).err());
    assert!(error.to_string().contains("another consensus module with cluster id 0 is active"), "{error}");
    second.on_close(&PausingClock.now());
    let client = node.connect(ports[0]);
    node.exchange(client, "the first goes on");
    assert!(node.is_at(counter::STATE, value::ACTIVE));
}
