//! Two archives, each with a driver, on one thread: recordings of one are replicated to the other.

use std::path::Path;

use harrier_archive::client::{
    ArchiveAnswer, ArchiveClient, ArchiveClientContext, ReplicationParams, find_by_recording,
};
use harrier_archive::codec::Signal;
use harrier_archive::{Archive, ArchiveContext, Authenticator, RecordingDescriptor, SourceLocation};
use harrier_client::{Aeron, Context, ExclusivePublication};
use harrier_driver::context::DriverContext;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::{Agent, Clock};

const PATIENCE_NS: i64 = 60_000_000_000;
const STREAM_ID: i32 = 1_001;
const CHANNEL: &str = "aeron:ipc?term-length=64k";

/// A driver, an archive and a client of it.
struct Side {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
    client: ArchiveClient,
}

impl Side {
    fn start(directory: &Path, change: &dyn Fn(&mut ArchiveContext)) -> Self {
        let mut driver = DriverContext::new(directory.join("aeron"));
        driver.timer_interval_ns = 20_000_000;
        driver.counters_buffer_length = 1 << 20;
        driver.term_buffer_length = 64 << 10;
        driver.publication_linger_timeout_ns = 100_000_000;
        let now = PausingClock.now();
        let driver = HostDriver::on_host(driver, ExecutorMode::Inline, &now).unwrap();
        let mut context = ArchiveContext::new(directory.join("aeron"), directory.join("archive"));
        context.segment_file_length = 128 << 10;
        context.catalog_capacity = 4_096;
        context.low_storage_space_threshold = 0;
        context.control_channel = Some("aeron:udp?endpoint=127.0.0.1:0".into());
        context.replication_channel = Some("aeron:udp?endpoint=127.0.0.1:0".into());
        change(&mut context);
        let mut client = ArchiveClientContext::ipc();
        client.credentials = b"source".to_vec();
        let archive = Archive::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap();
        let aeron = Aeron::connect(Context::new(directory.join("aeron")), MappedMemory, &now).unwrap();
        let mut agents = driver.into_agents();
        agents.push(Box::new(archive));
        Self { agents, aeron, client: ArchiveClient::new(client) }
    }

    fn step(&mut self) {
        let now = PausingClock.now();
        for agent in &mut self.agents {
            agent.do_work(&now).unwrap();
        }
        self.aeron.do_work(&now).unwrap();
        self.client.poll(&mut self.aeron, &now).unwrap();
    }

    /// Address of the archive's control channel: the first one that its driver has bound.
    fn control_channel(&self) -> String {
        let mut address = String::new();
        self.aeron.counters().for_each(&mut |_, type_id, key, _| {
            if type_id == harrier_protocol::counter_types::type_id::LOCAL_SOCKET_ADDRESS && address.is_empty()
            {
                let (_, bound) = harrier_protocol::counter_types::decode_address_key(key).unwrap();
                address = String::from_utf8_lossy(bound).into_owned();
            }
        });
        format!("aeron:udp?endpoint={address}")
    }
}

struct World {
    source: Side,
    target: Side,
    control_channel: String,
    _directory: tempfile::TempDir,
}

/// Signals that the target's client received: (signal, correlation id, recording id, has a subscription, position).
#[derive(Debug, PartialEq, Eq)]
enum News {
    Ok(i64, i64),
    Error(i64, i64),
    Signal(Signal, i64, i64, bool, i64),
}

impl World {
    fn new() -> Self {
        Self::with(&|_| (), &|_| ())
    }

