//! Runs the node and its units, from the first start to the last replay.

use std::cell::{RefCell, RefMut};
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::rc::Rc;

use harrier::NodeContext;
use harrier::compose::{Composition, PartContexts};
use harrier_archive::SyncLevel;
use harrier_cluster::service::ClusteredService;
use harrier_cluster::tool;
use harrier_driver::context::DriverContext;
use harrier_driver::{Driver, ExecutorMode};
use harrier_lease::{FencedService, LeaseService};
use harrier_ringbuf::Rng;
use harrier_ringbuf::shared_thread::{ErrorSink, ProcessDeath};

use super::recorder::Recorder;
use super::truth::Truth;
use super::unit::{Place, Standing, Unit};
use super::witness::Witness;
use super::{ALL_UNITS, APPLICATIONS, SETTINGS, UNITS, plan};
use crate::faults::{self, FAULTS_END_NS, Fault, Plan};
use crate::history::History;
use crate::inside;
use crate::kernel::{Death, HostId, Kernel};
use crate::memory::SimMemory;
use crate::network::SimTransport;
use crate::node::{check_catalog, endpoint, small};
use crate::operator::{Command, Operator};
use crate::report::Outcome;
use crate::storage::SimStorage;
use crate::world::World;

mod calm;
mod ending;

use calm::Calm;

/// Host of the node; the hosts of the units follow.
const NODE: HostId = 0;
const NODE_DRIVER: &str = "/dev/shm/node";
const SECOND_NS: i64 = 1_000_000_000;
/// Time for which units continue after the faults before they release everything, ns.
const CALM_NS: i64 = 5 * SECOND_NS;
/// Time in which everything must be settled from then on, ns.
const DRAINING_NS: i64 = 30 * SECOND_NS;
/// Time in which a wait ends when its tenure is over, there are no faults and its unit has a session, ns. It is
/// longer than the time to find out that the session is over and to wait in another one.
const WAKING_NS: i64 = 3 * SECOND_NS;

/// Parameters of a run, besides its seed.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// Crashes that acknowledged messages survive.
    pub sync_level: SyncLevel,
    /// Keep the events as text.
    pub keep_lines: bool,
    /// Drift of the clocks of all hosts, millionths.
    pub drifts_ppm: [i64; ALL_UNITS + 1],
    /// Times at which the operator takes snapshots.
    pub commands: VecDeque<(i64, Command)>,
    /// Faults and their times.
    pub plan: Plan,
}

impl Scenario {
    /// Draws ten seconds with faults and five without. Among the runs that only need to survive crashes of processes,
    /// some survive crashes of machines as well.
    pub fn draw(seed: u64, sync_level: SyncLevel, keep_lines: bool) -> Self {
        let mut rng = Rng::new(seed ^ 0x1EA5_0000_0000_0001);
        let drawn = if rng.chance(1, 2) { SyncLevel::Data } else { SyncLevel::None };
        let sync_level = sync_level.max(drawn);
        let mut commands: Vec<(i64, Command)> = (0..rng.below(6))
            .map(|_| (rng.below((FAULTS_END_NS + CALM_NS) as u64) as i64, Command::Snapshot))
            .collect();
        commands.sort_by_key(|(at, _)| *at);
        Self {
            sync_level,
            keep_lines,
            drifts_ppm: std::array::from_fn(|_| plan::draw_drift_ppm(&mut rng)),
            commands: commands.into(),
            plan: plan::draw(&mut rng, sync_level > SyncLevel::None),
        }
    }
}

/// Host of a unit.
struct UnitHost {
    place: Place,
    memory: SimMemory,
    life: u64,
    standing: Rc<RefCell<Standing>>,
    /// Time at which it starts when it is down.
    starts_at_ns: Option<i64>,
    /// Fault to apply at its next death.
    death: Option<Fault>,
}

