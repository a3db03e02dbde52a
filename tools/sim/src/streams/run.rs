//! Runs drivers and their clients, from the first start to the last close.

use std::any::Any;
use std::cell::{RefCell, RefMut};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;

use harrier_client::{Aeron, Context};
use harrier_driver::{Driver, ExecutorMode, StartError};
use harrier_ringbuf::Rng;
use harrier_ringbuf::shared_thread::{ErrorSink, ProcessDeath};

use super::asked::AnswerSettings;
use super::books::Books;
use super::peer::{Peer, Place, Remains};
use super::plan::{self, Flow};
use super::truth::{Phase, Truth};
use super::wire::Wire;
use super::{MAX_HOSTS, client_of};
use crate::faults::{self, Fault, Plan};
use crate::kernel::{Death, HostId, Kernel};
use crate::memory::SimMemory;
use crate::network::SimTransport;
use crate::report::Outcome;
use crate::world::World;

mod phases;

/// Pause before a driver whose directory seems to be in use is started again, ns.
const START_AGAIN_NS: i64 = 50_000_000;

/// Parameters of a run, besides its seed.
#[derive(Debug, Clone)]
pub struct Scenario {
    keep_lines: bool,
    hosts: usize,
    flows: Vec<Flow>,
    plan: Plan,
    driver_seed: u64,
}

impl Scenario {
    /// Draws three seconds with faults, and then a network without faults.
    pub fn draw(seed: u64, keep_lines: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x57AE_A300_0000_0001);
        let hosts = 2 + rng.below(MAX_HOSTS as u64 - 1) as usize;
        let mut flows = plan::draw_flows(&mut rng, hosts);
        let plan = plan::draw_faults(&mut rng, &flows, hosts);
        let driver_seed = rng.next_u64();
        plan::draw_additions(&mut rng, &mut flows, hosts);
        Self { keep_lines, hosts, flows, plan, driver_seed }
    }
}

/// A process, and the time at which it starts when it is down.
#[derive(Debug, Default)]
struct Process {
    starts_at_ns: Option<i64>,
    /// Time for which it stays down after its next death, ns.
    down_ns: Option<i64>,
    life: u64,
}

struct Run {
    world: World,
    kernel: Kernel,
    scenario: Scenario,
    rng: Rng,
    truth: Rc<RefCell<Truth>>,
    /// Drivers come first, then clients.
    processes: Vec<Process>,
    memories: Vec<SimMemory>,
    /// Readers of the drivers' counters.
    observers: Vec<Option<Aeron>>,
    books: Books,
    remains: Remains,
    /// Number of unread messages, by host.
    unread: Rc<RefCell<Vec<usize>>>,
    phase_ns: i64,
    closes_writers_first: bool,
    are_sends_short: bool,
}

/// Runs one seed.
pub fn run(seed: u64, scenario: Scenario) -> Outcome {
    let hosts = scenario.hosts;
    let kernel = Kernel::new(2 * hosts, seed, scenario.keep_lines);
    for host in 0..hosts {
        kernel.put_on_machine_of(client_of(hosts, host), host);
    }
    let kinds = scenario.flows.iter().map(|flow| (flow.stream_id, flow.kind())).collect();
    let is_short = |(_, fault): &(i64, Fault)| matches!(fault, Fault::NoRoom { .. });
    let are_sends_short = scenario.plan.faults().iter().any(is_short);
    kernel.state().wire = Some(Wire::new(kinds, 2 * hosts, are_sends_short));
    let mut rng = Rng::new(seed);
    let starts = |_| Process { starts_at_ns: Some(0), ..Process::default() };
    let mut run = Run {
        world: World::new(kernel.clone(), 2 * hosts),
        kernel: kernel.clone(),
        truth: Rc::new(RefCell::new(Truth::new(scenario.flows.clone(), hosts))),
        processes: (0..2 * hosts).map(starts).collect(),
        memories: (0..hosts).map(|host| SimMemory::new(kernel.clone(), host)).collect(),
        observers: (0..hosts).map(|_| None).collect(),
        books: Books::new(hosts),
        remains: Rc::default(),
        unread: Rc::new(RefCell::new(vec![0; hosts])),
        phase_ns: 0,
        closes_writers_first: rng.chance(1, 2),
        are_sends_short,
        scenario,
        rng,
    };
    run.go();
    run.finish(seed)
}

