//! Counters of the driver and of each resource, the error log and the loss report (spec 02 §5.6–5.8, §5.11, §5.15).

mod resources;

use crate::world::{World, free_address};
use harrier_client::{Aeron, ClientError, ClientEvent, Context, ExclusivePublication, Subscription};
use harrier_driver::context::ThreadingMode;
use harrier_driver::system_counters::SystemCounter as C;
use harrier_driver::{Driver, ExecutorMode, HostDriver};
use harrier_platform::{MappedMemory, PausingClock};
use harrier_protocol::cnc::{CNC_FILE, CNC_HEADER_LENGTH, CncHeader, CncLayout};
use harrier_ringbuf::many_to_one::ManyToOneRing;
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{Agent, AtomicBuffer, Clock, Memory, Region, error_log, loss_report};

const STREAM: i32 = 10;
/// Number of sessions: more than the executor's queue in one test has room for.
const SESSIONS: usize = 8;

/// Labels by id (spec 02 §5.8) for a driver on one thread with the default thresholds.
const LABELS: [&str; 46] = [
    "Bytes sent",
    "Bytes received",
    "Failed offers to ReceiverProxy",
    "Failed offers to SenderProxy",
    "Failed offers to DriverConductorProxy",
    "NAKs sent",
    "NAKs received",
    "Status Messages sent",
    "Status Messages received",
    "Heartbeats sent",
    "Heartbeats received",
    "Retransmits sent",
    "Flow control under runs",
    "Flow control over runs",
    "Invalid packets",
    "Errors: version=1.51.0 commit=harrier",
    "Short sends",
    "Failed attempts to free log buffers",
    "Sender flow control limits, i.e. back-pressure events",
    "Unblocked Publications",
    "Unblocked Control Commands",
    "Possible TTL Asymmetry",
    "ControllableIdleStrategy status",
    "Loss gap fills",
    "Client liveness timeouts",
    "Resolution changes: driverName=",
    "Conductor max cycle time doing its work in ns: SHARED",
    "Conductor work cycle exceeded threshold count: threshold=100ms SHARED",
    "Sender max cycle time doing its work in ns: SHARED",
    "Sender work cycle exceeded threshold count: threshold=100ms SHARED",
    "Receiver max cycle time doing its work in ns: SHARED",
    "Receiver work cycle exceeded threshold count: threshold=100ms SHARED",
    "NameResolver max time in ns",
    "NameResolver exceeded threshold count: threshold=5s",
    "Aeron software: version=1.51.0 commit=harrier",
    "Bytes currently mapped",
    "Retransmitted bytes",
    "Retransmit Pool Overflow count",
    "Error Frames received",
    "Error Frames sent",
    "Publications Revoked",
    "Publication Images Revoked",
    "Images rejected",
    "Control protocol version",
    "Status Messages rejected",
    "Failed offers to AsyncExecutorProxy",
];

/// The files of a driver, as any process may open them.
struct Files {
    cnc: AtomicBuffer,
    losses: AtomicBuffer,
    layout: CncLayout,
}

impl Files {
    fn of(world: &World) -> Self {
        let directory = world.directory.path().join("aeron");
        let cnc = MappedMemory.map(&directory.join(CNC_FILE), MapMode::ReadWrite).unwrap();
        let losses = MappedMemory.map(&directory.join("loss-report.dat"), MapMode::ReadOnly).unwrap();
        let mut bytes = [0; CNC_HEADER_LENGTH];
        cnc.copy_out(0, &mut bytes);
        let layout = CncHeader::decode(&bytes).unwrap().layout().unwrap();
        Self { cnc, losses, layout }
    }

    fn slice(&self, range: &std::ops::Range<usize>) -> AtomicBuffer {
        self.cnc.slice(range.start, range.len())
    }

    /// Returns distinct errors with the number and the times of their occurrences.
    fn errors(&self) -> Vec<(i32, i64, i64, String)> {
        let mut found = Vec::new();
        error_log::read(
            &self.slice(&self.layout.error_log),
            0,
            &mut |count, first_ms, last_ms, text: &str| {
                found.push((count, first_ms, last_ms, text.to_owned()));
            },
        );
        found
    }
}

