//! Writing received frames into the log of an image (spec 01 §2.15, 02 §3.4).

use std::sync::atomic::Ordering;

use crate::Region;
use crate::frame::{
    FLAG_BEGIN, FLAG_END, HeaderTemplate, LENGTH_OFFSET, TYPE_PAD, frame_length_acquire, set_flags_and_type,
    set_frame_length_ordered,
};
use crate::position::{FRAME_ALIGNMENT, HEADER_LENGTH, check_place};

/// Inserts the frames of one datagram at `offset` of a term, unless that place is written already. `packet` must be
/// checked: it holds whole frames that lie inside the term. The length of the first frame is stored last, so that
/// readers see all frames or none.
#[inline]
pub fn insert<R: Region>(term: &R, offset: usize, packet: &[u8]) {
    check_place(offset, packet.len(), term.capacity());
    if frame_length_acquire(term, offset) != 0 {
        return;
    }
    let Some(first) = packet.first_chunk::<HEADER_LENGTH>() else { return };
    term.copy_in(offset + HEADER_LENGTH, &packet[HEADER_LENGTH..]);
    term.copy_in(offset + 8, &first[8..]);
    let word =
        i64::from_le_bytes([first[0], first[1], first[2], first[3], first[4], first[5], first[6], first[7]]);
    term.store_pair(offset + LENGTH_OFFSET, word, Ordering::Release);
}

/// Fills a gap with padding, unless something has arrived in it; returns true when it did.
pub fn fill_gap<R: Region>(
    term: &R,
    default_header: &[u8; HEADER_LENGTH],
    term_id: i32,
    gap_offset: usize,
    gap_length: usize,
) -> bool {
    check_place(gap_offset, gap_length, term.capacity());
    let mut at = gap_offset + gap_length;
    while at > gap_offset {
        at -= FRAME_ALIGNMENT;
        if frame_length_acquire(term, at) != 0 {
            return false;
        }
    }
    write_padding(term, default_header, term_id, gap_offset, gap_length);
    true
}

/// Writes one padding frame over a range that no other thread writes.
pub(crate) fn write_padding<R: Region>(
    term: &R,
    default_header: &[u8; HEADER_LENGTH],
    term_id: i32,
    offset: usize,
    length: usize,
) {
    let template = HeaderTemplate::of(default_header);
    template.write(term, offset, length, template.term_word(term_id));
    set_flags_and_type(term, offset, FLAG_BEGIN | FLAG_END, TYPE_PAD);
    set_frame_length_ordered(term, offset, length as i32);
}
