//! Released clients and media drivers in separate processes, controlled line by line. Every kind takes the same
//! commands and gives the same answers, so that one test runs against each.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::Value;

use crate::peers::{c, java};
use crate::support::client::Client;
use crate::support::process::Process;
use crate::support::{PATIENCE_NS, directory, patient_idle};

/// Environment variable; 1 makes a missing tool fail the tests that it would skip.
const REQUIRE: &str = "HARRIER_REQUIRE_PEERS";

/// Implementation of a peer's client and driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Java,
    C,
}

/// Makes two tests of each function: with the Java peer in module `java`, with the C peer in module `c`.
macro_rules! with_each_peer {
    ($($test:ident),+ $(,)?) => {
        with_each_peer!(@module java, Java, $($test),+);
        with_each_peer!(@module c, C, $($test),+);
    };
    (@module $module:ident, $kind:ident, $($test:ident),+) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    if crate::peers::peer::Kind::$kind.is_available() {
                        super::$test(crate::peers::peer::Kind::$kind);
                    }
                }
            )+
        }
    };
}
pub(crate) use with_each_peer;

impl Kind {
    /// True when the peer can run. Otherwise says so loudly, or panics when peers are required.
    pub fn is_available(self) -> bool {
        let built = match self {
            Self::Java => java::jar(),
            Self::C => c::binary(),
        };
        if let Err(reason) = built {
            skip(reason);
        }
        built.is_ok()
    }

    /// A client of the driver in a directory.
    pub fn client(self, directory: &Path) -> Peer {
        self.client_with(directory, &[])
    }

    /// A client with settings beyond the defaults.
    pub fn client_with(self, directory: &Path, settings: &[&str]) -> Peer {
        Peer::start(self, &mut self.command(directory, None, settings))
    }

    /// A client with the released media driver, with settings beyond its defaults.
    pub fn with_driver(self, directory: &Path, settings: &[&str]) -> Peer {
        Peer::start(self, &mut self.command(directory, Some("driver"), settings))
    }

    /// A client with the released media driver in a directory of its own, which is to outlive it.
    pub fn with_own_driver(self, settings: &[&str]) -> (Peer, tempfile::TempDir) {
        let home = directory("peer");
        (self.with_driver(&home.path().join("aeron"), settings), home)
    }

    fn command(self, directory: &Path, server: Option<&str>, settings: &[&str]) -> Command {
        match self {
            Self::Java => java::peer(directory, server, settings),
            Self::C => c::peer(directory, server, settings),
        }
    }

    /// Settings that make a driver drop received data datagrams.
    pub fn data_loss(self, rate: f64, seed: u64) -> Vec<String> {
        match self {
            Self::Java => vec![
                "aeron.ReceiveChannelEndpoint.supplier=io.aeron.driver.ext.DebugReceiveChannelEndpointSupplier"
                    .to_owned(),
                format!("aeron.debug.receive.data.loss.rate={rate}"),
                format!("aeron.debug.receive.data.loss.seed={seed}"),
            ],
            Self::C => vec![
                "aeron.udp.channel.incoming.interceptors=loss".to_owned(),
                format!(
                    "aeron.udp.channel.transport.bindings.loss.args=rate={rate}|seed={seed}|recv-msg-mask=0x2"
                ),
            ],
        }
    }
}

/// Differences between the released implementations, by the rules of spec 02, and features of only one of them.
impl Kind {
    /// This project's driver behaves like Java's for every client (spec 02 §5.3, DECISION).
    pub const OURS: Self = Self::Java;

    /// Error code of an add with an unknown host (spec 02 §5.16).
    pub fn unknown_host(self) -> i32 {
        match self {
            Self::Java => 1,
            Self::C => 9,
        }
    }

    /// Error code of an add whose channel contradicts another's (spec 02 §5.16).
    pub fn clash(self) -> i32 {
        match self {
            Self::Java => 1,
            Self::C => 11,
        }
    }

    /// Offset of a time stamp as a driver formats it in an error.
    pub fn stamp_place(self, place: i32) -> String {
        match (self, place) {
            (Self::Java, place) => place.to_string(),
            (Self::C, -1) => "-1 (not specified)".to_owned(),
            (Self::C, -8) => "-8 (reserved)".to_owned(),
            (Self::C, place) => place.to_string(),
        }
    }

    /// A C driver compares hops only where it has requested the SETUP (spec 02 §3.3).
    pub fn compares_hops_of_every_setup(self) -> bool {
        self == Self::Java
    }

    /// A C receiver sends no status message with EOS after a revoke (spec 02 §2.8).
    pub fn answers_revoked(self) -> bool {
        self == Self::Java
    }

