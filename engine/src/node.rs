//! A complete node of one host: driver, archive, consensus module and services.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

use harrier_archive::{ArchiveError, FileClock, SyncLevel};
use harrier_client::{Aeron, ClientError, Context};
use harrier_cluster::control::{self, ClusterCommand, CommandError};
use harrier_cluster::module::{ModuleError, StampClock};
use harrier_cluster::service::{ClusteredService, ContainerError, ServiceContainer, ServiceContainerContext};
use harrier_driver::configuration::Properties;
use harrier_driver::{Driver, DriverHandle, ErrorInbox, ExecutorMode, StartError};
use harrier_platform::{FileStorage, HostTransport, MappedMemory, SystemClock, core_count};
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::memory::Overlap;
use harrier_ringbuf::runner::{AgentRunner, ThreadPace};
use harrier_ringbuf::{Agent, AgentError, Clock, SharedThread, TransportError};

use crate::compose::{Composition, PartContexts};
use crate::lasting::Lasting;

/// Assignment of a node's agents to threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All agents on one thread: no hop between cores, fastest with few cores.
    Fused,
    /// Driver, archive, consensus module and each service on their own threads.
    Threads,
}

/// Creates a service on the thread that runs it.
pub type ServiceFactory = Box<dyn FnOnce() -> Box<dyn ClusteredService> + Send>;

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeContext {
    /// Directory with the subdirectories `archive` and `cluster`.
    pub directory: PathBuf,
    /// Directory of the media driver.
    pub aeron_directory: PathBuf,
    /// Id of this member.
    pub member_id: i32,
    /// Member string (spec 04 §2.2).
    pub members: String,
    /// Id of the cluster in counters.
    pub cluster_id: i32,
    /// Number of services that the consensus module waits for. Those that the node does not run are other processes
    /// ([`ServiceNode`](crate::ServiceNode)).
    pub service_count: usize,
    /// Assignment of agents to threads.
    pub layout: Layout,
    /// Idle strategy of the threads.
    pub idle: IdleStrategy,
    /// Term length of the log, bytes.
    pub log_term_length: i32,
    /// Segment length of recordings, bytes.
    pub segment_length: i32,
    /// Crashes that acknowledged messages survive.
    pub sync_level: SyncLevel,
    /// True to allocate log memory at the first write; each first store to a page then delays a message by several
    /// microseconds.
    pub sparse_logs: bool,
    /// True to timestamp each session message when it is read, which costs some 30 ns. Nodes with a lease service need
    /// it: their guarantees then hold even when the host stalls the node.
    pub fresh_timestamps: bool,
    /// True to begin an empty log when recording.log is missing beside an archive with a log.
    pub start_anew: bool,
    /// Maximum number of sessions.
    pub max_sessions: usize,
    /// Time without a message after which a client's session is closed, ns.
    pub session_timeout_ns: i64,
    /// Further settings of all parts by name, from files, definitions or the environment.
    pub properties: Properties,
    /// Seed of all random ids.
    pub seed: u64,
}

impl NodeContext {
    /// Creates default settings of a member.
    pub fn new(
        directory: impl Into<PathBuf>,
        aeron_directory: impl Into<PathBuf>,
        member_id: i32,
        members: impl Into<String>,
    ) -> Self {
        Self {
            directory: directory.into(),
            aeron_directory: aeron_directory.into(),
            member_id,
            members: members.into(),
            cluster_id: 0,
            service_count: 1,
            layout: Layout::Fused,
            idle: default_idle(),
            log_term_length: 16 << 20,
            segment_length: 128 << 20,
            sync_level: SyncLevel::None,
            sparse_logs: false,
            fresh_timestamps: false,
            start_anew: false,
            max_sessions: 100,
            session_timeout_ns: 10_000_000_000,
            properties: Properties::default(),
            seed: seed(),
        }
    }
}

/// Reads `aeron.cluster.idle.strategy`, if set.
pub(crate) fn idle(properties: &Properties, default: &IdleStrategy) -> Result<IdleStrategy, NodeError> {
    let name = "aeron.cluster.idle.strategy";
    let Some(value) = properties.get(name) else { return Ok(default.clone()) };
    IdleStrategy::by_name(value).map_err(|error| NodeError::Setting(format!("{name}={value}: {error}")))
}

/// Draws a seed unique to this process.
pub(crate) fn seed() -> u64 {
    let now = SystemClock.now();
    now.epoch_ms as u64 ^ (now.ns as u64).rotate_left(32) ^ u64::from(std::process::id())
}

/// Default idle strategy of a node's threads; spinning would need a dedicated core.
pub fn default_idle() -> IdleStrategy {
    if core_count() >= 4 { IdleStrategy::Spin } else { IdleStrategy::Yield }
}

