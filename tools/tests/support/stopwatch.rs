//! Limits of real time are kept by the product, not by the machine below it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;

use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;

use super::rest;

/// A thread that sleeps for a millisecond and takes longer than this was not scheduled, ns.
const STILL_NS: i64 = 100_000_000;

/// Measures time from its start, and the part of it in which the machine stalled: a runnable thread did not run.
pub struct Stopwatch {
    begin_ns: i64,
    still_ns: Arc<AtomicI64>,
    is_over: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
}

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "a thread of a test, not of the product")]
    pub fn start() -> Self {
        let begin_ns = SystemClock.now().ns;
        let (still_ns, is_over) = (Arc::new(AtomicI64::new(0)), Arc::new(AtomicBool::new(false)));
        let (sum, end) = (Arc::clone(&still_ns), Arc::clone(&is_over));
        let watcher = std::thread::spawn(move || {
            let mut last_ns = begin_ns;
            while !end.load(Ordering::Relaxed) {
                rest();
                let now_ns = SystemClock.now().ns;
                let away_ns = now_ns - last_ns;
                last_ns = now_ns;
                if away_ns > STILL_NS {
                    sum.fetch_add(away_ns, Ordering::Relaxed);
                }
            }
        });
        Self { begin_ns, still_ns, is_over, watcher: Some(watcher) }
    }

    /// Time since the start without stalls, ns.
    pub fn stop(mut self) -> i64 {
        let took_ns = SystemClock.now().ns - self.begin_ns;
        took_ns - self.end()
    }

    /// Time of stalls, ns.
    pub fn still_ns(mut self) -> i64 {
        self.end()
    }

    fn end(&mut self) -> i64 {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            watcher.join().unwrap();
        }
        self.still_ns.load(Ordering::Relaxed)
    }
}

impl Drop for Stopwatch {
    fn drop(&mut self) {
        self.end();
    }
}
