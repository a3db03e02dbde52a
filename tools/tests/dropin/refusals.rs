//! Words and codes of errors that Aeron's system tests check, through the binary (spec 02 §6.5). Each refusal is an
//! error of its client and an entry of the error log with the same text.

use std::net::UdpSocket;
use std::path::Path;

use harrier::client::ClientError;
use harrier::protocol::command::{Command, Request};
use harrier::protocol::event::Event;

use super::{Files, error_log, start, stop};
use crate::support::binaries::harrier;
use crate::support::client::Client;
use crate::support::ports::free_port;
use crate::support::process::Process;
use crate::support::{directory, until};

const STREAM: i32 = 10;
const INVALID_CHANNEL: (i32, &str) = (1, "(-1) invalid channel\n");
const UNKNOWN_HOST: (i32, &str) = (9, "(-9) unknown host\n");
const TEMPORARILY: (i32, &str) = (10, "(-10) resource temporarily unavailable\n");
const GENERIC: (i32, &str) = (11, "(-11) generic error, see message\n");
const BUSY: (i32, &str) = (11, "(98) Address already in use\n");
const RESPONSE_ID: &str =
    "invalid response-correlation-id, must be a number greater than or equal to -1, or 'prototype'";

/// Last command of a case.
#[derive(Debug, Clone, Copy)]
enum Add {
    Publication,
    Subscription,
    /// A destination of a publication.
    Destination,
    /// A destination of a subscription.
    ReceiveDestination,
}
use Add::{Destination, Publication, ReceiveDestination, Subscription};

