//! The container of one service as an agent (spec 04 §7.1).

use std::collections::BTreeMap;

use harrier_client::{Aeron, ClientError, Context, Image, Subscription};
use harrier_ringbuf::assembly::{FragmentAssembler, ImageFragmentAssembler};
use harrier_ringbuf::counters::AtomicCounter;
use harrier_ringbuf::{Agent, AgentError, Memory, Now, Waiter};
use thiserror::Error;

use super::ClusteredService;
use super::cluster::{Cluster, Core};
use super::context::ServiceContainerContext;
use super::log::{ActiveLog, LogHandler};
use crate::codec::{ModuleMessage, Role, ServiceMessage, TimeUnit};
use crate::mark::{Component, MarkError, MarkFacts, MarkFile};

const COMMIT_POSITION: i32 = 203;
const RECOVERY_STATE: i32 = 204;
/// Messages of the consensus module taken per duty cycle.
const FRAGMENT_LIMIT: usize = 10;

/// Why a container does not start, or ends.
#[derive(Debug, Error)]
pub enum ContainerError {
    /// The directory belongs to another container of the service.
    #[error(transparent)]
    Mark(#[from] MarkError),
    /// The driver is gone, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// Something did not come in time.
    #[error("timed out {0}; is the consensus module running?")]
    Timeout(&'static str),
    /// The log cannot be followed.
    #[error("log: {0}")]
    Log(String),
}

/// A log that the consensus module wants joined.
#[derive(Debug, Clone)]
struct Join {
    log_position: i64,
    max_log_position: i64,
    member_id: i32,
    session_id: i32,
    stream_id: i32,
    is_startup: bool,
    role: Role,
    channel: String,
}

enum Phase {
    Connect { deadline_ns: i64 },
    AwaitStreams { publication_id: i64, subscription_id: i64, aeron: Box<Aeron>, deadline_ns: i64 },
    AwaitRecovery { deadline_ns: i64 },
    SendStartAck { log_position: i64 },
    Running,
    Terminated { is_expected: bool },
}

enum Joining {
    Idle,
    Wanted(Join),
    AwaitSubscription { join: Join, id: i64 },
    AwaitImage { join: Join, subscription: Subscription },
    AwaitEgress { join: Join },
    Ack { join: Join },
}

/// Runs one clustered service.
///
/// Made by [`ServiceContainer::launch`]; it finds driver and consensus module in its duty cycles.
pub struct ServiceContainer<T: ClusteredService, M: Memory> {
    context: ServiceContainerContext,
    memory: M,
    mark: MarkFile<M>,
    service: T,
    waiter: Box<dyn Waiter>,
    phase: Phase,
    joining: Joining,
    now: Now,
    core: Option<Core>,
    from_module: Option<Subscription>,
    assembler: FragmentAssembler,
    commit_position: Option<AtomicCounter>,
    log: Option<ActiveLog>,
    ack_id: i64,
    termination_position: Option<i64>,
}

impl<T: ClusteredService, M: Memory> ServiceContainer<T, M> {
    /// Takes the service's mark file. `waiter` is how a callback that waits lets the world go on.
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
        let facts = MarkFacts {
            component: Component::Container,
            cluster_directory: context.cluster_directory.clone(),
            aeron_directory: context.aeron_directory.clone(),
            archive_stream_id: 10,
            service_stream_id: context.service_stream_id,
            module_stream_id: context.module_stream_id,
            ingress_stream_id: -1,
            member_id: -1,
            service_id: context.service_id,
            cluster_id: context.cluster_id,
            control_channel: context.control_channel.clone(),
            ingress_channel: String::new(),
            service_name: context.service_name.clone(),
        };
        let mark = MarkFile::take(&facts, &memory, now)?;
        Ok(Self {
            phase: Phase::Connect { deadline_ns: now.ns + context.startup_timeout_ns },
            context,
            memory,
            mark,
            service,
            waiter,
            joining: Joining::Idle,
            now: *now,
            core: None,
            from_module: None,
            assembler: FragmentAssembler::new(),
            commit_position: None,
            log: None,
            ack_id: 0,
            termination_position: None,
        })
    }

    /// The service.
    pub fn service(&self) -> &T {
        &self.service
    }

    fn work(&mut self) -> Result<usize, ContainerError> {
        self.mark.update_activity(&self.now);
        match &self.phase {
            Phase::Connect { deadline_ns } => self.connect(*deadline_ns),
            Phase::AwaitStreams { .. } => self.await_streams(),
            Phase::AwaitRecovery { deadline_ns } => self.await_recovery(*deadline_ns),
            Phase::SendStartAck { log_position } => {
                let log_position = *log_position;
                self.keep_alive()?;
                Ok(self.send_start_ack(log_position))
            }
            Phase::Running => self.run(),
            Phase::Terminated { .. } => Ok(0),
        }
    }

    fn keep_alive(&mut self) -> Result<usize, ContainerError> {
        let Some(core) = &mut self.core else { return Ok(0) };
        let work_count = core.aeron.do_work(&self.now)?;
        while core.aeron.poll_event().is_some() {}
        Ok(work_count)
    }

    fn connect(&mut self, deadline_ns: i64) -> Result<usize, ContainerError> {
        let context = Context::new(&self.context.aeron_directory).client_name(&self.context.service_name);
        let mut aeron = match Aeron::connect(context, self.memory.clone(), &self.now) {
            Ok(aeron) => aeron,
            Err(ClientError::NotReady { .. }) if self.now.ns <= deadline_ns => return Ok(0),
            Err(error) => return Err(error.into()),
        };
        let channel = &self.context.control_channel;
        let publication_id = aeron.add_exclusive_publication(channel, self.context.module_stream_id)?;
        let subscription_id = aeron.add_subscription(channel, self.context.service_stream_id)?;
        let aeron = Box::new(aeron);
        self.phase = Phase::AwaitStreams { publication_id, subscription_id, aeron, deadline_ns };
        Ok(1)
    }

    fn await_streams(&mut self) -> Result<usize, ContainerError> {
        let Phase::AwaitStreams { publication_id, subscription_id, aeron, deadline_ns } = &mut self.phase
        else {
            return Ok(0);
        };
        aeron.do_work(&self.now)?;
        if self.from_module.is_none() {
            self.from_module = aeron.subscription(*subscription_id)?;
        }
        if self.from_module.is_none() {
            return Ok(0);
        }
        let Some(to_module) = aeron.exclusive_publication(*publication_id)? else { return Ok(0) };
        let deadline_ns = *deadline_ns;
        let phase = std::mem::replace(&mut self.phase, Phase::AwaitRecovery { deadline_ns });
        if let Phase::AwaitStreams { aeron, .. } = phase {
            self.core = Some(Core {
                aeron: *aeron,
                to_module,
                service_id: self.context.service_id,
                sessions: BTreeMap::new(),
                log_position: 0,
                time: 0,
                time_unit: TimeUnit::Millis,
                leadership_term_id: -1,
                member_id: -1,
                role: Role::Follower,
                buffer: vec![0; 4_096],
            });
        }
        Ok(1)
    }

    /// Waits for the consensus module's counters, which tell where to begin.
    fn await_recovery(&mut self, deadline_ns: i64) -> Result<usize, ContainerError> {
        self.keep_alive()?;
        let cluster_id = self.context.cluster_id;
        let Some(core) = &mut self.core else { return Ok(0) };
        let counters = core.aeron.counters();
        let int = |key: &[u8], at: usize| {
            key.get(at..).and_then(|rest| rest.first_chunk()).map(|word| i32::from_le_bytes(*word))
        };
        let commit = counters
            .find(&mut |_, type_id, key| type_id == COMMIT_POSITION && int(key, 0) == Some(cluster_id));
        let recovery = counters
            .find(&mut |_, type_id, key| type_id == RECOVERY_STATE && int(key, 24) == Some(cluster_id));
        let (Some(commit), Some(recovery)) = (commit, recovery) else {
            if self.now.ns > deadline_ns {
                return Err(ContainerError::Timeout("waiting for the cluster's recovery counter"));
            }
            return Ok(0);
        };
        let key = counters.key(recovery);
        let long = |at: usize| {
            key.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |word| i64::from_le_bytes(*word))
        };
        let (term_id, log_position, timestamp) = (long(0), long(8), long(16));
        if term_id != -1 {
            return Err(ContainerError::Log(format!(
                "the cluster begins with a snapshot of term {term_id}, which this container cannot load"
            )));
        }
        self.commit_position =
            Some(counters.counter(commit).map_err(|error| ContainerError::Log(error.to_string()))?);
        core.leadership_term_id = term_id;
        core.log_position = log_position;
        core.time = timestamp;
        let mut cluster = Cluster { core, waiter: self.waiter.as_mut(), silent: Some("on_start") };
        self.service.on_start(&mut cluster);
        self.phase = Phase::SendStartAck { log_position };
        Ok(1)
    }

