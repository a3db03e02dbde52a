//! All ways in which clients read, claim and close, and the time-outs of client and driver (spec 01 §2.11, §2.17, §5).

use std::os::unix::fs::FileExt;

use crate::world::{World, free_address};
use harrier_client::{Aeron, ClientError, ClientEvent, Context, ExclusivePublication, Subscription};
use harrier_platform::{MappedMemory, PausingClock};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::{Clock, Region};

const STREAM: i32 = 10;
/// Length of the frame of one of the messages below, bytes.
const FRAME: i64 = 64;

/// Returns an IPC stream with ten messages, each of which holds its number.
fn ten_messages(world: &mut World) -> (ExclusivePublication, Subscription) {
    let mut subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let mut publication = world.exclusive("aeron:ipc", STREAM).unwrap();
    world.until("the image", |_| (subscription.images().len() == 1).then_some(()));
    for number in 0..10 {
        world.until("room", |_| publication.offer(&[number; 20]).ok());
    }
    (publication, subscription)
}

#[test]
fn polls_stop_at_their_limits_and_do_what_handlers_say() {
    let mut world = World::new(|_| ());
    let (_publication, mut subscription) = ten_messages(&mut world);
    let image = &mut subscription.images()[0];
    let mut seen = Vec::new();
    assert_eq!(image.poll(2, &mut |payload, _| seen.push(payload[0])), 2);
    // A frame that starts below the limit is delivered.
    assert_eq!(image.bounded_poll(3 * FRAME + 1, 10, &mut |payload, _| seen.push(payload[0])), 2);
    assert_eq!(image.bounded_poll(4 * FRAME, 10, &mut |_, _| panic!("beyond the limit")), 0);
    assert_eq!((&*seen, image.position()), (&[0, 1, 2, 3][..], 4 * FRAME));
    // The actions in order: not consumed; consumed and stopped; position published at once; position published at the
    // end.
    assert_eq!(image.controlled_poll(10, &mut |_, _| Action::Abort), 0);
    assert_eq!(image.position(), 4 * FRAME);
    assert_eq!(image.controlled_poll(10, &mut |_, _| Action::Break), 1);
    assert_eq!(image.position(), 5 * FRAME);
    let mut actions = [Action::Commit, Action::Continue, Action::Abort].into_iter();
    assert_eq!(image.controlled_poll(10, &mut |_, _| actions.next().unwrap()), 2);
    assert_eq!(image.position(), 7 * FRAME);
    let handler = &mut |_: &[u8], _: &harrier_ringbuf::image_reader::Header<'_>| Action::Continue;
    assert_eq!(image.bounded_controlled_poll(8 * FRAME, 10, handler), 1);
    assert_eq!(subscription.controlled_poll(1, handler), 1);
    assert_eq!(subscription.poll(10, &mut |payload, _| assert_eq!(payload, [9; 20])), 1);
    assert_eq!(subscription.poll(10, &mut |_, _| ()), 0);
}

#[test]
fn blocks_are_the_bytes_of_the_log_in_memory_and_in_its_file() {
    let mut world = World::new(|_| ());
    let (mut publication, mut subscription) = ten_messages(&mut world);
    // A block holds only whole frames, and the position is that of its end.
    assert_eq!(
        subscription.block_poll(3 * FRAME as usize + 10, &mut |block| assert_eq!(block.offset, 0)),
        192
    );
    let mut blocks = 0;
    let mut position = 3 * FRAME;
    for round in 0..3_000_u32 {
        world.until("room", |_| publication.offer(&round.to_le_bytes()).ok());
        if round % 20 > 0 {
            continue;
        }
        let (session_id, initial) = (publication.session_id(), publication.initial_term_id());
        let taken = subscription.raw_poll(1 << 20, &mut |raw| {
            let block = raw.block;
            let term = position / 65_536;
            assert_eq!((block.offset as i64, block.session_id), (position % 65_536, session_id));
            assert_eq!(block.term_id, initial.wrapping_add(term as i32));
            assert_eq!(raw.file_offset as i64, term % 3 * 65_536 + position % 65_536);
            let (mut in_memory, mut in_file) = (vec![0; block.length], vec![0; block.length]);
            block.term.copy_out(block.offset, &mut in_memory);
            std::fs::File::open(raw.file).unwrap().read_exact_at(&mut in_file, raw.file_offset).unwrap();
            assert!(in_memory == in_file && in_memory[..4] != [0; 4]);
            blocks += 1;
        });
        position += taken as i64;
        assert_eq!(subscription.images()[0].position(), position);
    }
    assert!(blocks >= 150 && position > 2 * 65_536, "{blocks} to {position}");
    drop(publication);
    world.until("the end of the image", |_| {
        subscription.raw_poll(1 << 20, &mut |_| ());
        subscription.images().is_empty().then_some(())
    });
    assert_eq!(subscription.raw_poll(1 << 20, &mut |_| ()), 0);
}

