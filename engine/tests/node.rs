//! Whole nodes as a program embeds them: commands, layouts, services in other processes, settings by name.

use std::path::Path;
use std::process::{Child, Command};

use harrier::client::{Aeron, Context};
use harrier::cluster::client::EgressListener;
use harrier::cluster::module::Authorisation;
use harrier::cluster::recording_log::{Entry, EntryType, parse};
use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};
use harrier::driver::context::DriverContext;
use harrier::driver::{ExecutorMode, HostDriver};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::Clock;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::{
    BlockingClientError, ClusterCommand, Layout, Node, NodeError, Properties, ServiceFactory, ServiceNode,
    ServiceNodeContext,
};

const PATIENCE_NS: i64 = 60_000_000_000;
/// Environment variable with the directory of the node whose services a child process runs.
const CHILD_BASE: &str = "HARRIER_TEST_CHILD_BASE";

/// Stores messages of clients and of other services, and returns them on request.
#[derive(Default)]
struct Keeper {
    kept: Vec<String>,
}

impl ClusteredService for Keeper {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        snapshot.read_to_end(cluster, &mut |message| {
            self.kept.push(String::from_utf8_lossy(message).into_owned());
        })?;
        Ok(())
    }

    fn on_session_message(
        &mut self,
        cluster: &mut Cluster<'_>,
        session: Option<&ClientSession>,
        _: i64,
        message: &[u8],
        _: &Header<'_>,
    ) {
        let id = cluster.service_id();
        let text = String::from_utf8_lossy(message).into_owned();
        assert_ne!(text, "panic");
        let Some(session) = session else {
            return self.kept.push(format!("of a service: {text}"));
        };
        if text == "tell" {
            let answer = format!("{id} has {}", self.kept.join(", "));
            cluster.retry(|cluster| cluster.send_to_session(session.id, answer.as_bytes())).unwrap();
            return;
        }
        if text == "ask around" {
            let question = format!("{id} asks");
            cluster.retry(|cluster| cluster.offer(question.as_bytes())).unwrap();
        }
        self.kept.push(text);
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        for text in &self.kept {
            cluster.retry(|_| Ok(snapshot.offer(text.as_bytes())?))?;
        }
        Ok(())
    }
}

pub(crate) fn keepers(count: usize) -> Vec<ServiceFactory> {
    (0..count)
        .map(|_| Box::new(|| Box::new(Keeper::default()) as Box<dyn ClusteredService>) as ServiceFactory)
        .collect()
}

#[derive(Default)]
pub(crate) struct Heard {
    answers: Vec<String>,
}

impl EgressListener for Heard {
    fn on_message(&mut self, _: i64, _: i64, message: &[u8]) {
        self.answers.push(String::from_utf8_lossy(message).into_owned());
    }
}

pub(crate) fn base() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("harrier-node-").tempdir_in("/dev/shm").unwrap()
}

pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    while !condition() {
        assert!(SystemClock.now().ns < deadline_ns, "{what} did not come");
        std::thread::yield_now();
    }
}

pub(crate) fn snapshot(node: &Node) {
    node.command(ClusterCommand::Snapshot).unwrap();
    until("the snapshot", || node.is_command_done().unwrap());
    assert_eq!(node.snapshot_count().unwrap(), 1);
}

/// Returns the answer of each service about its content.
pub(crate) fn told(client: &mut harrier::BlockingClusterClient, services: usize) -> Vec<String> {
    let mut heard = Heard::default();
    client.offer(b"tell", &mut heard).unwrap();
    client.wait(&mut heard, |heard| heard.answers.len() == services).unwrap();
    heard.answers.sort();
    heard.answers
}

fn recording_log(base: &Path) -> Vec<Entry> {
    let path = base.join("node/cluster/recording.log");
    parse(&path, &std::fs::read(&path).unwrap()).unwrap()
}

