//! One sender, a group of receivers, and no receiver left behind: the sender waits for the slowest of at least two.
//!
//! ```text
//! cargo run --release -p harrier --example multicast
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use media::{Media, Outcome};

const STREAM: i32 = 1_001;

/// The outcome of the example.
#[derive(Debug, PartialEq, Eq)]
pub struct Story {
    /// True when one receiver was enough for the sender to start.
    pub starts_with_one: bool,
    /// The messages that each of the receivers has read.
    pub read: [Vec<String>; 2],
}

/// Two drivers, as of two hosts, receive what a third sends to a group of the loopback interface.
pub fn run(base: &Path) -> Outcome<Story> {
    let port = harrier::platform::free_ports(1)?[0];
    // The interface decides which network carries the group; on a trading host that is its market data network.
    let group = format!("aeron:udp?endpoint=224.20.30.39:{port}|interface=localhost");
    let mut sender = Media::start(base, "sender", |_| ())?;
    let mut receivers = [Media::start(base, "first", |_| ())?, Media::start(base, "second", |_| ())?];

    let mut publication = sender.publication(&format!("{group}|fc=min,g:/2"), STREAM)?;
    let mut subscriptions = vec![receivers[0].subscription(&group, STREAM)?];
    receivers[0].until("the first image", |_| {
        let is_there = !subscriptions[0].images().is_empty();
        is_there.then_some(())
    })?;
    let starts_with_one = publication.is_connected();
    subscriptions.push(receivers[1].subscription(&group, STREAM)?);
    sender.connected(&publication)?;

    for price in ["101.5", "101.7"] {
        sender.send(&mut publication, price.as_bytes())?;
    }
    let mut read = [Vec::new(), Vec::new()];
    for ((media, subscription), read) in receivers.iter_mut().zip(&mut subscriptions).zip(&mut read) {
        *read = media.texts(subscription, 2)?;
    }
    Ok(Story { starts_with_one, read })
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("multicast", run)
}
