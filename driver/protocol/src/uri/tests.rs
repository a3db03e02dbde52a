use proptest::prelude::*;

use super::*;

fn publication(channel: &str) -> Result<(), UriError> {
    ChannelUri::parse(channel)?.check_publication(5)
}

fn subscription(channel: &str) -> Result<(), UriError> {
    ChannelUri::parse(channel)?.check_subscription()
}

/// Compares with the Java column of the table in spec 01 §6.4.
#[test]
fn bad_values_are_refused_and_odd_ones_accepted_as_by_the_released_driver() {
    for refused in [
        "aeron:foo",
        "udp://x",
        "aeron:udp?endpoint=127.0.0.1:24326|mtu=abc",
        "aeron:udp?endpoint=127.0.0.1:24326|mtu=1409",
        "aeron:udp?endpoint=",
        "aeron:ipc?term-length=100",
        "aeron:ipc?init-term-id=1",
        "aeron:udp",
        "aeron:udp?endpoint=127.0.0.1:0",
        "aeron:ipc?pub-wnd=1m|term-length=64k",
        "aeron:ipc?session-id=x",
        "aeron:ipc?alias",
        "aeron:ipc?",
        "aeron:ipc?stream-id=9",
        "aeron:ipc?=1",
        "aeron-spy:aeron:udp?endpoint=127.0.0.1:1",
    ] {
        let error = publication(refused).expect_err(refused);
        assert_eq!(error.code(), ErrorCode::InvalidChannel, "{refused}");
    }
    for accepted in [
        "aeron:ipc",
        "aeron:ipc?sparse=maybe",
        "aeron:ipc?linger=5",
        "aeron:ipc?linger=5s|linger=7s",
        "aeron:ipc?unknown=1",
        "aeron:ipc?a=|b=1",
        "aeron:udp?control-mode=dynamic|control=localhost:8030",
        "aeron:udp?control-mode=manual",
        "aeron:udp?endpoint=[::1]:24326",
        "aeron:udp?endpoint=name-of-a-table",
    ] {
        publication(accepted).unwrap_or_else(|error| panic!("{accepted}: {error}"));
    }
    for refused in [
        "aeron:udp?endpoint=127.0.0.1:24326|rcv-wnd=abc",
        "aeron-spy:aeron:ipc",
        "aeron:udp?endpoint=127.0.0.1:24326|session-id=abc",
        "aeron:udp?control=127.0.0.1:0",
        "aeron:udp?endpoint=127.0.0.1:24326|media-rcv-ts-offset=-1",
    ] {
        subscription(refused).expect_err(refused);
    }
    for accepted in [
        "aeron:udp?endpoint=127.0.0.1:24326|reliable=maybe",
        "aeron:ipc?tether=x",
        "aeron:udp?control=127.0.0.1:1|control-mode=weird",
        "aeron-spy:aeron:udp?endpoint=127.0.0.1:24326",
        "aeron:udp?endpoint=127.0.0.1:0",
    ] {
        subscription(accepted).unwrap_or_else(|error| panic!("{accepted}: {error}"));
    }
}

