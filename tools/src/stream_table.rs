//! Streams of a driver, assembled from their counters (spec 01 §3.6).

use harrier_protocol::counter_types::{StreamKey, type_id};

use crate::aeron_directory::CounterRecord;

/// One counter of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCounter {
    /// Type of the counter.
    pub type_id: i32,
    /// First words of its label, e.g. `pub-pos (exclusive)`.
    pub name: String,
    /// Id of the counter.
    pub counter_id: i32,
    /// Registration id of the publication, subscription or image.
    pub registration_id: i64,
    /// Its value.
    pub value: i64,
}

/// A stream at one channel: a publication, or the images that one subscription channel has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stream {
    /// Session.
    pub session_id: i32,
    /// Stream id.
    pub stream_id: i32,
    /// Channel of the add command.
    pub channel: String,
    /// Counters by type, then by id.
    pub counters: Vec<StreamCounter>,
}

/// Types whose key is that of a stream, in the order in which they are shown.
const SHOWN: [i32; 12] = [
    type_id::PUBLISHER_POSITION,
    type_id::PUBLISHER_LIMIT,
    type_id::SENDER_POSITION,
    type_id::SENDER_LIMIT,
    type_id::SENDER_BACK_PRESSURE_EVENTS,
    type_id::SENDER_NAKS_RECEIVED,
    type_id::FLOW_CONTROL_RECEIVERS,
    type_id::SUBSCRIBER_POSITION,
    type_id::RECEIVER_HWM,
    type_id::RECEIVER_POSITION,
    type_id::RECEIVER_NAKS_SENT,
    type_id::PER_IMAGE,
];

impl Stream {
    /// Value of the first counter of a type.
    pub fn value(&self, type_id: i32) -> Option<i64> {
        self.of_type(type_id).next().map(|counter| counter.value)
    }

    /// Counters of a type.
    pub fn of_type(&self, type_id: i32) -> impl Iterator<Item = &StreamCounter> {
        self.counters.iter().filter(move |counter| counter.type_id == type_id)
    }

    /// True for the stream of a publication.
    pub fn is_publication(&self) -> bool {
        self.of_type(type_id::PUBLISHER_LIMIT).next().is_some()
    }

    /// True for the image of a stream that comes over the network.
    pub fn is_network_image(&self) -> bool {
        self.of_type(type_id::RECEIVER_HWM).next().is_some()
    }

    /// Position of the stream on this side: the published one, else the received one, else the consumed one.
    pub fn position(&self) -> i64 {
        [type_id::PUBLISHER_POSITION, type_id::RECEIVER_POSITION, type_id::SUBSCRIBER_POSITION]
            .into_iter()
            .find_map(|type_id| self.value(type_id))
            .unwrap_or(0)
    }
}

/// Assembles counters to streams, ordered by stream id, session and channel.
pub fn streams(counters: &[CounterRecord]) -> Vec<Stream> {
    let mut streams: Vec<Stream> = Vec::new();
    for record in counters {
        if !SHOWN.contains(&record.type_id) {
            continue;
        }
        let Some(key) = StreamKey::decode(&record.key) else { continue };
        let counter = StreamCounter {
            type_id: record.type_id,
            name: counter_name(record),
            counter_id: record.id,
            registration_id: key.registration_id,
            value: record.value,
        };
        let channel = channel(record, key.channel);
        let is_same = |candidate: &&mut Stream| {
            (candidate.session_id, candidate.stream_id) == (key.session_id, key.stream_id)
                && candidate.channel == channel
        };
        match streams.iter_mut().find(is_same) {
            Some(stream) => stream.counters.push(counter),
            None => streams.push(Stream {
                session_id: key.session_id,
                stream_id: key.stream_id,
                channel,
                counters: vec![counter],
            }),
        }
    }
    for stream in &mut streams {
        stream.counters.sort_by_key(|counter| (rank(counter.type_id), counter.counter_id));
    }
    streams.sort_by(|a, b| {
        (a.stream_id, a.session_id, !a.is_publication(), &a.channel).cmp(&(
            b.stream_id,
            b.session_id,
            !b.is_publication(),
            &b.channel,
        ))
    });
    streams
}

fn rank(type_id: i32) -> usize {
    SHOWN.iter().position(|shown| *shown == type_id).unwrap_or(SHOWN.len())
}

fn counter_name(record: &CounterRecord) -> String {
    record.label.split_once(':').map_or(record.label.as_str(), |(name, _)| name).to_owned()
}

/// Returns the channel of the label, which contains more of it than the key; the key's channel when the label has
/// another form.
fn channel(record: &CounterRecord, key: &[u8]) -> String {
    let text = record.label.split_once(": ").map(|(_, rest)| rest.splitn(4, ' '));
    let channel = text.and_then(|mut words| words.nth(3));
    let Some(channel) = channel else { return String::from_utf8_lossy(key).into_owned() };
    let ends_with_position = record.type_id == type_id::SUBSCRIBER_POSITION;
    let whole = if ends_with_position {
        channel.rsplit_once(" @").map_or(channel, |(name, _)| name)
    } else {
        channel
    };
    whole.to_owned()
}

