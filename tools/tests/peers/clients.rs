//! Released clients that crash, stall, or lose our driver.

use crate::peers::peer::{Kind, with_each_peer};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::until;

with_each_peer!(
    what_a_dead_client_held_is_given_back,
    a_stalled_client_is_timed_out_and_finds_itself_closed,
    a_released_client_is_told_of_the_end_of_our_driver,
);

/// The timeout detects silent clients soon but tolerates a machine that stalls for some seconds.
const LIVENESS: [&str; 2] = ["aeron.client.liveness.timeout=20s", "aeron.publication.unblock.timeout=21s"];

const UNBLOCKED_PUBLICATIONS: i32 = 19;
const CLIENT_TIMEOUTS: i32 = 24;

fn what_a_dead_client_held_is_given_back(kind: Kind) {
    let driver = OurDriver::start(&LIVENESS);
    let mut alive = kind.client(&driver.directory);
    let mut dying = kind.client(&driver.directory);
    alive.call("subscribe name=s channel=aeron:ipc?term-length=64k stream=10");
    alive.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    dying.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    dying.call("subscribe name=t channel=aeron:udp?endpoint=127.0.0.1:0 stream=11");
    dying.call("connected name=p");
    dying.call("send name=p length=100 count=10");
    alive.call("receive name=s length=100 count=10");
    dying.call("hang name=p length=200");
    dying.kill();
    alive.call("send name=p length=100 from=10 count=10");
    alive.call("receive name=s length=100 from=10 count=10");
    alive.call("close name=s");
    alive.call("close name=p");
    let mut watch = Client::connect(&driver.directory);
    watch.until("the end of the dead client and of what it blocked", |aeron| {
        let counters = aeron.counters();
        let is_one = |id: i32| counters.value(id) == 1;
        (is_one(CLIENT_TIMEOUTS) && is_one(UNBLOCKED_PUBLICATIONS)).then_some(())
    });
    watch.until("the return of all counters but the system's and one heartbeat", |aeron| {
        let mut kinds = Vec::new();
        aeron.counters().for_each(&mut |id, type_id, _, _| kinds.extend((id > 45).then_some(type_id)));
        (kinds == [11]).then_some(())
    });
    until("the removal of all logs", || {
        let is_empty = |name| std::fs::read_dir(driver.directory.join(name)).unwrap().next().is_none();
        (is_empty("publications") && is_empty("images")).then_some(())
    });
    assert_eq!(alive.exit(), "");
    driver.stop();
}

fn a_stalled_client_is_timed_out_and_finds_itself_closed(kind: Kind) {
    let driver = OurDriver::start(&LIVENESS);
    let mut stalled = kind.client(&driver.directory);
    stalled.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    stalled.signal("STOP");
    let mut watch = Client::connect(&driver.directory);
    watch.until("the time-out", |aeron| (aeron.counters().value(CLIENT_TIMEOUTS) == 1).then_some(()));
    stalled.signal("CONT");
    // The driver's event or the client's own clock ends the client, whichever is first.
    until("the end of the stalled client", || {
        let errors = stalled.errors();
        (errors.contains("client timeout from driver") || errors.contains(kind.late_client())).then_some(())
    });
    let refused = stalled.refused("publish name=q channel=aeron:ipc?term-length=64k stream=11");
    assert!(refused["error"].as_str().unwrap().contains(kind.closed_client()), "{refused}");
    let mut healthy = kind.client(&driver.directory);
    healthy.call("subscribe name=s channel=aeron:ipc?term-length=64k stream=10");
    healthy.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    healthy.call("send name=p length=100 count=10");
    healthy.call("receive name=s length=100 count=10");
    assert_eq!(healthy.exit(), "");
    driver.stop();
}

fn a_released_client_is_told_of_the_end_of_our_driver(kind: Kind) {
    let driver = OurDriver::start(&[]);
    let mut peer = kind.client(&driver.directory);
    peer.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    driver.stop();
    until("the word of the client", || {
        let errors = peer.errors();
        kind.driver_shutdown().iter().all(|text| errors.contains(text)).then_some(())
    });
}
