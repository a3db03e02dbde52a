//! Interceptors that drop received datagrams on purpose, for tests with real peers (spec 02 §6.5).

use std::net::SocketAddr;

use harrier_protocol::udp::{DataHeader, frame_type};
use harrier_ringbuf::Rng;
use harrier_ringbuf::position::align;

use crate::context::InvalidSetting;

/// A chain of interceptors. It is empty in production.
#[derive(Debug, Default)]
pub(crate) struct Interceptors {
    chain: Vec<Interceptor>,
}

#[derive(Debug)]
enum Interceptor {
    Random(RandomLoss),
    Fixed(FixedLoss),
    MultiGap(MultiGapLoss),
}

#[derive(Debug)]
struct RandomLoss {
    rate: f64,
    mask: u64,
    rng: Rng,
}

/// Drops each frame that overlaps a range once, per stream.
#[derive(Debug)]
struct FixedLoss {
    term_id: i32,
    term_offset: i64,
    length: i64,
    streams: Vec<(StreamKey, i64)>,
}

/// Drops the first transmission of regular gaps, per stream.
#[derive(Debug)]
struct MultiGapLoss {
    term_id: i32,
    radix: i64,
    length: i64,
    limit: i64,
    streams: Vec<(StreamKey, i64)>,
}

type StreamKey = (SocketAddr, i32, i32);

impl Interceptors {
    /// Parses a comma list of names. Each interceptor takes its own arguments.
    ///
    /// # Errors
    /// An unknown name or unreadable arguments.
    pub(crate) fn parse(
        names: &str,
        loss: &str,
        fixed_loss: &str,
        multi_gap_loss: &str,
    ) -> Result<Self, InvalidSetting> {
        let mut chain = Vec::new();
        for name in names.split(',').map(str::trim).filter(|name| !name.is_empty()) {
            let interceptor = match name {
                "loss" => RandomLoss::parse(loss).map(Interceptor::Random),
                "fixed-loss" => FixedLoss::parse(fixed_loss).map(Interceptor::Fixed),
                "multi-gap-loss" => MultiGapLoss::parse(multi_gap_loss).map(Interceptor::MultiGap),
                _ => None,
            };
            chain.push(interceptor.ok_or_else(|| {
                InvalidSetting {
                    setting: format!("interceptor {name}"),
                    rule:
                        "must be loss, fixed-loss or multi-gap-loss with its arguments as key=value|key=value"
                            .into(),
                }
            })?);
        }
        Ok(Self { chain })
    }

    /// True when the datagram is to be dropped.
    #[inline]
    pub(crate) fn drops(&mut self, datagram: &[u8], source: SocketAddr) -> bool {
        !self.chain.is_empty() && self.chain.iter_mut().any(|one| one.drops(datagram, source))
    }
}

impl Interceptor {
    fn drops(&mut self, datagram: &[u8], source: SocketAddr) -> bool {
        match self {
            Self::Random(loss) => loss.drops(datagram),
            Self::Fixed(loss) => loss.drops(datagram, source),
            Self::MultiGap(loss) => loss.drops(datagram, source),
        }
    }
}

fn argument<'a>(arguments: &'a str, key: &str) -> Option<&'a str> {
    arguments
        .split('|')
        .find_map(|argument| argument.split_once('=').filter(|(name, _)| *name == key))
        .map(|(_, v)| v)
}

impl RandomLoss {
    fn parse(arguments: &str) -> Option<Self> {
        let rate = argument(arguments, "rate")?.parse().ok().filter(|rate| (0.0..=1.0).contains(rate))?;
        let seed = argument(arguments, "seed").map_or(Some(0), |seed| seed.parse().ok())?;
        let mask = match argument(arguments, "recv-msg-mask") {
            Some(mask) => u64::from_str_radix(mask.trim_start_matches("0x"), 16).ok()?,
            None => u64::MAX,
        };
        Some(Self { rate, mask, rng: Rng::new(seed) })
    }

    fn drops(&mut self, datagram: &[u8]) -> bool {
        let Some(kind) = datagram.get(6..8) else { return false };
        let kind = u32::from(u16::from_le_bytes([kind[0], kind[1]]));
        let is_masked = 1u64.checked_shl(kind).is_some_and(|bit| bit & self.mask != 0);
        is_masked && (self.rng.next_u64() >> 11) as f64 / (1u64 << 53) as f64 <= self.rate && self.rate > 0.0
    }
}

/// Returns the header of the first data frame of a datagram; `None` for heartbeats and other frames.
fn data_header(datagram: &[u8]) -> Option<DataHeader> {
    DataHeader::decode(datagram)
        .filter(|header| header.frame_type == frame_type::DATA && header.frame_length > 0)
}

/// Returns the progress of a stream, which starts at `first`.
fn progress(streams: &mut Vec<(StreamKey, i64)>, key: StreamKey, first: i64) -> &mut i64 {
    let index = streams.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
        streams.push((key, first));
        streams.len() - 1
    });
    &mut streams[index].1
}

