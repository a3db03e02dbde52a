//! The distinct error log: equal errors share a record (spec 01 §3.8).

use std::sync::atomic::Ordering;

use crate::position::align;
use crate::{AtomicBuffer, Region};

const OBSERVATION_COUNT: usize = 4;
const LAST_OBSERVATION: usize = 8;
const FIRST_OBSERVATION: usize = 16;
const TEXT: usize = 24;
const ALIGNMENT: usize = 8;

/// Writes errors where every tool of the host can read them.
///
/// ```
/// use harrier_ringbuf::{AtomicBuffer, error_log::{self, DistinctErrorLog}};
///
/// let buffer = AtomicBuffer::heap(4096);
/// let mut log = DistinctErrorLog::new(buffer.clone());
/// log.record(1_000, "disk is full");
/// log.record(2_000, "disk is full");
/// let mut seen = Vec::new();
/// error_log::read(&buffer, 0, &mut |count, first, last, text: &str| seen.push((count, first, last, text.to_owned())));
/// assert_eq!(seen, [(2, 1_000, 2_000, "disk is full".to_owned())]);
/// ```
#[derive(Debug)]
pub struct DistinctErrorLog {
    buffer: AtomicBuffer,
    known: Vec<Known>,
    next: usize,
    /// New entries that may be made at once.
    allowance: i64,
    /// When the allowance was last raised, epoch ms.
    raised_ms: i64,
}

/// An entry of the log and what later observations are compared with.
#[derive(Debug)]
struct Known {
    offset: usize,
    kind: String,
}

/// New entries that may be made at once.
const BURST: i64 = 256;
/// Time after which one more entry may be made, ms.
const INTERVAL_MS: i64 = 10_000;
/// Text of the entry that counts what gets no entry of its own.
const OVERFLOW: &str =
    "further errors: this log is full or new entries come too fast; they are only counted here";
/// Bytes that are kept free for the entry of [`OVERFLOW`].
const RESERVE: usize = (TEXT + OVERFLOW.len()).next_multiple_of(ALIGNMENT);
/// Shorter logs keep nothing free.
const SHORTEST_WITH_RESERVE: usize = 8_192;

impl DistinctErrorLog {
    /// A log on a buffer. Entries that are there already are kept.
    pub fn new(buffer: AtomicBuffer) -> Self {
        let mut known = Vec::new();
        let next = for_each_record(&buffer, &mut |offset, text| {
            known.push(Known { offset, kind: text.to_owned() });
        });
        Self { buffer, known, next, allowance: BURST, raised_ms: i64::MIN }
    }

    /// Records an error whose text is its kind. Returns false when it got no entry of its own: it is then counted in the
    /// entry for further errors, if the log has room for that.
    pub fn record(&mut self, epoch_ms: i64, text: &str) -> bool {
        self.record_times(text, 1, epoch_ms, text)
    }

    /// Records an error of a kind. All errors of one kind share the entry of the first one and its text, so a kind must
    /// hold nothing that a peer chooses. Returns as [`record`](Self::record).
    pub fn record_kind(&mut self, kind: &str, epoch_ms: i64, text: &str) -> bool {
        self.record_times(kind, 1, epoch_ms, text)
    }

    /// Records `count` errors of a kind. Returns as [`record`](Self::record).
    pub fn record_times(&mut self, kind: &str, count: i32, epoch_ms: i64, text: &str) -> bool {
        if self.count(kind, count, epoch_ms) {
            return true;
        }
        let capacity = self.buffer.capacity();
        // Texts that are their own kind may differ each time: they leave room for the others.
        let kept_free = match capacity >= SHORTEST_WITH_RESERVE {
            true if kind == text => RESERVE + capacity / 4,
            true => RESERVE,
            false => 0,
        };
        if self.may_add(epoch_ms) && self.add(kind, count, epoch_ms, text, kept_free) {
            self.allowance -= 1;
            return true;
        }
        if !self.count(OVERFLOW, count, epoch_ms) {
            self.add(OVERFLOW, count, epoch_ms, OVERFLOW, 0);
        }
        false
    }

    /// Counts observations of a known kind; false when there is no entry for it.
    fn count(&self, kind: &str, count: i32, epoch_ms: i64) -> bool {
        let Some(Known { offset, .. }) = self.known.iter().find(|known| known.kind == kind) else {
            return false;
        };
        self.buffer.fetch_add_i32(offset + OBSERVATION_COUNT, count);
        self.buffer.store_i64(offset + LAST_OBSERVATION, epoch_ms, Ordering::Release);
        true
    }

    /// True when another entry may be made now. An interval that passes allows one more, up to a burst.
    fn may_add(&mut self, epoch_ms: i64) -> bool {
        if self.raised_ms == i64::MIN {
            self.raised_ms = epoch_ms;
        }
        let passed = (epoch_ms.saturating_sub(self.raised_ms) / INTERVAL_MS).max(0);
        self.raised_ms = self.raised_ms.saturating_add(passed.saturating_mul(INTERVAL_MS));
        self.allowance = self.allowance.saturating_add(passed).min(BURST);
        self.allowance > 0
    }

