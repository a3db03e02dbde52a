//! Refusals of invalid channels: codes, and texts on which programs rely (spec 02 §5.4, §5.16, §6.5).

use crate::world::{World, free_address};
use harrier_client::ClientError;

/// The resource that is added with the channel under test.
#[derive(Debug, Clone, Copy)]
enum Add {
    /// A publication.
    Pub,
    /// An exclusive publication.
    Xpub,
    /// A subscription.
    Sub,
    /// A destination of a manual publication.
    Dest,
    /// A destination of a publication that takes none.
    PlainDest,
    /// A destination of a manual subscription.
    Rcv,
    /// A destination of a subscription that takes none.
    PlainRcv,
}

const INVALID_CHANNEL: i32 = 1;
const UNKNOWN_HOST: i32 = 9;
const GENERIC: i32 = 11;

/// (existing channel, added resource, its channel, code, part of the text). `P` is a free port, `Q` a busy one. Invalid
/// channels have code 1, as spec 01 §6.4 recommends, where the released driver replies 11.
const ROWS: &[(&str, Add, &str, i32, &str)] = &[
    ("", Add::Pub, "aeron:foo?endpoint=127.0.0.1:P", INVALID_CHANNEL, "invalid URI scheme or transport"),
    ("", Add::Pub, "foo:udp", INVALID_CHANNEL, "Aeron URIs must start with"),
    ("", Add::Pub, "aeron:udp", INVALID_CHANNEL, "invalid URI scheme or transport: aeron:udp"),
    ("", Add::Sub, "aeron:udp", INVALID_CHANNEL, "invalid URI scheme or transport: aeron:udp"),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:0",
        INVALID_CHANNEL,
        "endpoint has port=0 for publication: channel=aeron:udp?endpoint=127.0.0.1:0",
    ),
    ("", Add::Pub, "aeron:udp?endpoint=127.0.0.1", INVALID_CHANNEL, "port invalid: ''"),
    ("", Add::Pub, "aeron:udp?endpoint=nohost.invalid:P", UNKNOWN_HOST, "Unable to resolve host"),
    (
        "",
        Add::Pub,
        "aeron:udp?control-mode=dynamic",
        INVALID_CHANNEL,
        "explicit control expected with dynamic control mode",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?control=127.0.0.1:P",
        GENERIC,
        "'control' parameter requires that either 'endpoint' or 'control-mode' is specified, channel=",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|mtu=1000",
        INVALID_CHANNEL,
        "mtuLength must be a multiple of FRAME_ALIGNMENT: mtuLength=1000",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|mtu=65536",
        INVALID_CHANNEL,
        "<= MAX_UDP_PAYLOAD_LENGTH: mtuLength=65536",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|term-length=100000",
        INVALID_CHANNEL,
        "erm length not a power of 2: length=100000",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|term-length=32k",
        INVALID_CHANNEL,
        "less than min length of 65536: length=32768",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|term-length=2g",
        INVALID_CHANNEL,
        "greater than max length of 1073741824: length=2147483648",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|init-term-id=3",
        INVALID_CHANNEL,
        "params: init-term-id term-id term-offset must be used as a complete set",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|init-term-id=1|term-id=1|term-offset=5",
        INVALID_CHANNEL,
        "aram term-offset=5 must be multiple of FRAME_ALIGNMENT",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|init-term-id=5|term-id=1|term-offset=0",
        INVALID_CHANNEL,
        "difference greater than 2^31 - 1: init-term-id=5 when term-id=1",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|init-term-id=1|term-id=1|term-offset=131072|term-length=64k",
        INVALID_CHANNEL,
        "term-offset=131072 > term-length=65536",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|session-id=abc",
        INVALID_CHANNEL,
        "could not parse session-id=abc as int32_t in URI",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|session-id=tag:99",
        GENERIC,
        "session-id=tag:99 must reference a network publication",
    ),
    ("", Add::Pub, "aeron:udp?endpoint=127.0.0.1:P|tags=-1,-1", INVALID_CHANNEL, "-1"),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|max-resend=0",
        INVALID_CHANNEL,
        "invalid max-resend=0, must be > 0 and <= 256",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|max-resend=x",
        INVALID_CHANNEL,
        "could not parse max-resend=x in URI",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|pub-wnd=64",
        GENERIC,
        "pub-wnd=64 cannot be less than the mtu=1408",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|pub-wnd=64k|term-length=64k",
        INVALID_CHANNEL,
        "pub-wnd=65536 must not exceed half the term-length=65536",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|linger=abc",
        INVALID_CHANNEL,
        "could not parse linger=abc in URI",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|linger=-1",
        INVALID_CHANNEL,
        "could not parse linger=-1 in URI",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?control=127.0.0.1:P|control-mode=dynamic|fc=bogus",
        GENERIC,
        "nvalid flow control strategy name: bogus from ",
    ),
    (
        "aeron:udp?endpoint=127.0.0.1:P",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|so-sndbuf=1k",
        GENERIC,
        "so-sndbuf=1024 does not match existing value of OS default: existingChannel=",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|ats=true",
        GENERIC,
        "ATS is not enabled and thus ats=true not allowed: channel=",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=224.20.30.39:P|interface=10.99.99.99/24",
        GENERIC,
        "could not find matching interface=",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=224.20.30.39:24001|interface={does_not_exist}",
        GENERIC,
        "unknown interface does_not_exist",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|response-correlation-id=abc",
        INVALID_CHANNEL,
        "invalid response-correlation-id, must be a number greater than or equal to -1, or 'prototype'",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|response-correlation-id=123",
        GENERIC,
        "unable to find response subscription for response-correlation-id=123",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?control=127.0.0.1:P|control-mode=response",
        GENERIC,
        "control-mode=response was specified, but no response-correlation-id set",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?control=127.0.0.1:P|control-mode=response|response-correlation-id=77",
        GENERIC,
        "image.correlationId=77 not found",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?endpoint=224.10.9.8:24002",
        INVALID_CHANNEL,
        "ulticast data address must be odd",
    ),
    (
        "",
        Add::Sub,
        "aeron:udp?endpoint=224.10.9.8:24002",
        INVALID_CHANNEL,
        "ulticast data address must be odd",
    ),
    (
        "aeron:udp?endpoint=127.0.0.1:P|term-length=64k",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|term-length=128k",
        GENERIC,
        "existing publication has different 'term-length': existing=65536 requested=131072",
    ),
    (
        "aeron:udp?endpoint=127.0.0.1:P",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|mtu=2048",
        GENERIC,
        "existing publication has different 'mtu': existing=1408 requested=2048",
    ),
    (
        "aeron:udp?endpoint=127.0.0.1:P",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:P|ssc=true",
        GENERIC,
        "existing publication has different spies simulate connection: requested=true",
    ),
    (
        "aeron:udp?endpoint=127.0.0.1:P|session-id=55",
        Add::Xpub,
        "aeron:udp?endpoint=127.0.0.1:P|session-id=55",
        GENERIC,
        "pecified session-id is already in exclusive use for channel=",
    ),
    (
        "aeron:ipc?session-id=55",
        Add::Xpub,
        "aeron:ipc?session-id=55",
        GENERIC,
        "pecified session-id is already in exclusive use for channel=",
    ),
    (
        "",
        Add::Pub,
        "aeron:ipc?term-length=1000",
        INVALID_CHANNEL,
        "less than min length of 65536: length=1000",
    ),
    (
        "",
        Add::Pub,
        "aeron:ipc?mtu=100",
        INVALID_CHANNEL,
        "mtuLength must be a multiple of FRAME_ALIGNMENT: mtuLength=100",
    ),
    (
        "",
        Add::Pub,
        "aeron:udp?tags=77",
        GENERIC,
        "URI must have explicit control, endpoint, or be manual control-mode when original: channel=",
    ),
    (
        "aeron:udp?endpoint=127.0.0.1:P|tags=7",
        Add::Pub,
        "aeron:udp?endpoint=127.0.0.1:Q|tags=7",
        GENERIC,
        "has mismatched endpoint or control: ",
    ),
    (
        "",
        Add::Sub,
        "aeron:udp?control=127.0.0.1:0|control-mode=dynamic",
        INVALID_CHANNEL,
        "control has port=0 for subscription: channel=",
    ),
    (
        "",
        Add::Sub,
        "aeron:udp?endpoint=127.0.0.1:P|rcv-wnd=1g",
        GENERIC,
        "nitial window greater than SO_RCVBUF for channel: rcv-wnd=1073741824 so-rcvbuf=",
    ),
    (
        "",
        Add::Sub,
        "aeron:udp?endpoint=127.0.0.1:P|rcv-wnd=abc",
        INVALID_CHANNEL,
        "could not parse rcv-wnd=abc in URI",
    ),
    (
        "sub aeron:udp?endpoint=127.0.0.1:P",
        Add::Sub,
        "aeron:udp?endpoint=127.0.0.1:P|reliable=false",
        GENERIC,
        "option conflicts with existing subscription: reliable=false existingChannel=",
    ),
    (
        "sub aeron:udp?endpoint=127.0.0.1:P",
        Add::Sub,
        "aeron:udp?endpoint=127.0.0.1:P|rejoin=false",
        GENERIC,
        "option conflicts with existing subscription: rejoin=false existingChannel=",
    ),
    (
        "",
        Add::Sub,
        "aeron:udp?endpoint=127.0.0.1:P|gtag=x",
        INVALID_CHANNEL,
        "could not parse gtag=x as int64_t in URI",
    ),
    (
        "",
        Add::Sub,
        "aeron:udp?endpoint=127.0.0.1:P|channel-rcv-ts-offset=abc",
        INVALID_CHANNEL,
        "nvalid channel-rcv-ts-offset: abc",
    ),
    ("", Add::Sub, "aeron:udp?endpoint=192.0.2.1:P", GENERIC, "annot assign requested address"),
    ("", Add::Sub, "aeron:udp?endpoint=127.0.0.1:Q", GENERIC, "ddress already in use"),
    ("", Add::Sub, "aeron-spy:aeron:ipc", INVALID_CHANNEL, ""),
    (
        "",
        Add::Sub,
        "aeron:udp?endpoint=127.0.0.1:P|session-id=x",
        INVALID_CHANNEL,
        "could not parse session-id=x as int32_t in URI",
    ),
    (
        "",
        Add::Dest,
        "aeron:udp?endpoint=127.0.0.1:0",
        INVALID_CHANNEL,
        "endpoint has port=0 for send destination: channel=",
    ),
    ("", Add::Dest, "aeron:ipc", INVALID_CHANNEL, "incorrect URI format for destination: aeron:ipc"),
    (
        "",
        Add::Dest,
        "aeron-spy:aeron:udp?endpoint=127.0.0.1:P",
        INVALID_CHANNEL,
        "Aeron spies are invalid as send destinations: ",
    ),
    (
        "",
        Add::Dest,
        "aeron:udp?endpoint=127.0.0.1:P|mtu=2048",
        INVALID_CHANNEL,
        "destinations must not contain the key: mtu channel=",
    ),
    (
        "",
        Add::Dest,
        "aeron:udp?endpoint=127.0.0.1:P|control=127.0.0.1:Q|control-mode=response",
        INVALID_CHANNEL,
        "destinations may not specify control-mode=response",
    ),
    (
        "",
        Add::PlainDest,
        "aeron:udp?endpoint=127.0.0.1:P",
        GENERIC,
        "channel does not allow manual control of destinations: ",
    ),
    (
        "",
        Add::Rcv,
        "aeron:udp?endpoint=127.0.0.1:P|rcv-wnd=64k",
        INVALID_CHANNEL,
        "destinations must not contain the key: rcv-wnd channel=",
    ),
    (
        "",
        Add::PlainRcv,
        "aeron:udp?endpoint=127.0.0.1:P",
        INVALID_CHANNEL,
        "channel does not allow manual control",
    ),
];

