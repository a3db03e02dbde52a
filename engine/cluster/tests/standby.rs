//! Backups and standbys: a member's answers to them, and replication of their snapshots (spec 04 §8).

use std::path::Path;

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext, ReplicationParams};
use harrier_archive::codec::Signal;
use harrier_archive::{Archive, ArchiveContext};
use harrier_client::{ExclusivePublication, Subscription};
use harrier_cluster::codec::{
    BackupAnswer, BackupRequest, Egress, EventCode, PROTOCOL_VERSION, SnapshotRecording,
};
use harrier_cluster::module::{AuthenticatorSupplier, Authorisation, ConsensusModuleContext};
use harrier_cluster::recording_log::{Entry, EntryType, RecordingLog};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_protocol::semantic_version;
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::ThreadPace;
use harrier_ringbuf::{Clock, SharedThread, Storage};

use crate::rig::{Node, Plan, counter, directory, members, ports, value};

/// Answers of a member to a backup.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Heartbeat(i64),
    Members { correlation_id: i64, log: (i64, i64, i64), snapshots: Vec<(i64, i64, i32)>, members: String },
    Event { session_id: i64, correlation_id: i64, code: EventCode, detail: String },
    Challenge { session_id: i64, correlation_id: i64, challenge: Vec<u8> },
}

/// A backup on the node's driver.
struct Backup {
    requests: ExclusivePublication,
    answers: Subscription,
    channel: String,
}

impl Backup {
    fn new(node: &mut Node) -> Self {
        let channel = format!("aeron:udp?term-length=64k|endpoint=127.0.0.1:{}", node.ports()[1]);
        let requests = node.tool.add_exclusive_publication(&channel, 108).unwrap();
        let answers = node.tool.add_subscription("aeron:udp?endpoint=127.0.0.1:0", 109).unwrap();
        let requests =
            node.until("the request stream", |node| node.tool.exclusive_publication(requests).unwrap());
        let answers = node.until("the answer stream", |node| node.tool.subscription(answers).unwrap());
        node.until("the member", |_| requests.is_connected().then_some(()));
        let channel = answers.resolved_channel(node.tool.counters()).unwrap();
        Self { requests, answers, channel }
    }

    fn send(&mut self, request: &BackupRequest<'_>) {
        let mut bytes = vec![0; 4_096];
        let length = request.encode(&mut bytes).unwrap();
        self.requests.offer(&bytes[..length]).unwrap();
    }

    fn told(&mut self, node: &mut Node) -> Told {
        node.until("what the member says", |_| {
            let mut told = None;
            self.answers.poll(1, &mut |message, _| told = Some(read(message)));
            told
        })
    }

    fn query(&mut self, correlation_id: i64, log_position: i64) {
        let channel = self.channel.clone();
        self.send(&BackupRequest::Query {
            correlation_id,
            response_stream_id: 109,
            version: PROTOCOL_VERSION,
            log_position,
            response_channel: &channel,
            credentials: b"me",
        });
    }

    fn heartbeat(&mut self, correlation_id: i64, credentials: &[u8]) {
        let channel = self.channel.clone();
        self.send(&BackupRequest::Heartbeat {
            correlation_id,
            response_stream_id: 109,
            response_channel: &channel,
            credentials,
        });
    }

    fn standby_snapshot(&mut self, correlation_id: i64, version: i32, snapshots: Vec<SnapshotRecording<'_>>) {
        let channel = self.channel.clone();
        self.send(&BackupRequest::StandbySnapshot {
            correlation_id,
            version,
            response_stream_id: 109,
            snapshots,
            response_channel: &channel,
            credentials: b"me",
        });
    }
}

