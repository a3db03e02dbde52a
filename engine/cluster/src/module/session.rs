//! Sessions of clients as the consensus module has them (spec 04 §3.3–§3.5).

use harrier_client::{Aeron, ClientError, Counter, ExclusivePublication, Publication};
use harrier_protocol::sbe::SbeError;
use harrier_protocol::uri::{ChannelUri, UriError, key};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::counters::MAX_LABEL_LENGTH;

use crate::codec::{BackupAnswer, CloseReason, Egress, EventCode, PROTOCOL_VERSION};

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SessionState {
    Init,
    Connecting,
    Connected,
    Challenged,
    Authenticated,
    Open,
    Closing,
    Rejected,
    Invalid,
}

/// Which of the member's ingress streams, and the session of the client's stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IngressLink {
    pub(super) stream: usize,
    pub(super) session_id: i32,
}

/// A session.
pub(super) struct Session {
    pub(super) id: i64,
    pub(super) correlation_id: i64,
    pub(super) state: SessionState,
    pub(super) response_stream_id: i32,
    pub(super) response_channel: String,
    pub(super) principal: Vec<u8>,
    pub(super) opened_log_position: i64,
    pub(super) last_activity_ns: i64,
    pub(super) close_reason: Option<CloseReason>,
    pub(super) rejection: Option<(EventCode, String)>,
    /// The client has not been told yet that the session is open.
    pub(super) owes_open_event: bool,
    /// The client has not been told yet of the new term.
    pub(super) owes_new_leader_event: bool,
    /// The ingress stream that the client sends on: which of the member's, and the stream's session.
    pub(super) ingress_link: Option<IngressLink>,
    /// What the client says of itself.
    pub(super) client_info: String,
    /// Address of the client's ingress stream, without its port.
    pub(super) address: String,
    /// The ingress stream whose log has been allocated whole.
    pub(super) allocated_link: Option<IngressLink>,
    /// The stream to a client that is not authenticated, with a small log.
    preliminary_id: Option<i64>,
    preliminary: Option<ExclusivePublication>,
    publication_id: Option<i64>,
    publication: Option<Publication>,
    counter_id: Option<i64>,
    counter: Option<Counter>,
}

/// What a member says of itself in every event.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaderFacts {
    pub(super) leadership_term_id: i64,
    pub(super) member_id: i32,
    pub(super) heartbeat_timeout_ns: i64,
}

