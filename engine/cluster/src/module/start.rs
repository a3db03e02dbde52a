//! From start to leadership: driver, archive, recovery, election of the only member (spec 04 §4.12, §4.14, §5.2).

use harrier_archive::SourceLocation;
use harrier_archive::client::{ArchiveAnswer, ReplayOptions, find_recording_counter};
use harrier_client::{Aeron, ClientError, Context, Counter, Image, Subscription};
use harrier_protocol::counter_types::type_id::RECORDING_POSITION;
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::{FragmentAssembler, ImageFragmentAssembler};
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, IngressStream, ModuleError, ModuleState};
use super::context::ConsensusModuleContext;
use super::counters::{PendingCounters, recovery_key, toggle, type_id};
use super::link::PendingLink;
use super::log::{self, LogPublisher, LogShape};
use crate::codec::{LogMessage, ModuleMessage, Role, TimeUnit};
use crate::mark::{Component, MarkFacts};
use crate::members::Member;

/// Election states as counter 207 shows them.
mod election {
    pub(super) const INIT: i64 = 0;
    pub(super) const LEADER_LOG_REPLICATION: i64 = 5;
    pub(super) const LEADER_REPLAY: i64 = 6;
    pub(super) const LEADER_INIT: i64 = 7;
    pub(super) const LEADER_READY: i64 = 8;
    pub(super) const CLOSED: i64 = 17;
}

/// A log that is being replayed through the services.
pub(super) struct LogReplay {
    replay_session_id: i64,
    subscription: Option<Subscription>,
    image: Option<Image>,
    assembler: ImageFragmentAssembler,
    has_joined: bool,
}

/// How far the start has come.
pub(super) enum Phase {
    Connect { deadline_ns: i64 },
    AwaitResources { counters: Option<PendingCounters>, link: Option<Box<PendingLink>>, deadline_ns: i64 },
    ConnectArchive,
    AwaitDescriptor { correlation_id: i64, recording_id: i64 },
    AwaitRecoveryCounter { id: i64 },
    AwaitServices { recovery: Option<Counter>, deadline_ns: i64 },
    Elect,
    AwaitLogPublication { id: i64, channel_tag: i64 },
    StartReplay { channel_tag: i64 },
    AwaitReplay { channel_tag: i64, correlation_id: i64 },
    AwaitReplaySubscription { channel_tag: i64, id: i64, replay_session_id: i64 },
    Replaying { channel_tag: i64, replay: Box<LogReplay> },
    StartRecording { channel_tag: i64 },
    AwaitRecording { channel_tag: i64, correlation_id: i64 },
    AwaitRecordingCounter { channel_tag: i64 },
    JoinServices { channel_tag: i64 },
    AwaitJoin,
    AppendTerm,
    AwaitIngress { ids: Vec<i64> },
    Leading,
    Terminating { deadline_ns: i64 },
}

