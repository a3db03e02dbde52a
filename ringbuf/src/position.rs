//! Positions and terms (spec 01 §1.1, §2.5).

/// Smallest term, bytes.
pub const TERM_MIN_LENGTH: usize = 64 * 1024;
/// Largest term, bytes.
pub const TERM_MAX_LENGTH: usize = 1024 * 1024 * 1024;
/// Terms in a log.
pub const PARTITION_COUNT: usize = 3;
/// Alignment of frames, bytes.
pub const FRAME_ALIGNMENT: usize = 32;
/// Length of a frame header, bytes.
pub const HEADER_LENGTH: usize = 32;
/// Length of the longest frame with its header, bytes.
pub const MAX_MTU_LENGTH: usize = 65_504;
/// Longest message of any term length, bytes.
pub const MAX_MESSAGE_LENGTH: usize = 16 * 1024 * 1024;
/// Null value of ids.
pub const NULL_VALUE: i64 = -1;

/// Rounds up to a multiple of a power of two.
#[inline(always)]
pub const fn align(value: usize, alignment: usize) -> usize {
    (value + (alignment - 1)) & !(alignment - 1)
}

/// Returns the binary logarithm of a term length.
#[inline]
pub const fn position_bits_to_shift(term_length: usize) -> u32 {
    term_length.trailing_zeros()
}

/// Returns the number of terms before `term_id`; it wraps as the ids do.
#[inline(always)]
pub const fn term_count(term_id: i32, initial_term_id: i32) -> i32 {
    term_id.wrapping_sub(initial_term_id)
}

/// Position of an offset in a term.
#[inline(always)]
pub const fn compute_position(term_id: i32, term_offset: i32, bits: u32, initial_term_id: i32) -> i64 {
    ((term_count(term_id, initial_term_id) as i64) << bits) + term_offset as i64
}

/// Position of a term's first byte.
#[inline(always)]
pub const fn compute_term_begin_position(term_id: i32, bits: u32, initial_term_id: i32) -> i64 {
    (term_count(term_id, initial_term_id) as i64) << bits
}

/// Term that holds a position.
#[inline(always)]
pub const fn compute_term_id_from_position(position: i64, bits: u32, initial_term_id: i32) -> i32 {
    ((position >> bits) as i32).wrapping_add(initial_term_id)
}

/// Offset of a position in its term.
#[inline(always)]
pub const fn compute_term_offset_from_position(position: i64, bits: u32) -> i32 {
    (position & ((1 << bits) - 1)) as i32
}

/// Partition that holds a position.
#[inline(always)]
pub const fn index_by_position(position: i64, bits: u32) -> usize {
    ((position >> bits) % PARTITION_COUNT as i64) as usize
}

/// Partition of the term with this count.
#[inline(always)]
pub const fn index_by_term_count(term_count: i32) -> usize {
    (term_count as i64 % PARTITION_COUNT as i64) as usize
}

/// First position that no stream of this term length can reach.
#[inline(always)]
pub const fn max_possible_position(term_length: usize) -> i64 {
    (term_length as i64) << 31
}

/// Longest message of a stream, bytes.
#[inline]
pub const fn compute_max_message_length(term_length: usize) -> usize {
    let eighth = term_length / 8;
    if eighth < MAX_MESSAGE_LENGTH { eighth } else { MAX_MESSAGE_LENGTH }
}

/// Returns the bytes of a log that a message occupies when it is cut into frames of at most `max_payload` bytes.
#[inline]
pub const fn compute_fragmented_length(length: usize, max_payload: usize) -> usize {
    let whole = length / max_payload;
    let rest = length % max_payload;
    let last = if rest > 0 { align(rest + HEADER_LENGTH, FRAME_ALIGNMENT) } else { 0 };
    whole * (max_payload + HEADER_LENGTH) + last
}

/// Returns a tail counter: term id and offset in one word (spec 01 §2.3).
#[inline(always)]
pub const fn pack_tail(term_id: i32, term_offset: i32) -> i64 {
    ((term_id as i64) << 32) | (term_offset as u32 as i64)
}

/// Returns the term id of a tail counter.
#[inline(always)]
pub const fn tail_term_id(raw_tail: i64) -> i32 {
    (raw_tail >> 32) as i32
}

/// Returns the offset of a tail counter; writers that found the term full leave it past the end.
#[inline(always)]
pub const fn tail_offset(raw_tail: i64, term_length: usize) -> usize {
    let offset = (raw_tail & 0xFFFF_FFFF) as usize;
    if offset < term_length { offset } else { term_length }
}

/// Checks that a stream moves on, and by whole frames.
///
/// # Panics
/// When `to` lies before `from`, or is not a multiple of the alignment behind it: the caller has a bug, and what it would
/// write next would damage the stream.
#[inline(always)]
pub fn check_advance(from: i64, to: i64) {
    if to < from || (to - from) & (FRAME_ALIGNMENT as i64 - 1) != 0 {
        broken_advance(from, to);
    }
}

/// Checks that frames of so many bytes have their place at an offset of a term.
///
/// # Panics
/// When they start off the alignment or end outside the term: the caller has a bug.
#[inline(always)]
pub fn check_place(offset: usize, length: usize, term_length: usize) {
    if offset & (FRAME_ALIGNMENT - 1) != 0 || offset > term_length || length > term_length - offset {
        broken_place(offset, length, term_length);
    }
}

/// Out of line: a formatted message in place would store its arguments on every call.
#[cold]
#[inline(never)]
fn broken_advance(from: i64, to: i64) -> ! {
    panic!("a stream at {from} cannot move on to {to}")
}

#[cold]
#[inline(never)]
fn broken_place(offset: usize, length: usize, term_length: usize) -> ! {
    panic!("frames of {length} bytes have no place at {offset} of a term of {term_length} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_wrap_before_they_widen() {
        let initial = i32::MAX;
        assert_eq!(compute_position(i32::MIN, 96, 16, initial), 65_536 + 96);
        assert_eq!(compute_term_id_from_position(65_536, 16, initial), i32::MIN);
        assert_eq!(index_by_position(3 * 65_536, 16), 0);
        assert_eq!(max_possible_position(65_536), 140_737_488_355_328);
    }

    #[test]
    fn tails_survive_overshoot() {
        let raw = pack_tail(-5, 0x1_0060);
        assert_eq!(tail_term_id(raw), -5);
        assert_eq!(tail_offset(raw, 0x1_0000), 0x1_0000);
    }

    #[test]
    fn broken_positions_and_places_end_the_caller() {
        let panics = |check: fn()| std::panic::catch_unwind(check).is_err();
        assert!(!panics(|| check_advance(64, 64)) && !panics(|| check_advance(64, 1_088)));
        assert!(panics(|| check_advance(64, 32)) && panics(|| check_advance(64, 97)));
        assert!(!panics(|| check_place(65_504, 32, 65_536)) && !panics(|| check_place(65_536, 0, 65_536)));
        assert!(panics(|| check_place(65_504, 33, 65_536)));
        assert!(panics(|| check_place(65_568, 0, 65_536)) && panics(|| check_place(33, 32, 65_536)));
    }

    #[test]
    fn fragments_add_up() {
        assert_eq!(compute_fragmented_length(3_000, 1_376), 2 * 1_408 + 288);
        assert_eq!(compute_fragmented_length(1_376, 1_376), 1_408);
        assert_eq!(compute_max_message_length(65_536), 8_192);
    }
}
