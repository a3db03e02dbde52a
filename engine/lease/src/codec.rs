//! Messages of leases: docs/protocol/leases.md (spec 05 L19, L20).
//!
//! Lengths, versions and enumerations are checked before anything is believed. Nothing is allocated: decoded names
//! borrow from the message.

mod answer;
mod page;
mod record;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{Answer, AnswerCode, Event};
pub use page::{LeaseEntries, LeaseEntry, PageWriter, PinEntries, PinEntry};
pub use record::{Head, Record};
pub use request::{Envelope, Request};

use harrier_protocol::sbe::{Decoder, HEADER_LENGTH, MessageHeader, SbeError};
use thiserror::Error;

/// Schema of all messages of leases; its bytes are "LS".
pub const SCHEMA_ID: u16 = 0x534C;
/// Version of that schema.
pub const SCHEMA_VERSION: u16 = 1;
/// Longest name, bytes (spec 05 L6).
pub const MAX_NAME_LENGTH: usize = 128;
/// Longest request or record, envelopes apart.
pub const MAX_MESSAGE_LENGTH: usize = HEADER_LENGTH + 36 + 2 * (4 + MAX_NAME_LENGTH);

/// Why a message is none of leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Another schema, a message that is cut, or text that is none.
    #[error(transparent)]
    Sbe(#[from] SbeError),
    /// A template that has no meaning here.
    #[error("template {0} has no meaning here")]
    Template(u16),
    /// A version that this reader cannot take.
    #[error("version {actual} instead of {expected}")]
    Version {
        /// Version that the reader knows.
        expected: u16,
        /// Version of the message.
        actual: u16,
    },
    /// A block that is shorter than the first version's, or longer in that version.
    #[error("template {template_id} has a block of {actual} bytes instead of {required}")]
    Block {
        /// The message.
        template_id: u16,
        /// Bytes of its block.
        required: u16,
        /// Bytes that came.
        actual: u16,
    },
    /// Bytes behind the last field.
    #[error("{0} bytes behind the message")]
    Trailing(usize),
}

/// True of a payload that claims to be of this schema, whether it can be decoded or not.
#[inline]
pub fn is_ours(payload: &[u8]) -> bool {
    payload.len() >= HEADER_LENGTH && payload[4..6] == SCHEMA_ID.to_le_bytes()
}

fn header(template_id: u16, block_length: u16) -> MessageHeader {
    MessageHeader { block_length, template_id, schema_id: SCHEMA_ID, version: SCHEMA_VERSION }
}

/// A message of this schema whose version and block can be read; `block_length` gives the block of each template.
fn open(
    message: &[u8],
    block_length: impl FnOnce(u16) -> Option<u16>,
) -> Result<(u16, Decoder<'_>), CodecError> {
    let header = MessageHeader::decode(message)?;
    header.expect_schema(SCHEMA_ID)?;
    if header.version == 0 {
        return Err(CodecError::Version { expected: SCHEMA_VERSION, actual: 0 });
    }
    let template_id = header.template_id;
    let required = block_length(template_id).ok_or(CodecError::Template(template_id))?;
    let actual = header.block_length;
    // A newer writer may have more to say; one of this version has not.
    if actual < required || (actual > required && header.version == SCHEMA_VERSION) {
        return Err(CodecError::Block { template_id, required, actual });
    }
    Ok((template_id, Decoder::message(message)?))
}

/// A message of this version ends with its last field; a newer one may have more.
fn close(message: &Decoder<'_>) -> Result<(), CodecError> {
    let rest = message.rest().len();
    if rest == 0 || message.header().version > SCHEMA_VERSION {
        Ok(())
    } else {
        Err(CodecError::Trailing(rest))
    }
}

fn enumeration<V: Copy>(values: &[V], value: i32, field: &'static str) -> Result<V, SbeError> {
    let found = usize::try_from(value).ok().and_then(|index| values.get(index)).copied();
    found.ok_or(SbeError::Enumeration { field, value })
}
