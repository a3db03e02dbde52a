//! The released Java archive client against our archive, in this process or as `harrier-archive`, and the released ArchiveTool on our archive's files.

use std::path::{Path, PathBuf};

use harrier::archive::{Archive, ArchiveContext, Checksum, SyncLevel};
use harrier::driver::context::DriverContext;
use harrier::driver::{Driver, ExecutorMode, HostDriver};
use harrier::platform::{FileStorage, MappedMemory, SystemClock};
use harrier::ringbuf::idle::IdleStrategy;
use harrier::ringbuf::runner::{AgentRunner, ThreadPace};
use harrier::ringbuf::{Agent, Clock, SharedThread};
use serde_json::Value;

use crate::peers::java;
use crate::peers::peer::{Kind, Peer};
use crate::support::binaries::harrier_archive;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{PATIENCE_NS, directory};

/// A message of 200 bytes takes a frame of 256.
const LENGTH: usize = 200;
const FRAME: i64 = 256;

const NOT_KNOWN: i64 = 5;

/// Our archive, with or without our driver.
pub struct OurArchive {
    runner: Option<Runner>,
    pub directory: PathBuf,
    pub control_endpoint: String,
}

/// Arrangement of archive and driver.
enum Runner {
    /// On a thread of this process.
    Thread(AgentRunner),
    /// As `harrier-archive`.
    Process(Process),
}

impl OurArchive {
    /// Starts `harrier-archive` with a driver in `directory`/aeron.
    pub fn start_process(directory: &Path, settings: &[&str]) -> Self {
        let control_endpoint = format!("127.0.0.1:{}", free_port());
        let mut command = harrier_archive();
        command.args(["--with-driver", "--ready"]);
        let patience = PATIENCE_NS.to_string();
        let own = [
            ("aeron.dir", directory.join("aeron").display().to_string()),
            ("aeron.threading.mode", "SHARED".to_owned()),
            ("aeron.timer.interval", "20ms".to_owned()),
            ("aeron.publication.linger.timeout", "200ms".to_owned()),
            ("aeron.publication.connection.timeout", patience.clone()),
            ("aeron.client.liveness.timeout", patience.clone()),
            ("aeron.publication.unblock.timeout", (2 * PATIENCE_NS).to_string()),
            ("aeron.archive.dir", directory.join("archive").display().to_string()),
            ("aeron.archive.control.channel", format!("aeron:udp?endpoint={control_endpoint}")),
            ("aeron.archive.replication.channel", "aeron:udp?endpoint=127.0.0.1:0".to_owned()),
            ("aeron.archive.local.control.stream.id", "11".to_owned()),
            ("aeron.archive.segment.file.length", "128k".to_owned()),
            ("aeron.archive.catalog.capacity", "4096".to_owned()),
            ("aeron.archive.id", "42".to_owned()),
            ("aeron.archive.low.storage.space.threshold", "0".to_owned()),
            ("aeron.archive.idle.strategy", "backoff".to_owned()),
            ("aeron.archive.connect.timeout", patience),
        ];
        command.args(own.iter().map(|(name, value)| format!("-D{name}={value}")));
        command.args(settings.iter().map(|setting| format!("-D{setting}")));
        let mut process = Process::start("harrier-archive", &mut command);
        let line = process.line();
        assert!(line.starts_with("{\"ready\":true"), "{line}");
        let runner = Some(Runner::Process(process));
        Self { runner, directory: directory.to_owned(), control_endpoint }
    }

    /// Starts the archive beside our driver in `directory`/aeron.
    pub fn start(directory: &Path, checksum: Option<Checksum>) -> Self {
        let mut driver = DriverContext::new(directory.join("aeron"));
        driver.timer_interval_ns = 20_000_000;
        driver.publication_linger_timeout_ns = 200_000_000;
        driver.publication_connection_timeout_ns = PATIENCE_NS;
        driver.client_liveness_timeout_ns = PATIENCE_NS;
        driver.publication_unblock_timeout_ns = 2 * PATIENCE_NS;
        let now = SystemClock.now();
        let driver = HostDriver::on_host(driver, ExecutorMode::Inline, &now).unwrap();
        Self::run(directory, &directory.join("aeron"), checksum, Some(driver))
    }

