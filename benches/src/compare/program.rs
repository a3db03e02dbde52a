//! Running the programs of a comparison and reading their output.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;

use super::plan::{CDriver, Comparison, Peer};
use super::statistics::Samples;
use crate::BenchError;
use crate::running::Running;
use crate::side::directory;
use crate::stopwatch::{Stopwatch, rest};

/// Script that runs the rest of its arguments in a session with the highest scheduling weight. Where the kernel
/// schedules by session, other work on the machine cannot take the cores away.
const SHIELD: &str = r#"echo -20 > /proc/self/autogroup 2>/dev/null; exec "$@""#;
/// Options of the JVM.
const JVM: [&str; 6] = [
    "-Xms256m",
    "-Xmx512m",
    "-XX:+UseParallelGC",
    "-Dagrona.disable.bounds.checks=true",
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:GuaranteedSafepointInterval=300000",
];
/// Settings of a tuned driver.
const TUNED: [(&str, &str); 5] = [
    ("AERON_MTU_LENGTH", "8k"),
    ("AERON_SOCKET_SO_SNDBUF", "2m"),
    ("AERON_SOCKET_SO_RCVBUF", "2m"),
    ("AERON_RCV_INITIAL_WINDOW_LENGTH", "2m"),
    ("AERON_TERM_BUFFER_LENGTH", "64m"),
];
/// Longest wait for the driver of a C client, ns.
const DRIVER_PATIENCE_NS: u64 = 10_000_000_000;

/// Paths of the programs.
#[derive(Debug, Clone)]
pub struct Peers {
    /// Our binary. It measures when it is called with the name of a benchmark.
    pub ours: PathBuf,
    /// `peerbench.jar`.
    pub java: PathBuf,
    /// `peer-c`.
    pub c: PathBuf,
    /// `peer-etcd`.
    pub etcd: PathBuf,
    /// `harrier-driver`.
    pub driver: PathBuf,
}

impl Peers {
    /// Returns this binary, and the harnesses where their own build leaves them below `folder`. `HARRIER_PEER_JAR`,
    /// `HARRIER_PEER_C` and `HARRIER_PEER_ETCD` name others. `HARRIER_DRIVER` names another `harrier-driver` than the
    /// one beside this binary.
    ///
    /// # Errors
    ///
    /// The system does not say which binary this is.
    pub fn below(folder: &Path) -> Result<Self, BenchError> {
        let named = |variable: &str, usual: PathBuf| std::env::var_os(variable).map_or(usual, PathBuf::from);
        let ours = std::env::current_exe()?;
        Ok(Self {
            driver: named("HARRIER_DRIVER", ours.with_file_name("harrier-driver")),
            ours,
            java: named("HARRIER_PEER_JAR", folder.join("peers/java/target/peerbench.jar")),
            c: named("HARRIER_PEER_C", folder.join("peers/c/target/release/peer-c")),
            etcd: named("HARRIER_PEER_ETCD", folder.join("peers/etcd/target/peer-etcd")),
        })
    }

    /// Returns the reason why the peer of a comparison cannot run here; `None` when it can.
    pub fn missing(&self, comparison: &Comparison) -> Option<String> {
        const C: &str = "run `cargo build --release -p peer-c` in benches/peers/c";
        const JAVA: &str = "run `mvn -q package` in benches/peers/java";
        const DRIVER: &str = "run `cargo build --release -p harrier-driver`";
        const ETCD: &str =
            "install etcd-server, and run `go build -o target/peer-etcd .` in benches/peers/etcd";
        let needed: &[(&PathBuf, &str)] = match comparison.peer {
            Peer::Java(_) => &[(&self.java, JAVA)],
            Peer::C { driver: CDriver::Own, .. } => &[(&self.c, C)],
            Peer::C { driver: CDriver::Ours, .. } => &[(&self.c, C), (&self.driver, DRIVER)],
            Peer::Etcd(_) => &[(&self.etcd, ETCD)],
            Peer::Own("driver-footprint-c") => &[(&self.driver, DRIVER), (&self.c, C)],
            Peer::Own("driver-footprint-java") => &[(&self.driver, DRIVER), (&self.java, JAVA)],
            Peer::Own(_) => &[],
        };
        let (path, how) = needed.iter().find(|(path, _)| !path.is_file())?;
        Some(format!("{} is not there: {how}", path.display()))
    }

