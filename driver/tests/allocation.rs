//! Limits of the memory that unknown senders can make a driver allocate: pages of logs are allocated as their streams
//! need them, and images with too long terms are refused.

use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harrier_driver::context::DriverContext;
use harrier_driver::system_counters::SystemCounter as C;
use harrier_protocol::udp::{SETUP_LENGTH, Setup};
use harrier_ringbuf::append::OfferError;

use crate::world::{World, free_address};

const STREAM: i32 = 10;
const FIRST_LENGTH: u64 = 256 << 10;
const MIB: i32 = 1 << 20;

/// Configures a driver as a node does: logs are not sparse, and logs of images are allocated on demand.
fn careful(context: &mut DriverContext) {
    context.term_buffer_sparse_file = false;
    context.log_allocation_length = FIRST_LENGTH as i32;
}

/// Returns the allocated bytes of each image's log.
fn allocated(world: &World) -> Vec<u64> {
    let images = world.directory.path().join("aeron/images");
    let blocks = |path: &Path| std::fs::metadata(path).unwrap().blocks() * 512;
    std::fs::read_dir(images).unwrap().map(|entry| blocks(&entry.unwrap().path())).collect()
}

fn count(world: &World, counter: C) -> i64 {
    world.client.counters().value(counter as i32)
}

/// Sends SETUPs of sessions that send nothing else.
fn forge(world: &mut World, to: std::net::SocketAddr, sessions: std::ops::Range<i32>, term_length: i32) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for session_id in sessions {
        let setup = Setup {
            flags: 0,
            term_offset: 0,
            session_id,
            stream_id: STREAM,
            initial_term_id: 7,
            active_term_id: 7,
            term_length,
            mtu: 1_408,
            ttl: 0,
        };
        let mut bytes = [0; SETUP_LENGTH];
        setup.encode(&mut bytes).unwrap();
        socket.send_to(&bytes, to).unwrap();
        world.step();
    }
}

#[test]
fn senders_of_mere_setups_cost_their_first_pages() {
    let mut world = World::new(careful);
    let address = free_address();
    let _subscription = world.subscription(&format!("aeron:udp?endpoint={address}"), STREAM).unwrap();
    let sessions = 40;
    forge(&mut world, address, 0..sessions / 2, 64 * MIB);
    forge(&mut world, address, sessions / 2..sessions, 1 << 30);
    world.until("all images", |client| {
        let mut images = 0;
        client.counters().for_each(&mut |_, _, _, label| images += usize::from(label.starts_with("rcv-hwm")));
        (images == sessions as usize).then_some(())
    });
    let bytes = allocated(&world);
    assert_eq!(bytes.len(), sessions as usize);
    assert!(bytes.iter().all(|bytes| (64 << 10..=FIRST_LENGTH).contains(bytes)), "{bytes:?}");
    assert!(bytes.iter().sum::<u64>() < 64 << 20);
}

#[test]
fn a_stream_with_traffic_gets_all_of_its_log_and_loses_nothing() {
    let mut inline = World::new(careful);
    let mut queued = World::with_executor(careful);
    for world in [&mut inline, &mut queued] {
        let channel = format!("aeron:udp?endpoint={}", free_address());
        let mut subscription = world.subscription(&channel, STREAM).unwrap();
        // The stream starts inside a term, so that the first allocation extends into the next one.
        let position = "init-term-id=3|term-id=4|term-offset=983040";
        let mut publication =
            world.exclusive(&format!("{channel}|term-length=1m|{position}"), STREAM).unwrap();
        world.exchange(&mut publication, &mut subscription, 10, 100);
        assert!(allocated(world)[0] <= FIRST_LENGTH, "{:?}", allocated(world));
        world.exchange(&mut publication, &mut subscription, 6_000, 1_000);
        assert_eq!(allocated(world), [3 * MIB as u64 + 4_096]);
        assert_eq!((count(world, C::FlowControlOverRuns), count(world, C::NaksSent)), (0, 0));
    }
}

