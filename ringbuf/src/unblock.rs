//! Unblocking a log whose publisher died inside an append (spec 01 §2.14).

use crate::Region;
use crate::frame::frame_length_acquire;
use crate::logbuffer::LogBuffers;
use crate::position::{FRAME_ALIGNMENT, index_by_term_count, tail_offset, tail_term_id};
use crate::rebuild::write_padding;

/// Result of unblocking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unblocked {
    /// Nothing blocked the log.
    NoAction,
    /// Padding was written, or the term was rotated.
    Unblocked,
    /// Padding was written to the end of the term, and the term was rotated.
    UnblockedToEnd,
}

/// Unblocks `log` when a dead publisher blocks it at `blocked_position`.
pub fn unblock<R: Region>(log: &LogBuffers<R>, blocked_position: i64) -> Unblocked {
    let bits = log.position_bits_to_shift();
    let blocked_count = (blocked_position >> bits) as i32;
    let offset = (blocked_position & (log.term_length() as i64 - 1)) as usize;
    let active_count = log.active_term_count();
    if active_count == blocked_count.wrapping_sub(1) && offset == 0 {
        let term_id = tail_term_id(log.raw_tail_acquire(index_by_term_count(active_count)));
        return if log.rotate(active_count, term_id) { Unblocked::Unblocked } else { Unblocked::NoAction };
    }
    let index = index_by_term_count(blocked_count);
    let raw_tail = log.raw_tail_acquire(index);
    let (term_id, tail) = (tail_term_id(raw_tail), tail_offset(raw_tail, log.term_length()));
    let term = log.term(index);
    let length = frame_length_acquire(term, offset);
    let header = log.default_header();
    if length < 0 {
        write_padding(term, &header, term_id, offset, (-length) as usize);
        return Unblocked::Unblocked;
    }
    if length > 0 {
        return Unblocked::NoAction;
    }
    let mut at = offset + FRAME_ALIGNMENT;
    while at < tail {
        if frame_length_acquire(term, at) != 0 {
            if !is_zero_between(term, offset, at) {
                return Unblocked::NoAction;
            }
            write_padding(term, &header, term_id, offset, at - offset);
            return Unblocked::Unblocked;
        }
        at += FRAME_ALIGNMENT;
    }
    if at == log.term_length() && frame_length_acquire(term, offset) == 0 {
        write_padding(term, &header, term_id, offset, log.term_length() - offset);
        log.rotate(blocked_count, term_id);
        return Unblocked::UnblockedToEnd;
    }
    Unblocked::NoAction
}

fn is_zero_between<R: Region>(term: &R, from: usize, to: usize) -> bool {
    let mut at = to;
    while at > from {
        at -= FRAME_ALIGNMENT;
        if frame_length_acquire(term, at) != 0 {
            return false;
        }
    }
    true
}
