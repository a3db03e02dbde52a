//! An archive with its driver and client on one thread.

use std::path::{Path, PathBuf};

use harrier_archive::catalog::{Catalog, CatalogWrite};
use harrier_archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext, ReplayOptions};
use harrier_archive::codec::Signal;
use harrier_archive::{Archive, ArchiveContext, ArchiveMark, RecordingDescriptor, SourceLocation};
use harrier_client::{Aeron, Context, ExclusivePublication};
use harrier_driver::context::DriverContext;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::storage::Storage;
use harrier_ringbuf::{Agent, Clock};

const PATIENCE_NS: i64 = 60_000_000_000;
pub const STREAM_ID: i32 = 1_001;
pub const CHANNEL: &str = "aeron:ipc?term-length=64k";

pub struct World {
    pub agents: Vec<Box<dyn Agent>>,
    pub aeron: Aeron,
    pub client: ArchiveClient,
    pub directory: tempfile::TempDir,
}

pub fn archive_context(directory: &Path) -> ArchiveContext {
    let mut context = ArchiveContext::new(directory.join("aeron"), directory.join("archive"));
    context.segment_file_length = 128 << 10;
    context.catalog_capacity = 4_096;
    context.archive_id = Some(42);
    context.low_storage_space_threshold = 0;
    context
}

/// Descriptor of a stopped recording of two segments.
pub fn descriptor() -> RecordingDescriptor {
    RecordingDescriptor {
        control_session_id: 0,
        correlation_id: 0,
        recording_id: 0,
        start_timestamp: 1,
        stop_timestamp: 2,
        start_position: 0,
        stop_position: 256 << 10,
        initial_term_id: 7,
        segment_file_length: 128 << 10,
        term_buffer_length: 64 << 10,
        mtu_length: 1_408,
        session_id: 9,
        stream_id: STREAM_ID,
        stripped_channel: "aeron:ipc".into(),
        original_channel: CHANNEL.into(),
        source_identity: "aeron:ipc".into(),
    }
}

pub fn put(bytes: &mut [u8], write: &CatalogWrite) {
    bytes[write.offset as usize..][..write.bytes.len()].copy_from_slice(&write.bytes);
}

/// Builds the catalog file of some recordings.
pub fn catalog_of(recordings: &[RecordingDescriptor]) -> Vec<u8> {
    let (mut catalog, header) = Catalog::create(4_096, None);
    let mut bytes = vec![0; 4_096];
    put(&mut bytes, &header);
    for recording in recordings {
        for write in catalog.add(recording.clone()).unwrap().1 {
            put(&mut bytes, &write);
        }
    }
    bytes
}

pub fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("harrier-archive-").tempdir_in("/dev/shm").unwrap()
}

