//! aeron-go's service agent as a process of its own on our node, its cluster client and its archive client: a program
//! that knows nothing of this code and of which nothing was changed. The transcripts are those of the released node.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use harrier::client::Aeron;
use serde_json::Value;

use crate::peers::peer;
use crate::support::binaries::node_command;
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, source, until};

/// Counters of the cluster.
mod counter {
    pub const STATE: i32 = 200;
    pub const TOGGLE: i32 = 202;
    pub const RECOVERY: i32 = 204;
    pub const SNAPSHOTS: i32 = 205;
}

/// States and toggles.
mod value {
    pub const ACTIVE: i64 = 1;
    pub const SUSPENDED: i64 = 2;
    pub const NEUTRAL: i64 = 1;
    pub const SUSPEND: i64 = 2;
    pub const RESUME: i64 = 3;
    pub const SNAPSHOT: i64 = 4;
    pub const SHUTDOWN: i64 = 5;
    pub const ABORT: i64 = 6;
    pub const STANDBY_SNAPSHOT: i64 = 7;
}

/// The timeouts detect dead services and abandoned sessions soon but tolerate a machine that stalls for some seconds.
const SETTINGS: [&str; 3] = [
    "aeron.client.liveness.timeout=20s",
    "aeron.publication.unblock.timeout=21s",
    "aeron.cluster.session.timeout=20s",
];

/// True when the Go peer can run. Otherwise says so loudly, or panics when peers are required.
pub fn is_available() -> bool {
    if let Err(reason) = binary() {
        peer::skip(reason);
        return false;
    }
    true
}

fn binary() -> Result<&'static Path, &'static str> {
    static BINARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BINARY.get_or_init(build).as_deref().map_err(String::as_str)
}

/// The Go tool: on the path, or where its own installer puts it.
fn go() -> Option<&'static str> {
    ["go", "/usr/local/go/bin/go"]
        .into_iter()
        .find(|tool| Command::new(tool).arg("version").output().is_ok_and(|output| output.status.success()))
}

fn build() -> Result<PathBuf, String> {
    let go = go().ok_or("go does not run")?;
    let root = source("peers/go");
    peer::build("go", std::slice::from_ref(&root), "gopeer", |output| {
        let mut command = Command::new(go);
        command.args(["build", "-o"]).arg(output.join("gopeer")).arg(".").current_dir(&root);
        command
    })
}

/// A program of the peer on the driver of a directory.
pub fn gopeer(subcommand: &str, aeron_directory: &Path) -> Command {
    let mut command = Command::new(binary().unwrap());
    command.arg(subcommand).arg("-aeron-dir").arg(aeron_directory);
    command
}

/// Our node without its own services, with Go services and our client for the tools.
struct World {
    directory: tempfile::TempDir,
    members: String,
    ingress_port: u16,
    archive_port: u16,
    services: usize,
    node: Option<Process>,
    go: Vec<Process>,
    transcripts: Vec<Vec<Value>>,
    tool: Option<Client>,
}

impl World {
    fn new(services: usize) -> Self {
        let ports: Vec<u16> = (0..5).map(|_| free_port()).collect();
        let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
        Self {
            directory: directory("go"),
            members: format!("0,{}", endpoints.join(",")),
            ingress_port: ports[0],
            archive_port: ports[4],
            services,
            node: None,
            go: Vec::new(),
            transcripts: vec![Vec::new(); services],
            tool: None,
        }
    }

    fn aeron_directory(&self) -> PathBuf {
        self.directory.path().join("aeron")
    }

    /// Starts the node and then its services: immediately, or once the recovery counter exists.
    fn start(&mut self, wait_type: i32) {
        let services = self.services.to_string();
        let arguments = ["--service", "none", "--services", services.as_str(), "--idle", "backoff"];
        let settings = SETTINGS.iter().flat_map(|setting| ["-D", setting]);
        let arguments: Vec<String> = arguments.into_iter().chain(settings).map(ToOwned::to_owned).collect();
        let mut command = node_command(self.directory.path(), &self.members, &arguments);
        let mut node = Process::start("harrier node", &mut command);
        // The library waits neither for the directories nor for the driver.
        let cluster = self.directory.path().join("node/cluster");
        until("the cluster's directory", || cluster.is_dir().then_some(()));
        let mut wait = gopeer("wait", &self.aeron_directory());
        Process::run("gopeer wait", wait.args(["-type", &wait_type.to_string()]));
        self.transcripts = vec![Vec::new(); self.services];
        for service_id in 0..self.services {
            let mut command = gopeer("service", &self.aeron_directory());
            command.arg("-cluster-dir").arg(&cluster).arg("-log-messages");
            // Two services cannot share their snapshot stream because of a bug in the library.
            let stream_id = 106 + 1_000 * service_id;
            command.args([
                "-service-id",
                &service_id.to_string(),
                "-snapshot-stream",
                &stream_id.to_string(),
            ]);
            self.go.push(Process::start("gopeer service", &mut command));
        }
        let ready: Value = serde_json::from_str(&node.line()).unwrap();
        assert_eq!(ready["ready"], true);
        self.node = Some(node);
        self.tool = Some(Client::connect(&self.aeron_directory()));
    }

