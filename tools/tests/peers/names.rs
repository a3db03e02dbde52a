//! Name resolution between our driver and the released drivers.

use crate::peers::peer::{Kind, Peer, texts, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::ports::free_port;

with_each_peer!(each_side_finds_the_other_by_its_name);

const RESOLVER_NEIGHBORS: i64 = 15;
const RESOLVER_CACHE_ENTRIES: i64 = 16;
const BOOTSTRAP_NEIGHBOR: i64 = 21;

/// Settings of a driver with a name.
fn named(name: &str, port: u16, neighbor: Option<u16>) -> Vec<String> {
    let mut settings = vec![
        format!("aeron.driver.resolver.name={name}"),
        format!("aeron.driver.resolver.interface=127.0.0.1:{port}"),
    ];
    if let Some(neighbor) = neighbor {
        settings
            .push(format!("aeron.driver.resolver.bootstrap.neighbor=localhost:{neighbor},nohost.invalid:9"));
    }
    settings
}

fn each_side_finds_the_other_by_its_name(kind: Kind) {
    // Each side is the bootstrap neighbour once; our third driver is known only through that neighbour.
    for asks in [true, false] {
        let [port, other, third] = [(); 3].map(|()| free_port());
        let driver = OurDriver::start(&texts(&named("ours", port, asks.then_some(other))));
        let mut settings = named("theirs", other, (!asks).then_some(port));
        settings.extend(kind.gossip().map(ToOwned::to_owned));
        let (mut peer, _home) = kind.with_own_driver(&texts(&settings));
        let hub = if asks { other } else { port };
        let last = OurDriver::start(&texts(&named("last", third, Some(hub))));
        let mut client = Client::connect(&driver.directory);
        await_names(&mut client, asks);
        assert_counters(client.counters(), port, asks.then_some(other));
        crate::support::until("all names on the other side", || {
            let counters = peer.call_beside(&mut client, "counters");
            let all = counters["counters"].as_array().unwrap().clone();
            let known = all.iter().filter(|counter| {
                [RESOLVER_NEIGHBORS, RESOLVER_CACHE_ENTRIES].contains(&counter["type"].as_i64().unwrap())
            });
            let count: i64 = known.map(|counter| counter["value"].as_i64().unwrap()).sum();
            (count == 4).then_some(())
        });
        stream_by_name(&mut client, &mut peer);
        assert_eq!(peer.exit(), "");
        driver.stop();
        last.stop();
    }
}

/// Waits until our driver knows both other names and, when it asks, its bootstrap neighbour.
fn await_names(client: &mut Client, asks: bool) {
    client.until("all names", |aeron| {
        let (mut count, counters) = (0, aeron.counters());
        counters.for_each(&mut |id, type_id, _, _| {
            if [RESOLVER_NEIGHBORS, RESOLVER_CACHE_ENTRIES].contains(&i64::from(type_id)) {
                count += counters.value(id);
            }
        });
        (count == 4).then_some(())
    });
    if asks {
        client.until("the neighbor that was asked", |aeron| {
            let mut is_known = false;
            let counters = aeron.counters();
            counters.for_each(&mut |id, type_id, _, _| {
                is_known |= i64::from(type_id) == BOOTSTRAP_NEIGHBOR && counters.value(id) == 1;
            });
            is_known.then_some(())
        });
    }
}

/// Our counters have the labels of the released driver. `asked` is the port of the bootstrap neighbour that our driver
/// asks.
fn assert_counters(counters: Vec<(i32, i32, i64, String)>, port: u16, asked: Option<u16>) {
    let of_type = |wanted: i64| {
        let found = counters.iter().filter(|counter| i64::from(counter.1) == wanted);
        found.map(|counter| (counter.3.clone(), counter.2)).collect::<Vec<_>>()
    };
    let two = |label: String| vec![(label, 2)];
    assert_eq!(of_type(RESOLVER_NEIGHBORS), two(format!("Resolver neighbors: bound 127.0.0.1:{port}")));
    assert_eq!(of_type(RESOLVER_CACHE_ENTRIES), two("Resolver cache entries: name=ours".to_owned()));
    if let Some(asked) = asked {
        let first = format!("Bootstrap neighbor: name=localhost:{asked} resolved=127.0.0.1:{asked}");
        let second = "Bootstrap neighbor: name=nohost.invalid:9 resolved=".to_owned();
        assert_eq!(of_type(BOOTSTRAP_NEIGHBOR), [(first, 1), (second, 0)]);
    }
}

/// Streams flow in both directions over channels that name the drivers. An unknown name is refused.
fn stream_by_name(client: &mut Client, peer: &mut Peer) {
    let port = free_port();
    peer.call_beside(client, &format!("subscribe name=s channel=aeron:udp?endpoint=theirs:{port} stream=10"));
    let mut publication = client.exclusive(&format!("aeron:udp?endpoint=theirs:{port}"), 10);
    let receive = peer.begin("receive name=s length=1000 count=20");
    client.send(&mut publication, 0..20, 1_000);
    peer.finish_beside(receive, client);
    let port = free_port();
    let mut subscription = client.subscription(&format!("aeron:udp?endpoint=ours:{port}"), 11);
    peer.call_beside(client, &format!("publish name=p channel=aeron:udp?endpoint=ours:{port} stream=11"));
    let send = peer.begin("send name=p length=1000 count=20");
    client.receive(&mut subscription, 0..20, 1_000);
    peer.finish_beside(send, client);
    assert!(client.try_exclusive("aeron:udp?endpoint=nobody:9", 12).is_err());
    client.exclusive("aeron:udp?endpoint=last:9", 12);
    peer.call_beside(client, "publish name=q channel=aeron:udp?endpoint=last:9 stream=12");
}
