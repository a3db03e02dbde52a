//! Driver, archive and containers on one thread, with a simulated consensus module.

use std::path::Path;
use std::rc::Rc;

use harrier_archive::{Archive, ArchiveContext};
use harrier_client::{Aeron, Context, Counter, ExclusivePublication, Subscription};
use harrier_cluster::codec::{
    CloseReason, ClusterAction, LogMessage, ModuleMessage, Role, ServiceMessage, SessionHeader, TimeUnit,
};
use harrier_cluster::service::{ServiceContainer, ServiceContainerContext};
use harrier_driver::context::DriverContext;
use harrier_driver::{ExecutorMode, HostDriver};
use harrier_platform::{FileStorage, MappedMemory, PausingClock};
use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::ThreadPace;
use harrier_ringbuf::{Clock, SharedThread};

use super::recorder::{Orders, Recorder, Seen};

pub const PATIENCE_NS: i64 = 60_000_000_000;
const TERM_LENGTH: i32 = 64 << 10;
/// Bytes that the log events of these tests begin their time with.
pub const FIRST_TIME: i64 = 1_000;

/// A received ack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub log_position: i64,
    pub timestamp: i64,
    pub ack_id: i64,
    pub relevant_id: i64,
    pub service_id: i32,
}

/// A driver with an archive.
pub struct Host {
    pub directory: tempfile::TempDir,
    thread: SharedThread,
}

fn thread(errors: Seen) -> SharedThread {
    let sink = move |role: &str, error: &harrier_ringbuf::AgentError| {
        errors.borrow_mut().push(format!("{role}: {error}"));
    };
    SharedThread::new(Box::new(ThreadPace::new(PausingClock, IdleStrategy::Noop)), Box::new(sink))
}

impl Host {
    pub fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("harrier-container-").tempdir_in("/dev/shm").unwrap();
        let now = PausingClock.now();
        let mut context = DriverContext::new(directory.path().join("aeron"));
        context.timer_interval_ns = 20_000_000;
        context.counters_buffer_length = 1 << 20;
        context.ipc_term_buffer_length = TERM_LENGTH;
        context.publication_linger_timeout_ns = 100_000_000;
        let driver = HostDriver::on_host(context, ExecutorMode::Inline, &now).unwrap();
        let mut context =
            ArchiveContext::new(directory.path().join("aeron"), directory.path().join("archive"));
        context.segment_file_length = 128 << 10;
        context.catalog_capacity = 4_096;
        context.low_storage_space_threshold = 0;
        let archive = Archive::launch(context, MappedMemory, FileStorage::inline(), &now).unwrap();
        let mut agents = driver.into_agents();
        agents.push(Box::new(archive));
        let thread = thread(Seen::default());
        thread.install(agents).unwrap();
        Self { directory, thread }
    }

    pub fn aeron_directory(&self) -> std::path::PathBuf {
        self.directory.path().join("aeron")
    }

    pub fn run(&self) {
        self.thread.run_once();
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        self.thread.abandon();
    }
}

/// Position at which services begin.
#[derive(Debug, Clone)]
pub struct Recovery {
    pub leadership_term_id: i64,
    pub log_position: i64,
    pub timestamp: i64,
    pub recording_ids: Vec<i64>,
}

impl Recovery {
    pub const NONE: Self =
        Self { leadership_term_id: -1, log_position: 0, timestamp: 0, recording_ids: Vec::new() };

    fn key(&self) -> Vec<u8> {
        let mut key = Vec::new();
        for word in [self.leadership_term_id, self.log_position, self.timestamp] {
            key.extend_from_slice(&word.to_le_bytes());
        }
        key.extend_from_slice(&0_i32.to_le_bytes());
        key.extend_from_slice(&(self.recording_ids.len() as i32).to_le_bytes());
        self.recording_ids.iter().for_each(|id| key.extend_from_slice(&id.to_le_bytes()));
        key
    }
}

/// A running container with its observed events.
pub struct Running {
    thread: SharedThread,
    pub seen: Seen,
    pub errors: Seen,
    pub orders: Rc<Orders>,
}

impl Running {
    pub fn start(host: &Host, service_id: i32, change: impl FnOnce(&mut ServiceContainerContext)) -> Self {
        Self::start_with(host, service_id, Rc::default(), change)
    }

