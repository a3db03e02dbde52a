//! Values of channel parameters, typed (spec 01 §6.2, §6.3).

use super::{ChannelUri, UriError, key};

/// Least bytes of a term.
pub const MIN_TERM_LENGTH: i32 = 64 << 10;
/// Most bytes of a term.
pub const MAX_TERM_LENGTH: i32 = 1 << 30;
/// Most bytes of a frame.
pub const MAX_MTU_LENGTH: i32 = 65504;

const FRAME_ALIGNMENT: i32 = 32;
const MIN_MTU_EXCLUSIVE: i32 = 32;
const MAX_RESEND: i32 = 256;
const RESERVED_VALUE_OFFSET: i32 = -8;
const NULL_TAG: i64 = -1;

/// Text about an invalid value. Programs look for these words (spec 02 §5.16).
pub(super) fn words(key: &str, value: &str) -> String {
    let number = parse_size(value);
    match (key, number) {
        (key::MTU, Some(mtu)) if mtu % i64::from(FRAME_ALIGNMENT) != 0 => {
            format!("mtuLength must be a multiple of FRAME_ALIGNMENT: mtuLength={mtu}")
        }
        (key::MTU, Some(mtu)) => {
            format!("mtuLength must be a > HEADER_LENGTH and <= MAX_UDP_PAYLOAD_LENGTH: mtuLength={mtu}")
        }
        (key::TERM_LENGTH, Some(length)) if length < i64::from(MIN_TERM_LENGTH) => {
            format!("term length less than min length of {MIN_TERM_LENGTH}: length={length}")
        }
        (key::TERM_LENGTH, Some(length)) if length > i64::from(MAX_TERM_LENGTH) => {
            format!("term length greater than max length of {MAX_TERM_LENGTH}: length={length}")
        }
        (key::TERM_LENGTH, Some(length)) => format!("term length not a power of 2: length={length}"),
        (key::TERM_OFFSET, Some(offset)) => {
            format!("Param term-offset={offset} must be multiple of FRAME_ALIGNMENT")
        }
        (key::MAX_RESEND, Some(resend)) => format!("invalid max-resend={resend}, must be > 0 and <= 256"),
        (key::SESSION_ID, _) => format!("could not parse session-id={value} as int32_t in URI"),
        (key::GROUP_TAG, _) => format!("could not parse gtag={value} as int64_t in URI"),
        (key::ENDPOINT | key::CONTROL, _) => format!("port invalid: '' in {key}={value}"),
        (
            key::CHANNEL_RECEIVE_TIMESTAMP_OFFSET
            | key::CHANNEL_SEND_TIMESTAMP_OFFSET
            | key::MEDIA_RECEIVE_TIMESTAMP_OFFSET,
            _,
        ) => format!("Invalid {key}: {value}"),
        _ => format!("could not parse {key}={value} in URI"),
    }
}

/// Parses a size: decimal with an optional suffix k, m or g, powers of 1024.
///
/// ```
/// assert_eq!(harrier_protocol::uri::parse_size("64k"), Some(65536));
/// assert_eq!(harrier_protocol::uri::parse_size("64kb"), None);
/// ```
pub fn parse_size(text: &str) -> Option<i64> {
    let (digits, shift) = match text.as_bytes().last()? {
        b'k' | b'K' => (&text[..text.len() - 1], 10),
        b'm' | b'M' => (&text[..text.len() - 1], 20),
        b'g' | b'G' => (&text[..text.len() - 1], 30),
        _ => (text, 0),
    };
    decimal(digits)?.checked_mul(1 << shift)
}

/// Parses a duration: decimal with an optional suffix ns, us, ms or s; nanoseconds without one.
///
/// ```
/// assert_eq!(harrier_protocol::uri::parse_duration_ns("5s"), Some(5_000_000_000));
/// assert_eq!(harrier_protocol::uri::parse_duration_ns("7"), Some(7));
/// ```
pub fn parse_duration_ns(text: &str) -> Option<i64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "ns" => 1,
        "us" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        _ => return None,
    };
    decimal(digits)?.checked_mul(unit)
}