#[test]
fn subscriptions_take_turns_among_their_images() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let mut publications: Vec<_> = (0..3).map(|_| world.exclusive("aeron:ipc", STREAM).unwrap()).collect();
    world.until("the images", |_| (subscription.images().len() == 3).then_some(()));
    for publication in &mut publications {
        for _ in 0..4 {
            publication.offer(b"x").unwrap();
        }
    }
    // With one message per poll the start moves on by one, and is twice at the first image (spec 01 §5.4).
    let sessions: Vec<_> = subscription.images().iter().map(harrier_client::Image::session_id).collect();
    let mut order = Vec::new();
    for _ in 0..5 {
        let polled = subscription.poll(1, &mut |_, header| {
            order.push(sessions.iter().position(|session| *session == header.session_id()).unwrap());
        });
        assert_eq!(polled, 1);
    }
    assert_eq!(order, [0, 1, 2, 0, 0]);
    assert!(subscription.is_connected());
    assert!(subscription.image_by_session_id(sessions[1]).is_some());
}

#[test]
fn claims_are_committed_aborted_and_refused() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:ipc", STREAM).unwrap();
    let mut exclusive = world.exclusive("aeron:ipc", STREAM).unwrap();
    assert!(matches!(exclusive.try_claim(10), Err(OfferError::NotConnected)) || exclusive.is_connected());
    let mut shared = world.publication("aeron:ipc", STREAM).unwrap();
    world.until("both connections", |_| (exclusive.is_connected() && shared.is_connected()).then_some(()));
    for is_exclusive in [true, false] {
        let mut claim = |length| match is_exclusive {
            true => exclusive.try_claim(length),
            false => shared.try_claim(length),
        };
        let mut first = claim(5).unwrap();
        first.put(0, b"hello");
        first.set_reserved_value(42);
        first.commit();
        claim(5).unwrap().abort();
        let mut last = claim(3).unwrap();
        last.put(0, b"end");
        last.commit();
        assert!(claim(1_376).is_ok_and(|claim| {
            claim.abort();
            true
        }));
        let mut seen = Vec::new();
        let polled = subscription.poll(10, &mut |payload, header| {
            seen.push((payload.to_vec(), header.reserved_value()));
        });
        assert_eq!(polled, 2);
        assert_eq!(seen, [(b"hello".to_vec(), 42), (b"end".to_vec(), 0)]);
    }
}

