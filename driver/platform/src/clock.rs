//! The host's clocks.

use harrier_ringbuf::{Clock, Now};

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
}
