//! Externally visible effects of settings.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use harrier::client::ClientError;

use super::{error_log, start, stop};
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};

type Check = fn(&Process, &Path, &mut Client);

/// Length and allocated bytes of the only log of a publication.
fn only_log(aeron: &Path) -> (u64, u64) {
    let mut logs = std::fs::read_dir(aeron.join("publications")).unwrap().map(|entry| entry.unwrap());
    let log = logs.next().expect("a log").metadata().unwrap();
    assert!(logs.next().is_none(), "one log");
    (log.len(), log.blocks() * 512)
}

/// Names of the threads with their permitted cores.
fn threads(driver: &Process) -> Vec<(String, String)> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", driver.id())).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("status")).ok())
        .map(|status| {
            let value = |key: &str| {
                let line = status.lines().find(|line| line.starts_with(key)).unwrap();
                line.split_once(':').unwrap().1.trim().to_owned()
            };
            (value("Name:"), value("Cpus_allowed_list:"))
        })
        .collect()
}

fn has_thread(driver: &Process, name: &str) -> bool {
    threads(driver).iter().any(|(thread, _)| thread == name)
}

/// Waits until a thread exists and is bound to the first core.
fn is_pinned(driver: &Process, name: &str) {
    until("a pinned thread", || {
        threads(driver).iter().any(|(thread, cores)| thread.starts_with(name) && cores == "0").then_some(())
    });
}

/// Sockets of the system that are connected to a port.
fn connected_to(port: u16) -> usize {
    let table = std::fs::read_to_string("/proc/net/udp").unwrap();
    let remote = format!(":{port:04X}");
    table
        .lines()
        .filter(|line| line.split_whitespace().nth(2).is_some_and(|to| to.ends_with(&remote)))
        .count()
}

fn stream(client: &mut Client, channel: &str) {
    let mut subscription = client.subscription(channel, 10);
    let mut publication = client.exclusive(&format!("{channel}|term-length=64k"), 10);
    for from in (0..200).step_by(20) {
        client.send(&mut publication, from..from + 20, 500);
        client.receive(&mut subscription, from..from + 20, 500);
    }
}

fn udp() -> String {
    format!("aeron:udp?endpoint=127.0.0.1:{}", free_port())
}

fn refusal(client: &mut Client, channel: &str) -> String {
    match client.try_exclusive(channel, 10) {
        Err(ClientError::Registration { message, .. }) => message,
        other => panic!("{channel}: {other:?}"),
    }
}

fn label(client: &Client, id: i32) -> String {
    client.counters().into_iter().find(|counter| counter.0 == id).expect("the counter").3
}

