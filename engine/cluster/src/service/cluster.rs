//! The interface of a service's callbacks to the cluster (spec 04 §7.2, §7.3).

use harrier_client::Aeron;
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::{Now, Waiter};
use thiserror::Error;

use super::claim::ClusterClaim;
use super::core::Core;
use super::patience::allowed_ns;
use super::session::ClientSession;
use crate::codec::{Role, SESSION_HEADER_LENGTH, ServiceMessage, SessionHeader, TimeUnit};

/// Result of an offer on members that do not lead, whose egress goes nowhere.
const MOCKED_OFFER: i64 = 1;
/// Longest claim on members that do not lead, header included, bytes (spec 04 §7.3).
const MOCKED_CLAIM_LENGTH: usize = 65_440 + SESSION_HEADER_LENGTH;
/// Number of attempts to end a session.
const CLOSE_ATTEMPTS: usize = 3;

/// Reason why the cluster refuses a call of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum ClusterError {
    /// The callback must not send or schedule anything.
    #[error("sending messages or scheduling timers is not allowed from {0}")]
    NotAllowed(&'static str),
    /// No such session.
    #[error("unknown session {0}")]
    UnknownSession(i64),
    /// The client does not read its egress. Its session is being closed.
    #[error(
        "the client of session {session_id} did not read its egress for {} ms; its session is being closed",
        patience_ns / 1_000_000
    )]
    SlowClient {
        /// The session.
        session_id: i64,
        /// Longest time that a reply waits, ns.
        patience_ns: i64,
    },
    /// The stream does not take the message, for now or for good.
    #[error(transparent)]
    Offer(#[from] OfferError),
}

