//! Time stamps in messages between our driver and a released one.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::peers::peer::{Kind, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::directory;
use crate::support::ports::free_port;

with_each_peer!(
    each_side_reads_when_the_other_has_sent_and_itself_has_received,
    what_contradicts_the_sockets_other_users_is_refused_in_the_same_words,
);

const BEGIN: u64 = 0x80;

fn epoch_ns() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "the stamps are of the system's clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).unwrap().as_nanos() as i64
}

fn each_side_reads_when_the_other_has_sent_and_itself_has_received(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let (mut peer, _home) = kind.with_own_driver(&[]);
    let mut client = Client::connect(&driver.directory);
    let before_ns = epoch_ns();

    // We send.
    peer.call("subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0|channel-rcv-ts-offset=8 stream=10");
    let channel =
        peer.call("resolve name=s")["channel"].as_str().unwrap().replace("|channel-rcv-ts-offset=8", "");
    let mut publication = client.exclusive(&format!("{channel}|channel-snd-ts-offset=reserved"), 10);
    client.until("the connection", |_| publication.is_connected().then_some(()));
    client.send(&mut publication, 0..1, 4_000);
    let reply = peer.call_beside(&mut client, "stamps name=s count=3");
    let fragments = reply["fragments"].as_array().unwrap();
    let number = |fragment: &Value, key: &str| fragment[key].as_i64().unwrap();
    let first = &fragments[0];
    let (sent_ns, received_ns) = (number(first, "reserved"), number(first, "second"));
    assert!(before_ns <= sent_ns && sent_ns <= received_ns && received_ns <= epoch_ns(), "{reply}");
    for fragment in &fragments[1..] {
        assert_eq!(fragment["flags"].as_u64().unwrap() & BEGIN, 0);
        assert_eq!(fragment["reserved"], 0);
    }

    // The peer sends.
    let stamps = "media-rcv-ts-offset=0|channel-rcv-ts-offset=8";
    let mut subscription = client.subscription(&format!("aeron:udp?endpoint=127.0.0.1:0|{stamps}"), 11);
    let channel = client.resolved(&subscription).replace(&format!("|{stamps}"), "");
    peer.call_beside(
        &mut client,
        &format!("publish name=p channel={channel}|channel-snd-ts-offset=reserved stream=11 exclusive=true"),
    );
    peer.call_beside(&mut client, "connected name=p");
    peer.call_beside(&mut client, "send name=p length=64 count=1");
    let (sent_ns, media_ns, received_ns) = client.until("the message", |_| {
        let mut found = None;
        subscription.poll(1, &mut |payload, header| {
            let at = |offset: usize| i64::from_le_bytes(payload[offset..offset + 8].try_into().unwrap());
            found = Some((header.reserved_value(), at(0), at(8)));
        });
        found
    });
    assert!(before_ns <= sent_ns && sent_ns <= media_ns && media_ns <= received_ns);
    assert!(received_ns <= epoch_ns());
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn what_contradicts_the_sockets_other_users_is_refused_in_the_same_words(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let home = directory("peer");
    let mut ours = kind.client(&driver.directory);
    let mut theirs = kind.with_driver(&home.path().join("aeron"), &[]);
    for (peer, driver) in [(&mut ours, Kind::OURS), (&mut theirs, kind)] {
        let endpoint = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
        peer.call(&format!("subscribe name=s channel={endpoint}|channel-rcv-ts-offset=0 stream=10"));
        for line in [
            "subscribe name=t channel=@ stream=10",
            "subscribe name=t channel=@|channel-rcv-ts-offset=reserved stream=10",
        ] {
            let refused = peer.refused(&line.replace('@', &endpoint));
            let place = driver.stamp_place(if line.contains("reserved") { -8 } else { -1 });
            let text = format!(
                "option conflicts with existing subscription: channel-rcv-ts-offset={place} existingChannel="
            );
            assert!(refused["error"].as_str().unwrap().contains(&text), "{refused}");
            assert_eq!(refused["code"], driver.clash());
        }
        peer.call(&format!("publish name=p channel={endpoint}|channel-snd-ts-offset=8 stream=10"));
        let refused = peer.refused(&format!("publish name=q channel={endpoint} stream=10"));
        let place = driver.stamp_place(-1);
        let text = format!(
            "option conflicts with existing subscription: channel-snd-ts-offset={place} existingChannel="
        );
        assert!(refused["error"].as_str().unwrap().contains(&text), "{refused}");
        assert_eq!(refused["code"], driver.clash());
        peer.call("close name=s");
        peer.call("close name=p");
    }
    assert_eq!((ours.exit(), theirs.exit()), (String::new(), String::new()));
    driver.stop();
}
