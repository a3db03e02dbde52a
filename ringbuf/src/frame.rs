//! The frame header (spec 01 §2.4).

use std::sync::atomic::Ordering;

use crate::position::HEADER_LENGTH;
use crate::{Region, fence};

/// Commit word: positive when published, negative while claimed, 0 when unwritten.
pub const LENGTH_OFFSET: usize = 0;
/// Version of the header.
pub const VERSION_OFFSET: usize = 4;
/// Flags.
pub const FLAGS_OFFSET: usize = 5;
/// Type.
pub const TYPE_OFFSET: usize = 6;
/// Offset of the frame in its term.
pub const TERM_OFFSET_OFFSET: usize = 8;
/// Session id.
pub const SESSION_ID_OFFSET: usize = 12;
/// Stream id.
pub const STREAM_ID_OFFSET: usize = 16;
/// Term id.
pub const TERM_ID_OFFSET: usize = 20;
/// Value that the application chooses.
pub const RESERVED_VALUE_OFFSET: usize = 24;

/// First fragment of a message.
pub const FLAG_BEGIN: u8 = 0x80;
/// Last fragment of a message.
pub const FLAG_END: u8 = 0x40;
/// A message in one frame.
pub const FLAGS_UNFRAGMENTED: u8 = FLAG_BEGIN | FLAG_END;
/// End of stream, on network heartbeats.
pub const FLAG_EOS: u8 = 0x20;
/// Publication revoked, on network heartbeats.
pub const FLAG_REVOKED: u8 = 0x10;

/// Type of a padding frame.
pub const TYPE_PAD: u16 = 0;
/// Type of a data frame.
pub const TYPE_DATA: u16 = 1;

/// The 32 bytes before a payload, as private bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader(pub [u8; HEADER_LENGTH]);

impl FrameHeader {
    /// Copies the header at `offset` of a term.
    #[inline(always)]
    pub fn read<R: Region>(term: &R, offset: usize) -> Self {
        let mut bytes = [0; HEADER_LENGTH];
        term.copy_out(offset, &mut bytes);
        Self(bytes)
    }

    #[inline(always)]
    fn int(&self, offset: usize) -> i32 {
        let b = &self.0;
        i32::from_le_bytes([b[offset], b[offset + 1], b[offset + 2], b[offset + 3]])
    }

    /// Length of header and payload, bytes.
    #[inline(always)]
    pub fn frame_length(&self) -> i32 {
        self.int(LENGTH_OFFSET)
    }

    /// Flags.
    #[inline(always)]
    pub fn flags(&self) -> u8 {
        self.0[FLAGS_OFFSET]
    }

    /// Type.
    #[inline(always)]
    pub fn frame_type(&self) -> u16 {
        u16::from_le_bytes([self.0[TYPE_OFFSET], self.0[TYPE_OFFSET + 1]])
    }

    /// Offset of the frame in its term.
    #[inline(always)]
    pub fn term_offset(&self) -> i32 {
        self.int(TERM_OFFSET_OFFSET)
    }

    /// Session id.
    #[inline(always)]
    pub fn session_id(&self) -> i32 {
        self.int(SESSION_ID_OFFSET)
    }

    /// Stream id.
    #[inline(always)]
    pub fn stream_id(&self) -> i32 {
        self.int(STREAM_ID_OFFSET)
    }

    /// Term id.
    #[inline(always)]
    pub fn term_id(&self) -> i32 {
        self.int(TERM_ID_OFFSET)
    }

    /// Value that the application chooses.
    #[inline(always)]
    pub fn reserved_value(&self) -> i64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[RESERVED_VALUE_OFFSET..]);
        i64::from_le_bytes(bytes)
    }

    pub(crate) fn set_int(&mut self, offset: usize, value: i32) {
        self.0[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }
}

/// Parts of the header's words that are equal in all frames of a stream, each half at its place in the word.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderTemplate {
    version_flags_type: i64,
    session_id: i64,
    stream_id: i64,
}

/// Third word of the headers in one term.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TermWord(i64);

impl HeaderTemplate {
    pub(crate) fn of(default_header: &[u8; HEADER_LENGTH]) -> Self {
        let header = FrameHeader(*default_header);
        Self {
            version_flags_type: i64::from(header.int(VERSION_OFFSET)) << 32,
            session_id: i64::from(header.session_id()) << 32,
            stream_id: i64::from(header.stream_id() as u32),
        }
    }

    /// Returns the word for frames of this term.
    #[inline(always)]
    pub(crate) fn term_word(&self, term_id: i32) -> TermWord {
        TermWord((i64::from(term_id) << 32) | self.stream_id)
    }

    /// Returns the words of the header except the reserved value; the length is negative.
    #[inline(always)]
    fn words(&self, offset: usize, length: usize, term: TermWord) -> [i64; 3] {
        [
            self.version_flags_type | i64::from((-(length as i32)) as u32),
            self.session_id | offset as i64,
            term.0,
        ]
    }

    /// Marks the slot as owned and writes the header: first word with the negative length, then the rest
    /// (spec 01 §2.8).
    #[inline(always)]
    pub(crate) fn write<R: Region>(&self, term: &R, offset: usize, length: usize, word: TermWord) {
        let [first, second, third] = self.words(offset, length, word);
        term.store_pair(offset, first, Ordering::Release);
        fence(Ordering::Release);
        term.store_i64(offset + TERM_OFFSET_OFFSET, second, Ordering::Relaxed);
        term.store_i64(offset + STREAM_ID_OFFSET, third, Ordering::Relaxed);
    }

    /// Writes and publishes a frame with its payload.
    #[inline(always)]
    pub(crate) fn write_frame<R: Region>(&self, term: &R, offset: usize, word: TermWord, payload: &[u8]) {
        let length = payload.len() + HEADER_LENGTH;
        term.put_frame(offset, self.words(offset, length, word), payload, length as i32);
    }
}

/// Loads the commit word.
#[inline(always)]
pub fn frame_length_acquire<R: Region>(term: &R, offset: usize) -> i32 {
    term.load_i32(offset, Ordering::Acquire)
}

/// Stores the commit word, which publishes the frame.
#[inline(always)]
pub fn set_frame_length_ordered<R: Region>(term: &R, offset: usize, length: i32) {
    term.store_i32(offset, length, Ordering::Release);
}

/// Type of a published frame.
#[inline(always)]
pub fn frame_type<R: Region>(term: &R, offset: usize) -> u16 {
    (term.load_i32(offset + VERSION_OFFSET, Ordering::Relaxed) as u32 >> 16) as u16
}

/// Flags of a published frame.
#[inline(always)]
pub fn frame_flags<R: Region>(term: &R, offset: usize) -> u8 {
    (term.load_i32(offset + VERSION_OFFSET, Ordering::Relaxed) as u32 >> 8) as u8
}

/// True for padding.
#[inline(always)]
pub fn is_padding<R: Region>(term: &R, offset: usize) -> bool {
    frame_type(term, offset) == TYPE_PAD
}

/// Replaces flags and type of a frame that this thread owns.
#[inline(always)]
pub(crate) fn set_flags_and_type<R: Region>(term: &R, offset: usize, flags: u8, frame_type: u16) {
    let word = (i32::from(frame_type) << 16) | (i32::from(flags) << 8);
    term.store_i32(offset + VERSION_OFFSET, word, Ordering::Relaxed);
}