/// (existing streams, added stream, its channel, code and head, words). `P` and `Q` are free ports, `B` is a busy one.
type Row = (&'static str, Add, &'static str, (i32, &'static str), &'static str);
const ROWS: &[Row] = &[
    ("", Publication, "foo:udp", INVALID_CHANNEL, "Aeron URIs must start with"),
    ("", Publication, "aeron:tcp?endpoint=127.0.0.1:P", INVALID_CHANNEL, "aeron:tcp?endpoint="),
    (
        "",
        Publication,
        "aeron:udp?endpoint=127.0.0.1:P|response-correlation-id=abc",
        INVALID_CHANNEL,
        RESPONSE_ID,
    ),
    (
        "",
        Publication,
        "aeron:udp?endpoint=127.0.0.1:P|response-correlation-id=99",
        GENERIC,
        "unable to find response subscription for response-correlation-id=99",
    ),
    (
        "",
        Publication,
        "aeron:udp?control=127.0.0.1:P|control-mode=response",
        GENERIC,
        "control-mode=response was specified, but no response-correlation-id set",
    ),
    (
        "",
        Publication,
        "aeron:udp?control=127.0.0.1:P|control-mode=response|response-correlation-id=77",
        GENERIC,
        "image.correlationId=77 not found",
    ),
    (
        "aeron:udp?endpoint=127.0.0.1:P|tags=7",
        Publication,
        "aeron:udp?endpoint=127.0.0.1:Q|tags=7",
        GENERIC,
        "has mismatched endpoint or control",
    ),
    (
        "sub aeron:udp?endpoint=127.0.0.1:P",
        Subscription,
        "aeron:udp?endpoint=127.0.0.1:P|reliable=false",
        GENERIC,
        "option conflicts with existing subscription",
    ),
    (
        "",
        Subscription,
        "aeron:udp?endpoint=224.20.30.39:24001|interface={does_not_exist}",
        GENERIC,
        "unknown interface does_not_exist",
    ),
    ("", Publication, "aeron:udp?endpoint=nohost.invalid:P", UNKNOWN_HOST, "Unable to resolve host"),
    ("", Subscription, "aeron:udp?endpoint=127.0.0.1:B", BUSY, "Address already in use"),
    (
        "",
        Destination,
        "aeron-spy:aeron:udp?endpoint=127.0.0.1:P",
        INVALID_CHANNEL,
        "spies are invalid as send destinations",
    ),
    (
        "",
        Destination,
        "aeron:udp?endpoint=127.0.0.1:P|mtu=2k",
        INVALID_CHANNEL,
        "must not contain the key: mtu",
    ),
    (
        "",
        Destination,
        "aeron:udp?endpoint=127.0.0.1:P|so-sndbuf=64k",
        INVALID_CHANNEL,
        "destinations must not contain the key: so-sndbuf",
    ),
    (
        "",
        Destination,
        "aeron:udp?endpoint=127.0.0.1:P|response-correlation-id=1",
        INVALID_CHANNEL,
        "destinations must not contain the key: response-correlation-id",
    ),
    (
        "",
        ReceiveDestination,
        "aeron:udp?endpoint=127.0.0.1:P|rcv-wnd=64k",
        INVALID_CHANNEL,
        "destinations must not contain the key: rcv-wnd",
    ),
    (
        "",
        ReceiveDestination,
        "aeron:udp?endpoint=127.0.0.1:P|so-rcvbuf=64k",
        INVALID_CHANNEL,
        "destinations must not contain the key: so-rcvbuf",
    ),
];

fn refusal<V: std::fmt::Debug>(outcome: Result<V, ClientError>) -> Option<(i32, String)> {
    match outcome {
        Ok(_) => None,
        Err(ClientError::Registration { code, message, .. }) => Some((code, message)),
        Err(error) => panic!("{error}"),
    }
}

fn subscribe(client: &mut Client, channel: &str) -> Result<harrier::client::Subscription, ClientError> {
    let id = client.aeron.add_subscription(channel, STREAM)?;
    client.until("the subscription", |aeron| aeron.subscription(id).transpose())
}

fn done(client: &mut Client, id: i64) -> Result<(), ClientError> {
    client.until("the answer", |aeron| match aeron.command_done(id) {
        Ok(is_done) => is_done.then_some(Ok(())),
        Err(error) => Some(Err(error)),
    })
}

fn add(client: &mut Client, what: Add, channel: &str) -> Option<(i32, String)> {
    const MANUAL: &str = "aeron:udp?control-mode=manual|term-length=64k";
    match what {
        Publication => refusal(client.try_exclusive(channel, STREAM)),
        Subscription => refusal(subscribe(client, channel)),
        Destination => {
            let publication = client.exclusive(MANUAL, STREAM);
            let id = client.aeron.add_destination(publication.registration_id(), channel).unwrap();
            refusal(done(client, id))
        }
        ReceiveDestination => {
            let subscription = client.subscription("aeron:udp?control-mode=manual", STREAM);
            let id = client.aeron.add_rcv_destination(subscription.registration_id(), channel).unwrap();
            refusal(done(client, id))
        }
    }
}

/// Observations and text of each entry of the error log.
fn entries(aeron: &Path) -> Vec<(i64, String)> {
    let arguments = ["errors", "--json", "--aeron-dir"];
    let (output, _) = Process::run("harrier errors", harrier().args(arguments).arg(aeron));
    let errors: serde_json::Value = serde_json::from_str(&output).unwrap();
    let list = errors["errors"].as_array().unwrap().iter();
    list.map(|one| (one["observations"].as_i64().unwrap(), one["text"].as_str().unwrap().to_owned()))
        .collect()
}

#[test]
fn refusals_have_the_words_that_system_tests_look_for() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (driver, mut client) = start(&aeron, &[("AERON_TERM_BUFFER_LENGTH", "64k")]);
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let busy = format!(":{}", holder.local_addr().unwrap().port());
    let mut expected = Vec::new();
    for (before, what, channel, (code, head), words) in ROWS {
        let (one, other) = (format!(":{}", free_port()), format!(":{}", free_port()));
        let with_ports = |text: &str| text.replace(":P", &one).replace(":Q", &other).replace(":B", &busy);
        let (before, channel) = (with_ports(before), with_ports(channel));
        let _publication = before.starts_with("aeron").then(|| client.exclusive(&before, STREAM));
        let _subscription = before.strip_prefix("sub ").map(|channel| client.subscription(channel, STREAM));
        match add(&mut client, *what, &channel) {
            Some((actual, message)) => {
                assert_eq!(actual, *code, "{channel}: {message}");
                assert!(message.starts_with(head) && message.contains(words), "{channel}: {message}");
                expected.push((1, message));
            }
            None => panic!("{channel} is not refused"),
        }
    }
    assert_eq!(entries(&aeron), expected, "the error log has what was provoked and nothing else");
    drop(client);
    stop(driver);
}

