//! Writing to a log: concurrent and exclusive appenders, claims (spec 01 §2.6–2.11).

mod claim;

use std::sync::atomic::Ordering;

use thiserror::Error;

use crate::frame::{
    FLAG_BEGIN, FLAG_END, HeaderTemplate, RESERVED_VALUE_OFFSET, TYPE_DATA, TYPE_PAD, TermWord,
    set_flags_and_type, set_frame_length_ordered,
};
use crate::logbuffer::LogBuffers;
use crate::position::{
    FRAME_ALIGNMENT, HEADER_LENGTH, align, check_place, compute_fragmented_length,
    compute_max_message_length, compute_position, compute_term_begin_position, index_by_term_count,
    max_possible_position, pack_tail, position_bits_to_shift, tail_offset, tail_term_id, term_count,
};
use crate::{AtomicBuffer, Region};

pub use claim::Claim;

/// Reason why a message was not taken (spec 01 §2.6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum OfferError {
    /// There is no subscriber.
    #[error("publication is not connected: there is no subscriber")]
    NotConnected,
    /// Subscribers, the sender or flow control hold the stream back.
    #[error("publication is back-pressured: subscribers have to catch up")]
    BackPressured,
    /// The term was rotated; the next attempt goes to the next term.
    #[error("publication is rotating to the next term; retry at once")]
    AdminAction,
    /// The publication is closed.
    #[error("publication is closed")]
    Closed,
    /// The stream has reached its last position.
    #[error("stream has reached its last position; add a new publication or use longer terms")]
    MaxPositionExceeded,
    /// The message is longer than the stream allows.
    #[error("message of {length} bytes, at most {max} are allowed here; use longer terms or split it")]
    MessageTooLong {
        /// Bytes of the message.
        length: usize,
        /// Most bytes allowed.
        max: usize,
    },
    /// Frames that do not continue the stream.
    #[error("block does not continue the stream at term {term_id} offset {term_offset}")]
    BadBlock {
        /// Term in which the block would start.
        term_id: i32,
        /// Offset at which the block would start.
        term_offset: i32,
    },
}

impl OfferError {
    /// True when the same offer may succeed a moment later without any other change.
    pub fn is_retryable(self) -> bool {
        matches!(self, Self::BackPressured | Self::AdminAction)
    }
}

/// Distance of the prefetch ahead of the stores of an exclusive publication, bytes: a reader that follows closely has
/// loaded those lines.
const AHEAD_BYTES: usize = 2_048;

/// The parts of a message as one run of bytes, read in order.
struct Gather<'a, 'b> {
    parts: &'a [&'b [u8]],
    part: usize,
    offset: usize,
}

impl<'a, 'b> Gather<'a, 'b> {
    fn new(parts: &'a [&'b [u8]]) -> Self {
        Self { parts, part: 0, offset: 0 }
    }

    /// Copies the next `length` bytes to `to`.
    #[inline(always)]
    fn copy<R: Region>(&mut self, term: &R, mut to: usize, mut length: usize) {
        while length > 0 {
            let rest = &self.parts[self.part][self.offset..];
            let taken = rest.len().min(length);
            term.copy_in(to, &rest[..taken]);
            to += taken;
            length -= taken;
            self.offset += taken;
            if taken == rest.len() {
                self.part += 1;
                self.offset = 0;
            }
        }
    }
}

/// State of the stream that both appenders share.
#[derive(Debug, Clone)]
struct Stream<R: Region> {
    log: LogBuffers<R>,
    template: HeaderTemplate,
    bits: u32,
    max_payload: usize,
    max_message: usize,
    max_position: i64,
}

impl<R: Region> Stream<R> {
    fn new(log: LogBuffers<R>) -> Self {
        let template = HeaderTemplate::of(&log.default_header());
        let term_length = log.term_length();
        Self {
            template,
            bits: position_bits_to_shift(term_length),
            max_payload: log.mtu_length() - HEADER_LENGTH,
            max_message: compute_max_message_length(term_length),
            max_position: max_possible_position(term_length),
            log,
        }
    }

