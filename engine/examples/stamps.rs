//! Latency by stage: each message carries the time when the driver sent it, when the kernel received it and when the
//! driver received it.
//!
//! ```text
//! cargo run --release -p harrier --example stamps
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use media::{Media, Outcome};

const STREAM: i32 = 1_001;
/// Bytes at the front of a message that the drivers write their stamps into.
const STAMPS: usize = 24;

/// The stages of one message, in nanoseconds since the epoch.
#[derive(Debug)]
pub struct Way {
    /// The sender's driver gave it to the socket.
    pub sent: i64,
    /// The kernel had it from the network.
    pub arrived: i64,
    /// The receiver's driver had it from the kernel.
    pub received: i64,
}

/// Sends a few messages and reads their stamps.
pub fn run(base: &Path) -> Outcome<Vec<Way>> {
    let mut media = Media::start(base, "driver", |_| ())?;
    let stamps = "media-rcv-ts-offset=8|channel-rcv-ts-offset=16";
    let mut subscription = media.subscription(&format!("aeron:udp?endpoint=127.0.0.1:0|{stamps}"), STREAM)?;
    let endpoint = media.bound(&subscription)?.replace(&format!("|{stamps}"), "");
    let mut publication = media.publication(&format!("{endpoint}|channel-snd-ts-offset=0"), STREAM)?;
    media.connected(&publication)?;
    let mut ways = Vec::new();
    for _ in 0..3 {
        media.send(&mut publication, &[0; STAMPS])?;
        let count = ways.len();
        media.until("the message", |_| {
            subscription.poll(1, &mut |message, _| {
                let stamp = |at: usize| message[at..at + 8].try_into().map_or(0, i64::from_le_bytes);
                ways.push(Way { sent: stamp(0), arrived: stamp(8), received: stamp(16) });
            });
            (ways.len() > count).then_some(())
        })?;
    }
    Ok(ways)
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("stamps", run)
}
