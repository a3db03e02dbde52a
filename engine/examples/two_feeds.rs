//! The same stream over two paths: a publication with two destinations, and a subscription with two sources. One path
//! may fail.
//!
//! ```text
//! cargo run --release -p harrier --example two_feeds
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use media::{Media, Outcome};

const STREAM: i32 = 1_001;

/// The outcome of the example.
#[derive(Debug, PartialEq, Eq)]
pub struct Story {
    /// Number of paths that fed the single image at first.
    pub ways: i32,
    /// The messages that were read, in order.
    pub read: Vec<String>,
}

/// Sends ticks over both paths, then over one of them.
pub fn run(base: &Path) -> Outcome<Story> {
    let mut media = Media::start(base, "driver", |_| ())?;
    let endpoints = [endpoint()?, endpoint()?];

    let mut subscription = media.subscription("aeron:udp?control-mode=manual", STREAM)?;
    for endpoint in &endpoints {
        let added = media.client.add_rcv_destination(subscription.registration_id(), endpoint);
        media.done(added)?;
    }
    let mut publication = media.publication("aeron:udp?control-mode=manual", STREAM)?;
    let mut destinations = Vec::new();
    for endpoint in &endpoints {
        let added = media.client.add_destination(publication.registration_id(), endpoint)?;
        media.done(Ok(added))?;
        destinations.push(added);
    }
    media.connected(&publication)?;
    let ways = media.until("both ways", |_| {
        let image = subscription.images().first()?;
        (image.active_transport_count() == 2).then_some(image.active_transport_count())
    })?;

    media.send(&mut publication, b"tick 1")?;
    let mut read = media.texts(&mut subscription, 1)?;
    // The first path is cut. The data of the second path has the same positions, so nothing is lost and nothing
    // arrives twice.
    let removed = media.client.remove_destination_by_id(publication.registration_id(), destinations[0]);
    media.done(removed)?;
    for tick in ["tick 2", "tick 3"] {
        media.send(&mut publication, tick.as_bytes())?;
    }
    read.extend(media.texts(&mut subscription, 2)?);
    Ok(Story { ways, read })
}

/// A channel of this host with a port that is free.
fn endpoint() -> Outcome<String> {
    Ok(format!("aeron:udp?endpoint=127.0.0.1:{}", harrier::platform::free_ports(1)?[0]))
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("two-feeds", run)
}
