//! An archive beside a driver, both on this thread: what is published is recorded, what is recorded is replayed.

use std::path::Path;

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext, ReplayOptions};
use harrier_archive::codec::Signal;
use harrier_archive::{Archive, ArchiveContext, ArchiveError, Checksum, SourceLocation, SyncLevel};
use harrier_client::{Aeron, Context, ExclusivePublication};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode};
use harrier_platform::{FileStorage, MappedMemory, SystemClock, UdpTransport};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::{Agent, Clock};

const PATIENCE_NS: i64 = 20_000_000_000;
const STREAM_ID: i32 = 1_001;
const CHANNEL: &str = "aeron:ipc?term-length=64k";

struct World {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
    client: ArchiveClient,
    directory: tempfile::TempDir,
}

fn archive_context(directory: &Path) -> ArchiveContext {
    let mut context = ArchiveContext::new(directory.join("aeron"), directory.join("archive"));
    context.segment_file_length = 128 << 10;
    context.catalog_capacity = 4_096;
    context.archive_id = Some(42);
    context.low_storage_space_threshold = 0;
    context
}

impl World {
    fn new(change: impl FnOnce(&mut ArchiveContext)) -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-archive-").tempdir_in("/dev/shm").unwrap();
        let mut world = Self::start(directory, change);
        world.connect();
        world
    }

    fn start(directory: tempfile::TempDir, change: impl FnOnce(&mut ArchiveContext)) -> Self {
        let mut driver_context = DriverContext::new(directory.path().join("aeron"));
        driver_context.timer_interval_ns = 20_000_000;
        driver_context.counters_buffer_length = 1 << 20;
        driver_context.term_buffer_length = 64 << 10;
        driver_context.publication_linger_timeout_ns = 100_000_000;
        let now = SystemClock.now();
        let driver =
            Driver::build(driver_context, MappedMemory, UdpTransport, ExecutorMode::Inline, &now).unwrap();
        let mut context = archive_context(directory.path());
        change(&mut context);
        let archive = Archive::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap();
        let aeron = Aeron::connect(Context::new(directory.path().join("aeron")), MappedMemory, &now).unwrap();
        let mut agents = driver.into_agents();
        agents.push(Box::new(archive));
        Self { agents, aeron, client: ArchiveClient::new(ArchiveClientContext::ipc()), directory }
    }

    fn step(&mut self) {
        let now = SystemClock.now();
        for agent in &mut self.agents {
            agent.do_work(&now).unwrap();
        }
        self.aeron.do_work(&now).unwrap();
        self.client.poll(&mut self.aeron, &now).unwrap();
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        while SystemClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    fn connect(&mut self) {
        self.until("the connection", |world| world.client.is_connected().then_some(()));
    }

    fn answer(&mut self, correlation_id: i64) -> ArchiveAnswer {
        self.until("the answer", |world| {
            let answer = world.client.poll_answer()?;
            let is_signal = matches!(answer, ArchiveAnswer::Signal { .. });
            (answer.correlation_id() == correlation_id && !is_signal).then_some(answer)
        })
    }

    fn ok(&mut self, correlation_id: i64) -> i64 {
        match self.answer(correlation_id) {
            ArchiveAnswer::Ok { relevant_id, .. } => relevant_id,
            other => panic!("{other:?}"),
        }
    }

    fn signal(&mut self, wanted: Signal) -> (i64, i64) {
        self.until("the signal", |world| match world.client.poll_answer()? {
            ArchiveAnswer::Signal { signal, recording_id, position, .. } if signal == wanted => {
                Some((recording_id, position))
            }
            _ => None,
        })
    }

    fn publication(&mut self, channel: &str) -> ExclusivePublication {
        let id = self.aeron.add_exclusive_publication(channel, STREAM_ID).unwrap();
        self.until("the publication", |world| world.aeron.exclusive_publication(id).unwrap())
    }

    fn publish(
        &mut self,
        publication: &mut ExclusivePublication,
        range: std::ops::Range<u64>,
        length: usize,
    ) {
        let mut message = vec![3_u8; length];
        for number in range {
            message[..8].copy_from_slice(&number.to_le_bytes());
            self.until("room", |_| match publication.offer(&message) {
                Ok(_) => Some(()),
                Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => None,
                Err(error) => panic!("{error}"),
            });
        }
    }

    fn recorded(&mut self, recording_id: i64, position: i64) {
        self.until("the recorded position", |world| {
            let counter =
                harrier_archive::client::find_by_recording(world.aeron.counters(), recording_id, None)?;
            (world.aeron.counters().value(counter) >= position).then_some(())
        });
    }

    /// Replays a range and returns the numbers of its messages.
    fn replay(&mut self, recording_id: i64, position: i64, length: i64, count: usize) -> Vec<u64> {
        let subscription_id = self.aeron.add_subscription("aeron:ipc", 77).unwrap();
        let mut subscription =
            self.until("the subscription", |world| world.aeron.subscription(subscription_id).unwrap());
        let options = ReplayOptions::default();
        let request = self
            .client
            .replay(&self.aeron, recording_id, position, length, "aeron:ipc", 77, options)
            .unwrap();
        self.ok(request);
        let mut numbers = Vec::new();
        let mut assembler = harrier_ringbuf::assembly::FragmentAssembler::new();
        self.until("the replay", |_| {
            subscription.poll(10, &mut |payload, header| {
                assembler.on_fragment(payload, header, &mut |message, _| {
                    numbers.push(u64::from_le_bytes(message[..8].try_into().unwrap()));
                });
            });
            (numbers.len() >= count).then_some(())
        });
        numbers
    }
}

