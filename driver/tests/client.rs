//! Requests of clients besides streams (spec 01 §5.2–5.4).

use std::collections::BTreeSet;

use crate::world::{World, free_address};
use harrier_client::{ClientError, ClientEvent};
use harrier_ringbuf::image_reader::Action;

const STREAM: i32 = 10;
/// Types of counters.
const SUBSCRIBER_POSITION: i32 = 4;
const USER: i32 = 1_001;

/// Returns the number of counters of a type that are in use.
fn count(world: &World, type_id: i32) -> usize {
    let mut count = 0;
    world.client.counters().for_each(&mut |_, found, _, _| count += usize::from(found == type_id));
    count
}

#[test]
fn session_ids_of_the_driver_are_free_on_their_stream() {
    let mut world = World::new(|_| ());
    let publication = world.exclusive("aeron:ipc", STREAM).unwrap();
    let mut ids = BTreeSet::from([publication.session_id()]);
    for _ in 0..10 {
        let asked = world.client.next_session_id(STREAM).unwrap();
        assert!(world.client.is_command_active(asked) && world.client.has_active_commands());
        let id = world.until("the id", |client| client.session_id(asked).unwrap());
        assert!(!world.client.is_command_active(asked) && !world.client.has_active_commands());
        assert!(ids.insert(id) && !(-1..=1_000).contains(&id));
        let channel = format!("aeron:ipc?session-id={id}");
        assert_eq!(world.exclusive(&channel, STREAM).unwrap().session_id(), id);
        // The client returns an id only once.
        assert!(matches!(world.client.session_id(asked), Err(ClientError::UnknownRegistration(_))));
    }
}

#[test]
fn what_is_abandoned_is_removed_whether_it_came_or_not() {
    let mut world = World::new(|_| ());
    let mut peer = world.exclusive("aeron:ipc", STREAM).unwrap();
    // One resource is abandoned before the answer, one after it, and one is refused.
    let early = world.client.add_subscription("aeron:ipc", STREAM).unwrap();
    world.client.abandon(early).unwrap();
    let late = world.client.add_counter(USER, b"", "mine").unwrap();
    let refused = world.client.add_publication("aeron:udp?endpoint=127.0.0.1:0", STREAM).unwrap();
    world.client.abandon(refused).unwrap();
    world.until("all answers", |client| (!client.has_active_commands()).then_some(()));
    assert_eq!(count(&world, USER), 1);
    world.client.abandon(late).unwrap();
    world.until("the end of all", |client| {
        let mut left = 0;
        client.counters().for_each(&mut |_, found, _, _| {
            left += usize::from([USER, SUBSCRIBER_POSITION].contains(&found))
        });
        (left == 0).then_some(())
    });
    assert!(!peer.is_connected() && peer.offer(b"x").is_err());
    for id in [early, late, refused, 987] {
        assert!(matches!(world.client.abandon(id), Err(ClientError::UnknownRegistration(_))));
    }
    assert!(matches!(world.client.subscription(early), Err(ClientError::UnknownRegistration(_))));
}

#[test]
fn destinations_go_by_id_and_their_receivers_errors_name_them() {
    let mut world = World::new(|context| context.publication_connection_timeout_ns = 300_000_000);
    let address = free_address();
    let mut publication = world.exclusive("aeron:udp?control-mode=manual", STREAM).unwrap();
    let mut subscription = world.subscription(&format!("aeron:udp?endpoint={address}"), STREAM).unwrap();
    let id = publication.registration_id();
    let destination = world.client.add_destination(id, &format!("aeron:udp?endpoint={address}")).unwrap();
    world.done(Ok(destination)).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    let image = subscription.images()[0].correlation_id();
    let rejected = world.client.reject_image(image, 0, "no thanks");
    world.done(rejected).unwrap();
    let frame = world.until("the error", |client| match client.poll_event()? {
        ClientEvent::PublicationError(frame) => Some(frame),
        _ => None,
    });
    assert_eq!((frame.registration_id, frame.destination_registration_id), (id, destination));
    assert_eq!((frame.source, frame.message.as_str()), (address, "no thanks"));
    let removed = world.client.remove_destination_by_id(id, destination);
    world.done(removed).unwrap();
    world.until("the end of the connection", |_| (!publication.is_connected()).then_some(()));
    let again = world.client.remove_destination_by_id(id, destination);
    world.done(again).unwrap();
    let unknown = world.client.remove_destination_by_id(987, destination);
    assert!(matches!(world.done(unknown), Err(ClientError::Registration { code: 3, .. })));
}

