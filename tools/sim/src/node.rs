//! Area `node`: a whole node with its clients, through crashes and faults of networks and disks.

mod module_snapshots;
mod replays;

use std::cell::{Cell, RefCell, RefMut};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use harrier::NodeContext;
use harrier::compose::{Composition, PartContexts};
use harrier_archive::SyncLevel;
use harrier_archive::catalog::Catalog;
use harrier_cluster::service::{ClusteredService, ServiceContainer, ServiceContainerContext};
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode};
use harrier_ringbuf::shared_thread::{ErrorSink, ProcessDeath};
use harrier_ringbuf::{Agent, Rng};

use crate::client::{Clients, Progress, Workload};
use crate::faults::{self, FAULTS_END_NS, Fault, Plan};
use crate::history::History;
use crate::inside;
use crate::kernel::{HostId, Kernel};
use crate::ledger::{Ledger, MAX_SERVICES};
use crate::memory::SimMemory;
use crate::network::{SimTransport, address_of};
use crate::operator::{self, Command, Operator};
use crate::report::Outcome;
use crate::snapshot::SnapshotPlace;
use crate::storage::SimStorage;
use crate::world::World;
use module_snapshots::ModuleSnapshots;

/// Host of the node.
const NODE: HostId = 0;
/// Host of the clients.
const CLIENT: HostId = 1;
/// Second service, when it is a process of its own on the node's host.
const SERVICE: HostId = 2;
/// Directories of the drivers.
const NODE_DRIVER: &str = "/dev/shm/node";
const CLIENT_DRIVER: &str = "/dev/shm/client";
/// Time in which everything must recover after the faults, virtual ns.
const HEALING_NS: i64 = 45_000_000_000;
/// Time after which a client of the node's driver counts as dead when a service is a process of its own, ns. It is
/// longer than the jumps of calendar clocks, by which drivers judge their clients.
const SERVICE_LIVENESS_NS: i64 = 5_000_000_000;
/// Time in which a node must notice that a service is dead, ns.
const NOTICE_NS: i64 = 15_000_000_000;
/// Length of a segment of a recording, bytes.
const SEGMENT_LENGTH: usize = 128 << 10;

/// Parameters of a run, besides its seed.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Crashes that acknowledged messages survive.
    pub sync_level: SyncLevel,
    /// Keep the events as text.
    pub keep_lines: bool,
    /// Number of orders of the main client.
    pub orders: u64,
    /// Longest pause between two orders, ns.
    pub pause_ns: u64,
    /// Period of long answers, in answers; 0 for none.
    pub long_answer_period: u64,
    /// Most orders that may be unanswered.
    pub window: usize,
    /// End of the faults and visits, virtual ns.
    pub faults_end_ns: i64,
    /// Clients come and go besides the main one.
    pub has_visitors: bool,
    /// Number of services of the node.
    pub services: usize,
    /// The second service is a process of its own.
    pub is_service_apart: bool,
    /// Commands of the operator.
    pub commands: VecDeque<(i64, Command)>,
    /// Number of the order with which the service writes a snapshot.
    pub snapshot_order: Option<u64>,
    /// Length of a snapshot, bytes.
    pub snapshot_length: usize,
    /// Faults and their times.
    pub plan: Plan,
}

impl Scenario {
    /// Draws a node that works for ten seconds, with the faults of `seed`.
    pub fn draw(seed: u64, sync_level: SyncLevel, keep_lines: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x0DE0_0000_0000_0001);
        let services = 1 + rng.below(MAX_SERVICES as u64) as usize;
        let is_service_apart = services > 1 && rng.chance(1, 2);
        let mut plan = Plan::draw(&mut rng, sync_level > SyncLevel::None);
        if is_service_apart {
            plan = plan.with_service_crashes(&mut rng);
        }
        Self {
            sync_level,
            keep_lines,
            orders: 1_000,
            pause_ns: 24_000_000,
            long_answer_period: [0, 50, 10][rng.below(3) as usize],
            window: 1 + rng.below(40) as usize,
            faults_end_ns: FAULTS_END_NS,
            has_visitors: true,
            services,
            is_service_apart,
            commands: operator::draw_commands(&mut rng, FAULTS_END_NS),
            snapshot_order: None,
            snapshot_length: 0,
            plan,
        }
    }
}

