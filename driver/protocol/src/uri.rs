//! Channel URIs: `[aeron-spy:]aeron:<media>[?key=value|key=value…]` (spec 01 §6).
//!
//! Grammar and typed values follow the Java driver where the released drivers differ (spec 01 §6.1, §6.4): an unknown
//! key is ignored, the last of duplicate keys wins, a boolean is true only as `true`.

use std::fmt;
use std::net::IpAddr;
use thiserror::Error;

use crate::ErrorCode;

mod values;

pub use values::{
    ControlMode, Endpoint, Group, InitialPosition, MAX_MTU_LENGTH, MAX_TERM_LENGTH, MIN_TERM_LENGTH,
    ResponseCorrelation, SessionId, Tags, TimestampOffset, parse_duration_ns, parse_size,
};

/// Most bytes of a URI.
pub const MAX_URI_LENGTH: usize = 4095;

/// Keys of parameters (spec 01 §6.3).
pub mod key {
    /// Address of the receiver, or of the group.
    pub const ENDPOINT: &str = "endpoint";
    /// Network interface.
    pub const INTERFACE: &str = "interface";
    /// Control address.
    pub const CONTROL: &str = "control";
    /// `manual`, `dynamic` or `response`.
    pub const CONTROL_MODE: &str = "control-mode";
    /// Session id, or `tag:` with the entity tag of a publication.
    pub const SESSION_ID: &str = "session-id";
    /// Stream id.
    pub const STREAM_ID: &str = "stream-id";
    /// Length of a term, bytes.
    pub const TERM_LENGTH: &str = "term-length";
    /// Id of the first term.
    pub const INITIAL_TERM_ID: &str = "init-term-id";
    /// Term in which the publication starts.
    pub const TERM_ID: &str = "term-id";
    /// Offset in that term at which the publication starts, bytes.
    pub const TERM_OFFSET: &str = "term-offset";
    /// Most bytes of a datagram.
    pub const MTU: &str = "mtu";
    /// Window of a publication, bytes.
    pub const PUBLICATION_WINDOW: &str = "pub-wnd";
    /// Time for which a drained publication lingers.
    pub const LINGER: &str = "linger";
    /// Whether the log file may have holes.
    pub const SPARSE: &str = "sparse";
    /// Whether receivers are told the end of the stream.
    pub const EOS: &str = "eos";
    /// Whether spies make a publication connected.
    pub const SPIES_SIMULATE_CONNECTION: &str = "ssc";
    /// Most retransmissions at a time to a group of receivers.
    pub const MAX_RESEND: &str = "max-resend";
    /// Channel tag and entity tag.
    pub const TAGS: &str = "tags";
    /// Name for people; without effect.
    pub const ALIAS: &str = "alias";
    /// Hops of multicast datagrams.
    pub const TTL: &str = "ttl";
    /// Whether gaps are repaired or filled.
    pub const RELIABLE: &str = "reliable";
    /// Whether the subscriber holds the stream back.
    pub const TETHER: &str = "tether";
    /// Whether images that went away may come back.
    pub const REJOIN: &str = "rejoin";
    /// Whether the image has group semantics.
    pub const GROUP: &str = "group";
    /// Window of the receiver, bytes.
    pub const RECEIVER_WINDOW: &str = "rcv-wnd";
    /// Length of the socket's send buffer, bytes.
    pub const SOCKET_SNDBUF: &str = "so-sndbuf";
    /// Length of the socket's receive buffer, bytes.
    pub const SOCKET_RCVBUF: &str = "so-rcvbuf";
    /// Delay before the first NAK.
    pub const NAK_DELAY: &str = "nak-delay";
    /// Congestion control: `static` or `cubic`.
    pub const CONGESTION_CONTROL: &str = "cc";
    /// Flow control: `max`, `min` or `tagged`, with parameters.
    pub const FLOW_CONTROL: &str = "fc";
    /// Group tag of the receiver.
    pub const GROUP_TAG: &str = "gtag";
    /// Time for which an untethered subscriber may be behind the window limit.
    pub const UNTETHERED_WINDOW_LIMIT_TIMEOUT: &str = "untethered-window-limit-timeout";
    /// Time for which an untethered subscriber lingers.
    pub const UNTETHERED_LINGER_TIMEOUT: &str = "untethered-linger-timeout";
    /// Time after which a resting untethered subscriber joins again.
    pub const UNTETHERED_RESTING_TIMEOUT: &str = "untethered-resting-timeout";
    /// Correlation id of the request image, registration id of the response subscription, or `prototype`.
    pub const RESPONSE_CORRELATION_ID: &str = "response-correlation-id";
    /// Address on which responses are heard.
    pub const RESPONSE_ENDPOINT: &str = "response-endpoint";
    /// Where the channel's time of receipt is stored: an offset in the payload, or `reserved`.
    pub const CHANNEL_RECEIVE_TIMESTAMP_OFFSET: &str = "channel-rcv-ts-offset";
    /// Where the channel's time of sending is stored: an offset in the payload, or `reserved`.
    pub const CHANNEL_SEND_TIMESTAMP_OFFSET: &str = "channel-snd-ts-offset";
    /// Where the system's time of receipt is stored: an offset in the payload, or `reserved`.
    pub const MEDIA_RECEIVE_TIMESTAMP_OFFSET: &str = "media-rcv-ts-offset";
    /// Whether the transport is secured; refused.
    pub const ATS: &str = "ats";
}

