//! Answers of the archive (spec 03 §2.3).

use harrier_protocol::sbe::{Decoder, Encoder, SbeError};

use super::{SCHEMA_ID, header};
use crate::descriptor::{self, RecordingDescriptor};

/// Outcome of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlCode {
    /// Success.
    Ok,
    /// Refused; the relevant id is an error code.
    Error,
    /// Unknown recording.
    RecordingUnknown,
    /// Unknown recording subscription.
    SubscriptionUnknown,
}

impl ControlCode {
    fn from_wire(value: i32) -> Result<Self, SbeError> {
        [Self::Ok, Self::Error, Self::RecordingUnknown, Self::SubscriptionUnknown]
            .get(usize::try_from(value).unwrap_or(usize::MAX))
            .copied()
            .ok_or(SbeError::Enumeration { field: "response code", value })
    }
}

/// Signals about a recording (spec 03 §2.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// A recording was started.
    Start = 0,
    /// A recording was stopped.
    Stop,
    /// A recording is being extended.
    Extend,
    /// A replication has created its recording.
    Replicate,
    /// A replication has merged with the live stream.
    Merge,
    /// A replication has reached the stop position of its source.
    Sync,
    /// Segments or a recording were deleted.
    Delete,
    /// A replication has ended.
    ReplicateEnd,
}

impl Signal {
    fn from_wire(value: i32) -> Result<Self, SbeError> {
        [
            Self::Start,
            Self::Stop,
            Self::Extend,
            Self::Replicate,
            Self::Merge,
            Self::Sync,
            Self::Delete,
            Self::ReplicateEnd,
        ]
        .get(usize::try_from(value).unwrap_or(usize::MAX))
        .copied()
        .ok_or(SbeError::Enumeration { field: "recording signal", value })
    }
}

/// An answer (spec 03 §2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response<'a> {
    /// Outcome of a request, message 1.
    Control {
        /// Control session of the client.
        control_session_id: i64,
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Id that the request asked for or made; its meaning depends on the request (spec 03 §2.8).
        relevant_id: i64,
        /// Outcome.
        code: ControlCode,
        /// Protocol version of the sender, as a packed semantic version.
        version: i32,
        /// Text of the error; empty without one.
        message: &'a str,
    },
    /// A recording of a listing, message 22. The first two ids belong to the answer, not to the recording.
    Descriptor {
        /// Control session of the client.
        control_session_id: i64,
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Descriptor of the recording.
        descriptor: Box<RecordingDescriptor>,
    },
    /// A recording subscription of a listing, message 23.
    SubscriptionDescriptor {
        /// Control session of the client.
        control_session_id: i64,
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Registration id of the recording's subscription.
        subscription_id: i64,
        /// Stream id.
        stream_id: i32,
        /// Channel of the subscription, without parameters that do not name it.
        channel: &'a str,
    },
    /// Something has happened to a recording, message 24.
    Signal {
        /// Control session of the client.
        control_session_id: i64,
        /// Correlation id of the request that the signal belongs to.
        correlation_id: i64,
        /// Recording id.
        recording_id: i64,
        /// Registration id of the recording's subscription; -1 for none.
        subscription_id: i64,
        /// Position of the recording at that moment, bytes.
        position: i64,
        /// Kind of signal.
        signal: Signal,
    },
    /// The client must answer a challenge, message 59.
    Challenge {
        /// Control session of the client.
        control_session_id: i64,
        /// Correlation id of the request; the answer repeats it.
        correlation_id: i64,
        /// Protocol version of the sender, as a packed semantic version.
        version: i32,
        /// Encoded challenge.
        challenge: &'a [u8],
    },
    /// The archive checks that the client lives, message 106.
    Ping {
        /// Control session of the client.
        control_session_id: i64,
    },
}

impl<'a> Response<'a> {
    /// Decodes an answer; `None` for other templates.
    ///
    /// # Errors
    /// A message of another schema, a truncated one, or a value outside its enumeration.
    pub fn decode(message: &'a [u8]) -> Result<Option<Self>, SbeError> {
        let mut m = Decoder::message(message)?;
        m.header().expect_schema(SCHEMA_ID)?;
        let b = m.block();
        let (control_session_id, correlation_id) = (b.i64(0, 0), b.i64(8, 0));
        Ok(Some(match m.header().template_id {
            1 => Self::Control {
                control_session_id,
                correlation_id,
                relevant_id: b.i64(16, 0),
                code: ControlCode::from_wire(b.i32(24, 0))?,
                version: b.version(28, 4),
                message: m.text("error message", 0)?,
            },
            22 => Self::Descriptor {
                control_session_id,
                correlation_id,
                descriptor: Box::new(RecordingDescriptor::from_message(&mut m)?),
            },
            23 => Self::SubscriptionDescriptor {
                control_session_id,
                correlation_id,
                subscription_id: b.i64(16, 0),
                stream_id: b.i32(24, 0),
                channel: m.text("channel", 0)?,
            },
            24 => Self::Signal {
                control_session_id,
                correlation_id,
                recording_id: b.i64(16, 0),
                subscription_id: b.i64(24, 0),
                position: b.i64(32, 0),
                signal: Signal::from_wire(b.i32(40, 0))?,
            },
            59 => Self::Challenge {
                control_session_id,
                correlation_id,
                version: b.version(16, 0),
                challenge: m.bytes("challenge", 0)?,
            },
            106 => Self::Ping { control_session_id },
            _ => return Ok(None),
        }))
    }

    /// Writes the message; returns its length.
    ///
    /// # Errors
    /// A buffer that is too small.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, SbeError> {
        match self {
            Self::Control { control_session_id, correlation_id, relevant_id, code, version, message } => {
                Encoder::new(buffer, header(1, 32))
                    .i64(0, *control_session_id)
                    .i64(8, *correlation_id)
                    .i64(16, *relevant_id)
                    .i32(24, *code as i32)
                    .i32(28, *version)
                    .text(message)
                    .finish()
            }
            Self::Descriptor { control_session_id, correlation_id, descriptor } => {
                descriptor::encode_message(buffer, *control_session_id, *correlation_id, descriptor)
            }
            Self::SubscriptionDescriptor {
                control_session_id,
                correlation_id,
                subscription_id,
                stream_id,
                channel,
            } => Encoder::new(buffer, header(23, 28))
                .i64(0, *control_session_id)
                .i64(8, *correlation_id)
                .i64(16, *subscription_id)
                .i32(24, *stream_id)
                .text(channel)
                .finish(),
            Self::Signal {
                control_session_id,
                correlation_id,
                recording_id,
                subscription_id,
                position,
                signal,
            } => Encoder::new(buffer, header(24, 44))
                .i64(0, *control_session_id)
                .i64(8, *correlation_id)
                .i64(16, *recording_id)
                .i64(24, *subscription_id)
                .i64(32, *position)
                .i32(40, *signal as i32)
                .finish(),
            Self::Challenge { control_session_id, correlation_id, version, challenge } => {
                Encoder::new(buffer, header(59, 20))
                    .i64(0, *control_session_id)
                    .i64(8, *correlation_id)
                    .i32(16, *version)
                    .bytes(challenge)
                    .finish()
            }
            Self::Ping { control_session_id } => {
                Encoder::new(buffer, header(106, 8)).i64(0, *control_session_id).finish()
            }
        }
    }
}