/// Settings and their visible effects.
const ROWS: &[(&[(&str, &str)], Check)] = &[
    (&[("AERON_TERM_BUFFER_LENGTH", "128k")], |_, _, client| {
        assert_eq!(client.exclusive(&udp(), 10).term_buffer_length(), 128 << 10);
    }),
    (&[("AERON_IPC_TERM_BUFFER_LENGTH", "256k"), ("AERON_FILE_PAGE_SIZE", "64k")], |_, aeron, client| {
        let _publication = client.exclusive("aeron:ipc", 10);
        assert_eq!(only_log(aeron).0, (3 * (256 << 10) + 4_096_u64).next_multiple_of(64 << 10));
    }),
    (&[("AERON_TERM_BUFFER_SPARSE_FILE", "true")], |_, aeron, client| {
        let _publication = client.exclusive("aeron:ipc?term-length=4m", 10);
        let (length, allocated) = only_log(aeron);
        assert!(allocated < length / 2, "{allocated} of {length}");
    }),
    (&[("AERON_TERM_BUFFER_SPARSE_FILE", "false")], |_, aeron, client| {
        let _publication = client.exclusive("aeron:ipc?term-length=4m", 10);
        let (length, allocated) = only_log(aeron);
        assert!(allocated >= length, "{allocated} of {length}");
    }),
    (&[("AERON_MTU_LENGTH", "4k"), ("AERON_IPC_MTU_LENGTH", "2k")], |_, _, client| {
        assert_eq!(client.exclusive(&udp(), 10).max_payload_length(), 4_096 - 32);
        assert_eq!(client.exclusive("aeron:ipc?term-length=64k", 10).max_payload_length(), 2_048 - 32);
    }),
    (&[("AERON_LOW_FILE_STORE_WARNING_THRESHOLD", "1000000g")], |_, aeron, client| {
        drop(client.publication("aeron:ipc?term-length=64k", 10));
        let log = error_log(aeron);
        let text = "space is running low: threshold=1073741824000000 usable=";
        assert!(log.len() == 1 && log[0].contains("WARN") && log[0].contains(text), "{log:?}");
    }),
    (
        &[("AERON_LOW_FILE_STORE_WARNING_THRESHOLD", "1000000g"), ("AERON_PERFORM_STORAGE_CHECKS", "false")],
        |_, aeron, client| {
            drop(client.publication("aeron:ipc?term-length=64k", 10));
            assert_eq!(error_log(aeron), Vec::<String>::new());
        },
    ),
    (&[("AERON_DRIVER_STREAM_SESSION_LIMIT", "1")], |_, aeron, client| {
        let channel = udp();
        let _subscription = client.subscription(&channel, 10);
        let _publications = [client.exclusive(&channel, 10), client.exclusive(&channel, 10)];
        client.until("the refusal of the second session", |_| {
            let log = error_log(aeron);
            log.iter().any(|text| text.contains("exceeded session limit, stream-id=10")).then_some(())
        });
    }),
    (
        &[
            ("AERON_PUBLICATION_RESERVED_SESSION_ID_LOW", "-2147483648"),
            ("AERON_PUBLICATION_RESERVED_SESSION_ID_HIGH", "-2"),
        ],
        |_, _, client| {
            for _ in 0..20 {
                assert!(client.exclusive("aeron:ipc?term-length=64k", 10).session_id() > -2);
            }
        },
    ),
    (&[("AERON_DRIVER_CONNECT", "true")], |_, _, client| {
        let port = free_port();
        let _publication = client.exclusive(&format!("aeron:udp?endpoint=127.0.0.1:{port}"), 10);
        assert_eq!(connected_to(port), 1);
    }),
    (&[("AERON_DRIVER_CONNECT", "false")], |_, _, client| {
        let port = free_port();
        let _publication = client.exclusive(&format!("aeron:udp?endpoint=127.0.0.1:{port}"), 10);
        assert_eq!(connected_to(port), 0);
    }),
    (
        &[
            ("AERON_RECEIVER_IO_VECTOR_CAPACITY", "1"),
            ("AERON_SENDER_IO_VECTOR_CAPACITY", "1"),
            ("AERON_NETWORK_PUBLICATION_MAX_MESSAGES_PER_SEND", "1"),
            ("AERON_SEND_TO_STATUS_POLL_RATIO", "1"),
            ("AERON_DRIVER_RESOURCE_FREE_LIMIT", "1"),
        ],
        |_, _, client| stream(client, &udp()),
    ),
    (
        &[
            ("AERON_RECEIVER_IO_VECTOR_CAPACITY", "16"),
            ("AERON_SENDER_IO_VECTOR_CAPACITY", "16"),
            ("AERON_NETWORK_PUBLICATION_MAX_MESSAGES_PER_SEND", "16"),
            ("AERON_SEND_TO_STATUS_POLL_RATIO", "1000"),
            ("HARRIER_DRIVER_UDP_SEGMENTATION", "off"),
        ],
        |_, _, client| stream(client, &udp()),
    ),
    (
        &[
            ("AERON_DRIVER_CONDUCTOR_CYCLE_THRESHOLD", "7s"),
            ("AERON_DRIVER_SENDER_CYCLE_THRESHOLD", "8s"),
            ("AERON_DRIVER_RECEIVER_CYCLE_THRESHOLD", "9s"),
            ("AERON_DRIVER_NAME_RESOLVER_THRESHOLD", "11s"),
        ],
        |_, _, client| {
            for (id, time) in [(27, "7s"), (29, "8s"), (31, "9s"), (33, "11s")] {
                let label = label(client, id);
                assert!(label.contains(time), "{label}");
            }
        },
    ),
    (&[("AERON_THREADING_MODE", "DEDICATED"), ("AERON_CONDUCTOR_CPU_AFFINITY", "0")], |driver, _, _| {
        // The system truncates thread names to 15 characters.
        for name in ["driver-conducto", "sender", "receiver", "aeron-executor"] {
            until(name, || has_thread(driver, name).then_some(()));
        }
        is_pinned(driver, "driver-conducto");
    }),
    (&[("AERON_THREADING_MODE", "SHARED_NETWORK"), ("AERON_SENDER_CPU_AFFINITY", "0")], |driver, _, _| {
        is_pinned(driver, "[sender,");
        until("the conductor", || has_thread(driver, "driver-conducto").then_some(()));
        assert!(!has_thread(driver, "sender"));
    }),
    (&[("AERON_CONDUCTOR_CPU_AFFINITY", "255")], |_, aeron, client| {
        client.until("the warning", |_| {
            error_log(aeron).iter().any(|text| text.starts_with("WARNING")).then_some(())
        });
    }),
    (&[("AERON_DRIVER_ASYNC_EXECUTOR_ENABLED", "false")], |driver, _, client| {
        assert!(!has_thread(driver, "aeron-executor"), "{:?}", threads(driver));
        stream(client, &udp());
    }),
    (&[("AERON_THREADING_MODE", "INVOKER")], |driver, _, client| {
        assert!(!has_thread(driver, "aeron-executor"), "{:?}", threads(driver));
        stream(client, &udp());
    }),
    (
        &[
            ("AERON_NAME_RESOLVER_SUPPLIER", "csv_table"),
            (
                "AERON_NAME_RESOLVER_INIT_ARGS",
                "moving:9,127.0.0.1:9,127.0.0.2:9|other:9,127.0.0.3:9,127.0.0.4:9",
            ),
        ],
        |_, _, client| {
            let rows: Vec<_> = client.counters().into_iter().filter(|counter| counter.1 == 2_001).collect();
            assert_eq!(rows.len(), 2, "{rows:?}");
            drop(client.exclusive("aeron:udp?endpoint=moving:9", 10));
            let text = refusal(client, "aeron:udp?endpoint=unknown.invalid:9");
            assert!(text.contains("Unable to resolve host=(unknown.invalid"), "{text}");
        },
    ),
];

