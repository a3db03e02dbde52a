//! Client of a cluster: nothing waits, everything is polled (spec 04 §3.1, §3.2).

mod connect;

use std::collections::BTreeMap;

use harrier_client::{Aeron, ClientError, ExclusivePublication, Subscription};
use harrier_protocol::uri::UriError;
use harrier_ringbuf::Now;
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::assembly::FragmentAssembler;
use thiserror::Error;

use crate::codec::{Egress, EventCode, Ingress, SessionHeader};

/// Settings of a cluster client (spec 04 §9.3). Times are ns.
#[derive(Debug, Clone)]
pub struct ClusterClientContext {
    /// `0=host:port,1=…`; empty sends to the ingress channel as it is.
    pub ingress_endpoints: String,
    /// Channel of the ingress; the endpoints are put into it.
    pub ingress_channel: String,
    /// Stream of the ingress.
    pub ingress_stream_id: i32,
    /// Channel on which the client listens.
    pub egress_channel: String,
    /// Stream on which the client listens.
    pub egress_stream_id: i32,
    /// How long connecting may take.
    pub message_timeout_ns: i64,
    /// How long a lost leader is waited for.
    pub new_leader_timeout_ns: i64,
    /// Time without a message after which a keep-alive is sent.
    pub keepalive_interval_ns: i64,
    /// Shown to the cluster's authenticator.
    pub credentials: Vec<u8>,
    /// Answer to a challenge.
    pub challenge_answer: Vec<u8>,
    /// Name in the cluster's counters; at most 100 characters.
    pub client_name: String,
}

impl ClusterClientContext {
    /// A client of the members with these ingress endpoints, listening on `egress_channel`.
    pub fn new(ingress_endpoints: impl Into<String>, egress_channel: impl Into<String>) -> Self {
        Self {
            ingress_endpoints: ingress_endpoints.into(),
            ingress_channel: "aeron:udp?term-length=64k".into(),
            ingress_stream_id: 101,
            egress_channel: egress_channel.into(),
            egress_stream_id: 102,
            message_timeout_ns: 5_000_000_000,
            new_leader_timeout_ns: 20_000_000_000,
            keepalive_interval_ns: 1_000_000_000,
            credentials: Vec::new(),
            challenge_answer: Vec::new(),
            client_name: String::new(),
        }
    }
}

/// What can go wrong between a client and its cluster.
#[derive(Debug, Error)]
pub enum ClusterClientError {
    /// The driver refused a stream, or is gone.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// A channel of the settings.
    #[error(transparent)]
    Channel(#[from] UriError),
    /// Endpoints that are not `id=host:port,…`.
    #[error("ingress endpoints '{0}' must be id=host:port joined by commas")]
    Endpoints(String),
    /// The cluster did not answer in time.
    #[error(
        "no session with the cluster at {endpoints} within {timeout_ns} ns: {stage}; is a leader running?"
    )]
    Timeout {
        /// The endpoints.
        endpoints: String,
        /// The timeout.
        timeout_ns: i64,
        /// What was waited for.
        stage: &'static str,
    },
    /// The cluster turned the client away.
    #[error("cluster refused the session: {code:?}: {detail}")]
    Refused {
        /// Why.
        code: EventCode,
        /// The cluster's words.
        detail: String,
    },
    /// The cluster ended the session.
    #[error("cluster closed the session: {0}")]
    Closed(String),
    /// The client has no session now.
    #[error("the client has no session; poll it")]
    NotConnected,
    /// The ingress takes nothing, for now or for good.
    #[error(transparent)]
    Offer(#[from] OfferError),
}

/// What a client hears; all methods do nothing unless overridden.
pub trait EgressListener {
    /// A message of a service; `timestamp` is the cluster time of the event that it answers.
    fn on_message(&mut self, _session_id: i64, _timestamp: i64, _message: &[u8]) {}

    /// Another member leads, or the same one in a new term.
    fn on_new_leader(&mut self, _leadership_term_id: i64, _leader_member_id: i32, _ingress_endpoints: &str) {}

    /// News of the session.
    fn on_session_event(&mut self, _code: EventCode, _detail: &str) {}
}