struct Run {
    world: World,
    kernel: Kernel,
    scenario: Scenario,
    rng: Rng,
    memory: SimMemory,
    histories: [Rc<RefCell<History>>; 2],
    truth: Rc<RefCell<Truth>>,
    units: Vec<UnitHost>,
    calm: Calm,
    operator: Operator,
    /// Time at which the node starts when it is down.
    starts_at_ns: Option<i64>,
    death: Option<Fault>,
    /// Number of leadership terms before the node's present life.
    terms_before: usize,
    /// Tokens with which trackers led when the node died.
    led_with: [Option<u64>; ALL_UNITS],
    granted_before: Option<[u64; APPLICATIONS]>,
    is_log_alone: bool,
}

/// Runs one seed.
pub fn run(seed: u64, scenario: Scenario) -> Outcome {
    let kernel = Kernel::new(ALL_UNITS + 1, seed, scenario.keep_lines);
    for (host, drift_ppm) in scenario.drifts_ppm.into_iter().enumerate() {
        kernel.set_drift(host, drift_ppm);
    }
    let memory = SimMemory::new(kernel.clone(), NODE);
    let operator = Operator::new(kernel.clone(), memory.clone(), NODE_DRIVER, scenario.commands.clone());
    let units = (0..ALL_UNITS)
        .map(|unit| UnitHost {
            place: Place { application: unit / UNITS, index: unit % UNITS, host: unit + 1 },
            memory: SimMemory::new(kernel.clone(), unit + 1),
            life: 0,
            standing: Rc::default(),
            starts_at_ns: Some(0),
            death: None,
        })
        .collect();
    let mut run = Run {
        world: World::new(kernel.clone(), ALL_UNITS + 1),
        kernel: kernel.clone(),
        scenario,
        rng: Rng::new(seed),
        memory,
        histories: [Rc::default(), Rc::default()],
        truth: Rc::default(),
        units,
        calm: Calm::default(),
        operator,
        starts_at_ns: Some(0),
        death: None,
        terms_before: 0,
        led_with: [None; ALL_UNITS],
        granted_before: None,
        is_log_alone: false,
    };
    run.go();
    run.finish(seed)
}

