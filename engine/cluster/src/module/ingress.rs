//! What clients send (spec 04 §3.3).

use harrier_protocol::semantic_version_major;
use harrier_ringbuf::Memory;
use harrier_ringbuf::image_reader::Action;
use harrier_ringbuf::planted::{Bug, is_planted};
use harrier_ringbuf::storage::Storage;

use super::agent::{ConsensusModule, ModuleError};
use super::counters::toggle;
use super::session::{Session, SessionState};
use crate::codec::{CloseReason, Egress, EventCode, Ingress, PROTOCOL_VERSION, SessionHeader};

/// The only kind of admin request.
const ADMIN_SNAPSHOT: i32 = 0;
/// Codes of admin responses.
const ADMIN_ERROR: i32 = 1;

impl<M: Memory, S: Storage> ConsensusModule<M, S> {
    /// Takes messages of clients; one that the log does not take now stays where it is.
    #[inline]
    pub(super) fn poll_ingress(&mut self) -> Result<usize, ModuleError> {
        let mut streams = std::mem::take(&mut self.ingress);
        let limit = self.context.ingress_fragment_limit;
        let mut failure = None;
        let mut work_count = 0;
        for stream in &mut streams {
            let assembler = &mut stream.assembler;
            work_count += stream.subscription.controlled_poll(limit, &mut |payload, header| {
                let ingress_session_id = header.session_id();
                assembler.on_controlled_fragment(payload, header, &mut |message, _| {
                    self.on_ingress(message, ingress_session_id).unwrap_or_else(|error| {
                        failure.get_or_insert(error);
                        Action::Break
                    })
                })
            });
        }
        self.ingress = streams;
        failure.map_or(Ok(work_count), Err)
    }

    #[inline]
    fn on_ingress(&mut self, message: &[u8], ingress_session_id: i32) -> Result<Action, ModuleError> {
        match Ingress::decode(message) {
            Ok(Some(Ingress::Message { header, payload })) => self.on_message(header, payload),
            Ok(Some(request)) => {
                self.on_request(&request, ingress_session_id)?;
                Ok(Action::Continue)
            }
            Ok(None) => Ok(Action::Continue),
            Err(error) => {
                let text = format!("undecodable ingress message: {error}");
                self.record_error(&text);
                Ok(Action::Continue)
            }
        }
    }

    #[inline]
    fn on_message(&mut self, header: SessionHeader, payload: &[u8]) -> Result<Action, ModuleError> {
        let timestamp = self.clock.time(&self.now);
        let leadership_term_id = self.leadership_term_id;
        let Some(session) = self.sessions.get_mut(&header.session_id) else { return Ok(Action::Continue) };
        if header.leadership_term_id != leadership_term_id || !session.is_open() {
            return Ok(Action::Continue);
        }
        let Some(log) = &mut self.log else { return Ok(Action::Abort) };
        let header = SessionHeader { leadership_term_id, session_id: header.session_id, timestamp };
        if log.append_session(header, payload)?.is_none() {
            return Ok(Action::Abort);
        }
        session.last_activity_ms = self.now.epoch_ms;
        self.clock.observe(timestamp);
        Ok(Action::Continue)
    }

    fn on_request(&mut self, request: &Ingress<'_>, ingress_session_id: i32) -> Result<(), ModuleError> {
        match *request {
            Ingress::Connect {
                correlation_id,
                response_stream_id,
                version,
                response_channel,
                credentials,
                client_info,
            } => {
                let id = self.next_session_id;
                self.next_session_id += 1;
                let channel = response_channel.to_owned();
                let mut session =
                    Session::new(id, correlation_id, response_stream_id, channel, self.now.epoch_ms);
                session.credentials = credentials.to_vec();
                session.ingress_session_id = Some(ingress_session_id);
                session.rejection = self.refusal(version);
                let Some(aeron) = &mut self.aeron else { return Ok(()) };
                let info = format!("{client_info} sessionId={ingress_session_id}");
                session.connect(aeron, self.context.cluster_id, &info)?;
                self.pending_sessions.push(session);
                self.next_slow_tick_ns = self.now.ns;
            }
            Ingress::KeepAlive { leadership_term_id, session_id } => {
                if leadership_term_id == self.leadership_term_id
                    && let Some(session) = self.sessions.get_mut(&session_id)
                    && session.is_open()
                {
                    session.ingress_session_id.get_or_insert(ingress_session_id);
                    session.last_activity_ms = self.now.epoch_ms;
                }
            }
            Ingress::Close { leadership_term_id, session_id } => {
                if leadership_term_id == self.leadership_term_id
                    && let Some(session) = self.sessions.get_mut(&session_id)
                    && session.is_open()
                    && !is_planted(Bug::LostClose)
                {
                    session.begin_closing(CloseReason::ClientAction);
                    session.disconnect();
                    self.close_session(session_id)?;
                }
            }
            Ingress::ChallengeResponse { correlation_id, session_id, credentials } => {
                let found = self.pending_sessions.iter_mut().find(|session| session.id == session_id);
                if let Some(session) = found
                    && session.state == SessionState::Challenged
                {
                    session.correlation_id = correlation_id;
                    session.credentials = credentials.to_vec();
                    session.has_answer = true;
                    session.last_activity_ms = self.now.epoch_ms;
                    self.next_slow_tick_ns = self.now.ns;
                }
            }
            Ingress::Admin { leadership_term_id, session_id, correlation_id, request_type } => {
                self.on_admin(leadership_term_id, session_id, correlation_id, request_type);
            }
            Ingress::Message { .. } => {}
        }
        Ok(())
    }

    /// Why a client that connects is turned away.
    fn refusal(&self, version: i32) -> Option<(EventCode, String)> {
        if semantic_version_major(version) != semantic_version_major(PROTOCOL_VERSION) {
            let (major, minor, patch) = (version >> 16, (version >> 8) & 0xFF, version & 0xFF);
            let detail = format!("invalid client version {major}.{minor}.{patch}, cluster is 0.3.0");
            return Some((EventCode::Error, detail));
        }
        if self.sessions.len() + self.pending_sessions.len() >= self.context.max_sessions {
            return Some((EventCode::Error, "concurrent session limit".to_owned()));
        }
        None
    }

    fn on_admin(&mut self, leadership_term_id: i64, session_id: i64, correlation_id: i64, request_type: i32) {
        if leadership_term_id != self.leadership_term_id {
            return;
        }
        let message = if request_type == ADMIN_SNAPSHOT {
            let is_neutral =
                self.counters.as_ref().is_some_and(|own| own.control_toggle.get() == toggle::NEUTRAL);
            let why = if is_neutral {
                "snapshots are not supported by this version"
            } else {
                "toggle is not neutral"
            };
            format!("Failed to switch ClusterControl to the ToggleState.SNAPSHOT state: {why}")
        } else {
            format!("Unknown request type: {request_type}")
        };
        let Some(session) = self.sessions.get_mut(&session_id).filter(|session| session.is_open()) else {
            return;
        };
        session.send(&Egress::AdminResponse {
            session_id,
            correlation_id,
            request_type,
            code: ADMIN_ERROR,
            message: &message,
        });
    }
}
