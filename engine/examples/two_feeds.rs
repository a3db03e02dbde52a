//! The same stream by two ways: a publication with two destinations, a subscription with two sources. One way may fail.
//!
//! ```text
//! cargo run --release -p harrier --example two_feeds
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use media::{Media, Outcome};

const STREAM: i32 = 1_001;

/// What has happened.
#[derive(Debug, PartialEq, Eq)]
pub struct Story {
    /// Ways by which the one image was fed at first.
    pub ways: i32,
    /// What was read, in order.
    pub read: Vec<String>,
}

/// Sends ticks by both ways, then by one of them.
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
    // The first way is cut; what comes by the second has the same positions, so nothing is lost and nothing comes twice.
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
