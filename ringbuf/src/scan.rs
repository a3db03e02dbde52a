//! Scans of a term for frames to send, for gaps, and for blocks (spec 01 §2.17, §2.20, 02 §3.5).

use crate::Region;
use crate::frame::{frame_length_acquire, is_padding};
use crate::position::{FRAME_ALIGNMENT, HEADER_LENGTH, align};

/// Frames that may be sent from an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Available {
    /// Bytes that can be sent; negative when the first frame alone is longer than allowed.
    pub bytes: isize,
    /// Bytes after them that padding covers and that are not sent.
    pub padding: usize,
}

/// Scans whole frames from `offset` on for sending, at most `max_length` bytes (spec 01 §2.20).
#[inline]
pub fn scan_for_availability<R: Region>(term: &R, offset: usize, max_length: usize) -> Available {
    let limit = max_length.min(term.capacity() - offset);
    let mut available = 0;
    let mut padding = 0;
    loop {
        let at = offset + available;
        if at >= term.capacity() {
            break;
        }
        let length = frame_length_acquire(term, at);
        if length <= 0 {
            break;
        }
        let aligned = align(length as usize, FRAME_ALIGNMENT);
        let is_padding = is_padding(term, at);
        let sent = if is_padding { HEADER_LENGTH } else { aligned };
        if available + sent > limit {
            if available == 0 {
                return Available { bytes: -(sent as isize), padding: 0 };
            }
            break;
        }
        available += sent;
        if is_padding {
            // Padding ends with its term, whatever its writer says.
            padding = (aligned - HEADER_LENGTH).min(term.capacity() - at - HEADER_LENGTH);
            break;
        }
        if available >= limit {
            break;
        }
    }
    Available { bytes: available as isize, padding }
}

/// Returns the length of whole frames from `offset` on, at most `max_bytes`. Padding ends the block, or is the only
/// frame in it.
#[inline]
pub fn block_scan<R: Region>(term: &R, offset: usize, max_bytes: usize) -> usize {
    let mut at = offset;
    while at < term.capacity() {
        let length = frame_length_acquire(term, at);
        if length <= 0 {
            break;
        }
        let aligned = align(length as usize, FRAME_ALIGNMENT);
        if is_padding(term, at) {
            if at == offset {
                at += aligned;
            }
            break;
        }
        if at + aligned - offset > max_bytes {
            break;
        }
        at += aligned;
    }
    at - offset
}

/// A range of bytes that have not arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap {
    /// Offset in the term.
    pub offset: usize,
    /// Length of the gap, bytes.
    pub length: usize,
}

/// Follows frames from `offset` up to `limit`; returns the offset up to which there is no gap, and the first gap
/// (spec 02 §3.5).
pub fn gap_scan<R: Region>(term: &R, offset: usize, limit: usize) -> (usize, Option<Gap>) {
    let mut at = offset;
    while at < limit {
        let length = frame_length_acquire(term, at);
        if length <= 0 {
            break;
        }
        at += align(length as usize, FRAME_ALIGNMENT);
    }
    if at >= limit {
        return (at, None);
    }
    let begin = at;
    let end = limit.min(term.capacity());
    let mut after = begin + FRAME_ALIGNMENT;
    while after < end && frame_length_acquire(term, after) == 0 {
        after += FRAME_ALIGNMENT;
    }
    (begin, Some(Gap { offset: begin, length: after.min(end) - begin }))
}
