//! Sessions of clients as the consensus module has them (spec 04 §3.3–§3.5).

use harrier_client::{Aeron, ClientError, Counter, Publication};
use harrier_protocol::sbe::SbeError;
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
            publication_id: None,
            publication: None,
            counter_id: None,
            counter: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.state == SessionState::Open
    }

    /// Asks the driver for the session's streams.
    pub(super) fn connect(
        &mut self,
        aeron: &mut Aeron,
        cluster_id: i32,
        info: &str,
    ) -> Result<(), ClientError> {
        self.publication_id = Some(aeron.add_publication(&self.response_channel, self.response_stream_id)?);
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
        if let Some(id) = self.publication_id {
            match aeron.publication(id) {
                Ok(None) => {}
                Ok(publication) => {
                    self.publication = publication;
                    self.publication_id = None;
                }
                Err(_) => {
                    self.publication_id = None;
                    self.state = SessionState::Invalid;
                }
            }
        }
        // Its stream comes first: the counter refers to it.
        if let Some(id) = self.counter_id
            && self.publication_id.is_none()
            && let Ok(Some(counter)) = aeron.counter(id)
        {
            counter.set_ordered(self.id);
            if let Some(publication) = &self.publication {
                aeron.counters().set_reference_id(counter.counter_id(), publication.registration_id());
            }
            self.counter = Some(counter);
            self.counter_id = None;
        }
        self.publication.as_ref().is_some_and(Publication::is_connected)
    }

    /// True when the session has, or waits for, a stream to its client.
    pub(super) fn has_streams(&self) -> bool {
        self.publication.is_some() || self.publication_id.is_some()
    }

    /// Lets the streams go.
    pub(super) fn disconnect(&mut self) {
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
        let Some(publication) = &mut self.publication else { return false };
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
            match publication.offer(&buffer[..length]) {
                Ok(_) => return true,
                Err(OfferError::AdminAction) => {}
                Err(_) => return false,
            }
        }
        false
    }
}
