//! Time stamps that are written into frames on their way (spec 02 §2.10, §3.17).

use harrier_protocol::udp::{DATA_HEADER_LENGTH, frame_type};
use harrier_protocol::uri::{ChannelUri, TimestampOffset, key};
use harrier_ringbuf::frame::{FLAG_BEGIN, frame_length_acquire};
use harrier_ringbuf::transport::Arrival;
use harrier_ringbuf::{AtomicBuffer, Region};

use crate::failure::Failure;

/// Bytes of a stamp: nanoseconds since the epoch, little endian.
const STAMP_LENGTH: usize = 8;
const FLAGS_OFFSET: usize = 5;
const TYPE_OFFSET: usize = 6;
/// Longest datagram.
const MAX_DATAGRAM_LENGTH: usize = 65_536;

/// Returns the offset of the stamp in a frame; `None` when the frame starts no message or has no room for the stamp.
fn place_of(header: &[u8; DATA_HEADER_LENGTH], offset: TimestampOffset) -> Option<usize> {
    let length = i32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let is_data = u16::from_le_bytes([header[TYPE_OFFSET], header[TYPE_OFFSET + 1]]) == frame_type::DATA;
    if !is_data || header[FLAGS_OFFSET] & FLAG_BEGIN == 0 {
        return None;
    }
    let place = usize::try_from(DATA_HEADER_LENGTH as i64 + i64::from(offset.value())).ok()?;
    (place + STAMP_LENGTH <= usize::try_from(length).ok()?).then_some(place)
}

/// Stamps the frame at an offset of a term, just before it is sent.
pub(crate) fn stamp_frame(term: &AtomicBuffer, at: usize, offset: TimestampOffset, epoch_ns: i64) {
    let mut header = [0; DATA_HEADER_LENGTH];
    if frame_length_acquire(term, at) < DATA_HEADER_LENGTH as i32 {
        return;
    }
    term.copy_out(at, &mut header);
    if let Some(place) = place_of(&header, offset) {
        term.copy_in(at + place, &epoch_ns.to_le_bytes());
    }
}

/// Places of a receive channel's time stamps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct ReceiveOffsets {
    /// Place of the time at which the system received the datagram.
    pub(crate) media: Option<TimestampOffset>,
    /// Place of the time at which the driver received the datagram.
    pub(crate) channel: Option<TimestampOffset>,
}

impl ReceiveOffsets {
    /// Reads the places from a subscription's channel.
    ///
    /// # Errors
    /// A place is not valid, or the places overlap.
    pub(crate) fn of(uri: &ChannelUri) -> Result<Self, Failure> {
        let media = uri.timestamp_offset(key::MEDIA_RECEIVE_TIMESTAMP_OFFSET)?;
        let channel = uri.timestamp_offset(key::CHANNEL_RECEIVE_TIMESTAMP_OFFSET)?;
        if let (Some(media), Some(channel)) = (media, channel)
            && media.value().abs_diff(channel.value()) < STAMP_LENGTH as u32
        {
            return Err(Failure::channel(format!(
                "media-rcv-ts-offset and channel-rcv-ts-offset overlap: channel={uri}"
            )));
        }
        Ok(Self { media, channel })
    }
}

/// Writes time stamps into copies of received datagrams.
#[derive(Debug)]
pub(crate) struct ReceiveStamper {
    offsets: ReceiveOffsets,
    copy: Box<[u8]>,
}

impl ReceiveStamper {
    /// Creates a stamper for these places; `None` when there is nothing to stamp.
    pub(crate) fn new(offsets: ReceiveOffsets) -> Option<Self> {
        let is_used = offsets.media.is_some() || offsets.channel.is_some();
        is_used.then(|| Self { offsets, copy: vec![0; MAX_DATAGRAM_LENGTH].into_boxed_slice() })
    }

