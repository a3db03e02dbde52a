//! Snapshots of a whole node: their contents, and nodes that start from one (spec 04 §4.9, §4.12).

use crate::rig::client::Heard;
use crate::rig::stub::Told;
use crate::rig::{Node, Plan, counter, directory, entries, ports, value};
use harrier_cluster::codec::{EventCode, ServiceMessage};
use harrier_cluster::recording_log::{Entry, EntryType};

fn facts(entries: &[Entry]) -> Vec<(i32, EntryType, bool)> {
    entries.iter().map(|entry| (entry.service_id, entry.entry_type, entry.is_valid)).collect()
}

#[test]
fn a_node_begins_at_its_snapshot_and_is_what_it_was() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    for number in 0..50 {
        node.exchange(client, &format!("before {number}"));
    }
    node.send(client, "timer 7 600");
    node.exchange(client, "it is set");
    node.take_snapshot();
    let position = node.entries().last().unwrap().log_position;
    assert_eq!(
        facts(&node.entries()),
        [(-1, EntryType::Term, true), (0, EntryType::Snapshot, true), (-1, EntryType::Snapshot, true)]
    );
    for number in 0..10 {
        node.exchange(client, &format!("after {number}"));
    }
    let state = node.state(client);
    let session_id = node.clients[client].session_id;
    let clients = std::mem::take(&mut node.clients);
    let seen = node.seen();
    node.kill();
    drop(clients);

    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let first = format!("0 start at {position} count 53 sessions {session_id}");
    assert_eq!(node.seen()[0], first, "{:?}", node.seen());
    // Only the log after the snapshot was replayed.
    assert!(!node.has_seen("0 message before 1") && node.has_seen("0 message after 9"));
    let snapshot = seen.iter().position(|line| line.starts_with("0 snapshot")).unwrap();
    let replayed: Vec<String> = seen[snapshot + 1..]
        .iter()
        .filter(|line| !line.contains("timer 7") || line.contains("message"))
        .cloned()
        .collect();
    assert_eq!(node.seen()[1..=replayed.len()], replayed[..]);
    node.until("the timer", |node| node.has_seen("0 timer 7").then_some(()));
    let other = node.connect(ports[0]);
    assert_eq!(node.clients[other].session_id, session_id + 1);
    assert!(!state.is_empty());
}

#[test]
fn snapshot_and_log_are_the_log_alone() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    for number in 0..30 {
        node.exchange(client, &format!("first {number}"));
    }
    node.send(client, "forward between");
    node.until("the service's message", |node| node.has_seen("0 service between").then_some(()));
    node.take_snapshot();
    node.exchange(client, "behind the snapshot");
    let state = node.state(client);
    node.kill();
    for is_invalidated in [false, true] {
        if is_invalidated {
            let mut storage = harrier_platform::FileStorage::inline();
            let cluster = directory.path().join("cluster");
            let mut log =
                harrier_cluster::recording_log::RecordingLog::open(&mut storage, &cluster, None).unwrap();
            for operation in log.invalidate_latest_snapshot() {
                harrier_ringbuf::Storage::blocking(&mut storage, operation).unwrap();
            }
        }
        let before = entries(directory.path());
        let mut node = Node::start(directory.path(), &ports, &Plan::default());
        node.until_leading();
        assert_eq!(node.has_seen("0 start"), is_invalidated);
        // The log says that a snapshot was taken: services and module take it again, in the place of the invalid one.
        if is_invalidated {
            assert!(node.seen().iter().any(|line| line.starts_with("0 snapshot at ")));
            let after = node.entries();
            assert_eq!(
                facts(&after).iter().filter(|fact| fact.1 == EntryType::Snapshot && fact.2).count(),
                2
            );
            assert!(after.iter().filter(|entry| entry.is_snapshot()).all(|entry| {
                before
                    .iter()
                    .all(|earlier| !earlier.is_snapshot() || earlier.recording_id != entry.recording_id)
            }));
        }
        let open: Vec<String> =
            node.seen().iter().filter(|line| line.contains(" message ")).cloned().collect();
        assert_eq!(open.last().unwrap(), "0 message behind the snapshot");
        let other = node.connect(ports[0]);
        let (count, _) =
            node.state(other).split_once(':').map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
        let (count_before, _) = state.split_once(':').unwrap();
        // Since then the sessions were closed and the new session was opened.
        let opens_and_closes =
            node.seen().iter().filter(|line| line.contains(" open ") || line.contains(" close ")).count()
                as u64;
        let known = if is_invalidated { 1 } else { 0 };
        assert_eq!(
            count.parse::<u64>().unwrap(),
            count_before.parse::<u64>().unwrap() + opens_and_closes - known,
            "{:?}",
            node.seen()
        );
        node.kill();
    }
}

