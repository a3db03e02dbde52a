//! Our driver and the released drivers over UDP.

use crate::peers::peer::{Kind, texts, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::ports::free_port;

with_each_peer!(
    one_percent_loss_between_our_driver_and_theirs_is_repaired,
    session_ids_and_initial_positions_reach_the_other_side,
    a_released_client_on_our_driver_has_spies_tags_and_wildcard_ports,
    a_rejected_image_and_a_revoked_publication_end_on_both_sides,
    requests_and_answers_cross_between_our_driver_and_theirs,
    a_released_client_on_our_driver_subscribes_to_sockets_ipc_and_spies_at_once,
);

/// (message length, messages): one frame per datagram, several frames per datagram, fragments, half of the longest
/// message of a 16 MiB term.
const SIZES: [(usize, u64); 5] = [(32, 5_000), (1_376, 1_000), (10_000, 200), (100_000, 20), (1 << 20, 6)];

const TERM: &str = "term-length=16m";

/// Counters of the driver by id.
const NAKS_SENT: i32 = 5;
const NAKS_RECEIVED: i32 = 6;
const RETRANSMITS_SENT: i32 = 11;
const ERROR_FRAMES_RECEIVED: i32 = 38;
const ERROR_FRAMES_SENT: i32 = 39;
const PUBLICATIONS_REVOKED: i32 = 40;
const IMAGES_REVOKED: i32 = 41;

fn one_percent_loss_between_our_driver_and_theirs_is_repaired(kind: Kind) {
    // All kinds of frames are lost on our side, and data frames on the other.
    let driver = OurDriver::start(&[
        "aeron.udp.channel.incoming.interceptors=loss",
        "aeron.udp.channel.transport.bindings.loss.args=rate=0.01|seed=11|recv-msg-mask=0xffff",
    ]);
    let (mut peer, _directory) = kind.with_own_driver(&texts(&kind.data_loss(0.01, 13)));
    let mut client = Client::connect(&driver.directory);
    peer.call("subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0 stream=10");
    let to_peer = peer.call("resolve name=s")["channel"].as_str().unwrap().to_owned();
    let mut subscription = client.subscription("aeron:udp?endpoint=127.0.0.1:0", 11);
    let to_us = client.resolved(&subscription);
    let mut publication = client.exclusive(&format!("{to_peer}|{TERM}"), 10);
    peer.call(&format!("publish name=p channel={to_us}|{TERM} stream=11 exclusive=true"));
    for (length, count) in SIZES {
        let receive = peer.begin(&format!("receive name=s length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        peer.finish_beside(receive, &mut client);
        let send = peer.begin(&format!("send name=p length={length} count={count}"));
        client.receive(&mut subscription, 0..count, length);
        peer.finish(send);
    }
    for counter in [NAKS_SENT, NAKS_RECEIVED, RETRANSMITS_SENT] {
        assert!(client.aeron.counters().value(counter) > 0, "counter {counter}");
    }
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn session_ids_and_initial_positions_reach_the_other_side(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let (mut peer, _directory) = kind.with_own_driver(&[]);
    let mut client = Client::connect(&driver.directory);
    let start = "session-id=-77|init-term-id=5|term-id=7|term-offset=4096|term-length=128k|mtu=8192";
    let position = 2 * 131_072 + 4_096;

    peer.call("subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0|tags=41 stream=10");
    let resolved = peer.call("resolve name=s");
    let mut publication = client.exclusive(&format!("{}|{start}", resolved["channel"].as_str().unwrap()), 10);
    assert_eq!((publication.session_id(), publication.position()), (-77, position));
    let images = peer.call("images name=s count=1");
    let image = &images["images"][0];
    assert_eq!((image["session"].as_i64(), image["join"].as_i64()), (Some(-77), Some(position)));
    assert_eq!(image["termLength"], 131_072);
    assert!(image["source"].as_str().unwrap().starts_with("127.0.0.1:"), "{image}");
    client.send(&mut publication, 0..3, 16_000);
    peer.call("receive name=s length=16000 count=3");

    let mut subscription = client.subscription("aeron:udp?endpoint=127.0.0.1:0|session-id=-77", 11);
    let channel = client.resolved(&subscription).replace("|session-id=-77", "");
    let published = peer.call(&format!("publish name=p channel={channel}|{start} stream=11 exclusive=true"));
    assert_eq!((published["session"].as_i64(), published["position"].as_i64()), (Some(-77), Some(position)));
    peer.call("connected name=p");
    let send = peer.begin("send name=p length=16000 count=3");
    client.receive(&mut subscription, 0..3, 16_000);
    peer.finish(send);
    let image = &subscription.images()[0];
    assert_eq!((image.session_id(), image.join_position()), (-77, position));
    assert_eq!((image.term_buffer_length(), image.mtu_length()), (131_072, 8_192));
    peer.call("close name=p");
    client.until("the end of the image", |_| {
        subscription.poll(1, &mut |_, _| ());
        subscription.images().is_empty().then_some(())
    });
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn a_released_client_on_our_driver_has_spies_tags_and_wildcard_ports(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let mut peer = kind.client(&driver.directory);
    // The client finds a port that the system chose.
    peer.call("subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0|tags=41 stream=10");
    let resolved = peer.call("resolve name=s");
    let endpoint = resolved["endpoint"].as_str().unwrap();
    assert_eq!(resolved["status"], 1);
    assert_eq!(resolved["local"], endpoint);
    assert!(resolved["channel"].as_str().unwrap().contains(&format!("endpoint={endpoint}")), "{resolved}");
    // The same socket, named by its tag instead of an address.
    peer.call("subscribe name=t channel=aeron:udp?tags=41 stream=11");
    assert_eq!(peer.call("resolve name=t")["local"], endpoint);
    for (stream, name) in [(10, "s"), (11, "t")] {
        peer.call(&format!(
            "publish name=p channel=aeron:udp?endpoint={endpoint}|term-length=64k stream={stream}"
        ));
        peer.call("connected name=p");
        peer.call("send name=p length=3000 count=5");
        peer.call(&format!("receive name={name} length=3000 count=5"));
        peer.call("close name=p");
        peer.call(&format!("images name={name} count=0"));
    }
    // Only a spy, which simulates the connection.
    peer.call(
        "publish name=p channel=aeron:udp?control-mode=manual|tags=42|ssc=true|term-length=64k stream=12",
    );
    peer.call("connected name=p is=false");
    peer.call("subscribe name=spy channel=aeron-spy:aeron:udp?tags=42 stream=12");
    peer.call("connected name=p");
    peer.call("send name=p length=3000 count=5");
    peer.call("receive name=spy length=3000 count=5");
    // A destination besides the spy.
    peer.call("subscribe name=u channel=aeron:udp?endpoint=127.0.0.1:0 stream=12");
    let channel = peer.call("resolve name=u")["channel"].as_str().unwrap().to_owned();
    peer.call(&format!("destination name=p channel={channel}"));
    peer.call("images name=u count=1");
    peer.call("send name=p length=3000 count=5");
    peer.call("receive name=u length=3000 count=5");
    peer.call("receive name=spy length=3000 count=5");
    // An invalid channel is refused with the code that the client knows.
    let refused = peer.refused("publish name=q channel=aeron:udp?endpoint=127.0.0.1:0 stream=13");
    assert_eq!(refused["code"], 1, "{refused}");
    let refused = peer.refused("publish name=q channel=aeron:udp?endpoint=nohost.invalid:40123 stream=13");
    assert_eq!(refused["code"], 9, "{refused}");
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn a_rejected_image_and_a_revoked_publication_end_on_both_sides(kind: Kind) {
    // A rejected image ends with its liveness. Their sender is without a receiver until ours has ended, so it is long
    // there.
    let driver = OurDriver::start(&["aeron.image.liveness.timeout=60s"]);
    let (mut peer, _directory) = kind.with_own_driver(&["aeron.image.liveness.timeout=10s"]);
    let mut client = Client::connect(&driver.directory);
    peer.call("subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0 stream=10");
    let channel = peer.call_beside(&mut client, "resolve name=s")["channel"].as_str().unwrap().to_owned();
    let publication = client.exclusive(&channel, 10);
    let images = peer.call_beside(&mut client, "images name=s count=1");
    peer.call_beside(&mut client, "reject name=s reason=not-wanted");
    client
        .until("the error frame", |aeron| (aeron.counters().value(ERROR_FRAMES_RECEIVED) > 0).then_some(()));
    // The stream may return before its loss is observed, because a heartbeat requests a new SETUP.
    let image = &images["images"][0]["correlation"];
    peer.call_beside(&mut client, &format!("unavailable name=s image={image}"));
    drop(publication);
    peer.call_beside(&mut client, "images name=s count=0");

    let publication = client.exclusive(&channel, 10);
    peer.call_beside(&mut client, "images name=s count=1");
    publication.revoke();
    peer.call_beside(&mut client, "images name=s count=0");
    client.until("the count", |aeron| (aeron.counters().value(PUBLICATIONS_REVOKED) == 1).then_some(()));

    let mut subscription = client.subscription("aeron:udp?endpoint=127.0.0.1:0", 11);
    let channel = client.resolved(&subscription);
    peer.call(&format!("publish name=p channel={channel} stream=11 exclusive=true"));
    let image =
        client.until("the image", |_| subscription.images().first().map(|image| image.correlation_id()));
    let rejected = client.aeron.reject_image(image, 0, "not wanted").unwrap();
    client.until("the rejection", |aeron| aeron.command_done(rejected).unwrap().then_some(()));
    client.until("the error frame", |aeron| (aeron.counters().value(ERROR_FRAMES_SENT) > 0).then_some(()));
    peer.call_beside(&mut client, "connected name=p is=false");

    let mut subscription = client.subscription("aeron:udp?endpoint=127.0.0.1:0", 12);
    let channel = client.resolved(&subscription);
    peer.call_beside(&mut client, &format!("publish name=q channel={channel} stream=12 exclusive=true"));
    peer.call_beside(&mut client, "connected name=q");
    peer.call_beside(&mut client, "revoke name=q");
    client.until("the count", |aeron| (aeron.counters().value(IMAGES_REVOKED) == 1).then_some(()));
    client.until("the end of the image", |_| {
        subscription.poll(1, &mut |_, _| ());
        subscription.images().is_empty().then_some(())
    });
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn requests_and_answers_cross_between_our_driver_and_theirs(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let (mut peer, _directory) = kind.with_own_driver(&[]);
    let mut client = Client::connect(&driver.directory);
    let sizes = [(32, 500), (3_000, 100), (1 << 20, 3)];

    // We request, the peer answers.
    let control = format!("control=127.0.0.1:{}|control-mode=response", free_port());
    peer.call("subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0 stream=10");
    let requests = peer.call("resolve name=s")["channel"].as_str().unwrap().to_owned();
    let mut answers = client.subscription(&format!("aeron:udp?{control}"), 11);
    let id = answers.registration_id();
    let mut publication = client.exclusive(&format!("{requests}|response-correlation-id={id}|{TERM}"), 10);
    let image =
        peer.call_beside(&mut client, "images name=s count=1")["images"][0]["correlation"].to_string();
    peer.call_beside(
        &mut client,
        &format!(
            "publish name=p channel=aeron:udp?{control}|response-correlation-id={image}|{TERM} stream=11"
        ),
    );
    for (length, count) in sizes {
        let receive = peer.begin(&format!("receive name=s length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        peer.finish_beside(receive, &mut client);
        let send = peer.begin(&format!("send name=p length={length} count={count}"));
        client.receive(&mut answers, 0..count, length);
        peer.finish(send);
    }
    peer.call_beside(&mut client, "close name=p");
    client.until("the end of the answers", |_| {
        answers.poll(1, &mut |_, _| ());
        answers.images().is_empty().then_some(())
    });
    peer.call_beside(&mut client, "close name=s");

    // The peer requests, we answer. The prototype has no subscriber.
    let control = format!("aeron:udp?control=127.0.0.1:{}|control-mode=response", free_port());
    let prototype = client.exclusive(&format!("{control}|response-correlation-id=prototype"), 11);
    let mut requests = client.subscription("aeron:udp?endpoint=127.0.0.1:0", 10);
    let channel = client.resolved(&requests);
    let id = peer.call_beside(&mut client, &format!("subscribe name=t channel={control} stream=11"));
    let id = id["registration"].to_string();
    peer.call_beside(
        &mut client,
        &format!("publish name=q channel={channel}|response-correlation-id={id}|{TERM} stream=10"),
    );
    let image =
        client.until("the requester", |_| requests.images().first().map(|image| image.correlation_id()));
    let mut publication = client.exclusive(&format!("{control}|response-correlation-id={image}|{TERM}"), 11);
    for (length, count) in sizes {
        let send = peer.begin(&format!("send name=q length={length} count={count}"));
        client.receive(&mut requests, 0..count, length);
        peer.finish_beside(send, &mut client);
        let receive = peer.begin(&format!("receive name=t length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        peer.finish_beside(receive, &mut client);
    }
    assert!(!prototype.is_connected());
    drop(publication);
    peer.call_beside(&mut client, "images name=t count=0");
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn a_released_client_on_our_driver_subscribes_to_sockets_ipc_and_spies_at_once(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let mut peer = kind.client(&driver.directory);
    let (mut remote, _directory) = kind.with_own_driver(&[]);
    let sockets = [(); 2].map(|()| format!("aeron:udp?endpoint=127.0.0.1:{}", free_port()));
    let control = format!("control=127.0.0.1:{}|control-mode=dynamic", free_port());
    let spy = format!("aeron-spy:aeron:udp?{control}");
    peer.call("subscribe name=s channel=aeron:udp?control-mode=manual stream=10");
    for channel in [&sockets[0], &sockets[1], "aeron:ipc", &spy] {
        peer.call(&format!("receive-destination name=s channel={channel}"));
    }
    // A stream over two paths is one image.
    remote.call("publish name=p channel=aeron:udp?control-mode=manual|term-length=64k stream=10");
    for channel in &sockets {
        remote.call(&format!("destination name=p channel={channel}"));
    }
    peer.call("publish name=i channel=aeron:ipc?term-length=64k stream=10 exclusive=true");
    peer.call(&format!("publish name=u channel=aeron:udp?{control}|ssc=true|term-length=64k stream=10"));
    peer.call("images name=s count=3");
    let receive = peer.begin("receive name=s length=3000 count=50");
    remote.call("send name=p length=3000 count=50");
    peer.finish(receive);
    for name in ["i", "u"] {
        let receive = peer.begin("receive name=s length=3000 count=50");
        peer.call(&format!("send name={name} length=3000 count=50"));
        peer.finish(receive);
    }
    peer.call("receive-destination name=s remove=true channel=aeron:ipc");
    peer.call("images name=s count=2");
    peer.call(&format!("receive-destination name=s remove=true channel={spy}"));
    peer.call("images name=s count=1");
    peer.call(&format!("receive-destination name=s remove=true channel={}", sockets[0]));
    let receive = peer.begin("receive name=s length=3000 count=50");
    remote.call("send name=p length=3000 count=50");
    peer.finish(receive);
    remote.call("close name=p");
    peer.call("images name=s count=0");
    let refused = peer.refused("receive-destination name=s channel=aeron:udp?endpoint=127.0.0.1:0|mtu=1408");
    assert_eq!(refused["code"], 1, "{refused}");
    assert_eq!((peer.exit(), remote.exit()), (String::new(), String::new()));
    driver.stop();
}