#[test]
fn a_stream_waits_for_the_hint_where_its_channel_says_so() {
    let mut world = World::with_executor(careful);
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let mut subscription = world.subscription(&format!("{channel}|log-allocation=hint"), STREAM).unwrap();
    let mut publication = world.exclusive(&format!("{channel}|term-length=1m"), STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    let id = subscription.images()[0].correlation_id();
    let (mut sent, mut received) = (10, 10);
    let mut work = |world: &mut World| {
        match publication.offer(&[sent as u8; 1_000]) {
            Ok(_) => sent += 1,
            Err(OfferError::BackPressured | OfferError::AdminAction) => {}
            Err(error) => panic!("{error}"),
        }
        subscription.poll(16, &mut |payload, _| {
            assert_eq!(payload, [received as u8; 1_000]);
            received += 1;
        });
        world.pass_ms(1);
        received
    };
    let mut stuck_at = 0;
    for _ in 0..20 {
        for _ in 0..500 {
            stuck_at = work(&mut world);
        }
    }
    assert!(stuck_at * 1_056 < FIRST_LENGTH as i32, "{stuck_at}");
    assert!(allocated(&world)[0] <= FIRST_LENGTH, "{:?}", allocated(&world));
    world.handle.allocate_log(id + 1_000);
    world.handle.allocate_log(id);
    while work(&mut world) < 5_000 {}
    assert_eq!(allocated(&world), [3 * MIB as u64 + 4_096]);
    assert_eq!(count(&world, C::FlowControlOverRuns), 0);
}

/// An exclusive publication's log starts with few pages, because its writer may not be authenticated yet.
#[test]
fn an_exclusive_publication_waits_for_the_hint_where_its_channel_says_so() {
    let mut world = World::with_executor(careful);
    let channel = format!("aeron:udp?endpoint={}|term-length=1m", free_address());
    let mut subscription = world.subscription(&format!("{channel}|sparse=true"), STREAM).unwrap();
    let mut publication = world.exclusive(&format!("{channel}|log-allocation=hint"), STREAM).unwrap();
    let id = publication.registration_id();
    let log = world.directory.path().join(format!("aeron/publications/{id}.logbuffer"));
    let blocks = || std::fs::metadata(&log).unwrap().blocks() * 512;
    let longest = vec![7; publication.max_message_length()];
    let mut sent = 0;
    let mut offer = |world: &mut World, subscription: &mut harrier_client::Subscription| {
        match publication.offer(&longest) {
            Ok(_) => sent += 1,
            Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => {}
            Err(error) => panic!("{error}"),
        }
        subscription.poll(64, &mut |_, _| ());
        world.pass_ms(1);
        sent
    };
    for _ in 0..2_000 {
        offer(&mut world, &mut subscription);
    }
    let before = offer(&mut world, &mut subscription);
    assert!((1..3).contains(&before), "{before}");
    assert!(blocks() <= FIRST_LENGTH, "{}", blocks());
    world.handle.allocate_log(id);
    while offer(&mut world, &mut subscription) < 40 {}
    assert_eq!(blocks(), 3 * MIB as u64 + 4_096);
}

/// A stream stands still while its log cannot be allocated, and goes on afterwards.
#[test]
fn an_allocation_that_fails_is_tried_again() {
    let mut world = World::new(careful);
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&format!("{channel}|term-length=1m"), STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 1, 100);
    let id = subscription.images()[0].correlation_id();
    let images = world.directory.path().join("aeron/images");
    let (file, away) = (images.join(format!("{id}.logbuffer")), images.join("away"));
    // The executor cannot allocate a file that it cannot open.
    std::fs::rename(&file, &away).unwrap();
    let mut sent = 1_u64;
    let mut received = 1_u64;
    for _ in 0..2_000 {
        sent += u64::from(publication.offer(&[1; 1_000]).is_ok());
        received += subscription.poll(16, &mut |_, _| ()) as u64;
        world.pass_ms(2);
    }
    assert!(received * 1_056 < FIRST_LENGTH, "{received}");
    let errors = count(&world, C::Errors);
    assert!((2..8).contains(&errors), "about once a second: {errors}");
    std::fs::rename(&away, &file).unwrap();
    world.until("the rest of what was sent", |_| {
        received += subscription.poll(16, &mut |_, _| ()) as u64;
        (received == sent).then_some(())
    });
    world.pass(2);
    world.exchange(&mut publication, &mut subscription, 3_000, 1_000);
    assert_eq!(allocated(&world), [3 * MIB as u64 + 4_096]);
}

#[test]
fn channels_say_how_the_logs_of_their_images_are_allocated() {
    let whole = 3 * MIB as u64 + 4_096;
    for (parameters, default_length, range) in [
        ("log-allocation=whole", FIRST_LENGTH as i32, whole..=whole),
        ("log-allocation=traffic", 0, 64 << 10..=FIRST_LENGTH),
        ("alias=none", 0, whole..=whole),
        ("sparse=true|log-allocation=traffic", 0, 0..=64 << 10),
    ] {
        let mut world = World::new(|context| {
            careful(context);
            context.log_allocation_length = default_length;
        });
        let channel = format!("aeron:udp?endpoint={}", free_address());
        let mut subscription = world.subscription(&format!("{channel}|{parameters}"), STREAM).unwrap();
        let mut publication = world.exclusive(&format!("{channel}|term-length=1m"), STREAM).unwrap();
        world.exchange(&mut publication, &mut subscription, 1, 100);
        let bytes = allocated(&world)[0];
        assert!(range.contains(&bytes), "{parameters}: {bytes}");
    }
    let mut world = World::new(careful);
    let refused = world.subscription("aeron:udp?endpoint=127.0.0.1:9|log-allocation=some", STREAM);
    let text = refused.unwrap_err().to_string();
    assert!(text.contains("log-allocation=some must be whole, traffic or hint"), "{text}");
}

#[test]
fn images_with_too_long_terms_are_refused_and_counted() {
    let mut world = World::new(|context| context.image_max_term_length = 2 * MIB);
    let address = free_address();
    let channel = format!("aeron:udp?endpoint={address}");
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    forge(&mut world, address, 100..120, 4 * MIB);
    world.until("the count", |client| (client.counters().value(C::Errors as i32) >= 20).then_some(()));
    assert_eq!(allocated(&world).len(), 0);
    // The refusal is not final: a second later the same session may have shorter terms.
    world.pass(2);
    let honest = format!("{channel}|term-length=2m|session-id=100");
    let mut publication = world.exclusive(&honest, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    drop(publication);

    // The channel may set its own limit, or none.
    for (parameter, is_taken) in [("image-max-term-length=1m", false), ("image-max-term-length=0", true)] {
        let address = free_address();
        let channel = format!("aeron:udp?endpoint={address}");
        let _subscription = world.subscription(&format!("{channel}|{parameter}"), STREAM).unwrap();
        let (before, errors) = (allocated(&world).len(), count(&world, C::Errors));
        forge(&mut world, address, 200..201, 4 * MIB);
        world.pass_ms(10);
        world.pass_ms(10);
        let outcome = (allocated(&world).len() > before, count(&world, C::Errors) > errors);
        assert_eq!(outcome, (is_taken, !is_taken), "{parameter}");
    }
}