/// Only messages, for closures.
impl<F: FnMut(i64, i64, &[u8])> EgressListener for F {
    fn on_message(&mut self, session_id: i64, timestamp: i64, message: &[u8]) {
        self(session_id, timestamp, message);
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
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
    /// The leader is lost; its successor will say so.
    AwaitNewLeader {
        deadline_ns: i64,
    },
    /// A new term has begun; its ingress is being connected.
    Reconnecting {
        deadline_ns: i64,
    },
    Closed,
}

/// An ingress stream that is being added, or there.
#[derive(Debug)]
struct IngressStream {
    member_id: i32,
    pending: Option<i64>,
    publication: Option<ExclusivePublication>,
}

/// Fragments taken per poll.
const FRAGMENT_LIMIT: usize = 10;

/// A client of one cluster. [`poll`](Self::poll) connects it, takes egress and keeps the session alive, also over a
/// restart of the node.
pub struct ClusterClient {
    context: ClusterClientContext,
    endpoints: BTreeMap<i32, String>,
    stage: Stage,
    deadline_ns: Option<i64>,
    egress: Option<Subscription>,
    ingress: Vec<IngressStream>,
    leader: usize,
    assembler: FragmentAssembler,
    session_id: i64,
    leadership_term_id: i64,
    leader_member_id: i32,
    last_sent_ns: i64,
    now_ns: i64,
    buffer: Vec<u8>,
}

/// What the cluster says of a session.
enum News {
    Event { correlation_id: i64, session_id: i64, term_id: i64, leader: i32, code: EventCode, detail: String },
    NewLeader { term_id: i64, leader: i32, endpoints: String },
    Challenge { correlation_id: i64, session_id: i64 },
}

impl ClusterClient {
    /// A client without a session.
    ///
    /// # Errors
    /// [`ClusterClientError::Endpoints`].
    pub fn new(context: ClusterClientContext) -> Result<Self, ClusterClientError> {
        Ok(Self {
            endpoints: connect::parse_endpoints(&context.ingress_endpoints)?,
            context,
            stage: Stage::Begin,
            deadline_ns: None,
            egress: None,
            ingress: Vec::new(),
            leader: 0,
            assembler: FragmentAssembler::new(),
            session_id: -1,
            leadership_term_id: -1,
            leader_member_id: -1,
            last_sent_ns: 0,
            now_ns: 0,
            buffer: vec![0; 1_024],
        })
    }

    /// True while messages are taken.
    pub fn is_connected(&self) -> bool {
        matches!(self.stage, Stage::Connected)
    }

    /// Id of the session; -1 before there is one.
    pub fn session_id(&self) -> i64 {
        self.session_id
    }

    /// The present leadership term.
    pub fn leadership_term_id(&self) -> i64 {
        self.leadership_term_id
    }

    /// Connects, takes egress, keeps the session alive; returns the work done.
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

    /// Sends a message of the session; returns the position of the ingress stream.
    ///
    /// # Errors
    /// [`ClusterClientError::Offer`] with a retryable error asks for a retry.
    #[inline]
    pub fn offer(&mut self, message: &[u8]) -> Result<i64, ClusterClientError> {
        if !self.is_connected() {
            return Err(ClusterClientError::NotConnected);
        }
        let header = SessionHeader {
            leadership_term_id: self.leadership_term_id,
            session_id: self.session_id,
            timestamp: 0,
        };
        let header = header.encode();
        let Some(publication) = self.publication() else { return Err(ClusterClientError::NotConnected) };
        let sent = match publication.offer_parts(&[&header, message]) {
            Err(OfferError::AdminAction) => publication.offer_parts(&[&header, message]),
            outcome => outcome,
        };
        if sent.is_ok() {
            self.last_sent_ns = self.now_ns;
        }
        Ok(sent?)
    }

    /// Ends the session.
    pub fn close(&mut self) {
        if self.is_connected() {
            let request =
                Ingress::Close { leadership_term_id: self.leadership_term_id, session_id: self.session_id };
            // The cluster times the session out when this does not reach it.
            let _unsent = self.send(&request);
        }
        self.ingress.clear();
        self.egress = None;
        self.stage = Stage::Closed;
    }

    fn publication(&mut self) -> Option<&mut ExclusivePublication> {
        self.ingress.get_mut(self.leader)?.publication.as_mut()
    }

    fn send(&mut self, request: &Ingress<'_>) -> Result<bool, ClusterClientError> {
        let length = match request.encode(&mut self.buffer) {
            Ok(length) => length,
            Err(_) => {
                self.buffer.resize(64 << 10, 0);
                request.encode(&mut self.buffer).map_err(|_| ClusterClientError::NotConnected)?
            }
        };
        let leader = self.leader;
        let Some(publication) = self.ingress.get_mut(leader).and_then(|own| own.publication.as_mut()) else {
            return Ok(false);
        };
        for _ in 0..3 {
            match publication.offer(&self.buffer[..length]) {
                Ok(_) => {
                    self.last_sent_ns = self.now_ns;
                    return Ok(true);
                }
                Err(OfferError::AdminAction) => {}
                Err(_) => return Ok(false),
            }
        }
        Ok(false)
    }