    fn with(source: &dyn Fn(&mut ArchiveContext), target: &dyn Fn(&mut ArchiveContext)) -> Self {
        let directory =
            tempfile::Builder::new().prefix("harrier-replication-").tempdir_in("/dev/shm").unwrap();
        let mut world = Self {
            source: Side::start(&directory.path().join("source"), source),
            target: Side::start(&directory.path().join("target"), target),
            control_channel: String::new(),
            _directory: directory,
        };
        world.until("the connections", |world| {
            (world.source.client.is_connected() && world.target.client.is_connected()).then_some(())
        });
        world.control_channel = world.source.control_channel();
        world
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.source.step();
            self.target.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    fn news(&mut self) -> News {
        self.until("an answer", |world| {
            Some(match world.target.client.poll_answer()? {
                ArchiveAnswer::Ok { correlation_id, relevant_id } => News::Ok(correlation_id, relevant_id),
                ArchiveAnswer::Error { correlation_id, code, message, .. } => {
                    // Shows the reason in the output of a failed test.
                    eprintln!("request {correlation_id}: {message}");
                    News::Error(correlation_id, code)
                }
                ArchiveAnswer::Signal { correlation_id, recording_id, subscription_id, position, signal } => {
                    News::Signal(signal, correlation_id, recording_id, subscription_id != -1, position)
                }
                other => panic!("{other:?}"),
            })
        })
    }

    /// Publishes messages of 128 bytes with the frame into a publication of the source.
    fn publish(&mut self, publication: &mut ExclusivePublication, range: std::ops::Range<u64>) -> i64 {
        let mut message = [3_u8; 96];
        for number in range {
            message[..8].copy_from_slice(&number.to_le_bytes());
            self.until("room", |_| match publication.offer(&message) {
                Ok(_) => Some(()),
                Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => None,
                Err(error) => panic!("{error}"),
            });
        }
        publication.position()
    }

    fn publication(&mut self, channel: &str) -> ExclusivePublication {
        let id = self.source.aeron.add_exclusive_publication(channel, STREAM_ID).unwrap();
        self.until("the publication", |world| world.source.aeron.exclusive_publication(id).unwrap())
    }

    /// Starts an active recording at the source.
    fn record(&mut self, channel: &str, count: u64) -> (ExclusivePublication, i64, i64) {
        let location = SourceLocation::Local;
        let start =
            self.source.client.start_recording(&self.source.aeron, channel, STREAM_ID, location, true);
        start.unwrap();
        let mut publication = self.publication(channel);
        let position = self.publish(&mut publication, 0..count);
        let recording_id = self.source_signal(Signal::Start);
        self.until("the recording", |world| {
            let counter = find_by_recording(world.source.aeron.counters(), recording_id, None)?;
            (world.source.aeron.counters().value(counter) >= position).then_some(())
        });
        (publication, recording_id, position)
    }

    fn record_all(&mut self, count: u64) -> (i64, i64) {
        let (publication, recording_id, position) = self.record(CHANNEL, count);
        drop(publication);
        self.source_signal(Signal::Stop);
        (recording_id, position)
    }

    fn source_signal(&mut self, wanted: Signal) -> i64 {
        self.until("the signal", |world| match world.source.client.poll_answer()? {
            ArchiveAnswer::Signal { signal, recording_id, .. } if signal == wanted => Some(recording_id),
            _ => None,
        })
    }

    fn replicate(&mut self, source_id: i64, params: &ReplicationParams) -> i64 {
        let channel = self.control_channel.clone();
        let target = &mut self.target;
        let request = target.client.replicate(&target.aeron, source_id, 10, &channel, params).unwrap();
        match self.news() {
            News::Ok(correlation_id, id) if correlation_id == request => id,
            other => panic!("{other:?}"),
        }
    }

    /// Answer to the extension that a replication requests.
    fn is_subscribed(&mut self, id: i64) {
        match self.news() {
            News::Ok(correlation_id, subscription_id) if correlation_id == id => assert!(subscription_id > 0),
            other => panic!("{other:?}"),
        }
    }

    fn refused(&mut self, params: &ReplicationParams) -> i64 {
        let channel = self.control_channel.clone();
        let target = &mut self.target;
        let request = target.client.replicate(&target.aeron, 0, 10, &channel, params).unwrap();
        match self.news() {
            News::Error(correlation_id, code) if correlation_id == request => code,
            other => panic!("{other:?}"),
        }
    }

    fn described(&mut self, recording_id: i64) -> RecordingDescriptor {
        let target = &mut self.target;
        let request = target.client.list_recording(&target.aeron, recording_id).unwrap();
        self.until("the descriptor", |world| match world.target.client.poll_answer()? {
            ArchiveAnswer::Descriptor { correlation_id, descriptor } if correlation_id == request => {
                Some(*descriptor)
            }
            other => panic!("{other:?}"),
        })
    }

    /// Bytes of a recording over all of its segments.
    fn bytes(&self, side: &str, recording_id: i64, length: i64) -> Vec<u8> {
        let folder = self._directory.path().join(side).join("archive");
        let mut bytes = Vec::new();
        for base in (0..length).step_by(128 << 10) {
            bytes.extend(std::fs::read(folder.join(format!("{recording_id}-{base}.rec"))).unwrap());
        }
        bytes.truncate(length as usize);
        bytes
    }
}

fn free_port() -> u16 {
    harrier_platform::free_ports(1).unwrap()[0]
}

fn signal(signal: Signal, id: i64, recording: i64, has_subscription: bool, position: i64) -> News {
    News::Signal(signal, id, recording, has_subscription, position)
}

#[test]
fn a_stopped_recording_is_copied_and_signals_come_in_order() {
    let mut world = World::new();
    let (source_id, stop) = world.record_all(2_500);
    assert!(stop > 2 * (128 << 10));
    let id = world.replicate(source_id, &ReplicationParams::default());
    assert_eq!(world.news(), signal(Signal::Replicate, id, 0, false, 0));
    world.is_subscribed(id);
    assert_eq!(world.news(), signal(Signal::Extend, id, 0, true, 0));
    assert_eq!(world.news(), signal(Signal::Sync, id, 0, true, stop));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, 0, false, -1));
    assert_eq!(world.news(), signal(Signal::Stop, id, 0, true, stop));
    let copy = world.described(0);
    assert_eq!((copy.start_position, copy.stop_position), (0, stop));
    assert_eq!(copy.original_channel, CHANNEL);
    assert_eq!(world.bytes("source", source_id, stop), world.bytes("target", 0, stop));

    // The source has no further data.
    let id = world.replicate(source_id, &ReplicationParams::default().target_recording_id(0));
    assert_eq!(world.news(), signal(Signal::Sync, id, 0, false, stop));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, 0, false, -1));
}

