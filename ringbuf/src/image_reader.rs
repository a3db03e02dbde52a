//! Reading a log at the pace of one subscriber (spec 01 §2.17, §2.18).

use std::sync::atomic::Ordering;

use crate::counters::AtomicCounter;
use crate::frame::{FLAG_BEGIN, FLAG_END, FrameHeader, TYPE_PAD};
use crate::logbuffer::LogBuffers;
use crate::position::{
    FRAME_ALIGNMENT, HEADER_LENGTH, align, check_advance, compute_fragmented_length, compute_position,
    index_by_position, position_bits_to_shift,
};
use crate::{AtomicBuffer, Region};

/// Decision of a handler about the frame that it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The frame is not consumed: the poll stops, and the next poll delivers it again.
    Abort,
    /// The frame is consumed; the poll stops.
    Break,
    /// The frame is consumed, and the position is published at once.
    Commit,
    /// The frame is consumed; the position is published at the end of the poll.
    Continue,
}

/// The header of a delivered frame or assembled message.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    frame: &'a FrameHeader,
    initial_term_id: i32,
    bits: u32,
    /// Bytes that an assembled message occupies in the log; 0 for a single frame.
    fragmented_length: usize,
}

impl<'a> Header<'a> {
    pub(crate) fn new(frame: &'a FrameHeader, initial_term_id: i32, bits: u32) -> Self {
        Self { frame, initial_term_id, bits, fragmented_length: 0 }
    }

    pub(crate) fn assembled(frame: &'a FrameHeader, other: &Header<'_>, fragmented_length: usize) -> Self {
        Self { frame, initial_term_id: other.initial_term_id, bits: other.bits, fragmented_length }
    }

    /// Position of the stream after this frame or message.
    #[inline]
    pub fn position(&self) -> i64 {
        let occupied = match self.fragmented_length {
            0 => align(self.frame.frame_length() as usize, FRAME_ALIGNMENT),
            length => length,
        };
        let offset = self.frame.term_offset() + occupied as i32;
        compute_position(self.frame.term_id(), offset, self.bits, self.initial_term_id)
    }

    /// Length of header and payload of the frame or message, bytes.
    pub fn frame_length(&self) -> i32 {
        self.frame.frame_length()
    }

    /// Session of the stream.
    #[inline]
    pub fn session_id(&self) -> i32 {
        self.frame.session_id()
    }

    /// Stream id.
    pub fn stream_id(&self) -> i32 {
        self.frame.stream_id()
    }

    /// Term of the (first) frame.
    pub fn term_id(&self) -> i32 {
        self.frame.term_id()
    }

    /// Offset of the (first) frame in its term.
    #[inline]
    pub fn term_offset(&self) -> i32 {
        self.frame.term_offset()
    }

    /// Offset at which the frame after this one starts.
    #[inline]
    pub fn next_term_offset(&self) -> i32 {
        self.frame.term_offset() + align(self.frame.frame_length() as usize, FRAME_ALIGNMENT) as i32
    }

    /// Flags.
    #[inline]
    pub fn flags(&self) -> u8 {
        self.frame.flags()
    }

    /// True for a message in one frame.
    #[inline]
    pub fn is_unfragmented(&self) -> bool {
        self.flags() & (FLAG_BEGIN | FLAG_END) == FLAG_BEGIN | FLAG_END
    }

    /// Type of the frame.
    pub fn frame_type(&self) -> u16 {
        self.frame.frame_type()
    }

    /// Value that the sender put into the header.
    pub fn reserved_value(&self) -> i64 {
        self.frame.reserved_value()
    }

    /// Term id of the stream's first term.
    pub fn initial_term_id(&self) -> i32 {
        self.initial_term_id
    }

    /// The header's bytes.
    pub fn as_frame(&self) -> &FrameHeader {
        self.frame
    }
}

