//! Errors that an earlier run has left in its mark file (spec 04 §6.3).

use std::fmt::Write;

use harrier_ringbuf::date::Date;
use harrier_ringbuf::{AtomicBuffer, Memory, Now, Region, error_log};

use super::{HEADER_LENGTH, MarkError, MarkFacts};

/// Saves the errors of a mark file's earlier owner beside it, when there are any.
pub(super) fn save<M: Memory>(
    buffer: &AtomicBuffer,
    facts: &MarkFacts,
    memory: &M,
    now: &Now,
) -> Result<(), MarkError> {
    let length = buffer.capacity() - HEADER_LENGTH;
    let mut text = String::new();
    let count =
        error_log::read(&buffer.slice(HEADER_LENGTH, length), 0, &mut |times, first_ms, last_ms, what| {
            let [first, last] = [first_ms, last_ms].map(|ms| Date::of(ms).in_file_name());
            // Writing to a text never fails.
            let _ = writeln!(text, "***\n{times} observations from {first} to {last} for:\n {what}");
        });
    if count == 0 {
        return Ok(());
    }
    let name = format!("{}-{}-error.log", facts.component_name(), Date::of(now.epoch_ms).in_file_name());
    let path = facts.cluster_directory.join(name);
    memory.create(&path, text.len(), false)?.copy_in(0, text.as_bytes());
    Ok(())
}