/// Errors of starting or commanding a node.
#[derive(Debug, Error)]
pub enum NodeError {
    /// Error of the media driver.
    #[error("media driver: {0}")]
    Driver(#[from] StartError),
    /// The host does not support what the driver's transport needs.
    #[error("media driver: {0}")]
    Transport(#[from] TransportError),
    /// Error of the archive.
    #[error("archive: {0}")]
    Archive(#[from] ArchiveError),
    /// Error of the consensus module.
    #[error("consensus module: {0}")]
    Module(#[from] ModuleError),
    /// Error of a service.
    #[error("service container: {0}")]
    Container(#[from] ContainerError),
    /// The driver's directory overlaps another directory of the node.
    #[error(transparent)]
    Overlap(#[from] Overlap),
    /// Invalid setting.
    #[error("{0}")]
    Setting(String),
    /// Error of a client on the node's driver.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The command was refused.
    #[error(transparent)]
    Command(#[from] CommandError),
    /// The system cannot start a thread or open a file.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A thread ended before its agents started.
    #[error("{0}")]
    Thread(String),
}

/// A running node; dropping it stops it.
pub struct Node {
    runners: Vec<AgentRunner>,
    ready: Arc<AtomicBool>,
    handle: DriverHandle,
    outcome: Arc<Outcome>,
    aeron_directory: PathBuf,
    cluster_id: i32,
}

/// State of a node's parts.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) failures: ErrorInbox,
    pub(crate) is_expected: AtomicBool,
}

impl Outcome {
    pub(crate) fn note(&self, role: &str, error: &AgentError) {
        match error {
            AgentError::Ended(_) => self.is_expected.store(true, Ordering::Release),
            _ => self.failures.push(format!("{role}: {error}")),
        }
    }
}

type HostParts = Composition<MappedMemory, FileStorage, HostTransport>;

impl Node {
    /// Starts all parts. They connect in their first duty cycles; [`is_ready`](Self::is_ready) reports when the node
    /// serves clients.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn launch(context: NodeContext, services: Vec<ServiceFactory>) -> Result<Self, NodeError> {
        Self::launch_with(context, services, |_| ())
    }

    /// Like [`launch`](Self::launch), with a function that may change the settings of all parts.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn launch_with(
        mut context: NodeContext,
        services: Vec<ServiceFactory>,
        change: impl FnOnce(&mut PartContexts),
    ) -> Result<Self, NodeError> {
        context.idle = idle(&context.properties, &context.idle)?;
        let now = SystemClock.now();
        let outcome = Arc::new(Outcome::default());
        let mut contexts = PartContexts::of(&context, services.len());
        for warning in contexts.apply(&context.properties)? {
            outcome.failures.push(warning);
        }
        contexts.archive.file_clock = Some(FileClock::new(SystemClock));
        contexts.module.stamp_clock = context.fresh_timestamps.then(|| StampClock::new(SystemClock));
        change(&mut contexts);
        let (aeron_directory, cluster_id) = (contexts.driver.directory.clone(), context.cluster_id);
        let storage = || storage(&context);
        let transport = HostTransport::new(&contexts.driver.transport)?;
        let parts =
            HostParts::build(contexts, &MappedMemory, transport, storage, ExecutorMode::Queued, &now)?;
        let ready = parts.module.ready_flag();
        let handle = parts.driver.handle.clone();
        let runners = Parts { context, parts, services, outcome: outcome.clone() }.start()?;
        Ok(Self { runners, ready, handle, outcome, aeron_directory, cluster_id })
    }

    /// True once the node serves clients.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// True when a part has ended, or the driver was asked to terminate.
    pub fn is_ending(&self) -> bool {
        self.handle.is_terminating.load(Ordering::Acquire)
            || self.runners.iter().any(AgentRunner::is_finished)
    }

    /// Error texts of ended parts, without duplicates.
    pub fn failures(&self) -> Vec<String> {
        self.outcome.failures.drain()
    }

    /// True once the node has terminated by [`ClusterCommand::Shutdown`] or [`ClusterCommand::Abort`].
    pub fn has_ended_as_told(&self) -> bool {
        self.outcome.is_expected.load(Ordering::Acquire)
    }

    /// Sends a command to the consensus module, as operators' tools do. It completes asynchronously; see
    /// [`is_command_done`](Self::is_command_done).
    ///
    /// # Errors
    /// [`NodeError::Command`] when the node takes none now.
    pub fn command(&self, command: ClusterCommand) -> Result<(), NodeError> {
        control::command(self.observer()?.counters(), self.cluster_id, command)?;
        Ok(())
    }

    /// True once no command is in progress.
    ///
    /// # Errors
    /// [`NodeError::Client`].
    pub fn is_command_done(&self) -> Result<bool, NodeError> {
        Ok(control::is_done(self.observer()?.counters(), self.cluster_id))
    }

    /// Number of snapshots that the node has taken since it was launched.
    ///
    /// # Errors
    /// [`NodeError::Client`].
    pub fn snapshot_count(&self) -> Result<i64, NodeError> {
        Ok(control::snapshot_count(self.observer()?.counters(), self.cluster_id).unwrap_or(0))
    }

    fn observer(&self) -> Result<Aeron, ClientError> {
        Aeron::connect(Context::new(&self.aeron_directory), MappedMemory, &SystemClock.now())
    }

    /// Stops all parts: services first, the driver last.
    ///
    /// # Errors
    /// Errors of threads that did not end normally.
    pub fn stop(mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        for runner in self.runners.drain(..) {
            if let Err(error) = runner.stop() {
                outcome = Err(error);
            }
        }
        // Agents that terminated as commanded have not failed.
        if self.has_ended_as_told() { Ok(()) } else { outcome }
    }
}

struct Parts {
    context: NodeContext,
    parts: HostParts,
    services: Vec<ServiceFactory>,
    outcome: Arc<Outcome>,
}

impl Parts {
    fn start(self) -> Result<Vec<AgentRunner>, NodeError> {
        match self.context.layout {
            Layout::Fused => self.start_fused(),
            Layout::Threads => self.start_threads(),
        }
    }

    fn start_fused(self) -> Result<Vec<AgentRunner>, NodeError> {
        let Self { context, mut parts, services, outcome } = self;
        let (handle, executor) = (parts.driver.handle.clone(), parts.driver.executor.take());
        let mut runners = Vec::new();
        runners.push(AgentRunner::start("harrier-node", move || {
            let thread = thread(context.idle, &handle, &outcome);
            let services = services.into_iter().map(|factory| factory()).collect();
            let agents = parts
                .into_fused(services, || Box::new(thread.clone()), &SystemClock.now())
                .map_err(|error| error.to_string())?;
            thread.install(agents).map_err(|error| error.to_string())?;
            Ok(thread)
        })?);
        if let Some(executor) = executor {
            runners.push(background("aeron-executor", Box::new(executor))?);
        }
        Ok(runners)
    }

    fn start_threads(self) -> Result<Vec<AgentRunner>, NodeError> {
        let Self { context, parts, services, outcome } = self;
        let Composition { driver, archive, module, containers, .. } = parts;
        let Driver { conductor, sender, receiver, executor, handle, .. } = driver;
        let mut runners = Vec::new();
        for (settings, factory) in containers.into_iter().zip(services) {
            let (idle, handle, outcome) = (context.idle.clone(), handle.clone(), outcome.clone());
            let name = settings.service_name.clone();
            runners.push(AgentRunner::start(&name, move || {
                let thread = thread(idle, &handle, &outcome);
                thread
                    .install(vec![container(settings, factory, &thread)?])
                    .map_err(|error| error.to_string())?;
                Ok(thread)
            })?);
        }
        let start = |name: &str, agents: Vec<Box<dyn Agent + Send>>| {
            let (idle, handle, outcome) = (context.idle.clone(), handle.clone(), outcome.clone());
            AgentRunner::start(name, move || {
                let thread = thread(idle, &handle, &outcome);
                let agents = agents.into_iter().map(|agent| agent as Box<dyn Agent>).collect();
                thread.install(agents).map_err(|error| error.to_string())?;
                Ok(thread)
            })
        };
        runners.push(start("consensus-module", vec![Box::new(module)])?);
        runners.push(start("archive", vec![Box::new(archive)])?);
        runners.push(start("media-driver", vec![Box::new(receiver), Box::new(conductor), Box::new(sender)])?);
        if let Some(executor) = executor {
            runners.push(background("aeron-executor", Box::new(executor))?);
        }
        Ok(runners)
    }
}

fn thread(idle: IdleStrategy, handle: &DriverHandle, outcome: &Arc<Outcome>) -> SharedThread {
    let (errors, outcome) = (handle.errors.clone(), outcome.clone());
    SharedThread::new(
        Box::new(ThreadPace::new(SystemClock, idle)),
        Box::new(move |role, error| {
            errors.push(format!("{role}: {error}"));
            outcome.note(role, error);
        }),
    )
}

fn container(
    context: ServiceContainerContext,
    factory: ServiceFactory,
    thread: &SharedThread,
) -> Result<Box<dyn Agent>, String> {
    let now = SystemClock.now();
    let waiter = Box::new(thread.clone());
    ServiceContainer::launch(context, factory(), MappedMemory, waiter, &now)
        .map(|container| Box::new(Lasting::new(container)) as Box<dyn Agent>)
        .map_err(|error| error.to_string())
}

pub(crate) fn background(name: &str, agent: Box<dyn Agent + Send>) -> std::io::Result<AgentRunner> {
    AgentRunner::start(name, move || {
        let idle = IdleStrategy::Sleep { period_ns: 1_000_000 };
        let thread = SharedThread::new(Box::new(ThreadPace::new(SystemClock, idle)), Box::new(|_, _| ()));
        thread.install(vec![agent as Box<dyn Agent>]).map_err(|error| error.to_string())?;
        Ok(thread)
    })
}

fn storage(context: &NodeContext) -> std::io::Result<FileStorage> {
    // Writes to the page cache are faster done inline; only syncs are worth a thread.
    match context.sync_level {
        SyncLevel::None => Ok(FileStorage::inline()),
        _ => FileStorage::threaded(),
    }
}
