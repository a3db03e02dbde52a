//! The operator of a node takes snapshots, suspends and resumes it at any moment of its life.

use std::collections::VecDeque;

use harrier_client::{Aeron, Context};
use harrier_cluster::tool::{ModuleCounters, ToggleCommand};
use harrier_ringbuf::{Now, Rng};

use crate::kernel::Kernel;
use crate::memory::SimMemory;

/// Interval between two checks of the node, ns.
const LOOK_NS: i64 = 5_000_000;
/// Time in which everything that was appended before a suspension reaches the services, ns.
const CALM_NS: i64 = 1_000_000_000;
/// Id of the cluster in counters.
const CLUSTER_ID: i32 = 0;

/// A command of the operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Take a snapshot.
    Snapshot,
    /// Suspend the node for a time.
    Suspend {
        /// Duration, ns.
        duration_ns: i64,
    },
}

/// Commands of a seed in the order of their times, virtual ns.
pub fn draw_commands(rng: &mut Rng, end_ns: i64) -> VecDeque<(i64, Command)> {
    let mut commands: Vec<(i64, Command)> = (0..rng.below(6))
        .map(|_| {
            let command = match rng.below(3) {
                0 => Command::Suspend { duration_ns: 200_000_000 + rng.below(2_500_000_000) as i64 },
                _ => Command::Snapshot,
            };
            (rng.below(end_ns as u64) as i64, command)
        })
        .collect();
    commands.sort_by_key(|(at, _)| *at);
    commands.into()
}

#[derive(Debug, Clone, Copy)]
enum Doing {
    Nothing,
    /// The toggle for a snapshot is set.
    AwaitSnapshot,
    /// The toggle for a suspension is set.
    AwaitSuspension {
        until_ns: i64,
    },
    /// The node is suspended; this is the number of events that its services had seen when they were idle.
    Suspended {
        since_ns: i64,
        until_ns: i64,
        seen: Option<usize>,
    },
}

/// The operator of a node.
pub struct Operator {
    kernel: Kernel,
    memory: SimMemory,
    aeron_directory: &'static str,
    commands: VecDeque<(i64, Command)>,
    /// Counters of the node's present life.
    counters: Option<ModuleCounters>,
    doing: Doing,
    next_look_ns: i64,
}

impl Operator {
    /// Creates an operator that will give these commands.
    pub fn new(
        kernel: Kernel,
        memory: SimMemory,
        aeron_directory: &'static str,
        commands: VecDeque<(i64, Command)>,
    ) -> Self {
        Self {
            kernel,
            memory,
            aeron_directory,
            commands,
            counters: None,
            doing: Doing::Nothing,
            next_look_ns: 0,
        }
    }

    /// The node is down: its last command is lost, or is in its log.
    pub fn on_death(&mut self) {
        self.counters = None;
        self.doing = Doing::Nothing;
    }

    /// True when no command is left.
    pub fn is_done(&self) -> bool {
        self.commands.is_empty() && matches!(self.doing, Doing::Nothing)
    }

    fn find_counters(&mut self, now: &Now) -> Option<ModuleCounters> {
        if self.counters.is_none() {
            let context = Context::new(self.aeron_directory);
            let aeron = Aeron::connect(context, self.memory.clone(), now).ok()?;
            self.counters = ModuleCounters::find(aeron.counters(), CLUSTER_ID).ok();
        }
        self.counters.clone()
    }

    /// Runs the operator while the node is up. `seen` is the number of events that its services have seen, over all
    /// lives. Returns a fault of the node.
    pub fn run(&mut self, now: &Now, seen: usize) -> Option<String> {
        let virtual_ns = self.kernel.state().now_ns;
        if virtual_ns < self.next_look_ns {
            return None;
        }
        self.next_look_ns = virtual_ns + LOOK_NS;
        let counters = self.find_counters(now)?;
        match self.doing {
            Doing::Nothing => self.go_on(&counters, virtual_ns),
            Doing::AwaitSnapshot => {
                if counters.is_leader() && counters.is_carried_out(ToggleCommand::Snapshot) {
                    self.hit("operator: snapshot taken");
                    self.doing = Doing::Nothing;
                }
            }
            Doing::AwaitSuspension { until_ns } => {
                if counters.state() == "SUSPENDED" {
                    self.hit("operator: node suspended");
                    self.doing = Doing::Suspended { since_ns: virtual_ns, until_ns, seen: None };
                }
            }
            Doing::Suspended { since_ns, until_ns, seen: before } => {
                if before.is_some_and(|before| seen != before) {
                    return Some(format!("{before:?} events became {seen} while it was suspended"));
                }
                let is_calm = virtual_ns > since_ns + CALM_NS;
                let seen = before.or(is_calm.then_some(seen));
                self.doing = Doing::Suspended { since_ns, until_ns, seen };
                if virtual_ns >= until_ns {
                    self.resume(&counters);
                }
            }
        }
        None
    }

    fn go_on(&mut self, counters: &ModuleCounters, virtual_ns: i64) {
        if !counters.is_leader() {
            return;
        }
        if counters.state() == "SUSPENDED" {
            self.hit("operator: node came back suspended");
            return self.resume(counters);
        }
        let Some((at, command)) = self.commands.front().copied() else { return };
        if virtual_ns < at {
            return;
        }
        let (toggle, doing) = match command {
            Command::Snapshot => (ToggleCommand::Snapshot, Doing::AwaitSnapshot),
            Command::Suspend { duration_ns } => {
                (ToggleCommand::Suspend, Doing::AwaitSuspension { until_ns: virtual_ns + duration_ns })
            }
        };
        if counters.give(toggle).is_ok() {
            self.kernel.state().note(toggle.name(), &[]);
            self.commands.pop_front();
            self.doing = doing;
        }
    }

    fn resume(&mut self, counters: &ModuleCounters) {
        if counters.give(ToggleCommand::Resume).is_ok() {
            self.kernel.state().note("resume", &[]);
            self.doing = Doing::Nothing;
        }
    }

    fn hit(&self, what: &'static str) {
        self.kernel.state().coverage.hit(what);
    }
}
