//! How much may be under way: windows of fixed length, and one that grows and shrinks with the network (`cc=cubic`).
//!
//! ```text
//! cargo run --release -p harrier --example windows
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use harrier::client::Subscription;
use harrier::protocol::counter_types::{name, type_id};
use media::{Media, Outcome, counter};

const STREAM: i32 = 1_001;
/// Messages of 1,000 bytes, at most so many until the cubic window has grown.
const COUNT: usize = 1_000_000;

/// Lengths of windows, bytes.
#[derive(Debug)]
pub struct Story {
    /// Position that a sender may reach before its receiver has read anything.
    pub fixed: i64,
    /// The cubic window at first.
    pub cubic_at_first: i64,
    /// The cubic window once it has grown: by the time without a loss, not by the number of messages.
    pub cubic_at_last: i64,
}

/// Fills a fixed window that nobody reads, then watches a cubic one grow.
pub fn run(base: &Path) -> Outcome<Story> {
    let mut media = Media::start(base, "driver", |context| context.term_buffer_length = 1 << 20)?;
    let subscription = media.subscription("aeron:udp?endpoint=127.0.0.1:0|rcv-wnd=32k", STREAM)?;
    let channel = media.bound(&subscription)?.replace("|rcv-wnd=32k", "");
    let publication = media.publication(&channel, STREAM)?;
    media.connected(&publication)?;
    let sender_limit = |client: &_| counter(client, type_id::SENDER_LIMIT, &channel);
    let fixed = media.until("the first window", |client| sender_limit(client).filter(|limit| *limit > 0))?;
    drop((publication, subscription));

    let mut subscription = media.subscription("aeron:udp?endpoint=127.0.0.1:0|cc=cubic", STREAM)?;
    let channel = media.bound(&subscription)?.replace("|cc=cubic", "");
    let mut publication = media.publication(&channel, STREAM)?;
    media.connected(&publication)?;
    let cubic_at_first = window(&mut media)?;
    let mut cubic_at_last = cubic_at_first;
    for _ in 0..COUNT {
        media.send(&mut publication, &[7; 1_000])?;
        read(&mut media, &mut subscription)?;
        cubic_at_last = window(&mut media)?;
        if cubic_at_last > cubic_at_first {
            break;
        }
    }
    Ok(Story { fixed, cubic_at_first, cubic_at_last })
}

fn window(media: &mut Media) -> Outcome<i64> {
    media.until("the counter of the window", |client| counter(client, type_id::PER_IMAGE, name::CUBIC_WINDOW))
}

fn read(media: &mut Media, subscription: &mut Subscription) -> Outcome<()> {
    media.until("a message", |_| (subscription.poll(1, &mut |_, _| ()) == 1).then_some(()))
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("windows", run)
}
