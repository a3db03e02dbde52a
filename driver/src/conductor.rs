//! The conductor: commands of clients, counters, limits of publications and images, timers (spec 02 §5).

mod allocations;
mod clients;
mod commands;
mod destinations;
mod endpoints;
mod image_counters;
mod images;
mod ipc;
mod network;
mod pending;
mod re_resolution;
mod receive_destinations;
mod responses;
mod sessions;
mod spies;
mod subscriptions;

use std::collections::VecDeque;

use harrier_ringbuf::loss_report::LossReport;
use harrier_ringbuf::many_to_one::ManyToOneRing;
use harrier_ringbuf::transport::BufferLimits;
use harrier_ringbuf::{Agent, AgentError, IdMap, Memory, Now, Rng, Transport};

use crate::cnc::{Cnc, CncEnd};
use crate::context::DriverContext;
use crate::counters::Counters;
use crate::driver::DriverHandle;
use crate::events::Events;
use crate::executor::{Executor, ExecutorFull, Job, JobResult};
use crate::handover::{ConductorCommand, ReceiverCommand, SenderCommand};
use crate::ipc_publication::IpcPublication;
use crate::log_files::LogFile;
use crate::port_manager::PortManager;
use crate::subscribers::TetherChange;
use crate::system_counters::{CycleTracker, SystemCounter, SystemCounters};
use clients::Clients;
use endpoints::{ReceiveEndpoint, SendEndpoint};
use images::ImageEntry;
use network::PublicationEntry;
use pending::Pending;
use sessions::Sessions;
use subscriptions::Subscription;

/// Queues between the conductor and the two network agents.
pub(crate) struct Queues<T: Transport> {
    pub(crate) to_sender: rtrb::Producer<SenderCommand<T>>,
    pub(crate) to_receiver: rtrb::Producer<ReceiverCommand<T>>,
    pub(crate) from_sender: rtrb::Consumer<ConductorCommand<T>>,
    pub(crate) from_receiver: rtrb::Consumer<ConductorCommand<T>>,
}

/// The conductor of a driver.
pub struct Conductor<M: Memory, T: Transport> {
    context: DriverContext,
    limits: BufferLimits,
    cnc: Retirement<M>,
    to_driver: ManyToOneRing,
    counters: Counters,
    events: Events,
    system: SystemCounters,
    loss_report: LossReport,
    cycle: CycleTracker,
    executor: Executor<M, T>,
    queues: Queues<T>,
    /// Commands that did not fit into their queue, in order.
    unsent_sender: VecDeque<SenderCommand<T>>,
    unsent_receiver: VecDeque<ReceiverCommand<T>>,
    rng: Rng,
    now: Now,
    next_timer_ns: i64,
    /// Time at which failed allocations are tried again, ns.
    next_allocation_ns: i64,
    ring_check: RingCheck,
    command: Vec<u8>,
    /// True while a client's command waits for the executor. The next command is read after it (spec 02 §5.4).
    in_flight: bool,
    pending: IdMap<u64, Pending>,
    next_mark: u64,
    clients: Clients,
    sessions: Sessions,
    subscriptions: Vec<Subscription>,
    ipc: Vec<IpcPublication>,
    publications: Vec<PublicationEntry>,
    images: Vec<ImageEntry>,
    send_endpoints: Vec<SendEndpoint>,
    receive_endpoints: Vec<ReceiveEndpoint>,
    next_endpoint_id: u64,
    next_receiver_id: i64,
    closed_logs: VecDeque<LogFile>,
    tether_changes: Vec<TetherChange>,
    send_ports: PortManager,
    receive_ports: PortManager,
    handle: DriverHandle,
}

/// The CnC file, which is marked as ended when the conductor closes.
struct Retirement<M: Memory> {
    memory: M,
    cnc: Option<CncEnd<M>>,
}

/// Last move of the command ring's consumer (spec 02 §5.2, 3).
struct RingCheck {
    position: i64,
    moved_ns: i64,
}

