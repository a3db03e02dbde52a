//! Receiving the stream of one session (spec 01 §2.17).

use harrier_ringbuf::image_reader::{Action, Block, Header, ImageReader};
use harrier_ringbuf::logbuffer::LogBuffers;
use harrier_ringbuf::position::{check_place, index_by_position};
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A subscriber's view of one session of a stream.
///
/// One thread polls it. It closes when the stream has ended and was drained, when the sender has become silent, or
/// when its subscription is removed. A closed image delivers nothing and keeps its last position.
pub struct Image {
    reader: ImageReader,
    closed: Arc<AtomicBool>,
    frozen: bool,
    correlation_id: i64,
    session_id: i32,
    stream_id: i32,
    subscription_registration_id: i64,
    subscriber_position_id: i32,
    join_position: i64,
    source_identity: String,
    log_file: Box<Path>,
}

/// Whole frames that follow each other in one term, with their place in the log file (spec 01 §2.17, `rawPoll`).
#[derive(Debug, Clone, Copy)]
pub struct RawBlock<'a> {
    /// The log file. It is removed after the image has closed; whoever copies from it opens it once, early.
    pub file: &'a Path,
    /// Offset of the first frame in the file.
    pub file_offset: u64,
    /// The same frames in memory.
    pub block: Block<'a>,
}

/// Properties of an image that the driver has reported.
pub(crate) struct ImageFacts {
    pub(crate) correlation_id: i64,
    pub(crate) session_id: i32,
    pub(crate) stream_id: i32,
    pub(crate) subscription_registration_id: i64,
    pub(crate) subscriber_position_id: i32,
    pub(crate) source_identity: String,
    pub(crate) log_file: Box<Path>,
}

impl Image {
    pub(crate) fn new(reader: ImageReader, facts: ImageFacts, closed: Arc<AtomicBool>) -> Self {
        let join_position = reader.position();
        Self {
            reader,
            closed,
            frozen: false,
            correlation_id: facts.correlation_id,
            session_id: facts.session_id,
            stream_id: facts.stream_id,
            subscription_registration_id: facts.subscription_registration_id,
            subscriber_position_id: facts.subscriber_position_id,
            join_position,
            source_identity: facts.source_identity,
            log_file: facts.log_file,
        }
    }

    /// Id that the driver gave the image.
    pub fn correlation_id(&self) -> i64 {
        self.correlation_id
    }

    /// Session of the stream.
    pub fn session_id(&self) -> i32 {
        self.session_id
    }

    /// Stream id within the channel.
    pub fn stream_id(&self) -> i32 {
        self.stream_id
    }

    /// Registration id of the subscription.
    pub fn subscription_registration_id(&self) -> i64 {
        self.subscription_registration_id
    }

    /// Id of the counter that holds this subscriber's position.
    pub fn subscriber_position_id(&self) -> i32 {
        self.subscriber_position_id
    }

    /// Position at which this subscriber joined the stream.
    pub fn join_position(&self) -> i64 {
        self.join_position
    }

    /// Source of the stream: `address:port`, or `aeron:ipc`.
    pub fn source_identity(&self) -> &str {
        &self.source_identity
    }

    /// Length of a term, bytes.
    pub fn term_buffer_length(&self) -> usize {
        self.reader.log().term_length()
    }

    /// Term id of the stream's first term.
    pub fn initial_term_id(&self) -> i32 {
        self.reader.log().initial_term_id()
    }

    /// Length of the longest frame with its header, bytes.
    pub fn mtu_length(&self) -> usize {
        self.reader.log().mtu_length()
    }

    /// Log of the image.
    pub fn log(&self) -> &LogBuffers {
        self.reader.log()
    }

    /// Number of transports that feed the image now; 0 for IPC.
    pub fn active_transport_count(&self) -> i32 {
        if self.is_closed() { 0 } else { self.reader.log().active_transport_count() }
    }

    /// True when the publication was revoked, so that the stream may be cut short.
    pub fn is_publication_revoked(&self) -> bool {
        self.reader.log().is_publication_revoked()
    }

    /// True when nothing more will be delivered.
    pub fn is_closed(&self) -> bool {
        self.frozen || self.closed.load(Ordering::Acquire)
    }

