//! Stable interface of `harrier node` and `harrier-driver` for scripts: lines, exit codes, settings.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use crate::support::binaries::{OurNode, harrier, harrier_driver};
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};
use serde_json::Value;

fn finish(command: &mut Command) -> (i32, String, String) {
    let (status, output, errors) = Process::finish("command", command);
    (status.code().expect("an exit code"), output, errors)
}

/// A member string with free ports.
fn free_members() -> String {
    let endpoints: Vec<_> = (0..5).map(|_| format!("127.0.0.1:{}", free_port())).collect();
    format!("0,{}", endpoints.join(","))
}

#[test]
fn every_command_explains_itself_with_an_example() {
    for (command, example) in [
        ("", "harrier node --dir"),
        ("node", "harrier node --dir"),
        ("demo", "harrier demo"),
        ("bench", "harrier bench"),
        ("stat", "harrier stat"),
        ("errors", "harrier errors"),
        ("loss", "harrier loss"),
        ("streams", "harrier streams"),
        ("backlog", "harrier backlog"),
        ("top", "harrier top --once"),
        ("ping", "harrier pong & harrier ping"),
        ("pong", "harrier pong"),
        ("pub", "harrier pub --stream-id 42"),
        ("sub", "harrier sub --channel"),
        ("rate", "harrier rate --end subscriber"),
        ("export", "harrier export --once"),
        ("completions", "harrier completions bash"),
        ("doctor", "harrier doctor"),
        ("lease", "harrier lease --ingress 0=localhost:20110 hold"),
        ("archive", "harrier archive /var/lib/harrier/archive verify"),
        ("cluster", "harrier cluster /var/lib/harrier/cluster snapshot"),
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
        assert_eq!(node.process.last_lines(), Vec::<String>::new());
        assert_eq!(node.process.errors(), "");
    }
}

#[test]
fn a_node_ends_by_itself_after_its_time() {
    let members = free_members();
    let home = directory("node");
    let arguments = ["--idle", "backoff", "--max-seconds", "1"].map(String::from);
    let mut command = crate::support::binaries::node_command(home.path(), &members, &arguments);
    let (code, _, errors) = finish(&mut command);
    assert_eq!((code, errors.as_str()), (0, ""));
}

