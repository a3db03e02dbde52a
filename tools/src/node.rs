//! `harrier node`: one member of a cluster as a process.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use harrier::archive::SyncLevel;
use harrier::cluster::members;
use harrier::lease::InvalidLeaseSetting;
use harrier::leases::{fenced, lease_service, lease_settings};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use harrier::ringbuf::idle::IdleStrategy;
use harrier::services::{BookService, EchoService};
use harrier::{Layout, Node, NodeContext, NodeError, Properties, ServiceFactory};
use serde_json::json;

use crate::CommandError;

const EXAMPLES: &str = "\
Examples:
  harrier node --dir /var/lib/harrier --aeron-dir /dev/shm/aeron-node-0 --member-id 0 \\
      --members 0,localhost:20110,localhost:20111,localhost:20112,localhost:0,localhost:8010
  harrier node --service none --services 2 --layout threads --idle backoff …
      the consensus module waits for services 0 and 1 in other processes
  harrier node --properties node.properties -D aeron.cluster.session.timeout=5s …
      every setting by its name in Aeron; later ones win, flags last
  harrier node --service lease --services 2 …
      leadership leases, and an order book that refuses what deposed leaders send; harrier.lease.max.leases, .max.waiters,
      .max.pins, .min.duration, .max.duration and .drift.divisor are the settings of the leases
  harrier node -D aeron.cluster.accept.standby.snapshots=true …
      standbys may say what snapshots they have; the member fetches newer ones at its start and when
      `harrier cluster DIR replicate-standby-snapshot` asks for it

Timers fire in the order of their deadlines, at once: aeron.cluster.timer.service.supplier, aeron.cluster.wheel.tick.resolution
and aeron.cluster.ticks.per.wheel are checked and have no other effect.

When clients are served one line of JSON is printed on stdout. SIGTERM and SIGINT end the node with exit code 0, and so do
`harrier cluster DIR shutdown` and `abort`.";

/// Interval at which the main thread checks for signals and the node's state.
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Arguments of `harrier node`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct NodeArguments {
    /// Directory of archive and cluster, on a durable disk.
    #[arg(long)]
    pub dir: PathBuf,
    /// Directory of the media driver, best below /dev/shm.
    #[arg(long)]
    pub aeron_dir: PathBuf,
    /// Id of this member.
    #[arg(long, default_value_t = 0)]
    pub member_id: i32,
    /// Members joined by '|', each id,ingress,consensus,log,catchup,archive with endpoints host:port.
    #[arg(long)]
    pub members: String,
    /// Service that the node runs.
    #[arg(long, value_enum, default_value_t = ServiceName::Echo)]
    pub service: ServiceName,
    /// Number of services; with `--service none` they are other processes.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10))]
    pub services: u16,
    /// Id of the cluster in counters.
    #[arg(long, default_value_t = 0)]
    pub cluster_id: i32,
    /// Assignment of agents to threads.
    #[arg(long, value_enum, default_value_t = LayoutName::Fused)]
    pub layout: LayoutName,
    /// Idle strategy of the threads: spin, yield, backoff, sleep-ns, sleep-ms or noop [default: by number of cores].
    #[arg(long, value_parser = parse_idle)]
    pub idle: Option<IdleStrategy>,
    /// Sync level: 0 survives crashes of the process, 1 (data) and 2 (data and metadata) also survive those of the
    /// machine.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub sync_level: u8,
    /// Time after which the session of a silent client is closed, ms [default: 10000].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub session_timeout_ms: Option<u32>,
    /// Most sessions [default: 100].
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_sessions: Option<u32>,
    /// Begins an empty log when recording.log is missing beside an archive that has a log; the old log stays in the archive.
    #[arg(long)]
    pub start_anew: bool,
    /// File of settings, `name=value` per line, after the variables AERON_… of the environment.
    #[arg(long, value_name = "FILE")]
    pub properties: Vec<PathBuf>,
    /// A setting by its name, e.g. aeron.cluster.log.fragment.limit=10; it overrides all files.
    #[arg(short = 'D', value_name = "NAME=VALUE")]
    pub definitions: Vec<String>,
    /// Ends the node after this time with exit code 0.
    #[arg(long)]
    pub max_seconds: Option<u64>,
}

/// A service that a node can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ServiceName {
    /// Sends every message back.
    Echo,
    /// A limit order book.
    Book,
    /// Leadership leases; further services are order books that accept fences.
    Lease,
    /// No service: services are other processes.
    None,
}

/// Assignment of agents to threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LayoutName {
    /// Driver, archive, consensus module and each service have a thread each.
    Threads,
    /// All agents share one thread: this is the fastest layout on few cores.
    Fused,
}

pub(crate) fn parse_idle(name: &str) -> Result<IdleStrategy, String> {
    IdleStrategy::by_name(name).map_err(|error| error.to_string())
}