fn decimal(digits: &str) -> Option<i64> {
    let is_decimal = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if is_decimal { digits.parse().ok() } else { None }
}

/// `control-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ControlMode {
    /// Destinations are added by hand.
    Manual,
    /// Receivers announce themselves.
    Dynamic,
    /// A response channel.
    Response,
}

/// `session-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionId {
    /// The session id is fixed.
    Fixed(i32),
    /// The session id is that of the publication with this entity tag.
    Tag(i64),
}

/// `group`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// `true`.
    Yes,
    /// Anything but `true` and `infer`.
    No,
    /// `infer`, or absent.
    Infer,
}

/// `tags`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    /// Tag of the channel.
    pub channel: i64,
    /// Tag of the publication or subscription.
    pub entity: Option<i64>,
}

/// `response-correlation-id`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseCorrelation {
    /// Correlation id of an image, or registration id of a subscription; -1 means none.
    Id(i64),
    /// `prototype`.
    Prototype,
}

/// `channel-rcv-ts-offset` and similar parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimestampOffset {
    /// Offset in the payload.
    Payload(i32),
    /// The reserved value of the header.
    ReservedValue,
}

impl TimestampOffset {
    /// Offset relative to the payload; -8 means the reserved value.
    pub fn value(self) -> i32 {
        match self {
            Self::Payload(offset) => offset,
            Self::ReservedValue => RESERVED_VALUE_OFFSET,
        }
    }
}

/// `init-term-id`, `term-id` and `term-offset`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InitialPosition {
    /// First term of the stream.
    pub initial_term_id: i32,
    /// Term at which the publication starts.
    pub term_id: i32,
    /// Offset in that term.
    pub term_offset: i32,
}

/// `host:port`; the host is a name, an IPv4 address, or an IPv6 address that stood in brackets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Endpoint<'a> {
    /// Name or address, without brackets.
    pub host: &'a str,
    /// The host stood in brackets.
    pub is_ipv6: bool,
    /// Port; 0 lets the driver choose.
    pub port: u16,
}

impl<'a> Endpoint<'a> {
    /// Parses `host:port` or `[v6]:port`; the port is mandatory (spec 02 §3.14).
    pub fn parse(text: &'a str) -> Option<Self> {
        let (host, port) = text.rsplit_once(':')?;
        let bracketed = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
        let is_ipv6 = bracketed.is_some();
        let host = bracketed.unwrap_or(host);
        let has_port = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        if host.is_empty() || !has_port || (!is_ipv6 && host.contains([':', '[', ']'])) {
            return None;
        }
        Some(Self { host, is_ipv6, port: port.parse().ok()? })
    }
}

