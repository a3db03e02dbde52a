//! `harrier-bench`: benchmarks, and their comparison with the peers.
#![forbid(unsafe_code)]

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use harrier_benches::benchmark::{BENCHMARKS, sizes};
use harrier_benches::compare::{
    COMPARISONS, CompareOptions, Comparison, Peers, Results, compare, folder, this_machine,
};
use harrier_benches::{BenchError, Parameters, round_trip_ns, run};

const EXAMPLES: &str = "\
Examples:
  harrier-bench run udp-rtt --json
  harrier-bench compare udp-rtt ipc-rtt
  harrier-bench aa
  harrier-bench report
  harrier-bench list

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Benchmarks, and their comparison with the peers.
#[derive(Debug, Parser)]
#[command(name = "harrier-bench", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures in this process.
    Run(RunArguments),
    /// Runs ours and the peers' programs in turn and writes RESULTS.md.
    Compare(CompareArguments),
    /// Compares programs with themselves, to show how far the ratios may be trusted.
    Aa(AaArguments),
    /// Times a cache line between the cores, ns.
    Ping,
    /// Writes RESULTS.md and its picture again from RESULTS.json.
    Report,
    /// Lists benchmarks and comparisons.
    List,
}

#[derive(Debug, Args)]
struct RunArguments {
    /// Name of the benchmark.
    name: String,
    /// Prints one line of JSON per result.
    #[arg(long)]
    json: bool,
    /// Length of a message, bytes [default: the benchmark's own].
    #[arg(long)]
    size: Option<usize>,
    /// Time of the measurement, s.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Time before the measurement, s.
    #[arg(long, default_value_t = 0.7)]
    warmup: f64,
    /// Number of outstanding requests; clusters only.
    #[arg(long, default_value_t = 1)]
    window: usize,
}

#[derive(Debug, Args)]
struct CompareArguments {
    /// Names of comparisons [default: all].
    names: Vec<String>,
    /// Number of pairs with one tag.
    #[arg(long, default_value_t = 7)]
    pairs: usize,
    /// Runs one pair of short runs without a report, to check whether everything works.
    #[arg(long)]
    quick: bool,
}

#[derive(Debug, Args)]
struct AaArguments {
    /// One pair of short runs, and no report.
    #[arg(long)]
    quick: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(arguments) => run_benchmark(&arguments),
        Command::Compare(arguments) => {
            comparisons(&arguments.names).and_then(|all| run_all(&all, arguments.quick, arguments.pairs))
        }
        Command::Aa(arguments) => {
            let all: Vec<&Comparison> =
                COMPARISONS.iter().filter(|comparison| comparison.name.starts_with("aa-")).collect();
            run_all(&all, arguments.quick, CompareOptions::thorough().pairs)
        }
        Command::Ping => {
            println!("{}", round_trip_ns());
            Ok(())
        }
        Command::Report => report(),
        Command::List => list(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("harrier-bench: {error}");
            ExitCode::from(match error {
                BenchError::Unknown { .. } | BenchError::Parameter(_) => 2,
                _ => 1,
            })
        }
    }
}

fn run_benchmark(arguments: &RunArguments) -> Result<(), BenchError> {
    for size in sizes(&arguments.name, arguments.size)? {
        let parameters = Parameters {
            size,
            warmup_s: arguments.warmup,
            seconds: arguments.seconds,
            window: arguments.window,
        };
        let result = run(&arguments.name, &parameters)?;
        println!("{}", if arguments.json { result.to_json().to_string() } else { result.to_string() });
    }
    Ok(())
}

fn comparisons(names: &[String]) -> Result<Vec<&'static Comparison>, BenchError> {
    if names.is_empty() {
        return Ok(COMPARISONS.iter().collect());
    }
    names
        .iter()
        .map(|name| {
            COMPARISONS.iter().find(|comparison| comparison.name == name).ok_or_else(|| BenchError::Unknown {
                what: "comparison",
                name: name.clone(),
                known: COMPARISONS.iter().map(|comparison| comparison.name).collect::<Vec<_>>().join(", "),
            })
        })
        .collect()
}

fn run_all(all: &[&Comparison], quick: bool, pairs: usize) -> Result<(), BenchError> {
    let folder = folder();
    let peers = Peers::below(&folder)?;
    let options =
        if quick { CompareOptions::quick() } else { CompareOptions { pairs, ..CompareOptions::thorough() } };
    let path = folder.join("RESULTS.json");
    let mut results = if quick { Results::default() } else { Results::load(&path)? };
    let mut failure = None;
    for comparison in all {
        if let Some(reason) = peers.missing(comparison) {
            eprintln!("{}: {reason}", comparison.name);
            failure = Some(BenchError::Program { program: comparison.peer.name().to_owned(), reason });
            continue;
        }
        match compare(comparison, &peers, &options, &mut |text| eprintln!("{text}")) {
            Ok(rounds) => {
                results.replace(&this_machine(), comparison, &rounds);
                if !quick {
                    results.save(&folder)?;
                }
            }
            Err(error) => {
                eprintln!("{}: {error}", comparison.name);
                failure = Some(error);
            }
        }
    }
    println!("{}", results.to_markdown());
    failure.map_or(Ok(()), Err)
}

fn report() -> Result<(), BenchError> {
    let folder = folder();
    Results::load(&folder.join("RESULTS.json"))?.save(&folder)
}

fn list() -> Result<(), BenchError> {
    let mut text = String::from("benchmarks:\n");
    for benchmark in &BENCHMARKS {
        let _ = writeln!(text, "  {:26} {}", benchmark.name, benchmark.about);
    }
    text.push_str("comparisons:\n");
    for comparison in COMPARISONS {
        let _ = writeln!(text, "  {:26} {}", comparison.name, comparison.about);
    }
    match std::io::stdout().write_all(text.as_bytes()) {
        // The reader has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}