impl NodeArguments {
    fn settings(&self) -> Result<Properties, CommandError> {
        let mut properties = Properties::from_environment(std::env::vars());
        for path in &self.properties {
            let failed =
                |error: &dyn std::fmt::Display| CommandError::Usage(format!("{}: {error}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| failed(&error))?;
            properties.load(&text).map_err(|error| failed(&error))?;
        }
        for definition in &self.definitions {
            properties.define(definition).map_err(|error| CommandError::Usage(error.to_string()))?;
        }
        if let Some(timeout_ms) = self.session_timeout_ms {
            properties.set("aeron.cluster.session.timeout", &format!("{timeout_ms}ms"));
        }
        if let Some(sessions) = self.max_sessions {
            properties.set("aeron.cluster.max.sessions", &sessions.to_string());
        }
        Ok(properties)
    }

    fn context(&self) -> Result<NodeContext, CommandError> {
        let mut context = NodeContext::new(&self.dir, &self.aeron_dir, self.member_id, self.members.as_str());
        context.cluster_id = self.cluster_id;
        context.service_count = usize::from(self.services);
        context.layout = match self.layout {
            LayoutName::Threads => Layout::Threads,
            LayoutName::Fused => Layout::Fused,
        };
        if let Some(idle) = &self.idle {
            context.idle = idle.clone();
        }
        context.sync_level = match self.sync_level {
            0 => SyncLevel::None,
            1 => SyncLevel::Data,
            _ => SyncLevel::All,
        };
        context.start_anew = self.start_anew;
        context.fresh_timestamps = self.service == ServiceName::Lease;
        context.properties = self.settings()?;
        Ok(context)
    }

    fn factories(&self) -> Result<Vec<ServiceFactory>, CommandError> {
        let usage = |error: InvalidLeaseSetting| CommandError::Usage(error.to_string());
        let leases = lease_settings(&self.settings()?).map_err(usage)?;
        let book = || -> ServiceFactory { Box::new(|| Box::new(BookService::default())) };
        let echo = || -> ServiceFactory { Box::new(|| Box::new(EchoService)) };
        (0..if self.service == ServiceName::None { 0 } else { self.services })
            .map(|service| match (self.service, service) {
                (ServiceName::Lease, 0) => lease_service(leases).map_err(usage),
                (ServiceName::Lease, _) => fenced(book(), leases).map_err(usage),
                (ServiceName::Book, _) => Ok(book()),
                (ServiceName::Echo | ServiceName::None, _) => Ok(echo()),
            })
            .collect()
    }
}

/// Runs the node until a signal, the time limit or its own end.
///
/// # Errors
///
/// [`CommandError::Usage`] for invalid members; [`CommandError::Failed`] when a part does not start or fails.
pub fn run(arguments: &NodeArguments) -> Result<(), CommandError> {
    let all = members::parse(&arguments.members).map_err(|error| CommandError::Usage(error.to_string()))?;
    if all.len() != 1 {
        return Err(CommandError::Usage(format!(
            "members names {} members; this version runs clusters of one member",
            all.len()
        )));
    }
    if all[0].id != arguments.member_id {
        return Err(CommandError::Usage(format!(
            "member id {} is not among the members {}",
            arguments.member_id, arguments.members
        )));
    }
    let stop = stop_on_signals()?;
    let started_ns = SystemClock.now().ns;
    let node = Node::launch(arguments.context()?, arguments.factories()?).map_err(|error| match error {
        NodeError::Setting(text) => CommandError::Usage(text),
        other => CommandError::failed(other),
    })?;
    let mut is_announced = false;
    let limit_ns = arguments.max_seconds.map(|seconds| seconds.saturating_mul(1_000_000_000));
    while !stop.load(Ordering::Relaxed) && !node.is_ending() {
        if !is_announced && node.is_ready() {
            is_announced = true;
            announce(arguments, &members::ingress_endpoints(&all), &all[0].archive)?;
        }
        if limit_ns.is_some_and(|limit| (SystemClock.now().ns - started_ns) as u64 >= limit) {
            break;
        }
        rest();
    }
    let has_failed = node.is_ending() && !node.has_ended_as_told();
    let mut failures = node.failures();
    if let Err(error) = node.stop()
        && failures.is_empty()
    {
        failures.push(error);
    }
    for failure in &failures {
        eprintln!("harrier node: {failure}");
    }
    if has_failed {
        return Err(CommandError::Failed("the node has ended by itself".into()));
    }
    Ok(())
}

/// Returns a flag that SIGINT and SIGTERM set.
pub(crate) fn stop_on_signals() -> Result<Arc<AtomicBool>, CommandError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register(signal, stop.clone()).map_err(CommandError::failed)?;
    }
    Ok(stop)
}

fn announce(arguments: &NodeArguments, ingress: &str, archive: &str) -> Result<(), CommandError> {
    let line = json!({
        "ready": true,
        "member_id": arguments.member_id,
        "ingress_endpoints": ingress,
        "archive_endpoint": archive,
        "dir": arguments.dir,
        "aeron_dir": arguments.aeron_dir,
        "pid": std::process::id(),
    });
    let mut out = std::io::stdout().lock();
    // The reader of the output may have gone away already; the node serves all the same.
    let _nobody_listens = writeln!(out, "{line}").and_then(|()| out.flush());
    Ok(())
}

#[expect(clippy::disallowed_methods, reason = "the main thread only waits for signals")]
pub(crate) fn rest() {
    std::thread::sleep(LOOK_PERIOD);
}