fn count(world: &World, counter: C) -> i64 {
    world.client.counters().value(counter as i32)
}

/// Returns the values of the counters, by id.
fn values(world: &World) -> Vec<i64> {
    (0..LABELS.len()).map(|id| world.client.counters().value(id as i32)).collect()
}

/// Returns the channel of a UDP stream on a free port.
fn channel() -> String {
    format!("aeron:udp?endpoint={}|term-length=64k", free_address())
}

#[test]
fn a_fresh_drivers_counters_have_their_ids_labels_owners_and_first_values() {
    let world = World::new(|context| context.threading_mode = ThreadingMode::Shared);
    let counters = world.client.counters();
    for (id, label) in LABELS.iter().enumerate() {
        let id = id as i32;
        assert_eq!((counters.type_id(id), &*counters.label(id)), (0, *label), "{id}");
        assert_eq!(counters.key(id)[..4], id.to_le_bytes(), "{label}");
        assert!(counters.key(id)[4..].iter().all(|byte| *byte == 0), "{label}");
        let ids = (counters.registration_id(id), counters.owner_id(id), counters.reference_id(id));
        assert_eq!(ids, (i64::from(id), -1, 0), "{label}");
    }
    let directory = world.directory.path().join("aeron");
    let length = |name: &str| std::fs::metadata(directory.join(name)).unwrap().len() as i64;
    let mut expected = vec![0; LABELS.len()];
    expected[C::AeronVersion as usize] = 78_592;
    expected[C::ControlProtocolVersion as usize] = 65_536;
    expected[C::BytesCurrentlyMapped as usize] = length("cnc.dat") + length("loss-report.dat");
    assert_eq!(values(&world), expected);
    assert_eq!(counters.type_id(LABELS.len() as i32), 0, "no client has done anything yet");
}

#[test]
fn a_stream_without_faults_moves_what_its_frames_and_files_are_and_nothing_else() {
    let mut world = World::new(|_| ());
    let channel = channel();
    let before = values(&world);
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 500, 100);
    world.pass(1);
    // Messages in flight are received before more are sent.
    world.until("all datagrams", |client| {
        let value = |counter: C| client.counters().value(counter as i32);
        let is_even = value(C::BytesReceived) == value(C::BytesSent)
            && value(C::StatusMessagesReceived) == value(C::StatusMessagesSent)
            && value(C::HeartbeatsReceived) == value(C::HeartbeatsSent);
        is_even.then_some(())
    });
    let after = values(&world);
    let moved = |counter: C| after[counter as usize] - before[counter as usize];
    // 500 messages of 160 bytes each, and the control frames of the stream.
    assert!(moved(C::BytesSent) >= 500 * 160);
    assert_eq!(moved(C::BytesReceived), moved(C::BytesSent));
    assert!(moved(C::StatusMessagesSent) > 1 && moved(C::HeartbeatsSent) > 5);
    assert_eq!(moved(C::StatusMessagesReceived), moved(C::StatusMessagesSent));
    assert_eq!(moved(C::HeartbeatsReceived), moved(C::HeartbeatsSent));
    assert_eq!(moved(C::BytesCurrentlyMapped), 2 * (3 * 65_536 + 4_096));
    let moving = [
        C::BytesSent,
        C::BytesReceived,
        C::StatusMessagesSent,
        C::StatusMessagesReceived,
        C::HeartbeatsSent,
        C::HeartbeatsReceived,
        C::SenderFlowControlLimits,
        C::ConductorMaxCycleTime,
        C::SenderMaxCycleTime,
        C::ReceiverMaxCycleTime,
        C::NameResolverMaxTime,
        C::BytesCurrentlyMapped,
    ]
    .map(|counter| counter as usize);
    for (id, label) in LABELS.iter().enumerate().filter(|(id, _)| !moving.contains(id)) {
        let is_of_a_slow_host = label.contains("exceeded");
        assert!(before[id] == after[id] || is_of_a_slow_host, "{label}: {} to {}", before[id], after[id]);
    }
    drop((publication, subscription));
    let mapped = before[C::BytesCurrentlyMapped as usize];
    world.until("the end of both logs", |client| {
        (client.counters().value(C::BytesCurrentlyMapped as i32) == mapped).then_some(())
    });
}