#[test]
fn a_stream_is_recorded_over_segments_and_replayed() {
    let mut world = World::new(|_| ());
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, false).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..2_000, 200);
    let position = publication.position();
    let id = world.until("the recording", |world| {
        harrier_archive::client::find_recording_counter(
            world.aeron.counters(),
            publication.session_id(),
            None,
        )
    });
    world.recorded(id.1, position);
    assert_eq!(world.replay(id.1, 0, -2, 2_000), (0..2_000).collect::<Vec<_>>());
    let stop = world.client.stop_recording(&world.aeron, CHANNEL, STREAM_ID).unwrap();
    world.ok(stop);
    assert_eq!(world.signal(Signal::Stop), (id.1, position));
    let request = world.client.stop_position(&world.aeron, id.1).unwrap();
    assert_eq!(world.ok(request), position);
    let from = 65_536 + 256 * 10;
    let numbers = world.replay(id.1, from, -1, 1);
    assert!(numbers[0] > 200);
}

#[test]
fn a_stopped_recording_is_extended_where_it_ended() {
    let mut world = World::new(|_| ());
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..100, 100);
    let (position, initial_term_id) = (publication.position(), publication.initial_term_id());
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    drop(publication);
    world.signal(Signal::Stop);
    let mut uri = harrier_protocol::uri::ChannelUri::ipc();
    uri.set_initial_position(position, initial_term_id, 65_536);
    let channel = uri.to_string();
    let extend = world
        .client
        .extend_recording(&world.aeron, id, "aeron:ipc", STREAM_ID, SourceLocation::Local, true)
        .unwrap();
    world.ok(extend);
    let mut publication = world.publication(&channel);
    world.publish(&mut publication, 100..200, 100);
    assert_eq!(world.signal(Signal::Extend), (id, position));
    world.recorded(id, publication.position());
    assert_eq!(world.replay(id, 0, -2, 200), (0..200).collect::<Vec<_>>());
}