    pub fn start_with(
        host: &Host,
        service_id: i32,
        orders: Rc<Orders>,
        change: impl FnOnce(&mut ServiceContainerContext),
    ) -> Self {
        let (seen, errors) = (Seen::default(), Seen::default());
        let thread = thread(errors.clone());
        let cluster = host.directory.path().join("cluster");
        let mut context = ServiceContainerContext::new(host.aeron_directory(), cluster, service_id);
        context.archive.seed = PausingClock.now().ns as u64;
        change(&mut context);
        let waiter = Pump { container: thread.clone(), host: host.thread.clone() };
        let service = Recorder::new(seen.clone(), orders.clone());
        let container =
            ServiceContainer::launch(context, service, MappedMemory, Box::new(waiter), &PausingClock.now())
                .unwrap();
        thread.install(vec![Box::new(container)]).unwrap();
        Self { thread, seen, errors, orders }
    }

    pub fn seen(&self) -> Vec<String> {
        self.seen.borrow().clone()
    }

    pub fn error(&self) -> Option<String> {
        self.errors.borrow().last().cloned()
    }

    pub fn has_ended(&self) -> bool {
        self.thread.ended_count() > 0
    }

    pub fn run(&self) {
        self.thread.run_once();
    }

    pub fn close(&self) {
        self.thread.close();
    }

    pub fn kill(&self) {
        self.thread.abandon();
    }
}

/// Runs the host while a callback waits.
struct Pump {
    container: SharedThread,
    host: SharedThread,
}

impl harrier_ringbuf::Waiter for Pump {
    fn now(&self) -> harrier_ringbuf::Now {
        PausingClock.now()
    }

    fn idle(&mut self, work_count: usize) {
        self.host.run_once();
        self.container.idle(work_count);
    }
}

/// The simulated consensus module.
pub struct Module {
    pub aeron: Aeron,
    to_services: ExclusivePublication,
    from_services: Subscription,
    assembler: FragmentAssembler,
    commit: Option<Counter>,
    recovery: Option<Counter>,
    pub log: Option<ExclusivePublication>,
    pub acks: Vec<Ack>,
    /// Messages of the services other than acks.
    pub heard: Vec<String>,
    egress: Subscription,
    pub egress_messages: Vec<String>,
    time: i64,
    pub leadership_term_id: i64,
    pub is_standby: bool,
}

fn until<V>(host: &Host, what: &str, mut condition: impl FnMut() -> Option<V>) -> V {
    let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
    while PausingClock.now().ns < deadline_ns {
        host.run();
        if let Some(value) = condition() {
            return value;
        }
    }
    panic!("{what} did not come");
}

impl Module {
    pub fn start(host: &Host, recovery: &Recovery) -> Self {
        let now = PausingClock.now();
        let mut aeron = Aeron::connect(Context::new(host.aeron_directory()), MappedMemory, &now).unwrap();
        let control = "aeron:ipc?term-length=128k";
        let publication = aeron.add_exclusive_publication(control, 104).unwrap();
        let subscription = aeron.add_subscription(control, 105).unwrap();
        let egress = aeron.add_subscription("aeron:ipc", 102).unwrap();
        let commit =
            aeron.add_counter(203, &0_i32.to_le_bytes(), "Cluster commit-pos: - clusterId=0").unwrap();
        let recovery = aeron.add_counter(204, &recovery.key(), "Cluster recovery").unwrap();
        let work = |aeron: &mut Aeron| {
            aeron.do_work(&PausingClock.now()).unwrap();
        };
        macro_rules! await_resource {
            ($fetch:ident, $id:expr) => {
                until(host, stringify!($fetch), || {
                    work(&mut aeron);
                    aeron.$fetch($id).unwrap()
                })
            };
        }
        Self {
            to_services: await_resource!(exclusive_publication, publication),
            from_services: await_resource!(subscription, subscription),
            egress: await_resource!(subscription, egress),
            commit: Some(await_resource!(counter, commit)),
            recovery: Some(await_resource!(counter, recovery)),
            aeron,
            assembler: FragmentAssembler::new(),
            log: None,
            acks: Vec::new(),
            heard: Vec::new(),
            egress_messages: Vec::new(),
            time: FIRST_TIME,
            leadership_term_id: 0,
            is_standby: false,
        }
    }

