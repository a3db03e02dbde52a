//! Harrier clients and the driver on one thread. Streams arrive whole and in order, and resources come and go.

use crate::world::{World, context, free_address};
use harrier_client::{Aeron, ClientError, ClientEvent, Context};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode, HostDriver, StartError};
use harrier_platform::{MappedMemory, PausingClock, UdpTransport};
use harrier_ringbuf::Clock;

#[test]
fn ipc_streams_arrive_in_order_over_many_terms() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:ipc", 10).unwrap();
    let mut publication = world.exclusive("aeron:ipc", 10).unwrap();
    world.exchange(&mut publication, &mut subscription, 5_000, 100);
    world.exchange(&mut publication, &mut subscription, 100, 8_000);
}

#[test]
fn udp_streams_arrive_in_order_over_many_terms() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:udp?endpoint=127.0.0.1:0", 10).unwrap();
    let channel = world.until("the bound port", |client| subscription.resolved_channel(client.counters()));
    let mut publication = world.exclusive(&channel, 10).unwrap();
    world.exchange(&mut publication, &mut subscription, 5_000, 100);
    world.exchange(&mut publication, &mut subscription, 100, 8_000);
}

#[test]
fn losses_are_repaired() {
    let mut world = World::new(|context| {
        context.incoming_interceptors = "loss".into();
        context.loss_arguments = "rate=0.05|seed=3|recv-msg-mask=0xff".into();
    });
    let mut subscription = world.subscription("aeron:udp?endpoint=127.0.0.1:0", 10).unwrap();
    let channel = world.until("the bound port", |client| subscription.resolved_channel(client.counters()));
    let mut publication = world.exclusive(&channel, 10).unwrap();
    world.exchange(&mut publication, &mut subscription, 3_000, 200);
    let counters = world.client.counters();
    assert!(counters.value(5) > 0, "NAKs sent");
    assert!(counters.value(11) > 0, "retransmits sent");
}

#[test]
fn a_spy_connects_a_manual_publication_without_destinations() {
    let mut world = World::new(|_| ());
    let channel = "aeron:udp?control-mode=manual|ssc=true|tags=9|term-length=64k";
    let mut publication = world.exclusive(channel, 10).unwrap();
    assert!(!publication.is_connected());
    let mut spy = world.subscription("aeron-spy:aeron:udp?tags=9", 10).unwrap();
    world.until("the connection", |_| publication.is_connected().then_some(()));
    world.exchange(&mut publication, &mut spy, 3_000, 100);
}

#[test]
fn a_manual_destination_receives() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:udp?endpoint=127.0.0.1:0", 10).unwrap();
    let channel = world.until("the bound port", |client| subscription.resolved_channel(client.counters()));
    let mut publication = world.exclusive("aeron:udp?control-mode=manual", 10).unwrap();
    let id = world.client.add_destination(publication.registration_id(), &channel).unwrap();
    world.until("the destination", |client| client.command_done(id).unwrap().then_some(()));
    world.exchange(&mut publication, &mut subscription, 1_000, 100);
}

#[test]
fn a_publication_starts_where_its_channel_says() {
    let mut world = World::new(|_| ());
    let position = "init-term-id=5|term-id=7|term-offset=64|term-length=64k|session-id=77";
    let mut subscription = world.subscription("aeron:udp?endpoint=127.0.0.1:0", 10).unwrap();
    let channel = world.until("the bound port", |client| subscription.resolved_channel(client.counters()));
    let mut publication = world.exclusive(&format!("{channel}|{position}"), 10).unwrap();
    assert_eq!((publication.position(), publication.session_id()), (2 * 65_536 + 64, 77));
    world.exchange(&mut publication, &mut subscription, 10, 100);
    assert_eq!(subscription.images()[0].join_position(), 2 * 65_536 + 64);
}