    /// Executes our runs, one after the other.
    pub(super) fn run_ours(&self, comparison: &Comparison, quick: bool) -> Result<Samples, BenchError> {
        self.run_own(comparison, None, quick)
    }

    /// Executes the peer's run.
    pub(super) fn run_peer(&self, comparison: &Comparison, quick: bool) -> Result<Samples, BenchError> {
        match comparison.peer {
            Peer::Java(arguments) => self.run_java(arguments, quick),
            Peer::C { driver, mode, is_tuned, client } => {
                let directory = directory()?;
                let aeron = directory.path().join("aeron");
                let _driver = self.c_driver(driver, mode, is_tuned, &aeron)?;
                self.run_c(client, &aeron, quick)
            }
            Peer::Etcd(arguments) => self.run_etcd(arguments, quick),
            Peer::Own(benchmark) => self.run_own(comparison, Some(benchmark), quick),
        }
    }

    fn run_own(
        &self,
        comparison: &Comparison,
        benchmark: Option<&str>,
        quick: bool,
    ) -> Result<Samples, BenchError> {
        let mut samples = Samples::default();
        for lane in comparison.lanes {
            let (warmup, seconds) = if quick { ("0.2", "0.3") } else { ("0.7", "2") };
            let mut command = shielded(&self.ours);
            command.args(["run", benchmark.unwrap_or(lane.benchmark), "--json"]);
            command.args(["--size", &lane.size.to_string(), "--window", &lane.window.to_string()]);
            command.args(["--warmup", warmup, "--seconds", seconds]);
            for object in output(command)? {
                insert(&mut samples, &lane.key(), &object);
            }
        }
        Ok(samples)
    }

    fn run_java(&self, arguments: &str, quick: bool) -> Result<Samples, BenchError> {
        let mut command = shielded(Path::new("java"));
        command.args(JVM).arg("-jar").arg(&self.java).args(arguments.split_whitespace());
        // The JVM compiles during its warm-up.
        let warmup = match (quick, arguments.starts_with("cluster")) {
            (true, false) => "0.5",
            (false, false) => "3",
            (true, true) => "4",
            (false, true) => "8",
        };
        command.args(["--warmup", warmup, "--seconds", if quick { "0.5" } else { "2" }]);
        let mut samples = Samples::default();
        for object in output(command)? {
            let kind = object["kind"].as_str();
            if kind.is_some_and(|kind| kind != "one-to-one") || object["bench"] == "micro-ring-rtt" {
                continue;
            }
            let size = object["size"].as_u64().unwrap_or(0);
            insert(&mut samples, &format!("{size} {}", object["mode"].as_str().unwrap_or("stream")), &object);
        }
        Ok(samples)
    }

    fn run_etcd(&self, arguments: &str, quick: bool) -> Result<Samples, BenchError> {
        let mut command = shielded(&self.etcd);
        command.args(arguments.split_whitespace());
        command.args([
            "--warmup",
            if quick { "0.3" } else { "1" },
            "--seconds",
            if quick { "0.5" } else { "2" },
        ]);
        let mut samples = Samples::default();
        for object in output(command)? {
            let (size, mode) = (object["size"].as_u64().unwrap_or(0), object["mode"].as_str());
            insert(&mut samples, &format!("{size} {}", mode.unwrap_or("closed")), &object);
        }
        Ok(samples)
    }

