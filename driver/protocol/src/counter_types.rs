//! Counter types with their keys and labels (spec 01 §3.6, 02 §5.7, 03 §6.4).

use std::fmt::{self, Write};

/// Bytes of a counter's key.
pub const MAX_KEY_LENGTH: usize = 112;
/// Bytes of a counter's label.
pub const MAX_LABEL_LENGTH: usize = 380;

/// Offset of the channel in a stream key.
const STREAM_KEY_CHANNEL_OFFSET: usize = 20;
/// Offset of the channel in a channel key.
const CHANNEL_KEY_CHANNEL_OFFSET: usize = 4;
const ADDRESS_KEY_TEXT_OFFSET: usize = 8;

/// Type ids of counters.
pub mod type_id {
    /// Counter of the driver itself.
    pub const SYSTEM: i32 = 0;
    /// Position up to which publishers may write.
    pub const PUBLISHER_LIMIT: i32 = 1;
    /// Position up to which the sender has sent.
    pub const SENDER_POSITION: i32 = 2;
    /// Highest position that an image has received.
    pub const RECEIVER_HWM: i32 = 3;
    /// Position up to which a subscriber has read.
    pub const SUBSCRIBER_POSITION: i32 = 4;
    /// Position up to which an image has no gap.
    pub const RECEIVER_POSITION: i32 = 5;
    /// Status of a send channel.
    pub const SEND_CHANNEL_STATUS: i32 = 6;
    /// Status of a receive channel.
    pub const RECEIVE_CHANNEL_STATUS: i32 = 7;
    /// Position up to which the sender may send.
    pub const SENDER_LIMIT: i32 = 9;
    /// State of congestion control of an image.
    pub const PER_IMAGE: i32 = 10;
    /// Last sign of life of a client, epoch ms.
    pub const CLIENT_HEARTBEAT: i32 = 11;
    /// Position up to which publishers have written.
    pub const PUBLISHER_POSITION: i32 = 12;
    /// Times the sender ran into its limit.
    pub const SENDER_BACK_PRESSURE_EVENTS: i32 = 13;
    /// Address to which a socket is bound.
    pub const LOCAL_SOCKET_ADDRESS: i32 = 14;
    /// Neighbours of the name resolver.
    pub const RESOLVER_NEIGHBORS: i32 = 15;
    /// Names in the cache of the name resolver.
    pub const RESOLVER_CACHE_ENTRIES: i32 = 16;
    /// Receivers that flow control counts.
    pub const FLOW_CONTROL_RECEIVERS: i32 = 17;
    /// Destinations of a multi-destination publication.
    pub const MDC_DESTINATIONS: i32 = 18;
    /// NAKs that a publication has received.
    pub const SENDER_NAKS_RECEIVED: i32 = 19;
    /// NAKs that an image has sent.
    pub const RECEIVER_NAKS_SENT: i32 = 20;
    /// A bootstrap neighbour of the name resolver.
    pub const BOOTSTRAP_NEIGHBOR: i32 = 21;
    /// Row of the table of names.
    pub const NAME_TABLE_ENTRY: i32 = 2001;

