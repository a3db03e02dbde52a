//! Operator actions on a node: suspend, resume, snapshot, shutdown, abort, node toggles and tool queries (spec 04 §2.5,
//! §4.10, §4.11, §6.6).

use crate::rig::stub::Told;
use crate::rig::{Node, Plan, counter, directory, entries, members, ports, value};
use harrier_cluster::codec::{ActiveMember, ModuleMessage, ServiceMessage};
use harrier_cluster::recording_log::EntryType;

#[test]
fn a_suspended_cluster_takes_nothing_until_it_is_resumed_also_after_a_restart() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "before");
    node.send(client, "timer 3 0");
    node.until("the timer", |node| node.has_seen("0 timer 3").then_some(()));
    node.set(counter::TOGGLE, value::SUSPEND);
    node.await_value(counter::STATE, value::SUSPENDED);
    let position = node.counter(counter::COMMIT).unwrap();
    node.send(client, "while suspended");
    // The suspended cluster refuses snapshot and shutdown because the toggle is not neutral.
    for wish in [value::SNAPSHOT, value::SHUTDOWN, value::STANDBY_SNAPSHOT, 99] {
        node.set(counter::TOGGLE, wish);
        node.await_value(counter::TOGGLE, value::SUSPEND);
    }
    node.go_on_for(50_000_000);
    assert!(!node.has_seen("0 message while suspended"));
    let behind = node.counter(counter::COMMIT).unwrap();
    assert!(behind <= position + 96, "{behind} {position}");
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.await_value(counter::TERM, 1);
    node.await_value(counter::STATE, value::SUSPENDED);
    node.await_value(counter::TOGGLE, value::SUSPEND);
    node.set(counter::TOGGLE, value::RESUME);
    node.await_value(counter::STATE, value::ACTIVE);
    node.await_value(counter::TOGGLE, value::NEUTRAL);
    let other = node.connect(ports[0]);
    node.exchange(other, "after");
}

#[test]
fn toggles_that_cannot_be_are_taken_back_and_said() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    for wish in [value::RESUME, 0, -1, 42] {
        node.set(counter::TOGGLE, wish);
        node.await_value(counter::TOGGLE, value::NEUTRAL);
        let text = format!("cluster control toggle {wish} cannot be carried out in state Active");
        assert!(node.logged_errors().contains(&text), "{:?}", node.logged_errors());
    }
    node.set(counter::NODE_TOGGLE, 9);
    node.await_value(counter::NODE_TOGGLE, value::NEUTRAL);
    node.until("the error", |node| node.is_at(counter::ERRORS, 5).then_some(()));
    // A standby's snapshot is only an action in the log.
    node.set(counter::TOGGLE, value::STANDBY_SNAPSHOT);
    node.await_value(counter::TOGGLE, value::NEUTRAL);
    assert!(node.is_at(counter::SNAPSHOTS, 0) && node.is_at(counter::STATE, value::ACTIVE));
    let client = node.connect(ports[0]);
    node.exchange(client, "all is well");
    node.take_snapshot();
}

#[test]
fn shutdown_ends_behind_a_snapshot_and_the_next_start_reads_no_log() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan { services: 2, ..Plan::default() });
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "one");
    node.set(counter::TOGGLE, value::SHUTDOWN);
    let text = node.until_end("consensus-module-0-0");
    assert!(text.contains("expected termination"), "{text}");
    for service in 0..2 {
        let line = format!("{service} terminate");
        node.until("the end of the services", |node| node.has_seen(&line).then_some(()));
    }
    let entries = node.entries();
    let position = entries[0].log_position;
    assert_eq!(entries.iter().map(|entry| entry.service_id).collect::<Vec<_>>(), [-1, 1, 0, -1]);
    assert!(entries[1..].iter().all(|entry| entry.log_position == position));
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan { services: 2, ..Plan::default() });
    node.until_leading();
    assert!(node.has_seen(&format!("1 start at {position} count 2 sessions 1")), "{:?}", node.seen());
    assert!(!node.has_seen("0 message one"));
    let last = node.entries().last().cloned().unwrap();
    assert_eq!((last.leadership_term_id, last.term_base_log_position), (1, position));
}

#[test]
fn abort_ends_at_once_without_a_snapshot() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "one");
    node.set(counter::TOGGLE, value::ABORT);
    node.until_end("consensus-module-0-0");
    node.until("the end of the service", |node| node.has_seen("0 terminate").then_some(()));
    let entries = node.entries();
    assert_eq!(entries.len(), 1);
    assert!(entries[0].log_position > 0, "{entries:?}");
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    assert!(node.has_seen("0 message one"));
}

