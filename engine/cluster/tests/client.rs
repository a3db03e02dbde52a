//! The cluster client against a cluster simulated by the test (spec 04 §3.1, §3.2).

use std::path::Path;

use harrier_client::{Aeron, Context, ExclusivePublication, Subscription};
use harrier_cluster::client::{
    ChallengeResponder, ClientState, ClusterClient, ClusterClientContext, ClusterClientError, EgressListener,
};
use harrier_cluster::codec::{Egress, EventCode, Ingress, PROTOCOL_VERSION, SessionHeader};
use harrier_driver::context::DriverContext;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{MappedMemory, PausingClock};
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::ThreadPace;
use harrier_ringbuf::{Clock, SharedThread};

const PATIENCE_NS: i64 = 60_000_000_000;
const SESSION: i64 = 5;
const TERM: i64 = 3;

/// A received connect request.
#[derive(Debug, Clone)]
struct Connect {
    correlation_id: i64,
    stream_id: i32,
    channel: String,
    version: i32,
    credentials: Vec<u8>,
    info: String,
    /// Index of the ingress stream that received the request.
    ingress: usize,
}

#[derive(Default)]
struct Heard {
    messages: Vec<(i64, i64, String)>,
    leaders: Vec<(i64, i32)>,
    events: Vec<EventCode>,
    admin: Vec<(i64, i32, i32, String)>,
}

impl EgressListener for Heard {
    fn on_message(&mut self, session_id: i64, timestamp: i64, message: &[u8]) {
        self.messages.push((session_id, timestamp, String::from_utf8_lossy(message).into_owned()));
    }

    fn on_new_leader(&mut self, term_id: i64, member_id: i32, _: &str) {
        self.leaders.push((term_id, member_id));
    }

    fn on_session_event(&mut self, code: EventCode, _: &str) {
        self.events.push(code);
    }

    fn on_admin_response(&mut self, correlation_id: i64, request_type: i32, code: i32, message: &str) {
        self.admin.push((correlation_id, request_type, code, message.to_owned()));
    }
}

struct World {
    thread: SharedThread,
    aeron: Aeron,
    ingress: Vec<Option<Subscription>>,
    assembler: FragmentAssembler,
    connects: Vec<Connect>,
    /// Other received messages, in order.
    requests: Vec<String>,
    egress: Option<ExclusivePublication>,
    client_aeron: Aeron,
    client: ClusterClient,
    heard: Heard,
    _directory: tempfile::TempDir,
}

impl Drop for World {
    fn drop(&mut self) {
        self.thread.abandon();
    }
}

fn driver(directory: &Path) -> HostDriver {
    let mut context = DriverContext::new(directory.join("aeron"));
    context.timer_interval_ns = 10_000_000;
    context.counters_buffer_length = 1 << 20;
    context.term_buffer_length = 64 << 10;
    context.ipc_term_buffer_length = 64 << 10;
    context.publication_linger_timeout_ns = 50_000_000;
    context.image_liveness_timeout_ns = 500_000_000;
    context.publication_connection_timeout_ns = 500_000_000;
    HostDriver::on_host(context, ExecutorMode::Inline, &PausingClock.now()).unwrap()
}

fn context() -> ClusterClientContext {
    let mut context = ClusterClientContext::new("", "aeron:ipc?alias=egress");
    context.ingress_channel = "aeron:ipc".into();
    context.message_timeout_ns = PATIENCE_NS;
    context.keepalive_interval_ns = 0;
    context.client_name = "trader".into();
    context
}

