//! The released Java client and media driver: built once into cargo's target directory, driven line by line.
#![allow(dead_code, reason = "each test program uses its part")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::Value;

use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::{PATIENCE_NS, directory, source};

/// Flags of every virtual machine: small, quick to start, open where Agrona needs it.
const FLAGS: [&str; 5] = [
    "-Xms32m",
    "-Xmx256m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dagrona.disable.bounds.checks=false",
];

/// Packages that the samples and tools of the jar open.
const OPENED: [&str; 3] = [
    "--add-opens=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/java.util.zip=ALL-UNNAMED",
];

/// Set to 1, a missing tool fails the tests that it would skip.
const REQUIRE: &str = "HARRIER_REQUIRE_PEERS";

/// True when the Java peer can run. Otherwise says so loudly, or panics when peers are required.
pub fn is_available() -> bool {
    if let Err(reason) = jar() {
        skip(reason);
        return false;
    }
    true
}

/// Says loudly why a test does not run; panics when peers are required.
pub fn skip(reason: &str) {
    assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{REQUIRE}=1, but {reason}");
    let thread = std::thread::current();
    // Past the harness, which would keep the output of a test that passes.
    let text = format!("SKIPPED: {} needs a peer: {reason}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

fn jar() -> Result<&'static Path, &'static str> {
    static JAR: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    JAR.get_or_init(build).as_deref().map_err(String::as_str)
}

/// Builds the peer unless its sources are the ones of the last build. Test programs that run at the same time build one
/// after the other.
fn build() -> Result<PathBuf, String> {
    for tool in ["java", "javac", "mvn"] {
        Command::new(tool)
            .arg("-version")
            .output()
            .map_err(|error| format!("{tool} does not run: {error}"))?;
    }
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap().join("peers").join("java");
    let failed = |error: std::io::Error| format!("{}: {error}", output.display());
    std::fs::create_dir_all(&output).map_err(failed)?;
    let lock = std::fs::File::create(output.join("build.lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let (jar, stamp) = (output.join("peertest.jar"), output.join("build.stamp"));
    let sources = read_sources(&source("peers/java")).map_err(failed)?;
    if jar.exists() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == sources) {
        return Ok(jar);
    }
    let mut command = Command::new("mvn");
    command.args(["--quiet", "--batch-mode", "package"]);
    command.arg(format!("-Dpeertest.output={}", output.display()));
    let result = command.current_dir(source("peers/java")).output().map_err(failed)?;
    if !result.status.success() {
        return Err(format!("mvn failed:\n{}", String::from_utf8_lossy(&result.stdout)));
    }
    std::fs::write(&stamp, sources).map_err(failed)?;
    Ok(jar)
}

fn read_sources(root: &Path) -> std::io::Result<String> {
    let mut paths = vec![root.join("pom.xml")];
    for entry in std::fs::read_dir(root.join("src/main/java/peertest"))? {
        paths.push(entry?.path());
    }
    paths.sort();
    paths.iter().map(std::fs::read_to_string).collect()
}

/// A program of the released jar with its arguments, e.g. `io.aeron.samples.AeronStat`.
pub fn program(properties: &[String], class: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("java");
    command.args(FLAGS).args(OPENED).args(properties.iter().map(|property| format!("-D{property}")));
    command.arg("-cp").arg(jar().unwrap()).arg(class).args(arguments);
    command
}

/// A Java client in a process of its own.
pub struct Java {
    process: Process,
    last_id: u64,
    replies: BTreeMap<u64, Value>,
}

/// A command that runs.
#[must_use]
pub struct Pending(u64);

impl Java {
    /// A client of the driver in a directory.
    pub fn client(directory: &Path) -> Self {
        Self::start(Command::new("java").args(FLAGS).arg("-jar").arg(jar().unwrap()).arg(directory))
    }

    /// A client that takes its driver for dead after so many ms.
    pub fn impatient_client(directory: &Path, driver_timeout_ms: u32) -> Self {
        let mut command = Command::new("java");
        command.args(FLAGS).arg(format!("-Dpeertest.driver.timeout={driver_timeout_ms}"));
        Self::start(command.arg("-jar").arg(jar().unwrap()).arg(directory))
    }

    /// A client with the released media driver, with properties beyond its defaults.
    pub fn with_driver(directory: &Path, properties: &[&str]) -> Self {
        let properties = properties.iter().map(|property| format!("-D{property}"));
        let mut command = Command::new("java");
        command.args(FLAGS).args(properties).arg("-jar").arg(jar().unwrap()).arg(directory).arg("driver");
        Self::start(&mut command)
    }

    /// A client with the released media driver in a directory of its own, which is to outlive it.
    pub fn with_own_driver(properties: &[&str]) -> (Self, tempfile::TempDir) {
        let home = directory("java");
        (Self::with_driver(&home.path().join("aeron"), properties), home)
    }

    /// A client with the released media driver and the released archive beside it, which keeps its files in the
    /// driver's directory with `-archive` behind it.
    pub fn with_archive(directory: &Path, properties: &[&str]) -> Self {
        let properties = properties.iter().map(|property| format!("-D{property}"));
        let mut command = Command::new("java");
        command.args(FLAGS).args(OPENED).args(properties);
        command.arg("-jar").arg(jar().unwrap()).arg(directory).arg("archive");
        Self::start(&mut command)
    }

    fn start(command: &mut Command) -> Self {
        let mut java =
            Self { process: Process::start("java", command), last_id: 0, replies: BTreeMap::new() };
        java.finish(Pending(0));
        java
    }

    /// Starts a command; others may run beside it.
    pub fn begin(&mut self, line: &str) -> Pending {
        self.last_id += 1;
        self.process.write(&format!("{} {line}", self.last_id));
        Pending(self.last_id)
    }

    /// The outcome of a command; panics when it is an error.
    pub fn finish(&mut self, pending: Pending) -> Value {
        let reply = self.reply(pending);
        assert!(reply.get("error").is_none(), "{reply}");
        reply
    }

    fn reply(&mut self, pending: Pending) -> Value {
        loop {
            if let Some(reply) = self.replies.remove(&pending.0) {
                return reply;
            }
            let line = self.process.line();
            self.keep(&line);
        }
    }

    /// The outcome of a command, while a client of ours goes on with its duty cycles.
    pub fn finish_beside(&mut self, pending: Pending, client: &mut Client) -> Value {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        while !self.is_done(&pending) && SystemClock.now().ns < deadline_ns {
            client.work();
        }
        self.finish(pending)
    }

    /// Runs a command to its end, while a client of ours goes on with its duty cycles.
    pub fn call_beside(&mut self, client: &mut Client, line: &str) -> Value {
        let pending = self.begin(line);
        self.finish_beside(pending, client)
    }

    /// True when a command has ended.
    fn is_done(&mut self, pending: &Pending) -> bool {
        for line in self.process.lines_so_far() {
            self.keep(&line);
        }
        self.replies.contains_key(&pending.0)
    }

    fn keep(&mut self, line: &str) {
        let reply: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
        self.replies.insert(reply["id"].as_u64().unwrap(), reply);
    }

    /// Runs a command to its end.
    pub fn call(&mut self, line: &str) -> Value {
        let pending = self.begin(line);
        self.finish(pending)
    }

    /// Runs a command that must be refused; returns what it says.
    pub fn refused(&mut self, line: &str) -> Value {
        let pending = self.begin(line);
        let reply = self.reply(pending);
        assert!(reply.get("error").is_some(), "{line}: {reply}");
        reply
    }

    /// Ends the client in good order and returns what it wrote to standard error.
    pub fn exit(mut self) -> String {
        self.call("exit");
        assert!(self.process.wait().success());
        self.process.errors()
    }

    /// Sends a signal by its name, e.g. `STOP`.
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// What has come on standard error.
    pub fn errors(&self) -> String {
        self.process.errors()
    }

    /// Ends the process as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
