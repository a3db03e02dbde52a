//! Reading a log at a subscriber's own pace (spec 01 §2.17, §2.18).

use std::sync::atomic::Ordering;

use crate::counters::AtomicCounter;
use crate::frame::{FLAG_BEGIN, FLAG_END, FrameHeader, TYPE_PAD};
use crate::logbuffer::LogBuffers;
use crate::position::{
    FRAME_ALIGNMENT, HEADER_LENGTH, align, check_advance, compute_fragmented_length, compute_position,
    index_by_position, position_bits_to_shift,
};
use crate::{AtomicBuffer, Region};

/// What becomes of a frame after its handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Not consumed: the poll stops and delivers it again next time.
    Abort,
    /// Consumed; the poll stops.
    Break,
    /// Consumed, and the position is published at once.
    Commit,
    /// Consumed; the position is published at the end of the poll.
    Continue,
}

/// The header of a delivered frame or assembled message.
#[derive(Debug, Clone, Copy)]
pub struct Header<'a> {
    frame: &'a FrameHeader,
    initial_term_id: i32,
    bits: u32,
    /// Bytes that an assembled message takes in the log; 0 for a single frame.
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

    /// Header and payload of the frame or message, bytes.
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

/// Whole frames that lie behind each other in one term.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    /// The term.
    pub term: &'a AtomicBuffer,
    /// Where the first frame starts in the term.
    pub offset: usize,
    /// Bytes of the frames; for a padding frame, which comes alone, all that it covers.
    pub length: usize,
    /// Session of the stream.
    pub session_id: i32,
    /// Term id.
    pub term_id: i32,
}

/// How far ahead a reader that finds several frames asks for the memory: the writer is probably beyond it. One that finds
/// single frames does not, for it would take from the writer what that is about to write.
const AHEAD_BYTES: usize = 4_096;

/// A position in a log and how to move on from it.
#[derive(Debug)]
pub struct ImageReader {
    log: LogBuffers,
    position: AtomicCounter,
    bits: u32,
    mask: i64,
    closed_at: Option<i64>,
}

impl ImageReader {
    /// Reads `log` from the value of `position`, a counter that this reader alone writes and that limits the writers.
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

    /// Stops reading; the position stays what it is, whatever becomes of the counter.
    pub fn close(&mut self) {
        self.closed_at.get_or_insert(self.position.get_plain());
    }

    /// True once everything up to the end of the stream has been consumed.
    pub fn is_end_of_stream(&self) -> bool {
        self.position() >= self.log.end_of_stream_position()
    }

    /// Moves on without reading, within the present term; false when `position` cannot be moved to.
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

    /// Delivers up to `limit` frames; returns how many.
    #[inline]
    pub fn poll(&mut self, limit: usize, handler: &mut impl FnMut(&[u8], &Header<'_>)) -> usize {
        self.scan(i64::MAX, limit, &mut |payload, header| {
            handler(payload, header);
            Action::Continue
        })
    }

    /// As [`poll`](Self::poll), but `handler` decides what becomes of each frame.
    #[inline]
    pub fn controlled_poll(
        &mut self,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> usize {
        self.scan(i64::MAX, limit, handler)
    }

    /// As [`poll`](Self::poll), but stops before frames that start at or beyond `limit_position`.
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

    /// As [`controlled_poll`](Self::controlled_poll), but stops before frames that start at or beyond `limit_position`.
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
        // Publishes what was consumed also when a handler panics.
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

    /// Looks at frames from `from` on without consuming them, up to `limit_position`; returns the position after the last
    /// whole message.
    pub fn controlled_peek(
        &mut self,
        from: i64,
        limit_position: i64,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> i64 {
        let own = self.position();
        if self.closed_at.is_some() || from < own || from > (own & !self.mask) + self.mask + 1 {
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

    /// Whole frames from the position on, up to `max_bytes` of them and contiguous, without consuming them: who is done
    /// with them calls [`set_position`](Self::set_position). A padding frame comes alone, also when it is longer.
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

    /// Hands whole frames, up to `max_bytes` of them and contiguous, to `handler` and consumes them; returns their
    /// bytes. A padding frame comes alone, also when it is longer.
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
    /// What it takes in the term, bytes.
    aligned: usize,
    is_padding: bool,
}

impl Frame {
    /// The frame at `offset`; `None` while it is not committed. Length and type come with one load.
    #[inline(always)]
    fn committed_at(term: &AtomicBuffer, offset: usize) -> Option<Self> {
        let word = term.load_pair(offset, Ordering::Acquire);
        let length = word as i32;
        if length <= 0 {
            return None;
        }
        let length = length as usize;
        // Terms and offsets are multiples of the alignment: a frame that ends inside does so with its padding as well.
        if length < HEADER_LENGTH || length > term.capacity() - offset {
            impossible_frame(length, offset);
        }
        let is_padding = (word >> 48) as u16 == TYPE_PAD;
        Some(Self { length, aligned: align(length, FRAME_ALIGNMENT), is_padding })
    }

    /// Header and payload.
    ///
    /// # Safety
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

/// Lengths that may differ from the one before within a poll, until it is no longer expected that they are the same: a wrong
/// guess costs more than a right one saves.
const CHANGES: usize = 8;

/// How far it is from one frame to the next: probably as far as last time. Where the next frame starts depends on a length
/// that may still be on its way from another core. A branch on whether it is what it was lets the processor go on as if it
/// were, and so wait for many lines at once instead of for one after the other.
#[derive(Default)]
struct Stride {
    last: usize,
    changes: usize,
}

impl Stride {
    /// `aligned`, not computed from it when it is what it was last time.
    #[inline(always)]
    fn predict(&mut self, aligned: usize) -> usize {
        if self.changes > CHANGES {
            return aligned;
        }
        // Before the comparison: the compiler would take the one for the other where it knows that they are equal.
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

/// Out of line so that what leads here stays a branch: a conditional move would depend on both lengths.
#[cold]
#[inline(never)]
fn changed() {}

/// The value, of which the compiler does not know where it comes from.
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

/// Ends the reading of a log that somebody has overwritten.
#[cold]
#[inline(never)]
fn impossible_frame(length: usize, offset: usize) -> ! {
    panic!("frame of {length} bytes at {offset}")
}

/// How far a poll has come in its term.
struct Progress<'a> {
    position: &'a AtomicCounter,
    /// Position of the term's first byte.
    begin: i64,
    /// Offset that the counter stands for.
    published: usize,
    /// Offset behind what was consumed.
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

/// Bytes of an assembled message in the log, from its length and the payload of its first fragment.
pub(crate) fn assembled_length(length: usize, first_payload: usize) -> usize {
    compute_fragmented_length(length, first_payload)
}
