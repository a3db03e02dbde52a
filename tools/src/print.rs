//! Text for standard output. It is written as a whole, so that a closed pipe ends a command and never panics.

use std::fmt::Write as _;
use std::io::Write;

use harrier::ringbuf::date::Date;
use serde_json::Value;

use crate::CommandError;

/// Writes text to standard output.
///
/// # Errors
///
/// [`CommandError::Answer`] with 0 when nobody reads any more: `harrier stat | head` has succeeded.
pub fn text(text: &str) -> Result<(), CommandError> {
    bytes_of(text.as_bytes())
}

/// Writes bytes to standard output.
///
/// # Errors
/// As [`text`].
pub fn bytes_of(bytes: &[u8]) -> Result<(), CommandError> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Err(CommandError::Answer(0)),
        Err(error) => Err(CommandError::failed(error)),
    }
}

/// Writes a value as one line.
///
/// # Errors
/// As [`text`].
pub fn json(value: &Value) -> Result<(), CommandError> {
    text(&format!("{value}\n"))
}

/// Formats a number with commas between groups of three digits.
///
/// ```
/// assert_eq!(harrier_tools::print::grouped(-1_234_567), "-1,234,567");
/// assert_eq!(harrier_tools::print::grouped(999), "999");
/// ```
pub fn grouped(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if number < 0 {
        grouped.push('-');
    }
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// Formats a time as `2026-11-22 02:37:57.123+0000`; an invalid time is shown as its number.
///
/// ```
/// assert_eq!(harrier_tools::print::timestamp(1_700_000_000_123), "2023-11-14 22:13:20.123+0000");
/// ```
pub fn timestamp(epoch_ms: i64) -> String {
    date(epoch_ms).map_or_else(|| epoch_ms.to_string(), |date| date.to_string())
}

/// Formats the time of day as `02:37:57`, UTC.
pub fn time_of_day(epoch_ms: i64) -> String {
    date(epoch_ms).map_or_else(|| epoch_ms.to_string(), |date| date.time_of_day())
}

/// Years before 1970 and after 9999 are invalid for everything that Aeron writes.
fn date(epoch_ms: i64) -> Option<Date> {
    (0..253_402_300_800_000).contains(&epoch_ms).then(|| Date::of(epoch_ms))
}

/// Formats bytes in the largest unit that keeps three digits: `1.5 MiB`.
pub fn bytes(count: i64) -> String {
    let mut value = count as f64;
    let mut unit = 0;
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    while value.abs() >= 1_024.0 && unit + 1 < UNITS.len() {
        value /= 1_024.0;
        unit += 1;
    }
    if unit == 0 { format!("{count} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

/// Formats nanoseconds in a readable unit: `12.3 µs`.
pub fn duration(ns: i64) -> String {
    match ns {
        ..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => format!("{:.1} µs", ns as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", ns as f64 / 1e6),
        _ => format!("{:.1} s", ns as f64 / 1e9),
    }
}

/// Formats an error log in the form that operators of Aeron know.
pub fn errors(errors: &[crate::aeron_directory::LoggedError]) -> String {
    let mut text = String::new();
    for error in errors {
        let (first, last) = (timestamp(error.first_ms), timestamp(error.last_ms));
        let _infallible = writeln!(
            text,
            "{} observations from {first} to {last} for:\n{}\n",
            error.observation_count,
            error.text.trim_end()
        );
    }
    let _infallible = writeln!(text, "{} distinct errors observed.", errors.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_date_is_a_number() {
        assert_eq!(timestamp(4_107_542_400_000), "2100-03-01 00:00:00.000+0000");
        assert_eq!(time_of_day(86_399_000), "23:59:59");
        for number in [-1, i64::MAX] {
            assert_eq!((timestamp(number), time_of_day(number)), (number.to_string(), number.to_string()));
        }
    }

    #[test]
    fn units_fit_the_size() {
        assert_eq!(
            [bytes(0), bytes(1_023), bytes(1_536), bytes(3 << 30)],
            ["0 B", "1023 B", "1.5 KiB", "3.0 GiB"]
        );
        assert_eq!([duration(999), duration(1_500), duration(2_000_000_000)], ["999 ns", "1.5 µs", "2.0 s"]);
    }
}
