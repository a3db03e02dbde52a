//! Names whose addresses change while streams are silent (spec 02 §3.16).

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::world::{World, free_address};
use harrier_client::{ExclusivePublication, Subscription};
use harrier_platform::UdpTransport;
use harrier_ringbuf::Transport;
use harrier_ringbuf::transport::{BufferLimits, InterfaceAddress, SocketSpec, TransportError};

const RESOLUTION_CHANGES: i32 = 25;

/// Transport that resolves the host `moving` to another address once it has moved.
#[derive(Clone, Default)]
struct Names {
    has_moved: Arc<AtomicBool>,
}

impl Transport for Names {
    type Socket = <UdpTransport as Transport>::Socket;

    fn open(&self, spec: &SocketSpec) -> Result<Self::Socket, TransportError> {
        UdpTransport.open(spec)
    }

    fn resolve(&self, host: &str, port: u16) -> Result<SocketAddr, TransportError> {
        let host = match (host, self.has_moved.load(Ordering::Relaxed)) {
            ("moving", false) => "127.0.0.1",
            ("moving", true) => "127.0.0.2",
            ("coming", true) => "127.0.0.1",
            _ => host,
        };
        UdpTransport.resolve(host, port)
    }

    fn interfaces(&self) -> Vec<InterfaceAddress> {
        UdpTransport.interfaces()
    }

    fn buffer_limits(&self) -> BufferLimits {
        UdpTransport.buffer_limits()
    }
}

/// Publications and subscriptions that connect before the host has moved, and those that connect afterwards.
struct Case {
    publications: Vec<ExclusivePublication>,
    subscriptions: Vec<Subscription>,
}

/// Creates a stream whose receiver moves.
fn receiver_moves(world: &mut World, stream: i32, is_manual: bool) -> Case {
    let port = free_address().port();
    let subscriptions = ["127.0.0.1", "127.0.0.2"]
        .map(|host| world.subscription(&format!("aeron:udp?endpoint={host}:{port}"), stream).unwrap());
    let endpoint = format!("aeron:udp?endpoint=moving:{port}");
    let channel = if is_manual { "aeron:udp?control-mode=manual" } else { &endpoint };
    let publication = world.exclusive(channel, stream).unwrap();
    if is_manual {
        let id = world.client.add_destination(publication.registration_id(), &endpoint);
        world.done(id).unwrap();
    }
    Case { publications: vec![publication], subscriptions: subscriptions.into() }
}

/// Creates a stream whose sender moves. Its receivers find it by its control name.
fn sender_moves(world: &mut World, stream: i32, is_manual: bool) -> Case {
    let port = free_address().port();
    let publications = ["127.0.0.1", "127.0.0.2"].map(|host| {
        let channel = format!("aeron:udp?control={host}:{port}|control-mode=dynamic");
        world.exclusive(&channel, stream).unwrap()
    });
    let control = format!("aeron:udp?endpoint=127.0.0.1:0|control=moving:{port}");
    let channel = if is_manual { "aeron:udp?control-mode=manual" } else { &control };
    let subscription = world.subscription(channel, stream).unwrap();
    if is_manual {
        let id = world.client.add_rcv_destination(subscription.registration_id(), &control);
        world.done(id).unwrap();
    }
    Case { publications: publications.into(), subscriptions: vec![subscription] }
}

#[test]
fn streams_go_on_where_the_name_leads_to_now() {
    let names = Names::default();
    let mut world = World::with_transport(names.clone(), |_| ());
    let mut cases = vec![
        receiver_moves(&mut world, 10, false),
        receiver_moves(&mut world, 11, true),
        sender_moves(&mut world, 12, false),
        sender_moves(&mut world, 13, true),
    ];
    for Case { publications, subscriptions } in &mut cases {
        world.exchange(&mut publications[0], &mut subscriptions[0], 10, 100);
    }
    world.pass(7);
    assert_eq!(world.client.counters().value(RESOLUTION_CHANGES), 0, "nobody has moved");
    names.has_moved.store(true, Ordering::Relaxed);
    for Case { publications, subscriptions } in &mut cases {
        let (many, left) = (publications.len() > 1, subscriptions.len() > 1);
        drop(many.then(|| publications.remove(0)));
        drop(left.then(|| subscriptions.remove(0)));
    }
    world.pass(12);
    world.until("the changes", |client| (client.counters().value(RESOLUTION_CHANGES) == 4).then_some(()));
    for Case { publications, subscriptions } in &mut cases {
        world.exchange(&mut publications[0], &mut subscriptions[0], 10, 100);
    }
    assert_eq!(world.client.counters().value(RESOLUTION_CHANGES), 4);
}

#[test]
fn a_destination_whose_name_leads_nowhere_waits_until_it_does() {
    let names = Names::default();
    let mut world = World::with_transport(names.clone(), |_| ());
    let port = free_address().port();
    let mut subscription = world.subscription(&format!("aeron:udp?endpoint=127.0.0.1:{port}"), 10).unwrap();
    let mut publication = world.exclusive("aeron:udp?control-mode=manual", 10).unwrap();
    let publication_id = publication.registration_id();
    let channel = format!("aeron:udp?endpoint=coming:{port}");
    for _ in 0..2 {
        let id = world.client.add_destination(publication_id, &channel);
        world.done(id).unwrap();
        let id = world.client.remove_destination(publication_id, &channel);
        world.done(id).unwrap();
    }
    world.pass(12);
    let id = world.client.add_destination(publication_id, &channel);
    world.done(id).unwrap();
    world.pass(12);
    assert_eq!(world.client.counters().value(RESOLUTION_CHANGES), 0);
    assert!(!publication.is_connected());
    names.has_moved.store(true, Ordering::Relaxed);
    world.pass(12);
    assert_eq!(world.client.counters().value(RESOLUTION_CHANGES), 1);
    world.exchange(&mut publication, &mut subscription, 10, 100);
}
