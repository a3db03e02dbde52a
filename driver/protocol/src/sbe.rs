//! SBE messages as cursors over (bytes, acting block length, acting version) (spec 03 §1, 04 §1.1).
//!
//! A peer of another version sends shorter or longer blocks: a field that lies outside the acting block, or is newer
//! than the acting version, reads as its null value. Groups and variable data follow the *acting* block length.

use thiserror::Error;

/// Bytes of a message header.
pub const HEADER_LENGTH: usize = 8;
/// Bytes of a group header.
pub const GROUP_HEADER_LENGTH: usize = 4;
/// Null of an i64 field that is newer than the writer.
pub const NULL_I64: i64 = i64::MIN;
/// Null of an i32 field or enum.
pub const NULL_I32: i32 = i32::MIN;
/// Null of a `version_t` or `ver32` field.
pub const NULL_VERSION: i32 = 0;
/// Null of a u8 field.
pub const NULL_U8: u8 = u8::MAX;
/// Most bytes of one variable field.
pub const MAX_VAR_DATA_LENGTH: usize = 1 << 30;

/// Reason why a message could not be decoded or encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SbeError {
    /// The message ends before its header, block, group or variable data.
    #[error("{what} needs {required} bytes but {available} are left")]
    Short {
        /// Part of the message.
        what: &'static str,
        /// Length that the part needs, bytes.
        required: usize,
        /// Length that is left, bytes.
        available: usize,
    },
    /// The message has another schema than this decoder.
    #[error("schema {actual} instead of {expected}")]
    Schema {
        /// Schema id of the decoder.
        expected: u16,
        /// Schema id of the message.
        actual: u16,
    },
    /// A text is not UTF-8.
    #[error("{0} is not text")]
    Text(&'static str),
    /// A value is not in its enumeration.
    #[error("{value} is no {field}")]
    Enumeration {
        /// Name of the enumeration.
        field: &'static str,
        /// The value.
        value: i32,
    },
    /// The caller's buffer is too small to encode into.
    #[error("{required} bytes needed to encode the message but the buffer has {available}")]
    BufferTooSmall {
        /// Length that is needed, bytes.
        required: usize,
        /// Length of the buffer, bytes.
        available: usize,
    },
}

/// Header of every message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageHeader {
    /// Bytes of the fixed block that follows.
    pub block_length: u16,
    /// Which message.
    pub template_id: u16,
    /// Which protocol.
    pub schema_id: u16,
    /// Version of the writer's schema.
    pub version: u16,
}

impl MessageHeader {
    /// Decodes the first eight bytes.
    pub fn decode(message: &[u8]) -> Result<Self, SbeError> {
        let bytes: &[u8; HEADER_LENGTH] = message.first_chunk().ok_or(SbeError::Short {
            what: "message header",
            required: HEADER_LENGTH,
            available: message.len(),
        })?;
        let word = |offset: usize| u16::from_le_bytes([bytes[offset], bytes[offset + 1]]);
        Ok(Self { block_length: word(0), template_id: word(2), schema_id: word(4), version: word(6) })
    }

    /// The header as bytes.
    pub fn encode(&self) -> [u8; HEADER_LENGTH] {
        let mut bytes = [0; HEADER_LENGTH];
        for (target, word) in
            bytes.chunks_exact_mut(2).zip([self.block_length, self.template_id, self.schema_id, self.version])
        {
            target.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// Fails unless the schema is `expected`.
    pub fn expect_schema(&self, expected: u16) -> Result<(), SbeError> {
        if self.schema_id == expected {
            Ok(())
        } else {
            Err(SbeError::Schema { expected, actual: self.schema_id })
        }
    }
}

/// Fixed fields of a message or of an entry of a group.
#[derive(Debug, Clone, Copy)]
pub struct Block<'a> {
    bytes: &'a [u8],
    version: u16,
}

impl Block<'_> {
    fn field<const N: usize>(&self, offset: usize, since: u16) -> Option<[u8; N]> {
        if self.version < since {
            return None;
        }
        self.bytes.get(offset..offset + N)?.try_into().ok()
    }

