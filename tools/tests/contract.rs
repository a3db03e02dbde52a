//! What scripts rely on in `harrier node` and `harrier-driver`: lines, exit codes, settings.
#![forbid(unsafe_code)]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use support::binaries::{OurNode, harrier, harrier_driver};
use support::client::Client;
use support::ports::free_port;
use support::process::Process;
use support::{directory, until};

fn finish(command: &mut Command) -> (i32, String, String) {
    let (status, output, errors) = Process::finish("command", command);
    (status.code().expect("an exit code"), output, errors)
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for (command, example) in [
        ("", "harrier node --dir"),
        ("node", "harrier node --dir"),
        ("demo", "harrier demo"),
        ("bench", "harrier bench"),
    ] {
        let words = command.split_whitespace().chain(["--help"]);
        let (code, output, errors) = finish(harrier().args(words));
        assert_eq!((code, errors.as_str()), (0, ""), "{command}");
        assert!(output.contains("Example") && output.contains(example), "{output}");
    }
    let (code, output, errors) = finish(harrier_driver().arg("--help"));
    assert_eq!((code, errors.as_str()), (0, ""));
    assert!(output.contains("example: harrier-driver"), "{output}");
}

#[test]
fn wrong_usage_ends_with_2_and_says_what_is_wrong() {
    let members = "0,localhost:1,localhost:2,localhost:3,localhost:4,localhost:5";
    let two = format!("{members}|1,localhost:6,localhost:7,localhost:8,localhost:9,localhost:10");
    let node = ["node", "--dir", "/dev/shm/never", "--aeron-dir", "/dev/shm/never-aeron"];
    let cases: [(&[&str], &str); 11] = [
        (&[], "Usage"),
        (&["nod"], "nod"),
        (&["node"], "--dir"),
        (&["node", "--member", "x"], "--member"),
        (&[&node[..], &["--members", "0,localhost:1"]].concat(), "member"),
        (&[&node[..], &["--members", &two]].concat(), "one member"),
        (&[&node[..], &["--members", members, "--member-id", "7"]].concat(), "7"),
        (&[&node[..], &["--members", members, "--idle", "nap"]].concat(), "nap"),
        (
            &[&node[..], &["--members", members, "-D", "aeron.cluster.max.sessions=many"]].concat(),
            "aeron.cluster.max.sessions=many",
        ),
        (&[&node[..], &["--members", members, "-D", "nothing"]].concat(), "malformed define: nothing"),
        (&[&node[..], &["--members", members, "--properties", "/nowhere"]].concat(), "/nowhere"),
    ];
    for (arguments, text) in cases {
        let (code, output, errors) = finish(harrier().args(arguments));
        assert_eq!((code, output.as_str()), (2, ""), "{arguments:?}: {errors}");
        assert!(errors.contains(text), "{arguments:?}: {errors}");
    }
    assert!(!Path::new("/dev/shm/never").exists() && !Path::new("/dev/shm/never-aeron").exists());
    let (code, output, errors) = finish(harrier_driver().arg("-x"));
    assert_eq!((code, output.as_str()), (2, ""));
    assert!(errors.contains("-x"), "{errors}");
}

#[test]
fn a_benchmark_prints_one_line_of_json() {
    let words = ["bench", "one-to-one", "--size", "64", "--json", "--seconds", "0.05", "--warmup", "0.05"];
    let (code, output, errors) = finish(harrier().args(words));
    assert_eq!(code, 0, "{errors}");
    let result: Value = serde_json::from_str(&output).unwrap_or_else(|error| panic!("{error}: {output}"));
    assert!(result["msgs_per_s"].as_f64().unwrap() > 0.0 && result["cross_core_ns"].as_f64().unwrap() > 0.0);
    assert!(result.get("p50_ns").is_some() && result.get("p99_ns").is_some(), "{result}");
    let (code, _, errors) = finish(harrier().args(["bench", "nothing"]));
    assert_eq!(code, 2);
    assert!(errors.contains("nothing"), "{errors}");
}

#[test]
fn a_node_prints_one_line_when_it_serves_and_ends_on_signals_with_0() {
    for (layout, signal) in [("fused", "TERM"), ("threads", "INT")] {
        let mut node = OurNode::start(&["--layout", layout, "--idle", "backoff"]);
        let ready = &node.ready;
        assert_eq!(ready["member_id"], 0);
        assert_eq!(ready["pid"], node.process.id());
        assert!(node.ingress_endpoints().starts_with("0=127.0.0.1:"), "{ready}");
        assert!(ready["archive_endpoint"].as_str().unwrap().starts_with("127.0.0.1:"), "{ready}");
        for (key, name) in [("dir", "node"), ("aeron_dir", "aeron")] {
            let path = Path::new(ready[key].as_str().unwrap());
            assert_eq!(path, node.directory().join(name));
            assert!(path.is_dir(), "{ready}");
        }
        node.process.signal(signal);
        assert_eq!(node.process.wait().code(), Some(0), "{layout} {signal}: {}", node.process.errors());
        assert_eq!(node.process.lines_so_far(), Vec::<String>::new());
        assert_eq!(node.process.errors(), "");
    }
}