impl<M: Memory, T: Transport> Conductor<M, T> {
    /// Creates the conductor of a fresh CnC file.
    #[expect(clippy::too_many_arguments, reason = "called once, where the driver is put together")]
    pub(crate) fn new(
        context: DriverContext,
        limits: BufferLimits,
        memory: M,
        cnc: Cnc<M>,
        system: SystemCounters,
        executor: Executor<M, T>,
        queues: Queues<T>,
        handle: DriverHandle,
        now: &Now,
    ) -> Self {
        let mut rng = Rng::new(context.seed);
        let cycle = CycleTracker::new(
            system.get(SystemCounter::ConductorMaxCycleTime).clone(),
            system.get(SystemCounter::ConductorCycleTimeThresholdExceeded).clone(),
            context.conductor_cycle_threshold_ns,
        );
        system.get(SystemCounter::BytesCurrentlyMapped).set_ordered(cnc.mapped_length as i64);
        let parts = cnc.into_parts();
        let sessions = Sessions::new(
            rng.next_i32(),
            context.publication_reserved_session_id_low,
            context.publication_reserved_session_id_high,
        );
        Self {
            limits,
            cnc: Retirement { memory, cnc: Some(parts.end) },
            to_driver: parts.to_driver,
            counters: Counters::new(parts.counters),
            events: Events::new(parts.to_clients, parts.error_log, system.clone(), context.event_max_length),
            loss_report: parts.loss_report,
            system,
            cycle,
            executor,
            queues,
            unsent_sender: VecDeque::new(),
            unsent_receiver: VecDeque::new(),
            now: *now,
            next_timer_ns: now.ns,
            next_allocation_ns: now.ns,
            ring_check: RingCheck { position: 0, moved_ns: now.ns },
            command: Vec::with_capacity(4_096),
            in_flight: false,
            pending: IdMap::default(),
            next_mark: 0,
            clients: Clients::default(),
            sessions,
            subscriptions: Vec::new(),
            ipc: Vec::new(),
            publications: Vec::new(),
            images: Vec::new(),
            send_endpoints: Vec::new(),
            receive_endpoints: Vec::new(),
            next_endpoint_id: 0,
            next_receiver_id: rng.next_u64() as i64,
            closed_logs: VecDeque::new(),
            tether_changes: Vec::new(),
            send_ports: PortManager::new(context.sender_wildcard_port_range),
            receive_ports: PortManager::new(context.receiver_wildcard_port_range),
            handle,
            rng,
            context,
        }
    }

    /// The ring whose header holds the driver's heartbeat.
    pub(crate) fn heartbeat(&self) -> ManyToOneRing {
        self.to_driver.clone()
    }

    fn run_timers(&mut self) {
        self.to_driver.set_consumer_heartbeat_ms(self.now.epoch_ms);
        self.check_clients();
        self.check_publications();
        self.check_images();
        self.check_ipc();
        self.check_unresolved();
        self.check_ring();
        self.retry_allocations();
    }

    /// Unblocks the ring when a client has died inside a claim (spec 01 §3.4).
    fn check_ring(&mut self) {
        let position = self.to_driver.consumer_position();
        let is_stuck = position == self.ring_check.position && self.to_driver.producer_position() > position;
        if !is_stuck {
            self.ring_check = RingCheck { position, moved_ns: self.now.ns };
        } else if self.now.ns > self.ring_check.moved_ns + self.context.client_liveness_timeout_ns
            && self.to_driver.unblock()
        {
            self.system.get(SystemCounter::UnblockedCommands).increment();
            self.ring_check.moved_ns = self.now.ns;
        }
    }

    /// Submits a job whose result is handled as `pending` says. The command fails when the executor is full.
    fn submit(&mut self, job: Job, pending: Pending) -> Result<(), ExecutorFull> {
        let mark = self.next_mark;
        self.next_mark += 1;
        if self.executor.submit(mark, job).is_err() {
            self.system.get(SystemCounter::FailedExecutorOffers).increment();
            return Err(ExecutorFull);
        }
        self.in_flight |= pending.is_client_command();
        self.pending.insert(mark, pending);
        Ok(())
    }

    fn take_results(&mut self) -> usize {
        let mut work_count = 0;
        while let Some((mark, result)) = self.executor.poll() {
            work_count += 1;
            let result = match result {
                JobResult::Freed(freed) => {
                    self.on_freed(freed);
                    continue;
                }
                JobResult::Allocated { id, outcome } => {
                    self.on_allocated(id, outcome);
                    continue;
                }
                result => result,
            };
            let Some(pending) = self.pending.remove(&mark) else { continue };
            if pending.is_client_command() {
                self.in_flight = false;
            }
            self.resume(pending, result);
        }
        work_count
    }

