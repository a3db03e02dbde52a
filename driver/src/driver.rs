//! Composes a driver and runs it on threads (spec 02 §5.10, §5.14).

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use harrier_ringbuf::idle::IdleStrategy;
use harrier_ringbuf::runner::{AgentRunner, ThreadPace};
use harrier_ringbuf::shared_thread::ErrorSink;
use harrier_ringbuf::{Agent, Clock, Memory, Now, SharedThread, Transport};

use crate::cnc::{Cnc, PreviousError, StartError, write_owner};
use crate::conductor::{Conductor, Queues};
use crate::context::{Affinity, DriverContext, ThreadingMode};
use crate::error_notes::ErrorNote;
use crate::executor::{Executor, ExecutorAgent};
use crate::receiver::Receiver;
use crate::resolver::Names;
use crate::sender::Sender;
use crate::settings;
use crate::system_counters::SystemCounters;

/// Errors of agents on their way to the driver's error log. The lock is taken only when there are errors.
#[derive(Debug, Default)]
pub struct ErrorInbox {
    filled: AtomicBool,
    list: Mutex<Vec<ErrorNote>>,
}

impl ErrorInbox {
    /// Adds an error for the conductor. Errors with equal texts are of one kind.
    pub fn push(&self, text: String) {
        self.push_note(ErrorNote { kind: text.clone().into(), count: 1, text });
    }

    /// Adds an error of a kind for the conductor. All errors of one kind share an entry of the error log.
    pub fn push_kind(&self, kind: &'static str, text: String) {
        self.push_note(ErrorNote::new(kind, text));
    }