    #[cold]
    fn refusal(&self, position: i64, length: usize) -> OfferError {
        if position + align(length + HEADER_LENGTH, FRAME_ALIGNMENT) as i64 >= self.max_position {
            OfferError::MaxPositionExceeded
        } else if self.log.is_connected() {
            OfferError::BackPressured
        } else {
            OfferError::NotConnected
        }
    }

    #[inline(always)]
    fn required(&self, length: usize) -> Result<usize, OfferError> {
        if length <= self.max_payload {
            return Ok(align(length + HEADER_LENGTH, FRAME_ALIGNMENT));
        }
        self.required_fragmented(length)
    }

    #[cold]
    fn required_fragmented(&self, length: usize) -> Result<usize, OfferError> {
        if length <= self.max_message {
            Ok(compute_fragmented_length(length, self.max_payload))
        } else {
            Err(OfferError::MessageTooLong { length, max: self.max_message })
        }
    }

    #[inline(always)]
    fn write_message(
        &self,
        term: &R,
        offset: usize,
        word: TermWord,
        length: usize,
        parts: &[&[u8]],
        reserved_value: Option<i64>,
    ) {
        if let ([payload], None) = (parts, reserved_value)
            && length <= self.max_payload
        {
            self.template.write_frame(term, offset, word, payload);
        } else if length <= self.max_payload {
            self.template.write(term, offset, length + HEADER_LENGTH, word);
            let mut to = offset + HEADER_LENGTH;
            for part in parts {
                term.copy_in(to, part);
                to += part.len();
            }
            if let Some(value) = reserved_value {
                term.store_i64(offset + RESERVED_VALUE_OFFSET, value, Ordering::Relaxed);
            }
            set_frame_length_ordered(term, offset, (length + HEADER_LENGTH) as i32);
        } else {
            self.write_fragments(term, offset, word, length, parts, reserved_value);
        }
    }

    #[inline(never)]
    fn write_fragments(
        &self,
        term: &R,
        mut offset: usize,
        word: TermWord,
        length: usize,
        parts: &[&[u8]],
        reserved_value: Option<i64>,
    ) {
        let mut gather = Gather::new(parts);
        let mut rest = length;
        let mut flags = FLAG_BEGIN;
        while rest > 0 {
            let payload = rest.min(self.max_payload);
            rest -= payload;
            self.template.write(term, offset, payload + HEADER_LENGTH, word);
            gather.copy(term, offset + HEADER_LENGTH, payload);
            if rest == 0 {
                flags |= FLAG_END;
            }
            set_flags_and_type(term, offset, flags, TYPE_DATA);
            if let Some(value) = reserved_value {
                term.store_i64(offset + RESERVED_VALUE_OFFSET, value, Ordering::Relaxed);
            }
            set_frame_length_ordered(term, offset, (payload + HEADER_LENGTH) as i32);
            offset += align(payload + HEADER_LENGTH, FRAME_ALIGNMENT);
            flags = 0;
        }
        check_place(offset, 0, term.capacity());
    }

    /// Writes padding from `offset` to the end of the term.
    fn pad_to_end(&self, term: &R, offset: usize, term_id: i32) {
        let length = self.log.term_length() - offset;
        self.template.write(term, offset, length, self.template.term_word(term_id));
        set_flags_and_type(term, offset, FLAG_BEGIN | FLAG_END, TYPE_PAD);
        set_frame_length_ordered(term, offset, length as i32);
    }
}

fn total_length(parts: &[&[u8]]) -> usize {
    parts.iter().map(|part| part.len()).sum()
}

/// Appends to a log that other threads and processes append to as well.
#[derive(Debug, Clone)]
pub struct ConcurrentAppender<R: Region = AtomicBuffer> {
    stream: Stream<R>,
}

