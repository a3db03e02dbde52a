//! Files of our driver, read by the released tools and by a program that knows only the protocol's offsets.

use std::process::Command;

use serde_json::Value;

use crate::peers::java;
use crate::peers::peer::Kind;
use crate::support::binaries::{OurDriver, harrier};
use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::source;

/// A driver with streams, a loss, an error, and freed counters.
fn busy_driver() -> (OurDriver, Client, Vec<Box<dyn std::any::Any>>) {
    let loss = "aeron.udp.channel.transport.bindings.loss.args=rate=0.2|seed=7|recv-msg-mask=0x2";
    let driver = OurDriver::start(&["aeron.udp.channel.incoming.interceptors=loss", loss]);
    let mut client = Client::connect(&driver.directory);
    let mut ipc = client.exclusive("aeron:ipc?term-length=64k", 10);
    let mut ipc_subscription = client.subscription("aeron:ipc", 10);
    client.send(&mut ipc, 0..20, 1_000);
    client.receive(&mut ipc_subscription, 0..20, 1_000);
    let mut udp_subscription = client.subscription("aeron:udp?endpoint=127.0.0.1:0", 11);
    let channel = client.resolved(&udp_subscription);
    let mut udp = client.exclusive(&format!("{channel}|term-length=64k"), 11);
    for from in (0..400).step_by(20) {
        client.send(&mut udp, from..from + 20, 1_000);
        client.receive(&mut udp_subscription, from..from + 20, 1_000);
    }
    let counter = client.aeron.add_counter(1_001, b"key", "a counter of the user").unwrap();
    let counter = client.until("the counter", |aeron| aeron.counter(counter).unwrap());
    drop(client.exclusive("aeron:ipc?term-length=64k", 12));
    client.until("the end of the closed publication", |aeron| {
        let mut is_there = false;
        aeron.counters().for_each(&mut |_, _, _, label| is_there |= label.contains(" 12 aeron:ipc"));
        (!is_there).then_some(())
    });
    client.try_exclusive("aeron:udp?endpoint=nohost.invalid:1", 13).unwrap_err();
    (driver, client, vec![Box::new((ipc, ipc_subscription, udp, udp_subscription, counter))])
}

#[test]
fn an_independent_reader_agrees_with_our_files() {
    if Command::new("python3").arg("--version").output().is_err() {
        crate::peers::peer::skip("python3 does not run");
        return;
    }
    let (driver, mut client, resources) = busy_driver();
    client.until("the driver to have read all commands", |_| Some(()));
    let check = source("peers/check_cnc.py");
    let (output, _) = Process::run("check_cnc.py", Command::new("python3").arg(check).arg(&driver.directory));
    let summary: Value = serde_json::from_str(&output).unwrap();
    let count = |type_id: &str| summary["counters"][type_id].as_i64().unwrap_or_default();
    assert_eq!(
        [count("1"), count("4"), count("12"), count("11"), count("1001")],
        [2, 2, 2, 1, 1],
        "{summary}"
    );
    assert_eq!([count("2"), count("3"), count("5"), count("9")], [1, 1, 1, 1], "{summary}");
    assert_eq!([count("6"), count("7"), count("14")], [1, 1, 2], "{summary}");
    assert_eq!(summary["losses"], 1, "{summary}");
    assert_eq!(summary["errors"].as_array().unwrap().len(), 1, "{summary}");
    assert!(summary["events"].as_array().unwrap().len() >= 10, "{summary}");
    assert!(summary["publication_frames"].as_array().unwrap().len() == 2, "{summary}");
    assert!(summary["checks"].as_u64().unwrap() > 600, "{summary}");
    drop(resources);
    driver.stop();
}

