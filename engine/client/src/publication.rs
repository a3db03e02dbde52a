//! Sending through shared and exclusive publications (spec 01 §2.6–2.11, §5.3).

use harrier_ringbuf::append::{Claim, ConcurrentAppender, ExclusiveAppender, OfferError};
use harrier_ringbuf::counters::{AtomicCounter, CountersReader};
use harrier_ringbuf::logbuffer::LogBuffers;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::release::{Release, ReleaseQueue};
use crate::resolve::{self, ChannelStatus};

/// Properties of a publication that the driver has reported. Its handles share them; dropping the last handle removes
/// the publication.
pub(crate) struct PublicationState {
    pub(crate) channel: String,
    pub(crate) stream_id: i32,
    pub(crate) session_id: i32,
    pub(crate) registration_id: i64,
    pub(crate) original_registration_id: i64,
    pub(crate) limit_counter_id: i32,
    pub(crate) channel_status_id: i32,
    pub(crate) log: LogBuffers,
    pub(crate) limit: AtomicCounter,
    pub(crate) closed: Arc<AtomicBool>,
    pub(crate) revoke_on_close: AtomicBool,
    pub(crate) releases: Arc<ReleaseQueue>,
}

impl PublicationState {
    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }
}

impl Drop for PublicationState {
    fn drop(&mut self) {
        if !self.is_closed() {
            self.releases.push(Release::Publication {
                registration_id: self.registration_id,
                revoke: self.revoke_on_close.load(Ordering::Relaxed),
            });
        }
    }
}

macro_rules! publication_facts {
    () => {
        /// Channel of the add.
        pub fn channel(&self) -> &str {
            &self.state.channel
        }

        /// Stream id within the channel.
        pub fn stream_id(&self) -> i32 {
            self.state.stream_id
        }

        /// Session id of the stream.
        pub fn session_id(&self) -> i32 {
            self.state.session_id
        }

        /// Correlation id of the command that added this publication.
        pub fn registration_id(&self) -> i64 {
            self.state.registration_id
        }

        /// Registration id of the log, which another add may have created.
        pub fn original_registration_id(&self) -> i64 {
            self.state.original_registration_id
        }

        /// True when this add created the log.
        pub fn is_original(&self) -> bool {
            self.state.registration_id == self.state.original_registration_id
        }

        /// Id of the counter that limits the position of the publisher.
        pub fn position_limit_id(&self) -> i32 {
            self.state.limit_counter_id
        }

        /// Id of the channel status counter; -1 for IPC.
        pub fn channel_status_id(&self) -> i32 {
            self.state.channel_status_id
        }

        /// Length of a term, bytes.
        pub fn term_buffer_length(&self) -> usize {
            self.state.log.term_length()
        }

        /// Term id of the stream's first term.
        pub fn initial_term_id(&self) -> i32 {
            self.state.log.initial_term_id()
        }

        /// Length of the longest message that can be offered, bytes.
        pub fn max_message_length(&self) -> usize {
            harrier_ringbuf::position::compute_max_message_length(self.state.log.term_length())
        }

        /// Length of the longest message that fits one frame and can be claimed, bytes.
        pub fn max_payload_length(&self) -> usize {
            self.state.log.mtu_length() - harrier_ringbuf::position::HEADER_LENGTH
        }

        /// Position up to which the publisher may write; 0 when it is closed.
        pub fn position_limit(&self) -> i64 {
            if self.is_closed() { 0 } else { self.state.limit.get() }
        }

        /// Bytes that the publisher may write before back pressure; 0 when it is closed.
        pub fn available_window(&self) -> i64 {
            if self.is_closed() { 0 } else { self.position_limit() - self.position() }
        }

        /// Position at which the stream has used up its terms.
        pub fn max_possible_position(&self) -> i64 {
            (self.state.log.term_length() as i64) << 31
        }

        /// Number of bits by which a term count is shifted in a position.
        pub fn position_bits_to_shift(&self) -> u32 {
            self.state.log.position_bits_to_shift()
        }

        /// True while there is a subscriber.
        pub fn is_connected(&self) -> bool {
            !self.is_closed() && self.state.log.is_connected()
        }

        /// True when the client or the driver has closed it.
        pub fn is_closed(&self) -> bool {
            self.state.is_closed()
        }

        /// State of the channel's socket.
        pub fn channel_status(&self, counters: &CountersReader) -> ChannelStatus {
            if self.is_closed() {
                return ChannelStatus::Closing;
            }
            resolve::channel_status(counters, self.state.channel_status_id)
        }

        /// Addresses to which the channel is bound; none until it is active.
        pub fn local_socket_addresses(&self, counters: &CountersReader) -> Vec<String> {
            resolve::local_socket_addresses(counters, self.state.channel_status_id)
        }

        /// Sends one message that is gathered from several parts, and stores a value in the header of each of its
        /// frames.
        ///
        /// # Errors
        ///
        /// See [`OfferError`].
        pub fn offer_with(&mut self, parts: &[&[u8]], reserved_value: i64) -> Result<i64, OfferError> {
            if self.closed.load(Ordering::Acquire) {
                return Err(OfferError::Closed);
            }
            self.appender.append(parts, Some(reserved_value), self.limit.get())
        }

        /// Sends one message.
        ///
        /// # Errors
        ///
        /// See [`OfferError`]. When [`OfferError::is_retryable`] is true, the same offer may succeed a moment later.
        #[inline]
        pub fn offer(&mut self, message: &[u8]) -> Result<i64, OfferError> {
            self.offer_parts(&[message])
        }
    };
}