impl World {
    /// A cluster with these ingress channels.
    fn new(context: ClusterClientContext, ingress: &[&str]) -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-client-").tempdir_in("/dev/shm").unwrap();
        let pace = ThreadPace::new(PausingClock, IdleStrategy::Noop);
        let thread = SharedThread::new(Box::new(pace), Box::new(|role, error| panic!("{role}: {error}")));
        thread.install(driver(directory.path()).into_agents()).unwrap();
        let connect = || {
            let context = Context::new(directory.path().join("aeron"));
            Aeron::connect(context, MappedMemory, &PausingClock.now()).unwrap()
        };
        let mut world = Self {
            thread,
            aeron: connect(),
            ingress: Vec::new(),
            assembler: FragmentAssembler::new(),
            connects: Vec::new(),
            requests: Vec::new(),
            egress: None,
            client_aeron: connect(),
            client: ClusterClient::new(context).unwrap(),
            heard: Heard::default(),
            _directory: directory,
        };
        for channel in ingress {
            let subscription = world.subscribe(channel);
            world.ingress.push(Some(subscription));
        }
        world
    }

    fn ipc() -> Self {
        Self::new(context(), &["aeron:ipc"])
    }

    /// A world whose client has an open session.
    fn connected(context: ClusterClientContext) -> Self {
        let mut world = Self::new(context, &["aeron:ipc"]);
        let request = world.request();
        world.accept(&request, SESSION);
        world.state(ClientState::Connected);
        world
    }

    fn subscribe(&mut self, channel: &str) -> Subscription {
        let id = self.aeron.add_subscription(channel, 101).unwrap();
        self.until("the ingress", |world| world.aeron.subscription(id).unwrap())
    }

    fn poll(&mut self) -> Result<(), ClusterClientError> {
        self.thread.run_once();
        let now = PausingClock.now();
        self.aeron.do_work(&now).unwrap();
        self.client_aeron.do_work(&now).unwrap();
        for index in 0..self.ingress.len() {
            let Some(mut stream) = self.ingress[index].take() else { continue };
            let mut assembler = std::mem::take(&mut self.assembler);
            stream.poll(10, &mut |payload, header| {
                assembler.on_fragment(payload, header, &mut |message, _| self.on_ingress(index, message));
            });
            self.assembler = assembler;
            self.ingress[index] = Some(stream);
        }
        self.client.poll(&mut self.client_aeron, &now, &mut self.heard).map(|_| ())
    }

    fn on_ingress(&mut self, ingress: usize, message: &[u8]) {
        match Ingress::decode(message).unwrap().unwrap() {
            Ingress::Connect {
                correlation_id,
                response_stream_id,
                version,
                response_channel,
                credentials,
                client_info,
            } => self.connects.push(Connect {
                correlation_id,
                stream_id: response_stream_id,
                channel: response_channel.to_owned(),
                version,
                credentials: credentials.to_vec(),
                info: client_info.to_owned(),
                ingress,
            }),
            Ingress::Message { header, payload } => {
                let (term, session) = (header.leadership_term_id, header.session_id);
                assert_eq!(header.timestamp, 0);
                self.requests.push(format!("message {term} {session} {}", String::from_utf8_lossy(payload)));
            }
            other => self.requests.push(format!("{other:?}")),
        }
    }

    fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.poll().unwrap();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        panic!("{what} did not come: {:?} {:?}", self.client.state(), self.requests);
    }

    fn error(&mut self) -> ClusterClientError {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        loop {
            assert!(PausingClock.now().ns < deadline_ns, "no error came");
            if let Err(error) = self.poll() {
                return error;
            }
        }
    }

    fn state(&mut self, wanted: ClientState) {
        self.until("the state", |world| (world.client.state() == wanted).then_some(()));
    }

    /// The next connect request.
    fn request(&mut self) -> Connect {
        let count = self.connects.len();
        self.until("the connect request", |world| world.connects.get(count).cloned())
    }

    fn answers(&mut self, request: &Connect) {
        let id = self.aeron.add_exclusive_publication(&request.channel, request.stream_id).unwrap();
        let egress = self.until("the egress", |world| world.aeron.exclusive_publication(id).unwrap());
        self.egress = Some(egress);
    }

    fn say(&mut self, message: &Egress<'_>) {
        let mut buffer = [0; 512];
        let length = message.encode(&mut buffer).unwrap();
        self.until("room", |world| world.egress.as_mut().unwrap().offer(&buffer[..length]).ok());
    }

    fn event(&mut self, correlation_id: i64, session_id: i64, code: EventCode, detail: &str) {
        self.say(&Egress::SessionEvent {
            session_id,
            correlation_id,
            leadership_term_id: TERM,
            leader_member_id: 1,
            code,
            version: PROTOCOL_VERSION,
            leader_heartbeat_timeout_ns: Some(100_000_000),
            detail,
        });
    }

    fn accept(&mut self, request: &Connect, session_id: i64) {
        self.answers(request);
        self.event(request.correlation_id, session_id, EventCode::Ok, "");
    }

    fn requested(&mut self, text: &str) -> String {
        self.until(text, |world| world.requests.iter().find(|request| request.contains(text)).cloned())
    }

    fn new_leader(&mut self, term_id: i64) {
        self.say(&Egress::NewLeader {
            leadership_term_id: term_id,
            session_id: SESSION,
            leader_member_id: 0,
            ingress_endpoints: "0=localhost:1",
        });
    }
}