/// Whole frames that follow each other in one term.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The term.
    pub term: &'a AtomicBuffer,
    /// Offset of the first frame in the term.
    pub offset: usize,
    /// Length of the frames, bytes. A padding frame comes alone; then this is all that it covers.
    pub length: usize,
    /// Session of the stream.
    pub session_id: i32,
    /// Term id.
    pub term_id: i32,
}

/// Distance of the prefetch of a reader that finds several frames, bytes: the writer is probably beyond it. A reader
/// that finds single frames does not prefetch, because it would take lines from the writer that the writer is about
/// to write.
const AHEAD_BYTES: usize = 4_096;

/// A position in a log, and the means to read on from it.
#[derive(Debug)]
pub struct ImageReader {
    log: LogBuffers,
    position: AtomicCounter,
    bits: u32,
    mask: i64,
    closed_at: Option<i64>,
}

impl ImageReader {
    /// Creates a reader of `log` that starts at the value of `position`. This reader alone writes that counter, and
    /// the counter limits the writers.
    pub fn new(log: LogBuffers, position: AtomicCounter) -> Self {
        let bits = position_bits_to_shift(log.term_length());
        Self { mask: log.term_length() as i64 - 1, log, position, bits, closed_at: None }
    }

    /// The log.
    pub fn log(&self) -> &LogBuffers {
        &self.log
    }

    /// Position up to which frames have been consumed.
    #[inline]
    pub fn position(&self) -> i64 {
        self.closed_at.unwrap_or_else(|| self.position.get_plain())
    }

    /// Stops reading. The position stays as it is, whatever happens to the counter.
    pub fn close(&mut self) {
        self.closed_at.get_or_insert(self.position.get_plain());
    }

    /// True when everything up to the end of the stream has been consumed.
    pub fn is_end_of_stream(&self) -> bool {
        self.position() >= self.log.end_of_stream_position()
    }

    /// Moves the position without reading, within the present term; returns false when it cannot be moved to
    /// `position`.
    pub fn set_position(&mut self, position: i64) -> bool {
        let current = self.position();
        let end = (current & !self.mask) + self.mask + 1;
        let valid = self.closed_at.is_none()
            && (current..=end).contains(&position)
            && position % FRAME_ALIGNMENT as i64 == 0;
        if valid {
            self.position.set_ordered(position);
        }
        valid
    }

