//! The counters of the released drivers and of ours, for the same resources.

use std::path::Path;

use harrier::client::{Aeron, ExclusivePublication, Subscription};

use crate::peers::peer::{Kind, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::directory;
use crate::support::ports::free_port;

with_each_peer!(both_drivers_have_the_same_counters_for_the_same_resources);

const STREAM: i32 = 10;
const TERM: &str = "term-length=64k";

/// Types whose keys hold more than ids.
const SYSTEM: i32 = 0;
const CLIENT_HEARTBEAT: i32 = 11;
const LOCAL_SOCKET_ADDRESS: i32 = 14;

/// Owner of a counter.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Client,
    Other(i64),
}

/// The reproducible part of a counter.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Row {
    type_id: i32,
    label: String,
    key: Vec<u8>,
    owner: Owner,
    has_reference: bool,
}

/// Replaces all numbers of a text.
fn without_numbers(text: &str) -> String {
    let mut out = String::new();
    for character in text.chars() {
        match character {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            other => out.push(other),
        }
    }
    out
}

/// Part of a key that does not depend on the run.
fn key_of(type_id: i32, key: &[u8]) -> Vec<u8> {
    match type_id {
        // Name of the client's counter, its address with an ephemeral port, a stream with its registration id.
        CLIENT_HEARTBEAT => Vec::new(),
        LOCAL_SOCKET_ADDRESS => {
            let length = i32::from_le_bytes(key[4..8].try_into().unwrap()) as usize;
            without_numbers(std::str::from_utf8(&key[8..8 + length]).unwrap()).into_bytes()
        }
        1..=5 | 9 | 10 | 12 | 13 | 17 | 19 | 20 => key[8..].to_vec(),
        // The C driver leaves old bytes after the channel.
        6 | 7 | 18 => {
            let length = i32::from_le_bytes(key[..4].try_into().unwrap()) as usize;
            key[..4 + length].to_vec()
        }
        _ => key.to_vec(),
    }
}

fn rows(client: &Aeron) -> Vec<Row> {
    let counters = client.counters();
    let mut rows = Vec::new();
    counters.for_each(&mut |id, type_id, key, label| {
        // Versions and names of drivers and clients differ.
        let cut = match type_id {
            SYSTEM => label.split(['=']).next().unwrap(),
            CLIENT_HEARTBEAT => label.split(" name=").next().unwrap(),
            _ => label,
        };
        let owner = counters.owner_id(id);
        rows.push(Row {
            type_id,
            label: without_numbers(cut.trim_end()),
            key: key_of(type_id, key),
            owner: if owner == client.client_id() { Owner::Client } else { Owner::Other(owner) },
            has_reference: counters.reference_id(id) != 0,
        });
    });
    rows.sort();
    rows
}

/// Ports of the channels, the same for both drivers.
type Ports = [u16; 4];

/// Counters of every kind of resource.
fn counters_of(aeron: &Path, ports: &Ports) -> Vec<Row> {
    let mut client = Client::connect(aeron);
    let endpoint = |index: usize| format!("aeron:udp?endpoint=127.0.0.1:{}", ports[index]);
    let mut subscriptions: Vec<Subscription> = Vec::new();
    let mut publications: Vec<ExclusivePublication> = Vec::new();
    let mut stream = |client: &mut Client, published: &str, subscribed: &[&str], session: i32| {
        for channel in subscribed {
            subscriptions.push(client.subscription(channel, STREAM + session));
        }
        let channel = format!("{published}|{TERM}|session-id={session}");
        publications.push(client.exclusive(&channel, STREAM + session));
        publications.last().unwrap().registration_id()
    };
    let plain = endpoint(0);
    stream(&mut client, &plain, &[&plain, &format!("aeron-spy:{plain}")], 1);
    let manual = stream(&mut client, "aeron:udp?control-mode=manual|fc=min", &[&endpoint(1)], 2);
    let cubic = endpoint(2);
    stream(&mut client, &cubic, &[&format!("{cubic}|cc=cubic")], 3);
    stream(&mut client, "aeron:ipc?alias=i", &["aeron:ipc"], 4);
    let several = client.subscription("aeron:udp?control-mode=manual", STREAM);
    let shared = client.publication(&format!("aeron:ipc?{TERM}|session-id=5"), STREAM + 5);
    for id in [
        client.aeron.add_destination(manual, &endpoint(1)).unwrap(),
        client.aeron.add_rcv_destination(several.registration_id(), &endpoint(3)).unwrap(),
    ] {
        client.until("the destination", |aeron| aeron.command_done(id).unwrap().then_some(()));
    }
    let ids = [
        client.aeron.add_counter(1_001, b"key", "a counter").unwrap(),
        client.aeron.add_static_counter(1_002, b"fixed", "a static counter", 77).unwrap(),
    ];
    let users = ids.map(|id| client.until("the counter", |aeron| aeron.counter(id).unwrap()));
    client.until("all images and connections", |_| {
        let is_whole = subscriptions.iter_mut().all(|subscription| subscription.images().len() == 1)
            && publications.iter().all(ExclusivePublication::is_connected);
        is_whole.then_some(())
    });
    let found = rows(&client.aeron);
    drop((shared, users, several));
    found
}

fn both_drivers_have_the_same_counters_for_the_same_resources(kind: Kind) {
    let ports = [(); 4].map(|()| free_port());
    let settings = ["aeron.threading.mode=SHARED", "aeron.term.buffer.sparse.file=true"];
    let home = directory("peer");
    let aeron = home.path().join("aeron");
    let peer = kind.with_driver(&aeron, &settings);
    let theirs = counters_of(&aeron, &ports);
    assert_eq!(peer.exit(), "");
    let driver = OurDriver::start(&[]);
    let ours = counters_of(&driver.directory, &ports);
    driver.stop();
    let ours: Vec<_> = ours
        .into_iter()
        .map(|mut row| {
            row.label = row.label.replace(Kind::OURS.executor_counter(), kind.executor_counter());
            row
        })
        .collect();
    let missing: Vec<_> = theirs.iter().filter(|row| !ours.contains(row)).collect();
    let surplus: Vec<_> = ours.iter().filter(|row| !theirs.contains(row)).collect();
    assert!(missing.is_empty() && surplus.is_empty(), "only theirs: {missing:#?}\nonly ours: {surplus:#?}");
    assert_eq!(ours.len(), theirs.len());
    // All kinds that a driver without a resolver has.
    for type_id in (0..=7).chain([9, 10, 11, 12, 13, 14, 17, 18, 19, 20]) {
        assert!(ours.iter().any(|row| row.type_id == type_id), "type {type_id}");
    }
}
