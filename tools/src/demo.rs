//! `harrier demo`: orders through a clustered order book, with a crash in the middle.

mod node_process;
mod report;
mod trader;

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};

use clap::Args;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;

use crate::orders::{self, Flow};
use crate::{CommandError, plot};
use node_process::NodeProcess;
use report::Report;
use trader::{Trader, TraderError};

const EXAMPLES: &str = "\
Examples:
  harrier demo
  harrier demo --input orders.csv.gz --svg /tmp/orders.svg
  harrier demo --messages 1000000 --no-crash --json

A node (media driver, archive, consensus module and order book on one thread) runs in a process of its own. The client sends
the first half of the orders one at a time, the second half with 128 outstanding; in the middle of that the node is killed with
SIGKILL and started again, and the same session goes on. In the end the digest of the node's book must equal the one computed
here from the acknowledged orders.";

/// Number of outstanding orders in the second half.
const WINDOW: usize = 128;
/// Longest wait for a lost node.
const OUTAGE_LIMIT_NS: i64 = 30_000_000_000;
/// Time between two lines of progress.
const PROGRESS_PERIOD_NS: i64 = 250_000_000;

/// Arguments of `harrier demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct DemoArguments {
    /// File of order events (time,type,order id,size,price,direction), plain or gzip [default: a synthetic market].
    #[arg(long, value_name = "FILE")]
    pub input: Option<PathBuf>,
    /// Least number of orders; a shorter file is repeated with other ids.
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1_000..=50_000_000))]
    pub messages: u32,
    /// Seed of the synthetic market.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Directory of archive and cluster; it is kept [default: a temporary one that is removed].
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// File for the plot of the round trips.
    #[arg(long, default_value = "harrier-demo.svg")]
    pub svg: PathBuf,
    /// Sync level: 0 survives crashes of the process, 1 (data) and 2 (data and metadata) also survive those of the
    /// machine.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub sync_level: u8,
    /// Does not kill the node.
    #[arg(long)]
    pub no_crash: bool,
    /// Prints the result as one line of JSON on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Runs the demonstration.
///
/// # Errors
/// [`CommandError::Failed`] when a part fails, an answer is not the expected one, or digests differ.
pub fn run(arguments: &DemoArguments) -> Result<(), CommandError> {
    let flow = flow(arguments)?;
    let scratch = scratch()?;
    let (directory, _temporary) = match &arguments.dir {
        Some(directory) => (directory.clone(), None),
        None => (scratch.path().join("node"), Some(&scratch)),
    };
    let stop = crate::node::stop_on_signals()?;
    let mut node = NodeProcess::start(&directory, scratch.path(), arguments.sync_level)?;
    node.wait_until_ready()?;
    let mut trader = Trader::connect(scratch.path(), node.ingress_endpoints(), &flow)?;
    let mut demo = Demo { arguments, flow: &flow, node, progress: Progress::new(), stop };
    let report = demo.trade(&mut trader);
    trader.close();
    let report = match report {
        Ok(report) => report,
        Err(error) => {
            let said = demo.node.said();
            return Err(CommandError::Failed(format!("{error}{said}")));
        }
    };
    demo.node.stop()?;
    let times = [("one at a time", &trader.one_at_a_time), ("128 outstanding", &trader.windowed)];
    plot::percentiles(&arguments.svg, "Order round trip by percentile", &times)?;
    if arguments.json {
        println!("{}", report.json());
    } else {
        println!("{report}");
        println!("plot            {}", arguments.svg.display());
    }
    report.verdict()
}

fn flow(arguments: &DemoArguments) -> Result<Flow, CommandError> {
    let count = arguments.messages as usize;
    let Some(path) = &arguments.input else { return Ok(orders::synthetic(count, arguments.seed)) };
    let mut flow = orders::read(path).map_err(CommandError::failed)?;
    flow.repeat_to(count);
    Ok(flow)
}

fn scratch() -> Result<tempfile::TempDir, CommandError> {
    let shared = Path::new("/dev/shm");
    let parent = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("harrier-demo-").tempdir_in(parent).map_err(CommandError::failed)
}

struct Demo<'a> {
    arguments: &'a DemoArguments,
    flow: &'a Flow,
    node: NodeProcess,
    progress: Progress,
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
}

