//! Our driver in place of the one of Aeron's system tests: their environment, a released client through a stream, a
//! rejection and the shutdown (spec 02 §6.5).

use std::process::Command;

use harrier::client::{Context, request_driver_termination};
use harrier::platform::{MappedMemory, SystemClock};
use harrier::ringbuf::Clock;

use crate::peers::peer::{Kind, Peer, with_each_peer};
use crate::support::binaries::{harrier, harrier_driver};
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};

with_each_peer!(
    our_driver_serves_as_the_released_system_tests_start_it,
    a_new_client_works_behind_a_restart_while_old_ones_time_out,
);

/// Environment that the harness sets besides the directory.
const ENVIRONMENT: &[(&str, &str)] = &[
    ("AERON_CLIENT_LIVENESS_TIMEOUT", "10000000000"),
    ("AERON_IMAGE_LIVENESS_TIMEOUT", "10000000000"),
    ("AERON_DRIVER_TERMINATION_VALIDATOR", "allow"),
    ("AERON_DIR_DELETE_ON_START", "true"),
    ("AERON_DIR_DELETE_ON_SHUTDOWN", "true"),
    ("AERON_TERM_BUFFER_SPARSE_FILE", "true"),
    ("AERON_TERM_BUFFER_LENGTH", "65536"),
    ("AERON_IPC_TERM_BUFFER_LENGTH", "65536"),
    ("AERON_FILE_PAGE_SIZE", "4096"),
    ("AERON_PUBLICATION_UNBLOCK_TIMEOUT", "15000000000"),
    ("AERON_PUBLICATION_CONNECTION_TIMEOUT", "5000000000"),
    ("AERON_PUBLICATION_LINGER_TIMEOUT", "200000000"),
    ("AERON_SPIES_SIMULATE_CONNECTION", "false"),
    ("AERON_RCV_STATUS_MESSAGE_TIMEOUT", "200000000"),
    ("AERON_PERFORM_STORAGE_CHECKS", "true"),
    ("AERON_THREADING_MODE", "SHARED"),
    ("AERON_TIMER_INTERVAL", "100000000"),
    ("AERON_UNTETHERED_WINDOW_LIMIT_TIMEOUT", "5000000000"),
    ("AERON_UNTETHERED_LINGER_TIMEOUT", "5000000000"),
    ("AERON_UNTETHERED_RESTING_TIMEOUT", "10000000000"),
    ("AERON_RECEIVER_GROUP_TAG", "-1"),
    ("AERON_FLOW_CONTROL_GROUP_TAG", "-1"),
    ("AERON_FLOW_CONTROL_GROUP_MIN_SIZE", "0"),
    ("AERON_PRINT_CONFIGURATION", "true"),
    ("AERON_DRIVER_RESOLVER_NAME", ""),
    ("AERON_DRIVER_RESOLVER_INTERFACE", ""),
    ("AERON_DRIVER_RESOLVER_BOOTSTRAP_NEIGHBOR", ""),
    ("AERON_NAME_RESOLVER_SUPPLIER", "csv_table"),
    ("AERON_NAME_RESOLVER_INIT_ARGS", "moving:9,127.0.0.1:9,127.0.0.2:9"),
    ("AERON_SOCKET_SO_RCVBUF", "131072"),
    ("AERON_SOCKET_SO_SNDBUF", "0"),
    ("AERON_RCV_INITIAL_WINDOW_LENGTH", "131072"),
    ("AERON_DRIVER_CONDUCTOR_CYCLE_THRESHOLD", "1000000000"),
    ("AERON_DRIVER_SENDER_CYCLE_THRESHOLD", "1000000000"),
    ("AERON_DRIVER_RECEIVER_CYCLE_THRESHOLD", "1000000000"),
    ("AERON_DRIVER_NAME_RESOLVER_THRESHOLD", "5000000000"),
    ("AERON_DRIVER_ASYNC_EXECUTOR_ENABLED", "true"),
    ("AERON_SENDER_WILDCARD_PORT_RANGE", "0 0"),
    ("AERON_RECEIVER_WILDCARD_PORT_RANGE", "0 0"),
    ("AERON_ENABLE_EXPERIMENTAL_FEATURES", "false"),
    ("AERON_DRIVER_STREAM_SESSION_LIMIT", "2147483647"),
    ("AERON_EVENT_LOG", "admin"),
    ("AERON_EVENT_LOG_DISABLE", ""),
    ("AERON_UNICAST_FLOWCONTROL_SUPPLIER", "aeron_unicast_flow_control_strategy_supplier"),
    ("AERON_MULTICAST_FLOWCONTROL_SUPPLIER", "aeron_max_multicast_flow_control_strategy_supplier"),
    ("AERON_NAK_UNICAST_DELAY", "0"),
    ("AERON_UDP_CHANNEL_INCOMING_INTERCEPTORS", "fixed-loss"),
    ("AERON_UDP_CHANNEL_TRANSPORT_BINDINGS_FIXED_LOSS_ARGS", "term-id=7|term-offset=1056|length=2112"),
];

