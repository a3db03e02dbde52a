//! Sends that the system refuses are counted and, where they are errors, reported once a second under one entry.
//! Streams go on when the system accepts sends again, and nothing is lost (spec 02 §2.4, §5.8).

use crate::world::seam::{Refusal, Side, WatchedTransport};
use crate::world::{Numbered, NumberedReader, World, free_address};
use harrier_client::{ExclusivePublication, Subscription};
use harrier_driver::system_counters::SystemCounter as C;
use harrier_platform::{MappedMemory, UdpTransport};
use harrier_protocol::cnc::{CNC_FILE, CNC_HEADER_LENGTH, CncHeader};
use harrier_ringbuf::memory::MapMode;
use harrier_ringbuf::transport::TransportOptions;
use harrier_ringbuf::{Memory, Region, error_log};

const STREAM: i32 = 10;
const EPERM: i32 = 1;
const LENGTH: usize = 500;

fn count(world: &World, counter: C) -> i64 {
    world.client.counters().value(counter as i32)
}

/// Returns observations and texts of the error log.
fn errors(world: &World) -> Vec<(i32, String)> {
    let path = world.directory.path().join("aeron").join(CNC_FILE);
    let cnc = MappedMemory.map(&path, MapMode::ReadOnly).unwrap();
    let mut bytes = [0; CNC_HEADER_LENGTH];
    cnc.copy_out(0, &mut bytes);
    let log = CncHeader::decode(&bytes).unwrap().layout().unwrap().error_log;
    let mut found = Vec::new();
    error_log::read(&cnc.slice(log.start, log.len()), 0, &mut |count, _, _, text: &str| {
        found.push((count, text.to_owned()));
    });
    found
}

struct Stream {
    publication: ExclusivePublication,
    subscription: Subscription,
    numbered: Numbered,
    reader: NumberedReader,
}

impl Stream {
    fn new(world: &mut World, messages: u64) -> Self {
        let channel = format!("aeron:udp?endpoint={}", free_address());
        let subscription = world.subscription(&channel, STREAM).unwrap();
        let publication = world.exclusive(&channel, STREAM).unwrap();
        let numbered = Numbered::new(messages, LENGTH);
        Self { publication, subscription, numbered, reader: NumberedReader::default() }
    }

    fn work(&mut self) -> u64 {
        self.numbered.offer(&mut self.publication);
        self.reader.poll(&mut self.subscription, LENGTH);
        self.reader.received
    }

    fn until(&mut self, world: &mut World, messages: u64) {
        world.until("the messages", |_| (self.work() >= messages).then_some(()));
    }
}

/// Passes 100 messages through a stream, then refuses the sends of one side for some seconds.
fn refused(side: Side, refusal: Refusal, seconds: i64) -> World {
    let transport = WatchedTransport::new(&TransportOptions::default());
    let mut world = World::with_transport(transport.clone(), |context| {
        // Neither side times out meanwhile.
        context.image_liveness_timeout_ns = 60_000_000_000;
        context.publication_connection_timeout_ns = 60_000_000_000;
    });
    let mut stream = Stream::new(&mut world, 1_000);
    stream.until(&mut world, 100);
    transport.refuse(side, refusal);
    for _ in 0..20 * seconds {
        stream.work();
        world.pass_ms(50);
    }
    assert!(stream.reader.received < 1_000, "nothing is held back");
    transport.refuse_nothing();
    stream.until(&mut world, 1_000);
    assert!(count(&world, C::ShortSends) > 0);
    world
}

#[test]
fn errors_of_sends_are_one_entry_that_counts_all_and_the_stream_resumes() {
    for side in [Side::Sender, Side::Receiver] {
        let seconds = 4;
        let world = refused(side, Refusal::Number(EPERM), seconds);
        let errors = errors(&world);
        let [(observations, text)] = &errors[..] else { panic!("{side:?}: {errors:?}") };
        assert!(text.starts_with("WARN: datagram send failed on "), "{text}");
        assert!(text.contains("Operation not permitted"), "{text}");
        // They are reported once a second, with the number of failed sends since the last report.
        assert!(*observations > seconds as i32, "{side:?}: {observations}");
        assert_eq!(count(&world, C::Errors), i64::from(*observations));
    }
}

#[test]
fn sends_without_room_are_counted_and_are_no_errors() {
    for side in [Side::Sender, Side::Receiver] {
        let world = refused(side, Refusal::Full, 2);
        assert_eq!((errors(&world), count(&world, C::Errors)), (Vec::new(), 0), "{side:?}");
    }
}

#[test]
fn a_receiver_that_does_not_listen_yet_is_no_error() {
    let mut world = World::with_transport(UdpTransport, |_| ());
    let channel = format!("aeron:udp?endpoint={}", free_address());
    // The system reports to the connected socket that nobody listens.
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.pass(3);
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, LENGTH);
    drop(subscription);
    world.pass(3);
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, LENGTH);
    assert_eq!((errors(&world), count(&world, C::Errors)), (Vec::new(), 0));
}