#[test]
fn a_node_without_services_of_its_own_waits_for_them() {
    let members = free_members();
    let arguments = ["--service", "none", "--idle", "backoff"].map(String::from);
    let home = directory("node");
    let mut command = crate::support::binaries::node_command(home.path(), &members, &arguments);
    command.args(["--max-seconds", "1"]);
    let (code, output, _) = finish(&mut command);
    assert_eq!((code, output.as_str()), (0, ""), "a node whose service is missing does not serve");
    // The command can be interrupted while it waits.
    let home = directory("node");
    let mut command = crate::support::binaries::node_command(home.path(), &members, &arguments);
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
    for (signal, code) in [("TERM", 15), ("INT", 2)] {
        let mut command = harrier_driver();
        command.arg(format!("-Daeron.dir={}", aeron.display()));
        let mut process = with_driver(&mut command, &aeron, |_| ());
        process.signal(signal);
        assert_eq!(process.wait().code(), Some(code));
        let last = vec!["Shutting down driver...".to_owned()];
        assert_eq!((process.last_lines(), process.errors().as_str()), (last, ""));
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
        assert_eq!(process.wait().code(), Some(15));
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

#[test]
fn commands_on_files_say_what_is_missing_and_end_with_1() {
    let home = directory("empty");
    let folder = home.path().to_str().unwrap();
    let cases: [(&[&str], &str); 12] = [
        (&["stat", "--aeron-dir", folder], "no media driver in"),
        (&["errors", "--aeron-dir", folder], "--aeron-dir"),
        (&["loss", "--aeron-dir", folder, "--json"], "no media driver in"),
        (&["streams", "--aeron-dir", folder, "--watch"], "no media driver in"),
        (&["backlog", "--aeron-dir", folder], "no media driver in"),
        (&["top", "--aeron-dir", folder, "--once"], "no media driver in"),
        (&["archive", folder, "describe"], "no archive in"),
        (&["archive", folder, "compact", "--yes"], "no archive in"),
        (&["archive", folder, "pid"], "no mark file"),
        (&["cluster", folder, "describe"], "no member in"),
        (&["cluster", folder, "is-leader"], "no member in"),
        (&["cluster", folder, "recording-log"], "no recording.log in"),
    ];
    for (arguments, text) in cases {
        let (code, output, errors) = finish(harrier().args(arguments));
        assert_eq!((code, output.as_str()), (1, ""), "{arguments:?}: {errors}");
        assert!(errors.starts_with("harrier: ") && errors.contains(text), "{arguments:?}: {errors}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "looking leaves no trace");
    for arguments in [
        &["archive", folder][..],
        &["archive", folder, "checksum", "MD5"],
        &["cluster", folder, "dance"],
        &["stat", "--type", "x"],
        &["doctor", "--busy-threads", "-1"],
    ] {
        let (code, output, errors) = finish(harrier().args(arguments));
        assert_eq!((code, output.as_str()), (2, ""), "{arguments:?}: {errors}");
    }
}

#[test]
fn a_running_driver_is_shown_as_text_and_as_json() {
    let driver = crate::support::binaries::OurDriver::start(&[]);
    let mut client = Client::connect(&driver.directory);
    let mut publication = client.exclusive("aeron:ipc?term-length=64k", 1_001);
    let mut subscription = client.subscription("aeron:ipc", 1_001);
    client.send(&mut publication, 0..10, 100);
    client.receive(&mut subscription, 0..10, 100);
    let run = |command: &str, arguments: &[&str]| {
        let mut tool = harrier();
        tool.args([command, "--aeron-dir"]).arg(&driver.directory).args(arguments);
        let (code, output, errors) = finish(&mut tool);
        assert_eq!((code, errors.as_str()), (0, ""), "{command} {arguments:?}");
        output
    };
    let json = |command: &str, arguments: &[&str]| -> Value {
        let output = run(command, &[&["--json"], arguments].concat());
        assert_eq!(output.lines().count(), 1, "{output}");
        serde_json::from_str(&output).unwrap()
    };
    let stat = json("stat", &["--stream-id", "1001", "--type", "12"]);
    assert_eq!(stat["pid"], driver.process.id());
    assert_eq!(stat["counters"][0]["value"], publication.position());
    assert!(run("stat", &["--label", "bytes sent"]).contains(" - Bytes sent"));
    let streams = json("streams", &[]);
    assert_eq!(streams["streams"].as_array().unwrap().len(), 2, "{streams}");
    assert_eq!(json("backlog", &[])["streams"][1]["ends"][0]["backlog"], 0);
    assert_eq!(json("errors", &[])["errors"], serde_json::json!([]));
    assert_eq!(json("loss", &[])["losses"], serde_json::json!([]));
    let frame = run("top", &["--once", "--interval-ms", "20", "--width", "120", "--height", "30"]);
    assert_eq!(frame.lines().count(), 30);
    assert!(frame.contains("2 streams by stream") && frame.contains("alive"), "{frame}");
    // Without a terminal the command names the alternative.
    let (code, _, errors) = finish(harrier().args(["top", "--aeron-dir"]).arg(&driver.directory));
    assert!(code == 1 && errors.contains("--once"), "{errors}");
    driver.stop();
}

#[test]
fn a_watched_driver_is_shown_again_and_again_until_a_signal() {
    let driver = crate::support::binaries::OurDriver::start(&[]);
    let mut command = harrier();
    command.args(["stat", "--watch", "--json", "--interval-ms", "20", "--aeron-dir"]).arg(&driver.directory);
    let mut watcher = Process::start("harrier stat", &mut command);
    let times: Vec<i64> = (0..3)
        .map(|_| serde_json::from_str::<Value>(&watcher.line()).unwrap()["time_ms"].as_i64().unwrap())
        .collect();
    assert!(times.is_sorted() && times[2] > times[0], "{times:?}");
    watcher.signal("TERM");
    assert_eq!(watcher.wait().code(), Some(0));
    driver.stop();
}

#[test]
fn the_doctor_ends_with_3_when_something_costs() {
    let host = directory("host");
    let put = |path: &str, text: &str| {
        let path = host.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    put("sys/devices/system/cpu/online", "0-3\n");
    put("sys/devices/system/cpu/isolated", "2-3\n");
    put("sys/devices/system/cpu/nohz_full", "2-3\n");
    put("sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
    let doctor =
        |arguments: &[&str]| finish(harrier().arg("doctor").arg("--root").arg(host.path()).args(arguments));
    let (code, output, errors) = doctor(&[]);
    assert_eq!((code, errors.as_str()), (0, ""), "{output}");
    assert!(output.contains("ok    Clock source: tsc") && output.contains("nothing that costs"), "{output}");
    put("sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
    let (code, output, _) = doctor(&["--json"]);
    let found: Value = serde_json::from_str(&output).unwrap();
    assert_eq!((code, found["findings"].as_array().unwrap().len()), (3, 1), "{output}");
    assert_eq!(found["findings"][0]["see"], "tuning.md#transparent-huge-pages");
    let (code, output, _) = doctor(&["--busy-threads", "4"]);
    assert!(code == 3 && output.contains("COSTS Cores for busy threads"), "{output}");
}

#[test]
fn segments_of_a_stopped_archive_are_purged_when_asked_twice() {
    let home = directory("purge-to");
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/archive/testdata/plain/extended");
    for entry in std::fs::read_dir(golden).unwrap() {
        let path = entry.unwrap().path();
        std::fs::write(home.path().join(path.file_name().unwrap()), std::fs::read(&path).unwrap()).unwrap();
    }
    let purge = |arguments: &[&str]| {
        let mut command = harrier();
        command.arg("archive").arg(home.path()).args(["purge-to", "0", "140000"]).args(arguments);
        finish(&mut command)
    };
    let (code, _, errors) = purge(&[]);
    assert!(code != 0 && errors.contains("nothing was changed"), "{code} {errors}");
    assert!(home.path().join("0-0.rec").exists());
    let (code, output, errors) = purge(&["--yes"]);
    assert_eq!(
        (code, output.as_str()),
        (0, "(recordingId=0) startPosition=131072, deleted 1 segment files\n"),
        "{errors}"
    );
    assert!(!home.path().join("0-0.rec").exists() && home.path().join("0-131072.rec").exists());
}
