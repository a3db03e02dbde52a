//! Our client on the released media drivers.

use harrier::client::ClientError;

use crate::peers::peer::{Kind, with_each_peer};
use crate::support::client::Client;
use crate::support::directory;

with_each_peer!(our_client_has_streams_counters_and_errors_of_the_released_driver);

const SIZES: [(usize, u64); 4] = [(32, 5_000), (1_376, 1_000), (10_000, 200), (1 << 20, 6)];

fn our_client_has_streams_counters_and_errors_of_the_released_driver(kind: Kind) {
    let home = directory("peer");
    let aeron = home.path().join("aeron");
    let mut peer =
        kind.with_driver(&aeron, &["aeron.publication.linger.timeout=200ms", "aeron.timer.interval=20ms"]);
    let mut client = Client::connect(&aeron);
    for (ours, theirs) in
        [("aeron:ipc?term-length=16m", None), ("aeron:udp?endpoint=127.0.0.1:0", Some("|term-length=16m"))]
    {
        let mut subscription = client.subscription(ours, 10);
        peer.call_beside(&mut client, &format!("subscribe name=s channel={ours} stream=11"));
        let (to_us, to_java) = match theirs {
            None => (ours.to_owned(), ours.to_owned()),
            Some(parameters) => {
                let resolved = peer.call_beside(&mut client, "resolve name=s");
                let channel = client.resolved(&subscription);
                (channel + parameters, resolved["channel"].as_str().unwrap().to_owned() + parameters)
            }
        };
        peer.call_beside(&mut client, &format!("publish name=p channel={to_us} stream=10 exclusive=true"));
        let mut publication = client.exclusive(&to_java, 11);
        for (length, count) in SIZES {
            let send = peer.begin(&format!("send name=p length={length} count={count}"));
            client.receive(&mut subscription, 0..count, length);
            peer.finish_beside(send, &mut client);
            let receive = peer.begin(&format!("receive name=s length={length} count={count}"));
            client.send(&mut publication, 0..count, length);
            peer.finish_beside(receive, &mut client);
        }
        drop(publication);
        peer.call_beside(&mut client, "images name=s count=0");
        peer.call_beside(&mut client, "close name=p");
        client.until("the end of the image", |_| {
            subscription.poll(1, &mut |_, _| ());
            subscription.images().is_empty().then_some(())
        });
        peer.call_beside(&mut client, "close name=s");
    }
    let counter = client.aeron.add_counter(1_001, b"key", "a counter of ours").unwrap();
    let counter = client.until("the counter", |aeron| aeron.counter(counter).unwrap());
    counter.set_ordered(77);
    let listed = peer.call_beside(&mut client, "counters");
    let listed = listed["counters"].as_array().unwrap();
    let found = listed.iter().find(|found| found["label"] == "a counter of ours").expect("our counter");
    assert_eq!((&found["value"], &found["type"]), (&77.into(), &1_001.into()));
    let heartbeat = format!("client-heartbeat: id={}", client.aeron.client_id());
    assert!(
        listed.iter().any(|found| found["label"].as_str().unwrap().starts_with(&heartbeat)),
        "{listed:?}"
    );
    for (channel, expected) in
        [("aeron:udp?endpoint=nohost.invalid:1", kind.unknown_host()), ("aeron:udp?endpoint=127.0.0.1:0", 11)]
    {
        match client.try_exclusive(channel, 12) {
            Err(ClientError::Registration { code, .. }) if code == expected => {}
            other => panic!("{channel}: {other:?}"),
        }
    }
    assert_eq!(peer.exit(), "");
}
