//! Snapshots through a real archive: taken, loaded, truncated, of another type, without a recording.

use std::path::Path;

use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext};
use harrier_archive::{Archive, ArchiveContext};
use harrier_client::{Aeron, Context};
use harrier_cluster::codec::{SnapshotMark, SnapshotMarker, SnapshotMessage, TimeUnit, snapshot_type};
use harrier_cluster::snapshot::{SnapshotError, SnapshotExpectation, SnapshotLoader, SnapshotTaker};
use harrier_driver::context::DriverContext;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_protocol::semantic_version;
use harrier_ringbuf::{Agent, Clock};

const PATIENCE_NS: i64 = 60_000_000_000;
const CHANNEL: &str = "aeron:ipc?alias=snapshot|term-length=64k";

struct World {
    agents: Vec<Box<dyn Agent>>,
    aeron: Aeron,
    archive: ArchiveClient,
    _directory: tempfile::TempDir,
}

fn driver(directory: &Path) -> HostDriver {
    let mut context = DriverContext::new(directory.join("aeron"));
    context.timer_interval_ns = 20_000_000;
    context.counters_buffer_length = 1 << 20;
    context.term_buffer_length = 64 << 10;
    context.publication_linger_timeout_ns = 100_000_000;
    HostDriver::on_host(context, ExecutorMode::Inline, &PausingClock.now()).unwrap()
}

impl World {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-snapshot-").tempdir_in("/dev/shm").unwrap();
        let now = PausingClock.now();
        let driver = driver(directory.path());
        let mut context =
            ArchiveContext::new(directory.path().join("aeron"), directory.path().join("archive"));
        context.segment_file_length = 128 << 10;
        context.catalog_capacity = 4_096;
        context.low_storage_space_threshold = 0;
        let archive = Archive::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap();
        let aeron = Aeron::connect(Context::new(directory.path().join("aeron")), MappedMemory, &now).unwrap();
        let mut agents = driver.into_agents();
        agents.push(Box::new(archive));
        let archive = ArchiveClient::new(ArchiveClientContext::ipc());
        let mut world = Self { agents, aeron, archive, _directory: directory };
        world.until("the archive", |world| world.archive.is_connected().then_some(()));
        world
    }

    fn step(&mut self) {
        let now = PausingClock.now();
        for agent in &mut self.agents {
            agent.do_work(&now).unwrap();
        }
        self.aeron.do_work(&now).unwrap();
        self.archive.poll(&mut self.aeron, &now).unwrap();
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    fn poll_taker(&mut self, taker: &mut SnapshotTaker) -> Result<(), SnapshotError> {
        while let Some(answer) = self.archive.poll_answer() {
            taker.on_answer(&answer);
        }
        taker.poll(&mut self.aeron, &mut self.archive, &PausingClock.now()).map(|_| ())
    }

    fn writable(&mut self) -> SnapshotTaker {
        let mut taker = SnapshotTaker::new(CHANNEL, 106, PATIENCE_NS);
        self.until("the snapshot's stream", |world| {
            world.poll_taker(&mut taker).unwrap();
            taker.is_writable().then_some(())
        });
        taker
    }

    fn write(&mut self, taker: &mut SnapshotTaker, message: &SnapshotMessage<'_>) {
        self.until("room", |_| taker.offer(message).unwrap().then_some(()));
    }

    fn complete(&mut self, mut taker: SnapshotTaker) -> i64 {
        taker.finish();
        self.until("the whole recording", |world| {
            world.poll_taker(&mut taker).unwrap();
            taker.recording_id()
        })
    }

    fn take(&mut self, messages: &[SnapshotMessage<'_>], state: &[&[u8]]) -> i64 {
        let mut taker = self.writable();
        for message in messages {
            self.write(&mut taker, message);
        }
        for bytes in state {
            self.until("room", |_| taker.publication().unwrap().offer(bytes).ok());
        }
        self.complete(taker)
    }

    fn poll_loader(&mut self, loader: &mut SnapshotLoader) -> Result<(), SnapshotError> {
        while let Some(answer) = self.archive.poll_answer() {
            loader.on_answer(&answer);
        }
        loader.poll(&mut self.aeron, &mut self.archive, &PausingClock.now()).map(|_| ())
    }

    /// Loads a snapshot and returns its messages, with the loader after END.
    fn load(
        &mut self,
        recording_id: i64,
        expectation: SnapshotExpectation,
    ) -> Result<(Vec<String>, SnapshotLoader), SnapshotError> {
        let mut loader = SnapshotLoader::new(recording_id, "aeron:ipc", 103, expectation, PATIENCE_NS);
        let mut read = Vec::new();
        self.until("the snapshot", |world| {
            if let Err(error) = world.poll_loader(&mut loader) {
                return Some(Err(error));
            }
            let outcome = loader.read(10, &mut |message| {
                read.push(format!("{message:?}"));
                Ok(())
            });
            if let Err(error) = outcome {
                return Some(Err(error));
            }
            loader.is_complete().then_some(Ok(()))
        })?;
        Ok((read, loader))
    }
}

fn marker(mark: SnapshotMark) -> SnapshotMessage<'static> {
    SnapshotMessage::Marker(SnapshotMarker {
        type_id: snapshot_type::SERVICE,
        log_position: 96,
        leadership_term_id: 3,
        index: 0,
        mark,
        time_unit: TimeUnit::Millis,
        app_version: semantic_version(1, 2, 3),
    })
}

fn session(session_id: i64) -> SnapshotMessage<'static> {
    SnapshotMessage::ClientSession {
        session_id,
        response_stream_id: 102,
        response_channel: "aeron:ipc",
        principal: b"somebody",
    }
}