    fn send_start_ack(&mut self, log_position: i64) -> usize {
        let Some(core) = &mut self.core else { return 0 };
        let relevant_id = core.aeron.client_id();
        if !send_ack(core, log_position, self.ack_id, relevant_id) {
            return 0;
        }
        self.ack_id += 1;
        self.mark.signal_ready(&self.now);
        self.phase = Phase::Running;
        1
    }

    fn run(&mut self) -> Result<usize, ContainerError> {
        let mut work_count = self.keep_alive()?;
        work_count += self.poll_module();
        work_count += self.go_on_joining()?;
        work_count += self.poll_log()?;
        work_count += self.check_termination();
        if let Some(core) = &mut self.core {
            let mut cluster =
                Cluster { core, waiter: self.waiter.as_mut(), silent: Some("do_background_work") };
            work_count += self.service.do_background_work(&mut cluster);
        }
        Ok(work_count)
    }

    /// Takes what the consensus module says.
    fn poll_module(&mut self) -> usize {
        let Some(subscription) = &mut self.from_module else { return 0 };
        let (assembler, log, joining) = (&mut self.assembler, &mut self.log, &mut self.joining);
        let termination = &mut self.termination_position;
        subscription.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| match ModuleMessage::decode(message) {
                Ok(Some(ModuleMessage::JoinLog {
                    log_position,
                    max_log_position,
                    member_id,
                    log_session_id,
                    log_stream_id,
                    is_startup,
                    role,
                    log_channel,
                })) => {
                    if let Some(log) = log.as_mut() {
                        log.max_position = log_position;
                    }
                    *joining = Joining::Wanted(Join {
                        log_position,
                        max_log_position,
                        member_id,
                        session_id: log_session_id,
                        stream_id: log_stream_id,
                        is_startup,
                        role,
                        channel: log_channel.to_owned(),
                    });
                }
                Ok(Some(ModuleMessage::TerminationPosition { log_position })) => {
                    *termination = Some(log_position);
                }
                _ => {}
            });
        })
    }

    fn go_on_joining(&mut self) -> Result<usize, ContainerError> {
        let Some(core) = &mut self.core else { return Ok(0) };
        let joining = std::mem::replace(&mut self.joining, Joining::Idle);
        let (next, is_step) = match joining {
            Joining::Idle => (Joining::Idle, false),
            Joining::Wanted(join) if self.log.is_some() => (Joining::Wanted(join), false),
            Joining::Wanted(join) => {
                if join.role != Role::Leader {
                    core.sessions.values_mut().for_each(super::cluster::EgressSession::disconnect);
                }
                let id = core.aeron.add_subscription(&join.channel, join.stream_id)?;
                (Joining::AwaitSubscription { join, id }, true)
            }
            Joining::AwaitSubscription { join, id } => match core.aeron.subscription(id)? {
                None => (Joining::AwaitSubscription { join, id }, false),
                Some(subscription) => (Joining::AwaitImage { join, subscription }, true),
            },
            Joining::AwaitImage { join, mut subscription } => {
                let id =
                    subscription.image_by_session_id(join.session_id).map(|image| image.correlation_id());
                match id.and_then(|id| subscription.take_image(id)) {
                    None => (Joining::AwaitImage { join, subscription }, false),
                    Some(image) => {
                        self.log = Some(join_log(&join, image, subscription, core.log_position)?);
                        (Joining::AwaitEgress { join }, true)
                    }
                }
            }
            Joining::AwaitEgress { join } => {
                if join.role == Role::Leader && !join.is_startup && self.context.is_responder {
                    for session in core.sessions.values_mut() {
                        session.is_closing = false;
                        session.connect(&mut core.aeron);
                    }
                }
                let is_settled =
                    core.sessions.values_mut().all(|session| session.is_settled(&mut core.aeron));
                if is_settled {
                    (Joining::Ack { join }, true)
                } else {
                    (Joining::AwaitEgress { join }, false)
                }
            }
            Joining::Ack { join } => {
                if send_ack(core, join.log_position, self.ack_id, -1) {
                    self.ack_id += 1;
                    core.member_id = join.member_id;
                    self.mark.set_member_id(join.member_id);
                    if core.role != join.role {
                        core.role = join.role;
                        let mut cluster =
                            Cluster { core, waiter: self.waiter.as_mut(), silent: Some("on_role_change") };
                        self.service.on_role_change(&mut cluster, join.role);
                    }
                    (Joining::Idle, true)
                } else {
                    (Joining::Ack { join }, false)
                }
            }
        };
        self.joining = next;
        Ok(usize::from(is_step))
    }

    #[inline]
    fn poll_log(&mut self) -> Result<usize, ContainerError> {
        let (Some(core), Some(log), Some(commit)) = (&mut self.core, &mut self.log, &self.commit_position)
        else {
            return Ok(0);
        };
        if matches!(self.joining, Joining::AwaitEgress { .. } | Joining::Ack { .. }) {
            return Ok(0);
        }
        let limit = commit.get().min(log.max_position);
        let mut handler = LogHandler {
            core,
            service: &mut self.service,
            waiter: self.waiter.as_mut(),
            is_responder: self.context.is_responder,
            app_version: self.context.app_version,
            failure: None,
        };
        let assembler = &mut log.assembler;
        let work_count = log.image.bounded_controlled_poll(
            limit,
            self.context.log_fragment_limit,
            &mut |payload, header| {
                assembler.on_controlled_fragment(payload, header, &mut |message, header| {
                    handler.on_message(message, header.position())
                })
            },
        );
        if let Some(failure) = handler.failure {
            return Err(ContainerError::Log(failure));
        }
        if work_count == 0 {
            let position = log.image.position();
            let has_ended =
                position >= log.max_position || log.image.is_closed() || log.image.is_end_of_stream();
            if has_ended {
                self.leave_log(position);
                return Ok(1);
            }
        }
        Ok(work_count)
    }

    fn leave_log(&mut self, position: i64) {
        self.log = None;
        let Some(core) = &mut self.core else { return };
        core.log_position = core.log_position.max(position);
        core.sessions.values_mut().for_each(super::cluster::EgressSession::disconnect);
        if core.role != Role::Follower {
            core.role = Role::Follower;
            let mut cluster = Cluster { core, waiter: self.waiter.as_mut(), silent: Some("on_role_change") };
            self.service.on_role_change(&mut cluster, Role::Follower);
        }
    }

    fn check_termination(&mut self) -> usize {
        let Some(position) = self.termination_position else { return 0 };
        let Some(core) = &mut self.core else { return 0 };
        if core.log_position < position {
            return 0;
        }
        let is_expected = core.log_position == position;
        let mut cluster = Cluster { core, waiter: self.waiter.as_mut(), silent: Some("on_terminate") };
        self.service.on_terminate(&mut cluster);
        let log_position = core.log_position;
        send_ack(core, log_position, self.ack_id, -1);
        self.ack_id += 1;
        self.termination_position = None;
        self.phase = Phase::Terminated { is_expected };
        1
    }
}

