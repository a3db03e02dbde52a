//! Owner records: which implementation was the last to start on a mark file (docs/protocol/own-files.md).
//!
//! Aeron's programs write into an existing mark file but leave the end of its header unchanged. An owner record there
//! repeats the process id and start time of its writer, so the two differ once another program has started.

use std::sync::atomic::Ordering;

use harrier_protocol::record::{HEADER_LENGTH as RECORD_HEADER, RecordKind, UnknownVersion};
use harrier_ringbuf::{AtomicBuffer, Region};

const KIND: RecordKind = RecordKind { magic: *b"HOWN", version: 1, name: "owner record" };
const MARK_HEADER: usize = 8_192;
const RECORD_LENGTH: usize = RECORD_HEADER + 16;
/// Offset of the two places for the record in a mark file; the header's fields end before it.
pub const OWNER_OFFSET: usize = MARK_HEADER - 2 * RECORD_LENGTH;
const PLACES: [usize; 2] = [OWNER_OFFSET, OWNER_OFFSET + RECORD_LENGTH];
const START_TIMESTAMP: usize = 24;
const PROCESS_ID: usize = 32;

/// Writes the record of a program with this process id and start time, epoch ms. It uses the slot that does not confirm
/// the present fields, so that a crash before the fields are written keeps the last owner. The file is flushed before
/// and after the fields are written.
pub fn write_owner(buffer: &AtomicBuffer, process_id: i64, start_ms: i64) {
    let payload = [process_id.to_le_bytes(), start_ms.to_le_bytes()].concat();
    let is_first_taken = matches!(confirms(buffer, PLACES[0]), Ok(true));
    buffer.copy_in(PLACES[usize::from(is_first_taken)], &KIND.seal(&payload));
}

/// True when this implementation was the last to start on the mark file.
///
/// # Errors
/// A record of a newer version.
pub fn is_owned(buffer: &AtomicBuffer) -> Result<bool, UnknownVersion> {
    if buffer.capacity() < MARK_HEADER {
        return Ok(false);
    }
    Ok(confirms(buffer, PLACES[0])? || confirms(buffer, PLACES[1])?)
}

/// True when the record at a slot confirms the header's process id and start time.
fn confirms(buffer: &AtomicBuffer, place: usize) -> Result<bool, UnknownVersion> {
    let mut bytes = [0; RECORD_LENGTH];
    buffer.copy_out(place, &mut bytes);
    let Some(payload) = KIND.open(&bytes)? else { return Ok(false) };
    let word = |at: usize| payload[at..].first_chunk().map(|word| i64::from_le_bytes(*word));
    let found = [PROCESS_ID, START_TIMESTAMP].map(|at| Some(buffer.load_i64(at, Ordering::Acquire)));
    Ok(payload.len() == 16 && [word(0), word(8)] == found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_starts_without_a_record_takes_the_file_over() {
        let buffer = AtomicBuffer::heap(MARK_HEADER);
        assert_eq!(is_owned(&buffer), Ok(false));
        write_owner(&buffer, 7, 1_000);
        buffer.store_i64(PROCESS_ID, 7, Ordering::Relaxed);
        buffer.store_i64(START_TIMESTAMP, 1_000, Ordering::Relaxed);
        assert_eq!(is_owned(&buffer), Ok(true));
        // The new record confirms the fields as soon as they are written.
        write_owner(&buffer, 8, 1_500);
        assert_eq!(is_owned(&buffer), Ok(true));
        buffer.store_i64(PROCESS_ID, 8, Ordering::Relaxed);
        buffer.store_i64(START_TIMESTAMP, 1_500, Ordering::Relaxed);
        assert_eq!(is_owned(&buffer), Ok(true));
        write_owner(&buffer, 9, 1_600);
        assert_eq!(is_owned(&buffer), Ok(true));
        buffer.store_i64(START_TIMESTAMP, 2_000, Ordering::Relaxed);
        assert_eq!(is_owned(&buffer), Ok(false));
        assert_eq!(is_owned(&AtomicBuffer::heap(64)), Ok(false));
    }
}