    /// Position up to which a recording is written.
    pub const RECORDING_POSITION: i32 = 100;
    /// Errors of an archive.
    pub const ARCHIVE_ERROR_COUNT: i32 = 101;
    /// Control sessions of an archive.
    pub const ARCHIVE_CONTROL_SESSIONS: i32 = 102;
    /// Longest duty cycle of an archive, ns.
    pub const ARCHIVE_MAX_CYCLE_TIME: i32 = 103;
    /// Duty cycles of an archive beyond their threshold.
    pub const ARCHIVE_CYCLE_TIME_EXCEEDED: i32 = 104;
    /// Longest write of the recorder, ns.
    pub const ARCHIVE_RECORDER_MAX_WRITE_TIME: i32 = 105;
    /// Bytes that the recorder has written.
    pub const ARCHIVE_RECORDER_TOTAL_WRITE_BYTES: i32 = 106;
    /// Time that the recorder has spent in writes, ns.
    pub const ARCHIVE_RECORDER_TOTAL_WRITE_TIME: i32 = 107;
    /// Longest read of the replayer, ns.
    pub const ARCHIVE_REPLAYER_MAX_READ_TIME: i32 = 108;
    /// Bytes that the replayer has read.
    pub const ARCHIVE_REPLAYER_TOTAL_READ_BYTES: i32 = 109;
    /// Time that the replayer has spent in reads, ns.
    pub const ARCHIVE_REPLAYER_TOTAL_READ_TIME: i32 = 110;
    /// Recordings that are active.
    pub const ARCHIVE_RECORDING_SESSIONS: i32 = 111;
    /// Replays that are active.
    pub const ARCHIVE_REPLAY_SESSIONS: i32 = 112;
    /// A control session of an archive.
    pub const ARCHIVE_CONTROL_SESSION: i32 = 113;
    /// State of a persistent subscription.
    pub const PERSISTENT_SUBSCRIPTION_STATE: i32 = 114;
    /// Distance of a persistent subscription from the live stream, bytes.
    pub const PERSISTENT_SUBSCRIPTION_JOIN_DIFFERENCE: i32 = 115;
    /// Times a persistent subscription has left the live stream.
    pub const PERSISTENT_SUBSCRIPTION_LIVE_LEFT: i32 = 116;
    /// Times a persistent subscription has joined the live stream.
    pub const PERSISTENT_SUBSCRIPTION_LIVE_JOINED: i32 = 117;

    /// Messages of clients that a consensus module refused. This type and the next two are this project's own.
    pub const INGRESS_REFUSED: i32 = 18_001;
    /// Messages on the consensus stream that a consensus module refused.
    pub const CONSENSUS_REFUSED: i32 = 18_002;
    /// Messages on the control streams that an archive refused.
    pub const ARCHIVE_CONTROL_REFUSED: i32 = 18_003;
}

/// First words of the labels of counters on streams and channels (spec 01 §3.6).
pub mod name {
    /// Of [`PUBLISHER_LIMIT`](super::type_id::PUBLISHER_LIMIT).
    pub const PUBLISHER_LIMIT: &str = "pub-lmt";
    /// Of [`SENDER_POSITION`](super::type_id::SENDER_POSITION).
    pub const SENDER_POSITION: &str = "snd-pos";
    /// Of [`RECEIVER_HWM`](super::type_id::RECEIVER_HWM).
    pub const RECEIVER_HWM: &str = "rcv-hwm";
    /// Of [`SUBSCRIBER_POSITION`](super::type_id::SUBSCRIBER_POSITION).
    pub const SUBSCRIBER_POSITION: &str = "sub-pos";
    /// Of [`RECEIVER_POSITION`](super::type_id::RECEIVER_POSITION).
    pub const RECEIVER_POSITION: &str = "rcv-pos";
    /// Of [`SEND_CHANNEL_STATUS`](super::type_id::SEND_CHANNEL_STATUS).
    pub const SEND_CHANNEL_STATUS: &str = "snd-channel";
    /// Of [`RECEIVE_CHANNEL_STATUS`](super::type_id::RECEIVE_CHANNEL_STATUS).
    pub const RECEIVE_CHANNEL_STATUS: &str = "rcv-channel";
    /// Of [`SENDER_LIMIT`](super::type_id::SENDER_LIMIT).
    pub const SENDER_LIMIT: &str = "snd-lmt";
    /// Of [`PER_IMAGE`](super::type_id::PER_IMAGE): round trip time that cubic congestion control uses, ns.
    pub const CUBIC_RTT: &str = "rcv-cc-cubic-rtt";
    /// Of [`PER_IMAGE`](super::type_id::PER_IMAGE): window of cubic congestion control, bytes.
    pub const CUBIC_WINDOW: &str = "rcv-cc-cubic-wnd";
    /// Of [`CLIENT_HEARTBEAT`](super::type_id::CLIENT_HEARTBEAT).
    pub const CLIENT_HEARTBEAT: &str = "client-heartbeat";
    /// Of [`PUBLISHER_POSITION`](super::type_id::PUBLISHER_POSITION), for publications with many writers.
    pub const PUBLISHER_POSITION_CONCURRENT: &str = "pub-pos (concurrent)";
    /// Of [`PUBLISHER_POSITION`](super::type_id::PUBLISHER_POSITION), for publications with one writer.
    pub const PUBLISHER_POSITION_EXCLUSIVE: &str = "pub-pos (exclusive)";
    /// Of [`SENDER_BACK_PRESSURE_EVENTS`](super::type_id::SENDER_BACK_PRESSURE_EVENTS).
    pub const SENDER_BACK_PRESSURE_EVENTS: &str = "snd-bpe";
    /// Of [`LOCAL_SOCKET_ADDRESS`](super::type_id::LOCAL_SOCKET_ADDRESS), for send channels.
    pub const SEND_LOCAL_SOCKET_ADDRESS: &str = "snd-local-sockaddr";
    /// Of [`LOCAL_SOCKET_ADDRESS`](super::type_id::LOCAL_SOCKET_ADDRESS), for receive channels.
    pub const RECEIVE_LOCAL_SOCKET_ADDRESS: &str = "rcv-local-sockaddr";
    /// Of [`FLOW_CONTROL_RECEIVERS`](super::type_id::FLOW_CONTROL_RECEIVERS).
    pub const FLOW_CONTROL_RECEIVERS: &str = "fc-receivers";
    /// Of [`MDC_DESTINATIONS`](super::type_id::MDC_DESTINATIONS).
    pub const MDC_DESTINATIONS: &str = "mdc-num-dest";
    /// Of [`SENDER_NAKS_RECEIVED`](super::type_id::SENDER_NAKS_RECEIVED).
    pub const SENDER_NAKS_RECEIVED: &str = "snd-naks-received";
    /// Of [`RECEIVER_NAKS_SENT`](super::type_id::RECEIVER_NAKS_SENT).
    pub const RECEIVER_NAKS_SENT: &str = "rcv-naks-sent";
}

