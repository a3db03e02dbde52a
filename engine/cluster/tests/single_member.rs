//! One member with a service and a client on one thread: driver, archive, consensus module, container.

use std::cell::RefCell;
use std::path::Path;
use std::rc::Rc;

use harrier_archive::{Archive, ArchiveContext};
use harrier_client::{Aeron, Context};
use harrier_cluster::client::{ClusterClient, ClusterClientContext, ClusterClientError, EgressListener};
use harrier_cluster::codec::{CloseReason, EventCode};
use harrier_cluster::module::{AuthenticatorSupplier, ConsensusModule, ConsensusModuleContext};
use harrier_cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceContainer, ServiceContainerContext,
    ServiceFailure, SnapshotPublication,
};
use harrier_driver::context::DriverContext;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::ThreadPace;
use harrier_ringbuf::{Clock, SharedThread};

const PATIENCE_NS: i64 = 60_000_000_000;

/// Events that the services of a test have seen, in order.
type Seen = Rc<RefCell<Vec<String>>>;

struct Recorder {
    seen: Seen,
}

impl Recorder {
    fn note(&self, text: String) {
        self.seen.borrow_mut().push(text);
    }

    fn reply(cluster: &mut Cluster<'_>, session_id: i64, message: &[u8]) {
        loop {
            match cluster.send_to_session(session_id, message) {
                Err(error) if error.is_retryable() => cluster.idle(0),
                _ => return,
            }
        }
    }
}

impl ClusteredService for Recorder {
    fn on_session_open(&mut self, _: &mut Cluster<'_>, session: &ClientSession, _: i64) {
        self.note(format!("open {}", session.id));
    }

    fn on_session_close(
        &mut self,
        _: &mut Cluster<'_>,
        session: &ClientSession,
        _: i64,
        reason: CloseReason,
    ) {
        self.note(format!("close {} {}", session.id, reason.name()));
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _: i64,
        message: &[u8],
        _: &Header<'_>,
    ) {
        let text = String::from_utf8_lossy(message).into_owned();
        let Some(id) = session.map(|session| session.id) else {
            return self.note(format!("service message {text}"));
        };
        match text.split_once(' ') {
            Some(("timer", delay_ms)) => {
                let deadline = cluster.time() + delay_ms.parse::<i64>().unwrap();
                while cluster.schedule_timer(7, deadline).is_err() {
                    cluster.idle(0);
                }
            }
            Some(("forward", rest)) => {
                cluster.offer(rest.as_bytes()).unwrap();
            }
            _ if text == "close me" => cluster.close_client_session(id).unwrap(),
            _ => {}
        }
        self.note(format!("message {id} {}", &text[..text.len().min(20)]));
        Self::reply(cluster, id, message);
    }

    fn on_take_snapshot(
        &mut self,
        _: &mut Cluster<'_>,
        _: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        Ok(())
    }

    fn on_timer_event(&mut self, cluster: &mut Cluster<'_>, correlation_id: i64, _: i64) {
        self.note(format!("timer {correlation_id}"));
        let ids: Vec<i64> = cluster.client_sessions().map(|session| session.id).collect();
        for id in ids {
            Self::reply(cluster, id, b"timer");
        }
    }
}

#[derive(Default)]
struct Heard {
    messages: Vec<Vec<u8>>,
    leaders: Vec<i64>,
    events: Vec<EventCode>,
}

impl EgressListener for Heard {
    fn on_message(&mut self, _: i64, _: i64, message: &[u8]) {
        self.messages.push(message.to_vec());
    }

    fn on_new_leader(&mut self, term_id: i64, _: i32, _: &str) {
        self.leaders.push(term_id);
    }

    fn on_session_event(&mut self, code: EventCode, _: &str) {
        self.events.push(code);
    }
}

struct Node {
    thread: SharedThread,
    errors: Seen,
    seen: Seen,
}

fn driver(directory: &Path, name: &str) -> HostDriver {
    let mut context = DriverContext::new(directory.join(name));
    context.timer_interval_ns = 20_000_000;
    context.counters_buffer_length = 1 << 20;
    context.term_buffer_length = 64 << 10;
    context.publication_linger_timeout_ns = 100_000_000;
    context.seed = PausingClock.now().ns as u64;
    HostDriver::on_host(context, ExecutorMode::Inline, &PausingClock.now()).unwrap()
}

