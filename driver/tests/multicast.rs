//! Streams to groups of drivers on this host (spec 02 §3.13, §4).

use std::net::IpAddr;

use crate::world::{Numbered, NumberedReader, PATIENCE_NS, World, free_address};
use harrier_client::{ClientError, ExclusivePublication, Subscription};
use harrier_platform::{PausingClock, UdpTransport};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::{Clock, Transport};

const STREAM: i32 = 10;
/// System counters by id.
const NAKS_SENT: i32 = 5;
const RETRANSMITS_SENT: i32 = 11;
const POSSIBLE_TTL_ASYMMETRY: i32 = 21;
/// Types of counters.
const SEND_CHANNEL_STATUS: i32 = 6;
const LOCAL_SOCKET_ADDRESS: i32 = 14;
const FLOW_CONTROL_RECEIVERS: i32 = 17;

/// Returns a group of the loopback that no other test uses.
fn group() -> String {
    format!("endpoint=224.20.30.39:{}|interface=localhost", free_address().port())
}

/// One driver that sends, and drivers that receive.
struct Group {
    sender: World,
    receivers: Vec<World>,
}

impl Group {
    fn new(receivers: usize) -> Self {
        Self::with_losses(&vec![""; receivers])
    }

    /// Creates a group whose receivers lose datagrams by the settings of their interceptors.
    fn with_losses(losses: &[&str]) -> Self {
        let receivers = losses.iter().enumerate().map(|(index, arguments)| {
            World::new(|context| {
                // Receivers of different drivers have different ids.
                context.seed = index as u64;
                context.image_liveness_timeout_ns = 10_000_000_000;
                if !arguments.is_empty() {
                    context.incoming_interceptors = "loss".into();
                    context.loss_arguments = (*arguments).to_owned();
                }
            })
        });
        Self { sender: World::new(|_| ()), receivers: receivers.collect() }
    }

