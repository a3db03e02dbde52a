//! The only member stands for the next term, wins it, and opens the log to clients (spec 04 §5.2, §5.7).

use harrier_archive::SourceLocation;
use harrier_archive::client::find_recording_counter;
use harrier_protocol::counter_types::type_id::RECORDING_POSITION;
use harrier_protocol::uri::{ChannelUri, key};
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::storage::Storage;

use super::acks::Purpose;
use super::agent::{ConsensusModule, IngressStream, ModuleState};
use super::counters::{node_toggle, toggle};
use super::error::ModuleError;
use super::log::{self, LogPublisher};
use super::session::SessionState;
use super::start::{Phase, Step, sent};
use crate::codec::{LogMessage, ModuleMessage, Role};

/// Election states as counter 207 shows them.
mod state {
    pub(super) const INIT: i64 = 0;
    pub(super) const LEADER_LOG_REPLICATION: i64 = 5;
    pub(super) const LEADER_REPLAY: i64 = 6;
    pub(super) const LEADER_INIT: i64 = 7;
    pub(super) const LEADER_READY: i64 = 8;
    pub(super) const CLOSED: i64 = 17;
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    fn show_election(&self, state: i64) {
        if let Some(counters) = &self.counters {
            counters.election_state.set_ordered(state);
        }
    }

    /// The term is remembered durably before anything is done in it (spec 04 §5.2, state 0).
    pub(super) fn elect(&mut self) -> Step {
        self.show_election(state::INIT);
        let last = self.plan.last_leadership_term_id;
        let term_id = self.node_state.candidate_term_id().max(last) + 1;
        self.node_state.propose(term_id, self.append_position, self.now.epoch_ms)?;
        self.leadership_term_id = term_id;
        if let Some(counters) = &self.counters {
            counters.election_count.increment();
            counters.role.set_ordered(Role::Leader as i64);
        }
        self.enter(ModuleState::Active);
        self.show_election(state::LEADER_LOG_REPLICATION);
        let tags = (self.client().next_correlation_id(), self.client().next_correlation_id());
        let host = log::host_of(&self.member.log).to_owned();
        let channel = log::publication_channel(&self.context.log_channel, tags, &host, self.log_shape)?;
        let stream_id = self.context.log_stream_id;
        let id = self.client().add_exclusive_publication(&channel, stream_id)?;
        self.log_channel_tag = tags.0;
        Ok((Phase::AwaitLogPublication { id }, true))
    }

    pub(super) fn await_log_publication(&mut self, id: i64) -> Step {
        let Some(publication) = self.client().exclusive_publication(id)? else {
            return Ok((Phase::AwaitLogPublication { id }, false));
        };
        self.log_session_id = publication.session_id();
        self.log = Some(LogPublisher::new(publication));
        if self.append_position
            == self.plan.log.as_ref().map_or(self.append_position, |log| log.start_position)
        {
            return Ok((Phase::StartRecording, true));
        }
        self.show_election(state::LEADER_REPLAY);
        Ok((Phase::StartReplay, true))
    }

    pub(super) fn start_recording(&mut self) -> Step {
        self.show_election(state::LEADER_INIT);
        let channel =
            log::recording_channel(&self.context.log_channel, self.log_channel_tag, self.log_session_id);
        let stream_id = self.context.log_stream_id;
        let Some(aeron) = &self.aeron else { return Ok((Phase::StartRecording, false)) };
        let outcome = match self.recording_log.last_term().map(|term| term.recording_id) {
            Some(id) => {
                self.archive.extend_recording(aeron, id, &channel, stream_id, SourceLocation::Local, true)
            }
            None => self.archive.start_recording(aeron, &channel, stream_id, SourceLocation::Local, true),
        };
        Ok(match sent(outcome)? {
            Some(correlation_id) => (Phase::AwaitRecording { correlation_id }, true),
            None => (Phase::StartRecording, false),
        })
    }

    pub(super) fn await_recording(&mut self, correlation_id: i64) -> Step {
        Ok(match self.take_answer(correlation_id, "record the log")? {
            Some(_) => (Phase::AwaitRecordingCounter, true),
            None => (Phase::AwaitRecording { correlation_id }, false),
        })
    }

    pub(super) fn await_recording_counter(&mut self) -> (Phase, bool) {
        let session_id = self.log_session_id;
        let archive_id = Some(self.archive.archive_id());
        let found = find_recording_counter(self.client().counters(), session_id, archive_id);
        let Some((counter_id, recording_id)) = found else { return (Phase::AwaitRecordingCounter, false) };
        self.recording_counter_id = counter_id;
        self.log_recording_id = recording_id;
        (Phase::JoinServices, true)
    }

