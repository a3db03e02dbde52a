//! The released service container in a separate process on our consensus module: each starts from the other's
//! snapshots.

use std::path::{Path, PathBuf};

use harrier::client::Aeron;
use harrier::cluster::client::{ClusterClient, ClusterClientError};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::Value;

use crate::peers::java;
use crate::support::binaries::node_command;
use crate::support::client::Client;
use crate::support::cluster;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};

pub(crate) const STATE: i32 = 200;
pub(crate) const TOGGLE: i32 = 202;
pub(crate) const SNAPSHOTS: i32 = 205;
pub(crate) const ACTIVE: i64 = 1;
const SUSPENDED: i64 = 2;
pub(crate) const NEUTRAL: i64 = 1;
const SUSPEND: i64 = 2;
const RESUME: i64 = 3;
pub(crate) const SNAPSHOT: i64 = 4;
const SHUTDOWN: i64 = 5;
pub(crate) const ABORT: i64 = 6;

/// The timeouts detect a dead service soon but tolerate a machine that stalls for some seconds.
const SETTINGS: [&str; 3] = [
    "aeron.client.liveness.timeout=20s",
    "aeron.publication.unblock.timeout=21s",
    "aeron.cluster.session.timeout=60s",
];

/// Our node with Java services and our client.
struct World {
    directory: tempfile::TempDir,
    members: String,
    ingress_port: u16,
    services: usize,
    node: Option<Process>,
    containers: Vec<Process>,
    said: Vec<Vec<String>>,
    client: Option<Session>,
}

/// A session of our client, with its client of the driver.
pub(crate) struct Session {
    pub(crate) client: Client,
    cluster: ClusterClient,
    pub(crate) heard: Vec<String>,
}

impl Session {
    pub(crate) fn open(aeron_directory: &Path, ingress_port: u16) -> Self {
        let context = cluster::context(&format!("0=127.0.0.1:{ingress_port}"));
        let client = Client::connect(aeron_directory);
        let mut session = Self { client, cluster: ClusterClient::new(context).unwrap(), heard: Vec::new() };
        session.until("the session", |session| session.cluster.is_connected().then_some(()));
        session
    }

    fn poll(&mut self) -> Result<(), ClusterClientError> {
        let heard = &mut self.heard;
        let mut listener = |_: i64, _: i64, message: &[u8]| {
            heard.push(String::from_utf8_lossy(message).into_owned());
        };
        self.client.work();
        self.cluster.poll(&mut self.client.aeron, &SystemClock.now(), &mut listener).map(|_| ())
    }

    pub(crate) fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        until(what, || {
            self.poll().unwrap();
            condition(self)
        })
    }

    pub(crate) fn send(&mut self, text: &str) {
        self.until("room", |session| session.cluster.offer(text.as_bytes()).is_ok().then_some(()));
    }

    /// Sends bytes and returns the next message.
    pub(crate) fn answer_to(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.until("room", |session| session.cluster.offer(bytes).is_ok().then_some(()));
        let mut answer = None;
        until("the answer", || {
            let mut listener = |_: i64, _: i64, message: &[u8]| {
                answer.get_or_insert_with(|| message.to_vec());
            };
            self.client.work();
            self.cluster.poll(&mut self.client.aeron, &SystemClock.now(), &mut listener).unwrap();
            answer.take()
        })
    }

    /// Sends a message and awaits one answer of each service.
    fn exchange(&mut self, text: &str, services: usize) {
        let before = self.heard.len();
        self.send(text);
        self.until(text, |session| (session.heard.len() >= before + services).then_some(()));
        assert!(self.heard[before..].iter().all(|answer| answer == text), "{:?}", &self.heard[before..]);
    }

    fn counter(aeron: &Aeron, type_id: i32) -> Option<i32> {
        aeron.counters().find(&mut |_, id, _| id == type_id)
    }

    pub(crate) fn set(&mut self, type_id: i32, value: i64) {
        let id = self.until("the counter", |session| Self::counter(&session.client.aeron, type_id));
        self.client.aeron.counters().counter(id).unwrap().set_ordered(value);
    }

    pub(crate) fn await_value(&mut self, type_id: i32, value: i64) {
        let what = format!("value {value} of counter {type_id}");
        self.until(&what, |session| {
            let id = Self::counter(&session.client.aeron, type_id)?;
            (session.client.aeron.counters().value(id) == value).then_some(())
        });
    }
}

