//! Costs of a driver that nobody uses yet: the time until clients can connect, and memory beyond its mapped files.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::compare::{Peers, folder};
use crate::measurement::histogram;
use crate::running::Running;
use crate::side::{PATIENCE_NS, directory};
use crate::stopwatch::{Stopwatch, rest};

/// Number of starts that are timed.
const STARTS: usize = 9;
/// Time for a driver to settle before its memory is read, s.
const SETTLE_S: f64 = 0.5;
/// Interval at which the CnC file is polled, s.
const LOOK_S: f64 = 0.000_1;

/// `harrier-driver` with its default settings.
pub(crate) fn ours(_: &Parameters) -> Result<Outcome, BenchError> {
    measure(&|peers, directory| {
        let mut command = Command::new(&peers.driver);
        command.arg(format!("-Daeron.dir={}", directory.display()));
        command
    })
}

/// The C driver.
pub(crate) fn c(_: &Parameters) -> Result<Outcome, BenchError> {
    measure(&|peers, directory| {
        let mut command = Command::new(&peers.c);
        command.args(["driver", "--sparse", "1", "--duration-s", "60", "--dir"]).arg(directory);
        command
    })
}

/// The Java driver.
pub(crate) fn java(_: &Parameters) -> Result<Outcome, BenchError> {
    measure(&|peers, directory| {
        let mut command = Command::new("java");
        command.args(["-XX:+UseSerialGC", "-jar"]).arg(&peers.java).args(["driver", "--dir"]).arg(directory);
        command
    })
}

fn measure(command: &dyn Fn(&Peers, &Path) -> Command) -> Result<Outcome, BenchError> {
    let peers = Peers::below(&folder())?;
    let mut times = histogram();
    let mut resident = 0;
    for start in 0..STARTS {
        let directory = directory()?;
        let aeron = directory.path().join("aeron");
        let mut command = command(&peers, &aeron);
        let program = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let stopwatch = Stopwatch::start();
        let mut driver = Running(command.spawn()?);
        while !is_ready(&aeron) {
            if let Some(status) = driver.0.try_wait()? {
                return Err(BenchError::Program { program, reason: status.to_string() });
            }
            if stopwatch.ns() > PATIENCE_NS {
                return Err(BenchError::Timeout("the driver"));
            }
            rest(LOOK_S);
        }
        times.saturating_record(stopwatch.ns());
        if start + 1 == STARTS {
            rest(SETTLE_S);
            resident = resident_beyond(driver.0.id(), &aeron)?;
        }
    }
    let parameters = vec![("mode", json!("start")), ("resident_bytes", json!(resident))];
    Ok(Outcome { parameters, latency: Some(times), msgs_per_s: 0.0 })
}

/// True when the version in the CnC file is set, which a starting driver writes last.
fn is_ready(directory: &Path) -> bool {
    use std::io::Read;
    let mut version = [0; 4];
    std::fs::File::open(directory.join("cnc.dat"))
        .and_then(|mut file| file.read_exact(&mut version))
        .is_ok_and(|()| version != [0; 4])
}

/// Resident bytes of a process without the files of its Aeron directory.
fn resident_beyond(process: u32, directory: &Path) -> Result<u64, BenchError> {
    let maps = std::fs::read_to_string(format!("/proc/{process}/smaps"))?;
    let directory = directory.to_string_lossy();
    let mut is_counted = true;
    let mut bytes = 0;
    for line in maps.lines() {
        let mut words = line.split_whitespace();
        let first = words.next().unwrap_or("");
        if first == "Rss:" {
            let kilobytes: u64 = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            bytes += if is_counted { kilobytes * 1_024 } else { 0 };
        } else if !first.ends_with(':') {
            is_counted = !line.contains(&*directory);
        }
    }
    Ok(bytes)
}
