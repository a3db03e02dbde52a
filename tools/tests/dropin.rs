//! `harrier-driver` where Aeron's `aeronmd` was: command line, words, exit codes, files, checks at the start (spec 02
//! §5.13, §5.14, §6.2–6.4).
#![forbid(unsafe_code)]

mod effects;
mod life;
mod losses;
mod refusals;
mod trouble;

use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;

use crate::support::binaries::{harrier, harrier_driver};
use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::{directory, until};
use harrier::client::{Context, request_driver_termination};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::protocol::cnc::{CNC_HEADER_LENGTH, CncHeader};
use harrier::ringbuf::many_to_one::ManyToOneRing;
use harrier::ringbuf::memory::MapMode;
use harrier::ringbuf::{Clock, Memory, Region, broadcast};
use serde_json::Value;

const LAST_WORDS: &str = "Shutting down driver...";

/// Command of a driver on a directory, with settings as environment variables.
pub fn command(aeron: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = harrier_driver();
    command.env("AERON_DIR", aeron).env("AERON_THREADING_MODE", "SHARED").env("AERON_TIMER_INTERVAL", "20ms");
    command.envs(variables.iter().copied());
    command
}

/// A running driver.
pub fn start(aeron: &Path, variables: &[(&str, &str)]) -> (Process, Client) {
    let process = Process::start("harrier-driver", &mut command(aeron, variables));
    // The file may still be the previous driver's.
    until("the driver's own file", || {
        let mut bytes = [0; CNC_HEADER_LENGTH];
        std::fs::File::open(aeron.join("cnc.dat")).and_then(|mut file| file.read_exact(&mut bytes)).ok()?;
        let header = CncHeader::decode(&bytes).ok()?;
        (header.pid == i64::from(process.id())).then_some(())
    });
    let client = Client::connect(aeron);
    (process, client)
}

/// Files of a driver, mapped like any process can.
pub struct Files {
    /// Commands to the driver.
    pub ring: ManyToOneRing,
    /// Events of the driver to its clients.
    pub events: broadcast::Receiver,
}

impl Files {
    /// Maps the files of a directory.
    pub fn of(aeron: &Path) -> Self {
        let cnc = MappedMemory.map(&aeron.join("cnc.dat"), MapMode::ReadWrite).unwrap();
        let mut bytes = [0; CNC_HEADER_LENGTH];
        cnc.copy_out(0, &mut bytes);
        let layout = CncHeader::decode(&bytes).unwrap().layout().unwrap();
        let section = |range: &std::ops::Range<usize>| cnc.slice(range.start, range.len());
        Self {
            ring: ManyToOneRing::new(section(&layout.to_driver)).unwrap(),
            events: broadcast::Receiver::new(section(&layout.to_clients)).unwrap(),
        }
    }
}

/// Stops a driver and checks its complete output.
pub fn stop(mut driver: Process) {
    driver.signal("TERM");
    assert_eq!(driver.wait().code(), Some(15));
    assert_eq!((driver.last_lines(), driver.errors().as_str()), (vec![LAST_WORDS.to_owned()], ""));
}

/// Texts of the error log of a driver.
pub fn error_log(aeron: &Path) -> Vec<String> {
    let (output, _) =
        Process::run("harrier errors", harrier().args(["errors", "--json", "--aeron-dir"]).arg(aeron));
    let errors: Value = serde_json::from_str(&output).unwrap();
    let errors = errors["errors"].as_array().unwrap().clone();
    errors.iter().map(|error| error["text"].as_str().unwrap().to_owned()).collect()
}

fn finish(command: &mut Command) -> (i32, String, String) {
    let (status, output, errors) = Process::finish("command", command);
    (status.code().expect("an exit code"), output, errors)
}

fn terminate(aeron: &Path, token: &[u8]) {
    request_driver_termination(&Context::new(aeron), &MappedMemory, token, &SystemClock.now()).unwrap();
}

