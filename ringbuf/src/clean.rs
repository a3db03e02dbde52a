//! Zeroing the part of a log that every subscriber has read (spec 01 §2.13, 02 §3.5).

use std::sync::atomic::Ordering;

use crate::Region;
use crate::logbuffer::LogBuffers;
use crate::position::{check_advance, check_place, index_by_position};

/// Cleans a publication's log from `clean_position` towards `position`, one piece at most up to the end of the term: the
/// first word of the piece goes last, so that a writer never sees a half-clean frame. Returns the new clean position.
pub fn clean_publication<R: Region>(log: &LogBuffers<R>, clean_position: i64, position: i64) -> i64 {
    let Some((index, offset, length)) = piece(log, clean_position, position) else { return clean_position };
    let term = log.term(index);
    term.zero(offset + 8, length - 8);
    term.store_i64(offset, 0, Ordering::Release);
    clean_position + length as i64
}

/// Cleans an image's log from `clean_position` towards `position`, one piece at most up to the end of the term: the last
/// word of the piece goes last. Returns the new clean position.
pub fn clean_image<R: Region>(log: &LogBuffers<R>, clean_position: i64, position: i64) -> i64 {
    let Some((index, offset, length)) = piece(log, clean_position, position) else { return clean_position };
    let term = log.term(index);
    term.zero(offset, length - 8);
    term.store_i64(offset + length - 8, 0, Ordering::Release);
    clean_position + length as i64
}

fn piece<R: Region>(
    log: &LogBuffers<R>,
    clean_position: i64,
    position: i64,
) -> Option<(usize, usize, usize)> {
    if position <= clean_position {
        return None;
    }
    let offset = (clean_position & (log.term_length() as i64 - 1)) as usize;
    let length = ((position - clean_position) as usize).min(log.term_length() - offset);
    check_advance(clean_position, clean_position + length as i64);
    check_place(offset, length, log.term_length());
    Some((index_by_position(clean_position, log.position_bits_to_shift()), offset, length))
}
