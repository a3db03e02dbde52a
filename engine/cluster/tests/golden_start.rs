//! Our node on files of the released cluster at each stage (spec 04 §11).

use crate::rig::golden::{Recording, lay_out, testdata};
use crate::rig::stub::Told;
use crate::rig::{Node, Plan, counter, directory, ports, value};
use harrier_cluster::codec::TimeUnit;
use harrier_cluster::recording_log::EntryType;
use harrier_platform::PausingClock;
use harrier_protocol::semantic_version;
use harrier_ringbuf::Clock;

/// The single node's directory at a stage; its log ends at `log_end`.
fn single(stage: &str, log_end: i64, snapshots: usize) -> tempfile::TempDir {
    let directory = directory();
    let files: Vec<Vec<u8>> = (0..=4).map(|id| testdata(&format!("single/{id}-0.rec"))).collect();
    let mut recordings = vec![Recording { bytes: &files[0], stop_position: log_end, stream_id: 100 }];
    for (id, bytes) in files.iter().enumerate().skip(1).take(snapshots * 2) {
        let stream_id = if id % 2 == 1 { 106 } else { 107 };
        recordings.push(Recording { bytes, stop_position: bytes.len() as i64, stream_id });
    }
    lay_out(directory.path(), &recordings, &testdata(&format!("single/{stage}.recording.log")));
    directory
}

fn plan() -> Plan {
    Plan {
        services: 0,
        app_version: semantic_version(1, 9, 0),
        change: Box::new(|context| context.session_timeout_ns = 3_600_000_000_000),
        ..Plan::default()
    }
}

/// Starts a node whose only service is a stub, up to the join of the live log at `end`. Snapshots in the log are taken
/// again and acked with recordings from `first_recording_id` on.
fn lead(node: &mut Node, start: i64, end: i64, replayed_snapshots: &[i64]) {
    let client_id = node.add_stub();
    node.until_acked(start, 0, client_id);
    let mut ack_id = 1;
    if start < end {
        let join = Told::Join { log_position: start, max_log_position: end, stream_id: 103 };
        node.until_told("the replay", |told| *told == join);
        node.until_acked(start, ack_id, -1);
        ack_id += 1;
    }
    for position in replayed_snapshots {
        node.await_value(counter::COMMIT, *position);
        node.until_acked(*position, ack_id, 900 + ack_id);
        ack_id += 1;
    }
    node.until_told(
        "the log",
        |told| matches!(told, Told::Join { log_position, stream_id: 100, .. } if *log_position == end),
    );
    node.until_acked(end, ack_id, -1);
    node.until_leading();
    // A stub offers nothing: the one message of service 0 in the log was not sent again.
    let is_expected =
        |text: &String| text.starts_with("service 0 sent fewer messages than the log has of it");
    assert!(node.logged_errors().iter().all(is_expected), "{:?}", node.logged_errors());
}

#[test]
fn from_the_log_alone() {
    let directory = single("stage1-started", 4_320, 0);
    let mut node = Node::start(directory.path(), &ports(), &plan());
    lead(&mut node, 0, 4_320, &[]);
    let terms = node.entries();
    assert_eq!((terms[0].log_position, terms[1].term_base_log_position), (4_320, 4_320));
    assert!(node.is_at(counter::TERM, 1));
    // Sessions 1, 2 and 4 were open: the next is 5.
    assert_eq!(next_session_id(&mut node), 5);
}

#[test]
fn from_a_log_with_snapshots_that_are_taken_again() {
    let directory = single("stage1-started", 5_504, 0);
    let mut node = Node::start(directory.path(), &ports(), &plan());
    lead(&mut node, 0, 5_504, &[4_416, 5_504]);
    assert!(node.is_at(counter::SNAPSHOTS, 2));
    let snapshots: Vec<(i64, i32)> = node
        .entries()
        .iter()
        .filter(|entry| entry.entry_type == EntryType::Snapshot)
        .map(|entry| (entry.log_position, entry.service_id))
        .collect();
    assert_eq!(snapshots, [(4_416, 0), (4_416, -1), (5_504, 0), (5_504, -1)]);
    assert!(
        node.entries().iter().filter(|entry| entry.is_snapshot()).all(|entry| entry.leadership_term_id == 0)
    );
}