fn read(message: &[u8]) -> Told {
    match BackupAnswer::decode(message).unwrap() {
        Some(BackupAnswer::Heartbeat { correlation_id }) => return Told::Heartbeat(correlation_id),
        Some(BackupAnswer::Query {
            correlation_id,
            log_recording_id,
            log_leadership_term_id,
            log_term_base_log_position,
            last_leadership_term_id,
            last_term_base_log_position,
            snapshots,
            cluster_members,
            ..
        }) => {
            assert_eq!(
                (last_leadership_term_id, last_term_base_log_position),
                (log_leadership_term_id, log_term_base_log_position)
            );
            return Told::Members {
                correlation_id,
                log: (log_recording_id, log_leadership_term_id, log_term_base_log_position),
                snapshots: snapshots
                    .iter()
                    .map(|snapshot| (snapshot.recording_id, snapshot.log_position, snapshot.service_id))
                    .collect(),
                members: cluster_members.to_owned(),
            };
        }
        None => {}
    }
    match Egress::decode(message).unwrap() {
        Some(Egress::SessionEvent { session_id, correlation_id, code, detail, .. }) => {
            Told::Event { session_id, correlation_id, code, detail: detail.to_owned() }
        }
        Some(Egress::Challenge { session_id, correlation_id, challenge }) => {
            Told::Challenge { session_id, correlation_id, challenge: challenge.to_vec() }
        }
        other => panic!("{other:?}"),
    }
}

fn event(correlation_id: i64, code: EventCode, detail: &str) -> Told {
    Told::Event { session_id: -1, correlation_id, code, detail: detail.to_owned() }
}

fn start(home: &Path, ports: &[u16], change: impl Fn(&mut ConsensusModuleContext) + 'static) -> Node {
    let mut node = Node::start(home, ports, &Plan::with(change));
    node.until_leading();
    node
}

fn accepting(context: &mut ConsensusModuleContext) {
    context.accepts_standby_snapshots = true;
}

#[test]
fn a_backup_is_told_of_log_snapshots_and_members() {
    let (directory, ports) = (directory(), ports());
    let mut node = start(directory.path(), &ports, |_| ());
    let mut backup = Backup::new(&mut node);
    backup.heartbeat(7, b"");
    assert_eq!(backup.told(&mut node), Told::Heartbeat(7));
    backup.query(8, i64::MAX);
    let nothing =
        Told::Members { correlation_id: 8, log: (0, 0, 0), snapshots: Vec::new(), members: members(&ports) };
    assert_eq!(backup.told(&mut node), nothing);
    let client = node.connect(ports[0]);
    node.exchange(client, "one");
    node.take_snapshot();
    node.exchange(client, "two");
    node.take_snapshot();
    let positions: Vec<i64> = node.entries()[1..].iter().map(|entry| entry.log_position).collect();
    for (log_position, set) in [(i64::MAX, 2), (positions[2] - 1, 0), (0, 0)] {
        backup.query(9, log_position);
        let Told::Members { snapshots, .. } = backup.told(&mut node) else { panic!("no answer") };
        let expected: Vec<(i64, i64, i32)> = node.entries()[1 + set..3 + set]
            .iter()
            .map(|entry| (entry.recording_id, entry.log_position, entry.service_id))
            .collect();
        assert_eq!((snapshots[0].2, snapshots[1].2), (0, -1));
        assert_eq!(snapshots, expected, "{log_position}");
    }
    // A suspended member receives the request and answers after it resumes.
    node.set(counter::TOGGLE, value::SUSPEND);
    node.await_value(counter::STATE, value::SUSPENDED);
    backup.heartbeat(10, b"");
    node.go_on_for(50_000_000);
    node.set(counter::TOGGLE, value::RESUME);
    assert_eq!(backup.told(&mut node), Told::Heartbeat(10));
}

