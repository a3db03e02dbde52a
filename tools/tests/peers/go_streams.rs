//! Streams of aeron-go through our driver: among its own programs, and with a Java client. Its programs verify the
//! received messages and print a checksum.

use std::path::Path;

use serde_json::Value;

use crate::peers::go::{self, gopeer};
use crate::peers::java;
use crate::peers::peer::Kind;
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::Process;

/// Maximum run time of a program of the library; other tests may occupy the processor.
const TIMEOUT: [&str; 2] = ["-timeout", "100s"];

/// A running program.
struct Running(Process);

impl Running {
    fn start(name: &str, aeron: &Path, arguments: &[String]) -> Self {
        let mut command = gopeer(name, aeron);
        command.args(TIMEOUT).args(arguments);
        Self(Process::start(&format!("gopeer {name}"), &mut command))
    }

    /// Waits for an event, e.g. `subscription`.
    fn until(&mut self, kind: &str) -> Value {
        loop {
            let line = self.0.line();
            // The library itself writes a line now and then.
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            assert_ne!(event["ev"], "aeronError", "{line}");
            if event["ev"] == kind {
                return event;
            }
        }
    }

    /// Waits for the program's end and returns its result.
    fn end(mut self) -> Value {
        let result = self.until("result");
        let status = self.0.wait();
        assert!(status.success() && result["ok"] == true, "{status}: {result}\n{}", self.0.errors());
        result
    }
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(ToOwned::to_owned).collect()
}

/// A publisher and a subscriber, which must report the same checksum.
fn publish_and_subscribe(aeron: &Path, to: &str, from: &str, arguments: &str) {
    let with = |channel: &str| [words(&format!("-channel {channel}")), words(arguments)].concat();
    let mut subscriber = Running::start("sub", aeron, &with(from));
    subscriber.until("subscription");
    let sent = Running::start("pub", aeron, &with(to)).end();
    let received = subscriber.end();
    assert_eq!(sent["crc"], received["crc"], "{to} {arguments}");
    assert_eq!(sent["sent"], received["received"], "{to} {arguments}");
}

fn udp() -> String {
    format!("aeron:udp?endpoint=127.0.0.1:{}", free_port())
}

#[test]
fn go_talks_to_go_through_our_driver() {
    if !go::is_available() {
        return;
    }
    let driver = OurDriver::start(&[]);
    let aeron = &driver.directory;
    let ipc = "aeron:ipc?term-length=64k";
    publish_and_subscribe(aeron, ipc, ipc, "-stream 1001 -count 20000");
    publish_and_subscribe(aeron, ipc, ipc, "-stream 1002 -count 20000 -exclusive");
    publish_and_subscribe(aeron, ipc, ipc, "-stream 1003 -count 20000 -claim");
    let long = "aeron:ipc?term-length=1m";
    publish_and_subscribe(aeron, long, long, "-stream 1004 -count 1000 -size 20000");
    let endpoint = udp();
    let small = format!("{endpoint}|term-length=64k");
    publish_and_subscribe(aeron, &small, &endpoint, "-stream 1005 -count 20000");
    publish_and_subscribe(aeron, &small, &endpoint, "-stream 1006 -count 1000 -size 5000 -exclusive");
    publish_and_subscribe(aeron, &small, &endpoint, "-stream 1007 -count 20000 -claim");
    let large = format!("{endpoint}|term-length=1m|mtu=8k");
    publish_and_subscribe(aeron, &large, &endpoint, "-stream 1008 -count 3000 -size 7000");
    let control = format!("control=127.0.0.1:{}|control-mode=dynamic", free_port());
    let (to, from) = (format!("aeron:udp?{control}"), format!("{}|{control}", udp()));
    publish_and_subscribe(aeron, &to, &from, "-stream 1009 -count 3000");
    driver.stop();
}

#[test]
fn go_echoes_to_go_through_our_driver() {
    if !go::is_available() {
        return;
    }
    let driver = OurDriver::start(&[]);
    for (there, back, arguments) in [
        ("aeron:ipc?term-length=64k".to_owned(), "aeron:ipc?term-length=64k".to_owned(), "-count 500"),
        (udp(), udp(), "-count 500"),
        (udp(), udp(), "-count 200 -size 5000 -exclusive"),
    ] {
        let channels = format!("-channel {there} -channel2 {back} -stream 1101 -stream2 1102 {arguments}");
        let mut pong = Running::start("pong", &driver.directory, &words(&channels));
        pong.until("ready");
        let echoed = Running::start("ping", &driver.directory, &words(&channels)).end();
        assert_eq!(pong.end()["echoed"], echoed["pongs"]);
    }
    driver.stop();
}

/// A Go program echoes messages of Java: on one driver over IPC, on two over UDP.
#[test]
fn go_echoes_to_java_through_our_driver() {
    if !go::is_available() || !java::is_available() {
        return;
    }
    let driver = OurDriver::start(&[]);
    let mut watch = Client::connect(&driver.directory);
    let (remote, _home) = Kind::Java.with_own_driver(&[]);
    let ipc = "aeron:ipc?term-length=64k".to_owned();
    for (mut java, there, back) in
        [(Kind::Java.client(&driver.directory), ipc.clone(), ipc), (remote, udp(), udp())]
    {
        java.call_beside(&mut watch, &format!("subscribe name=s channel={back} stream=1102"));
        let sizes = [(100, 500), (5_000, 100)];
        let count: u64 = sizes.iter().map(|size| size.1).sum();
        let channels = format!("-channel {there} -channel2 {back} -stream 1101 -stream2 1102 -count {count}");
        let mut pong = Running::start("pong", &driver.directory, &words(&channels));
        pong.until("ready");
        java.call_beside(&mut watch, &format!("publish name=p channel={there} stream=1101"));
        java.call_beside(&mut watch, "images name=s count=1");
        for (length, count) in sizes {
            let receive = java.begin(&format!("receive name=s length={length} count={count}"));
            java.call_beside(&mut watch, &format!("send name=p length={length} count={count}"));
            java.finish_beside(receive, &mut watch);
        }
        assert_eq!(pong.end()["echoed"], count);
        assert_eq!(java.exit(), "");
    }
    driver.stop();
}