impl<R: Region> ConcurrentAppender<R> {
    /// Creates an appender on the log of a concurrent publication.
    pub fn new(log: LogBuffers<R>) -> Self {
        Self { stream: Stream::new(log) }
    }

    /// Appends one message, in fragments when it does not fit a frame; returns the position after it. `limit` is the
    /// publisher limit.
    ///
    /// # Errors
    /// See [`OfferError`].
    #[inline]
    pub fn append(
        &self,
        parts: &[&[u8]],
        reserved_value: Option<i64>,
        limit: i64,
    ) -> Result<i64, OfferError> {
        let length = total_length(parts);
        let required = self.stream.required(length)?;
        let (index, offset, term_id, position) = self.reserve(required, length, limit)?;
        let stream = &self.stream;
        let word = stream.template.term_word(term_id);
        stream.write_message(stream.log.term(index), offset, word, length, parts, reserved_value);
        Ok(position)
    }

    /// Claims a frame for `length` bytes of payload.
    ///
    /// # Errors
    /// See [`OfferError`]; only what fits one frame can be claimed.
    #[inline]
    pub fn claim(&self, length: usize, limit: i64) -> Result<Claim<R>, OfferError> {
        let max = self.stream.max_payload;
        if length > max {
            return Err(OfferError::MessageTooLong { length, max });
        }
        let required = align(length + HEADER_LENGTH, FRAME_ALIGNMENT);
        let (index, offset, term_id, position) = self.reserve(required, length, limit)?;
        let template = &self.stream.template;
        let term = self.stream.log.term(index);
        template.write(term, offset, length + HEADER_LENGTH, template.term_word(term_id));
        Ok(Claim::new(term.clone(), offset, length, position))
    }

    /// Moves the tail; returns partition, offset, term id and the position after the message (spec 01 §2.8).
    #[inline(always)]
    fn reserve(
        &self,
        required: usize,
        length: usize,
        limit: i64,
    ) -> Result<(usize, usize, i32, i64), OfferError> {
        let stream = &self.stream;
        let log = &stream.log;
        let count = log.active_term_count();
        let index = index_by_term_count(count);
        let raw_tail = log.raw_tail_acquire(index);
        let term_id = tail_term_id(raw_tail);
        if count != term_count(term_id, log.initial_term_id()) {
            return Err(OfferError::AdminAction);
        }
        let offset = tail_offset(raw_tail, log.term_length());
        let position = compute_position(term_id, offset as i32, stream.bits, log.initial_term_id());
        if position >= limit {
            return Err(stream.refusal(position, length));
        }
        let raw_tail = log.fetch_add_raw_tail(index, required);
        let term_id = tail_term_id(raw_tail);
        let offset = tail_offset(raw_tail, log.term_length());
        let end = offset + required;
        let begin = compute_term_begin_position(term_id, stream.bits, log.initial_term_id());
        let new_position = begin + end as i64;
        if end > log.term_length() {
            return Err(self.end_of_term(index, offset, term_id, new_position));
        }
        Ok((index, offset, term_id, new_position))
    }

    #[cold]
    fn end_of_term(&self, index: usize, offset: usize, term_id: i32, new_position: i64) -> OfferError {
        let log = &self.stream.log;
        if offset < log.term_length() {
            self.stream.pad_to_end(log.term(index), offset, term_id);
        }
        if new_position >= self.stream.max_position {
            return OfferError::MaxPositionExceeded;
        }
        log.rotate(term_count(term_id, log.initial_term_id()), term_id);
        OfferError::AdminAction
    }
}

/// Appends to a log as its only writer.
#[derive(Debug)]
pub struct ExclusiveAppender<R: Region = AtomicBuffer> {
    stream: Stream<R>,
    /// Partition that is being written.
    term: R,
    /// Tail counter of the partition.
    tail: R,
    /// Words that all frames of the partition share.
    word: TermWord,
    term_id: i32,
    term_offset: usize,
    begin: i64,
}