impl World {
    fn new(services: usize) -> Self {
        let ports: Vec<u16> = (0..5).map(|_| free_port()).collect();
        let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Self {
            directory: directory("containers"),
            members: format!("0,{}", endpoints.join(",")),
            ingress_port: ports[0],
            services,
            node: None,
            containers: Vec::new(),
            said: vec![Vec::new(); services],
            client: None,
        }
    }

    fn aeron_directory(&self) -> PathBuf {
        self.directory.path().join("aeron")
    }

    /// Starts node and containers; the containers wait for the driver.
    fn start(&mut self) {
        let services = self.services.to_string();
        let arguments = ["--service", "none", "--services", services.as_str(), "--idle", "backoff"];
        let settings = SETTINGS.iter().flat_map(|setting| ["-D", setting]);
        let arguments: Vec<String> = arguments.into_iter().chain(settings).map(ToOwned::to_owned).collect();
        let mut command = node_command(self.directory.path(), &self.members, &arguments);
        let mut node = Process::start("harrier node", &mut command);
        let cluster = self.directory.path().join("node/cluster");
        until("the cluster's directory", || cluster.is_dir().then_some(()));
        self.said = vec![Vec::new(); self.services];
        for service_id in 0..self.services {
            let (aeron, id) = (self.aeron_directory(), service_id.to_string());
            let arguments = [aeron.to_str().unwrap(), cluster.to_str().unwrap(), id.as_str()];
            let mut command = java::program(&[], "peertest.ServiceMain", &arguments);
            self.containers.push(Process::start("service container", &mut command));
        }
        let ready: Value = serde_json::from_str(&node.line()).unwrap();
        assert_eq!(ready["ready"], true);
        self.node = Some(node);
        self.client = Some(Session::open(&self.aeron_directory(), self.ingress_port));
    }

    fn client(&mut self) -> &mut Session {
        self.client.as_mut().unwrap()
    }

    fn said(&mut self, service_id: usize) -> &[String] {
        let lines = self.containers[service_id].lines_so_far();
        self.said[service_id].extend(lines);
        &self.said[service_id]
    }

    /// Waits until the output of a service satisfies a condition, while the client works.
    fn until_heard<V>(
        &mut self,
        service_id: usize,
        what: &str,
        wanted: impl Fn(&[String]) -> Option<V>,
    ) -> V {
        until(what, || {
            if let Some(client) = &mut self.client {
                client.poll().unwrap();
            }
            wanted(self.said(service_id))
        })
    }

    fn until_said(&mut self, service_id: usize, line: &str) {
        self.until_said_times(service_id, line, 1);
    }

    fn until_said_times(&mut self, service_id: usize, line: &str, count: usize) {
        self.until_heard(service_id, line, |said| {
            (said.iter().filter(|output| *output == line).count() >= count).then_some(())
        });
    }

    /// First output line of a service.
    fn first(&mut self, service_id: usize) -> String {
        self.until_heard(service_id, "the start", |said| {
            said.iter().find(|line| line.starts_with("start")).cloned()
        })
    }

    fn take_snapshot(&mut self, count: i64) {
        let client = self.client();
        client.set(TOGGLE, SNAPSHOT);
        client.await_value(SNAPSHOTS, count);
        client.await_value(TOGGLE, NEUTRAL);
        client.await_value(STATE, ACTIVE);
    }

    fn state(&mut self) -> String {
        let services = self.services;
        let client = self.client();
        let before = client.heard.len();
        client.send("state");
        client.until("the states", |session| (session.heard.len() == before + services).then_some(()));
        let states = client.heard[before..].to_vec();
        assert!(states.iter().all(|state| *state == states[0]), "{states:?}");
        states[0].clone()
    }

    fn end_by(&mut self, toggle: i64) {
        self.client().set(TOGGLE, toggle);
        self.client = None;
        for mut container in std::mem::take(&mut self.containers) {
            let status = container.wait();
            assert!(status.success(), "{status}: {}", container.errors());
            // The container writes its agent's end as an error into its mark file and reports it at the next start. The
            // node does not wait for it, so a slow container may lose the driver first.
            let is_expected = |line: &str| {
                line.ends_with("expected termination")
                    || line.ends_with(") has been shutdown")
                    || line.starts_with("WARNING: existing errors saved to")
            };
            let errors = container.errors();
            assert!(errors.lines().all(is_expected), "{errors}");
        }
        let _ended = self.node.take().unwrap().wait();
    }

