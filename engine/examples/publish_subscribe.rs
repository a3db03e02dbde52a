//! One stream over UDP: messages in one piece, in parts, written in place, and longer than a datagram.
//!
//! ```text
//! cargo run --release -p harrier --example publish_subscribe
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use harrier::protocol::uri::ChannelUri;
use media::{Media, Outcome};

const STREAM: i32 = 1_001;

/// Returns the messages that the subscriber has read: the short texts, and the length of the long one.
pub fn run(base: &Path) -> Outcome<(Vec<String>, usize)> {
    let mut media = Media::start(base, "driver", |_| ())?;
    let mut subscription = media.subscription("aeron:udp?endpoint=127.0.0.1:0", STREAM)?;
    // The port that the system chose; a program with a port of its own writes it into both channels.
    let channel = media.bound(&subscription)?;
    // Channels are texts; the builder knows their parameters.
    let channel = ChannelUri::parse(&channel)?.with("linger", "100ms");
    let mut publication = media.publication(&channel.to_string(), STREAM)?;
    media.connected(&publication)?;

    media.send(&mut publication, b"in one piece")?;
    publication.offer_parts(&[b"in ", b"two ", b"parts"])?;
    // No copy is made: the message is written into the buffer that the driver sends from. No later message leaves
    // before this one is committed.
    let mut claim = publication.try_claim(8)?;
    claim.put(0, b"in place");
    claim.commit();
    // Longer than a datagram: it travels in fragments, which the assembler puts together.
    media.send(&mut publication, &[b'x'; 8_000])?;

    let mut texts = media.texts(&mut subscription, 4)?;
    let long = texts.pop().unwrap_or_default();
    Ok((texts, long.len()))
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("publish-subscribe", run)
}
