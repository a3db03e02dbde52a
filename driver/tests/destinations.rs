//! Subscriptions with several destinations through the driver (spec 02 §3.12).

use std::net::SocketAddr;

use crate::world::{World, free_address};
use harrier_client::{ClientError, ExclusivePublication, Subscription};

const STREAM: i32 = 10;
const LOCAL_SOCKET_ADDRESS: i32 = 14;

impl World {
    fn manual(&mut self) -> Subscription {
        self.subscription("aeron:udp?control-mode=manual", STREAM).unwrap()
    }

    fn add(&mut self, subscription: &Subscription, channel: &str) {
        let id = self.client.add_rcv_destination(subscription.registration_id(), channel);
        self.done(id).unwrap();
    }

    fn remove(&mut self, subscription: &Subscription, channel: &str) {
        let id = self.client.remove_rcv_destination(subscription.registration_id(), channel);
        self.done(id).unwrap();
    }

    fn destination_refusal(&mut self, registration_id: i64, channel: &str) -> (i32, String) {
        let id = self.client.add_rcv_destination(registration_id, channel);
        match self.done(id) {
            Err(ClientError::Registration { code, message, .. }) => (code, message),
            other => panic!("{channel}: {other:?}"),
        }
    }

    /// Adds a publication that sends to all of the addresses.
    fn sends_to(&mut self, addresses: &[SocketAddr]) -> ExclusivePublication {
        let publication = self.exclusive("aeron:udp?control-mode=manual", STREAM).unwrap();
        for address in addresses {
            let channel = format!("aeron:udp?endpoint={address}");
            let id = self.client.add_destination(publication.registration_id(), &channel);
            self.done(id).unwrap();
        }
        publication
    }

    fn await_images(&mut self, subscription: &mut Subscription, count: usize) {
        self.until("the images", |_| {
            subscription.poll(1, &mut |_, _| ());
            (subscription.images().len() == count).then_some(())
        });
    }

    /// Returns the registration ids of the local address counters.
    fn bound(&self) -> Vec<i64> {
        let (mut ids, counters) = (Vec::new(), self.client.counters());
        counters.for_each(&mut |id, type_id, _, label| {
            if type_id == LOCAL_SOCKET_ADDRESS && label.starts_with("rcv-local-sockaddr") {
                ids.push(counters.registration_id(id));
            }
        });
        ids
    }
}

#[test]
fn two_sockets_feed_one_image_until_the_stream_has_ended_on_both() {
    let mut world = World::new(|context| context.image_liveness_timeout_ns = 60_000_000_000);
    let addresses = [free_address(), free_address()];
    let channels = addresses.map(|address| format!("aeron:udp?endpoint={address}"));
    let mut subscription = world.manual();
    assert!(world.bound().is_empty());
    world.add(&subscription, &channels[0]);
    world.add(&subscription, &channels[1]);
    assert_eq!(world.bound(), [subscription.registration_id(); 2]);
    let mut publication = world.sends_to(&addresses);
    world.exchange(&mut publication, &mut subscription, 200, 3_000);
    world.until("both ways", |_| (subscription.images()[0].active_transport_count() == 2).then_some(()));
    assert_eq!(subscription.images().len(), 1);
    // One of the two destinations is enough.
    world.remove(&subscription, &channels[0]);
    assert_eq!(world.bound().len(), 1);
    assert!(std::net::UdpSocket::bind(addresses[1]).is_err());
    world.exchange(&mut publication, &mut subscription, 200, 3_000);
    world.add(&subscription, &channels[0]);
    world.exchange(&mut publication, &mut subscription, 200, 3_000);
    drop(publication);
    world.await_images(&mut subscription, 0);
    drop(subscription);
    world.until("the end of the sockets", |client| {
        let mut count = 0;
        client
            .counters()
            .for_each(&mut |_, type_id, _, _| count += usize::from(type_id == LOCAL_SOCKET_ADDRESS));
        (count == 0).then_some(())
    });
    for address in addresses {
        world.until("the port", |_| std::net::UdpSocket::bind(address).ok());
    }
}

