//! The log publication of a leader (spec 04 §2.3, §4.2).

use harrier_client::ExclusivePublication;
use harrier_protocol::uri::{ChannelUri, UriError, key};
use harrier_ringbuf::append::OfferError;
use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH, align};

use crate::codec::{LogMessage, SessionHeader};
use crate::recording_log::LogExtent;

/// Attempts of one append.
const ATTEMPTS: usize = 3;

/// Shape of a log that exists. Its next publication must have the same shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogShape {
    pub(super) position: i64,
    pub(super) initial_term_id: i32,
    pub(super) term_length: i32,
    pub(super) mtu_length: i32,
}

impl LogShape {
    /// Returns the shape of a recorded log, at its stop position.
    pub(super) fn of(extent: &LogExtent) -> Self {
        Self {
            position: extent.stop_position,
            initial_term_id: extent.initial_term_id,
            term_length: extent.term_buffer_length,
            mtu_length: extent.mtu_length,
        }
    }
}

/// Channel of a leader's log publication.
pub(super) fn publication_channel(
    template: &str,
    tags: (i64, i64),
    control_host: &str,
    shape: Option<LogShape>,
) -> Result<String, UriError> {
    let mut uri = ChannelUri::parse(template)?;
    uri.put(key::ALIAS, "log");
    uri.put(key::TAGS, format!("{},{}", tags.0, tags.1));
    if uri.is_udp() && !uri.contains(key::ENDPOINT) {
        uri.put(key::CONTROL_MODE, "manual");
        uri.put(key::CONTROL, format!("{control_host}:0"));
        uri.put(key::SPIES_SIMULATE_CONNECTION, true);
    }
    match shape {
        Some(shape) => {
            uri.set_initial_position(shape.position, shape.initial_term_id, shape.term_length);
            uri.put(key::MTU, shape.mtu_length);
        }
        None => {
            uri.put(key::INITIAL_TERM_ID, 0);
            uri.put(key::TERM_ID, 0);
            uri.put(key::TERM_OFFSET, 0);
        }
    }
    Ok(uri.to_string())
}

/// Channel on which the archive records the log.
fn recording_channel(template: &str, channel_tag: i64, session_id: i32) -> String {
    let media = if template.starts_with("aeron:ipc") { "ipc" } else { "udp" };
    format!("aeron:{media}?tags={channel_tag}|session-id={session_id}|alias=log")
}

/// Channel on which the leader's services read the log.
pub(super) fn service_channel(recording_channel: &str) -> String {
    if recording_channel.starts_with("aeron:ipc") {
        recording_channel.to_owned()
    } else {
        format!("aeron-spy:{recording_channel}")
    }
}

/// Host of an endpoint, in brackets when it is a v6 address.
pub(super) fn host_of(endpoint: &str) -> &str {
    endpoint.rsplit_once(':').map_or(endpoint, |(host, _)| host)
}

/// The publication of the log. Dropping it ends the log's stream.
pub(super) struct LogPublisher {
    publication: ExclusivePublication,
    channel_tag: i64,
    buffer: Vec<u8>,
}

/// The publication of the log is closed, or at its last position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the log publication is lost: {0}")]
pub struct LogLost(OfferError);

impl LogPublisher {
    pub(super) fn new(publication: ExclusivePublication, channel_tag: i64) -> Self {
        Self { publication, channel_tag, buffer: vec![0; 16 << 10] }
    }

    pub(super) fn session_id(&self) -> i32 {
        self.publication.session_id()
    }

    /// Returns the channel on which the archive records the log.
    pub(super) fn recording_channel(&self, template: &str) -> String {
        recording_channel(template, self.channel_tag, self.session_id())
    }

    /// Position after everything that was appended, bytes.
    #[inline]
    pub(super) fn position(&self) -> i64 {
        self.publication.position()
    }

    /// Appends a message of a session or service. Returns the position after it, or `None` when the log takes nothing now.
    #[inline]
    pub(super) fn append_session(
        &mut self,
        header: SessionHeader,
        payload: &[u8],
    ) -> Result<Option<i64>, LogLost> {
        let header = header.encode();
        for _ in 0..ATTEMPTS {
            match self.publication.offer_parts(&[&header, payload]) {
                Ok(position) => return Ok(Some(position)),
                Err(OfferError::AdminAction) => {}
                Err(OfferError::BackPressured | OfferError::NotConnected) => return Ok(None),
                Err(error) => return Err(LogLost(error)),
            }
        }
        Ok(None)
    }

    /// Appends an event. Returns the position after it, or `None` when the log takes nothing now.
    pub(super) fn append(&mut self, message: &LogMessage<'_>) -> Result<Option<i64>, LogLost> {
        self.append_positioned(|_| *message)
    }

    /// Appends an event that holds the position after itself; `message` is called with that position for each attempt (spec
    /// 04 §1.4).
    pub(super) fn append_positioned<'a>(
        &mut self,
        message: impl Fn(i64) -> LogMessage<'a>,
    ) -> Result<Option<i64>, LogLost> {
        for _ in 0..ATTEMPTS {
            let length = self.encode(&message(0));
            let end = self.position() + align(length + HEADER_LENGTH, FRAME_ALIGNMENT) as i64;
            let length = self.encode(&message(end));
            match self.publication.offer(&self.buffer[..length]) {
                Ok(position) => return Ok(Some(position)),
                Err(OfferError::AdminAction) => {}
                Err(OfferError::BackPressured | OfferError::NotConnected) => return Ok(None),
                Err(error) => return Err(LogLost(error)),
            }
        }
        Ok(None)
    }

    fn encode(&mut self, message: &LogMessage<'_>) -> usize {
        loop {
            match message.encode(&mut self.buffer) {
                Ok(length) => return length,
                Err(harrier_protocol::sbe::SbeError::BufferTooSmall { required, .. }) => {
                    self.buffer.resize(required, 0);
                }
                Err(error) => unreachable!("an event is always encodable: {error}"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_of_a_single_member_is_a_manual_channel_that_spies_connect() {
        let fresh = publication_channel("aeron:udp?term-length=64k", (8, 9), "h", None).unwrap();
        assert_eq!(
            fresh,
            "aeron:udp?term-length=64k|alias=log|tags=8,9|control-mode=manual|control=h:0|ssc=true|init-term-id=0|\
             term-id=0|term-offset=0"
        );
        let shape = LogShape { position: 65_632, initial_term_id: 0, term_length: 65_536, mtu_length: 1_408 };
        let later = publication_channel("aeron:udp?term-length=64m", (8, 9), "h", Some(shape)).unwrap();
        assert!(later.contains("|init-term-id=0|term-id=1|term-offset=96|mtu=1408"), "{later}");
        assert!(later.contains("term-length=65536"), "{later}");
        assert_eq!(
            service_channel(&recording_channel(&fresh, 8, -3)),
            "aeron-spy:aeron:udp?tags=8|session-id=-3|alias=log"
        );
        assert_eq!((host_of("h:1"), host_of("[::1]:2")), ("h", "[::1]"));
    }
}
