//! Hosts that take turns, and the clock that moves when they have nothing to do.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::{Rc, Weak};

use harrier_ringbuf::shared_thread::{ErrorSink, Pace, ProcessDeath};
use harrier_ringbuf::{Agent, AgentError, Now, SharedThread, Waiter};

use crate::kernel::{HostId, Kernel};

/// Longest time between two turns in which no host wants to run, ns.
const LONGEST_REST_NS: i64 = 20_000_000;
/// Longest duration of a turn with work, ns.
const TURN_NS: u64 = 2_000;

/// Result of the last pass of a host's thread.
#[derive(Default)]
struct Turn {
    deadline_ns: Cell<Option<i64>>,
    work_count: Cell<usize>,
}

struct HostPace {
    kernel: Kernel,
    host: HostId,
    turn: Rc<Turn>,
}

impl Pace for HostPace {
    fn now(&self) -> Now {
        self.kernel.now(self.host)
    }

    fn rest(&self, work_count: usize, next_deadline: Option<i64>) {
        self.turn.work_count.set(work_count);
        self.turn.deadline_ns.set(next_deadline.map(|ns| self.kernel.virtual_ns(self.host, ns)));
    }
}

#[derive(Default)]
struct Hosts {
    threads: RefCell<Vec<Option<SharedThread>>>,
    turns: Vec<Rc<Turn>>,
}

/// All hosts of a run.
#[derive(Clone)]
pub struct World {
    kernel: Kernel,
    hosts: Rc<Hosts>,
}

/// Wait of a callback on a host: all other agents go on, and time passes.
struct HostWaiter {
    thread: SharedThread,
    host: HostId,
    kernel: Kernel,
    hosts: Weak<Hosts>,
}

impl Waiter for HostWaiter {
    fn now(&self) -> Now {
        self.kernel.now(self.host)
    }

    fn idle(&mut self, work_count: usize) {
        self.kernel.state().coverage.hit("callback waited");
        self.kernel.enter(self.host);
        let own_work = self.thread.run_once();
        if let Some(hosts) = self.hosts.upgrade() {
            let world = World { kernel: self.kernel.clone(), hosts };
            world.turn(Some(self.host), work_count + own_work);
        }
    }
}

impl World {
    /// Creates a world of `host_count` hosts without processes.
    pub fn new(kernel: Kernel, host_count: usize) -> Self {
        let hosts = Hosts {
            threads: RefCell::new((0..host_count).map(|_| None).collect()),
            turns: (0..host_count).map(|_| Rc::default()).collect(),
        };
        Self { kernel, hosts: Rc::new(hosts) }
    }

    /// Returns the shared state.
    pub fn kernel(&self) -> &Kernel {
        &self.kernel
    }

    /// Creates a thread for the process of a host; its agents do not exist yet.
    pub fn thread(&self, host: HostId, on_error: ErrorSink) -> SharedThread {
        let pace = HostPace { kernel: self.kernel.clone(), host, turn: self.hosts.turns[host].clone() };
        self.kernel.state().hosts[host].is_dead = false;
        self.hosts.turns[host].work_count.set(1);
        SharedThread::new(Box::new(pace), on_error)
    }

    /// Returns the waiter for callbacks on a host's thread.
    pub fn waiter(&self, host: HostId, thread: &SharedThread) -> Box<dyn Waiter> {
        Box::new(HostWaiter {
            thread: thread.clone(),
            host,
            kernel: self.kernel.clone(),
            hosts: Rc::downgrade(&self.hosts),
        })
    }

    /// Starts the process of a host.
    ///
    /// # Errors
    ///
    /// The agent that does not start.
    pub fn start(
        &self,
        host: HostId,
        thread: SharedThread,
        agents: Vec<Box<dyn Agent>>,
    ) -> Result<(), AgentError> {
        thread.install(agents)?;
        self.hosts.threads.borrow_mut()[host] = Some(thread);
        Ok(())
    }

    /// Kills the process of a host: nothing is closed.
    pub fn kill(&self, host: HostId) {
        self.kernel.state().hosts[host].is_dead = true;
        let thread = self.hosts.threads.borrow_mut()[host].take();
        if let Some(thread) = thread {
            thread.abandon();
        }
    }

    /// Ends the process of a host cleanly.
    pub fn close(&self, host: HostId) {
        let thread = self.hosts.threads.borrow_mut()[host].take();
        if let Some(thread) = thread {
            thread.close();
        }
    }

    /// Lets the process of a host check changes around it at once.
    pub fn wake(&self, host: HostId) {
        self.hosts.turns[host].work_count.set(1);
    }

