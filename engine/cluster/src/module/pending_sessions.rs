//! Sessions that are not in the log yet: connecting, challenged, to be turned away (spec 04 §3.3).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::agent::ConsensusModule;
use super::error::ModuleError;
use super::security::{Authenticator, SessionProxy, Verdict};
use super::session::{Session, SessionState};
use crate::codec::{Egress, EventCode, LogMessage};

/// Longest principal.
const MAX_PRINCIPAL_LENGTH: usize = 4_096;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// All of them, newest first.
    pub(super) fn check_pending_sessions(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        let mut index = self.pending_sessions.len();
        while index > 0 {
            index -= 1;
            work_count += usize::from(self.check_pending_session(index)?);
        }
        Ok(work_count)
    }

    fn check_pending_session(&mut self, index: usize) -> Result<bool, ModuleError> {
        let leader = self.leader_facts();
        let timeout_ns = self.context.session_timeout_ns;
        let Some(aeron) = &mut self.aeron else { return Ok(false) };
        let session = &mut self.pending_sessions[index];
        let is_connected = session.is_connected(aeron);
        if session.state == SessionState::Init {
            session.state = SessionState::Connecting;
        }
        if is_connected && session.state == SessionState::Connecting {
            session.state = SessionState::Connected;
        }
        let is_late = self.now.ns > session.last_activity_ns.saturating_add(timeout_ns);
        if session.state == SessionState::Invalid || is_late {
            if is_late && let Some(counters) = &self.counters {
                counters.timed_out_clients.increment();
            }
            self.pending_sessions.remove(index).disconnect();
            return Ok(true);
        }
        if !is_connected {
            return Ok(false);
        }
        if let Some((code, detail)) = session.rejection.take() {
            if session.send_event(leader, code, &detail) {
                self.pending_sessions.remove(index).disconnect();
                return Ok(true);
            }
            session.rejection = Some((code, detail));
            return Ok(false);
        }
        decide(self.authenticator.as_mut(), &mut self.pending_sessions[index], self.now.epoch_ms);
        if self.pending_sessions[index].state == SessionState::Authenticated {
            self.open_session(index)?;
        }
        Ok(true)
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
        session.last_activity_ns = self.now.ns;
        // A session that a crash could still undo is none: its client is told once the event is committed.
        session.owes_open_event = true;
        if let Some(aeron) = &mut self.aeron
            && session.upgrade(aeron).is_err()
        {
            session.disconnect();
        }
        self.next_logged_session_id = self.next_logged_session_id.max(session.id + 1);
        self.sessions.insert(session.id, session);
        Ok(())
    }
}

/// Asks the authenticator about a client that can be told something.
pub(super) fn decide(authenticator: &mut (dyn Authenticator + Send), session: &mut Session, now_ms: i64) {
    let mut proxy = SessionProxy::new(session.id);
    match session.state {
        SessionState::Connected => authenticator.on_connected_session(&mut proxy, now_ms),
        SessionState::Challenged => authenticator.on_challenged_session(&mut proxy, now_ms),
        _ => return,
    }
    match proxy.into_verdict() {
        None => {}
        Some(Verdict::Authenticated { principal }) if principal.len() <= MAX_PRINCIPAL_LENGTH => {
            session.principal = principal;
            session.state = SessionState::Authenticated;
        }
        Some(Verdict::Challenged { challenge }) => {
            let message = Egress::Challenge {
                correlation_id: session.correlation_id,
                session_id: session.id,
                challenge: &challenge,
            };
            // One that is not sent is asked for again at the next look.
            if session.send(&message) {
                session.state = SessionState::Challenged;
            }
        }
        Some(Verdict::Authenticated { .. } | Verdict::Rejected) => {
            session.state = SessionState::Rejected;
            session.rejection =
                Some((EventCode::AuthenticationRejected, "session failed authentication".to_owned()));
        }
    }
}