    /// Name of system counter 45.
    pub fn executor_counter(self) -> &'static str {
        match self {
            Self::Java => "Failed offers to AsyncExecutorProxy",
            // Available since 1.54.
            Self::C => "Failed offers to NativeResourceAgentProxy",
        }
    }

    /// Setting that enables name resolution between drivers (spec 02 §5.12); Java's driver needs an interface.
    pub fn gossip(self) -> Option<&'static str> {
        match self {
            Self::Java => None,
            Self::C => Some("aeron.name.resolver.supplier=driver"),
        }
    }

    /// Error of a client that its driver has timed out.
    pub fn closed_client(self) -> &'static str {
        match self {
            Self::Java => "Aeron client is ",
            Self::C => "client must be closed and discarded",
        }
    }

    /// Error of a client that detects its own stall.
    pub fn late_client(self) -> &'static str {
        match self {
            Self::Java => "ConductorServiceTimeoutException",
            Self::C => "service interval exceeded",
        }
    }

    /// Error of a client whose driver has timed out.
    pub fn driver_timeout(self) -> &'static str {
        match self {
            Self::Java => "DriverTimeoutException",
            Self::C => "1000: ",
        }
    }

    /// Errors of a client whose driver has closed its file.
    pub fn driver_shutdown(self) -> [&'static str; 2] {
        match self {
            Self::Java => ["DriverTimeoutException", "shutdown"],
            Self::C => ["1000: ", "MediaDriver has been shutdown"],
        }
    }
}

/// Settings as command-line arguments.
pub fn texts(settings: &[String]) -> Vec<&str> {
    settings.iter().map(String::as_str).collect()
}

/// Says loudly why a test does not run; panics when peers are required.
pub fn skip(reason: &str) {
    assert!(std::env::var(REQUIRE).as_deref() != Ok("1"), "{REQUIRE}=1, but {reason}");
    let thread = std::thread::current();
    // Bypasses the harness, which hides the output of a passing test.
    let text = format!("SKIPPED: {} needs a peer: {reason}\n", thread.name().unwrap_or("a test"));
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// Cargo's target directory, below which peers are built.
pub fn target() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap()
}

/// Builds a peer into its output directory unless its sources are the ones of the last build, and returns the path of
/// `product` there. Test programs that run at the same time build one after the other.
pub fn build(
    name: &str,
    sources: &[PathBuf],
    product: &str,
    command: impl FnOnce(&Path) -> Command,
) -> Result<PathBuf, String> {
    let output = target().join("peers").join(name);
    let failed = |error: std::io::Error| format!("{}: {error}", output.display());
    std::fs::create_dir_all(&output).map_err(failed)?;
    let lock = std::fs::File::create(output.join("build.lock")).map_err(failed)?;
    lock.lock().map_err(failed)?;
    let (product, stamp) = (output.join(product), output.join("build.stamp"));
    let sources = read(sources).map_err(failed)?;
    if product.exists() && std::fs::read_to_string(&stamp).is_ok_and(|text| text == sources) {
        return Ok(product);
    }
    let mut command = command(&output);
    let result = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    if !result.status.success() {
        let text = [result.stdout, result.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        return Err(format!("{command:?} failed:\n{}", text.concat()));
    }
    std::fs::write(&stamp, sources).map_err(failed)?;
    Ok(product)
}

/// Text of files, and of files directly in folders.
fn read(paths: &[PathBuf]) -> std::io::Result<String> {
    let mut files = Vec::new();
    for path in paths {
        if path.is_dir() {
            for entry in std::fs::read_dir(path)? {
                files.push(entry?.path());
            }
        } else {
            files.push(path.clone());
        }
    }
    files.retain(|path| path.is_file());
    files.sort();
    files.iter().map(std::fs::read_to_string).collect()
}

/// A released client in a separate process.
pub struct Peer {
    process: Process,
    last_id: u64,
    replies: BTreeMap<u64, Value>,
}

/// A running command.
#[must_use]
pub struct Pending(u64);

impl Peer {
    /// Starts a process and waits until it accepts commands.
    pub fn start(kind: Kind, command: &mut Command) -> Self {
        let process = Process::start(&format!("{kind:?} peer"), command);
        let mut peer = Self { process, last_id: 0, replies: BTreeMap::new() };
        peer.finish(Pending(0));
        peer
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

    /// Waits for the outcome of a command while our client runs its duty cycles.
    pub fn finish_beside(&mut self, pending: Pending, client: &mut Client) -> Value {
        let deadline_ns = SystemClock.now().ns + PATIENCE_NS;
        let mut idle = patient_idle();
        while !self.is_done(&pending) && SystemClock.now().ns < deadline_ns {
            client.work();
            idle.idle(0);
        }
        self.finish(pending)
    }

    /// Runs a command while our client runs its duty cycles.
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

    /// Runs a command that must be refused and returns the answer.
    pub fn refused(&mut self, line: &str) -> Value {
        let pending = self.begin(line);
        let reply = self.reply(pending);
        assert!(reply.get("error").is_some(), "{line}: {reply}");
        reply
    }

    /// Ends the client cleanly and returns its standard error.
    pub fn exit(mut self) -> String {
        self.call("exit");
        assert!(self.process.wait().success());
        self.process.errors()
    }

    /// Sends a signal by its name, e.g. `STOP`.
    pub fn signal(&self, signal: &str) {
        self.process.signal(signal);
    }

    /// Output on standard error so far.
    pub fn errors(&self) -> String {
        self.process.errors()
    }

    /// Kills the process.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