#[test]
fn losses_are_counted_on_both_sides_and_reported_once_per_image() {
    let mut world = World::new(|context| {
        context.incoming_interceptors = "loss".into();
        context.loss_arguments = "rate=0.05|seed=3|recv-msg-mask=0x2".into();
    });
    let files = Files::of(&world);
    let channel = channel();
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 3_000, 200);
    world.pass(1);
    let naks = count(&world, C::NaksSent);
    assert!(naks > 0);
    assert_eq!(count(&world, C::NaksReceived), naks);
    let resends = count(&world, C::RetransmitsSent);
    assert!((1..=naks).contains(&resends), "{resends} of {naks}");
    assert!(count(&world, C::RetransmittedBytes) >= resends * 256);
    let of_stream = |type_id| {
        let counters = world.client.counters();
        let mut found = None;
        counters.for_each(&mut |id, counter_type, _, _| {
            found = found.or((counter_type == type_id).then_some(counters.value(id)))
        });
        found.unwrap()
    };
    assert_eq!((of_stream(19), of_stream(20)), (naks, naks));
    let losses = loss_report::read(&files.losses);
    assert_eq!(losses.len(), 1);
    let loss = &losses[0];
    assert!(loss.observation_count > 0 && loss.total_bytes_lost >= loss.observation_count * 256);
    assert!(loss.first_observation_ms <= loss.last_observation_ms);
    assert_eq!((loss.session_id, loss.stream_id), (publication.session_id(), STREAM));
    assert_eq!(loss.channel, channel);
    assert!(loss.source.starts_with("127.0.0.1:"), "{}", loss.source);
    // Another image has a separate entry.
    let mut second = world.exclusive(&channel, STREAM).unwrap();
    drop(publication);
    world.until("the end of the first image", |_| {
        subscription.poll(1, &mut |_, _| ());
        let mut images = subscription.images().iter();
        (images.len() == 1 && images.all(|image| image.session_id() == second.session_id())).then_some(())
    });
    world.exchange(&mut second, &mut subscription, 3_000, 200);
    let losses = loss_report::read(&files.losses);
    assert_eq!(losses.len(), 2);
    assert_eq!(losses[1].session_id, second.session_id());
}

#[test]
fn errors_are_distinct_counted_and_say_code_and_reason() {
    let mut world = World::new(|_| ());
    let files = Files::of(&world);
    let refuse = |world: &mut World, channel: &str| match world.exclusive(channel, STREAM) {
        Err(ClientError::Registration { code, message, .. }) => (code, message),
        other => panic!("{channel}: {other:?}"),
    };
    let (code, message) = refuse(&mut world, "aeron:ipc?mtu=1000");
    assert_eq!(code, 1);
    world.pass(1);
    refuse(&mut world, "aeron:ipc?mtu=1000");
    refuse(&mut world, "aeron:udp?endpoint=nohost.invalid:1");
    assert_eq!(count(&world, C::Errors), 3);
    let errors = files.errors();
    assert_eq!(errors.len(), 2, "{errors:?}");
    let (times, first_ms, last_ms, text) = &errors[0];
    assert_eq!((*times, errors[1].0), (2, 1));
    assert!(last_ms - first_ms >= 900, "{first_ms} to {last_ms}");
    assert_eq!(*text, message);
    assert!(text.starts_with("(-1) invalid channel\n"), "{text}");
    assert!(errors[1].3.starts_with("(-9) unknown host\n"), "{}", errors[1].3);
}