    /// Adds an entry; false when it does not fit beside what is kept free.
    fn add(&mut self, kind: &str, count: i32, epoch_ms: i64, text: &str, kept_free: usize) -> bool {
        let length = TEXT + text.len();
        let offset = self.next;
        if offset + align(length, ALIGNMENT) + kept_free > self.buffer.capacity() {
            return false;
        }
        self.buffer.copy_in(offset + TEXT, text.as_bytes());
        self.buffer.store_i64(offset + FIRST_OBSERVATION, epoch_ms, Ordering::Relaxed);
        self.buffer.store_i64(offset + LAST_OBSERVATION, epoch_ms, Ordering::Relaxed);
        self.buffer.store_i32(offset + OBSERVATION_COUNT, count, Ordering::Relaxed);
        self.buffer.store_i32(offset, length as i32, Ordering::Release);
        self.next += align(length, ALIGNMENT);
        self.known.push(Known { offset, kind: kind.to_owned() });
        true
    }
}

/// Calls `visit` with count, first and last observation (epoch ms) and text of every error seen since `since_ms`; returns
/// how many.
pub fn read(buffer: &AtomicBuffer, since_ms: i64, visit: &mut impl FnMut(i32, i64, i64, &str)) -> usize {
    let mut entries = 0;
    for_each_record(buffer, &mut |offset, text| {
        let last = buffer.load_i64(offset + LAST_OBSERVATION, Ordering::Acquire);
        if last >= since_ms {
            entries += 1;
            let count = buffer.load_i32(offset + OBSERVATION_COUNT, Ordering::Relaxed);
            visit(count, buffer.load_i64(offset + FIRST_OBSERVATION, Ordering::Relaxed), last, text);
        }
    });
    entries
}

/// Visits all records; returns where the next one goes.
fn for_each_record(buffer: &AtomicBuffer, visit: &mut impl FnMut(usize, &str)) -> usize {
    let mut offset = 0;
    while offset + TEXT <= buffer.capacity() {
        let length = buffer.load_i32(offset, Ordering::Acquire);
        if length < TEXT as i32 || length as usize > buffer.capacity() - offset {
            break;
        }
        let mut bytes = vec![0; length as usize - TEXT];
        buffer.copy_out(offset + TEXT, &mut bytes);
        visit(offset, &String::from_utf8_lossy(&bytes));
        offset += align(length as usize, ALIGNMENT);
    }
    offset
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(buffer: &AtomicBuffer) -> Vec<(i32, String)> {
        let mut all = Vec::new();
        read(buffer, 0, &mut |count, _, _, text: &str| all.push((count, text.to_owned())));
        all
    }

    #[test]
    fn errors_of_one_kind_share_the_entry_of_the_first() {
        let count = if cfg!(miri) { 20 } else { 1_000 };
        let buffer = AtomicBuffer::heap(8_192);
        let mut log = DistinctErrorLog::new(buffer.clone());
        for session in 0..count {
            assert!(log.record_kind("bad SETUP", session, &format!("bad SETUP of session={session}")));
        }
        assert!(log.record_times("bad SETUP", 7, count, "bad SETUP of others"));
        assert_eq!(entries(&buffer), [(count as i32 + 7, "bad SETUP of session=0".to_owned())]);
    }

    // Miri needs minutes for the burst.
    #[cfg(not(miri))]
    #[test]
    fn new_entries_are_limited_by_time_and_none_is_lost() {
        let buffer = AtomicBuffer::heap(1 << 17);
        let mut log = DistinctErrorLog::new(buffer.clone());
        for number in 0..2_000 {
            log.record(number, &format!("error {number}"));
        }
        let all = entries(&buffer);
        assert_eq!(all.len(), BURST as usize + 1);
        assert_eq!(all.iter().map(|(count, _)| count).sum::<i32>(), 2_000);
        assert_eq!(all.last(), Some(&(2_000 - BURST as i32, OVERFLOW.to_owned())));
        assert!(log.record(INTERVAL_MS, "after an interval"));
        assert!(!log.record(INTERVAL_MS, "in the same interval"));
        assert!(log.record(0, "error 0"), "known errors are always counted in their entry");
    }

    #[test]
    fn texts_that_are_their_own_kind_leave_room_for_the_others() {
        // Short enough for Miri.
        let buffer = AtomicBuffer::heap(1 << 13);
        let mut log = DistinctErrorLog::new(buffer.clone());
        let taken = (0..20).filter(|number| log.record(0, &format!("{number:01000}"))).count();
        assert!((5..8).contains(&taken), "{taken}");
        assert!(log.record_kind("kind", 0, "the first of its kind"));
    }

    #[test]
    fn a_full_log_still_counts() {
        let buffer = AtomicBuffer::heap(SHORTEST_WITH_RESERVE);
        let mut log = DistinctErrorLog::new(buffer.clone());
        for number in 0..100 {
            log.record(0, &format!("{number:0200}"));
        }
        assert_eq!(entries(&buffer).iter().map(|(count, _)| count).sum::<i32>(), 100);
        let mut log = DistinctErrorLog::new(buffer.clone());
        assert!(!log.record(0, &format!("{:0200}", 100)), "one more after a restart");
        assert_eq!(entries(&buffer).iter().map(|(count, _)| count).sum::<i32>(), 101);
    }
}
