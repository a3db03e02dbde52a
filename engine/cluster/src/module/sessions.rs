//! Sessions that are in the log: events they are owed, time-outs, closes (spec 04 §3.5).

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::agent::ConsensusModule;
use super::error::ModuleError;
use super::session::{IngressLink, SessionState};
use crate::codec::{CloseReason, Egress, EventCode, LogMessage};

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// All of them, newest first.
    pub(super) fn check_sessions(&mut self) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        let mut end = i64::MAX;
        while let Some(id) = self.sessions.range(..end).next_back().map(|(id, _)| *id) {
            end = id;
            work_count += usize::from(self.check_session(id)?);
        }
        Ok(work_count)
    }

    /// Has the ingress logs of open sessions allocated whole; those of other senders have their first bytes only.
    pub(super) fn allocate_ingress_logs(&mut self) {
        let Some(allocator) = &self.context.log_allocator else { return };
        for session in self.sessions.values_mut().filter(|entry| entry.allocated_link != entry.ingress_link) {
            session.allocated_link = session.ingress_link;
            let Some(IngressLink { stream, session_id }) = session.ingress_link else { continue };
            let stream = self.ingress.get_mut(stream);
            if let Some(image) = stream.and_then(|entry| entry.subscription.image_by_session_id(session_id)) {
                allocator.allocate(image.correlation_id());
            }
        }
    }

    fn check_session(&mut self, id: i64) -> Result<bool, ModuleError> {
        let leader = self.leader_facts();
        let (Some(aeron), Some(session)) = (&mut self.aeron, self.sessions.get_mut(&id)) else {
            return Ok(false);
        };
        let is_connected = session.has_streams() && session.is_connected(aeron);
        if session.state == SessionState::Invalid {
            session.state = SessionState::Open;
        }
        let deadline_ns = session.last_activity_ns.saturating_add(self.context.session_timeout_ns);
        if session.is_open() && self.now.ns > deadline_ns {
            session.begin_closing(CloseReason::Timeout);
        }
        if session.state == SessionState::Closing {
            return self.close_session(id);
        }
        if !is_connected {
            return Ok(false);
        }
        if session.owes_open_event {
            if session.opened_log_position > self.commit_position {
                return Ok(false);
            }
            session.owes_open_event = !session.send_event(leader, EventCode::Ok, "");
            return Ok(true);
        }
        if session.owes_new_leader_event {
            let event = Egress::NewLeader {
                leadership_term_id: leader.leadership_term_id,
                session_id: id,
                leader_member_id: leader.member_id,
                ingress_endpoints: &self.ingress_endpoints,
            };
            session.owes_new_leader_event = !session.send(&event);
            return Ok(true);
        }
        Ok(false)
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
        // A client that closes has no stream left; one whose close was not appended at once has, and is told.
        session.send_event(leader, EventCode::Closed, reason.name());
        session.disconnect();
        self.sessions.remove(&id);
        if reason == CloseReason::Timeout
            && let Some(counters) = &self.counters
        {
            counters.timed_out_clients.increment();
        }
        Ok(true)
    }

    /// A session whose client's stream has gone ends at once.
    pub(super) fn check_ingress_streams(&mut self) {
        for (index, stream) in self.ingress.iter_mut().enumerate() {
            let images = stream.subscription.images();
            let is_same = images.len() == stream.known_sessions.len()
                && images
                    .iter()
                    .zip(&stream.known_sessions)
                    .all(|(image, known)| image.session_id() == *known);
            if is_same {
                continue;
            }
            let present: Vec<i32> = images.iter().map(|image| image.session_id()).collect();
            for session_id in stream.known_sessions.iter().filter(|known| !present.contains(known)) {
                stream.assembler.free_session(*session_id);
                let gone = Some(IngressLink { stream: index, session_id: *session_id });
                for session in self.sessions.values_mut().filter(|session| session.ingress_link == gone) {
                    session.begin_closing(CloseReason::Timeout);
                }
            }
            stream.known_sessions = present;
        }
    }
}
