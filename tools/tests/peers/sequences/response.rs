//! The order of frames of a request stream (`q`) and of the stream that answers it (`m`).

use std::collections::BTreeSet;
use std::net::SocketAddr;

use harrier::client::{ExclusivePublication, Subscription};

use super::LIVENESS;
use super::relay::{Relay, Step, capture, setups};
use crate::peers::peer::{Kind, Peer, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::{directory, until};

with_each_peer!(
    our_requester_and_their_responder_speak_in_the_captured_order,
    their_requester_and_our_responder_speak_in_the_captured_order,
);

const REQUESTS: i32 = 2_001;
const ANSWERS: i32 = 2_002;
const TERM: &str = "term-length=64k|mtu=1408";

/// Requester or responder: a client with one publication and one subscription.
enum Party {
    Ours(Box<Ours>),
    Theirs(Box<Peer>),
}

struct Ours {
    client: Client,
    subscription: Option<Subscription>,
    publication: Option<ExclusivePublication>,
}

impl Party {
    fn new(kind: Option<Kind>, their_directory: &std::path::Path, driver: &OurDriver) -> Self {
        if let Some(kind) = kind {
            return Self::Theirs(Box::new(kind.with_driver(their_directory, &[LIVENESS])));
        }
        let client = Client::connect(&driver.directory);
        Self::Ours(Box::new(Ours { client, subscription: None, publication: None }))
    }

    /// Returns the registration id.
    fn subscribe(&mut self, channel: &str, stream: i32) -> i64 {
        match self {
            Self::Theirs(peer) => {
                let line = format!("subscribe name=s channel={channel} stream={stream}");
                peer.call(&line)["registration"].as_i64().unwrap()
            }
            Self::Ours(ours) => {
                ours.subscription.insert(ours.client.subscription(channel, stream)).registration_id()
            }
        }
    }

    fn publish(&mut self, channel: &str, stream: i32) {
        match self {
            Self::Theirs(peer) => {
                peer.call(&format!("publish name=p channel={channel} stream={stream} exclusive=true"));
            }
            Self::Ours(ours) => ours.publication = Some(ours.client.exclusive(channel, stream)),
        }
    }

    /// Correlation id of the only image.
    fn image(&mut self) -> i64 {
        match self {
            Self::Theirs(peer) => {
                peer.call("images name=s count=1")["images"][0]["correlation"].as_i64().unwrap()
            }
            Self::Ours(ours) => ours.client.until("the image", |_| {
                ours.subscription.as_mut().unwrap().images().first().map(|image| image.correlation_id())
            }),
        }
    }

    fn send(&mut self, length: usize) {
        match self {
            Self::Theirs(peer) => drop(peer.call(&format!("send name=p length={length} count=1"))),
            Self::Ours(ours) => {
                ours.client.send(ours.publication.as_mut().unwrap(), 0..1, length);
            }
        }
    }

    fn receive(&mut self, length: usize) {
        match self {
            Self::Theirs(peer) => drop(peer.call(&format!("receive name=s length={length} count=1"))),
            Self::Ours(ours) => {
                ours.client.receive(ours.subscription.as_mut().unwrap(), 0..1, length);
            }
        }
    }

    /// Closes publication and subscription.
    fn close(&mut self) {
        match self {
            Self::Theirs(peer) => {
                peer.call("close name=p");
                peer.call("close name=s");
            }
            Self::Ours(ours) => {
                (ours.subscription, ours.publication) = (None, None);
                ours.client.work();
            }
        }
    }

    fn work(&mut self) {
        if let Self::Ours(ours) = self {
            ours.client.work();
        }
    }

    fn exit(self) {
        if let Self::Theirs(peer) = self {
            assert_eq!(peer.exit(), "");
        }
    }
}

/// A request and its answer through relays, then the end of all streams.
fn run(requester: Option<Kind>, responder: Option<Kind>) -> Vec<Step> {
    let driver = OurDriver::start(&[LIVENESS, "aeron.timer.interval=1s"]);
    let home = directory("peer");
    let mut requester = Party::new(requester, &home.path().join("requester"), &driver);
    let mut responder = Party::new(responder, &home.path().join("responder"), &driver);
    let [endpoint, control] = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let requests = Relay::start('q', endpoint, false);
    let answers = requests.beside('m', control);
    responder.subscribe(&format!("aeron:udp?endpoint={endpoint}"), REQUESTS);
    let pass = |requester: &mut Party, responder: &mut Party, what: &str, relay, kind, flags| {
        until(what, || {
            requester.work();
            responder.work();
            let is_it = |step: &Step| step.relay == relay && step.kind == kind && step.flags == flags;
            requests.steps().iter().any(is_it).then_some(())
        });
    };
    let channel = format!("aeron:udp?control-mode=response|control={}", answers.address);
    let id = requester.subscribe(&channel, ANSWERS);
    pass(&mut requester, &mut responder, "the question for a SETUP", 'm', "SM", 0x80);
    let channel = format!("aeron:udp?endpoint={}|response-correlation-id={id}|{TERM}", requests.address);
    requester.publish(&channel, REQUESTS);
    let image = responder.image();
    pass(&mut requester, &mut responder, "a heartbeat", 'q', "HEARTBEAT", 0xC0);
    let channel =
        format!("aeron:udp?control-mode=response|control={control}|response-correlation-id={image}|{TERM}");
    responder.publish(&channel, ANSWERS);
    pass(&mut requester, &mut responder, "a heartbeat of the answers", 'm', "HEARTBEAT", 0xC0);
    requester.send(10);
    responder.receive(10);
    responder.send(12);
    requester.receive(12);
    // The SETUP that was asked for is repeated once: the sender has no receiver yet when it sends it.
    until("the repeated SETUP", || {
        requester.work();
        responder.work();
        (setups_of('m', &requests.steps()) >= 2).then_some(())
    });
    requester.close();
    responder.close();
    for relay in ['q', 'm'] {
        pass(&mut requester, &mut responder, "the end", relay, "HEARTBEAT", 0xE0);
        pass(&mut requester, &mut responder, "the answer to the end", relay, "SM", 0x40);
    }
    let steps = requests.steps();
    requester.exit();
    responder.exit();
    driver.stop();
    steps
}

/// SETUPs that a relay has recorded.
fn setups_of(relay: char, steps: &[Step]) -> usize {
    setups(steps.iter().filter(|step| step.relay == relay))
}

/// First occurrence of each frame in order, then the frames that end the streams: the agents of two drivers send them,
/// so they cross.
fn order(steps: &[Step]) -> (Vec<Step>, BTreeSet<Step>) {
    let mut seen = BTreeSet::new();
    let first: Vec<_> = steps.iter().filter(|step| seen.insert((*step).clone())).cloned().collect();
    let is_end = |step: &Step| matches!((step.kind, step.flags), ("HEARTBEAT", 0xE0) | ("SM", 0x40));
    let (end, order): (Vec<_>, Vec<_>) = first.into_iter().partition(is_end);
    (order, end.into_iter().collect())
}

fn check(requester: Option<Kind>, responder: Option<Kind>) {
    let steps = run(requester, responder);
    let found = order(&steps);
    assert_eq!((found.0.len(), found.1.len()), (10, 4), "{found:?}");
    for peer in ["java", "c"] {
        let expected = capture(peer, "response");
        assert_eq!(found, order(&expected), "{peer}: found, expected");
        // A late answer permits one more SETUP.
        for relay in ['q', 'm'] {
            let (ours, theirs) = (setups_of(relay, &steps), setups_of(relay, &expected));
            assert!(ours >= theirs, "{peer}: {ours} SETUPs at {relay}, not {theirs}");
        }
    }
}

#[test]
fn our_requester_and_responder_speak_in_the_captured_order() {
    check(None, None);
}

fn our_requester_and_their_responder_speak_in_the_captured_order(kind: Kind) {
    check(None, Some(kind));
}

fn their_requester_and_our_responder_speak_in_the_captured_order(kind: Kind) {
    check(Some(kind), None);
}
