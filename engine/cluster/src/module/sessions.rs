//! State that a leader keeps for each session of the log: streams, events to send, time-outs (spec 04 §3.5).

use std::collections::BTreeMap;

use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::error::ModuleError;
use super::ingress::IngressLink;
use super::leading::Leading;
use super::response::{Event, Recipient, Response};
use super::state::LoggedSession;
use crate::codec::{CloseReason, Egress, EventCode, LogMessage};

/// A leader's link to the client of a session. Dropping it closes the stream to the client.
#[derive(Debug)]
pub(super) struct SessionLink {
    pub(super) last_activity_ns: i64,
    /// Reason of a close that is to be appended.
    pub(super) closing: Option<CloseReason>,
    /// True until the client was told that the session is open.
    pub(super) owes_open_event: bool,
    /// True until the client was told of the new term.
    pub(super) owes_new_leader_event: bool,
    /// Image on which the client sends; `None` until its first message of the term.
    pub(super) ingress: Option<IngressLink>,
    /// Image whose log has been allocated completely.
    pub(super) allocated: Option<IngressLink>,
    pub(super) response: Response,
}

impl SessionLink {
    /// Creates the link of a session that was just opened.
    pub(super) fn new(now_ns: i64, ingress: Option<IngressLink>, response: Response) -> Self {
        Self {
            last_activity_ns: now_ns,
            closing: None,
            owes_open_event: true,
            owes_new_leader_event: false,
            ingress,
            allocated: None,
            response,
        }
    }

    #[inline]
    pub(super) fn is_open(&self) -> bool {
        self.closing.is_none()
    }

    /// Ends the session at its next check.
    pub(super) fn begin_closing(&mut self, reason: CloseReason) {
        self.closing.get_or_insert(reason);
    }
}

/// Creates the links of all sessions of the log for a new leader. Their clients hear of the new term once their streams
/// are back.
pub(super) fn link_sessions<M: Memory, S: Storage>(core: &mut Core<M, S>) -> BTreeMap<i64, SessionLink> {
    let mut links = BTreeMap::new();
    for session in core.state.sessions() {
        let mut link = SessionLink::new(core.now.ns, None, Response::default());
        link.closing = session.close_reason;
        if link.is_open() {
            let recipient = recipient(session, core.context.cluster_id);
            // A session whose client cannot be answered ends by its time-out.
            if link.response.connect(&mut core.aeron, &recipient).is_err() {
                link.response.disconnect();
            }
            link.owes_open_event = !core.told_sessions.contains(&session.id);
            link.owes_new_leader_event = true;
        }
        links.insert(session.id, link);
    }
    core.told_sessions.clear();
    links
}

fn recipient(session: &LoggedSession, cluster_id: i32) -> Recipient<'_> {
    Recipient {
        session_id: session.id,
        cluster_id,
        channel: &session.response_channel,
        stream_id: session.response_stream_id,
        info: &session.response_channel,
    }
}

impl Leading {
    /// Checks all sessions, the newest first.
    pub(super) fn check_sessions<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
    ) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        let mut end = i64::MAX;
        while let Some(id) = self.links.range(..end).next_back().map(|(id, _)| *id) {
            end = id;
            work_count += usize::from(self.check_session(core, id)?);
        }
        Ok(work_count)
    }

    /// Has the ingress logs of open sessions allocated completely. Until then a log has only its first bytes.
    pub(super) fn allocate_ingress_logs<M: Memory, S: Storage>(&mut self, core: &Core<M, S>) {
        let Some(allocator) = &core.context.log_allocator else { return };
        for link in self.links.values_mut().filter(|link| link.allocated != link.ingress) {
            link.allocated = link.ingress;
            let Some(IngressLink { stream, session_id }) = link.ingress else { continue };
            let stream = self.ingress.get_mut(stream);
            if let Some(image) = stream.and_then(|entry| entry.subscription.image_by_session_id(session_id)) {
                allocator.allocate(image.correlation_id());
            }
        }
    }

    fn check_session<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        id: i64,
    ) -> Result<bool, ModuleError> {
        let leader = core.leader_facts();
        let (Some(link), Some(session)) = (self.links.get_mut(&id), core.state.session(id)) else {
            return Ok(false);
        };
        let is_connected = link.response.has_streams() && link.response.is_connected(&mut core.aeron, id);
        let deadline_ns = link.last_activity_ns.saturating_add(core.context.session_timeout_ns);
        if link.is_open() && core.now.ns > deadline_ns {
            link.begin_closing(CloseReason::Timeout);
        }
        if !link.is_open() {
            return self.close_session(core, id);
        }
        if !is_connected {
            return Ok(false);
        }
        if link.owes_open_event {
            if session.opened_position > core.commit_position {
                return Ok(false);
            }
            let correlation_id = session.correlation_id;
            let event = Event { session_id: id, correlation_id, code: EventCode::Ok, detail: "" };
            link.owes_open_event = !link.response.send_event(leader, &event);
            return Ok(true);
        }
        if link.owes_new_leader_event {
            let event = Egress::NewLeader {
                leadership_term_id: leader.leadership_term_id,
                session_id: id,
                leader_member_id: leader.member_id,
                ingress_endpoints: &core.ingress_endpoints,
            };
            link.owes_new_leader_event = !link.response.send(&event);
            return Ok(true);
        }
        Ok(false)
    }

    /// Ends a session in the log, tells its client, and drops the link. Returns false when the log takes nothing now.
    pub(super) fn close_session<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        id: i64,
    ) -> Result<bool, ModuleError> {
        let timestamp = core.time();
        let leader = core.leader_facts();
        let closing = self.links.get(&id).map(|link| link.closing);
        let (Some(closing), Some(session)) = (closing, core.state.session(id)) else { return Ok(false) };
        let correlation_id = session.correlation_id;
        let reason = closing.unwrap_or(CloseReason::Timeout);
        let event = LogMessage::SessionClose {
            leadership_term_id: leader.leadership_term_id,
            session_id: id,
            timestamp,
            reason,
        };
        if self.append(core, &event)?.is_none() {
            return Ok(false);
        }
        if let Some(mut link) = self.links.remove(&id) {
            // A client that has closed its session has no stream, unless the close could not be appended at once.
            let detail = reason.name();
            let event = Event { session_id: id, correlation_id, code: EventCode::Closed, detail };
            link.response.send_event(leader, &event);
            link.response.disconnect();
        }
        if reason == CloseReason::Timeout {
            core.counters.timed_out_clients.increment();
        }
        Ok(true)
    }

    /// Ends the sessions whose clients' images have gone.
    pub(super) fn check_ingress_streams(&mut self) {
        let links = &mut self.links;
        for (index, stream) in self.ingress.iter_mut().enumerate() {
            stream.free_gone_sessions(|session_id| {
                let gone = Some(IngressLink { stream: index, session_id });
                for link in links.values_mut().filter(|link| link.ingress == gone) {
                    link.begin_closing(CloseReason::Timeout);
                }
            });
        }
    }
}