#[test]
fn an_active_recording_is_copied_to_a_position_and_then_extended() {
    let mut world = World::new();
    let (mut publication, source_id, position) = world.record(CHANNEL, 200);
    let stop = position - 128 * 50;
    let params = ReplicationParams::default().stop_position(stop).replication_session_id(77).tags(5, -1);
    let id = world.replicate(source_id, &params);
    assert_eq!(world.news(), signal(Signal::Replicate, id, 0, false, 0));
    world.is_subscribed(id);
    assert_eq!(world.news(), signal(Signal::Extend, id, 0, true, 0));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, 0, false, -1));
    assert_eq!(world.news(), signal(Signal::Stop, id, 0, true, stop));
    assert_eq!(world.described(0).session_id, 77);

    // The copy follows the source until the source stops.
    let id = world.replicate(source_id, &ReplicationParams::default().target_recording_id(0));
    world.is_subscribed(id);
    assert_eq!(world.news(), signal(Signal::Extend, id, 0, true, stop));
    let end = world.publish(&mut publication, 200..2_000);
    drop(publication);
    world.source_signal(Signal::Stop);
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, 0, false, -1));
    assert_eq!(world.news(), signal(Signal::Stop, id, 0, true, end));
    let rest = stop as usize..;
    assert_eq!(world.bytes("source", source_id, end)[rest.clone()], world.bytes("target", 0, end)[rest]);
}

