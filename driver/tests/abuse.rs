//! Clients that die, invalid commands, full rings and lapped clients. The driver counts them and keeps nothing of them,
//! and live streams go on.

use std::path::PathBuf;

use crate::world::{World, free_address};
use harrier_client::{Aeron, ClientError, Context, ExclusivePublication, Subscription};
use harrier_driver::system_counters::SystemCounter as C;
use harrier_platform::{MappedMemory, PausingClock};
use harrier_protocol::cnc::{CNC_FILE, CNC_HEADER_LENGTH, CncHeader, CncLayout};
use harrier_protocol::command::{Command, Request, type_id};
use harrier_protocol::event::Event;
use harrier_ringbuf::many_to_one::{ManyToOneRing, RingError};
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::{AtomicBuffer, Clock, Memory, Region, broadcast, error_log};

/// Number of clients that connect and die.
const CLIENTS: usize = 300;
/// Number of commands of a flood.
const COMMANDS: usize = 20_000;
const STREAM: i32 = 1_001;

/// Resources of a driver: counters except those that are never freed, mapped bytes, and log files.
#[derive(Debug, PartialEq, Eq)]
struct Kept {
    counters: Vec<String>,
    bytes: i64,
    files: usize,
}

/// The files of a driver, as any process may open them.
struct Files {
    cnc: AtomicBuffer,
    layout: CncLayout,
    directory: PathBuf,
}

impl Files {
    fn of(world: &World) -> Self {
        let directory = world.directory.path().join("aeron");
        let cnc = MappedMemory.map(&directory.join(CNC_FILE), MapMode::ReadWrite).unwrap();
        let mut bytes = [0; CNC_HEADER_LENGTH];
        cnc.copy_out(0, &mut bytes);
        let layout = CncHeader::decode(&bytes).unwrap().layout().unwrap();
        Self { cnc, layout, directory }
    }

    fn slice(&self, range: &std::ops::Range<usize>) -> AtomicBuffer {
        self.cnc.slice(range.start, range.len())
    }

    fn ring(&self) -> ManyToOneRing {
        ManyToOneRing::new(self.slice(&self.layout.to_driver)).unwrap()
    }

    fn events(&self) -> broadcast::Receiver {
        broadcast::Receiver::new(self.slice(&self.layout.to_clients)).unwrap()
    }

    /// Returns the distinct errors that were recorded, with the numbers of their occurrences.
    fn errors(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        error_log::read(&self.slice(&self.layout.error_log), 0, &mut |count, _, _, text: &str| {
            found.push((count, text.to_owned()));
        });
        found
    }

    fn kept(&self, world: &World) -> Kept {
        let mut counters = Vec::new();
        world.client.counters().for_each(&mut |_, _, _, label| counters.push(label.to_owned()));
        let count = |folder: &str| std::fs::read_dir(self.directory.join(folder)).unwrap().count();
        Kept {
            counters,
            bytes: count_of(world, C::BytesCurrentlyMapped),
            files: count("publications") + count("images"),
        }
    }
}

fn count_of(world: &World, counter: C) -> i64 {
    world.client.counters().value(counter as i32)
}

/// A stream that must go on whatever happens.
struct Live {
    publication: ExclusivePublication,
    subscription: Subscription,
}

impl Live {
    fn start(world: &mut World) -> Self {
        let channel = format!("aeron:udp?endpoint={}|term-length=64k", free_address());
        let subscription = world.subscription(&channel, STREAM).unwrap();
        let publication = world.exclusive(&channel, STREAM).unwrap();
        let mut live = Self { publication, subscription };
        live.flows(world);
        live
    }

    fn flows(&mut self, world: &mut World) {
        world.exchange(&mut self.publication, &mut self.subscription, 20, 100);
    }
}

fn connect(world: &World, files: &Files) -> Aeron {
    let mut now = PausingClock.now();
    now.ns += world.ahead_ns();
    now.epoch_ms += world.ahead_ns() / 1_000_000;
    Aeron::connect(Context::new(files.directory.clone()), MappedMemory, &now).unwrap()
}

