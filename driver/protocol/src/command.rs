//! Commands of clients to the driver: records of the to-driver ring (spec 01 §4.1–4.3).

use thiserror::Error;

use crate::ErrorCode;
use crate::wire::{WireError, WireReader, WireWriter};

/// Type ids of the to-driver records (spec 01 §4.1).
pub mod type_id {
    /// Adds a publication with many writers.
    pub const ADD_PUBLICATION: i32 = 0x01;
    /// Removes a publication.
    pub const REMOVE_PUBLICATION: i32 = 0x02;
    /// Adds a publication with one writer.
    pub const ADD_EXCLUSIVE_PUBLICATION: i32 = 0x03;
    /// Adds a subscription.
    pub const ADD_SUBSCRIPTION: i32 = 0x04;
    /// Removes a subscription.
    pub const REMOVE_SUBSCRIPTION: i32 = 0x05;
    /// Sets the client's heartbeat counter; only old clients send it.
    pub const CLIENT_KEEPALIVE: i32 = 0x06;
    /// Adds a destination to a publication.
    pub const ADD_DESTINATION: i32 = 0x07;
    /// Removes a destination of a publication by its channel.
    pub const REMOVE_DESTINATION: i32 = 0x08;
    /// Adds a counter that the client owns.
    pub const ADD_COUNTER: i32 = 0x09;
    /// Removes a counter of the client.
    pub const REMOVE_COUNTER: i32 = 0x0A;
    /// Ends the client.
    pub const CLIENT_CLOSE: i32 = 0x0B;
    /// Adds a destination to a subscription.
    pub const ADD_RCV_DESTINATION: i32 = 0x0C;
    /// Removes a destination of a subscription.
    pub const REMOVE_RCV_DESTINATION: i32 = 0x0D;
    /// Asks the driver to end.
    pub const TERMINATE_DRIVER: i32 = 0x0E;
    /// Adds a counter that outlives its client, or finds it.
    pub const ADD_STATIC_COUNTER: i32 = 0x0F;
    /// Rejects an image.
    pub const REJECT_IMAGE: i32 = 0x10;
    /// Removes a destination of a publication by its registration id.
    pub const REMOVE_DESTINATION_BY_ID: i32 = 0x11;
    /// Asks for a session id that no publication of a stream has.
    pub const GET_NEXT_AVAILABLE_SESSION_ID: i32 = 0x12;
}

/// Longest reason of a rejected image in bytes (spec 01 §4.3): it must fit a network error frame.
pub const MAX_REJECT_REASON_LENGTH: usize = 1023;

/// Flag of [`Request::RemovePublication`]: revoke the publication.
pub const REMOVE_FLAG_REVOKE: i64 = 1;

/// Shortest body of REJECT_IMAGE that the C driver accepts, bytes (spec 01 §4.3).
const REJECT_MIN_LENGTH: usize = 40;

/// Reason why a command could not be decoded. [`CommandError::code`] and [`CommandError::correlation_id`] make the
/// reply.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CommandError {
    /// No command has this type id.
    #[error("unknown command type id {type_id:#x}")]
    UnknownType {
        /// Type id of the record.
        type_id: i32,
        /// Correlation id of the command; 0 when the body is too short to have one.
        correlation_id: i64,
    },
    /// A field lies outside the body or is out of range.
    #[error("malformed command {type_id:#x} of {length} bytes: {reason}")]
    Malformed {
        /// Type id of the record.
        type_id: i32,
        /// Length of the body, bytes.
        length: usize,
        /// Correlation id of the command; 0 when the body is too short to have one.
        correlation_id: i64,
        /// Fault of the body.
        reason: Malformation,
    },
    /// The caller's buffer is too small to encode into.
    #[error("{required} bytes needed to encode the command; use a larger buffer")]
    BufferTooSmall {
        /// Length that is needed, bytes.
        required: usize,
    },
}

/// Fault of a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Malformation {
    /// The body ends before a field.
    #[error("at least {required} bytes required")]
    Short {
        /// Length that the field needs, bytes.
        required: usize,
    },
    /// A length field is negative.
    #[error("negative length at offset {offset}")]
    NegativeLength {
        /// Offset of the length field.
        offset: usize,
    },
    /// A text is not UTF-8.
    #[error("text at offset {offset} is not UTF-8")]
    Text {
        /// Offset of the text.
        offset: usize,
    },
    /// The value of a field is not defined.
    #[error("undefined value {value} at offset {offset}")]
    Value {
        /// Offset of the field.
        offset: usize,
        /// Its value.
        value: i64,
    },
}