#[test]
fn values_are_typed() {
    let uri = ChannelUri::parse(concat!(
        "aeron:udp?endpoint=[fe80::1%eth0]:40456|control=host:1|control-mode=dynamic|session-id=tag:9|",
        "term-length=1m|mtu=8k|tags=1001,-2|group=true|linger=250ms|ttl=255|sparse=true|eos=maybe|",
        "response-correlation-id=prototype|channel-rcv-ts-offset=reserved|channel-snd-ts-offset=8"
    ))
    .unwrap();
    let endpoint = uri.endpoint().unwrap().unwrap();
    assert_eq!((endpoint.host, endpoint.is_ipv6, endpoint.port), ("fe80::1%eth0", true, 40456));
    assert_eq!(uri.control().unwrap().unwrap().host, "host");
    assert_eq!(uri.control_mode(), Some(ControlMode::Dynamic));
    assert_eq!(uri.session_id().unwrap(), Some(SessionId::Tag(9)));
    assert_eq!((uri.term_length().unwrap(), uri.mtu().unwrap()), (Some(1 << 20), Some(8192)));
    assert_eq!(uri.tags().unwrap(), Some(Tags { channel: 1001, entity: Some(-2) }));
    assert_eq!(uri.group(), Group::Yes);
    assert_eq!(uri.linger_ns().unwrap(), Some(250_000_000));
    assert_eq!(uri.ttl().unwrap(), Some(255));
    assert_eq!(
        (uri.boolean(key::SPARSE), uri.boolean(key::EOS), uri.boolean("ssc")),
        (Some(true), Some(false), None)
    );
    assert_eq!(uri.response_correlation().unwrap(), Some(ResponseCorrelation::Prototype));
    let offset = |key| uri.timestamp_offset(key).unwrap().unwrap().value();
    assert_eq!(offset(key::CHANNEL_RECEIVE_TIMESTAMP_OFFSET), -8);
    assert_eq!(offset(key::CHANNEL_SEND_TIMESTAMP_OFFSET), 8);
}

#[test]
fn parameters_can_be_put_and_removed() {
    let mut uri = ChannelUri::ipc().with(key::ALIAS, "a").with(key::MTU, 1408);
    uri.set_initial_position(3 * 65536 + 96, i32::MAX, 65536);
    uri.put_if_absent(key::MTU, 64);
    assert_eq!(uri.remove(key::ALIAS).as_deref(), Some("a"));
    let text =
        "aeron:ipc?mtu=1408|init-term-id=2147483647|term-id=-2147483646|term-offset=96|term-length=65536";
    assert_eq!(uri.to_string(), text);
    let position = uri.initial_position().unwrap().unwrap();
    assert_eq!((position.term_id, position.term_offset), (i32::MIN + 2, 96));
}

#[test]
fn last_duplicate_wins_and_long_channels_are_refused() {
    assert_eq!(
        ChannelUri::parse("aeron:ipc?linger=5s|linger=7s").unwrap().linger_ns().unwrap(),
        Some(7_000_000_000)
    );
    let long = format!("aeron:ipc?alias={}", "x".repeat(MAX_URI_LENGTH));
    assert!(matches!(ChannelUri::parse(&long), Err(UriError::TooLong(_))));
}

#[test]
fn sizes_and_durations() {
    for (text, size) in [("0", 0), ("1024", 1024), ("4K", 4096), ("16m", 16 << 20), ("1G", 1 << 30)] {
        assert_eq!(parse_size(text), Some(size), "{text}");
    }
    for text in ["", "k", "-1", "+1", "1kb", "1.5m", "9999999999999g", "0x10"] {
        assert_eq!(parse_size(text), None, "{text}");
    }
    for (text, ns) in [("5", 5), ("5ns", 5), ("5us", 5_000), ("5MS", 5_000_000), ("5s", 5_000_000_000)] {
        assert_eq!(parse_duration_ns(text), Some(ns), "{text}");
    }
    for text in ["", "s", "-1s", "5m", "5sec", "99999999999s"] {
        assert_eq!(parse_duration_ns(text), None, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_parsed_or_refused(text in "(aeron-spy:)?(aeron:)?(udp|ipc|x)?\\??[a-z0-9:=|\\[\\].%,-]{0,60}") {
        let _ = publication(&text);
        let _ = subscription(&text);
    }

    #[test]
    fn display_and_parse_are_inverse(values in proptest::collection::btree_map("[a-z-]{1,12}", "[^|]{0,20}", 0..6)) {
        let mut uri = ChannelUri::udp();
        for (key, value) in &values {
            uri.put(key, value);
        }
        prop_assert_eq!(&ChannelUri::parse(&uri.to_string()).unwrap(), &uri);
    }

    #[test]
    fn any_value_is_typed_or_refused(value in "\\PC{0,12}") {
        let _ = parse_size(&value);
        let _ = parse_duration_ns(&value);
        let _ = Endpoint::parse(&value);
    }
}
