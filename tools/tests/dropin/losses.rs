//! The built-in loss generators, each with a stream through it (spec 02 §6.5).

use super::{start, stop};
use crate::support::directory;
use crate::support::ports::free_port;

const NAKS_SENT: i32 = 5;
const RETRANSMITS_SENT: i32 = 11;

/// (interceptor, variable of its arguments, arguments, fewest and most resends)
const ROWS: &[(&str, &str, &str, i64, i64)] = &[
    ("loss", "LOSS", "rate=0.2|seed=7|recv-msg-mask=0x2", 1, i64::MAX),
    // Each of two frames is lost once; the retransmission arrives.
    ("fixed-loss", "FIXED_LOSS", "term-id=7|term-offset=2112|length=2112", 1, 2),
    ("multi-gap-loss", "MULTI_GAP_LOSS", "term-id=7|gap-radix=8192|gap-length=1000|total-gaps=3", 3, 6),
];

#[test]
fn a_stream_comes_whole_through_each_loss() {
    for (name, kind, arguments, fewest, most) in ROWS {
        let home = directory("driver");
        let aeron = home.path().join("aeron");
        let variable = format!("AERON_UDP_CHANNEL_TRANSPORT_BINDINGS_{kind}_ARGS");
        let variables = [("AERON_UDP_CHANNEL_INCOMING_INTERCEPTORS", *name), (variable.as_str(), *arguments)];
        let (driver, mut client) = start(&aeron, &variables);
        let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
        let mut subscription = client.subscription(&channel, 10);
        let first = "term-length=64k|init-term-id=7|term-id=7|term-offset=0";
        let mut publication = client.exclusive(&format!("{channel}|{first}"), 10);
        // Frames of 1,056 bytes over more than one term.
        for from in (0..100).step_by(5) {
            client.send(&mut publication, from..from + 5, 1_024);
            client.receive(&mut subscription, from..from + 5, 1_024);
        }
        let counters = client.aeron.counters();
        let (naks, resends) = (counters.value(NAKS_SENT), counters.value(RETRANSMITS_SENT));
        assert!(naks >= *fewest && (*fewest..=*most).contains(&resends), "{name}: {naks} {resends}");
        drop((publication, subscription, client));
        stop(driver);
    }
}