#[test]
fn clients_that_come_and_die_leave_nothing_behind() {
    let mut world = World::new(|_| ());
    let files = Files::of(&world);
    let mut live = Live::start(&mut world);
    // A freed resource stays in its list until it may be used again.
    world.pass(3);
    let before = files.kept(&world);
    let address = free_address();
    let mut dead = Vec::new();
    for number in 0..CLIENTS {
        let mut client = connect(&world, &files);
        let network = format!("aeron:udp?endpoint={address}|term-length=64k");
        client.add_publication(&network, 7).unwrap();
        client.add_exclusive_publication("aeron:ipc?term-length=64k", 8).unwrap();
        client.add_subscription("aeron:ipc", 8).unwrap();
        client.add_counter(1_100, b"key", "of a client that dies").unwrap();
        // Some die before they are answered.
        for _ in 0..number % 12 {
            world.step();
        }
        if number % 2 == 0 {
            drop(client);
        } else {
            dead.push(client);
        }
        if number % 10 == 0 {
            live.flows(&mut world);
            world.pass(2);
            let kept = files.kept(&world);
            assert!(kept.counters.len() < before.counters.len() + 40, "{kept:#?}");
        }
    }
    world.pass(20);
    live.flows(&mut world);
    assert_eq!(files.kept(&world), before);
    assert_eq!(count_of(&world, C::ClientTimeouts), dead.len() as i64);
    assert_eq!(count_of(&world, C::FreeFails), 0);
    assert_eq!(files.errors(), []);
    // The dead do not disturb the driver when they are taken apart.
    drop(dead);
    live.flows(&mut world);
    assert_eq!(files.kept(&world), before);
}

/// Returns a command body: client id, correlation id, and `rest`.
fn body(client_id: i64, correlation_id: i64, rest: &[u8]) -> Vec<u8> {
    let mut bytes = client_id.to_le_bytes().to_vec();
    bytes.extend(correlation_id.to_le_bytes());
    bytes.extend(rest);
    bytes
}

/// Layouts of commands by type: fewest bytes after client id and correlation id, and the offsets of length fields among
/// them.
const LAYOUTS: [(i32, usize, &[usize]); 18] = [
    (type_id::ADD_PUBLICATION, 8, &[4]),
    (type_id::REMOVE_PUBLICATION, 8, &[]),
    (type_id::ADD_EXCLUSIVE_PUBLICATION, 8, &[4]),
    (type_id::ADD_SUBSCRIPTION, 16, &[12]),
    (type_id::REMOVE_SUBSCRIPTION, 8, &[]),
    (type_id::CLIENT_KEEPALIVE, 0, &[]),
    (type_id::ADD_DESTINATION, 12, &[8]),
    (type_id::REMOVE_DESTINATION, 12, &[8]),
    (type_id::ADD_COUNTER, 12, &[4, 8]),
    (type_id::REMOVE_COUNTER, 8, &[]),
    (type_id::CLIENT_CLOSE, 0, &[]),
    (type_id::ADD_RCV_DESTINATION, 12, &[8]),
    (type_id::REMOVE_RCV_DESTINATION, 12, &[8]),
    (type_id::TERMINATE_DRIVER, 4, &[0]),
    (type_id::ADD_STATIC_COUNTER, 20, &[12, 16]),
    (type_id::REJECT_IMAGE, 20, &[16]),
    (type_id::REMOVE_DESTINATION_BY_ID, 16, &[]),
    (type_id::GET_NEXT_AVAILABLE_SESSION_ID, 4, &[]),
];

