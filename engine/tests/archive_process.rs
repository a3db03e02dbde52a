//! The `harrier-archive` program: its settings, words, exit codes and end.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use harrier::archive::catalog::Catalog;
use harrier::archive::client::{ArchiveAnswer, ArchiveClient, ArchiveClientContext};
use harrier::archive::{ArchiveMark, SourceLocation};
use harrier::client::{Aeron, Context};
use harrier::driver::context::{DriverContext, ThreadingMode};
use harrier::driver::{ExecutorMode, HostDriver, RunningDriver};
use harrier::platform::{MappedMemory, SystemClock, free_ports};
use harrier::ringbuf::Clock;

const PATIENCE_NS: i64 = 60_000_000_000;
const STREAM_ID: i32 = 1_001;

fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("harrier-archive-").tempdir_in("/dev/shm").unwrap()
}

/// The program with a clean environment and the settings that have no default.
fn command(home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_harrier-archive"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AERON_")) {
        command.env_remove(name);
    }
    command.current_dir(home).env("AERON_ARCHIVE_CONTROL_CHANNEL_ENABLED", "false");
    command.env("AERON_ARCHIVE_REPLICATION_CHANNEL", "aeron:udp?endpoint=127.0.0.1:0");
    command.env("AERON_ARCHIVE_LOW_STORAGE_SPACE_THRESHOLD", "0");
    command.env("AERON_CLIENT_LIVENESS_TIMEOUT", "120s").env("AERON_PUBLICATION_UNBLOCK_TIMEOUT", "130s");
    command.arg(format!("-Daeron.dir={}", home.join("aeron").display()));
    command.arg(format!("-Daeron.archive.dir={}", home.join("archive").display()));
    command
}

/// A running program. It is killed with its owner.
struct Program {
    child: Child,
    output: BufReader<std::process::ChildStdout>,
}

impl Program {
    /// Starts the program and waits until it is ready; returns what it printed before.
    fn start(command: &mut Command) -> (Self, String) {
        let child = command.arg("--ready").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let mut program = Self { child, output };
        let mut printed = String::new();
        loop {
            let mut line = String::new();
            if program.output.read_line(&mut line).unwrap() == 0 {
                panic!("{:?}", program.end());
            }
            if line.starts_with("{\"ready\":true,") {
                return (program, printed);
            }
            printed.push_str(&line);
        }
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([format!("-{name}"), id]).status().unwrap().success());
    }

    /// Waits for the end; returns exit code, rest of the output and errors.
    fn end(&mut self) -> (Option<i32>, String, String) {
        let (mut output, mut errors) = (String::new(), String::new());
        self.output.read_to_string(&mut output).unwrap();
        self.child.stderr.take().unwrap().read_to_string(&mut errors).unwrap();
        (self.child.wait().unwrap().code(), output, errors)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _has_ended = self.child.kill();
        let _is_reaped = self.child.wait();
    }
}

