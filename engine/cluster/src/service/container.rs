//! The container of one service as an agent (spec 04 §7.1).

use harrier_client::Subscription;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::{Agent, AgentError, Memory, Now, Waiter};

use super::core::Core;
use super::counters::ContainerCounters;
use super::error::ContainerError;
use super::join::{Join, Joining};
use super::log::ActiveLog;
use super::snapshot::Snapshotting;
use super::start::Phase;
use super::termination::Termination;
use super::{ClusteredService, EXPECTED_TERMINATION, ServiceContainerContext};
use crate::codec::ModuleMessage;
use crate::mark::{Component, MarkFacts, MarkFile, MarkOptions};

/// Messages of the consensus module read per duty cycle.
const FRAGMENT_LIMIT: usize = 10;
/// Interval of checks for rare changes, ns.
const TICK_NS: i64 = 1_000_000;

/// The commit position with the identity of its counter.
pub(super) struct CommitPosition {
    pub(super) counter: AtomicCounter,
    pub(super) registration_id: i64,
}

/// Runs one clustered service.
///
/// Made by [`ServiceContainer::launch`]; it finds driver, archive and consensus module in its duty cycles.
pub struct ServiceContainer<T: ClusteredService, M: Memory> {
    pub(super) context: ServiceContainerContext,
    pub(super) memory: M,
    pub(super) mark: MarkFile<M>,
    pub(super) service: T,
    pub(super) waiter: Box<dyn Waiter>,
    pub(super) phase: Phase,
    pub(super) now: Now,
    pub(super) next_tick_ns: i64,
    pub(super) core: Option<Core>,
    pub(super) counters: Option<ContainerCounters>,
    pub(super) from_module: Option<Subscription>,
    pub(super) assembler: FragmentAssembler,
    pub(super) commit_position: Option<CommitPosition>,
    /// Next log to join, set while an earlier one is joined or read.
    pub(super) wanted: Option<Join>,
    pub(super) joining: Joining,
    pub(super) log: Option<ActiveLog>,
    pub(super) is_standby: bool,
    pub(super) snapshotting: Snapshotting,
    pub(super) snapshots_taken: u64,
    pub(super) termination_position: Option<i64>,
    pub(super) requested_ack_position: Option<i64>,
    /// Error after which the container continues.
    pub(super) failure: Option<ContainerError>,
}

impl<T: ClusteredService, M: Memory> ServiceContainer<T, M> {
    /// Locks the service's mark file. `waiter` runs the other agents while a callback waits.
    ///
    /// # Errors
    /// See [`ContainerError`].
    pub fn launch(
        context: ServiceContainerContext,
        service: T,
        memory: M,
        waiter: Box<dyn Waiter>,
        now: &Now,
    ) -> Result<Self, ContainerError> {
        context.validate()?;
        let mark = MarkFile::take_with(&mark_facts(&context), &mark_options(&context), &memory, now)?;
        Ok(Self {
            phase: Phase::Connect { deadline_ns: now.ns + context.startup_timeout_ns },
            context,
            memory,
            mark,
            service,
            waiter,
            now: *now,
            next_tick_ns: now.ns,
            core: None,
            counters: None,
            from_module: None,
            assembler: FragmentAssembler::new(),
            commit_position: None,
            wanted: None,
            joining: Joining::Idle,
            log: None,
            is_standby: false,
            snapshotting: Snapshotting::Idle,
            snapshots_taken: 0,
            termination_position: None,
            requested_ack_position: None,
            failure: None,
        })
    }

    /// The service.
    pub fn service(&self) -> &T {
        &self.service
    }

    fn work(&mut self) -> Result<usize, ContainerError> {
        self.mark.update_activity(&self.now);
        if matches!(self.phase, Phase::Running) { self.run() } else { self.go_on_starting() }
    }

    /// Runs the client of the driver, and that of the archive while connected.
    pub(super) fn keep_alive(&mut self) -> Result<usize, ContainerError> {
        let Some(core) = &mut self.core else { return Ok(0) };
        let mut work_count = core.aeron.do_work(&self.now)?;
        while core.aeron.poll_event().is_some() {}
        if let Some(archive) = &mut core.archive {
            work_count += archive.poll(&mut core.aeron, &self.now)?;
        }
        Ok(work_count)
    }

    fn run(&mut self) -> Result<usize, ContainerError> {
        if self.is_snapshotting() {
            return self.go_on_snapshotting();
        }
        let mut work_count = self.keep_alive()?;
        if self.now.ns >= self.next_tick_ns {
            self.next_tick_ns = self.now.ns + TICK_NS;
            self.check_commit_position()?;
            self.report_slow_sessions();
        }
        work_count += self.poll_module();
        work_count += self.go_on_joining()?;
        work_count += self.poll_log()?;
        work_count += self.check_termination();
        Ok(work_count + self.work_in_background())
    }

    pub(super) fn work_in_background(&mut self) -> usize {
        let Some(core) = &mut self.core else { return 0 };
        let (service, now_ns) = (&mut self.service, self.now.ns);
        core.call(self.waiter.as_mut(), Some("do_background_work"), |cluster| {
            service.do_background_work(cluster, now_ns)
        })
    }

