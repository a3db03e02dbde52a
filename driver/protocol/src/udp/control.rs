//! Control frames of a stream: SETUP, NAK, SM, ERR, RTTM, RSP_SETUP (spec 02 §1.3–1.8).

use zerocopy::little_endian::{I32, I64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    CommonHeader, ERROR_HEADER_LENGTH, FRAME_ALIGNMENT, FrameError, MAX_ERROR_TEXT_LENGTH, NAK_LENGTH,
    RESPONSE_SETUP_LENGTH, RTTM_LENGTH, SETUP_LENGTH, STATUS_MESSAGE_LENGTH, STATUS_MESSAGE_TAGGED_LENGTH,
    flag, frame_type, put,
};

macro_rules! wire_frame {
    ($(#[$doc:meta])* $name:ident, $length:expr, { $($field:ident: $type:ty),* $(,)? }) => {
        $(#[$doc])*
        #[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
        #[repr(C)]
        struct $name {
            header: CommonHeader,
            $($field: $type,)*
        }
        const _: () = assert!(size_of::<$name>() == $length);
    };
}

wire_frame!(WireSetup, SETUP_LENGTH, {
    term_offset: I32, session_id: I32, stream_id: I32, initial_term_id: I32, active_term_id: I32, term_length: I32,
    mtu: I32, ttl: I32,
});
wire_frame!(WireNak, NAK_LENGTH, {
    session_id: I32, stream_id: I32, term_id: I32, term_offset: I32, length: I32,
});
wire_frame!(WireStatusMessage, STATUS_MESSAGE_LENGTH, {
    session_id: I32, stream_id: I32, term_id: I32, term_offset: I32, window: I32, receiver_id: I64,
});
wire_frame!(WireError, ERROR_HEADER_LENGTH, {
    session_id: I32, stream_id: I32, receiver_id: I64, group_tag: I64, code: I32, text_length: I32,
});
wire_frame!(WireRttm, RTTM_LENGTH, {
    session_id: I32, stream_id: I32, echo_timestamp_ns: I64, reception_delta_ns: I64, receiver_id: I64,
});
wire_frame!(WireResponseSetup, RESPONSE_SETUP_LENGTH, {
    session_id: I32, stream_id: I32, response_session_id: I32,
});

fn wire<T: FromBytes + KnownLayout + Immutable + Unaligned>(frame: &[u8]) -> &T {
    T::ref_from_prefix(frame).expect("length was checked").0
}

/// Parameters of a stream and the sender's position (spec 02 §1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setup {
    /// [`flag::SETUP_SEND_RESPONSE`], [`flag::SETUP_GROUP`].
    pub flags: u8,
    /// Offset of the sender's position in its term.
    pub term_offset: i32,
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// First term of the stream.
    pub initial_term_id: i32,
    /// Term of the sender's position.
    pub active_term_id: i32,
    /// Length of a term, bytes.
    pub term_length: i32,
    /// Length of the longest frame, bytes.
    pub mtu: i32,
    /// Multicast time to live, 0 otherwise.
    pub ttl: i32,
}

impl Setup {
    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let wire: &WireSetup = wire(frame);
        Ok(Self {
            flags: wire.header.flags,
            term_offset: wire.term_offset.get(),
            session_id: wire.session_id.get(),
            stream_id: wire.stream_id.get(),
            initial_term_id: wire.initial_term_id.get(),
            active_term_id: wire.active_term_id.get(),
            term_length: wire.term_length.get(),
            mtu: wire.mtu.get(),
            ttl: wire.ttl.get(),
        })
    }

    /// Applies rule 5 of spec 02 §8. A violation is an error that is recorded once per session and stream.
    pub fn validate(&self) -> Result<(), FrameError> {
        let field = |field, value: i32| Err(FrameError::Field { field, value: value.into() });
        let is_term_length = (1 << 16..=1 << 30).contains(&self.term_length);
        if !is_term_length || self.term_length.count_ones() != 1 {
            return field("term-length", self.term_length);
        }
        if !(FRAME_ALIGNMENT as i32 + 1..=65504).contains(&self.mtu) || self.mtu % FRAME_ALIGNMENT as i32 != 0
        {
            return field("mtu", self.mtu);
        }
        if self.active_term_id.wrapping_sub(self.initial_term_id) < 0 {
            return field("active-term-id", self.active_term_id);
        }
        if !(0..=self.term_length).contains(&self.term_offset)
            || self.term_offset % FRAME_ALIGNMENT as i32 != 0
        {
            return field("term-offset", self.term_offset);
        }
        Ok(())
    }

    /// Writes the frame.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let wire = WireSetup {
            header: CommonHeader::new(frame_type::SETUP, self.flags, SETUP_LENGTH),
            term_offset: self.term_offset.into(),
            session_id: self.session_id.into(),
            stream_id: self.stream_id.into(),
            initial_term_id: self.initial_term_id.into(),
            active_term_id: self.active_term_id.into(),
            term_length: self.term_length.into(),
            mtu: self.mtu.into(),
            ttl: self.ttl.into(),
        };
        put(&wire, buffer)
    }
}