    fn poll(&mut self) {
        self.aeron.do_work(&PausingClock.now()).unwrap();
        let (assembler, acks, heard) = (&mut self.assembler, &mut self.acks, &mut self.heard);
        self.from_services.poll(20, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| match ServiceMessage::decode(message)
                .unwrap()
                .unwrap()
            {
                ServiceMessage::Ack { log_position, timestamp, ack_id, relevant_id, service_id } => {
                    acks.push(Ack { log_position, timestamp, ack_id, relevant_id, service_id });
                }
                ServiceMessage::Offer { header, payload } => {
                    heard.push(format!("offer {} {}", header.session_id, String::from_utf8_lossy(payload)));
                }
                other => heard.push(format!("{other:?}")),
            });
        });
        let egress_messages = &mut self.egress_messages;
        self.egress.poll(20, &mut |payload, _| {
            egress_messages.push(String::from_utf8_lossy(&payload[32..]).into_owned());
        });
    }

    /// Ends the recovery.
    pub fn end_recovery(&mut self) {
        self.recovery = None;
    }

    /// Frees the commit position counter, as the end of a module does.
    pub fn drop_commit_position(&mut self) {
        self.commit = None;
    }
}

/// Runs one duty cycle of every part.
pub struct World {
    pub host: Host,
    pub module: Module,
    pub containers: Vec<Running>,
}

impl World {
    /// A host with a module, a container and its first ack.
    pub fn started() -> Self {
        let mut world = Self::new(&Recovery::NONE);
        world.containers.push(Running::start(&world.host, 0, |_| ()));
        world.ack(0);
        world
    }

    /// Like the above, with a log that the container leads.
    pub fn leading() -> Self {
        let mut world = Self::started();
        world.join(0, Role::Leader, i64::MAX);
        world.append_term();
        world
    }

    pub fn new(recovery: &Recovery) -> Self {
        Self::on(Host::new(), recovery)
    }

    pub fn on(host: Host, recovery: &Recovery) -> Self {
        let module = Module::start(&host, recovery);
        Self { host, module, containers: Vec::new() }
    }

    /// Ends this run and returns the host for the next one.
    pub fn end(self) -> Host {
        for container in &self.containers {
            container.close();
        }
        let Self { host, module, .. } = self;
        drop(module);
        // The next module's counters must be distinct from these.
        let context = Context::new(host.aeron_directory());
        let mut observer = Aeron::connect(context, MappedMemory, &PausingClock.now()).unwrap();
        until(&host, "the counters' end", || {
            observer.do_work(&PausingClock.now()).unwrap();
            let is_left = |type_id: i32| type_id == 203 || type_id == 204;
            let found = observer.counters().find(&mut |_, type_id, _| is_left(type_id));
            found.is_none().then_some(())
        });
        host
    }

    pub fn step(&mut self) {
        self.host.run();
        for container in &self.containers {
            container.thread.run_once();
        }
        self.module.poll();
    }

    pub fn until<V>(&mut self, what: &str, mut condition: impl FnMut(&mut Self) -> Option<V>) -> V {
        let deadline_ns = PausingClock.now().ns + PATIENCE_NS;
        while PausingClock.now().ns < deadline_ns {
            self.step();
            if let Some(value) = condition(self) {
                return value;
            }
        }
        let (seen, errors) = self
            .containers
            .first()
            .map_or_else(Default::default, |container| (container.seen(), container.errors.borrow().clone()));
        panic!("{what} did not come; seen {seen:#?}, errors {errors:?}, acks {:?}", self.module.acks);
    }

    /// The ack with this id of the first service.
    pub fn ack(&mut self, ack_id: i64) -> Ack {
        self.until("the ack", |world| {
            world.module.acks.iter().find(|ack| ack.ack_id == ack_id && ack.service_id == 0).copied()
        })
    }

    /// Waits until the first container has recorded a text.
    pub fn noted(&mut self, text: &str) -> String {
        self.until(text, |world| {
            world.containers[0].seen.borrow().iter().find(|line| line.contains(text)).cloned()
        })
    }