#[test]
fn a_closed_publication_ends_its_images_and_leaves_no_file() {
    let mut world = World::new(|_| ());
    for channel in ["aeron:ipc", "aeron:udp?endpoint=127.0.0.1:0"] {
        let mut subscription = world.subscription(channel, 10).unwrap();
        let channel =
            world.until("the bound port", |client| subscription.resolved_channel(client.counters()));
        let mut publication = world.exclusive(&channel, 10).unwrap();
        world.exchange(&mut publication, &mut subscription, 10, 100);
        drop(publication);
        world.until("the end of the image", |_| {
            subscription.poll(10, &mut |_, _| ());
            subscription.images().is_empty().then_some(())
        });
        drop(subscription);
        let aeron = world.directory.path().join("aeron");
        world.until("the removal of all logs", |_| {
            let is_empty = |name| std::fs::read_dir(aeron.join(name)).unwrap().next().is_none();
            (is_empty("publications") && is_empty("images")).then_some(())
        });
    }
}

#[test]
fn refusals_carry_their_code() {
    let mut world = World::new(|_| ());
    let mut refused = |channel: &str| match world.publication(channel, 10) {
        Err(ClientError::Registration { code, message, .. }) => (code, message),
        other => panic!("{channel}: {other:?}"),
    };
    assert_eq!(refused("aeron:udp?endpoint=127.0.0.1:0").0, 1);
    assert_eq!(refused("aeron:foo").0, 1);
    assert_eq!(refused("aeron:ipc?mtu=1000").0, 1);
    assert_eq!(refused("aeron:udp?endpoint=nohost.invalid:1").0, 9);
    assert!(refused("aeron:udp?control=127.0.0.1:9").1.contains("'control' parameter requires"));
    assert!(refused("aeron:udp?control-mode=manual|fc=bogus").1.contains("bogus"));
    let counters = world.client.counters();
    let mut channels = 0;
    counters.for_each(&mut |_, type_id, _, _| channels += usize::from(type_id == 6 || type_id == 7));
    world.until("the close of the failed endpoints", |client| {
        let mut channels = 0;
        client.counters().for_each(&mut |_, type_id, _, _| channels += usize::from(type_id == 6));
        (channels == 0).then_some(())
    });
    assert!(channels <= 1);
}

