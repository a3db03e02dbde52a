//! Events of the driver to its clients: records of the to-clients broadcast (spec 01 §4.4).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use thiserror::Error;

use crate::command::Malformation;
use crate::wire::{WireError, WireReader, WireWriter};

/// Type ids of the to-clients records (spec 01 §4.1).
pub mod type_id {
    /// A command has failed.
    pub const ON_ERROR: i32 = 0x0F01;
    /// A subscription has an image.
    pub const ON_AVAILABLE_IMAGE: i32 = 0x0F02;
    /// A publication with many writers was added.
    pub const ON_PUBLICATION_READY: i32 = 0x0F03;
    /// A command without a result of its own has succeeded.
    pub const ON_OPERATION_SUCCESS: i32 = 0x0F04;
    /// A subscription has lost an image.
    pub const ON_UNAVAILABLE_IMAGE: i32 = 0x0F05;
    /// A publication with one writer was added.
    pub const ON_EXCLUSIVE_PUBLICATION_READY: i32 = 0x0F06;
    /// A subscription was added.
    pub const ON_SUBSCRIPTION_READY: i32 = 0x0F07;
    /// A counter was added.
    pub const ON_COUNTER_READY: i32 = 0x0F08;
    /// A counter was removed.
    pub const ON_UNAVAILABLE_COUNTER: i32 = 0x0F09;
    /// The driver has given a client up.
    pub const ON_CLIENT_TIMEOUT: i32 = 0x0F0A;
    /// A static counter was added or found.
    pub const ON_STATIC_COUNTER: i32 = 0x0F0B;
    /// A receiver has rejected the image of a publication.
    pub const ON_PUBLICATION_ERROR: i32 = 0x0F0C;
    /// A session id that was asked for.
    pub const ON_NEXT_AVAILABLE_SESSION_ID: i32 = 0x0F0D;
}

const ADDRESS_TYPE_IPV4: i16 = 1;
const ADDRESS_TYPE_IPV6: i16 = 2;
const ADDRESS_TYPE_OFFSET: usize = 40;

/// Why an event could not be decoded or encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum EventError {
    /// No such event; a client ignores it.
    #[error("unknown event type id {type_id:#x}")]
    UnknownType {
        /// The record's type.
        type_id: i32,
    },
    /// A field lies outside the body or is out of range.
    #[error("malformed event {type_id:#x} of {length} bytes: {reason}")]
    Malformed {
        /// The record's type.
        type_id: i32,
        /// Bytes of the body.
        length: usize,
        /// Fault of the body.
        reason: Malformation,
    },
    /// The caller's buffer is too small to encode into.
    #[error("{required} bytes needed to encode the event; use a larger buffer")]
    BufferTooSmall {
        /// Bytes needed.
        required: usize,
    },
}

/// Fields of both publication ready events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PublicationReady<'a> {
    /// Correlation id of the add command.
    pub correlation_id: i64,
    /// Registration id of the publication; another client's correlation id when it is shared.
    pub registration_id: i64,
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Counter with the publisher limit.
    pub publisher_limit_counter_id: i32,
    /// Counter with the channel status; -1 for IPC.
    pub channel_status_counter_id: i32,
    /// The log file.
    pub log_file_name: &'a str,
}

