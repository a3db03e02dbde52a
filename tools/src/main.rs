//! `harrier`: the command line of the engine.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use harrier_tools::traffic::{ping, pong, publish, rate, subscribe};
use harrier_tools::{
    CommandError, archive, bench, cluster, completions, demo, doctor, errors, export, lease, loss, node,
    stat, streams, top,
};

const EXAMPLES: &str = "\
Examples:
  harrier demo
      one node with an order book, a client, round-trip figures and a plot
  harrier node --dir /var/lib/harrier --aeron-dir /dev/shm/aeron-node-0 --member-id 0 \\
      --members 0,localhost:20110,localhost:20111,localhost:20112,localhost:0,localhost:8010
      one member of a cluster with an echo service
  harrier stat --aeron-dir /dev/shm/aeron-node-0
      what that node's driver counts
  harrier pong & harrier ping
      round trips over UDP on this host

Exit codes: 0 done, 1 failed, 2 wrong usage; what else a command may end with, its own help says.";

/// Messaging and replication engine: media driver, archive, consensus and clustered services.
#[derive(Debug, Parser)]
#[command(name = "harrier", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows, verifies and changes the files of an archive.
    Archive(archive::ArchiveArguments),
    /// Shows how far each end of a driver's streams is behind.
    Backlog(streams::BacklogArguments),
    /// Measures one thing on this machine.
    Bench(bench::BenchArguments),
    /// Shows and changes the files of a cluster member, and sends commands to a running member.
    Cluster(cluster::ClusterArguments),
    /// Prints completions for shells.
    Completions(completions::CompletionsArguments),
    /// Runs the demonstration: orders through a clustered order book, with a crash in the middle.
    Demo(demo::DemoArguments),
    /// Finds what costs latency on this host, and says what to do about it.
    Doctor(doctor::DoctorArguments),
    /// Shows the distinct errors of a driver.
    Errors(errors::ErrorsArguments),
    /// Serves the counters of drivers to Prometheus.
    Export(export::ExportArguments),
    /// Claims, holds, checks and awaits leadership of applications.
    Lease(lease::LeaseArguments),
    /// Shows which streams of a driver have lost how much.
    Loss(loss::LossArguments),
    /// Runs one member of a cluster.
    Node(node::NodeArguments),
    /// Measures round trips to a program that sends messages back.
    Ping(ping::PingArguments),
    /// Sends messages back.
    Pong(pong::PongArguments),
    /// Publishes messages.
    Pub(publish::PublishArguments),
    /// Measures the message rate of a stream.
    Rate(rate::RateArguments),
    /// Shows the counters of a driver.
    Stat(stat::StatArguments),
    /// Shows the streams of a driver with their positions.
    Streams(streams::StreamsArguments),
    /// Shows the messages of a stream.
    Sub(subscribe::SubscribeArguments),
    /// Shows a driver, its streams and its cluster live.
    Top(top::TopArguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Archive(arguments) => archive::run(&arguments),
        Command::Backlog(arguments) => streams::run_backlog(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Cluster(arguments) => cluster::run(&arguments),
        Command::Completions(arguments) => completions::run(&arguments, Arguments::command()),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Doctor(arguments) => doctor::run(&arguments),
        Command::Errors(arguments) => errors::run(&arguments),
        Command::Export(arguments) => export::run(&arguments),
        Command::Lease(arguments) => lease::run(&arguments),
        Command::Loss(arguments) => loss::run(&arguments),
        Command::Node(arguments) => node::run(&arguments),
        Command::Ping(arguments) => ping::run(&arguments),
        Command::Pong(arguments) => pong::run(&arguments),
        Command::Pub(arguments) => publish::run(&arguments),
        Command::Rate(arguments) => rate::run(&arguments),
        Command::Stat(arguments) => stat::run(&arguments),
        Command::Streams(arguments) => streams::run(&arguments),
        Command::Sub(arguments) => subscribe::run(&arguments),
        Command::Top(arguments) => top::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(CommandError::Answer(code)) => ExitCode::from(code),
        Err(error) => {
            eprintln!("harrier: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