/// Returns malformed commands, with the codes of their answers.
fn bad_commands() -> Vec<(i32, Vec<u8>, i32)> {
    const UNKNOWN_TYPE: i32 = 6;
    const MALFORMED: i32 = 7;
    let mut bad = Vec::new();
    for unknown in [0x13, 0x14, 0x7F, 0x0F00, i32::MAX] {
        bad.push((unknown, body(1, 900, &[0; 64]), UNKNOWN_TYPE));
        bad.push((unknown, Vec::new(), UNKNOWN_TYPE));
    }
    for (type_id, least, lengths) in LAYOUTS {
        let whole = body(1, 900, &vec![0; least]);
        bad.extend((0..whole.len()).map(|length| (type_id, whole[..length].to_vec(), MALFORMED)));
        for at in lengths {
            for length in [-1, i32::MIN, i32::MAX, 1, 4_096] {
                // The next length or text lies beyond the end of the body.
                let mut bytes = whole.clone();
                bytes[16 + at..16 + at + 4].copy_from_slice(&length.to_le_bytes());
                bad.push((type_id, bytes, MALFORMED));
            }
        }
    }
    bad
}

/// Returns well-formed commands that name unknown resources.
fn strange_commands() -> Vec<(Request<'static>, i32)> {
    let registration_id = 987_654_321;
    let channel = "aeron:udp?endpoint=127.0.0.1:9";
    vec![
        (Request::RemovePublication { registration_id, flags: 0 }, 3),
        (Request::RemoveSubscription { registration_id }, 2),
        (Request::RemoveCounter { registration_id }, 5),
        (Request::AddDestination { registration_id, channel }, 3),
        (Request::RemoveDestination { registration_id, channel }, 3),
        (Request::RemoveDestinationById { registration_id, destination_registration_id: 1 }, 3),
        (Request::AddRcvDestination { registration_id, channel }, 2),
        (Request::RemoveRcvDestination { registration_id, channel }, 2),
        (Request::RejectImage { image_correlation_id: registration_id, position: 0, reason: "no" }, 11),
        (Request::AddPublication { stream_id: 1, channel: "aeron:" }, 1),
        (Request::AddExclusivePublication { stream_id: 1, channel: "" }, 1),
        (Request::AddSubscription { registration_correlation_id: -1, stream_id: 1, channel: "x" }, 1),
    ]
}

#[test]
fn malformed_commands_are_answered_counted_and_change_nothing() {
    let mut world = World::new(|_| ());
    let files = Files::of(&world);
    let mut live = Live::start(&mut world);
    world.pass(3);
    let (ring, mut events) = (files.ring(), files.events());
    while events.receive(&mut |_, _| ()).is_ok_and(|count| count > 0) {}
    let before = files.kept(&world);
    let mut errors = count_of(&world, C::Errors);
    let mut buffer = [0; 512];
    let mut commands = bad_commands();
    for (request, code) in strange_commands() {
        // A client that has added nothing is unknown, and its commands that fail do not make it known.
        let command = Command { client_id: 555, correlation_id: 900, request };
        let length = command.encode(&mut buffer).unwrap();
        commands.push((command.type_id(), buffer[..length].to_vec(), code));
    }
    assert!(commands.len() > 400, "{}", commands.len());
    for (type_id, bytes, code) in &commands {
        ring.write(*type_id, bytes).unwrap();
        let mut answers = Vec::new();
        for _ in 0..3 {
            world.step();
            events
                .receive(&mut |type_id, body| {
                    if let Ok(Event::Error { correlation_id, error_code, .. }) = Event::decode(type_id, body)
                    {
                        answers.push((correlation_id, error_code));
                    }
                })
                .unwrap();
        }
        let asked = if bytes.len() >= 16 { 900 } else { 0 };
        assert_eq!(answers, [(asked, *code)], "{type_id:#x} {bytes:?}");
        errors += 1;
        assert_eq!(count_of(&world, C::Errors), errors, "{type_id:#x} {bytes:?}");
    }
    live.flows(&mut world);
    assert_eq!(files.kept(&world), before);
}