    /// Starts the driver of a C client.
    fn c_driver(
        &self,
        driver: CDriver,
        mode: &str,
        is_tuned: bool,
        directory: &Path,
    ) -> Result<Running, BenchError> {
        let (threading, idle) = mode.split_once(' ').unwrap_or((mode, "backoff"));
        let mut command = match driver {
            CDriver::Own => {
                let mut command = shielded(&self.c);
                command.args(["driver", "--threading", threading, "--idle", idle, "--duration-s", "60"]);
                command.arg("--dir").arg(directory);
                if is_tuned {
                    command.args(["--mtu", "8192", "--term-length", "67108864"]);
                }
                command
            }
            CDriver::Ours => {
                let mut command = shielded(&self.driver);
                command.arg(format!("-Daeron.dir={}", directory.display()));
                command.arg(format!("-Daeron.threading.mode={}", threading.to_uppercase()));
                command.arg("-Daeron.term.buffer.sparse.file=false");
                for agent in ["conductor", "sender", "receiver", "shared"] {
                    command.arg(format!("-Daeron.{agent}.idle.strategy={idle}"));
                }
                command
            }
        };
        if is_tuned {
            command.envs(TUNED);
        }
        let mut running = Running(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        let stopwatch = Stopwatch::start();
        while !directory.join("cnc.dat").is_file() {
            if stopwatch.ns() > DRIVER_PATIENCE_NS || running.0.try_wait()?.is_some() {
                return Err(BenchError::Timeout("the driver of the C client"));
            }
            rest(0.01);
        }
        rest(0.3);
        Ok(running)
    }

    fn run_c(&self, arguments: &str, directory: &Path, quick: bool) -> Result<Samples, BenchError> {
        let mut command = shielded(&self.c);
        command.args(arguments.split_whitespace()).arg("--dir").arg(directory);
        command.args(["--warmup-s", "1", "--time-s", if quick { "1" } else { "2" }]);
        let mut samples = Samples::default();
        for object in output(command)? {
            let size = object["size"].as_u64().unwrap_or(0);
            let mode = object["mode"].as_str().unwrap_or("stream");
            let lane = format!("{size} {mode}");
            insert(&mut samples, &lane, &object);
            if let (Some(p50), Some(p99)) =
                (object["rtt_ns"]["p50"].as_f64(), object["rtt_ns"]["p99"].as_f64())
            {
                samples.0.insert((lane.clone(), "p50_ns"), p50);
                samples.0.insert((lane, "p99_ns"), p99);
            }
        }
        Ok(samples)
    }
}

fn shielded(program: &Path) -> Command {
    let mut command = Command::new("setsid");
    command.args(["-w", "sh", "-c", SHIELD, "sh"]).arg(program);
    command
}

/// Runs a command to its end and returns the objects that it has printed.
fn output(mut command: Command) -> Result<Vec<Value>, BenchError> {
    let text = format!("{:?}", command.get_args().skip(5).collect::<Vec<_>>());
    let failed = |reason: String| BenchError::Program { program: text.clone(), reason };
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let objects: Vec<Value> = printed
        .lines()
        .filter(|line| line.starts_with('{'))
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    if !output.status.success() || objects.is_empty() {
        let complaint = String::from_utf8_lossy(&output.stderr);
        let first: Vec<&str> = complaint.lines().take(3).collect();
        return Err(failed(format!("{}: {} {}", output.status, printed.trim(), first.join(" / "))));
    }
    Ok(objects)
}

/// Takes the figures of the top level of an object.
fn insert(samples: &mut Samples, lane: &str, object: &Value) {
    for (name, metric) in [
        ("p50_ns", "p50_ns"),
        ("p99_ns", "p99_ns"),
        ("msgs_per_s", "msgs_per_s"),
        ("ops_per_s", "msgs_per_s"),
        ("resident_bytes", "resident_bytes"),
    ] {
        if let Some(value) = object[name].as_f64() {
            samples.0.insert((lane.to_owned(), metric), value);
        }
    }
}
