//! A whole node: driver, archive, consensus module and services, composed for one host.

use std::cell::RefCell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use thiserror::Error;

use harrier_archive::{Archive, ArchiveContext, ArchiveError, SyncLevel};
use harrier_cluster::module::{ConsensusModule, ConsensusModuleContext, ModuleError};
use harrier_cluster::service::{ClusteredService, ContainerError, ServiceContainer, ServiceContainerContext};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, DriverHandle, ErrorInbox, ExecutorMode, StartError};
use harrier_platform::{FileStorage, MappedMemory, SystemClock, UdpTransport, core_count};
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::{AgentRunner, ThreadPace};
use harrier_ringbuf::{Agent, AgentError, Clock, Now, SharedThread};

/// How a node's agents share threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// All on one thread: no hop between cores, the fastest arrangement on few cores.
    Fused,
    /// Driver, archive, consensus module and each service on a thread.
    Threads,
}

/// Makes a service on the thread that runs it.
pub type ServiceFactory = Box<dyn FnOnce() -> Box<dyn ClusteredService> + Send>;

/// Settings of a node.
#[derive(Debug, Clone)]
pub struct NodeContext {
    /// Directory of archive and cluster: `archive` and `cluster` below it.
    pub directory: PathBuf,
    /// Directory of the media driver.
    pub aeron_directory: PathBuf,
    /// Which of the members this is.
    pub member_id: i32,
    /// Aeron's member string (spec 04 §2.2).
    pub members: String,
    /// Id of the cluster in counters.
    pub cluster_id: i32,
    /// Services that the consensus module waits for; those that the node does not run are other processes.
    pub service_count: usize,
    /// How agents share threads.
    pub layout: Layout,
    /// What threads do without work.
    pub idle: IdleStrategy,
    /// Bytes of a term of the log.
    pub log_term_length: i32,
    /// Bytes of a segment of a recording.
    pub segment_length: i32,
    /// Which crash acknowledged messages survive.
    pub sync_level: SyncLevel,
    /// Leaves the memory of logs to be taken when it is first written; each first store to a page then costs a message
    /// several microseconds.
    pub sparse_logs: bool,
    /// Sessions at most.
    pub max_sessions: usize,
    /// Time without a sign of life after which a client's session is closed, ns.
    pub session_timeout_ns: i64,
    /// Seed of all ids that are drawn.
    pub seed: u64,
}

impl NodeContext {
    /// Default settings of a member.
    pub fn new(
        directory: impl Into<PathBuf>,
        aeron_directory: impl Into<PathBuf>,
        member_id: i32,
        members: impl Into<String>,
    ) -> Self {
        let now = SystemClock.now();
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
            max_sessions: 100,
            session_timeout_ns: 10_000_000_000,
            seed: now.epoch_ms as u64 ^ (now.ns as u64).rotate_left(32) ^ u64::from(std::process::id()),
        }
    }
}

/// What threads of a node do without work, unless told: spinning needs a core to itself.
pub fn default_idle() -> IdleStrategy {
    if core_count() >= 4 { IdleStrategy::Spin } else { IdleStrategy::Yield }
}