#[test]
fn a_shutdown_takes_a_snapshot_and_ends_the_node_as_told() {
    for layout in [Layout::Fused, Layout::Threads] {
        let base = base();
        let cluster = crate::support::Cluster::new(base.path()).unwrap();
        let start = || {
            let context = harrier::NodeContext { layout, ..cluster.context() };
            let node = Node::launch(context, keepers(2)).unwrap();
            until("readiness", || node.is_ready());
            node
        };
        let node = start();
        let mut client = cluster.connect().unwrap();
        client.offer(b"one", &mut Heard::default()).unwrap();
        assert_eq!(told(&mut client, 2), ["0 has one", "1 has one"]);
        client.close();
        node.command(ClusterCommand::Shutdown).unwrap();
        until("the end", || node.has_ended_as_told());
        until("the end of a thread", || node.is_ending());
        assert_eq!(node.failures(), [""; 0], "{layout:?}");
        node.stop().unwrap();

        let entries = recording_log(base.path());
        let kinds: Vec<(EntryType, i32)> =
            entries.iter().map(|entry| (entry.entry_type, entry.service_id)).collect();
        let snapshot = EntryType::Snapshot;
        assert_eq!(kinds, [(EntryType::Term, -1), (snapshot, 1), (snapshot, 0), (snapshot, -1)]);
        assert!(entries.iter().all(|entry| entry.log_position == entries[1].log_position), "{entries:?}");

        let node = start();
        let mut client = cluster.connect().unwrap();
        client.offer(b"two", &mut Heard::default()).unwrap();
        assert_eq!(told(&mut client, 2), ["0 has one, two", "1 has one, two"]);
        client.close();
        node.command(ClusterCommand::Abort).unwrap();
        until("the end", || node.has_ended_as_told());
        node.stop().unwrap();
    }
}

#[test]
fn messages_between_services_reach_all_services_once() {
    let base = base();
    let cluster = crate::support::Cluster::new(base.path()).unwrap();
    let node = cluster.start(keepers(2)).unwrap();
    let mut client = cluster.connect().unwrap();
    client.offer(b"ask around", &mut Heard::default()).unwrap();
    let all = |id: usize, order: [usize; 2]| {
        format!("{id} has ask around, of a service: {} asks, of a service: {} asks", order[0], order[1])
    };
    let mut answers = Vec::new();
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    while !answers.iter().any(|answer: &String| answer.matches("asks").count() == 2) {
        assert!(SystemClock.now().ns < deadline_ns, "{answers:?}");
        answers = told(&mut client, 2);
    }
    let is_expected = [[0, 1], [1, 0]].iter().any(|order| answers == [all(0, *order), all(1, *order)]);
    assert!(is_expected, "{answers:?}");
    snapshot(&node);
    let before = told(&mut client, 2);
    client.close();
    node.stop().unwrap();
    let node = cluster.start(keepers(2)).unwrap();
    let mut client = cluster.connect().unwrap();
    assert_eq!(told(&mut client, 2), before);
    client.close();
    node.stop().unwrap();
}

/// The services of a child process: this test program, started again with a directory.
#[test]
fn services_of_a_child_process() {
    let Ok(base) = std::env::var(CHILD_BASE) else { return };
    let base = Path::new(&base);
    let mut context = ServiceNodeContext::new(base.join("aeron"), base.join("node/cluster"));
    context.idle = IdleStrategy::Yield;
    let mut keepers = keepers(1);
    let services = ServiceNode::launch(&context, vec![(1, keepers.remove(0))]).unwrap();
    until("the end", || services.is_ending());
    assert!(services.has_ended_as_told(), "{:?}", services.failures());
    services.stop().unwrap();
}

/// A child that is killed with its test.
struct Process(Child);

impl Process {
    fn start(base: &Path) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "node::services_of_a_child_process"]).env(CHILD_BASE, base);
        Self(command.stdout(std::process::Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _reaped = self.0.wait();
    }
}

#[test]
fn a_service_in_another_process_is_one_of_the_nodes() {
    let base = base();
    let cluster = crate::support::Cluster::new(base.path()).unwrap();
    let start = || {
        let context = harrier::NodeContext { service_count: 2, ..cluster.context() };
        Node::launch(context, keepers(1)).unwrap()
    };
    let node = start();
    let mut child = Process::start(base.path());
    until("readiness", || node.is_ready());
    let mut client = cluster.connect().unwrap();
    client.offer(b"one", &mut Heard::default()).unwrap();
    assert_eq!(told(&mut client, 2), ["0 has one", "1 has one"]);
    client.close();
    node.command(ClusterCommand::Shutdown).unwrap();
    until("the child's end", || child.0.try_wait().unwrap().is_some());
    assert!(child.0.wait().unwrap().success());
    until("the end", || node.has_ended_as_told());
    node.stop().unwrap();

    // Restart from the snapshot, the service before its node.
    let child = Process::start(base.path());
    let node = start();
    until("readiness", || node.is_ready());
    let mut client = cluster.connect().unwrap();
    assert_eq!(told(&mut client, 2), ["0 has one", "1 has one"]);
    // A node ends when one of its services is gone.
    drop(child);
    until("the end", || node.is_ending());
    assert!(!node.has_ended_as_told());
    let failures = node.failures().join("; ");
    assert!(failures.contains("service") && failures.contains('1'), "{failures}");
    assert!(node.stop().is_err());
}