    /// Returns the datagram, with a stamped first frame if that frame starts a message.
    pub(crate) fn stamp<'a>(&'a mut self, datagram: &'a [u8], arrival: &Arrival) -> &'a [u8] {
        let stamps =
            [(self.offsets.media, arrival.media_epoch_ns), (self.offsets.channel, arrival.channel_epoch_ns)];
        let Some(header) = datagram.first_chunk::<DATA_HEADER_LENGTH>() else { return datagram };
        let mut is_stamped = false;
        for (offset, epoch_ns) in stamps {
            let (Some(offset), Some(epoch_ns)) = (offset, epoch_ns) else { continue };
            let Some(place) = place_of(header, offset) else { continue };
            if place + STAMP_LENGTH > datagram.len() || datagram.len() > self.copy.len() {
                continue;
            }
            if !is_stamped {
                self.copy[..datagram.len()].copy_from_slice(datagram);
                is_stamped = true;
            }
            self.copy[place..place + STAMP_LENGTH].copy_from_slice(&epoch_ns.to_le_bytes());
        }
        if is_stamped { &self.copy[..datagram.len()] } else { datagram }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a frame of a message with this payload.
    fn frame(flags: u8, kind: u16, payload: &[u8]) -> Vec<u8> {
        let length = DATA_HEADER_LENGTH + payload.len();
        let mut bytes = vec![0; length.next_multiple_of(32)];
        bytes[..4].copy_from_slice(&(length as i32).to_le_bytes());
        bytes[FLAGS_OFFSET] = flags;
        bytes[TYPE_OFFSET..TYPE_OFFSET + 2].copy_from_slice(&kind.to_le_bytes());
        bytes[DATA_HEADER_LENGTH..length].copy_from_slice(payload);
        bytes
    }

    fn at(bytes: &[u8], place: usize) -> i64 {
        i64::from_le_bytes(bytes[place..place + STAMP_LENGTH].try_into().unwrap())
    }

    fn offsets(text: &str) -> Result<ReceiveOffsets, Failure> {
        ReceiveOffsets::of(&ChannelUri::parse(&format!("aeron:udp?endpoint=h:1|{text}")).unwrap())
    }

    #[test]
    fn a_frame_is_stamped_before_it_is_sent_if_it_starts_a_message_with_room() {
        let term = AtomicBuffer::heap(65_536);
        for (flags, kind, length, offset, place) in [
            (0xC0, frame_type::DATA, 16, TimestampOffset::Payload(8), Some(40)),
            (0xC0, frame_type::DATA, 16, TimestampOffset::Payload(9), None),
            (0x80, frame_type::DATA, 16, TimestampOffset::Payload(3), Some(35)),
            (0xC0, frame_type::DATA, 0, TimestampOffset::ReservedValue, Some(24)),
            (0x40, frame_type::DATA, 16, TimestampOffset::ReservedValue, None),
            (0xC0, frame_type::PAD, 16, TimestampOffset::ReservedValue, None),
        ] {
            let bytes = frame(flags, kind, &vec![0; length]);
            term.zero(0, 256);
            term.copy_in(128, &bytes);
            stamp_frame(&term, 128, offset, 0x0102_0304_0506_0708);
            let mut expected = bytes.clone();
            if let Some(place) = place {
                expected[place..place + 8].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1]);
            }
            let mut found = vec![0; bytes.len()];
            term.copy_out(128, &mut found);
            assert_eq!(found, expected, "{flags:x} {kind} {length} {offset:?}");
        }
    }

    #[test]
    fn what_arrives_is_stamped_twice_in_a_copy() {
        let mut stamper =
            ReceiveStamper::new(offsets("media-rcv-ts-offset=reserved|channel-rcv-ts-offset=0").unwrap())
                .unwrap();
        let arrival = Arrival { media_epoch_ns: Some(11), channel_epoch_ns: Some(12) };
        let mut datagram = frame(0xC0, frame_type::DATA, &[7; 16]);
        datagram.extend(frame(0xC0, frame_type::DATA, &[7; 16]));
        let stamped = stamper.stamp(&datagram, &arrival);
        assert_eq!((at(stamped, 24), at(stamped, 32), stamped.len()), (11, 12, datagram.len()));
        assert_eq!(stamped[40..], datagram[40..], "one stamp a datagram");
        // A time that the system did not report is not written.
        let arrival = Arrival { media_epoch_ns: None, channel_epoch_ns: Some(12) };
        assert_eq!(at(stamper.stamp(&datagram, &arrival), 24), 0);
    }

    #[test]
    fn what_is_no_message_or_too_short_stays_as_it_is() {
        let mut stamper = ReceiveStamper::new(offsets("channel-rcv-ts-offset=8").unwrap()).unwrap();
        let arrival = Arrival { media_epoch_ns: Some(11), channel_epoch_ns: Some(12) };
        let heartbeat = [0_u8; 32];
        let mut long = frame(0xC0, frame_type::DATA, &[7; 16]);
        long[..4].copy_from_slice(&i32::MAX.to_le_bytes());
        long.truncate(47);
        for datagram in [
            &heartbeat[..],
            &frame(0x40, frame_type::DATA, &[7; 16]),
            &frame(0xC0, frame_type::SETUP, &[7; 16]),
            &frame(0xC0, frame_type::DATA, &[7; 15]),
            &[1, 2, 3],
            &long,
        ] {
            assert_eq!(stamper.stamp(datagram, &arrival), datagram);
        }
        assert!(ReceiveStamper::new(ReceiveOffsets::default()).is_none());
    }

    #[test]
    fn stamps_that_overlap_are_refused() {
        assert!(offsets("media-rcv-ts-offset=0|channel-rcv-ts-offset=7").is_err());
        assert!(offsets("media-rcv-ts-offset=8|channel-rcv-ts-offset=8").is_err());
        assert!(offsets("media-rcv-ts-offset=reserved|channel-rcv-ts-offset=0").is_ok());
        assert!(offsets("media-rcv-ts-offset=16|channel-rcv-ts-offset=8").is_ok());
        assert!(offsets("media-rcv-ts-offset=-1").is_err());
    }
}