#[test]
fn a_copy_goes_over_to_the_live_stream() {
    let mut world = World::new();
    let control = format!("127.0.0.1:{}", free_port());
    let live = format!("aeron:udp?control-mode=dynamic|control={control}|term-length=64k|ssc=true");
    let (mut publication, source_id, position) = world.record(&live, 1_000);
    let destination = format!("aeron:udp?endpoint=127.0.0.1:0|control={control}");
    let params = ReplicationParams::default().live_destination(destination);
    let id = world.replicate(source_id, &params);
    assert_eq!(world.news(), signal(Signal::Replicate, id, 0, false, 0));
    world.is_subscribed(id);
    assert_eq!(world.news(), signal(Signal::Extend, id, 0, true, 0));
    let merged = world.until("the merge", |world| match world.target.client.poll_answer()? {
        ArchiveAnswer::Signal { signal: Signal::Merge, position, subscription_id: -1, .. } => Some(position),
        other => panic!("{other:?}"),
    });
    assert!(merged >= position);
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, 0, false, -1));
    let end = world.publish(&mut publication, 1_000..2_500);
    world.until("the live stream", |world| {
        let counter = find_by_recording(world.target.aeron.counters(), 0, None)?;
        (world.target.aeron.counters().value(counter) >= end).then_some(())
    });
    assert_eq!(world.bytes("source", source_id, end), world.bytes("target", 0, end));
}

#[test]
fn a_copy_comes_over_a_response_channel() {
    let mut world = World::new();
    let (source_id, stop) = world.record_all(1_500);
    let channel = format!("aeron:udp?control-mode=response|control=127.0.0.1:{}", free_port());
    let params = ReplicationParams::default().replication_channel(channel);
    let id = world.replicate(source_id, &params);
    assert_eq!(world.news(), signal(Signal::Replicate, id, 0, false, 0));
    world.is_subscribed(id);
    assert_eq!(world.news(), signal(Signal::Extend, id, 0, true, 0));
    assert_eq!(world.news(), signal(Signal::Sync, id, 0, true, stop));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, 0, false, -1));
    assert_eq!(world.news(), signal(Signal::Stop, id, 0, true, stop));
    let (ours, theirs) = (world.bytes("target", 0, stop), world.bytes("source", source_id, stop));
    // The replay has a random session id.
    assert!(ours.len() == theirs.len() && ours[32..128] == theirs[32..128]);
}

#[test]
fn a_replication_is_stopped() {
    let mut world = World::new();
    let (_publication, source_id, position) = world.record(CHANNEL, 100);
    let id = world.replicate(source_id, &ReplicationParams::default());
    world.until("the copy", |world| {
        let counter = find_by_recording(world.target.aeron.counters(), 0, None)?;
        (world.target.aeron.counters().value(counter) >= position).then_some(())
    });
    let stop = world.target.client.stop_replication(&world.target.aeron, id).unwrap();
    let mut ends = Vec::new();
    world.until("the end", |world| {
        match world.target.client.poll_answer()? {
            answer @ ArchiveAnswer::Ok { .. } if answer.correlation_id() == stop => {
                assert_eq!(answer.as_stopped(), Some(true));
                ends.push("ok");
            }
            ArchiveAnswer::Signal { signal: Signal::ReplicateEnd, .. } => ends.push("end"),
            ArchiveAnswer::Signal { signal: Signal::Stop, .. } => ends.push("stop"),
            _ => {}
        }
        (ends.len() == 3).then_some(())
    });
    assert_eq!(ends, ["ok", "end", "stop"]);
    let again = world.target.client.stop_replication(&world.target.aeron, id).unwrap();
    let answer = world.until("the refusal", |world| world.target.client.poll_answer());
    assert!(
        matches!(answer, ArchiveAnswer::Error { correlation_id, code: 12, .. } if correlation_id == again)
    );
    assert_eq!(answer.as_stopped(), Some(false));
}

