//! Round trips: a ping waits for its echo before the next one leaves.

use std::sync::atomic::{AtomicBool, Ordering};

use harrier::client::{ExclusivePublication, Subscription};
use harrier::platform::free_ports;
use hdrhistogram::Histogram;
use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::measurement::histogram;
use crate::side::{Invoked, PATIENCE_NS, Shared, Side, directory, driver_context};
use crate::stopwatch::{Stopwatch, rest};

const PING_STREAM: i32 = 1_001;
const PONG_STREAM: i32 = 1_002;
const FRAGMENT_LIMIT: usize = 10;

/// Number of idle turns between readings of the clock.
const LOOK_AT_CLOCK: u64 = 1 << 20;

/// Interval of the client conductor while the measuring threads do not run it, s.
pub(crate) const CONDUCTOR_PERIOD_S: f64 = 0.01;

/// IPC: the driver backs off on a thread of its own, ping and echo spin.
pub(crate) fn ipc(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let mut side = Shared::new(driver_context(directory.path(), "driver")?)?;
    let mut ping_out = side.exclusive("aeron:ipc", PING_STREAM)?;
    let mut ping_in = side.subscription("aeron:ipc", PONG_STREAM)?;
    let mut echo_in = side.subscription("aeron:ipc", PING_STREAM)?;
    let mut echo_out = side.exclusive("aeron:ipc", PONG_STREAM)?;
    let running = AtomicBool::new(true);
    let stop = StopOnDrop(&running);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| echo(&mut Alone, &mut echo_in, &mut echo_out, &running));
        let ping = scope.spawn(|| ping(&mut Alone, &mut ping_out, &mut ping_in, parameters));
        while !ping.is_finished() {
            side.step()?;
            rest(CONDUCTOR_PERIOD_S);
        }
        drop(stop);
        let outcome = join(ping)?;
        join(echo)?;
        Ok(Outcome { parameters: vec![("driver", json!("shared, backoff"))], ..outcome })
    })
}

/// UDP: each side has its driver in its own thread and spins.
pub(crate) fn udp(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let ports = free_ports(2)?;
    let there = format!("aeron:udp?endpoint=127.0.0.1:{}", ports[0]);
    let back = format!("aeron:udp?endpoint=127.0.0.1:{}", ports[1]);
    let running = AtomicBool::new(true);
    let stop = StopOnDrop(&running);
    std::thread::scope(|scope| {
        let echo = scope.spawn(|| {
            let mut side = Invoked::new(driver_context(directory.path(), "echo")?)?;
            let mut input = side.subscription(&there, PING_STREAM)?;
            let mut output = side.exclusive(&back, PONG_STREAM)?;
            echo(&mut side, &mut input, &mut output, &running)
        });
        let ping = scope.spawn(|| {
            let mut side = Invoked::new(driver_context(directory.path(), "ping")?)?;
            let mut output = side.exclusive(&there, PING_STREAM)?;
            let mut input = side.subscription(&back, PONG_STREAM)?;
            ping(&mut side, &mut output, &mut input, parameters)
        });
        let outcome = join(ping);
        drop(stop);
        let echoed = join(echo);
        let outcome = outcome?;
        echoed?;
        Ok(Outcome { parameters: vec![("driver", json!("invoked"))], ..outcome })
    })
}

/// Nothing else runs on the measuring thread.
pub(crate) struct Alone;

impl Beside for Alone {
    #[inline(always)]
    fn step(&mut self) -> Result<usize, BenchError> {
        Ok(0)
    }
}

/// Other work on a measuring thread.
pub(crate) trait Beside {
    fn step(&mut self) -> Result<usize, BenchError>;
}

impl Beside for Invoked {
    #[inline]
    fn step(&mut self) -> Result<usize, BenchError> {
        Side::step(self)
    }
}

/// Tells the other threads of a measurement to end, even when their owner fails.
pub(crate) struct StopOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Relaxed);
    }
}

