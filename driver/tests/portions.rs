//! Settings that bound the work of one duty cycle, observed at the transport (spec 02 §2.1, §2.4, §6.2).

use crate::world::seam::{Call, Side, WatchedTransport};
use crate::world::{World, free_address};
use harrier_driver::configuration::Properties;
use harrier_driver::context::DriverContext;
use harrier_driver::system_counters::SystemCounter as C;
use harrier_ringbuf::append::OfferError;

const STREAM: i32 = 10;
/// Time that is longer than the tests take on the slowest host, ns.
const LONG_NS: i64 = 600_000_000_000;

/// Number of messages of 100 bytes that fit into half a term of 64 KiB after the first five.
const MESSAGES: usize = 192;

/// Returns a world whose driver has these variables, and the transport that records its calls.
fn world_of(variables: &[(&str, &str)]) -> (World, WatchedTransport) {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let properties = Properties::from_environment(variables);
    let mut context = DriverContext::new("unused");
    assert_eq!(properties.apply(&mut context).unwrap(), Vec::<String>::new());
    let transport = WatchedTransport::new(&context.transport);
    let world = World::with_transport(transport.clone(), |settings| {
        settings.send_to_status_poll_ratio = context.send_to_status_poll_ratio;
        settings.transport = context.transport;
        // Timers would add calls.
        settings.status_message_timeout_ns = LONG_NS;
        settings.image_liveness_timeout_ns = LONG_NS;
        settings.publication_connection_timeout_ns = LONG_NS;
    });
    (world, transport)
}

#[test]
fn control_sockets_are_looked_at_once_in_so_many_sends() {
    for ratio in [1, 6, 40] {
        let (mut world, transport) = world_of(&[("AERON_SEND_TO_STATUS_POLL_RATIO", &ratio.to_string())]);
        let channel = format!("aeron:udp?endpoint={}", free_address());
        let mut subscription = world.subscription(&channel, STREAM).unwrap();
        let mut publication = world.exclusive(&channel, STREAM).unwrap();
        world.exchange(&mut publication, &mut subscription, 5, 100);
        transport.take_calls(Side::Sender);
        // All messages fit into the granted window, so none waits for a status message.
        for _ in 0..MESSAGES {
            publication.offer(&[7; 100]).unwrap();
            world.step();
            subscription.poll(16, &mut |_, _| ());
        }
        let mut sends = 0;
        let mut between = Vec::new();
        for call in transport.take_calls(Side::Sender) {
            match call {
                Call::Send(count) => sends += count,
                Call::Receive(_) => between.push(std::mem::take(&mut sends)),
            }
        }
        // The sends before the first poll are left out, because they began before the offers.
        let between = &between[1..];
        assert!(between.len() >= MESSAGES / ratio - 1, "{between:?}");
        assert!(between.iter().all(|sends| *sends == ratio), "{ratio}: {between:?}");
    }
}

/// Fills the window of a stream, then runs duty cycles; returns the largest number that `count` finds in the calls of
/// one side.
fn most(variables: &[(&str, &str)], side: Side, count: fn(&Call) -> usize) -> usize {
    let (mut world, transport) = world_of(variables);
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 5, 100);
    transport.take_calls(side);
    let mut received = 0;
    let mut sent = 0;
    for _ in 0..10 {
        // The system does not coalesce datagrams of different lengths.
        for length in (900..).step_by(32) {
            match publication.offer(&[7; 1_408][..length.min(1_300)]) {
                Ok(_) => sent += 1,
                Err(OfferError::AdminAction) => {}
                Err(OfferError::BackPressured) => break,
                Err(error) => panic!("{error}"),
            }
        }
        world.until("all messages", |_| {
            received += subscription.poll(64, &mut |_, _| ());
            (received == sent).then_some(())
        });
    }
    assert!(sent > 200, "{sent}");
    assert_eq!(world.client.counters().value(C::Errors as i32), 0);
    transport.take_calls(side).iter().map(count).max().unwrap()
}

#[test]
fn a_publication_sends_so_many_datagrams_in_a_duty_cycle() {
    let sent = |call: &Call| if let Call::Send(count) = call { *count } else { 0 };
    let name = "AERON_NETWORK_PUBLICATION_MAX_MESSAGES_PER_SEND";
    for limit in [1, 3, 16] {
        assert_eq!(most(&[(name, &limit.to_string())], Side::Sender, sent), limit);
    }
    assert!(most(&[], Side::Sender, sent) >= 16, "as many as the back end takes at once");
}

#[test]
fn a_socket_hands_over_so_many_datagrams_in_a_duty_cycle() {
    let received = |call: &Call| if let Call::Receive(count) = call { *count } else { 0 };
    let off = ("HARRIER_DRIVER_UDP_SEGMENTATION", "off");
    for limit in [1, 3, 16] {
        let variables = [off, ("AERON_RECEIVER_IO_VECTOR_CAPACITY", &*limit.to_string())];
        assert_eq!(most(&variables, Side::Receiver, received), limit);
    }
}