    fn step(&mut self) {
        self.sender.step();
        self.receivers.iter_mut().for_each(World::step);
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    /// Offers numbered messages and checks that each of the subscriptions gets all of them in order.
    fn exchange(
        &mut self,
        publication: &mut ExclusivePublication,
        subscriptions: &mut [&mut Subscription],
        count: u64,
        length: usize,
    ) {
        let mut numbered = Numbered::new(count, length);
        let mut readers: Vec<_> = subscriptions.iter().map(|_| NumberedReader::default()).collect();
        self.until("the last message", |_| {
            numbered.offer(publication);
            for (reader, subscription) in readers.iter_mut().zip(subscriptions.iter_mut()) {
                reader.poll(subscription, length);
            }
            readers.iter().all(|reader| reader.received == count).then_some(())
        });
    }

    fn subscribe(&mut self, channel: &str) -> Vec<Subscription> {
        let all = self.receivers.iter_mut();
        all.map(|receiver| receiver.subscription(channel, STREAM).unwrap()).collect()
    }

    /// Waits until all subscriptions have `count` images.
    fn await_images(&mut self, subscriptions: &mut [Subscription], count: usize) {
        self.until("the images", |_| {
            let mut all = subscriptions.iter_mut();
            all.all(|subscription| {
                subscription.poll(1, &mut |_, _| ());
                subscription.images().len() == count
            })
            .then_some(())
        });
    }
}

/// Returns the labels of a driver's counters of a type, with their values.
fn labels(world: &World, type_id: i32) -> Vec<(String, i64)> {
    let (mut found, counters) = (Vec::new(), world.client.counters());
    counters.for_each(&mut |id, counter_type, _, label| {
        if counter_type == type_id {
            found.push((label.to_owned(), counters.value(id)));
        }
    });
    found
}

#[test]
fn all_drivers_of_a_group_receive_and_what_one_loses_is_repaired() {
    let mut group_of = Group::with_losses(&["rate=0.05|seed=3|recv-msg-mask=0x2", ""]);
    let channel = format!("aeron:udp?{}", group());
    let port = channel.split(['|', ':']).nth(2).unwrap().to_owned();
    let mut subscriptions = group_of.subscribe(&channel);
    // The sending driver receives as well.
    let mut local = group_of.sender.subscription(&channel, STREAM).unwrap();
    let mut publication =
        group_of.sender.exclusive(&format!("{channel}|fc=min,g:/3|linger=100ms"), STREAM).unwrap();
    let receivers = |group: &Group| labels(&group.sender, FLOW_CONTROL_RECEIVERS)[0].1;
    group_of.until("all receivers", |group| (receivers(group) == 3).then_some(()));
    let [lossy, other] = &mut subscriptions[..] else { unreachable!() };
    group_of.exchange(&mut publication, &mut [lossy, other, &mut local], 300, 3_000);
    assert!(group_of.receivers[0].client.counters().value(NAKS_SENT) > 0);
    assert!(group_of.sender.client.counters().value(RETRANSMITS_SENT) > 0);
    assert_eq!(group_of.receivers[1].client.counters().value(POSSIBLE_TTL_ASYMMETRY), 0);
    assert!(other.images()[0].source_identity().starts_with("127.0.0.1:"));
    // Sockets are bound to the group's port.
    let bound = format!("0.0.0.0:{port}");
    for (world, name) in
        [(&group_of.sender, "snd-local-sockaddr"), (&group_of.receivers[0], "rcv-local-sockaddr")]
    {
        let addresses = labels(world, LOCAL_SOCKET_ADDRESS);
        assert!(
            addresses.iter().any(|(label, _)| label.starts_with(name) && label.ends_with(&bound)),
            "{addresses:?}"
        );
    }
    assert!(labels(&group_of.sender, SEND_CHANNEL_STATUS)[0].0.ends_with(&bound));
    // When one receiver leaves, the stream goes on for the others. Then all receive its end.
    drop(local);
    group_of.until("the end of one", |group| (receivers(group) == 2).then_some(()));
    drop(publication);
    group_of.await_images(&mut subscriptions, 0);
    drop(subscriptions);
    group_of.until("the end of all sockets", |group| {
        let mut worlds = std::iter::once(&group.sender).chain(&group.receivers);
        worlds.all(|world| labels(world, LOCAL_SOCKET_ADDRESS).is_empty()).then_some(())
    });
}

#[test]
fn strategies_of_channel_and_driver_choose_who_holds_the_stream() {
    let mut group_of = Group::new(2);
    let tagged = |tag: &str| {
        format!("aeron:udp?{}{tag}", "endpoint=224.20.30.41:PORT|interface=localhost")
            .replace("PORT", &free_address().port().to_string())
    };
    let base = tagged("");
    let mut held = group_of.receivers[0].subscription(&format!("{base}|gtag=7"), STREAM).unwrap();
    let mut free = group_of.receivers[1].subscription(&base, STREAM).unwrap();
    // Only the receiver with the tag counts, so the other one may be outrun.
    let channel = format!("{base}|fc=tagged,g:7/1,t:2s|term-length=64k|linger=100ms");
    let mut publication = group_of.sender.exclusive(&channel, STREAM).unwrap();
    group_of.until("the tagged one", |group| {
        (labels(&group.sender, FLOW_CONTROL_RECEIVERS)[0].1 == 1 && publication.is_connected()).then_some(())
    });
    group_of.exchange(&mut publication, &mut [&mut held], 200, 1_000);
    free.poll(0, &mut |_, _| ());
    assert!(free.images()[0].position() < publication.position());
    // With the driver's default `max` the fastest receiver decides.
    let mut fastest = group_of.sender.exclusive(&format!("{base}|term-length=64k"), STREAM + 1).unwrap();
    let mut slow = group_of.receivers[0].subscription(&base, STREAM + 1).unwrap();
    let mut fast = group_of.receivers[1].subscription(&base, STREAM + 1).unwrap();
    group_of.until("both images", |_| {
        (slow.poll(0, &mut |_, _| ()) + slow.images().len() + fast.images().len() == 2).then_some(())
    });
    assert_eq!(labels(&group_of.sender, FLOW_CONTROL_RECEIVERS).len(), 1);
    group_of.exchange(&mut fastest, &mut [&mut fast], 200, 1_000);
    drop((publication, fastest));

    // With `min` as the driver's setting the slowest receiver decides.
    let mut sender = World::new(|context| context.multicast_flow_control = "min".into());
    std::mem::swap(&mut group_of.sender, &mut sender);
    let mut slowest = group_of.sender.exclusive(&format!("{base}|term-length=64k"), STREAM + 2).unwrap();
    let mut slow = group_of.receivers[0].subscription(&base, STREAM + 2).unwrap();
    let mut fast = group_of.receivers[1].subscription(&base, STREAM + 2).unwrap();
    group_of.until("both receivers", |group| {
        (labels(&group.sender, FLOW_CONTROL_RECEIVERS)[0].1 == 2).then_some(())
    });
    // Each receiver grants half a term, into which only whole messages of 1,056 bytes fit.
    let held = 32_768 / 1_056 * 1_056;
    group_of.until("back pressure", |_| {
        fast.poll(64, &mut |_, _| ());
        let is_held = matches!(slowest.offer(&[7; 1_000]), Err(OfferError::BackPressured));
        (is_held && fast.images()[0].position() == held).then_some(())
    });
    group_of.sender.pass(1);
    group_of.step();
    assert_eq!((fast.poll(64, &mut |_, _| ()), fast.images()[0].position()), (0, held));
    slow.poll(64, &mut |_, _| ());
    group_of.until("room", |_| {
        slow.poll(64, &mut |_, _| ());
        slowest.offer(&[7; 1_000]).ok()
    });
}

#[test]
fn groups_of_every_interface_and_hops_of_channel_and_driver() {
    let mut world = World::new(|context| context.socket_multicast_ttl = 3);
    let interfaces = UdpTransport.interfaces();
    let mut usable: Vec<_> = interfaces.iter().filter(|one| one.is_usable).collect();
    // The loopback has no route for IPv6 groups.
    usable.retain(|one| !(one.ip.is_loopback() && one.ip.is_ipv6()));
    assert!(!usable.is_empty());
    for interface in usable {
        let (ip, name) = (interface.ip, &interface.name);
        let text = match ip {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        };
        let data = if ip.is_ipv4() { "224.20.30.43" } else { "[ff02::1:39]" };
        let by_address = format!("aeron:udp?endpoint={data}:{}|interface={text}", free_address().port());
        let prefix = interface.prefix;
        let by_prefix =
            format!("aeron:udp?endpoint={data}:{}|interface={text}/{prefix}", free_address().port());
        let by_name = format!("aeron:udp?endpoint={data}:{}|interface={{{name}}}", free_address().port());
        for channel in [by_address, by_prefix, by_name] {
            let mut subscription = world.subscription(&channel, STREAM).unwrap();
            let mut publication = world.exclusive(&format!("{channel}|ttl=2"), STREAM).unwrap();
            world.exchange(&mut publication, &mut subscription, 20, 3_000);
            // A spy names the group by the same channel.
            let mut spy = world.subscription(&format!("aeron-spy:{channel}"), STREAM).unwrap();
            world.until("the spy", |_| (spy.images().len() == 1).then_some(()));
            world.exchange(&mut publication, &mut spy, 5, 3_000);
        }
    }
    assert_eq!(world.client.counters().value(POSSIBLE_TTL_ASYMMETRY), 0);
    // Without `interface` the system chooses one.
    let channel = format!("aeron:udp?endpoint=224.20.30.43:{}", free_address().port());
    let mut subscription = world.subscription(&format!("{channel}|ttl=1"), STREAM).unwrap();
    let mut publication = world.exclusive(&channel, STREAM).unwrap();
    world.exchange(&mut publication, &mut subscription, 20, 3_000);
    assert_eq!(world.client.counters().value(POSSIBLE_TTL_ASYMMETRY), 1, "3 hops of the driver, 1 back");
}

#[test]
fn a_subscription_with_destinations_joins_and_leaves_groups() {
    let mut world = World::new(|context| context.publication_connection_timeout_ns = 300_000_000);
    let channels = [format!("aeron:udp?{}", group()), format!("aeron:udp?{}", group())];
    let mut subscription = world.subscription("aeron:udp?control-mode=manual", STREAM).unwrap();
    let id = subscription.registration_id();
    for channel in &channels {
        let added = world.client.add_rcv_destination(id, channel);
        world.done(added).unwrap();
    }
    let start = "session-id=9|init-term-id=5|term-id=5|term-offset=0";
    let mut publications =
        channels.each_ref().map(|channel| world.exclusive(&format!("{channel}|{start}"), STREAM).unwrap());
    // Two groups carry one session, which has one image. Both publications are at the same position.
    world.until("the image", |_| (subscription.images().len() == 1).then_some(()));
    for publication in &mut publications {
        world.until("the connection", |_| publication.is_connected().then_some(()));
    }
    world.exchange(&mut publications[0], &mut subscription, 1, 64);
    let removed = world.client.remove_rcv_destination(id, &channels[0]);
    world.done(removed).unwrap();
    world.until("the end of one connection", |_| (!publications[0].is_connected()).then_some(()));
    assert!(publications[1].is_connected());
}

#[test]
fn groups_that_cannot_be_are_refused() {
    let mut world = World::new(|_| ());
    let mut refusal = |channel: &str| match world.subscription(channel, STREAM) {
        Err(ClientError::Registration { code, message, .. }) => (code, message),
        other => panic!("{channel}: {other:?}"),
    };
    let (code, message) = refusal("aeron:udp?endpoint=224.20.30.40:9");
    assert!(code == 1 && message.contains("Multicast data address must be odd"), "{message}");
    let (code, message) = refusal("aeron:udp?endpoint=224.20.30.41:9|interface={does_not_exist}");
    assert!(code == 11 && message.contains("unknown interface does_not_exist"), "{message}");
    let (code, message) = refusal("aeron:udp?endpoint=224.20.30.41:9|interface=10.99.99.99/24");
    assert!(
        code == 11 && message.contains("could not find matching interface='10.99.99.99/24'"),
        "{message}"
    );
    assert_eq!(refusal("aeron:udp?endpoint=224.20.30.41:9|ttl=256").0, 1);
    match world.exclusive("aeron:udp?endpoint=224.20.30.41:9|interface=localhost|fc=bogus", STREAM) {
        Err(ClientError::Registration { message, .. }) => {
            assert!(message.contains("Invalid flow control strategy name: bogus"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(labels(&world, SEND_CHANNEL_STATUS), []);
}
