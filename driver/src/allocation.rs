//! Allocation state of logs whose pages are allocated as the stream needs them.
//!
//! A log that is not sparse has all of its pages before it is written, so that no store can fail for want of memory. A
//! peer that sends nothing but a SETUP would so make the driver allocate three terms. Therefore only the first pages
//! are allocated when such a log is created. The executor allocates the others once the stream carries traffic, or once
//! the owner of the driver asks for it. Senders and publishers are never granted a page that is not allocated.

use std::ops::Range;

use harrier_protocol::uri::ChannelUri;
use harrier_ringbuf::position::{
    HEADER_LENGTH, PARTITION_COUNT, compute_fragmented_length, compute_max_message_length, index_by_position,
};

use crate::context::DriverContext;
use crate::failure::Failure;

/// Key of the channel parameter.
pub(crate) const KEY: &str = "log-allocation";
/// Default number of bytes that are allocated at first.
pub(crate) const DEFAULT_LENGTH: i32 = 256 << 10;
/// Fewest bytes that may be allocated at first: a receiver window and pages of messages.
pub(crate) const MIN_LENGTH: i32 = 64 << 10;
/// Pages of the system, and distance that a reader's look ahead keeps from the end of what is allocated.
const PAGE_LENGTH: i64 = 4_096;
/// Bytes that one job of the executor allocates.
const SLICE_LENGTH: i64 = 1 << 20;

/// The time at which the pages of a log that is not sparse are allocated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AllocationMode {
    /// All pages when the log is created.
    Whole,
    /// The first pages when the log is created, the others once the stream has used a quarter of the first ones.
    Traffic,
    /// The first pages when the log is created, the others when the owner of the driver asks for them.
    Hint,
}

impl AllocationMode {
    /// Reads the mode of a channel; `default` when the channel names none.
    pub(crate) fn of(uri: &ChannelUri, default: Self) -> Result<Self, Failure> {
        match uri.get(KEY) {
            None => Ok(default),
            Some("whole") => Ok(Self::Whole),
            Some("traffic") => Ok(Self::Traffic),
            Some("hint") => Ok(Self::Hint),
            Some(other) => {
                Err(Failure::channel(format!("{KEY}={other} must be whole, traffic or hint, channel={uri}")))
            }
        }
    }

    /// The mode of images whose channel names none.
    pub(crate) fn of_images(context: &DriverContext) -> Self {
        if context.log_allocation_length > 0 { Self::Traffic } else { Self::Whole }
    }
}

/// Bytes that are allocated at first.
pub(crate) fn first_length(context: &DriverContext) -> i64 {
    let length =
        if context.log_allocation_length > 0 { context.log_allocation_length } else { DEFAULT_LENGTH };
    i64::from(length.max(MIN_LENGTH))
}

/// The positions of a log whose pages are allocated: a range that starts at the page of the stream's first position.
/// Three terms of positions are the whole log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Allocation {
    mode: AllocationMode,
    allocated: Range<i64>,
    /// End of the range when the log is allocated whole.
    end: i64,
    /// Position from which on a stream with traffic gets the rest.
    traffic_position: i64,
    /// Bytes that a writer may go beyond the position that it is granted.
    overshoot: i64,
    is_wanted: bool,
    is_in_flight: bool,
    has_failed: bool,
}

impl Allocation {
    /// Creates the state of a log that is allocated whole, or that is sparse.
    pub(crate) fn whole() -> Self {
        Self {
            mode: AllocationMode::Whole,
            allocated: 0..i64::MAX,
            end: i64::MAX,
            traffic_position: i64::MAX,
            overshoot: 0,
            is_wanted: false,
            is_in_flight: false,
            has_failed: false,
        }
    }