#[test]
fn two_services_are_in_one_snapshot_and_their_messages_go_on() {
    let (directory, ports) = (directory(), ports());
    let plan = || Plan { services: 2, ..Plan::default() };
    let mut node = Node::start(directory.path(), &ports, &plan());
    node.until_leading();
    let client = node.connect(ports[0]);
    for number in 0..5 {
        node.send(client, &format!("forward m{number}"));
    }
    for service in 0..2 {
        node.until("both services' messages", |node| {
            node.has_seen(&format!("{service} service m4")).then_some(())
        });
    }
    node.take_snapshot();
    let services: Vec<i32> = node.entries()[1..].iter().map(|entry| entry.service_id).collect();
    assert_eq!(services, [1, 0, -1]);
    let count = |node: &Node, line: &str| node.seen().iter().filter(|seen| *seen == line).count();
    assert_eq!((count(&node, "0 service m3"), count(&node, "1 service m3")), (2, 2));
    node.send(client, "forward tail");
    node.until("the message behind", |node| (count(node, "1 service tail") == 2).then_some(()));
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &plan());
    node.until_leading();
    let other = node.connect(ports[0]);
    node.send(other, "forward again");
    node.until("the message of now", |node| (count(node, "1 service again") == 2).then_some(()));
    assert_eq!((count(&node, "0 service tail"), count(&node, "0 service m3")), (2, 0));
    assert!(node.logged_errors().is_empty(), "{:?}", node.logged_errors());
}

#[test]
fn restored_sessions_are_told_of_the_new_term() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    // The response channel outlives the node because its socket belongs to another driver.
    let listener = crate::rig::client_driver(directory.path());
    let client = node.connect_from(listener.clone(), ports[0]);
    node.take_snapshot();
    let session_id = node.clients[client].session_id;
    let clients = std::mem::take(&mut node.clients);
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.clients = clients;
    node.clients[client].heard.clear();
    node.listener = Some(listener);
    node.until("the new term", |node| {
        node.clients[client].heard.iter().find_map(|heard| match heard {
            Heard::NewLeader { term_id: 1, endpoints } => Some(endpoints.clone()),
            _ => None,
        })
    });
    // OK with the new term precedes the NewLeaderEvent (spec 04 §3.5).
    let first = &node.clients[client].heard[0];
    assert!(
        matches!(first, Heard::Event { session_id: id, code: EventCode::Ok, .. } if *id == session_id),
        "{first:?}"
    );
    node.clients[client].follow(1, ports[0]);
    node.exchange(client, "in the new term");
}

#[test]
fn a_snapshot_of_another_version_or_unit_is_refused() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan { app_version: 1 << 16, ..Plan::default() });
    node.until_leading();
    node.take_snapshot();
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan { app_version: 2 << 16, ..Plan::default() });
    let text = node.until_end("consensus-module-0-0");
    assert!(text.contains("incompatible version: 2.0.0 snapshot=1.0.0"), "{text}");
    node.kill();
    let nanos = Plan {
        app_version: 1 << 16,
        change: Box::new(|context| context.time_unit = harrier_cluster::codec::TimeUnit::Nanos),
        ..Plan::default()
    };
    let mut node = Node::start(directory.path(), &ports, &nanos);
    let text = node.until_end("consensus-module-0-0");
    assert!(text.contains("time unit Millis but the cluster's clock counts Nanos"), "{text}");
    node.kill();
    let mut node =
        Node::start(directory.path(), &ports, &Plan { app_version: (1 << 16) + 9, ..Plan::default() });
    node.until_leading();
}