#[test]
fn a_node_ends_by_itself_after_its_time() {
    let mut node = OurNode::start(&["--idle", "backoff", "--max-seconds", "1"]);
    assert_eq!(node.process.wait().code(), Some(0), "{}", node.process.errors());
}

#[test]
fn a_node_without_services_of_its_own_waits_for_them() {
    let endpoints: Vec<_> = (0..5).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    let members = format!("0,{}", endpoints.join(","));
    let arguments = ["--service", "none", "--idle", "backoff"].map(String::from);
    let home = directory("node");
    let mut command = support::binaries::node_command(home.path(), &members, &arguments);
    command.args(["--max-seconds", "1"]);
    let (code, output, _) = finish(&mut command);
    assert_eq!((code, output.as_str()), (0, ""), "a node whose service is missing does not serve");
    // It can be ended while it waits.
    let home = directory("node");
    let mut command = support::binaries::node_command(home.path(), &members, &arguments);
    let mut process = Process::start("harrier node", &mut command);
    until("the driver of the node", || home.path().join("aeron/loss-report.dat").exists().then_some(()));
    process.signal("TERM");
    assert_eq!(process.wait().code(), Some(0), "{}", process.errors());
}

/// Starts a driver, waits until its directory serves clients, and lets `check` look at it.
fn with_driver(command: &mut Command, aeron_directory: &Path, check: impl FnOnce(&mut Client)) -> Process {
    let mut process = Process::start("harrier-driver", command);
    until("the directory of the driver", || aeron_directory.join("loss-report.dat").exists().then_some(()));
    check(&mut Client::connect(aeron_directory));
    assert_eq!(process.lines_so_far(), Vec::<String>::new());
    assert_eq!(process.errors(), "");
    process
}

#[test]
fn the_driver_is_silent_unless_asked_and_ends_on_signals() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    for signal in ["TERM", "INT"] {
        let mut command = harrier_driver();
        command.arg(format!("-Daeron.dir={}", aeron.display()));
        let mut process = with_driver(&mut command, &aeron, |_| ());
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(0));
        assert_eq!((process.lines_so_far(), process.errors().as_str()), (vec![], ""));
    }
    let mut command = harrier_driver();
    command.arg("--ready").arg(format!("-Daeron.dir={}", aeron.display()));
    let mut process = Process::start("harrier-driver", &mut command);
    let ready: Value = serde_json::from_str(&process.line()).unwrap();
    assert_eq!((&ready["ready"], &ready["pid"]), (&Value::from(true), &Value::from(process.id())));
    assert_eq!(Path::new(ready["aeron_dir"].as_str().unwrap()), aeron);
}

#[test]
fn the_driver_takes_definitions_files_and_variables_in_that_order() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let file = home.path().join("driver.properties");
    std::fs::write(&file, "# terms\naeron.term.buffer.length=128k\naeron.ipc.term.buffer.\\\nlength: 256k\n")
        .unwrap();
    let term_of = |command: &mut Command, channel: &str| {
        let mut length = 0;
        let mut process = with_driver(command, &aeron, |client| {
            length = client.exclusive(channel, 10).term_buffer_length();
        });
        process.signal("TERM");
        assert_eq!(process.wait().code(), Some(0));
        length
    };
    let udp = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
    let udp = udp.as_str();
    let base = || {
        let mut command = harrier_driver();
        command.env("AERON_DIR", &aeron).env("AERON_TERM_BUFFER_LENGTH", "64k");
        command
    };
    assert_eq!(term_of(&mut base(), udp), 64 << 10);
    assert_eq!(term_of(base().arg(&file), udp), 128 << 10);
    assert_eq!(term_of(base().arg(&file), "aeron:ipc"), 256 << 10);
    assert_eq!(term_of(base().arg(&file).arg("-Daeron.term.buffer.length=512k"), udp), 512 << 10);
    let (code, output, errors) = finish(base().arg("-Dfoo"));
    assert_eq!((code, output.as_str(), errors.trim()), (1, "", "malformed define: foo"));
    let (code, _, errors) = finish(base().arg(home.path().join("absent.properties")));
    assert!(code == 1 && errors.contains("ERROR: loading properties from"), "{errors}");
    let (code, _, errors) = finish(base().arg("-Daeron.mtu.length=1000"));
    assert!(code == 1 && errors.contains("aeron.mtu.length=1000"), "{errors}");
}
