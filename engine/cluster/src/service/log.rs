//! Reading the log (spec 04 §7.1).

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;

use harrier_client::{Image, Subscription};
use harrier_protocol::semantic_version_major;
use harrier_ringbuf::assembly::ImageFragmentAssembler;
use harrier_ringbuf::image_reader::{Action, Header};
use harrier_ringbuf::{Memory, ProcessDeath, Waiter, panic_text};

use super::cluster::Cluster;
use super::container::ServiceContainer;
use super::core::Core;
use super::error::ContainerError;
use super::event::Event;
use super::session::{ClientSession, EgressSession};
use super::{ClusteredService, LeadershipTerm};
use crate::codec::{ClusterAction, LogMessage, Role, SessionHeader};
use crate::snapshot::version_text;

/// Flag of a snapshot that only standby nodes take (spec 04 §4.9).
const STANDBY_SNAPSHOT: i32 = 1;

/// A log that the container has joined.
pub(super) struct ActiveLog {
    pub(super) _subscription: Subscription,
    pub(super) image: Image,
    pub(super) assembler: ImageFragmentAssembler,
    pub(super) max_position: i64,
}

/// Parts of a container that handle an event of the log.
struct LogHandler<'a, T: ClusteredService> {
    core: &'a mut Core,
    service: &'a mut T,
    waiter: &'a mut dyn Waiter,
    is_responder: bool,
    is_standby: bool,
    app_version: i32,
    wants_snapshot: bool,
    strange_close: Option<i64>,
    failure: Option<ContainerError>,
}

impl<T: ClusteredService, M: Memory> ServiceContainer<T, M> {
    #[inline]
    pub(super) fn poll_log(&mut self) -> Result<usize, ContainerError> {
        if !self.has_joined() {
            return Ok(0);
        }
        let (Some(core), Some(log), Some(commit)) = (&mut self.core, &mut self.log, &self.commit_position)
        else {
            return Ok(0);
        };
        let limit = commit.counter.get().min(log.max_position);
        let mut handler = LogHandler {
            core,
            service: &mut self.service,
            waiter: self.waiter.as_mut(),
            is_responder: self.context.is_responder,
            is_standby: self.is_standby,
            app_version: self.context.app_version,
            wants_snapshot: false,
            strange_close: None,
            failure: None,
        };
        let assembler = &mut log.assembler;
        let work_count = log.image.bounded_controlled_poll(
            limit,
            self.context.log_fragment_limit,
            &mut |payload, header| {
                assembler.on_controlled_fragment(payload, header, &mut |message, header| {
                    handler.on_message(message, header)
                })
            },
        );
        let LogHandler { wants_snapshot, strange_close, failure, .. } = handler;
        if let Some(failure) = failure {
            return Err(failure);
        }
        if let Some(session_id) = strange_close {
            self.record_error(&format!("close of unknown session {session_id}"));
        }
        if wants_snapshot {
            self.begin_snapshot();
        }
        if work_count == 0 { Ok(self.check_end_of_log()) } else { Ok(work_count) }
    }

    fn check_end_of_log(&mut self) -> usize {
        let Some(log) = &self.log else { return 0 };
        let position = log.image.position();
        let has_ended = position >= log.max_position || log.image.is_closed() || log.image.is_end_of_stream();
        if !has_ended {
            return 0;
        }
        self.log = None;
        if let Some(core) = &mut self.core {
            core.log_position = core.log_position.max(position);
            core.disconnect_sessions();
        }
        self.change_role(Role::Follower);
        1
    }
}

