//! The released C client on our driver: functions beyond streams, and its callbacks.

use std::process::Command;

use serde_json::Value;

use crate::peers::c;
use crate::peers::peer::{Kind, Peer};
use crate::support::binaries::{OurDriver, harrier_driver};
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};

const IPC: &str = "aeron:ipc?term-length=64k";
const CLIENT_HEARTBEAT: i64 = 11;
const UNBLOCKED_PUBLICATIONS: i32 = 19;

/// Callback events of the client.
fn events(peer: &mut Peer) -> Vec<String> {
    let reply = peer.call("events");
    reply["events"].as_array().unwrap().iter().map(|event| event.as_str().unwrap().to_owned()).collect()
}

/// Waits for a callback event.
fn until_told(peer: &mut Peer, event: &str) {
    until(event, || events(peer).iter().any(|told| told == event).then_some(()));
}

fn counters(peer: &mut Peer) -> Vec<Value> {
    peer.call("counters")["counters"].as_array().unwrap().clone()
}

#[test]
fn resources_are_added_and_given_up_while_the_client_goes_on() {
    if !Kind::C.is_available() {
        return;
    }
    let driver = OurDriver::start(&[]);
    let mut peer = Kind::C.client(&driver.directory);
    peer.call(&format!("subscribe name=s channel={IPC} stream=10"));
    // Two pending adds, polled in the other order.
    let shared = peer.call(&format!("publish-async name=p channel={IPC} stream=10"));
    let exclusive = peer.call(&format!("publish-async name=q channel={IPC} stream=10 exclusive=true"));
    let second = peer.call("await name=q");
    let first = peer.call("await name=p");
    assert_eq!((&first["registration"], &first["exclusive"]), (&shared["registration"], &false.into()));
    assert_eq!((&second["registration"], &second["exclusive"]), (&exclusive["registration"], &true.into()));
    assert_ne!(first["session"], second["session"]);
    // A shared publication that is added twice is one stream with two owners.
    let again = peer.call(&format!("publish name=r channel={IPC} stream=10"));
    assert_eq!((&again["session"], &again["original"]), (&first["session"], &first["original"]));
    assert_ne!(again["registration"], first["registration"]);
    peer.call("images name=s count=2");
    // A cancelled command leaves no resource, whether or not the driver had answered.
    for channel in [IPC.to_owned(), format!("aeron:udp?endpoint=127.0.0.1:{}", free_port())] {
        peer.call(&format!("publish-async name=g channel={channel} stream=11"));
        peer.call("cancel name=g");
    }
    // The refusal of an asynchronous command is returned by its poll.
    peer.call("publish-async name=g channel=aeron:udp?endpoint=127.0.0.1:0 stream=11");
    let refused = peer.refused("await name=g");
    assert_eq!(refused["code"], 1, "{refused}");
    for name in ["p", "q", "r"] {
        peer.call(&format!("close name={name}"));
    }
    peer.call("images name=s count=0");
    peer.call("close name=s");
    // Only the driver's counters and the heartbeat are left.
    until("the return of all counters", || {
        let all = counters(&mut peer);
        let mut kinds = all.iter().map(|counter| counter["type"].as_i64().unwrap());
        kinds.all(|kind| kind == 0 || kind == CLIENT_HEARTBEAT).then_some(())
    });
    assert_eq!(peer.exit(), "");
    driver.stop();
}

#[test]
fn claims_are_committed_aborted_and_left() {
    if !Kind::C.is_available() {
        return;
    }
    let driver =
        OurDriver::start(&["aeron.client.liveness.timeout=20s", "aeron.publication.unblock.timeout=21s"]);
    let mut peer = Kind::C.client(&driver.directory);
    let mut client = Client::connect(&driver.directory);
    for (stream, exclusive) in [(10, true), (11, false)] {
        let mut subscription = client.subscription(IPC, stream);
        peer.call_beside(
            &mut client,
            &format!("publish name=p channel={IPC} stream={stream} exclusive={exclusive}"),
        );
        peer.call_beside(&mut client, "connected name=p");
        let send = peer.begin("send name=p length=500 count=400 claim=true");
        client.receive(&mut subscription, 0..400, 500);
        peer.finish_beside(send, &mut client);
        // An aborted claim becomes padding, which readers skip.
        let before = peer.call_beside(&mut client, "send name=p length=500 count=1 claim=true")["position"]
            .as_i64()
            .unwrap();
        let after = peer.call_beside(&mut client, "abort name=p length=500")["position"].as_i64().unwrap();
        assert!(after >= before + 544, "{before} {after}");
        peer.call_beside(&mut client, "send name=p length=500 count=1 from=1 claim=true");
        client.receive(&mut subscription, 0..2, 500);
        // The driver unblocks a claim that its owner abandoned on a shared publication.
        if !exclusive {
            peer.call_beside(&mut client, "hang name=p length=200");
            peer.call_beside(&mut client, "send name=p length=500 count=3 from=2");
            client.receive(&mut subscription, 2..5, 500);
            // The driver updates the counter after the action.
            client.until("the count", |aeron| {
                (aeron.counters().value(UNBLOCKED_PUBLICATIONS) == 1).then_some(())
            });
        }
        peer.call_beside(&mut client, "close name=p");
    }
    assert_eq!(peer.exit(), "");
    driver.stop();
}