impl Session {
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
            state: SessionState::Init,
            response_stream_id,
            response_channel,
            principal: Vec::new(),
            opened_log_position: -1,
            last_activity_ns: now_ns,
            close_reason: None,
            rejection: None,
            owes_open_event: false,
            owes_new_leader_event: false,
            ingress_link: None,
            client_info: String::new(),
            address: String::new(),
            allocated_link: None,
            preliminary_id: None,
            preliminary: None,
            publication_id: None,
            publication: None,
            counter_id: None,
            counter: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == SessionState::Open
    }

    /// Asks the driver for the streams of a session whose client is not authenticated: the log is small.
    pub(super) fn connect_preliminarily(
        &mut self,
        aeron: &mut Aeron,
        cluster_id: i32,
        info: &str,
    ) -> Result<(), ClientError> {
        let invalid = |error: UriError| ClientError::InvalidArgument {
            argument: "response channel",
            reason: error.to_string(),
        };
        let channel = preliminary_channel(&self.response_channel).map_err(invalid)?;
        self.preliminary_id = Some(aeron.add_exclusive_publication(&channel, self.response_stream_id)?);
        self.add_counter(aeron, cluster_id, info)
    }

    /// The client is authenticated: asks the driver for the stream of its session. The preliminary one goes when it is there.
    pub(super) fn upgrade(&mut self, aeron: &mut Aeron) -> Result<(), ClientError> {
        if self.preliminary.is_some() || self.preliminary_id.is_some() {
            let id = aeron.add_publication(&self.response_channel, self.response_stream_id)?;
            self.publication_id = Some(id);
        }
        Ok(())
    }

    /// Asks the driver for the session's streams.
    pub(super) fn connect(
        &mut self,
        aeron: &mut Aeron,
        cluster_id: i32,
        info: &str,
    ) -> Result<(), ClientError> {
        self.publication_id = Some(aeron.add_publication(&self.response_channel, self.response_stream_id)?);
        self.add_counter(aeron, cluster_id, info)
    }

    fn add_counter(&mut self, aeron: &mut Aeron, cluster_id: i32, info: &str) -> Result<(), ClientError> {
        let mut key = cluster_id.to_le_bytes().to_vec();
        key.extend_from_slice(&self.id.to_le_bytes());
        let suffix = format!(" - clusterId={cluster_id}");
        let mut label = format!("cluster-session: {info}");
        let mut room = label.len().min(MAX_LABEL_LENGTH - suffix.len());
        while !label.is_char_boundary(room) {
            room -= 1;
        }
        label.truncate(room);
        label.push_str(&suffix);
        self.counter_id = Some(aeron.add_counter(super::counters::type_id::SESSION, &key, &label)?);
        Ok(())
    }

    /// Takes the streams when they come; true once the client listens.
    pub(super) fn is_connected(&mut self, aeron: &mut Aeron) -> bool {
        self.take_streams(aeron);
        // Its stream comes first: the counter refers to it.
        if let Some(id) = self.counter_id
            && self.publication_id.is_none()
            && self.preliminary_id.is_none()
            && let Ok(Some(counter)) = aeron.counter(id)
        {
            counter.set_ordered(self.id);
            self.counter = Some(counter);
            self.counter_id = None;
            self.refer_to_stream(aeron);
        }
        if self.publication.is_none() && self.publication_id.is_none() {
            return self.preliminary.as_ref().is_some_and(ExclusivePublication::is_connected);
        }
        let is_connected = self.publication.as_ref().is_some_and(Publication::is_connected);
        if is_connected {
            self.preliminary = None;
        }
        is_connected
    }

    fn take_streams(&mut self, aeron: &mut Aeron) {
        if let Some(id) = self.preliminary_id {
            match aeron.exclusive_publication(id) {
                Ok(None) => {}
                Ok(preliminary) => (self.preliminary, self.preliminary_id) = (preliminary, None),
                Err(_) => (self.state, self.preliminary_id) = (SessionState::Invalid, None),
            }
        }
        if let Some(id) = self.publication_id {
            match aeron.publication(id) {
                Ok(None) => {}
                Ok(publication) => {
                    (self.publication, self.publication_id) = (publication, None);
                    self.refer_to_stream(aeron);
                }
                Err(_) => (self.state, self.publication_id) = (SessionState::Invalid, None),
            }
        }
    }

    /// Has the session's counter name the stream to the client.
    fn refer_to_stream(&self, aeron: &Aeron) {
        let preliminary = self.preliminary.as_ref().map(ExclusivePublication::registration_id);
        let id = self.publication.as_ref().map(Publication::registration_id).or(preliminary);
        if let (Some(counter), Some(id)) = (&self.counter, id) {
            aeron.counters().set_reference_id(counter.counter_id(), id);
        }
    }

    /// True when the session has, or waits for, a stream to its client.
    pub(super) fn has_streams(&self) -> bool {
        self.publication.is_some()
            || self.publication_id.is_some()
            || self.preliminary.is_some()
            || self.preliminary_id.is_some()
    }

    /// Lets the streams go.
    pub(super) fn disconnect(&mut self) {
        self.preliminary = None;
        self.preliminary_id = None;
        self.publication = None;
        self.publication_id = None;
        self.counter = None;
        self.counter_id = None;
    }

    /// Ends the session at the next check.
    pub(super) fn begin_closing(&mut self, reason: CloseReason) {
        if self.state == SessionState::Open {
            self.state = SessionState::Closing;
            self.close_reason = Some(reason);
        }
    }

    /// Tells the client something; false when it cannot be told now.
    pub(super) fn send_event(&mut self, leader: LeaderFacts, code: EventCode, detail: &str) -> bool {
        let session_id = if code == EventCode::Redirect { -1 } else { self.id };
        self.send(&Egress::SessionEvent {
            session_id,
            correlation_id: self.correlation_id,
            leadership_term_id: leader.leadership_term_id,
            leader_member_id: leader.member_id,
            code,
            version: PROTOCOL_VERSION,
            leader_heartbeat_timeout_ns: Some(leader.heartbeat_timeout_ns),
            detail,
        })
    }

    /// Sends a message to the client; false when it cannot be sent now.
    pub(super) fn send(&mut self, message: &Egress<'_>) -> bool {
        self.send_encoded(|buffer| message.encode(buffer))
    }

    /// Sends an answer to a backup; false when it cannot be sent now.
    pub(super) fn send_answer(&mut self, answer: &BackupAnswer<'_>) -> bool {
        self.send_encoded(|buffer| answer.encode(buffer))
    }

    fn send_encoded(&mut self, encode: impl Fn(&mut [u8]) -> Result<usize, SbeError>) -> bool {
        if !self.has_streams() {
            return false;
        }
        let mut buffer = vec![0; 1_024];
        let length = match encode(&mut buffer) {
            Ok(length) => length,
            Err(_) => {
                buffer.resize(64 << 10, 0);
                let Ok(length) = encode(&mut buffer) else { return false };
                length
            }
        };
        for _ in 0..3 {
            let outcome = match (&mut self.publication, &mut self.preliminary) {
                (Some(publication), _) => publication.offer(&buffer[..length]),
                (None, Some(preliminary)) => preliminary.offer(&buffer[..length]),
                (None, None) => return false,
            };
            match outcome {
                Ok(_) => return true,
                Err(OfferError::AdminAction) => {}
                Err(_) => return false,
            }
        }
        false
    }
}

/// Terms of the log to a client that is not authenticated: three of them and the metadata are less than 256 KiB.
const PRELIMINARY_TERM_LENGTH: i32 = 64 << 10;
const PRELIMINARY_MTU: i32 = 1_408;

/// A client's channel with a small log. A challenge or refusal is at most an eighth of a term long.
fn preliminary_channel(response_channel: &str) -> Result<String, UriError> {
    let mut uri = ChannelUri::parse(response_channel)?;
    uri.put(key::TERM_LENGTH, PRELIMINARY_TERM_LENGTH);
    uri.put(key::MTU, PRELIMINARY_MTU);
    Ok(uri.to_string())
}
