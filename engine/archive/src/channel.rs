//! Channels of recordings and replays (spec 03 §3.2, §3.3).

use harrier_protocol::uri::{ChannelUri, UriError, key};

use crate::codec::SourceLocation;

/// Parameters kept in a stripped channel, in this order.
const STRIPPED: [&str; 23] = [
    key::TAGS,
    key::ENDPOINT,
    key::INTERFACE,
    key::CONTROL,
    key::CONTROL_MODE,
    key::SESSION_ID,
    key::TTL,
    key::ALIAS,
    key::CONGESTION_CONTROL,
    key::FLOW_CONTROL,
    key::GROUP_TAG,
    key::TETHER,
    key::GROUP,
    key::REJOIN,
    key::SOCKET_SNDBUF,
    key::SOCKET_RCVBUF,
    key::RECEIVER_WINDOW,
    key::MEDIA_RECEIVE_TIMESTAMP_OFFSET,
    key::CHANNEL_RECEIVE_TIMESTAMP_OFFSET,
    key::CHANNEL_SEND_TIMESTAMP_OFFSET,
    key::RESPONSE_ENDPOINT,
    key::RESPONSE_CORRELATION_ID,
    key::STREAM_ID,
];

/// Removes all parameters that do not identify the stream.
pub(crate) fn strip(uri: &ChannelUri) -> ChannelUri {
    let mut stripped = if uri.is_ipc() { ChannelUri::ipc() } else { ChannelUri::udp() };
    for key in STRIPPED {
        if let Some(value) = uri.get(key) {
            stripped.put(key, value);
        }
    }
    stripped
}

/// Builds the channel of the recording subscription.
pub(crate) fn subscribed(stripped: &ChannelUri, location: SourceLocation) -> String {
    let mut channel = stripped.clone();
    channel.set_spy(location == SourceLocation::Local && stripped.is_udp());
    channel.to_string()
}

/// Key that must be unique among recording subscriptions.
pub(crate) fn subscription_key(uri: &ChannelUri, stream_id: i32) -> String {
    let mut text = format!("{stream_id}:{}", uri.media().name());
    for key in [key::ENDPOINT, key::INTERFACE, key::CONTROL, key::SESSION_ID, key::TAGS] {
        text.push('|');
        if let Some(value) = uri.get(key) {
            text.push_str(&format!("{key}={value}"));
        }
    }
    text
}

/// Parses a channel of a request.
pub(crate) fn parse(channel: &str) -> Result<ChannelUri, UriError> {
    ChannelUri::parse(channel)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stripping_keeps_the_address_and_drops_the_rest() {
        let uri = parse("aeron:udp?term-length=64k|endpoint=a:1|alias=x|tags=3|mtu=1408").unwrap();
        assert_eq!(strip(&uri).to_string(), "aeron:udp?tags=3|endpoint=a:1|alias=x");
        assert_eq!(
            subscribed(&strip(&uri), SourceLocation::Local),
            "aeron-spy:aeron:udp?tags=3|endpoint=a:1|alias=x"
        );
        assert_eq!(subscribed(&parse("aeron:ipc").unwrap(), SourceLocation::Local), "aeron:ipc");
    }

    #[test]
    fn the_key_ignores_what_does_not_name_the_stream() {
        let key = |channel| subscription_key(&parse(channel).unwrap(), 7);
        assert_eq!(key("aeron:ipc?alias=a"), key("aeron:ipc?term-length=64k"));
        assert_ne!(key("aeron:ipc?session-id=1"), key("aeron:ipc"));
    }
}