    /// Starts the archive on a given driver.
    pub fn start_on(directory: &Path, aeron: &Path) -> Self {
        Self::run(directory, aeron, None, None)
    }

    fn run(directory: &Path, aeron: &Path, checksum: Option<Checksum>, driver: Option<HostDriver>) -> Self {
        let control_endpoint = format!("127.0.0.1:{}", free_port());
        let mut archive = ArchiveContext::new(aeron, directory.join("archive"));
        archive.replication_channel = Some("aeron:udp?endpoint=127.0.0.1:0".into());
        archive.control_channel = Some(format!("aeron:udp?endpoint={control_endpoint}"));
        archive.local_control_stream_id = 11;
        archive.segment_file_length = 128 << 10;
        archive.catalog_capacity = 4_096;
        archive.archive_id = Some(42);
        archive.low_storage_space_threshold = 0;
        archive.record_checksum = checksum;
        archive.replay_checksum = checksum;
        archive.replay_linger_timeout_ns = 200_000_000;
        archive.connect_timeout_ns = PATIENCE_NS;
        archive.replication_message_timeout_ns = PATIENCE_NS;
        archive.driver_timeout_ns = PATIENCE_NS;
        if checksum.is_some() {
            (archive.file_sync_level, archive.catalog_file_sync_level) = (SyncLevel::Data, SyncLevel::All);
        }
        let now = SystemClock.now();
        let archive = Archive::launch(archive, MappedMemory, FileStorage::inline(), &now).unwrap();
        let runner = AgentRunner::start("archive", move || {
            let pace = ThreadPace::new(SystemClock, IdleStrategy::by_name("backoff").unwrap());
            let thread = SharedThread::new(
                Box::new(pace),
                Box::new(|role, error| eprintln!("archive: {role}: {error}")),
            );
            let mut agents = driver.map(Driver::into_agents).unwrap_or_default();
            agents.push(Box::new(archive) as Box<dyn Agent>);
            thread.install(agents).map_err(|error| error.to_string())?;
            Ok(thread)
        });
        let runner = Some(Runner::Thread(runner.unwrap()));
        Self { runner, directory: directory.to_owned(), control_endpoint }
    }

    pub fn stop(&mut self) {
        match self.runner.take().unwrap() {
            Runner::Thread(runner) => runner.stop().unwrap(),
            Runner::Process(mut process) => {
                process.signal("TERM");
                assert_eq!(process.wait().code(), Some(15));
                assert_eq!(process.errors(), "");
            }
        }
    }

    fn connect_ipc(&self, java: &mut Peer) -> Value {
        java.call("archive-connect request=aeron:ipc request-stream=11 response=aeron:ipc response-stream=20")
    }

    fn connect_udp(&self, java: &mut Peer) -> Value {
        java.call(&format!(
            "archive-connect request=aeron:udp?endpoint={} request-stream=10 \
             response=aeron:udp?endpoint=127.0.0.1:0 response-stream=20",
            self.control_endpoint
        ))
    }

    /// Runs the released tool and returns its output.
    fn tool(&self, arguments: &[&str]) -> String {
        let folder = self.directory.join("archive");
        let mut all = vec![folder.to_str().unwrap()];
        all.extend(arguments);
        Process::run("ArchiveTool", &mut java::program(&[], "io.aeron.archive.ArchiveTool", &all)).0
    }
}

pub fn number(reply: &Value, key: &str) -> i64 {
    reply[key].as_i64().unwrap_or_else(|| panic!("{key} in {reply}"))
}

/// The (recording id, position) of the one expected signal.
fn signal(java: &mut Peer, wanted: &str) -> (i64, i64) {
    let signals = java.call("archive-signals count=1");
    let signal = &signals["signals"][0];
    assert_eq!(signal["signal"], wanted, "{signals}");
    (number(signal, "recording"), number(signal, "position"))
}

fn send(java: &mut Peer, from: i64, count: i64) -> i64 {
    number(&java.call(&format!("send name=p length={LENGTH} from={from} count={count}")), "position")
}