#[test]
fn backups_are_authenticated_and_authorised() {
    let (directory, ports) = (directory(), ports());
    let mut node = start(directory.path(), &ports, |context| {
        context.authorisation = Authorisation::deny_all();
        context.authenticator = AuthenticatorSupplier::credentials(vec![b"me".to_vec()]);
        context.accepts_standby_snapshots = true;
    });
    let mut backup = Backup::new(&mut node);
    let rejected = EventCode::AuthenticationRejected;
    backup.heartbeat(1, b"you");
    assert_eq!(backup.told(&mut node), event(1, rejected, "session failed authentication"));
    backup.heartbeat(2, b"me");
    assert_eq!(backup.told(&mut node), event(2, rejected, "Not authorised for Heartbeat"));
    backup.query(3, 0);
    assert_eq!(backup.told(&mut node), event(3, rejected, "Not authorised for BackupQuery"));
    backup.standby_snapshot(4, PROTOCOL_VERSION, Vec::new());
    assert_eq!(backup.told(&mut node), event(4, rejected, "Not authorised for StandbySnapshot"));
    backup.standby_snapshot(5, semantic_version(9, 0, 0), Vec::new());
    let Told::Event { code: EventCode::Error, detail, .. } = backup.told(&mut node) else {
        panic!("no error")
    };
    assert!(detail.contains("invalid client version 9.0.0"), "{detail}");
    assert!(node.is_at(counter::STANDBY_SNAPSHOTS, 0));
}

#[test]
fn a_backup_answers_a_challenge() {
    let (directory, ports) = (directory(), ports());
    let mut node = start(directory.path(), &ports, |context| {
        context.authenticator = AuthenticatorSupplier::challenge("who?", "me");
    });
    let mut backup = Backup::new(&mut node);
    backup.heartbeat(1, b"");
    let Told::Challenge { session_id, correlation_id: 1, challenge } = backup.told(&mut node) else {
        panic!("no challenge")
    };
    assert_eq!((session_id, challenge.as_slice()), (-1, b"who?".as_slice()));
    backup.send(&BackupRequest::ChallengeResponse { correlation_id: 2, session_id, credentials: b"me" });
    assert_eq!(backup.told(&mut node), Told::Heartbeat(2));
    backup.standby_snapshot(3, PROTOCOL_VERSION, Vec::new());
    assert_eq!(
        backup.told(&mut node),
        event(3, EventCode::Error, "Not configured to accept StandbySnapshot")
    );
    assert_eq!(node.counter(counter::STANDBY_SNAPSHOTS), None);
}

/// A separate driver and archive.
fn standby(home: &Path, control_port: u16) -> SharedThread {
    let thread = SharedThread::new(
        Box::new(ThreadPace::new(PausingClock, IdleStrategy::Noop)),
        Box::new(|role, error| panic!("{role}: {error}")),
    );
    let mut agents = crate::rig::driver(home, "standby").into_agents();
    let mut context = ArchiveContext::new(home.join("standby"), home.join("standby-archive"));
    context.control_channel = Some(format!("aeron:udp?endpoint=127.0.0.1:{control_port}"));
    context.replication_channel = Some("aeron:udp?endpoint=127.0.0.1:0".into());
    context.segment_file_length = 64 << 10;
    context.low_storage_space_threshold = 0;
    let now = PausingClock.now();
    agents.push(Box::new(Archive::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap()));
    thread.install(agents).unwrap();
    thread
}

/// Copies recordings of the node into the standby's archive; returns their ids there.
fn copy_to_standby(node: &mut Node, control_port: u16, recordings: &[i64]) -> Vec<i64> {
    let mut client = ArchiveClient::new(ArchiveClientContext::udp(
        format!("aeron:udp?endpoint=127.0.0.1:{control_port}"),
        "aeron:udp?endpoint=127.0.0.1:0",
    ));
    node.until("the standby's archive", |node| {
        client.poll(&mut node.tool, &PausingClock.now()).unwrap();
        client.is_connected().then_some(())
    });
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", node.ports()[4]);
    let mut copies = Vec::new();
    for recording in recordings {
        client.replicate(&node.tool, *recording, 10, &channel, &ReplicationParams::default()).unwrap();
        let mut copied = false;
        copies.push(node.until("the copy", |node| {
            client.poll(&mut node.tool, &PausingClock.now()).unwrap();
            match client.poll_answer()? {
                ArchiveAnswer::Signal { signal: Signal::Sync, .. } => copied = true,
                ArchiveAnswer::Signal { signal: Signal::Stop, recording_id, .. } if copied => {
                    return Some(recording_id);
                }
                ArchiveAnswer::Error { message, .. } => panic!("{message}"),
                _ => {}
            }
            None
        }));
    }
    client.close();
    copies
}