    fn go_on(
        &mut self,
        aeron: &mut Aeron,
        listener: &mut impl EgressListener,
    ) -> Result<usize, ClusterClientError> {
        match self.stage.clone() {
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
                self.connect_step(stage, aeron, listener)
            }
        }
    }

    /// Takes egress; `wanted` is the connect request that an answer is waited for.
    fn read_egress(
        &mut self,
        aeron: &mut Aeron,
        listener: &mut impl EgressListener,
        wanted: Option<i64>,
    ) -> Result<usize, ClusterClientError> {
        let Some(egress) = &mut self.egress else { return Ok(0) };
        let (assembler, own_session) = (&mut self.assembler, self.session_id);
        let mut news = None;
        let work_count = egress.poll(FRAGMENT_LIMIT, &mut |payload, header| {
            assembler.on_fragment(payload, header, &mut |message, _| match Egress::decode(message) {
                Ok(Some(Egress::Message { header, payload })) if header.session_id == own_session => {
                    listener.on_message(header.session_id, header.timestamp, payload);
                }
                Ok(Some(other)) => {
                    let heard = news_of(&other, own_session, wanted);
                    if heard.is_some() {
                        news = heard;
                    }
                }
                _ => {}
            });
        });
        match news {
            Some(news) => self.on_news(news, aeron, listener)?,
            None if wanted.is_none() && work_count == 0 => self.check_egress(),
            None => {}
        }
        Ok(work_count)
    }

    /// Without an image nobody leads; the next leader will connect again.
    fn check_egress(&mut self) {
        let is_silent = self.egress.as_mut().is_some_and(|egress| egress.images().is_empty());
        if self.is_connected() && is_silent {
            self.stage =
                Stage::AwaitNewLeader { deadline_ns: self.now_ns + self.context.new_leader_timeout_ns };
        }
    }

    fn on_news(
        &mut self,
        news: News,
        aeron: &mut Aeron,
        listener: &mut impl EgressListener,
    ) -> Result<(), ClusterClientError> {
        match news {
            News::Challenge { session_id, correlation_id } => {
                if (Stage::AwaitResponse { correlation_id }) == self.stage {
                    self.session_id = session_id;
                    self.stage = Stage::SendChallengeResponse;
                }
            }
            News::Event { correlation_id, session_id, term_id, leader, code, detail } => {
                if (Stage::AwaitResponse { correlation_id }) == self.stage {
                    return self.on_connect_response(session_id, term_id, leader, code, &detail, aeron);
                }
                listener.on_session_event(code, &detail);
                if code == EventCode::Closed {
                    return Err(ClusterClientError::Closed(detail));
                }
            }
            News::NewLeader { term_id, leader, endpoints } => {
                listener.on_new_leader(term_id, leader, &endpoints);
                self.leadership_term_id = term_id;
                self.leader_member_id = leader;
                if !self.endpoints.is_empty() {
                    self.endpoints = connect::parse_endpoints(&endpoints)?;
                    self.context.ingress_endpoints = endpoints;
                }
                self.assembler.clear();
                self.add_ingress(aeron)?;
                let deadline_ns = self.now_ns + self.context.message_timeout_ns;
                self.stage = Stage::Reconnecting { deadline_ns };
            }
        }
        Ok(())
    }

    fn keep_session_alive(&mut self) -> Result<(), ClusterClientError> {
        if !self.is_connected() || self.now_ns < self.last_sent_ns + self.context.keepalive_interval_ns {
            return Ok(());
        }
        let request =
            Ingress::KeepAlive { leadership_term_id: self.leadership_term_id, session_id: self.session_id };
        if !self.send(&request)? {
            // Not every cycle: the stream may be back-pressured or its receiver gone.
            self.last_sent_ns = self.now_ns - self.context.keepalive_interval_ns / 2;
        }
        Ok(())
    }
}

fn news_of(message: &Egress<'_>, own_session: i64, wanted: Option<i64>) -> Option<News> {
    match *message {
        Egress::SessionEvent {
            session_id,
            correlation_id,
            leadership_term_id,
            leader_member_id,
            code,
            detail,
            ..
        } if session_id == own_session || wanted == Some(correlation_id) => Some(News::Event {
            correlation_id,
            session_id,
            term_id: leadership_term_id,
            leader: leader_member_id,
            code,
            detail: detail.to_owned(),
        }),
        Egress::NewLeader { leadership_term_id, session_id, leader_member_id, ingress_endpoints }
            if session_id == own_session =>
        {
            Some(News::NewLeader {
                term_id: leadership_term_id,
                leader: leader_member_id,
                endpoints: ingress_endpoints.to_owned(),
            })
        }
        Egress::Challenge { correlation_id, session_id, .. } => {
            Some(News::Challenge { correlation_id, session_id })
        }
        _ => None,
    }
}