impl From<WireError> for Malformation {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Short { required } => Self::Short { required },
            WireError::NegativeLength { offset } => Self::NegativeLength { offset },
            WireError::Text { offset } => Self::Text { offset },
        }
    }
}

impl CommandError {
    /// Error code of the reply (spec 01 §4.3 notes).
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::UnknownType { .. } => ErrorCode::UnknownCommandTypeId,
            Self::Malformed { .. } => ErrorCode::MalformedCommand,
            Self::BufferTooSmall { .. } => ErrorCode::GenericError,
        }
    }

    /// Correlation id of the reply; 0 when the command was too short to hold one.
    pub fn correlation_id(&self) -> i64 {
        match self {
            Self::UnknownType { correlation_id, .. } | Self::Malformed { correlation_id, .. } => {
                *correlation_id
            }
            Self::BufferTooSmall { .. } => 0,
        }
    }
}

/// A command: the prefix that all commands share (spec 01 §4.2), and the request.
///
/// ```
/// use harrier_protocol::command::{Command, Request};
///
/// let command = Command { client_id: 17, correlation_id: 100,
///     request: Request::AddSubscription { registration_correlation_id: -1, stream_id: 10, channel: "aeron:ipc" } };
/// let mut buffer = [0; 128];
/// let length = command.encode(&mut buffer).unwrap();
/// assert_eq!(Command::decode(command.type_id(), &buffer[..length]).unwrap(), command);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Command<'a> {
    /// The client that asks.
    pub client_id: i64,
    /// Comes back in the reply; becomes the registration id of what is added.
    pub correlation_id: i64,
    /// What is asked.
    pub request: Request<'a>,
}

/// Request of a command (spec 01 §4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request<'a> {
    /// Add a publication with many writers.
    AddPublication {
        /// Stream id.
        stream_id: i32,
        /// Channel URI.
        channel: &'a str,
    },
    /// Add a publication with one writer.
    AddExclusivePublication {
        /// Stream id.
        stream_id: i32,
        /// Channel URI.
        channel: &'a str,
    },
    /// Remove a publication.
    RemovePublication {
        /// Registration id of the publication.
        registration_id: i64,
        /// Bit 0 revokes the publication: it ends without being drained.
        flags: i64,
    },
    /// Add a subscription.
    AddSubscription {
        /// Always -1.
        registration_correlation_id: i64,
        /// Stream id.
        stream_id: i32,
        /// Channel URI.
        channel: &'a str,
    },
    /// Remove a subscription.
    RemoveSubscription {
        /// Registration id of the subscription.
        registration_id: i64,
    },
    /// Set the client's heartbeat counter; only old clients send it.
    ClientKeepalive,
    /// Add a destination to a publication.
    AddDestination {
        /// Registration id of the publication's first creator.
        registration_id: i64,
        /// Channel URI.
        channel: &'a str,
    },
    /// Remove a destination of a publication by its channel.
    RemoveDestination {
        /// Registration id of the publication's first creator.
        registration_id: i64,
        /// Channel URI.
        channel: &'a str,
    },
    /// Add a destination to a subscription.
    AddRcvDestination {
        /// Registration id of the subscription.
        registration_id: i64,
        /// Channel URI.
        channel: &'a str,
    },
    /// Remove a destination of a subscription.
    RemoveRcvDestination {
        /// Registration id of the subscription.
        registration_id: i64,
        /// Channel URI.
        channel: &'a str,
    },
    /// Remove a destination of a publication by its registration id.
    RemoveDestinationById {
        /// Registration id of the publication's first creator.
        registration_id: i64,
        /// Registration id of the destination: the correlation id of its add command.
        destination_registration_id: i64,
    },
    /// Add a counter that the client owns.
    AddCounter {
        /// Type id of the counter.
        type_id: i32,
        /// Key bytes.
        key: &'a [u8],
        /// Label.
        label: &'a str,
    },
    /// Remove a counter of the client.
    RemoveCounter {
        /// Registration id of the counter.
        registration_id: i64,
    },
    /// Add a counter that outlives its client, or find it.
    AddStaticCounter {
        /// Registration id that the client chooses.
        registration_id: i64,
        /// Type id of the counter.
        type_id: i32,
        /// Key bytes.
        key: &'a [u8],
        /// Label.
        label: &'a str,
    },
    /// Reject an image: its source is told the reason, and the image ends.
    RejectImage {
        /// Correlation id of the image.
        image_correlation_id: i64,
        /// Position at which the client rejects, bytes.
        position: i64,
        /// Reason, at most 1,023 bytes.
        reason: &'a str,
    },
    /// End the client.
    ClientClose,
    /// Ask the driver to end.
    TerminateDriver {
        /// Token that the driver's termination validator judges.
        token: &'a [u8],
    },
    /// Ask for a session id that no publication of the stream has.
    GetNextAvailableSessionId {
        /// Stream id.
        stream_id: i32,
    },
}

