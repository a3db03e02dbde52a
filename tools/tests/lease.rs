//! `harrier lease` against a node with the lease service: its stable interface for scripts.
#![forbid(unsafe_code)]

use std::path::Path;
use std::process::Command;

use crate::support::binaries::{OurNode, harrier};
use crate::support::process::Process;
use crate::support::stopwatch::Stopwatch;
use crate::support::{directory, until};
use serde_json::Value;

/// A node with leases and an order book that accepts fences.
struct Leases {
    node: OurNode,
    ingress: String,
}

impl Leases {
    fn start() -> Self {
        let arguments = ["--service", "lease", "--services", "2", "-D", "harrier.lease.max.duration=3600s"];
        let node = OurNode::start(&arguments);
        let ingress = node.ready["ingress_endpoints"].as_str().unwrap().to_owned();
        Self { node, ingress }
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = harrier();
        command.args(["lease", "--json", "--ingress", &self.ingress, "--egress", "127.0.0.1:0"]);
        command.args(["--timeout-ms", "60000"]).args(words);
        command
    }

    /// Exit code and printed object; standard error must be empty.
    fn ask(&self, words: &[&str]) -> (i32, Value) {
        let (status, output, errors) = Process::finish("harrier lease", &mut self.command(words));
        assert_eq!(errors, "", "{words:?}");
        let object = output.lines().last().map_or(Value::Null, |line| serde_json::from_str(line).unwrap());
        (status.code().unwrap(), object)
    }
}

#[test]
fn answers_and_exit_codes() {
    let leases = Leases::start();
    let (code, granted) = leases.ask(&["claim", "db", "db/0", "60s"]);
    assert_eq!((code, granted["outcome"].as_str()), (0, Some("granted")));
    let token = granted["token"].as_u64().unwrap();
    let guaranteed_ms = granted["guaranteed_ms"].as_i64().unwrap();
    assert!(token > 0 && guaranteed_ms > 0 && guaranteed_ms <= 60_000, "{granted}");

    let (code, extended) = leases.ask(&["claim", "db", "db/0", "70s"]);
    assert_eq!((code, extended["token"].as_u64()), (0, Some(token)));
    let (code, denied) = leases.ask(&["claim", "db", "db/1", "1s"]);
    assert_eq!((code, denied["outcome"].as_str()), (3, Some("denied")));

    assert_eq!(leases.ask(&["check", "db", "db/0"]).1["token"].as_u64(), Some(token));
    assert_eq!(leases.ask(&["check", "db", "db/1"]).0, 3);
    assert_eq!(leases.ask(&["wait", "nobody"]).0, 0);

    assert_eq!(leases.ask(&["pin", "db", "upgrade"]).0, 0);
    let (code, list) = leases.ask(&["list"]);
    let entry = &list["leases"][0];
    assert_eq!((code, entry["unit"].as_str(), entry["left_ms"].as_i64()), (0, Some("db/0"), None));
    assert_eq!(entry["pins"][0], "upgrade");
    assert_eq!(leases.ask(&["unpin", "db", "upgrade"]).0, 0);
    assert!(leases.ask(&["list", "db"]).1["leases"][0]["left_ms"].as_i64().unwrap() > 0);
    assert_eq!(leases.ask(&["list", "other"]).1["leases"].as_array().unwrap().len(), 0);

    let (code, stale) = leases.ask(&["release", "db", "db/0", "1"]);
    assert_eq!((code, stale["outcome"].as_str(), stale["token"].as_u64()), (3, Some("stale"), Some(token)));
    let token = token.to_string();
    assert_eq!(leases.ask(&["release", "db", "db/0", &token]).0, 0);
    assert_eq!(leases.ask(&["release", "db", "db/0", &token]).0, 0, "again it does nothing");
    assert_eq!(leases.ask(&["wait", "db"]).0, 0);

    for (words, text) in [
        (&["claim", "d b", "db/0", "1s"][..], "application"),
        (&["claim", "db", "", "1s"], "unit"),
        (&["claim", "db", "db/0", "ten"], "number with s, ms"),
        (&["claim", "db", "db/0", "25h"], "number with s, ms"),
        (&["claim", "db", "db/0", "90000s"], "duration"),
        (&["hold", "db", "db/0", "--duration", "1s", "--grace", "600ms"], "grace"),
        (&["hold", "db", "d b"], "unit"),
    ] {
        let (status, _, errors) = Process::finish("harrier lease", &mut leases.command(words));
        assert_eq!(status.code(), Some(2), "{words:?}: {errors}");
        assert!(errors.contains(text), "{words:?}: {errors}");
    }
    // Valid for the client, too long for the service.
    let (status, _, errors) =
        Process::finish("harrier lease", &mut leases.command(&["claim", "db", "db/0", "7200s"]));
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(errors.contains("refused") && errors.contains("duration"), "{errors}");
}

