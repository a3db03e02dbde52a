//! The streams on which members answer clients and backups (spec 04 §2.3, §3.3).

use harrier_client::{Aeron, ClientError, Counter, ExclusivePublication, Publication};
use harrier_protocol::sbe::SbeError;
use harrier_protocol::uri::{ChannelUri, UriError, key};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::counters::MAX_LABEL_LENGTH;

use crate::codec::{BackupAnswer, Egress, EventCode, PROTOCOL_VERSION};

/// Length of the first buffer for a message; most messages fit.
const SHORT_LENGTH: usize = 1_024;
/// Length of the buffer for all other messages.
const LONG_LENGTH: usize = 64 << 10;
/// Term length of the stream to a client that is not authenticated: three terms and the metadata take less than 256 KiB.
const PRELIMINARY_TERM_LENGTH: i32 = 64 << 10;
const PRELIMINARY_MTU: i32 = 1_408;

/// Response stream of a client, and the label of its session's counter.
#[derive(Debug, Clone, Copy)]
pub(super) struct Recipient<'a> {
    pub(super) session_id: i64,
    pub(super) cluster_id: i32,
    pub(super) channel: &'a str,
    pub(super) stream_id: i32,
    /// Text for the label of the session's counter.
    pub(super) info: &'a str,
}

/// Facts that a member states in every event.
#[derive(Debug, Clone, Copy)]
pub(super) struct LeaderFacts {
    pub(super) leadership_term_id: i64,
    pub(super) member_id: i32,
    pub(super) heartbeat_timeout_ns: i64,
}

/// An event of a session for its client.
#[derive(Debug, Clone, Copy)]
pub(super) struct Event<'a> {
    pub(super) session_id: i64,
    pub(super) correlation_id: i64,
    pub(super) code: EventCode,
    pub(super) detail: &'a str,
}

/// The publication to one client, and the counter of its session. Dropping it closes both.
#[derive(Debug, Default)]
pub(super) struct Response {
    /// The stream to a client that is not authenticated, with a small log.
    preliminary_id: Option<i64>,
    preliminary: Option<ExclusivePublication>,
    publication_id: Option<i64>,
    publication: Option<Publication>,
    counter_id: Option<i64>,
    counter: Option<Counter>,
    is_refused: bool,
}

impl Response {
    /// Requests a stream with a small log, for a client that is not authenticated.
    pub(super) fn connect_preliminarily(
        &mut self,
        aeron: &mut Aeron,
        recipient: &Recipient<'_>,
    ) -> Result<(), ClientError> {
        let invalid = |error: UriError| ClientError::InvalidArgument {
            argument: "response channel",
            reason: error.to_string(),
        };
        let channel = preliminary_channel(recipient.channel).map_err(invalid)?;
        self.preliminary_id = Some(aeron.add_exclusive_publication(&channel, recipient.stream_id)?);
        self.add_counter(aeron, recipient)
    }

    /// Requests the stream of a client that is authenticated now. The preliminary stream stays until the client listens
    /// on the new one.
    pub(super) fn upgrade(
        &mut self,
        aeron: &mut Aeron,
        channel: &str,
        stream_id: i32,
    ) -> Result<(), ClientError> {
        if self.preliminary.is_some() || self.preliminary_id.is_some() {
            self.publication_id = Some(aeron.add_publication(channel, stream_id)?);
        }
        Ok(())
    }

    /// Requests the stream of a client.
    pub(super) fn connect(
        &mut self,
        aeron: &mut Aeron,
        recipient: &Recipient<'_>,
    ) -> Result<(), ClientError> {
        self.publication_id = Some(aeron.add_publication(recipient.channel, recipient.stream_id)?);
        self.add_counter(aeron, recipient)
    }

