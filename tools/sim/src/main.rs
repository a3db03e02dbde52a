//! The simulator's command line.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use clap::{Args, Parser, Subcommand, ValueEnum};
use harrier_archive::SyncLevel;
use harrier_sim::report::{Outcome, Summary};
use harrier_sim::{area, bugs, election};

const EXAMPLES: &str = "\
Examples:
  harrier-sim run --area node --seeds 500 --sync-level 2
  harrier-sim run --area callback --seeds 1000 --seconds 60 --twice --json
  harrier-sim run --area lease --seeds 1000 --jobs 2 --cover
  harrier-sim run --area streams --seeds 1000 --jobs 2 --cover
  harrier-sim run --area election --seeds 20000 --jobs 2 --cover
  harrier-sim walk                         all elections of three members, as deep as the bounds allow
  harrier-sim seed 17 --sync-level 1       the events of one seed, to find out why it failed
  harrier-sim bugs                         plants each known bug and shows which checker finds it

Exit codes: 0 all is well, 1 a rule was broken, 2 wrong usage.";

#[derive(Parser)]
#[command(name = "harrier-sim", version, about = "Whole nodes under a deterministic simulator", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs many seeds and reports which faults and branches they hit.
    Run(RunArguments),
    /// Runs one seed and prints its events.
    Seed {
        /// The seed.
        seed: u64,
        /// Area to simulate.
        #[arg(long, value_enum, default_value_t = AreaName::Node)]
        area: AreaName,
        /// Crashes that acknowledged messages survive: 0 those of the process, 1 and 2 also those of the machine.
        #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2))]
        sync_level: u32,
        /// Number of last events to print; 0 prints all.
        #[arg(long, default_value_t = 200)]
        last: usize,
    },
    /// Walks through all elections of three members within two terms and two entries, with timers that fire at any time.
    Walk {
        /// Most distinct states.
        #[arg(long, default_value_t = 400_000)]
        states: usize,
        /// Most steps from a root.
        #[arg(long, default_value_t = 40)]
        depth: u8,
    },
    /// Plants each known bug in turn, and reports the number of seeds and the checker that found it.
    Bugs {
        /// Most seeds for each bug; bugs of area election get four times as many, because its seeds are short.
        #[arg(long, default_value_t = 500)]
        seeds: u64,
        /// First seed.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// Plants only bugs whose names contain this text.
        #[arg(long, default_value = "")]
        only: String,
        /// Prints one line of JSON for each bug.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Args)]
struct RunArguments {
    /// Area to simulate.
    #[arg(long, value_enum, default_value_t = AreaName::Node)]
    area: AreaName,
    /// Most seeds.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// Stops after this real time, s.
    #[arg(long)]
    seconds: Option<f64>,
    /// Number of seeds that run at the same time, each on a thread.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    jobs: u32,
    /// Fails when the seeds have missed a fault or branch that the area's seeds must hit.
    #[arg(long)]
    cover: bool,
    /// Crashes that acknowledged messages survive: 0 those of the process, 1 and 2 also those of the machine.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=2))]
    sync_level: u32,
    /// Runs each seed twice and compares the traces.
    #[arg(long)]
    twice: bool,
    /// Prints one line of JSON.
    #[arg(long)]
    json: bool,
    /// Prints each seed with the hash of its trace, to show that a change keeps the behaviour.
    #[arg(long)]
    hashes: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum AreaName {
    /// A whole node with its clients.
    Node,
    /// A service that waits inside its callbacks.
    Callback,
    /// A node with the lease service and a service that accepts fences, and nine units on hosts of their own. Their
    /// clocks are off and drift; they crash, are cut off and come back. Checks what spec 05 says must hold. Half of
    /// the seeds of level 0 run at level 1, so that machines crash too.
    Lease,
    /// Two to five media drivers whose clients exchange streams, with every kind of flow and congestion control,
    /// through losses, partitions, stalls, deaths and restarts. There are no disks, so the sync level does not
    /// matter.
    Streams,
    /// The pure elections of one, three or five members over a model log and a model network, with crashes, pauses,
    /// partitions, and loss, delay, doubling and reordering of messages (spec 07). The sync level does not matter.
    Election,
}

impl AreaName {
    fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Callback => "callback",
            Self::Lease => "lease",
            Self::Streams => "streams",
            Self::Election => "election",
        }
    }

    fn run(self, seed: u64, level: u32, keep_lines: bool) -> Outcome {
        let sync_level = SyncLevel::from_level(level).unwrap_or(SyncLevel::None);
        self.area().run(seed, sync_level, keep_lines)
    }

    fn area(self) -> area::Area {
        match self {
            Self::Node => area::Area::Node,
            Self::Callback => area::Area::Callback,
            Self::Lease => area::Area::Lease,
            Self::Streams => area::Area::Streams,
            Self::Election => area::Area::Election,
        }
    }
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Run(arguments) => run(&arguments),
        Command::Seed { seed, area, sync_level, last } => replay(seed, area, sync_level, last),
        Command::Bugs { seeds, from, only, json } => plant(seeds, from, &only, json),
        Command::Walk { states, depth } => walk(states, depth),
    }
}

