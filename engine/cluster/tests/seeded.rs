//! Members whose recording.log was seeded from a snapshot (spec 04 §6.6): the log restarts at position 0.

use std::path::Path;

use harrier_cluster::tool::{Seeded, seed_recording_log_from_snapshot};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::Clock;

use crate::rig::{Node, Plan, directory, ports};

fn seed(directory: &Path) -> Seeded {
    let (mut storage, now) = (FileStorage::inline(), PausingClock.now());
    let cluster = directory.join("cluster");
    seed_recording_log_from_snapshot(&MappedMemory, &mut storage, &cluster, &now).unwrap()
}

/// First output line of the service in this run.
fn first_line(node: &Node) -> String {
    node.seen().first().cloned().unwrap_or_default()
}

#[test]
fn a_seeded_member_starts_writes_and_takes_snapshots_any_number_of_times() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    for number in 0..20 {
        node.exchange(client, &format!("old log {number}"));
    }
    node.take_snapshot();
    let taken_at = node.entries().last().unwrap().log_position;
    node.exchange(client, "forgotten");
    node.kill();
    let seeded = seed(directory.path());
    assert!(taken_at > 0 && seeded.entries.iter().all(|entry| entry.log_position == 0));

    // Runs 0 and 1 begin at the seeded snapshot, later ones at the snapshot of run 1.
    let mut count = 21;
    for life in 0..4 {
        let mut node = Node::start(directory.path(), &ports, &Plan::default());
        node.until_leading();
        let first = first_line(&node);
        assert_eq!(first.starts_with("0 start at 0 count 21 "), life < 2, "life {life}: {first}");
        assert!(!node.has_seen("0 message forgotten"));
        for earlier in 0..life {
            let line = format!("0 message new log {earlier}");
            assert_eq!(node.has_seen(&line), earlier >= 2 || life < 2, "life {life}: {:?}", node.seen());
        }
        let client = node.connect(ports[0]);
        count += 1;
        node.exchange(client, &format!("new log {life}"));
        count += 1;
        let state = node.state(client);
        assert_eq!(
            state.split(':').next(),
            Some(count.to_string().as_str()),
            "life {life}: {:?}",
            node.seen()
        );
        if life == 1 {
            node.take_snapshot();
        }
        node.kill();
    }
}

#[test]
fn a_snapshot_at_another_position_than_recording_log_says_is_refused() {
    let (directory, ports) = (directory(), ports());
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    node.until_leading();
    let client = node.connect(ports[0]);
    node.exchange(client, "once");
    node.take_snapshot();
    let taken_at = node.entries().last().unwrap().log_position;
    node.kill();
    let path = directory.path().join("cluster/recording.log");
    let mut bytes = std::fs::read(&path).unwrap();
    for record in bytes.chunks_exact_mut(64).filter(|record| record[44] == 1) {
        record[24..32].copy_from_slice(&(taken_at - 32).to_le_bytes());
    }
    std::fs::write(&path, bytes).unwrap();
    // The seal would detect the change first.
    std::fs::remove_file(directory.path().join("cluster/recording.log.seal")).unwrap();
    let mut node = Node::start(directory.path(), &ports, &Plan::default());
    let end = node.until_end("consensus-module");
    let expected = format!("it was taken at {taken_at}, not at {} as recording.log says", taken_at - 32);
    assert!(end.contains(&expected), "{end}");
}
