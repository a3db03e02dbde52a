//! Control sessions: who may use them, and when the archive ends them.

use std::cell::Cell;
use std::rc::Rc;

use harrier_archive::client::ArchiveAnswer;
use harrier_archive::codec::{Request, RequestBody, Response, Signal};
use harrier_archive::{Archive, SourceLocation};
use harrier_client::{ExclusivePublication, Subscription};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_protocol::counter_types::type_id;
use harrier_protocol::semantic_version;
use harrier_ringbuf::storage::{Operation, Output, Storage, StorageError};
use harrier_ringbuf::{Agent, Clock};

use crate::rig::{STREAM_ID, World, archive_context, directory};

/// A client that speaks the protocol message by message.
struct RawClient {
    requests: ExclusivePublication,
    responses: Subscription,
    schema_version: u16,
}

impl RawClient {
    fn new(world: &mut World) -> Self {
        let channel = "aeron:ipc?session-id=7001|term-length=64k";
        let id = world.aeron.add_subscription(channel, 21).unwrap();
        let responses = world.until("the subscription", |world| world.aeron.subscription(id).unwrap());
        let id = world.aeron.add_exclusive_publication(channel, 10).unwrap();
        let requests = world.until("the publication", |world| world.aeron.exclusive_publication(id).unwrap());
        world.until("the archive", |_| requests.is_connected().then_some(()));
        Self { requests, responses, schema_version: 13 }
    }

    fn send(&mut self, control_session_id: i64, correlation_id: i64, body: RequestBody<'_>) {
        let mut bytes = [0; 512];
        let length = Request { control_session_id, correlation_id, body }.encode(&mut bytes).unwrap();
        bytes[6..8].copy_from_slice(&self.schema_version.to_le_bytes());
        self.requests.offer(&bytes[..length]).unwrap();
    }

    /// Awaits the control response to a request; returns control session and relevant id.
    fn answer(&mut self, world: &mut World, wanted: i64) -> (i64, i64) {
        let mut found = None;
        world.until("the answer", |_| {
            self.responses.poll(10, &mut |message, _| {
                if let Ok(Some(Response::Control { control_session_id, correlation_id, relevant_id, .. })) =
                    Response::decode(message)
                    && correlation_id == wanted
                {
                    found = Some((control_session_id, relevant_id));
                }
            });
            found
        })
    }

    /// Connects; returns the control session.
    fn connect(&mut self, world: &mut World) -> i64 {
        let connect = RequestBody::Connect {
            response_stream_id: 21,
            version: semantic_version(1, 12, 0),
            response_channel: "aeron:ipc?session-id=7001|term-length=64k",
            credentials: &[],
            client_info: "name=raw",
        };
        self.send(-1, 1, connect);
        self.answer(world, 1).0
    }
}

#[test]
fn a_client_that_reads_nothing_loses_its_session_though_only_pings_were_refused() {
    let mut world = World::new(|context| {
        context.connect_timeout_ns = 300_000_000;
        context.session_liveness_check_interval_ns = 10_000;
    });
    let mut raw = RawClient::new(&mut world);
    let session = raw.connect(&mut world);
    assert_eq!(world.counter(type_id::ARCHIVE_CONTROL_SESSIONS), 2);
    raw.send(session, -1, RequestBody::KeepAlive);
    world.until("the end of the session", |world| {
        (world.counter(type_id::ARCHIVE_CONTROL_SESSIONS) == 1).then_some(())
    });
    let text = format!(
        "WARN: controlSessionId={session} terminated: failed to send response for more than connectTimeoutMs=300"
    );
    assert_eq!(world.errors(), [text]);
    assert_eq!(world.counter(type_id::ARCHIVE_ERROR_COUNT), 0);
    world.until("the rejection of the request stream", |_| (!raw.requests.is_connected()).then_some(()));
}