/// Reason why a URI is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum UriError {
    /// The URI is longer than 4095 bytes.
    #[error("channel of {0} bytes; at most 4095 are allowed")]
    TooLong(usize),
    /// The URI does not have the form `[aeron-spy:]aeron:<media>…`.
    #[error(
        "invalid URI scheme or transport: Aeron URIs must start with 'aeron:udp', 'aeron:ipc' or \
         'aeron-spy:aeron:udp', found: {0}"
    )]
    Scheme(String),
    /// A parameter does not have the form `key=value`.
    #[error("parameter '{parameter}' of channel '{channel}' must be key=value")]
    Parameter {
        /// Text of the parameter.
        parameter: String,
        /// The channel.
        channel: String,
    },
    /// A value does not have the type or range of its key.
    #[error("{}: {rule}", values::words(key, value))]
    Value {
        /// The key.
        key: &'static str,
        /// The value.
        value: String,
        /// Values that would be valid.
        rule: &'static str,
    },
    /// The value of `response-correlation-id` is not valid.
    #[error("invalid response-correlation-id, must be a number greater than or equal to -1, or 'prototype'")]
    ResponseCorrelation,
    /// Two parameters contradict each other.
    #[error("{rule}: channel={channel}")]
    Combination {
        /// The channel.
        channel: String,
        /// Rule that the parameters break.
        rule: String,
    },
}

impl UriError {
    /// Error code of a driver's reply (spec 01 §6.4, recommendation).
    pub fn code(&self) -> ErrorCode {
        ErrorCode::InvalidChannel
    }
}

/// Medium that carries a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Media {
    /// UDP.
    Udp,
    /// Shared memory of one host.
    Ipc,
}

impl Media {
    /// `udp` or `ipc`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Ipc => "ipc",
        }
    }
}

/// A parsed channel. It is displayed canonically, with the parameters in the order in which they were given or put.
///
/// ```
/// use harrier_protocol::uri::{ChannelUri, key};
///
/// let mut uri = ChannelUri::parse("aeron:udp?endpoint=localhost:40456|term-length=64k").unwrap();
/// assert_eq!(uri.endpoint().unwrap().unwrap().port, 40456);
/// assert_eq!(uri.term_length().unwrap(), Some(65536));
/// uri.put(key::SESSION_ID, -7);
/// assert_eq!(uri.to_string(), "aeron:udp?endpoint=localhost:40456|term-length=64k|session-id=-7");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelUri {
    is_spy: bool,
    media: Media,
    parameters: Vec<(String, String)>,
}

impl ChannelUri {
    /// `aeron:udp`.
    pub fn udp() -> Self {
        Self { is_spy: false, media: Media::Udp, parameters: Vec::new() }
    }

    /// `aeron:ipc`.
    pub fn ipc() -> Self {
        Self { is_spy: false, media: Media::Ipc, parameters: Vec::new() }
    }