#[test]
fn a_session_is_asked_for_and_opened() {
    let mut context = context();
    context.credentials = b"secret".to_vec();
    let mut world = World::new(context, &["aeron:ipc"]);
    assert!(matches!(world.client.offer(b"early"), Err(ClusterClientError::NotConnected)));
    let request = world.request();
    assert_eq!((request.stream_id, request.version), (102, PROTOCOL_VERSION));
    assert_eq!(
        (request.channel.as_str(), request.credentials.as_slice()),
        ("aeron:ipc?alias=egress", &b"secret"[..])
    );
    assert!(request.info.starts_with("name=trader version="), "{}", request.info);
    world.answers(&request);
    // Answers to other clients are ignored.
    world.event(request.correlation_id + 1_000, 77, EventCode::Error, "for another one");
    world.event(request.correlation_id, SESSION, EventCode::Ok, "");
    world.state(ClientState::Connected);
    let client = &world.client;
    assert_eq!(
        (client.session_id(), client.leadership_term_id(), client.leader_member_id()),
        (SESSION, TERM, 1)
    );
}

#[test]
fn messages_go_both_ways_under_the_sessions_header() {
    let mut world = World::connected(context());
    world.client.offer(b"offered").unwrap();
    let mut claim = world.client.try_claim(7).unwrap();
    claim.put(0, b"claimed");
    claim.commit();
    world.client.try_claim(3).unwrap().abort();
    world.client.offer(&[b'x'; 5_000]).unwrap();
    world.requested("xxx");
    assert_eq!(world.requests[..2], ["message 3 5 offered", "message 3 5 claimed"]);
    assert_eq!(world.requests[2].len(), "message 3 5 ".len() + 5_000);
    for session_id in [SESSION + 1, SESSION] {
        let header = SessionHeader { leadership_term_id: TERM, session_id, timestamp: 99 };
        world.say(&Egress::Message { header, payload: b"answer" });
    }
    world.until("the answer", |world| world.heard.messages.first().cloned());
    assert_eq!(world.heard.messages, [(SESSION, 99, "answer".to_owned())]);
}

#[test]
fn a_challenge_is_answered_by_what_it_asks() {
    let mut context = context();
    context.challenge_answer = b"not this".to_vec();
    context.challenge_responder =
        Some(ChallengeResponder::new(|challenge| challenge.iter().rev().copied().collect()));
    let mut world = World::new(context, &["aeron:ipc"]);
    let request = world.request();
    world.answers(&request);
    let correlation_id = request.correlation_id;
    world.say(&Egress::Challenge { correlation_id, session_id: SESSION, challenge: b"abc" });
    let answer = world.requested("ChallengeResponse");
    assert!(answer.contains("session_id: 5, credentials: [99, 98, 97]"), "{answer}");
    let id = answer.split("correlation_id: ").nth(1).unwrap().split(',').next().unwrap();
    let id: i64 = id.parse().unwrap();
    assert_ne!(id, correlation_id);
    world.event(id, SESSION, EventCode::Ok, "");
    world.state(ClientState::Connected);
}

#[test]
fn a_follower_sends_the_client_to_the_leader() {
    let ports = harrier_platform::free_ports(2).unwrap();
    let channels = ports.iter().map(|port| format!("aeron:udp?endpoint=127.0.0.1:{port}"));
    let channels: Vec<String> = channels.collect();
    let context = ClusterClientContext {
        ingress_endpoints: format!("0=127.0.0.1:{}", ports[0]),
        ingress_channel: "aeron:udp?term-length=64k".into(),
        egress_channel: "aeron:udp?endpoint=127.0.0.1:0".into(),
        is_ingress_exclusive: false,
        ..context()
    };
    let mut world = World::new(context, &[&channels[0], &channels[1]]);
    let first = world.request();
    assert!(first.ingress == 0 && first.channel.contains("rejoin=false"), "{first:?}");
    assert!(!first.channel.contains(":0|") && !first.channel.ends_with(":0"), "{first:?}");
    world.answers(&first);
    let endpoints = format!("0=127.0.0.1:{},1=127.0.0.1:{}", ports[0], ports[1]);
    world.event(first.correlation_id, -1, EventCode::Redirect, &endpoints);
    let second = world.request();
    assert_eq!(second.ingress, 1);
    assert_ne!(second.correlation_id, first.correlation_id);
    world.accept(&second, SESSION);
    world.state(ClientState::Connected);
    world.client.offer(b"to the leader").unwrap();
    world.requested("to the leader");
}