/// Why a node does not start.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The media driver.
    #[error("media driver: {0}")]
    Driver(#[from] StartError),
    /// The archive.
    #[error("archive: {0}")]
    Archive(#[from] ArchiveError),
    /// The consensus module.
    #[error("consensus module: {0}")]
    Module(#[from] ModuleError),
    /// A service.
    #[error("service container: {0}")]
    Container(#[from] ContainerError),
    /// The system has no thread left, or a file cannot be opened.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// A thread ended before it had begun.
    #[error("{0}")]
    Thread(String),
}

/// A running node; dropping it stops it.
pub struct Node {
    runners: Vec<AgentRunner>,
    ready: Arc<AtomicBool>,
    handle: DriverHandle,
    failures: Arc<ErrorInbox>,
}

type Module = ConsensusModule<MappedMemory, FileStorage>;

impl Node {
    /// Starts all parts. They find each other in their first duty cycles: [`is_ready`](Self::is_ready) tells when clients
    /// are served.
    ///
    /// # Errors
    /// See [`NodeError`].
    pub fn launch(context: NodeContext, services: Vec<ServiceFactory>) -> Result<Self, NodeError> {
        let now = SystemClock.now();
        let driver =
            Driver::build(driver_context(&context), MappedMemory, UdpTransport, ExecutorMode::Queued, &now)?;
        let archive = Archive::launch(archive_context(&context), MappedMemory, storage(&context)?, &now)?;
        let module_context = module_context(&context);
        let module = ConsensusModule::launch(module_context, MappedMemory, storage(&context)?, &now)?;
        let ready = module.ready_flag();
        let handle = driver.handle.clone();
        let failures = Arc::new(ErrorInbox::default());
        let parts = Parts { context, driver, archive, module, services, failures: failures.clone() };
        let runners = parts.start()?;
        Ok(Self { runners, ready, handle, failures })
    }

    /// True once clients are served.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// True when a part has ended by itself, or the driver was told to end.
    pub fn is_ending(&self) -> bool {
        self.handle.is_terminating.load(Ordering::Acquire)
            || self.runners.iter().any(AgentRunner::is_finished)
    }

    /// What parts have said when they ended; each text once.
    pub fn failures(&self) -> Vec<String> {
        self.failures.drain()
    }

    /// Stops all parts: services first, the driver last.
    ///
    /// # Errors
    /// Why a thread did not end normally.
    pub fn stop(mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        for runner in self.runners.drain(..) {
            if let Err(error) = runner.stop() {
                outcome = Err(error);
            }
        }
        outcome
    }
}

struct Parts {
    context: NodeContext,
    driver: Driver<MappedMemory, UdpTransport>,
    archive: Archive<MappedMemory, FileStorage>,
    module: Module,
    services: Vec<ServiceFactory>,
    failures: Arc<ErrorInbox>,
}

impl Parts {
    fn start(self) -> Result<Vec<AgentRunner>, NodeError> {
        match self.context.layout {
            Layout::Fused => self.start_fused(),
            Layout::Threads => self.start_threads(),
        }
    }

    /// One thread; its agents in the order of a message's way through the node.
    fn start_fused(self) -> Result<Vec<AgentRunner>, NodeError> {
        let Self { context, driver, archive, module, services, failures } = self;
        let Driver { conductor, sender, receiver, executor, handle, .. } = driver;
        let containers = container_contexts(&context, services.len());
        let idle = context.idle.clone();
        let mut runners = Vec::new();
        runners.push(AgentRunner::start("harrier-node", move || {
            let thread = thread(idle, &handle, &failures);
            let module = Rc::new(RefCell::new(module));
            let mut agents: Vec<Box<dyn Agent>> = vec![
                Box::new(receiver),
                Box::new(SharedModule(module.clone())),
                Box::new(archive),
                Box::new(Commit(module)),
            ];
            for (context, factory) in containers.into_iter().zip(services) {
                agents.push(container(context, factory, &thread)?);
            }
            agents.push(Box::new(sender));
            agents.push(Box::new(conductor));
            thread.install(agents).map_err(|error| error.to_string())?;
            Ok(thread)
        })?);
        if let Some(executor) = executor {
            runners.push(background("aeron-executor", Box::new(executor))?);
        }
        Ok(runners)
    }

    fn start_threads(self) -> Result<Vec<AgentRunner>, NodeError> {
        let Self { context, driver, archive, module, services, failures } = self;
        let Driver { conductor, sender, receiver, executor, handle, .. } = driver;
        let mut runners = Vec::new();
        for (own, factory) in container_contexts(&context, services.len()).into_iter().zip(services) {
            let (idle, handle, failures) = (context.idle.clone(), handle.clone(), failures.clone());
            let name = own.service_name.clone();
            runners.push(AgentRunner::start(&name, move || {
                let thread = thread(idle, &handle, &failures);
                thread.install(vec![container(own, factory, &thread)?]).map_err(|error| error.to_string())?;
                Ok(thread)
            })?);
        }
        let start = |name: &str, agents: Vec<Box<dyn Agent + Send>>| {
            let (idle, handle, failures) = (context.idle.clone(), handle.clone(), failures.clone());
            AgentRunner::start(name, move || {
                let thread = thread(idle, &handle, &failures);
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

/// The module of a fused node. Nobody borrows it across a wait: only a service's callback waits.
struct SharedModule(Rc<RefCell<Module>>);

impl Agent for SharedModule {
    fn role_name(&self) -> &str {
        "consensus-module"
    }

    fn on_start(&mut self, now: &Now) -> Result<(), AgentError> {
        self.0.borrow_mut().on_start(now)
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.0.borrow_mut().do_work(now)
    }

    fn next_deadline(&self) -> Option<i64> {
        self.0.borrow().next_deadline()
    }

    fn on_close(&mut self, now: &Now) {
        self.0.borrow_mut().on_close(now);
    }
}

/// Commits what the archive has recorded in this pass, so that services see it in the same pass.
struct Commit(Rc<RefCell<Module>>);

impl Agent for Commit {
    fn role_name(&self) -> &str {
        "commit"
    }

    fn do_work(&mut self, _now: &Now) -> Result<usize, AgentError> {
        Ok(self.0.borrow_mut().commit_recorded())
    }

    fn next_deadline(&self) -> Option<i64> {
        None
    }
}

fn thread(idle: IdleStrategy, handle: &DriverHandle, failures: &Arc<ErrorInbox>) -> SharedThread {
    let (errors, failures) = (handle.errors.clone(), failures.clone());
    SharedThread::new(
        Box::new(ThreadPace::new(SystemClock, idle)),
        Box::new(move |role, error| {
            errors.push(format!("{role}: {error}"));
            failures.push(format!("{role}: {error}"));
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
        .map(|container| Box::new(container) as Box<dyn Agent>)
        .map_err(|error| error.to_string())
}

fn background(name: &str, agent: Box<dyn Agent + Send>) -> std::io::Result<AgentRunner> {
    AgentRunner::start(name, move || {
        let idle = IdleStrategy::Sleep { period_ns: 1_000_000 };
        let thread = SharedThread::new(Box::new(ThreadPace::new(SystemClock, idle)), Box::new(|_, _| ()));
        thread.install(vec![agent as Box<dyn Agent>]).map_err(|error| error.to_string())?;
        Ok(thread)
    })
}

fn storage(context: &NodeContext) -> std::io::Result<FileStorage> {
    // Writes that stay in the page cache are faster done than handed over; a sync takes its time.
    match context.sync_level {
        SyncLevel::None => Ok(FileStorage::inline()),
        _ => FileStorage::threaded(),
    }
}

fn driver_context(context: &NodeContext) -> DriverContext {
    let mut driver = DriverContext::new(&context.aeron_directory);
    driver.seed = context.seed;
    driver.term_buffer_sparse_file = context.sparse_logs;
    driver
}

fn archive_context(context: &NodeContext) -> ArchiveContext {
    let mut archive = ArchiveContext::new(&context.aeron_directory, context.directory.join("archive"));
    archive.seed = context.seed.rotate_left(7);
    archive.segment_file_length = context.segment_length;
    archive.file_sync_level = context.sync_level;
    archive.catalog_file_sync_level = context.sync_level;
    let own = harrier_cluster::members::parse(&context.members)
        .ok()
        .and_then(|members| members.into_iter().find(|member| member.id == context.member_id));
    archive.control_channel = own.map(|member| format!("aeron:udp?endpoint={}", member.archive));
    archive
}

fn module_context(context: &NodeContext) -> ConsensusModuleContext {
    let directory = context.directory.join("cluster");
    let mut module =
        ConsensusModuleContext::new(&context.aeron_directory, directory, context.member_id, &context.members);
    module.cluster_id = context.cluster_id;
    module.service_count = context.service_count;
    module.max_sessions = context.max_sessions;
    module.session_timeout_ns = context.session_timeout_ns;
    module.log_channel = format!("aeron:udp?term-length={}", context.log_term_length);
    module.archive.control_response_stream_id = context.cluster_id * 100 + 120;
    module.archive.seed = context.seed.rotate_left(13);
    module.seed = context.seed.rotate_left(21);
    module.file_sync_level = match context.sync_level {
        SyncLevel::None => None,
        SyncLevel::Data => Some(harrier_ringbuf::storage::SyncLevel::Data),
        SyncLevel::All => Some(harrier_ringbuf::storage::SyncLevel::All),
    };
    module
}

fn container_contexts(context: &NodeContext, count: usize) -> Vec<ServiceContainerContext> {
    (0..count as i32)
        .map(|service_id| {
            let directory = context.directory.join("cluster");
            let mut own = ServiceContainerContext::new(&context.aeron_directory, directory, service_id);
            own.cluster_id = context.cluster_id;
            own.service_name = format!("clustered-service-{}-{service_id}", context.cluster_id);
            own
        })
        .collect()
}