fn send_ack(core: &mut Core, log_position: i64, ack_id: i64, relevant_id: i64) -> bool {
    let (timestamp, service_id) = (core.time, core.service_id);
    let ack = ServiceMessage::Ack { log_position, timestamp, ack_id, relevant_id, service_id };
    core.send(&ack).is_ok()
}

fn join_log(
    join: &Join,
    image: Image,
    subscription: Subscription,
    own_position: i64,
) -> Result<ActiveLog, ContainerError> {
    let joined = image.join_position();
    if joined != join.log_position || own_position != join.log_position {
        return Err(ContainerError::Log(format!(
            "joined at {joined} with the service at {own_position}, wanted {}",
            join.log_position
        )));
    }
    Ok(ActiveLog {
        _subscription: subscription,
        image,
        assembler: ImageFragmentAssembler::new(),
        max_position: join.max_log_position,
    })
}

impl<T: ClusteredService, M: Memory> Agent for ServiceContainer<T, M> {
    fn role_name(&self) -> &str {
        &self.context.service_name
    }

    fn do_work(&mut self, now: &Now) -> Result<usize, AgentError> {
        self.now = *now;
        if let Phase::Terminated { is_expected } = self.phase {
            let text = if is_expected { "expected termination" } else { "unexpected termination" };
            return Err(AgentError::terminated(text));
        }
        self.work().map_err(|error| {
            let text = error.to_string();
            self.mark.errors.record(now.epoch_ms, &text);
            AgentError::terminated(text)
        })
    }

    fn next_deadline(&self) -> Option<i64> {
        let pause_ns = if matches!(self.phase, Phase::Running) { 50_000_000 } else { 1_000_000 };
        Some(self.now.ns + pause_ns)
    }

    fn on_close(&mut self, now: &Now) {
        self.now = *now;
        if let Some(core) = &mut self.core {
            if matches!(self.phase, Phase::Running) {
                let mut cluster =
                    Cluster { core, waiter: self.waiter.as_mut(), silent: Some("on_terminate") };
                self.service.on_terminate(&mut cluster);
            }
            core.sessions.values_mut().for_each(super::cluster::EgressSession::disconnect);
            core.aeron.close();
        }
        self.mark.signal_terminated();
    }
}