struct Run {
    world: World,
    kernel: Kernel,
    scenario: Scenario,
    rng: Rng,
    node_memory: SimMemory,
    client_memory: SimMemory,
    /// Events that the services have seen, those of the first service first.
    histories: Vec<Rc<RefCell<History>>>,
    progress: Rc<RefCell<Progress>>,
    operator: Operator,
    /// Virtual time at which the node starts again when it is down, ns.
    starts_at_ns: Option<i64>,
    /// Fault to inject at the node's next crash.
    death: Option<Fault>,
    main_session: i64,
    module_snapshots: ModuleSnapshots,
    /// The node begins with the log, whatever snapshots exist.
    is_log_alone: bool,
    /// Time at which the process of the second service starts, and its settings.
    service_start: Option<(i64, ServiceContainerContext)>,
    /// The second service has died: the node ends by itself and stays down for this time, ns.
    service_death: Rc<Cell<Option<i64>>>,
    service_died_ns: i64,
}

/// Runs one seed.
pub fn run(seed: u64, scenario: Scenario) -> Outcome {
    let kernel = Kernel::new(3, seed, scenario.keep_lines);
    kernel.put_on_machine_of(SERVICE, NODE);
    let histories: Vec<Rc<RefCell<History>>> = (0..scenario.services).map(|_| Rc::default()).collect();
    let history = histories[0].clone();
    let progress = Rc::new(RefCell::new(Progress::default()));
    let node_memory = SimMemory::new(kernel.clone(), NODE);
    let commands = scenario.commands.clone();
    let mut run = Run {
        operator: Operator::new(kernel.clone(), node_memory.clone(), NODE_DRIVER, commands),
        node_memory,
        client_memory: SimMemory::new(kernel.clone(), CLIENT),
        world: World::new(kernel.clone(), 3),
        kernel: kernel.clone(),
        scenario,
        rng: Rng::new(seed),
        histories: histories.clone(),
        progress: progress.clone(),
        starts_at_ns: Some(0),
        death: None,
        main_session: -1,
        module_snapshots: ModuleSnapshots::default(),
        is_log_alone: false,
        service_start: None,
        service_death: Rc::default(),
        service_died_ns: 0,
    };
    run.start_clients();
    run.go();
    inside::harvest(&kernel, NODE, &run.node_memory, NODE_DRIVER, &history, false);
    inside::harvest(&kernel, CLIENT, &run.client_memory, CLIENT_DRIVER, &history, false);
    run.world.kill(NODE);
    run.world.kill(CLIENT);
    run.world.kill(SERVICE);
    run.gather();
    let history = history.borrow();
    let mut state = kernel.state();
    let (terms, offers) = (history.terms() as u64, progress.borrow().offers);
    state.coverage.add("orders offered", offers);
    state.coverage.add("events of the log", history.events().len() as u64);
    let (digest, now_ns) = (history.digest(), state.now_ns);
    state.trace.add(now_ns, "end", &[digest, terms]);
    Outcome {
        seed,
        trace_hash: state.trace.hash(),
        virtual_ns: now_ns,
        messages: progress.borrow().answered,
        violations: history.violations.clone(),
        coverage: std::mem::take(&mut state.coverage),
        lines: state.trace.take_lines(),
    }
}

pub(crate) fn endpoint(host: HostId, port: u16) -> String {
    format!("{}:{port}", address_of(host))
}

/// Makes the buffers of a driver small, because a run creates many drivers.
pub(crate) fn small(context: &mut DriverContext) {
    context.conductor_buffer_length = (64 << 10) + 768;
    context.clients_buffer_length = (64 << 10) + 128;
    context.counters_buffer_length = 64 << 10;
    context.error_buffer_length = 64 << 10;
    context.loss_report_buffer_length = 64 << 10;
    context.term_buffer_length = 64 << 10;
    context.ipc_term_buffer_length = 64 << 10;
    context.timer_interval_ns = 100_000_000;
}

