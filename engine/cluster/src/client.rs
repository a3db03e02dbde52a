//! Non-blocking client of a cluster: everything is polled (spec 04 §3.1, §3.2).

mod attempt;
mod connect;
mod context;
mod egress;
mod error;
mod ingress;
mod listener;

pub use crate::service::ClusterClaim;
pub use context::{ChallengeResponder, ClusterClientContext};
pub use error::ClusterClientError;
pub use listener::EgressListener;

use std::collections::BTreeMap;

use harrier_client::{Aeron, Subscription};
use harrier_ringbuf::Now;
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::assembly::FragmentAssembler;

use crate::codec::{Ingress, SESSION_HEADER_LENGTH, SessionHeader};
use attempt::Attempt;
use ingress::{IngressPublication, IngressStream};

/// State of a client (spec 04 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientState {
    /// The session is being opened.
    Connecting,
    /// The client accepts messages.
    Connected,
    /// The leader is lost; the next one will announce itself.
    AwaitNewLeader,
    /// A new term has begun; the client connects to its ingress.
    AwaitNewLeaderConnection,
    /// The session has ended.
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Begin,
    AwaitEgress {
        id: i64,
    },
    AwaitIngress,
    AwaitConnected,
    SendConnect,
    AwaitResponse {
        correlation_id: i64,
    },
    SendChallengeResponse,
    Connected,
    /// The leader is lost; the next one will announce itself.
    AwaitNewLeader {
        deadline_ns: i64,
    },
    /// A new term has begun; the client connects to its ingress.
    Reconnecting {
        deadline_ns: i64,
    },
    Closed,
}

/// Request type of a snapshot (spec 04 §1.2).
const SNAPSHOT_REQUEST: i32 = 0;
/// Number of attempts to send a request.
const ATTEMPTS: usize = 3;

/// A client of one cluster. [`poll`](Self::poll) connects it, reads egress and keeps the session alive, also across a
/// restart of the node.
pub struct ClusterClient {
    context: ClusterClientContext,
    endpoints: BTreeMap<i32, String>,
    stage: Stage,
    deadline_ns: Option<i64>,
    attempt: Attempt,
    egress: Option<Subscription>,
    ingress: Vec<IngressStream>,
    leader: usize,
    assembler: FragmentAssembler,
    session_id: i64,
    leadership_term_id: i64,
    leader_member_id: i32,
    /// Session id of the egress stream on which the leader answers.
    egress_session_id: Option<i32>,
    challenge: Vec<u8>,
    heartbeat_timeout_ns: Option<i64>,
    last_sent_ns: i64,
    now_ns: i64,
    buffer: Vec<u8>,
}

impl ClusterClient {
    /// Creates a client without a session.
    ///
    /// # Errors
    /// Invalid setting.
    pub fn new(context: ClusterClientContext) -> Result<Self, ClusterClientError> {
        context.validate()?;
        Ok(Self {
            endpoints: connect::parse_endpoints(&context.ingress_endpoints)?,
            context,
            stage: Stage::Begin,
            deadline_ns: None,
            attempt: Attempt::default(),
            egress: None,
            ingress: Vec::new(),
            leader: 0,
            assembler: FragmentAssembler::new(),
            session_id: -1,
            leadership_term_id: -1,
            leader_member_id: -1,
            egress_session_id: None,
            challenge: Vec::new(),
            heartbeat_timeout_ns: None,
            last_sent_ns: 0,
            now_ns: 0,
            buffer: vec![0; 1_024],
        })
    }

