//! Idle strategies: what a thread does when there is no work (spec 01 §5.5).

use std::hint::spin_loop;
use std::time::Duration;
use thiserror::Error;

/// There is no idle strategy with this name.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("unknown idle strategy `{0}`; use spin, yield, sleep-ns, sleep-ms, backoff or noop")]
pub struct UnknownIdleStrategy(pub String);

/// An idle strategy. A runner calls it after every duty cycle with the amount of work done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum IdleStrategy {
    /// Spins with pause hints: lowest latency, one core for each thread.
    Spin,
    /// Gives the core to other threads of the host.
    Yield,
    /// Sleeps for a while.
    Sleep {
        /// Time of the sleep, ns.
        period_ns: u64,
    },
    /// Does nothing.
    Noop,
    /// Spins, then yields, then sleeps longer and longer.
    Backoff(Backoff),
}

/// State of the backoff strategy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backoff {
    max_spins: u32,
    max_yields: u32,
    min_park_ns: u64,
    max_park_ns: u64,
    spins: u32,
    yields: u32,
    park_ns: u64,
}

impl Backoff {
    /// Creates a strategy that spins and yields so often, and then sleeps for `min_park_ns`, doubling up to
    /// `max_park_ns`.
    pub fn new(max_spins: u32, max_yields: u32, min_park_ns: u64, max_park_ns: u64) -> Self {
        Self { max_spins, max_yields, min_park_ns, max_park_ns, spins: 0, yields: 0, park_ns: min_park_ns }
    }

    fn reset(&mut self) {
        self.spins = 0;
        self.yields = 0;
        self.park_ns = self.min_park_ns;
    }

    fn idle(&mut self) {
        if self.spins < self.max_spins {
            self.spins += 1;
            spin_loop();
        } else if self.yields < self.max_yields {
            self.yields += 1;
            std::thread::yield_now();
        } else {
            sleep(self.park_ns);
            self.park_ns = (self.park_ns * 2).min(self.max_park_ns);
        }
    }
}

impl std::fmt::Display for Backoff {
    /// Writes the form that settings use: `SPINS-YIELDS-MINPARK-MAXPARK`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { max_spins, max_yields, min_park_ns, max_park_ns, .. } = self;
        write!(f, "{max_spins}-{max_yields}-{min_park_ns}ns-{max_park_ns}ns")
    }
}

impl Default for Backoff {
    /// Returns the defaults of drivers: 10 spins, 20 yields, sleeps of 1 µs to 1 ms.
    fn default() -> Self {
        Self::new(10, 20, 1_000, 1_000_000)
    }
}

impl IdleStrategy {
    /// Returns the strategy with this name.
    ///
    /// # Errors
    ///
    /// There is no strategy with this name.
    pub fn by_name(name: &str) -> Result<Self, UnknownIdleStrategy> {
        Ok(match name {
            "spin" => Self::Spin,
            "yield" => Self::Yield,
            "sleep-ns" | "sleeping" => Self::Sleep { period_ns: 1_000 },
            "sleep-ms" => Self::Sleep { period_ns: 1_000_000 },
            "noop" => Self::Noop,
            "backoff" => Self::Backoff(Backoff::default()),
            other => return Err(UnknownIdleStrategy(other.to_owned())),
        })
    }

    /// Idles when `work_count` is 0.
    #[inline]
    pub fn idle(&mut self, work_count: usize) {
        if work_count > 0 {
            if let Self::Backoff(backoff) = self {
                backoff.reset();
            }
            return;
        }
        match self {
            Self::Spin => spin_loop(),
            Self::Yield => std::thread::yield_now(),
            Self::Sleep { period_ns } => sleep(*period_ns),
            Self::Noop => {}
            Self::Backoff(backoff) => backoff.idle(),
        }
    }

    /// Starts over: the next call without work spins or sleeps for the shortest time.
    pub fn reset(&mut self) {
        if let Self::Backoff(backoff) = self {
            backoff.reset();
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "resting is what an idle strategy is for")]
fn sleep(ns: u64) {
    std::thread::sleep(Duration::from_nanos(ns));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_field() {
        for name in ["spin", "yield", "sleep-ns", "sleep-ms", "noop", "backoff"] {
            IdleStrategy::by_name(name).unwrap();
        }
        assert!(IdleStrategy::by_name("nap").unwrap_err().to_string().contains("backoff"));
    }

    #[test]
    fn backoff_starts_over_after_work() {
        let mut idle = IdleStrategy::Backoff(Backoff::new(1, 1, 1, 4));
        for _ in 0..5 {
            idle.idle(0);
        }
        idle.idle(1);
        assert_eq!(idle, IdleStrategy::Backoff(Backoff::new(1, 1, 1, 4)));
    }
}
