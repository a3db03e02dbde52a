//! When an untethered subscription that does not poll lets its stream go on, on our driver and on a released one
//! (spec 02 §3.11).

use serde_json::Value;

use crate::peer::{Kind, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::ports::free_port;

with_each_peer!(an_untethered_subscription_leaves_and_comes_back_in_the_times_of_the_released_driver);

const SETTINGS: [&str; 5] = [
    "aeron.timer.interval=50ms",
    "aeron.untethered.window.limit.timeout=600ms",
    "aeron.untethered.linger.timeout=400ms",
    "aeron.untethered.resting.timeout=800ms",
    "aeron.ipc.term.buffer.length=64k",
];
/// How much earlier or later than its time a step may be seen, ms, beside the time in which the peer itself stood still: the
/// first one begins a little before the publication is blocked, timers run every 50 ms, and threads wait for each other.
const EARLY_MS: i64 = 150;
const LATE_MS: i64 = 1_000;

fn check(times: &Value, what: &str) {
    let at = |key: &str| times[key].as_i64().unwrap();
    let steps = [
        ("limit", at("unavailable") - at("blocked"), 600),
        ("linger", at("flowing") - at("unavailable"), 400),
        ("resting", at("available") - at("flowing"), 800),
    ];
    for (step, took_ms, nominal_ms) in steps {
        let range = nominal_ms - EARLY_MS - at("still")..nominal_ms + LATE_MS + at("still");
        assert!(range.contains(&took_ms), "{what} {step} took {took_ms} ms: {times}");
    }
    // It comes back where the polled one is, give or take what was offered meanwhile.
    let (join, polled) = (at("join"), at("polled"));
    assert!(join % 32 == 0 && join > 32_768 && join <= polled && polled - join < 65_536, "{what}: {times}");
}

fn an_untethered_subscription_leaves_and_comes_back_in_the_times_of_the_released_driver(kind: Kind) {
    let driver = OurDriver::start(&SETTINGS);
    let mut ours = kind.client(&driver.directory);
    let (mut theirs, _home) = kind.with_own_driver(&SETTINGS);
    for channel in ["aeron:ipc?alias=x".to_owned(), format!("aeron:udp?endpoint=127.0.0.1:{}", free_port())] {
        let mut running = Vec::new();
        for peer in [&mut ours, &mut theirs] {
            // Each driver has a port of its own.
            let channel = channel.replace("127.0.0.1:", &format!("127.0.0.{}:", 1 + running.len()));
            peer.call(&format!("subscribe name=s channel={channel} stream=10"));
            peer.call(&format!("subscribe name=u channel={channel}|tether=false stream=10"));
            peer.call(&format!("publish name=p channel={channel}|term-length=64k stream=10 exclusive=true"));
            peer.call("connected name=p");
            peer.call("images name=u count=1");
            running.push(peer.begin("tether name=p polled=s resting=u"));
        }
        for (peer, (pending, side)) in
            [&mut ours, &mut theirs].into_iter().zip(running.into_iter().zip(["our", "the released"]))
        {
            check(&peer.finish(pending), &format!("{channel} on {side} driver"));
            for name in ["p", "s", "u"] {
                peer.call(&format!("close name={name}"));
            }
        }
    }
    assert_eq!((ours.exit(), theirs.exit()), (String::new(), String::new()));
    driver.stop();
}