pub(super) fn directory_of(host: HostId) -> String {
    format!("/dev/shm/aeron{host}")
}

impl Run {
    fn truth(&self) -> RefMut<'_, Truth> {
        self.truth.borrow_mut()
    }

    fn violate(&self, checker: &'static str, text: impl Into<String>) {
        self.truth().violate(checker, text);
    }

    fn now_ns(&self) -> i64 {
        self.kernel.state().now_ns
    }

    fn hit(&self, what: &'static str) {
        self.kernel.state().coverage.hit(what);
    }

    fn is_violated(&self) -> bool {
        !self.truth.borrow().violations.is_empty()
            || self.kernel.state().wire.as_ref().is_some_and(|wire| !wire.violations.is_empty())
    }

    fn sink(&self, process: HostId) -> ErrorSink {
        let truth = self.truth.clone();
        Box::new(move |role, error| {
            truth.borrow_mut().violate("agent error", format!("process {process}: {role}: {error}"));
        })
    }

    fn start(&mut self, process: HostId) {
        let life = &mut self.processes[process].life;
        *life += 1;
        let life = *life;
        self.processes[process].starts_at_ns = None;
        self.kernel.state().note("start", &[process as u64, life]);
        if process < self.scenario.hosts {
            self.start_driver(process);
        } else {
            self.start_client(process - self.scenario.hosts);
        }
    }

    fn start_driver(&mut self, host: HostId) {
        let mut seed = Rng::new(self.scenario.driver_seed ^ host as u64);
        let mut context = plan::driver_context(&directory_of(host), &mut seed);
        context.seed = self.rng.next_u64();
        let (kernel, memory, world) = (self.kernel.clone(), self.memories[host].clone(), self.world.clone());
        let thread = self.world.thread(host, self.sink(host));
        if let Some(wire) = &mut self.kernel.state().wire {
            let answers = AnswerSettings {
                delay_ns: context.retransmit_unicast_delay_ns,
                linger_ns: context.retransmit_unicast_linger_ns,
                max_resend: context.max_resend as usize,
            };
            wire.restart(host, answers);
        }
        let launch = move || -> Result<(), Result<StartError, String>> {
            let transport = SimTransport::new(kernel.clone(), host);
            let now = kernel.now(host);
            let driver = Driver::build(context, memory, transport, ExecutorMode::Inline, &now).map_err(Ok)?;
            world.start(host, thread, driver.into_agents()).map_err(|error| Err(error.to_string()))
        };
        match catch_unwind(AssertUnwindSafe(launch)) {
            Ok(Ok(())) => self.observe(host),
            Ok(Err(Ok(StartError::ActiveDriver { .. }))) => {
                self.hit("start refused: the directory seems to be in use");
                let now_ns = self.now_ns();
                self.upset(host, now_ns);
                self.processes[host].starts_at_ns = Some(now_ns + START_AGAIN_NS);
            }
            Ok(Err(Ok(error))) => self.violate("start", error.to_string()),
            Ok(Err(Err(error))) => self.violate("start", error),
            Err(payload) if payload.is::<ProcessDeath>() => {
                self.hit("driver died while it started");
                self.on_death(host);
            }
            Err(_) => self.violate("panic", "while a driver started"),
        }
    }

    /// Opens the counters of a driver that has just started.
    fn observe(&mut self, host: HostId) {
        let now = self.kernel.now(host);
        let memory = self.memories[host].of_process(client_of(self.scenario.hosts, host));
        match Aeron::connect(Context::new(directory_of(host)), memory, &now) {
            Ok(observer) => {
                self.books.open(host, observer.counters());
                self.observers[host] = Some(observer);
            }
            Err(error) => self.violate("start", error.to_string()),
        }
    }

    fn start_client(&mut self, host: HostId) {
        let process = client_of(self.scenario.hosts, host);
        let place = Place {
            host,
            kernel: self.kernel.clone(),
            truth: self.truth.clone(),
            now_ns: self.now_ns(),
            phase: self.truth.borrow().phase,
        };
        let memory = self.memories[host].of_process(process);
        let (remains, unread) = (self.remains.clone(), self.unread.clone());
        let peer = Peer::new(place, process, memory, directory_of(host), self.rng.fork(), remains, unread);
        let thread = self.world.thread(process, self.sink(process));
        if let Err(error) = self.world.start(process, thread, vec![Box::new(peer)]) {
            self.violate("start", error.to_string());
        }
    }

    fn upset(&self, host: HostId, until_ns: i64) {
        self.truth().upset(host, until_ns);
    }

    fn host_of(&self, process: HostId) -> HostId {
        process % self.scenario.hosts
    }

    /// A process has died; nothing of it was closed.
    fn on_death(&mut self, process: HostId) {
        let now_ns = self.now_ns();
        let is_driver = process < self.scenario.hosts;
        self.hit(if is_driver { "driver killed" } else { "client killed" });
        self.world.kill(process);
        if is_driver && let Some(observer) = self.observers[process].take() {
            self.books.gather(process, observer.counters(), &mut self.kernel.state().coverage);
            self.remains.borrow_mut().push(Box::new(observer) as Box<dyn Any>);
        }
        let down_ns = self.processes[process].down_ns.take().unwrap_or_default();
        self.processes[process].starts_at_ns = Some(now_ns + down_ns);
        self.upset(self.host_of(process), now_ns + down_ns);
    }

    fn apply_due_faults(&mut self) {
        let now_ns = self.now_ns();
        while let Some(fault) = self.scenario.plan.due(now_ns) {
            match fault {
                Fault::ClientCrash { host, calls, down_ns, .. } => {
                    let own = &mut self.processes[host];
                    if own.down_ns.is_some() || own.starts_at_ns.is_some() {
                        continue;
                    }
                    own.down_ns = Some(down_ns);
                    self.kernel.state().hosts[host].death = Some(Death::AtCall(calls));
                    self.upset(self.host_of(host), now_ns);
                    if host >= self.scenario.hosts {
                        // A client works in memory alone, so it dies between two turns.
                        self.on_death(host);
                        continue;
                    }
                }
                Fault::Stall { host, duration_ns } => {
                    self.upset(self.host_of(host), now_ns + duration_ns);
                }
                _ => {}
            }
            faults::apply(&self.kernel, &fault);
        }
    }

    fn step(&mut self) {
        self.apply_due_faults();
        let now_ns = self.now_ns();
        self.truth().now_ns = now_ns;
        for process in 0..self.processes.len() {
            if self.processes[process].starts_at_ns.is_some_and(|at| now_ns >= at) {
                self.start(process);
            }
        }
        if let Some(process) = self.world.step() {
            self.on_death(process);
        }
        let ended: usize = (0..self.processes.len()).map(|process| self.world.ended_count(process)).sum();
        if ended > 0 && !self.is_violated() {
            self.violate("agent error", "an agent ended");
        }
        self.check_books();
    }

    fn check_books(&mut self) {
        let now_ns = self.now_ns();
        if !self.books.is_due(now_ns) {
            return;
        }
        for host in 0..self.scenario.hosts {
            let Some(observer) = &self.observers[host] else { continue };
            let mut truth = self.truth.borrow_mut();
            let mut state = self.kernel.state();
            self.books.check(host, observer.counters(), &mut truth, &mut state);
        }
    }
}
