//! `harrier`: the command line of the engine.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use harrier_tools::{bench, demo, node};

const EXAMPLES: &str = "\
Examples:
  harrier demo
      one node with an order book, a client, round-trip figures and a plot
  harrier node --dir /var/lib/harrier --aeron-dir /dev/shm/aeron-node-0 --member-id 0 \\
      --members 0,localhost:20110,localhost:20111,localhost:20112,localhost:0,localhost:8010
      one member of a cluster with an echo service

Exit codes: 0 done, 1 failed, 2 wrong usage.";

/// Messaging and replication engine: media driver, archive, consensus and clustered services.
#[derive(Debug, Parser)]
#[command(name = "harrier", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures one thing on this machine.
    Bench(bench::BenchArguments),
    /// Runs the main job: orders through a clustered order book, with a crash in the middle.
    Demo(demo::DemoArguments),
    /// Runs one member of a cluster.
    Node(node::NodeArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("harrier: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