impl Node {
    fn start(directory: &Path, ports: &[u16], change: impl FnOnce(&mut ConsensusModuleContext)) -> Self {
        let now = PausingClock.now();
        let (errors, seen) = (Seen::default(), Seen::default());
        let sink = errors.clone();
        let pace = ThreadPace::new(PausingClock, IdleStrategy::Noop);
        let thread = SharedThread::new(
            Box::new(pace),
            Box::new(move |role, error| sink.borrow_mut().push(format!("{role}: {error}"))),
        );
        let driver = driver(directory, "node");
        let mut archive = ArchiveContext::new(directory.join("node"), directory.join("archive"));
        archive.segment_file_length = 128 << 10;
        archive.catalog_capacity = 4_096;
        archive.low_storage_space_threshold = 0;
        let archive = Archive::launch(archive, MappedMemory, FileStorage::inline(), &now).unwrap();
        let members = format!(
            "0,127.0.0.1:{},127.0.0.1:{},127.0.0.1:{},127.0.0.1:{},127.0.0.1:{}",
            ports[0], ports[1], ports[2], ports[3], ports[4]
        );
        let mut context =
            ConsensusModuleContext::new(directory.join("node"), directory.join("cluster"), 0, members);
        context.log_channel = "aeron:udp?term-length=64k".into();
        context.seed = now.ns as u64;
        change(&mut context);
        let module = ConsensusModule::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap();
        let container = ServiceContainerContext::new(directory.join("node"), directory.join("cluster"), 0);
        let container = ServiceContainer::launch(
            container,
            Recorder { seen: seen.clone() },
            MappedMemory,
            Box::new(thread.clone()),
            &now,
        )
        .unwrap();
        let mut agents = driver.into_agents();
        agents.push(Box::new(module));
        agents.push(Box::new(archive));
        agents.push(Box::new(container));
        thread.install(agents).unwrap();
        Self { thread, errors, seen }
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.kill();
        self.client_thread.abandon();
    }
}

struct World {
    node: Option<Node>,
    client_thread: SharedThread,
    aeron: Aeron,
    client: ClusterClient,
    heard: Heard,
    ports: Vec<u16>,
    directory: tempfile::TempDir,
}

impl World {
    fn new(change: impl FnOnce(&mut ConsensusModuleContext)) -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-cluster-").tempdir_in("/dev/shm").unwrap();
        let ports = harrier_platform::free_ports(5).unwrap();
        let node = Node::start(directory.path(), &ports, change);
        let client_thread = SharedThread::new(
            Box::new(ThreadPace::new(PausingClock, IdleStrategy::Noop)),
            Box::new(|role, error| panic!("{role}: {error}")),
        );
        client_thread.install(driver(directory.path(), "client").into_agents()).unwrap();
        let context = Context::new(directory.path().join("client"));
        let aeron = Aeron::connect(context, MappedMemory, &PausingClock.now()).unwrap();
        let client = ClusterClient::new(Self::client_context(&ports)).unwrap();
        Self { node: Some(node), client_thread, aeron, client, heard: Heard::default(), ports, directory }
    }

    fn client_context(ports: &[u16]) -> ClusterClientContext {
        let mut context =
            ClusterClientContext::new(format!("0=127.0.0.1:{}", ports[0]), "aeron:udp?endpoint=127.0.0.1:0");
        context.message_timeout_ns = 20_000_000_000;
        context.keepalive_interval_ns = 100_000_000;
        context
    }

    fn step(&mut self) -> Result<(), ClusterClientError> {
        if let Some(node) = &self.node {
            node.thread.run_once();
            assert!(node.errors.borrow().is_empty(), "{:?}", node.errors.borrow());
        }
        self.client_thread.run_once();
        let now = PausingClock.now();
        self.aeron.do_work(&now).unwrap();
        self.client.poll(&mut self.aeron, &now, &mut self.heard).map(|_| ())
    }

    fn until(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> bool) {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.step().unwrap();
            if condition(self) {
                return;
            }
        }
        panic!("{what} did not come");
    }

    fn connect(&mut self) {
        self.until("the session", |world| world.client.is_connected());
    }

    fn offer(&mut self, message: &[u8]) {
        self.until("room", |world| match world.client.offer(message) {
            Ok(_) => true,
            Err(ClusterClientError::Offer(_) | ClusterClientError::NotConnected) => false,
            Err(error) => panic!("{error}"),
        });
    }

    fn exchange(&mut self, count: usize, length: usize) {
        let before = self.heard.messages.len();
        for number in 0..count {
            let mut message = format!("{number:08} ").into_bytes();
            message.resize(length, b'.');
            self.offer(&message);
        }
        self.until("the last reply", |world| world.heard.messages.len() == before + count);
        for (number, message) in self.heard.messages[before..].iter().enumerate() {
            assert_eq!(message.len(), length);
            assert!(message.starts_with(format!("{number:08} ").as_bytes()));
        }
    }

    fn seen(&self) -> Vec<String> {
        self.node.as_ref().unwrap().seen.borrow().clone()
    }

    fn kill(&mut self) {
        if let Some(node) = self.node.take() {
            node.thread.abandon();
        }
    }

    fn restart(&mut self) {
        let node = Node::start(self.directory.path(), &self.ports, |_| ());
        self.node = Some(node);
    }
}

