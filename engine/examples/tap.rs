//! Observing without slowing anyone down: a spy on the sender's host, and a reader that may be left behind.
//!
//! ```text
//! cargo run --release -p harrier --example tap
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use media::{Media, Outcome};

const STREAM: i32 = 1_001;
/// Half a term is what a publication lets its readers be behind.
const FLOOD: usize = 200;

/// The outcome of the example.
#[derive(Debug, PartialEq, Eq)]
pub struct Story {
    /// Messages that the spy has read.
    pub spied: usize,
    /// Messages that were sent while the untethered reader slept.
    pub sent_meanwhile: usize,
    /// True when the driver has released the reader that sleeps.
    pub is_sleeper_released: bool,
}

/// Sends orders over the network with a spy that logs them, then prices over IPC with a reader that sleeps.
pub fn run(base: &Path) -> Outcome<Story> {
    let mut media = Media::start(base, "driver", |context| {
        context.timer_interval_ns = 20_000_000;
        context.untethered_window_limit_timeout_ns = 100_000_000;
        context.untethered_resting_timeout_ns = 60_000_000_000;
    })?;
    // `ssc`: the spy is receiver enough, so that orders are logged even while nobody listens at the endpoint.
    let mut orders = media.publication("aeron:udp?endpoint=127.0.0.1:9|ssc=true", STREAM)?;
    let mut spy = media.subscription("aeron-spy:aeron:udp?endpoint=127.0.0.1:9", STREAM)?;
    media.connected(&orders)?;
    for order in ["buy", "sell"] {
        media.send(&mut orders, order.as_bytes())?;
    }
    let spied = media.texts(&mut spy, 2)?.len();

    let mut prices = media.publication("aeron:ipc", STREAM)?;
    let mut reader = media.subscription("aeron:ipc", STREAM)?;
    let mut sleeper = media.subscription("aeron:ipc?tether=false", STREAM)?;
    media.until("both readers", |_| {
        (!sleeper.images().is_empty() && !reader.images().is_empty()).then_some(())
    })?;
    let mut sent_meanwhile = 0;
    while sent_meanwhile < FLOOD {
        // With the tether this would stop after half a term.
        media.send(&mut prices, &[b'p'; 1_000])?;
        sent_meanwhile += media.texts(&mut reader, 1)?.len();
    }
    let is_sleeper_released =
        media.until("the release of the sleeper", |_| sleeper.images().is_empty().then_some(true))?;
    Ok(Story { spied, sent_meanwhile, is_sleeper_released })
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("tap", run)
}