fn replay_and_check(java: &mut Peer, channel: &str, recording: i64, position: i64, count: i64) {
    let length = count * FRAME;
    java.call(&format!(
        "archive-replay name=r recording={recording} position={position} length={length} channel={channel} stream=77"
    ));
    java.call(&format!("receive name=r length={LENGTH} from={} count={count}", position / FRAME));
    java.call("images name=r count=0");
    java.call("close name=r");
}

fn positions(java: &mut Peer, recording: i64) -> [i64; 4] {
    let reply = java.call(&format!("archive-positions recording={recording}"));
    ["start", "stop", "recording", "max"].map(|key| number(&reply, key))
}

fn refused(java: &mut Peer, line: &str) -> i64 {
    let reply = java.refused(line);
    assert_eq!(reply["kind"], "ArchiveException", "{line}: {reply}");
    number(&reply, "code")
}

/// Records `count` messages on stream 1001, then extends the recording by as many.
fn record_and_extend(java: &mut Peer, channel: &str, source: &str, count: i64) -> i64 {
    java.call(&format!("archive-start channel={channel} stream=1001 source={source}"));
    let published =
        java.call(&format!("publish name=p channel={channel}|term-length=64k stream=1001 exclusive=true"));
    let position = send(java, 0, count);
    let (recording, at) = signal(java, "START");
    assert_eq!((at, position), (0, count * FRAME));
    java.call(&format!("archive-await recording={recording} position={position}"));
    assert_eq!(positions(java, recording), [0, -1, position, position]);
    java.call("close name=p");
    assert_eq!(signal(java, "STOP"), (recording, position));
    assert_eq!(positions(java, recording), [0, position, -1, position]);
    java.call(&format!("archive-stop channel={channel} stream=1001"));

    java.call(&format!("archive-extend recording={recording} channel={channel} stream=1001 source={source}"));
    let initial = number(&published, "initialTermId") as i32;
    let term = initial.wrapping_add((position / 65_536) as i32);
    let start = format!("init-term-id={initial}|term-id={term}|term-offset={}", position % 65_536);
    java.call(&format!(
        "publish name=p channel={channel}|term-length=64k|{start} stream=1001 exclusive=true"
    ));
    let end = send(java, count, count);
    assert_eq!(signal(java, "EXTEND"), (recording, position));
    java.call(&format!("archive-await recording={recording} position={end}"));
    java.call(&format!("archive-stop channel={channel} stream=1001"));
    assert_eq!(signal(java, "STOP"), (recording, end));
    java.call("close name=p");
    recording
}

#[test]
fn a_java_client_over_ipc_records_replays_and_verifies_with_checksums() {
    if !java::is_available() {
        return;
    }
    let home = directory("archive");
    let mut archive = OurArchive::start(home.path(), Some(Checksum::Crc32c));
    let mut java = Kind::Java.client(&home.path().join("aeron"));
    assert_eq!(number(&archive.connect_ipc(&mut java), "archiveId"), 42);
    let recording = record_and_extend(&mut java, "aeron:ipc?alias=orders", "LOCAL", 800);
    replay_and_check(&mut java, "aeron:ipc", recording, 0, 1_600);
    replay_and_check(&mut java, "aeron:ipc", recording, 700 * FRAME, 300);

    // A truncation within a message is refused and changes nothing.
    let cut = 900 * FRAME;
    assert_eq!(refused(&mut java, &format!("archive-truncate recording=0 position={}", cut + 32)), 0);
    assert_eq!(refused(&mut java, &format!("archive-truncate recording=0 position={}", 2_000 * FRAME)), 16);
    assert_eq!(positions(&mut java, recording)[1], 1_600 * FRAME);
    java.call(&format!("archive-truncate recording=0 position={cut}"));
    assert_eq!(signal(&mut java, "DELETE").0, recording);
    assert_eq!(positions(&mut java, recording), [0, cut, -1, cut]);
    replay_and_check(&mut java, "aeron:ipc", recording, 0, 900);

    bounded_and_live(&mut java);
    spy_and_purge(&mut java);
    segments_and_channel(&mut java);
    listings_and_refusals(&mut java);

    let described = archive.tool(&["describe"]);
    assert!(described.contains("archiveId=42") && described.contains("recordingId=1"), "{described}");
    java.call("archive-close");
    assert_eq!(java.exit(), "");
    archive.stop();
    verify(&archive, &["-a", "-checksum", "CRC-32C"], 2);

    // The archive serves the files that the tool has changed.
    let mut archive = OurArchive::start(home.path(), Some(Checksum::Crc32c));
    let mut java = Kind::Java.client(&home.path().join("aeron"));
    archive.connect_ipc(&mut java);
    assert_eq!(positions(&mut java, recording), [0, cut, -1, cut]);
    replay_and_check(&mut java, "aeron:ipc", recording, 0, 900);
    find_a_flipped_bit(&mut archive, java);
}