#[test]
fn agents_that_are_too_slow_are_counted_with_the_longest_cycle() {
    let mut world = World::new(|context| {
        context.conductor_cycle_threshold_ns = 40_000_000;
        context.sender_cycle_threshold_ns = 45_000_000;
        context.receiver_cycle_threshold_ns = 10_000_000_000;
    });
    let counters = world.client.counters();
    for (id, threshold) in [(27, "40ms"), (29, "45ms"), (31, "10s")] {
        assert!(counters.label(id).contains(&format!("threshold={threshold} ")), "{}", counters.label(id));
    }
    // Twenty cycles of 50 ms.
    world.step();
    let before = values(&world);
    world.pass(1);
    let after = values(&world);
    for (max, exceeded, expected) in [
        (C::ConductorMaxCycleTime, C::ConductorCycleTimeThresholdExceeded, 20),
        (C::SenderMaxCycleTime, C::SenderCycleTimeThresholdExceeded, 20),
        (C::ReceiverMaxCycleTime, C::ReceiverCycleTimeThresholdExceeded, 0),
    ] {
        assert_eq!(after[exceeded as usize] - before[exceeded as usize], expected, "{exceeded:?}");
        assert!(after[max as usize] >= 50_000_000, "{max:?}");
    }
}

#[test]
fn lookups_of_names_that_take_too_long_are_counted() {
    let mut world = World::new(|context| context.name_resolver_threshold_ns = 1);
    let before = count(&world, C::NameResolverTimeThresholdExceeded);
    let _publication = world.exclusive("aeron:udp?endpoint=localhost:24325", STREAM).unwrap();
    world.step();
    assert!(count(&world, C::NameResolverTimeThresholdExceeded) > before);
    assert!(count(&world, C::NameResolverMaxTime) > 1);
}

#[test]
fn a_rejected_ipc_image_is_an_error_with_its_reason() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let mut publication = world.exclusive("aeron:ipc?term-length=64k", STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    let errors = count(&world, C::Errors);
    let image = subscription.images()[0].correlation_id();
    let rejected = world.client.reject_image(image, 0, "no thanks");
    world.done(rejected).unwrap();
    world.until("the error", |client| {
        matches!(client.poll_event()?, ClientEvent::PublicationError(_)).then_some(())
    });
    assert_eq!((count(&world, C::Errors), count(&world, C::ImagesRejected)), (errors + 1, 1));
    let log: Vec<String> = Files::of(&world).errors().into_iter().map(|(.., text)| text).collect();
    let text =
        log.iter().find(|text| text.contains("message=no thanks")).unwrap_or_else(|| panic!("{log:?}"));
    assert!(text.starts_with("WARN: onPublicationError: registrationId="), "{text}");
}

#[test]
fn revoked_publications_and_rejected_images_are_counted_on_both_sides() {
    let mut world = World::new(|_| ());
    let channel = channel();
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    let image = subscription.images()[0].correlation_id();
    let rejected = world.client.reject_image(image, 0, "no thanks");
    world.done(rejected).unwrap();
    world.until("the error", |client| {
        matches!(client.poll_event()?, ClientEvent::PublicationError(_)).then_some(())
    });
    assert_eq!(count(&world, C::ImagesRejected), 1);
    let (sent, received) = (count(&world, C::ErrorFramesSent), count(&world, C::ErrorFramesReceived));
    assert!(sent >= 1 && received >= 1 && received <= sent, "{received} of {sent}");
    world.exchange(&mut publication, &mut subscription, 10, 100);
    publication.revoke();
    world.until("both counts of the revocation", |client| {
        let value = |counter: C| client.counters().value(counter as i32);
        (value(C::PublicationsRevoked) == 1 && value(C::PublicationImagesRevoked) == 1).then_some(())
    });
    let ipc = world.exclusive("aeron:ipc", STREAM).unwrap();
    ipc.revoke();
    world.until("the count of the IPC stream", |client| {
        (client.counters().value(C::PublicationsRevoked as i32) == 2).then_some(())
    });
    assert_eq!(count(&world, C::PublicationImagesRevoked), 1);
}

