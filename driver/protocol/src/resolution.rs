//! Name resolution frames (spec 02 §1.9).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use zerocopy::IntoBytes;

use crate::udp::{COMMON_HEADER_LENGTH, CommonHeader, FrameError, flag, frame_type};

/// Most bytes of a name that is believed or sent (spec 02 §8 rule 8).
pub const MAX_NAME_LENGTH: usize = 255;

const TYPE_IPV4: u8 = 1;
const TYPE_IPV6: u8 = 2;
const ADDRESS_OFFSET: usize = 8;
const ENTRY_ALIGNMENT: usize = 8;

/// A datagram of checked entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolutionFrame<'a> {
    entries: &'a [u8],
}

/// One name and its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResolutionEntry<'a> {
    /// The entry describes the sender of the datagram.
    pub is_self: bool,
    /// Address and port.
    pub address: SocketAddr,
    /// Milliseconds since the last activity.
    pub age_ms: i32,
    /// The name.
    pub name: &'a str,
}

impl<'a> ResolutionFrame<'a> {
    /// Walks all entries; one invalid entry makes the datagram invalid.
    pub(crate) fn decode(frame: &'a [u8]) -> Result<Self, FrameError> {
        let entries = &frame[COMMON_HEADER_LENGTH..];
        let mut rest = entries;
        while !rest.is_empty() {
            let (_, length) = ResolutionEntry::decode(rest).ok_or(FrameError::Field {
                field: "resolution entry",
                value: (frame.len() - rest.len()) as i64,
            })?;
            rest = &rest[length..];
        }
        Ok(Self { entries })
    }

    /// Returns the entries in their order.
    pub fn entries(&self) -> impl Iterator<Item = ResolutionEntry<'a>> {
        let mut rest = self.entries;
        std::iter::from_fn(move || {
            let (entry, length) = ResolutionEntry::decode(rest)?;
            rest = &rest[length..];
            Some(entry)
        })
    }
}

impl<'a> ResolutionEntry<'a> {
    fn decode(bytes: &'a [u8]) -> Option<(Self, usize)> {
        let head: &[u8; ADDRESS_OFFSET] = bytes.first_chunk()?;
        let port = u16::from_le_bytes([head[2], head[3]]);
        let (ip, name_length_offset) = match head[0] {
            TYPE_IPV4 => {
                let octets: [u8; 4] = bytes.get(ADDRESS_OFFSET..ADDRESS_OFFSET + 4)?.try_into().ok()?;
                (IpAddr::V4(Ipv4Addr::from(octets)), ADDRESS_OFFSET + 4)
            }
            TYPE_IPV6 => {
                let octets: [u8; 16] = bytes.get(ADDRESS_OFFSET..ADDRESS_OFFSET + 16)?.try_into().ok()?;
                (IpAddr::V6(Ipv6Addr::from(octets)), ADDRESS_OFFSET + 16)
            }
            _ => return None,
        };
        let name_offset = name_length_offset + 2;
        let name_length = i16::from_le_bytes(bytes.get(name_length_offset..name_offset)?.try_into().ok()?);
        let name_length = usize::try_from(name_length).ok().filter(|n| (1..=MAX_NAME_LENGTH).contains(n))?;
        let name = std::str::from_utf8(bytes.get(name_offset..name_offset + name_length)?).ok()?;
        let length = (name_offset + name_length).next_multiple_of(ENTRY_ALIGNMENT);
        if port == 0 || length > bytes.len() {
            return None;
        }
        let entry = Self {
            is_self: head[1] & flag::RES_SELF != 0,
            address: SocketAddr::new(ip, port),
            age_ms: i32::from_le_bytes([head[4], head[5], head[6], head[7]]),
            name,
        };
        Some((entry, length))
    }

    /// Length of the entry in a frame, bytes.
    pub fn encoded_length(&self) -> usize {
        let address = if self.address.is_ipv4() { 4 } else { 16 };
        (ADDRESS_OFFSET + address + 2 + self.name.len()).next_multiple_of(ENTRY_ALIGNMENT)
    }

    fn encode(&self, target: &mut [u8]) {
        target.fill(0);
        target[1] = if self.is_self { flag::RES_SELF } else { 0 };
        target[2..4].copy_from_slice(&self.address.port().to_le_bytes());
        target[4..8].copy_from_slice(&self.age_ms.to_le_bytes());
        let end = match self.address.ip() {
            IpAddr::V4(ip) => {
                target[0] = TYPE_IPV4;
                target[ADDRESS_OFFSET..ADDRESS_OFFSET + 4].copy_from_slice(&ip.octets());
                ADDRESS_OFFSET + 4
            }
            IpAddr::V6(ip) => {
                target[0] = TYPE_IPV6;
                target[ADDRESS_OFFSET..ADDRESS_OFFSET + 16].copy_from_slice(&ip.octets());
                ADDRESS_OFFSET + 16
            }
        };
        target[end..end + 2].copy_from_slice(&(self.name.len() as i16).to_le_bytes());
        target[end + 2..end + 2 + self.name.len()].copy_from_slice(self.name.as_bytes());
    }
}

/// Packs entries into a frame of at most the buffer's length (the MTU).
pub struct ResolutionWriter<'a> {
    buffer: &'a mut [u8],
    length: usize,
}

impl<'a> ResolutionWriter<'a> {
    /// Begins an empty frame.
    pub fn new(buffer: &'a mut [u8]) -> Result<Self, FrameError> {
        if buffer.len() < COMMON_HEADER_LENGTH {
            return Err(FrameError::BufferTooSmall { required: COMMON_HEADER_LENGTH });
        }
        Ok(Self { buffer, length: COMMON_HEADER_LENGTH })
    }

    /// Adds an entry. It is an error when the entry no longer fits: finish this frame and begin another.
    pub fn push(&mut self, entry: &ResolutionEntry<'_>) -> Result<(), FrameError> {
        if !(1..=MAX_NAME_LENGTH).contains(&entry.name.len()) {
            return Err(FrameError::Field { field: "name length", value: entry.name.len() as i64 });
        }
        let end = self.length + entry.encoded_length();
        let target =
            self.buffer.get_mut(self.length..end).ok_or(FrameError::BufferTooSmall { required: end })?;
        entry.encode(target);
        self.length = end;
        Ok(())
    }

    /// True while the frame has no entries.
    pub fn is_empty(&self) -> bool {
        self.length == COMMON_HEADER_LENGTH
    }

    /// Writes the header; returns the frame's length.
    pub fn finish(self) -> usize {
        let header = CommonHeader::new(frame_type::RES, 0, self.length);
        self.buffer[..COMMON_HEADER_LENGTH].copy_from_slice(header.as_bytes());
        self.length
    }
}
