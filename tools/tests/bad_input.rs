//! Processes with invalid directories, ports, files and peers: each failure is a clear error or a counter, never a
//! panic or a signal, and servers keep serving.
#![forbid(unsafe_code)]

use std::net::UdpSocket;
use std::path::Path;
use std::process::Command;

use crate::support::binaries::{OurDriver, OurNode, harrier_driver, node_command};
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::{Process, in_small_file_system};
use crate::support::{directory, until};
use harrier::client::ClientError;

const INVALID_PACKETS: i32 = 14;
const UNBLOCKED_PUBLICATIONS: i32 = 19;

/// Environment variable for a test that runs again in another process.
const INSIDE: &str = "HARRIER_TEST_INSIDE";

/// Runs a program that must fail and returns its error output.
fn fails(command: &mut Command) -> String {
    let (status, output, errors) = Process::finish("command", command);
    assert_eq!(status.code(), Some(1), "{command:?}: {status}\n{output}\n{errors}");
    assert!(!errors.contains("panicked"), "{errors}");
    assert_eq!(output, "");
    errors
}

/// Members string with free ports, and the ports.
fn free_members() -> (String, Vec<u16>) {
    let ports: Vec<_> = (0..5).map(|_| free_port()).collect();
    let endpoints: Vec<_> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    (format!("0,{}", endpoints.join(",")), ports)
}

fn backoff() -> Vec<String> {
    ["--idle", "backoff", "--max-seconds", "30"].map(String::from).to_vec()
}

/// Runs this test program again for the inner part of one test.
fn inner_test(name: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("bad_input::{name}"), "--nocapture"]);
    command
}

#[test]
fn a_second_node_on_the_same_directories_is_refused() {
    let mut node = OurNode::start(&["--idle", "backoff"]);
    // First the same driver directory, then only the same directory of archive and cluster.
    let error = fails(&mut node_command(node.directory(), node.members(), &backoff()));
    let aeron = node.aeron_directory();
    assert!(
        error.contains("Active media driver detected") && error.contains(aeron.to_str().unwrap()),
        "{error}"
    );
    let other = directory("node");
    let mut command = node_command(node.directory(), &free_members().0, &backoff());
    command.arg("--aeron-dir").arg(other.path().join("aeron"));
    let (status, _, errors) = Process::finish("command", &mut command);
    assert_eq!(status.code(), Some(2), "an option given twice is wrong usage: {errors}");
    let mut command = crate::support::binaries::harrier();
    command.args(["node", "--member-id", "0", "--members", &free_members().0, "--max-seconds", "30"]);
    command
        .arg("--dir")
        .arg(node.directory().join("node"))
        .arg("--aeron-dir")
        .arg(other.path().join("aeron"));
    let error = fails(&mut command);
    let archive = node.directory().join("node/archive");
    assert!(error.contains(archive.to_str().unwrap()) && error.contains("active"), "{error}");
    node.echo(100, 100);
    node.process.signal("TERM");
    assert_eq!(node.process.wait().code(), Some(0), "{}", node.process.errors());
}

#[test]
fn a_node_without_its_recording_log_is_told_the_commands_that_help() {
    let mut node = OurNode::start(&["--idle", "backoff"]);
    node.echo(10, 100);
    let stop = |node: &mut OurNode| {
        node.process.signal("TERM");
        assert_eq!(node.process.wait().code(), Some(0), "{}", node.process.errors());
    };
    stop(&mut node);
    let cluster = node.directory().join("node/cluster");
    let (log, seal) = (cluster.join("recording.log"), cluster.join("recording.log.seal"));
    for source in ["recording.log.seal", "recording 0 of "] {
        std::fs::remove_file(&log).unwrap();
        if source != "recording.log.seal" {
            std::fs::remove_file(&seal).unwrap();
        }
        let error = fails(&mut node_command(node.directory(), node.members(), &backoff()));
        assert!(error.contains("rebuild-recording-log") && error.contains("--start-anew"), "{error}");
        let mut command = crate::support::binaries::harrier();
        let (output, _) =
            Process::run("rebuild", command.arg("cluster").arg(&cluster).arg("rebuild-recording-log"));
        assert!(output.contains(&format!("recording.log was written from {source}")), "{output}");
        node.restart();
        node.echo(10, 100);
        stop(&mut node);
    }
    std::fs::remove_file(&log).unwrap();
    let arguments = [&backoff()[..], &["--start-anew".to_owned()]].concat();
    let mut command = node_command(node.directory(), node.members(), &arguments);
    let mut process = Process::start("harrier node", &mut command);
    assert!(process.line().contains("\"ready\":true"));
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0), "{}", process.errors());
}

