//! Messages of clients (spec 04 §3.3).

use harrier_client::Subscription;
use harrier_protocol::semantic_version_major;
use harrier_protocol::uri::{ChannelUri, UriError};
use harrier_ringbuf::Memory;
use harrier_ringbuf::assembly::FragmentAssembler;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::Storage;

use super::core::Core;
use super::counters::toggle;
use super::error::ModuleError;
use super::leading::Leading;
use super::origin::Admission;
use super::pending::{PendingSession, PendingState};
use super::state::Origin;
use crate::codec::{CloseReason, Egress, EventCode, Ingress, LogMessage, PROTOCOL_VERSION, SessionHeader};
use crate::snapshot::version_text;

/// The only type of admin requests.
const ADMIN_SNAPSHOT: i32 = 0;
/// Template of admin requests.
const ADMIN_REQUEST: i32 = 26;
/// Limits of the sessions that are not authenticated: of all clients, and of those at one address. The oldest session is
/// dropped when a limit is exceeded.
const MAX_PENDING: usize = 64;
const MAX_PENDING_OF_ADDRESS: usize = 16;

/// Codes of admin responses.
mod admin {
    pub(super) const OK: i32 = 0;
    pub(super) const ERROR: i32 = 1;
    pub(super) const UNAUTHORISED_ACCESS: i32 = 2;
}

/// Image on which a client sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IngressLink {
    /// Index of the ingress stream.
    pub(super) stream: usize,
    /// Session id of the client's stream.
    pub(super) session_id: i32,
}

/// A stream on which clients send.
pub(super) struct IngressStream {
    pub(super) subscription: Subscription,
    pub(super) assembler: FragmentAssembler,
    /// Session ids of the images at the last check.
    pub(super) known_sessions: Vec<i32>,
}

impl IngressStream {
    /// Frees what is kept for images that have gone, and calls `on_gone` with their session ids.
    pub(super) fn free_gone_sessions(&mut self, mut on_gone: impl FnMut(i32)) {
        let images = self.subscription.images();
        let is_same = images.len() == self.known_sessions.len()
            && images.iter().zip(&self.known_sessions).all(|(image, known)| image.session_id() == *known);
        if is_same {
            return;
        }
        let present: Vec<i32> = images.iter().map(|image| image.session_id()).collect();
        for session_id in self.known_sessions.iter().filter(|known| !present.contains(known)) {
            self.assembler.free_session(*session_id);
            on_gone(*session_id);
        }
        self.known_sessions = present;
    }
}

/// Request of a client for a session.
struct Connect<'a> {
    correlation_id: i64,
    response_stream_id: i32,
    version: i32,
    response_channel: &'a str,
    credentials: &'a [u8],
    client_info: &'a str,
}