const STREAM_ID: i32 = 1_001;

fn refusal<V: std::fmt::Debug>(outcome: Result<V, ClientError>) -> Option<(i32, String)> {
    match outcome {
        Err(ClientError::Registration { code, message, .. }) => Some((code, message)),
        _ => None,
    }
}

fn add(world: &mut World, add: Add, channel: &str, plain: &str) -> Option<(i32, String)> {
    match add {
        Add::Pub => refusal(world.publication(channel, STREAM_ID)),
        Add::Xpub => refusal(world.exclusive(channel, STREAM_ID)),
        Add::Sub => refusal(world.subscription(channel, STREAM_ID)),
        Add::Dest | Add::PlainDest => {
            let original = if matches!(add, Add::Dest) { "aeron:udp?control-mode=manual" } else { plain };
            let publication = world.publication(original, STREAM_ID).unwrap();
            let id = world.client.add_destination(publication.registration_id(), channel);
            refusal(world.done(id))
        }
        Add::Rcv | Add::PlainRcv => {
            let original = if matches!(add, Add::Rcv) { "aeron:udp?control-mode=manual" } else { plain };
            let subscription = world.subscription(original, STREAM_ID).unwrap();
            let id = world.client.add_rcv_destination(subscription.registration_id(), channel);
            refusal(world.done(id))
        }
    }
}