impl FixedLoss {
    fn parse(arguments: &str) -> Option<Self> {
        Some(Self {
            term_id: argument(arguments, "term-id")?.parse().ok()?,
            term_offset: argument(arguments, "term-offset")?.parse().ok()?,
            length: argument(arguments, "length")?.parse().ok()?,
            streams: Vec::new(),
        })
    }

    fn drops(&mut self, datagram: &[u8], source: SocketAddr) -> bool {
        let Some(header) = data_header(datagram) else { return false };
        let (begin, end) = (self.term_offset, self.term_offset + self.length);
        let key = (source, header.session_id, header.stream_id);
        let tracked = progress(&mut self.streams, key, begin);
        let offset = i64::from(header.term_offset);
        let frame_end = offset + align(datagram.len(), 32) as i64;
        let overlaps = header.term_id == self.term_id && frame_end > *tracked && offset < end;
        if !overlaps || *tracked >= end {
            return false;
        }
        *tracked = frame_end;
        true
    }
}

impl MultiGapLoss {
    fn parse(arguments: &str) -> Option<Self> {
        let radix: i64 = argument(arguments, "gap-radix")?.parse().ok().filter(|radix| *radix > 0)?;
        let radix = (radix as u64).next_power_of_two() as i64;
        let gaps: i64 = argument(arguments, "total-gaps")?.parse().ok()?;
        Some(Self {
            term_id: argument(arguments, "term-id")?.parse().ok()?,
            radix,
            length: argument(arguments, "gap-length")?.parse().ok()?,
            limit: gaps.checked_mul(radix)?,
            streams: Vec::new(),
        })
    }

    fn drops(&mut self, datagram: &[u8], source: SocketAddr) -> bool {
        let Some(header) = data_header(datagram) else { return false };
        if header.term_id != self.term_id {
            return false;
        }
        let key = (source, header.session_id, header.stream_id);
        let highest = progress(&mut self.streams, key, 0);
        let begin = i64::from(header.term_offset);
        let end = begin + align(datagram.len(), 32) as i64;
        if end <= *highest {
            return false;
        }
        *highest = end;
        // The last gap that starts before the frame ends.
        let gap = ((end - 1) & !(self.radix - 1)).min(self.limit);
        gap >= self.radix && begin < gap + self.length && end > gap
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(term_offset: i32) -> [u8; 64] {
        let header = DataHeader {
            frame_length: 64,
            flags: 0xC0,
            frame_type: frame_type::DATA,
            term_offset,
            session_id: 1,
            stream_id: 2,
            term_id: 3,
            reserved_value: 0,
        };
        let mut bytes = [0; 64];
        header.encode(&mut bytes).unwrap();
        bytes
    }

    fn source() -> SocketAddr {
        "127.0.0.1:9".parse().unwrap()
    }

    #[test]
    fn random_loss_obeys_rate_and_mask() {
        let mut data_only = Interceptors::parse("loss", "rate=0.5|seed=7|recv-msg-mask=0x2", "", "").unwrap();
        let lost = (0..1_000).filter(|_| data_only.drops(&data(0), source())).count();
        assert!((400..600).contains(&lost), "{lost}");
        let status = [36, 0, 0, 0, 0, 0, 3, 0];
        assert!((0..100).all(|_| !data_only.drops(&status, source())));
    }

    #[test]
    fn fixed_loss_loses_each_frame_once() {
        let mut fixed =
            Interceptors::parse("fixed-loss", "", "term-id=3|term-offset=64|length=128", "").unwrap();
        let first: Vec<bool> = [0, 64, 128, 192].iter().map(|o| fixed.drops(&data(*o), source())).collect();
        assert_eq!(first, [false, true, true, false]);
        assert!(!fixed.drops(&data(64), source()));
    }

    #[test]
    fn fixed_loss_loses_a_frame_that_starts_before_the_range() {
        let lost = |arguments| {
            let mut fixed = Interceptors::parse("fixed-loss", "", arguments, "").unwrap();
            [0, 64, 128, 192].map(|offset| fixed.drops(&data(offset), source()))
        };
        assert_eq!(lost("term-id=3|term-offset=96|length=64"), [false, true, true, false]);
        assert_eq!(lost("term-id=3|term-offset=96|length=32"), [false, true, false, false]);
        assert_eq!(lost("term-id=4|term-offset=96|length=64"), [false; 4]);
    }

    #[test]
    fn multi_gap_loss_loses_first_transmissions() {
        let arguments = "term-id=3|gap-radix=100|gap-length=64|total-gaps=2";
        let mut gaps = Interceptors::parse("multi-gap-loss", "", "", arguments).unwrap();
        let lost: Vec<i32> = (0..12).map(|i| i * 64).filter(|o| gaps.drops(&data(*o), source())).collect();
        assert_eq!(lost, [128, 256]);
        assert!(!gaps.drops(&data(128), source()));
    }

    #[test]
    fn bad_arguments_are_refused() {
        assert!(Interceptors::parse("loss", "rate=2", "", "").is_err());
        assert!(Interceptors::parse("gain", "", "", "").is_err());
        assert!(Interceptors::parse("fixed-loss", "", "term-id=x", "").is_err());
    }
}