/// Values of channel status counters (spec 01 §3.6).
pub mod channel_status {
    /// The channel has failed.
    pub const ERRORED: i64 = -1;
    /// The channel's socket is being opened.
    pub const INITIALIZING: i64 = 0;
    /// The channel's socket is open.
    pub const ACTIVE: i64 = 1;
    /// The channel's last user is gone.
    pub const CLOSING: i64 = 2;
    /// Counter id that stands for "no status": IPC and spies.
    pub const NO_COUNTER_ID: i32 = -1;
}

/// Key of a counter, built without allocation. Bytes that do not fit are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    bytes: [u8; MAX_KEY_LENGTH],
    length: usize,
}

impl Default for Key {
    fn default() -> Self {
        Self { bytes: [0; MAX_KEY_LENGTH], length: 0 }
    }
}

impl Key {
    /// Key of one i64, such as a client id or an archive id.
    pub fn of_i64(value: i64) -> Self {
        Self::default().with(&value.to_le_bytes())
    }

    /// Key of one i32, such as a system counter's id.
    pub fn of_i32(value: i32) -> Self {
        Self::default().with(&value.to_le_bytes())
    }

    /// Key of counters on a stream.
    pub fn stream(registration_id: i64, session_id: i32, stream_id: i32, channel: &str) -> Self {
        Self::default()
            .with(&registration_id.to_le_bytes())
            .with(&session_id.to_le_bytes())
            .with(&stream_id.to_le_bytes())
            .with_text(channel)
    }

    /// Key of counters on a channel.
    pub fn channel(channel: &str) -> Self {
        Self::default().with_text(channel)
    }

    /// Key of a local socket address.
    pub fn socket_address(channel_status_counter_id: i32, address: &str) -> Self {
        Self::default().with(&channel_status_counter_id.to_le_bytes()).with_text(address)
    }

    /// Appends bytes; they are cut at the end of the key.
    #[must_use]
    pub fn with(mut self, bytes: &[u8]) -> Self {
        let taken = bytes.len().min(MAX_KEY_LENGTH - self.length);
        self.bytes[self.length..self.length + taken].copy_from_slice(&bytes[..taken]);
        self.length += taken;
        self
    }

