//! Cubic congestion control of our images and of a released driver's, with the other side as sender (spec 02 §3.10).

use harrier::client::Subscription;
use harrier::platform::SystemClock;
use harrier::ringbuf::Clock;
use serde_json::Value;

use crate::peers::peer::{Kind, Peer, texts, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::until;

with_each_peer!(
    windows_grow_alike_on_both_sides_and_round_trips_are_measured,
    losses_narrow_the_windows_and_nothing_is_missing,
);

const MTU: i64 = 1_408;
/// Largest multiple of the MTU in the default window of 128 KiB.
const MAX_WINDOW: i64 = 131_072 / MTU * MTU;
const PER_IMAGE: i64 = 10;
/// Maximum interval between two samples of the windows.
const OFTEN_NS: i64 = 500_000_000;
const SETTINGS: [&str; 1] = ["aeron.CubicCongestionControl.measureRtt=true"];

/// Round trip, ns, and window, bytes, of the only cubic image among counters given as (type, label, value).
fn state(counters: impl Iterator<Item = (i64, String, i64)>) -> Option<(i64, i64)> {
    let (mut rtt, mut window) = (None, None);
    for (_, label, value) in counters.filter(|counter| counter.0 == PER_IMAGE) {
        if label.starts_with("rcv-cc-cubic-rtt: ") {
            rtt = Some(value);
        } else {
            assert!(label.starts_with("rcv-cc-cubic-wnd: "), "{label}");
            window = Some(value);
        }
    }
    rtt.zip(window)
}

fn our_state(client: &Client) -> Option<(i64, i64)> {
    state(client.counters().into_iter().map(|(_, type_id, value, label)| (i64::from(type_id), label, value)))
}

fn their_state(counters: &Value) -> Option<(i64, i64)> {
    let all = counters["counters"].as_array().unwrap().iter();
    state(all.map(|counter| {
        let (type_id, value) = (counter["type"].as_i64().unwrap(), counter["value"].as_i64().unwrap());
        (type_id, counter["label"].as_str().unwrap().to_owned(), value)
    }))
}

/// Distinct windows that were observed.
#[derive(Default)]
struct Trajectory {
    windows: Vec<i64>,
    /// The shortest round trip: a stalled machine makes others longer.
    rtt_ns: Option<i64>,
    last_look_ns: Option<i64>,
    longest_pause_ns: i64,
}

impl Trajectory {
    fn note(&mut self, state: Option<(i64, i64)>) {
        let now_ns = SystemClock.now().ns;
        let pause_ns = now_ns - self.last_look_ns.replace(now_ns).unwrap_or(now_ns);
        self.longest_pause_ns = self.longest_pause_ns.max(pause_ns);
        let Some((rtt_ns, window)) = state else { return };
        if rtt_ns > 0 {
            self.rtt_ns = Some(self.rtt_ns.map_or(rtt_ns, |shortest| shortest.min(rtt_ns)));
        }
        if self.windows.last() != Some(&window) {
            self.windows.push(window);
        }
    }

    /// Without losses the window grows from the initial estimate to the receiver's limit.
    fn check_growth(&self, side: &str) {
        let windows: Vec<_> = self.windows.iter().copied().filter(|window| *window > 0).collect();
        assert!(windows.is_sorted(), "{side}: {windows:?}");
        assert!(windows.iter().all(|window| window % MTU == 0 && *window >= 10 * MTU), "{side}: {windows:?}");
        assert_eq!(windows.last(), Some(&MAX_WINDOW), "{side}: {windows:?}");
        // The curve takes seconds and is flat where it meets its maximum: who looks often sees several steps on the
        // way.
        let has_looked_often = self.longest_pause_ns < OFTEN_NS;
        assert!(windows.len() >= 4 || !has_looked_often, "{side}: {windows:?}");
        assert!(self.rtt_ns.is_some_and(|rtt_ns| rtt_ns < 1_000_000_000), "{side}: {:?}", self.rtt_ns);
    }
}

/// A stream to us and one to the peer, both with cubic windows.
fn streams(peer: &mut Peer, client: &mut Client) -> (Subscription, harrier::client::ExclusivePublication) {
    let mut subscription = client.subscription("aeron:udp?endpoint=127.0.0.1:0|cc=cubic", 10);
    let channel = client.resolved(&subscription).replace("|cc=cubic", "");
    peer.call_beside(
        client,
        &format!("publish name=p channel={channel}|term-length=1m stream=10 exclusive=true"),
    );
    peer.call_beside(client, "subscribe name=s channel=aeron:udp?endpoint=127.0.0.1:0|cc=cubic stream=11");
    let channel =
        peer.call_beside(client, "resolve name=s")["channel"].as_str().unwrap().replace("|cc=cubic", "");
    let publication = client.exclusive(&format!("{channel}|term-length=1m"), 11);
    client.until("both connections", |_| {
        (publication.is_connected() && !subscription.images().is_empty()).then_some(())
    });
    (subscription, publication)
}

fn windows_grow_alike_on_both_sides_and_round_trips_are_measured(kind: Kind) {
    let driver = OurDriver::start(&SETTINGS);
    let (mut peer, _home) = kind.with_own_driver(&SETTINGS);
    let mut client = Client::connect(&driver.directory);
    let (mut subscription, mut publication) = streams(&mut peer, &mut client);
    let (mut ours, mut other) = (Trajectory::default(), Trajectory::default());
    let (mut sent, mut next) = (0, 0);
    until("both windows at their maximum", || {
        // A few messages each way trigger the window updates.
        let send = peer.begin(&format!("send name=p length=1000 count=5 from={sent}"));
        client.receive(&mut subscription, sent..sent + 5, 1_000);
        peer.finish_beside(send, &mut client);
        sent += 5;
        let receive = peer.begin(&format!("receive name=s length=1000 count=5 from={next}"));
        client.send(&mut publication, next..next + 5, 1_000);
        peer.finish_beside(receive, &mut client);
        next += 5;
        ours.note(our_state(&client));
        other.note(their_state(&peer.call_beside(&mut client, "counters")));
        let is_at_most = |trajectory: &Trajectory| trajectory.windows.last() == Some(&MAX_WINDOW);
        (is_at_most(&ours) && is_at_most(&other)).then_some(())
    });
    ours.check_growth("ours");
    other.check_growth("theirs");
    assert_eq!(peer.exit(), "");
    driver.stop();
}

fn losses_narrow_the_windows_and_nothing_is_missing(kind: Kind) {
    let driver = OurDriver::start(&[
        SETTINGS[0],
        "aeron.udp.channel.incoming.interceptors=loss",
        "aeron.udp.channel.transport.bindings.loss.args=rate=0.03|seed=5|recv-msg-mask=0x2",
    ]);
    let loss = kind.data_loss(0.03, 13);
    let (mut peer, _home) = kind.with_own_driver(&[&SETTINGS, &texts(&loss)[..]].concat());
    let mut client = Client::connect(&driver.directory);
    let (mut subscription, mut publication) = streams(&mut peer, &mut client);
    let (mut ours, mut other) = (Trajectory::default(), Trajectory::default());
    for round in 0..20 {
        let from = round * 40;
        let send = peer.begin(&format!("send name=p length=1376 count=40 from={from}"));
        client.receive(&mut subscription, from..from + 40, 1_376);
        peer.finish_beside(send, &mut client);
        let receive = peer.begin(&format!("receive name=s length=1376 count=40 from={from}"));
        client.send(&mut publication, from..from + 40, 1_376);
        peer.finish_beside(receive, &mut client);
        ours.note(our_state(&client));
        other.note(their_state(&peer.call_beside(&mut client, "counters")));
    }
    for (side, trajectory) in [("ours", ours), ("theirs", other)] {
        let windows: Vec<_> = trajectory.windows.iter().copied().filter(|window| *window > 0).collect();
        assert!(
            windows.iter().all(|window| window % MTU == 0 && *window <= MAX_WINDOW),
            "{side}: {windows:?}"
        );
        assert!(windows.windows(2).any(|two| two[1] < two[0]), "{side}: {windows:?}");
    }
    assert_eq!(peer.exit(), "");
    driver.stop();
}