impl<T: ClusteredService> LogHandler<'_, T> {
    /// Handles one message. Aborts while the event cannot be handled yet.
    #[inline]
    fn on_message(&mut self, message: &[u8], header: &Header<'_>) -> Action {
        match LogMessage::decode(message) {
            Ok(Some(LogMessage::Session { header: session_header, payload })) => {
                self.on_session_message(session_header, payload, header)
            }
            Ok(Some(event)) => self.on_event(&event, header.position()),
            Ok(None) => {
                self.core.log_position = header.position();
                Action::Continue
            }
            Err(error) => {
                let position = header.position();
                self.fail(ContainerError::Log(format!("undecodable message before {position}: {error}")))
            }
        }
    }

    fn fail(&mut self, error: ContainerError) -> Action {
        self.failure = Some(error);
        Action::Break
    }

    #[inline]
    fn on_session_message(
        &mut self,
        session_header: SessionHeader,
        payload: &[u8],
        header: &Header<'_>,
    ) -> Action {
        let SessionHeader { session_id, timestamp, .. } = session_header;
        self.advance(header.position(), timestamp);
        // Messages of services have negative ids (spec 04 §4.6).
        let session = self.core.sessions.get(&session_id).map(|entry| entry.session.clone());
        self.call(Event::Message { session_id, payload }, |service, cluster| {
            service.on_session_message(cluster, session.as_deref(), timestamp, payload, header);
        })
    }

    /// Calls the service. A panic ends the container with an error that names the event.
    #[inline]
    fn call(&mut self, event: Event<'_>, callback: impl FnOnce(&mut T, &mut Cluster<'_>)) -> Action {
        let (core, service, waiter) = (&mut *self.core, &mut *self.service, &mut *self.waiter);
        // A service that panicked is not called again, so its inconsistent state is never observed.
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            core.call(waiter, None, |cluster| callback(service, cluster));
        }));
        match outcome {
            Ok(()) => Action::Continue,
            Err(payload) if payload.is::<ProcessDeath>() => resume_unwind(payload),
            Err(payload) => {
                let reason = panic_text(payload.as_ref()).to_owned();
                let (service_id, position) = (self.core.service_id, self.core.log_position);
                let event = event.to_string();
                self.fail(ContainerError::Panic { service_id, reason, event, position })
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
                let session = || ClientSession {
                    id: session_id,
                    response_stream_id,
                    response_channel: response_channel.to_owned(),
                    principal: principal.to_vec(),
                };
                return self.on_session_open(session_id, session, timestamp, position);
            }
            LogMessage::SessionClose { session_id, timestamp, reason, .. } => {
                self.advance(position, timestamp);
                let Some(mut egress) = self.core.sessions.remove(&session_id) else {
                    self.strange_close = Some(session_id);
                    return Action::Continue;
                };
                egress.disconnect();
                return self.call(Event::SessionClose { session_id }, |service, cluster| {
                    service.on_session_close(cluster, &egress.session, timestamp, reason);
                });
            }
            LogMessage::Timer { correlation_id, timestamp, .. } => {
                self.advance(position, timestamp);
                return self.call(Event::Timer { correlation_id }, |service, cluster| {
                    service.on_timer_event(cluster, correlation_id, timestamp);
                });
            }
            LogMessage::Action { timestamp, action, flags, .. } => {
                self.advance(position, timestamp);
                let is_for_us = flags == 0 || (self.is_standby && flags & STANDBY_SNAPSHOT != 0);
                if action == ClusterAction::Snapshot && is_for_us {
                    self.wants_snapshot = true;
                    return Action::Break;
                }
            }
            LogMessage::NewLeadershipTerm { .. } => return self.on_new_term(event, position),
            LogMessage::Session { .. } => {}
        }
        Action::Continue
    }

    fn advance(&mut self, position: i64, timestamp: i64) {
        assert!(position >= self.core.log_position, "a service reads its log forwards");
        self.core.log_position = position;
        self.core.time = timestamp;
    }

    /// Opens a session once its egress exists, so that the first callback can reply.
    fn on_session_open(
        &mut self,
        session_id: i64,
        session: impl FnOnce() -> ClientSession,
        timestamp: i64,
        position: i64,
    ) -> Action {
        let core = &mut *self.core;
        let egress = core.sessions.entry(session_id).or_insert_with(|| {
            let mut egress = EgressSession::new(session());
            if core.role == Role::Leader && self.is_responder {
                egress.connect(&mut core.aeron);
            }
            egress
        });
        if egress.is_open {
            return self.fail(ContainerError::Log(format!("session {session_id} was opened twice")));
        }
        if !egress.is_settled(&mut core.aeron) {
            return Action::Abort;
        }
        egress.is_open = true;
        let session = Rc::clone(&egress.session);
        self.advance(position, timestamp);
        self.call(Event::SessionOpen { session_id }, |service, cluster| {
            service.on_session_open(cluster, &session, timestamp);
        })
    }

    fn on_new_term(&mut self, event: &LogMessage<'_>, position: i64) -> Action {
        let LogMessage::NewLeadershipTerm {
            leadership_term_id,
            log_position,
            timestamp,
            term_base_log_position,
            leader_member_id,
            log_session_id,
            time_unit,
            app_version,
        } = *event
        else {
            return Action::Continue;
        };
        if semantic_version_major(app_version) != semantic_version_major(self.app_version) {
            let (expected, log) = (version_text(self.app_version), version_text(app_version));
            return self.fail(ContainerError::Log(format!("incompatible version: {expected} log={log}")));
        }
        self.advance(position, timestamp);
        self.core.leadership_term_id = leadership_term_id;
        self.core.time_unit = Some(time_unit);
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
        self.call(Event::NewLeadershipTerm { leadership_term_id }, |service, cluster| {
            service.on_new_leadership_term_event(cluster, &term);
        })
    }
}
