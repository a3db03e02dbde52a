//! Channels that name a driver: drivers tell each other their addresses, and no name server is needed.
//!
//! ```text
//! cargo run --release -p harrier --example names
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use media::{Media, Outcome, counter};

const STREAM: i32 = 1_001;
/// Type of the counter of names that a driver knows.
const CACHE_ENTRIES: i32 = 16;

/// Returns the messages that the driver named `book` has read from the one named `gateway`.
pub fn run(base: &Path) -> Outcome<Vec<String>> {
    let (book, gateway) = (address()?, address()?);
    let mut receiver = named(base, "book", &book, "")?;
    // One neighbour is enough, because it passes on the names of the others.
    let mut sender = named(base, "gateway", &gateway, &book)?;
    sender.until("the name of the other", |client| {
        (counter(client, CACHE_ENTRIES, "").unwrap_or(0) > 0).then_some(())
    })?;

    let port = address()?.rsplit(':').next().unwrap_or_default().to_owned();
    let channel = format!("aeron:udp?endpoint=book:{port}");
    let mut subscription = receiver.subscription(&channel, STREAM)?;
    let mut publication = sender.publication(&channel, STREAM)?;
    sender.connected(&publication)?;
    sender.send(&mut publication, b"found")?;
    receiver.texts(&mut subscription, 1)
}

/// A driver with a name; in a data centre its interface is `0.0.0.0:8050` or the like.
fn named(base: &Path, name: &str, interface: &str, neighbor: &str) -> Outcome<Media> {
    Media::start(base, name, |context| {
        context.resolver_name = name.to_owned();
        context.resolver_interface = interface.to_owned();
        context.resolver_bootstrap_neighbor = neighbor.to_owned();
        context.resolver_self_resolution_interval_ns = 20_000_000;
        context.resolver_neighbor_resolution_interval_ns = 20_000_000;
    })
}

/// An address of this host with a port that is free.
fn address() -> Outcome<String> {
    Ok(format!("127.0.0.1:{}", harrier::platform::free_ports(1)?[0]))
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("names", run)
}
