//! One publication to one subscriber at full rate. The subscriber counts the messages and checks their order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use harrier::client::{ExclusivePublication, Publication, Subscription};
use harrier::driver::context::{DriverContext, ThreadingMode};
use harrier::platform::free_ports;
use harrier::ringbuf::append::OfferError;
use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::rtt::{Alone, Beside, CONDUCTOR_PERIOD_S, StopOnDrop, join, retry};
use crate::side::{Invoked, Shared, Side, directory, driver_context};
use crate::stopwatch::{Stopwatch, rest};

const STREAM_ID: i32 = 1_003;
/// Pause of a subscriber that has caught up, so that the publisher gets ahead of it. A subscriber that is always at
/// the head fetches each line from the core that has just written it, and the publisher's next store to that line
/// waits for it to come back.
const REST_S: f64 = 10e-6;
const FRAGMENT_LIMIT: usize = 256;
/// Payload that an end with an invoked driver sends or reads between two duty cycles of the driver, unless it has to
/// wait anyway.
const BYTES_PER_CYCLE: usize = 32 << 10;

/// A counter on a cache line of its own.
#[repr(align(128))]
struct Padded(AtomicU64);

trait Offer: Send {
    fn offer(&mut self, message: &[u8]) -> Result<i64, OfferError>;
}

impl Offer for ExclusivePublication {
    #[inline(always)]
    fn offer(&mut self, message: &[u8]) -> Result<i64, OfferError> {
        ExclusivePublication::offer(self, message)
    }
}

impl Offer for Publication {
    #[inline(always)]
    fn offer(&mut self, message: &[u8]) -> Result<i64, OfferError> {
        Publication::offer(self, message)
    }
}

/// IPC with an exclusive publication; the driver backs off, both ends spin.
pub(crate) fn ipc_exclusive(parameters: &Parameters) -> Result<Outcome, BenchError> {
    ipc(parameters, "exclusive", |side| side.exclusive("aeron:ipc", STREAM_ID))
}

/// IPC with a publication that others could write to as well.
pub(crate) fn ipc_concurrent(parameters: &Parameters) -> Result<Outcome, BenchError> {
    ipc(parameters, "concurrent", |side| side.concurrent("aeron:ipc", STREAM_ID))
}

fn ipc<P: Offer>(
    parameters: &Parameters,
    kind: &str,
    add: impl FnOnce(&mut Shared) -> Result<P, BenchError>,
) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let mut side = Shared::new(driver_context(directory.path(), "driver")?)?;
    let subscription = side.subscription("aeron:ipc", STREAM_ID)?;
    let publication = add(&mut side)?;
    let mut outcome = between(&mut side, publication, subscription, parameters)?;
    outcome.parameters.push(("publication", json!(kind)));
    outcome.parameters.push(("driver", json!("shared, backoff")));
    Ok(outcome)
}

/// IPC with the driver in the subscriber's thread, which has time to spare: two threads on two cores.
pub(crate) fn ipc_invoked(parameters: &Parameters) -> Result<Outcome, BenchError> {
    ipc_invoked_with(parameters, "64m")
}

/// The same with a log that fits into the caches of the cores.
pub(crate) fn ipc_invoked_short(parameters: &Parameters) -> Result<Outcome, BenchError> {
    ipc_invoked_with(parameters, "512k")
}

fn ipc_invoked_with(parameters: &Parameters, term_length: &str) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let channel = format!("aeron:ipc?term-length={term_length}");
    let (running, received) = (AtomicBool::new(true), Padded(AtomicU64::new(0)));
    let stop = StopOnDrop(&running);
    let size = parameters.size;
    let (hand_over, taken) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        let subscriber = scope.spawn(|| {
            let hand_over = hand_over;
            let mut side = Invoked::new(driver_context(directory.path(), "driver")?)?;
            let mut subscription = side.subscription(&channel, STREAM_ID)?;
            let publication = side.exclusive(&channel, STREAM_ID)?;
            if hand_over.send(publication).is_err() {
                return Err(BenchError::Timeout("the publisher"));
            }
            subscribe(&mut side, &mut subscription, size, &running, &received, || rest(REST_S))
        });
        let publisher = scope.spawn(|| {
            let taken = taken;
            let Ok(mut publication) = taken.recv() else { return Ok(()) };
            publish(&mut Alone, &mut publication, size, &running)
        });
        let msgs_per_s = rate(parameters, &received, &mut || Ok(()));
        drop(stop);
        join(publisher)?;
        join(subscriber)?;
        let arrangement =
            format!("invoked by the subscriber, which rests when it has caught up; {term_length} terms");
        let parameters = vec![("driver", json!(arrangement))];
        Ok(Outcome { parameters, latency: None, msgs_per_s: msgs_per_s? })
    })
}

/// UDP over loopback: dedicated threads that back off, long datagrams, large buffers and window.
pub(crate) fn udp_dedicated(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let mut context = driver_context(directory.path(), "driver")?;
    tune(&mut context);
    context.threading_mode = ThreadingMode::Dedicated;
    let mut side = Shared::new(context)?;
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_ports(1)?[0]);
    let subscription = side.subscription(&channel, STREAM_ID)?;
    let publication = side.exclusive(&channel, STREAM_ID)?;
    let mut outcome = between(&mut side, publication, subscription, parameters)?;
    outcome.parameters.push(("driver", json!("dedicated, backoff, 8 KiB MTU, 2 MiB window")));
    Ok(outcome)
}