impl<R: Region> ExclusiveAppender<R> {
    /// Creates the appender of an exclusive publication's log; it continues at the tail of the active term.
    pub fn new(log: LogBuffers<R>) -> Self {
        let stream = Stream::new(log);
        let index = index_by_term_count(stream.log.active_term_count());
        let raw_tail = stream.log.raw_tail_acquire(index);
        let term_id = tail_term_id(raw_tail);
        let begin = compute_term_begin_position(term_id, stream.bits, stream.log.initial_term_id());
        let term_offset = tail_offset(raw_tail, stream.log.term_length());
        Self {
            term: stream.log.term(index).clone(),
            tail: stream.log.raw_tail(index),
            word: stream.template.term_word(term_id),
            stream,
            term_id,
            term_offset,
            begin,
        }
    }

    /// Position after everything that was appended.
    #[inline(always)]
    pub fn position(&self) -> i64 {
        self.begin + self.term_offset as i64
    }

    /// Term that is being written.
    pub fn term_id(&self) -> i32 {
        self.term_id
    }

    /// Offset in the term that is being written.
    pub fn term_offset(&self) -> i32 {
        self.term_offset as i32
    }

    /// Appends one message, in fragments when it does not fit a frame; returns the position after it. `limit` is the
    /// publisher limit.
    ///
    /// # Errors
    /// See [`OfferError`].
    #[inline(always)]
    pub fn append(
        &mut self,
        parts: &[&[u8]],
        reserved_value: Option<i64>,
        limit: i64,
    ) -> Result<i64, OfferError> {
        if let ([payload], None) = (parts, reserved_value)
            && payload.len() <= self.stream.max_payload
        {
            let required = align(payload.len() + HEADER_LENGTH, FRAME_ALIGNMENT);
            let (offset, position) = self.reserve(required, payload.len(), limit)?;
            self.stream.template.write_frame(&self.term, offset, self.word, payload);
            return Ok(position);
        }
        self.append_parts(parts, reserved_value, limit)
    }

    fn append_parts(
        &mut self,
        parts: &[&[u8]],
        reserved_value: Option<i64>,
        limit: i64,
    ) -> Result<i64, OfferError> {
        let length = total_length(parts);
        let required = self.stream.required(length)?;
        let (offset, position) = self.reserve(required, length, limit)?;
        self.stream.write_message(&self.term, offset, self.word, length, parts, reserved_value);
        Ok(position)
    }

    /// Claims a frame for `length` bytes of payload.
    ///
    /// # Errors
    /// See [`OfferError`]; only what fits one frame can be claimed.
    #[inline]
    pub fn claim(&mut self, length: usize, limit: i64) -> Result<Claim<R>, OfferError> {
        let max = self.stream.max_payload;
        if length > max {
            return Err(OfferError::MessageTooLong { length, max });
        }
        let required = align(length + HEADER_LENGTH, FRAME_ALIGNMENT);
        let (offset, position) = self.reserve(required, length, limit)?;
        self.stream.template.write(&self.term, offset, length + HEADER_LENGTH, self.word);
        Ok(Claim::new(self.term.clone(), offset, length, position))
    }

    /// Appends padding over `length` bytes of payload (spec 01 §2.9).
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn append_padding(&mut self, length: usize, limit: i64) -> Result<i64, OfferError> {
        let max = compute_fragmented_length(self.stream.max_message, self.stream.max_payload);
        if length > max {
            return Err(OfferError::MessageTooLong { length, max });
        }
        let required = align(length + HEADER_LENGTH, FRAME_ALIGNMENT);
        let (offset, position) = self.reserve(required, length, limit)?;
        let term = &self.term;
        self.stream.template.write(term, offset, length + HEADER_LENGTH, self.word);
        set_flags_and_type(term, offset, FLAG_BEGIN | FLAG_END, TYPE_PAD);
        set_frame_length_ordered(term, offset, (length + HEADER_LENGTH) as i32);
        Ok(position)
    }