    /// A log with `length` bytes at first: `metadata_length` for its metadata, a page for the start of each term, and
    /// the rest from the first position on. Padding may lead readers to the start of the next term before it is
    /// allocated otherwise. Terms that fit into `length` are allocated whole.
    pub(crate) fn first(
        mode: AllocationMode,
        position: i64,
        term_length: usize,
        metadata_length: usize,
        length: i64,
    ) -> Self {
        let all = (term_length * PARTITION_COUNT) as i64;
        let rest = length - metadata_length as i64 - PARTITION_COUNT as i64 * PAGE_LENGTH;
        let terms = if rest >= length / 2 { rest } else { length } / PAGE_LENGTH * PAGE_LENGTH;
        if mode == AllocationMode::Whole || terms >= all {
            return Self::whole();
        }
        let start = position / PAGE_LENGTH * PAGE_LENGTH;
        Self {
            mode,
            allocated: start..start + terms,
            end: start + all,
            traffic_position: position + terms / 4,
            overshoot: 0,
            is_wanted: false,
            is_in_flight: false,
            has_failed: false,
        }
    }

    /// Like [`first`](Self::first), for an exclusive publication. Its writer may begin the longest message just before
    /// the publisher limit, so there is room for at least one such message.
    pub(crate) fn first_of_publication(
        mode: AllocationMode,
        position: i64,
        (term_length, mtu): (usize, usize),
        metadata_length: usize,
        length: i64,
    ) -> Self {
        let longest = compute_max_message_length(term_length);
        let overshoot = compute_fragmented_length(longest, mtu - HEADER_LENGTH) as i64;
        let least = overshoot + i64::from(MIN_LENGTH) + metadata_length as i64;
        let allocation = Self::first(mode, position, term_length, metadata_length, length.max(least));
        Self { overshoot, ..allocation }
    }

    /// True when all pages are allocated.
    pub(crate) fn is_whole(&self) -> bool {
        self.allocated.end >= self.end
    }

    /// Returns the positions that are allocated at first; `None` for a log that is allocated whole.
    pub(crate) fn initial(&self) -> Option<Range<i64>> {
        (!self.is_whole()).then(|| self.allocated.clone())
    }

    /// Returns the position that no frame may reach beyond. It keeps a page free for readers, which look behind the
    /// last frame.
    pub(crate) fn usable_position(&self) -> i64 {
        if self.is_whole() { i64::MAX } else { self.allocated.end - PAGE_LENGTH - self.overshoot }
    }

    /// Notes that the stream has reached a position.
    #[inline]
    pub(crate) fn note_traffic(&mut self, position: i64) {
        if position > self.traffic_position && self.mode == AllocationMode::Traffic {
            self.ask_for_rest();
        }
    }

    /// Requests the allocation of the whole log.
    pub(crate) fn ask_for_rest(&mut self) {
        self.is_wanted = true;
        self.traffic_position = i64::MAX;
    }

    /// True when a job should allocate more.
    #[inline]
    pub(crate) fn is_due(&self) -> bool {
        self.is_wanted && !self.is_in_flight && !self.has_failed && !self.is_whole()
    }

    /// Makes a failed allocation due again.
    pub(crate) fn retry(&mut self) {
        self.has_failed = false;
    }

    /// Returns the next positions to allocate when a job is due. They are in flight until [`on_done`](Self::on_done).
    pub(crate) fn next(&mut self) -> Option<Range<i64>> {
        if !self.is_due() {
            return None;
        }
        self.is_in_flight = true;
        let start = self.allocated.end;
        Some(start..(start + SLICE_LENGTH).min(self.end))
    }

    /// Handles the end of a job; `None` when it has failed. It is then due again after [`retry`](Self::retry).
    pub(crate) fn on_done(&mut self, allocated_to: Option<i64>) {
        self.is_in_flight = false;
        self.has_failed = allocated_to.is_none();
        if let Some(position) = allocated_to {
            assert!(position <= self.end, "allocated to {position} of {}", self.end);
            self.allocated.end = self.allocated.end.max(position);
        }
    }
}

/// Returns the first page of each term in a log file.
pub(crate) fn first_pages(term_length: usize) -> impl Iterator<Item = Range<usize>> {
    (0..PARTITION_COUNT).map(move |term| term * term_length..term * term_length + PAGE_LENGTH as usize)
}