/// The last snapshot of the node as a standby would name it.
fn as_standbys<'a>(set: &[Entry], copies: &[i64], endpoint: &'a str) -> Vec<SnapshotRecording<'a>> {
    let named = set.iter().zip(copies).map(|(entry, copy)| SnapshotRecording {
        recording_id: *copy,
        leadership_term_id: entry.leadership_term_id,
        term_base_log_position: entry.term_base_log_position,
        log_position: entry.log_position,
        timestamp: entry.timestamp,
        service_id: entry.service_id,
        archive_endpoint: endpoint,
    });
    named.collect()
}

fn valid(entries: &[Entry], entry_type: EntryType) -> Vec<Entry> {
    entries.iter().filter(|entry| entry.is_valid && entry.entry_type == entry_type).cloned().collect()
}

#[test]
fn a_restart_from_a_standbys_snapshot_gives_the_same_state() {
    let (directory, ports, control_port) = (directory(), ports(), ports()[0]);
    let mut node = start(directory.path(), &ports, accepting);
    node.listener = Some(standby(directory.path(), control_port));
    let client = node.connect(ports[0]);
    for number in 0..50 {
        node.exchange(client, &format!("before {number}"));
    }
    node.take_snapshot();
    let local = valid(&node.entries(), EntryType::Snapshot);
    let ids: Vec<i64> = local.iter().map(|entry| entry.recording_id).collect();
    let copies = copy_to_standby(&mut node, control_port, &ids);
    for number in 0..10 {
        node.exchange(client, &format!("after {number}"));
    }
    let endpoint = format!("127.0.0.1:{control_port}");
    let mut backup = Backup::new(&mut node);
    backup.standby_snapshot(1, PROTOCOL_VERSION, as_standbys(&local, &copies, &endpoint));
    node.await_value(counter::STANDBY_SNAPSHOTS, 1);
    // A repeated report adds no entry.
    backup.standby_snapshot(2, PROTOCOL_VERSION, as_standbys(&local, &copies, &endpoint));
    node.await_value(counter::STANDBY_SNAPSHOTS, 2);
    node.until("the entries", |node| {
        (valid(&node.entries(), EntryType::StandbySnapshot).len() == 2).then_some(())
    });
    let session_id = node.clients[client].session_id;
    let seen = node.seen();
    let clients = std::mem::take(&mut node.clients);
    let standby = node.listener.take();
    drop(backup);
    node.kill();
    drop(clients);

    // The member has lost its snapshot.
    let mut storage = FileStorage::inline();
    let mut log = RecordingLog::open(&mut storage, &directory.path().join("cluster"), None).unwrap();
    for operation in log.invalidate_recordings(&ids) {
        storage.blocking(operation).unwrap();
    }
    let mut node = Node::start(directory.path(), &ports, &Plan::with(accepting));
    node.listener = standby;
    node.until_leading();
    let position = local[0].log_position;
    let first = format!("0 start at {position} count 51 sessions {session_id}");
    assert_eq!(node.seen()[0], first, "{:?}", node.seen());
    let snapshot = seen.iter().position(|line| line.starts_with("0 snapshot")).unwrap();
    let replayed = &seen[snapshot + 1..];
    assert_eq!(node.seen()[1..=replayed.len()], *replayed);
    let fetched = valid(&node.entries(), EntryType::Snapshot);
    assert_eq!(fetched.len(), 2);
    assert!(fetched.iter().all(|entry| entry.log_position == position && !ids.contains(&entry.recording_id)));
}