/// Runs the program to its end; returns exit code, output and errors.
fn finish(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn driver(home: &Path) -> RunningDriver {
    let mut context = DriverContext::new(home.join("aeron"));
    context.threading_mode = ThreadingMode::Shared;
    context.counters_buffer_length = 1 << 20;
    context.client_liveness_timeout_ns = 2 * PATIENCE_NS;
    context.publication_unblock_timeout_ns = 3 * PATIENCE_NS;
    let driver = HostDriver::on_host(context, ExecutorMode::Queued, &SystemClock.now()).unwrap();
    driver.launch_on_host().unwrap()
}

/// Records 50 messages over IPC through the running archive; returns the recorded position.
fn record(home: &Path) -> i64 {
    let mut aeron =
        Aeron::connect(Context::new(home.join("aeron")), MappedMemory, &SystemClock.now()).unwrap();
    let mut settings = ArchiveClientContext::ipc();
    settings.message_timeout_ns = PATIENCE_NS;
    let mut client = ArchiveClient::new(settings);
    let mut publication = None;
    let (mut publication_id, mut start, mut count, mut position) = (None, None, 0, 0);
    let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
    while SystemClock.now().ns < deadline_ns {
        let now = SystemClock.now();
        aeron.do_work(&now).unwrap();
        client.poll(&mut aeron, &now).unwrap();
        if client.is_connected() && start.is_none() {
            let location = SourceLocation::Local;
            start = Some(client.start_recording(&aeron, "aeron:ipc", STREAM_ID, location, false).unwrap());
            let channel = "aeron:ipc?term-length=64k";
            publication_id = Some(aeron.add_exclusive_publication(channel, STREAM_ID).unwrap());
        }
        if let Some(answer) = client.poll_answer() {
            assert!(!matches!(answer, ArchiveAnswer::Error { .. }), "{answer:?}");
        }
        let (Some(id), Some(_)) = (publication_id, start) else { continue };
        if publication.is_none() {
            publication = aeron.exclusive_publication(id).unwrap();
        }
        let Some(publication) = &mut publication else { continue };
        if count < 50 && publication.offer(&[7; 100]).is_ok() {
            count += 1;
            position = publication.position();
        }
        let counter = harrier::archive::client::find_by_recording(aeron.counters(), 0, None);
        if count == 50 && counter.is_some_and(|id| aeron.counters().value(id) >= position) {
            client.close();
            return position;
        }
    }
    panic!("nothing was recorded");
}

fn stop_position(home: &Path) -> i64 {
    let bytes = std::fs::read(home.join("archive/archive.catalog")).unwrap();
    Catalog::read(&bytes, None).unwrap().get(0).unwrap().stop_position
}

fn mark(folder: &Path) -> ArchiveMark {
    ArchiveMark::read(&MappedMemory, folder).unwrap().unwrap()
}

#[test]
fn an_archive_runs_beside_a_driver_or_with_one() {
    for flags in [&[][..], &["--with-driver"], &["--with-driver", "--fused"]] {
        let home = directory();
        let _driver = flags.is_empty().then(|| driver(home.path()));
        let (mut program, printed) = Program::start(command(home.path()).args(flags));
        assert_eq!(printed, "");
        let folder = home.path().join("archive");
        assert_eq!(mark(&folder).pid, i64::from(program.child.id()));
        assert!(mark(&folder).activity_ms > 0);
        let position = record(home.path());
        program.signal("TERM");
        let end = program.end();
        assert_eq!(end, (Some(15), "Shutting down archive...\n".to_owned(), String::new()), "{flags:?}");
        assert_eq!(mark(&folder).activity_ms, -1);
        assert_eq!(stop_position(home.path()), position);
    }
}

#[test]
fn settings_come_from_the_environment_files_and_definitions() {
    let home = directory();
    let port = free_ports(1).unwrap()[0];
    let file = home.path().join("archive.properties");
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{port}");
    std::fs::write(
        &file,
        format!(
            "# settings\naeron.archive.control.channel = {channel}\naeron.archive.control.channel.enabled=true\n\
             aeron.archive.segment.file.length=256k\naeron.archive.id=7\naeron.archive.control.stream.id=19\n"
        ),
    )
    .unwrap();
    let mark_folder = home.path().join("mark");
    let mut command = command(home.path());
    command.arg("--with-driver").arg(&file).env("AERON_ARCHIVE_CATALOG_CAPACITY", "8k");
    command.env("AERON_ARCHIVE_SEGMENT_FILE_LENGTH", "64k").env("AERON_PRINT_CONFIGURATION", "true");
    command.args([
        "-Daeron.archive.id=8",
        "-Daeron.threading.mode=SHARED",
        "-Daeron.archive.idle.strategy=yield",
    ]);
    command.arg(format!("-Daeron.archive.mark.file.dir={}", mark_folder.display()));
    let (mut program, printed) = Program::start(&mut command);
    for line in [
        "aeron_driver_context_t {",
        "    threading_mode=SHARED",
        "aeron_archive_context {",
        "    aeron.archive.segment.file.length=262144",
        "    aeron.archive.catalog.capacity=8192",
        "    aeron.archive.id=8",
        &format!("    aeron.archive.control.channel={channel}"),
        "    aeron.archive.control.channel.enabled=true",
    ] {
        assert!(printed.lines().any(|printed| printed == line), "{line}\n{printed}");
    }
    let mark = mark(&home.path().join("archive"));
    assert_eq!((mark.archive_id, mark.control_stream_id), (8, 19));
    assert_eq!((mark.path, mark.control_channel), (mark_folder.join("archive-mark.dat"), channel));
    assert_eq!(std::fs::metadata(home.path().join("archive/archive.catalog")).unwrap().len(), 8_192);
    program.signal("INT");
    assert_eq!(program.end().0, Some(2));
}

#[test]
fn an_archive_that_cannot_start_says_why() {
    let home = directory();
    let refused = |arguments: &[&str], text: &str| {
        let (code, output, errors) = finish(command(home.path()).args(arguments));
        assert!(
            code == Some(1) && output.is_empty() && errors.contains(text),
            "{arguments:?} {code:?} {errors}"
        );
    };
    let channel = "-Daeron.archive.control.channel.enabled=true";
    refused(&[channel], "ERROR: context init (22) Invalid argument\n");
    refused(&[channel], "aeron.archive.control.channel must be set");
    refused(&["-Daeron.archive.replication.channel="], "aeron.archive.replication.channel must be set");
    refused(
        &["-Daeron.archive.segment.file.length=3"],
        "aeron.archive.segment.file.length=3 must be a power of two",
    );
    refused(&["-Daeron.archive.threading.mode=INVOKER"], "must be DEDICATED or SHARED");
    refused(&["-Daeron.archive.idle.strategy=nap"], "aeron.archive.idle.strategy=nap");
    refused(&["-Dfoo"], "malformed define: foo");
    refused(&["--what"], "Usage: ");
    refused(&["--fused"], "--fused needs --with-driver");
    refused(&["/nowhere"], "ERROR: loading properties from /nowhere (2) ");
    refused(&["-Daeron.driver.timeout=10"], "no active media driver in ");
    let overlapping = format!("-Daeron.archive.dir={}", home.path().join("aeron/archive").display());
    refused(&["--with-driver", &overlapping], "ERROR: archive init (22) Invalid argument\n");
    let (code, output, _) = finish(command(home.path()).arg("-v"));
    assert!(code == Some(0) && output.contains("<aeron version="), "{output}");

    let (mut program, _) = Program::start(command(home.path()).arg("--with-driver"));
    refused(&[], "active mark file ");
    refused(
        &["--with-driver", &format!("-Daeron.archive.dir={}", home.path().join("other").display())],
        "Active media driver",
    );
    program.signal("TERM");
    assert_eq!(program.end().0, Some(15));
}

#[test]
fn an_archive_ends_with_its_driver() {
    let home = directory();
    let (mut program, _) = Program::start(
        command(home.path()).args(["--with-driver", "-Daeron.driver.termination.validator=allow"]),
    );
    let context = Context::new(home.path().join("aeron"));
    let now = SystemClock.now();
    harrier::client::request_driver_termination(&context, &MappedMemory, &[], &now).unwrap();
    assert_eq!(program.end(), (Some(0), "Shutting down archive...\n".to_owned(), String::new()));

    let home = directory();
    let driver = driver(home.path());
    let (mut program, _) = Program::start(&mut command(home.path()));
    driver.stop().unwrap();
    let (code, output, errors) = program.end();
    assert_eq!((code, output.as_str()), (Some(1), "Shutting down archive...\n"));
    assert!(errors.starts_with("ERROR: archive (-1) generic error, see message\n"), "{errors}");
}

#[test]
fn damage_and_the_errors_of_an_earlier_run_are_reported() {
    let home = directory();
    let run = || {
        let (mut program, _) = Program::start(command(home.path()).arg("--with-driver"));
        program.signal("TERM");
        program.end().2
    };
    let (mut program, _) = Program::start(command(home.path()).arg("--with-driver"));
    record(home.path());
    program.signal("TERM");
    program.end();
    let catalog: PathBuf = home.path().join("archive/archive.catalog");
    let mut bytes = std::fs::read(&catalog).unwrap();
    bytes[32 + 72] = 33;
    std::fs::write(&catalog, bytes).unwrap();
    let errors = run();
    assert!(errors.starts_with("WARNING: ") && errors.contains("entry at offset 32 is damaged"), "{errors}");
    let errors = run();
    let (start, path) = errors.trim_end().split_once(": Existing errors saved to: ").unwrap();
    assert_eq!(start, "WARNING");
    let saved = std::fs::read_to_string(path).unwrap();
    assert!(
        saved.contains("entry at offset 32 is damaged") && saved.ends_with("1 distinct errors observed.\n")
    );
    assert_eq!(run(), "");
}