#[test]
fn a_service_that_does_not_end_is_not_waited_for_longer_than_told() {
    let (directory, ports) = (directory(), ports());
    let mut plan = Plan::with(|context| context.termination_timeout_ns = 300_000_000);
    plan.services = 0;
    let mut node = Node::start(directory.path(), &ports, &plan);
    node.lead_with_stub();
    node.set(counter::TOGGLE, value::ABORT);
    let told = node.until_told("the termination", |told| matches!(told, Told::Terminate(_)));
    node.until_end("consensus-module-0-0");
    let text = format!("services [0] have not ended at {} in time", node.entries()[0].log_position);
    assert_eq!(told, Told::Terminate(node.entries()[0].log_position));
    assert!(node.logged_errors().contains(&text), "{:?}", node.logged_errors());
}

#[test]
fn snapshots_whose_recordings_are_gone_are_found_by_the_nodes_toggle() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    node.take_snapshot();
    let mut lost = node.entries()[2].clone();
    node.kill();
    lost.recording_id = 4_000;
    lost.log_position -= 32;
    let path = directory.path().join("cluster/recording.log");
    let bytes = [std::fs::read(&path).unwrap(), lost.encode()].concat();
    std::fs::write(&path, bytes).unwrap();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    assert!(node.entries().iter().any(|entry| entry.recording_id == 4_000 && entry.is_valid));
    node.set(counter::NODE_TOGGLE, value::VALIDATE);
    node.await_value(counter::NODE_TOGGLE, value::NEUTRAL);
    node.until("the validation", |node| {
        node.entries().iter().any(|entry| entry.recording_id == 4_000 && !entry.is_valid).then_some(())
    });
    let valid = entries(directory.path());
    let snapshots = valid.iter().filter(|entry| entry.entry_type == EntryType::Snapshot && entry.is_valid);
    assert_eq!(snapshots.count(), 2);
    let client = node.connect(ports[0]);
    node.exchange(client, "and the cluster goes on");
}

#[test]
fn tools_are_told_the_members_in_both_forms() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan { services: 0, ..Plan::default() });
    node.lead_with_stub();
    node.until_sent(&ServiceMessage::MembersQuery { correlation_id: 501, is_extended: false });
    let is_other = |told: &Told| matches!(told, Told::Other(_));
    let Told::Other(bytes) = node.until_told("the answer", is_other) else { unreachable!() };
    let expected = members(&ports);
    assert_eq!(
        ModuleMessage::decode(&bytes).unwrap(),
        Some(ModuleMessage::MembersResponse {
            correlation_id: 501,
            leader_member_id: 0,
            active_members: &expected
        })
    );
    node.stub.as_mut().unwrap().told.clear();
    node.until_sent(&ServiceMessage::MembersQuery { correlation_id: 500, is_extended: true });
    let Told::Other(bytes) = node.until_told("the extended answer", is_other) else { unreachable!() };
    let Some(ModuleMessage::MembersExtendedResponse { correlation_id, current_time_ns, .. }) =
        ModuleMessage::decode(&bytes).unwrap()
    else {
        panic!("{bytes:?}")
    };
    assert!(correlation_id == 500 && current_time_ns > 1_700_000_000_000_000_000);
    let all = ActiveMember::decode_all(&bytes).unwrap();
    assert_eq!((all.len(), all[0].member_id, all[0].leadership_term_id, all[0].log_position), (1, 0, 0, 96));
    assert_eq!(all[0].ingress_endpoint, format!("127.0.0.1:{}", ports[0]));
    assert_eq!(all[0].archive_endpoint, format!("127.0.0.1:{}", ports[4]));
}

#[test]
fn the_counters_are_those_of_the_released_cluster() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    node.connect(ports[0]);
    node.take_snapshot();
    let mut counters = Vec::new();
    node.tool.counters().for_each(&mut |_, type_id, key, label| {
        if (200..=300).contains(&type_id) {
            counters.push((type_id, i32::from_le_bytes(*key.first_chunk().unwrap()), label.to_owned()));
        }
    });
    let text = String::from_utf8(crate::rig::golden::testdata("single/counters.txt")).unwrap();
    for line in text.lines() {
        let (type_id, label) = line.split_once(' ').unwrap();
        let type_id: i32 = type_id.parse().unwrap();
        let label = label.split(" commit=").next().unwrap();
        let found = counters.iter().find(|(id, _, _)| *id == type_id);
        let (_, cluster_id, found) =
            found.unwrap_or_else(|| panic!("counter {line} is missing in {counters:?}"));
        assert_eq!((*cluster_id, found.split(" commit=").next().unwrap()), (0, label));
    }
    let session = counters.iter().find(|(type_id, _, _)| *type_id == 241).unwrap();
    assert!(session.2.starts_with("cluster-session: name=raw sourceIdentity=127.0.0.1:"), "{session:?}");
    assert!(session.2.ends_with(" - clusterId=0") && session.2.contains(" sessionId="), "{session:?}");
    assert!(node.counter(216).unwrap() > 0 && node.counter(234).unwrap() > 0);
}
