//! Released publishers and subscribers over IPC through our driver.

use crate::peers::peer::{Kind, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;

with_each_peer!(
    released_clients_talk_to_each_other_over_ipc,
    our_client_and_a_released_client_talk_over_ipc,
    requests_and_answers_over_ipc_between_our_client_and_theirs,
);

/// (message length, messages), from a single frame to the longest message of a 16 MiB term.
const SIZES: [(usize, u64); 5] = [(32, 20_000), (1_376, 2_000), (10_000, 500), (100_000, 50), (1 << 20, 8)];

const CHANNEL: &str = "aeron:ipc?term-length=16m";

fn released_clients_talk_to_each_other_over_ipc(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let mut publisher = kind.client(&driver.directory);
    let mut subscriber = kind.client(&driver.directory);
    for exclusive in [true, false] {
        subscriber.call(&format!("subscribe name=s channel={CHANNEL} stream=10"));
        let published =
            publisher.call(&format!("publish name=p channel={CHANNEL} stream=10 exclusive={exclusive}"));
        assert_eq!(published["exclusive"], exclusive);
        assert_eq!(published["termLength"], 16 << 20);
        assert_eq!(published["maxMessage"], 2 << 20);
        publisher.call("connected name=p");
        for (length, count) in SIZES {
            let receive = subscriber.begin(&format!("receive name=s length={length} count={count}"));
            publisher.call(&format!("send name=p length={length} count={count}"));
            subscriber.finish(receive);
        }
        let receive = subscriber.begin("receive name=s length=500 count=1000");
        publisher.call("send name=p length=500 count=1000 claim=true");
        subscriber.finish(receive);
        publisher.call("close name=p");
        subscriber.call("images name=s count=0");
        subscriber.call("close name=s");
    }
    assert_eq!(publisher.exit(), "");
    assert_eq!(subscriber.exit(), "");
    driver.stop();
}

fn our_client_and_a_released_client_talk_over_ipc(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let mut peer = kind.client(&driver.directory);
    let mut client = Client::connect(&driver.directory);
    peer.call(&format!("subscribe name=s channel={CHANNEL} stream=10"));
    peer.call(&format!("publish name=p channel={CHANNEL} stream=11"));
    let mut publication = client.exclusive(CHANNEL, 10);
    let mut subscription = client.subscription(CHANNEL, 11);
    for (length, count) in SIZES {
        let receive = peer.begin(&format!("receive name=s length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        peer.finish(receive);
        let send = peer.begin(&format!("send name=p length={length} count={count}"));
        client.receive(&mut subscription, 0..count, length);
        peer.finish(send);
    }
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn requests_and_answers_over_ipc_between_our_client_and_theirs(kind: Kind) {
    const ANSWERS: &str = "aeron:ipc?control-mode=response|term-length=16m";
    let driver = OurDriver::start(&[]);
    let mut peer = kind.client(&driver.directory);
    let mut client = Client::connect(&driver.directory);
    let sizes = [(32, 500), (3_000, 100), (1 << 20, 3)];

    // We request, the peer answers.
    peer.call(&format!("subscribe name=s channel={CHANNEL} stream=10"));
    let mut answers = client.subscription(ANSWERS, 11);
    let id = answers.registration_id();
    let mut publication = client.exclusive(&format!("{CHANNEL}|response-correlation-id={id}"), 10);
    let image = peer.call("images name=s count=1")["images"][0]["correlation"].to_string();
    peer.call(&format!("publish name=p channel={ANSWERS}|response-correlation-id={image} stream=11"));
    for (length, count) in sizes {
        let receive = peer.begin(&format!("receive name=s length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        peer.finish(receive);
        let send = peer.begin(&format!("send name=p length={length} count={count}"));
        client.receive(&mut answers, 0..count, length);
        peer.finish(send);
    }

    // The peer requests, we answer; neither receives messages of the other pair.
    let mut requests = client.subscription(CHANNEL, 12);
    let id = peer.call(&format!("subscribe name=t channel={ANSWERS} stream=11"))["registration"].to_string();
    peer.call(&format!("publish name=q channel={CHANNEL}|response-correlation-id={id} stream=12"));
    let image =
        client.until("the requester", |_| requests.images().first().map(|image| image.correlation_id()));
    let mut publication = client.exclusive(&format!("{ANSWERS}|response-correlation-id={image}"), 11);
    for (length, count) in sizes {
        let send = peer.begin(&format!("send name=q length={length} count={count}"));
        client.receive(&mut requests, 0..count, length);
        peer.finish(send);
        let receive = peer.begin(&format!("receive name=t length={length} count={count}"));
        client.send(&mut publication, 0..count, length);
        peer.finish(receive);
    }
    peer.call("images name=t count=1");
    assert_eq!(answers.images().len(), 1);
    assert_eq!(peer.exit(), "");
    driver.stop();
}
