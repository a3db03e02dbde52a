//! The way from start to leadership, step by step (spec 04 §4.12, §4.14, §5.2).

use harrier_archive::client::{ArchiveAnswer, ArchiveClientError};
use harrier_client::{Aeron, ClientError, Context};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, ModuleState};
use super::context::ConsensusModuleContext;
use super::counters::{PendingCounters, has_other_module, node_toggle, toggle};
use super::error::ModuleError;
use super::link::PendingLink;
use super::replay::LogReplay;
use crate::mark::{Component, MarkFacts};
use crate::members::Member;
use crate::recording_log::LogExtent;
use crate::snapshot::SnapshotLoader;

/// How far the start has come.
pub(super) enum Phase {
    Connect { deadline_ns: i64 },
    AwaitOthers { deadline_ns: i64 },
    AwaitResources { counters: Option<PendingCounters>, link: Option<Box<PendingLink>>, deadline_ns: i64 },
    ConnectArchive,
    AwaitDescriptor { correlation_id: i64, recording_id: i64 },
    AwaitStop { correlation_id: i64 },
    FetchStandby { extent: Option<LogExtent> },
    AwaitRecoveryCounter { id: i64 },
    LoadSnapshot { loader: Box<SnapshotLoader> },
    AwaitServices { deadline_ns: i64 },
    Elect,
    AwaitLogPublication { id: i64 },
    StartReplay,
    AwaitReplay { correlation_id: i64 },
    AwaitReplaySubscription { id: i64, replay_session_id: i64 },
    Replaying { replay: Box<LogReplay> },
    StartRecording,
    AwaitRecording { correlation_id: i64 },
    AwaitRecordingCounter,
    JoinServices,
    AwaitJoin { deadline_ns: i64 },
    AppendTerm,
    AwaitIngress { ids: Vec<i64> },
    Leading,
    Terminating { deadline_ns: i64 },
}

/// The phase after a step, and whether it is another one.
pub(super) type Step = Result<(Phase, bool), ModuleError>;

impl Phase {
    pub(super) fn uses_archive(&self) -> bool {
        !matches!(self, Self::Connect { .. } | Self::AwaitOthers { .. } | Self::AwaitResources { .. })
    }
}

