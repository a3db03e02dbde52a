//! The released tools on our node and its files, and our tools on a released member and its files.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::peers::java;
use crate::support::binaries::{OurNode, harrier};
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};

/// Runs a released tool; returns its exit code and output.
fn released(class: &str, arguments: &[&str]) -> (i32, String) {
    run(&mut java::program(&[], class, arguments))
}

fn run(command: &mut Command) -> (i32, String) {
    let (status, output, errors) = Process::finish("tool", command);
    (status.code().unwrap_or(-1), output + &errors)
}

/// Runs our command; returns its exit code and output.
fn ours(arguments: &[&str]) -> (i32, String) {
    run(harrier().args(arguments))
}

fn well(outcome: (i32, String)) -> String {
    assert_eq!(outcome.0, 0, "{}", outcome.1);
    outcome.1
}

fn json(arguments: &[&str]) -> Value {
    let text = well(ours(arguments));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// The released tool on a member whose driver directory is beside that of the cluster, or one level above.
fn cluster_tool(directory: &Path, arguments: &[&str]) -> (i32, String) {
    let parents = directory.ancestors().skip(1).take(2);
    let aeron = parents.map(|parent| parent.join("aeron")).find(|path| path.exists());
    let mut properties = vec![
        "aeron.archive.control.channel=aeron:ipc".to_owned(),
        "aeron.archive.control.response.channel=aeron:ipc".to_owned(),
    ];
    properties.extend(aeron.map(|path| format!("aeron.dir={}", path.display())));
    let arguments = [&[directory.to_str().unwrap()], arguments].concat();
    run(&mut java::program(&properties, "io.aeron.cluster.ClusterTool", &arguments))
}

#[test]
fn the_released_cluster_tool_asks_and_commands_our_node() {
    if !java::is_available() {
        return;
    }
    let mut node = OurNode::start(&["--service", "book", "--idle", "backoff"]);
    let cluster = node.directory().join("node/cluster");
    let tool = |arguments: &[&str]| cluster_tool(&cluster, arguments);
    let described = well(tool(&["describe"]));
    for text in ["componentType=CONSENSUS_MODULE", "componentType=CONTAINER", "memberId=0"] {
        assert!(described.contains(text), "{text} in {described}");
    }
    assert_eq!(tool(&["is-leader"]).0, 0);
    let members = well(tool(&["list-members"]));
    assert!(
        members.contains("leaderMemberId=0")
            && members.contains(node.ingress_endpoints().trim_start_matches("0=")),
        "{members}"
    );
    well(tool(&["snapshot"]));
    let log = well(tool(&["recording-log"]));
    assert_eq!(
        (log.matches("type=SNAPSHOT, isValid=true").count(), log.matches("type=TERM").count()),
        (2, 1),
        "{log}"
    );
    let plan = well(tool(&["recovery-plan", "1"]));
    assert!(plan.contains("serviceId=-1") && plan.contains("serviceId=0"), "{plan}");
    well(tool(&["describe-latest-cm-snapshot"]));
    well(tool(&["suspend"]));
    let refused = tool(&["snapshot"]);
    assert_ne!(refused.0, 0, "a suspended node takes no snapshot: {}", refused.1);
    well(tool(&["resume"]));
    well(tool(&["validate-recording-log"]));
    let errors = well(tool(&["errors"]));
    assert!(!errors.contains("observations"), "{errors}");
    well(tool(&["shutdown"]));
    assert_eq!(node.process.wait().code(), Some(0), "{}", node.process.errors());
    let log = well(tool(&["recording-log"]));
    assert_eq!(log.matches("type=SNAPSHOT, isValid=true").count(), 4, "{log}");
    assert!(!log.contains("logPosition=-1"), "the term has ended: {log}");
    well(tool(&["invalidate-latest-snapshot"]));
    assert_eq!(well(tool(&["recording-log"])).matches("isValid=false").count(), 2);
    // The node restarts from the previous snapshot. The log holds the action of the invalidated one, which is taken
    // again.
    node.restart();
    well(tool(&["abort"]));
    assert_eq!(node.process.wait().code(), Some(0), "{}", node.process.errors());
    let log = well(tool(&["recording-log"]));
    assert_eq!(
        (log.matches("type=SNAPSHOT, isValid=true").count(), log.matches("type=TERM").count()),
        (4, 2),
        "{log}"
    );
    let archive = node.directory().join("node/archive");
    let verified =
        well(released("io.aeron.archive.ArchiveTool", &[archive.to_str().unwrap(), "verify", "-a"]));
    assert!(verified.contains("OK") && !verified.contains("ERR"), "{verified}");
}

#[test]
fn the_released_monitors_read_our_running_node() {
    if !java::is_available() {
        return;
    }
    let node = OurNode::start(&["--idle", "backoff"]);
    let property = [format!("aeron.dir={}", node.aeron_directory().display())];
    let run = |class: &str, arguments: &[&str]| {
        Process::run(class, &mut java::program(&property, class, arguments)).0
    };
    let stat = run("io.aeron.samples.AeronStat", &["watch=false"]);
    for label in [
        "Consensus Module state - clusterId=0",
        "Cluster node role",
        "rec-pos: 0",
        "Archive Control Sessions",
    ] {
        assert!(stat.contains(label), "{label} in\n{stat}");
    }
    assert!(run("io.aeron.samples.ErrorStat", &[]).contains("distinct errors observed"));
    assert!(run("io.aeron.samples.LossStat", &[]).contains("0 loss entries"));
    assert!(run("io.aeron.samples.StreamStat", &[]).contains("streamId=100"));
    assert!(run("io.aeron.samples.BacklogStat", &[]).contains("for publisher"));
    let archive = node.directory().join("node/archive");
    let folder = archive.to_str().unwrap();
    let described = well(released("io.aeron.archive.ArchiveTool", &[folder, "describe"]));
    assert!(described.contains("recordingId=0") && described.contains("streamId=100"), "{described}");
    assert_eq!(
        well(released("io.aeron.archive.ArchiveTool", &[folder, "pid"])).trim(),
        node.process.id().to_string()
    );
    // Our tool refuses to change the files of a running archive, but reads them.
    let (code, text) = ours(&["archive", folder, "mark-invalid", "0"]);
    assert!(code == 1 && text.contains("active mark file"), "{text}");
    assert_eq!(json(&["archive", folder, "describe", "--json"])["recordings"][0]["stream_id"], 100);
}

/// A member of the released cluster in a separate process.
struct Member {
    process: Process,
    home: tempfile::TempDir,
}

impl Member {
    fn start() -> Self {
        let home = directory("java-member");
        let endpoints: Vec<_> = (0..5).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let members = format!("0,{}", endpoints.join(","));
        let mut command = java::program(&[], "peertest.Member", &[home.path().to_str().unwrap(), &members]);
        let mut process = Process::start("java member", &mut command);
        assert_eq!(process.line(), "ready");
        Self { process, home }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }
}

#[test]
fn our_commands_ask_and_command_a_released_member() {
    if !java::is_available() {
        return;
    }
    let mut member = Member::start();
    let (cluster, archive, aeron) = (member.path("cluster"), member.path("archive"), member.path("aeron"));
    let (cluster, archive, aeron) =
        (cluster.to_str().unwrap(), archive.to_str().unwrap(), aeron.to_str().unwrap());
    let command = |arguments: &[&str]| ours(&[&["cluster", cluster], arguments].concat());
    let asked = |word: &str| command(&[word, "--timeout-ms", "60000"]);
    until("the end of the election", || (command(&["is-leader"]).0 == 0).then_some(()));
    let marks = json(&["cluster", cluster, "describe", "--json"]);
    assert_eq!(
        (&marks[0]["component"], &marks[1]["component"]),
        (&Value::from("CONSENSUS_MODULE"), &Value::from("CONTAINER"))
    );
    let members = json(&["cluster", cluster, "list-members", "--json", "--timeout-ms", "60000"]);
    assert_eq!(
        (&members["leader_member_id"], &members["members"][0]["member_id"]),
        (&Value::from(0), &Value::from(0))
    );
    well(asked("snapshot"));
    let plan = json(&["cluster", cluster, "recovery-plan", "--json"]);
    assert_eq!(plan["snapshots"].as_array().map(Vec::len), Some(2), "{plan}");
    assert_eq!(plan["log"]["recording_id"], plan["log"]["recording_id"].as_i64().unwrap());
    let snapshot = well(command(&["describe-latest-cm-snapshot"]));
    assert!(
        snapshot.contains("consensus-module next_session_id") || snapshot.contains("next_session_id="),
        "{snapshot}"
    );
    well(asked("suspend"));
    let (code, text) = command(&["snapshot"]);
    assert!(code == 1 && text.contains("it is SUSPENDED"), "{text}");
    well(asked("resume"));
    well(command(&["validate-recording-log"]));
    let (code, text) = command(&["invalidate-latest-snapshot"]);
    assert!(code == 1 && text.contains("is running"), "{text}");
    let (code, text) = command(&["backup-query"]);
    assert!(code == 1 && text.contains("no directory of a cluster backup"), "{text}");
    let top = well(ours(&["top", "--aeron-dir", aeron, "--once", "--interval-ms", "50", "--width", "160"]));
    assert!(top.contains("LEADER") && top.contains("ACTIVE") && top.contains("alive"), "{top}");
    let stat = json(&["stat", "--aeron-dir", aeron, "--label", "commit-pos", "--json"]);
    assert_eq!(stat["counters"].as_array().map(Vec::len), Some(1), "{stat}");
    let (code, text) = ours(&["archive", archive, "compact", "--yes"]);
    assert!(code == 1 && text.contains("active mark file"), "{text}");
    well(asked("shutdown"));
    assert!(member.process.wait().success(), "{}", member.process.errors());
    let log = json(&["cluster", cluster, "recording-log", "--json"]);
    assert_eq!(
        log.as_array().unwrap().iter().filter(|entry| entry["type"] == "SNAPSHOT").count(),
        4,
        "{log}"
    );
    let verified = well(ours(&["archive", archive, "verify", "-a"]));
    assert_eq!(verified.matches("OK").count(), 5, "{verified}");
    well(command(&["invalidate-latest-snapshot"]));
    let (code, theirs) = cluster_tool(Path::new(cluster), &["recording-log"]);
    assert_eq!((code, theirs.matches("isValid=false").count()), (0, 2), "{theirs}");
    well(command(&["seed-recording-log-from-snapshot"]));
    let (code, theirs) = cluster_tool(Path::new(cluster), &["recording-log"]);
    assert_eq!((code, theirs.matches("type=SNAPSHOT, isValid=true").count()), (0, 2), "{theirs}");
}

/// Two copies of golden data, one for each side.
fn copies(stage: &str) -> [tempfile::TempDir; 2] {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../engine/archive/testdata").join(stage);
    [(); 2].map(|()| {
        let copy = directory("archive-tool");
        for entry in std::fs::read_dir(&source).unwrap() {
            let path = entry.unwrap().path();
            std::fs::write(copy.path().join(path.file_name().unwrap()), std::fs::read(&path).unwrap())
                .unwrap();
        }
        copy
    })
}

/// Names and contents of all files but the mark file and its lock.
fn content(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| !path.file_name().unwrap().to_str().unwrap().starts_with("archive-mark"))
        // Only our implementation writes seals.
        .filter(|path| path.extension().is_none_or(|extension| extension != "seal"))
        .map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), std::fs::read(&path).unwrap()))
        .collect();
    all.sort();
    all
}