#[expect(clippy::disallowed_methods, reason = "how long the simulation takes is real time")]
fn real_time() -> Instant {
    Instant::now()
}

/// Runs seeds one after the other until the time is over.
fn run_seeds(arguments: &RunArguments, begin: Instant, next: &AtomicU64) -> Summary {
    let mut summary = Summary::default();
    loop {
        let index = next.fetch_add(1, Ordering::Relaxed);
        let is_late = arguments.seconds.is_some_and(|limit| begin.elapsed().as_secs_f64() >= limit);
        if index >= arguments.seeds || index > 0 && is_late {
            return summary;
        }
        let seed = arguments.from.saturating_add(index);
        let outcome = arguments.area.run(seed, arguments.sync_level, false);
        if arguments.twice {
            let again = arguments.area.run(seed, arguments.sync_level, false);
            if again.trace_hash != outcome.trace_hash {
                summary.divergent.push(seed);
            }
        }
        if arguments.hashes {
            println!("{seed} {:016x}", outcome.trace_hash);
        }
        summary.add(&outcome);
    }
}

/// Runs seeds on threads. Each seed runs on one thread; several seeds may run at once.
fn run_on_threads(arguments: &RunArguments, begin: Instant) -> Summary {
    let next = AtomicU64::new(0);
    let mut summary = Summary::default();
    std::thread::scope(|scope| {
        let work = || run_seeds(arguments, begin, &next);
        let others: Vec<_> = (1..arguments.jobs).map(|_| scope.spawn(work)).collect();
        summary.merge(work());
        for other in others {
            match other.join() {
                Ok(own) => summary.merge(own),
                Err(payload) => std::panic::resume_unwind(payload),
            }
        }
    });
    summary
}

fn run(arguments: &RunArguments) -> ExitCode {
    let begin = real_time();
    let mut summary = run_on_threads(arguments, begin);
    summary.seconds = begin.elapsed().as_secs_f64();
    if arguments.cover {
        summary.expect(arguments.area.area().expected());
    }
    if arguments.json {
        println!("{}", summary.json(arguments.area.name(), arguments.sync_level));
    } else {
        print!("{}", summary.table(arguments.area.name(), arguments.sync_level));
    }
    if summary.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn replay(seed: u64, area: AreaName, sync_level: u32, last: usize) -> ExitCode {
    let outcome = area.run(seed, sync_level, true);
    let skipped = if last == 0 { 0 } else { outcome.lines.len().saturating_sub(last) };
    for line in &outcome.lines[skipped..] {
        println!("{line}");
    }
    println!("trace {:016x} after {} events", outcome.trace_hash, outcome.lines.len());
    for violation in &outcome.violations {
        println!("FAILED [{}] {}", violation.checker, violation.text);
    }
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn walk(states: usize, depth: u8) -> ExitCode {
    let begin = real_time();
    let walked = election::walk::walk(&election::walk::Bounds { states, depth });
    println!("{} in {:.1} s", walked.line(), begin.elapsed().as_secs_f64());
    if walked.failure.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn plant(seeds: u64, from: u64, only: &str, json: bool) -> ExitCode {
    if !bugs::ARE_COMPILED_IN {
        eprintln!("harrier-sim was built without its planted bugs; build it with --features planted-bugs");
        return ExitCode::from(2);
    }
    let mut code = ExitCode::SUCCESS;
    for bug in bugs::ALL.into_iter().filter(|bug| bug.name().contains(only)) {
        let found = bugs::find(bug, from, seeds);
        if found.is_none() {
            code = ExitCode::FAILURE;
        }
        println!("{}", bugs::describe(bug, seeds, found.as_ref(), json));
    }
    code
}
