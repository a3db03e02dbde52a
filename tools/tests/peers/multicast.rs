//! Our driver and the released drivers in one multicast group.

use serde_json::Value;

use crate::peers::peer::{Kind, texts, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::until;

with_each_peer!(
    drivers_of_both_kinds_send_to_a_group_of_both_kinds_with_losses,
    hops_of_a_group_are_told_alike,
    destinations_of_subscriptions_are_groups_that_the_other_side_sends_to,
);

const TERM: &str = "term-length=1m";

/// (message length, messages) that fit a receiver's window.
const SIZES: [(usize, u64); 6] =
    [(32, 1_000), (1_376, 80), (10_000, 10), (32, 1_000), (1_376, 80), (10_000, 10)];

/// System counters by id.
const NAKS_SENT: i64 = 5;
const RETRANSMITS_SENT: i64 = 11;
const POSSIBLE_TTL_ASYMMETRY: i64 = 21;
/// Types of counters.
const LOCAL_SOCKET_ADDRESS: i64 = 14;
const FLOW_CONTROL_RECEIVERS: i64 = 17;

/// Value of a peer's counter.
fn value(counters: &Value, id: i64) -> i64 {
    let all = counters["counters"].as_array().unwrap();
    all.iter().find(|counter| counter["id"] == id).unwrap()["value"].as_i64().unwrap()
}

/// Counters of a type as (label, value).
fn labels(counters: &Value, type_id: i64) -> Vec<(String, i64)> {
    let all = counters["counters"].as_array().unwrap().iter();
    all.filter(|counter| counter["type"] == type_id)
        .map(|counter| (counter["label"].as_str().unwrap().to_owned(), counter["value"].as_i64().unwrap()))
        .collect()
}

fn drivers_of_both_kinds_send_to_a_group_of_both_kinds_with_losses(kind: Kind) {
    let loss = [
        "aeron.udp.channel.incoming.interceptors=loss",
        "aeron.udp.channel.transport.bindings.loss.args=rate=0.05|seed=11|recv-msg-mask=0x2",
    ];
    let driver = OurDriver::start(&loss);
    let (mut peer, _home) = kind.with_own_driver(&texts(&kind.data_loss(0.05, 13)));
    let mut client = Client::connect(&driver.directory);
    let port = free_port();
    let group = format!("aeron:udp?endpoint=224.20.30.45:{port}|interface=localhost");
    peer.call(&format!("subscribe name=s channel={group}|gtag=5 stream=10"));
    peer.call(&format!("subscribe name=t channel={group}|gtag=5 stream=11"));
    let mut subscriptions = [10, 11].map(|stream| client.subscription(&format!("{group}|gtag=5"), stream));

    // We send. Flow control waits for both receivers, so every loss is repaired.
    let mut publication = client.exclusive(&format!("{group}|fc=min,g:/2|{TERM}"), 10);
    client.until("both receivers", |_| publication.is_connected().then_some(()));
    for (length, count) in SIZES {
        let receive = peer.begin(&format!("receive name=s length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        client.receive(&mut subscriptions[0], 0..count, length);
        peer.finish_beside(receive, &mut client);
    }
    // The peer sends.
    peer.call_beside(
        &mut client,
        &format!("publish name=p channel={group}|fc=tagged,g:5/2|{TERM} stream=11 exclusive=true"),
    );
    peer.call_beside(&mut client, "connected name=p");
    for (length, count) in SIZES {
        let receive = peer.begin(&format!("receive name=t length={length} count={count}"));
        let send = peer.begin(&format!("send name=p length={length} count={count}"));
        client.receive(&mut subscriptions[1], 0..count, length);
        peer.finish_beside(receive, &mut client);
        peer.finish_beside(send, &mut client);
    }
    let theirs = peer.call_beside(&mut client, "counters");
    let ours = |id: i64| client.aeron.counters().value(id as i32);
    for counter in [NAKS_SENT, RETRANSMITS_SENT] {
        assert!(ours(counter) > 0 && value(&theirs, counter) > 0, "counter {counter}");
    }
    assert_eq!((ours(POSSIBLE_TTL_ASYMMETRY), value(&theirs, POSSIBLE_TTL_ASYMMETRY)), (0, 0));
    // A receiver that stalled too long rejoins with its next status message.
    until("both receivers", || {
        let counters = peer.call_beside(&mut client, "counters");
        (labels(&counters, FLOW_CONTROL_RECEIVERS)[0].1 == 2).then_some(())
    });
    // Sockets have equal labels.
    let bound = format!("0.0.0.0:{port}");
    let mut listed: Vec<_> =
        client.counters().into_iter().filter(|one| i64::from(one.1) == LOCAL_SOCKET_ADDRESS).collect();
    listed.sort();
    assert_eq!(listed.len(), 2);
    assert!(listed.iter().all(|(_, _, _, label)| label.ends_with(&bound)), "{listed:?}");
    let their = labels(&theirs, LOCAL_SOCKET_ADDRESS);
    assert!(their.len() == 2 && their.iter().all(|(label, _)| label.ends_with(&bound)), "{their:?}");
    drop(publication);
    peer.call_beside(&mut client, "images name=s count=0");
    peer.call_beside(&mut client, "close name=p");
    client.until("the end of the image", |_| {
        subscriptions[1].poll(1, &mut |_, _| ());
        subscriptions[1].images().is_empty().then_some(())
    });
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn hops_of_a_group_are_told_alike(kind: Kind) {
    let driver = OurDriver::start(&["aeron.socket.multicast.ttl=3"]);
    let (mut peer, _home) = kind.with_own_driver(&["aeron.socket.multicast.ttl=4"]);
    let mut client = Client::connect(&driver.directory);
    let group = format!("aeron:udp?endpoint=224.20.30.47:{}|interface=localhost", free_port());
    // The TTLs of the two directions differ, so both drivers count an asymmetry.
    peer.call(&format!("publish name=p channel={group}|ttl=9|{TERM} stream=10 exclusive=true"));
    let mut subscription = client.subscription(&group, 10);
    client.until("the image", |_| subscription.images().first().map(|_| ()));
    let asymmetry = |client: &Client| client.aeron.counters().value(POSSIBLE_TTL_ASYMMETRY as i32);
    client.until("the count", |aeron| {
        (aeron.counters().value(POSSIBLE_TTL_ASYMMETRY as i32) == 1).then_some(())
    });
    peer.call_beside(&mut client, &format!("subscribe name=s channel={group}|ttl=2 stream=11"));
    let publication = client.exclusive(&format!("{group}|{TERM}"), 11);
    peer.call_beside(&mut client, "images name=s count=1");
    let seen = value(&peer.call_beside(&mut client, "counters"), POSSIBLE_TTL_ASYMMETRY);
    assert_eq!(seen, i64::from(kind.compares_hops_of_every_setup()));
    // A subscription whose TTL differs from the publication's counts as an asymmetry on our side too.
    let group = format!("aeron:udp?endpoint=224.20.30.49:{}|interface=localhost", free_port());
    let mut wide = client.subscription(&format!("{group}|ttl=4"), 12);
    peer.call_beside(&mut client, &format!("publish name=q channel={group} stream=12"));
    client.until("the image", |_| wide.images().first().map(|_| ()));
    assert_eq!(asymmetry(&client), 1);
    drop(publication);
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn destinations_of_subscriptions_are_groups_that_the_other_side_sends_to(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let (mut peer, _home) = kind.with_own_driver(&[]);
    let mut client = Client::connect(&driver.directory);
    let groups = [51, 53]
        .map(|last| format!("aeron:udp?endpoint=224.20.30.{last}:{}|interface=localhost", free_port()));
    // The peer sends to us.
    let mut subscription = client.subscription("aeron:udp?control-mode=manual", 10);
    let added = client.aeron.add_rcv_destination(subscription.registration_id(), &groups[0]).unwrap();
    client.until("the destination", |aeron| aeron.command_done(added).unwrap().then_some(()));
    let publish = format!("publish name=p channel={}|{TERM} stream=10 exclusive=true", groups[0]);
    peer.call_beside(&mut client, &publish);
    peer.call_beside(&mut client, "connected name=p");
    let send = peer.begin("send name=p length=3000 count=20");
    client.receive(&mut subscription, 0..20, 3_000);
    peer.finish_beside(send, &mut client);
    let removed = client.aeron.remove_rcv_destination(subscription.registration_id(), &groups[0]).unwrap();
    client.until("its end", |aeron| aeron.command_done(removed).unwrap().then_some(()));
    peer.call_beside(&mut client, "connected name=p is=false");
    // We send to the peer.
    peer.call_beside(&mut client, "subscribe name=s channel=aeron:udp?control-mode=manual stream=11");
    peer.call_beside(&mut client, &format!("receive-destination name=s channel={}", groups[1]));
    let mut publication = client.exclusive(&format!("{}|{TERM}", groups[1]), 11);
    client.until("the connection", |_| publication.is_connected().then_some(()));
    let receive = peer.begin("receive name=s length=3000 count=20");
    client.send(&mut publication, 0..20, 3_000);
    peer.finish_beside(receive, &mut client);
    peer.call_beside(&mut client, &format!("receive-destination name=s remove=true channel={}", groups[1]));
    client.until("the end of the connection", |_| (!publication.is_connected()).then_some(()));
    assert_eq!(peer.exit(), "");
    driver.stop();
}