#[test]
fn a_truncated_recording_ends_at_the_cut() {
    let mut world = World::new(|context| {
        context.record_checksum = Some(Checksum::Crc32c);
        context.file_sync_level = SyncLevel::Data;
        context.catalog_file_sync_level = SyncLevel::Data;
    });
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..1_500, 96);
    let position = publication.position();
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    drop(publication);
    world.signal(Signal::Stop);
    let bad = world.client.truncate_recording(&world.aeron, id, 32).unwrap();
    assert!(matches!(world.answer(bad), ArchiveAnswer::Error { code: 0, .. }));
    let cut = world.client.truncate_recording(&world.aeron, id, 128 * 700).unwrap();
    assert_eq!(world.ok(cut), 1);
    world.signal(Signal::Delete);
    let stop = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(stop), 128 * 700);
    assert_eq!(world.replay(id, 0, -1, 700).len(), 700);
    let purge = world.client.purge_recording(&world.aeron, id).unwrap();
    world.until("the end of the replay", |world| match world.client.poll_answer()? {
        ArchiveAnswer::Error { correlation_id, code: 2, .. } if correlation_id == purge => Some(()),
        ArchiveAnswer::Ok { correlation_id, .. } if correlation_id == purge => Some(()),
        _ => None,
    });
}

/// The stream of the golden recordings: three texts, one more with a reserved value, a message of three fragments.
fn publish_golden(world: &mut World, publication: &mut ExclusivePublication) {
    world.until("the connection", |_| publication.is_connected().then_some(()));
    for number in 0..3 {
        publication.offer(format!("hello archive {number}").as_bytes()).unwrap();
    }
    let mut claim = publication.try_claim(15).unwrap();
    claim.put(0, b"hello archive 2");
    claim.set_reserved_value(0x0102_0304_0506_0708);
    claim.commit();
    publication.offer(&(0..3_000).map(|at| at as u8).collect::<Vec<_>>()).unwrap();
}

/// Compares a segment of ours with one that the released archive wrote of the same stream.
fn compare_with_golden(world: &World, stage: &str, segment: &str) {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(stage).join(segment);
    let (ours, theirs) = (
        std::fs::read(world.directory.path().join("archive").join(segment)).unwrap(),
        std::fs::read(golden).unwrap(),
    );
    assert_eq!(ours.len(), theirs.len(), "{stage} {segment}");
    let difference = ours.iter().zip(&theirs).position(|(ours, theirs)| ours != theirs);
    assert_eq!(difference, None, "{stage} {segment}: first byte that differs");
}

#[test]
fn segments_are_those_of_the_released_archive_byte_for_byte() {
    for (run, checksum) in [("plain", None), ("crc32c", Some(Checksum::Crc32c))] {
        let mut world = World::new(|context| {
            (context.record_checksum, context.replay_checksum) = (checksum, checksum);
        });
        let local = SourceLocation::Local;
        let start = world.client.start_recording(&world.aeron, "aeron:ipc", STREAM_ID, local, true).unwrap();
        world.ok(start);
        let same = "aeron:ipc?term-length=64k|session-id=287454020|init-term-id=10|term-id=10";
        let mut publication = world.publication(&format!("{same}|term-offset=0"));
        publish_golden(&mut world, &mut publication);
        let (id, _) = world.signal(Signal::Start);
        world.recorded(id, 3_360);
        drop(publication);
        assert_eq!(world.signal(Signal::Stop), (id, 3_360));
        compare_with_golden(&world, &format!("{run}/stopped"), "0-0.rec");
        world.until("the end of the publication, which frees its session", |world| {
            let mut is_there = false;
            world.aeron.counters().for_each(&mut |_, _, _, label| is_there |= label.contains(" 287454020 "));
            (!is_there).then_some(())
        });

        let extend =
            world.client.extend_recording(&world.aeron, id, "aeron:ipc", STREAM_ID, local, true).unwrap();
        world.ok(extend);
        let mut publication = world.publication(&format!("{same}|term-offset=3360"));
        let mut message: Vec<u8> = (0..1_000).map(|at| at as u8).collect();
        for number in 0..180_i32 {
            message[..4].copy_from_slice(&number.to_le_bytes());
            world.until("room", |_| publication.offer(&message).ok());
        }
        assert_eq!(publication.position(), 194_432);
        world.recorded(id, 194_432);
        drop(publication);
        world.signal(Signal::Stop);
        for segment in ["0-0.rec", "0-131072.rec"] {
            compare_with_golden(&world, &format!("{run}/extended"), segment);
        }
    }
}