/// Returns the result of a measuring thread; its panic continues in the caller.
pub(crate) fn join<V>(
    thread: std::thread::ScopedJoinHandle<'_, Result<V, BenchError>>,
) -> Result<V, BenchError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn echo(
    beside: &mut impl Beside,
    input: &mut Subscription,
    output: &mut ExclusivePublication,
    running: &AtomicBool,
) -> Result<(), BenchError> {
    let mut failure = None;
    while running.load(Ordering::Relaxed) && failure.is_none() {
        let work = beside.step()?;
        let polled = input.poll(FRAGMENT_LIMIT, &mut |payload, _| {
            while let Err(error) = output.offer(payload) {
                if !running.load(Ordering::Relaxed) {
                    return;
                }
                if let Err(error) = retry(error).and_then(|()| beside.step()) {
                    failure = Some(error);
                    return;
                }
            }
        });
        if work + polled == 0 {
            std::hint::spin_loop();
        }
    }
    failure.map_or(Ok(()), Err)
}

/// Continues when an offer may succeed a moment later.
#[inline]
pub(crate) fn retry(error: harrier::ringbuf::append::OfferError) -> Result<(), BenchError> {
    if error.is_retryable() { Ok(()) } else { Err(BenchError::engine(error)) }
}

fn ping(
    beside: &mut impl Beside,
    output: &mut ExclusivePublication,
    input: &mut Subscription,
    parameters: &Parameters,
) -> Result<Outcome, BenchError> {
    let connecting = Stopwatch::start();
    while !(output.is_connected() && input.is_connected()) {
        if connecting.ns() > PATIENCE_NS {
            return Err(BenchError::Timeout("the echo's connection"));
        }
        beside.step()?;
        std::thread::yield_now();
    }
    let mut message = vec![0_u8; parameters.size];
    let mut times = histogram();
    closed_loop(beside, output, input, &mut message, &mut times, parameters.warmup_s)?;
    times.reset();
    let stopwatch = Stopwatch::start();
    closed_loop(beside, output, input, &mut message, &mut times, parameters.seconds)?;
    let msgs_per_s = times.len() as f64 * 1e9 / stopwatch.ns() as f64;
    Ok(Outcome { parameters: Vec::new(), latency: Some(times), msgs_per_s })
}

/// Measures with one message in flight, from just before the offer to the handler of its echo.
fn closed_loop(
    beside: &mut impl Beside,
    output: &mut ExclusivePublication,
    input: &mut Subscription,
    message: &mut [u8],
    times: &mut Histogram<u64>,
    seconds: f64,
) -> Result<(), BenchError> {
    let stopwatch = Stopwatch::start();
    let end_ns = (seconds * 1e9) as u64;
    let give_up_ns = end_ns + PATIENCE_NS;
    let mut now_ns = 0;
    while now_ns < end_ns {
        let mut sent_ns = stopwatch.ns();
        message[..8].copy_from_slice(&sent_ns.to_le_bytes());
        while let Err(error) = output.offer(message) {
            retry(error)?;
            beside.step()?;
            sent_ns = stopwatch.ns();
            message[..8].copy_from_slice(&sent_ns.to_le_bytes());
        }
        let mut is_back = false;
        let mut idles = 0_u64;
        while !is_back {
            let work = beside.step()?;
            let polled = input.poll(FRAGMENT_LIMIT, &mut |payload, _| {
                now_ns = stopwatch.ns();
                assert_eq!(payload.first_chunk(), Some(&sent_ns.to_le_bytes()), "another message came back");
                times.saturating_record(now_ns - sent_ns);
                is_back = true;
            });
            if work + polled == 0 {
                std::hint::spin_loop();
                idles += 1;
                if idles.is_multiple_of(LOOK_AT_CLOCK) && stopwatch.ns() > give_up_ns {
                    return Err(BenchError::Timeout("an echo"));
                }
            }
        }
    }
    Ok(())
}