#[test]
fn the_command_line_is_that_of_aeronmd() {
    let home = directory("driver");
    let file = |name: &str, text: &str| {
        let path = home.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let absent = home.path().join("absent.properties").display().to_string();
    let wrong = file("wrong.properties", "aeron.mtu.length=8k\nno definition\n");
    let program = harrier_driver().get_program().to_str().unwrap().to_owned();
    let usage = format!("Usage: {program} [-v][-Dname=value]\n");
    let refused = |what: &str, code: i32| format!("ERROR: loading properties from {what} ({code}) ");
    // (arguments, expected start of standard error)
    let rows: [(&[&str], String); 7] = [
        (&["-Dfoo"], "malformed define: foo\n".into()),
        (&["-x"], usage.clone()),
        (&["--unknown", "-v"], usage),
        (&[&absent], refused(&absent, 2)),
        (&[&format!("file://{absent}")], refused(&format!("file://{absent}"), 2)),
        (&[&wrong], refused(&wrong, 22) + "line 2 is neither name=value nor name:value: no definition"),
        (&["http://127.0.0.1:1/x"], refused("http://127.0.0.1:1/x", 111)),
    ];
    for (arguments, text) in rows {
        let (code, output, errors) = finish(harrier_driver().args(arguments));
        assert_eq!((code, output.as_str()), (1, ""), "{arguments:?}");
        assert!(errors.starts_with(&text), "{arguments:?}: {errors}");
    }
    let (code, output, errors) = finish(harrier_driver().arg("-v"));
    assert_eq!((code, errors.as_str()), (0, ""));
    let start = format!("{program} <aeron version=1.51.0 commit=");
    assert!(output.starts_with(&start), "{output}");
    assert!(output.contains("> major 1 minor 51 patch 0 git ") && output.lines().count() == 1, "{output}");
}

/// Configuration that a driver prints.
fn printed(arguments: &[String]) -> Vec<(String, String)> {
    let home = directory("driver");
    let mut process = Process::start(
        "harrier-driver",
        command(&home.path().join("aeron"), &[("AERON_PRINT_CONFIGURATION", "true")]).args(arguments),
    );
    assert_eq!(process.line(), "aeron_driver_context_t {");
    let mut pairs = Vec::new();
    loop {
        let line = process.line();
        if line == "}" {
            stop(process);
            return pairs;
        }
        let (key, value) = line.trim_start().split_once('=').expect(&line);
        pairs.push((key.to_owned(), value.to_owned()));
    }
}

#[test]
fn properties_come_from_files_and_servers_in_the_order_of_the_command_line() {
    let home = directory("driver");
    let path = home.path().join("driver.properties");
    let text = "# a comment\n! another\n\naeron.mtu.length = 8k\naeron.rcv.initial.\\\n  window.length: 64k\n\
        aeron.socket.so_sndbuf=2m\naeron.socket.so_sndbuf=\nAERON_MAX_RESEND:7\naeron.dir.warn.if.exists=true";
    std::fs::write(&path, text).unwrap();
    let server = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/driver.properties", server.local_addr().unwrap());
    let serving = {
        #[expect(clippy::disallowed_methods, reason = "a web server beside the driver that asks it")]
        std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            let mut request = [0; 1_024];
            let length = stream.read(&mut request).unwrap();
            assert!(request[..length].starts_with(b"GET /driver.properties HTTP/1.0\r\n"));
            stream.write_all(format!("HTTP/1.0 200 OK\r\n\r\n{text}").as_bytes()).unwrap();
        })
    };
    for way in [path.display().to_string(), format!("file://{}", path.display()), url] {
        let pairs = printed(&["-Daeron.max.resend=9".into(), way.clone(), "-Daeron.mtu.length=4k".into()]);
        for (key, value) in [
            ("mtu_length", "4096"),
            ("initial_window_length", "65536"),
            ("socket_sndbuf_length", "0"),
            ("max_resend", "7"),
            // The last line counts even without a line end.
            ("warn_if_dirs_exists", "1"),
            ("threading_mode", "SHARED"),
        ] {
            assert!(pairs.contains(&(key.to_owned(), value.to_owned())), "{way}: {key} {pairs:?}");
        }
    }
    serving.join().unwrap();
}

#[test]
fn signals_and_terminate_commands_end_the_driver_each_with_its_code() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    // (validator, signal or token, exit code)
    type Row = (&'static str, Result<&'static [u8], &'static str>, i32);
    let rows: [Row; 5] = [
        ("deny", Err("INT"), 2),
        ("deny", Err("TERM"), 15),
        ("allow", Ok(b""), 0),
        ("allow", Ok(b"anything"), 0),
        ("token:secret", Ok(b"secret"), 0),
    ];
    for (validator, how, code) in rows {
        let (mut driver, client) = start(&aeron, &[("AERON_DRIVER_TERMINATION_VALIDATOR", validator)]);
        drop(client);
        match how {
            Err(signal) => driver.signal(signal),
            Ok(token) => terminate(&aeron, token),
        }
        assert_eq!(driver.wait().code(), Some(code), "{validator} {how:?}");
        assert_eq!((driver.last_lines(), driver.errors().as_str()), (vec![LAST_WORDS.to_owned()], ""));
    }
    // A client without a valid token gets no answer.
    for (validator, token) in [("deny", &b"x"[..]), ("token:secret", b"secre"), ("token:secret", b"")] {
        let (driver, mut client) = start(&aeron, &[("AERON_DRIVER_TERMINATION_VALIDATOR", validator)]);
        terminate(&aeron, token);
        // Commands are read in order, so the answer to the next one proves that this one was read.
        drop(client.publication("aeron:ipc?term-length=64k", 10));
        assert_eq!(error_log(&aeron), Vec::<String>::new());
        stop(driver);
    }
}

