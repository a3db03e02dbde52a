//! The released Java cluster client, with its own Java driver, against our fused node.

use serde_json::Value;

use crate::peers::java;
use crate::peers::peer::{Kind, Peer};
use crate::support::binaries::OurNode;
use crate::support::process::Process;
use crate::support::stopwatch::Stopwatch;

fn fused() -> OurNode {
    OurNode::start(&[
        "--layout",
        "fused",
        "--service",
        "echo",
        "--idle",
        "yield",
        "--session-timeout-ms",
        "60000",
    ])
}

fn connect(java: &mut Peer, node: &OurNode, session: &str) -> Value {
    java.call(&format!("cluster-connect session={session} endpoints={}", node.ingress_endpoints()))
}

/// Maximum time of a shutdown, and of a session's recovery after a crash.
const BOUND_NS: i64 = 5_000_000_000;

fn end(node: &mut OurNode) {
    let watch = Stopwatch::start();
    node.process.signal("TERM");
    let status = node.process.wait();
    assert_eq!(status.code(), Some(0), "{}", node.process.errors());
    is_in_time(watch);
}

fn is_in_time(watch: Stopwatch) {
    let took_ns = watch.stop();
    assert!(took_ns < BOUND_NS, "{took_ns} ns");
}

#[test]
fn a_hundred_thousand_echoes_come_back_right() {
    if !java::is_available() {
        return;
    }
    let mut node = fused();
    let (mut java, _directory) = Kind::Java.with_own_driver(&[]);
    let connected = connect(&mut java, &node, "a");
    assert_eq!((connected["leader"].as_i64(), connected["closed"].as_bool()), (Some(0), Some(false)));
    let echoed = java.call("cluster-echo session=a length=32 count=100000 window=256");
    assert_eq!(echoed["received"], 100_000);
    java.call("cluster-echo session=a length=1024 count=5000 window=64");
    java.call("cluster-echo session=a length=20480 count=500 window=8");
    let second = connect(&mut java, &node, "b");
    assert_ne!(second["session"], connected["session"]);
    let (first_echoes, second_echoes) = (
        java.begin("cluster-echo session=a length=100 count=2000 window=16"),
        java.begin("cluster-echo session=b length=200 count=2000 window=16"),
    );
    java.finish(first_echoes);
    java.finish(second_echoes);
    assert_eq!(java.call("cluster-close session=b")["closed"], true);
    java.call("cluster-echo session=a length=32 count=100");
    assert_eq!(java.call("cluster-close session=a")["closed"], true);
    assert_eq!(java.exit(), "");
    end(&mut node);
}

#[test]
fn a_session_lives_on_keep_alives_and_ends_without() {
    if !java::is_available() {
        return;
    }
    let mut node =
        OurNode::start(&["--layout", "threads", "--idle", "backoff", "--session-timeout-ms", "12000"]);
    let (mut java, _directory) = Kind::Java.with_own_driver(&[]);
    connect(&mut java, &node, "alive");
    connect(&mut java, &node, "silent");
    java.call("cluster-echo session=silent length=32 count=10");
    let alive = java.call("cluster-keep-alive session=alive millis=15000");
    assert_eq!((alive["closed"].as_bool(), alive["event"].is_null()), (Some(false), true), "{alive}");
    java.call("cluster-echo session=alive length=32 count=10");
    let silent = java.call("cluster-await-close session=silent");
    assert!(silent["event"].as_str().unwrap().starts_with("CLOSED"), "{silent}");
    assert_eq!(java.exit(), "");
    end(&mut node);
}

#[test]
fn a_node_starts_again_from_its_log_and_keeps_the_sessions_that_were_open() {
    if !java::is_available() {
        return;
    }
    let mut node = fused();
    let (mut java, _directory) = Kind::Java.with_own_driver(&[]);
    let before = connect(&mut java, &node, "a");
    java.call("cluster-echo session=a length=100 count=1000");
    java.call("cluster-close session=a");
    end(&mut node);
    node.restart();
    let mut session = connect(&mut java, &node, "b");
    assert!(session["session"].as_i64() > before["session"].as_i64(), "{before} {session}");
    java.call("cluster-echo session=b length=100 count=1000");
    for restart in 1..=2 {
        node.process.kill();
        let watch = Stopwatch::start();
        node.restart();
        // An offer before the client learns of the new leader is lost with the old streams.
        java.call(&format!("cluster-await-leader session=b count={restart}"));
        let echoed = java.call("cluster-echo session=b length=100 count=1000");
        is_in_time(watch);
        assert_eq!(echoed["received"], 1_000);
        assert_eq!(echoed["session"], session["session"]);
        assert_eq!(echoed["newLeaders"], restart);
        assert!(echoed["term"].as_i64() > session["term"].as_i64(), "{session} {echoed}");
        session = echoed;
    }
    java.call("cluster-close session=b");
    assert_eq!(java.exit(), "");
    let description = cluster_tool(&node, "describe");
    for text in ["componentType=CONSENSUS_MODULE", "componentType=CONTAINER", "memberId=0", "version=768"] {
        assert!(description.contains(text), "{text} in {description}");
    }
    assert_eq!(cluster_tool(&node, "pid").trim(), node.process.id().to_string());
    let errors = cluster_tool(&node, "errors");
    assert!(!errors.contains("observations"), "{errors}");
    end(&mut node);
    let terms = cluster_tool(&node, "recording-log");
    assert_eq!(terms.matches("type=TERM, isValid=true").count(), 4, "{terms}");
    let archive = node.directory().join("node/archive");
    let verify = ["verify", "-a"];
    let arguments = [&[archive.to_str().unwrap()], &verify[..]].concat();
    let verified =
        Process::run("ArchiveTool", &mut java::program(&[], "io.aeron.archive.ArchiveTool", &arguments)).0;
    assert!(verified.contains("(recordingId=0) OK") && !verified.contains("ERR"), "{verified}");
}

/// Output of the released tool for the node's cluster directory.
fn cluster_tool(node: &OurNode, command: &str) -> String {
    let cluster = node.directory().join("node/cluster");
    let arguments = [cluster.to_str().unwrap(), command];
    Process::run("ClusterTool", &mut java::program(&[], "io.aeron.cluster.ClusterTool", &arguments)).0
}