#[test]
fn what_cannot_be_copied_is_refused() {
    let mut world = World::new();
    let params = ReplicationParams::default;
    assert_eq!(world.refused(&params().target_recording_id(9)), 5);
    let response = "aeron:udp?control-mode=response|control=127.0.0.1:0";
    assert_eq!(world.refused(&params().replication_channel(response).live_destination("aeron:udp")), 0);
    assert_eq!(world.refused(&params().replication_channel(response).tags(1, 2)), 0);
    assert_eq!(world.refused(&params().replication_channel("aeron:nothing")), 0);
    let both = params().live_destination("aeron:udp?endpoint=a:1").replication_session_id(3);
    let target = &mut world.target;
    assert!(target.client.replicate(&target.aeron, 0, 10, "aeron:ipc", &both).is_err());

    // The source has no such recording.
    let id = world.replicate(4, &params());
    assert_eq!(world.news(), News::Error(id, 5));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, -1, false, -1));

    // A stopped recording has no live stream.
    let (source_id, _) = world.record_all(10);
    let id = world.replicate(source_id, &params().live_destination("aeron:udp?endpoint=127.0.0.1:0"));
    assert_eq!(world.news(), signal(Signal::Replicate, id, 0, false, 0));
    assert_eq!(world.news(), News::Error(id, 0));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, 0, false, -1));

    // The source reads at least one frame at a time.
    let id = world.replicate(source_id, &params().file_io_max_length(32));
    assert_eq!(world.news(), News::Error(id, 0));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, -1, false, -1));
}

#[test]
fn a_source_that_does_not_answer_is_an_error() {
    let mut world = World::with(&|_| (), &|target| target.replication_message_timeout_ns = 300_000_000);
    world.control_channel = "aeron:udp?endpoint=127.0.0.1:9".into();
    let id = world.replicate(0, &ReplicationParams::default());
    assert_eq!(world.news(), News::Error(id, 14));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, -1, false, -1));
}

#[test]
fn connections_to_a_source_draw_their_own_session_ids() {
    let mut world = World::new();
    let (source_id, stop) = world.record_all(10);
    world.control_channel.push_str("|session-id=4711");
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..2 {
        let id = world.replicate(source_id, &ReplicationParams::default());
        world.until("the copy", |world| {
            world.source.aeron.counters().for_each(&mut |_, type_id, _, label| {
                let is_session = type_id == harrier_protocol::counter_types::type_id::ARCHIVE_CONTROL_SESSION;
                if is_session && label.contains("replicationSessionId=") {
                    let (_, session) = label.split_once(" sessionId=").unwrap();
                    seen.insert(session.split(' ').next().unwrap().to_owned());
                }
            });
            match world.target.client.poll_answer()? {
                ArchiveAnswer::Signal { signal: Signal::Sync, correlation_id, position, .. } => {
                    assert_eq!((correlation_id, position), (id, stop));
                    None
                }
                ArchiveAnswer::Signal { signal: Signal::Stop, .. } => Some(()),
                ArchiveAnswer::Error { message, .. } => panic!("{message}"),
                _ => None,
            }
        });
    }
    assert!(seen.len() == 2 && !seen.contains("4711"), "{seen:?}");
}

#[test]
fn a_source_asks_for_credentials() {
    let accepts = |source: &mut ArchiveContext| {
        source.authenticator = Authenticator::Credentials(vec![b"source".to_vec()]);
    };
    let mut world = World::with(&accepts, &|_| ());
    let (source_id, stop) = world.record_all(10);
    let id = world.replicate(source_id, &ReplicationParams::default());
    assert_eq!(world.news(), News::Error(id, 14));
    assert_eq!(world.news(), signal(Signal::ReplicateEnd, id, -1, false, -1));
    let params = ReplicationParams::default().credentials(b"source".to_vec());
    let id = world.replicate(source_id, &params.source_response_channel("aeron:udp?endpoint=localhost:0"));
    world.until("the copy", |world| match world.target.client.poll_answer()? {
        ArchiveAnswer::Signal { signal: Signal::Sync, correlation_id, position, .. } => {
            assert_eq!((correlation_id, position), (id, stop));
            Some(())
        }
        _ => None,
    });
}
