//! Java clients that die, stall, or lose our driver.

use crate::java::{self, Java};
use crate::support::binaries::OurDriver;
use crate::support::client::Client;
use crate::support::until;

const UNBLOCKED_PUBLICATIONS: i32 = 19;
const CLIENT_TIMEOUTS: i32 = 24;

#[test]
fn what_a_dead_java_client_held_is_given_back() {
    if !java::is_available() {
        return;
    }
    let driver =
        OurDriver::start(&["aeron.client.liveness.timeout=2s", "aeron.publication.unblock.timeout=3s"]);
    let mut alive = Java::client(&driver.directory);
    let mut dying = Java::client(&driver.directory);
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
    watch.until("the end of the dead client", |aeron| {
        (aeron.counters().value(CLIENT_TIMEOUTS) == 1).then_some(())
    });
    assert_eq!(watch.aeron.counters().value(UNBLOCKED_PUBLICATIONS), 1, "unblocked publications");
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

#[test]
fn a_stalled_java_client_is_timed_out_and_finds_itself_closed() {
    if !java::is_available() {
        return;
    }
    let driver =
        OurDriver::start(&["aeron.client.liveness.timeout=2s", "aeron.publication.unblock.timeout=3s"]);
    let mut stalled = Java::client(&driver.directory);
    stalled.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    stalled.signal("STOP");
    let mut watch = Client::connect(&driver.directory);
    watch.until("the time-out", |aeron| (aeron.counters().value(CLIENT_TIMEOUTS) == 1).then_some(()));
    stalled.signal("CONT");
    // The client learns of it by the driver's event or by its own clock, whichever comes first.
    until("the end of the stalled client", || {
        let errors = stalled.errors();
        (errors.contains("client timeout from driver") || errors.contains("ConductorServiceTimeoutException"))
            .then_some(())
    });
    let refused = stalled.refused("publish name=q channel=aeron:ipc?term-length=64k stream=11");
    assert!(refused["error"].as_str().unwrap().contains("Aeron client is "), "{refused}");
    let mut healthy = Java::client(&driver.directory);
    healthy.call("subscribe name=s channel=aeron:ipc?term-length=64k stream=10");
    healthy.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    healthy.call("send name=p length=100 count=10");
    healthy.call("receive name=s length=100 count=10");
    assert_eq!(healthy.exit(), "");
    driver.stop();
}

#[test]
fn a_java_client_is_told_of_the_end_of_our_driver() {
    if !java::is_available() {
        return;
    }
    let driver = OurDriver::start(&[]);
    let mut java = Java::client(&driver.directory);
    java.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
    driver.stop();
    until("the word of the client", || {
        let errors = java.errors();
        (errors.contains("DriverTimeoutException") && errors.contains("shutdown")).then_some(())
    });
}