    /// Appends whole frames that continue the stream (spec 01 §2.9).
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn offer_block(&mut self, frames: &[u8], limit: i64) -> Result<i64, OfferError> {
        if self.term_offset >= self.stream.log.term_length() {
            self.rotate_term()?;
        }
        if self.position() >= limit {
            return Err(self.stream.refusal(self.position(), frames.len()));
        }
        let max = self.stream.log.term_length() - self.term_offset;
        if frames.len() > max {
            return Err(OfferError::MessageTooLong { length: frames.len(), max });
        }
        let Some(first) = frames.first_chunk::<HEADER_LENGTH>() else { return Err(self.bad_block()) };
        let header = crate::frame::FrameHeader(*first);
        let expected = crate::frame::FrameHeader(self.stream.log.default_header());
        if header.frame_type() != TYPE_DATA
            || header.term_offset() != self.term_offset as i32
            || header.term_id() != self.term_id
            || header.session_id() != expected.session_id()
            || header.stream_id() != expected.stream_id()
            || !frames.len().is_multiple_of(FRAME_ALIGNMENT)
        {
            return Err(self.bad_block());
        }
        let end = self.term_offset + frames.len();
        self.set_tail(end);
        let term = &self.term;
        let at = self.term_offset;
        term.copy_in(at + HEADER_LENGTH, &frames[HEADER_LENGTH..]);
        term.copy_in(at + 8, &first[8..]);
        let word = i64::from_le_bytes([
            first[0], first[1], first[2], first[3], first[4], first[5], first[6], first[7],
        ]);
        term.store_pair(at, word, Ordering::Release);
        self.term_offset = end;
        Ok(self.position())
    }

    fn bad_block(&self) -> OfferError {
        OfferError::BadBlock { term_id: self.term_id, term_offset: self.term_offset as i32 }
    }

    #[inline(always)]
    fn set_tail(&self, offset: usize) {
        self.tail.store_i64(0, pack_tail(self.term_id, offset as i32), Ordering::Release);
    }

    /// Moves the tail; returns the offset of the message and the position after it.
    #[inline(always)]
    fn reserve(&mut self, required: usize, length: usize, limit: i64) -> Result<(usize, i64), OfferError> {
        let position = self.position();
        if position >= limit {
            return Err(self.stream.refusal(position, length));
        }
        let offset = self.term_offset;
        let end = offset + required;
        self.set_tail(end);
        if end > self.term.capacity() {
            return Err(self.end_of_term());
        }
        check_place(offset, required, self.term.capacity());
        self.term_offset = end;
        self.term.expect_store(end + AHEAD_BYTES);
        Ok((offset, position + required as i64))
    }

    #[cold]
    fn end_of_term(&mut self) -> OfferError {
        let log = &self.stream.log;
        if self.term_offset < log.term_length() {
            self.stream.pad_to_end(&self.term, self.term_offset, self.term_id);
        }
        match self.rotate_term() {
            Ok(()) => OfferError::AdminAction,
            Err(error) => error,
        }
    }

    fn rotate_term(&mut self) -> Result<(), OfferError> {
        let log = &self.stream.log;
        if self.begin + log.term_length() as i64 >= self.stream.max_position {
            self.term_offset = log.term_length();
            return Err(OfferError::MaxPositionExceeded);
        }
        check_place(self.term_offset, 0, log.term_length());
        self.term_id = self.term_id.wrapping_add(1);
        self.term_offset = 0;
        self.begin += log.term_length() as i64;
        let count = term_count(self.term_id, log.initial_term_id());
        let index = index_by_term_count(count);
        self.term = log.term(index).clone();
        self.tail = log.raw_tail(index);
        self.word = self.stream.template.term_word(self.term_id);
        self.set_tail(0);
        self.stream.log.set_active_term_count_ordered(count);
        Ok(())
    }
}