#[test]
fn streams_of_the_own_driver_come_beside_those_of_sockets() {
    let mut world = World::new(|_| ());
    let (address, control) = (free_address(), free_address());
    let mut subscription = world.manual();
    let udp = format!("aeron:udp?endpoint={address}");
    let spy = format!("aeron-spy:aeron:udp?control={control}|control-mode=dynamic");
    // One publication exists before its destination, the other one comes afterwards.
    let mut ipc = world.exclusive("aeron:ipc", STREAM).unwrap();
    world.add(&subscription, "aeron:ipc");
    world.add(&subscription, &spy);
    let channel = format!("aeron:udp?control={control}|control-mode=dynamic|ssc=true");
    let mut spied = world.exclusive(&channel, STREAM).unwrap();
    world.add(&subscription, &udp);
    let mut remote = world.exclusive(&udp, STREAM).unwrap();
    for publication in [&mut ipc, &mut spied, &mut remote] {
        world.exchange(publication, &mut subscription, 100, 3_000);
    }
    let mut sources: Vec<_> =
        subscription.images().iter().map(|image| image.source_identity().to_owned()).collect();
    sources.sort();
    assert_eq!((sources.len(), &*sources[1], &*sources[2]), (3, "aeron:ipc", "aeron:ipc"));
    // A publication with another stream id does not match.
    let other = world.exclusive("aeron:ipc", STREAM + 1).unwrap();
    world.remove(&subscription, "aeron:ipc");
    world.await_images(&mut subscription, 2);
    world.until("the end of the connection", |_| (!ipc.is_connected()).then_some(()));
    world.remove(&subscription, &spy);
    world.await_images(&mut subscription, 1);
    world.until("the end of the connection", |_| (!spied.is_connected()).then_some(()));
    world.exchange(&mut remote, &mut subscription, 10, 100);
    // The removal of an absent destination succeeds.
    world.remove(&subscription, "aeron:ipc");
    world.remove(&subscription, "aeron:udp?endpoint=127.0.0.1:9");
    world.add(&subscription, "aeron:ipc");
    world.add(&subscription, &spy);
    world.exchange(&mut ipc, &mut subscription, 10, 100);
    assert!(!other.is_connected());
    drop(subscription);
    world.until("the end of all connections", |_| {
        (!ipc.is_connected() && !spied.is_connected() && !remote.is_connected()).then_some(())
    });
    let mut positions = 0;
    world.client.counters().for_each(&mut |_, type_id, _, _| positions += usize::from(type_id == 4));
    assert_eq!(positions, 0);
}

#[test]
fn a_destination_with_a_control_address_asks_for_its_stream() {
    let mut world = World::new(|_| ());
    let control = free_address();
    let channel = format!("aeron:udp?control={control}|control-mode=dynamic");
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    let mut subscription = world.manual();
    world.add(&subscription, &format!("aeron:udp?endpoint=127.0.0.1:0|control={control}"));
    world.exchange(&mut publication, &mut subscription, 100, 3_000);
}

#[test]
fn destinations_that_cannot_be_are_refused_as_by_peers() {
    let mut world = World::new(|_| ());
    let plain = world.subscription("aeron:udp?endpoint=127.0.0.1:0", STREAM).unwrap();
    let (code, message) =
        world.destination_refusal(plain.registration_id(), "aeron:udp?endpoint=127.0.0.1:0");
    assert!(code == 1 && message.contains("channel does not allow manual control"), "{message}");
    let (code, message) = world.destination_refusal(987, "aeron:udp?endpoint=127.0.0.1:0");
    assert!(code == 2 && message.contains("unknown MDS subscription: 987"), "{message}");
    let manual = world.manual();
    let id = manual.registration_id();
    let channel = "aeron:udp?endpoint=127.0.0.1:0";
    for parameter in
        ["mtu=1408", "rcv-wnd=64k", "so-rcvbuf=64k", "so-sndbuf=64k", "response-correlation-id=1"]
    {
        let (code, message) = world.destination_refusal(id, &format!("{channel}|{parameter}"));
        let key = parameter.split('=').next().unwrap();
        let text = format!("destinations must not contain the key: {key} channel=");
        assert!(code == 1 && message.contains(&text), "{message}");
    }
    let (code, message) = world.destination_refusal(id, &format!("{channel}|control-mode=response"));
    assert!(code == 1 && message.contains("destinations may not specify control-mode=response"), "{message}");
    assert_eq!(world.destination_refusal(id, "aeron:udp?endpoint=nohost.invalid:1").0, 9);
    let busy = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let channel = format!("aeron:udp?endpoint={}", busy.local_addr().unwrap());
    let (code, message) = world.destination_refusal(id, &channel);
    assert!(code == 11 && message.contains("Address already in use"), "{message}");
    assert_eq!(world.bound(), [plain.registration_id()]);
}
