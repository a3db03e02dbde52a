//! Frames on the wire (spec 02 §1), checked by the rules of spec 02 §8 before any field is used.

use thiserror::Error;
use zerocopy::little_endian::{I32, U16};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::resolution::ResolutionFrame;

mod control;
mod data;

pub use control::{ErrorFrame, Nak, ResponseSetup, Rttm, Setup, StatusMessage};
pub use data::{DataFrames, DataHeader};

/// Bytes of the header that all frames share.
pub const COMMON_HEADER_LENGTH: usize = 8;
/// Bytes of a data frame's header, and of a heartbeat.
pub const DATA_HEADER_LENGTH: usize = 32;
/// Bytes of a SETUP frame.
pub const SETUP_LENGTH: usize = 40;
/// Bytes of a NAK frame.
pub const NAK_LENGTH: usize = 28;
/// Bytes of a status message without group tag.
pub const STATUS_MESSAGE_LENGTH: usize = 36;
/// Bytes of a status message with group tag.
pub const STATUS_MESSAGE_TAGGED_LENGTH: usize = 44;
/// Bytes of an ERR frame before its text.
pub const ERROR_HEADER_LENGTH: usize = 40;
/// Most bytes of an ERR frame's text.
pub const MAX_ERROR_TEXT_LENGTH: usize = 1023;
/// Bytes of an RTTM frame.
pub const RTTM_LENGTH: usize = 40;
/// Bytes of a RSP_SETUP frame.
pub const RESPONSE_SETUP_LENGTH: usize = 20;
/// Frames lie at multiples of this in a term and in a datagram.
pub const FRAME_ALIGNMENT: usize = 32;
/// The only version of frames.
pub const FRAME_VERSION: u8 = 0;

/// Types of frames.
pub mod frame_type {
    /// Padding: only its header is sent.
    pub const PAD: u16 = 0x00;
    /// Data, or a heartbeat when its length is 0.
    pub const DATA: u16 = 0x01;
    /// A receiver asks for a gap.
    pub const NAK: u16 = 0x02;
    /// A receiver's status message: position and window.
    pub const SM: u16 = 0x03;
    /// A receiver rejects the stream.
    pub const ERR: u16 = 0x04;
    /// A sender announces its stream.
    pub const SETUP: u16 = 0x05;
    /// Measurement of the round trip time.
    pub const RTTM: u16 = 0x06;
    /// Names that drivers tell each other.
    pub const RES: u16 = 0x07;
    /// A responder names the session of its response stream.
    pub const RSP_SETUP: u16 = 0x0B;
    /// Reserved for extensions.
    pub const EXT: u16 = 0xFFFF;
}

/// Flags of frames; their meaning depends on the type.
pub mod flag {
    /// Data: first fragment of a message.
    pub const BEGIN: u8 = 0x80;
    /// Data: last fragment of a message.
    pub const END: u8 = 0x40;
    /// Data: a whole message.
    pub const UNFRAGMENTED: u8 = 0xC0;
    /// Data: the stream has ended at this position.
    pub const EOS: u8 = 0x20;
    /// Data: the publication was revoked.
    pub const REVOKED: u8 = 0x10;
    /// SETUP: the publication awaits a response channel.
    pub const SETUP_SEND_RESPONSE: u8 = 0x80;
    /// SETUP: the channel has several receivers.
    pub const SETUP_GROUP: u8 = 0x40;
    /// Status message: the receiver asks for a SETUP.
    pub const SM_SEND_SETUP: u8 = 0x80;
    /// Status message: the receiver has the whole stream.
    pub const SM_EOS: u8 = 0x40;
    /// ERR: the frame has a group tag.
    pub const ERR_GROUP_TAG: u8 = 0x08;
    /// RTTM: the receiver of the frame shall reply.
    pub const RTTM_REPLY: u8 = 0x80;
    /// RES: the entry is the sender's own.
    pub const RES_SELF: u8 = 0x80;
}

/// Reason why a datagram is dropped (and counted as an invalid packet), or could not be encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The datagram is shorter than a frame of its type.
    #[error("datagram of {length} bytes, a frame of type {frame_type:#x} has {required}")]
    Short {
        /// Type of the frame; 0xFFFF when the datagram is too short to have one.
        frame_type: u16,
        /// Length of the datagram, bytes.
        length: usize,
        /// Length that is needed, bytes.
        required: usize,
    },
    /// The frame has another version.
    #[error("frame version {0} instead of 0")]
    Version(u8),
    /// The frame length does not fit the type or the datagram.
    #[error("frame length {frame_length} does not fit a frame of type {frame_type:#x} in {length} bytes")]
    FrameLength {
        /// Type of the frame.
        frame_type: u16,
        /// Value of its length field.
        frame_length: i32,
        /// Length of the datagram, bytes.
        length: usize,
    },
    /// The frames of a datagram do not follow each other in one term of one stream.
    #[error("the frame at byte {offset} does not continue the first one")]
    Discontinuous {
        /// Offset of the frame in the datagram.
        offset: usize,
    },
    /// A field is outside its range.
    #[error("{field} is {value}, out of range")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Its value.
        value: i64,
    },
    /// The caller's buffer is too small to encode into.
    #[error("{required} bytes needed to encode the frame")]
    BufferTooSmall {
        /// Length that is needed, bytes.
        required: usize,
    },
}