    pub(super) fn join_services(&mut self) -> (Phase, bool) {
        let recorded =
            log::recording_channel(&self.context.log_channel, self.log_channel_tag, self.log_session_id);
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
            is_standby: false,
            log_channel: &channel,
        };
        if self.link.as_mut().is_some_and(|link| link.send(&message)) {
            (Phase::AwaitJoin { deadline_ns: self.now.ns + self.context.startup_timeout_ns }, true)
        } else {
            (Phase::JoinServices, false)
        }
    }

    pub(super) fn await_join(&mut self, deadline_ns: i64) -> Step {
        if self.take_acks(self.append_position, Purpose::Arrival)?.is_none() {
            if self.now.ns > deadline_ns {
                return Err(self.missing_service("has not joined the log"));
            }
            return Ok((Phase::AwaitJoin { deadline_ns }, false));
        }
        self.correct_pending_messages();
        let (recording_id, term_id, base) =
            (self.log_recording_id, self.leadership_term_id, self.append_position);
        let timestamp = self.time();
        let operations = self.recording_log.append_term(recording_id, term_id, base, timestamp);
        self.write_files(operations);
        self.log_term = (term_id, base);
        self.show_election(state::LEADER_READY);
        Ok((Phase::AppendTerm, true))
    }

    /// The first event of the term; the file that names the term is safe before.
    pub(super) fn append_term(&mut self) -> Step {
        if !self.files_are_written()? {
            return Ok((Phase::AppendTerm, false));
        }
        let timestamp = self.time();
        let base = self.append_position;
        let (leadership_term_id, leader_member_id, log_session_id, app_version) =
            (self.leadership_term_id, self.context.member_id, self.log_session_id, self.context.app_version);
        let time_unit = self.clock.unit();
        let Some(log) = &mut self.log else { return Err(ModuleError::Timeout("waiting for the log")) };
        let appended = log.append_positioned(|log_position| LogMessage::NewLeadershipTerm {
            leadership_term_id,
            log_position,
            timestamp,
            term_base_log_position: base,
            leader_member_id,
            log_session_id,
            time_unit,
            app_version,
        })?;
        if appended.is_none() {
            return Ok((Phase::AppendTerm, false));
        }
        self.clock.observe(timestamp);
        let ids = self.add_ingress()?;
        self.prepare_sessions();
        Ok((Phase::AwaitIngress { ids }, true))
    }

    fn add_ingress(&mut self) -> Result<Vec<i64>, ModuleError> {
        let mut uri = ChannelUri::parse(&self.context.ingress_channel)?;
        if uri.is_udp() {
            uri.put_if_absent(key::ENDPOINT, &self.member.ingress);
        }
        uri.put(key::REJOIN, false);
        uri.put(key::RELIABLE, true);
        let stream_id = self.context.ingress_stream_id;
        let is_ipc_allowed = self.context.is_ipc_ingress_allowed && uri.is_udp();
        let mut consensus = ChannelUri::parse(&self.context.consensus_channel)?;
        if consensus.is_udp() {
            consensus.put_if_absent(key::ENDPOINT, &self.member.consensus);
        }
        let consensus_stream_id = self.context.consensus_stream_id;
        // The consensus stream comes first, then those of clients.
        let mut ids = vec![
            self.client().add_subscription(&consensus.to_string(), consensus_stream_id)?,
            self.client().add_subscription(&uri.to_string(), stream_id)?,
        ];
        if is_ipc_allowed {
            ids.push(self.client().add_subscription("aeron:ipc", stream_id)?);
        }
        Ok(ids)
    }

    pub(super) fn await_ingress(&mut self, mut ids: Vec<i64>) -> Step {
        while let Some(id) = ids.first().copied() {
            let Some(subscription) = self.client().subscription(id)? else {
                return Ok((Phase::AwaitIngress { ids }, false));
            };
            let assembler = FragmentAssembler::new();
            let stream = IngressStream { subscription, assembler, known_sessions: Vec::new() };
            match self.consensus {
                None => self.consensus = Some(stream),
                Some(_) => self.ingress.push(stream),
            }
            ids.remove(0);
        }
        if let Some(counters) = &self.counters {
            counters.leadership_term_id.set_ordered(self.leadership_term_id);
            // A cluster that was suspended stays so until it is told to go on.
            let is_suspended = self.state == ModuleState::Suspended;
            counters.control_toggle.set_ordered(if is_suspended { toggle::SUSPEND } else { toggle::NEUTRAL });
            counters.node_toggle.set_ordered(node_toggle::NEUTRAL);
        }
        self.show_election(state::CLOSED);
        self.mark.signal_ready(&self.now);
        self.ready.store(true, std::sync::atomic::Ordering::Release);
        Ok((Phase::Leading, true))
    }

    /// Sessions of before go on in the new term: their clients hear of it once their streams are back.
    fn prepare_sessions(&mut self) {
        let Some(aeron) = &mut self.aeron else { return };
        for session in self.sessions.values_mut().filter(|own| own.state == SessionState::Open) {
            let info = session.response_channel.clone();
            // One that cannot be answered any more ends by its time-out.
            if session.connect(aeron, self.context.cluster_id, &info).is_err() {
                session.disconnect();
            }
            session.last_activity_ns = self.now.ns;
            session.owes_open_event = true;
            session.owes_new_leader_event = true;
        }
    }

    /// How far the log is recorded; `None` when it is not recorded any more.
    #[inline]
    pub(super) fn recorded_position(&self) -> Option<i64> {
        let counters = self.aeron.as_ref()?.counters();
        let id = self.recording_counter_id;
        (counters.is_allocated(id) && counters.type_id(id) == RECORDING_POSITION).then(|| counters.value(id))
    }
}