pub(super) fn mark_facts(context: &ConsensusModuleContext, member: &Member) -> MarkFacts {
    MarkFacts {
        component: Component::ConsensusModule,
        cluster_directory: context.cluster_directory.clone(),
        aeron_directory: context.aeron_directory.clone(),
        archive_stream_id: context.archive.control_request_stream_id,
        service_stream_id: context.service_stream_id,
        module_stream_id: context.module_stream_id,
        ingress_stream_id: context.ingress_stream_id,
        member_id: member.id,
        service_id: -1,
        cluster_id: context.cluster_id,
        control_channel: context.control_channel.clone(),
        ingress_channel: context.ingress_channel.clone(),
        service_name: String::new(),
    }
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// One step towards leadership, or towards the end.
    pub(super) fn go_on(&mut self) -> Result<usize, ModuleError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Elect);
        let (phase, is_step) = self.step(phase)?;
        self.phase = phase;
        Ok(usize::from(is_step))
    }

    pub(super) fn client(&mut self) -> &mut Aeron {
        self.aeron.as_mut().expect("the client is there once the driver is found")
    }

    /// Does what a phase waits for.
    fn step(&mut self, phase: Phase) -> Step {
        match phase {
            Phase::Connect { deadline_ns } => self.connect(deadline_ns),
            Phase::AwaitOthers { deadline_ns } => self.await_others(deadline_ns),
            Phase::AwaitResources { counters, link, deadline_ns } => {
                self.await_resources(counters, link, deadline_ns)
            }
            Phase::ConnectArchive => self.connect_archive(),
            Phase::AwaitDescriptor { correlation_id, recording_id } => {
                self.await_descriptor(correlation_id, recording_id)
            }
            Phase::AwaitStop { correlation_id } => self.await_stop(correlation_id),
            Phase::FetchStandby { extent } => self.fetch_standby_snapshots(extent),
            Phase::AwaitRecoveryCounter { id } => self.await_recovery_counter(id),
            Phase::LoadSnapshot { loader } => self.load_snapshot(loader),
            Phase::AwaitServices { deadline_ns } => self.await_services(deadline_ns),
            Phase::Elect => self.elect(),
            Phase::AwaitLogPublication { id } => self.await_log_publication(id),
            Phase::StartReplay => self.start_replay(),
            Phase::AwaitReplay { correlation_id } => self.await_replay(correlation_id),
            Phase::AwaitReplaySubscription { id, replay_session_id } => {
                self.await_replay_subscription(id, replay_session_id)
            }
            Phase::Replaying { replay } => self.replay(replay),
            Phase::StartRecording => self.start_recording(),
            Phase::AwaitRecording { correlation_id } => self.await_recording(correlation_id),
            Phase::AwaitRecordingCounter => Ok(self.await_recording_counter()),
            Phase::JoinServices => Ok(self.join_services()),
            Phase::AwaitJoin { deadline_ns } => self.await_join(deadline_ns),
            Phase::AppendTerm => self.append_term(),
            Phase::AwaitIngress { ids } => self.await_ingress(ids),
            Phase::Leading => Ok((Phase::Leading, false)),
            Phase::Terminating { deadline_ns } => self.await_termination(deadline_ns),
        }
    }

    fn connect(&mut self, deadline_ns: i64) -> Step {
        let context = Context::new(&self.context.aeron_directory).client_name(&self.role_name);
        let mut aeron = match Aeron::connect(context, self.memory.clone(), &self.now) {
            Ok(aeron) => aeron,
            Err(ClientError::NotReady { .. }) if self.now.ns <= deadline_ns => {
                return Ok((Phase::Connect { deadline_ns }, false));
            }
            Err(error) => return Err(error.into()),
        };
        aeron.do_work(&self.now)?;
        self.aeron = Some(aeron);
        Ok((Phase::AwaitOthers { deadline_ns }, true))
    }

    /// The counters of a module that has died stay until the driver has given its client up.
    fn await_others(&mut self, deadline_ns: i64) -> Step {
        let cluster_id = self.context.cluster_id;
        if has_other_module(self.client().counters(), cluster_id) {
            if self.now.ns > deadline_ns {
                return Err(ModuleError::ActiveModule(cluster_id));
            }
            return Ok((Phase::AwaitOthers { deadline_ns }, false));
        }
        let Some(aeron) = &mut self.aeron else { return Err(ModuleError::Timeout("waiting for the driver")) };
        let counters = Some(PendingCounters::add(aeron, &self.context)?);
        let link = Some(Box::new(PendingLink::add(
            aeron,
            &self.context.control_channel,
            self.context.service_stream_id,
            self.context.module_stream_id,
        )?));
        Ok((Phase::AwaitResources { counters, link, deadline_ns }, true))
    }

    fn await_resources(
        &mut self,
        mut counters: Option<PendingCounters>,
        mut link: Option<Box<PendingLink>>,
        deadline_ns: i64,
    ) -> Step {
        let Some(aeron) = &mut self.aeron else { return Err(ModuleError::Timeout("waiting for the driver")) };
        if let Some(pending) = &mut counters {
            self.counters = pending.poll(aeron)?;
            if self.counters.is_some() {
                counters = None;
            }
        }
        if let Some(pending) = &mut link {
            self.link = pending.poll(aeron)?;
            if self.link.is_some() {
                link = None;
            }
        }
        if counters.is_none() && link.is_none() {
            if let Some(counters) = &self.counters {
                counters.control_toggle.set_ordered(toggle::INACTIVE);
                counters.node_toggle.set_ordered(node_toggle::INACTIVE);
                counters.leadership_term_id.set_ordered(-1);
            }
            self.enter(ModuleState::Init);
            return Ok((Phase::ConnectArchive, true));
        }
        if self.now.ns > deadline_ns {
            return Err(ModuleError::Timeout("waiting for the driver's counters and control streams"));
        }
        Ok((Phase::AwaitResources { counters, link, deadline_ns }, false))
    }

    /// The relevant id of the archive's answer to a request.
    pub(super) fn take_answer(
        &mut self,
        wanted: i64,
        request: &'static str,
    ) -> Result<Option<i64>, ModuleError> {
        match self.answer.take() {
            Some(ArchiveAnswer::Ok { correlation_id, relevant_id }) if correlation_id == wanted => {
                Ok(Some(relevant_id))
            }
            Some(ArchiveAnswer::Error { correlation_id, code, message }) if correlation_id == wanted => {
                Err(ModuleError::ArchiveRefused { request, code, message })
            }
            _ => Ok(None),
        }
    }
}

/// A request to the archive: its correlation id, or `None` when it is to be sent again later.
pub(super) fn sent(outcome: Result<i64, ArchiveClientError>) -> Result<Option<i64>, ModuleError> {
    match outcome {
        Ok(correlation_id) => Ok(Some(correlation_id)),
        Err(ArchiveClientError::BackPressured) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