#[test]
fn what_is_closed_stays_closed_and_tells_its_last_position() {
    let mut world = World::new(|_| ());
    let (mut publication, mut subscription) = ten_messages(&mut world);
    subscription.poll(4, &mut |_, _| ());
    let id = subscription.images()[0].correlation_id();
    let mut image = subscription.take_image(id).unwrap();
    drop(subscription);
    world.until("the close of the image", |_| image.is_closed().then_some(()));
    assert_eq!((image.position(), image.poll(10, &mut |_, _| ())), (4 * FRAME, 0));
    assert_eq!(image.block_poll(1 << 20, &mut |_| ()), 0);
    assert_eq!(image.raw_poll(1 << 20, &mut |_| ()), 0);
    assert!(!image.set_position(5 * FRAME) && image.peek_block(1 << 20).is_none());
    world.until("the end of the connection", |_| (!publication.is_connected()).then_some(()));
    assert_eq!(publication.offer(b"x"), Err(OfferError::NotConnected));
    let counter = world.client.add_counter(1_001, b"", "mine").unwrap();
    let counter = world.until("the counter", |client| client.counter(counter).unwrap());
    world.client.close();
    assert!(world.client.is_closed() && publication.is_closed() && counter.is_closed());
    assert_eq!(publication.offer(b"x"), Err(OfferError::Closed));
    assert!(matches!(publication.try_claim(1), Err(OfferError::Closed)));
    assert!(matches!(world.client.add_publication("aeron:ipc", 1), Err(ClientError::Closed)));
    assert!(matches!(world.client.add_counter(1_001, b"", ""), Err(ClientError::Closed)));
    assert!(matches!(world.client.do_work(&PausingClock.now()), Err(ClientError::Closed)));
    world.client.close();
}

#[test]
fn keys_labels_and_names_that_are_too_long_are_refused_before_they_are_sent() {
    let mut world = World::new(|_| ());
    let is_refused =
        |result: Result<i64, ClientError>| matches!(result, Err(ClientError::InvalidArgument { .. }));
    assert!(is_refused(world.client.add_counter(1_001, &[0; 113], "key")));
    assert!(is_refused(world.client.add_counter(1_001, b"", &"l".repeat(381))));
    assert!(is_refused(world.client.add_static_counter(1_001, &[0; 113], "key", 1)));
    assert!(!world.client.has_active_commands());
    let longest = world.client.add_counter(1_001, &[7; 112], &"l".repeat(380)).unwrap();
    let counter = world.until("the counter", |client| client.counter(longest).unwrap());
    let counters = world.client.counters();
    assert_eq!(counters.key(counter.counter_id()), [7; 112]);
    assert_eq!(counters.label(counter.counter_id()), "l".repeat(380));
    let context = Context::new(world.directory.path().join("aeron"));
    let refused = Aeron::connect(context.client_name("n".repeat(101)), MappedMemory, &PausingClock.now());
    assert!(matches!(refused, Err(ClientError::InvalidArgument { .. })));
}

#[test]
fn static_counters_are_one_for_all_and_outlive_their_clients() {
    let mut world = World::new(|_| ());
    let add = |world: &mut World, registration_id| {
        let id = world.client.add_static_counter(1_001, &[1], "fixed", registration_id).unwrap();
        world.until("the counter", |client| client.counter(id).unwrap())
    };
    let first = add(&mut world, 77);
    let id = first.counter_id();
    first.set_ordered(5);
    let other = add(&mut world, 78);
    assert_ne!(other.counter_id(), id);
    drop(first);
    world.pass(3);
    let again = add(&mut world, 77);
    assert_eq!((again.counter_id(), again.get()), (id, 5));
    // A client's own counter of that type and id prevents a static one.
    let owned = world.client.add_counter(1_002, b"", "owned").unwrap();
    let owned = world.until("the counter", |client| client.counter(owned).unwrap());
    let asked = world.client.add_static_counter(1_002, b"", "fixed", owned.registration_id()).unwrap();
    let refused = world.until("the refusal", |client| client.counter(asked).transpose());
    assert!(matches!(refused, Err(ClientError::Registration { .. })), "{refused:?}");
}