    /// Delivers up to `limit` frames; returns their number.
    #[inline]
    pub fn poll(&mut self, limit: usize, handler: &mut impl FnMut(&[u8], &Header<'_>)) -> usize {
        self.scan(i64::MAX, limit, &mut |payload, header| {
            handler(payload, header);
            Action::Continue
        })
    }

    /// Works as [`poll`](Self::poll), but `handler` decides about each frame.
    #[inline]
    pub fn controlled_poll(
        &mut self,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> usize {
        self.scan(i64::MAX, limit, handler)
    }

    /// Works as [`poll`](Self::poll), but stops before frames that start at or beyond `limit_position`.
    #[inline]
    pub fn bounded_poll(
        &mut self,
        limit_position: i64,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>),
    ) -> usize {
        self.scan(limit_position, limit, &mut |payload, header| {
            handler(payload, header);
            Action::Continue
        })
    }

    /// Works as [`controlled_poll`](Self::controlled_poll), but stops before frames that start at or beyond
    /// `limit_position`.
    #[inline]
    pub fn bounded_controlled_poll(
        &mut self,
        limit_position: i64,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> usize {
        self.scan(limit_position, limit, handler)
    }

    #[inline(always)]
    fn scan(
        &mut self,
        limit_position: i64,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> usize {
        if self.closed_at.is_some() {
            return 0;
        }
        let initial = self.position.get_plain();
        if initial >= limit_position {
            return 0;
        }
        let term = self.log.term(index_by_position(initial, self.bits));
        let start = (initial & self.mask) as usize;
        let room = limit_position.saturating_sub(initial).min(term.capacity() as i64 - start as i64) as usize;
        let end = start + room;
        let begin = initial - start as i64;
        // Publishes the consumed position even when a handler panics.
        let mut progress = Progress { position: &self.position, begin, published: start, offset: start };
        let mut delivered = 0;
        let mut stride = Stride::default();
        while delivered < limit && progress.offset < end {
            let offset = progress.offset;
            let Some(frame) = Frame::committed_at(term, offset) else { break };
            progress.offset = offset + stride.predict(frame.aligned);
            if frame.is_padding {
                continue;
            }
            // SAFETY: the commit word was acquired positive, and the writers stay off the range until this reader's
            // position has passed it, which it does only after the handler has returned.
            let (header, payload) = unsafe { frame.parts(term, offset) };
            let header = Header::new(&header, self.log.initial_term_id(), self.bits);
            if delivered > 0 {
                term.expect_load(offset + AHEAD_BYTES);
            }
            delivered += 1;
            match handler(payload, &header) {
                Action::Continue => {}
                Action::Commit => progress.publish(),
                Action::Break => break,
                Action::Abort => {
                    progress.offset = offset;
                    delivered -= 1;
                    break;
                }
            }
        }
        delivered
    }

    /// Delivers frames from `from` up to `limit_position` without consuming them; returns the position after the last
    /// whole message.
    pub fn controlled_peek(
        &mut self,
        from: i64,
        limit_position: i64,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> i64 {
        let position = self.position();
        if self.closed_at.is_some() || from < position || from > (position & !self.mask) + self.mask + 1 {
            return from;
        }
        let term = self.log.term(index_by_position(from, self.bits));
        let mut offset = (from & self.mask) as usize;
        let mut position = from;
        let mut result = from;
        while offset < term.capacity() && position < limit_position {
            let Some(frame) = Frame::committed_at(term, offset) else { break };
            let aligned = frame.aligned;
            if frame.is_padding {
                offset += aligned;
                position += aligned as i64;
                result = position;
                continue;
            }
            // SAFETY: as in `scan`; peeking does not move the position.
            let (header, payload) = unsafe { frame.parts(term, offset) };
            let header = Header::new(&header, self.log.initial_term_id(), self.bits);
            let action = handler(payload, &header);
            if action == Action::Abort {
                break;
            }
            offset += aligned;
            position += aligned as i64;
            if header.flags() & FLAG_END != 0 {
                result = position;
            }
            if action == Action::Break {
                break;
            }
        }
        result
    }

    /// Returns whole contiguous frames from the position on, up to `max_bytes` of them, without consuming them. The
    /// caller then calls [`set_position`](Self::set_position). A padding frame comes alone, even when it is longer.
    #[inline]
    pub fn peek_block(&self, max_bytes: usize) -> Option<Block<'_>> {
        if self.closed_at.is_some() {
            return None;
        }
        let position = self.position.get_plain();
        let term = self.log.term(index_by_position(position, self.bits));
        let offset = (position & self.mask) as usize;
        let length = crate::scan::block_scan(term, offset, max_bytes);
        if length == 0 {
            return None;
        }
        if length > term.capacity() - offset {
            impossible_frame(length, offset);
        }
        let frame = FrameHeader::read(term, offset);
        Some(Block { term, offset, length, session_id: frame.session_id(), term_id: frame.term_id() })
    }

    /// Passes whole contiguous frames, up to `max_bytes` of them, to `handler` and consumes them; returns their
    /// length. A padding frame comes alone, even when it is longer.
    #[inline]
    pub fn block_poll(&mut self, max_bytes: usize, handler: &mut impl FnMut(Block<'_>)) -> usize {
        let Some(block) = self.peek_block(max_bytes) else { return 0 };
        let length = block.length;
        handler(block);
        self.position.set_ordered(self.position.get_plain() + length as i64);
        length
    }
}

/// A committed frame in a term.
struct Frame {
    length: usize,
    /// Bytes that the frame occupies in the term.
    aligned: usize,
    is_padding: bool,
}

impl Frame {
    /// Returns the frame at `offset`; `None` while it is not committed. One load gives length and type.
    #[inline(always)]
    fn committed_at(term: &AtomicBuffer, offset: usize) -> Option<Self> {
        let word = term.load_pair(offset, Ordering::Acquire);
        let length = word as i32;
        if length <= 0 {
            return None;
        }
        let length = length as usize;
        // Terms and offsets are multiples of the alignment: when a frame ends inside the term, its padding does as
        // well.
        if length < HEADER_LENGTH || length > term.capacity() - offset {
            impossible_frame(length, offset);
        }
        let is_padding = (word >> 48) as u16 == TYPE_PAD;
        Some(Self { length, aligned: align(length, FRAME_ALIGNMENT), is_padding })
    }

    /// Returns header and payload.
    ///
    /// # Safety
    ///
    /// As for [`AtomicBuffer::committed`].
    #[inline(always)]
    unsafe fn parts<'a>(&self, term: &'a AtomicBuffer, offset: usize) -> (FrameHeader, &'a [u8]) {
        // SAFETY: the caller promises that nobody writes the frame.
        let bytes = unsafe { term.committed(offset, self.length) };
        match bytes.split_first_chunk() {
            Some((header, payload)) => (FrameHeader(*header), payload),
            None => impossible_frame(self.length, offset),
        }
    }
}

/// Number of changes of length within a poll after which the reader stops guessing: a wrong guess costs more than a
/// right guess saves.
const CHANGES: usize = 8;

/// Guess of the distance from one frame to the next: probably the same as last time. The length that says where the
/// next frame starts may still be on its way from another core. The processor speculates past a branch on whether the
/// guess is right, and so waits for many cache lines at once instead of for one after the other.
#[derive(Default)]
struct Stride {
    last: usize,
    changes: usize,
}

impl Stride {
    /// Returns `aligned`; when the guess is right, the result does not depend on `aligned`.
    #[inline(always)]
    fn predict(&mut self, aligned: usize) -> usize {
        if self.changes > CHANGES {
            return aligned;
        }
        // This comes before the comparison: otherwise the compiler would replace one value by the other where it
        // knows that they are equal.
        let prediction = opaque(self.last);
        if aligned == self.last {
            return prediction;
        }
        changed();
        self.last = aligned;
        self.changes += 1;
        aligned
    }
}

/// Counts a wrong guess. The function is out of line so that the caller has a branch: a conditional move would depend
/// on both lengths.
#[cold]
#[inline(never)]
fn changed() {}

/// Returns the value, but hides its origin from the compiler.
#[cfg(not(miri))]
#[inline(always)]
fn opaque(mut value: usize) -> usize {
    // SAFETY: no instruction, which changes nothing.
    unsafe { std::arch::asm!("/* {0} */", inout(reg) value, options(pure, nomem, nostack, preserves_flags)) };
    value
}

#[cfg(miri)]
fn opaque(value: usize) -> usize {
    value
}

/// Panics because the log was overwritten while it was read.
#[cold]
#[inline(never)]
fn impossible_frame(length: usize, offset: usize) -> ! {
    panic!("frame of {length} bytes at {offset}")
}

/// Progress of a poll in its term.
struct Progress<'a> {
    position: &'a AtomicCounter,
    /// Position of the first byte of the term.
    begin: i64,
    /// Offset that the counter shows.
    published: usize,
    /// Offset after the consumed frames.
    offset: usize,
}

impl Progress<'_> {
    #[inline(always)]
    fn publish(&mut self) {
        if self.offset > self.published {
            check_advance(self.published as i64, self.offset as i64);
            self.position.set_ordered(self.begin + self.offset as i64);
            self.published = self.offset;
        }
    }
}

impl Drop for Progress<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.publish();
    }
}

/// Returns the bytes that an assembled message occupies in the log, from its length and the payload of its first
/// fragment.
pub(crate) fn assembled_length(length: usize, first_payload: usize) -> usize {
    compute_fragmented_length(length, first_payload)
}
