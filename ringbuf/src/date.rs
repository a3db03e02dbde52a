//! Points in time in the form in which Aeron's programs print them, in UTC.

use std::fmt;

const DAY_MS: i64 = 86_400_000;

/// A point in time as a date of the calendar.
///
/// ```
/// use harrier_ringbuf::date::Date;
///
/// let date = Date::of(1_700_000_000_123);
/// assert_eq!(date.to_string(), "2023-11-14 22:13:20.123+0000");
/// assert_eq!(date.in_file_name(), "2023-11-14-22-13-20-123+0000");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Date {
    year: i64,
    month: i64,
    day: i64,
    /// Time of the day, ms.
    ms: i64,
}

impl Date {
    /// Returns the date of a time since the epoch.
    pub fn of(epoch_ms: i64) -> Self {
        // Counts in eras of 400 years that begin in March, so that leap days come last.
        let from_march = epoch_ms.div_euclid(DAY_MS) + 719_468;
        let (era, day) = (from_march.div_euclid(146_097), from_march.rem_euclid(146_097));
        let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
        let day = day - (365 * year + year / 4 - year / 100);
        let month = (5 * day + 2) / 153;
        let day = day - (153 * month + 2) / 5 + 1;
        let month = if month < 10 { month + 3 } else { month - 9 };
        Self { year: year + era * 400 + i64::from(month <= 2), month, day, ms: epoch_ms.rem_euclid(DAY_MS) }
    }

    /// Returns hours, minutes and seconds of the day.
    fn time(&self) -> [i64; 3] {
        [self.ms / 3_600_000, self.ms / 60_000 % 60, self.ms / 1_000 % 60]
    }

    /// Returns the time of day: `19:38:04`.
    pub fn time_of_day(&self) -> String {
        let [hours, minutes, seconds] = self.time();
        format!("{hours:02}:{minutes:02}:{seconds:02}")
    }

    /// Returns the date in the form for file names: `2026-11-24-19-38-04-120+0000`.
    pub fn in_file_name(&self) -> String {
        let Self { year, month, day, ms } = self;
        let [hours, minutes, seconds] = self.time();
        let ms = ms % 1_000;
        format!("{year:04}-{month:02}-{day:02}-{hours:02}-{minutes:02}-{seconds:02}-{ms:03}+0000")
    }
}

/// Writes the date in the form for texts: `2026-11-24 19:38:04.120+0000`.
impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { year, month, day, ms } = self;
        write!(f, "{year:04}-{month:02}-{day:02} {}.{:03}+0000", self.time_of_day(), ms % 1_000)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_follow_the_calendar() {
        for (epoch_ms, text) in [
            (0, "1970-01-01-00-00-00-000+0000"),
            (-1, "1969-12-31-23-59-59-999+0000"),
            (951_782_400_000, "2000-02-29-00-00-00-000+0000"),
            (951_868_800_000, "2000-03-01-00-00-00-000+0000"),
            (1_767_225_599_999, "2025-12-31-23-59-59-999+0000"),
            (253_402_300_799_999, "9999-12-31-23-59-59-999+0000"),
        ] {
            assert_eq!(Date::of(epoch_ms).in_file_name(), text);
        }
    }
}