#[test]
fn a_snapshot_cut_short_or_of_a_service_is_refused() {
    for damage in ["cut", "service"] {
        let (directory, ports) = (directory(), ports());
        let mut node = Node::start(directory.path(), &ports, &Plan::default());
        node.until_leading();
        node.take_snapshot();
        let snapshots: Vec<i64> = node.entries()[1..].iter().map(|entry| entry.recording_id).collect();
        node.kill();
        let path = directory.path().join(format!("archive/{}-0.rec", snapshots[1]));
        match damage {
            // A frame of another kind ends the snapshot before its END marker.
            "cut" => {
                let mut bytes = std::fs::read(&path).unwrap();
                let end = bytes.windows(4).rposition(|word| word == [40, 0, 100, 0]).unwrap();
                bytes[end + 2] = 99;
                std::fs::write(&path, bytes).unwrap();
            }
            _ => {
                let service = directory.path().join(format!("archive/{}-0.rec", snapshots[0]));
                let module = std::fs::read(&path).unwrap();
                let mut bytes = std::fs::read(service).unwrap();
                // The frames of the service's snapshot in the module's recording: only the term ids have to be right.
                let term_id = module[20..24].to_vec();
                let mut offset = 0;
                while bytes[offset..offset + 4] != [0; 4] {
                    let length = i32::from_le_bytes(*bytes[offset..].first_chunk().unwrap()) as usize;
                    bytes[offset + 12..offset + 24].copy_from_slice(&module[12..24]);
                    bytes[offset + 20..offset + 24].copy_from_slice(&term_id);
                    offset += length.next_multiple_of(32);
                }
                std::fs::write(&path, bytes).unwrap();
            }
        }
        let mut node = Node::start(directory.path(), &ports, &Plan::default());
        let text = node.until_end("consensus-module-0-0");
        let expected = if damage == "cut" { "is cut short" } else { "snapshot has type 2 instead of 1" };
        assert!(text.contains(expected), "{text}");
    }
}

#[test]
fn what_services_have_set_and_sent_is_in_the_modules_snapshot() {
    let (directory, ports) = (directory(), ports());
    let stubbed = || Plan { services: 0, ..Plan::default() };
    let mut node = Node::start(directory.path(), &ports, &stubbed());
    node.lead_with_stub();
    node.set(counter::TOGGLE, value::SNAPSHOT);
    node.await_value(counter::STATE, 3);
    let position = 192;
    node.await_value(counter::COMMIT, position);
    // These messages precede the ack in the stream; in the state SNAPSHOT none of them enters the log.
    let header = |service| harrier_cluster::codec::SessionHeader {
        leadership_term_id: 0,
        session_id: service,
        timestamp: 0,
    };
    for payload in [&b"one"[..], b"two"] {
        node.until_sent(&ServiceMessage::Offer { header: header(0), payload });
    }
    let deadline = i64::MAX;
    node.until_sent(&ServiceMessage::ScheduleTimer { correlation_id: 5, deadline });
    node.until_acked(position, 2, 77);
    node.await_value(counter::SNAPSHOTS, 1);
    // They are appended after the snapshot.
    node.until("both messages in the log", |node| {
        (node.counter(counter::COMMIT).unwrap() == position + 2 * 96).then_some(())
    });
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &stubbed());
    let client_id = node.add_stub();
    node.until_acked(position, 0, client_id);
    node.until_told("the replay", |told| matches!(told, Told::Join { stream_id: 103, .. }));
    node.until_acked(position, 1, -1);
    node.until_told(
        "the log",
        |told| matches!(told, Told::Join { log_position, .. } if *log_position == position + 2 * 96),
    );
    node.until_acked(position + 2 * 96, 2, -1);
    node.until_leading();
    // Replayed messages are not appended again.
    node.go_on_for(50_000_000);
    assert_eq!(node.counter(counter::COMMIT).unwrap(), position + 3 * 96);
    assert!(node.logged_errors().is_empty(), "{:?}", node.logged_errors());
}