impl Leading {
    /// Takes messages of clients. A message that the log does not take now stays in its image.
    #[inline]
    pub(super) fn poll_ingress<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
    ) -> Result<usize, ModuleError> {
        let mut streams = std::mem::take(&mut self.ingress);
        let limit = core.context.ingress_fragment_limit;
        let mut failure = None;
        let mut work_count = 0;
        let pending = self.pending.len();
        for (index, stream) in streams.iter_mut().enumerate() {
            let assembler = &mut stream.assembler;
            work_count += stream.subscription.controlled_poll(limit, &mut |payload, header| {
                let link = IngressLink { stream: index, session_id: header.session_id() };
                assembler.on_controlled_fragment(payload, header, &mut |message, _| {
                    self.on_ingress(core, message, link).unwrap_or_else(|error| {
                        failure.get_or_insert(error);
                        Action::Break
                    })
                })
            });
        }
        if let Some(stranger) = self.origins.decide(|bound| is_alive(&mut streams, bound))
            && let Some(session) = self.links.get_mut(&stranger.session_id)
        {
            session.ingress = Some(stranger.link);
        }
        if failure.is_none() && self.pending.len() > pending {
            self.connect_new_sessions(core, pending, &mut streams);
        }
        self.ingress = streams;
        failure.map_or(Ok(work_count), Err)
    }

    /// Requests the streams to clients that have just come.
    fn connect_new_sessions<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        first: usize,
        streams: &mut [IngressStream],
    ) {
        let is_preliminary = core.context.log_allocator.is_some();
        for session in &mut self.pending[first..] {
            let Some(IngressLink { stream, session_id }) = session.ingress else { continue };
            let image =
                streams.get_mut(stream).and_then(|entry| entry.subscription.image_by_session_id(session_id));
            let source = image.map_or(String::new(), |image| image.source_identity().to_owned());
            let space = if session.client_info.is_empty() { "" } else { " " };
            let info =
                format!("{}{space}sourceIdentity={source} sessionId={session_id}", session.client_info);
            source
                .rsplit_once(':')
                .map_or(source.as_str(), |(host, _)| host)
                .clone_into(&mut session.address);
            let cluster_id = core.context.cluster_id;
            // An invalid channel is a problem of that client only.
            if session.connect(&mut core.aeron, cluster_id, &info, is_preliminary).is_err() {
                session.state = PendingState::Invalid;
            }
        }
        while let Some(index) = excess(self.pending.iter().map(|session| session.address.as_str())) {
            self.pending.remove(index).response.disconnect();
            core.refuse_ingress();
        }
        core.hasten_slow_tick();
    }

    #[inline]
    fn on_ingress<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        message: &[u8],
        link: IngressLink,
    ) -> Result<Action, ModuleError> {
        match Ingress::decode(message) {
            Ok(Some(Ingress::Message { header, payload })) => self.on_message(core, header, payload, link),
            Ok(Some(request)) => self.on_request(core, &request, link),
            Ok(None) => {
                core.refuse_ingress();
                Ok(Action::Continue)
            }
            Err(error) => {
                core.refuse_ingress();
                let kind = "undecodable ingress message";
                core.record_peer_error(kind, &format!("{kind}: {error}"));
                Ok(Action::Continue)
            }
        }
    }

    #[inline]
    fn on_message<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        header: SessionHeader,
        payload: &[u8],
        link: IngressLink,
    ) -> Result<Action, ModuleError> {
        let timestamp = match &core.context.stamp_clock {
            Some(clock) => core.clock.time(&clock.now(), core.state.time()),
            None => core.time(),
        };
        let leadership_term_id = core.leadership_term_id;
        let known = self.links.get_mut(&header.session_id);
        let is_current = header.leadership_term_id == leadership_term_id;
        let Some(session) = known.filter(|session| is_current && session.is_open()) else {
            core.refuse_ingress();
            return Ok(Action::Continue);
        };
        match self.origins.admit(header.session_id, &mut session.ingress, link) {
            Admission::Admit => {}
            Admission::Ask => return Ok(Action::Abort),
            Admission::Refuse => {
                core.refuse_ingress();
                return Ok(Action::Continue);
            }
        }
        let header = SessionHeader { leadership_term_id, session_id: header.session_id, timestamp };
        let Some(position) = self.log.append_session(header, payload)? else { return Ok(Action::Abort) };
        session.last_activity_ns = core.now.ns;
        core.state.apply(&LogMessage::Session { header, payload }, position, Origin::Appended);
        Ok(Action::Continue)
    }

    /// Adds a session for a client. Its streams are requested when all messages of this poll are taken.
    fn on_connect<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        request: &Connect<'_>,
        link: IngressLink,
    ) {
        let id = core.state.take_session_id();
        let channel = match egress_channel(core, request.response_channel) {
            Ok(channel) => channel,
            Err(error) => {
                core.refuse_ingress();
                let kind = "response channel of a client";
                core.record_peer_error(kind, &format!("{kind}: {error}"));
                return;
            }
        };
        let rejection = self.refusal(core, request.version);
        let is_rejected = rejection.is_some();
        if is_rejected {
            core.refuse_ingress();
        }
        let (correlation_id, stream_id) = (request.correlation_id, request.response_stream_id);
        let mut session = PendingSession::new(id, correlation_id, stream_id, channel, core.now.ns);
        session.ingress = Some(link);
        session.rejection = rejection;
        request.client_info.clone_into(&mut session.client_info);
        self.pending.push(session);
        if !is_rejected {
            core.authenticator.on_connect_request(id, request.credentials, core.now.epoch_ms);
        }
    }

    /// Judges a request of an open session by the image that it came from.
    fn admit<M: Memory, S: Storage>(
        &mut self,
        core: &Core<M, S>,
        leadership_term_id: i64,
        session_id: i64,
        link: IngressLink,
    ) -> Admission {
        let is_current = leadership_term_id == core.leadership_term_id;
        let session = self.links.get_mut(&session_id).filter(|session| is_current && session.is_open());
        let admission = session
            .map_or(Admission::Refuse, |session| self.origins.admit(session_id, &mut session.ingress, link));
        if admission == Admission::Refuse {
            core.refuse_ingress();
        }
        admission
    }

    fn on_request<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        request: &Ingress<'_>,
        link: IngressLink,
    ) -> Result<Action, ModuleError> {
        if let Ingress::KeepAlive { leadership_term_id, session_id }
        | Ingress::Close { leadership_term_id, session_id }
        | Ingress::Admin { leadership_term_id, session_id, .. } = *request
        {
            match self.admit(core, leadership_term_id, session_id, link) {
                Admission::Admit => {}
                Admission::Ask => return Ok(Action::Abort),
                Admission::Refuse => return Ok(Action::Continue),
            }
        }
        match *request {
            Ingress::Connect {
                correlation_id,
                response_stream_id,
                version,
                response_channel,
                credentials,
                client_info,
            } => {
                let request = Connect {
                    correlation_id,
                    response_stream_id,
                    version,
                    response_channel,
                    credentials,
                    client_info,
                };
                self.on_connect(core, &request, link);
            }
            Ingress::KeepAlive { session_id, .. } => {
                if let Some(session) = self.links.get_mut(&session_id) {
                    session.last_activity_ns = core.now.ns;
                }
            }
            Ingress::Close { session_id, .. } => {
                if let Some(session) = self.links.get_mut(&session_id)
                    && !is_planted(Bug::LostClose)
                {
                    session.begin_closing(CloseReason::ClientAction);
                    session.response.disconnect();
                    self.close_session(core, session_id)?;
                }
            }
            Ingress::ChallengeResponse { correlation_id, session_id, credentials } => {
                self.on_challenge_response(core, (session_id, link), correlation_id, credentials);
            }
            Ingress::Admin { session_id, correlation_id, request_type, .. } => {
                self.on_admin(core, session_id, correlation_id, request_type);
            }
            Ingress::Message { .. } => {}
        }
        Ok(Action::Continue)
    }

    fn on_challenge_response<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        (session_id, link): (i64, IngressLink),
        correlation_id: i64,
        credentials: &[u8],
    ) {
        let is_wanted = |session: &&mut PendingSession| {
            session.id == session_id
                && session.ingress == Some(link)
                && session.state == PendingState::Challenged
        };
        let Some(session) = self.pending.iter_mut().find(is_wanted) else { return core.refuse_ingress() };
        session.correlation_id = correlation_id;
        session.last_activity_ns = core.now.ns;
        core.authenticator.on_challenge_response(session_id, credentials, core.now.epoch_ms);
        core.hasten_slow_tick();
    }

    /// Returns the answer to a client that must be refused.
    fn refusal<M: Memory, S: Storage>(&self, core: &Core<M, S>, version: i32) -> Option<(EventCode, String)> {
        if semantic_version_major(version) != semantic_version_major(PROTOCOL_VERSION) {
            let (client, own) = (version_text(version), version_text(PROTOCOL_VERSION));
            return Some((EventCode::Error, format!("invalid client version {client}, cluster is {own}")));
        }
        let pending = self.pending.iter().filter(|session| session.rejection.is_none()).count();
        if core.state.session_count() + pending >= core.context.max_sessions {
            return Some((EventCode::Error, "concurrent session limit".to_owned()));
        }
        None
    }

    fn on_admin<M: Memory, S: Storage>(
        &mut self,
        core: &mut Core<M, S>,
        session_id: i64,
        correlation_id: i64,
        request_type: i32,
    ) {
        let Some(session) = core.state.session(session_id) else { return };
        let is_authorised =
            core.context.authorisation.is_authorised(ADMIN_REQUEST, request_type, &session.principal);
        let (code, message) = if !is_authorised {
            let name = if request_type == ADMIN_SNAPSHOT { "SNAPSHOT" } else { "NULL_VAL" };
            (admin::UNAUTHORISED_ACCESS, format!("Execution of the {name} request was not authorised"))
        } else if request_type != ADMIN_SNAPSHOT {
            (admin::ERROR, format!("Unknown request type: {request_type}"))
        } else if core.counters.control_toggle.compare_and_set(toggle::NEUTRAL, toggle::SNAPSHOT) {
            core.hasten_slow_tick();
            (admin::OK, String::new())
        } else {
            let text = "Failed to switch ClusterControl to the ToggleState.SNAPSHOT state";
            (admin::ERROR, text.to_owned())
        };
        if let Some(link) = self.links.get_mut(&session_id) {
            link.response.send(&Egress::AdminResponse {
                session_id,
                correlation_id,
                request_type,
                code,
                message: &message,
            });
        }
    }
}