    fn restart(&mut self, wait_type: i32) {
        self.tool = None;
        self.go.clear();
        self.node = None;
        self.start(wait_type);
    }

    /// Runs the Go client, which checks the answers.
    fn client(&self, arguments: &str) -> Value {
        let mut command = gopeer("client", &self.aeron_directory());
        command.args(["-ingress-endpoints", &format!("0=127.0.0.1:{}", self.ingress_port)]);
        command.args(arguments.split_whitespace());
        let (output, _) = Process::run("gopeer client", &mut command);
        let result = output.lines().rev().find(|line| line.contains("\"ev\":\"result\"")).unwrap();
        let result: Value = serde_json::from_str(result).unwrap();
        assert_eq!(result["ok"], true, "{output}");
        result
    }

    fn counter(aeron: &Aeron, type_id: i32) -> Option<i32> {
        aeron.counters().find(&mut |_, id, _| id == type_id)
    }

    fn set(&mut self, type_id: i32, value: i64) {
        let tool = self.tool.as_mut().unwrap();
        let id = tool.until("the counter", |aeron| Self::counter(aeron, type_id));
        tool.aeron.counters().counter(id).unwrap().set_ordered(value);
    }

    fn await_value(&mut self, type_id: i32, value: i64) {
        let what = format!("value {value} of counter {type_id}");
        self.tool.as_mut().unwrap().until(&what, |aeron| {
            let id = Self::counter(aeron, type_id)?;
            (aeron.counters().value(id) == value).then_some(())
        });
    }

    fn take_snapshot(&mut self, count: i64) {
        self.set(counter::TOGGLE, value::SNAPSHOT);
        self.await_value(counter::SNAPSHOTS, count);
        self.await_value(counter::TOGGLE, value::NEUTRAL);
        self.await_value(counter::STATE, value::ACTIVE);
    }

    /// Output of a service so far.
    fn transcript(&mut self, service_id: usize) -> &[Value] {
        let lines = self.go[service_id].lines_so_far();
        self.write_down(service_id, &lines);
        &self.transcripts[service_id]
    }

    fn write_down(&mut self, service_id: usize, lines: &[String]) {
        // The library itself writes a line now and then.
        let events = lines.iter().filter_map(|line| serde_json::from_str(line).ok());
        self.transcripts[service_id].extend(events);
    }

    /// Waits until a service has printed matching lines `count` times; returns the first one.
    fn until_said(
        &mut self,
        service_id: usize,
        what: &str,
        count: usize,
        is_wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        until(what, || {
            if let Some(tool) = &mut self.tool {
                tool.work();
            }
            let said: Vec<_> = self.transcript(service_id).iter().filter(|event| is_wanted(event)).collect();
            (said.len() >= count).then(|| said.first().map_or(Value::Null, |event| (*event).clone()))
        })
    }

    /// Terminates the node by its toggle and waits for all processes.
    fn end_by(&mut self, toggle: i64) {
        self.set(counter::TOGGLE, toggle);
        self.tool = None;
        for service_id in 0..self.services {
            let status = self.go[service_id].wait();
            assert!(status.success(), "{status}");
            let lines = self.go[service_id].last_lines();
            self.write_down(service_id, &lines);
        }
        let mut node = self.node.take().unwrap();
        let _ended = node.wait();
    }

    /// Kills the node and its services.
    fn kill(&mut self) {
        self.tool = None;
        if let Some(mut node) = self.node.take() {
            node.kill();
        }
        for service_id in 0..self.go.len() {
            self.transcript(service_id);
            self.go[service_id].kill();
        }
        self.go.clear();
    }

    fn errors(&self) -> Vec<String> {
        logged_errors(&self.directory.path().join("node/cluster/cluster-mark.dat"))
    }
}