impl ClusterError {
    /// True when the same call may succeed after [`Cluster::idle`].
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::Offer(error) if error.is_retryable())
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

    /// Unit of the cluster's clock; `None` before the first leadership term of a log without a snapshot.
    pub fn time_unit(&self) -> Option<TimeUnit> {
        self.core.time_unit
    }

    /// Id of this member; -1 before it has joined a log.
    pub fn member_id(&self) -> i32 {
        self.core.member_id
    }

    /// Role of this member; follower while a log is replayed.
    pub fn role(&self) -> Role {
        self.core.role
    }

    /// Id of this service.
    pub fn service_id(&self) -> i32 {
        self.core.service_id
    }

    /// Client of the media driver, for the service's own streams.
    pub fn aeron(&mut self) -> &mut Aeron {
        &mut self.core.aeron
    }

    /// Returns a session.
    pub fn client_session(&self, session_id: i64) -> Option<&ClientSession> {
        self.core
            .sessions
            .get(&session_id)
            .filter(|session| session.is_open)
            .map(|session| session.session.as_ref())
    }

    /// All sessions by ascending id.
    pub fn client_sessions(&self) -> impl Iterator<Item = &ClientSession> {
        self.core.sessions.values().filter(|session| session.is_open).map(|session| session.session.as_ref())
    }

    /// True once the service has requested the end of a session.
    pub fn is_closing(&self, session_id: i64) -> bool {
        self.core.sessions.get(&session_id).is_some_and(|session| session.is_closing)
    }

    fn check_allowed(&self) -> Result<(), ClusterError> {
        self.silent.map_or(Ok(()), |callback| Err(ClusterError::NotAllowed(callback)))
    }

    fn session_header(&self, session_id: i64) -> [u8; SESSION_HEADER_LENGTH] {
        let core = &*self.core;
        SessionHeader { leadership_term_id: core.leadership_term_id, session_id, timestamp: core.time }
            .encode()
    }

    /// Sends a message to a session's client; returns the position of its stream, or 1 on members that do not lead.
    ///
    /// # Errors
    /// See [`ClusterError`]. [`reply`](Self::reply) is the call for answers: it waits while the client's stream is
    /// full, but does not let a client that does not read hold up the cluster.
    #[inline]
    pub fn send_to_session(&mut self, session_id: i64, message: &[u8]) -> Result<i64, ClusterError> {
        self.check_allowed()?;
        let header = self.session_header(session_id);
        let core = &mut *self.core;
        let session = core.sessions.get_mut(&session_id).ok_or(ClusterError::UnknownSession(session_id))?;
        if core.role != Role::Leader {
            return Ok(MOCKED_OFFER);
        }
        let Some(publication) = &mut session.publication else {
            return Err(ClusterError::Offer(OfferError::NotConnected));
        };
        match publication.offer_parts(&[&header, message]) {
            Err(OfferError::AdminAction) => Ok(publication.offer_parts(&[&header, message])?),
            outcome => Ok(outcome?),
        }
    }

    /// Replies to a session's client. Waits while the client's stream is full, up to
    /// [`reply_patience_ns`](super::ServiceContainerContext::reply_patience_ns), and then closes the session: a client
    /// that does not read its egress must not hold up all others. Waits of a session count together. They are forgiven
    /// at 1/64 of the time that passes, and so are the waits for all sessions, which may take twice as long.
    ///
    /// Returns the position of the client's stream, or 1 on members that do not lead.
    ///
    /// ```
    /// use harrier_cluster::service::{Cluster, ClientSession};
    ///
    /// fn answer(cluster: &mut Cluster<'_>, session: &ClientSession) {
    ///     // A client that has gone, or that does not read, is no reason to fail.
    ///     let _unheard = cluster.reply(session.id, b"done");
    /// }
    /// ```
    ///
    /// # Errors
    /// See [`ClusterError`]; none of them can be retried.
    #[inline]
    pub fn reply(&mut self, session_id: i64, message: &[u8]) -> Result<i64, ClusterError> {
        match self.send_to_session(session_id, message) {
            Err(error) if error.is_retryable() => self.reply_when_read(session_id, message),
            outcome => outcome,
        }
    }

    /// Waits for the client to read, within the limit.
    #[cold]
    fn reply_when_read(&mut self, session_id: i64, message: &[u8]) -> Result<i64, ClusterError> {
        let patience_ns = self.core.reply_patience_ns;
        let started_ns = self.now().ns;
        let session = self.core.sessions.get(&session_id).ok_or(ClusterError::UnknownSession(session_id))?;
        if session.is_closing {
            return Err(ClusterError::SlowClient { session_id, patience_ns });
        }
        let allowed_ns = allowed_ns(patience_ns, session.waited, self.core.waited, started_ns);
        let (outcome, now_ns) = loop {
            let now_ns = self.now().ns;
            if now_ns - started_ns >= allowed_ns {
                break (Err(ClusterError::SlowClient { session_id, patience_ns }), now_ns);
            }
            self.idle(0);
            match self.send_to_session(session_id, message) {
                Err(error) if error.is_retryable() => {}
                outcome => break (outcome, self.now().ns),
            }
        };
        let waited_ns = now_ns - started_ns;
        self.core.waited.add(waited_ns, now_ns);
        if let Some(session) = self.core.sessions.get_mut(&session_id) {
            session.waited.add(waited_ns, now_ns);
        }
        if matches!(outcome, Err(ClusterError::SlowClient { .. })) {
            self.core.slow_sessions += 1;
            // If refused now, the next reply to this session requests it again.
            let _is_asked_again = self.close_client_session(session_id);
        }
        outcome
    }

    /// Claims a message of `length` bytes to a session's client, to be written in place.
    ///
    /// # Errors
    /// Like [`send_to_session`](Self::send_to_session); messages that do not fit in one frame cannot be claimed.
    #[inline]
    pub fn try_claim_to_session(
        &mut self,
        session_id: i64,
        length: usize,
    ) -> Result<ClusterClaim, ClusterError> {
        self.check_allowed()?;
        let header = self.session_header(session_id);
        let core = &mut *self.core;
        let session = core.sessions.get_mut(&session_id).ok_or(ClusterError::UnknownSession(session_id))?;
        let required = length + SESSION_HEADER_LENGTH;
        if core.role != Role::Leader {
            let max = MOCKED_CLAIM_LENGTH;
            return if required > max {
                Err(ClusterError::Offer(OfferError::MessageTooLong { length: required, max }))
            } else {
                Ok(ClusterClaim::mocked(length, MOCKED_OFFER))
            };
        }
        let Some(publication) = &mut session.publication else {
            return Err(ClusterError::Offer(OfferError::NotConnected));
        };
        let claim = match publication.try_claim(required) {
            Err(OfferError::AdminAction) => publication.try_claim(required)?,
            outcome => outcome?,
        };
        Ok(ClusterClaim::new(claim, &header))
    }

    /// Offers a message of this service to the log, from which all services of the cluster receive it. Every member
    /// offers it, and the leader's is taken. Returns the position of the stream to the consensus module.
    ///
    /// # Errors
    /// See [`ClusterError`].
    pub fn offer(&mut self, message: &[u8]) -> Result<i64, ClusterError> {
        self.check_allowed()?;
        Ok(self.core.send_service_message(message)?)
    }

    /// Claims a message of this service into the log, to be written in place; as [`offer`](Self::offer).
    ///
    /// # Errors
    /// See [`ClusterError`]; messages that do not fit in one frame cannot be claimed.
    pub fn try_claim(&mut self, length: usize) -> Result<ClusterClaim, ClusterError> {
        self.check_allowed()?;
        let (claim, header) = self.core.claim_service_message(length)?;
        Ok(ClusterClaim::new(claim, &header))
    }

    /// Schedules a timer, or reschedules it; `deadline` is in the cluster's time unit. It takes effect when the
    /// consensus module reads it. Ids are shared by all services of the cluster.
    ///
    /// # Errors
    /// See [`ClusterError`]; one attempt is made.
    pub fn schedule_timer(&mut self, correlation_id: i64, deadline: i64) -> Result<(), ClusterError> {
        self.check_allowed()?;
        self.core.send(&ServiceMessage::ScheduleTimer { correlation_id, deadline })?;
        Ok(())
    }

    /// Cancels a timer, unless it has fired by then.
    ///
    /// # Errors
    /// See [`ClusterError`]; one attempt is made.
    pub fn cancel_timer(&mut self, correlation_id: i64) -> Result<(), ClusterError> {
        self.check_allowed()?;
        self.core.send(&ServiceMessage::CancelTimer { correlation_id })?;
        Ok(())
    }

    /// Requests the end of a session. The service is notified when the end is in the log. A second call does nothing.
    ///
    /// # Errors
    /// See [`ClusterError`]; three attempts are made.
    pub fn close_client_session(&mut self, session_id: i64) -> Result<(), ClusterError> {
        self.check_allowed()?;
        let is_closing =
            self.core.sessions.get(&session_id).ok_or(ClusterError::UnknownSession(session_id))?.is_closing;
        if is_closing {
            return Ok(());
        }
        let mut attempts = 1;
        while let Err(error) = self.core.send(&ServiceMessage::CloseSession { session_id }) {
            if attempts == CLOSE_ATTEMPTS || !error.is_retryable() {
                return Err(error.into());
            }
            attempts += 1;
            self.idle(0);
        }
        if let Some(session) = self.core.sessions.get_mut(&session_id) {
            session.is_closing = true;
        }
        Ok(())
    }

    /// Calls `attempt` until it is not back-pressured any more, [idling](Self::idle) in between. For messages to the
    /// consensus module and into snapshots; [`reply`](Self::reply) is the call for messages to clients.
    ///
    /// # Errors
    /// The last error of `attempt`.
    pub fn retry<V>(
        &mut self,
        mut attempt: impl FnMut(&mut Self) -> Result<V, ClusterError>,
    ) -> Result<V, ClusterError> {
        loop {
            match attempt(self) {
                Err(error) if error.is_retryable() => self.idle(0),
                outcome => return outcome,
            }
        }
    }

    /// Waits inside a callback. On a shared thread the other agents run meanwhile; on a thread of its own the thread
    /// rests. Keeps the container alive for driver, archive and consensus module. There is no other way to wait in a
    /// callback.
    pub fn idle(&mut self, work_count: usize) {
        self.waiter.idle(work_count);
        let now = self.waiter.now();
        self.core.keep_alive(&now);
    }

    /// Time of this host. Use it to limit waits, never for the service's state.
    pub fn now(&self) -> Now {
        self.waiter.now()
    }
}
