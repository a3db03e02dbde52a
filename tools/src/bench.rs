//! `harrier bench`: measures one thing on this machine.

use clap::Args;
use harrier_benches::{BenchError, Parameters, benchmark};

use crate::CommandError;

const EXAMPLES: &str = "\
Examples:
  harrier bench udp-rtt --json
  harrier bench cluster-1 --size 288 --window 128
  harrier bench list

Each result has its own line; with --json that is an object with p50_ns, p99_ns (null where nothing is timed), msgs_per_s and
cross_core_ns, the round trip of a cache line between the cores just before.";

/// Arguments of `harrier bench`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct BenchArguments {
    /// Name of the benchmark; `list` names them.
    pub name: String,
    /// Prints one line of JSON per result.
    #[arg(long)]
    pub json: bool,
    /// Length of a message, bytes [default: the benchmark's own].
    #[arg(long)]
    pub size: Option<usize>,
    /// Time of the measurement, s.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Time before the measurement, s.
    #[arg(long, default_value_t = 0.7)]
    pub warmup: f64,
    /// Number of outstanding requests; clusters only.
    #[arg(long, default_value_t = 1)]
    pub window: usize,
}

/// Runs the benchmark.
///
/// # Errors
/// See [`CommandError`].
pub fn run(arguments: &BenchArguments) -> Result<(), CommandError> {
    if arguments.name == "list" {
        for benchmark in &benchmark::BENCHMARKS {
            println!("{:26} {}", benchmark.name, benchmark.about);
        }
        return Ok(());
    }
    for size in benchmark::sizes(&arguments.name, arguments.size).map_err(told)? {
        let parameters = Parameters {
            size,
            warmup_s: arguments.warmup,
            seconds: arguments.seconds,
            window: arguments.window,
        };
        let result = benchmark::run(&arguments.name, &parameters).map_err(told)?;
        println!("{}", if arguments.json { result.to_json().to_string() } else { result.to_string() });
    }
    Ok(())
}

fn told(error: BenchError) -> CommandError {
    match error {
        BenchError::Unknown { .. } | BenchError::Parameter(_) => CommandError::Usage(error.to_string()),
        other => CommandError::failed(other),
    }
}
