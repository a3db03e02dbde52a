//! A publisher that starts again where it had ended, with the same session and the same positions.
//!
//! ```text
//! cargo run --release -p harrier --example resume
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use harrier::client::ExclusivePublication;
use harrier::protocol::uri::ChannelUri;
use media::{Media, Outcome};

const STREAM: i32 = 1_001;
const SESSION: i32 = 77;
const TERM_LENGTH: i32 = 64 << 10;

/// The outcome of the example.
#[derive(Debug, PartialEq, Eq)]
pub struct Story {
    /// The position where the first publisher ended, and the position where the second began.
    pub positions: (i64, i64),
    /// The messages that were read of both publishers.
    pub read: Vec<String>,
}

/// Runs two publishers of one stream, one after the other.
pub fn run(base: &Path) -> Outcome<Story> {
    let mut media = Media::start(base, "driver", |context| {
        context.timer_interval_ns = 20_000_000;
        context.publication_linger_timeout_ns = 50_000_000;
    })?;
    // Of all streams that arrive at this port, the subscription takes only the one of this session.
    let channel = format!("aeron:udp?endpoint=127.0.0.1:0|session-id={SESSION}");
    let mut subscription = media.subscription(&channel, STREAM)?;
    let mut channel = ChannelUri::parse(&media.bound(&subscription)?)?.with("term-length", TERM_LENGTH);
    let mut first = media.publication(&channel.to_string(), STREAM)?;
    let end = media.send(&mut first, b"before")?;
    let mut read = media.texts(&mut subscription, 1)?;

    channel.set_initial_position(end, first.initial_term_id(), TERM_LENGTH);
    drop(first);
    media.until("the end of the first image", |_| {
        subscription.poll(1, &mut |_, _| ());
        subscription.images().is_empty().then_some(())
    })?;
    let mut second = again(&mut media, &channel.to_string())?;
    let begin = second.position();
    media.send(&mut second, b"after")?;
    read.extend(media.texts(&mut subscription, 1)?);
    Ok(Story { positions: (end, begin), read })
}

/// Adds a publication with a session id that its predecessor keeps until it has lingered.
fn again(media: &mut Media, channel: &str) -> Outcome<ExclusivePublication> {
    loop {
        match media.publication(channel, STREAM) {
            Err(error) if error.to_string().contains("session-id") => {}
            added => return added,
        }
    }
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("resume", run)
}
