//! One service of ours on the released consensus module and on our own in turn. Each continues from the snapshots and
//! the log of the other.

use std::path::Path;

use harrier::cluster::service::{
    ClientSession, Cluster, ClusteredService, Header, ServiceFailure, SnapshotImage, SnapshotPublication,
};
use harrier::{Node, NodeContext, ServiceFactory, ServiceNode, ServiceNodeContext};

use crate::peers::containers::{ABORT, ACTIVE, NEUTRAL, SNAPSHOT, SNAPSHOTS, STATE, Session, TOGGLE};
use crate::peers::java;
use crate::support::binaries::harrier;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};

/// Counts and hashes the received messages and answers with both.
#[derive(Default)]
struct Tally {
    count: u64,
    hash: u64,
}

impl ClusteredService for Tally {
    fn on_start(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: Option<&mut SnapshotImage<'_>>,
    ) -> Result<(), ServiceFailure> {
        let Some(snapshot) = snapshot else { return Ok(()) };
        let mut state = Vec::new();
        snapshot.read_to_end(cluster, &mut |message| state.extend_from_slice(message))?;
        let [count, hash] = state.as_chunks::<8>().0 else { return Err("the tally is cut".into()) };
        (self.count, self.hash) = (u64::from_le_bytes(*count), u64::from_le_bytes(*hash));
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
        if message != b"?" {
            self.count += 1;
            for byte in message {
                self.hash = (self.hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3).rotate_left(11);
            }
        }
        if let Some(session) = session {
            let answer = format!("{} {:x}", self.count, self.hash);
            let id = session.id;
            // The session of a replayed message may be closed by now.
            let _told = cluster.reply(id, answer.as_bytes());
        }
    }

    fn on_take_snapshot(
        &mut self,
        cluster: &mut Cluster<'_>,
        snapshot: &mut SnapshotPublication,
    ) -> Result<(), ServiceFailure> {
        for word in [self.count, self.hash] {
            cluster.retry(|_| Ok(snapshot.offer(&word.to_le_bytes())?))?;
        }
        Ok(())
    }
}

pub(super) fn tally() -> ServiceFactory {
    Box::new(|| Box::new(Tally::default()))
}

/// Sends messages and returns the answer to the last one.
pub(super) fn send(session: &mut Session, what: &str, count: usize) -> String {
    let before = session.heard.len();
    for number in 0..count {
        session.send(&format!("{what} {number}"));
    }
    session.until("the answers", |session| (session.heard.len() == before + count).then_some(()));
    session.heard.last().cloned().unwrap()
}

/// The state of the service, without changing it.
pub(super) fn state(session: &mut Session) -> String {
    let before = session.heard.len();
    session.send("?");
    session.until("the state", |session| (session.heard.len() > before).then_some(()));
    session.heard[before].clone()
}

/// States of the service in a run.
struct Life {
    at_snapshot: String,
    at_end: String,
}

/// Steps of each run: continue, take a snapshot, continue after it, and end without another one.
fn live(home: &Path, port: u16, what: &str, expected: Option<&str>) -> Life {
    let mut session = Session::open(&home.join("aeron"), port);
    if let Some(expected) = expected {
        assert_eq!(state(&mut session), expected, "at the beginning of {what}");
    }
    let at_snapshot = send(&mut session, what, 100);
    session.set(TOGGLE, SNAPSHOT);
    session.await_value(SNAPSHOTS, 1);
    session.await_value(TOGGLE, NEUTRAL);
    session.await_value(STATE, ACTIVE);
    let at_end = send(&mut session, "behind the snapshot", 50);
    session.set(TOGGLE, ABORT);
    Life { at_snapshot, at_end }
}

fn on_released_module(home: &Path, members: &str, port: u16, expected: Option<&str>) -> Life {
    let arguments = [home.to_str().unwrap(), members, "none"];
    let mut member = Process::start("java member", &mut java::program(&[], "peertest.Member", &arguments));
    assert_eq!(member.line(), "ready");
    let context = ServiceNodeContext::new(home.join("aeron"), home.join("cluster"));
    let services = ServiceNode::launch(&context, vec![(0, tally())]).unwrap();
    let last = live(home, port, "on the released module", expected);
    assert!(member.wait().success(), "{}", member.errors());
    until("the end of the service", || services.is_ending().then_some(()));
    last
}

fn on_our_module(home: &Path, members: &str, port: u16, expected: Option<&str>) -> Life {
    let context = NodeContext::new(home, home.join("aeron"), 0, members);
    let node = Node::launch(context, vec![tally()]).unwrap();
    until("our node", || node.is_ready().then_some(()));
    let last = live(home, port, "on our module", expected);
    until("the end of our node", || node.is_ending().then_some(()));
    last
}

/// Endpoints of a member, and its ingress port.
fn member() -> (String, u16) {
    let ports: Vec<u16> = (0..5).map(|_| free_port()).collect();
    let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    (format!("0,{}", endpoints.join(",")), ports[0])
}

#[test]
fn our_service_goes_from_the_released_module_to_ours_and_back() {
    if !java::is_available() {
        return;
    }
    let home = directory("members");
    let (members, port) = member();
    let first = on_released_module(home.path(), &members, port, None).at_end;
    let second = on_our_module(home.path(), &members, port, Some(&first)).at_end;
    let third = on_released_module(home.path(), &members, port, Some(&second)).at_end;
    assert!(third.starts_with("450 "), "{third}");
}

#[test]
fn a_log_that_either_tool_has_seeded_starts_any_number_of_times_on_either_module() {
    if !java::is_available() {
        return;
    }
    let home = directory("seeded-members");
    let (members, port) = member();
    let cluster = home.path().join("cluster");
    let arguments = [cluster.to_str().unwrap(), "seed-recording-log-from-snapshot"];
    let mut last = on_our_module(home.path(), &members, port, None);
    for is_seeded_by_ours in [false, true] {
        let mut tool = match is_seeded_by_ours {
            true => {
                let mut tool = harrier();
                tool.arg("cluster").args(arguments);
                tool
            }
            false => java::program(&[], "io.aeron.cluster.ClusterTool", &arguments),
        };
        Process::run("the seeding", &mut tool);
        // Later state than the snapshot's is lost.
        let mut expected = last.at_snapshot.clone();
        for is_ours in [true, false, true] {
            let run = if is_ours { on_our_module } else { on_released_module };
            last = run(home.path(), &members, port, Some(&expected));
            expected.clone_from(&last.at_end);
        }
    }
}