/// Content of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frame<'a> {
    /// Data frames, padding or a heartbeat.
    Data(DataFrames<'a>),
    /// Parameters of a stream.
    Setup(Setup),
    /// A receiver asks for a gap.
    Nak(Nak),
    /// Position and window of a receiver.
    StatusMessage(StatusMessage),
    /// A receiver rejects a stream.
    Error(ErrorFrame<'a>),
    /// Measurement of the round trip time.
    Rttm(Rttm),
    /// Name resolution.
    Resolution(ResolutionFrame<'a>),
    /// Session of the response stream of a request stream.
    ResponseSetup(ResponseSetup),
    /// A frame type that is ignored without a counter.
    Ignored(u16),
}

impl<'a> Frame<'a> {
    /// Decodes a datagram and checks it by rules 1 to 4 and 6 to 8 of spec 02 §8. Rules that need the stream's
    /// parameters are [`DataFrames::fits_term`], [`Setup::validate`] and [`StatusMessage::fits_stream`].
    pub fn decode(datagram: &'a [u8]) -> Result<Self, FrameError> {
        let length = datagram.len();
        let (header, _) = CommonHeader::ref_from_prefix(datagram).map_err(|_| FrameError::Short {
            frame_type: frame_type::EXT,
            length,
            required: COMMON_HEADER_LENGTH,
        })?;
        if header.version != FRAME_VERSION {
            return Err(FrameError::Version(header.version));
        }
        match header.frame_type.get() {
            frame_type::DATA | frame_type::PAD => DataFrames::decode(datagram).map(Self::Data),
            frame_type::SETUP => Setup::decode(control(datagram, SETUP_LENGTH)?).map(Self::Setup),
            frame_type::NAK => Nak::decode(control(datagram, NAK_LENGTH)?).map(Self::Nak),
            frame_type::SM => {
                StatusMessage::decode(control(datagram, STATUS_MESSAGE_LENGTH)?).map(Self::StatusMessage)
            }
            frame_type::ERR => ErrorFrame::decode(control(datagram, ERROR_HEADER_LENGTH)?).map(Self::Error),
            frame_type::RTTM => Rttm::decode(control(datagram, RTTM_LENGTH)?).map(Self::Rttm),
            frame_type::RES => {
                ResolutionFrame::decode(control(datagram, COMMON_HEADER_LENGTH)?).map(Self::Resolution)
            }
            frame_type::RSP_SETUP => {
                ResponseSetup::decode(control(datagram, RESPONSE_SETUP_LENGTH)?).map(Self::ResponseSetup)
            }
            other => Ok(Self::Ignored(other)),
        }
    }
}

/// Returns the bytes of a control frame. Its length must be at least `minimum` and must not exceed the datagram (rule
/// 2).
fn control(datagram: &[u8], minimum: usize) -> Result<&[u8], FrameError> {
    let (header, _) = CommonHeader::ref_from_prefix(datagram).expect("checked by the caller");
    let (frame_type, frame_length) = (header.frame_type.get(), header.frame_length.get());
    if datagram.len() < minimum {
        return Err(FrameError::Short { frame_type, length: datagram.len(), required: minimum });
    }
    match usize::try_from(frame_length) {
        Ok(length) if (minimum..=datagram.len()).contains(&length) => Ok(&datagram[..length]),
        _ => Err(FrameError::FrameLength { frame_type, frame_length, length: datagram.len() }),
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
pub(crate) struct CommonHeader {
    frame_length: I32,
    version: u8,
    flags: u8,
    frame_type: U16,
}

impl CommonHeader {
    pub(crate) fn new(frame_type: u16, flags: u8, frame_length: usize) -> Self {
        Self {
            frame_length: (frame_length as i32).into(),
            version: FRAME_VERSION,
            flags,
            frame_type: frame_type.into(),
        }
    }
}

fn put<T: IntoBytes + Immutable>(value: &T, buffer: &mut [u8]) -> Result<usize, FrameError> {
    let required = size_of::<T>();
    let target = buffer.get_mut(..required).ok_or(FrameError::BufferTooSmall { required })?;
    target.copy_from_slice(value.as_bytes());
    Ok(required)
}
