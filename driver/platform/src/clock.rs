//! The host's clocks.

use std::cell::Cell;

use harrier_ringbuf::{Clock, Now};

/// Longest time between two readings of a [`PausingClock`] that counts, ns.
const LONGEST_STEP_NS: i64 = 10_000_000;

/// CLOCK_MONOTONIC for intervals, CLOCK_REALTIME for the epoch.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Now {
        let (seconds, nanos) = read(libc::CLOCK_MONOTONIC);
        // The coarse clock costs a fraction, and its age of a few milliseconds does not matter in files and
        // heartbeats.
        let (epoch_seconds, epoch_nanos) = read(libc::CLOCK_REALTIME_COARSE);
        Now { ns: seconds * 1_000_000_000 + nanos, epoch_ms: epoch_seconds * 1_000 + epoch_nanos / 1_000_000 }
    }
}

/// The system's clocks without the time in which the reading thread was held up: at most 10 ms pass between two
/// readings. All clocks of a thread are one clock.
///
/// It is for tests that run a driver and its clients on one thread. Time-outs among them then measure what they do;
/// when the host stops the process for some seconds, no time passes.
#[derive(Debug, Default, Clone, Copy)]
pub struct PausingClock;

thread_local! {
    /// Time of the system at the last reading, and its lead over this clock, ns.
    static LAST: Cell<Option<(i64, i64)>> = const { Cell::new(None) };
}

impl Clock for PausingClock {
    fn now(&self) -> Now {
        let now = SystemClock.now();
        let (last_ns, paused_ns) = LAST.get().unwrap_or((now.ns, 0));
        let paused_ns = paused_ns + pause_ns(last_ns, now.ns);
        LAST.set(Some((now.ns, paused_ns)));
        Now { ns: now.ns - paused_ns, epoch_ms: now.epoch_ms - paused_ns / 1_000_000 }
    }
}

/// Part of the time between two readings that does not count.
fn pause_ns(last_ns: i64, now_ns: i64) -> i64 {
    (now_ns - last_ns - LONGEST_STEP_NS).max(0)
}

#[inline]
fn read(clock: libc::clockid_t) -> (i64, i64) {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is valid for writing and the clock ids above exist on every Linux.
    let result = unsafe { libc::clock_gettime(clock, &mut time) };
    assert_eq!(result, 0, "clock_gettime failed");
    (time.tv_sec, time.tv_nsec)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_on() {
        let first = SystemClock.now();
        let second = SystemClock.now();
        assert!(second.ns >= first.ns && first.epoch_ms > 1_600_000_000_000);
    }

    #[test]
    fn what_exceeds_a_step_is_a_pause() {
        assert_eq!(pause_ns(5, 5 + LONGEST_STEP_NS), 0);
        assert_eq!(pause_ns(5, 5 + LONGEST_STEP_NS + 50_000_000), 50_000_000);
    }

    #[test]
    fn no_two_readings_are_further_apart_than_a_step() {
        let mut last = PausingClock.now();
        for _ in 0..1_000 {
            let now = PausingClock.now();
            assert!((0..=LONGEST_STEP_NS).contains(&(now.ns - last.ns)), "{last:?} {now:?}");
            last = now;
        }
        assert!(last.ns <= SystemClock.now().ns);
    }
}