/// Our replay and the tool detect a damaged byte in recording 0.
fn find_a_flipped_bit(archive: &mut OurArchive, mut java: Peer) {
    let path = archive.directory.join("archive").join("0-131072.rec");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[100 * FRAME as usize + 50] ^= 1;
    std::fs::write(&path, bytes).unwrap();
    let damaged = (128 << 10) / FRAME + 100;
    let replay = "archive-replay name=r recording=0 channel=aeron:ipc stream=77 position=0";
    java.call(&format!("{replay} length={}", 900 * FRAME));
    // The third term, with the damage, is read when there is room for it.
    java.call(&format!("receive name=r length={LENGTH} count=400"));
    let error = java.call("archive-error");
    let expected = format!("(position {} of recording 0): it does not match its checksum", damaged * FRAME);
    assert!(error["error-text"].as_str().unwrap().contains(&expected), "{error}");
    java.call("images name=r count=0");
    assert_eq!(java.exit(), "");
    archive.stop();
    let folder = archive.directory.join("archive");
    let arguments = [folder.to_str().unwrap(), "verify", "-a", "-checksum", "CRC-32C"];
    let (status, output, _) =
        Process::finish("ArchiveTool", &mut java::program(&[], "io.aeron.archive.ArchiveTool", &arguments));
    assert!(!status.success() && output.contains("ERR: checksum failed"), "{status}\n{output}");
}

/// Recording 1: a replay bounded by a counter, then one that follows the live stream.
fn bounded_and_live(java: &mut Peer) {
    java.call("archive-start channel=aeron:ipc stream=1002");
    java.call("publish name=p channel=aeron:ipc?term-length=64k stream=1002");
    let position = send(java, 0, 500);
    let (recording, _) = signal(java, "START");
    assert_eq!(recording, 1);
    java.call(&format!("archive-await recording=1 position={position}"));
    java.call(&format!("limit name=bound value={}", 200 * FRAME));
    let replay = "recording=1 position=0 channel=aeron:ipc";
    java.call(&format!("archive-replay name=b {replay} stream=78 length={position} limit=bound"));
    java.call(&format!("receive name=b length={LENGTH} count=200"));
    java.call(&format!("limit name=bound value={position}"));
    java.call(&format!("receive name=b length={LENGTH} from=200 count=300"));
    java.call(&format!("archive-replay name=live {replay} stream=79 length={}", i64::MAX));
    java.call(&format!("receive name=live length={LENGTH} count=500"));
    send(java, 500, 100);
    java.call(&format!("receive name=live length={LENGTH} from=500 count=100"));
    assert_eq!(refused(java, "archive-truncate recording=1 position=0"), 2);
    let reply = java.refused("archive-purge recording=1");
    assert!(reply["error"].as_str().unwrap().ends_with("cannot purge active recording 1"), "{reply}");
    java.call("archive-stop-replays recording=1");
    java.call("images name=live count=0");
    java.call("close name=live");
    java.call("close name=b");
    assert_eq!(java.call("archive-try-stop recording=1")["value"], 1);
    assert_eq!(signal(java, "STOP"), (1, 600 * FRAME));
    java.call("close name=p");
}