/// Returns the ranges of a log file that hold a range of positions, in order.
pub(crate) fn file_ranges(positions: Range<i64>, term_length: usize) -> impl Iterator<Item = Range<usize>> {
    let bits = term_length.trailing_zeros();
    let mut next = positions.start;
    std::iter::from_fn(move || {
        if next >= positions.end {
            return None;
        }
        let offset = (next & (term_length as i64 - 1)) as usize;
        let length = ((positions.end - next) as usize).min(term_length - offset);
        let start = index_by_position(next, bits) * term_length + offset;
        next += length as i64;
        Some(start..start + length)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TERM: usize = 1 << 20;

    #[test]
    fn positions_are_found_in_the_file_across_terms() {
        let ranges = |positions| file_ranges(positions, TERM).collect::<Vec<_>>();
        assert_eq!(ranges(8..4_096).first(), Some(&(8..4_096)));
        let (second, third, last) = (TERM as i64, 2 * TERM as i64, 3 * TERM as i64);
        assert_eq!(ranges(second - 8..second + 8), [TERM - 8..TERM, TERM..TERM + 8]);
        assert_eq!(ranges(last - 8..last + 8), [3 * TERM - 8..3 * TERM, 0..8]);
        assert_eq!(
            ranges(third + 16..third + 16 + last),
            [2 * TERM + 16..3 * TERM, 0..TERM, TERM..2 * TERM, 2 * TERM..2 * TERM + 16]
        );
    }

    #[test]
    fn traffic_asks_for_the_rest_in_slices_and_grants_nothing_before() {
        let start = 5 * TERM as i64 + 100 * 32;
        let mut allocation = Allocation::first(AllocationMode::Traffic, start, TERM, 4_096, 256 << 10);
        let first = 5 * TERM as i64;
        assert_eq!(allocation.initial(), Some(first..first + 240 * 1_024));
        assert_eq!(allocation.usable_position(), first + 236 * 1_024);
        allocation.note_traffic(start + 60 * 1_024);
        assert_eq!(allocation.next(), None);
        allocation.note_traffic(start + 60 * 1_024 + 32);
        let mut slices = 0;
        let mut end = first + 240 * 1_024;
        while let Some(range) = allocation.next() {
            assert_eq!((range.start, allocation.next()), (end, None), "one job at a time");
            assert!(allocation.usable_position() < range.start);
            if slices == 1 {
                allocation.on_done(None);
                assert_eq!(allocation.next(), None);
                allocation.retry();
                assert_eq!(allocation.next(), Some(range.clone()), "what failed is tried again");
            }
            end = range.end;
            allocation.on_done(Some(end));
            slices += 1;
        }
        assert_eq!((slices, end, allocation.usable_position()), (3, first + 3 * TERM as i64, i64::MAX));
        assert!(allocation.is_whole() && allocation.initial().is_none());
    }

    #[test]
    fn a_publisher_has_room_for_its_longest_message() {
        for term in [1 << 20, 16 << 20, 1 << 30] {
            let of = |length| {
                Allocation::first_of_publication(AllocationMode::Hint, 64, (term, 1_408), 4_096, length)
            };
            let allocation = of(256 << 10);
            let end = allocation.initial().unwrap().end;
            let longest = compute_fragmented_length(compute_max_message_length(term), 1_376) as i64;
            assert!(allocation.usable_position() > 64, "term of {term}");
            assert_eq!(allocation.usable_position() + longest + PAGE_LENGTH, end);
        }
    }

    #[test]
    fn a_hint_is_waited_for_and_short_terms_are_whole() {
        let mut allocation = Allocation::first(AllocationMode::Hint, 0, TERM, 4_096, 256 << 10);
        allocation.note_traffic(i64::MAX);
        assert_eq!(allocation.next(), None);
        allocation.ask_for_rest();
        assert!(allocation.next().is_some());
        for (mode, term) in [(AllocationMode::Hint, 64 << 10), (AllocationMode::Whole, TERM)] {
            assert!(Allocation::first(mode, 0, term, 4_096, 256 << 10).is_whole());
        }
    }
}