/// Backlog or free space of one end of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Backlog {
    /// A publisher, with its free space before back pressure.
    Publisher {
        /// Registration id of the publication.
        registration_id: i64,
        /// Its position.
        position: i64,
        /// Bytes up to its limit.
        remaining: i64,
    },
    /// A sender, with its unsent bytes and the window of its receivers.
    Sender {
        /// Registration id of the publication.
        registration_id: i64,
        /// Bytes that are published but not sent.
        backlog: i64,
        /// Bytes up to the limit of flow control.
        window: i64,
    },
    /// An image of a receiver, with received bytes behind a gap.
    Receiver {
        /// Registration id of the image.
        registration_id: i64,
        /// Position up to which nothing is missing.
        position: i64,
        /// Bytes received beyond that position.
        gap: i64,
    },
    /// A subscriber.
    Subscriber {
        /// Registration id of the subscription.
        registration_id: i64,
        /// Its position.
        position: i64,
        /// Bytes that it has not consumed.
        backlog: i64,
    },
}

/// Returns the backlog of each end of a stream. `all` contains the publications that local subscribers follow.
pub fn backlog(stream: &Stream, all: &[Stream]) -> Vec<Backlog> {
    let mut list = Vec::new();
    let published = stream.value(type_id::PUBLISHER_POSITION);
    for limit in stream.of_type(type_id::PUBLISHER_LIMIT) {
        let position = published.unwrap_or(limit.value);
        let (registration_id, remaining) = (limit.registration_id, (limit.value - position).max(0));
        list.push(Backlog::Publisher { registration_id, position, remaining });
    }
    for sender in stream.of_type(type_id::SENDER_POSITION) {
        let backlog = (published.unwrap_or(sender.value) - sender.value).max(0);
        let limit = stream.value(type_id::SENDER_LIMIT).unwrap_or(sender.value);
        let (registration_id, window) = (sender.registration_id, (limit - sender.value).max(0));
        list.push(Backlog::Sender { registration_id, backlog, window });
    }
    for receiver in stream.of_type(type_id::RECEIVER_POSITION) {
        let high = stream
            .of_type(type_id::RECEIVER_HWM)
            .find(|candidate| candidate.registration_id == receiver.registration_id)
            .map_or(receiver.value, |candidate| candidate.value);
        let (registration_id, position) = (receiver.registration_id, receiver.value);
        list.push(Backlog::Receiver { registration_id, position, gap: (high - position).max(0) });
    }
    let available =
        stream.value(type_id::RECEIVER_POSITION).or_else(|| published_elsewhere(stream, all)).or(published);
    for subscriber in stream.of_type(type_id::SUBSCRIBER_POSITION) {
        let (registration_id, position) = (subscriber.registration_id, subscriber.value);
        let backlog = available.map_or(0, |available| (available - position).max(0));
        list.push(Backlog::Subscriber { registration_id, position, backlog });
    }
    list
}

/// Returns the position of this driver's publication with the same session and stream, which IPC and spy subscribers
/// read.
fn published_elsewhere(stream: &Stream, all: &[Stream]) -> Option<i64> {
    all.iter()
        .filter(|candidate| candidate.is_publication())
        .find(|candidate| {
            (candidate.session_id, candidate.stream_id) == (stream.session_id, stream.stream_id)
        })
        .and_then(|candidate| candidate.value(type_id::PUBLISHER_POSITION))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aeron_directory::AeronDirectory;
    use crate::aeron_directory::tests::golden;

    #[test]
    fn streams_of_a_released_driver_are_put_together() {
        let golden = golden();
        let all = streams(&AeronDirectory::open(golden.path()).unwrap().counters());
        let heads: Vec<_> =
            all.iter().map(|stream| (stream.session_id, stream.stream_id, stream.is_publication())).collect();
        let expected = [
            (1_001, 42, true),
            (1_001, 42, false),
            (-5, 43, true),
            (-5, 43, false),
            (2_002, 1_001, true),
            (2_002, 1_001, false),
        ];
        assert_eq!(heads, expected);
        assert!(all[0].channel.ends_with("|session-id=1001|alias=golden"), "{}", all[0].channel);
        assert_eq!(all[1].channel, "aeron:ipc");
        assert_eq!(
            backlog(&all[0], &all),
            [Backlog::Publisher { registration_id: 2, position: 65_600, remaining: 30_688 }]
        );
        assert_eq!(
            backlog(&all[1], &all),
            [Backlog::Subscriber { registration_id: 3, position: 64_576, backlog: 1_024 }]
        );
        assert_eq!(
            backlog(&all[4], &all)[1],
            Backlog::Sender { registration_id: 9, backlog: 0, window: 32_704 }
        );
        assert_eq!(
            backlog(&all[5], &all),
            [
                Backlog::Receiver { registration_id: 11, position: 64, gap: 0 },
                Backlog::Subscriber { registration_id: 10, position: 64, backlog: 0 }
            ]
        );
    }
}