#[test]
fn a_replay_names_the_position_of_a_damaged_frame() {
    let checksum = |context: &mut ArchiveContext| {
        context.record_checksum = Some(Checksum::Crc32c);
        context.replay_checksum = Some(Checksum::Crc32c);
    };
    let mut world = World::new(checksum);
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, true).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..100, 96);
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, publication.position());
    drop(publication);
    world.signal(Signal::Stop);
    let path = world.directory.path().join("archive").join(format!("{id}-0.rec"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[128 * 70 + 40] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let subscription_id = world.aeron.add_subscription("aeron:ipc", 77).unwrap();
    let _subscription =
        world.until("the subscription", |world| world.aeron.subscription(subscription_id).unwrap());
    let request = world
        .client
        .replay(&world.aeron, id, 0, 128 * 100, "aeron:ipc", 77, ReplayOptions::default())
        .unwrap();
    world.ok(request);
    match world.answer(request) {
        ArchiveAnswer::Error { message, .. } => {
            assert!(message.contains("checksum mismatch at position 8960"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn refusals_carry_their_code() {
    let mut world = World::new(|context| context.max_concurrent_recordings = 1);
    let code = |world: &mut World, request: i64| match world.answer(request) {
        ArchiveAnswer::Error { code, .. } => code,
        other => panic!("{other:?}"),
    };
    let request = world.client.start_position(&world.aeron, 99).unwrap();
    assert_eq!(code(&mut world, request), 5);
    let request = world.client.stop_recording(&world.aeron, CHANNEL, STREAM_ID).unwrap();
    assert_eq!(code(&mut world, request), 4);
    let request =
        world.client.replay(&world.aeron, 99, 0, -1, "aeron:ipc", 7, ReplayOptions::default()).unwrap();
    assert_eq!(code(&mut world, request), 5);
    let first =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, false).unwrap();
    world.ok(first);
    let again = world
        .client
        .start_recording(&world.aeron, "aeron:ipc?alias=b", STREAM_ID, SourceLocation::Local, false)
        .unwrap();
    assert_eq!(code(&mut world, again), 3);
    let bad = world
        .client
        .start_recording(&world.aeron, "nonsense", STREAM_ID, SourceLocation::Local, false)
        .unwrap();
    assert_eq!(code(&mut world, bad), 0);
    let list = world.client.list_recordings(&world.aeron, 0, 10).unwrap();
    assert!(matches!(world.answer(list), ArchiveAnswer::RecordingUnknown { .. }));
}

#[test]
fn a_second_archive_on_the_directory_is_refused() {
    let world = World::new(|_| ());
    let started = Archive::launch(
        archive_context(world.directory.path()),
        MappedMemory,
        FileStorage::inline(),
        &SystemClock.now(),
    );
    assert!(matches!(started, Err(ArchiveError::MarkFile(_))));
}

#[test]
fn a_killed_archive_comes_back_with_what_it_had_recorded() {
    let mut world = World::new(|_| ());
    let start =
        world.client.start_recording(&world.aeron, CHANNEL, STREAM_ID, SourceLocation::Local, false).unwrap();
    world.ok(start);
    let mut publication = world.publication(CHANNEL);
    world.publish(&mut publication, 0..500, 200);
    let position = publication.position();
    let (id, _) = world.signal(Signal::Start);
    world.recorded(id, position);
    let World { agents, directory, .. } = world;
    drop(agents);
    let mut world = World::start(directory, |_| ());
    world.connect();
    let stop = world.client.stop_position(&world.aeron, id).unwrap();
    assert_eq!(world.ok(stop), position);
    assert_eq!(world.replay(id, 0, -1, 500), (0..500).collect::<Vec<_>>());
}