#[test]
fn archives_are_changed_as_the_released_tool_changes_them() {
    if !java::is_available() {
        return;
    }
    let [theirs, our_copy] = copies("plain/extended");
    for copy in [&theirs, &our_copy] {
        for name in ["0-262144.rec", "0-x.rec", "5-0.rec"] {
            std::fs::write(copy.path().join(name), []).unwrap();
        }
    }
    let both = |words: &[&str], answer: Option<&str>| {
        let mut arguments = vec![theirs.path().to_str().unwrap()];
        arguments.extend(words);
        let mut command = java::program(&[], "io.aeron.archive.ArchiveTool", &arguments);
        answered(&mut command, answer);
        let mut command: Command = harrier();
        command.arg("archive").arg(our_copy.path()).args(words);
        answered(&mut command, answer);
        let (theirs, our_copy) = (content(theirs.path()), content(our_copy.path()));
        let names = |all: &[(String, Vec<u8>)]| all.iter().map(|entry| entry.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&our_copy), names(&theirs), "{words:?}");
        for ((name, our_copy), (_, theirs)) in our_copy.iter().zip(&theirs) {
            let first = our_copy.iter().zip(theirs).position(|(a, b)| a != b);
            assert_eq!((our_copy.len(), first), (theirs.len(), None), "{name} after {words:?}");
        }
    };
    both(&["delete-orphaned-segments"], Some("y"));
    both(&["checksum", "CRC-32"], None);
    both(&["checksum", "CRC-32C", "0", "-a"], None);
    both(&["verify", "-a"], None);
    both(&["mark-invalid", "0"], None);
    both(&["verify"], None);
    both(&["mark-invalid", "0"], None);
    both(&["compact"], Some("y"));
    let pid = |directory: &str| ours(&["archive", directory, "pid"]);
    let (code, text) = pid(our_copy.path().to_str().unwrap());
    assert!(code == 1 && text.contains("no mark file"), "{text}");
}