    fn on_freed(&mut self, freed: Result<usize, crate::failure::Failure>) {
        match freed {
            Ok(length) => self.system.get(SystemCounter::BytesCurrentlyMapped).add(-(length as i64)),
            Err(failure) => {
                self.system.get(SystemCounter::FreeFails).increment();
                self.events.record_error(&failure.to_string());
            }
        }
    }

    /// Submits a job whose result names the log that it belongs to. The job is returned when the executor is full.
    fn submit_unmarked(&mut self, job: Job) -> Result<(), Box<Job>> {
        let mark = self.next_mark;
        self.next_mark += 1;
        self.executor.submit(mark, job)
    }

    /// Lets the executor remove closed logs, a few per duty cycle (spec 02 §5.1, 7).
    fn free_logs(&mut self) -> usize {
        let mut work_count = 0;
        while work_count < self.context.resource_free_limit {
            let Some(file) = self.closed_logs.pop_front() else { break };
            if let Err(job) = self.submit_unmarked(Job::Free(file))
                && let Job::Free(file) = *job
            {
                self.closed_logs.push_front(file);
                break;
            }
            work_count += 1;
        }
        work_count
    }

    fn tell_sender(&mut self, command: SenderCommand<T>) {
        self.unsent_sender.push_back(command);
        self.flush_queues();
    }

    fn tell_receiver(&mut self, command: ReceiverCommand<T>) {
        self.unsent_receiver.push_back(command);
        self.flush_queues();
    }

    fn flush_queues(&mut self) {
        while let Some(command) = self.unsent_sender.pop_front() {
            if let Err(rtrb::PushError::Full(command)) = self.queues.to_sender.push(command) {
                self.system.get(SystemCounter::FailedSenderOffers).increment();
                self.unsent_sender.push_front(command);
                break;
            }
        }
        while let Some(command) = self.unsent_receiver.pop_front() {
            if let Err(rtrb::PushError::Full(command)) = self.queues.to_receiver.push(command) {
                self.system.get(SystemCounter::FailedReceiverOffers).increment();
                self.unsent_receiver.push_front(command);
                break;
            }
        }
    }

    fn hears_commands(&self) -> bool {
        !self.in_flight && self.unsent_sender.is_empty() && self.unsent_receiver.is_empty()
    }

    fn on_mapped(&mut self, length: usize) {
        self.system.get(SystemCounter::BytesCurrentlyMapped).add(length as i64);
    }
}

impl<M: Memory, T: Transport> Agent for Conductor<M, T> {
    fn role_name(&self) -> &str {
        "driver-conductor"
    }

    fn on_start(&mut self, now: &Now) -> Result<(), AgentError> {
        self.next_timer_ns = now.ns;
        Ok(())
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.now = *now;
        self.counters.set_time(now.epoch_ms);
        self.events.set_time(now.epoch_ms);
        self.cycle.observe(now.ns);
        let mut work_count = 0;
        if now.ns >= self.next_timer_ns {
            self.run_timers();
            self.next_timer_ns = now.ns + self.context.timer_interval_ns;
            work_count += 1;
        }
        if !self.unsent_sender.is_empty() || !self.unsent_receiver.is_empty() {
            self.flush_queues();
        }
        if self.hears_commands() {
            work_count += self.read_command();
        }
        work_count += self.take_agent_commands();
        work_count += self.executor.work(now);
        work_count += self.take_results();
        work_count += self.track_positions();
        work_count += self.take_allocation_hints();
        if !self.closed_logs.is_empty() {
            work_count += self.free_logs();
        }
        Ok(work_count)
    }

    fn next_deadline(&self) -> Option<i64> {
        let gaps = self.images.iter().filter_map(|entry| entry.image.next_deadline_ns()).min();
        let names = self.executor.next_deadline();
        [gaps, names, Some(self.next_timer_ns)].into_iter().flatten().min()
    }

    fn on_close(&mut self, _now: &Now) {
        let Some(end) = self.cnc.cnc.take() else { return };
        end.retire();
        let (memory, directory) = (&self.cnc.memory, &self.context.directory);
        let removed = match self.context.delete_directory_on_shutdown {
            true => crate::directory::remove(memory, directory).map_err(|error| error.to_string()),
            false => Ok(()),
        };
        let left = end.leave(memory, directory).map_err(|error| error.to_string());
        if let Err(text) = removed.and(left) {
            self.events.record_error(&text);
            // The conductor closes once, so the cell is empty.
            let _first = self.handle.close_failure.set(text);
        }
    }
}