impl Phase {
    pub(super) fn uses_archive(&self) -> bool {
        !matches!(self, Self::Connect { .. } | Self::AwaitResources { .. })
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
    /// One step towards leadership.
    pub(super) fn go_on(&mut self) -> Result<usize, ModuleError> {
        let phase = std::mem::replace(&mut self.phase, Phase::Elect);
        let (phase, is_step) = self.step(phase)?;
        self.phase = phase;
        Ok(usize::from(is_step))
    }

    fn client(&mut self) -> &mut Aeron {
        self.aeron.as_mut().expect("the client is there once the driver is found")
    }

    fn show_election(&self, state: i64) {
        if let Some(counters) = &self.counters {
            counters.election_state.set_ordered(state);
        }
    }

    /// Does what a phase waits for; returns the phase after it and whether it is another one.
    fn step(&mut self, phase: Phase) -> Result<(Phase, bool), ModuleError> {
        match phase {
            Phase::Connect { deadline_ns } => self.connect(deadline_ns),
            Phase::AwaitResources { counters, link, deadline_ns } => {
                self.await_resources(counters, link, deadline_ns)
            }
            Phase::ConnectArchive => self.connect_archive(),
            Phase::AwaitDescriptor { correlation_id, recording_id } => {
                self.await_descriptor(correlation_id, recording_id)
            }
            Phase::AwaitRecoveryCounter { id } => {
                let deadline_ns = self.now.ns + self.context.startup_timeout_ns;
                Ok(match self.client().counter(id)? {
                    None => (Phase::AwaitRecoveryCounter { id }, false),
                    recovery => (Phase::AwaitServices { recovery, deadline_ns }, true),
                })
            }
            Phase::AwaitServices { recovery, deadline_ns } => self.await_services(recovery, deadline_ns),
            Phase::Elect => self.elect(),
            Phase::AwaitLogPublication { id, channel_tag } => self.await_log_publication(id, channel_tag),
            Phase::StartReplay { channel_tag } => self.start_replay(channel_tag),
            Phase::AwaitReplay { channel_tag, correlation_id } => {
                self.await_replay(channel_tag, correlation_id)
            }
            Phase::AwaitReplaySubscription { channel_tag, id, replay_session_id } => {
                let Some(subscription) = self.client().subscription(id)? else {
                    return Ok((
                        Phase::AwaitReplaySubscription { channel_tag, id, replay_session_id },
                        false,
                    ));
                };
                let replay = LogReplay {
                    replay_session_id,
                    subscription: Some(subscription),
                    image: None,
                    assembler: ImageFragmentAssembler::new(),
                    has_joined: false,
                };
                Ok((Phase::Replaying { channel_tag, replay: Box::new(replay) }, true))
            }
            Phase::Replaying { channel_tag, replay } => self.replay(channel_tag, replay),
            Phase::StartRecording { channel_tag } => self.start_recording(channel_tag),
            Phase::AwaitRecording { channel_tag, correlation_id } => {
                match self.take_answer(correlation_id, "record the log")? {
                    Some(_) => Ok((Phase::AwaitRecordingCounter { channel_tag }, true)),
                    None => Ok((Phase::AwaitRecording { channel_tag, correlation_id }, false)),
                }
            }
            Phase::AwaitRecordingCounter { channel_tag } => Ok(self.await_recording_counter(channel_tag)),
            Phase::JoinServices { channel_tag } => Ok(self.join_services(channel_tag)),
            Phase::AwaitJoin => self.await_join(),
            Phase::AppendTerm => self.append_term(),
            Phase::AwaitIngress { ids } => self.await_ingress(ids),
            Phase::Leading => Ok((Phase::Leading, false)),
            Phase::Terminating { deadline_ns } => self.await_termination(deadline_ns),
        }
    }

    fn connect(&mut self, deadline_ns: i64) -> Result<(Phase, bool), ModuleError> {
        let context = Context::new(&self.context.aeron_directory).client_name("consensus-module");
        let mut aeron = match Aeron::connect(context, self.memory.clone(), &self.now) {
            Ok(aeron) => aeron,
            Err(ClientError::NotReady { .. }) if self.now.ns <= deadline_ns => {
                return Ok((Phase::Connect { deadline_ns }, false));
            }
            Err(error) => return Err(error.into()),
        };
        let counters = Some(PendingCounters::add(&mut aeron, self.context.cluster_id)?);
        let link = Some(Box::new(PendingLink::add(
            &mut aeron,
            &self.context.control_channel,
            self.context.service_stream_id,
            self.context.module_stream_id,
        )?));
        self.aeron = Some(aeron);
        Ok((Phase::AwaitResources { counters, link, deadline_ns }, true))
    }

    fn await_resources(
        &mut self,
        mut counters: Option<PendingCounters>,
        mut link: Option<Box<PendingLink>>,
        deadline_ns: i64,
    ) -> Result<(Phase, bool), ModuleError> {
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

    fn connect_archive(&mut self) -> Result<(Phase, bool), ModuleError> {
        if !self.archive.is_connected() {
            return Ok((Phase::ConnectArchive, false));
        }
        let Some(recording_id) = self.recording_log.last_term().map(|term| term.recording_id) else {
            return self.begin_recovery();
        };
        let Some(aeron) = &self.aeron else { return Ok((Phase::ConnectArchive, false)) };
        match self.archive.list_recording(aeron, recording_id) {
            Ok(correlation_id) => Ok((Phase::AwaitDescriptor { correlation_id, recording_id }, true)),
            Err(harrier_archive::client::ArchiveClientError::BackPressured) => {
                Ok((Phase::ConnectArchive, false))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn await_descriptor(
        &mut self,
        correlation_id: i64,
        recording_id: i64,
    ) -> Result<(Phase, bool), ModuleError> {
        match self.answer.take() {
            Some(ArchiveAnswer::Descriptor { correlation_id: own, descriptor }) if own == correlation_id => {
                if descriptor.stop_position == -1 {
                    return Err(ModuleError::Replay(format!("recording {recording_id} is still active")));
                }
                self.append_position = descriptor.stop_position;
                self.log_shape = Some(LogShape {
                    position: descriptor.stop_position,
                    initial_term_id: descriptor.initial_term_id,
                    term_length: descriptor.term_buffer_length,
                    mtu_length: descriptor.mtu_length,
                });
                self.begin_recovery()
            }
            Some(ArchiveAnswer::RecordingUnknown { .. }) => {
                Err(ModuleError::LogRecordingUnknown(recording_id))
            }
            Some(ArchiveAnswer::Error { code, message, .. }) => {
                Err(ModuleError::ArchiveRefused { request: "list the log's recording", code, message })
            }
            _ => Ok((Phase::AwaitDescriptor { correlation_id, recording_id }, false)),
        }
    }

    /// Tells the services where to begin (spec 04 §2.4, counter 204).
    fn begin_recovery(&mut self) -> Result<(Phase, bool), ModuleError> {
        let cluster_id = self.context.cluster_id;
        let key = recovery_key(cluster_id);
        let label = format!("Cluster recovery: leadershipTermId=-1 logPosition=0 clusterId={cluster_id}");
        let id = self.client().add_counter(type_id::RECOVERY_STATE, &key, &label)?;
        Ok((Phase::AwaitRecoveryCounter { id }, true))
    }

    fn await_services(
        &mut self,
        recovery: Option<Counter>,
        deadline_ns: i64,
    ) -> Result<(Phase, bool), ModuleError> {
        if let Some(acks) = self.acks.take_set(0) {
            if let Some(service) = acks.iter().position(|ack| ack.relevant_id == -1) {
                return Err(ModuleError::Service {
                    service_id: service as i32,
                    reason: "failed to start; see its error log".into(),
                });
            }
            drop(recovery);
            return Ok((Phase::Elect, true));
        }
        self.check_sequence(0)?;
        if self.now.ns > deadline_ns {
            return Err(ModuleError::Timeout("waiting for the services; are all of them running?"));
        }
        Ok((Phase::AwaitServices { recovery, deadline_ns }, false))
    }

    fn check_sequence(&self, log_position: i64) -> Result<(), ModuleError> {
        match self.acks.out_of_sequence(log_position) {
            Some((service, ack)) => Err(ModuleError::Service {
                service_id: service as i32,
                reason: format!("ack out of sequence: {ack:?}, expected position {log_position}"),
            }),
            None => Ok(()),
        }
    }

    /// The only member stands for the next term, durably, and wins (spec 04 §5.2, state 0).
    fn elect(&mut self) -> Result<(Phase, bool), ModuleError> {
        self.show_election(election::INIT);
        let last = self.recording_log.last_term().map_or(-1, |term| term.leadership_term_id);
        let term_id = self.node_state.candidate_term_id().max(last) + 1;
        self.node_state.propose(term_id, self.append_position, self.now.epoch_ms)?;
        self.leadership_term_id = term_id;
        if let Some(counters) = &self.counters {
            counters.election_count.increment();
            counters.role.set_ordered(Role::Leader as i64);
        }
        self.enter(ModuleState::Active);
        self.show_election(election::LEADER_LOG_REPLICATION);
        let tags = (self.client().next_correlation_id(), self.client().next_correlation_id());
        let host = log::host_of(&self.member.log).to_owned();
        let channel = log::publication_channel(&self.context.log_channel, tags, &host, self.log_shape)?;
        let stream_id = self.context.log_stream_id;
        let id = self.client().add_exclusive_publication(&channel, stream_id)?;
        Ok((Phase::AwaitLogPublication { id, channel_tag: tags.0 }, true))
    }

    fn await_log_publication(&mut self, id: i64, channel_tag: i64) -> Result<(Phase, bool), ModuleError> {
        let Some(publication) = self.client().exclusive_publication(id)? else {
            return Ok((Phase::AwaitLogPublication { id, channel_tag }, false));
        };
        self.log_session_id = publication.session_id();
        self.log = Some(LogPublisher::new(publication));
        if self.append_position == 0 {
            return Ok((Phase::StartRecording { channel_tag }, true));
        }
        self.show_election(election::LEADER_REPLAY);
        Ok((Phase::StartReplay { channel_tag }, true))
    }

    fn start_replay(&mut self, channel_tag: i64) -> Result<(Phase, bool), ModuleError> {
        let Some(recording_id) = self.recording_log.last_term().map(|term| term.recording_id) else {
            return Ok((Phase::StartRecording { channel_tag }, true));
        };
        let Some(aeron) = &self.aeron else { return Ok((Phase::StartReplay { channel_tag }, false)) };
        let (channel, stream_id) = (self.context.replay_channel.clone(), self.context.replay_stream_id);
        let length = self.append_position;
        let options = ReplayOptions::default();
        match self.archive.replay(aeron, recording_id, 0, length, &channel, stream_id, options) {
            Ok(correlation_id) => Ok((Phase::AwaitReplay { channel_tag, correlation_id }, true)),
            Err(harrier_archive::client::ArchiveClientError::BackPressured) => {
                Ok((Phase::StartReplay { channel_tag }, false))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn await_replay(&mut self, channel_tag: i64, correlation_id: i64) -> Result<(Phase, bool), ModuleError> {
        let Some(replay_session_id) = self.take_answer(correlation_id, "replay the log")? else {
            return Ok((Phase::AwaitReplay { channel_tag, correlation_id }, false));
        };
        let mut uri = ChannelUri::parse(&self.context.replay_channel)?;
        uri.put(key::SESSION_ID, replay_session_id as i32);
        let stream_id = self.context.replay_stream_id;
        let id = self.client().add_subscription(&uri.to_string(), stream_id)?;
        Ok((Phase::AwaitReplaySubscription { channel_tag, id, replay_session_id }, true))
    }

    /// The relevant id of the archive's answer to a request.
    fn take_answer(&mut self, wanted: i64, request: &'static str) -> Result<Option<i64>, ModuleError> {
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

    /// Reads the log with the services behind it, up to its end (spec 04 §4.14).
    fn replay(&mut self, channel_tag: i64, mut replay: Box<LogReplay>) -> Result<(Phase, bool), ModuleError> {
        let session_id = replay.replay_session_id as i32;
        if replay.image.is_none() {
            let Some(subscription) = &mut replay.subscription else {
                return Err(ModuleError::Replay("its subscription is gone".into()));
            };
            let id = subscription.image_by_session_id(session_id).map(|image| image.correlation_id());
            let Some(image) = id.and_then(|id| subscription.take_image(id)) else {
                return Ok((Phase::Replaying { channel_tag, replay }, false));
            };
            if image.join_position() != 0 {
                return Err(ModuleError::Replay(format!("it begins at {}", image.join_position())));
            }
            if !self.send_replay_join(session_id) {
                return Err(ModuleError::Replay("services cannot be told".into()));
            }
            replay.image = Some(image);
            return Ok((Phase::Replaying { channel_tag, replay }, true));
        }
        if !replay.has_joined {
            self.check_sequence(0)?;
            replay.has_joined = self.acks.take_set(0).is_some();
            let is_step = replay.has_joined;
            return Ok((Phase::Replaying { channel_tag, replay }, is_step));
        }
        let position = self.replay_log(&mut replay)?;
        if let Some(counters) = &self.counters {
            counters.commit_position.set_ordered(position);
        }
        self.commit_position = position;
        if position < self.append_position {
            let is_closed = replay.image.as_ref().is_none_or(Image::is_closed);
            if is_closed {
                let reason = match &self.answer {
                    Some(ArchiveAnswer::Error { message, .. }) => format!("; the archive says: {message}"),
                    _ => String::new(),
                };
                let end = self.append_position;
                return Err(ModuleError::Replay(format!("it ended at {position} of {end}{reason}")));
            }
            return Ok((Phase::Replaying { channel_tag, replay }, false));
        }
        Ok((Phase::StartRecording { channel_tag }, true))
    }

    fn send_replay_join(&mut self, session_id: i32) -> bool {
        let mut channel = self.context.replay_channel.clone();
        if let Ok(mut uri) = ChannelUri::parse(&channel) {
            uri.put(key::SESSION_ID, session_id);
            channel = uri.to_string();
        }
        let message = ModuleMessage::JoinLog {
            log_position: 0,
            max_log_position: self.append_position,
            member_id: self.context.member_id,
            log_session_id: session_id,
            log_stream_id: self.context.replay_stream_id,
            is_startup: true,
            role: Role::Follower,
            log_channel: &channel,
        };
        self.link.as_mut().is_some_and(|link| link.send(&message))
    }

    fn replay_log(&mut self, replay: &mut LogReplay) -> Result<i64, ModuleError> {
        let LogReplay { image: Some(image), assembler, .. } = replay else {
            return Err(ModuleError::Replay("its image is gone".into()));
        };
        let end = self.append_position;
        let mut failure = None;
        image.bounded_poll(end, 50, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, header| {
                if let Err(error) = self.on_replayed(message, header.position()) {
                    failure.get_or_insert(error);
                }
            });
        });
        match failure {
            Some(error) => Err(error),
            None => Ok(image.position()),
        }
    }

    fn start_recording(&mut self, channel_tag: i64) -> Result<(Phase, bool), ModuleError> {
        self.show_election(election::LEADER_INIT);
        let channel = log::recording_channel(&self.context.log_channel, channel_tag, self.log_session_id);
        let stream_id = self.context.log_stream_id;
        let Some(aeron) = &self.aeron else { return Ok((Phase::StartRecording { channel_tag }, false)) };
        let sent = match self.recording_log.last_term().map(|term| term.recording_id) {
            Some(id) => {
                self.archive.extend_recording(aeron, id, &channel, stream_id, SourceLocation::Local, true)
            }
            None => self.archive.start_recording(aeron, &channel, stream_id, SourceLocation::Local, true),
        };
        match sent {
            Ok(correlation_id) => Ok((Phase::AwaitRecording { channel_tag, correlation_id }, true)),
            Err(harrier_archive::client::ArchiveClientError::BackPressured) => {
                Ok((Phase::StartRecording { channel_tag }, false))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn await_recording_counter(&mut self, channel_tag: i64) -> (Phase, bool) {
        let session_id = self.log_session_id;
        let archive_id = Some(self.archive.archive_id());
        let found = find_recording_counter(self.client().counters(), session_id, archive_id);
        let Some((counter_id, recording_id)) = found else {
            return (Phase::AwaitRecordingCounter { channel_tag }, false);
        };
        self.recording_counter_id = counter_id;
        self.log_recording_id = recording_id;
        (Phase::JoinServices { channel_tag }, true)
    }

    fn join_services(&mut self, channel_tag: i64) -> (Phase, bool) {
        let recorded = log::recording_channel(&self.context.log_channel, channel_tag, self.log_session_id);
        let channel = log::service_channel(&recorded);
        let message = ModuleMessage::JoinLog {
            log_position: self.append_position,
            max_log_position: i64::MAX,
            member_id: self.context.member_id,
            log_session_id: self.log_session_id,
            log_stream_id: self.context.log_stream_id,
            // Sessions that live on need their egress connected by the services at once.
            is_startup: self.sessions.is_empty(),
            role: Role::Leader,
            log_channel: &channel,
        };
        if self.link.as_mut().is_some_and(|link| link.send(&message)) {
            (Phase::AwaitJoin, true)
        } else {
            (Phase::JoinServices { channel_tag }, false)
        }
    }

    fn await_join(&mut self) -> Result<(Phase, bool), ModuleError> {
        if self.acks.take_set(self.append_position).is_none() {
            self.check_sequence(self.append_position)?;
            return Ok((Phase::AwaitJoin, false));
        }
        let (recording_id, term_id, base) =
            (self.log_recording_id, self.leadership_term_id, self.append_position);
        let timestamp = self.time();
        let operations = self.recording_log.append_term(recording_id, term_id, base, timestamp);
        self.write_files(operations);
        self.show_election(election::LEADER_READY);
        Ok((Phase::AppendTerm, true))
    }

    /// The first event of the term; the file that names the term is safe before.
    fn append_term(&mut self) -> Result<(Phase, bool), ModuleError> {
        if !self.files_are_written()? {
            return Ok((Phase::AppendTerm, false));
        }
        let timestamp = self.time();
        let base = self.append_position;
        let (leadership_term_id, leader_member_id, log_session_id, app_version) =
            (self.leadership_term_id, self.context.member_id, self.log_session_id, self.context.app_version);
        let Some(log) = &mut self.log else { return Err(ModuleError::Timeout("waiting for the log")) };
        let appended = log.append_positioned(|log_position| LogMessage::NewLeadershipTerm {
            leadership_term_id,
            log_position,
            timestamp,
            term_base_log_position: base,
            leader_member_id,
            log_session_id,
            time_unit: TimeUnit::Millis,
            app_version,
        })?;
        if appended.is_none() {
            return Ok((Phase::AppendTerm, false));
        }
        self.clock.observe(timestamp);
        let mut uri = ChannelUri::parse(&self.context.ingress_channel)?;
        if uri.is_udp() {
            uri.put_if_absent(key::ENDPOINT, &self.member.ingress);
        }
        uri.put(key::REJOIN, false);
        uri.put(key::RELIABLE, true);
        let stream_id = self.context.ingress_stream_id;
        let is_ipc_allowed = self.context.is_ipc_ingress_allowed && uri.is_udp();
        let mut ids = vec![self.client().add_subscription(&uri.to_string(), stream_id)?];
        if is_ipc_allowed {
            ids.push(self.client().add_subscription("aeron:ipc", stream_id)?);
        }
        self.prepare_sessions()?;
        Ok((Phase::AwaitIngress { ids }, true))
    }

    fn await_ingress(&mut self, mut ids: Vec<i64>) -> Result<(Phase, bool), ModuleError> {
        while let Some(id) = ids.first().copied() {
            let Some(subscription) = self.client().subscription(id)? else {
                return Ok((Phase::AwaitIngress { ids }, false));
            };
            self.ingress.push(IngressStream { subscription, assembler: FragmentAssembler::new() });
            ids.remove(0);
        }
        if let Some(counters) = &self.counters {
            counters.leadership_term_id.set_ordered(self.leadership_term_id);
            counters.control_toggle.set_ordered(toggle::NEUTRAL);
            counters.node_toggle.set_ordered(toggle::NEUTRAL);
        }
        self.show_election(election::CLOSED);
        self.mark.signal_ready(&self.now);
        self.ready.store(true, std::sync::atomic::Ordering::Release);
        Ok((Phase::Leading, true))
    }

    /// Sessions of before go on in the new term: their clients hear of it once their streams are back.
    fn prepare_sessions(&mut self) -> Result<(), ModuleError> {
        let Some(aeron) = &mut self.aeron else { return Ok(()) };
        let now_ms = self.now.epoch_ms;
        for session in self.sessions.values_mut() {
            let info = session.response_channel.clone();
            session.connect(aeron, self.context.cluster_id, &info)?;
            session.last_activity_ms = now_ms;
            session.owes_open_event = true;
            session.owes_new_leader_event = true;
        }
        Ok(())
    }

    fn await_termination(&mut self, deadline_ns: i64) -> Result<(Phase, bool), ModuleError> {
        let position = self.termination_position.unwrap_or(self.commit_position);
        self.update_commit_position();
        if self.acks.take_set(position).is_none() && self.now.ns <= deadline_ns {
            return Ok((Phase::Terminating { deadline_ns }, false));
        }
        if self.writes_in_flight == 0 && !self.is_term_committed {
            self.is_term_committed = true;
            let operations = self.recording_log.commit_term(self.leadership_term_id, position);
            self.write_files(operations);
            return Ok((Phase::Terminating { deadline_ns: i64::MIN }, true));
        }
        if self.files_are_written()? {
            self.enter(ModuleState::Closed);
        }
        Ok((Phase::Terminating { deadline_ns: i64::MIN }, true))
    }

    /// Type of the counters that recordings have; the log's tells how far it is safe.
    pub(super) fn recorded_position(&self) -> Option<i64> {
        let counters = self.aeron.as_ref()?.counters();
        let id = self.recording_counter_id;
        (counters.is_allocated(id) && counters.type_id(id) == RECORDING_POSITION).then(|| counters.value(id))
    }
}