#[test]
fn a_command_that_was_claimed_and_never_written_is_skipped_and_counted() {
    let mut world = World::new(|_| ());
    let files = Files::of(&world);
    let ring = ManyToOneRing::new(files.slice(&files.layout.to_driver)).unwrap();
    let _never_committed = ring.try_claim(1, 64).unwrap();
    let id = world.client.add_counter(1_001, b"", "behind the claim").unwrap();
    let counter = world.until("the counter", |client| client.counter(id).unwrap());
    assert_eq!(count(&world, C::UnblockedCommands), 1);
    assert_eq!(count(&world, C::Errors), 0);
    drop(counter);
}

#[test]
fn a_log_that_cannot_be_removed_is_counted_and_recorded() {
    let mut world = World::new(|_| ());
    let files = Files::of(&world);
    let publication = world.exclusive("aeron:ipc", STREAM).unwrap();
    let path = world.directory.path().join("aeron/publications");
    let path = path.join(format!("{}.logbuffer", publication.registration_id()));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    drop(publication);
    world.until("the failure", |client| (client.counters().value(C::FreeFails as i32) == 1).then_some(()));
    let errors = files.errors();
    assert!(errors.len() == 1 && errors[0].3.contains(".logbuffer"), "{errors:?}");
    assert_eq!(count(&world, C::Errors), 1);
    world.exclusive("aeron:ipc", STREAM).unwrap();
}

#[test]
fn agents_whose_queues_are_full_are_asked_again_and_counted() {
    let mut world = World::new(|context| context.command_queue_capacity = 1);
    let channel = channel();
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 100, 100);
    assert!(count(&world, C::FailedReceiverOffers) >= 1);
    assert!(count(&world, C::FailedSenderOffers) >= 1);
}

#[test]
fn work_that_the_executor_has_no_room_for_is_counted_and_done_later() {
    let directory = tempfile::Builder::new().prefix("harrier-executor-").tempdir_in("/dev/shm").unwrap();
    let mut context = crate::world::context(directory.path());
    context.command_queue_capacity = 2;
    let aeron = context.directory.clone();
    let now = PausingClock.now();
    let driver = HostDriver::on_host(context, ExecutorMode::Queued, &now).unwrap();
    let Driver { mut conductor, mut sender, mut receiver, executor, .. } = driver;
    let mut executor = executor.unwrap();
    let mut client = Aeron::connect(Context::new(aeron), MappedMemory, &now).unwrap();
    let deadline_ns = now.ns + crate::world::PATIENCE_NS;
    let mut step = |client: &mut Aeron, runs_executor: bool| {
        let now = PausingClock.now();
        conductor.do_work(&now).unwrap();
        sender.do_work(&now).unwrap();
        receiver.do_work(&now).unwrap();
        client.do_work(&now).unwrap();
        if runs_executor {
            executor.do_work(&now).unwrap();
        }
        assert!(now.ns < deadline_ns, "not done in time");
    };
    let channel = channel();
    let mut publications = Vec::new();
    for _ in 0..SESSIONS {
        let id = client.add_exclusive_publication(&channel, STREAM).unwrap();
        let publication = loop {
            step(&mut client, true);
            if let Some(publication) = client.exclusive_publication(id).unwrap() {
                break publication;
            }
        };
        publications.push(publication);
    }
    let id = client.add_subscription(&channel, STREAM).unwrap();
    let mut subscription = loop {
        step(&mut client, true);
        if let Some(subscription) = client.subscription(id).unwrap() {
            break subscription;
        }
    };
    // The executor is not run until the SETUPs of all sessions have found its queue full.
    let refused = |client: &Aeron| client.counters().value(C::FailedExecutorOffers as i32);
    while refused(&client) == 0 {
        step(&mut client, false);
    }
    let is_whole = |subscription: &mut Subscription| {
        subscription.images().len() == SESSIONS && publications.iter().all(ExclusivePublication::is_connected)
    };
    while !is_whole(&mut subscription) {
        step(&mut client, true);
    }
}
