//! Following the log (spec 04 §7.1).

use harrier_client::{Image, Subscription};
use harrier_ringbuf::Waiter;
use harrier_ringbuf::assembly::ImageFragmentAssembler;
use harrier_ringbuf::image_reader::Action;

use super::cluster::{Cluster, Core, EgressSession};
use super::{ClientSession, ClusteredService, LeadershipTerm};
use crate::codec::{LogMessage, Role};

/// A log that the container has joined.
pub(super) struct ActiveLog {
    pub(super) _subscription: Subscription,
    pub(super) image: Image,
    pub(super) assembler: ImageFragmentAssembler,
    pub(super) max_position: i64,
}

/// The parts of a container that handle an event of the log.
pub(super) struct LogHandler<'a, T: ClusteredService> {
    pub(super) core: &'a mut Core,
    pub(super) service: &'a mut T,
    pub(super) waiter: &'a mut dyn Waiter,
    pub(super) is_responder: bool,
    pub(super) app_version: i32,
    pub(super) failure: Option<String>,
}

impl<T: ClusteredService> LogHandler<'_, T> {
    /// Handles one message; `position` is the position after it. Aborts while an event cannot be handled yet.
    #[inline]
    pub(super) fn on_message(&mut self, message: &[u8], position: i64) -> Action {
        match LogMessage::decode(message) {
            Ok(Some(LogMessage::Session { header, payload })) => {
                self.core.log_position = position;
                self.core.time = header.timestamp;
                let session_id = (header.session_id >= 0).then_some(header.session_id);
                let is_known = session_id.is_none_or(|id| self.core.sessions.contains_key(&id));
                if is_known {
                    let mut cluster = Cluster { core: self.core, waiter: self.waiter, silent: None };
                    self.service.on_session_message(&mut cluster, session_id, header.timestamp, payload);
                }
                Action::Continue
            }
            Ok(Some(event)) => self.on_event(&event, position),
            Ok(None) => {
                self.core.log_position = position;
                Action::Continue
            }
            Err(error) => {
                self.failure = Some(format!("undecodable log message before {position}: {error}"));
                Action::Break
            }
        }
    }

    fn on_event(&mut self, event: &LogMessage<'_>, position: i64) -> Action {
        match *event {
            LogMessage::SessionOpen {
                session_id,
                timestamp,
                response_stream_id,
                response_channel,
                principal,
                ..
            } => {
                let session = ClientSession {
                    id: session_id,
                    response_stream_id,
                    response_channel: response_channel.to_owned(),
                    principal: principal.to_vec(),
                };
                if !self.egress_is_settled(&session) {
                    return Action::Abort;
                }
                self.advance(position, timestamp);
                let mut cluster = Cluster { core: self.core, waiter: self.waiter, silent: None };
                self.service.on_session_open(&mut cluster, &session, timestamp);
            }
            LogMessage::SessionClose { session_id, timestamp, reason, .. } => {
                self.advance(position, timestamp);
                if let Some(mut own) = self.core.sessions.remove(&session_id) {
                    own.disconnect();
                    let mut cluster = Cluster { core: self.core, waiter: self.waiter, silent: None };
                    self.service.on_session_close(&mut cluster, &own.session, timestamp, reason);
                }
            }
            LogMessage::Timer { correlation_id, timestamp, .. } => {
                self.advance(position, timestamp);
                let mut cluster = Cluster { core: self.core, waiter: self.waiter, silent: None };
                self.service.on_timer_event(&mut cluster, correlation_id, timestamp);
            }
            LogMessage::Action { timestamp, .. } => self.advance(position, timestamp),
            LogMessage::NewLeadershipTerm {
                leadership_term_id,
                log_position,
                timestamp,
                term_base_log_position,
                leader_member_id,
                log_session_id,
                time_unit,
                app_version,
            } => {
                if app_version >> 16 != self.app_version >> 16 {
                    self.failure =
                        Some(format!("incompatible version: {:#x} log={app_version:#x}", self.app_version));
                    return Action::Break;
                }
                self.advance(position, timestamp);
                self.core.leadership_term_id = leadership_term_id;
                self.core.time_unit = time_unit;
                let term = LeadershipTerm {
                    leadership_term_id,
                    log_position,
                    timestamp,
                    term_base_log_position,
                    leader_member_id,
                    log_session_id,
                    time_unit,
                    app_version,
                };
                let mut cluster = Cluster { core: self.core, waiter: self.waiter, silent: None };
                self.service.on_new_leadership_term(&mut cluster, &term);
            }
            LogMessage::Session { .. } => {}
        }
        Action::Continue
    }

    fn advance(&mut self, position: i64, timestamp: i64) {
        self.core.log_position = position;
        self.core.time = timestamp;
    }

    /// The stream to a client is there before its session is opened, so that the first callback can answer.
    fn egress_is_settled(&mut self, session: &ClientSession) -> bool {
        let core = &mut *self.core;
        let own = core.sessions.entry(session.id).or_insert_with(|| {
            let mut own = EgressSession::new(session.clone());
            if core.role == Role::Leader && self.is_responder {
                own.connect(&mut core.aeron);
            }
            own
        });
        own.is_settled(&mut core.aeron)
    }
}
