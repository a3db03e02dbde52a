//! Data frames, padding and heartbeats (spec 02 §1.2).

use zerocopy::little_endian::{I32, I64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::{
    CommonHeader, DATA_HEADER_LENGTH, FRAME_ALIGNMENT, FRAME_VERSION, FrameError, flag, frame_type, put,
};

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, Clone, Copy)]
#[repr(C)]
struct WireData {
    header: CommonHeader,
    term_offset: I32,
    session_id: I32,
    stream_id: I32,
    term_id: I32,
    reserved_value: I64,
}
const _: () = assert!(size_of::<WireData>() == DATA_HEADER_LENGTH);

/// Header of a data frame, a padding frame or a heartbeat (spec 02 §1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataHeader {
    /// Length of the frame with its header, bytes; 0 for a heartbeat.
    pub frame_length: i32,
    /// Flags, see [`flag`].
    pub flags: u8,
    /// [`frame_type::DATA`] or [`frame_type::PAD`].
    pub frame_type: u16,
    /// Offset in the term.
    pub term_offset: i32,
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Term id.
    pub term_id: i32,
    /// Value that the application chooses.
    pub reserved_value: i64,
}

impl DataHeader {
    /// Creates a heartbeat at the sender's position; `flags` [`flag::EOS`] and [`flag::REVOKED`] are added to 0xC0.
    pub fn heartbeat(session_id: i32, stream_id: i32, term_id: i32, term_offset: i32, flags: u8) -> Self {
        Self {
            frame_length: 0,
            flags: flag::UNFRAGMENTED | flags,
            frame_type: frame_type::DATA,
            term_offset,
            session_id,
            stream_id,
            term_id,
            reserved_value: 0,
        }
    }

    /// Decodes the first 32 bytes without checks; `None` when there are fewer.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (wire, _) = WireData::ref_from_prefix(bytes).ok()?;
        Some(Self {
            frame_length: wire.header.frame_length.get(),
            flags: wire.header.flags,
            frame_type: wire.header.frame_type.get(),
            term_offset: wire.term_offset.get(),
            session_id: wire.session_id.get(),
            stream_id: wire.stream_id.get(),
            term_id: wire.term_id.get(),
            reserved_value: wire.reserved_value.get(),
        })
    }

    /// Writes the header.
    pub fn encode(&self, buffer: &mut [u8]) -> Result<usize, FrameError> {
        let header = CommonHeader {
            frame_length: self.frame_length.into(),
            version: FRAME_VERSION,
            flags: self.flags,
            frame_type: self.frame_type.into(),
        };
        let wire = WireData {
            header,
            term_offset: self.term_offset.into(),
            session_id: self.session_id.into(),
            stream_id: self.stream_id.into(),
            term_id: self.term_id.into(),
            reserved_value: self.reserved_value.into(),
        };
        put(&wire, buffer)
    }
}

/// A datagram of data frames, or a heartbeat. All frames belong to one term of one stream and follow each other; the
/// last frame may be a padding header without its body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataFrames<'a> {
    /// Header of the first frame; it describes the whole datagram.
    pub first: DataHeader,
    /// The datagram.
    pub bytes: &'a [u8],
    /// Offset in the term where the frames end: the offset of the last frame plus its aligned length.
    pub term_end: usize,
}

impl<'a> DataFrames<'a> {
    /// Applies rules 3 and 4 of spec 02 §8.
    pub(super) fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let length = bytes.len();
        let first = DataHeader::decode(bytes).ok_or(FrameError::Short {
            frame_type: frame_type::DATA,
            length,
            required: DATA_HEADER_LENGTH,
        })?;
        let start = usize::try_from(first.term_offset)
            .ok()
            .filter(|offset| offset % FRAME_ALIGNMENT == 0)
            .ok_or(FrameError::Field { field: "term-offset", value: first.term_offset.into() })?;
        if first.frame_length == 0 && first.frame_type == frame_type::DATA && length == DATA_HEADER_LENGTH {
            return Ok(Self { first, bytes, term_end: start });
        }
        let mut offset = 0;
        let mut header = first;
        loop {
            if header.term_offset as usize != start + offset || !header.is_same_term(&first) {
                return Err(FrameError::Discontinuous { offset });
            }
            let remaining = length - offset;
            let aligned = header.aligned_length().ok_or(header.bad_length(length))?;
            if header.frame_type == frame_type::PAD {
                if remaining != DATA_HEADER_LENGTH {
                    return Err(header.bad_length(length));
                }
                return Ok(Self { first, bytes, term_end: start + offset + aligned });
            }
            if aligned > remaining {
                return Err(header.bad_length(length));
            }
            offset += aligned;
            if offset == length {
                return Ok(Self { first, bytes, term_end: start + offset });
            }
            header = DataHeader::decode_next(bytes, offset)?;
        }
    }

    /// True for a heartbeat: exactly 32 bytes with a frame length of 0.
    pub fn is_heartbeat(&self) -> bool {
        self.first.frame_length == 0
    }

    /// Applies rule 4 of spec 02 §8: the frames, and the range that a padding header stands for, lie inside the term.
    pub fn fits_term(&self, term_length: usize) -> bool {
        self.term_end <= term_length
    }
}

impl DataHeader {
    fn is_same_term(&self, other: &Self) -> bool {
        self.session_id == other.session_id
            && self.stream_id == other.stream_id
            && self.term_id == other.term_id
    }

    fn aligned_length(&self) -> Option<usize> {
        let length = usize::try_from(self.frame_length).ok()?;
        (length >= DATA_HEADER_LENGTH).then(|| length.next_multiple_of(FRAME_ALIGNMENT))
    }

    fn bad_length(&self, length: usize) -> FrameError {
        FrameError::FrameLength { frame_type: self.frame_type, frame_length: self.frame_length, length }
    }

    /// Decodes a frame after the first; only data and padding may follow.
    fn decode_next(bytes: &[u8], offset: usize) -> Result<Self, FrameError> {
        let rest = &bytes[offset..];
        let header = Self::decode(rest).ok_or(FrameError::Discontinuous { offset })?;
        let is_frame =
            header.frame_type <= frame_type::DATA && rest[4] == FRAME_VERSION && header.term_offset >= 0;
        if is_frame { Ok(header) } else { Err(FrameError::Discontinuous { offset }) }
    }
}