    /// Appends an i32 length and a text; both are cut so that the length is right.
    #[must_use]
    pub fn with_text(self, text: &str) -> Self {
        let taken = text.len().min((MAX_KEY_LENGTH - self.length).saturating_sub(4));
        self.with(&(taken as i32).to_le_bytes()).with(&text.as_bytes()[..taken])
    }

    /// The bytes that are used.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// Decoded key of a counter on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamKey<'a> {
    /// Registration id of the publication or subscription, correlation id of the image.
    pub registration_id: i64,
    /// Session id.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Channel, at most 92 bytes of it.
    pub channel: &'a [u8],
}

impl<'a> StreamKey<'a> {
    /// Decodes a key; `None` when it is not a stream key.
    pub fn decode(key: &'a [u8]) -> Option<Self> {
        Some(Self {
            registration_id: i64_at(key, 0)?,
            session_id: i32_at(key, 8)?,
            stream_id: i32_at(key, 12)?,
            channel: text_at(key, STREAM_KEY_CHANNEL_OFFSET - 4)?,
        })
    }
}

/// Returns the channel of a channel key, at most 108 bytes of it.
pub fn decode_channel_key(key: &[u8]) -> Option<&[u8]> {
    text_at(key, CHANNEL_KEY_CHANNEL_OFFSET - 4)
}

/// Returns channel status counter id and address text of an address key.
pub fn decode_address_key(key: &[u8]) -> Option<(i32, &[u8])> {
    Some((i32_at(key, 0)?, text_at(key, ADDRESS_KEY_TEXT_OFFSET - 4)?))
}

/// Returns the client id of a heartbeat key. The archive's simple counters have the archive id there.
pub fn decode_i64_key(key: &[u8]) -> Option<i64> {
    i64_at(key, 0)
}

fn i32_at(bytes: &[u8], offset: usize) -> Option<i32> {
    Some(i32::from_le_bytes(bytes.get(offset..offset + 4)?.try_into().ok()?))
}

fn i64_at(bytes: &[u8], offset: usize) -> Option<i64> {
    Some(i64::from_le_bytes(bytes.get(offset..offset + 8)?.try_into().ok()?))
}

/// Returns a text with its length field. Only the length says which bytes belong to the key: bytes after it may be
/// stale (spec 01 §3.6).
fn text_at(bytes: &[u8], offset: usize) -> Option<&[u8]> {
    let length = usize::try_from(i32_at(bytes, offset)?).ok()?;
    bytes.get(offset + 4..)?.get(..length)
}

/// Label of a counter, built without allocation. Text that does not fit is cut.
///
/// ```
/// use harrier_protocol::counter_types::{Label, name};
///
/// let label = Label::stream(name::SUBSCRIBER_POSITION, 3, 1001, 42, "aeron:ipc").joined_at(0);
/// assert_eq!(label.as_str(), "sub-pos: 3 1001 42 aeron:ipc @0");
/// ```
#[derive(Clone, Copy)]
pub struct Label {
    bytes: [u8; MAX_LABEL_LENGTH],
    length: usize,
}

impl Default for Label {
    fn default() -> Self {
        Self { bytes: [0; MAX_LABEL_LENGTH], length: 0 }
    }
}

impl Label {
    /// Returns a label of any text: `Label::of(format_args!("Resolver cache entries: name={name}"))`.
    pub fn of(text: fmt::Arguments<'_>) -> Self {
        Self::default().and(text)
    }

    /// Returns `<name>: <registration id> <session id> <stream id> <channel>`.
    pub fn stream(name: &str, registration_id: i64, session_id: i32, stream_id: i32, channel: &str) -> Self {
        Self::of(format_args!("{name}: {registration_id} {session_id} {stream_id} {channel}"))
    }

    /// Appends ` @<join position>`, as in the labels of subscriber positions.
    #[must_use]
    pub fn joined_at(self, position: i64) -> Self {
        self.and(format_args!(" @{position}"))
    }

    /// Returns `<name>: <channel> `; the driver appends the bound address when it is known.
    pub fn channel_status(name: &str, channel: &str) -> Self {
        Self::of(format_args!("{name}: {channel} "))
    }