impl Run {
    /// Returns the events of the first service, with the rules that the whole node has broken.
    fn history(&self) -> RefMut<'_, History> {
        self.histories[0].borrow_mut()
    }

    fn violate(&self, checker: &'static str, text: impl Into<String>) {
        self.history().violate(checker, text);
    }

    fn is_violated(&self) -> bool {
        self.histories.iter().any(|history| !history.borrow().violations.is_empty())
    }

    /// Appends the faults of the other services to those of the first.
    fn gather(&self) {
        for history in &self.histories[1..] {
            let violations = std::mem::take(&mut history.borrow_mut().violations);
            self.history().violations.extend(violations);
        }
    }

    fn sink(&self, who: &'static str) -> ErrorSink {
        let history = self.histories[0].clone();
        let service_death = self.service_death.clone();
        Box::new(move |role, error| {
            if service_death.get().is_some() {
                return;
            }
            history.borrow_mut().violate("agent error", format!("{who}: {role}: {error}"));
        })
    }

    fn start_clients(&mut self) {
        let memory = self.client_memory.clone();
        let mut context = DriverContext::new(CLIENT_DRIVER);
        small(&mut context);
        context.seed = self.rng.next_u64();
        let transport = SimTransport::new(self.kernel.clone(), CLIENT);
        let now = self.kernel.now(CLIENT);
        let driver = Driver::build(context, memory.clone(), transport, ExecutorMode::Inline, &now);
        let driver = match driver {
            Ok(driver) => driver,
            Err(error) => return self.violate("start", error.to_string()),
        };
        let workload = Workload {
            aeron_directory: CLIENT_DRIVER.into(),
            ingress_endpoints: format!("0={}", endpoint(NODE, 20_110)),
            egress_channel: format!("aeron:udp?endpoint={}", endpoint(CLIENT, 0)),
            orders: self.scenario.orders,
            pause_ns: self.scenario.pause_ns,
            window: self.scenario.window,
            longest: 4_000,
            long_answer_period: self.scenario.long_answer_period,
            snapshot_order: self.scenario.snapshot_order,
            services: self.scenario.services,
            visitors_until_ns: if self.scenario.has_visitors { self.scenario.faults_end_ns } else { 0 },
        };
        let (history, progress) = (self.histories[0].clone(), self.progress.clone());
        let clients = Clients::new(workload, self.kernel.clone(), memory, history, progress, self.rng.fork());
        let thread = self.world.thread(CLIENT, self.sink("client"));
        let mut agents = driver.into_agents();
        agents.push(Box::new(clients));
        if let Err(error) = self.world.start(CLIENT, thread, agents) {
            self.violate("start", error.to_string());
        }
    }

    fn node_contexts(&mut self) -> PartContexts {
        let members = format!(
            "0,{},{},{},{},{}",
            endpoint(NODE, 20_110),
            endpoint(NODE, 20_111),
            endpoint(NODE, 20_112),
            endpoint(NODE, 0),
            endpoint(NODE, 8_010)
        );
        let mut context = NodeContext::new("/var/node", NODE_DRIVER, 0, members);
        context.seed = self.rng.next_u64();
        context.log_term_length = 64 << 10;
        context.segment_length = SEGMENT_LENGTH as i32;
        context.sync_level = self.scenario.sync_level;
        context.service_count = self.scenario.services;
        let mut contexts = PartContexts::of(&context, self.scenario.services);
        small(&mut contexts.driver);
        if self.scenario.is_service_apart {
            contexts.driver.client_liveness_timeout_ns = SERVICE_LIVENESS_NS;
        }
        contexts.archive.catalog_capacity = 4 << 10;
        contexts.archive.file_io_max_length = 64 << 10;
        contexts.archive.low_storage_space_threshold = 0;
        contexts
    }

    fn start_node(&mut self) {
        self.histories.iter().for_each(|history| history.borrow_mut().begin_life());
        let mut contexts = self.node_contexts();
        self.service_death.set(None);
        if self.scenario.is_service_apart {
            let own = contexts.containers.pop().expect("the second service has its settings");
            let at = self.kernel.state().now_ns + self.rng.below(300_000_000) as i64;
            self.service_start = Some((at, own));
        }
        let services_inside = contexts.containers.len();
        let incarnation = self.history().incarnation;
        self.kernel.state().note("start node", &[incarnation]);
        let thread = self.world.thread(NODE, self.sink("node"));
        if self.is_log_alone
            && let Err(error) = self.forget_snapshots()
        {
            return self.violate("start", error);
        }
        let (kernel, memory, histories) =
            (self.kernel.clone(), self.node_memory.clone(), self.histories.clone());
        let world = self.world.clone();
        let place = self.scenario.snapshot_order.map(|_| SnapshotPlace {
            kernel: kernel.clone(),
            host: NODE,
            memory: memory.clone(),
            aeron_directory: NODE_DRIVER.into(),
            length: self.scenario.snapshot_length,
            seed: self.rng.next_u64(),
        });
        let launch = move || -> Result<(), String> {
            let transport = SimTransport::new(kernel.clone(), NODE);
            let storage = || Ok(SimStorage::new(kernel.clone(), NODE));
            let now = kernel.now(NODE);
            let parts = Composition::build(contexts, &memory, transport, storage, ExecutorMode::Inline, &now)
                .map_err(|error| error.to_string())?;
            check_catalog(parts.archive.catalog(), &histories[0]);
            let count = histories.len();
            let services = histories.into_iter().take(services_inside).enumerate().map(|(id, history)| {
                let place = place.clone().filter(|_| id == 0);
                Box::new(Ledger::new((id, count), history, kernel.clone(), place))
                    as Box<dyn ClusteredService>
            });
            let waiter = || world.waiter(NODE, &thread);
            let agents =
                parts.into_fused(services.collect(), waiter, &now).map_err(|error| error.to_string())?;
            world.start(NODE, thread.clone(), agents).map_err(|error| error.to_string())
        };
        match catch_unwind(AssertUnwindSafe(launch)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.violate("start", error),
            Err(payload) if payload.is::<ProcessDeath>() => {
                self.kernel.state().coverage.hit("crash while starting");
                self.on_death();
            }
            Err(_) => self.violate("panic", "while the node started"),
        }
    }

    /// The node's process has died; its machine may have crashed as well.
    fn on_death(&mut self) {
        self.compare_module_snapshots();
        inside::harvest(
            &self.kernel,
            NODE,
            &self.node_memory,
            NODE_DRIVER,
            &self.histories[0],
            self.service_death.get().is_some(),
        );
        self.world.kill(NODE);
        self.world.kill(SERVICE);
        self.service_start = None;
        self.operator.on_death();
        let fault = self.death.take();
        let mut state = self.kernel.state();
        let state = &mut *state;
        let Some(Fault::Crash { of_machine, down_ns, .. }) = fault else {
            return self.starts_at_ns = Some(state.now_ns);
        };
        state.coverage.hit(if of_machine { "machine crashed" } else { "process crashed" });
        if of_machine {
            let host = &mut state.hosts[NODE];
            host.disk.crash(&mut state.rng, &mut state.coverage);
        }
        self.starts_at_ns = Some(state.now_ns + down_ns);
    }

    fn apply_due_faults(&mut self) {
        let now_ns = self.kernel.state().now_ns;
        while let Some(fault) = self.scenario.plan.due(now_ns) {
            if let Fault::Crash { death, .. } = fault {
                // Only one death is planned at a time.
                if self.death.is_some() {
                    continue;
                }
                self.death = Some(fault);
                self.kernel.state().hosts[NODE].death = Some(death);
            }
            if let Fault::ServiceCrash { down_ns } = fault {
                if !self.world.is_alive(SERVICE) {
                    continue;
                }
                self.world.kill(SERVICE);
                self.service_death.set(Some(down_ns));
                self.service_died_ns = now_ns;
            }
            if let Some(until_ns) = fault.disturbs_network_until(now_ns) {
                self.history().on_disturbance(now_ns, until_ns);
            } else if fault == Fault::Heal {
                self.history().on_heal(now_ns + faults::AFTERMATH_NS);
            }
            faults::apply(&self.kernel, &fault);
        }
    }

    fn start_service_when_due(&mut self, now_ns: i64) {
        let Some((_, context)) = self.service_start.take_if(|(at, _)| now_ns >= *at) else { return };
        let thread = self.world.thread(SERVICE, self.sink("service"));
        let ledger =
            Ledger::new((1, self.histories.len()), self.histories[1].clone(), self.kernel.clone(), None);
        let (memory, now) = (self.node_memory.of_process(SERVICE), self.kernel.now(SERVICE));
        let waiter = self.world.waiter(SERVICE, &thread);
        let started = ServiceContainer::launch(context, ledger, memory, waiter, &now)
            .map_err(|error| error.to_string())
            .and_then(|container| {
                let agents: Vec<Box<dyn Agent>> = vec![Box::new(container)];
                self.world.start(SERVICE, thread, agents).map_err(|error| error.to_string())
            });
        match started {
            Ok(()) => self.kernel.state().coverage.hit("service started as a process of its own"),
            Err(error) => self.violate("start", error),
        }
    }

    /// A node that has lost a service ends by itself; this starts it again.
    fn check_node_without_service(&mut self) {
        let Some(down_ns) = self.service_death.get().filter(|_| self.world.is_alive(NODE)) else { return };
        let now_ns = self.kernel.state().now_ns;
        if self.world.ended_count(NODE) > 0 {
            self.kernel.state().coverage.hit("node ended for want of a service");
            self.on_death();
            self.starts_at_ns = Some(now_ns + down_ns);
        } else if now_ns > self.service_died_ns + NOTICE_NS {
            self.violate("service", "the node goes on without its service");
        }
    }

    fn step(&mut self) {
        self.apply_due_faults();
        let now_ns = self.kernel.state().now_ns;
        if self.starts_at_ns.is_some_and(|at| now_ns >= at) {
            self.starts_at_ns = None;
            self.start_node();
        }
        self.start_service_when_due(now_ns);
        if self.world.step() == Some(NODE) {
            self.on_death();
        }
        self.check_node_without_service();
        if self.starts_at_ns.is_none() && self.world.is_alive(NODE) {
            let now = self.kernel.now(NODE);
            let seen = self.histories.iter().map(|history| history.borrow().events().len()).sum();
            if let Some(text) = self.operator.run(&now, seen) {
                self.violate("suspension", text);
            }
        }
        let ended: usize = [NODE, CLIENT, SERVICE].map(|host| self.world.ended_count(host)).into_iter().sum();
        if ended > 0 && self.service_death.get().is_none() && !self.is_violated() {
            self.violate("agent error", "an agent ended");
        }
    }

    fn go(&mut self) {
        while !self.is_violated() {
            self.step();
            self.check_session();
            let now_ns = self.kernel.state().now_ns;
            if now_ns > self.scenario.faults_end_ns && self.death.take().is_some() {
                // The node was to die at a call that it did not make.
                self.kernel.state().hosts[NODE].death = None;
            }
            if now_ns > self.scenario.faults_end_ns && self.is_settled() {
                break;
            }
            if now_ns > self.scenario.faults_end_ns + HEALING_NS {
                let progress = self.progress.borrow();
                let history = self.history();
                let open: Vec<i64> = history.open_sessions().collect();
                let text = format!(
                    "{} of {} orders answered, {} timers and messages owed, sessions {open:?} open",
                    progress.answered, self.scenario.orders, history.owed
                );
                drop((progress, history));
                self.violate("progress", text);
            }
        }
        if !self.is_violated() {
            self.replay_twice_more();
        }
    }

    fn check_session(&mut self) {
        let session_id = self.progress.borrow().session_id;
        if self.main_session != -1 && session_id != self.main_session {
            self.violate("session", format!("session {} became {session_id}", self.main_session));
        }
        self.main_session = session_id;
    }

    /// True when all orders are answered, all timers have fired and all visitors have gone.
    fn is_settled(&self) -> bool {
        let main = self.main_session;
        let others_are_closed = self.history().open_sessions().all(|id| id == main);
        self.starts_at_ns.is_none()
            && self.death.is_none()
            && self.progress.borrow().is_done
            && self.service_death.get().is_none()
            && self.operator.is_done()
            && self.histories.iter().all(|history| {
                let history = history.borrow();
                history.has_caught_up() && history.owed == 0
            })
            && others_are_closed
    }
}

/// Checks that every recording in use was added completely.
pub(crate) fn check_catalog(catalog: &Catalog, history: &Rc<RefCell<History>>) {
    for recording in catalog.valid_from(0) {
        let texts = [&recording.stripped_channel, &recording.original_channel, &recording.source_identity];
        if texts.iter().any(|text| text.is_empty() || text.contains('\0')) {
            let text = format!("recording {} is believed: {recording:?}", recording.recording_id);
            history.borrow_mut().violate("catalog", text);
        }
    }
}