#[test]
fn a_driver_that_has_gone_is_an_error_that_closes_all() {
    let mut world = World::new(|_| ());
    let (mut publication, mut subscription) = ten_messages(&mut world);
    let mut context = Context::new(world.directory.path().join("aeron"));
    context.driver_timeout_ms = 300;
    context.inter_service_timeout_ns = 60_000_000_000;
    let mut now = PausingClock.now();
    let mut client = Aeron::connect(context, MappedMemory, &now).unwrap();
    let id = client.add_publication("aeron:ipc", STREAM).unwrap();
    // While the driver does not run nobody answers, until the client finds that the driver has been silent for too
    // long.
    let started_ms = now.epoch_ms;
    let error = loop {
        now.ns += 20_000_000;
        now.epoch_ms += 20;
        if let Err(error) = client.do_work(&now) {
            break error;
        }
        assert!(now.epoch_ms < started_ms + 2_000);
    };
    assert!(matches!(error, ClientError::DriverTimeout { timeout_ms: 300, .. }), "{error}");
    assert!(client.is_closed());
    assert!(client.publication(id).is_err());
    // Other clients of the driver keep their own time-outs.
    world.step();
    assert_eq!(subscription.poll(1, &mut |_, _| ()), 1);
    publication.offer(b"x").unwrap();
}

#[test]
fn a_client_that_rested_too_long_is_closed_by_itself_or_by_the_driver() {
    let mut world = World::new(|_| ());
    let directory = world.directory.path().join("aeron");
    let mut now = PausingClock.now();
    let mut client = Aeron::connect(Context::new(directory.clone()), MappedMemory, &now).unwrap();
    client.do_work(&now).unwrap();
    now.ns += 1_000_000_001;
    let error = client.do_work(&now).unwrap_err();
    assert!(matches!(error, ClientError::ServiceTimeout { timeout_ns: 1_000_000_000, .. }), "{error}");
    // The settings of this client allow it to rest for longer than the driver does.
    let mut context = Context::new(directory);
    context.inter_service_timeout_ns = 3_600_000_000_000;
    context.keepalive_interval_ns = 1_800_000_000_000;
    let mut resting = Aeron::connect(context, MappedMemory, &PausingClock.now()).unwrap();
    let id = resting.add_exclusive_publication("aeron:ipc", STREAM).unwrap();
    let mut publication = world.until("the publication", |_| {
        resting.do_work(&PausingClock.now()).unwrap();
        resting.exclusive_publication(id).unwrap()
    });
    world.pass(4);
    assert_eq!(world.client.counters().value(24), 1);
    let error = world.until("the time-out", |_| resting.do_work(&PausingClock.now()).err());
    assert!(matches!(error, ClientError::ClientTimeout { .. }), "{error}");
    assert!(resting.is_closed() && publication.is_closed());
    assert_eq!(publication.offer(b"x"), Err(OfferError::Closed));
}

#[test]
fn events_tell_of_images_and_counters_of_all_clients() {
    let mut world = World::new(|_| ());
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let publication = world.exclusive(&channel, STREAM).unwrap();
    let session = publication.session_id();
    let image = world.until("the image", |client| match client.poll_event()? {
        ClientEvent::AvailableImage { correlation_id, session_id, source_identity, .. } => {
            assert_eq!(session_id, session);
            assert!(source_identity.starts_with("127.0.0.1:"), "{source_identity}");
            Some(correlation_id)
        }
        _ => None,
    });
    assert_eq!(subscription.images()[0].correlation_id(), image, "the event comes once the image is there");
    drop(publication);
    world.until("the end of the image", |client| match client.poll_event()? {
        ClientEvent::UnavailableImage { correlation_id, .. } => (correlation_id == image).then_some(()),
        _ => None,
    });
    let counter = world.client.add_counter(1_001, b"", "mine").unwrap();
    let counter = world.until("the counter", |client| client.counter(counter).unwrap());
    let (counter_id, registration_id) = (counter.counter_id(), counter.registration_id());
    let available = ClientEvent::AvailableCounter { registration_id, counter_id };
    world.until("its event", |client| (client.poll_event()? == available).then_some(()));
    drop(counter);
    let unavailable = ClientEvent::UnavailableCounter { registration_id, counter_id };
    world.until("its end", |client| (client.poll_event()? == unavailable).then_some(()));
}
