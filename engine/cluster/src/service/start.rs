//! Start of a container up to the first ack: driver, consensus module, snapshot, `on_start` (spec 04 §7.1, §4.12).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use harrier_archive::client::ArchiveClient;
use harrier_client::{Aeron, ClientError, Context, ExclusivePublication};
use harrier_ringbuf::counters::CountersReader;
use harrier_ringbuf::shared_thread::ProcessDeath;
use harrier_ringbuf::{Memory, Rng};

use super::container::{CommitPosition, ServiceContainer};
use super::core::Core;
use super::counters::PendingCounters;
use super::error::ContainerError;
use super::image::SnapshotImage;
use super::session::{ClientSession, EgressSession};
use super::termination::Termination;
use super::{ClusteredService, ServiceFailure};
use crate::codec::{SnapshotMessage, snapshot_type};
use crate::snapshot::{SnapshotError, SnapshotExpectation, SnapshotLoader};

const COMMIT_POSITION: i32 = 203;
const RECOVERY_STATE: i32 = 204;
/// Fragments of a snapshot read per duty cycle.
const SNAPSHOT_FRAGMENT_LIMIT: usize = 50;

/// Streams that the driver is adding.
pub(super) struct PendingStreams {
    aeron: Aeron,
    publication_id: i64,
    subscription_id: i64,
    to_module: Option<ExclusivePublication>,
    counters: PendingCounters,
}

/// State of the start.
pub(super) enum Phase {
    Connect { deadline_ns: i64 },
    AwaitStreams { pending: Box<PendingStreams>, deadline_ns: i64 },
    AwaitRecovery { deadline_ns: i64 },
    Load { loader: Box<SnapshotLoader>, recording_id: i64 },
    Start,
    SendStartAck,
    Running,
    Terminated(Termination),
}

/// Contents of the recovery counter (spec 04 §2.4, counter 204).
struct RecoveryState {
    leadership_term_id: i64,
    log_position: i64,
    timestamp: i64,
    /// Recording ids of the services' snapshots; empty without a snapshot.
    recording_ids: Vec<i64>,
}

fn int_at(key: &[u8], at: usize) -> Option<i32> {
    key.get(at..)?.first_chunk().map(|word| i32::from_le_bytes(*word))
}

impl RecoveryState {
    fn find(counters: &CountersReader, cluster_id: i32) -> Option<Self> {
        let id = counters
            .find(&mut |_, type_id, key| type_id == RECOVERY_STATE && int_at(key, 24) == Some(cluster_id))?;
        let key = counters.key(id);
        let long = |at: usize| key.get(at..)?.first_chunk().map(|word| i64::from_le_bytes(*word));
        let count = usize::try_from(int_at(&key, 28)?).ok()?;
        Some(Self {
            leadership_term_id: long(0)?,
            log_position: long(8)?,
            timestamp: long(16)?,
            recording_ids: (0..count).map_while(|service| long(32 + 8 * service)).collect(),
        })
    }
}