#[test]
fn counters_session_ids_and_handlers_work_as_on_the_released_driver() {
    if !Kind::C.is_available() {
        return;
    }
    let driver = OurDriver::start(&[]);
    let mut first = Kind::C.client(&driver.directory);
    let mut second = Kind::C.client(&driver.directory);
    // A counter is freed with its client. A static counter stays and is found again when added again.
    let counter = first.call("counter type=1001 label=mine value=7");
    let fixed = first.call("static-counter type=1002 label=fixed registration=77 value=5");
    let counter_event =
        |event: &str, reply: &Value| format!("{event} {} {}", reply["counter"], reply["registration"]);
    for peer in [&mut first, &mut second] {
        until_told(peer, &counter_event("counter", &counter));
    }
    let value = |peer: &mut Peer, label: &str| {
        let all = counters(peer);
        all.iter().find(|counter| counter["label"] == label).map(|counter| counter["value"].as_i64().unwrap())
    };
    assert_eq!((value(&mut second, "mine"), value(&mut second, "fixed")), (Some(7), Some(5)));
    let found = second.call("static-counter type=1002 label=fixed registration=77");
    assert_eq!((&found["counter"], &found["registration"]), (&fixed["counter"], &77.into()));
    let refused = second.refused("static-counter type=1001 label=other registration=");
    assert!(refused["error"].as_str().unwrap().contains("registration"), "{refused}");

    // Session ids without a stream.
    let ids: Vec<_> =
        (0..3).map(|_| second.call("next-session stream=10")["session"].as_i64().unwrap()).collect();
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
    let published =
        second.call(&format!("publish name=p channel={IPC}|session-id={} stream=10 exclusive=true", ids[2]));
    assert_eq!(published["session"], ids[2]);

    // Handlers of added resources and of images.
    first.call(&format!("subscribe name=s channel={IPC} stream=10"));
    until_told(&mut first, &format!("subscription {IPC} 10"));
    until_told(&mut second, &format!("exclusive-publication {IPC}|session-id={} 10 {}", ids[2], ids[2]));
    until_told(&mut first, &format!("image {}", ids[2]));
    second.call("close name=p");
    until_told(&mut first, &format!("image-gone {}", ids[2]));

    // The counter is freed with its client.
    assert_eq!(first.exit(), "");
    until_told(&mut second, &counter_event("counter-gone", &counter));
    until("the end of the counter", || value(&mut second, "mine").is_none().then_some(()));
    assert_eq!(value(&mut second, "fixed"), Some(5));
    assert!(!events(&mut second).contains(&counter_event("counter-gone", &fixed)));
    assert_eq!(second.exit(), "");
    driver.stop();
}

/// A client with a short driver timeout.
fn impatient(aeron: &std::path::Path) -> Peer {
    let mut command = c::peer(aeron, None, &[]);
    command.env("PEERTEST_DRIVER_TIMEOUT_MS", "20000");
    Peer::start(Kind::C, &mut command)
}

#[test]
fn a_driver_that_is_killed_and_comes_back_is_a_time_out_to_the_client() {
    if !Kind::C.is_available() {
        return;
    }
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let start = || {
        let mut command: Command = harrier_driver();
        command.arg("--ready").arg(format!("-Daeron.dir={}", aeron.display()));
        command.args(["-Daeron.threading.mode=SHARED", "-Daeron.shared.idle.strategy=backoff"]);
        command.args(["-Daeron.dir.delete.on.start=true", "-Daeron.term.buffer.sparse.file=true"]);
        let mut process = Process::start("harrier-driver", &mut command);
        assert!(process.line().starts_with("{\"ready\":true"));
        process
    };
    let mut driver = start();
    let mut peer = impatient(&aeron);
    peer.call(&format!("subscribe name=s channel={IPC} stream=10"));
    peer.call(&format!("publish name=p channel={IPC} stream=10"));
    peer.call("connected name=p");
    peer.call("send name=p length=100 count=5");
    driver.kill();
    let mut driver = start();
    // The old file has no more updates, so the client counts as closed and is unusable.
    until("the time-out", || (peer.call("state")["closed"] == true).then_some(()));
    until_told(&mut peer, "error 1000");
    let refused = peer.refused(&format!("publish name=q channel={IPC} stream=11"));
    assert!(refused["error"].as_str().unwrap().contains(Kind::C.closed_client()), "{refused}");
    let errors = peer.exit();
    assert!(errors.contains("1000: MediaDriver keepalive: age="), "{errors}");
    // The restarted driver serves a new client.
    let mut next = Kind::C.client(&aeron);
    next.call(&format!("subscribe name=s channel={IPC} stream=10"));
    next.call(&format!("publish name=p channel={IPC} stream=10"));
    next.call("send name=p length=100 count=5");
    next.call("receive name=s length=100 count=5");
    assert_eq!(next.exit(), "");
    driver.signal("TERM");
    assert_eq!(driver.wait().code(), Some(15));
}
