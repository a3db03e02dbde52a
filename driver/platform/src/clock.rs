//! The host's clocks.

use std::cell::Cell;

use harrier_ringbuf::{Clock, Now};

/// Time between two readings of a [`PausingClock`] that counts at most, ns.
const LONGEST_STEP_NS: i64 = 10_000_000;

/// CLOCK_MONOTONIC for intervals, CLOCK_REALTIME for the epoch.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

impl Clock for SystemClock {
    #[inline]
    fn now(&self) -> Now {
        let (seconds, nanos) = read(libc::CLOCK_MONOTONIC);
        // The coarse clock costs a fraction and its few milliseconds of age do not matter in files and heartbeats.
        let (epoch_seconds, epoch_nanos) = read(libc::CLOCK_REALTIME_COARSE);
        Now { ns: seconds * 1_000_000_000 + nanos, epoch_ms: epoch_seconds * 1_000 + epoch_nanos / 1_000_000 }
    }
}

/// The system's clocks, less the time in which the thread that reads them was held up: from one reading to the next at most
/// 10 ms pass. All of a thread are one clock.
///
/// For tests that run a driver with its clients on one thread. Time-outs among them then measure what they do, and a host
/// that stops the process for some seconds is none of it.
#[derive(Debug, Default, Clone, Copy)]
pub struct PausingClock;

thread_local! {
    /// The system's time at the last reading, and how far that was ahead of this clock's, ns.
    static LAST: Cell<Option<(i64, i64)>> = const { Cell::new(None) };
}

impl Clock for PausingClock {
    fn now(&self) -> Now {
        let now = SystemClock.now();
        let (last_ns, paused_ns) = LAST.get().unwrap_or((now.ns, 0));
        let paused_ns = paused_ns + (now.ns - last_ns - LONGEST_STEP_NS).max(0);
        LAST.set(Some((now.ns, paused_ns)));
        Now { ns: now.ns - paused_ns, epoch_ms: now.epoch_ms - paused_ns / 1_000_000 }
    }
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
    #[expect(clippy::disallowed_methods, reason = "a pause is what is tested")]
    fn a_pause_of_the_thread_is_a_short_step() {
        let first = PausingClock.now();
        std::thread::sleep(std::time::Duration::from_millis(50));
        let second = PausingClock.now();
        assert_eq!(second.ns - first.ns, LONGEST_STEP_NS);
        assert!((0..=20).contains(&(second.epoch_ms - first.epoch_ms)), "{first:?} {second:?}");
        assert!(SystemClock.now().ns - second.ns >= 40_000_000);
    }
}