#[test]
fn a_redirect_to_a_dead_leader_does_not_take_the_whole_time() {
    let ports = harrier_platform::free_ports(3).unwrap();
    let channels: Vec<String> =
        ports.iter().map(|port| format!("aeron:udp?endpoint=127.0.0.1:{port}")).collect();
    let endpoints = format!("0=127.0.0.1:{},1=127.0.0.1:{},2=127.0.0.1:{}", ports[0], ports[1], ports[2]);
    let context = ClusterClientContext {
        ingress_endpoints: endpoints.clone(),
        ingress_channel: "aeron:udp?term-length=64k".into(),
        egress_channel: "aeron:udp?endpoint=127.0.0.1:0".into(),
        ..context()
    };
    // Member 1 was the leader and is dead.
    let mut world = World::new(context, &[&channels[0], &channels[2]]);
    let begin_ns = PausingClock.now().ns;
    let first = world.request();
    world.answers(&first);
    world.event(first.correlation_id, -1, EventCode::Redirect, &endpoints);
    let second = world.request();
    world.accept(&second, SESSION);
    world.state(ClientState::Connected);
    assert!(PausingClock.now().ns - begin_ns < PATIENCE_NS / 2);
}

#[test]
fn a_redirect_to_nowhere_is_an_error() {
    let mut world = World::ipc();
    let request = world.request();
    world.answers(&request);
    world.event(request.correlation_id, -1, EventCode::Redirect, "0=nowhere");
    let error = world.error();
    assert!(matches!(&error, ClusterClientError::Endpoints(text) if text == "0=nowhere"), "{error}");
}

#[test]
fn refusals_are_told_in_the_clusters_words() {
    for (code, detail) in [
        (EventCode::Error, "concurrent session limit"),
        (EventCode::AuthenticationRejected, "session failed authentication"),
    ] {
        let mut world = World::ipc();
        let request = world.request();
        world.answers(&request);
        let mut buffer = [0; 512];
        let message = Egress::SessionEvent {
            session_id: SESSION,
            correlation_id: request.correlation_id,
            leadership_term_id: TERM,
            leader_member_id: 1,
            code,
            version: PROTOCOL_VERSION,
            leader_heartbeat_timeout_ns: None,
            detail,
        };
        let length = message.encode(&mut buffer).unwrap();
        world.until("room", |world| world.egress.as_mut().unwrap().offer(&buffer[..length]).ok());
        let error = world.error();
        assert!(
            matches!(
                &error,
                ClusterClientError::Refused { code: actual, detail: words }
                    if *actual == code && words == detail
            ),
            "{error}"
        );
        assert_eq!(world.client.state(), ClientState::Closed);
    }
}

#[test]
fn without_a_cluster_the_error_names_streams_and_stage() {
    let mut context = context();
    context.message_timeout_ns = 200_000_000;
    let mut world = World::new(context, &[]);
    let error = world.error().to_string();
    for text in ["connecting to the ingress", "ingress 0=aeron:ipc: not connected", "egress aeron:ipc"] {
        assert!(error.contains(text), "{error}");
    }
    let mut context = self::context();
    context.message_timeout_ns = 300_000_000;
    let mut world = World::new(context, &["aeron:ipc"]);
    let error = world.error().to_string();
    assert!(error.contains("waiting for the connect response") && error.contains(": connected"), "{error}");
}