#[test]
fn a_second_driver_on_the_same_directory_is_refused() {
    let driver = OurDriver::start(&[]);
    let error = fails(harrier_driver().arg(format!("-Daeron.dir={}", driver.directory.display())));
    assert!(error.contains("Active media driver detected"), "{error}");
    assert!(error.contains(driver.directory.to_str().unwrap()), "{error}");
    let mut client = Client::connect(&driver.directory);
    let mut subscription = client.subscription("aeron:ipc?term-length=64k", 10);
    let mut publication = client.exclusive("aeron:ipc?term-length=64k", 10);
    client.send(&mut publication, 0..10, 100);
    client.receive(&mut subscription, 0..10, 100);
    driver.stop();
}

#[test]
fn what_a_driver_finds_in_its_directory_is_replaced_unless_it_is_of_another_version() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    std::fs::create_dir(&aeron).unwrap();
    let mut command = harrier_driver();
    command.arg("--ready").arg(format!("-Daeron.dir={}", aeron.display()));
    let mut start = |bytes: &[u8]| {
        std::fs::write(aeron.join("cnc.dat"), bytes).unwrap();
        let mut driver = Process::start("harrier-driver", &mut command);
        assert!(driver.line().contains("\"ready\":true"));
        driver.signal("TERM");
        assert_eq!(driver.wait().code(), Some(15), "{}", driver.errors());
        std::fs::read(aeron.join("cnc.dat")).unwrap()
    };
    let whole = start(&[]);
    for bytes in [&[0; 10][..], &[0; 4_096], &whole[..100_000], &whole] {
        assert_eq!(start(bytes).len(), whole.len());
    }
    let mut other = whole;
    other[2] = 9;
    std::fs::write(aeron.join("cnc.dat"), &other).unwrap();
    let error = fails(harrier_driver().arg(format!("-Daeron.dir={}", aeron.display())));
    assert!(error.contains("cnc.dat has version"), "{error}");
}

#[test]
fn a_port_in_use_is_named() {
    for index in [0, 4] {
        let (members, ports) = free_members();
        let _holder = UdpSocket::bind(("127.0.0.1", ports[index])).unwrap();
        let home = directory("node");
        let error = fails(&mut node_command(home.path(), &members, &backoff()));
        assert!(error.contains("Address already in use"), "{error}");
        assert!(error.contains(&format!("127.0.0.1:{}", ports[index])), "{error}");
    }
}

#[test]
fn a_directory_that_cannot_be_made_is_named() {
    let home = directory("node");
    let file = home.path().join("file");
    std::fs::write(&file, "in the way").unwrap();
    // Below a file, and where even root cannot write.
    for parent in [file.as_path(), Path::new("/proc/sys")] {
        let error = fails(harrier_driver().arg(format!("-Daeron.dir={}", parent.join("aeron").display())));
        assert!(error.contains(parent.to_str().unwrap()), "{error}");
        let mut command = crate::support::binaries::harrier();
        command.args(["node", "--member-id", "0", "--members", &free_members().0]);
        command.arg("--dir").arg(parent.join("node")).arg("--aeron-dir").arg(home.path().join("aeron"));
        let error = fails(&mut command);
        assert!(error.contains(parent.to_str().unwrap()), "{error}");
    }
}