    /// Fails when the counter is gone, because then the consensus module is gone (spec 04 §4.11).
    fn check_commit_position(&self) -> Result<(), ContainerError> {
        let (Some(core), Some(commit)) = (&self.core, &self.commit_position) else { return Ok(()) };
        let counters = core.aeron.counters();
        let id = commit.counter.id();
        let is_there = counters.is_allocated(id) && counters.registration_id(id) == commit.registration_id;
        if is_there { Ok(()) } else { Err(ContainerError::ModuleGone) }
    }

    /// Reports sessions that were closed because their clients did not read their egress.
    fn report_slow_sessions(&mut self) {
        let Some(core) = &mut self.core else { return };
        for _ in 0..std::mem::take(&mut core.slow_sessions) {
            // A constant text makes all of them one entry of the error log.
            self.record_error("a session was closed because its client did not read its egress");
        }
    }

    /// Reads messages of the consensus module.
    pub(super) fn poll_module(&mut self) -> usize {
        let Some(mut subscription) = self.from_module.take() else { return 0 };
        let mut assembler = std::mem::take(&mut self.assembler);
        let work_count = subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| match ModuleMessage::decode(message) {
                Ok(Some(message)) => self.on_module_message(&message),
                Ok(None) => {}
                Err(error) => {
                    self.record_error(&format!("undecodable message of the consensus module: {error}"));
                }
            });
        });
        self.assembler = assembler;
        self.from_module = Some(subscription);
        work_count
    }

    fn on_module_message(&mut self, message: &ModuleMessage<'_>) {
        match *message {
            ModuleMessage::JoinLog {
                log_position,
                max_log_position,
                member_id,
                log_session_id,
                log_stream_id,
                is_startup,
                role,
                is_standby,
                log_channel,
            } => self.on_join(Join {
                log_position,
                max_log_position,
                member_id,
                session_id: log_session_id,
                stream_id: log_stream_id,
                is_startup,
                role,
                is_standby,
                channel: log_channel.to_owned(),
            }),
            ModuleMessage::TerminationPosition { log_position } => {
                self.termination_position = Some(log_position);
            }
            ModuleMessage::RequestAck { log_position } => self.requested_ack_position = Some(log_position),
            ModuleMessage::MembersResponse { .. } | ModuleMessage::MembersExtendedResponse { .. } => {}
        }
    }

    pub(super) fn record_error(&mut self, text: &str) {
        self.mark.errors.record(self.now.epoch_ms, text);
        if let Some(counters) = &self.counters {
            counters.errors.increment();
        }
    }
}

fn mark_facts(context: &ServiceContainerContext) -> MarkFacts {
    MarkFacts {
        component: Component::Container,
        cluster_directory: context.cluster_directory.clone(),
        aeron_directory: context.aeron_directory.clone(),
        archive_stream_id: context.archive.control_request_stream_id,
        service_stream_id: context.service_stream_id,
        module_stream_id: context.module_stream_id,
        ingress_stream_id: -1,
        member_id: -1,
        service_id: context.service_id,
        cluster_id: context.cluster_id,
        control_channel: context.control_channel.clone(),
        ingress_channel: String::new(),
        service_name: context.service_name.clone(),
    }
}

fn mark_options(context: &ServiceContainerContext) -> MarkOptions {
    MarkOptions {
        directory: context.mark_file_directory.clone(),
        error_buffer_length: context.error_buffer_length,
        ..MarkOptions::default()
    }
}

impl<T: ClusteredService, M: Memory> Agent for ServiceContainer<T, M> {
    fn role_name(&self) -> &str {
        &self.context.service_name
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        if let Some(counters) = &self.counters {
            counters.cycle.measure(now.ns - self.now.ns);
        }
        self.now = *now;
        if let Phase::Terminated(termination) = self.phase {
            return Err(termination.error());
        }
        let outcome = self.work();
        match (outcome, self.failure.take()) {
            (Err(error), _) => {
                let text = error.to_string();
                self.record_error(&text);
                Err(AgentError::terminated(text))
            }
            (Ok(_), Some(failure)) => {
                self.record_error(&failure.to_string());
                Err(AgentError::failed(failure))
            }
            (Ok(work_count), None) => Ok(work_count),
        }
    }

    fn next_deadline(&self) -> Option<i64> {
        let is_resting = matches!(self.phase, Phase::Running) && !self.is_snapshotting();
        let pause_ns = if is_resting { 50_000_000 } else { 1_000_000 };
        Some(self.now.ns + pause_ns)
    }

    fn on_close(&mut self, now: &Now) {
        self.now = *now;
        if let Some(core) = &mut self.core {
            // A service that has panicked is not called again.
            if matches!(self.phase, Phase::Running) && !core.is_in_callback {
                let service = &mut self.service;
                core.call(self.waiter.as_mut(), Some("on_terminate"), |cluster| {
                    service.on_terminate(cluster);
                });
            }
            core.disconnect_sessions();
            if let Some(archive) = &mut core.archive {
                archive.close();
            }
            core.aeron.close();
        }
        self.mark.signal_terminated();
    }
}

impl Termination {
    /// Returns the error with which the container ends.
    fn error(self) -> AgentError {
        match self {
            Self::Expected => AgentError::Ended(EXPECTED_TERMINATION),
            Self::Unexpected => AgentError::terminated("unexpected termination"),
        }
    }
}