    pub fn send(&mut self, message: &ModuleMessage<'_>) {
        let mut buffer = [0; 512];
        let length = message.encode(&mut buffer).unwrap();
        self.until("room", |world| world.module.to_services.offer(&buffer[..length]).ok());
    }

    /// A log that begins at a position, and the order to join it.
    pub fn tell_join(&mut self, position: i64, role: Role, max_position: i64) {
        let mut uri = ChannelUri::parse("aeron:ipc?alias=log").unwrap();
        uri.set_initial_position(position, 0, TERM_LENGTH);
        let id = self.module.aeron.add_exclusive_publication(&uri.to_string(), 100).unwrap();
        let log = self.until("the log", |world| world.module.aeron.exclusive_publication(id).unwrap());
        let session_id = log.session_id();
        self.module.log = Some(log);
        self.send(&ModuleMessage::JoinLog {
            log_position: position,
            max_log_position: max_position,
            member_id: 5,
            log_session_id: session_id,
            log_stream_id: 100,
            is_startup: role != Role::Leader,
            role,
            is_standby: self.module.is_standby,
            log_channel: &format!("aeron:ipc?session-id={session_id}|alias=log"),
        });
    }

    pub fn join(&mut self, position: i64, role: Role, max_position: i64) {
        self.module.end_recovery();
        let count = self.module.acks.len() + self.containers.len();
        self.tell_join(position, role, max_position);
        self.until("acks of the join", |world| (world.module.acks.len() >= count).then_some(()));
    }

    /// Appends and commits a message; returns the position after it.
    pub fn append(&mut self, message: &LogMessage<'_>) -> i64 {
        let mut buffer = vec![0; 64 << 10];
        let length = message.encode(&mut buffer).unwrap();
        let position = self.until("room in the log", |world| {
            world.module.log.as_mut().unwrap().offer(&buffer[..length]).ok()
        });
        self.module.commit.as_ref().unwrap().set_ordered(position);
        position
    }

    pub fn tick(&mut self) -> i64 {
        self.module.time += 1;
        self.module.time
    }

    pub fn append_term_of(&mut self, app_version: i32) -> i64 {
        let base = self.module.log.as_ref().unwrap().position();
        let timestamp = self.tick();
        let session_id = self.module.log.as_ref().unwrap().session_id();
        self.append(&LogMessage::NewLeadershipTerm {
            leadership_term_id: self.module.leadership_term_id,
            log_position: base + 96,
            timestamp,
            term_base_log_position: base,
            leader_member_id: 5,
            log_session_id: session_id,
            time_unit: TimeUnit::Millis,
            app_version,
        })
    }

    pub fn append_term(&mut self) -> i64 {
        self.append_term_of(1)
    }

    pub fn open(&mut self, session_id: i64) -> i64 {
        let timestamp = self.tick();
        self.append(&LogMessage::SessionOpen {
            leadership_term_id: 0,
            correlation_id: 1,
            session_id,
            timestamp,
            response_stream_id: 102,
            response_channel: "aeron:ipc",
            principal: b"me",
        })
    }

    pub fn close(&mut self, session_id: i64, reason: CloseReason) -> i64 {
        let timestamp = self.tick();
        self.append(&LogMessage::SessionClose { leadership_term_id: 0, session_id, timestamp, reason })
    }

    pub fn message(&mut self, session_id: i64, payload: &[u8]) -> i64 {
        let timestamp = self.tick();
        let header = SessionHeader { leadership_term_id: 0, session_id, timestamp };
        self.append(&LogMessage::Session { header, payload })
    }

    pub fn timer(&mut self, correlation_id: i64) -> i64 {
        let timestamp = self.tick();
        self.append(&LogMessage::Timer { leadership_term_id: 0, correlation_id, timestamp })
    }

    pub fn action(&mut self, action: ClusterAction, flags: i32) -> i64 {
        let timestamp = self.tick();
        let log_position = self.module.log.as_ref().unwrap().position() + 96;
        self.append(&LogMessage::Action { leadership_term_id: 0, log_position, timestamp, action, flags })
    }
}

/// The mark file of a service.
pub fn mark_file(directory: &Path, service_id: i32) -> Vec<u8> {
    std::fs::read(directory.join(format!("cluster/cluster-mark-service-{service_id}.dat"))).unwrap()
}
