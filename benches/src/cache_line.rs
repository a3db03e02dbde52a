//! Distance of the two cores: the round trip of one cache line between them.

use std::sync::atomic::{AtomicU64, Ordering};

use harrier::platform::{core_count, pin_current_thread};

use crate::measurement::histogram;
use crate::stopwatch::Stopwatch;

const WARMUP: u64 = 20_000;
const TRIPS: u64 = 100_000;

#[repr(align(128))]
struct Line(AtomicU64);

impl Line {
    fn wait_for(&self, value: u64) {
        while self.0.load(Ordering::Acquire) != value {
            std::hint::spin_loop();
        }
    }
}

/// Returns the median round trip of a cache line between two cores, ns; 0 when there is only one core.
pub fn round_trip_ns() -> u64 {
    if core_count() < 2 {
        return 0;
    }
    let (there, back) = (Line(AtomicU64::new(0)), Line(AtomicU64::new(0)));
    let mut times = histogram();
    // Both ends have threads of their own, because the caller's thread must not stay pinned.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin_current_thread(1);
            for trip in 1..=WARMUP + TRIPS {
                there.wait_for(trip);
                back.0.store(trip, Ordering::Release);
            }
        });
        scope.spawn(|| {
            pin_current_thread(0);
            let stopwatch = Stopwatch::start();
            let mut before = stopwatch.ns();
            for trip in 1..=WARMUP + TRIPS {
                there.0.store(trip, Ordering::Release);
                back.wait_for(trip);
                let now = stopwatch.ns();
                if trip > WARMUP {
                    times.saturating_record(now - before);
                }
                before = now;
            }
        });
    });
    times.value_at_quantile(0.5)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_goes_there_and_back() {
        let ns = round_trip_ns();
        assert!(if core_count() < 2 { ns == 0 } else { ns > 0 });
    }
}
