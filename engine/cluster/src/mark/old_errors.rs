//! Saves errors of an earlier run from its mark file (spec 04 §6.3).

use std::fmt::Write;

use harrier_ringbuf::date::Date;
use harrier_ringbuf::{AtomicBuffer, Memory, Now, Region, error_log};

use super::{HEADER_LENGTH, MarkError, MarkFacts};

/// Maximum number of file names tried for one millisecond.
const MAX_NAMES: u32 = 100;

/// Saves the errors of a mark file's earlier owner beside the file, if any. A taken name gets a number, because
/// components of one process save their errors in the same millisecond.
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
            // Writing to a string never fails.
            let _ = writeln!(text, "***\n{times} observations from {first} to {last} for:\n {what}");
        });
    if count == 0 {
        return Ok(());
    }
    let (component, date) = (facts.component_name(), Date::of(now.epoch_ms).in_file_name());
    let mut number = 1;
    loop {
        let suffix = if number == 1 { String::new() } else { format!("-{number}") };
        let path = facts.cluster_directory.join(format!("{component}-{date}{suffix}-error.log"));
        match memory.create(&path, text.len(), false) {
            Err(error) if error.is_taken() && number < MAX_NAMES => number += 1,
            created => {
                created?.copy_in(0, text.as_bytes());
                return Ok(());
            }
        }
    }
}