    /// True when the block has a field of `length` bytes that version `since` added.
    pub fn has(&self, offset: usize, length: usize, since: u16) -> bool {
        self.version >= since && self.bytes.len() >= offset + length
    }

    /// Returns an i64 that version `since` added; [`NULL_I64`] when it is absent.
    pub fn i64(&self, offset: usize, since: u16) -> i64 {
        self.field(offset, since).map_or(NULL_I64, i64::from_le_bytes)
    }

    /// Returns an i32 or enum that version `since` added; [`NULL_I32`] when it is absent.
    pub fn i32(&self, offset: usize, since: u16) -> i32 {
        self.field(offset, since).map_or(NULL_I32, i32::from_le_bytes)
    }

    /// Returns a semantic version or capacity that version `since` added; 0 when it is absent.
    pub fn version(&self, offset: usize, since: u16) -> i32 {
        self.field(offset, since).map_or(NULL_VERSION, i32::from_le_bytes)
    }

    /// Returns a u8 that version `since` added; [`NULL_U8`] when it is absent.
    pub fn u8(&self, offset: usize, since: u16) -> u8 {
        self.field::<1>(offset, since).map_or(NULL_U8, |[byte]| byte)
    }

    /// Returns the bytes of the block as they were sent.
    pub fn bytes(&self) -> &[u8] {
        self.bytes
    }
}

/// Header of a repeating group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Group {
    /// Bytes of each entry's fixed block.
    pub block_length: usize,
    /// Entries that are still to come.
    pub remaining: usize,
}

/// Reads a message: the fixed block at any time, groups and variable data in their order.
///
/// ```
/// use harrier_protocol::sbe::{Decoder, Encoder, MessageHeader, NULL_I64};
///
/// let header = MessageHeader { block_length: 12, template_id: 7, schema_id: 111, version: 3 };
/// let mut buffer = [0; 64];
/// let length = Encoder::new(&mut buffer, header).i64(0, 42).i32(8, -1).text("hello").finish().unwrap();
///
/// let mut message = Decoder::message(&buffer[..length]).unwrap();
/// assert_eq!((message.block().i64(0, 0), message.block().i32(8, 0)), (42, -1));
/// assert_eq!(message.block().i64(12, 4), NULL_I64); // newer than the writer
/// assert_eq!(message.text("greeting", 0).unwrap(), "hello");
/// ```
#[derive(Debug, Clone)]
pub struct Decoder<'a> {
    header: MessageHeader,
    block: Block<'a>,
    rest: &'a [u8],
}

impl<'a> Decoder<'a> {
    /// Decodes the header of a message; the message must contain its whole block.
    pub fn message(message: &'a [u8]) -> Result<Self, SbeError> {
        let header = MessageHeader::decode(message)?;
        Self::body(header, &message[HEADER_LENGTH..])
    }

    /// Decodes a body without a header, such as an entry of the archive's catalog.
    pub fn body(header: MessageHeader, body: &'a [u8]) -> Result<Self, SbeError> {
        let required = usize::from(header.block_length);
        let (bytes, rest) = body.split_at_checked(required).ok_or(SbeError::Short {
            what: "message block",
            required,
            available: body.len(),
        })?;
        Ok(Self { header, block: Block { bytes, version: header.version }, rest })
    }

    /// The message's header.
    pub fn header(&self) -> MessageHeader {
        self.header
    }