/// A publication to which any number of threads and processes may write. Clones are cheap.
#[derive(Clone)]
pub struct Publication {
    appender: ConcurrentAppender,
    limit: AtomicCounter,
    closed: Arc<AtomicBool>,
    state: Arc<PublicationState>,
}

impl Publication {
    pub(crate) fn new(appender: ConcurrentAppender, state: PublicationState) -> Self {
        let (limit, closed) = (state.limit.clone(), state.closed.clone());
        Self { appender, limit, closed, state: Arc::new(state) }
    }

    publication_facts!();

    /// Position after everything that has been claimed so far.
    pub fn position(&self) -> i64 {
        self.state.log.producer_position()
    }

    /// Sends one message that is gathered from several parts; returns the position after it.
    ///
    /// # Errors
    /// See [`OfferError`].
    #[inline]
    pub fn offer_parts(&mut self, parts: &[&[u8]]) -> Result<i64, OfferError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(OfferError::Closed);
        }
        self.appender.append(parts, None, self.limit.get())
    }

    /// Claims space for a message of `length` bytes to be written in place.
    ///
    /// # Errors
    /// See [`OfferError`]; lengths over [`max_payload_length`](Self::max_payload_length) cannot be claimed.
    #[inline]
    pub fn try_claim(&mut self, length: usize) -> Result<Claim, OfferError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(OfferError::Closed);
        }
        self.appender.claim(length, self.limit.get())
    }
}

/// A publication with one writer and a session of its own. It is faster, and it can write blocks and padding.
pub struct ExclusivePublication {
    appender: ExclusiveAppender,
    limit: AtomicCounter,
    closed: Arc<AtomicBool>,
    state: Arc<PublicationState>,
}

impl ExclusivePublication {
    pub(crate) fn new(appender: ExclusiveAppender, state: PublicationState) -> Self {
        let (limit, closed) = (state.limit.clone(), state.closed.clone());
        Self { appender, limit, closed, state: Arc::new(state) }
    }

    publication_facts!();

    /// Position after everything that has been written so far.
    pub fn position(&self) -> i64 {
        self.appender.position()
    }

    /// Sends one message that is gathered from several parts; returns the position after it.
    ///
    /// # Errors
    /// See [`OfferError`].
    #[inline(always)]
    pub fn offer_parts(&mut self, parts: &[&[u8]]) -> Result<i64, OfferError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(OfferError::Closed);
        }
        self.appender.append(parts, None, self.limit.get())
    }

    /// Claims space for a message of `length` bytes to be written in place.
    ///
    /// # Errors
    /// See [`OfferError`]; lengths over [`max_payload_length`](Self::max_payload_length) cannot be claimed.
    #[inline]
    pub fn try_claim(&mut self, length: usize) -> Result<Claim, OfferError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(OfferError::Closed);
        }
        self.appender.claim(length, self.limit.get())
    }

    /// Appends whole frames in the form that a recording has (spec 01 §2.9 offerBlock).
    ///
    /// # Errors
    ///
    /// See [`OfferError`].
    pub fn offer_block(&mut self, frames: &[u8]) -> Result<i64, OfferError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(OfferError::Closed);
        }
        self.appender.offer_block(frames, self.limit.get())
    }

    /// Appends a padding frame over `length` bytes of payload (spec 01 §2.9 appendPadding).
    ///
    /// # Errors
    /// See [`OfferError`].
    pub fn append_padding(&mut self, length: usize) -> Result<i64, OfferError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(OfferError::Closed);
        }
        self.appender.append_padding(length, self.limit.get())
    }

    /// Term that is being written.
    pub fn term_id(&self) -> i32 {
        self.appender.term_id()
    }

    /// Offset in the term that is being written.
    pub fn term_offset(&self) -> i32 {
        self.appender.term_offset()
    }

    /// Ends the stream at once when this publication is dropped, without waiting for subscribers to drain it.
    pub fn revoke_on_close(&mut self) {
        self.state.revoke_on_close.store(true, Ordering::Relaxed);
    }

    /// Ends the stream at once.
    pub fn revoke(mut self) {
        self.revoke_on_close();
    }
}

impl fmt::Debug for PublicationState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Publication")
            .field("channel", &self.channel)
            .field("stream_id", &self.stream_id)
            .field("session_id", &self.session_id)
            .field("registration_id", &self.registration_id)
            .field("is_closed", &self.is_closed())
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Publication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}

impl fmt::Debug for ExclusivePublication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.state.fmt(f)
    }
}