/// Sets short time-outs, so that connections end early and runs see many of them.
fn brisk(context: &mut DriverContext) {
    small(context);
    context.image_liveness_timeout_ns = 2 * SECOND_NS;
    context.publication_connection_timeout_ns = 3 * SECOND_NS / 2;
    context.publication_linger_timeout_ns = SECOND_NS;
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

    fn is_violated(&self) -> bool {
        !self.truth.borrow().violations.is_empty()
            || self.histories.iter().any(|history| !history.borrow().violations.is_empty())
    }

    fn terms(&self) -> usize {
        self.histories[0].borrow().terms()
    }

    fn sink(&self, who: String) -> ErrorSink {
        let truth = self.truth.clone();
        Box::new(move |role, error| {
            truth.borrow_mut().violate("agent error", format!("{who}: {role}: {error}"));
        })
    }

    fn start_unit(&mut self, unit: usize) {
        let seed = self.rng.next_u64();
        let rng = self.rng.fork();
        let own = &mut self.units[unit];
        own.life += 1;
        own.starts_at_ns = None;
        *own.standing.borrow_mut() = Standing::default();
        let (place, life, memory) = (own.place, own.life, own.memory.clone());
        let standing = own.standing.clone();
        let directory = format!("/dev/shm/unit{life}");
        self.kernel.state().note("start unit", &[unit as u64, life]);
        let mut context = DriverContext::new(&directory);
        brisk(&mut context);
        context.seed = seed;
        let transport = SimTransport::new(self.kernel.clone(), place.host);
        let now = self.kernel.now(place.host);
        let thread = self.world.thread(place.host, self.sink(format!("unit {}", place.name())));
        let driver = match Driver::build(context, memory.clone(), transport, ExecutorMode::Inline, &now) {
            Ok(driver) => driver,
            Err(error) => return self.violate("start", error.to_string()),
        };
        let channels = (
            directory,
            format!("0={}", endpoint(NODE, 20_110)),
            format!("aeron:udp?endpoint={}", endpoint(place.host, 0)),
        );
        let (kernel, truth) = (self.kernel.clone(), self.truth.clone());
        let started =
            Unit::new((place, life), kernel, memory, truth, standing, channels, rng).and_then(|unit| {
                let mut agents = driver.into_agents();
                agents.push(Box::new(unit));
                self.world.start(place.host, thread, agents).map_err(|error| error.to_string())
            });
        match started {
            Ok(()) => self.calm.on_unit_start(unit, self.now_ns()),
            Err(error) => self.violate("start", error),
        }
    }

    fn on_unit_death(&mut self, unit: usize) {
        let now_ns = self.now_ns();
        let own = &mut self.units[unit];
        let host = own.place.host;
        let driver = format!("/dev/shm/unit{}", own.life);
        inside::harvest(&self.kernel, host, &own.memory, &driver, &self.histories[0], false);
        self.world.kill(host);
        self.kernel.state().hosts[host].disk.remove_directory(Path::new(&driver));
        self.truth.borrow_mut().on_death((own.place.unit_id(), own.life));
        *own.standing.borrow_mut() = Standing::default();
        let down_ns = match own.death.take() {
            Some(Fault::ClientCrash { down_ns, of_machine, .. }) => {
                if of_machine {
                    self.kernel.restart_clock(host);
                }
                down_ns
            }
            _ => 0,
        };
        own.starts_at_ns = Some(now_ns + down_ns);
        self.calm.on_unit_death(unit);
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
        context.segment_length = 128 << 10;
        context.sync_level = self.scenario.sync_level;
        context.service_count = 2;
        context.session_timeout_ns = 2 * SECOND_NS;
        let mut contexts = PartContexts::of(&context, 2);
        brisk(&mut contexts.driver);
        contexts.archive.catalog_capacity = 4 << 10;
        contexts.archive.file_io_max_length = 64 << 10;
        contexts.archive.low_storage_space_threshold = 0;
        contexts
    }

    fn services(&self) -> Result<Vec<Box<dyn ClusteredService>>, String> {
        let [first, second] = self.histories.clone();
        let (truth, kernel) = (self.truth.clone(), self.kernel.clone());
        let leases = LeaseService::new(SETTINGS).map_err(|error| error.to_string())?;
        let recorder = Recorder::new(truth.clone());
        let fenced = FencedService::new(recorder, SETTINGS).map_err(|error| error.to_string())?;
        Ok(vec![
            Box::new(Witness::new(leases, first, truth.clone(), kernel.clone())),
            Box::new(Witness::new(fenced, second, truth, kernel)),
        ])
    }

    fn start_node(&mut self) {
        self.histories.iter().for_each(|history| history.borrow_mut().begin_life());
        let contexts = self.node_contexts();
        let incarnation = self.histories[0].borrow().incarnation;
        self.kernel.state().note("start node", &[incarnation]);
        let thread = self.world.thread(NODE, self.sink("node".into()));
        if self.is_log_alone
            && let Err(error) = self.forget_snapshots()
        {
            return self.violate("start", error);
        }
        let services = match self.services() {
            Ok(services) => services,
            Err(error) => return self.violate("start", error),
        };
        let (kernel, memory, world) = (self.kernel.clone(), self.memory.clone(), self.world.clone());
        let history = self.histories[0].clone();
        let launch = move || -> Result<(), String> {
            let transport = SimTransport::new(kernel.clone(), NODE);
            let storage = || Ok(SimStorage::new(kernel.clone(), NODE));
            let now = kernel.now(NODE);
            let parts = Composition::build(contexts, &memory, transport, storage, ExecutorMode::Inline, &now)
                .map_err(|error| error.to_string())?;
            check_catalog(parts.archive.catalog(), &history);
            let waiter = || world.waiter(NODE, &thread);
            let agents = parts.into_fused(services, waiter, &now).map_err(|error| error.to_string())?;
            world.start(NODE, thread.clone(), agents).map_err(|error| error.to_string())
        };
        match catch_unwind(AssertUnwindSafe(launch)) {
            Ok(Ok(())) => {}
            Ok(Err(error)) => self.violate("start", error),
            Err(payload) if payload.is::<ProcessDeath>() => {
                self.kernel.state().coverage.hit("crash while starting");
                self.on_node_death();
            }
            Err(_) => self.violate("panic", "while the node started"),
        }
    }

    /// Removes all snapshots from recording.log, so that the node begins with the log.
    fn forget_snapshots(&self) -> Result<(), String> {
        let now = self.kernel.now(NODE);
        let mut storage = SimStorage::new(self.kernel.clone(), NODE);
        let directory = Path::new("/var/node/cluster");
        while tool::invalidate_latest_snapshot(&self.memory, &mut storage, directory, &now)
            .map_err(|error| error.to_string())?
        {
            self.kernel.state().coverage.hit("snapshot forgotten for the log alone");
        }
        Ok(())
    }

    /// The node's process has died; its machine may have crashed as well.
    fn on_node_death(&mut self) {
        inside::harvest(&self.kernel, NODE, &self.memory, NODE_DRIVER, &self.histories[0], false);
        self.world.kill(NODE);
        self.operator.on_death();
        self.terms_before = self.terms();
        for (led_with, unit) in self.led_with.iter_mut().zip(&self.units) {
            *led_with = led_with.or(unit.standing.borrow().leads_with);
        }
        let now_ns = self.now_ns();
        self.calm.on_node_death(now_ns);
        let Some(Fault::Crash { of_machine, down_ns, .. }) = self.death.take() else {
            return self.starts_at_ns = Some(now_ns);
        };
        if of_machine {
            let mut state = self.kernel.state();
            let state = &mut *state;
            state.hosts[NODE].disk.crash(&mut state.rng, &mut state.coverage);
        }
        if of_machine {
            self.kernel.restart_clock(NODE);
        }
        self.kernel.state().coverage.hit(if of_machine { "machine crashed" } else { "process crashed" });
        self.starts_at_ns = Some(now_ns + down_ns);
    }

    fn apply_due_faults(&mut self) {
        let now_ns = self.now_ns();
        while let Some(fault) = self.scenario.plan.due(now_ns) {
            match fault {
                // Only one death is planned at a time.
                Fault::Crash { .. } if self.death.is_some() => continue,
                Fault::Crash { death, .. } => {
                    self.death = Some(fault);
                    self.kernel.state().hosts[NODE].death = Some(death);
                }
                Fault::ClientCrash { host, calls, .. } => {
                    let own = &mut self.units[host - 1];
                    if own.death.is_some() || own.starts_at_ns.is_some() {
                        continue;
                    }
                    own.death = Some(fault);
                    self.kernel.state().hosts[host].death = Some(Death::AtCall(calls));
                }
                _ => {}
            }
            self.calm.on_fault(&fault, now_ns);
            faults::apply(&self.kernel, &fault);
        }
    }

    fn step(&mut self) {
        self.apply_due_faults();
        let now_ns = self.now_ns();
        self.truth().now_ns = now_ns;
        if self.starts_at_ns.is_some_and(|at| now_ns >= at) {
            self.starts_at_ns = None;
            self.start_node();
        }
        for unit in 0..ALL_UNITS {
            if self.units[unit].starts_at_ns.is_some_and(|at| now_ns >= at) {
                self.start_unit(unit);
            }
        }
        match self.world.step() {
            Some(NODE) => self.on_node_death(),
            Some(host) => self.on_unit_death(host - 1),
            None => {}
        }
        if self.starts_at_ns.is_none() && self.world.is_alive(NODE) {
            let now = self.kernel.now(NODE);
            let seen = self.histories.iter().map(|history| history.borrow().events().len()).sum();
            if let Some(text) = self.operator.run(&now, seen) {
                self.violate("suspension", text);
            }
        }
        self.note_term();
        self.check_keepers();
        let ended: usize = (0..=ALL_UNITS).map(|host| self.world.ended_count(host)).sum();
        if ended > 0 && !self.is_violated() {
            self.violate("agent error", "an agent ended");
        }
    }
}
