//! Sessions that are not in the log: connecting, challenged, or refused (spec 04 §3.3).

use harrier_client::{Aeron, ClientError};
use harrier_ringbuf::Memory;
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::error::ModuleError;
use super::ingress::IngressLink;
use super::leading::Leading;
use super::response::{Event, LeaderFacts, Recipient, Response};
use super::security::{Authenticator, SessionProxy, Verdict};
use super::sessions::SessionLink;
use crate::codec::{Egress, EventCode, LogMessage};

/// Longest principal, bytes.
const MAX_PRINCIPAL_LENGTH: usize = 4_096;

/// Progress of a session on its way into the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PendingState {
    Init,
    Connecting,
    Connected,
    Challenged,
    Authenticated,
    Rejected,
    /// The client's channel is unusable.
    Invalid,
}

/// A session of a client or backup that is not in the log.
#[derive(Debug)]
pub(super) struct PendingSession {
    pub(super) id: i64,
    pub(super) correlation_id: i64,
    pub(super) state: PendingState,
    pub(super) response_stream_id: i32,
    pub(super) response_channel: String,
    pub(super) principal: Vec<u8>,
    pub(super) last_activity_ns: i64,
    /// Answer to a client that is refused.
    pub(super) rejection: Option<(EventCode, String)>,
    /// Image on which the client sends.
    pub(super) ingress: Option<IngressLink>,
    /// Name and version of the client, as it states them.
    pub(super) client_info: String,
    /// Address of the client's ingress stream, without its port.
    pub(super) address: String,
    pub(super) response: Response,
}

impl PendingSession {
    pub(super) fn new(
        id: i64,
        correlation_id: i64,
        response_stream_id: i32,
        response_channel: String,
        now_ns: i64,
    ) -> Self {
        Self {
            id,
            correlation_id,
            state: PendingState::Init,
            response_stream_id,
            response_channel,
            principal: Vec::new(),
            last_activity_ns: now_ns,
            rejection: None,
            ingress: None,
            client_info: String::new(),
            address: String::new(),
            response: Response::default(),
        }
    }

    /// Requests the stream to the client; its log is small where `is_preliminary`.
    pub(super) fn connect(
        &mut self,
        aeron: &mut Aeron,
        cluster_id: i32,
        info: &str,
        is_preliminary: bool,
    ) -> Result<(), ClientError> {
        let recipient = Recipient {
            session_id: self.id,
            cluster_id,
            channel: &self.response_channel,
            stream_id: self.response_stream_id,
            info,
        };
        if is_preliminary {
            self.response.connect_preliminarily(aeron, &recipient)
        } else {
            self.response.connect(aeron, &recipient)
        }
    }

    /// Takes the streams that the driver has made; returns true once the client listens.
    pub(super) fn is_connected(&mut self, aeron: &mut Aeron) -> bool {
        let is_connected = self.response.is_connected(aeron, self.id);
        if self.response.is_refused() {
            self.state = PendingState::Invalid;
        }
        is_connected
    }

    /// Sends an event; returns false when the stream takes nothing now.
    pub(super) fn send_event(&mut self, leader: LeaderFacts, code: EventCode, detail: &str) -> bool {
        let event = Event { session_id: self.id, correlation_id: self.correlation_id, code, detail };
        self.response.send_event(leader, &event)
    }
}

impl Leading {
    /// Checks all pending sessions, the newest first.
    pub(super) fn check_pending_sessions<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
    ) -> Result<usize, ModuleError> {
        let mut work_count = 0;
        let mut index = self.pending.len();
        while index > 0 {
            index -= 1;
            work_count += usize::from(self.check_pending_session(core, index)?);
        }
        Ok(work_count)
    }

    fn check_pending_session<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        index: usize,
    ) -> Result<bool, ModuleError> {
        let leader = core.leader_facts();
        let session = &mut self.pending[index];
        let is_connected = session.is_connected(&mut core.aeron);
        if session.state == PendingState::Init {
            session.state = PendingState::Connecting;
        }
        if is_connected && session.state == PendingState::Connecting {
            session.state = PendingState::Connected;
        }
        let deadline_ns = session.last_activity_ns.saturating_add(core.context.session_timeout_ns);
        let is_late = core.now.ns > deadline_ns;
        if session.state == PendingState::Invalid || is_late {
            if is_late {
                core.counters.timed_out_clients.increment();
            }
            self.pending.remove(index).response.disconnect();
            return Ok(true);
        }
        if !is_connected {
            return Ok(false);
        }
        if let Some((code, detail)) = session.rejection.take() {
            if session.send_event(leader, code, &detail) {
                self.pending.remove(index).response.disconnect();
                return Ok(true);
            }
            session.rejection = Some((code, detail));
            return Ok(false);
        }
        decide(core.authenticator.as_mut(), session, core.now.epoch_ms);
        if session.state == PendingState::Authenticated {
            self.open_session(core, index)?;
        }
        Ok(true)
    }

    fn open_session<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        index: usize,
    ) -> Result<(), ModuleError> {
        // The event borrows from the session, which is not in its place while it is appended.
        let mut session = self.pending.remove(index);
        let event = LogMessage::SessionOpen {
            leadership_term_id: core.leadership_term_id,
            correlation_id: session.correlation_id,
            session_id: session.id,
            timestamp: core.time(),
            response_stream_id: session.response_stream_id,
            response_channel: &session.response_channel,
            principal: &session.principal,
        };
        if self.append(core, &event)?.is_none() {
            self.pending.insert(index, session);
            return Ok(());
        }
        let (channel, stream_id) = (&session.response_channel, session.response_stream_id);
        if session.response.upgrade(&mut core.aeron, channel, stream_id).is_err() {
            session.response.disconnect();
        }
        // A crash can undo the event until it is committed, so the client is told then.
        let link = SessionLink::new(core.now.ns, session.ingress, session.response);
        self.links.insert(session.id, link);
        Ok(())
    }
}

/// Asks the authenticator about a client that can be answered.
pub(super) fn decide(
    authenticator: &mut (dyn Authenticator + Send),
    session: &mut PendingSession,
    now_ms: i64,
) {
    let mut proxy = SessionProxy::new(session.id);
    match session.state {
        PendingState::Connected => authenticator.on_connected_session(&mut proxy, now_ms),
        PendingState::Challenged => authenticator.on_challenged_session(&mut proxy, now_ms),
        _ => return,
    }
    match proxy.into_verdict() {
        None => {}
        Some(Verdict::Authenticated { principal }) if principal.len() <= MAX_PRINCIPAL_LENGTH => {
            session.principal = principal;
            session.state = PendingState::Authenticated;
        }
        Some(Verdict::Challenged { challenge }) => {
            let message = Egress::Challenge {
                correlation_id: session.correlation_id,
                session_id: session.id,
                challenge: &challenge,
            };
            // A challenge that was not sent is requested again at the next check.
            if session.response.send(&message) {
                session.state = PendingState::Challenged;
            }
        }
        Some(Verdict::Authenticated { .. } | Verdict::Rejected) => {
            session.state = PendingState::Rejected;
            session.rejection =
                Some((EventCode::AuthenticationRejected, "session failed authentication".to_owned()));
        }
    }
}