    /// The fixed fields.
    pub fn block(&self) -> Block<'a> {
        self.block
    }

    /// Returns the bytes after the parts that were read.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    fn take(&mut self, what: &'static str, required: usize) -> Result<&'a [u8], SbeError> {
        let (taken, rest) = self.rest.split_at_checked(required).ok_or(SbeError::Short {
            what,
            required,
            available: self.rest.len(),
        })?;
        self.rest = rest;
        Ok(taken)
    }

    /// Returns the next variable field; it is empty when the writer's version did not have it.
    pub fn bytes(&mut self, what: &'static str, since: u16) -> Result<&'a [u8], SbeError> {
        if self.header.version < since {
            return Ok(&[]);
        }
        let length = self.take(what, 4)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes"));
        self.take(what, length as usize)
    }

    /// Returns the next variable field as text; it is empty when the writer's version did not have it.
    pub fn text(&mut self, what: &'static str, since: u16) -> Result<&'a str, SbeError> {
        std::str::from_utf8(self.bytes(what, since)?).map_err(|_| SbeError::Text(what))
    }

    /// Returns the next group's header; the group is empty when the writer's version did not have it.
    pub fn group(&mut self, what: &'static str, since: u16) -> Result<Group, SbeError> {
        if self.header.version < since {
            return Ok(Group { block_length: 0, remaining: 0 });
        }
        let bytes = self.take(what, GROUP_HEADER_LENGTH)?;
        Ok(Group {
            block_length: usize::from(u16::from_le_bytes([bytes[0], bytes[1]])),
            remaining: usize::from(u16::from_le_bytes([bytes[2], bytes[3]])),
        })
    }

    /// Returns the fixed fields of the group's next entry; its variable fields follow with [`Decoder::bytes`].
    pub fn entry(&mut self, what: &'static str, group: &mut Group) -> Result<Option<Block<'a>>, SbeError> {
        if group.remaining == 0 {
            return Ok(None);
        }
        let bytes = self.take(what, group.block_length)?;
        group.remaining -= 1;
        Ok(Some(Block { bytes, version: self.header.version }))
    }
}

/// Writes a message into the caller's bytes: fixed fields at their offsets, then groups and variable data in order.
///
/// Parts that do not fit are not written; [`Encoder::finish`] returns the length that is needed.
#[derive(Debug)]
pub struct Encoder<'a> {
    buffer: &'a mut [u8],
    block_start: usize,
    block_length: usize,
    length: usize,
}

impl<'a> Encoder<'a> {
    /// Writes the header and a zeroed block.
    pub fn new(buffer: &'a mut [u8], header: MessageHeader) -> Self {
        let mut encoder = Self { buffer, block_start: 0, block_length: 0, length: 0 };
        encoder.append(&header.encode());
        encoder.begin_block(usize::from(header.block_length));
        encoder
    }

    /// Begins a body without a message header, such as an entry of the archive's catalog.
    pub fn body(buffer: &'a mut [u8], block_length: usize) -> Self {
        let mut encoder = Self { buffer, block_start: 0, block_length: 0, length: 0 };
        encoder.begin_block(block_length);
        encoder
    }

    fn append(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        if let Some(target) = self.buffer.get_mut(self.length..end) {
            target.copy_from_slice(bytes);
        }
        self.length = end;
    }

    fn begin_block(&mut self, length: usize) {
        self.block_start = self.length;
        self.block_length = length;
        self.length += length;
        if let Some(block) = self.buffer.get_mut(self.block_start..self.length) {
            block.fill(0);
        }
    }

    fn field(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.block_length, "field at {offset} lies outside the block");
        let start = self.block_start + offset;
        if let Some(target) = self.buffer.get_mut(start..start + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    }

    /// Sets an i64 of the current block.
    #[must_use]
    pub fn i64(mut self, offset: usize, value: i64) -> Self {
        self.field(offset, &value.to_le_bytes());
        self
    }

    /// Sets an i32, enum or version of the current block.
    #[must_use]
    pub fn i32(mut self, offset: usize, value: i32) -> Self {
        self.field(offset, &value.to_le_bytes());
        self
    }

    /// Sets a u8 of the current block.
    #[must_use]
    pub fn u8(mut self, offset: usize, value: u8) -> Self {
        self.field(offset, &[value]);
        self
    }

    /// Appends variable bytes.
    #[must_use]
    pub fn bytes(mut self, value: &[u8]) -> Self {
        assert!(value.len() <= MAX_VAR_DATA_LENGTH, "variable data of {} bytes", value.len());
        self.append(&(value.len() as u32).to_le_bytes());
        self.append(value);
        self
    }

    /// Appends text as ASCII; a character outside ASCII becomes `?` (spec 03 §1).
    #[must_use]
    pub fn text(mut self, value: &str) -> Self {
        if value.is_ascii() {
            return self.bytes(value.as_bytes());
        }
        self.append(&(value.chars().count() as u32).to_le_bytes());
        for character in value.chars() {
            self.append(&[if character.is_ascii() { character as u8 } else { b'?' }]);
        }
        self
    }

    /// Appends a group's header; `count` calls of [`Encoder::entry`] must follow.
    #[must_use]
    pub fn group(mut self, block_length: u16, count: u16) -> Self {
        self.append(&block_length.to_le_bytes());
        self.append(&count.to_le_bytes());
        self
    }

    /// Begins an entry of a group: fields now go into its zeroed block.
    #[must_use]
    pub fn entry(mut self, block_length: u16) -> Self {
        self.begin_block(usize::from(block_length));
        self
    }

    /// Returns the length of the message.
    pub fn finish(self) -> Result<usize, SbeError> {
        if self.length <= self.buffer.len() {
            Ok(self.length)
        } else {
            Err(SbeError::BufferTooSmall { required: self.length, available: self.buffer.len() })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HEADER: MessageHeader =
        MessageHeader { block_length: 20, template_id: 9, schema_id: 101, version: 5 };

    fn encode(buffer: &mut [u8]) -> Result<usize, SbeError> {
        Encoder::new(buffer, HEADER)
            .i64(0, -2)
            .i32(8, 77)
            .i64(12, 1 << 40)
            .group(8, 2)
            .entry(8)
            .i64(0, 1)
            .bytes(b"one")
            .entry(8)
            .i64(0, 2)
            .text("zwei")
            .text("naïve")
            .finish()
    }

    #[test]
    fn blocks_groups_and_variable_data_come_back() {
        let mut buffer = [0xAA; 128];
        let length = encode(&mut buffer).unwrap();
        let mut message = Decoder::message(&buffer[..length]).unwrap();
        assert_eq!(message.header(), HEADER);
        assert_eq!((message.block().i64(0, 0), message.block().i32(8, 0)), (-2, 77));
        assert_eq!(message.block().i64(12, 5), 1 << 40);
        let mut group = message.group("entries", 0).unwrap();
        assert_eq!(message.entry("entries", &mut group).unwrap().unwrap().i64(0, 0), 1);
        assert_eq!(message.bytes("name", 0).unwrap(), b"one");
        assert_eq!(message.entry("entries", &mut group).unwrap().unwrap().i64(0, 0), 2);
        assert_eq!(message.text("name", 0).unwrap(), "zwei");
        assert!(message.entry("entries", &mut group).unwrap().is_none());
        assert_eq!(message.text("last", 0).unwrap(), "na?ve");
        assert_eq!(message.text("newer", 6).unwrap(), "");
        assert!(message.rest().is_empty());
        assert!(matches!(message.text("missing", 0), Err(SbeError::Short { .. })));
    }

    #[test]
    fn fields_of_other_ages_read_as_null() {
        let old = MessageHeader { block_length: 8, version: 2, ..HEADER };
        let mut buffer = [0; 32];
        let length = Encoder::new(&mut buffer, old).i64(0, 5).text("t").finish().unwrap();
        let mut message = Decoder::message(&buffer[..length]).unwrap();
        let block = message.block();
        assert_eq!((block.i64(0, 0), block.i32(8, 0), block.version(8, 0)), (5, NULL_I32, NULL_VERSION));
        assert_eq!((block.i64(0, 3), block.u8(0, 3)), (NULL_I64, NULL_U8));
        assert!(!block.has(0, 8, 3) && block.has(0, 8, 2));
        assert_eq!(message.text("text", 0).unwrap(), "t");
    }

    #[test]
    fn a_small_buffer_tells_what_is_needed() {
        let mut whole = [0; 128];
        let length = encode(&mut whole).unwrap();
        for available in 0..length {
            let mut small = vec![0; available];
            assert_eq!(encode(&mut small), Err(SbeError::BufferTooSmall { required: length, available }));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(mut message) = Decoder::message(&bytes) {
                let _ = message.block().i64(3, 0);
                if let Ok(mut group) = message.group("g", 0) {
                    while let Ok(Some(entry)) = message.entry("g", &mut group) {
                        let _ = entry.i32(0, 0);
                        let _ = message.text("t", 0);
                    }
                }
                let _ = message.bytes("b", 0);
            }
        }
    }
}
