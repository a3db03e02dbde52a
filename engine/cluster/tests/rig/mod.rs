//! A whole node on one thread with stateful services, and clients and tools that record every message.

pub mod client;
pub mod golden;
pub mod service;
pub mod stub;

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use harrier_archive::{Archive, ArchiveContext, Checksum, TornTail};
use harrier_client::{Aeron, Context};
use harrier_cluster::module::{ConsensusModule, ConsensusModuleContext};
use harrier_cluster::recording_log::{Entry, parse};
use harrier_cluster::service::{ServiceContainer, ServiceContainerContext};
use harrier_driver::context::DriverContext;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::ThreadPace;
use harrier_ringbuf::{Clock, SharedThread};

use client::RawClient;
use service::Tally;
use stub::Stub;

pub const PATIENCE_NS: i64 = 60_000_000_000;

/// Type ids of counters.
pub mod counter {
    pub const STATE: i32 = 200;
    pub const TOGGLE: i32 = 202;
    pub const COMMIT: i32 = 203;
    pub const SNAPSHOTS: i32 = 205;
    pub const ERRORS: i32 = 212;
    pub const TIMED_OUT: i32 = 213;
    pub const STANDBY_SNAPSHOTS: i32 = 232;
    pub const NODE_TOGGLE: i32 = 233;
    pub const ELECTIONS: i32 = 238;
    pub const TERM: i32 = 239;
    pub const INGRESS_REFUSED: i32 = 18_001;
    pub const CONSENSUS_REFUSED: i32 = harrier_protocol::counter_types::type_id::CONSENSUS_REFUSED;
}

/// Values of the counters of states and toggles.
pub mod value {
    pub const ACTIVE: i64 = 1;
    pub const SUSPENDED: i64 = 2;
    pub const NEUTRAL: i64 = 1;
    pub const SUSPEND: i64 = 2;
    pub const RESUME: i64 = 3;
    pub const SNAPSHOT: i64 = 4;
    pub const SHUTDOWN: i64 = 5;
    pub const ABORT: i64 = 6;
    pub const STANDBY_SNAPSHOT: i64 = 7;
    pub const REPLICATE: i64 = 2;
    pub const VALIDATE: i64 = 3;
}

/// Events that the services of a test have seen, in order, each prefixed with the service id.
pub type Seen = Rc<RefCell<Vec<String>>>;

/// Settings of a node.
pub struct Plan {
    /// Number of services in our containers.
    pub services: i32,
    /// Version of the application.
    pub app_version: i32,
    /// Free bytes that the archive requires.
    pub low_storage_threshold: u64,
    /// True when the archive stamps frames and cuts torn ends, as that of a node does.
    pub is_stamped: bool,
    /// Change to the consensus module's settings.
    pub change: Box<dyn Fn(&mut ConsensusModuleContext)>,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            services: 1,
            app_version: 1,
            low_storage_threshold: 0,
            is_stamped: false,
            change: Box::new(|_| ()),
        }
    }
}

impl Plan {
    pub fn with(change: impl Fn(&mut ConsensusModuleContext) + 'static) -> Self {
        Self { change: Box::new(change), ..Self::default() }
    }
}

/// A running node with a client of its driver for the tools.
pub struct Node {
    thread: SharedThread,
    pub errors: Seen,
    pub seen: Seen,
    /// Count and hash of the events that service 0 has seen in all runs.
    pub state: Rc<Cell<(u64, u64)>>,
    pub tool: Aeron,
    pub clients: Vec<RawClient>,
    /// Client driver that outlives the node's driver.
    pub listener: Option<SharedThread>,
    pub stub: Option<Stub>,
    directory: PathBuf,
    ports: Vec<u16>,
}

/// A driver in a separate directory, for clients that outlive a node.
pub fn client_driver(directory: &Path) -> SharedThread {
    let thread = SharedThread::new(
        Box::new(ThreadPace::new(PausingClock, IdleStrategy::Noop)),
        Box::new(|role, error| panic!("{role}: {error}")),
    );
    thread.install(driver(directory, "clients").into_agents()).unwrap();
    thread
}

