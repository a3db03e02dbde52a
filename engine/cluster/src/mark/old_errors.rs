//! Errors that an earlier run has left in its mark file (spec 04 §6.3).

use std::fmt::Write;

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
            let (first, last) = (date_text(first_ms), date_text(last_ms));
            // Writing to a text never fails.
            let _ = writeln!(text, "***\n{times} observations from {first} to {last} for:\n {what}");
        });
    if count == 0 {
        return Ok(());
    }
    let name = format!("{}-{}-error.log", facts.component_name(), date_text(now.epoch_ms));
    let path = facts.cluster_directory.join(name);
    memory.create(&path, text.len(), false)?.copy_in(0, text.as_bytes());
    Ok(())
}

/// A time as the released cluster writes it into names of files: `2026-11-24-19-38-04-120+0000`.
pub(super) fn date_text(epoch_ms: i64) -> String {
    let (days, ms) = (epoch_ms.div_euclid(86_400_000), epoch_ms.rem_euclid(86_400_000));
    // Days of eras of 400 years that begin in March, so that leap days come last.
    let shifted = days + 719_468;
    let (era, day) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + i64::from(month <= 2);
    let (hours, minutes, seconds) = (ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60);
    format!(
        "{year:04}-{month:02}-{day_of_month:02}-{hours:02}-{minutes:02}-{seconds:02}-{:03}+0000",
        ms % 1_000
    )
}