    /// True while a host's process lives.
    pub fn is_alive(&self, host: HostId) -> bool {
        self.hosts.threads.borrow()[host].is_some()
    }

    /// Returns the number of a host's agents that have ended by themselves.
    pub fn ended_count(&self, host: HostId) -> usize {
        self.hosts.threads.borrow()[host].as_ref().map_or(0, SharedThread::ended_count)
    }

    /// Runs one turn of every host, then moves the time. Returns the host whose process has died in it.
    pub fn step(&self) -> Option<HostId> {
        let before: Vec<bool> = self.hosts.threads.borrow().iter().map(Option::is_some).collect();
        let died = catch_unwind(AssertUnwindSafe(|| self.turn(None, 0)));
        match died {
            Ok(()) => None,
            Err(payload) if payload.is::<ProcessDeath>() => {
                let dead = (0..before.len())
                    .find(|host| before[*host] && self.kernel.is_dead(*host))
                    .expect("a death has a host");
                self.hosts.threads.borrow_mut()[dead] = None;
                Some(dead)
            }
            Err(payload) => resume_unwind(payload),
        }
    }

    fn turn(&self, except: Option<HostId>, work_before: usize) {
        let count = self.hosts.turns.len();
        let first = self.kernel.state().rng.below(count as u64) as usize;
        let mut work_count = work_before;
        for index in 0..count {
            let host = (first + index) % count;
            if Some(host) == except {
                continue;
            }
            let thread = self.hosts.threads.borrow()[host].clone();
            if let Some(thread) = thread.filter(|_| self.has_something_to_do(host)) {
                let own_work = thread.run_once();
                work_count += own_work;
                if own_work > 0 {
                    self.wake_neighbours(host);
                }
            }
        }
        self.advance(work_count);
    }

    /// Wakes the other processes on a machine, which see in memory what one of them has done.
    fn wake_neighbours(&self, host: HostId) {
        let machine = self.kernel.machine_of(host);
        for (other, turn) in self.hosts.turns.iter().enumerate() {
            if other != host && self.kernel.machine_of(other) == machine {
                turn.work_count.set(1);
            }
        }
    }

    /// True when a host has something to do: a host that found nothing to do finds nothing again before a time or an
    /// arrival that it waits for.
    fn has_something_to_do(&self, host: HostId) -> bool {
        let turn = &self.hosts.turns[host];
        let state = self.kernel.state();
        if state.stalled_until_ns(host).is_some() {
            return false;
        }
        turn.work_count.get() > 0
            || turn.deadline_ns.get().is_none_or(|deadline_ns| deadline_ns <= state.now_ns)
            || state.woken[host]
            || state.network.next_arrival_ns(host).is_some_and(|at| at <= state.now_ns)
    }

    fn advance(&self, work_count: usize) {
        let threads = self.hosts.threads.borrow();
        let mut state = self.kernel.state();
        let now_ns = state.now_ns;
        let turns = self.hosts.turns.iter().zip(threads.iter()).enumerate();
        let living = turns.filter(|(_, (_, thread))| thread.is_some());
        // A process that is not run does nothing before it is run again.
        let deadline = living
            .filter_map(|(host, (turn, _))| state.stalled_until_ns(host).or_else(|| turn.deadline_ns.get()))
            .min();
        state.coverage.hit(if work_count > 0 { "turn with work" } else { "turn without work" });
        if work_count == 0 && deadline.is_some_and(|d| d <= now_ns + 200) {
            state.coverage.hit("turn at a deadline that passed");
        }
        if work_count > 0 {
            let cost_ns = 1 + state.rng.below(TURN_NS) as i64;
            state.now_ns = now_ns + cost_ns;
        } else {
            let arrival = (0..self.hosts.turns.len())
                .filter(|host| state.stalled_until_ns(*host).is_none())
                .filter_map(|host| state.network.next_arrival_ns(host))
                .min();
            let wake = state.wakes.first().map(|(at, _)| *at);
            let next_ns = [deadline, arrival, wake].into_iter().flatten().min();
            let next_ns = next_ns.unwrap_or(i64::MAX).clamp(now_ns + 200, now_ns + LONGEST_REST_NS);
            state.now_ns = next_ns;
        }
        let now_ns = state.now_ns;
        state.woken.fill(false);
        while let Some((at, host)) = state.wakes.first().copied()
            && at <= now_ns
        {
            state.wakes.pop_first();
            state.woken[host] = true;
        }
    }
}