#[test]
fn a_silent_session_is_kept_alive() {
    let mut context = context();
    context.keepalive_interval_ns = 20_000_000;
    let mut world = World::connected(context);
    let alive = "KeepAlive { leadership_term_id: 3, session_id: 5 }";
    world.until("three of them", |world| {
        (world.requests.iter().filter(|request| *request == alive).count() >= 3).then_some(())
    });

    let mut world = World::connected(self::context());
    let until_ns = PausingClock.now().ns + 100_000_000;
    world.until("a while", |_| (PausingClock.now().ns > until_ns).then_some(()));
    assert!(world.requests.is_empty());
    assert!(world.client.send_keep_alive().unwrap());
    world.requested(alive);
}

#[test]
fn a_snapshot_is_asked_for_and_answered() {
    let mut world = World::connected(context());
    assert!(world.client.request_snapshot(42).unwrap());
    let asked = world.requested("Admin");
    assert_eq!(asked, "Admin { leadership_term_id: 3, session_id: 5, correlation_id: 42, request_type: 0 }");
    for (session_id, code, message) in [(SESSION + 1, 0, ""), (SESSION, 2, "not authorised")] {
        world.say(&Egress::AdminResponse { session_id, correlation_id: 42, request_type: 0, code, message });
    }
    world.until("the answer", |world| world.heard.admin.first().cloned());
    assert_eq!(world.heard.admin, [(42, 0, 2, "not authorised".to_owned())]);
}

#[test]
fn the_session_goes_on_with_the_next_leader() {
    let mut world = World::connected(context());
    world.ingress[0] = None;
    world.until("the loss", |world| {
        let error = world.client.offer(b"into the void").err()?;
        assert!(error.is_retryable(), "{error}");
        (world.client.state() == ClientState::AwaitNewLeader).then_some(())
    });
    world.requests.clear();
    let ingress = world.subscribe("aeron:ipc");
    world.ingress[0] = Some(ingress);
    world.event(1, SESSION, EventCode::Ok, "");
    world.new_leader(TERM + 1);
    world.state(ClientState::Connected);
    assert_eq!(world.heard.leaders, [(TERM + 1, 0)]);
    assert_eq!(world.heard.events, [EventCode::Ok]);
    world.client.offer(b"again").unwrap();
    world.requested("again");
    // Messages to the old leader may still arrive; their term identifies them.
    world.requests.retain(|request| !request.starts_with("message 3 "));
    assert_eq!(
        world.requests,
        ["KeepAlive { leadership_term_id: 4, session_id: 5 }", "message 4 5 again"],
        "a sign of life comes first"
    );
}

#[test]
fn a_leader_whose_egress_ends_is_lost_even_while_others_send() {
    let mut world = World::connected(context());
    let id = world.aeron.add_exclusive_publication("aeron:ipc?alias=egress", 102).unwrap();
    let other = world.until("another one", |world| world.aeron.exclusive_publication(id).unwrap());
    world.egress = Some(other);
    // The leader's stream ended with the previous publication.
    world.state(ClientState::AwaitNewLeader);
    world.new_leader(TERM + 1);
    world.state(ClientState::Connected);
    assert_eq!(world.client.leadership_term_id(), TERM + 1);
}

#[test]
fn a_leader_that_does_not_come_ends_the_client() {
    let mut world = World::connected(context());
    world.egress = None;
    // The client waits twice the leader's heartbeat timeout.
    let error = world.error().to_string();
    assert!(error.contains("within 200000000 ns: waiting for a new leader"), "{error}");
    assert_eq!(world.client.state(), ClientState::Closed);
}

#[test]
fn the_cluster_may_end_the_session() {
    let mut world = World::connected(context());
    world.event(1, SESSION + 1, EventCode::Closed, "TIMEOUT");
    world.event(1, SESSION, EventCode::Closed, "SERVICE_ACTION");
    let error = world.error();
    assert!(matches!(&error, ClusterClientError::Closed(detail) if detail == "SERVICE_ACTION"), "{error}");
    assert_eq!(world.heard.events, [EventCode::Closed]);
}

#[test]
fn the_client_ends_its_session() {
    let mut world = World::connected(context());
    world.client.close();
    assert!(matches!(world.poll(), Err(ClusterClientError::NotConnected)));
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    while world.requests.is_empty() {
        assert!(PausingClock.now().ns < deadline_ns);
        let _closed = world.poll();
    }
    assert_eq!(world.requests, ["Close { leadership_term_id: 3, session_id: 5 }"]);
    assert_eq!(world.client.state(), ClientState::Closed);
}