/// Recording 2: a spy on a network publication, stopped with its image and then purged.
fn spy_and_purge(java: &mut Peer) {
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
    java.call(&format!("archive-start channel={channel} stream=1003 auto-stop=true"));
    java.call(&format!(
        "publish name=p channel={channel}|ssc=true|term-length=64k stream=1003 exclusive=true"
    ));
    let position = send(java, 0, 400);
    let (recording, _) = signal(java, "START");
    java.call(&format!("archive-await recording={recording} position={position}"));
    java.call("close name=p");
    assert_eq!(signal(java, "STOP"), (recording, position));
    let listed = java.call(&format!("archive-list recording={recording}"));
    let descriptor = &listed["recordings"][0];
    assert_eq!((number(&listed, "count"), number(descriptor, "stop")), (1, position));
    assert_eq!(
        (number(descriptor, "segmentLength"), number(descriptor, "termLength")),
        (128 << 10, 64 << 10)
    );
    replay_and_check(java, "aeron:ipc", recording, 0, 400);
    java.call(&format!("archive-purge recording={recording}"));
    assert_eq!(signal(java, "DELETE").0, recording);
    assert_eq!(refused(java, &format!("archive-positions recording={recording}")), NOT_KNOWN);
}

/// Recordings 3 and 4: segments are detached, attached, migrated to an adjacent recording; a channel changes.
fn segments_and_channel(java: &mut Peer) {
    let segment = 128_i64 << 10;
    let record = |java: &mut Peer, term: i64, count: i64| {
        java.call("archive-start channel=aeron:ipc stream=1005 auto-stop=true");
        let fixed = format!("init-term-id=5|term-id={term}|term-offset=0");
        java.call(&format!(
            "publish name=p channel=aeron:ipc?term-length=64k|{fixed} stream=1005 exclusive=true"
        ));
        let position = send(java, (term - 5) * 256, count);
        let (recording, _) = signal(java, "START");
        java.call(&format!("archive-await recording={recording} position={position}"));
        java.call("close name=p");
        assert_eq!(signal(java, "STOP"), (recording, position));
        recording
    };
    let first = record(java, 5, 2 * segment / FRAME);
    let second = record(java, 9, 100);
    assert_eq!(refused(java, &format!("archive-detach-segments recording={first} position=64")), 0);
    java.call(&format!("archive-detach-segments recording={first} position={segment}"));
    assert_eq!(positions(java, first)[0], segment);
    assert_eq!(java.call(&format!("archive-attach-segments recording={first}"))["value"], 1);
    assert_eq!(positions(java, first)[0], 0);
    assert_eq!(java.call(&format!("archive-migrate-segments recording={first} to={second}"))["value"], 2);
    assert_eq!(signal(java, "DELETE").0, first);
    assert_eq!((positions(java, first)[1], positions(java, second)[0]), (0, 0));
    replay_and_check(java, "aeron:ipc", second, 0, 2 * segment / FRAME + 100);
    java.call(&format!("archive-detach-segments recording={second} position={segment}"));
    assert_eq!(java.call(&format!("archive-delete-detached recording={second}"))["value"], 1);
    assert_eq!(signal(java, "DELETE").0, second);
    let purged = java.call(&format!("archive-purge-segments recording={second} position={}", 2 * segment));
    assert_eq!(purged["value"], 1);
    assert_eq!(signal(java, "DELETE").0, second);
    let channel = "aeron:udp?endpoint=localhost:9999|alias=a-much-longer-alias-so-that-the-entry-grows";
    java.call(&format!("archive-update-channel recording={second} channel={channel}|mtu=8k"));
    let listed = java.call(&format!("archive-list recording={second}"));
    let descriptor = &listed["recordings"][0];
    assert_eq!((&descriptor["stripped"], number(descriptor, "start")), (&Value::from(channel), 2 * segment));
    refused(java, "archive-update-channel recording=99 channel=aeron:ipc");
    for recording in [first, second] {
        java.call(&format!("archive-purge recording={recording}"));
        assert_eq!(signal(java, "DELETE").0, recording);
    }
}