    fn add_counter(&mut self, aeron: &mut Aeron, recipient: &Recipient<'_>) -> Result<(), ClientError> {
        let Recipient { session_id, cluster_id, info, .. } = *recipient;
        let mut key = cluster_id.to_le_bytes().to_vec();
        key.extend_from_slice(&session_id.to_le_bytes());
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

    /// Takes the streams that the driver has made; returns true once the client listens.
    pub(super) fn is_connected(&mut self, aeron: &mut Aeron, session_id: i64) -> bool {
        self.take_streams(aeron);
        // The counter refers to the stream, so the stream comes first.
        if let Some(id) = self.counter_id
            && self.publication_id.is_none()
            && self.preliminary_id.is_none()
            && let Ok(Some(counter)) = aeron.counter(id)
        {
            counter.set_ordered(session_id);
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
                Err(_) => (self.is_refused, self.preliminary_id) = (true, None),
            }
        }
        if let Some(id) = self.publication_id {
            match aeron.publication(id) {
                Ok(None) => {}
                Ok(publication) => {
                    (self.publication, self.publication_id) = (publication, None);
                    self.refer_to_stream(aeron);
                }
                Err(_) => (self.is_refused, self.publication_id) = (true, None),
            }
        }
    }

    /// Makes the session's counter name the stream to the client.
    fn refer_to_stream(&self, aeron: &Aeron) {
        let preliminary = self.preliminary.as_ref().map(ExclusivePublication::registration_id);
        let id = self.publication.as_ref().map(Publication::registration_id).or(preliminary);
        if let (Some(counter), Some(id)) = (&self.counter, id) {
            aeron.counters().set_reference_id(counter.counter_id(), id);
        }
    }

    /// True when there is a stream to the client, or a request for one.
    pub(super) fn has_streams(&self) -> bool {
        self.publication.is_some()
            || self.publication_id.is_some()
            || self.preliminary.is_some()
            || self.preliminary_id.is_some()
    }

    /// True once the driver has refused a stream to the client.
    pub(super) fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Closes the streams and the counter.
    pub(super) fn disconnect(&mut self) {
        *self = Self { is_refused: self.is_refused, ..Self::default() };
    }

    /// Sends an event; returns false when the stream takes nothing now.
    pub(super) fn send_event(&mut self, leader: LeaderFacts, event: &Event<'_>) -> bool {
        let session_id = if event.code == EventCode::Redirect { -1 } else { event.session_id };
        self.send(&Egress::SessionEvent {
            session_id,
            correlation_id: event.correlation_id,
            leadership_term_id: leader.leadership_term_id,
            leader_member_id: leader.member_id,
            code: event.code,
            version: PROTOCOL_VERSION,
            leader_heartbeat_timeout_ns: Some(leader.heartbeat_timeout_ns),
            detail: event.detail,
        })
    }

    /// Sends a message; returns false when the stream takes nothing now.
    pub(super) fn send(&mut self, message: &Egress<'_>) -> bool {
        self.send_encoded(|buffer| message.encode(buffer))
    }

    /// Sends an answer to a backup; returns false when the stream takes nothing now.
    pub(super) fn send_answer(&mut self, answer: &BackupAnswer<'_>) -> bool {
        self.send_encoded(|buffer| answer.encode(buffer))
    }

    fn send_encoded(&mut self, encode: impl Fn(&mut [u8]) -> Result<usize, SbeError>) -> bool {
        if !self.has_streams() {
            return false;
        }
        let mut buffer = vec![0; SHORT_LENGTH];
        let length = match encode(&mut buffer) {
            Ok(length) => length,
            Err(_) => {
                buffer.resize(LONG_LENGTH, 0);
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

/// Returns a client's channel with a small log. A challenge or refusal is at most an eighth of a term long.
fn preliminary_channel(response_channel: &str) -> Result<String, UriError> {
    let mut uri = ChannelUri::parse(response_channel)?;
    uri.put(key::TERM_LENGTH, PRELIMINARY_TERM_LENGTH);
    uri.put(key::MTU, PRELIMINARY_MTU);
    Ok(uri.to_string())
}