impl<T: ClusteredService, M: Memory> ServiceContainer<T, M> {
    /// Advances the start.
    pub(super) fn go_on_starting(&mut self) -> Result<usize, ContainerError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Terminated(Termination::Unexpected));
        let (phase, work_count) = match phase {
            Phase::Connect { deadline_ns } => self.connect(deadline_ns)?,
            Phase::AwaitStreams { pending, deadline_ns } => self.await_streams(pending, deadline_ns)?,
            Phase::AwaitRecovery { deadline_ns } => self.await_recovery(deadline_ns)?,
            Phase::Load { loader, recording_id } => match self.load(loader, recording_id) {
                Ok(next) => next,
                Err(error) => return Err(self.tell_failed_start(error)),
            },
            Phase::Start => match self.start_service(None) {
                Ok(()) => (Phase::SendStartAck, 1),
                Err(error) => return Err(self.tell_failed_start(error)),
            },
            Phase::SendStartAck => self.send_start_ack()?,
            other => (other, 0),
        };
        self.phase = phase;
        Ok(work_count)
    }

    fn connect(&mut self, deadline_ns: i64) -> Result<(Phase, usize), ContainerError> {
        let context = Context::new(&self.context.aeron_directory).client_name(&self.context.service_name);
        let mut aeron = match Aeron::connect(context, self.memory.clone(), &self.now) {
            Ok(aeron) => aeron,
            Err(ClientError::NotReady { .. }) if self.now.ns <= deadline_ns => {
                return Ok((Phase::Connect { deadline_ns }, 0));
            }
            Err(error) => return Err(error.into()),
        };
        let channel = &self.context.control_channel;
        let publication_id = aeron.add_exclusive_publication(channel, self.context.module_stream_id)?;
        let subscription_id = aeron.add_subscription(channel, self.context.service_stream_id)?;
        let counters = PendingCounters::add(&mut aeron, &self.context)?;
        let pending = PendingStreams { aeron, publication_id, subscription_id, to_module: None, counters };
        Ok((Phase::AwaitStreams { pending: Box::new(pending), deadline_ns }, 1))
    }

    fn await_streams(
        &mut self,
        mut pending: Box<PendingStreams>,
        deadline_ns: i64,
    ) -> Result<(Phase, usize), ContainerError> {
        let streams = pending.as_mut();
        streams.aeron.do_work(&self.now)?;
        if self.from_module.is_none() {
            self.from_module = streams.aeron.subscription(streams.subscription_id)?;
        }
        if streams.to_module.is_none() {
            streams.to_module = streams.aeron.exclusive_publication(streams.publication_id)?;
        }
        if self.counters.is_none() {
            self.counters = streams.counters.poll(&mut streams.aeron)?;
        }
        let are_there = self.from_module.is_some() && streams.to_module.is_some() && self.counters.is_some();
        if !are_there {
            return Ok((Phase::AwaitStreams { pending, deadline_ns }, 0));
        }
        let PendingStreams { aeron, to_module: Some(to_module), .. } = *pending else {
            return Err(ContainerError::Timeout("waiting for the control streams"));
        };
        let (service_id, patience_ns) = (self.context.service_id, self.context.reply_patience_ns);
        self.core = Some(Core::new(aeron, to_module, self.mark.activity(), service_id, patience_ns));
        Ok((Phase::AwaitRecovery { deadline_ns }, 1))
    }

    /// Waits for the consensus module's counters, which hold the recovery position.
    fn await_recovery(&mut self, deadline_ns: i64) -> Result<(Phase, usize), ContainerError> {
        self.keep_alive()?;
        let cluster_id = self.context.cluster_id;
        let Some(core) = &mut self.core else {
            return Err(ContainerError::Timeout("waiting for the driver"));
        };
        let counters = core.aeron.counters();
        let commit = counters
            .find(&mut |_, type_id, key| type_id == COMMIT_POSITION && int_at(key, 0) == Some(cluster_id));
        let recovery = RecoveryState::find(counters, cluster_id);
        let (Some(commit), Some(recovery)) = (commit, recovery) else {
            if self.now.ns > deadline_ns {
                return Err(ContainerError::Timeout("waiting for the cluster's recovery counter"));
            }
            return Ok((Phase::AwaitRecovery { deadline_ns }, 0));
        };
        self.commit_position = Some(CommitPosition {
            counter: counters.counter(commit).map_err(|error| ContainerError::Log(error.to_string()))?,
            registration_id: counters.registration_id(commit),
        });
        core.leadership_term_id = recovery.leadership_term_id;
        core.log_position = recovery.log_position;
        core.time = recovery.timestamp;
        if recovery.leadership_term_id == -1 {
            return Ok((Phase::Start, 1));
        }
        let index = self.context.service_id as usize;
        let Some(recording_id) = recovery.recording_ids.get(index).copied() else {
            let count = recovery.recording_ids.len();
            let error = ContainerError::Recovery(format!(
                "the cluster's snapshot has the state of {count} services, none of service {index}"
            ));
            return Err(self.tell_failed_start(error));
        };
        self.connect_archive();
        let expectation = SnapshotExpectation {
            type_id: snapshot_type::SERVICE,
            app_version: self.context.app_version,
            time_unit: None,
        };
        let loader = SnapshotLoader::new(
            recording_id,
            &self.context.replay_channel,
            self.context.replay_stream_id,
            expectation,
            self.context.archive.message_timeout_ns,
        );
        Ok((Phase::Load { loader: Box::new(loader), recording_id }, 1))
    }

    /// Begins to connect to the archive with new ids.
    pub(super) fn connect_archive(&mut self) {
        let mut context = self.context.archive.clone();
        if context.client_name.is_empty() {
            context.client_name.clone_from(&self.context.service_name);
        }
        let salt = self.snapshots_taken << 8 | self.context.service_id as u64;
        context.seed = Rng::new(context.seed ^ salt.rotate_left(32)).next_u64();
        if let Some(core) = &mut self.core {
            core.archive = Some(ArchiveClient::new(context));
        }
    }

    fn load(
        &mut self,
        mut loader: Box<SnapshotLoader>,
        recording_id: i64,
    ) -> Result<(Phase, usize), ContainerError> {
        let mut work_count = self.keep_alive()?;
        let Some(core) = &mut self.core else { return Ok((Phase::Load { loader, recording_id }, 0)) };
        let Some(archive) = core.archive.as_mut().filter(|archive| archive.is_connected()) else {
            return Ok((Phase::Load { loader, recording_id }, work_count));
        };
        while let Some(answer) = archive.poll_answer() {
            loader.on_answer(&answer);
        }
        work_count += loader.poll(&mut core.aeron, archive, &self.now)?;
        let sessions = &mut core.sessions;
        work_count += loader.read(SNAPSHOT_FRAGMENT_LIMIT, &mut |message| {
            let SnapshotMessage::ClientSession {
                session_id,
                response_stream_id,
                response_channel,
                principal,
            } = *message
            else {
                return Err(SnapshotError::State(format!("{message:?} is no state of a service")));
            };
            let mut session = EgressSession::new(ClientSession {
                id: session_id,
                response_stream_id,
                response_channel: response_channel.to_owned(),
                principal: principal.to_vec(),
            });
            session.is_open = true;
            sessions.insert(session_id, session);
            Ok(())
        })?;
        if !loader.is_complete() {
            return Ok((Phase::Load { loader, recording_id }, work_count));
        }
        core.time_unit = loader.marker().map(|marker| marker.time_unit);
        if let Some(image) = loader.image() {
            self.start_service(Some(SnapshotImage::new(image, recording_id)))?;
        }
        // A service that reads until the end of the stream would take a cut stream for a complete state.
        if let Some(image) = loader.image().filter(|image| image.is_publication_revoked()) {
            return Err(SnapshotError::of_ended(image, recording_id).into());
        }
        if let Some(core) = &mut self.core
            && let Some(mut archive) = core.archive.take()
        {
            loader.close(&core.aeron, &mut archive);
            archive.close();
        }
        Ok((Phase::SendStartAck, 1))
    }

    fn start_service(&mut self, mut snapshot: Option<SnapshotImage<'_>>) -> Result<(), ContainerError> {
        let Some(core) = &mut self.core else { return Ok(()) };
        let (service, waiter) = (&mut self.service, self.waiter.as_mut());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            core.call(waiter, Some("on_start"), |cluster| service.on_start(cluster, snapshot.as_mut()))
        }));
        match outcome {
            Ok(outcome) => outcome.map_err(|failure| failed("on_start", &failure)),
            Err(payload) => {
                if !payload.is::<ProcessDeath>() {
                    let position = core.log_position;
                    core.send_ack(position, -1);
                }
                resume_unwind(payload)
            }
        }
    }

    /// Informs the consensus module that the service cannot start.
    fn tell_failed_start(&mut self, error: ContainerError) -> ContainerError {
        if let Some(core) = &mut self.core {
            let position = core.log_position;
            core.send_ack(position, -1);
        }
        error
    }

    fn send_start_ack(&mut self) -> Result<(Phase, usize), ContainerError> {
        self.keep_alive()?;
        let Some(core) = &mut self.core else { return Ok((Phase::SendStartAck, 0)) };
        let (log_position, client_id) = (core.log_position, core.aeron.client_id());
        if !core.send_ack(log_position, client_id) {
            return Ok((Phase::SendStartAck, 0));
        }
        self.mark.signal_ready(&self.now);
        Ok((Phase::Running, 1))
    }
}

pub(super) fn failed(callback: &'static str, failure: &ServiceFailure) -> ContainerError {
    ContainerError::Service { callback, reason: failure.to_string() }
}
