//! Our cluster client.

use std::path::Path;

use harrier::client::Aeron;
use harrier::cluster::client::{ClusterClient, ClusterClientContext};
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;

use super::client::Client;
use super::{PATIENCE_NS, messages};

/// Settings of a client that gives its node time for the election.
pub fn context(ingress_endpoints: &str) -> ClusterClientContext {
    let mut context = ClusterClientContext::new(ingress_endpoints, "aeron:udp?endpoint=127.0.0.1:0");
    context.message_timeout_ns = PATIENCE_NS;
    context
}

/// Connects through the driver of a directory, echoes `count` messages of `length` bytes, and closes the session.
pub fn echo(aeron_directory: &Path, ingress_endpoints: &str, count: u64, length: usize) {
    let mut client = Client::connect(aeron_directory);
    let mut cluster = ClusterClient::new(context(ingress_endpoints)).unwrap();
    let (mut sent, mut received) = (0, 0);
    let mut message = vec![0; length];
    let cycle = |aeron: &mut Aeron, cluster: &mut ClusterClient, received: &mut u64| {
        let mut on_echo = |_: i64, _: i64, echo: &[u8]| {
            messages::check(echo, length, *received);
            *received += 1;
        };
        cluster.poll(aeron, &SystemClock.now(), &mut on_echo).unwrap();
    };
    client.until("the echoes", |aeron| {
        cycle(aeron, &mut cluster, &mut received);
        messages::fill(&mut message, sent);
        if sent < count && cluster.is_connected() && cluster.offer(&message).is_ok() {
            sent += 1;
        }
        (received == count).then_some(())
    });
    cluster.close();
    client.work();
}