    /// Position up to which messages have been consumed.
    pub fn position(&self) -> i64 {
        self.reader.position()
    }

    /// Position at which the stream ends; `i64::MAX` while it is unknown.
    pub fn end_of_stream_position(&self) -> i64 {
        self.reader.log().end_of_stream_position()
    }

    /// True when everything up to the end of the stream has been consumed.
    pub fn is_end_of_stream(&self) -> bool {
        self.reader.is_end_of_stream()
    }

    /// Delivers up to `limit` frames to `handler`; returns their number.
    #[inline]
    pub fn poll(&mut self, limit: usize, handler: &mut impl FnMut(&[u8], &Header<'_>)) -> usize {
        if self.check_closed() { 0 } else { self.reader.poll(limit, handler) }
    }

    /// Works as [`poll`](Self::poll), but `handler` decides about each frame.
    #[inline]
    pub fn controlled_poll(
        &mut self,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> usize {
        if self.check_closed() { 0 } else { self.reader.controlled_poll(limit, handler) }
    }

    /// Works as [`poll`](Self::poll), but stops before frames that start at or beyond `limit_position`.
    #[inline]
    pub fn bounded_poll(
        &mut self,
        limit_position: i64,
        limit: usize,
        handler: &mut impl FnMut(&[u8], &Header<'_>),
    ) -> usize {
        if self.check_closed() { 0 } else { self.reader.bounded_poll(limit_position, limit, handler) }
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
        if self.check_closed() {
            0
        } else {
            self.reader.bounded_controlled_poll(limit_position, limit, handler)
        }
    }

    /// Delivers frames from `from` up to `limit_position` without consuming them; returns the position after the last
    /// whole message after which `handler` continued.
    pub fn controlled_peek(
        &mut self,
        from: i64,
        limit_position: i64,
        handler: &mut impl FnMut(&[u8], &Header<'_>) -> Action,
    ) -> i64 {
        if self.check_closed() { from } else { self.reader.controlled_peek(from, limit_position, handler) }
    }

    /// Passes whole contiguous frames, up to `max_bytes` of them, to `handler`; returns their length.
    #[inline]
    pub fn block_poll(&mut self, max_bytes: usize, handler: &mut impl FnMut(Block<'_>)) -> usize {
        if self.check_closed() { 0 } else { self.reader.block_poll(max_bytes, handler) }
    }

    /// Works as [`block_poll`](Self::block_poll), and also tells `handler` where the frames are in the log file, so
    /// that the system can copy them.
    pub fn raw_poll(&mut self, max_bytes: usize, handler: &mut impl FnMut(RawBlock<'_>)) -> usize {
        if self.check_closed() {
            return 0;
        }
        let Self { reader, log_file, .. } = self;
        let term_length = reader.log().term_length();
        let index = index_by_position(reader.position(), reader.log().position_bits_to_shift());
        reader.block_poll(max_bytes, &mut |block| {
            check_place(block.offset, block.length, term_length);
            let file_offset = (term_length * index + block.offset) as u64;
            handler(RawBlock { file: log_file, file_offset, block });
        })
    }

    /// Returns whole contiguous frames from the position on, up to `max_bytes` of them, without consuming them. The
    /// caller then calls [`set_position`](Self::set_position).
    #[inline]
    pub fn peek_block(&mut self, max_bytes: usize) -> Option<Block<'_>> {
        if self.check_closed() { None } else { self.reader.peek_block(max_bytes) }
    }

    /// Moves the position within the present term, at most to its end; returns false when it cannot be moved to
    /// `position`.
    pub fn set_position(&mut self, position: i64) -> bool {
        !self.check_closed() && self.reader.set_position(position)
    }

    fn check_closed(&mut self) -> bool {
        if !self.frozen && self.closed.load(Ordering::Acquire) {
            self.reader.close();
            self.frozen = true;
        }
        self.frozen
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Image")
            .field("correlation_id", &self.correlation_id)
            .field("session_id", &self.session_id)
            .field("stream_id", &self.stream_id)
            .field("source_identity", &self.source_identity)
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}