pub fn driver(directory: &Path, name: &str) -> HostDriver {
    let mut context = DriverContext::new(directory.join(name));
    context.timer_interval_ns = 20_000_000;
    context.counters_buffer_length = 1 << 20;
    context.term_buffer_length = 64 << 10;
    context.ipc_term_buffer_length = 64 << 10;
    context.publication_linger_timeout_ns = 100_000_000;
    context.client_liveness_timeout_ns = 2_000_000_000;
    context.seed = PausingClock.now().ns as u64;
    HostDriver::on_host(context, ExecutorMode::Inline, &PausingClock.now()).unwrap()
}

/// Ports for the endpoints of a member.
pub fn ports() -> Vec<u16> {
    harrier_platform::free_ports(5).unwrap()
}

pub fn members(ports: &[u16]) -> String {
    let endpoints: Vec<String> = ports.iter().map(|port| format!("127.0.0.1:{port}")).collect();
    format!("0,{}", endpoints.join(","))
}

impl Node {
    pub fn start(directory: &Path, ports: &[u16], plan: &Plan) -> Self {
        Self::try_start(directory, ports, plan).unwrap()
    }

    /// Starts a node. Returns the error text when a part fails to start.
    pub fn try_start(directory: &Path, ports: &[u16], plan: &Plan) -> Result<Self, String> {
        let now = PausingClock.now();
        let (errors, seen) = (Seen::default(), Seen::default());
        let sink = errors.clone();
        let pace = ThreadPace::new(PausingClock, IdleStrategy::Noop);
        let thread = SharedThread::new(
            Box::new(pace),
            Box::new(move |role, error| sink.borrow_mut().push(format!("{role}: {error}"))),
        );
        let driver = driver(directory, "node");
        let mut archive = ArchiveContext::new(directory.join("node"), directory.join("archive"));
        archive.segment_file_length = 64 << 10;
        archive.catalog_capacity = 4_096;
        archive.low_storage_space_threshold = plan.low_storage_threshold;
        archive.control_channel = Some(format!("aeron:udp?endpoint=127.0.0.1:{}", ports[4]));
        archive.replication_message_timeout_ns = 500_000_000;
        if plan.is_stamped {
            archive.record_checksum = Some(Checksum::Crc32c);
            archive.torn_tail = TornTail::Cut;
        }
        let archive = Archive::launch(archive, MappedMemory, FileStorage::inline(), &now)
            .map_err(|error| error.to_string())?;
        let mut context =
            ConsensusModuleContext::new(directory.join("node"), directory.join("cluster"), 0, members(ports));
        context.log_channel = "aeron:udp?term-length=64k".into();
        context.service_count = plan.services.max(1) as usize;
        context.app_version = plan.app_version;
        context.seed = now.ns as u64;
        (plan.change)(&mut context);
        let module = ConsensusModule::launch(context, MappedMemory, FileStorage::inline(), &now)
            .map_err(|error| error.to_string())?;
        let mut agents = driver.into_agents();
        agents.push(Box::new(module));
        agents.push(Box::new(archive));
        let state = Rc::new(Cell::default());
        for service_id in 0..plan.services {
            let (node, cluster) = (directory.join("node"), directory.join("cluster"));
            let mut settings = ServiceContainerContext::new(node, cluster, service_id);
            settings.app_version = plan.app_version;
            settings.archive.seed = now.ns as u64 + service_id as u64;
            let shown = if service_id == 0 { state.clone() } else { Rc::default() };
            let service = Tally::new(service_id, seen.clone(), shown);
            let waiter = Box::new(thread.clone());
            let container = ServiceContainer::launch(settings, service, MappedMemory, waiter, &now)
                .map_err(|error| error.to_string())?;
            agents.push(Box::new(container));
        }
        thread.install(agents).unwrap();
        let tool = Aeron::connect(Context::new(directory.join("node")), MappedMemory, &now).unwrap();
        Ok(Self {
            thread,
            errors,
            seen,
            state,
            tool,
            clients: Vec::new(),
            listener: None,
            stub: None,
            directory: directory.to_owned(),
            ports: ports.to_vec(),
        })
    }

    /// Ports of the member's endpoints.
    pub fn ports(&self) -> Vec<u16> {
        self.ports.clone()
    }

    /// Runs one duty cycle of every part.
    pub fn step(&mut self) {
        self.thread.run_once();
        if let Some(listener) = &self.listener {
            listener.run_once();
        }
        let now = PausingClock.now();
        // The driver ends with its node.
        let _is_alive = self.tool.do_work(&now);
        for client in &mut self.clients {
            client.poll();
        }
        if let Some(stub) = &mut self.stub {
            stub.poll();
        }
    }