/// Texts in the error log of a mark file.
fn logged_errors(path: &Path) -> Vec<String> {
    let mut bytes = Vec::new();
    std::fs::File::open(path).unwrap().read_to_end(&mut bytes).unwrap();
    let (mut texts, mut offset) = (Vec::new(), 8_192);
    while let Some(length) =
        bytes.get(offset..).and_then(|rest| rest.first_chunk().map(|word| i32::from_le_bytes(*word)))
    {
        if length < 24 {
            break;
        }
        texts.push(String::from_utf8_lossy(&bytes[offset + 24..offset + length as usize]).into_owned());
        offset += (length as usize).next_multiple_of(8);
    }
    texts
}

/// Reproducible part of an event: without times, ports, random ids and hashes of them.
fn comparable(event: &Value) -> Option<String> {
    let kind = event["ev"].as_str()?;
    if !kind.starts_with("On") {
        return None;
    }
    let mut text = kind.to_owned();
    for key in [
        "pos",
        "headerPos",
        "session",
        "cmd",
        "len",
        "tag",
        "reason",
        "known",
        "role",
        "memberId",
        "snapshot",
        "snapshotComplete",
        "logPosition",
        "term",
        "termBase",
        "leader",
        "appVersion",
        "timeUnit",
        "principalLen",
        "responseStreamId",
        "pubStream",
    ] {
        if !event[key].is_null() {
            text.push_str(&format!(" {key}={}", event[key]));
        }
    }
    // Timer ids contain the time; only their last digit is reproducible.
    if let Some(id) = event["corr"].as_i64() {
        text.push_str(&format!(" corr={}", id % 10));
    }
    for key in ["counter", "messages", "intSeen", "timers", "sessions"] {
        if !event["state"][key].is_null() {
            text.push_str(&format!(" {key}={}", event["state"][key]));
        }
    }
    Some(text)
}

fn golden(name: &str) -> Vec<String> {
    let path = source("peers/go/golden").join(format!("service-1.51.0-{name}.jsonl"));
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().filter_map(|line| comparable(&serde_json::from_str(line).unwrap())).collect()
}

fn assert_transcript(actual: &[Value], expected: &[String]) {
    let actual: Vec<String> = actual.iter().filter_map(comparable).collect();
    for (number, (actual, expected)) in actual.iter().zip(expected).enumerate() {
        assert_eq!(actual, expected, "event {number}");
    }
    assert!(actual.len() >= expected.len(), "it ends with {:?}", actual.last());
}

/// All of the library's transcripts, one after the other on one node: timers, offers through the log, fragmented
/// messages, a snapshot, a kill, a restart, a close by the service, suspend and resume, a shutdown, a restart, an
/// abort. The service starts as early as the driver lets it.
#[test]
fn the_callbacks_are_those_of_the_released_node() {
    if !is_available() {
        return;
    }
    let mut world = World::new(1);
    world.start(0);
    let steps = world.client("-count 3 -script add,internal,get,timers");
    assert_eq!((&steps["values"][2], &steps["timers"]), (&Value::from(12), &Value::from(3)));
    world.client("-count 100 -size 3000 -window 4 -script add,longtimer,get -no-close");
    world.take_snapshot(1);
    world.until_said(0, "the end of the session that was left", 1, |event| {
        event["ev"] == "OnSessionClose" && event["session"] == 2
    });
    let mut expected = golden("a-first-start");
    // A signal stopped the released node, and its service reports that; our node is killed.
    expected.pop();
    assert_transcript(world.transcript(0), &expected);
    let digest =
        world.transcript(0).iter().rfind(|event| event["ev"] == "OnTakeSnapshot").unwrap()["state"].clone();
    world.kill();

    world.restart(0);
    world.client("-count 10 -script add,get,timers");
    world.client("-count 5 -script add,get,internal,closeme");
    world.set(counter::TOGGLE, value::SUSPEND);
    world.await_value(counter::STATE, value::SUSPENDED);
    world.set(counter::TOGGLE, value::RESUME);
    world.await_value(counter::STATE, value::ACTIVE);
    world.await_value(counter::TOGGLE, value::NEUTRAL);
    world.end_by(value::SHUTDOWN);
    let transcript = &world.transcripts[0];
    assert_transcript(transcript, &golden("b-after-snapshot-and-kill"));
    let started = transcript.iter().find(|event| event["ev"] == "OnStart").unwrap();
    assert_eq!(started["state"]["digest"], digest["digest"]);

    world.restart(counter::RECOVERY);
    world.client("-count 0 -script get");
    world.end_by(value::ABORT);
    let expected: Vec<String> = golden("c-after-shutdown-then-abort").into_iter().take(4).collect();
    assert_transcript(&world.transcripts[0], &expected);
    let last =
        world.transcripts[0].iter().rfind(|event| event["ev"].as_str().unwrap().starts_with("On")).unwrap();
    assert_eq!((&last["ev"], &last["state"]["counter"]), (&Value::from("OnTerminate"), &Value::from(48)));
}