#[test]
fn from_its_first_snapshot_and_the_log_behind() {
    let directory = single("stage2-snapshot", 5_120, 1);
    let mut node = Node::start(directory.path(), &ports(), &plan());
    let mut recovery = None;
    node.until("the recovery counter", |node| {
        node.tool.counters().for_each(&mut |_, type_id, key, label| {
            if type_id == 204 {
                recovery = Some((key[..40].to_vec(), label.to_owned()));
            }
        });
        recovery.as_ref().map(|_| ())
    });
    let (key, label) = recovery.unwrap();
    assert_eq!(label, "Cluster recovery: leadershipTermId=0 logPosition=4416 clusterId=0");
    assert_eq!((key[28], key[32]), (1, 1));
    lead(&mut node, 4_416, 5_120, &[]);
    // After SUSPEND and RESUME in the log the state is the same as before.
    assert!(node.is_at(counter::STATE, value::ACTIVE));
    assert_eq!(next_session_id(&mut node), 8);
}

#[test]
fn from_the_snapshot_of_its_shutdown_without_any_log() {
    let directory = single("stage3-shutdown", 5_504, 2);
    let mut node = Node::start(directory.path(), &ports(), &plan());
    lead(&mut node, 5_504, 5_504, &[]);
    assert_eq!(next_session_id(&mut node), 8);
    let last = node.entries().last().cloned().unwrap();
    assert_eq!((last.recording_id, last.leadership_term_id, last.term_base_log_position), (0, 1, 5_504));
}

#[test]
fn after_an_abort_in_its_second_term() {
    let directory = single("stage4-aborted", 5_856, 2);
    let mut node = Node::start(directory.path(), &ports(), &plan());
    lead(&mut node, 5_504, 5_856, &[]);
    assert!(node.is_at(counter::TERM, 2));
    assert_eq!(next_session_id(&mut node), 9);
}

#[test]
fn two_services_whose_clock_counts_nanoseconds_and_whose_log_is_ipc() {
    let directory = directory();
    let files: Vec<Vec<u8>> = (0..=3).map(|id| testdata(&format!("multi/{id}-0.rec"))).collect();
    let recordings: Vec<Recording<'_>> = files
        .iter()
        .zip([100, 106, 106, 107])
        .map(|(bytes, stream_id)| Recording { bytes, stop_position: bytes.len() as i64, stream_id })
        .collect();
    lay_out(directory.path(), &recordings, &testdata("multi/recording.log"));
    let plan = Plan {
        services: 0,
        change: Box::new(|context| {
            context.service_count = 2;
            context.time_unit = TimeUnit::Nanos;
            context.log_channel = "aeron:ipc?term-length=64k".into();
        }),
        ..Plan::default()
    };
    let mut node = Node::start(directory.path(), &ports(), &plan);
    let client_id = node.add_stub();
    let ack = |service_id, log_position, ack_id, relevant_id| harrier_cluster::codec::ServiceMessage::Ack {
        log_position,
        timestamp: 0,
        ack_id,
        relevant_id,
        service_id,
    };
    let end = files[0].len() as i64;
    for (ack_id, position, relevant_id) in [(0, 1_152, client_id), (1, 1_152, -1), (2, end, -1)] {
        if ack_id > 0 {
            let is_join =
                |told: &Told| matches!(told, Told::Join { log_position, .. } if *log_position == position);
            node.until_told("the join", is_join);
        }
        node.until_sent(&ack(0, position, ack_id, relevant_id));
        node.until_sent(&ack(1, position, ack_id, relevant_id));
    }
    node.until_leading();
    assert!(node.logged_errors().is_empty(), "{:?}", node.logged_errors());
    assert_eq!(next_session_id(&mut node), 2);
    // A timer half a second from now, ns of the cluster's clock.
    let now_ns = PausingClock.now().epoch_ms * 1_000_000;
    let commit = node.counter(counter::COMMIT).unwrap();
    let deadline = now_ns + 200_000_000;
    node.until_sent(&harrier_cluster::codec::ServiceMessage::ScheduleTimer { correlation_id: 3, deadline });
    node.go_on_for(50_000_000);
    assert!(node.is_at(counter::COMMIT, commit));
    node.await_value(counter::COMMIT, commit + 64);
}

/// The id that the next client gets.
fn next_session_id(node: &mut Node) -> i64 {
    let ports = node.ports();
    let client = node.connect(ports[0]);
    node.clients[client].session_id
}