    pub fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        let seen = self.seen.borrow();
        let last = seen.len().saturating_sub(20);
        panic!("{what} did not come; errors {:?}, seen {:?}", self.errors.borrow(), &seen[last..]);
    }

    /// Works for a while.
    pub fn go_on_for(&mut self, ns: i64) {
        let end_ns = PausingClock.now().ns + ns;
        while PausingClock.now().ns < end_ns {
            self.step();
        }
    }

    pub fn until_leading(&mut self) {
        self.until("leadership", |node| node.is_at(counter::STATE, value::ACTIVE).then_some(()));
        self.until("the toggle", |node| (node.counter(counter::TOGGLE).unwrap_or(0) > 0).then_some(()));
        assert!(self.errors.borrow().is_empty(), "{:?}", self.errors.borrow());
    }

    /// Value of the cluster's counter of a type.
    pub fn counter(&self, type_id: i32) -> Option<i64> {
        let id = self.counter_id(type_id)?;
        Some(self.tool.counters().value(id))
    }

    fn counter_id(&self, type_id: i32) -> Option<i32> {
        self.tool.counters().find(&mut |_, id, _| id == type_id)
    }

    pub fn is_at(&self, type_id: i32, value: i64) -> bool {
        self.counter(type_id) == Some(value)
    }

    /// Sets a counter as tools do.
    pub fn set(&self, type_id: i32, value: i64) {
        let id = self.counter_id(type_id).unwrap();
        self.tool.counters().counter(id).unwrap().set_ordered(value);
    }

    /// Waits for a counter's value.
    pub fn await_value(&mut self, type_id: i32, value: i64) {
        let what = format!("value {value} of counter {type_id}");
        self.until(&what, |node| node.is_at(type_id, value).then_some(()));
    }

    /// Takes a snapshot by the toggle.
    pub fn take_snapshot(&mut self) {
        let before = self.counter(counter::SNAPSHOTS).unwrap();
        self.set(counter::TOGGLE, value::SNAPSHOT);
        self.await_value(counter::SNAPSHOTS, before + 1);
        self.await_value(counter::TOGGLE, value::NEUTRAL);
        self.await_value(counter::STATE, value::ACTIVE);
    }

    /// Waits until an agent ends and returns its error text.
    pub fn until_end(&mut self, role: &str) -> String {
        let errors = self.errors.clone();
        self.until(&format!("the end of {role}"), |_| {
            errors.borrow().iter().find(|text| text.starts_with(role)).cloned()
        })
    }

    /// Events that the services have seen.
    pub fn seen(&self) -> Vec<String> {
        self.seen.borrow().clone()
    }

    pub fn has_seen(&self, line: &str) -> bool {
        self.seen.borrow().iter().any(|seen| seen == line)
    }

    /// Entries of recording.log.
    pub fn entries(&self) -> Vec<Entry> {
        entries(&self.directory)
    }

    /// Texts in the module's error log.
    pub fn logged_errors(&self) -> Vec<String> {
        logged_errors(&self.directory.join("cluster/cluster-mark.dat"))
    }

    /// Stops everything cleanly.
    pub fn stop(self) {
        self.thread.close();
    }

    /// Stops everything as in a crash.
    pub fn kill(self) {
        self.thread.abandon();
    }
}

/// Texts in the error log of a mark file.
pub fn logged_errors(path: &Path) -> Vec<String> {
    use harrier_ringbuf::{Memory, Region, memory::MapMode};
    let buffer = MappedMemory.map(path, MapMode::ReadOnly).unwrap();
    let errors = buffer.slice(8_192, buffer.capacity() - 8_192);
    let mut texts = Vec::new();
    harrier_ringbuf::error_log::read(&errors, 0, &mut |_, _, _, text| texts.push(text.to_owned()));
    texts
}

/// Entries of the recording.log of a node.
pub fn entries(directory: &Path) -> Vec<Entry> {
    let path = directory.join("cluster/recording.log");
    parse(&path, &std::fs::read(&path).unwrap()).unwrap()
}

/// A directory that is deleted with its owner.
pub fn directory() -> tempfile::TempDir {
    tempfile::Builder::new().prefix("harrier-module-").tempdir_in("/dev/shm").unwrap()
}
