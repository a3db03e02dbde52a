//! The cluster as a service's callbacks see it (spec 04 §7.2, §7.3).

use std::collections::BTreeMap;

use harrier_client::{Aeron, ExclusivePublication, Publication};
use harrier_ringbuf::Waiter;
use harrier_ringbuf::append::OfferError;
use thiserror::Error;

use super::ClientSession;
use crate::codec::{Role, ServiceMessage, SessionHeader, TimeUnit};

/// What an offer returns on members that do not lead: their egress goes nowhere.
const MOCKED_OFFER: i64 = 1;

/// Why the cluster refuses a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// The callback must not send or schedule anything.
    #[error("sending messages or scheduling timers is not allowed from {0}")]
    NotAllowed(&'static str),
    /// No such session.
    #[error("unknown session {0}")]
    UnknownSession(i64),
    /// The stream takes nothing, for now or for good.
    #[error(transparent)]
    Offer(#[from] OfferError),
}

impl ClusterError {
    /// True when the same call may succeed after [`Cluster::idle`].
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Offer(error) if error.is_retryable())
    }
}

/// A session with its stream to the client.
pub(super) struct EgressSession {
    pub(super) session: ClientSession,
    pub(super) publication_id: Option<i64>,
    pub(super) publication: Option<Publication>,
    pub(super) is_closing: bool,
}

impl EgressSession {
    pub(super) fn new(session: ClientSession) -> Self {
        Self { session, publication_id: None, publication: None, is_closing: false }
    }

    /// Asks for the stream to the client.
    pub(super) fn connect(&mut self, aeron: &mut Aeron) {
        if self.publication.is_none() && self.publication_id.is_none() {
            let session = &self.session;
            self.publication_id =
                aeron.add_publication(&session.response_channel, session.response_stream_id).ok();
        }
    }

    /// True once the stream is there, or cannot be had.
    pub(super) fn is_settled(&mut self, aeron: &mut Aeron) -> bool {
        let Some(id) = self.publication_id else { return true };
        match aeron.publication(id) {
            Ok(None) => false,
            Ok(publication) => {
                self.publication = publication;
                self.publication_id = None;
                true
            }
            Err(_) => {
                self.publication_id = None;
                true
            }
        }
    }

    pub(super) fn disconnect(&mut self) {
        self.publication = None;
        self.publication_id = None;
    }
}

/// What a container knows of the cluster.
pub(super) struct Core {
    pub(super) aeron: Aeron,
    pub(super) to_module: ExclusivePublication,
    pub(super) service_id: i32,
    pub(super) sessions: BTreeMap<i64, EgressSession>,
    pub(super) log_position: i64,
    pub(super) time: i64,
    pub(super) time_unit: TimeUnit,
    pub(super) leadership_term_id: i64,
    pub(super) member_id: i32,
    pub(super) role: Role,
    pub(super) buffer: Vec<u8>,
}

impl Core {
    /// Tells the consensus module.
    pub(super) fn send(&mut self, message: &ServiceMessage<'_>) -> Result<i64, OfferError> {
        let length = match message.encode(&mut self.buffer) {
            Ok(length) => length,
            Err(harrier_protocol::sbe::SbeError::BufferTooSmall { required, .. }) => {
                self.buffer.resize(required, 0);
                message.encode(&mut self.buffer).map_err(|_| OfferError::Closed)?
            }
            Err(_) => return Err(OfferError::Closed),
        };
        match self.to_module.offer(&self.buffer[..length]) {
            Err(OfferError::AdminAction) => self.to_module.offer(&self.buffer[..length]),
            outcome => outcome,
        }
    }
}

/// The cluster, lent to a callback.
pub struct Cluster<'a> {
    pub(super) core: &'a mut Core,
    pub(super) waiter: &'a mut dyn Waiter,
    /// Name of the callback when it must not send.
    pub(super) silent: Option<&'static str>,
}