#[test]
fn channels_that_cannot_be_are_refused_with_code_and_words() {
    let mut world = World::new(|_| ());
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap().port().to_string();
    let mut differences = Vec::new();
    for (before, what, channel, code, text) in ROWS {
        // Each row has its own port, because endpoints linger.
        let free = free_address().port().to_string();
        let with_ports =
            |channel: &str| channel.replace(":P", &format!(":{free}")).replace(":Q", &format!(":{held}"));
        let (before, channel) = (with_ports(before), with_ports(channel));
        let plain = with_ports("aeron:udp?endpoint=127.0.0.1:P");
        let _publication =
            before.starts_with("aeron").then(|| world.publication(&before, STREAM_ID).unwrap());
        let _subscription =
            before.strip_prefix("sub ").map(|channel| world.subscription(channel, STREAM_ID).unwrap());
        match add(&mut world, *what, &channel, &plain) {
            Some((found, message)) if found == *code && message.contains(text) => {}
            other => differences.push(format!("{what:?} {channel}: wanted {code} {text:?}, got {other:?}")),
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {} rows:\n{}",
        differences.len(),
        ROWS.len(),
        differences.join("\n")
    );
}

/// The answer to a refusal by the system quotes the channel as the client wrote it (spec 02 §5.3).
#[test]
fn refusals_of_the_system_name_the_channel() {
    let mut world = World::new(|_| ());
    let holder = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let held = holder.local_addr().unwrap().port();
    let free = free_address().port();
    let busy = "ddress already in use";
    let unknown = "Unable to resolve host=(nohost.invalid)";
    let rows = [
        (Add::Pub, format!("aeron:udp?alias=a|control=127.0.0.1:{held}|control-mode=dynamic"), busy),
        (Add::Sub, format!("aeron:udp?alias=b|endpoint=127.0.0.1:{held}"), busy),
        (Add::Rcv, format!("aeron:udp?alias=c|endpoint=127.0.0.1:{held}"), busy),
        // The system refuses the broadcast address to sockets without SO_BROADCAST.
        (Add::Pub, format!("aeron:udp?alias=d|endpoint=255.255.255.255:{free}"), "ermission denied"),
        (Add::Pub, format!("aeron:udp?alias=e|endpoint=nohost.invalid:{free}"), unknown),
        (Add::Sub, format!("aeron:udp?alias=f|endpoint=nohost.invalid:{free}"), unknown),
        (Add::Rcv, format!("aeron:udp?alias=g|endpoint=nohost.invalid:{free}"), unknown),
        (
            Add::Sub,
            format!("aeron:udp?alias=h|endpoint=224.20.30.39:{free}|interface=10.99.99.99/32"),
            "could not find matching interface",
        ),
    ];
    for (what, channel, cause) in rows {
        let (_, message) = add(&mut world, what, &channel, "").unwrap_or_else(|| panic!("{channel}"));
        assert!(message.contains(cause) && message.contains(&channel), "{message}");
        let is_connect = channel.contains("255.255");
        assert_eq!(message.contains("failed to connect to 255.255.255.255"), is_connect, "{message}");
        assert!(!message.contains("failed to bind to 0.0.0.0:0"), "{message}");
    }
}

/// A channel without a buffer length has the driver's, so it equals a later one that names that length (spec 02 §2.11).
#[test]
fn buffer_lengths_are_compared_with_the_setting() {
    let mut world = World::new(|context| {
        context.socket_sndbuf_length = 64 << 10;
        context.socket_rcvbuf_length = 128 << 10;
    });
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let _publication = world.publication(&channel, STREAM_ID).unwrap();
    let _subscription = world.subscription(&channel, STREAM_ID).unwrap();
    for (what, parameter, refused) in [
        (Add::Pub, "so-sndbuf=64k", None),
        (Add::Sub, "so-rcvbuf=128k", None),
        (Add::Pub, "so-sndbuf=32k", Some("so-sndbuf=32768 does not match existing value of 65536: ")),
        (Add::Sub, "so-rcvbuf=256k", Some("so-rcvbuf=262144 does not match existing value of 131072: ")),
        (Add::Pub, "so-sndbuf=0", Some("so-sndbuf=0 does not match existing value of 65536: ")),
    ] {
        let refusal = add(&mut world, what, &format!("{channel}|{parameter}"), "");
        match (refusal, refused) {
            (None, None) => {}
            (Some((_, message)), Some(text)) => assert!(message.contains(text), "{parameter}: {message}"),
            other => panic!("{parameter}: {other:?}"),
        }
    }
}

#[test]
fn an_mtu_above_the_send_buffer_is_refused() {
    let mut world = World::new(|_| ());
    let address = free_address();
    let mut refusal = |parameters: &str| {
        let channel = format!("aeron:udp?endpoint={address}|{parameters}");
        add(&mut world, Add::Pub, &channel, "").map(|(_, message)| message)
    };
    for (parameters, text) in [
        ("mtu=1056|so-sndbuf=1024", "MTU greater than SO_SNDBUF for channel: mtu=1056 so-sndbuf=1024"),
        ("so-sndbuf=1376", "MTU greater than SO_SNDBUF for channel: mtu=1408 so-sndbuf=1376"),
    ] {
        let message = refusal(parameters).unwrap_or_else(|| panic!("{parameters}"));
        assert!(message.contains(text), "{message}");
    }
    assert_eq!(refusal("mtu=1024|so-sndbuf=1024"), None);
    // The next publication shares the socket of the first one.
    let message = refusal("mtu=1056").unwrap();
    assert!(message.contains("mtu=1056 so-sndbuf=1024"), "{message}");
}

#[test]
fn an_mtu_above_the_send_buffer_of_the_driver_is_refused() {
    let mut world = World::new(|context| context.socket_sndbuf_length = 4_096);
    let channel = format!("aeron:udp?endpoint={}", free_address());
    let refusal = add(&mut world, Add::Pub, &format!("{channel}|mtu=4128"), "").unwrap();
    assert!(refusal.1.contains("mtu=4128 so-sndbuf=4096"), "{refusal:?}");
    assert_eq!(add(&mut world, Add::Pub, &format!("{channel}|mtu=4096"), ""), None);
}
