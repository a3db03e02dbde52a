//! The project's own programs as processes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

use harrier::platform::HostTransport;
use harrier::ringbuf::transport::{TransportKind, TransportOptions};

use super::directory;
use super::ports::free_port;
use super::process::Process;

/// The `harrier` command.
pub fn harrier() -> Command {
    Command::new(env!("CARGO_BIN_EXE_harrier"))
}

/// The `harrier-driver` command with a clean environment.
pub fn harrier_driver() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    clean(Command::new(BINARY.get_or_init(|| binary("harrier-driver", "harrier-driver", &["driver"]))))
}

/// The `harrier-archive` command with a clean environment.
pub fn harrier_archive() -> Command {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    clean(Command::new(BINARY.get_or_init(|| binary("harrier-archive", "harrier", &["driver", "engine"]))))
}

fn clean(mut command: Command) -> Command {
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("AERON_")) {
        command.env_remove(name);
    }
    command
}

/// Path of a program of another package with sources in `folders`. `cargo test --workspace` builds it; a test of only this
/// package may have to build it here.
fn binary(name: &str, package: &str, folders: &[&str]) -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_harrier")).parent().unwrap();
    let binary = folder.join(name);
    let built = std::fs::metadata(&binary).and_then(|data| data.modified()).ok();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let folders = folders.iter().chain(&["ringbuf/src"]);
    let changed = folders.filter_map(|folder| newest_source(&root.join(folder))).max();
    if built < changed {
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            name => name,
        };
        let arguments = ["build", "--quiet", "--package", package, "--bin", name];
        let mut command = Command::new(env!("CARGO"));
        command.args(arguments).args(["--profile", profile, "--target-dir"]).arg(folder.parent().unwrap());
        let status = command.current_dir(root).status().unwrap();
        assert!(status.success(), "building {name}: {status}");
    }
    binary
}

/// Modification time of the newest Rust file below a folder.
fn newest_source(path: &Path) -> Option<SystemTime> {
    let metadata = std::fs::metadata(path).ok()?;
    if !metadata.is_dir() {
        let is_source = path.extension().is_some_and(|extension| extension == "rs");
        return if is_source { metadata.modified().ok() } else { None };
    }
    let entries = std::fs::read_dir(path).ok()?;
    entries.filter_map(|entry| newest_source(&entry.ok()?.path())).max()
}

/// Environment variable with the transport of our drivers; sockets by default.
pub const TRANSPORT_VARIABLE: &str = "HARRIER_TEST_TRANSPORT";

/// Transport of our drivers. Where the host lacks it the tests run on sockets and print a message, or fail where peers
/// are required.
fn transport() -> &'static str {
    let name = std::env::var(TRANSPORT_VARIABLE).ok();
    let kind = name.map(|name| TransportKind::by_name(&name).unwrap()).unwrap_or_default();
    let options = TransportOptions { kind, ..TransportOptions::default() };
    match HostTransport::new(&options) {
        Ok(_) => options.kind.name(),
        Err(error) => {
            let is_required = std::env::var("HARRIER_REQUIRE_PEERS").as_deref() == Ok("1");
            assert!(!is_required, "{error}");
            eprintln!("SKIPPED, runs on sockets: {error}");
            TransportKind::default().name()
        }
    }
}

const CLIENT_LIVENESS: &str = "aeron.client.liveness.timeout";
/// The timeout tolerates tests that wait for other processes, and stalled machines.
const PATIENT: [&str; 2] = ["aeron.client.liveness.timeout=120s", "aeron.publication.unblock.timeout=130s"];

/// A `harrier-driver` that is ready for clients.
pub struct OurDriver {
    /// The process.
    pub process: Process,
    /// The Aeron directory.
    pub directory: PathBuf,
    _parent: tempfile::TempDir,
}