#[test]
fn a_port_in_use_is_refused_by_name() {
    let mut world = World::new(|_| ());
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let channel = format!("aeron:udp?endpoint={}", holder.local_addr().unwrap());
    match world.subscription(&channel, 10) {
        Err(ClientError::Registration { code: 11, message, .. }) => {
            assert!(message.contains("Address already in use"), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn shared_publications_are_one_until_all_have_gone() {
    let mut world = World::new(|_| ());
    let first = world.publication("aeron:ipc?alias=a", 10).unwrap();
    let second = world.publication("aeron:ipc?alias=b", 10).unwrap();
    assert_eq!(first.session_id(), second.session_id());
    assert_eq!(second.original_registration_id(), first.registration_id());
    match world.publication("aeron:ipc?term-length=128k", 10) {
        Err(ClientError::Registration { message, .. }) => {
            assert!(message.contains("different 'term-length'"), "{message}");
        }
        other => panic!("{other:?}"),
    }
    drop(first);
    world.step();
    assert!(!second.is_closed());
}

#[test]
fn a_claim_that_is_never_committed_is_unblocked() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:ipc", 10).unwrap();
    let mut publication = world.publication("aeron:ipc", 10).unwrap();
    world.until("the connection", |_| publication.is_connected().then_some(()));
    std::mem::forget(publication.try_claim(100).unwrap());
    publication.offer(b"after the hole").unwrap();
    let mut seen = Vec::new();
    world.until("the message behind the hole", |_| {
        subscription.poll(10, &mut |payload, _| seen.push(payload.to_vec()));
        (!seen.is_empty()).then_some(())
    });
    assert_eq!(seen, [b"after the hole"]);
    assert_eq!(world.client.counters().value(19), 1);
}

#[test]
fn a_silent_client_is_timed_out_with_all_it_held() {
    let mut world = World::new(|_| ());
    let now = PausingClock.now();
    let aeron = world.directory.path().join("aeron");
    let mut dying = Aeron::connect(Context::new(aeron), MappedMemory, &now).unwrap();
    let id = dying.add_counter(1_001, &[1], "doomed").unwrap();
    let counter = world.until("the counter", |_| {
        dying.do_work(&PausingClock.now()).unwrap();
        dying.counter(id).unwrap()
    });
    let (registration_id, counter_id) = (counter.registration_id(), counter.counter_id());
    world.until("the end of the counter", |client| {
        let event = client.poll_event()?;
        (event == ClientEvent::UnavailableCounter { registration_id, counter_id }).then_some(())
    });
    assert_eq!(world.client.counters().value(24), 1);
    drop(counter);
}

#[test]
fn a_second_driver_is_refused() {
    let world = World::new(|_| ());
    let context = context(world.directory.path());
    let started = HostDriver::on_host(context, ExecutorMode::Inline, &PausingClock.now());
    assert!(matches!(started, Err(StartError::ActiveDriver { .. })));
}

#[test]
fn garbage_at_the_sockets_is_counted_and_harms_nothing() {
    let mut world = World::new(|_| ());
    let mut subscription = world.subscription("aeron:udp?endpoint=127.0.0.1:0", 10).unwrap();
    let channel = world.until("the bound port", |client| subscription.resolved_channel(client.counters()));
    let mut publication = world.exclusive(&channel, 10).unwrap();
    world.exchange(&mut publication, &mut subscription, 10, 100);
    let address = channel.split("endpoint=").nth(1).unwrap().to_owned();
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut version = [0_u8; 64];
    version[4] = 1;
    version[6] = 1;
    let mut oversized = [0_u8; 64];
    oversized[..4].copy_from_slice(&4_096_i32.to_le_bytes());
    oversized[6] = 1;
    let mut negative = [0_u8; 40];
    negative[..4].copy_from_slice(&(-40_i32).to_le_bytes());
    negative[6] = 5;
    for datagram in [&b"four"[..], &version, &oversized, &negative] {
        stranger.send_to(datagram, &address).unwrap();
    }
    world.until("the invalid packets", |client| (client.counters().value(14) >= 4).then_some(()));
    world.exchange(&mut publication, &mut subscription, 1_000, 100);
}

#[test]
fn a_rejected_image_comes_again_unless_its_subscription_forbids_it() {
    for (parameter, rejoins) in [("", true), ("|rejoin=true", true), ("|rejoin=false", false)] {
        let mut world = World::new(|_| ());
        let channel = format!("aeron:udp?endpoint={}", free_address());
        let subscribed = format!("{channel}{parameter}");
        let mut subscription = world.subscription(&subscribed, 10).unwrap();
        let mut publication = world.exclusive(&channel, 10).unwrap();
        world.exchange(&mut publication, &mut subscription, 10, 100);
        let image_id = subscription.images()[0].correlation_id();
        let id = world.client.reject_image(image_id, 0, "not wanted");
        world.done(id).unwrap();
        let error = world.until("the error", |client| {
            client.poll_event().filter(|event| matches!(event, ClientEvent::PublicationError(_)))
        });
        let ClientEvent::PublicationError(error) = error else { unreachable!() };
        assert_eq!((error.error_code, &*error.message), (13, "not wanted"));
        world.pass(2);
        world.until("the end of the image", |_| {
            subscription.poll(1, &mut |_, _| ());
            let mut images = subscription.images().iter();
            images.all(|image| image.correlation_id() != image_id).then_some(())
        });
        if rejoins {
            world.exchange(&mut publication, &mut subscription, 10, 100);
            assert_ne!(subscription.images()[0].correlation_id(), image_id);
            continue;
        }
        // Neither time nor another equal subscription brings the image back. Another publication gets an image.
        let mut second = world.subscription(&subscribed, 10).unwrap();
        world.pass(5);
        assert_eq!((subscription.images().len(), second.images().len()), (0, 0));
        let mut other = world.exclusive(&channel, 10).unwrap();
        world.exchange(&mut other, &mut subscription, 10, 100);
    }
}

#[test]
fn too_little_space_is_an_error_that_names_directory_and_bytes() {
    use harrier_ringbuf::heap::HeapMemory;
    let memory = HeapMemory::new();
    let now = PausingClock.now();
    let mut context = DriverContext::new("/shm/aeron");
    context.counters_buffer_length = 1 << 20;
    let driver = Driver::build(context, memory.clone(), UdpTransport, ExecutorMode::Inline, &now).unwrap();
    let mut agents = driver.into_agents();
    let mut client = Aeron::connect(Context::new("/shm/aeron"), memory.clone(), &now).unwrap();
    memory.set_capacity(30 << 20);
    let id = client.add_publication("aeron:ipc?term-length=64m", 10).unwrap();
    let error = loop {
        let now = PausingClock.now();
        for agent in &mut agents {
            agent.do_work(&now).unwrap();
        }
        client.do_work(&now).unwrap();
        match client.publication(id) {
            Ok(None) => {}
            Ok(Some(_)) => panic!("there is no room"),
            Err(error) => break error.to_string(),
        }
    };
    assert!(error.contains("insufficient usable storage") && error.contains("/shm/aeron"), "{error}");
}

#[test]
fn a_cubic_window_has_counters_as_long_as_its_image() {
    let mut world = World::new(|context| context.cubic_measure_rtt = true);
    let channel = format!("aeron:udp?endpoint={}", crate::world::free_address());
    let mut subscription = world.subscription(&format!("{channel}|cc=cubic"), 10).unwrap();
    let mut publication = world.exclusive(&format!("{channel}|term-length=1m"), 10).unwrap();
    world.exchange(&mut publication, &mut subscription, 50, 3_000);
    let state = |client: &harrier_client::Aeron| {
        let (mut found, counters) = (Vec::new(), client.counters());
        counters.for_each(&mut |id, type_id, _, label| {
            if type_id == 10 {
                let name = label.split(':').next().unwrap().to_owned();
                found.push((name, counters.value(id), counters.owner_id(id)));
            }
        });
        found
    };
    world.until("a round trip", |client| {
        let state = state(client);
        assert_eq!(state.len(), 2);
        assert_eq!(
            (&*state[0].0, state[0].2, &*state[1].0, state[1].2),
            ("rcv-cc-cubic-rtt", -1, "rcv-cc-cubic-wnd", -1)
        );
        assert!(state[1].1 >= 14_080 && state[1].1 <= 131_072 && state[1].1 % 1_408 == 0, "{state:?}");
        (state[0].1 > 0).then_some(())
    });
    drop((publication, subscription));
    world.until("the end of the counters", |client| state(client).is_empty().then_some(()));
}

#[test]
fn a_publication_that_is_being_made_keeps_its_socket_although_the_others_go() {
    const LINGER_S: i64 = 5;
    let mut world =
        World::with_executor(|context| context.publication_linger_timeout_ns = LINGER_S * 1_000_000_000);
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let mut subscription = world.subscription(&channel, 10).unwrap();
    let sender_positions = |world: &World| {
        let mut count = 0;
        world.client.counters().for_each(&mut |_, type_id, _, _| count += usize::from(type_id == 2));
        count
    };
    drop(world.exclusive(&channel, 11).unwrap());
    world.step();
    let id = world.client.add_exclusive_publication(&channel, 10).unwrap();
    // The executor resolves the channel, but it is held before it creates the log.
    world.holds_executor = true;
    world.step();
    world.holds_executor = false;
    world.step();
    world.holds_executor = true;
    world.pass(LINGER_S + 1);
    assert_eq!(sender_positions(&world), 0, "the first publication has gone");
    assert!(world.client.exclusive_publication(id).unwrap().is_none(), "the second one is not there yet");
    world.holds_executor = false;
    let mut publication = world.until("the publication", |client| client.exclusive_publication(id).unwrap());
    world.exchange(&mut publication, &mut subscription, 10, 100);
}