#[test]
fn a_live_driver_keeps_its_directory_unless_it_is_to_be_deleted() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (driver, mut client) = start(&aeron, &[]);
    let (code, output, errors) = finish(&mut command(&aeron, &[]));
    assert_eq!((code, output.as_str()), (1, ""));
    let lines: Vec<&str> = errors.lines().collect();
    let [first, second] = lines[..] else { panic!("{errors}") };
    assert!(first.starts_with("ERROR: driver init (0) [") && second.starts_with('['), "{errors}");
    assert!(
        first.contains(&format!("] Active media driver detected: {}/cnc.dat", aeron.display())),
        "{errors}"
    );
    assert!(second.ends_with(&format!("] could not recreate aeron dir: {}", aeron.display())), "{errors}");
    let mut publication = client.exclusive("aeron:ipc?term-length=64k", 10);
    let mut subscription = client.subscription("aeron:ipc", 10);
    client.send(&mut publication, 0..10, 100);
    client.receive(&mut subscription, 0..10, 100);
    drop((publication, subscription, client));
    // The directory is deleted without a check, as configured.
    let (second, client) = start(&aeron, &[("AERON_DIR_DELETE_ON_START", "true")]);
    drop(client);
    stop(driver);
    let mut client = Client::connect(&aeron);
    drop(client.publication("aeron:ipc?term-length=64k", 10));
    let (code, ..) = finish(&mut command(&aeron, &[]));
    assert_eq!(code, 1, "the second one has the directory");
    stop(second);
}

#[test]
fn what_a_driver_left_behind_is_made_anew_and_said_when_asked() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let warned = [("AERON_DIR_WARN_IF_EXISTS", "true")];
    let (driver, client) = start(&aeron, &warned);
    drop(client);
    // A missing directory causes no message.
    stop(driver);
    for dies in [false, true] {
        std::fs::write(aeron.join("publications/stale.logbuffer"), "x").unwrap();
        let (mut driver, client) = start(&aeron, &warned);
        drop(client);
        assert!(!aeron.join("publications/stale.logbuffer").exists());
        driver.signal(if dies { "KILL" } else { "TERM" });
        driver.wait();
        let errors = driver.errors();
        let lines: Vec<&str> = errors.lines().collect();
        assert_eq!(lines[0], format!("WARNING: {} exists", aeron.display()));
        let age =
            lines[1].strip_prefix("INFO: Aeron driver heartbeat is ").and_then(|t| t.strip_suffix(" ms old"));
        assert!(age.is_some_and(|age| age.parse::<i64>().is_ok()), "{errors}");
        assert_eq!(lines.len(), 2, "{errors}");
    }
    let (driver, client) = start(&aeron, &[]);
    drop(client);
    stop(driver);
}

#[test]
fn the_directory_has_its_files_and_stays_or_goes() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    // (settings, length of cnc.dat, of loss-report.dat)
    type Row = (&'static [(&'static str, &'static str)], u64, u64);
    let rows: [Row; 3] = [
        (&[], 48_238_592, 1_048_576),
        (
            &[("AERON_COUNTERS_BUFFER_LENGTH", "1m"), ("AERON_LOSS_REPORT_BUFFER_LENGTH", "5000")],
            11_538_432,
            8_192,
        ),
        (
            &[
                ("AERON_CONDUCTOR_BUFFER_LENGTH", "2097920"),
                ("AERON_CLIENTS_BUFFER_LENGTH", "2097280"),
                ("AERON_ERROR_BUFFER_LENGTH", "8m"),
                ("AERON_FILE_PAGE_SIZE", "64k"),
            ],
            54_591_488,
            1_048_576,
        ),
    ];
    for (variables, cnc, losses) in rows {
        let (driver, client) = start(&aeron, variables);
        drop(client);
        let length = |name: &str| std::fs::metadata(aeron.join(name)).unwrap().len();
        assert_eq!((length("cnc.dat"), length("loss-report.dat")), (cnc, losses), "{variables:?}");
        assert!(aeron.join("images").is_dir() && aeron.join("publications").is_dir());
        stop(driver);
        assert!(aeron.join("cnc.dat").exists(), "it stays");
    }
    let (driver, client) = start(&aeron, &[("AERON_DIR_DELETE_ON_SHUTDOWN", "true")]);
    drop(client);
    stop(driver);
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "it goes, and nothing beside it is left");
}