#[test]
fn messages_are_answered_in_order() {
    let mut world = World::new(|_| ());
    world.connect();
    world.exchange(2_000, 100);
    world.exchange(20, 5_000);
    world.client.close();
    let id = world.client.session_id();
    let closed = format!("close {id} CLIENT_ACTION");
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    while world.seen().last() != Some(&closed) {
        assert!(PausingClock.now().ns < deadline_ns, "{:?}", world.seen().last());
        let _closed = world.step();
    }
}

#[test]
fn a_timer_fires_once() {
    let mut world = World::new(|_| ());
    world.connect();
    world.offer(b"timer 50");
    world.until("the timer", |world| world.heard.messages.iter().any(|message| message == b"timer"));
    world.exchange(100, 32);
    assert_eq!(world.seen().iter().filter(|event| *event == "timer 7").count(), 1);
}

#[test]
fn a_services_message_goes_through_the_log() {
    let mut world = World::new(|_| ());
    world.connect();
    world.offer(b"forward hello");
    world.until("the message", |world| world.seen().contains(&"service message hello".to_owned()));
}

#[test]
fn a_service_closes_a_session() {
    let mut world = World::new(|_| ());
    world.connect();
    world.offer(b"close me");
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    let error = loop {
        if let Err(error) = world.step() {
            break error;
        }
        assert!(PausingClock.now().ns < deadline_ns);
    };
    assert!(matches!(error, ClusterClientError::Closed(detail) if detail == "SERVICE_ACTION"));
}

#[test]
fn a_silent_client_is_timed_out() {
    let mut world = World::new(|context| context.session_timeout_ns = 300_000_000);
    world.connect();
    let id = world.client.session_id();
    let closed = format!("close {id} TIMEOUT");
    let node = world.node.as_ref().unwrap();
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    while !node.seen.borrow().contains(&closed) {
        node.thread.run_once();
        world.client_thread.run_once();
        assert!(PausingClock.now().ns < deadline_ns);
    }
}

#[test]
fn a_killed_node_comes_back_with_its_log_and_its_sessions() {
    let mut world = World::new(|_| ());
    world.connect();
    world.exchange(500, 200);
    let before = world.seen();
    let session_id = world.client.session_id();
    world.kill();
    world.restart();
    world.until("the new term", |world| !world.heard.leaders.is_empty() && world.client.is_connected());
    assert_eq!(world.client.session_id(), session_id);
    assert_eq!(world.heard.leaders, [1]);
    assert_eq!(world.seen()[..before.len()], before[..]);
    world.exchange(500, 200);
}

#[test]
fn credentials_are_checked() {
    let mut world = World::new(|context| {
        context.authenticator = AuthenticatorSupplier::challenge("who", "me");
    });
    let mut context = World::client_context(&world.ports);
    context.challenge_answer = b"me".to_vec();
    let good = ClusterClient::new(context).unwrap();
    let stranger = std::mem::replace(&mut world.client, good);
    world.connect();
    world.exchange(10, 32);
    world.client = stranger;
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    let error = loop {
        if let Err(error) = world.step() {
            break error;
        }
        assert!(PausingClock.now().ns < deadline_ns);
    };
    assert!(matches!(error, ClusterClientError::Refused { code: EventCode::AuthenticationRejected, .. }));
}

#[test]
fn too_many_sessions_are_refused() {
    let mut world = World::new(|context| context.max_sessions = 1);
    world.connect();
    let second = ClusterClient::new(World::client_context(&world.ports)).unwrap();
    let first = std::mem::replace(&mut world.client, second);
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    let error = loop {
        if let Err(error) = world.step() {
            break error;
        }
        assert!(PausingClock.now().ns < deadline_ns);
    };
    assert!(
        matches!(error, ClusterClientError::Refused { code: EventCode::Error, detail } if detail == "concurrent session limit")
    );
    drop(first);
}
