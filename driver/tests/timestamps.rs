//! Time stamps that are written into messages on their way (spec 02 §2.10, §3.17).

use std::time::{SystemTime, UNIX_EPOCH};

use crate::world::{World, free_address};
use harrier_client::{ClientError, Subscription};
use harrier_ringbuf::append::OfferError;

const STREAM: i32 = 10;

fn epoch_ns() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the stamps are of the system's clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

/// Reads `count` fragments; returns flags, reserved value and payload of each.
fn fragments(world: &mut World, subscription: &mut Subscription, count: usize) -> Vec<(u8, i64, Vec<u8>)> {
    let mut found = Vec::new();
    world.until("the fragments", |_| {
        subscription.poll(16, &mut |payload, header| {
            found.push((header.flags(), header.reserved_value(), payload.to_vec()));
        });
        (found.len() >= count).then_some(())
    });
    found
}

fn at(payload: &[u8], offset: usize) -> i64 {
    i64::from_le_bytes(payload[offset..offset + 8].try_into().unwrap())
}

#[test]
fn a_message_carries_when_it_was_sent_and_received() {
    let mut world = World::new(|_| ());
    let endpoint = format!("aeron:udp?endpoint={}", free_address());
    let stamps = "channel-rcv-ts-offset=0|media-rcv-ts-offset=8";
    let mut subscription = world.subscription(&format!("{endpoint}|{stamps}"), STREAM).unwrap();
    let mut publication =
        world.exclusive(&format!("{endpoint}|channel-snd-ts-offset=reserved"), STREAM).unwrap();
    world.until("the connection", |_| publication.is_connected().then_some(()));
    let before_ns = epoch_ns();
    for length in [32, 16, 15, 4_000] {
        world.until("room", |_| match publication.offer(&vec![7; length]) {
            Ok(_) => Some(()),
            Err(OfferError::BackPressured | OfferError::AdminAction) => None,
            Err(error) => panic!("{error}"),
        });
        // Each message goes into its own datagram.
        world.step();
    }
    let found = fragments(&mut world, &mut subscription, 6);
    let after_ns = epoch_ns();
    for (flags, sent_ns, payload) in &found {
        if flags & 0x80 == 0 {
            assert_eq!((*sent_ns, &payload[..16]), (0, &[7; 16][..]));
            continue;
        }
        assert!(before_ns <= *sent_ns && *sent_ns <= after_ns);
        let received_ns = at(payload, 0);
        assert!(*sent_ns <= received_ns && received_ns <= after_ns);
        // A message without room for both stamps has one.
        if payload.len() < 16 {
            assert_eq!(payload[8..], [7; 7]);
        } else {
            let media_ns = at(payload, 8);
            assert!(*sent_ns <= media_ns && media_ns <= received_ns);
            assert!(payload[16..].iter().all(|byte| *byte == 7));
        }
    }
}

#[test]
fn destinations_stamp_as_their_subscription_says_and_groups_do() {
    let mut world = World::new(|_| ());
    let address = free_address();
    let stamps = "channel-rcv-ts-offset=8|media-rcv-ts-offset=reserved";
    let channel = format!("aeron:udp?control-mode=manual|{stamps}");
    let mut subscription = world.subscription(&channel, STREAM).unwrap();
    let id = subscription.registration_id();
    let group = format!("aeron:udp?endpoint=224.20.30.51:{}|interface=localhost", free_address().port());
    for channel in [&format!("aeron:udp?endpoint={address}"), &group] {
        let added = world.client.add_rcv_destination(id, channel);
        world.done(added).unwrap();
    }
    for channel in [format!("aeron:udp?endpoint={address}"), group] {
        let publication = world.exclusive(&format!("{channel}|channel-snd-ts-offset=0"), STREAM).unwrap();
        let mut publication = publication;
        world.until("the connection", |_| publication.is_connected().then_some(()));
        world.until("room", |_| publication.offer(&[7; 16]).ok());
        let found = fragments(&mut world, &mut subscription, 1);
        let (_, media_ns, payload) = &found[0];
        assert!(0 < at(payload, 0) && at(payload, 0) <= *media_ns && *media_ns <= at(payload, 8));
    }
}

#[test]
fn stamps_in_other_places_than_those_of_the_same_socket_are_refused() {
    let mut world = World::new(|_| ());
    let endpoint = format!("aeron:udp?endpoint={}", free_address());
    let refusal = |result: Result<(), ClientError>| match result {
        Err(ClientError::Registration { code, message, .. }) => (code, message),
        other => panic!("{other:?}"),
    };
    let _own = world.subscription(&format!("{endpoint}|channel-rcv-ts-offset=8"), STREAM).unwrap();
    let _same = world.subscription(&format!("{endpoint}|channel-rcv-ts-offset=8"), STREAM + 1).unwrap();
    for (other, value) in [("|channel-rcv-ts-offset=reserved", -8), ("|channel-rcv-ts-offset=0", 0), ("", -1)]
    {
        let (code, message) = refusal(world.subscription(&format!("{endpoint}{other}"), STREAM).map(|_| ()));
        let text =
            format!("option conflicts with existing subscription: channel-rcv-ts-offset={value} exist");
        assert!(code == 1 && message.contains(&text), "{message}");
    }
    let both = format!("{endpoint}|channel-rcv-ts-offset=8|media-rcv-ts-offset=");
    let (code, message) = refusal(world.subscription(&format!("{both}16"), STREAM).map(|_| ()));
    assert!(code == 1 && message.contains("media-rcv-ts-offset=16"), "{message}");
    let (code, message) = refusal(world.subscription(&format!("{both}15"), STREAM).map(|_| ()));
    assert!(code == 1 && message.contains("overlap"), "{message}");
    assert_eq!(refusal(world.subscription(&format!("{both}abc"), STREAM).map(|_| ())).0, 1);

    let _own = world.exclusive(&format!("{endpoint}|channel-snd-ts-offset=8"), STREAM).unwrap();
    let (code, message) = refusal(world.exclusive(&endpoint, STREAM).map(|_| ()));
    let text = "option conflicts with existing subscription: channel-snd-ts-offset=-1";
    assert!(code == 1 && message.contains(text), "{message}");
}