#[test]
fn a_channel_that_is_too_long_is_quoted_whole_or_as_far_as_the_setting_lets_an_event_go() {
    // (setting, longest event, least that is quoted)
    for (setting, longest, least) in [("", 8_192, 4_095), ("4096", 4_096, 3_800)] {
        quotes_a_long_channel(setting, longest, least);
    }
}

fn quotes_a_long_channel(setting: &str, longest: usize, least: usize) {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (driver, client) = start(&aeron, &[("HARRIER_DRIVER_EVENT_MAX_LENGTH", setting)]);
    let channel = format!("aeron:udp?endpoint=127.0.0.1:9|alias={}", "x".repeat(4_104));
    assert_eq!(channel.len(), 4_141);
    let start = "(-1) invalid channel\nURI length (4141) exceeds max supported length (4095): ";
    // Our client validates the channel itself, so the test writes the command into the ring.
    for channel in [channel.as_str(), &channel[..4_096].replace("127.0.0.1", "127.0.0.2")] {
        let start = start.replace("4141", &channel.len().to_string());
        let (code, message) = answer(&aeron, channel, longest);
        assert_eq!(code, 1, "{message}");
        let quoted = message.strip_prefix(&start).unwrap_or_else(|| panic!("{message}"));
        assert!(channel.starts_with(quoted) && quoted.len() >= least, "{}", quoted.len());
        let log = error_log(&aeron);
        let logged = log.last().unwrap().strip_prefix(&start).unwrap().to_owned();
        assert_eq!(logged, channel[..4_095], "the error log has all that may be quoted");
    }
    drop(client);
    stop(driver);
}

/// Code and text of the answer to a command with a channel of any length.
fn answer(aeron: &Path, channel: &str, longest: usize) -> (i32, String) {
    let mut files = Files::of(aeron);
    let correlation_id = files.ring.next_correlation_id();
    let request = Request::AddPublication { stream_id: STREAM, channel };
    let command = Command { client_id: correlation_id, correlation_id, request };
    let mut buffer = vec![0; 5_000];
    let length = command.encode(&mut buffer).unwrap();
    files.ring.write(command.type_id(), &buffer[..length]).unwrap();
    let mut found = None;
    until("the answer", || {
        files
            .events
            .receive(&mut |type_id, body| {
                assert!(body.len() + 8 <= longest, "an event of {} bytes", body.len());
                if let Ok(Event::Error { correlation_id: id, error_code, message }) =
                    Event::decode(type_id, body)
                    && id == correlation_id
                {
                    found = Some((error_code, message.to_owned()));
                }
            })
            .unwrap();
        found.take()
    })
}

#[test]
fn an_image_that_asked_for_no_response_gets_none() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let (driver, mut client) = start(&aeron, &[("AERON_TERM_BUFFER_LENGTH", "64k")]);
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
    let mut requests = client.subscription(&channel, STREAM);
    let publication = client.exclusive(&channel, STREAM);
    let image = client.until("the image", |_| requests.images().first().map(|image| image.correlation_id()));
    let answer = format!(
        "aeron:udp?control=127.0.0.1:{}|control-mode=response|response-correlation-id={image}",
        free_port()
    );
    let (code, message) = add(&mut client, Publication, &answer).unwrap();
    assert!(code == 11 && message.starts_with(GENERIC.1), "{message}");
    assert!(message.contains(&format!("image.correlationId={image} did not request a response channel")));
    assert_eq!(error_log(&aeron), [message]);
    drop((requests, publication, client));
    stop(driver);
}

