//! Several agents on one thread, where one agent may wait for the others inside its own duty cycle.

use std::cell::{Cell, OnceCell};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use crate::{Agent, AgentError, Now};

/// Means by which code that has to wait lets other work go on.
///
/// Only a callback of a service waits, through `cluster.idle()`. On a thread of its own the wait is an idle strategy;
/// on a shared thread it runs the other agents ([`SharedThread`]).
pub trait Waiter {
    /// The present time.
    fn now(&self) -> Now;

    /// Lets other agents run or idles the thread; `work_count` is the work that the caller has just done.
    fn idle(&mut self, work_count: usize);
}

/// Time of a shared thread: the clock of the host with an idle strategy, or the clock of the simulator.
pub trait Pace {
    /// The present time.
    fn now(&self) -> Now;

    /// Called after a pass over all agents that did `work_count` work. Without work a real pace idles the thread, and
    /// a simulated pace moves its clock to the next arrival or to `next_deadline` (monotonic ns).
    fn rest(&self, work_count: usize, next_deadline: Option<i64>);
}

/// Receiver of the errors of agents: the error log in production, a list in tests.
pub type ErrorSink = Box<dyn Fn(&str, &AgentError)>;

/// Panic payload of a process that dies. The thread drops all agents without closing them, as the death of their
/// process would, and the panic continues to the runner of the thread. Back ends that simulate crashes raise it with
/// [`resume_unwind`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProcessDeath;

struct Slot {
    agent: Cell<Option<Box<dyn Agent>>>,
}

struct Inner {
    slots: OnceCell<Vec<Slot>>,
    pace: Box<dyn Pace>,
    on_error: ErrorSink,
    ended: Cell<usize>,
}

/// The agents of one thread and the handle by which one of them lets the others run.
///
/// An agent that runs is taken out of its slot, so a nested pass skips it and every agent below it on the call stack;
/// nothing is ever entered twice.
///
/// ```
/// use harrier_ringbuf::{Agent, AgentError, Now, SharedThread, Waiter, shared_thread::Pace};
/// use std::{cell::Cell, rc::Rc};
///
/// struct Still;
/// impl Pace for Still {
///     fn now(&self) -> Now { Now::default() }
///     fn rest(&self, _work: usize, _deadline: Option<i64>) {}
/// }
/// struct Giver(Rc<Cell<bool>>);
/// impl Agent for Giver {
///     fn role_name(&self) -> &str { "giver" }
///     fn do_work(&mut self, _: &Now) -> Result<usize, AgentError> { self.0.set(true); Ok(1) }
///     fn next_deadline(&self) -> Option<i64> { None }
/// }
/// struct Taker(Rc<Cell<bool>>, SharedThread);
/// impl Agent for Taker {
///     fn role_name(&self) -> &str { "taker" }
///     fn do_work(&mut self, _: &Now) -> Result<usize, AgentError> {
///         while !self.0.get() { self.1.idle(0) }
///         Ok(1)
///     }
///     fn next_deadline(&self) -> Option<i64> { None }
/// }
///
/// let flag = Rc::new(Cell::new(false));
/// let thread = SharedThread::new(Box::new(Still), Box::new(|_, _| ()));
/// thread.install(vec![Box::new(Taker(flag.clone(), thread.clone())), Box::new(Giver(flag))]).unwrap();
/// assert_eq!(thread.run_once(), 2);
/// thread.close();
/// ```
#[derive(Clone)]
pub struct SharedThread {
    inner: Rc<Inner>,
}

impl SharedThread {
    /// Creates a thread without agents, so that its handle can be given to the agents that [`install`](Self::install)
    /// adds.
    pub fn new(pace: Box<dyn Pace>, on_error: ErrorSink) -> Self {
        Self { inner: Rc::new(Inner { slots: OnceCell::new(), pace, on_error, ended: Cell::new(0) }) }
    }

    /// Starts the agents in order and makes them the ones that [`run_once`](Self::run_once) runs in order. On an error
    /// the agents already started are closed again.
    ///
    /// # Panics
    /// When agents have been installed before.
    pub fn install(&self, mut agents: Vec<Box<dyn Agent>>) -> Result<(), AgentError> {
        let now = self.inner.pace.now();
        for index in 0..agents.len() {
            if let Err(error) = agents[index].on_start(&now) {
                for started in agents[..=index].iter_mut().rev() {
                    started.on_close(&now);
                }
                return Err(error);
            }
        }
        let slots = agents.into_iter().map(|agent| Slot { agent: Cell::new(Some(agent)) }).collect();
        assert!(self.inner.slots.set(slots).is_ok(), "agents are installed once");
        Ok(())
    }

    /// Runs one pass over all agents that are not on the call stack, then idles as the pace decides. Returns the work
    /// done.
    ///
    /// # Panics
    ///
    /// A [`ProcessDeath`] continues; all other panics of agents end here.
    pub fn run_once(&self) -> usize {
        let now = self.inner.pace.now();
        let mut work_count = 0;
        let mut next_deadline: Option<i64> = None;
        for slot in self.slots() {
            let Some(mut agent) = slot.agent.take() else { continue };
            match catch_unwind(AssertUnwindSafe(|| agent.do_work(&now))) {
                Ok(Ok(work)) => work_count += work,
                Ok(Err(error)) => {
                    (self.inner.on_error)(agent.role_name(), &error);
                    if error.is_end() {
                        self.end(agent);
                        continue;
                    }
                }
                Err(payload) if payload.is::<ProcessDeath>() => {
                    drop(agent);
                    self.abandon();
                    resume_unwind(payload);
                }
                Err(payload) => {
                    let error = AgentError::Terminated(format!("panicked: {}", panic_text(payload.as_ref())));
                    (self.inner.on_error)(agent.role_name(), &error);
                    self.end(agent);
                    continue;
                }
            }
            next_deadline = match (next_deadline, agent.next_deadline()) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
            slot.agent.set(Some(agent));
        }
        self.inner.pace.rest(work_count, next_deadline);
        work_count
    }

    /// Number of agents that ended by themselves. A runner stops its thread when an agent that matters has ended.
    pub fn ended_count(&self) -> usize {
        self.inner.ended.get()
    }

    /// Closes all agents, last installed first.
    pub fn close(&self) {
        let now = self.inner.pace.now();
        for slot in self.slots().iter().rev() {
            if let Some(mut agent) = slot.agent.take() {
                agent.on_close(&now);
            }
        }
    }

    /// Drops all agents without closing them, as the death of their process would.
    pub fn abandon(&self) {
        for slot in self.slots() {
            drop(slot.agent.take());
        }
    }

    fn end(&self, mut agent: Box<dyn Agent>) {
        let now = self.inner.pace.now();
        if catch_unwind(AssertUnwindSafe(|| agent.on_close(&now))).is_err() {
            (self.inner.on_error)("close", &AgentError::Terminated("panicked while closing".into()));
        }
        self.inner.ended.set(self.inner.ended.get() + 1);
    }

    fn slots(&self) -> &[Slot] {
        self.inner.slots.get().map_or(&[], Vec::as_slice)
    }
}

impl Waiter for SharedThread {
    fn now(&self) -> Now {
        self.inner.pace.now()
    }

    fn idle(&mut self, _work_count: usize) {
        self.run_once();
    }
}

/// Returns the text of a panic, if it has one.
pub fn panic_text(payload: &(dyn std::any::Any + Send)) -> &str {
    payload
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