/// Invalid settings with expected words of the refusal (spec 02 §6.2, "Checks at start").
const CHECKS: &[(&str, &[&str], &str)] = &[
    (
        "driver",
        &["aeron.client.liveness.timeout=1s", "aeron.timer.interval=1s"],
        "aeron.client.liveness.timeout=1000000000",
    ),
    ("driver", &["aeron.publication.unblock.timeout=10s"], "aeron.publication.unblock.timeout=10000000000"),
    (
        "driver",
        &["aeron.untethered.window.limit.timeout=10ms"],
        "aeron.untethered.window.limit.timeout=10000000",
    ),
    ("driver", &["aeron.untethered.linger.timeout=10ms"], "aeron.untethered.linger.timeout=10000000"),
    ("driver", &["aeron.untethered.resting.timeout=10ms"], "aeron.untethered.resting.timeout=10000000"),
    ("driver", &["aeron.mtu.length=64k", "aeron.socket.so_sndbuf=8k"], "mtuLength=65504"),
    ("driver", &["aeron.mtu.length=8k", "aeron.socket.so_sndbuf=2k"], "mtuLength=8192"),
    (
        "driver",
        &["aeron.mtu.length=32k", "aeron.rcv.initial.window.length=16k"],
        "> initialWindowLength=16384",
    ),
    ("driver", &["aeron.rcv.initial.window.length=1g"], "initialWindowLength=1073741824"),
    ("driver", &["aeron.mtu.length=1000"], "aeron.mtu.length=1000"),
    ("driver", &["aeron.ipc.mtu.length=1000"], "aeron.ipc.mtu.length=1000"),
    ("driver", &["aeron.mtu.length=1"], "aeron.mtu.length=32"),
    ("driver", &["aeron.term.buffer.length=100000"], "aeron.term.buffer.length=100000"),
    ("driver", &["aeron.ipc.term.buffer.length=100000"], "aeron.ipc.term.buffer.length=100000"),
    ("driver", &["aeron.file.page.size=5000"], "aeron.file.page.size=5000"),
    ("driver", &["aeron.conductor.buffer.length=1050000"], "aeron.conductor.buffer.length=1050000"),
    ("driver", &["aeron.clients.buffer.length=1050000"], "aeron.clients.buffer.length=1050000"),
    (
        "driver",
        &["aeron.nak.unicast.delay=10s", "aeron.nak.unicast.retry.delay.ratio=9000000000"],
        "overflows",
    ),
    ("driver", &["aeron.driver.resolver.interface=127.0.0.1:0"], "resolver name is required"),
    (
        "driver",
        &["aeron.publication.reserved.session.id.low=5", "aeron.publication.reserved.session.id.high=4"],
        "reserved session ids 5..4",
    ),
    (
        "driver",
        &[
            "aeron.publication.reserved.session.id.low=-2147483648",
            "aeron.publication.reserved.session.id.high=0",
        ],
        "reserved session ids -2147483648..0",
    ),
    ("driver", &["AERON_UDP_CHANNEL_INCOMING_INTERCEPTORS=loss"], "interceptor loss"),
    (
        "driver",
        &["AERON_NAME_RESOLVER_SUPPLIER=csv_table", "AERON_NAME_RESOLVER_INIT_ARGS=a,b"],
        "AERON_NAME_RESOLVER_INIT_ARGS=a,b",
    ),
    ("context", &["aeron.sender.idle.strategy=nap"], "AERON_SENDER_IDLE_STRATEGY=nap"),
    ("context", &["AERON_DRIVER_DYNAMIC_LIBRARIES=x.so"], "shared objects are not loaded"),
    ("context", &["harrier.driver.transport=pigeons"], "must be sockets or io_uring"),
];

#[test]
fn settings_that_cannot_be_are_refused_at_the_start() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    for (stage, settings, text) in CHECKS {
        let mut command = command(&aeron, &[]);
        command.args(settings.iter().map(|setting| format!("-D{setting}")));
        let (code, output, errors) = finish(&mut command);
        assert_eq!((code, output.as_str()), (1, ""), "{settings:?}");
        assert!(errors.starts_with(&format!("ERROR: {stage} init (")), "{settings:?}: {errors}");
        assert!(errors.contains(text), "{settings:?}: {errors}");
        assert!(!errors.contains("panicked"), "{errors}");
    }
    // An unreadable value is ignored with a warning.
    let (mut driver, client) = start(&aeron, &[("AERON_MTU_LENGTH", "long")]);
    drop(client);
    driver.signal("TERM");
    assert_eq!(driver.wait().code(), Some(15));
    assert_eq!(driver.errors(), "WARNING: AERON_MTU_LENGTH=long is invalid, using default\n");
}