impl World {
    /// Starts an archive on a catalog and on empty files with the given names.
    pub fn on_files(catalog: &[u8], names: &[&str]) -> Self {
        let directory = directory();
        let folder = directory.path().join("archive");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("archive.catalog"), catalog).unwrap();
        for name in names {
            std::fs::write(folder.join(name), []).unwrap();
        }
        let mut world = Self::start(directory, |_| ());
        world.connect();
        world
    }

    pub fn new(change: impl FnOnce(&mut ArchiveContext)) -> Self {
        let mut world = Self::start(directory(), change);
        world.connect();
        world
    }

    pub fn start(directory: tempfile::TempDir, change: impl FnOnce(&mut ArchiveContext)) -> Self {
        Self::start_on(directory, FileStorage::inline(), change)
    }

    pub fn start_on(
        directory: tempfile::TempDir,
        storage: impl Storage + 'static,
        change: impl FnOnce(&mut ArchiveContext),
    ) -> Self {
        let mut driver_context = DriverContext::new(directory.path().join("aeron"));
        driver_context.timer_interval_ns = 20_000_000;
        driver_context.counters_buffer_length = 1 << 20;
        driver_context.term_buffer_length = 64 << 10;
        driver_context.publication_linger_timeout_ns = 100_000_000;
        let now = PausingClock.now();
        // Session ids must differ from those of the previous driver.
        driver_context.seed = now.ns as u64;
        let driver = HostDriver::on_host(driver_context, ExecutorMode::Inline, &now).unwrap();
        let mut context = archive_context(directory.path());
        change(&mut context);
        let archive = Archive::launch(context, MappedMemory, storage, &now).unwrap();
        let aeron = Aeron::connect(Context::new(directory.path().join("aeron")), MappedMemory, &now).unwrap();
        let mut agents = driver.into_agents();
        agents.push(Box::new(archive));
        Self { agents, aeron, client: ArchiveClient::new(ArchiveClientContext::ipc()), directory }
    }

    /// Texts in the archive's error log.
    pub fn errors(&self) -> Vec<String> {
        let mark = ArchiveMark::read(&MappedMemory, &self.archive_directory()).unwrap().unwrap();
        let mut texts = Vec::new();
        harrier_ringbuf::error_log::read(&mark.errors, 0, &mut |_, _, _, text| texts.push(text.to_owned()));
        texts
    }

    /// Value of the archive's counter of a type.
    pub fn counter(&self, wanted: i32) -> i64 {
        let counters = self.aeron.counters();
        counters.value(counters.find(&mut |_, type_id, _| type_id == wanted).unwrap())
    }

    pub fn archive_directory(&self) -> PathBuf {
        self.directory.path().join("archive")
    }

    /// Awaits the refusal of a request; returns code and text.
    pub fn refused(&mut self, correlation_id: i64) -> (i64, String) {
        match self.answer(correlation_id) {
            ArchiveAnswer::Error { code, message, .. } => (code, message),
            other => panic!("{other:?}"),
        }
    }

    /// Records messages of 200 bytes on a channel; returns the recording id and stop position.
    pub fn record(&mut self, channel: &str, range: std::ops::Range<u64>) -> (i64, i64) {
        let location = SourceLocation::Local;
        let start = self.client.start_recording(&self.aeron, channel, STREAM_ID, location, true).unwrap();
        self.ok(start);
        let mut publication = self.publication(channel);
        self.publish(&mut publication, range, 200);
        let position = publication.position();
        let (id, _) = self.signal(Signal::Start);
        self.recorded(id, position);
        drop(publication);
        assert_eq!(self.signal(Signal::Stop), (id, position));
        (id, position)
    }

    pub fn step(&mut self) {
        let now = PausingClock.now();
        for agent in &mut self.agents {
            agent.do_work(&now).unwrap();
        }
        self.aeron.do_work(&now).unwrap();
        self.client.poll(&mut self.aeron, &now).unwrap();
    }

    pub fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    pub fn connect(&mut self) {
        self.until("the connection", |world| world.client.is_connected().then_some(()));
    }

    pub fn answer(&mut self, correlation_id: i64) -> ArchiveAnswer {
        self.until("the answer", |world| {
            let answer = world.client.poll_answer()?;
            let is_signal = matches!(answer, ArchiveAnswer::Signal { .. });
            (answer.correlation_id() == correlation_id && !is_signal).then_some(answer)
        })
    }

    pub fn ok(&mut self, correlation_id: i64) -> i64 {
        match self.answer(correlation_id) {
            ArchiveAnswer::Ok { relevant_id, .. } => relevant_id,
            other => panic!("{other:?}"),
        }
    }

    pub fn signal(&mut self, wanted: Signal) -> (i64, i64) {
        self.until("the signal", |world| match world.client.poll_answer()? {
            ArchiveAnswer::Signal { signal, recording_id, position, .. } if signal == wanted => {
                Some((recording_id, position))
            }
            _ => None,
        })
    }

    pub fn publication(&mut self, channel: &str) -> ExclusivePublication {
        let id = self.aeron.add_exclusive_publication(channel, STREAM_ID).unwrap();
        self.until("the publication", |world| world.aeron.exclusive_publication(id).unwrap())
    }

    pub fn publish(
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

    pub fn recorded(&mut self, recording_id: i64, position: i64) {
        self.until("the recorded position", |world| {
            let counter =
                harrier_archive::client::find_by_recording(world.aeron.counters(), recording_id, None)?;
            (world.aeron.counters().value(counter) >= position).then_some(())
        });
    }

    /// Replays a range and returns its message numbers.
    pub fn replay(&mut self, recording_id: i64, position: i64, length: i64, count: usize) -> Vec<u64> {
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