const EXPECTED: SnapshotExpectation = SnapshotExpectation {
    type_id: snapshot_type::SERVICE,
    app_version: semantic_version(1, 0, 0),
    time_unit: None,
};

#[test]
fn what_was_written_is_read() {
    let mut world = World::new();
    let sessions: Vec<SnapshotMessage<'_>> = (1..=2_000).map(session).collect();
    let messages = [&[marker(SnapshotMark::Begin)], &sessions[..], &[marker(SnapshotMark::End)]].concat();
    // Longer than a frame, a term and a segment.
    let state: Vec<Vec<u8>> = (0..40_u8).map(|number| vec![number; 7_000]).collect();
    let state: Vec<&[u8]> = state.iter().map(Vec::as_slice).collect();
    let recording_id = world.take(&messages, &state);
    let (read, mut loader) = world.load(recording_id, EXPECTED).unwrap();
    assert_eq!(read, sessions.iter().map(|session| format!("{session:?}")).collect::<Vec<_>>());
    assert_eq!(loader.marker().unwrap().leadership_term_id, 3);
    let mut assembler = harrier_ringbuf::assembly::ImageFragmentAssembler::new();
    let mut count = 0;
    world.until("the service's own state", |_| {
        loader.image().unwrap().poll(10, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| {
                assert_eq!(message, state[count]);
                count += 1;
            });
        });
        (count == state.len()).then_some(())
    });
    world.until("the end", |_| loader.image().unwrap().is_end_of_stream().then_some(()));
    loader.close(&world.aeron, &mut world.archive);
}

#[test]
fn two_snapshots_at_once_do_not_mix() {
    let mut world = World::new();
    let (mut first, mut second) = (world.writable(), world.writable());
    for (taker, id) in [(&mut first, 1), (&mut second, 2)] {
        for message in [marker(SnapshotMark::Begin), session(id), marker(SnapshotMark::End)] {
            world.write(taker, &message);
        }
    }
    let ids = [world.complete(second), world.complete(first)];
    for (recording_id, session_id) in ids.into_iter().zip([2, 1]) {
        let (read, _) = world.load(recording_id, EXPECTED).unwrap();
        assert_eq!(read, [format!("{:?}", session(session_id))]);
    }
}

#[test]
fn a_snapshot_without_end_is_cut_short() {
    let mut world = World::new();
    let recording_id = world.take(&[marker(SnapshotMark::Begin), session(1)], &[]);
    let error = world.load(recording_id, EXPECTED).unwrap_err();
    assert!(matches!(error, SnapshotError::Cut { recording_id: id, .. } if id == recording_id), "{error}");
}

#[test]
fn a_replay_that_is_broken_off_is_not_a_snapshot_cut_short() {
    let mut world = World::new();
    let sessions: Vec<SnapshotMessage<'_>> = (1..=3_000).map(session).collect();
    let messages = [&[marker(SnapshotMark::Begin)], &sessions[..], &[marker(SnapshotMark::End)]].concat();
    let recording_id = world.take(&messages, &[]);
    let mut loader = SnapshotLoader::new(recording_id, "aeron:ipc", 103, EXPECTED, PATIENCE_NS);
    let mut is_stopped = false;
    let error = world.until("the end of the stream", |world| {
        world.poll_loader(&mut loader).unwrap();
        let outcome = loader.read(10, &mut |_| Ok(()));
        if loader.marker().is_some() && !is_stopped {
            world.archive.stop_all_replays(&world.aeron, recording_id).unwrap();
            is_stopped = true;
        }
        outcome.err()
    });
    assert!(is_stopped && !loader.is_complete());
    assert!(
        matches!(error, SnapshotError::BrokenOff { recording_id: id, .. } if id == recording_id),
        "{error}"
    );
    // The recording is intact: another replay reads it to the end.
    assert_eq!(world.load(recording_id, EXPECTED).unwrap().0.len(), 3_000);
}

#[test]
fn a_snapshot_of_the_module_is_no_services() {
    let mut world = World::new();
    let recording_id = world.take(&[marker(SnapshotMark::Begin), marker(SnapshotMark::End)], &[]);
    let expected = SnapshotExpectation { type_id: snapshot_type::MODULE, ..EXPECTED };
    let error = world.load(recording_id, expected).unwrap_err();
    assert!(matches!(error, SnapshotError::Type { expected: 1, actual: 2 }), "{error}");
}

#[test]
fn what_is_no_snapshot_is_named() {
    let mut world = World::new();
    let recording_id = world.take(&[], &[b"neither header nor block"]);
    let error = world.load(recording_id, EXPECTED).unwrap_err();
    assert!(matches!(error, SnapshotError::Undecodable { .. }), "{error}");
}

#[test]
fn a_recording_that_is_not_there_is_named() {
    let mut world = World::new();
    let error = world.load(7, EXPECTED).unwrap_err();
    let is_named = matches!(&error, SnapshotError::RecordingUnknown(7))
        || matches!(&error, SnapshotError::Refused { message, .. } if message.contains('7'));
    assert!(is_named, "{error}");
}

#[test]
fn a_recording_that_stops_early_is_noticed() {
    let mut world = World::new();
    let mut taker = world.writable();
    world.write(&mut taker, &marker(SnapshotMark::Begin));
    let first_of_this_archive = 0;
    let id = world.archive.stop_recording_by_identity(&world.aeron, first_of_this_archive).unwrap();
    world.until("the recording's stop", |world| {
        let answer = world.archive.poll_answer()?;
        (answer.correlation_id() == id && matches!(answer, ArchiveAnswer::Ok { .. })).then_some(())
    });
    let error = world.until("the failure", |world| world.poll_taker(&mut taker).err());
    assert!(matches!(error, SnapshotError::RecordingStopped { recording_id: 0, .. }), "{error}");
}
