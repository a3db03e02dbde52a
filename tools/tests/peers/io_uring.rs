//! Our driver on io_uring beside the released Java driver: losses, several destinations, multicast.

use harrier::platform::HostTransport;
use harrier::ringbuf::transport::{TransportKind, TransportOptions};

use crate::java::{self, Java};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::ports::free_port;

const TRANSPORT: &str = "harrier.driver.transport=io_uring";
const TERM: &str = "term-length=1m";

/// (bytes of a message, messages).
const SIZES: [(usize, u64); 4] = [(32, 2_000), (1_376, 500), (10_000, 100), (100_000, 10)];

/// System counters by id.
const NAKS_SENT: i32 = 5;
const NAKS_RECEIVED: i32 = 6;
const RETRANSMITS_SENT: i32 = 11;

/// False, with a word about it, where the host has no Java or no io_uring; a failure where everything is required.
fn is_available() -> bool {
    if !java::is_available() {
        return false;
    }
    let options = TransportOptions { kind: TransportKind::IoUring, ..TransportOptions::default() };
    let Err(error) = HostTransport::new(&options) else { return true };
    let is_required = std::env::var_os("HARRIER_REQUIRE_PEERS").is_some_and(|value| value == "1");
    assert!(!is_required, "{error}");
    eprintln!("SKIPPED: {error}");
    false
}

#[test]
fn losses_between_io_uring_and_javas_sockets_are_repaired() {
    if !is_available() {
        return;
    }
    let driver = OurDriver::start(&[
        TRANSPORT,
        "aeron.udp.channel.incoming.interceptors=loss",
        "aeron.udp.channel.transport.bindings.loss.args=rate=0.01|seed=11|recv-msg-mask=0xffff",
    ]);
    let (mut java, _directory) = Java::with_own_driver(&[
        "aeron.ReceiveChannelEndpoint.supplier=io.aeron.driver.ext.DebugReceiveChannelEndpointSupplier",
        "aeron.debug.receive.data.loss.rate=0.01",
        "aeron.debug.receive.data.loss.seed=13",
    ]);
    let mut client = Client::connect(&driver.directory);
    java.call("subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0 stream=10");
    let to_java = java.call("resolve name=s")["channel"].as_str().unwrap().to_owned();
    let mut subscription = client.subscription("aeron:udp?endpoint=127.0.0.1:0", 11);
    let to_us = client.resolved(&subscription);
    let mut publication = client.exclusive(&format!("{to_java}|{TERM}"), 10);
    java.call_beside(&mut client, &format!("publish name=p channel={to_us}|{TERM} stream=11 exclusive=true"));
    for (length, count) in SIZES {
        let receive = java.begin(&format!("receive name=s length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        java.finish_beside(receive, &mut client);
        let send = java.begin(&format!("send name=p length={length} count={count}"));
        client.receive(&mut subscription, 0..count, length);
        java.finish_beside(send, &mut client);
    }
    for counter in [NAKS_SENT, NAKS_RECEIVED, RETRANSMITS_SENT] {
        assert!(client.aeron.counters().value(counter) > 0, "counter {counter}");
    }
    assert_eq!(java.exit(), "");
    driver.stop();
}

#[test]
fn a_java_client_has_several_sources_and_destinations_over_io_uring() {
    if !is_available() {
        return;
    }
    let driver = OurDriver::start(&[TRANSPORT]);
    let mut java = Java::client(&driver.directory);
    let (mut remote, _directory) = Java::with_own_driver(&[]);
    let sockets = [(); 2].map(|()| format!("aeron:udp?endpoint=127.0.0.1:{}", free_port()));
    java.call("subscribe name=s channel=aeron:udp?control-mode=manual stream=10");
    remote.call("publish name=p channel=aeron:udp?control-mode=manual|term-length=64k stream=10");
    for channel in &sockets {
        java.call(&format!("receive-destination name=s channel={channel}"));
        remote.call(&format!("destination name=p channel={channel}"));
    }
    // A stream that comes by two ways is one image, and one way is enough.
    java.call("images name=s count=1");
    let receive = java.begin("receive name=s length=3000 count=50");
    remote.call("send name=p length=3000 count=50");
    java.finish(receive);
    java.call(&format!("receive-destination name=s remove=true channel={}", sockets[0]));
    let receive = java.begin("receive name=s length=3000 count=50");
    remote.call("send name=p length=3000 count=50");
    java.finish(receive);
    // The other way: receivers that ask for the stream themselves.
    let control = format!("control=127.0.0.1:{}|control-mode=dynamic", free_port());
    java.call(&format!("publish name=q channel=aeron:udp?{control}|term-length=64k stream=11"));
    for name in ["t", "u"] {
        remote.call(&format!(
            "subscribe name={name} channel=aeron:udp?endpoint=127.0.0.1:{}|{control} stream=11",
            free_port()
        ));
        remote.call(&format!("images name={name} count=1"));
    }
    let receive = ["t", "u"].map(|name| remote.begin(&format!("receive name={name} length=3000 count=5")));
    java.call("send name=q length=3000 count=5");
    for pending in receive {
        remote.finish(pending);
    }
    assert_eq!((java.exit(), remote.exit()), (String::new(), String::new()));
    driver.stop();
}

#[test]
fn a_group_of_io_uring_and_javas_sockets_hears_both() {
    if !is_available() {
        return;
    }
    let driver = OurDriver::start(&[TRANSPORT]);
    let (mut java, _directory) = Java::with_own_driver(&[]);
    let mut client = Client::connect(&driver.directory);
    let group = format!("aeron:udp?endpoint=224.20.30.47:{}|interface=localhost", free_port());
    java.call(&format!("subscribe name=s channel={group} stream=10"));
    java.call(&format!("subscribe name=t channel={group} stream=11"));
    let mut subscriptions = [10, 11].map(|stream| client.subscription(&group, stream));
    let mut publication = client.exclusive(&format!("{group}|fc=min,g:/2|{TERM}"), 10);
    client.until("both receivers", |_| publication.is_connected().then_some(()));
    for (length, count) in [(32, 1_000), (10_000, 10)] {
        let receive = java.begin(&format!("receive name=s length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        client.receive(&mut subscriptions[0], 0..count, length);
        java.finish_beside(receive, &mut client);
    }
    java.call_beside(
        &mut client,
        &format!("publish name=p channel={group}|fc=min,g:/2|{TERM} stream=11 exclusive=true"),
    );
    java.call_beside(&mut client, "connected name=p");
    for (length, count) in [(32, 1_000), (10_000, 10)] {
        let receive = java.begin(&format!("receive name=t length={length} count={count}"));
        let send = java.begin(&format!("send name=p length={length} count={count}"));
        client.receive(&mut subscriptions[1], 0..count, length);
        java.finish_beside(receive, &mut client);
        java.finish_beside(send, &mut client);
    }
    assert_eq!(java.exit(), "");
    driver.stop();
}