fn errors_of(aeron: &std::path::Path) -> String {
    Process::run("harrier errors", harrier().args(["errors", "--json", "--aeron-dir"]).arg(aeron)).0
}

fn driver_command(aeron: &std::path::Path) -> Command {
    let mut command = harrier_driver();
    command.env("AERON_DIR", aeron).envs(ENVIRONMENT.iter().copied());
    command
}

fn our_driver_serves_as_the_released_system_tests_start_it(kind: Kind) {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    for by_signal in [false, true] {
        let mut driver = Process::start("harrier-driver", &mut driver_command(&aeron));
        assert_eq!(driver.line(), "aeron_driver_context_t {");
        while driver.line() != "}" {}
        let mut watch = Client::connect(&aeron);
        let mut peer = kind.client(&aeron);
        let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
        peer.call_beside(&mut watch, &format!("subscribe name=s channel={channel} stream=10"));
        let first = "init-term-id=7|term-id=7|term-offset=0";
        let publish = format!("publish name=p channel={channel}|{first} stream=10 exclusive=true");
        peer.call_beside(&mut watch, &publish);
        peer.call_beside(&mut watch, "connected name=p");
        let receive = peer.begin("receive name=s length=1024 count=200");
        peer.call_beside(&mut watch, "send name=p length=1024 count=200");
        peer.finish_beside(receive, &mut watch);
        for refused in ["aeron:udp?endpoint=127.0.0.1:0", "aeron:udp?endpoint=nohost.invalid:9"] {
            let reply = peer.refused(&format!("publish name=q channel={refused} stream=11"));
            let text = reply["error"].as_str().unwrap();
            assert!(text.contains("port=0") || text.contains("Unable to resolve host"), "{text}");
        }
        peer.call_beside(&mut watch, "close name=p");
        peer.call_beside(&mut watch, "close name=s");
        watch.until("the end of all channels", |aeron| {
            let mut channels = 0;
            aeron.counters().for_each(&mut |_, kind, _, _| channels += usize::from([6, 7].contains(&kind)));
            (channels == 0).then_some(())
        });
        // The error log holds only the provoked errors.
        let errors: serde_json::Value = serde_json::from_str(&errors_of(&aeron)).unwrap();
        for error in errors["errors"].as_array().unwrap() {
            let text = error["text"].as_str().unwrap();
            assert!(text.contains("port=0") || text.contains("Unable to resolve host"), "{text}");
        }
        assert_eq!(peer.exit(), "");
        if by_signal {
            driver.signal("TERM");
        } else {
            request_driver_termination(&Context::new(&aeron), &MappedMemory, b"", &SystemClock.now())
                .unwrap();
        }
        drop(watch);
        assert_eq!(driver.wait().code(), Some(if by_signal { 15 } else { 0 }));
        assert_eq!(driver.errors(), "");
        assert_eq!(driver.last_lines(), ["Shutting down driver..."]);
        assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is left in shared memory");
    }
}

fn a_new_client_works_behind_a_restart_while_old_ones_time_out(kind: Kind) {
    for dies in [true, false] {
        let home = directory("driver");
        let aeron = home.path().join("aeron");
        let start = || {
            let mut command = harrier_driver();
            command.env("AERON_DIR", &aeron).env("AERON_THREADING_MODE", "SHARED").arg("--ready");
            let mut driver = Process::start("harrier-driver", &mut command);
            let line = driver.line();
            assert!(line.starts_with("{\"ready\":true"), "{line}");
            driver
        };
        let stream = |peer: &mut Peer| {
            peer.call("subscribe name=s channel=aeron:ipc?term-length=64k stream=10");
            peer.call("publish name=p channel=aeron:ipc?term-length=64k stream=10");
            peer.call("send name=p length=100 count=10");
            peer.call("receive name=s length=100 count=10");
        };
        let mut driver = start();
        let mut old = kind.client_with(&aeron, &["peertest.driver.timeout.ms=20000"]);
        stream(&mut old);
        if dies {
            driver.kill();
        } else {
            driver.signal("TERM");
            assert_eq!(driver.wait().code(), Some(15));
        }
        let mut driver = start();
        // The old client waits for its driver timeout; other clients need not wait.
        let mut new = kind.client(&aeron);
        stream(&mut new);
        until("the end of the old client", || old.errors().contains(kind.driver_timeout()).then_some(()));
        let refused = old.refused("publish name=q channel=aeron:ipc?term-length=64k stream=11");
        assert!(refused["error"].as_str().unwrap().contains(kind.closed_client()), "{refused}");
        // Closing the old client does not affect the new driver.
        new.call("send name=p length=100 from=10 count=10");
        new.call("receive name=s length=100 from=10 count=10");
        assert_eq!(new.exit(), "");
        let errors: serde_json::Value = serde_json::from_str(&errors_of(&aeron)).unwrap();
        assert_eq!(errors["errors"], serde_json::json!([]));
        driver.signal("TERM");
        assert_eq!(driver.wait().code(), Some(15));
        assert_eq!(
            (driver.errors().as_str(), driver.last_lines()),
            ("", vec!["Shutting down driver...".into()])
        );
    }
}