#[test]
fn a_service_that_panics_ends_its_node_and_is_named() {
    for layout in [Layout::Fused, Layout::Threads] {
        let base = base();
        let cluster = crate::support::Cluster::new(base.path()).unwrap();
        let context = harrier::NodeContext { layout, ..cluster.context() };
        let node = Node::launch(context, keepers(1)).unwrap();
        until("readiness", || node.is_ready());
        let mut client = cluster.connect().unwrap();
        client.offer(b"panic", &mut Heard::default()).unwrap();
        until("the end", || node.is_ending());
        assert!(!node.has_ended_as_told());
        let failures = node.failures().join("; ");
        assert!(failures.contains("clustered-service-0-0: terminated: service 0 panicked"), "{failures}");
        assert!(failures.contains("a message of session 1 with 5 bytes (hex 70 61 6e 69 63)"), "{failures}");
        assert!(node.stop().is_err());
    }
}

#[test]
fn a_client_asks_for_a_snapshot_when_it_may() {
    let base = base();
    let cluster = crate::support::Cluster::new(base.path()).unwrap();
    let node = cluster.start(keepers(1)).unwrap();
    let mut client = cluster.connect().unwrap();
    let error = client.request_snapshot(&mut Heard::default()).unwrap_err();
    assert!(
        matches!(&error, BlockingClientError::NoSnapshot(text) if text.contains("not authorised")),
        "{error}"
    );
    client.close();
    node.stop().unwrap();

    let node = Node::launch_with(cluster.context(), keepers(1), |parts| {
        parts.module.authorisation = Authorisation::allow_all();
    })
    .unwrap();
    until("readiness", || node.is_ready());
    let mut client = cluster.connect().unwrap();
    client.request_snapshot(&mut Heard::default()).unwrap();
    until("the snapshot", || node.snapshot_count().unwrap() == 1);
    client.close();
    node.stop().unwrap();
}

#[test]
fn settings_by_name_reach_all_parts() {
    let base = base();
    let cluster = crate::support::Cluster::new(base.path()).unwrap();
    let mut properties = Properties::default();
    for definition in [
        "aeron.cluster.max.sessions=1",
        "aeron.cluster.service.responder=false",
        "aeron.term.buffer.length=128k",
        "aeron.cluster.member.id=9",
        "aeron.dir=/nowhere",
    ] {
        properties.define(definition).unwrap();
    }
    let context = harrier::NodeContext { properties, ..cluster.context() };
    let mut seen = None;
    let node = Node::launch_with(context, keepers(1), |parts| seen = Some(parts.clone())).unwrap();
    let parts = seen.unwrap();
    assert_eq!((parts.module.max_sessions, parts.module.member_id), (1, 0));
    assert!(!parts.containers[0].is_responder);
    assert_eq!(parts.driver.term_buffer_length, 128 << 10);
    assert_eq!(parts.driver.directory, cluster.aeron_directory());
    node.stop().unwrap();
    for wrong in ["session.timeout=soon", "idle.strategy=nap", "service.responder=perhaps"] {
        let mut properties = Properties::default();
        properties.define(&format!("aeron.cluster.{wrong}")).unwrap();
        let context = harrier::NodeContext { properties, ..cluster.context() };
        let error = Node::launch(context, keepers(1)).err().unwrap();
        assert!(matches!(&error, NodeError::Setting(text) if text.contains(wrong)), "{error}");
    }
}

#[test]
fn looking_at_counters_leaves_nothing_in_the_command_ring() {
    let base = base();
    let now = SystemClock.now();
    let mut context = DriverContext::new(base.path().join("aeron"));
    context.conductor_buffer_length = (64 << 10) + 768;
    let directory = context.directory.clone();
    // The driver does not run, so its ring keeps every command.
    let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now).unwrap();
    let mut agents = driver.into_agents();
    agents.iter_mut().for_each(|agent| assert!(agent.do_work(&now).is_ok()));
    let connect = || Aeron::connect(Context::new(&directory), MappedMemory, &now).unwrap();
    for _ in 0..5_000 {
        assert!(connect().counters().is_allocated(0));
    }
    connect().add_subscription("aeron:ipc", 1).unwrap();
}