/// An event (spec 01 §4.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// The code stays a number: [`crate::ErrorCode::from_value`] names it.
    Error {
        /// Correlation id of the command that has failed.
        correlation_id: i64,
        /// Error code, see [`crate::ErrorCode`].
        error_code: i32,
        /// Text of the error.
        message: &'a str,
    },
    /// A subscription has an image.
    AvailableImage {
        /// Correlation id of the image.
        correlation_id: i64,
        /// Session id of the image's publication.
        session_id: i32,
        /// Stream id.
        stream_id: i32,
        /// Registration id of the client's subscription.
        subscription_registration_id: i64,
        /// Counter in which the subscriber keeps its position.
        subscriber_position_counter_id: i32,
        /// Path of the log file.
        log_file_name: &'a str,
        /// Address of the source, or `aeron:ipc`.
        source_identity: &'a str,
    },
    /// A publication with many writers was added.
    PublicationReady(PublicationReady<'a>),
    /// A publication with one writer was added.
    ExclusivePublicationReady(PublicationReady<'a>),
    /// A command without a result of its own has succeeded.
    OperationSuccess {
        /// Correlation id of the request; it comes back in the answer.
        correlation_id: i64,
    },
    /// A subscription has lost an image.
    UnavailableImage {
        /// Correlation id of the image.
        correlation_id: i64,
        /// Registration id of the client's subscription.
        subscription_registration_id: i64,
        /// Stream id.
        stream_id: i32,
        /// Channel URI.
        channel: &'a str,
    },
    /// A subscription was added.
    SubscriptionReady {
        /// Correlation id of the request; it comes back in the answer.
        correlation_id: i64,
        /// Counter with the status of the channel; -1 for IPC and spies.
        channel_status_counter_id: i32,
    },
    /// A counter was added, by whichever client.
    CounterReady {
        /// Registration id of the counter: the correlation id of its command.
        correlation_id: i64,
        /// Id of the counter.
        counter_id: i32,
    },
    /// A counter was removed.
    UnavailableCounter {
        /// Registration id of the counter.
        registration_id: i64,
        /// Id of the counter.
        counter_id: i32,
    },
    /// The driver has given a client up.
    ClientTimeout {
        /// Id of the client.
        client_id: i64,
    },
    /// A static counter was added or found.
    StaticCounter {
        /// Correlation id of the request; it comes back in the answer.
        correlation_id: i64,
        /// Id of the counter.
        counter_id: i32,
    },
    /// A receiver has rejected the image of a publication.
    PublicationError {
        /// Registration id of the publication.
        registration_id: i64,
        /// Registration id of the destination that leads to the receiver; -1 for none.
        destination_registration_id: i64,
        /// Session id.
        session_id: i32,
        /// Stream id.
        stream_id: i32,
        /// Id of the receiver; -1 for IPC.
        receiver_id: i64,
        /// Group tag of the receiver; -1 for none.
        group_tag: i64,
        /// Address of the receiver.
        source: SocketAddr,
        /// Error code, see [`crate::ErrorCode`].
        error_code: i32,
        /// Reason of the receiver.
        message: &'a str,
    },
    /// A session id that was asked for.
    NextAvailableSessionId {
        /// Correlation id of the request; it comes back in the answer.
        correlation_id: i64,
        /// Session id that no publication of the stream has.
        session_id: i32,
    },
}

impl<'a> Event<'a> {
    /// Decodes the body of a to-clients record.
    pub fn decode(type_id: i32, body: &'a [u8]) -> Result<Self, EventError> {
        if !(type_id::ON_ERROR..=type_id::ON_NEXT_AVAILABLE_SESSION_ID).contains(&type_id) {
            return Err(EventError::UnknownType { type_id });
        }
        let mut fields = WireReader::new(body);
        Self::decode_known(type_id, &mut fields).map_err(|reason| EventError::Malformed {
            type_id,
            length: body.len(),
            reason,
        })
    }

    fn decode_known(type_id: i32, fields: &mut WireReader<'a>) -> Result<Self, Malformation> {
        Ok(match type_id {
            type_id::ON_ERROR => Self::Error {
                correlation_id: fields.i64()?,
                error_code: fields.i32()?,
                message: fields.text()?,
            },
            type_id::ON_AVAILABLE_IMAGE => {
                let correlation_id = fields.i64()?;
                let session_id = fields.i32()?;
                let stream_id = fields.i32()?;
                let subscription_registration_id = fields.i64()?;
                let subscriber_position_counter_id = fields.i32()?;
                let log_file_name = fields.text()?;
                fields.align_4();
                Self::AvailableImage {
                    correlation_id,
                    session_id,
                    stream_id,
                    subscription_registration_id,
                    subscriber_position_counter_id,
                    log_file_name,
                    source_identity: fields.text()?,
                }
            }
            type_id::ON_PUBLICATION_READY => Self::PublicationReady(PublicationReady::decode(fields)?),
            type_id::ON_EXCLUSIVE_PUBLICATION_READY => {
                Self::ExclusivePublicationReady(PublicationReady::decode(fields)?)
            }
            type_id::ON_OPERATION_SUCCESS => Self::OperationSuccess { correlation_id: fields.i64()? },
            type_id::ON_UNAVAILABLE_IMAGE => Self::UnavailableImage {
                correlation_id: fields.i64()?,
                subscription_registration_id: fields.i64()?,
                stream_id: fields.i32()?,
                channel: fields.text()?,
            },
            type_id::ON_SUBSCRIPTION_READY => Self::SubscriptionReady {
                correlation_id: fields.i64()?,
                channel_status_counter_id: fields.i32()?,
            },
            type_id::ON_COUNTER_READY => {
                Self::CounterReady { correlation_id: fields.i64()?, counter_id: fields.i32()? }
            }
            type_id::ON_UNAVAILABLE_COUNTER => {
                Self::UnavailableCounter { registration_id: fields.i64()?, counter_id: fields.i32()? }
            }
            type_id::ON_CLIENT_TIMEOUT => Self::ClientTimeout { client_id: fields.i64()? },
            type_id::ON_STATIC_COUNTER => {
                Self::StaticCounter { correlation_id: fields.i64()?, counter_id: fields.i32()? }
            }
            type_id::ON_PUBLICATION_ERROR => Self::decode_publication_error(fields)?,
            _ => Self::NextAvailableSessionId { correlation_id: fields.i64()?, session_id: fields.i32()? },
        })
    }

    fn decode_publication_error(fields: &mut WireReader<'a>) -> Result<Self, Malformation> {
        let registration_id = fields.i64()?;
        let destination_registration_id = fields.i64()?;
        let session_id = fields.i32()?;
        let stream_id = fields.i32()?;
        let receiver_id = fields.i64()?;
        let group_tag = fields.i64()?;
        let address_type = i16::from_le_bytes(fields.array()?);
        let port = u16::from_le_bytes(fields.array()?);
        let bytes: [u8; 16] = fields.array()?;
        let address = match address_type {
            ADDRESS_TYPE_IPV4 => IpAddr::V4(Ipv4Addr::new(bytes[0], bytes[1], bytes[2], bytes[3])),
            ADDRESS_TYPE_IPV6 => IpAddr::V6(Ipv6Addr::from(bytes)),
            other => {
                return Err(Malformation::Value { offset: ADDRESS_TYPE_OFFSET, value: i64::from(other) });
            }
        };
        Ok(Self::PublicationError {
            registration_id,
            destination_registration_id,
            session_id,
            stream_id,
            receiver_id,
            group_tag,
            source: SocketAddr::new(address, port),
            error_code: fields.i32()?,
            message: fields.text()?,
        })
    }

    /// Type id of the record (spec 01 §4.1).
    pub fn type_id(&self) -> i32 {
        match self {
            Self::Error { .. } => type_id::ON_ERROR,
            Self::AvailableImage { .. } => type_id::ON_AVAILABLE_IMAGE,
            Self::PublicationReady(_) => type_id::ON_PUBLICATION_READY,
            Self::ExclusivePublicationReady(_) => type_id::ON_EXCLUSIVE_PUBLICATION_READY,
            Self::OperationSuccess { .. } => type_id::ON_OPERATION_SUCCESS,
            Self::UnavailableImage { .. } => type_id::ON_UNAVAILABLE_IMAGE,
            Self::SubscriptionReady { .. } => type_id::ON_SUBSCRIPTION_READY,
            Self::CounterReady { .. } => type_id::ON_COUNTER_READY,
            Self::UnavailableCounter { .. } => type_id::ON_UNAVAILABLE_COUNTER,
            Self::ClientTimeout { .. } => type_id::ON_CLIENT_TIMEOUT,
            Self::StaticCounter { .. } => type_id::ON_STATIC_COUNTER,
            Self::PublicationError { .. } => type_id::ON_PUBLICATION_ERROR,
            Self::NextAvailableSessionId { .. } => type_id::ON_NEXT_AVAILABLE_SESSION_ID,
        }
    }

    /// Writes the body of the record; returns its length.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, EventError> {
        let mut fields = WireWriter::new(buffer);
        self.encode_fields(&mut fields);
        fields.finish().map_err(|required| EventError::BufferTooSmall { required })
    }

    fn encode_fields(&self, fields: &mut WireWriter<'_>) {
        match *self {
            Self::Error { correlation_id, error_code, message } => {
                fields.i64(correlation_id).i32(error_code).bytes(message.as_bytes());
            }
            Self::AvailableImage {
                correlation_id,
                session_id,
                stream_id,
                subscription_registration_id,
                subscriber_position_counter_id,
                log_file_name,
                source_identity,
            } => {
                fields.i64(correlation_id).i32(session_id).i32(stream_id);
                fields.i64(subscription_registration_id).i32(subscriber_position_counter_id);
                fields.bytes(log_file_name.as_bytes()).align_4().bytes(source_identity.as_bytes());
            }
            Self::PublicationReady(ready) | Self::ExclusivePublicationReady(ready) => ready.encode(fields),
            Self::OperationSuccess { correlation_id } => {
                fields.i64(correlation_id);
            }
            Self::UnavailableImage { correlation_id, subscription_registration_id, stream_id, channel } => {
                fields.i64(correlation_id).i64(subscription_registration_id);
                fields.i32(stream_id).bytes(channel.as_bytes());
            }
            Self::SubscriptionReady { correlation_id: id, channel_status_counter_id: value }
            | Self::CounterReady { correlation_id: id, counter_id: value }
            | Self::UnavailableCounter { registration_id: id, counter_id: value }
            | Self::StaticCounter { correlation_id: id, counter_id: value }
            | Self::NextAvailableSessionId { correlation_id: id, session_id: value } => {
                fields.i64(id).i32(value);
            }
            Self::ClientTimeout { client_id } => {
                fields.i64(client_id);
            }
            Self::PublicationError {
                registration_id,
                destination_registration_id,
                session_id,
                stream_id,
                receiver_id,
                group_tag,
                source,
                error_code,
                message,
            } => {
                fields.i64(registration_id).i64(destination_registration_id).i32(session_id).i32(stream_id);
                fields.i64(receiver_id).i64(group_tag);
                encode_address(fields, source);
                fields.i32(error_code).bytes(message.as_bytes());
            }
        }
    }
}

impl<'a> PublicationReady<'a> {
    fn decode(fields: &mut WireReader<'a>) -> Result<Self, WireError> {
        Ok(Self {
            correlation_id: fields.i64()?,
            registration_id: fields.i64()?,
            session_id: fields.i32()?,
            stream_id: fields.i32()?,
            publisher_limit_counter_id: fields.i32()?,
            channel_status_counter_id: fields.i32()?,
            log_file_name: fields.text()?,
        })
    }

    fn encode(&self, fields: &mut WireWriter<'_>) {
        fields.i64(self.correlation_id).i64(self.registration_id).i32(self.session_id).i32(self.stream_id);
        fields.i32(self.publisher_limit_counter_id).i32(self.channel_status_counter_id);
        fields.bytes(self.log_file_name.as_bytes());
    }
}

fn encode_address(fields: &mut WireWriter<'_>, address: SocketAddr) {
    let mut bytes = [0; 16];
    let address_type = match address.ip() {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            ADDRESS_TYPE_IPV4
        }
        IpAddr::V6(ip) => {
            bytes = ip.octets();
            ADDRESS_TYPE_IPV6
        }
    };
    fields.raw(&address_type.to_le_bytes()).raw(&address.port().to_le_bytes()).raw(&bytes);
}