#[test]
fn a_flood_of_bad_commands_fills_no_more_than_the_error_log() {
    let mut world = World::new(|context| context.error_buffer_length = 64 << 10);
    let files = Files::of(&world);
    let mut live = Live::start(&mut world);
    world.pass(3);
    let (ring, before, errors) = (files.ring(), files.kept(&world), count_of(&world, C::Errors));
    // Each command is a distinct error with its own text.
    let mut written = 0;
    while written < COMMANDS {
        let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", 70_000 + written);
        let request = Request::AddDestination { registration_id: written as i64, channel: &channel };
        let mut buffer = [0; 256];
        let command = Command { client_id: 555, correlation_id: written as i64, request };
        let length = command.encode(&mut buffer).unwrap();
        match ring.write(command.type_id(), &buffer[..length]) {
            Ok(()) => written += 1,
            Err(RingError::Full) => live.flows(&mut world),
            Err(error) => panic!("{error}"),
        }
        if written % 4 == 0 {
            world.step();
        }
    }
    world.until("the last command", |_| (ring.size() == 0).then_some(()));
    live.flows(&mut world);
    assert_eq!(count_of(&world, C::Errors), errors + COMMANDS as i64);
    assert_eq!(files.kept(&world), before);
    let recorded = files.errors();
    assert!((1..COMMANDS).contains(&recorded.len()), "{}", recorded.len());
}

#[test]
fn a_full_ring_is_an_error_of_who_finds_it_full_and_empties() {
    let mut world = World::new(|_| ());
    let files = Files::of(&world);
    let mut live = Live::start(&mut world);
    world.pass(3);
    let (ring, before) = (files.ring(), files.kept(&world));
    // Keepalives of an unknown client fill the ring.
    let keepalive = body(555, 0, &[]);
    let mut written = 0;
    while ring.write(type_id::CLIENT_KEEPALIVE, &keepalive).is_ok() {
        written += 1;
    }
    assert!(written > 1_000, "{written}");
    let refused = world.client.add_counter(1_100, b"key", "too late");
    assert!(refused.is_err(), "{refused:?}");
    live.flows(&mut world);
    world.until("an empty ring", |_| (ring.size() == 0).then_some(()));
    // A command that is never finished holds up the following ones until the driver skips it.
    let unblocked = count_of(&world, C::UnblockedCommands);
    ring.try_claim(type_id::CLIENT_KEEPALIVE, keepalive.len()).unwrap();
    let id = world.client.add_counter(1_100, b"key", "behind it").unwrap();
    live.flows(&mut world);
    assert!(world.client.counter(id).unwrap().is_none());
    world.pass(3);
    let counter = world.until("the counter", |client| client.counter(id).unwrap());
    assert_eq!(count_of(&world, C::UnblockedCommands), unblocked + 1);
    drop(counter);
    world.pass(3);
    live.flows(&mut world);
    assert_eq!(files.kept(&world), before);
}

#[test]
fn a_lapped_client_ends_and_the_others_go_on() {
    let mut world = World::new(|context| context.clients_buffer_length = (64 << 10) + 128);
    let files = Files::of(&world);
    let mut live = Live::start(&mut world);
    world.pass(3);
    let before = files.kept(&world);
    let mut slow = connect(&world, &files);
    slow.add_counter(1_100, b"key", "of a slow client").unwrap();
    for _ in 0..10 {
        world.step();
    }
    assert_eq!(files.kept(&world).counters.len(), before.counters.len() + 2);
    // The commands cause more answers than the buffer holds.
    let ring = files.ring();
    let ask = body(555, 900, &1i32.to_le_bytes());
    for number in 0..4_096 {
        ring.write(type_id::GET_NEXT_AVAILABLE_SESSION_ID, &ask).unwrap();
        world.step();
        if number % 512 == 0 {
            live.flows(&mut world);
        }
    }
    let mut now = PausingClock.now();
    now.ns += world.ahead_ns();
    now.epoch_ms += world.ahead_ns() / 1_000_000;
    let outcome = slow.do_work(&now);
    assert!(matches!(outcome, Err(ClientError::Lapped)), "{outcome:?}");
    live.flows(&mut world);
    let timeouts = count_of(&world, C::ClientTimeouts);
    drop(slow);
    world.pass(5);
    live.flows(&mut world);
    // The client has closed itself or was timed out, and none of its resources are left.
    assert!(count_of(&world, C::ClientTimeouts) <= timeouts + 1);
    assert_eq!(files.kept(&world), before);
}
