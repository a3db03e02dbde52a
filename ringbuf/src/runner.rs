//! Threads that run agents (spec 01 §5.6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use crate::idle::IdleStrategy;
use crate::shared_thread::Pace;
use crate::{Clock, Now, SharedThread, Waiter};

/// Pace of a real thread: a clock, and an idle strategy for passes without work.
pub struct ThreadPace<C: Clock> {
    clock: C,
    idle: std::cell::RefCell<IdleStrategy>,
}

impl<C: Clock> ThreadPace<C> {
    /// Creates a pace on `clock` that idles with `idle`.
    pub fn new(clock: C, idle: IdleStrategy) -> Self {
        Self { clock, idle: std::cell::RefCell::new(idle) }
    }
}

impl<C: Clock> Pace for ThreadPace<C> {
    #[inline]
    fn now(&self) -> Now {
        self.clock.now()
    }

    #[inline]
    fn rest(&self, work_count: usize, _next_deadline: Option<i64>) {
        self.idle.borrow_mut().idle(work_count);
    }
}

impl<C: Clock> Waiter for ThreadPace<C> {
    fn now(&self) -> Now {
        self.clock.now()
    }

    fn idle(&mut self, work_count: usize) {
        self.idle.get_mut().idle(work_count);
    }
}

/// A thread that runs a [`SharedThread`] until it is told to stop or one of its agents ends.
#[derive(Debug)]
pub struct AgentRunner {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), String>>>,
}

impl AgentRunner {
    /// Starts a thread named `name`. `build` runs on it, so that the agents need not be `Send`; it installs the
    /// agents and returns the handle.
    ///
    /// # Errors
    ///
    /// The system refuses another thread.
    #[expect(clippy::disallowed_methods, reason = "runners own threads")]
    pub fn start(
        name: &str,
        build: impl FnOnce() -> Result<SharedThread, String> + Send + 'static,
    ) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(move || {
            let agents = build()?;
            while !stopped.load(Ordering::Relaxed) && agents.ended_count() == 0 {
                agents.run_once();
            }
            let ended = agents.ended_count();
            agents.close();
            if ended > 0 { Err("an agent ended by itself; see the error log".to_owned()) } else { Ok(()) }
        })?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// True when the thread has ended or is about to end.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the agents and waits for the thread.
    ///
    /// # Errors
    ///
    /// The reason why the thread did not end normally.
    pub fn stop(mut self) -> Result<(), String> {
        self.join()
    }

    fn join(&mut self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.take().map(JoinHandle::join) {
            None => Ok(()),
            Some(Ok(result)) => result,
            Some(Err(payload)) => Err(crate::shared_thread::panic_text(payload.as_ref()).to_owned()),
        }
    }
}

impl Drop for AgentRunner {
    fn drop(&mut self) {
        // A caller that wants to know how the thread ended calls `stop`.
        let _unasked = self.join();
    }
}
