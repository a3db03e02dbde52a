//! What a leader does: timers, messages of services, sessions, commits (spec 04 §3.3–§3.5, §4.4–§4.11).

use harrier_ringbuf::Memory;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::Storage;

use super::acks::Ack;
use super::agent::{ConsensusModule, ModuleError, ModuleState};
use super::authenticator::Verdict;
use super::counters::toggle;
use super::session::SessionState;
use super::start::Phase;
use crate::codec::{
    CloseReason, ClusterAction, Egress, EventCode, LogMessage, ModuleMessage, ServiceMessage, SessionHeader,
};

/// Timers that fire, and messages of a service that are appended, per duty cycle.
const APPEND_LIMIT: usize = 20;
/// Longest principal.
const MAX_PRINCIPAL_LENGTH: usize = 4_096;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// The fast part of a leader's duty cycle.
    #[inline]
    pub(super) fn lead(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        if self.state == ModuleState::Active {
            work_count += self.fire_timers()?;
            work_count += self.append_service_messages()?;
            work_count += self.poll_ingress()?;
        }
        work_count += self.update_commit_position();
        Ok(work_count)
    }

    /// What is recorded is safe: a single member is its own quorum (spec 04 §4.4).
    #[inline]
    pub(super) fn update_commit_position(&mut self) -> usize {
        let Some(mut recorded) = self.recorded_position() else { return 0 };
        if is_planted(Bug::EarlyCommit) {
            recorded = self.log.as_ref().map_or(recorded, |log| log.position());
        }
        if recorded <= self.commit_position {
            return 0;
        }
        self.commit_position = recorded;
        if let Some(counters) = &self.counters {
            counters.commit_position.set_ordered(recorded);
        }
        for messages in &mut self.pending_messages {
            messages.on_committed(recorded);
        }
        1
    }

    fn fire_timers(&mut self) -> Result<usize, ModuleError> {
        let time = self.time();
        let mut count = 0;
        while count < APPEND_LIMIT
            && let Some(correlation_id) = self.timers.due(time)
        {
            let event = LogMessage::Timer {
                leadership_term_id: self.leadership_term_id,
                correlation_id,
                timestamp: time,
            };
            if self.append(&event)?.is_none() {
                break;
            }
            if !is_planted(Bug::TimerFiresTwice) {
                self.timers.cancel(correlation_id);
            }
            count += 1;
        }
        Ok(count)
    }

    fn append_service_messages(&mut self) -> Result<usize, ModuleError> {
        let timestamp = self.time();
        let leadership_term_id = self.leadership_term_id;
        let Some(log) = &mut self.log else { return Ok(0) };
        let mut failure = None;
        let mut count = 0;
        for messages in &mut self.pending_messages {
            count += messages.append(APPEND_LIMIT, |session_id, payload| {
                let header = SessionHeader { leadership_term_id, session_id, timestamp };
                log.append_session(header, payload).unwrap_or_else(|error| {
                    failure.get_or_insert(error);
                    None
                })
            });
        }
        if count > 0 {
            self.clock.observe(timestamp);
        }
        failure.map_or(Ok(count), |error| Err(error.into()))
    }

    /// Appends an event; `None` when the log takes nothing now.
    pub(super) fn append(&mut self, event: &LogMessage<'_>) -> Result<Option<i64>, ModuleError> {
        let Some(log) = &mut self.log else { return Ok(None) };
        let appended = log.append(event)?;
        if appended.is_some() {
            let time = self.clock.time(&self.now);
            self.clock.observe(time);
        }
        Ok(appended)
    }

    /// Takes what services say.
    pub(super) fn poll_services(&mut self) -> usize {
        let Some(mut link) = self.link.take() else { return 0 };
        let mut errors = Vec::new();
        let work_count =
            link.poll(&mut |message| self.on_service_message(message), &mut |error| errors.push(error));
        self.link = Some(link);
        for error in errors {
            self.record_error(&error);
        }
        work_count
    }

    fn on_service_message(&mut self, message: &ServiceMessage<'_>) {
        match *message {
            ServiceMessage::Offer { header, payload } => {
                let service = usize::try_from(header.session_id).unwrap_or(usize::MAX);
                let is_taken =
                    self.pending_messages.get_mut(service).is_some_and(|messages| messages.enqueue(payload));
                if !is_taken {
                    let text = format!("message of service {} was not taken", header.session_id);
                    self.record_error(&text);
                }
            }
            ServiceMessage::CloseSession { session_id } => {
                if let Some(session) = self.sessions.get_mut(&session_id) {
                    session.begin_closing(CloseReason::ServiceAction);
                    self.next_slow_tick_ns = self.now.ns;
                }
            }
            ServiceMessage::ScheduleTimer { correlation_id, deadline } => {
                self.timers.schedule(correlation_id, deadline);
            }
            ServiceMessage::CancelTimer { correlation_id } => {
                self.timers.cancel(correlation_id);
            }
            ServiceMessage::Ack { log_position, ack_id, relevant_id, service_id, .. } => {
                if !self.acks.on_ack(service_id, Ack { ack_id, log_position, relevant_id }) {
                    let text = format!("stray ack {ack_id} of service {service_id} at {log_position}");
                    self.record_error(&text);
                }
            }
            ServiceMessage::MembersQuery { correlation_id, .. } => {
                let members = self.context.members.clone();
                let answer = ModuleMessage::MembersResponse {
                    correlation_id,
                    leader_member_id: self.context.member_id,
                    active_members: &members,
                };
                if let Some(link) = &mut self.link {
                    link.send(&answer);
                }
            }
        }
    }

    /// Tells the services at which position to end.
    pub(super) fn tell_termination(&mut self, log_position: i64) -> bool {
        let message = ModuleMessage::TerminationPosition { log_position };
        self.link.as_mut().is_some_and(|link| link.send(&message))
    }

    /// The slow part of a leader's duty cycle.
    pub(super) fn slow_tick(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = self.check_toggle()?;
        if self.state == ModuleState::Active {
            work_count += self.check_pending_sessions()?;
            work_count += self.check_sessions()?;
        }
        Ok(work_count)
    }

    fn check_toggle(&mut self) -> Result<usize, ModuleError> {
        let Some(counters) = &self.counters else { return Ok(0) };
        let wish = counters.control_toggle.get();
        let set = |value: i64| counters.control_toggle.set_ordered(value);
        match wish {
            toggle::SUSPEND if self.state == ModuleState::Active => {
                if self.append_action(ClusterAction::Suspend)? {
                    self.enter(ModuleState::Suspended);
                }
            }
            toggle::RESUME if self.state == ModuleState::Suspended => {
                if self.append_action(ClusterAction::Resume)? {
                    self.enter(ModuleState::Active);
                    if let Some(counters) = &self.counters {
                        counters.control_toggle.set_ordered(toggle::NEUTRAL);
                    }
                }
            }
            toggle::SNAPSHOT | toggle::STANDBY_SNAPSHOT => {
                set(toggle::NEUTRAL);
                self.record_error(
                    "snapshots are not supported by this version; the log is kept whole instead",
                );
            }
            toggle::SHUTDOWN | toggle::ABORT => {
                let position = self.log.as_ref().map_or(self.commit_position, |log| log.position());
                if self.tell_termination(position) {
                    self.termination_position = Some(position);
                    self.enter(ModuleState::Terminating);
                    let deadline_ns = self.now.ns + self.context.termination_timeout_ns;
                    self.phase = Phase::Terminating { deadline_ns };
                }
            }
            _ => return Ok(0),
        }
        Ok(1)
    }

    fn append_action(&mut self, action: ClusterAction) -> Result<bool, ModuleError> {
        let (leadership_term_id, timestamp) = (self.leadership_term_id, self.time());
        let Some(log) = &mut self.log else { return Ok(false) };
        let appended = log.append_positioned(|log_position| LogMessage::Action {
            leadership_term_id,
            log_position,
            timestamp,
            action,
            flags: 0,
        })?;
        Ok(appended.is_some())
    }

    fn session_timeout_ms(&self) -> i64 {
        self.context.session_timeout_ns / 1_000_000
    }

    /// Sessions that are not in the log yet, newest first (spec 04 §3.3).
    fn check_pending_sessions(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        let mut index = self.pending_sessions.len();
        while index > 0 {
            index -= 1;
            let timeout_ms = self.session_timeout_ms();
            let leader = self.leader_facts();
            let Some(aeron) = &mut self.aeron else { return Ok(work_count) };
            let session = &mut self.pending_sessions[index];
            let is_connected = session.is_connected(aeron);
            if session.state == SessionState::Init {
                session.state = SessionState::Connecting;
            }
            if is_connected && session.state == SessionState::Connecting {
                session.state = SessionState::Connected;
            }
            let is_late = self.now.epoch_ms > session.last_activity_ms + timeout_ms;
            if session.state == SessionState::Invalid || is_late {
                if is_late && let Some(counters) = &self.counters {
                    counters.timed_out_clients.increment();
                }
                self.pending_sessions.remove(index).disconnect();
                work_count += 1;
                continue;
            }
            if !is_connected {
                continue;
            }
            if let Some((code, detail)) = session.rejection.clone() {
                if session.send_event(leader, code, &detail) {
                    self.pending_sessions.remove(index).disconnect();
                    work_count += 1;
                }
                continue;
            }
            work_count += 1;
            self.authenticate(index);
            if self.pending_sessions[index].state == SessionState::Authenticated {
                self.open_session(index)?;
            }
        }
        Ok(work_count)
    }

    fn authenticate(&mut self, index: usize) {
        let leader = self.leader_facts();
        let session = &mut self.pending_sessions[index];
        let verdict = match session.state {
            SessionState::Connected => self.context.authenticator.on_connect(&session.credentials),
            SessionState::Challenged if std::mem::take(&mut session.has_answer) => {
                self.context.authenticator.on_answer(&session.credentials)
            }
            _ => return,
        };
        match verdict {
            Verdict::Authenticated { principal } if principal.len() <= MAX_PRINCIPAL_LENGTH => {
                session.principal = principal;
                session.state = SessionState::Authenticated;
            }
            Verdict::Challenged { challenge } => {
                let message = Egress::Challenge {
                    correlation_id: session.correlation_id,
                    session_id: session.id,
                    challenge: &challenge,
                };
                if session.send(&message) {
                    session.state = SessionState::Challenged;
                }
            }
            Verdict::Authenticated { .. } | Verdict::Rejected => {
                let detail = "session failed authentication".to_owned();
                session.state = SessionState::Rejected;
                if !session.send_event(leader, EventCode::AuthenticationRejected, &detail) {
                    session.rejection = Some((EventCode::AuthenticationRejected, detail));
                    return;
                }
                session.state = SessionState::Invalid;
            }
        }
    }

    fn open_session(&mut self, index: usize) -> Result<(), ModuleError> {
        let (leadership_term_id, timestamp) = (self.leadership_term_id, self.time());
        let session = &self.pending_sessions[index];
        let event = LogMessage::SessionOpen {
            leadership_term_id,
            correlation_id: session.correlation_id,
            session_id: session.id,
            timestamp,
            response_stream_id: session.response_stream_id,
            response_channel: &session.response_channel,
            principal: &session.principal,
        };
        let Some(log) = &mut self.log else { return Ok(()) };
        let Some(position) = log.append(&event)? else { return Ok(()) };
        self.clock.observe(timestamp);
        let mut session = self.pending_sessions.remove(index);
        session.state = SessionState::Open;
        session.opened_log_position = position;
        session.last_activity_ms = self.now.epoch_ms;
        // A session that a crash could still undo is none: its client is told once the event is committed.
        session.owes_open_event = true;
        self.sessions.insert(session.id, session);
        Ok(())
    }

    /// Sessions in the log, newest first: events they are owed, timeouts, closes (spec 04 §3.5).
    fn check_sessions(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        let timeout_ms = self.session_timeout_ms();
        let mut end = i64::MAX;
        while let Some(id) = self.sessions.range(..end).next_back().map(|(id, _)| *id) {
            end = id;
            let leader = self.leader_facts();
            let Some(aeron) = &mut self.aeron else { break };
            let Some(session) = self.sessions.get_mut(&id) else { continue };
            let is_connected = session.has_streams() && session.is_connected(aeron);
            if session.state == SessionState::Invalid {
                session.state = SessionState::Open;
            }
            if session.is_open() && self.now.epoch_ms > session.last_activity_ms + timeout_ms {
                session.begin_closing(CloseReason::Timeout);
            }
            if session.state == SessionState::Closing {
                work_count += usize::from(self.close_session(id)?);
                continue;
            }
            if !is_connected {
                continue;
            }
            if session.owes_open_event {
                if session.opened_log_position > self.commit_position {
                    continue;
                }
                session.owes_open_event = !session.send_event(leader, EventCode::Ok, "");
                work_count += 1;
            } else if session.owes_new_leader_event {
                let event = Egress::NewLeader {
                    leadership_term_id: leader.leadership_term_id,
                    session_id: id,
                    leader_member_id: leader.member_id,
                    ingress_endpoints: &self.ingress_endpoints,
                };
                session.owes_new_leader_event = !session.send(&event);
                work_count += 1;
            }
        }
        Ok(work_count)
    }

    /// Ends a session in the log, tells its client, and forgets it.
    pub(super) fn close_session(&mut self, id: i64) -> Result<bool, ModuleError> {
        let timestamp = self.time();
        let leader = self.leader_facts();
        let Some(session) = self.sessions.get_mut(&id) else { return Ok(false) };
        let reason = session.close_reason.unwrap_or(CloseReason::Timeout);
        let event = LogMessage::SessionClose {
            leadership_term_id: leader.leadership_term_id,
            session_id: id,
            timestamp,
            reason,
        };
        let Some(log) = &mut self.log else { return Ok(false) };
        if log.append(&event)?.is_none() {
            return Ok(false);
        }
        self.clock.observe(timestamp);
        if reason != CloseReason::ClientAction {
            session.send_event(leader, EventCode::Closed, reason.name());
        }
        session.disconnect();
        self.sessions.remove(&id);
        if reason == CloseReason::Timeout
            && let Some(counters) = &self.counters
        {
            counters.timed_out_clients.increment();
        }
        Ok(true)
    }
}
