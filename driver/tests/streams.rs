//! Clients of our own through the driver, all on one thread: streams arrive whole and in order, resources come and go.

use std::path::Path;

use harrier_client::{
    Aeron, ClientError, ClientEvent, Context, ExclusivePublication, Publication, Subscription,
};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode, StartError};
use harrier_platform::{MappedMemory, SystemClock, UdpTransport};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::{Agent, Clock};

/// Longest that one condition is waited for.
const PATIENCE_NS: i64 = 20_000_000_000;

struct World {
    agents: Vec<Box<dyn Agent>>,
    client: Aeron,
    directory: tempfile::TempDir,
}

fn context(directory: &Path) -> DriverContext {
    let mut context = DriverContext::new(directory.join("aeron"));
    context.seed = 42;
    context.timer_interval_ns = 20_000_000;
    context.client_liveness_timeout_ns = 1_000_000_000;
    context.publication_unblock_timeout_ns = 1_500_000_000;
    context.image_liveness_timeout_ns = 300_000_000;
    context.publication_linger_timeout_ns = 100_000_000;
    context.counters_buffer_length = 1 << 20;
    context.term_buffer_length = 64 << 10;
    context.ipc_term_buffer_length = 64 << 10;
    context
}

impl World {
    fn new(change: impl FnOnce(&mut DriverContext)) -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-streams-").tempdir_in("/dev/shm").unwrap();
        let mut context = context(directory.path());
        change(&mut context);
        let aeron_directory = context.directory.clone();
        let now = SystemClock.now();
        let driver = Driver::build(context, MappedMemory, UdpTransport, ExecutorMode::Inline, &now).unwrap();
        let client = Aeron::connect(Context::new(aeron_directory), MappedMemory, &now).unwrap();
        Self { agents: driver.into_agents(), client, directory }
    }

    fn step(&mut self) {
        let now = SystemClock.now();
        for agent in &mut self.agents {
            agent.do_work(&now).unwrap();
        }
        self.client.do_work(&now).unwrap();
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Aeron) -> Option<V>) -> V {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        while SystemClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(&mut self.client) {
                return value;
            }
        }
        panic!("{what} did not come");
    }

    fn publication(&mut self, channel: &str, stream_id: i32) -> Result<Publication, ClientError> {
        let id = self.client.add_publication(channel, stream_id).unwrap();
        self.until("the publication", |client| client.publication(id).transpose())
    }

    fn exclusive(&mut self, channel: &str, stream_id: i32) -> Result<ExclusivePublication, ClientError> {
        let id = self.client.add_exclusive_publication(channel, stream_id).unwrap();
        self.until("the publication", |client| client.exclusive_publication(id).transpose())
    }

    fn subscription(&mut self, channel: &str, stream_id: i32) -> Result<Subscription, ClientError> {
        let id = self.client.add_subscription(channel, stream_id).unwrap();
        self.until("the subscription", |client| client.subscription(id).transpose())
    }

    /// Offers `count` numbered messages of `length` bytes and checks that they arrive in order.
    fn exchange(
        &mut self,
        publication: &mut ExclusivePublication,
        subscription: &mut Subscription,
        count: u64,
        length: usize,
    ) {
        let mut assembler = harrier_ringbuf::assembly::FragmentAssembler::new();
        let (mut sent, mut received) = (0_u64, 0_u64);
        let mut message = vec![7_u8; length];
        self.until("the last message", |_| {
            message[..8].copy_from_slice(&sent.to_le_bytes());
            if sent < count {
                match publication.offer(&message) {
                    Ok(_) => sent += 1,
                    Err(OfferError::BackPressured | OfferError::AdminAction | OfferError::NotConnected) => {}
                    Err(error) => panic!("{error}"),
                }
            }
            subscription.poll(16, &mut |payload, header| {
                assembler.on_fragment(payload, header, &mut |message, _| {
                    assert_eq!(message.len(), length);
                    assert_eq!(u64::from_le_bytes(message[..8].try_into().unwrap()), received);
                    received += 1;
                });
            });
            (received == count).then_some(())
        });
    }
}

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
    let now = SystemClock.now();
    let aeron = world.directory.path().join("aeron");
    let mut dying = Aeron::connect(Context::new(aeron), MappedMemory, &now).unwrap();
    let id = dying.add_counter(1_001, &[1], "doomed").unwrap();
    let counter = world.until("the counter", |_| {
        dying.do_work(&SystemClock.now()).unwrap();
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
    let started =
        Driver::build(context, MappedMemory, UdpTransport, ExecutorMode::Inline, &SystemClock.now());
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

/// Stream of requests and stream of answers.
const REQUESTS: i32 = 40;
const ANSWERS: i32 = 41;

/// A requester: what it sends its requests with, and what it gets its answers from.
struct Requester {
    publication: ExclusivePublication,
    subscription: Subscription,
}

impl World {
    /// A requester whose answers come through `answers`.
    fn requester(&mut self, requests: &str, answers: &str) -> Requester {
        let subscription = self.subscription(answers, ANSWERS).unwrap();
        let id = subscription.registration_id();
        let channel = with_parameter(requests, &format!("response-correlation-id={id}"));
        Requester { publication: self.exclusive(&channel, REQUESTS).unwrap(), subscription }
    }

    /// The image of a requester, as a responder knows it.
    fn image_of(&mut self, requests: &mut Subscription, requester: &Requester) -> i64 {
        let session_id = requester.publication.session_id();
        self.until("the image of the requests", |_| {
            requests.image_by_session_id(session_id).map(|image| image.correlation_id())
        })
    }

    /// What answers an image.
    fn answer(&mut self, answers: &str, image_id: i64) -> Result<ExclusivePublication, ClientError> {
        self.exclusive(&with_parameter(answers, &format!("response-correlation-id={image_id}")), ANSWERS)
    }

    fn refusal(&mut self, channel: &str) -> (i32, String) {
        match self.exclusive(channel, ANSWERS) {
            Err(ClientError::Registration { code, message, .. }) => (code, message),
            other => panic!("{channel}: {other:?}"),
        }
    }
}

fn with_parameter(channel: &str, parameter: &str) -> String {
    format!("{channel}{}{parameter}", if channel.contains('?') { '|' } else { '?' })
}

/// A channel with a port that is free.
fn control() -> String {
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    format!("aeron:udp?control-mode=response|control={}", holder.local_addr().unwrap())
}

/// Requests and their channel, and the channel of the answers.
fn channels(world: &mut World, is_ipc: bool) -> (Subscription, String, String) {
    let channel = if is_ipc { "aeron:ipc" } else { "aeron:udp?endpoint=127.0.0.1:0" };
    let requests = world.subscription(channel, REQUESTS).unwrap();
    let channel = world.until("the bound port", |client| requests.resolved_channel(client.counters()));
    (requests, channel, if is_ipc { "aeron:ipc?control-mode=response".to_owned() } else { control() })
}

#[test]
fn each_requester_gets_the_answers_to_its_own_requests() {
    for is_ipc in [true, false] {
        let mut world = World::new(|_| ());
        let (mut requests, channel, answers) = channels(&mut world, is_ipc);
        let mut requesters = [(); 2].map(|()| world.requester(&channel, &answers));
        // A stranger's stream on the same ids is nobody's answer.
        let stranger = is_ipc.then(|| world.exclusive("aeron:ipc", ANSWERS).unwrap());
        let mut responses: Vec<_> = requesters
            .iter()
            .map(|requester| {
                let image_id = world.image_of(&mut requests, requester);
                world.answer(&answers, image_id).unwrap()
            })
            .collect();
        for (requester, response) in requesters.iter_mut().zip(&mut responses) {
            world.exchange(&mut requester.publication, &mut requests, 100, 3_000);
            world.exchange(response, &mut requester.subscription, 100, 3_000);
            let sessions: Vec<_> =
                requester.subscription.images().iter().map(|image| image.session_id()).collect();
            assert_eq!(sessions, [response.session_id()]);
        }
        drop((stranger, responses));
        for requester in &mut requesters {
            world.until("the end of the answers", |_| {
                requester.subscription.poll(1, &mut |_, _| ());
                requester.subscription.images().is_empty().then_some(())
            });
        }
        drop((requesters, requests));
        let aeron = world.directory.path().join("aeron");
        world.until("the removal of all logs and sockets", |client| {
            let is_empty = |name| std::fs::read_dir(aeron.join(name)).unwrap().next().is_none();
            let mut channels = 0;
            client
                .counters()
                .for_each(&mut |_, type_id, _, _| channels += usize::from(type_id == 6 || type_id == 7));
            (is_empty("publications") && is_empty("images") && channels == 0).then_some(())
        });
    }
}

#[test]
fn a_requester_takes_another_answer_when_the_first_has_gone() {
    for is_ipc in [true, false] {
        let mut world = World::new(|_| ());
        let (mut requests, channel, answers) = channels(&mut world, is_ipc);
        let mut requester = world.requester(&channel, &answers);
        let image_id = world.image_of(&mut requests, &requester);
        for _ in 0..2 {
            let mut response = world.answer(&answers, image_id).unwrap();
            world.exchange(&mut response, &mut requester.subscription, 10, 100);
            drop(response);
            world.until("the end of the answers", |_| {
                requester.subscription.poll(1, &mut |_, _| ());
                requester.subscription.images().is_empty().then_some(())
            });
        }
    }
}

#[test]
fn responses_that_cannot_be_are_refused_as_by_peers() {
    let mut world = World::new(|_| ());
    let control = control();
    let (code, message) = world.refusal(&control);
    let text = "control-mode=response was specified, but no response-correlation-id set";
    assert!(code == 11 && message.contains(text), "{message}");
    let endpoint = "aeron:udp?endpoint=127.0.0.1:9";
    for (channel, id, text) in [
        (&*control, -1, text),
        (&*control, 77, "image.correlationId=77 not found"),
        (endpoint, 123, "unable to find response subscription for response-correlation-id=123"),
    ] {
        let (code, message) = world.refusal(&format!("{channel}|response-correlation-id={id}"));
        assert!(code == 11 && message.contains(text), "{message}");
    }
    for value in ["abc", "-2", ""] {
        let (code, message) = world.refusal(&format!("{endpoint}|response-correlation-id={value}"));
        let text =
            "invalid response-correlation-id, must be a number greater than or equal to -1, or 'prototype'";
        assert!(code == 1 && message.contains(text), "{value}: {code} {message}");
    }
    let (code, message) = world.refusal(&format!("{endpoint}|response-correlation-id=prototype"));
    let text = "unable to find response subscription for response-correlation-id=-2";
    assert!(code == 11 && message.contains(text), "{message}");
    // An image whose sender asks for nothing.
    let (mut requests, channel, _) = channels(&mut world, false);
    let plain = world.exclusive(&channel, REQUESTS).unwrap();
    let image_id = world.until("the image", |_| {
        requests.image_by_session_id(plain.session_id()).map(|image| image.correlation_id())
    });
    let (code, message) = world.refusal(&format!("{control}|response-correlation-id={image_id}"));
    let text = format!("image.correlationId={image_id} did not request a response channel");
    assert!(code == 11 && message.contains(&text), "{message}");
    // Response subscriptions and others do not mix on one socket.
    let _first = world.subscription(&control, ANSWERS).unwrap();
    let other = control.replace("control-mode=response", "control-mode=dynamic");
    match world.subscription(&other, ANSWERS) {
        Err(ClientError::Registration { message, .. }) => {
            let text = "option conflicts with existing subscription: isResponse=false";
            assert!(message.contains(text), "{message}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_prototype_holds_the_socket_of_responses_open() {
    let mut world = World::new(|_| ());
    let control = control();
    let prototype = format!("{control}|response-correlation-id=prototype|term-length=1m");
    let prototype = world.exclusive(&prototype, ANSWERS).unwrap();
    assert_eq!(prototype.term_buffer_length(), 64 << 10);
    let address = control.split("control=").nth(1).unwrap().to_owned();
    assert!(std::net::UdpSocket::bind(&address).is_err(), "{address} is free");
    let (mut requests, channel, _) = channels(&mut world, false);
    let mut requester = world.requester(&channel, &control);
    let image_id = world.image_of(&mut requests, &requester);
    let mut response = world.answer(&control, image_id).unwrap();
    assert_eq!(response.channel_status_id(), prototype.channel_status_id());
    world.exchange(&mut response, &mut requester.subscription, 10, 100);
    assert!(!prototype.is_connected());
    // Another kind of publication does not get its socket.
    let other = control.replace("control-mode=response", "control-mode=dynamic");
    let (_, message) = world.refusal(&other);
    assert!(message.contains("control-mode=response does not share a socket"), "{message}");
}

#[test]
fn too_little_space_is_an_error_that_names_directory_and_bytes() {
    use harrier_ringbuf::heap::HeapMemory;
    let memory = HeapMemory::new();
    let now = SystemClock.now();
    let mut context = DriverContext::new("/shm/aeron");
    context.counters_buffer_length = 1 << 20;
    let driver = Driver::build(context, memory.clone(), UdpTransport, ExecutorMode::Inline, &now).unwrap();
    let mut agents = driver.into_agents();
    let mut client = Aeron::connect(Context::new("/shm/aeron"), memory.clone(), &now).unwrap();
    memory.set_capacity(30 << 20);
    let id = client.add_publication("aeron:ipc?term-length=64m", 10).unwrap();
    let error = loop {
        let now = SystemClock.now();
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