/// A gap that a receiver wants to be repeated (spec 02 §1.4). The sender decides whether the gap lies in the term.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nak {
    /// Session id of the stream.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Term of the gap.
    pub term_id: i32,
    /// Offset of the gap in its term, bytes.
    pub term_offset: i32,
    /// Length of the gap, bytes.
    pub length: i32,
}

impl Nak {
    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let wire: &WireNak = wire(frame);
        Ok(Self {
            session_id: wire.session_id.get(),
            stream_id: wire.stream_id.get(),
            term_id: wire.term_id.get(),
            term_offset: wire.term_offset.get(),
            length: wire.length.get(),
        })
    }

    /// Writes the frame.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let wire = WireNak {
            header: CommonHeader::new(frame_type::NAK, 0, NAK_LENGTH),
            session_id: self.session_id.into(),
            stream_id: self.stream_id.into(),
            term_id: self.term_id.into(),
            term_offset: self.term_offset.into(),
            length: self.length.into(),
        };
        put(&wire, buffer)
    }
}

/// Position and window of a receiver (spec 02 §1.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusMessage {
    /// [`flag::SM_SEND_SETUP`], [`flag::SM_EOS`].
    pub flags: u8,
    /// Session id; 0 with stream id 0 and SEND_SETUP means any stream of this channel.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Term up to which the receiver has consumed.
    pub consumption_term_id: i32,
    /// Offset in that term.
    pub consumption_term_offset: i32,
    /// Bytes that the receiver can take beyond its position.
    pub receiver_window: i32,
    /// Id of the receiver.
    pub receiver_id: i64,
    /// Group tag, when the frame carries one.
    pub group_tag: Option<i64>,
}

impl StatusMessage {
    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let wire: &WireStatusMessage = wire(frame);
        // A frame of any other length has no tag (spec 02 §1.5).
        let group_tag = (frame.len() == STATUS_MESSAGE_TAGGED_LENGTH)
            .then(|| i64::from_le_bytes(*frame.last_chunk().expect("44 bytes")));
        let message = Self {
            flags: wire.header.flags,
            session_id: wire.session_id.get(),
            stream_id: wire.stream_id.get(),
            consumption_term_id: wire.term_id.get(),
            consumption_term_offset: wire.term_offset.get(),
            receiver_window: wire.window.get(),
            receiver_id: wire.receiver_id.get(),
            group_tag,
        };
        let offset = message.consumption_term_offset;
        if offset < 0 || offset % FRAME_ALIGNMENT as i32 != 0 {
            return Err(FrameError::Field { field: "consumption term-offset", value: offset.into() });
        }
        if message.receiver_window < 0 {
            return Err(FrameError::Field {
                field: "receiver window",
                value: message.receiver_window.into(),
            });
        }
        Ok(message)
    }

    /// Applies the part of rule 6 of spec 02 §8 that needs the parameters of the stream.
    pub fn fits_stream(&self, initial_term_id: i32, term_length: i32) -> bool {
        self.consumption_term_offset <= term_length
            && self.consumption_term_id.wrapping_sub(initial_term_id) >= 0
    }

    /// True when the receiver asks for a SETUP.
    pub fn is_send_setup(&self) -> bool {
        self.flags & flag::SM_SEND_SETUP != 0
    }

    /// Writes the frame: 44 bytes with a group tag, else 36.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let length = match self.group_tag {
            Some(_) => STATUS_MESSAGE_TAGGED_LENGTH,
            None => STATUS_MESSAGE_LENGTH,
        };
        if buffer.len() < length {
            return Err(FrameError::BufferTooSmall { required: length });
        }
        let wire = WireStatusMessage {
            header: CommonHeader::new(frame_type::SM, self.flags, length),
            session_id: self.session_id.into(),
            stream_id: self.stream_id.into(),
            term_id: self.consumption_term_id.into(),
            term_offset: self.consumption_term_offset.into(),
            window: self.receiver_window.into(),
            receiver_id: self.receiver_id.into(),
        };
        put(&wire, buffer)?;
        if let Some(tag) = self.group_tag {
            buffer[STATUS_MESSAGE_LENGTH..length].copy_from_slice(&tag.to_le_bytes());
        }
        Ok(length)
    }
}