    fn push_note(&self, note: ErrorNote) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        match list.iter_mut().find(|other| other.kind == note.kind) {
            Some(other) => other.count = other.count.saturating_add(1),
            None => list.push(note),
        }
        self.filled.store(true, Ordering::Release);
    }

    /// Takes the texts of all errors.
    pub fn drain(&self) -> Vec<String> {
        self.take().unwrap_or_default().into_iter().map(|note| note.text).collect()
    }

    /// Takes all errors; returns `None` without taking the lock when there are none.
    pub(crate) fn take(&self) -> Option<Vec<ErrorNote>> {
        if !self.filled.load(Ordering::Acquire) {
            return None;
        }
        self.filled.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *self.list.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Ids of logs to allocate whole, on their way to the conductor. The lock is taken only when there are ids.
#[derive(Debug, Default)]
pub(crate) struct AllocationHints {
    filled: AtomicBool,
    ids: Mutex<Vec<i64>>,
}

impl AllocationHints {
    fn push(&self, id: i64) {
        let mut ids = self.ids.lock().unwrap_or_else(PoisonError::into_inner);
        if !ids.contains(&id) {
            ids.push(id);
        }
        self.filled.store(true, Ordering::Release);
    }

    /// Takes all ids; returns `None` without taking the lock when there are none.
    #[inline]
    pub(crate) fn take(&self) -> Option<Vec<i64>> {
        if !self.filled.load(Ordering::Acquire) {
            return None;
        }
        self.filled.store(false, Ordering::Relaxed);
        Some(std::mem::take(&mut *self.ids.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// State that the owner of a driver shares with its agents.
#[derive(Debug, Clone, Default)]
pub struct DriverHandle {
    /// True once an allowed TERMINATE_DRIVER was read.
    pub is_terminating: Arc<AtomicBool>,
    /// Errors for the driver's error log.
    pub errors: Arc<ErrorInbox>,
    /// Logs to allocate whole.
    pub(crate) allocations: Arc<AllocationHints>,
    /// Error of the driver's close, once it has closed.
    pub close_failure: Arc<OnceLock<String>>,
}

impl DriverHandle {
    /// Requests the allocation of a whole log whose channel has `log-allocation=hint`, for instance once its session is
    /// authenticated (spec 02 §5.9). `id` is the correlation id of the image, or the registration id of the exclusive
    /// publication. Unknown ids and logs that are allocated are ignored.
    pub fn allocate_log(&self, id: i64) {
        self.allocations.push(id);
    }

    /// Returns a sink that puts errors of agents into the driver's error log.
    pub fn error_sink(&self) -> ErrorSink {
        let errors = self.errors.clone();
        Box::new(move |role, error| errors.push(format!("{role}: {error}")))
    }
}

/// Place where jobs that may block run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutorMode {
    /// On the conductor.
    Inline,
    /// On a separate agent.
    Queued,
}

/// The agents of a driver whose CnC file clients can open.
pub struct Driver<M: Memory, T: Transport> {
    /// Handles commands, counters, limits and timers.
    pub conductor: Conductor<M, T>,
    /// Sends the data of publications.
    pub sender: Sender<T>,
    /// Receives the data of subscriptions.
    pub receiver: Receiver<T>,
    /// Runs the jobs that may block, when the executor is queued.
    pub executor: Option<ExecutorAgent<M, T>>,
    /// State that the agents share with the owner.
    pub handle: DriverHandle,
    /// Errors that the previous driver of the directory had recorded.
    pub previous_errors: Vec<PreviousError>,
    context: DriverContext,
}

impl<M: Memory, T: Transport> Driver<M, T> {
    /// Takes the directory, writes its files and makes the agents. Clients can connect when this returns; they are
    /// answered once the agents run.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn build(
        context: DriverContext,
        memory: M,
        transport: T,
        mode: ExecutorMode,
        now: &Now,
    ) -> Result<Self, StartError> {
        let limits = transport.buffer_limits();
        context.validate(&limits)?;
        let interceptor = settings::interceptor(&context)?;
        let mut cnc = Cnc::create(&context, &memory, now)?;
        let handle = DriverHandle::default();
        let (system, names) = match furnish(&context, &memory, transport, &mut cnc, &handle, now) {
            Ok(furnished) => furnished,
            Err(error) => {
                // The first error is more useful than a failure to remove the file.
                let _best_effort = cnc.remove(&memory, &context.directory);
                return Err(error);
            }
        };
        cnc.publish(now);
        let previous_errors = std::mem::take(&mut cnc.previous_errors);
        let capacity = context.command_queue_capacity;
        let (to_sender, sender_commands) = rtrb::RingBuffer::new(capacity);
        let (to_receiver, receiver_commands) = rtrb::RingBuffer::new(capacity);
        let (sender_replies, from_sender) = rtrb::RingBuffer::new(capacity);
        let (receiver_replies, from_receiver) = rtrb::RingBuffer::new(capacity);
        let (executor, executor_agent) = match mode {
            ExecutorMode::Inline => (Executor::inline(memory.clone(), names), None),
            ExecutorMode::Queued => {
                let (executor, agent) = Executor::queued(memory.clone(), names, capacity);
                (executor, Some(agent))
            }
        };
        let sender = Sender::new(settings::sender(&context), sender_commands, sender_replies, system.clone());
        let receiver = Receiver::new(
            settings::receiver(&context, interceptor),
            receiver_commands,
            receiver_replies,
            system.clone(),
        );
        let queues = Queues { to_sender, to_receiver, from_sender, from_receiver };
        let conductor = Conductor::new(
            context.clone(),
            limits,
            memory,
            cnc,
            system,
            executor,
            queues,
            handle.clone(),
            now,
        );
        Ok(Self { conductor, sender, receiver, executor: executor_agent, handle, previous_errors, context })
    }

    /// Returns the agents in the order for a thread that they share with the application: the sender sends the data
    /// that the application offered in the last pass, and the receiver delivers data just before the application runs
    /// again.
    pub fn into_agents(self) -> Vec<Box<dyn Agent>> {
        let mut agents: Vec<Box<dyn Agent>> =
            vec![Box::new(self.sender), Box::new(self.conductor), Box::new(self.receiver)];
        if let Some(executor) = self.executor {
            agents.push(Box::new(executor));
        }
        agents
    }

    /// Runs the agents on the threads of the threading mode. With [`ThreadingMode::Invoker`] use
    /// [`into_agents`](Self::into_agents) instead.
    ///
    /// # Errors
    /// The system has no thread left. Clients then see the driver as gone.
    pub fn launch<C: Clock + Clone + Send + 'static>(
        self,
        clock: C,
        pin: fn(usize) -> bool,
    ) -> std::io::Result<RunningDriver> {
        let heartbeat = self.conductor.heartbeat();
        let launched = self.launch_agents(clock, pin);
        if launched.is_err() {
            heartbeat.set_consumer_heartbeat_ms(-1);
        }
        launched
    }

    fn launch_agents<C: Clock + Clone + Send + 'static>(
        self,
        clock: C,
        pin: fn(usize) -> bool,
    ) -> std::io::Result<RunningDriver> {
        let Self { conductor, sender, receiver, executor, handle, context, .. } = self;
        let start = |name: &str, agents: Vec<Box<dyn Agent + Send>>, idle: &IdleStrategy, core: Affinity| {
            run(name, agents, &clock, idle, core, pin, &handle)
        };
        let mut runners = match context.threading_mode {
            ThreadingMode::Dedicated => vec![
                start("sender", vec![Box::new(sender)], &context.sender_idle, context.sender_affinity)?,
                start(
                    "receiver",
                    vec![Box::new(receiver)],
                    &context.receiver_idle,
                    context.receiver_affinity,
                )?,
                start(
                    "driver-conductor",
                    vec![Box::new(conductor)],
                    &context.conductor_idle,
                    context.conductor_affinity,
                )?,
            ],
            ThreadingMode::SharedNetwork => vec![
                start(
                    "[sender,receiver]",
                    vec![Box::new(sender), Box::new(receiver)],
                    &context.shared_network_idle,
                    context.sender_affinity,
                )?,
                start(
                    "driver-conductor",
                    vec![Box::new(conductor)],
                    &context.conductor_idle,
                    context.conductor_affinity,
                )?,
            ],
            ThreadingMode::Shared | ThreadingMode::Invoker => vec![start(
                "[sender,receiver,driver-conductor]",
                vec![Box::new(receiver), Box::new(conductor), Box::new(sender)],
                &context.shared_idle,
                context.conductor_affinity,
            )?],
        };
        if let Some(executor) = executor {
            let idle = &context.async_executor_idle;
            runners.insert(0, start("aeron-executor", vec![Box::new(executor)], idle, None)?);
        }
        Ok(RunningDriver { runners, handle })
    }
}

/// Creates the driver's state besides its files, before clients can find the driver.
fn furnish<M: Memory, T: Transport>(
    context: &DriverContext,
    memory: &M,
    transport: T,
    cnc: &mut Cnc<M>,
    handle: &DriverHandle,
    now: &Now,
) -> Result<(SystemCounters, Names<T>), StartError> {
    write_owner(memory, &context.directory)?;
    let system = SystemCounters::allocate(&mut cnc.counters, context, now.epoch_ms)
        .map_err(|error| StartError::Layout(error.to_string()))?;
    let names = Names::new(context, transport, &mut cnc.counters, &system, handle)?;
    Ok((system, names))
}

fn run<C: Clock + Clone + Send + 'static>(
    name: &str,
    agents: Vec<Box<dyn Agent + Send>>,
    clock: &C,
    idle: &IdleStrategy,
    core: Affinity,
    pin: fn(usize) -> bool,
    handle: &DriverHandle,
) -> std::io::Result<AgentRunner> {
    let (clock, idle, handle) = (clock.clone(), idle.clone(), handle.clone());
    let thread_name = name.to_owned();
    AgentRunner::start(name, move || {
        if let Some(core) = core
            && !pin(core)
        {
            handle.errors.push(format!("WARNING: cannot pin {thread_name} to core {core}"));
        }
        let thread = SharedThread::new(Box::new(ThreadPace::new(clock, idle)), handle.error_sink());
        let agents = agents.into_iter().map(|agent| agent as Box<dyn Agent>).collect();
        thread.install(agents).map_err(|error| error.to_string())?;
        Ok(thread)
    })
}

/// A driver that runs on threads. Dropping it stops it.
#[derive(Debug)]
pub struct RunningDriver {
    runners: Vec<AgentRunner>,
    handle: DriverHandle,
}

impl RunningDriver {
    /// True when a client has ended the driver, or one of its agents has ended by itself.
    pub fn is_ending(&self) -> bool {
        self.handle.is_terminating.load(Ordering::Acquire)
            || self.runners.iter().any(AgentRunner::is_finished)
    }

    /// Stops all agents, the conductor last.
    ///
    /// # Errors
    /// An agent did not end normally, or could not remove something.
    pub fn stop(mut self) -> Result<(), String> {
        let mut outcome = Ok(());
        for runner in self.runners.drain(..) {
            if let Err(error) = runner.stop() {
                outcome = Err(error);
            }
        }
        outcome.map_err(|error| {
            // The conductor has ended, so these errors have not reached the error log.
            let unlogged = self.handle.errors.drain();
            if unlogged.is_empty() { error } else { format!("{error}: {}", unlogged.join("; ")) }
        })?;
        self.handle.close_failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }
}
