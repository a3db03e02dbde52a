//! Time after which a stalled untethered subscription releases its stream, on our driver and on a released one (spec 02
//! §3.11).

use serde_json::Value;

use crate::peers::peer::{Kind, with_each_peer};
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
/// Tolerance of a step's time, ms. The first step begins a little before the publication is blocked, and timers run
/// every 50 ms.
const EARLY_MS: i64 = 150;
const LATE_MS: i64 = 1_000;
/// Maximum number of rounds until one runs without a stall.
const ROUNDS: usize = 5;

const ROUND: &str = "tether name=p polled=s resting=u";

/// Checks that no step is too early, which holds on a stalled machine too. Returns true when no step was late.
fn is_in_time(times: &Value, what: &str) -> bool {
    let at = |key: &str| times[key].as_i64().unwrap();
    let mut is_in_time = true;
    let (mut before, mut nominal_ms) = (at("blocked"), 0);
    for (step, step_ms) in [("unavailable", 600), ("flowing", 400), ("available", 800)] {
        // Times are relative to the first step: a late observation of one step would make the next look early.
        nominal_ms += step_ms;
        let took_ms = at(step) - at("blocked");
        assert!(took_ms >= nominal_ms - EARLY_MS, "{what}: {step} after {took_ms} ms: {times}");
        is_in_time &= at(step) - before < step_ms + LATE_MS;
        before = at(step);
    }
    // The image rejoins at the polled subscription's position, up to messages offered meanwhile.
    let (join, polled) = (at("join"), at("polled"));
    assert!(join % 32 == 0 && join > 32_768 && join <= polled && polled - join < 65_536, "{what}: {times}");
    is_in_time
}

fn an_untethered_subscription_leaves_and_comes_back_in_the_times_of_the_released_driver(kind: Kind) {
    let driver = OurDriver::start(&SETTINGS);
    let mut ours = kind.client(&driver.directory);
    let (mut theirs, _home) = kind.with_own_driver(&SETTINGS);
    for channel in ["aeron:ipc?alias=x".to_owned(), format!("aeron:udp?endpoint=127.0.0.1:{}", free_port())] {
        let mut running = Vec::new();
        for peer in [&mut ours, &mut theirs] {
            // Each driver has its own port.
            let channel = channel.replace("127.0.0.1:", &format!("127.0.0.{}:", 1 + running.len()));
            peer.call(&format!("subscribe name=s channel={channel} stream=10"));
            peer.call(&format!("subscribe name=u channel={channel}|tether=false stream=10"));
            peer.call(&format!("publish name=p channel={channel}|term-length=64k stream=10 exclusive=true"));
            peer.call("connected name=p");
            peer.call("images name=u count=1");
            running.push(peer.begin(ROUND));
        }
        for (peer, (pending, side)) in
            [&mut ours, &mut theirs].into_iter().zip(running.into_iter().zip(["our", "the released"]))
        {
            let what = format!("{channel} on {side} driver");
            let mut rounds = vec![peer.finish(pending)];
            while !is_in_time(rounds.last().unwrap(), &what) {
                assert!(rounds.len() < ROUNDS, "{what} is always late: {rounds:?}");
                rounds.push(peer.call(ROUND));
            }
            for name in ["p", "s", "u"] {
                peer.call(&format!("close name={name}"));
            }
        }
    }
    assert_eq!((ours.exit(), theirs.exit()), (String::new(), String::new()));
    driver.stop();
}