impl Cluster<'_> {
    /// Position of the log after the event that is being handled.
    pub fn log_position(&self) -> i64 {
        self.core.log_position
    }

    /// Cluster time of the event that is being handled, in [`time_unit`](Self::time_unit).
    pub fn time(&self) -> i64 {
        self.core.time
    }

    /// Unit of the cluster's clock.
    pub fn time_unit(&self) -> TimeUnit {
        self.core.time_unit
    }

    /// Id of this member; -1 before it has joined a log.
    pub fn member_id(&self) -> i32 {
        self.core.member_id
    }

    /// Role of this member.
    pub fn role(&self) -> Role {
        self.core.role
    }

    /// Id of this service.
    pub fn service_id(&self) -> i32 {
        self.core.service_id
    }

    /// A session.
    pub fn client_session(&self, session_id: i64) -> Option<&ClientSession> {
        self.core.sessions.get(&session_id).map(|own| &own.session)
    }

    /// All sessions by ascending id.
    pub fn client_sessions(&self) -> impl Iterator<Item = &ClientSession> {
        self.core.sessions.values().map(|own| &own.session)
    }

    fn check_allowed(&self) -> Result<(), ClusterError> {
        self.silent.map_or(Ok(()), |callback| Err(ClusterError::NotAllowed(callback)))
    }

    /// Sends a message to a session's client; returns the position of its stream, or 1 on members that do not lead.
    ///
    /// # Errors
    /// See [`ClusterError`]; retry a retryable one after [`idle`](Self::idle).
    #[inline]
    pub fn send_to_session(&mut self, session_id: i64, message: &[u8]) -> Result<i64, ClusterError> {
        self.check_allowed()?;
        let core = &mut *self.core;
        let session = core.sessions.get_mut(&session_id).ok_or(ClusterError::UnknownSession(session_id))?;
        if core.role != Role::Leader {
            return Ok(MOCKED_OFFER);
        }
        let Some(publication) = &mut session.publication else {
            return Err(ClusterError::Offer(OfferError::NotConnected));
        };
        let header =
            SessionHeader { leadership_term_id: core.leadership_term_id, session_id, timestamp: core.time };
        let header = header.encode();
        match publication.offer_parts(&[&header, message]) {
            Err(OfferError::AdminAction) => Ok(publication.offer_parts(&[&header, message])?),
            outcome => Ok(outcome?),
        }
    }

    /// Puts a message of this service into the log; all members do, one of them is taken.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn offer(&mut self, message: &[u8]) -> Result<i64, ClusterError> {
        self.check_allowed()?;
        let header = SessionHeader {
            leadership_term_id: self.core.leadership_term_id,
            session_id: i64::from(self.core.service_id),
            timestamp: self.core.time,
        };
        Ok(self.core.send(&ServiceMessage::Offer { header, payload: message })?)
    }

    /// Sets a timer of this cluster, or sets it anew; `deadline` is in the cluster's time unit.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn schedule_timer(&mut self, correlation_id: i64, deadline: i64) -> Result<(), ClusterError> {
        self.check_allowed()?;
        self.core.send(&ServiceMessage::ScheduleTimer { correlation_id, deadline })?;
        Ok(())
    }

    /// Takes a timer back.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn cancel_timer(&mut self, correlation_id: i64) -> Result<(), ClusterError> {
        self.check_allowed()?;
        self.core.send(&ServiceMessage::CancelTimer { correlation_id })?;
        Ok(())
    }

    /// Ends a session.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn close_client_session(&mut self, session_id: i64) -> Result<(), ClusterError> {
        self.check_allowed()?;
        let session = self.core.sessions.get(&session_id).ok_or(ClusterError::UnknownSession(session_id))?;
        if session.is_closing {
            return Ok(());
        }
        self.core.send(&ServiceMessage::CloseSession { session_id })?;
        if let Some(session) = self.core.sessions.get_mut(&session_id) {
            session.is_closing = true;
        }
        Ok(())
    }

    /// Lets the world go on while a callback waits: on a shared thread the other agents run, on one of its own the thread
    /// rests.
    pub fn idle(&mut self, work_count: usize) {
        self.waiter.idle(work_count);
        let now = self.waiter.now();
        // A client that has failed is found by the container's next duty cycle.
        let _found_later = self.core.aeron.do_work(&now);
    }
}