/// Error frame of a receiver (spec 02 §1.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ErrorFrame<'a> {
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Id of the receiver.
    pub receiver_id: i64,
    /// Group tag, when the flag says that the frame has one.
    pub group_tag: Option<i64>,
    /// Error code: 13 for a rejected image.
    pub code: i32,
    /// Text as it was sent. Peers send ASCII, so decode it lossily.
    pub text: &'a [u8],
}

impl<'a> ErrorFrame<'a> {
    pub(super) fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let wire: &WireError = wire(frame);
        let text_length = wire.text_length.get();
        let text = usize::try_from(text_length)
            .ok()
            .filter(|length| *length <= MAX_ERROR_TEXT_LENGTH)
            .and_then(|length| frame[ERROR_HEADER_LENGTH..].get(..length))
            .ok_or(FrameError::Field { field: "error text length", value: text_length.into() })?;
        let group_tag = (wire.header.flags & flag::ERR_GROUP_TAG != 0).then(|| wire.group_tag.get());
        Ok(Self {
            session_id: wire.session_id.get(),
            stream_id: wire.stream_id.get(),
            receiver_id: wire.receiver_id.get(),
            group_tag,
            code: wire.code.get(),
            text,
        })
    }

    /// Writes the frame; text beyond 1023 bytes is cut. Without a group tag its field is -1.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let text = &self.text[..self.text.len().min(MAX_ERROR_TEXT_LENGTH)];
        let length = ERROR_HEADER_LENGTH + text.len();
        if buffer.len() < length {
            return Err(FrameError::BufferTooSmall { required: length });
        }
        let flags = if self.group_tag.is_some() { flag::ERR_GROUP_TAG } else { 0 };
        let wire = WireError {
            header: CommonHeader::new(frame_type::ERR, flags, length),
            session_id: self.session_id.into(),
            stream_id: self.stream_id.into(),
            receiver_id: self.receiver_id.into(),
            group_tag: self.group_tag.unwrap_or(-1).into(),
            code: self.code.into(),
            text_length: (text.len() as i32).into(),
        };
        put(&wire, buffer)?;
        buffer[ERROR_HEADER_LENGTH..length].copy_from_slice(text);
        Ok(length)
    }
}

/// Measurement of the round trip time (spec 02 §1.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rttm {
    /// [`flag::RTTM_REPLY`] asks the peer to reply.
    pub flags: u8,
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Time of the initiator's monotonic clock.
    pub echo_timestamp_ns: i64,
    /// Time between reception and reply at the peer.
    pub reception_delta_ns: i64,
    /// Id of the receiver.
    pub receiver_id: i64,
}

impl Rttm {
    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let wire: &WireRttm = wire(frame);
        Ok(Self {
            flags: wire.header.flags,
            session_id: wire.session_id.get(),
            stream_id: wire.stream_id.get(),
            echo_timestamp_ns: wire.echo_timestamp_ns.get(),
            reception_delta_ns: wire.reception_delta_ns.get(),
            receiver_id: wire.receiver_id.get(),
        })
    }

    /// Writes the frame.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let wire = WireRttm {
            header: CommonHeader::new(frame_type::RTTM, self.flags, RTTM_LENGTH),
            session_id: self.session_id.into(),
            stream_id: self.stream_id.into(),
            echo_timestamp_ns: self.echo_timestamp_ns.into(),
            reception_delta_ns: self.reception_delta_ns.into(),
            receiver_id: self.receiver_id.into(),
        };
        put(&wire, buffer)
    }
}

/// Session of the response stream of a request stream (spec 02 §1.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResponseSetup {
    /// Session id of the request publication.
    pub session_id: i32,
    /// Stream id of the request publication.
    pub stream_id: i32,
    /// Session id of the response publication.
    pub response_session_id: i32,
}

impl ResponseSetup {
    pub(super) fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let wire: &WireResponseSetup = wire(frame);
        Ok(Self {
            session_id: wire.session_id.get(),
            stream_id: wire.stream_id.get(),
            response_session_id: wire.response_session_id.get(),
        })
    }

    /// Writes the frame.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let wire = WireResponseSetup {
            header: CommonHeader::new(frame_type::RSP_SETUP, 0, RESPONSE_SETUP_LENGTH),
            session_id: self.session_id.into(),
            stream_id: self.stream_id.into(),
            response_session_id: self.response_session_id.into(),
        };
        put(&wire, buffer)
    }
}