#[test]
fn publications_and_images_tell_and_do_what_tables_say() {
    let mut world = World::new(|_| ());
    let address = free_address();
    let channel = format!("aeron:udp?endpoint={address}|term-length=64k");
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut exclusive = world.exclusive(&channel, STREAM).unwrap();
    let mut shared = world.publication(&channel, STREAM).unwrap();
    world.until("both connections", |_| (exclusive.is_connected() && shared.is_connected()).then_some(()));
    assert_eq!((exclusive.max_possible_position(), exclusive.position_bits_to_shift()), (65_536 << 31, 16));
    assert_eq!((exclusive.available_window(), shared.available_window()), (32_768, 32_768));
    let bound = exclusive.local_socket_addresses(world.client.counters());
    assert!(bound.len() == 1 && bound[0].starts_with("127.0.0.1:"), "{bound:?}");
    assert_eq!(bound, shared.local_socket_addresses(world.client.counters()));
    // Each frame of a message carries the publisher's reserved value.
    world.until("room", |_| exclusive.offer_with(&[&[1; 1_000], &[2; 1_000]], 77).ok());
    world.until("room", |_| shared.offer_with(&[b"x"], -5).ok());
    assert_eq!(exclusive.available_window(), exclusive.position_limit() - exclusive.position());
    let mut values = Vec::new();
    world.until("three frames", |_| {
        subscription.poll(10, &mut |payload, header| values.push((payload.len(), header.reserved_value())));
        (values.len() == 3).then_some(())
    });
    values.sort_unstable();
    assert_eq!(values, [(1, -5), (624, 77), (1_376, 77)]);
    // A peek consumes nothing.
    for number in 0..4_u8 {
        world.until("room", |_| exclusive.offer(&[number; 10]).ok());
    }
    let session_id = exclusive.session_id();
    let end = exclusive.position();
    let image = subscription.image_by_session_id(session_id).unwrap();
    let start = image.position();
    let mut seen = Vec::new();
    world.until("four frames", |_| {
        seen.clear();
        let peeked = image.controlled_peek(start, end, &mut |payload, _| {
            seen.push(payload[0]);
            Action::Continue
        });
        (peeked == end).then_some(())
    });
    assert_eq!((seen, image.position()), (vec![0, 1, 2, 3], start));
    let after_two = image.controlled_peek(start, start + 128, &mut |_, _| Action::Continue);
    assert_eq!(after_two, start + 128);
    assert!(image.set_position(after_two));
    assert_eq!(image.poll(10, &mut |payload, _| assert!(payload[0] > 1)), 2);
    // A spy cannot reject an image.
    let mut spy = world.subscription(&format!("aeron-spy:{channel}"), STREAM).unwrap();
    let image = world.until("a spied image", |_| spy.images().first().map(|image| image.correlation_id()));
    let refused = world.client.reject_image(image, 0, "no thanks");
    assert!(matches!(refused, Err(ClientError::InvalidArgument { .. })), "{refused:?}");
    world.client.close();
    assert_eq!((exclusive.available_window(), exclusive.offer_with(&[b"x"], 1).is_err()), (0, true));
    assert!(matches!(world.client.next_session_id(STREAM), Err(ClientError::Closed)));
}
