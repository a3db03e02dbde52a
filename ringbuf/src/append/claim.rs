//! Frames that are written in place.

use std::fmt;
use std::sync::atomic::Ordering;

use crate::frame::{
    FLAG_BEGIN, FLAG_END, RESERVED_VALUE_OFFSET, TYPE_DATA, TYPE_PAD, frame_length_acquire,
    set_flags_and_type, set_frame_length_ordered,
};
use crate::position::{HEADER_LENGTH, check_place};
use crate::{AtomicBuffer, Region};

/// A frame that is being written in place. Readers wait for it, so commit or abort it soon. A dropped claim is
/// aborted.
#[must_use = "an unfinished claim holds up every reader"]
pub struct Claim<R: Region = AtomicBuffer> {
    term: R,
    offset: usize,
    length: usize,
    position: i64,
    is_open: bool,
}

impl<R: Region> Claim<R> {
    pub(super) fn new(term: R, offset: usize, length: usize, position: i64) -> Self {
        check_place(offset, HEADER_LENGTH + length, term.capacity());
        Self { term, offset, length, position, is_open: true }
    }

    /// Bytes of payload.
    pub fn len(&self) -> usize {
        self.length
    }

    /// True when there is no payload.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Position of the stream after this message.
    pub fn position(&self) -> i64 {
        self.position
    }

    /// Writes bytes of the payload.
    ///
    /// # Panics
    /// Outside the claim.
    #[inline]
    pub fn put(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset <= self.length && bytes.len() <= self.length - offset, "write outside the claim");
        self.term.copy_in(self.offset + HEADER_LENGTH + offset, bytes);
    }

    /// Sets the user's value in the header.
    pub fn set_reserved_value(&mut self, value: i64) {
        self.term.store_i64(self.offset + RESERVED_VALUE_OFFSET, value, Ordering::Relaxed);
    }

    /// Sets the flags in the header.
    pub fn set_flags(&mut self, flags: u8) {
        set_flags_and_type(&self.term, self.offset, flags, TYPE_DATA);
    }

    /// Publishes the message.
    #[inline]
    pub fn commit(mut self) {
        self.is_open = false;
        set_frame_length_ordered(&self.term, self.offset, (self.length + HEADER_LENGTH) as i32);
    }

    /// Abandons the message; readers skip it.
    pub fn abort(mut self) {
        self.abort_open();
    }

    fn abort_open(&mut self) {
        if self.is_open {
            self.is_open = false;
            set_flags_and_type(&self.term, self.offset, FLAG_BEGIN | FLAG_END, TYPE_PAD);
            set_frame_length_ordered(&self.term, self.offset, (self.length + HEADER_LENGTH) as i32);
        }
    }
}

impl<R: Region> Drop for Claim<R> {
    fn drop(&mut self) {
        // A claim that the driver has unblocked meanwhile is padding already and stays padding.
        if self.is_open && frame_length_acquire(&self.term, self.offset) < 0 {
            self.abort_open();
        }
    }
}

impl<R: Region> fmt::Debug for Claim<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Claim({} bytes, ends at {})", self.length, self.position)
    }
}