/// Runs a command with an answer on its standard input; panics unless it succeeds.
fn answered(command: &mut Command, answer: Option<&str>) {
    let mut process = Process::start("tool", command);
    if let Some(answer) = answer {
        process.write(answer);
    }
    assert!(process.wait().success(), "{command:?}: {}", process.errors());
}

/// An archive's directory of a major version before 3: a fixed header and entries of 1024 bytes each, and a mark file
/// without a message header.
fn old_directory(folder: &Path, version: i32, segments: &[&str]) {
    let entry = |id: i64, start: i64, stop: i64, lengths: (i32, i32), state: i32, channel: &str| {
        let mut body = Vec::new();
        for word in [11, 12, id, 1_000, 2_000, start, stop] {
            body.extend_from_slice(&i64::to_le_bytes(word));
        }
        for word in [5, lengths.1, lengths.0, 1_408, 77, 1_001] {
            body.extend_from_slice(&i32::to_le_bytes(word));
        }
        for text in [channel, &format!("{channel}|mtu=1408"), "aeron:ipc"] {
            body.extend_from_slice(&(text.len() as u32).to_le_bytes());
            body.extend_from_slice(text.as_bytes());
        }
        let mut bytes = Vec::new();
        for word in [body.len() as i32, state, 0x1234] {
            bytes.extend_from_slice(&word.to_le_bytes());
        }
        bytes.resize(32, 0);
        bytes.extend_from_slice(&body);
        bytes.resize(1_024, 0);
        bytes
    };
    std::fs::create_dir_all(folder).unwrap();
    let mut catalog = [version.to_le_bytes(), 1_024_i32.to_le_bytes()].concat();
    catalog.resize(1_024, 0);
    let (term, segment) = (64 << 10, 128 << 10);
    let middle = 3 * i64::from(term) + 4_096;
    let long = format!("aeron:udp?endpoint=localhost:4040|alias={}", "long".repeat(20));
    catalog.extend(entry(0, 0, 300_000, (term, segment), 1, "aeron:ipc?alias=a"));
    catalog.extend(entry(1, middle, middle + 200_000, (term, segment), 1, &long));
    catalog.extend(entry(2, 0, 64, (term, segment), 0, "aeron:ipc?alias=invalid"));
    catalog.extend(entry(
        3,
        i64::from(segment) + 64,
        i64::from(segment) + 640,
        (segment, segment),
        1,
        "aeron:ipc",
    ));
    catalog.resize(catalog.len() + 4_096, 0);
    std::fs::write(folder.join("archive.catalog"), catalog).unwrap();
    for name in segments {
        std::fs::write(folder.join(name), name).unwrap();
    }
    let mut mark = vec![0; 1_056_768];
    mark[..4].copy_from_slice(&version.to_le_bytes());
    mark[8..16].fill(0xFF);
    for (offset, word) in [(32, 10_i32), (36, 10), (40, 30), (44, 8_192), (48, 1 << 20)] {
        mark[offset..offset + 4].copy_from_slice(&word.to_le_bytes());
    }
    std::fs::write(folder.join("archive-mark.dat"), mark).unwrap();
}

