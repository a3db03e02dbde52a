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
    known: Vec<(usize, String)>,
    next: usize,
}

impl DistinctErrorLog {
    /// A log on a buffer; records that are there already are kept.
    pub fn new(buffer: AtomicBuffer) -> Self {
        let mut known = Vec::new();
        let next = for_each_record(&buffer, &mut |offset, text| known.push((offset, text.to_owned())));
        Self { buffer, known, next }
    }

    /// Records an error. Returns false when the log is full and the error is not in it yet.
    pub fn record(&mut self, epoch_ms: i64, text: &str) -> bool {
        if let Some((offset, _)) = self.known.iter().find(|(_, known)| known == text) {
            self.buffer.fetch_add_i32(offset + OBSERVATION_COUNT, 1);
            self.buffer.store_i64(offset + LAST_OBSERVATION, epoch_ms, Ordering::Release);
            return true;
        }
        let length = TEXT + text.len();
        let offset = self.next;
        if offset + align(length, ALIGNMENT) > self.buffer.capacity() {
            return false;
        }
        self.buffer.copy_in(offset + TEXT, text.as_bytes());
        self.buffer.store_i64(offset + FIRST_OBSERVATION, epoch_ms, Ordering::Relaxed);
        self.buffer.store_i64(offset + LAST_OBSERVATION, epoch_ms, Ordering::Relaxed);
        self.buffer.store_i32(offset + OBSERVATION_COUNT, 1, Ordering::Relaxed);
        self.buffer.store_i32(offset, length as i32, Ordering::Release);
        self.next += align(length, ALIGNMENT);
        self.known.push((offset, text.to_owned()));
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