impl Demo<'_> {
    fn trade(&mut self, trader: &mut Trader) -> Result<Report, TraderError> {
        let total = self.flow.orders.len();
        let half = total / 2;
        while trader.acknowledged() < half {
            self.step(trader, 1, half)?;
        }
        let mut began_ns = SystemClock.now().ns;
        let mut rate_time_ns = 0;
        let mut outage_ns = None;
        let mut uncounted = 0;
        let crash_at = if self.arguments.no_crash { usize::MAX } else { half + (total - half) / 2 };
        while trader.acknowledged() < total {
            self.step(trader, WINDOW, total)?;
            if outage_ns.is_none() && trader.acknowledged() >= crash_at {
                rate_time_ns += SystemClock.now().ns - began_ns;
                outage_ns = Some(self.crash(trader, total)?);
                uncounted = trader.acknowledged_since_kill();
                began_ns = SystemClock.now().ns;
            }
        }
        rate_time_ns += SystemClock.now().ns - began_ns;
        self.progress.end();
        let counted = total - half - uncounted;
        let (digest, expected) = self.digests(trader)?;
        Ok(Report {
            messages: total,
            skipped: self.flow.skipped,
            tally: trader.tally(),
            one_at_a_time: report::Percentiles::of(&trader.one_at_a_time),
            windowed: report::Percentiles::of(&trader.windowed),
            window: WINDOW,
            messages_per_second: counted as f64 / (rate_time_ns as f64 / 1e9),
            outage_ns,
            digest,
            expected,
        })
    }

    fn step(&mut self, trader: &mut Trader, window: usize, end: usize) -> Result<(), TraderError> {
        trader.step(window, end)?;
        if self.progress.is_due(trader.now_ns()) {
            if self.stop.load(std::sync::atomic::Ordering::Relaxed) {
                return Err(TraderError::Interrupted);
            }
            self.node.check().map_err(|error| TraderError::Node(error.to_string()))?;
            self.progress.show(trader, self.flow.orders.len());
        }
        Ok(())
    }

    /// Kills the node with messages in flight, starts it again and waits until the session continues. Returns the
    /// time that the client was without answers.
    fn crash(&mut self, trader: &mut Trader, end: usize) -> Result<i64, TraderError> {
        let begin_ns = SystemClock.now().ns;
        let failed = |error: CommandError| TraderError::Node(error.to_string());
        self.node.kill_and_restart().map_err(failed)?;
        trader.begin_outage();
        while !trader.has_outage_ended() {
            self.step(trader, WINDOW, end)?;
            if trader.now_ns() - begin_ns > OUTAGE_LIMIT_NS {
                return Err(TraderError::Silent { limit_ns: OUTAGE_LIMIT_NS });
            }
        }
        let outage_ns = SystemClock.now().ns - begin_ns;
        // The book that was replayed from the log must equal the one that was lost.
        let (digest, expected) = self.digests(trader)?;
        if digest != expected {
            return Err(TraderError::Digest { digest, expected });
        }
        Ok(outage_ns)
    }

    fn digests(&mut self, trader: &mut Trader) -> Result<(u64, u64), TraderError> {
        trader.ask_digest();
        loop {
            let end = trader.sent();
            self.step(trader, WINDOW, end)?;
            if let Some(pair) = trader.digests() {
                return Ok(pair);
            }
        }
    }
}

/// A line on stderr that is overwritten while it lasts.
struct Progress {
    is_terminal: bool,
    next_ns: i64,
    period_ns: i64,
}

impl Progress {
    fn new() -> Self {
        let is_terminal = std::io::stderr().is_terminal();
        let period_ns = if is_terminal { PROGRESS_PERIOD_NS } else { 8 * PROGRESS_PERIOD_NS };
        Self { is_terminal, next_ns: 0, period_ns }
    }

    fn is_due(&self, now_ns: i64) -> bool {
        now_ns >= self.next_ns
    }

    fn show(&mut self, trader: &Trader, total: usize) {
        self.next_ns = trader.now_ns() + self.period_ns;
        let done = trader.acknowledged();
        let percent = done * 100 / total.max(1);
        let p50 = trader.one_at_a_time.value_at_quantile(0.5) as f64 / 1e3;
        let text =
            format!("{percent:3} %  {done} of {total} orders acknowledged, round trip p50 {p50:.1} µs");
        let mut out = std::io::stderr().lock();
        let _nobody_looks =
            if self.is_terminal { write!(out, "\r{text}\x1b[K") } else { writeln!(out, "{text}") };
        let _nobody_looks = out.flush();
    }

    fn end(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}