#[test]
fn older_archives_are_migrated_as_the_released_tool_migrates_them() {
    if !java::is_available() {
        return;
    }
    let home = crate::support::directory("migration");
    let of_version_0 =
        ["0-0.rec", "0-1.rec", "0-2.rec", "1-0.rec", "1-1.rec", "2-0.rec", "2-1.rec", "3-0.rec"];
    let of_version_1 = ["0-0.rec", "0-131072.rec", "1-0.rec", "1-131072.rec", "2-0.rec", "3-131072.rec"];
    for (version, segments) in
        [(0x100, &of_version_0[..]), (0x1_0000, &of_version_1), (0x2_0000, &of_version_1)]
    {
        let [theirs, our_copy] = ["theirs", "own"].map(|name| home.path().join(format!("{version}-{name}")));
        for folder in [&theirs, &our_copy] {
            old_directory(folder, version, segments);
        }
        let arguments = [theirs.to_str().unwrap(), "migrate"];
        answered(&mut java::program(&[], "io.aeron.archive.ArchiveTool", &arguments), Some("y"));
        // Neither the answer no nor a live mark file lets the tool change anything.
        let before = content(&our_copy);
        let mut command: Command = harrier();
        let mut process = Process::start("tool", command.arg("archive").arg(&our_copy).arg("migrate"));
        process.write("n");
        assert!(!process.wait().success());
        assert_eq!(content(&our_copy), before);
        let mut command: Command = harrier();
        answered(command.arg("archive").arg(&our_copy).arg("migrate"), Some("y"));
        let mark = |folder: &Path| std::fs::read(folder.join("archive-mark.dat")).unwrap();
        assert!(mark(&our_copy) == mark(&theirs), "mark file of {version:#x}");
        let (theirs, ours) = (content(&theirs), content(&our_copy));
        let names = |all: &[(String, Vec<u8>)]| all.iter().map(|entry| entry.0.clone()).collect::<Vec<_>>();
        assert_eq!(names(&ours), names(&theirs), "{version:#x}");
        for ((name, ours), (_, theirs)) in ours.iter().zip(&theirs) {
            let first = ours.iter().zip(theirs).position(|(a, b)| a != b);
            assert_eq!((ours.len(), first), (theirs.len(), None), "{name} of {version:#x}");
        }
        let (code, text) = self::ours(&["archive", our_copy.to_str().unwrap(), "count-entries"]);
        assert_eq!((code, text.trim()), (0, "3"), "{text}");
        let (code, text) = self::ours(&["archive", our_copy.to_str().unwrap(), "migrate"]);
        assert!(code == 0 && text.contains("nothing to do"), "{text}");
    }
}
