//! A subscriber that refuses a stream and gives a reason, which the publisher receives.
//!
//! ```text
//! cargo run --release -p harrier --example entitlement
//! ```

#[path = "support/media.rs"]
mod media;

use std::path::Path;

use harrier::client::ClientEvent;
use media::{Media, Outcome};

const STREAM: i32 = 1_001;

/// Returns the reason that the publisher receives.
pub fn run(base: &Path) -> Outcome<String> {
    let mut media = Media::start(base, "driver", |_| ())?;
    // Without `rejoin=false` the stream would come back as a new image.
    let mut subscription = media.subscription("aeron:udp?endpoint=127.0.0.1:0|rejoin=false", STREAM)?;
    let channel = media.bound(&subscription)?.replace("|rejoin=false", "");
    let mut publication = media.publication(&channel, STREAM)?;
    media.connected(&publication)?;
    media.send(&mut publication, b"user=guest")?;

    let user = media.texts(&mut subscription, 1)?;
    let image = subscription.images().first().ok_or("the image has gone")?;
    let (image_id, position) = (image.correlation_id(), image.position());
    let reason = format!("{} is not entitled", user[0]);
    let rejected = media.client.reject_image(image_id, position, &reason);
    media.done(rejected)?;
    let session_id = publication.session_id();
    media.until("the refusal", |client| match client.poll_event()? {
        ClientEvent::PublicationError(error) if error.session_id == session_id => Some(error.message),
        _ => None,
    })
}

#[allow(dead_code, reason = "tests run the example by its function")]
fn main() -> Outcome<()> {
    media::run("entitlement", run)
}