#[test]
fn the_nodes_toggle_fetches_from_the_next_standby_when_one_fails() {
    let (directory, ports, control_port) = (directory(), ports(), ports()[0]);
    let mut node = start(directory.path(), &ports, |context| {
        context.accepts_standby_snapshots = true;
        context.standby_snapshot_delay_ns = 200_000_000;
    });
    node.listener = Some(standby(directory.path(), control_port));
    let client = node.connect(ports[0]);
    node.take_snapshot();
    let local = valid(&node.entries(), EntryType::Snapshot);
    let ids: Vec<i64> = local.iter().map(|entry| entry.recording_id).collect();
    let copies = copy_to_standby(&mut node, control_port, &ids);
    node.exchange(client, "later");
    let mut later = local.clone();
    let position = node.counter(counter::COMMIT).unwrap();
    for entry in &mut later {
        entry.log_position = position;
    }
    let mut backup = Backup::new(&mut node);
    // One endpoint does not answer, one lacks the reported snapshot, one has it.
    let good = format!("127.0.0.1:{control_port}");
    let other = format!("localhost:{control_port}");
    let sent_ns = PausingClock.now().ns;
    for (endpoint, copies) in [("127.0.0.1:9", &copies), (&other, &vec![copies[0], 99]), (&good, &copies)] {
        backup.standby_snapshot(1, PROTOCOL_VERSION, as_standbys(&later, copies, endpoint));
    }
    node.await_value(counter::STANDBY_SNAPSHOTS, 3);
    assert!(PausingClock.now().ns >= sent_ns + 200_000_000);
    node.set(counter::NODE_TOGGLE, value::REPLICATE);
    node.await_value(counter::NODE_TOGGLE, value::NEUTRAL);
    node.await_value(counter::SNAPSHOTS, 2);
    let fetched = |node: &Node| {
        let all = valid(&node.entries(), EntryType::Snapshot);
        all.into_iter().filter(|entry| entry.log_position == position).collect::<Vec<_>>()
    };
    node.until("the entries", |node| (fetched(node).len() == 2).then_some(()));
    let errors = node.logged_errors();
    for endpoint in ["127.0.0.1:9", &other] {
        let text = format!("of the standby at {endpoint} is not fetched");
        assert!(errors.iter().any(|error| error.contains(&text)), "{errors:?}");
    }
    // No newer snapshot exists.
    node.set(counter::NODE_TOGGLE, value::REPLICATE);
    node.go_on_for(100_000_000);
    assert!(node.is_at(counter::SNAPSHOTS, 2));
}

#[test]
fn a_member_starts_without_a_snapshot_that_it_cannot_fetch() {
    let (directory, ports) = (directory(), ports());
    let mut node = start(directory.path(), &ports, accepting);
    let client = node.connect(ports[0]);
    node.exchange(client, "one");
    let position = node.counter(counter::COMMIT).unwrap();
    let named = |service_id, log_position| SnapshotRecording {
        recording_id: 5,
        leadership_term_id: 0,
        term_base_log_position: 0,
        log_position,
        timestamp: 1,
        service_id,
        archive_endpoint: "127.0.0.1:9",
    };
    let mut backup = Backup::new(&mut node);
    backup.standby_snapshot(1, PROTOCOL_VERSION, vec![named(3, 64)]);
    let Told::Event { code: EventCode::Error, detail, .. } = backup.told(&mut node) else {
        panic!("no error")
    };
    assert!(detail.contains("impossible"), "{detail}");
    // A snapshot beyond the member's log position has to wait.
    backup.standby_snapshot(
        2,
        PROTOCOL_VERSION,
        vec![named(0, position + 3_200), named(-1, position + 3_200)],
    );
    backup.standby_snapshot(3, PROTOCOL_VERSION, vec![named(0, position), named(-1, position)]);
    node.await_value(counter::STANDBY_SNAPSHOTS, 1);
    node.until("the entries", |node| {
        (valid(&node.entries(), EntryType::StandbySnapshot).len() == 2).then_some(())
    });
    drop(backup);
    node.clients.clear();
    node.kill();
    let mut node = Node::start(directory.path(), &ports, &Plan::with(accepting));
    node.until_leading();
    assert_eq!(node.seen()[0], "0 start");
    let errors = node.logged_errors();
    assert!(errors.iter().any(|error| error.starts_with("WARN: no snapshot of a standby")), "{errors:?}");
}