impl OurDriver {
    /// Starts a driver with settings beyond the defaults of tests, e.g. `aeron.mtu.length=8k`.
    pub fn start(settings: &[&str]) -> Self {
        let parent = directory("driver");
        let aeron_directory = parent.path().join("aeron");
        let mut command = harrier_driver();
        command.arg("--ready").arg(format!("-Daeron.dir={}", aeron_directory.display()));
        command.args(["-Daeron.threading.mode=SHARED", "-Daeron.shared.idle.strategy=backoff"]);
        command.arg("-Daeron.publication.linger.timeout=200ms");
        let is_set = |name: &str| settings.iter().any(|setting| setting.starts_with(name));
        if !is_set("aeron.timer.interval") {
            command.arg("-Daeron.timer.interval=20ms");
        }
        if !is_set(CLIENT_LIVENESS) {
            command.args(PATIENT.map(|setting| format!("-D{setting}")));
        }
        command.args(["-Daeron.term.buffer.sparse.file=true"]);
        command.arg(format!("-Dharrier.driver.transport={}", transport()));
        command.args(settings.iter().map(|setting| format!("-D{setting}")));
        let mut process = Process::start("harrier-driver", &mut command);
        let line = process.line();
        assert!(line.starts_with("{\"ready\":true"), "{line}");
        Self { process, directory: aeron_directory, _parent: parent }
    }

    /// Stops the driver and checks its exit code and empty output.
    pub fn stop(mut self) {
        self.process.signal("TERM");
        let status = self.process.wait();
        assert_eq!(status.code(), Some(15), "{status}");
        assert_eq!(self.process.errors(), "");
        assert_eq!(self.process.last_lines(), ["Shutting down driver..."]);
    }
}

/// A `harrier node` of one member.
pub struct OurNode {
    /// The process.
    pub process: Process,
    /// Parsed line of standard output.
    pub ready: serde_json::Value,
    directory: tempfile::TempDir,
    members: String,
    arguments: Vec<String>,
}

impl OurNode {
    /// Starts a node in a new directory with arguments beyond `--dir`, `--aeron-dir`, `--member-id` and `--members`,
    /// and waits until it serves.
    pub fn start(arguments: &[&str]) -> Self {
        let endpoints: Vec<_> = (0..5).map(|_| format!("127.0.0.1:{}", free_port())).collect();
        let members = format!("0,{}", endpoints.join(","));
        let directory = directory("node");
        let arguments: Vec<_> = arguments.iter().map(ToString::to_string).collect();
        let (process, ready) = launch(directory.path(), &members, &arguments);
        Self { process, ready, directory, members, arguments }
    }

    /// Restarts the node in the same place; the earlier process must have ended.
    pub fn restart(&mut self) {
        let (process, ready) = launch(self.directory.path(), &self.members, &self.arguments);
        (self.process, self.ready) = (process, ready);
    }

    /// The member string.
    pub fn members(&self) -> &str {
        &self.members
    }

    /// Echoes `count` messages through a client of ours.
    pub fn echo(&self, count: u64, length: usize) {
        super::cluster::echo(&self.aeron_directory(), self.ingress_endpoints(), count, length);
    }

    /// Ingress endpoints in the form of client settings.
    pub fn ingress_endpoints(&self) -> &str {
        self.ready["ingress_endpoints"].as_str().unwrap()
    }

    /// Aeron directory of the node.
    pub fn aeron_directory(&self) -> PathBuf {
        self.directory.path().join("aeron")
    }

    /// Parent of all directories of the node.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }
}

fn launch(directory: &Path, members: &str, arguments: &[String]) -> (Process, serde_json::Value) {
    let mut process = Process::start("harrier node", &mut node_command(directory, members, arguments));
    let line = process.line();
    let ready: serde_json::Value =
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{line}: {error}"));
    assert_eq!(ready["ready"], true);
    (process, ready)
}

/// Command of a node with its directories below `directory`.
pub fn node_command(directory: &Path, members: &str, arguments: &[String]) -> Command {
    let mut command = harrier();
    command.args(["node", "--member-id", "0", "--members", members]);
    command.arg("--dir").arg(directory.join("node")).arg("--aeron-dir").arg(directory.join("aeron"));
    if !arguments.iter().any(|argument| argument.starts_with(CLIENT_LIVENESS)) {
        command.args(PATIENT.iter().flat_map(|setting| ["-D", setting]));
    }
    command.args(arguments);
    command
}