#[test]
fn garbage_at_each_port_is_counted_and_survived() {
    let mut node = OurNode::start(&["--idle", "backoff"]);
    let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut rng: u64 = 1;
    let ports: Vec<u16> = node
        .members()
        .split([',', ':'])
        .filter_map(|part| part.parse().ok())
        .filter(|port| *port > 100)
        .collect();
    assert_eq!(ports.len(), 5);
    let mut send_round = |round: usize| {
        rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let length = [0, 1, 7, 8, 20, 28, 32, 36, 40, 44, 64, 1_408, 9_000, 65_000][round % 14];
        let mut datagram = vec![(rng >> 33) as u8; length];
        if length >= 8 {
            let frame_length = [length as i32, 0, -1, i32::MAX, 8][round % 5];
            datagram[..4].copy_from_slice(&frame_length.to_le_bytes());
            datagram[4] = [0, 0, 1, 255][round % 4];
            datagram[6..8].copy_from_slice(&((round % 14) as u16).to_le_bytes());
        }
        for port in &ports {
            // Some ports of a single member have no listener.
            let _ = sender.send_to(&datagram, ("127.0.0.1", *port));
        }
    };
    (0..400).for_each(&mut send_round);
    let mut client = Client::connect(&node.aeron_directory());
    // A node that stalled meanwhile has only the datagrams that its sockets could buffer.
    let mut rounds = 400..;
    client.until("invalid packets", |aeron| {
        let is_enough = aeron.counters().value(INVALID_PACKETS) > 100;
        if !is_enough {
            send_round(rounds.next().unwrap());
        }
        is_enough.then_some(())
    });
    node.echo(1_000, 500);
    node.process.signal("TERM");
    assert_eq!(node.process.wait().code(), Some(0), "{}", node.process.errors());
}

#[test]
fn a_client_that_dies_inside_a_claim_blocks_nobody() {
    let driver =
        OurDriver::start(&["aeron.client.liveness.timeout=20s", "aeron.publication.unblock.timeout=21s"]);
    let mut command = inner_test("dies_inside_a_claim");
    let mut dying = Process::start("client", command.env(INSIDE, &driver.directory));
    while !dying.line().contains("has claimed") {}
    let mut client = Client::connect(&driver.directory);
    let mut subscription = client.subscription("aeron:ipc?term-length=64k", 10);
    let id = client.aeron.add_publication("aeron:ipc?term-length=64k", 10).unwrap();
    let mut publication = client.until("the publication", |aeron| aeron.publication(id).unwrap());
    client.until("room behind the claim", |_| publication.offer(b"after the hole").ok());
    dying.kill();
    let mut seen = Vec::new();
    client.until("the message behind the hole", |_| {
        subscription.poll(10, &mut |payload, _| seen.push(payload.to_vec()));
        (!seen.is_empty()).then_some(())
    });
    assert_eq!(seen, [b"after the hole"]);
    // The driver updates the counter after the action.
    client.until("the count", |aeron| (aeron.counters().value(UNBLOCKED_PUBLICATIONS) == 1).then_some(()));
    driver.stop();
}

/// Inner part of a test above; does nothing when run alone.
#[test]
fn dies_inside_a_claim() {
    let Some(directory) = std::env::var_os(INSIDE) else { return };
    let mut client = Client::connect(Path::new(&directory));
    let _subscription = client.subscription("aeron:ipc?term-length=64k", 10);
    let mut publication = client.publication("aeron:ipc?term-length=64k", 10);
    let _claim = client.until("room", |_| publication.try_claim(100).ok());
    println!("has claimed");
    client.until("the end of this process", |_| None::<()>);
}

/// Ways to damage a file of a node.
const CUT: fn(&[u8]) -> Vec<u8> = |bytes| bytes[..bytes.len().min(40)].to_vec();
const FLIPPED: fn(&[u8]) -> Vec<u8> = |bytes| bytes.iter().map(|byte| byte ^ 0x5A).collect();
const EMPTY: fn(&[u8]) -> Vec<u8> = |_| Vec::new();

#[test]
fn damaged_files_of_a_node_are_errors_that_name_them() {
    let mut node = OurNode::start(&["--idle", "backoff"]);
    node.echo(2_000, 1_000);
    node.process.signal("TERM");
    assert_eq!(node.process.wait().code(), Some(0));
    let cases = [
        ("archive/archive.catalog", CUT, "archive.catalog: catalog entry at 32: cut after 8 bytes"),
        ("archive/archive.catalog", FLIPPED, "archive.catalog: catalog has version"),
        ("archive/archive.catalog", EMPTY, "archive has no recording 0 of the log"),
        ("archive/archive-mark.dat", FLIPPED, "archive-mark.dat has version"),
        ("archive/0-0.rec", CUT, "0-0.rec: frame at offset 0 (position 0 of recording 0): it has no length"),
        ("cluster/recording.log", CUT, "recording.log entry at 0: cut after 40 bytes"),
        ("cluster/recording.log", FLIPPED, "recording.log entry at 0: unknown type"),
        ("cluster/cluster-mark.dat", FLIPPED, "cluster-mark.dat has version"),
    ];
    for (name, damage, text) in cases {
        let path = node.directory().join("node").join(name);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, damage(&whole)).unwrap();
        eprintln!("{name}, which must be an error with '{text}'");
        let error = fails(&mut node_command(node.directory(), node.members(), &backoff()));
        assert!(error.contains(text), "{error}");
        std::fs::write(&path, &whole).unwrap();
    }
    // An incomplete mark file is created again.
    for name in ["archive/archive-mark.dat", "cluster/cluster-mark.dat"] {
        std::fs::write(node.directory().join("node").join(name), [0; 100]).unwrap();
    }
    node.restart();
    node.echo(100, 100);
    node.process.signal("TERM");
    assert_eq!(node.process.wait().code(), Some(0), "{}", node.process.errors());
}