impl<'a> Command<'a> {
    /// Decodes the body of a to-driver record. Bodies longer than needed are accepted (spec 01 §4.3 notes).
    pub fn decode(type_id: i32, body: &'a [u8]) -> Result<Self, CommandError> {
        let correlation_id =
            body.get(8..16).map_or(0, |bytes| i64::from_le_bytes(bytes.try_into().expect("eight bytes")));
        if !(type_id::ADD_PUBLICATION..=type_id::GET_NEXT_AVAILABLE_SESSION_ID).contains(&type_id) {
            return Err(CommandError::UnknownType { type_id, correlation_id });
        }
        Self::decode_known(type_id, body).map_err(|error| CommandError::Malformed {
            type_id,
            length: body.len(),
            correlation_id,
            reason: error.into(),
        })
    }

    fn decode_known(type_id: i32, body: &'a [u8]) -> Result<Self, WireError> {
        let mut fields = WireReader::new(body);
        let client_id = fields.i64()?;
        let correlation_id = fields.i64()?;
        let request = Request::decode(type_id, &mut fields)?;
        Ok(Self { client_id, correlation_id, request })
    }

    /// Type id of the record (spec 01 §4.1).
    pub fn type_id(&self) -> i32 {
        self.request.type_id()
    }

    /// Writes the body of the record; returns its length.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, CommandError> {
        let mut fields = WireWriter::new(buffer);
        fields.i64(self.client_id).i64(self.correlation_id);
        self.request.encode(&mut fields);
        fields.finish().map_err(|required| CommandError::BufferTooSmall { required })
    }

    /// Length of the encoded body, bytes.
    pub fn encoded_length(&self) -> usize {
        let mut fields = WireWriter::new(&mut []);
        fields.i64(0).i64(0);
        self.request.encode(&mut fields);
        fields.finish().unwrap_or_else(|required| required)
    }
}

impl<'a> Request<'a> {
    fn type_id(&self) -> i32 {
        match self {
            Self::AddPublication { .. } => type_id::ADD_PUBLICATION,
            Self::AddExclusivePublication { .. } => type_id::ADD_EXCLUSIVE_PUBLICATION,
            Self::RemovePublication { .. } => type_id::REMOVE_PUBLICATION,
            Self::AddSubscription { .. } => type_id::ADD_SUBSCRIPTION,
            Self::RemoveSubscription { .. } => type_id::REMOVE_SUBSCRIPTION,
            Self::ClientKeepalive => type_id::CLIENT_KEEPALIVE,
            Self::AddDestination { .. } => type_id::ADD_DESTINATION,
            Self::RemoveDestination { .. } => type_id::REMOVE_DESTINATION,
            Self::AddRcvDestination { .. } => type_id::ADD_RCV_DESTINATION,
            Self::RemoveRcvDestination { .. } => type_id::REMOVE_RCV_DESTINATION,
            Self::RemoveDestinationById { .. } => type_id::REMOVE_DESTINATION_BY_ID,
            Self::AddCounter { .. } => type_id::ADD_COUNTER,
            Self::RemoveCounter { .. } => type_id::REMOVE_COUNTER,
            Self::AddStaticCounter { .. } => type_id::ADD_STATIC_COUNTER,
            Self::RejectImage { .. } => type_id::REJECT_IMAGE,
            Self::ClientClose => type_id::CLIENT_CLOSE,
            Self::TerminateDriver { .. } => type_id::TERMINATE_DRIVER,
            Self::GetNextAvailableSessionId { .. } => type_id::GET_NEXT_AVAILABLE_SESSION_ID,
        }
    }

