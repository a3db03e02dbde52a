//! Time measurement of benchmarks.

use std::time::{Duration, Instant};

/// Nanoseconds since it was started; each call reads the clock once.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "measuring time is what a benchmark is for")]
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    #[inline(always)]
    pub(crate) fn ns(&self) -> u64 {
        self.0.elapsed().as_nanos() as u64
    }
}

/// Lets the measured threads work.
#[expect(
    clippy::disallowed_methods,
    reason = "the thread that measures must not take a core from the measured"
)]
pub(crate) fn rest(seconds: f64) {
    std::thread::sleep(Duration::from_secs_f64(seconds));
}