/// Service offers of which the released module accepts only those of service 0, because the library signs the ids.
#[test]
fn two_services_offer_through_the_log_snapshot_and_come_back_equal() {
    if !is_available() {
        return;
    }
    let mut world = World::new(2);
    world.start(counter::RECOVERY);
    world.client("-count 0 -script add,internal,get -exclusive");
    let is_offer = |event: &Value| event["ev"] == "OnSessionMessage" && event["cmd"] == 6;
    for service_id in 0..2 {
        world.until_said(service_id, "the offers of both services", 2, is_offer);
    }
    for count in 1..=3 {
        world.take_snapshot(count);
    }
    // The rest of the log after the last snapshot.
    world.client("-count 0 -script add,internal");
    world.end_by(value::SHUTDOWN);
    let last = |transcript: &[Value]| {
        transcript.iter().rfind(|event| event["ev"] == "OnTakeSnapshot").unwrap()["state"].clone()
    };
    let states = [last(&world.transcripts[0]), last(&world.transcripts[1])];
    assert_eq!(states[0]["digest"], states[1]["digest"]);
    assert_eq!(states[0]["intSeen"], 4);
    world.restart(0);
    world.client("-count 0 -script internal,get");
    for service_id in 0..2 {
        let started = world.until_said(service_id, "the start", 1, |event| event["ev"] == "OnStart");
        assert_eq!(started["state"]["digest"], states[0]["digest"]);
        world.until_said(service_id, "the offers of both services", 2, is_offer);
    }
    assert_eq!(world.errors(), Vec::<String>::new());
    world.end_by(value::ABORT);
}

#[test]
fn a_killed_service_ends_the_node_and_both_come_back_from_the_log() {
    if !is_available() {
        return;
    }
    let mut world = World::new(1);
    world.start(0);
    world.client("-count 10 -size 9000 -window 4 -script add,internal,get");
    // Echoes, two sums, an offer, the offered message, and the query of the sum.
    let is_message = |event: &Value| event["ev"] == "OnSessionMessage";
    let messages = 10 + 5;
    world.until_said(0, "all messages", messages, is_message);
    world.go[0].kill();
    world.tool = None;
    let mut node = world.node.take().unwrap();
    assert!(!node.wait().success());
    let errors = node.errors();
    assert!(errors.contains("Aeron client in service closed unexpectedly: serviceId=0"), "{errors}");
    world.restart(0);
    let value = world.client("-count 10 -script add,internal,get");
    assert_eq!(value["values"][2], 24);
    world.end_by(value::ABORT);
    let replayed = world.transcripts[0].iter().filter(|event| is_message(event)).count();
    assert_eq!(replayed, 2 * messages);
}

/// The library takes a standby's snapshot for one of its own and acks it: the released module fails its next snapshot
/// then.
#[test]
fn an_ack_of_a_standbys_snapshot_does_no_harm() {
    if !is_available() {
        return;
    }
    let mut world = World::new(1);
    world.start(0);
    world.client("-count 3");
    world.set(counter::TOGGLE, value::STANDBY_SNAPSHOT);
    world.await_value(counter::TOGGLE, value::NEUTRAL);
    world.until_said(0, "the library's snapshot", 1, |event| event["ev"] == "OnTakeSnapshot");
    world.take_snapshot(1);
    world.client("-count 3 -script get");
    assert!(world.errors()[0].starts_with("stray ack 2 of service 0"), "{:?}", world.errors());
    world.end_by(value::SHUTDOWN);
}

#[test]
fn the_librarys_archive_client_is_content_beside_a_cluster() {
    if !is_available() {
        return;
    }
    let mut world = World::new(1);
    world.start(0);
    world.client("-count 3");
    let udp = format!("aeron:udp?endpoint=127.0.0.1:{}", world.archive_port);
    for (request, response) in [(udp.as_str(), "aeron:udp?endpoint=127.0.0.1:0"), ("aeron:ipc", "aeron:ipc")]
    {
        let mut command = gopeer("archive", &world.aeron_directory());
        command.args(["-request", request, "-response", response, "-stream"]);
        command.arg(if request == udp { "2001" } else { "2101" });
        let (output, errors) = Process::run("gopeer archive", &mut command);
        let failed: Vec<&str> = output.lines().filter(|line| line.contains("\"ok\":false")).collect();
        assert!(failed.is_empty() && output.contains("\"ok\":true"), "{failed:?}\n{output}\n{errors}");
    }
    world.client("-count 3 -script get");
    world.end_by(value::ABORT);
}