#[test]
fn without_a_cluster_nothing_is_known() {
    let arguments = ["lease", "--ingress", "0=127.0.0.1:1", "--egress", "127.0.0.1:0", "--timeout-ms", "300"];
    let mut command = harrier();
    command.args(arguments).args(["check", "db", "db/0"]);
    let (status, output, errors) = Process::finish("harrier lease", &mut command);
    assert_eq!((status.code(), output.as_str()), (Some(1), ""));
    assert!(errors.contains("no session with the cluster"), "{errors}");
    // The option is the whole wait of a claim too, however long its duration.
    let mut command = harrier();
    command.args(arguments).args(["claim", "db", "db/0", "40s"]);
    let stopwatch = Stopwatch::start();
    let (status, _, errors) = Process::finish("harrier lease", &mut command);
    let took_ns = stopwatch.stop();
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(took_ns < 15_000_000_000, "{took_ns} ns, half of the duration is 20 s");
    let (status, _, errors) = Process::finish("harrier lease", harrier().args(["lease", "list"]));
    assert_eq!(status.code(), Some(2));
    assert!(errors.contains("--ingress"), "{errors}");
}

fn text_of(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

#[test]
fn a_program_runs_only_while_its_unit_leads() {
    let leases = Leases::start();
    let files = directory("lease-hold");
    let file = |name: &str| files.path().join(name);
    // Prints its token, then runs until it is signalled.
    let script = |name: &str| {
        let path = file(name).display().to_string();
        format!(
            "trap 'echo told >> {path}; exit 0' TERM; echo $HARRIER_FENCING_TOKEN $HARRIER_LEASE_UNIT > {path}; while :; do sleep 0.05; done"
        )
    };
    let hold = |unit: &str, name: &str| {
        let script = script(name);
        let words = ["hold", "gw", unit, "--duration", "8s", "--grace", "500ms", "--", "sh", "-c", &script];
        Process::start("harrier lease hold", &mut leases.command(&words))
    };
    let mut first = hold("gw/0", "first");
    let leads: Value = serde_json::from_str(&first.line()).unwrap();
    assert_eq!((leads["outcome"].as_str(), leads["unit"].as_str()), (Some("leads"), Some("gw/0")));
    until("the first program", || text_of(&file("first")).contains('\n').then_some(()));
    let token = leads["token"].as_u64().unwrap();
    assert_eq!(text_of(&file("first")), format!("{token} gw/0\n"));

    // Another unit is denied, or waits.
    let (code, denied) = leases.ask(&["hold", "gw", "gw/9", "--no-wait", "--duration", "2s", "--", "true"]);
    assert_eq!((code, denied["outcome"].as_str()), (3, Some("denied")));
    let mut second = hold("gw/1", "second");
    first.signal("TERM");
    assert!(first.wait().success());
    assert_eq!(text_of(&file("first")), format!("{token} gw/0\ntold\n"));
    let leads: Value = serde_json::from_str(&second.line()).unwrap();
    let next = leads["token"].as_u64().unwrap();
    assert!(leads["unit"] == "gw/1" && next > token, "{leads}");

    // A leader that is commanded to step down stops its program and reports it.
    until("the second program", || text_of(&file("second")).contains('\n').then_some(()));
    // Renewal is due at half the duration, so it does not fall between the two checks.
    second.signal("STOP");
    assert_eq!(leases.ask(&["release", "gw", "gw/1", &next.to_string()]).0, 0);
    assert_eq!(leases.ask(&["claim", "gw", "gw/2", "60s"]).0, 0);
    second.signal("CONT");
    let lost: Value = serde_json::from_str(&second.line()).unwrap();
    assert_eq!(lost["outcome"].as_str(), Some("lost"));
    assert_eq!(second.wait().code(), Some(3));
    assert!(text_of(&file("second")).ends_with("told\n"));
}

#[test]
fn a_unit_is_held_by_one_process() {
    let leases = Leases::start();
    let words = ["hold", "gw", "gw/0", "--duration", "2s", "--grace", "500ms", "--", "sleep", "1000"];
    let mut first = Process::start("harrier lease hold", &mut leases.command(&words));
    let leads: Value = serde_json::from_str(&first.line()).unwrap();
    assert_eq!(leads["outcome"].as_str(), Some("leads"));
    // A one-off claim belongs to the process that runs the command.
    let (code, held) = leases.ask(&["claim", "gw", "gw/0", "1s"]);
    assert_eq!((code, held["outcome"].as_str()), (3, Some("unit held")));
    assert!(
        held["process"].as_str().unwrap().starts_with("pid ") && held["started_ms"].as_i64() > Some(0),
        "{held}"
    );

    // A second process with the same unit name does not start its program, and ends once the first has renewed.
    let files = directory("lease-twice");
    let mark = files.path().join("ran");
    let words =
        ["hold", "gw", "gw/0", "--duration", "2s", "--grace", "500ms", "--", "touch", mark.to_str().unwrap()];
    let (status, output, errors) = Process::finish("harrier lease", &mut leases.command(&words));
    assert_eq!(status.code(), Some(1), "{errors}");
    assert!(output.contains("\"unit held\""), "{output}");
    assert!(errors.contains("unit gw/0 is held by another process: pid "), "{errors}");
    assert!(!mark.exists());

    // The successor of a killed holder leads once the lease has expired.
    first.kill();
    let (code, output) =
        leases.ask(&["hold", "gw", "gw/0", "--duration", "2s", "--grace", "500ms", "--", "true"]);
    assert_eq!(code, 0, "{output}");
}

#[test]
fn a_process_is_named() {
    let leases = Leases::start();
    let claim = |process: &str| leases.ask(&["claim", "db", "db/0", "60s", "--process", process]);
    assert_eq!(claim("batch").0, 0);
    assert_eq!(claim("batch").0, 0);
    let (code, held) = claim("other");
    assert_eq!((code, held["process"].as_str()), (3, Some("batch")));
}

#[test]
fn a_program_is_gone_before_the_guarantee_when_the_cluster_is() {
    let mut leases = Leases::start();
    let files = directory("lease-lost");
    let path = files.path().join("program");
    // The program ignores the signal to terminate.
    let script = format!("trap '' TERM; echo $$ > {}; while :; do sleep 0.05; done", path.display());
    let words = ["hold", "gw", "gw/0", "--duration", "4s", "--grace", "500ms", "--", "sh", "-c", &script];
    let mut hold = Process::start("harrier lease hold", &mut leases.command(&words));
    hold.line();
    until("the program", || text_of(&path).contains('\n').then_some(()));
    let id = text_of(&path).trim().to_owned();
    leases.node.process.kill();
    let lost: Value = serde_json::from_str(&hold.line()).unwrap();
    assert_eq!(lost["outcome"].as_str(), Some("lost"));
    assert!(!Path::new("/proc").join(id).exists(), "killed before it is said to be lost");
    assert_eq!(hold.wait().code(), Some(3));
}

#[test]
fn the_exit_of_a_program_is_the_exit_of_its_hold() {
    let leases = Leases::start();
    assert_eq!(leases.ask(&["hold", "job", "job/0", "--", "true"]).0, 0);
    let (status, _, errors) =
        Process::finish("harrier lease", &mut leases.command(&["hold", "job", "job/0", "--", "false"]));
    assert_eq!(status.code(), Some(1));
    assert!(errors.contains("exit status: 1"), "{errors}");
    // Both leases are released.
    assert_eq!(leases.ask(&["claim", "job", "job/1", "1s"]).0, 0);
}

#[test]
fn a_list_is_live() {
    let leases = Leases::start();
    leases.ask(&["claim", "db", "db/0", "60s"]);
    let mut list =
        Process::start("harrier lease", &mut leases.command(&["list", "--watch", "--interval-ms", "50"]));
    assert!(list.line().contains("db/0"));
    leases.ask(&["claim", "risk", "risk/0", "60s"]);
    until("the second lease", || {
        list.lines_so_far().iter().any(|line| line.contains("risk/0")).then_some(())
    });
    list.signal("INT");
    assert!(list.wait().success());
    let (status, frame, _) = Process::finish("harrier lease", &mut leases.command(&["top", "--once"]));
    assert!(status.success() && frame.contains("risk/0") && frame.contains("held 2"), "{frame}");
}