/// Returns the channel on which a client is answered: its own one with the parameters of the member's settings (spec 04
/// §2.3).
fn egress_channel<M: Memory, S: Storage>(
    core: &Core<M, S>,
    response_channel: &str,
) -> Result<String, UriError> {
    let mut uri = ChannelUri::parse(response_channel)?;
    let Some(own) = &core.context.egress_channel else { return Ok(response_channel.to_owned()) };
    if uri.is_ipc() {
        let is_allowed = core.context.is_ipc_ingress_allowed;
        return Ok(if is_allowed { response_channel } else { own.as_str() }.to_owned());
    }
    for (key, value) in ChannelUri::parse(own)?.parameters() {
        uri.put(key, value);
    }
    Ok(uri.to_string())
}

/// Returns the oldest pending session that exceeds a limit; `addresses` are those of all sessions from the oldest to the
/// newest.
fn excess<'a>(
    addresses: impl DoubleEndedIterator<Item = &'a str> + ExactSizeIterator + Clone,
) -> Option<usize> {
    if addresses.len() > MAX_PENDING {
        return Some(0);
    }
    let count = |wanted: &str| addresses.clone().filter(|address| *address == wanted).count();
    addresses.clone().position(|address| count(address) > MAX_PENDING_OF_ADDRESS)
}

/// True while an image exists and has not been read to its end.
fn is_alive(streams: &mut [IngressStream], link: IngressLink) -> bool {
    let stream = streams.get_mut(link.stream);
    let image = stream.and_then(|stream| stream.subscription.image_by_session_id(link.session_id));
    image.is_some_and(|image| !image.is_closed() && !image.is_end_of_stream())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_pending_session_goes_first() {
        let crowd = |counts: &[(&'static str, usize)]| -> Vec<&'static str> {
            counts.iter().flat_map(|(address, count)| vec![*address; *count]).collect()
        };
        let excess_of = |addresses: &[&str]| excess(addresses.iter().copied());
        assert_eq!(excess_of(&crowd(&[("a", 16), ("b", 16), ("c", 16), ("d", 16)])), None);
        assert_eq!(excess_of(&crowd(&[("b", 3), ("a", 17)])), Some(3));
        let many: Vec<String> = (0..65).map(|number| format!("10.0.0.{number}")).collect();
        assert_eq!(excess_of(&many.iter().map(String::as_str).collect::<Vec<_>>()), Some(0));
        assert_eq!(excess_of(&[]), None);
    }
}
