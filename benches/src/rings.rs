//! Rings between two threads of one process, compared with rtrb.

use std::sync::atomic::{AtomicBool, Ordering};

use harrier::ringbuf::AtomicBuffer;
use harrier::ringbuf::many_to_one::{ManyToOneRing, TRAILER_LENGTH};
use harrier::ringbuf::one_to_one;
use serde_json::json;

use crate::BenchError;
use crate::benchmark::{Outcome, Parameters};
use crate::rtt::{StopOnDrop, join};
use crate::stopwatch::Stopwatch;

/// Bytes of data of our rings.
const CAPACITY: usize = 1 << 20;
/// Messages that rtrb's ring holds.
const RTRB_MESSAGES: usize = 1_024;
const READ_LIMIT: usize = 256;
const TYPE_ID: i32 = 7;
/// Number of turns of a reader between readings of the clock.
const LOOK_AT_CLOCK: u32 = 64;

/// Calls a function that is generic over the length of a message.
macro_rules! by_size {
    ($parameters:expr, $function:ident) => {
        match $parameters.size {
            8 => $function::<8>($parameters),
            16 => $function::<16>($parameters),
            32 => $function::<32>($parameters),
            64 => $function::<64>($parameters),
            128 => $function::<128>($parameters),
            other => Err(BenchError::Parameter(format!(
                "a ring's message of {other} bytes: take 8, 16, 32, 64 or 128"
            ))),
        }
    };
}

/// Our one-to-one ring.
pub(crate) fn one_to_one(parameters: &Parameters) -> Result<Outcome, BenchError> {
    by_size!(parameters, one_to_one_of)
}

/// Our many-to-one ring with one writer.
pub(crate) fn many_to_one(parameters: &Parameters) -> Result<Outcome, BenchError> {
    by_size!(parameters, many_to_one_of)
}

/// The ring of the Rust ecosystem with which ours are compared.
pub(crate) fn rtrb(parameters: &Parameters) -> Result<Outcome, BenchError> {
    by_size!(parameters, rtrb_of)
}

fn one_to_one_of<const N: usize>(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let memory = AtomicBuffer::heap(CAPACITY + TRAILER_LENGTH);
    let (mut producer, mut consumer) = one_to_one::ring(memory).map_err(BenchError::engine)?;
    let mut next = 0;
    between::<N>(
        parameters,
        move |message| producer.write(TYPE_ID, message).is_ok(),
        move || consumer.read(READ_LIMIT, &mut |_, bytes| check(&mut next, bytes)),
    )
}

fn many_to_one_of<const N: usize>(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let memory = AtomicBuffer::heap(CAPACITY + TRAILER_LENGTH);
    let ring = ManyToOneRing::new(memory).map_err(BenchError::engine)?;
    let reader = ring.clone();
    let mut next = 0;
    between::<N>(
        parameters,
        move |message| ring.write(TYPE_ID, message).is_ok(),
        move || reader.read(READ_LIMIT, &mut |_, bytes| check(&mut next, bytes)),
    )
}

fn rtrb_of<const N: usize>(parameters: &Parameters) -> Result<Outcome, BenchError> {
    let (mut producer, mut consumer) = ::rtrb::RingBuffer::<[u8; N]>::new(RTRB_MESSAGES);
    let mut next = 0;
    between::<N>(
        parameters,
        move |message| producer.push(*message).is_ok(),
        move || {
            let mut count = 0;
            while count < READ_LIMIT
                && let Ok(message) = consumer.pop()
            {
                check(&mut next, &message);
                count += 1;
            }
            count
        },
    )
}

#[inline(always)]
fn check(next: &mut u64, bytes: &[u8]) {
    assert_eq!(bytes.first_chunk(), Some(&next.to_le_bytes()), "messages are out of order");
    *next += 1;
}

/// A writer and a reader on threads of their own; both spin.
fn between<const N: usize>(
    parameters: &Parameters,
    mut write: impl FnMut(&[u8; N]) -> bool + Send,
    mut read: impl FnMut() -> usize + Send,
) -> Result<Outcome, BenchError> {
    let running = AtomicBool::new(true);
    let stop = StopOnDrop(&running);
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut message = [0; N];
            let mut sequence = 0_u64;
            while running.load(Ordering::Relaxed) {
                message[..8].copy_from_slice(&sequence.to_le_bytes());
                if write(&message) {
                    sequence += 1;
                } else {
                    std::hint::spin_loop();
                }
            }
            Ok(())
        });
        let reader = scope.spawn(|| {
            let mut read_for = |seconds: f64| {
                let stopwatch = Stopwatch::start();
                let mut count = 0;
                while (stopwatch.ns() as f64) < seconds * 1e9 {
                    for _ in 0..LOOK_AT_CLOCK {
                        let taken = read();
                        if taken == 0 {
                            std::hint::spin_loop();
                        }
                        count += taken;
                    }
                }
                count as f64 * 1e9 / stopwatch.ns() as f64
            };
            read_for(parameters.warmup_s);
            Ok(read_for(parameters.seconds))
        });
        let msgs_per_s = join(reader);
        drop(stop);
        join(writer)?;
        Ok(Outcome {
            parameters: vec![("capacity", json!(CAPACITY))],
            latency: None,
            msgs_per_s: msgs_per_s?,
        })
    })
}