#[test]
fn the_released_tools_read_our_counters_errors_and_losses() {
    if !java::is_available() {
        return;
    }
    let (driver, client, resources) = busy_driver();
    let mut heartbeats = Kind::Java.client(&driver.directory);
    let property = [format!("aeron.dir={}", driver.directory.display())];
    let run = |class: &str, arguments: &[&str]| {
        Process::run(class, &mut java::program(&property, class, arguments)).0
    };
    let stat = run("io.aeron.samples.AeronStat", &["watch=false"]);
    assert!(stat.contains(&format!("CnC v0.2.0), pid {}", driver.process.id())), "{stat}");
    let theirs: Vec<(i32, &str)> = stat
        .lines()
        .filter_map(|line| {
            let (id, rest) = line.split_once(':')?;
            Some((id.trim().parse().ok()?, rest.split_once(" - ")?.1))
        })
        .collect();
    let ours = client.counters();
    assert!(ours.len() > 60, "{}", ours.len());
    for (id, _, _, label) in &ours {
        assert!(theirs.contains(&(*id, label)), "counter {id} '{label}' is not in\n{stat}");
    }
    let errors = run("io.aeron.samples.ErrorStat", &[]);
    assert!(errors.contains("1 distinct errors observed") && errors.contains("nohost.invalid"), "{errors}");
    let losses = run("io.aeron.samples.LossStat", &[]);
    assert!(
        losses.contains("1 loss entries") && losses.contains(",11,aeron:udp?endpoint=127.0.0.1:0,"),
        "{losses}"
    );
    let streams = run("io.aeron.samples.StreamStat", &[]);
    assert!(streams.contains("streamId=11"), "{streams}");
    let backlog = run("io.aeron.samples.BacklogStat", &[]);
    assert!(backlog.contains("streamId=11") || backlog.contains(" 11 "), "{backlog}");
    let listed = heartbeats.call("counters");
    let listed = listed["counters"].as_array().unwrap();
    for (id, type_id, _, label) in &ours {
        let found =
            listed.iter().find(|counter| counter["id"] == *id).unwrap_or_else(|| panic!("{id} {label}"));
        assert_eq!((&found["type"], &found["label"]), (&Value::from(*type_id), &Value::from(label.as_str())));
    }
    our_commands_say_the_same(&driver, &theirs, &losses, &streams);
    drop(resources);
    assert_eq!(heartbeats.exit(), "");
    driver.stop();
}

/// Compares `harrier stat`, `errors`, `loss` and `streams` with the released tools on the same driver.
fn our_commands_say_the_same(driver: &OurDriver, theirs: &[(i32, &str)], losses: &str, streams: &str) {
    let ours = |command: &str, arguments: &[&str]| {
        let mut tool = harrier();
        tool.arg(command).arg("--aeron-dir").arg(&driver.directory).args(arguments);
        Process::run(command, &mut tool).0
    };
    let stat: Value = serde_json::from_str(&ours("stat", &["--json"])).unwrap();
    let counters = stat["counters"].as_array().unwrap();
    // The first line holds the time, and each tool was a client for a moment.
    let is_counter = |label: &str| !label.starts_with("Aeron Stat") && !label.starts_with("client-heartbeat");
    for (id, label) in theirs.iter().filter(|(_, label)| is_counter(label)) {
        let counter =
            counters.iter().find(|counter| counter["id"] == *id).unwrap_or_else(|| panic!("{id} {label}"));
        assert_eq!(counter["label"], *label);
    }
    assert!(ours("errors", &[]).contains("1 distinct errors observed."));
    assert_eq!(ours("loss", &[]), losses);
    let output = ours("streams", &[]);
    let words =
        streams.lines().filter_map(|line| line.split_once(" : ")).flat_map(|(_, rest)| rest.split(' '));
    let words: Vec<&str> = words.filter(|word| word.contains(':')).collect();
    assert!(words.len() > 10, "{streams}");
    for word in words {
        assert!(output.contains(word), "{word} is not in\n{output}");
    }
    assert!(ours("backlog", &[]).contains("bytes remaining in the sender window"));
}
