//! What clients send (spec 04 §3.3).

use harrier_protocol::semantic_version_major;
use harrier_protocol::uri::{ChannelUri, UriError};
use harrier_ringbuf::Memory;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, IngressStream};
use super::error::ModuleError;
use super::origin::Admission;
use super::session::{IngressLink, Session, SessionState};
use crate::codec::{CloseReason, Egress, EventCode, Ingress, PROTOCOL_VERSION, SessionHeader};
use crate::snapshot::version_text;

/// The only kind of admin request.
const ADMIN_SNAPSHOT: i32 = 0;
/// Template of admin requests.
const ADMIN_REQUEST: i32 = 26;
/// Sessions that are not authenticated at most, of all clients and of those at one address. Beyond that the oldest is dropped.
const MAX_PENDING: usize = 64;
const MAX_PENDING_OF_ADDRESS: usize = 16;

/// Codes of admin responses.
mod admin {
    pub(super) const OK: i32 = 0;
    pub(super) const ERROR: i32 = 1;
    pub(super) const UNAUTHORISED_ACCESS: i32 = 2;
}

/// What a client that connects says.
struct Connect<'a> {
    correlation_id: i64,
    response_stream_id: i32,
    version: i32,
    response_channel: &'a str,
    credentials: &'a [u8],
    client_info: &'a str,
}

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Takes messages of clients; one that the log does not take now stays where it is.
    #[inline]
    pub(super) fn poll_ingress(&mut self) -> Result<usize, ModuleError> {
        let mut streams = std::mem::take(&mut self.ingress);
        let limit = self.context.ingress_fragment_limit;
        let mut failure = None;
        let mut work_count = 0;
        let pending = self.pending_sessions.len();
        for (index, stream) in streams.iter_mut().enumerate() {
            let assembler = &mut stream.assembler;
            work_count += stream.subscription.controlled_poll(limit, &mut |payload, header| {
                let link = IngressLink { stream: index, session_id: header.session_id() };
                assembler.on_controlled_fragment(payload, header, &mut |message, _| {
                    self.on_ingress(message, link).unwrap_or_else(|error| {
                        failure.get_or_insert(error);
                        Action::Break
                    })
                })
            });
        }
        if let Some(stranger) = self.origins.decide(|bound| is_alive(&mut streams, bound))
            && let Some(session) = self.sessions.get_mut(&stranger.session_id)
        {
            session.ingress_link = Some(stranger.link);
        }
        if failure.is_none() && self.pending_sessions.len() > pending {
            failure = self.connect_new_sessions(pending, &mut streams).err();
        }
        self.ingress = streams;
        failure.map_or(Ok(work_count), Err)
    }

    /// Asks for the streams to clients that have just come.
    fn connect_new_sessions(
        &mut self,
        first: usize,
        streams: &mut [IngressStream],
    ) -> Result<(), ModuleError> {
        for index in first..self.pending_sessions.len() {
            let session = &mut self.pending_sessions[index];
            let Some(IngressLink { stream, session_id }) = session.ingress_link else { continue };
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
            let Some(aeron) = &mut self.aeron else { return Ok(()) };
            let cluster_id = self.context.cluster_id;
            let connected = match self.context.log_allocator {
                Some(_) => session.connect_preliminarily(aeron, cluster_id, &info),
                None => session.connect(aeron, cluster_id, &info),
            };
            // An invalid channel is a problem of that client only.
            if connected.is_err() {
                session.state = SessionState::Invalid;
            }
        }
        while let Some(index) = excess(self.pending_sessions.iter().map(|session| session.address.as_str())) {
            self.pending_sessions.remove(index).disconnect();
            self.refuse_ingress();
        }
        self.next_slow_tick_ns = self.now.ns;
        Ok(())
    }

    #[inline]
    fn on_ingress(&mut self, message: &[u8], link: IngressLink) -> Result<Action, ModuleError> {
        match Ingress::decode(message) {
            Ok(Some(Ingress::Message { header, payload })) => self.on_message(header, payload, link),
            Ok(Some(request)) => self.on_request(&request, link),
            Ok(None) => {
                self.refuse_ingress();
                Ok(Action::Continue)
            }
            Err(error) => {
                self.refuse_ingress();
                let kind = "undecodable ingress message";
                self.record_peer_error(kind, &format!("{kind}: {error}"));
                Ok(Action::Continue)
            }
        }
    }

    #[inline]
    fn on_message(
        &mut self,
        header: SessionHeader,
        payload: &[u8],
        link: IngressLink,
    ) -> Result<Action, ModuleError> {
        let timestamp = match &self.context.stamp_clock {
            Some(clock) => self.clock.time(&clock.now()),
            None => self.clock.time(&self.now),
        };
        let leadership_term_id = self.leadership_term_id;
        let known = self.sessions.get_mut(&header.session_id);
        let is_current = header.leadership_term_id == leadership_term_id;
        let Some(session) = known.filter(|session| is_current && session.is_open()) else {
            self.refuse_ingress();
            return Ok(Action::Continue);
        };
        match self.origins.admit(header.session_id, &mut session.ingress_link, link) {
            Admission::Admit => {}
            Admission::Ask => return Ok(Action::Abort),
            Admission::Refuse => {
                self.refuse_ingress();
                return Ok(Action::Continue);
            }
        }
        let Some(log) = &mut self.log else { return Ok(Action::Abort) };
        let header = SessionHeader { leadership_term_id, session_id: header.session_id, timestamp };
        if log.append_session(header, payload)?.is_none() {
            return Ok(Action::Abort);
        }
        session.last_activity_ns = self.now.ns;
        self.clock.observe(timestamp);
        Ok(Action::Continue)
    }

    /// A client wants a session; its streams are asked for when all messages of this poll are taken.
    fn on_connect(&mut self, request: &Connect<'_>, link: IngressLink) {
        let id = self.next_session_id;
        self.next_session_id += 1;
        let channel = match self.egress_channel(request.response_channel) {
            Ok(channel) => channel,
            Err(error) => {
                self.refuse_ingress();
                let kind = "response channel of a client";
                self.record_peer_error(kind, &format!("{kind}: {error}"));
                return;
            }
        };
        let rejection = self.refusal(request.version);
        let is_rejected = rejection.is_some();
        if is_rejected {
            self.refuse_ingress();
        }
        let (correlation_id, stream_id) = (request.correlation_id, request.response_stream_id);
        let mut session = Session::new(id, correlation_id, stream_id, channel, self.now.ns);
        session.ingress_link = Some(link);
        session.rejection = rejection;
        request.client_info.clone_into(&mut session.client_info);
        self.pending_sessions.push(session);
        if !is_rejected {
            self.authenticator.on_connect_request(id, request.credentials, self.now.epoch_ms);
        }
    }

    /// Judges a request of an open session by the image that it came from.
    fn admit(&mut self, leadership_term_id: i64, session_id: i64, link: IngressLink) -> Admission {
        let is_current = leadership_term_id == self.leadership_term_id;
        let session = self.sessions.get_mut(&session_id).filter(|session| is_current && session.is_open());
        let admission = session.map_or(Admission::Refuse, |session| {
            self.origins.admit(session_id, &mut session.ingress_link, link)
        });
        if admission == Admission::Refuse {
            self.refuse_ingress();
        }
        admission
    }

    fn on_request(&mut self, request: &Ingress<'_>, link: IngressLink) -> Result<Action, ModuleError> {
        if let Ingress::KeepAlive { leadership_term_id, session_id }
        | Ingress::Close { leadership_term_id, session_id }
        | Ingress::Admin { leadership_term_id, session_id, .. } = *request
        {
            match self.admit(leadership_term_id, session_id, link) {
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
                self.on_connect(&request, link);
            }
            Ingress::KeepAlive { session_id, .. } => {
                if let Some(session) = self.sessions.get_mut(&session_id) {
                    session.last_activity_ns = self.now.ns;
                }
            }
            Ingress::Close { session_id, .. } => {
                if let Some(session) = self.sessions.get_mut(&session_id)
                    && !is_planted(Bug::LostClose)
                {
                    session.begin_closing(CloseReason::ClientAction);
                    session.disconnect();
                    self.close_session(session_id)?;
                }
            }
            Ingress::ChallengeResponse { correlation_id, session_id, credentials } => {
                let found = self
                    .pending_sessions
                    .iter_mut()
                    .find(|session| session.id == session_id && session.ingress_link == Some(link));
                if let Some(session) = found
                    && session.state == SessionState::Challenged
                {
                    session.correlation_id = correlation_id;
                    session.last_activity_ns = self.now.ns;
                    self.authenticator.on_challenge_response(session_id, credentials, self.now.epoch_ms);
                    self.next_slow_tick_ns = self.now.ns;
                } else {
                    self.refuse_ingress();
                }
            }
            Ingress::Admin { session_id, correlation_id, request_type, .. } => {
                self.on_admin(session_id, correlation_id, request_type);
            }
            Ingress::Message { .. } => {}
        }
        Ok(Action::Continue)
    }

    /// Why a client that connects is turned away.
    fn refusal(&self, version: i32) -> Option<(EventCode, String)> {
        if semantic_version_major(version) != semantic_version_major(PROTOCOL_VERSION) {
            let (client, own) = (version_text(version), version_text(PROTOCOL_VERSION));
            return Some((EventCode::Error, format!("invalid client version {client}, cluster is {own}")));
        }
        let pending = self.pending_sessions.len() - self.rejected_count();
        if self.sessions.len() + pending >= self.context.max_sessions {
            return Some((EventCode::Error, "concurrent session limit".to_owned()));
        }
        None
    }

    fn rejected_count(&self) -> usize {
        self.pending_sessions.iter().filter(|session| session.rejection.is_some()).count()
    }

    /// Where a client is answered: its own channel with what the member's settings say of it (spec 04 §2.3).
    fn egress_channel(&self, response_channel: &str) -> Result<String, UriError> {
        let mut uri = ChannelUri::parse(response_channel)?;
        let Some(own) = &self.context.egress_channel else { return Ok(response_channel.to_owned()) };
        if uri.is_ipc() {
            let is_allowed = self.context.is_ipc_ingress_allowed;
            return Ok(if is_allowed { response_channel } else { own.as_str() }.to_owned());
        }
        for (key, value) in ChannelUri::parse(own)?.parameters() {
            uri.put(key, value);
        }
        Ok(uri.to_string())
    }

    fn on_admin(&mut self, session_id: i64, correlation_id: i64, request_type: i32) {
        let Some(session) = self.sessions.get(&session_id) else { return };
        let is_authorised =
            self.context.authorisation.is_authorised(ADMIN_REQUEST, request_type, &session.principal);
        let (code, message) = if !is_authorised {
            let name = if request_type == ADMIN_SNAPSHOT { "SNAPSHOT" } else { "NULL_VAL" };
            (admin::UNAUTHORISED_ACCESS, format!("Execution of the {name} request was not authorised"))
        } else if request_type != ADMIN_SNAPSHOT {
            (admin::ERROR, format!("Unknown request type: {request_type}"))
        } else if self.toggle_snapshot() {
            self.next_slow_tick_ns = self.now.ns;
            (admin::OK, String::new())
        } else {
            let text = "Failed to switch ClusterControl to the ToggleState.SNAPSHOT state";
            (admin::ERROR, text.to_owned())
        };
        if let Some(session) = self.sessions.get_mut(&session_id) {
            session.send(&Egress::AdminResponse {
                session_id,
                correlation_id,
                request_type,
                code,
                message: &message,
            });
        }
    }
}

/// The oldest pending session that there is no room for, given the addresses of all from the oldest to the newest.
fn excess<'a>(
    addresses: impl DoubleEndedIterator<Item = &'a str> + ExactSizeIterator + Clone,
) -> Option<usize> {
    if addresses.len() > MAX_PENDING {
        return Some(0);
    }
    let count = |wanted: &str| addresses.clone().filter(|address| *address == wanted).count();
    addresses.clone().position(|address| count(address) > MAX_PENDING_OF_ADDRESS)
}

/// True while an image is there and has not been read to its end.
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