#[test]
fn what_settings_change_is_seen() {
    for (variables, check) in ROWS {
        eprintln!("{variables:?}");
        let home = directory("driver");
        let aeron = home.path().join("aeron");
        let (driver, mut client) = start(&aeron, variables);
        check(&driver, &aeron, &mut client);
        drop(client);
        stop(driver);
    }
}

#[test]
fn wildcard_ports_are_of_the_range_until_there_is_none() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let low = free_port() & !1;
    let range = format!("{low} {}", low + 1);
    let variables = [("AERON_RECEIVER_WILDCARD_PORT_RANGE", range.as_str())];
    let (driver, mut client) = start(&aeron, &variables);
    let mut held = Vec::new();
    let refused = loop {
        let id = client.aeron.add_subscription("aeron:udp?endpoint=127.0.0.1:0", 10).unwrap();
        match client.until("the subscription", |aeron| aeron.subscription(id).transpose()) {
            Ok(subscription) => held.push(subscription),
            Err(error) => break error.to_string(),
        }
        assert!(held.len() <= 2, "two ports");
    };
    assert!(refused.contains(&format!("no available ports in range {range}")), "{refused}");
    for subscription in &held {
        let channel = client.resolved(subscription);
        let port: u16 = channel.rsplit(':').next().unwrap().parse().unwrap();
        assert!((low..=low + 1).contains(&port), "{channel}");
    }
    drop((held, client));
    stop(driver);
}