#[test]
fn too_little_space_is_an_error_that_names_directory_and_bytes() {
    let home = directory("space");
    let aeron = home.path().join("aeron");
    // The file system is too small even for the driver's own file of 48,238,592 bytes.
    let mut command = harrier_driver();
    command.arg(format!("-Daeron.dir={}", aeron.display()));
    let Some(mut small) = in_small_file_system(home.path(), "8m", &command) else { return };
    let error = fails(&mut small);
    assert!(error.contains("not enough space in") && error.contains(aeron.to_str().unwrap()), "{error}");
    assert!(error.contains("48238592 bytes required"), "{error}");

    let mut inner = inner_test("fills_a_small_file_system");
    inner.env(INSIDE, home.path());
    Process::run("inner test", &mut in_small_file_system(home.path(), "80m", &inner).unwrap());
}

/// Inner part of a test above; does nothing when run alone.
#[test]
fn fills_a_small_file_system() {
    let Some(home) = std::env::var_os(INSIDE) else { return };
    let aeron = Path::new(&home).join("aeron");
    let mut command = harrier_driver();
    command.arg("--ready").arg(format!("-Daeron.dir={}", aeron.display()));
    let mut driver = Process::start("harrier-driver", &mut command);
    driver.line();
    let mut client = Client::connect(&aeron);
    let mut subscription = client.subscription("aeron:ipc?term-length=64k|sparse=false", 10);
    let mut publication = client.exclusive("aeron:ipc?term-length=64k|sparse=false", 10);
    // A request larger than the file system is refused, sparse or not.
    for sparse in [true, false] {
        let channel = format!("aeron:ipc?term-length=16m|sparse={sparse}");
        let error = client.try_exclusive(&channel, 11).unwrap_err();
        let ClientError::Registration { code, message, .. } = error else { panic!("{error}") };
        assert_eq!(code, 12, "{message}");
        assert!(message.contains("insufficient usable storage for new log of length=50335744"), "{message}");
        assert!(message.contains(aeron.to_str().unwrap()), "{message}");
    }
    let mut held = Vec::new();
    let refused = loop {
        match client.try_exclusive("aeron:ipc?term-length=1m|sparse=false", 12) {
            Ok(publication) => held.push(publication),
            Err(error) => break error,
        }
    };
    assert!(held.len() >= 5, "{}", held.len());
    assert!(matches!(refused, ClientError::Registration { code: 12, .. }), "{refused}");
    let mut padding = 0;
    while std::fs::write(aeron.join(format!("padding-{padding}")), [1; 4_096]).is_ok() {
        padding += 1;
    }
    // Without a free page, existing streams, counters and the error log keep working.
    for from in (0..1_000).step_by(20) {
        client.send(&mut publication, from..from + 20, 1_000);
        client.receive(&mut subscription, from..from + 20, 1_000);
    }
    let ids: Vec<_> =
        (0..500).map(|at| client.aeron.add_counter(1_001, &[], &format!("counter {at}")).unwrap()).collect();
    for id in ids {
        held_counter(&mut client, id);
    }
    drop(held);
    until("the end of the held logs", || {
        client.work();
        (std::fs::read_dir(aeron.join("publications")).unwrap().count() == 1).then_some(())
    });
    driver.signal("TERM");
    assert_eq!(driver.wait().code(), Some(15), "{}", driver.errors());
}

fn held_counter(client: &mut Client, id: i64) {
    let counter = client.until("the counter", |aeron| aeron.counter(id).unwrap());
    counter.set_ordered(7);
}