    /// True while the client accepts messages.
    pub fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Connected)
    }

    /// Id of the session; -1 before it is open.
    pub fn session_id(&self) -> i64 {
        self.session_id
    }

    /// Current leadership term id.
    pub fn leadership_term_id(&self) -> i64 {
        self.leadership_term_id
    }

    /// Member id of the leader; -1 before it is known.
    pub fn leader_member_id(&self) -> i32 {
        self.leader_member_id
    }

    /// State of the client.
    pub fn state(&self) -> ClientState {
        match self.stage {
            Stage::Connected => ClientState::Connected,
            Stage::AwaitNewLeader { .. } => ClientState::AwaitNewLeader,
            Stage::Reconnecting { .. } => ClientState::AwaitNewLeaderConnection,
            Stage::Closed => ClientState::Closed,
            _ => ClientState::Connecting,
        }
    }

    /// Connects, reads egress and keeps the session alive. Returns the work done.
    ///
    /// # Errors
    /// See [`ClusterClientError`]; after one the client is closed.
    pub fn poll(
        &mut self,
        aeron: &mut Aeron,
        now: &Now,
        listener: &mut impl EgressListener,
    ) -> Result<usize, ClusterClientError> {
        self.now_ns = now.ns;
        let outcome = self.go_on(aeron, listener);
        if outcome.is_err() {
            self.stage = Stage::Closed;
        }
        outcome
    }

    fn session_header(&self) -> [u8; SESSION_HEADER_LENGTH] {
        let (leadership_term_id, session_id) = (self.leadership_term_id, self.session_id);
        SessionHeader { leadership_term_id, session_id, timestamp: 0 }.encode()
    }

    /// Sends a message of the session; returns the position of the ingress stream.
    ///
    /// # Errors
    /// A [retryable](ClusterClientError::is_retryable) error asks for a retry after [`poll`](Self::poll). A leader
    /// crash may lose a sent message, so only an answer confirms it.
    #[inline]
    pub fn offer(&mut self, message: &[u8]) -> Result<i64, ClusterClientError> {
        if !self.is_connected() {
            return Err(ClusterClientError::NotConnected);
        }
        let header = self.session_header();
        let Some(publication) = self.publication() else { return Err(ClusterClientError::NotConnected) };
        let sent = publication.offer_parts(&[&header, message]);
        self.note_sent(sent.as_ref().err().copied());
        Ok(sent?)
    }

    /// Claims a message of `length` bytes of the session, to be written in place.
    ///
    /// # Errors
    /// Like [`offer`](Self::offer); messages that do not fit in one frame cannot be claimed.
    #[inline]
    pub fn try_claim(&mut self, length: usize) -> Result<ClusterClaim, ClusterClientError> {
        if !self.is_connected() {
            return Err(ClusterClientError::NotConnected);
        }
        let header = self.session_header();
        let Some(publication) = self.publication() else { return Err(ClusterClientError::NotConnected) };
        let claimed = publication.try_claim(SESSION_HEADER_LENGTH + length);
        self.note_sent(claimed.as_ref().err().copied());
        Ok(ClusterClaim::new(claimed?, &header))
    }

    /// Sends a keep-alive for a silent session; [`poll`](Self::poll) does so automatically. Returns false when the
    /// ingress is back-pressured.
    ///
    /// # Errors
    /// [`ClusterClientError::NotConnected`].
    pub fn send_keep_alive(&mut self) -> Result<bool, ClusterClientError> {
        if !self.is_connected() {
            return Err(ClusterClientError::NotConnected);
        }
        let (leadership_term_id, session_id) = (self.leadership_term_id, self.session_id);
        self.send(&Ingress::KeepAlive { leadership_term_id, session_id })
    }

    /// Requests a snapshot of the cluster. [`EgressListener::on_admin_response`] reports the result with
    /// `correlation_id`; the cluster's authorisation decides. Returns false when the ingress is back-pressured.
    ///
    /// # Errors
    /// [`ClusterClientError::NotConnected`].
    pub fn request_snapshot(&mut self, correlation_id: i64) -> Result<bool, ClusterClientError> {
        if !self.is_connected() {
            return Err(ClusterClientError::NotConnected);
        }
        let (leadership_term_id, session_id) = (self.leadership_term_id, self.session_id);
        let request_type = SNAPSHOT_REQUEST;
        self.send(&Ingress::Admin { leadership_term_id, session_id, correlation_id, request_type })
    }

    /// Ends the session.
    pub fn close(&mut self) {
        if self.is_connected() {
            let request =
                Ingress::Close { leadership_term_id: self.leadership_term_id, session_id: self.session_id };
            // The cluster times the session out if this message is lost.
            let _unsent = self.send(&request);
        }
        self.ingress.clear();
        self.egress = None;
        self.stage = Stage::Closed;
    }

    fn publication(&mut self) -> Option<&mut IngressPublication> {
        self.ingress.get_mut(self.leader)?.publication.as_mut()
    }

    /// Waits for the next leader once the ingress has no receiver (spec 04 §3.2).
    #[inline]
    fn note_sent(&mut self, error: Option<OfferError>) {
        match error {
            None => self.last_sent_ns = self.now_ns,
            Some(OfferError::NotConnected | OfferError::Closed) if self.is_connected() => {
                self.await_new_leader();
            }
            Some(_) => {}
        }
    }

    fn await_new_leader(&mut self) {
        self.ingress.clear();
        let timeout_ns = self.context.new_leader_timeout_ns(self.heartbeat_timeout_ns);
        self.stage = Stage::AwaitNewLeader { deadline_ns: self.now_ns.saturating_add(timeout_ns) };
    }

    fn send(&mut self, request: &Ingress<'_>) -> Result<bool, ClusterClientError> {
        let length = match request.encode(&mut self.buffer) {
            Ok(length) => length,
            Err(_) => {
                self.buffer.resize(64 << 10, 0);
                request.encode(&mut self.buffer).map_err(|_| ClusterClientError::NotConnected)?
            }
        };
        let Some(publication) =
            self.ingress.get_mut(self.leader).and_then(|ingress| ingress.publication.as_mut())
        else {
            return Ok(false);
        };
        let mut sent = Err(OfferError::AdminAction);
        for _ in 0..ATTEMPTS {
            sent = publication.offer_parts(&[&self.buffer[..length]]);
            if sent != Err(OfferError::AdminAction) {
                break;
            }
        }
        self.note_sent(sent.err());
        Ok(sent.is_ok())
    }

    fn go_on(
        &mut self,
        aeron: &mut Aeron,
        listener: &mut impl EgressListener,
    ) -> Result<usize, ClusterClientError> {
        match self.stage {
            Stage::Connected => {
                let work_count = self.read_egress(aeron, listener, None)?;
                self.keep_session_alive()?;
                Ok(work_count)
            }
            Stage::AwaitNewLeader { deadline_ns } => {
                let work_count = self.read_egress(aeron, listener, None)?;
                self.check_leader_deadline(deadline_ns, "waiting for a new leader")?;
                Ok(work_count)
            }
            Stage::Reconnecting { deadline_ns } => {
                let work_count = self.read_egress(aeron, listener, None)?;
                self.reconnect(aeron)?;
                self.check_leader_deadline(deadline_ns, "connecting to the new leader")?;
                Ok(work_count)
            }
            Stage::Closed => Err(ClusterClientError::NotConnected),
            stage => {
                self.check_deadline()?;
                if self.attempt.is_over(self.now_ns) && attempt::has_alternatives(&self.endpoints) {
                    return self.try_next_member(aeron);
                }
                self.connect_step(stage, aeron, listener)
            }
        }
    }

    fn keep_session_alive(&mut self) -> Result<(), ClusterClientError> {
        let interval_ns = self.context.keepalive_interval_ns;
        if interval_ns == 0 || !self.is_connected() || self.now_ns < self.last_sent_ns + interval_ns {
            return Ok(());
        }
        if !self.send_keep_alive()? {
            // Retry at half the interval instead of every cycle: the stream may be back-pressured or its receiver gone.
            self.last_sent_ns = self.now_ns - interval_ns / 2;
        }
        Ok(())
    }
}