    fn kill(&mut self) {
        self.client = None;
        self.node.take().unwrap().kill();
        for mut container in std::mem::take(&mut self.containers) {
            container.kill();
        }
        self.forget_containers();
    }

    /// Removes the mark files of killed containers, which would block a restart for ten seconds.
    fn forget_containers(&self) {
        for service_id in 0..self.services {
            let name = format!("node/cluster/cluster-mark-service-{service_id}.dat");
            std::fs::remove_file(self.directory.path().join(name)).unwrap();
        }
    }
}

#[test]
fn a_java_service_starts_from_our_snapshots_and_our_log() {
    if !java::is_available() {
        return;
    }
    let mut world = World::new(1);
    world.start();
    let begin = world.until_heard(0, "the start", |said| Some(said.get(..2)?.to_vec()));
    assert_eq!(begin, ["start", "role LEADER"]);
    for number in 0..200 {
        world.client().exchange(&format!("before {number}"), 1);
    }
    world.client().exchange(&"long ".repeat(1_200), 1);
    world.client().send("timer 5 100");
    world.until_said(0, "timer 5");
    world.client().send("forward through");
    world.until_said(0, "service through");
    world.take_snapshot(1);
    // Later than all events of this run.
    world.client().send("timer 6 8000");
    for number in 0..50 {
        world.client().exchange(&format!("after {number}"), 1);
    }
    let state = world.state();
    let counted: u64 = state.split([' ', ':']).nth(1).unwrap().parse().unwrap();
    assert_eq!(counted, 1 + 200 + 1 + 1 + 1 + 1 + 1 + 1 + 50);
    world.kill();

    world.start();
    let taken = world.first(0);
    assert!(taken.starts_with("start at ") && taken.ends_with(" sessions 1"), "{taken}");
    world.until_said(0, "message 8 after 49");
    world.until_said(0, "timer 6");
    world.client().exchange("in the second life", 1);
    world.client().set(TOGGLE, SUSPEND);
    world.client().await_value(STATE, SUSPENDED);
    world.client().set(TOGGLE, RESUME);
    world.client().await_value(STATE, ACTIVE);
    world.client().await_value(TOGGLE, NEUTRAL);
    world.client().exchange("resumed", 1);
    let state = world.state();
    world.end_by(SHUTDOWN);

    world.start();
    let started = world.first(0);
    assert!(started.contains(&state), "{started}, {state}");
    world.client().exchange("in the third life", 1);
    world.end_by(ABORT);
}

#[test]
fn two_java_services_and_their_messages_come_back_equal() {
    if !java::is_available() {
        return;
    }
    let mut world = World::new(2);
    world.start();
    for number in 0..20 {
        world.client().exchange(&format!("number {number}"), 2);
    }
    world.client().send("forward once");
    for service_id in 0..2 {
        world.until_said_times(service_id, "service once", 2);
    }
    world.take_snapshot(1);
    world.client().send("forward tail");
    world.client().exchange("tail", 2);
    let state = world.state();
    world.kill();
    world.start();
    for service_id in 0..2 {
        world.until_said_times(service_id, "service tail", 2);
    }
    assert_ne!(state, world.state());
    world.client().send("forward again");
    world.until_said_times(1, "service again", 2);
    world.client().send("close");
    let refused = until("the close", || world.client.as_mut().unwrap().poll().err());
    assert!(
        matches!(&refused, ClusterClientError::Closed(detail) if detail == "SERVICE_ACTION"),
        "{refused}"
    );
    world.kill();
}

#[test]
fn a_java_service_that_is_killed_ends_our_node() {
    if !java::is_available() {
        return;
    }
    let mut world = World::new(1);
    world.start();
    world.client().exchange("hello", 1);
    world.containers[0].kill();
    world.client = None;
    let mut node = world.node.take().unwrap();
    assert!(!node.wait().success());
    let errors = node.errors();
    assert!(errors.contains("Aeron client in service closed unexpectedly: serviceId=0"), "{errors}");
    world.containers.clear();
    world.forget_containers();
    world.start();
    world.until_said(0, "message 5 hello");
    world.end_by(ABORT);
}