fn tune(context: &mut DriverContext) {
    context.mtu_length = 8 << 10;
    context.socket_sndbuf_length = 2 << 20;
    context.socket_rcvbuf_length = 2 << 20;
    context.initial_window_length = 2 << 20;
    context.term_buffer_length = 64 << 20;
}

/// UDP over loopback, each end with its driver in its own thread.
pub(crate) fn udp_invoked(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let directory = directory()?;
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_ports(1)?[0]);
    let (running, received) = (AtomicBool::new(true), Padded(AtomicU64::new(0)));
    let stop = StopOnDrop(&running);
    let new_side = |name: &str| {
        let mut context = driver_context(directory.path(), name)?;
        tune(&mut context);
        Invoked::new(context)
    };
    std::thread::scope(|scope| {
        let subscriber = scope.spawn(|| {
            let mut side = new_side("subscriber")?;
            let mut subscription = side.subscription(&channel, STREAM_ID)?;
            let size = parameters.size;
            subscribe(&mut side, &mut subscription, size, &running, &received, std::hint::spin_loop)
        });
        let publisher = scope.spawn(|| {
            let mut side = new_side("publisher")?;
            let mut publication = side.exclusive(&channel, STREAM_ID)?;
            publish(&mut side, &mut publication, parameters.size, &running)
        });
        let msgs_per_s = rate(parameters, &received, &mut || Ok(()));
        drop(stop);
        join(publisher)?;
        join(subscriber)?;
        let parameters = vec![("driver", json!("invoked, 8 KiB MTU, 2 MiB window"))];
        Ok(Outcome { parameters, latency: None, msgs_per_s: msgs_per_s? })
    })
}

/// Both ends on threads of their own beside a driver that has its own.
fn between(
    side: &mut Shared,
    mut publication: impl Offer,
    mut subscription: Subscription,
    parameters: &Parameters,
) -> Result<Outcome, BenchError> {
    let (running, received) = (AtomicBool::new(true), Padded(AtomicU64::new(0)));
    let stop = StopOnDrop(&running);
    let size = parameters.size;
    std::thread::scope(|scope| {
        let subscriber = scope.spawn(|| {
            subscribe(&mut Alone, &mut subscription, size, &running, &received, std::hint::spin_loop)
        });
        let publisher = scope.spawn(|| publish(&mut Alone, &mut publication, size, &running));
        let msgs_per_s = rate(parameters, &received, &mut || side.step().map(|_| ()));
        drop(stop);
        join(publisher)?;
        join(subscriber)?;
        Ok(Outcome { parameters: Vec::new(), latency: None, msgs_per_s: msgs_per_s? })
    })
}

/// Returns the messages received per second after the warm-up.
fn rate(
    parameters: &Parameters,
    received: &Padded,
    step: &mut dyn FnMut() -> Result<(), BenchError>,
) -> Result<f64, BenchError> {
    let mut go_on = |seconds: f64| {
        let stopwatch = Stopwatch::start();
        while (stopwatch.ns() as f64) < seconds * 1e9 {
            step()?;
            rest(CONDUCTOR_PERIOD_S);
        }
        Ok::<_, BenchError>(())
    };
    go_on(parameters.warmup_s)?;
    let stopwatch = Stopwatch::start();
    let before = received.0.load(Ordering::Relaxed);
    go_on(parameters.seconds)?;
    let count = received.0.load(Ordering::Relaxed) - before;
    Ok(count as f64 * 1e9 / stopwatch.ns() as f64)
}

fn publish(
    beside: &mut impl Beside,
    publication: &mut impl Offer,
    size: usize,
    running: &AtomicBool,
) -> Result<(), BenchError> {
    let mut message = vec![0_u8; size];
    let mut sequence = 0_u64;
    let mut offered = 0;
    while running.load(Ordering::Relaxed) {
        message[..8].copy_from_slice(&sequence.to_le_bytes());
        match publication.offer(&message) {
            Ok(_) => {
                sequence += 1;
                offered += size;
                if offered >= BYTES_PER_CYCLE {
                    offered = 0;
                    beside.step()?;
                }
            }
            // The other end noticed the end first.
            Err(OfferError::Closed) if !running.load(Ordering::Relaxed) => break,
            Err(error) => {
                // The stream needs a moment to connect.
                if !(sequence == 0 && error == OfferError::NotConnected) {
                    retry(error)?;
                }
                if beside.step()? == 0 {
                    std::hint::spin_loop();
                }
            }
        }
    }
    Ok(())
}

fn subscribe(
    beside: &mut impl Beside,
    subscription: &mut Subscription,
    size: usize,
    running: &AtomicBool,
    received: &Padded,
    idle: impl Fn(),
) -> Result<(), BenchError> {
    let mut next = 0_u64;
    let mut read = 0;
    while running.load(Ordering::Relaxed) {
        let polled = subscription.poll(FRAGMENT_LIMIT, &mut |payload, _| {
            assert_eq!(payload.len(), size, "length of message {next}");
            assert_eq!(payload.first_chunk(), Some(&next.to_le_bytes()), "messages are out of order");
            next += 1;
        });
        if polled > 0 {
            received.0.store(next, Ordering::Relaxed);
        }
        read += polled * size;
        if polled == 0 || read >= BYTES_PER_CYCLE {
            read = 0;
            if beside.step()? + polled == 0 {
                idle();
            }
        }
    }
    Ok(())
}
