//! Publications and subscriptions with several destinations, with a released driver on the other side
//! (spec 02 §2.9, §3.12).

use harrier::client::{ExclusivePublication, Subscription};

use crate::peers::peer::{Kind, Peer, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::ports::free_port;

with_each_peer!(
    our_publication_feeds_the_destinations_that_it_is_given,
    their_publication_feeds_the_destinations_that_it_is_given,
    receivers_come_to_the_control_address_of_our_publication_and_leave,
    our_receivers_come_to_the_control_address_of_their_publication_and_leave,
    several_sources_are_one_image_on_either_side,
);

/// The timeout detects a departed receiver soon but tolerates a machine that stalls for some seconds.
const SETTINGS: [&str; 1] = ["aeron.image.liveness.timeout=10s"];
const STREAM: i32 = 10;
const TERM: &str = "term-length=1m";
const LENGTH: usize = 3_000;
const COUNT: u64 = 40;
const NUMBER_OF_DESTINATIONS: i64 = 18;

fn endpoints<const N: usize>() -> [String; N] {
    std::array::from_fn(|_| format!("aeron:udp?endpoint=127.0.0.1:{}", free_port()))
}

/// Our driver with a client, and a released driver with a client.
struct Sides {
    driver: OurDriver,
    client: Client,
    peer: Peer,
    _home: tempfile::TempDir,
}

impl Sides {
    fn new(kind: Kind) -> Self {
        let driver = OurDriver::start(&SETTINGS);
        let (peer, home) = kind.with_own_driver(&SETTINGS);
        let client = Client::connect(&driver.directory);
        Self { driver, client, peer, _home: home }
    }

    fn call(&mut self, line: &str) -> serde_json::Value {
        self.peer.call_beside(&mut self.client, line)
    }

    /// Sends the next messages of ours to all of their named subscriptions.
    fn we_send(&mut self, publication: &mut ExclusivePublication, names: &[&str]) {
        let pending: Vec<_> = names
            .iter()
            .map(|name| self.peer.begin(&format!("receive name={name} length={LENGTH} count={COUNT}")))
            .collect();
        self.client.send(publication, 0..COUNT, LENGTH);
        for receive in pending {
            self.peer.finish_beside(receive, &mut self.client);
        }
    }

    /// Sends the next messages of their publication to all of our subscriptions. They fit into a window, so that the
    /// subscriptions can be read one after the other.
    fn they_send(&mut self, subscriptions: &mut [&mut Subscription]) {
        let send = self.peer.begin(&format!("send name=p length=1000 count={COUNT}"));
        for subscription in subscriptions {
            self.client.receive(subscription, 0..COUNT, 1_000);
        }
        self.peer.finish_beside(send, &mut self.client);
    }

    fn done(&mut self, command: i64) {
        self.client.until("the driver's word", |aeron| aeron.command_done(command).unwrap().then_some(()));
    }

    fn images_are(&mut self, subscription: &mut Subscription, count: usize) {
        self.client.until("the images", |_| {
            subscription.poll(1, &mut |_, _| ());
            (subscription.images().len() == count).then_some(())
        });
    }

    /// Waits for a number of destinations on our driver.
    fn we_count(&mut self, destinations: i64) {
        self.client.until("the count of destinations", |aeron| {
            let counters = aeron.counters();
            let id = counters.find(&mut |_, kind, _| i64::from(kind) == NUMBER_OF_DESTINATIONS)?;
            (counters.value(id) == destinations).then_some(())
        });
    }

    /// Waits for a number of destinations on their driver.
    fn they_count(&mut self, destinations: i64) {
        crate::support::until("the count of destinations", || {
            let reply = self.call("counters");
            let mut all = reply["counters"].as_array().unwrap().iter();
            let found = all.find(|counter| counter["type"] == NUMBER_OF_DESTINATIONS)?;
            (found["value"] == destinations).then_some(())
        });
    }

    fn end(self) {
        drop(self.client);
        assert_eq!(self.peer.exit(), "");
        self.driver.stop();
    }
}

fn our_publication_feeds_the_destinations_that_it_is_given(kind: Kind) {
    let mut sides = Sides::new(kind);
    let [first, second] = endpoints();
    sides.call(&format!("subscribe name=s channel={first} stream={STREAM}"));
    sides.call(&format!("subscribe name=t channel={second} stream={STREAM}"));
    let mut publication =
        sides.client.exclusive(&format!("aeron:udp?control-mode=manual|fc=min|{TERM}"), STREAM);
    let id = publication.registration_id();
    let added = sides.client.aeron.add_destination(id, &first).unwrap();
    sides.done(added);
    let by_id = sides.client.aeron.add_destination(id, &second).unwrap();
    sides.done(by_id);
    sides.we_count(2);
    sides.call("images name=s count=1");
    sides.call("images name=t count=1");
    sides.we_send(&mut publication, &["s", "t"]);
    // The first destination is removed by its channel and added again; the second is removed by its id.
    let removed = sides.client.aeron.remove_destination(id, &first).unwrap();
    sides.done(removed);
    sides.call("images name=s count=0");
    sides.we_count(1);
    sides.we_send(&mut publication, &["t"]);
    let added = sides.client.aeron.add_destination(id, &first).unwrap();
    sides.done(added);
    sides.call("images name=s count=1");
    sides.we_send(&mut publication, &["s", "t"]);
    let removed = sides.client.aeron.remove_destination_by_id(id, by_id).unwrap();
    sides.done(removed);
    sides.call("images name=t count=0");
    sides.we_count(1);
    sides.we_send(&mut publication, &["s"]);
    drop(publication);
    sides.call("images name=s count=0");
    sides.end();
}

fn their_publication_feeds_the_destinations_that_it_is_given(kind: Kind) {
    let mut sides = Sides::new(kind);
    let [first, second] = endpoints();
    let [mut one, mut two] = [&first, &second].map(|channel| sides.client.subscription(channel, STREAM));
    let channel = format!("aeron:udp?control-mode=manual|fc=min|{TERM}");
    for exclusive in [true, false] {
        sides.call(&format!("publish name=p channel={channel} stream={STREAM} exclusive={exclusive}"));
        sides.call(&format!("destination name=p channel={first}"));
        let by_id = sides.call(&format!("destination name=p async=true channel={second}"));
        let by_id = by_id["registration"].as_i64().unwrap();
        sides.they_count(2);
        sides.images_are(&mut one, 1);
        sides.images_are(&mut two, 1);
        sides.they_send(&mut [&mut one, &mut two]);
        sides.call(&format!("destination name=p remove=true channel={first}"));
        sides.images_are(&mut one, 0);
        sides.they_count(1);
        sides.they_send(&mut [&mut two]);
        sides.call(&format!("destination name=p channel={first}"));
        sides.images_are(&mut one, 1);
        sides.they_send(&mut [&mut one, &mut two]);
        sides.call(&format!("destination name=p remove=true id={by_id}"));
        sides.images_are(&mut two, 0);
        sides.they_send(&mut [&mut one]);
        sides.call("close name=p");
        sides.images_are(&mut one, 0);
    }
    sides.end();
}

fn receivers_come_to_the_control_address_of_our_publication_and_leave(kind: Kind) {
    let mut sides = Sides::new(kind);
    let control = format!("control=127.0.0.1:{}|control-mode=dynamic", free_port());
    let mut publication = sides.client.exclusive(&format!("aeron:udp?{control}|fc=min|{TERM}"), STREAM);
    for name in ["s", "t"] {
        let channel = format!("aeron:udp?endpoint=127.0.0.1:{}|{control}", free_port());
        sides.call(&format!("subscribe name={name} channel={channel} stream={STREAM}"));
        sides.call(&format!("images name={name} count=1"));
    }
    sides.we_count(2);
    sides.we_send(&mut publication, &["s", "t"]);
    sides.call("close name=s");
    sides.we_send(&mut publication, &["t"]);
    sides.call("close name=t");
    sides.client.until("the end of the connection", |_| (!publication.is_connected()).then_some(()));
    sides.end();
}

fn our_receivers_come_to_the_control_address_of_their_publication_and_leave(kind: Kind) {
    let mut sides = Sides::new(kind);
    let control = format!("control=127.0.0.1:{}|control-mode=dynamic", free_port());
    let publish = format!("publish name=p channel=aeron:udp?{control}|fc=min|{TERM}");
    sides.call(&format!("{publish} stream={STREAM} exclusive=true"));
    let [mut one, mut two] = [(); 2].map(|()| {
        let channel = format!("aeron:udp?endpoint=127.0.0.1:{}|{control}", free_port());
        sides.client.subscription(&channel, STREAM)
    });
    sides.images_are(&mut one, 1);
    sides.images_are(&mut two, 1);
    sides.they_count(2);
    sides.they_send(&mut [&mut one, &mut two]);
    drop(one);
    sides.they_send(&mut [&mut two]);
    drop(two);
    sides.call("connected name=p is=false");
    sides.end();
}

fn several_sources_are_one_image_on_either_side(kind: Kind) {
    let mut sides = Sides::new(kind);
    let manual = format!("aeron:udp?control-mode=manual|{TERM}");
    // We subscribe.
    let ways: [String; 2] = endpoints();
    let mut subscription = sides.client.subscription("aeron:udp?control-mode=manual", STREAM);
    sides.call(&format!("publish name=p channel={manual} stream={STREAM} exclusive=true"));
    for way in &ways {
        let added = sides.client.aeron.add_rcv_destination(subscription.registration_id(), way).unwrap();
        sides.done(added);
        sides.call(&format!("destination name=p channel={way}"));
    }
    sides.images_are(&mut subscription, 1);
    sides.client.until("both ways", |_| {
        subscription.images().first().filter(|image| image.active_transport_count() == 2).map(drop)
    });
    sides.they_send(&mut [&mut subscription]);
    for (index, way) in ways.iter().enumerate() {
        let removed = sides.client.aeron.remove_rcv_destination(subscription.registration_id(), way).unwrap();
        sides.done(removed);
        if index == 0 {
            sides.they_send(&mut [&mut subscription]);
            assert_eq!(subscription.images().len(), 1);
        }
    }
    sides.images_are(&mut subscription, 0);
    sides.call("close name=p");
    // The peer subscribes.
    let ways: [String; 2] = endpoints();
    let mut publication = sides.client.exclusive(&manual, STREAM + 1);
    sides.call(&format!("subscribe name=s channel=aeron:udp?control-mode=manual stream={}", STREAM + 1));
    for way in &ways {
        sides.call(&format!("receive-destination name=s channel={way}"));
        let added = sides.client.aeron.add_destination(publication.registration_id(), way).unwrap();
        sides.done(added);
    }
    sides.call("images name=s count=1");
    sides.we_send(&mut publication, &["s"]);
    for (index, way) in ways.iter().enumerate() {
        sides.call(&format!("receive-destination name=s remove=true channel={way}"));
        if index == 0 {
            sides.we_send(&mut publication, &["s"]);
            assert_eq!(sides.call("images name=s count=1")["images"].as_array().unwrap().len(), 1);
        }
    }
    sides.call("images name=s count=0");
    drop(publication);
    sides.end();
}