impl ChannelUri {
    fn value<T>(
        &self,
        key: &'static str,
        rule: &'static str,
        parse: impl FnOnce(&str) -> Option<T>,
    ) -> Result<Option<T>, UriError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let error = || UriError::Value { key, value: text.to_owned(), rule };
        parse(text).map(Some).ok_or_else(error)
    }

    fn size_in(
        &self,
        key: &'static str,
        rule: &'static str,
        range: impl std::ops::RangeBounds<i32>,
    ) -> Result<Option<i32>, UriError> {
        self.value(key, rule, |text| {
            parse_size(text).and_then(|size| i32::try_from(size).ok()).filter(|size| range.contains(size))
        })
    }

    /// Returns a parameter that is a size.
    pub fn size(&self, key: &'static str) -> Result<Option<i32>, UriError> {
        self.size_in(key, "a size below 2 GiB, optionally with k, m or g", 0..)
    }

    /// Returns a parameter that is a duration.
    pub fn duration_ns(&self, key: &'static str) -> Result<Option<i64>, UriError> {
        self.value(key, "a duration, optionally with ns, us, ms or s", parse_duration_ns)
    }

    /// Returns a parameter that is an i32.
    pub fn int(&self, key: &'static str) -> Result<Option<i32>, UriError> {
        self.value(key, "a 32-bit integer", |text| text.parse().ok())
    }

    /// Returns a parameter that is an i64.
    pub fn long(&self, key: &'static str) -> Result<Option<i64>, UriError> {
        self.value(key, "a 64-bit integer", |text| text.parse().ok())
    }

    /// Returns a parameter that is a boolean: exactly `true` is true, anything else is false (spec 01 §6.2).
    pub fn boolean(&self, key: &str) -> Option<bool> {
        self.get(key).map(|text| text == "true")
    }

    /// `endpoint`.
    pub fn endpoint(&self) -> Result<Option<Endpoint<'_>>, UriError> {
        self.address(key::ENDPOINT)
    }

    /// `control`.
    pub fn control(&self) -> Result<Option<Endpoint<'_>>, UriError> {
        self.address(key::CONTROL)
    }

    fn address(&self, key: &'static str) -> Result<Option<Endpoint<'_>>, UriError> {
        let Some(text) = self.get(key) else { return Ok(None) };
        let rule = "host:port or [v6-address]:port";
        Endpoint::parse(text).map(Some).ok_or_else(|| UriError::Value { key, value: text.to_owned(), rule })
    }

    /// `control-mode`; other words are ignored (spec 01 §6.3).
    pub fn control_mode(&self) -> Option<ControlMode> {
        match self.get(key::CONTROL_MODE)? {
            "manual" => Some(ControlMode::Manual),
            "dynamic" => Some(ControlMode::Dynamic),
            "response" => Some(ControlMode::Response),
            _ => None,
        }
    }

    /// `session-id`.
    pub fn session_id(&self) -> Result<Option<SessionId>, UriError> {
        self.value(key::SESSION_ID, "a 32-bit integer or tag:<entity tag>", |text| {
            match text.strip_prefix("tag:") {
                Some(tag) => tag.parse().ok().map(SessionId::Tag),
                None => text.parse().ok().map(SessionId::Fixed),
            }
        })
    }

    /// `stream-id`.
    pub fn stream_id(&self) -> Result<Option<i32>, UriError> {
        self.int(key::STREAM_ID)
    }

    /// `term-length`.
    pub fn term_length(&self) -> Result<Option<i32>, UriError> {
        self.value(key::TERM_LENGTH, "a power of two from 64k to 1g", |text| {
            let length = i32::try_from(parse_size(text)?).ok()?;
            let is_valid = (MIN_TERM_LENGTH..=MAX_TERM_LENGTH).contains(&length) && length.count_ones() == 1;
            is_valid.then_some(length)
        })
    }

    /// `mtu`.
    pub fn mtu(&self) -> Result<Option<i32>, UriError> {
        self.value(key::MTU, "a multiple of 32 from 64 to 65504", |text| {
            let length = i32::try_from(parse_size(text)?).ok()?;
            let is_valid = (MIN_MTU_EXCLUSIVE + 1..=MAX_MTU_LENGTH).contains(&length);
            (is_valid && length % FRAME_ALIGNMENT == 0).then_some(length)
        })
    }

    /// `pub-wnd`.
    pub fn publication_window(&self) -> Result<Option<i32>, UriError> {
        self.size(key::PUBLICATION_WINDOW)
    }

    /// `rcv-wnd`.
    pub fn receiver_window(&self) -> Result<Option<i32>, UriError> {
        self.size(key::RECEIVER_WINDOW)
    }

    /// `so-sndbuf`.
    pub fn socket_sndbuf(&self) -> Result<Option<i32>, UriError> {
        self.size(key::SOCKET_SNDBUF)
    }

    /// `so-rcvbuf`.
    pub fn socket_rcvbuf(&self) -> Result<Option<i32>, UriError> {
        self.size(key::SOCKET_RCVBUF)
    }

    /// `init-term-id`, `term-id` and `term-offset`: all three or none.
    pub fn initial_position(&self) -> Result<Option<InitialPosition>, UriError> {
        let initial = self.int(key::INITIAL_TERM_ID)?;
        let term = self.int(key::TERM_ID)?;
        let offset = self.value(key::TERM_OFFSET, "a multiple of 32 from 0 to 1 GiB", |text| {
            let offset = i32::try_from(parse_size(text)?).ok()?;
            ((0..=MAX_TERM_LENGTH).contains(&offset) && offset % FRAME_ALIGNMENT == 0).then_some(offset)
        })?;
        let combination = |rule: String| Err(UriError::Combination { channel: self.to_string(), rule });
        match (initial, term, offset) {
            (None, None, None) => Ok(None),
            (Some(initial_term_id), Some(term_id), Some(term_offset)) => {
                if term_id.wrapping_sub(initial_term_id) < 0 {
                    return combination(format!(
                        "Param difference greater than 2^31 - 1: init-term-id={initial_term_id} when \
                         term-id={term_id}"
                    ));
                }
                if let Some(length) = self.term_length()?.filter(|length| term_offset > *length) {
                    return combination(format!("Param term-offset={term_offset} > term-length={length}"));
                }
                Ok(Some(InitialPosition { initial_term_id, term_id, term_offset }))
            }
            _ => {
                let rule = "params: init-term-id term-id term-offset must be used as a complete set";
                combination(rule.into())
            }
        }
    }

    /// `linger`.
    pub fn linger_ns(&self) -> Result<Option<i64>, UriError> {
        self.duration_ns(key::LINGER)
    }

    /// `nak-delay`.
    pub fn nak_delay_ns(&self) -> Result<Option<i64>, UriError> {
        self.duration_ns(key::NAK_DELAY)
    }

    /// `max-resend`.
    pub fn max_resend(&self) -> Result<Option<i32>, UriError> {
        self.value(key::MAX_RESEND, "from 1 to 256", |text| {
            text.parse().ok().filter(|count| (1..=MAX_RESEND).contains(count))
        })
    }

    /// `ttl`.
    pub fn ttl(&self) -> Result<Option<u8>, UriError> {
        self.value(key::TTL, "from 0 to 255", |text| text.parse().ok())
    }

    /// `tags`.
    pub fn tags(&self) -> Result<Option<Tags>, UriError> {
        self.value(key::TAGS, "<channel tag>[,<entity tag>], integers but -1", |text| {
            let tag = |text: &str| text.parse().ok().filter(|tag| *tag != NULL_TAG);
            match text.split_once(',') {
                Some((channel, entity)) => Some(Tags { channel: tag(channel)?, entity: Some(tag(entity)?) }),
                None => Some(Tags { channel: tag(text)?, entity: None }),
            }
        })
    }

    /// `gtag`.
    pub fn group_tag(&self) -> Result<Option<i64>, UriError> {
        self.long(key::GROUP_TAG)
    }

    /// `group`.
    pub fn group(&self) -> Group {
        match self.get(key::GROUP) {
            None | Some("infer") => Group::Infer,
            Some("true") => Group::Yes,
            Some(_) => Group::No,
        }
    }

    /// `response-correlation-id`; -1 means that there is none.
    pub fn response_correlation(&self) -> Result<Option<ResponseCorrelation>, UriError> {
        match self.get(key::RESPONSE_CORRELATION_ID) {
            None => Ok(None),
            Some("prototype") => Ok(Some(ResponseCorrelation::Prototype)),
            Some(text) => match text.parse() {
                Ok(-1) => Ok(None),
                Ok(id) if id >= 0 => Ok(Some(ResponseCorrelation::Id(id))),
                _ => Err(UriError::ResponseCorrelation),
            },
        }
    }

    /// One of the timestamp offsets.
    pub fn timestamp_offset(&self, key: &'static str) -> Result<Option<TimestampOffset>, UriError> {
        self.value(key, "an offset in the payload or reserved", |text| match text {
            "reserved" => Some(TimestampOffset::ReservedValue),
            _ => text.parse().ok().filter(|offset| *offset >= 0).map(TimestampOffset::Payload),
        })
    }
}