    fn decode(type_id: i32, fields: &mut WireReader<'a>) -> Result<Self, WireError> {
        Ok(match type_id {
            type_id::ADD_PUBLICATION => {
                Self::AddPublication { stream_id: fields.i32()?, channel: fields.text()? }
            }
            type_id::ADD_EXCLUSIVE_PUBLICATION => {
                Self::AddExclusivePublication { stream_id: fields.i32()?, channel: fields.text()? }
            }
            type_id::REMOVE_PUBLICATION => Self::RemovePublication {
                registration_id: fields.i64()?,
                // Clients that do not know the revoke flag send 24 bytes.
                flags: if fields.is_at_end() { 0 } else { fields.i64()? },
            },
            type_id::ADD_SUBSCRIPTION => Self::AddSubscription {
                registration_correlation_id: fields.i64()?,
                stream_id: fields.i32()?,
                channel: fields.text()?,
            },
            type_id::REMOVE_SUBSCRIPTION => Self::RemoveSubscription { registration_id: fields.i64()? },
            type_id::CLIENT_KEEPALIVE => Self::ClientKeepalive,
            type_id::ADD_DESTINATION => {
                Self::AddDestination { registration_id: fields.i64()?, channel: fields.text()? }
            }
            type_id::REMOVE_DESTINATION => {
                Self::RemoveDestination { registration_id: fields.i64()?, channel: fields.text()? }
            }
            type_id::ADD_RCV_DESTINATION => {
                Self::AddRcvDestination { registration_id: fields.i64()?, channel: fields.text()? }
            }
            type_id::REMOVE_RCV_DESTINATION => {
                Self::RemoveRcvDestination { registration_id: fields.i64()?, channel: fields.text()? }
            }
            type_id::REMOVE_DESTINATION_BY_ID => Self::RemoveDestinationById {
                registration_id: fields.i64()?,
                destination_registration_id: fields.i64()?,
            },
            type_id::ADD_COUNTER => {
                let type_id = fields.i32()?;
                let (key, label) = decode_key_and_label(fields)?;
                Self::AddCounter { type_id, key, label }
            }
            type_id::REMOVE_COUNTER => Self::RemoveCounter { registration_id: fields.i64()? },
            type_id::ADD_STATIC_COUNTER => {
                let registration_id = fields.i64()?;
                let type_id = fields.i32()?;
                let (key, label) = decode_key_and_label(fields)?;
                Self::AddStaticCounter { registration_id, type_id, key, label }
            }
            type_id::REJECT_IMAGE => Self::RejectImage {
                image_correlation_id: fields.i64()?,
                position: fields.i64()?,
                reason: fields.text()?,
            },
            type_id::CLIENT_CLOSE => Self::ClientClose,
            type_id::TERMINATE_DRIVER => Self::TerminateDriver { token: fields.bytes()? },
            _ => Self::GetNextAvailableSessionId { stream_id: fields.i32()? },
        })
    }

    fn encode(&self, fields: &mut WireWriter<'_>) {
        match *self {
            Self::AddPublication { stream_id, channel }
            | Self::AddExclusivePublication { stream_id, channel } => {
                fields.i32(stream_id).bytes(channel.as_bytes());
            }
            Self::RemovePublication { registration_id, flags } => {
                fields.i64(registration_id).i64(flags);
            }
            Self::AddSubscription { registration_correlation_id, stream_id, channel } => {
                fields.i64(registration_correlation_id).i32(stream_id).bytes(channel.as_bytes());
            }
            Self::RemoveSubscription { registration_id } | Self::RemoveCounter { registration_id } => {
                fields.i64(registration_id);
            }
            Self::ClientKeepalive | Self::ClientClose => {}
            Self::AddDestination { registration_id, channel }
            | Self::RemoveDestination { registration_id, channel }
            | Self::AddRcvDestination { registration_id, channel }
            | Self::RemoveRcvDestination { registration_id, channel } => {
                fields.i64(registration_id).bytes(channel.as_bytes());
            }
            Self::RemoveDestinationById { registration_id, destination_registration_id } => {
                fields.i64(registration_id).i64(destination_registration_id);
            }
            Self::AddCounter { type_id, key, label } => {
                fields.i32(type_id).bytes(key).align_4().bytes(label.as_bytes());
            }
            Self::AddStaticCounter { registration_id, type_id, key, label } => {
                fields.i64(registration_id).i32(type_id).bytes(key).align_4().bytes(label.as_bytes());
            }
            Self::RejectImage { image_correlation_id, position, reason } => {
                fields.i64(image_correlation_id).i64(position).bytes(reason.as_bytes());
                fields.zero_until(REJECT_MIN_LENGTH);
            }
            Self::TerminateDriver { token } => {
                fields.bytes(token);
            }
            Self::GetNextAvailableSessionId { stream_id } => {
                fields.i32(stream_id);
            }
        }
    }
}

fn decode_key_and_label<'a>(fields: &mut WireReader<'a>) -> Result<(&'a [u8], &'a str), WireError> {
    let key = fields.bytes()?;
    fields.align_4();
    Ok((key, fields.text()?))
}