    /// Returns `<name>: <channel status id> <address>`.
    pub fn socket_address(name: &str, channel_status_counter_id: i32, address: &str) -> Self {
        Self::of(format_args!("{name}: {channel_status_counter_id} {address}"))
    }

    /// Returns `client-heartbeat: id=<client id>`; the client appends its name and version.
    pub fn client_heartbeat(client_id: i64) -> Self {
        Self::of(format_args!("{}: id={client_id}", name::CLIENT_HEARTBEAT))
    }

    /// Appends text.
    #[must_use]
    pub fn and(mut self, text: fmt::Arguments<'_>) -> Self {
        // Labels are cut at their end; the writer never fails.
        let _ = self.write_fmt(text);
        self
    }

    /// The label as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl Write for Label {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut taken = text.len().min(MAX_LABEL_LENGTH - self.length);
        while !text.is_char_boundary(taken) {
            taken -= 1;
        }
        self.bytes[self.length..self.length + taken].copy_from_slice(&text.as_bytes()[..taken]);
        self.length += taken;
        Ok(())
    }
}

impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Metadata records of the golden counters 46 and 49, the examples of spec 01 §9.8.
    const GOLDEN: &[u8] = include_bytes!("../testdata/counters_46_to_49_metadata.bin");

    fn record(counter_id: usize) -> (&'static [u8], &'static str) {
        let record = &GOLDEN[(counter_id - 46) * 512..][..512];
        let label_length = i32::from_le_bytes(record[128..132].try_into().unwrap()) as usize;
        (&record[16..128], std::str::from_utf8(&record[132..132 + label_length]).unwrap())
    }

    #[test]
    fn subscriber_position_is_the_golden_one() {
        let (key, label) = record(49);
        let ours = Key::stream(3, 1001, 42, "aeron:ipc");
        assert_eq!(ours.as_bytes(), &key[..ours.as_bytes().len()]);
        assert_eq!(
            Label::stream(name::SUBSCRIBER_POSITION, 3, 1001, 42, "aeron:ipc").joined_at(0).as_str(),
            label
        );
        let decoded = StreamKey::decode(key).unwrap();
        assert_eq!(
            (decoded.registration_id, decoded.stream_id, decoded.channel),
            (3, 42, b"aeron:ipc".as_slice())
        );
    }

    #[test]
    fn a_long_channel_is_cut_in_the_key_but_not_in_the_label() {
        let (key, label) = record(46);
        let channel = label.strip_prefix("pub-pos (concurrent): 2 1001 42 ").unwrap();
        assert_eq!(channel.len(), 93);
        assert_eq!(Key::stream(2, 1001, 42, channel).as_bytes(), key);
        assert_eq!(StreamKey::decode(key).unwrap().channel.len(), 92);
        assert_eq!(Label::stream(name::PUBLISHER_POSITION_CONCURRENT, 2, 1001, 42, channel).as_str(), label);
    }

    #[test]
    fn other_keys_and_labels() {
        let key = Key::socket_address(5, "[::1]:1");
        assert_eq!(decode_address_key(key.as_bytes()), Some((5, b"[::1]:1".as_slice())));
        assert_eq!(decode_channel_key(Key::channel("aeron:udp").as_bytes()), Some(b"aeron:udp".as_slice()));
        assert_eq!(decode_i64_key(Key::of_i64(-9).as_bytes()), Some(-9));
        assert_eq!(Key::of_i32(44).as_bytes(), [44, 0, 0, 0]);
        assert_eq!(Label::client_heartbeat(7).as_str(), "client-heartbeat: id=7");
        assert_eq!(Label::channel_status("snd-channel", "aeron:udp").as_str(), "snd-channel: aeron:udp ");
        assert_eq!(Label::default().and(format_args!("{}", "é".repeat(200))).as_str().len(), 380);
    }

    proptest! {
        #[test]
        fn keys_of_others_never_panic(key in proptest::collection::vec(any::<u8>(), 0..=112)) {
            let _ = StreamKey::decode(&key);
            let _ = decode_channel_key(&key);
            let _ = decode_address_key(&key);
            let _ = decode_i64_key(&key);
        }
    }
}