#[test]
fn ports_of_a_range_that_is_used_up_are_refused() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    let low = free_port() & !1;
    let range = format!("{low} {}", low + 1);
    let (driver, mut client) = start(&aeron, &[("AERON_SENDER_WILDCARD_PORT_RANGE", &range)]);
    let channel = "aeron:udp?control=127.0.0.1:0|control-mode=dynamic|term-length=64k";
    let both = [client.exclusive(channel, STREAM), client.exclusive(channel, STREAM)];
    let (code, message) = add(&mut client, Publication, channel).unwrap();
    assert_eq!((code, message.as_str()), (11, &*format!("{}no available ports in range {range}", GENERIC.1)));
    drop((both, client));
    stop(driver);
}

#[test]
fn an_endpoint_that_is_closing_is_to_be_asked_for_again() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    // The receiver rarely polls its commands.
    let (driver, mut client) = start(
        &aeron,
        &[
            ("AERON_THREADING_MODE", "DEDICATED"),
            ("AERON_RECEIVER_IDLE_STRATEGY", "sleeping"),
            ("AERON_RECEIVER_IDLE_STRATEGY_INIT_ARGS", "500ms"),
        ],
    );
    let channel = format!("aeron:udp?endpoint=127.0.0.1:{}", free_port());
    let mut tries = 0;
    let (code, message) = loop {
        drop(client.subscription(&channel, STREAM));
        // Tells the driver of it.
        client.work();
        match subscribe(&mut client, &channel) {
            Ok(_) => tries += 1,
            outcome => break refusal(outcome).unwrap(),
        }
        assert!(tries < 50, "the endpoint is always closed in time");
    };
    assert_eq!(code, TEMPORARILY.0, "{message}");
    let words = "receive_channel_endpoint found in CLOSING state, please retry";
    assert_eq!(message, format!("{}{words}", TEMPORARILY.1));
    let again = until("the endpoint", || subscribe(&mut client, &channel).ok());
    drop((again, client));
    stop(driver);
}

#[test]
fn what_no_command_provoked_is_in_the_error_log_alone() {
    let home = directory("driver");
    let aeron = home.path().join("aeron");
    // Nobody may send to all hosts without asking for it.
    let neighbor = format!("255.255.255.255:{}", free_port());
    let (driver, mut client) = start(
        &aeron,
        &[
            ("AERON_TERM_BUFFER_LENGTH", "64k"),
            ("AERON_DRIVER_STREAM_SESSION_LIMIT", "1"),
            ("AERON_DRIVER_RESOLVER_NAME", "one"),
            ("AERON_DRIVER_RESOLVER_INTERFACE", "127.0.0.1:0"),
            ("AERON_DRIVER_RESOLVER_BOOTSTRAP_NEIGHBOR", &neighbor),
        ],
    );
    let [channel, narrow] =
        [free_port(), free_port()].map(|port| format!("aeron:udp?endpoint=127.0.0.1:{port}"));
    let subscriptions =
        [client.subscription(&channel, STREAM), client.subscription(&format!("{narrow}|rcv-wnd=2k"), STREAM)];
    let publications = [
        client.exclusive(&channel, STREAM),
        client.exclusive(&channel, STREAM),
        client.exclusive(&format!("{narrow}|mtu=4k"), STREAM),
    ];
    let words = [
        format!("Failed to send resolution frames to neighbor {neighbor}"),
        format!("exceeded session limit, stream-id={STREAM}"),
        "mtuLength=4096 > initialWindowLength=2048".to_owned(),
    ];
    client.until("all errors", |_| {
        let log = error_log(&aeron);
        words.iter().all(|words| log.iter().any(|text| text.contains(words))).then_some(())
    });
    let log = error_log(&aeron);
    assert_eq!(log.len(), words.len(), "{log:#?}");
    drop((publications, subscriptions, client));
    stop(driver);
}