#[test]
fn the_counter_of_a_session_refers_to_its_response_publication() {
    let mut world = World::new(|_| ());
    let mut raw = RawClient::new(&mut world);
    let session = raw.connect(&mut world);
    let counters = world.aeron.counters();
    let id = counters.find(&mut |id, type_id, _| {
        type_id == type_id::ARCHIVE_CONTROL_SESSION && counters.value(id) == session
    });
    // The image of an IPC publication has its registration id.
    let publication_id = raw.responses.images()[0].correlation_id();
    assert_eq!(counters.reference_id(id.unwrap()), publication_id);
}

#[test]
fn a_session_hears_only_the_image_that_opened_it() {
    let mut world = World::new(|_| ());
    let mut raw = RawClient::new(&mut world);
    let victim = world.client.control_session_id();
    raw.send(victim, 900, RequestBody::ArchiveId);
    raw.send(victim, -1, RequestBody::CloseSession);
    let session = raw.connect(&mut world);
    raw.send(session, 901, RequestBody::ArchiveId);
    assert_eq!(raw.answer(&mut world, 901), (session, 42));
    let request = world.client.start_position(&world.aeron, 5).unwrap();
    assert_eq!(world.refused(request).0, 5);
    assert!(world.client.poll_answer().is_none());
    let errors = world.errors();
    assert!(
        errors.len() == 1 && errors[0].starts_with("WARN: request of unknown control session"),
        "{errors:?}"
    );
}

#[test]
fn clients_of_schema_14_are_served() {
    let mut world = World::new(|_| ());
    let mut raw = RawClient::new(&mut world);
    raw.schema_version = 14;
    let session = raw.connect(&mut world);
    raw.send(session, 2, RequestBody::ArchiveId);
    assert_eq!(raw.answer(&mut world, 2), (session, 42));
    let start = RequestBody::StartRecording {
        stream_id: STREAM_ID,
        location: SourceLocation::Local,
        auto_stop: true,
        channel: "aeron:ipc",
    };
    raw.send(session, 3, start);
    raw.answer(&mut world, 3);
    raw.send(session, 4, RequestBody::StopRecording { stream_id: STREAM_ID, channel: "aeron:ipc" });
    assert_eq!(raw.answer(&mut world, 4), (session, 0));
}

#[test]
fn recordings_are_counted_when_they_start() {
    let mut world = World::new(|context| context.max_concurrent_recordings = 1);
    let local = SourceLocation::Local;
    let start = world.client.start_recording(&world.aeron, "aeron:ipc", STREAM_ID, local, false).unwrap();
    world.ok(start);
    let _first = world.publication("aeron:ipc?term-length=64k");
    world.signal(Signal::Start);
    let _second = world.publication("aeron:ipc?term-length=64k");
    let refusal = world.until("the refusal", |world| world.client.poll_answer());
    assert!(
        matches!(refusal, ArchiveAnswer::Error { code: 8, correlation_id, .. } if correlation_id == start)
    );
    assert_eq!(world.counter(type_id::ARCHIVE_RECORDING_SESSIONS), 1);
}

/// Storage that counts syncs.
struct CountingStorage {
    inner: FileStorage,
    syncs: Rc<Cell<usize>>,
}

impl Storage for CountingStorage {
    fn submit(&mut self, token: u64, operation: Operation) {
        self.inner.submit(token, operation);
    }

    fn poll(&mut self, visit: &mut dyn FnMut(u64, Result<Output, StorageError>)) -> usize {
        self.inner.poll(visit)
    }

    fn blocking(&mut self, operation: Operation) -> Result<Output, StorageError> {
        self.syncs.set(self.syncs.get() + usize::from(matches!(operation, Operation::Sync { .. })));
        self.inner.blocking(operation)
    }
}

#[test]
fn the_catalog_is_synced_on_close() {
    let directory = directory();
    let syncs = Rc::new(Cell::new(0));
    let storage = CountingStorage { inner: FileStorage::inline(), syncs: syncs.clone() };
    let now = PausingClock.now();
    let mut archive =
        Archive::launch(archive_context(directory.path()), MappedMemory, storage, &now).unwrap();
    assert_eq!(syncs.get(), 0);
    archive.on_close(&now);
    assert_eq!(syncs.get(), 1);
}