    /// Parses a channel.
    pub fn parse(channel: &str) -> Result<Self, UriError> {
        if channel.len() > MAX_URI_LENGTH {
            return Err(UriError::TooLong(channel.len()));
        }
        let scheme = || UriError::Scheme(channel.to_owned());
        let (is_spy, rest) = match channel.strip_prefix("aeron-spy:") {
            Some(rest) => (true, rest),
            None => (false, channel),
        };
        let rest = rest.strip_prefix("aeron:").ok_or_else(scheme)?;
        let (media, parameters) = match rest.split_once('?') {
            Some((media, parameters)) => (media, Some(parameters)),
            None => (rest, None),
        };
        let media = match media {
            "udp" => Media::Udp,
            "ipc" if !is_spy => Media::Ipc,
            _ => return Err(scheme()),
        };
        let mut uri = Self { is_spy, media, parameters: Vec::new() };
        if let Some(parameters) = parameters {
            for parameter in parameters.split('|') {
                let (key, value) =
                    parameter.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| {
                        UriError::Parameter { parameter: parameter.to_owned(), channel: channel.to_owned() }
                    })?;
                uri.put(key, value);
            }
        }
        Ok(uri)
    }

    /// The medium.
    pub fn media(&self) -> Media {
        self.media
    }

    /// True for `aeron:ipc`.
    pub fn is_ipc(&self) -> bool {
        self.media == Media::Ipc
    }

    /// True for `aeron:udp`, also as a spy.
    pub fn is_udp(&self) -> bool {
        self.media == Media::Udp
    }

    /// True with the prefix `aeron-spy:`.
    pub fn is_spy(&self) -> bool {
        self.is_spy
    }

    /// Sets or removes the prefix `aeron-spy:`.
    pub fn set_spy(&mut self, is_spy: bool) {
        self.is_spy = is_spy;
    }

    /// The text of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.parameters.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// True when the parameter is present, even if it is empty.
    pub fn contains(&self, key: &str) -> bool {
        self.get(key).is_some()
    }

    /// Sets a parameter; a new parameter goes to the end.
    pub fn put(&mut self, key: &str, value: impl fmt::Display) {
        let value = value.to_string();
        match self.parameters.iter_mut().find(|(name, _)| name == key) {
            Some((_, old)) => *old = value,
            None => self.parameters.push((key.to_owned(), value)),
        }
    }

    /// Sets a parameter and returns the channel, for chains of calls.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.put(key, value);
        self
    }

    /// Sets a parameter unless it is present.
    pub fn put_if_absent(&mut self, key: &str, value: impl fmt::Display) {
        if !self.contains(key) {
            self.put(key, value);
        }
    }

    /// Removes a parameter and returns its text.
    pub fn remove(&mut self, key: &str) -> Option<String> {
        let index = self.parameters.iter().position(|(name, _)| name == key)?;
        Some(self.parameters.remove(index).1)
    }

    /// All parameters in order.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &str)> {
        self.parameters.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Sets `init-term-id`, `term-id`, `term-offset` and `term-length` so that a publication starts at `position`
    /// (spec 01 §6.5).
    pub fn set_initial_position(&mut self, position: i64, initial_term_id: i32, term_length: i32) {
        let bits = term_length.trailing_zeros();
        self.put(key::INITIAL_TERM_ID, initial_term_id);
        self.put(key::TERM_ID, initial_term_id.wrapping_add((position >> bits) as i32));
        self.put(key::TERM_OFFSET, position & (i64::from(term_length) - 1));
        self.put(key::TERM_LENGTH, term_length);
    }

    /// Checks a publication on `stream_id` as far as that is possible without a driver's settings (spec 01 §6.3,
    /// §6.4).
    pub fn check_publication(&self, stream_id: i32) -> Result<(), UriError> {
        if self.is_spy {
            return Err(self.combination("aeron-spy: is only for subscriptions".into()));
        }
        self.check_common()?;
        if let Some(found) = self.stream_id()?.filter(|found| *found != stream_id) {
            let rule = format!("stream-id={found} does not match provided streamId={stream_id}");
            return Err(self.combination(rule));
        }
        let term_length = self.term_length()?;
        self.session_id()?;
        self.initial_position()?;
        self.linger_ns()?;
        self.max_resend()?;
        self.response_correlation()?;
        self.timestamp_offset(key::CHANNEL_SEND_TIMESTAMP_OFFSET)?;
        if let (Some(window), Some(term_length)) = (self.publication_window()?, term_length)
            && window > term_length / 2
        {
            let rule = format!("pub-wnd={window} must not exceed half the term-length={term_length}");
            return Err(self.combination(rule));
        }
        let is_fixed_endpoint =
            !matches!(self.control_mode(), Some(ControlMode::Dynamic | ControlMode::Manual));
        if self.is_udp() && is_fixed_endpoint && self.has_no_port(key::ENDPOINT) {
            return Err(self.combination("endpoint has port=0 for publication".into()));
        }
        Ok(())
    }

    /// Checks a subscription as far as that is possible without a driver's settings (spec 01 §6.3, §6.4).
    pub fn check_subscription(&self) -> Result<(), UriError> {
        self.check_common()?;
        self.session_id()?;
        self.initial_position()?;
        self.receiver_window()?;
        self.nak_delay_ns()?;
        self.group_tag()?;
        self.timestamp_offset(key::CHANNEL_RECEIVE_TIMESTAMP_OFFSET)?;
        self.timestamp_offset(key::MEDIA_RECEIVE_TIMESTAMP_OFFSET)?;
        if self.is_udp() && self.has_no_port(key::CONTROL) {
            return Err(self.combination("control has port=0 for subscription".into()));
        }
        Ok(())
    }

    fn check_common(&self) -> Result<(), UriError> {
        self.mtu()?;
        self.tags()?;
        self.socket_sndbuf()?;
        self.socket_rcvbuf()?;
        self.ttl()?;
        for key in [
            key::UNTETHERED_WINDOW_LIMIT_TIMEOUT,
            key::UNTETHERED_LINGER_TIMEOUT,
            key::UNTETHERED_RESTING_TIMEOUT,
        ] {
            self.duration_ns(key)?;
        }
        if self.is_ipc() {
            return Ok(());
        }
        let mode = self.control_mode();
        self.check_address(key::ENDPOINT)?;
        self.check_address(key::CONTROL)?;
        let has_address = self.contains(key::ENDPOINT) || self.contains(key::CONTROL);
        let needs_none = matches!(mode, Some(ControlMode::Manual | ControlMode::Response));
        if mode == Some(ControlMode::Dynamic) && !self.contains(key::CONTROL) {
            return Err(self.combination("explicit control expected with dynamic control mode".into()));
        }
        if !has_address && !needs_none && !self.contains(key::TAGS) {
            let rule = "invalid URI scheme or transport: aeron:udp needs endpoint, control, tags or \
                        control-mode=manual|response";
            return Err(self.combination(rule.into()));
        }
        Ok(())
    }

    /// True when the port of an address is 0.
    fn has_no_port(&self, key: &str) -> bool {
        self.get(key).and_then(Endpoint::parse).is_some_and(|address| address.port == 0)
    }

    /// Checks that an address has a port. A bare name needs none: a table of names may know host and port for it
    /// (spec 02 §5.12).
    fn check_address(&self, key: &'static str) -> Result<(), UriError> {
        let is_bare_name =
            |text: &str| !text.is_empty() && !text.contains(':') && text.parse::<IpAddr>().is_err();
        match self.get(key) {
            Some(text) if Endpoint::parse(text).is_none() && !is_bare_name(text) => {
                let rule = "host:port or [v6-address]:port";
                Err(UriError::Value { key, value: text.to_owned(), rule })
            }
            _ => Ok(()),
        }
    }

    fn combination(&self, rule: String) -> UriError {
        UriError::Combination { channel: self.to_string(), rule }
    }
}

impl fmt::Display for ChannelUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_spy {
            f.write_str("aeron-spy:")?;
        }
        write!(f, "aeron:{}", self.media.name())?;
        for (index, (key, value)) in self.parameters.iter().enumerate() {
            write!(f, "{}{key}={value}", if index == 0 { '?' } else { '|' })?;
        }
        Ok(())
    }
}

impl std::str::FromStr for ChannelUri {
    type Err = UriError;

    fn from_str(channel: &str) -> Result<Self, UriError> {
        Self::parse(channel)
    }
}

#[cfg(test)]
mod tests;