fn listings_and_refusals(java: &mut Peer) {
    let all = java.call("archive-list");
    assert_eq!(number(&all, "count"), 2, "{all}");
    let some = java.call("archive-list fragment=ipc stream=1002");
    assert_eq!((number(&some, "count"), number(&some["recordings"][0], "recording")), (1, 1), "{some}");
    assert_eq!(number(&java.call("archive-list fragment=nowhere stream=1002"), "count"), 0);
    let session = number(&all["recordings"][0], "session");
    let found = java.call(&format!("archive-find fragment=ipc stream=1001 session={session}"));
    assert_eq!(number(&found, "value"), 0);
    let absent = java.call(&format!("archive-find fragment=ipc stream=1009 session={session}"));
    assert_eq!(number(&absent, "value"), -1);
    let subscription = number(&java.call("archive-start channel=aeron:ipc stream=1004"), "value");
    let subscriptions = java.call("archive-list-subscriptions fragment=ipc stream=1004");
    assert_eq!(number(&subscriptions["subscriptions"][0], "subscription"), subscription);
    assert_eq!(refused(java, "archive-start channel=aeron:ipc stream=1004"), 3);
    java.call(&format!("archive-stop-subscription subscription={subscription}"));
    assert_eq!(refused(java, &format!("archive-stop-subscription subscription={subscription}")), 4);
    assert_eq!(refused(java, "archive-stop channel=aeron:ipc stream=1004"), 4);
    assert_eq!(refused(java, "archive-start-position recording=99"), NOT_KNOWN);
    assert_eq!(refused(java, "archive-truncate recording=99 position=0"), NOT_KNOWN);
    assert_eq!(refused(java, "archive-extend recording=99 channel=aeron:ipc stream=1001"), NOT_KNOWN);
    let replay = "archive-replay name=x channel=aeron:ipc stream=80";
    assert_eq!(refused(java, &format!("{replay} recording=99 position=0 length=100")), NOT_KNOWN);
    refused(java, &format!("{replay} recording=0 position={} length=100", 5_000 * FRAME));
}

fn verify(archive: &OurArchive, arguments: &[&str], count: usize) {
    let mut all = vec!["verify"];
    all.extend(arguments);
    let verified = archive.tool(&all);
    assert_eq!(verified.matches("OK").count(), count, "{verified}");
    assert!(!verified.contains("ERR"), "{verified}");
    assert_eq!(archive.tool(&["count-entries"]).trim(), count.to_string());
}

#[test]
fn a_java_client_over_udp_records_what_its_own_driver_sends() {
    if !java::is_available() {
        return;
    }
    let home = directory("archive");
    let events = format!("aeron:udp?control-mode=dynamic|control=127.0.0.1:{}", free_port());
    let mut archive = OurArchive::start_process(
        home.path(),
        &[
            "aeron.archive.recording.events.enabled=true",
            &format!("aeron.archive.recording.events.channel={events}"),
        ],
    );
    let mut java =
        Kind::Java.with_driver(&home.path().join("java"), &["aeron.publication.connection.timeout=60s"]);
    assert_eq!(number(&archive.connect_udp(&mut java), "archiveId"), 42);
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
    java.call(&format!("archive-events-open channel={events}|endpoint=127.0.0.1:0 stream=30"));
    let recording = record_and_extend(&mut java, &channel, "REMOTE", 700);
    let heard = java.call("archive-events");
    let (started, stopped) = (&heard["started"][0], &heard["stopped"][0]);
    assert_eq!(
        (number(started, "recording"), number(started, "start"), number(started, "stream")),
        (0, 0, 1_001)
    );
    assert_eq!((&started["channel"], number(stopped, "stop")), (&Value::from(channel), 700 * FRAME));
    assert!(number(&heard, "progress") >= 700 * FRAME, "{heard}");
    let replay_channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
    replay_and_check(&mut java, &replay_channel, recording, 0, 1_400);
    java.call(&format!("archive-truncate recording={recording} position={}", 600 * FRAME));
    assert_eq!(signal(&mut java, "DELETE").0, recording);
    replay_and_check(&mut java, &replay_channel, recording, 128 * FRAME, 472);
    assert_eq!(refused(&mut java, "archive-start-position recording=99"), NOT_KNOWN);
    java.call("archive-close");
    assert_eq!(java.exit(), "");
    archive.stop();
    let described = archive.tool(&["describe", "0"]);
    assert!(described.contains("127.0.0.1"), "{described}");
    verify(&archive, &["-a"], 1);
}
