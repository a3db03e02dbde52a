//! Messages of leases: docs/protocol/leases.md (spec 05 L19, L20).
//!
//! Decoders check lengths, versions and enumerations before they return a value. They allocate nothing: decoded names
//! borrow from the message.

mod answer;
mod page;
mod process;
mod record;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{Answer, AnswerCode, Event};
pub use page::{LeaseEntries, LeaseEntry, PageWriter, PinEntries, PinEntry};
pub use process::Process;
pub use record::{Head, Record};
pub use request::{Envelope, Request};

use harrier_protocol::sbe::{Decoder, HEADER_LENGTH, MessageHeader, SbeError};
use thiserror::Error;

/// Schema of all messages of leases; its bytes are "LS".
pub const SCHEMA_ID: u16 = 0x534C;
/// Version of that schema. Version 2 added the process of a claim, of a lease, and of the answer
/// [`AnswerCode::UnitHeld`].
pub const SCHEMA_VERSION: u16 = 2;
/// Length of the longest name, bytes (spec 05 L6).
pub const MAX_NAME_LENGTH: usize = 128;
/// Length of the longest request or record, except envelopes.
pub const MAX_MESSAGE_LENGTH: usize = HEADER_LENGTH + 52 + 3 * (4 + MAX_NAME_LENGTH);

/// Reason why a message cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CodecError {
    /// The message has another schema, is cut short, or contains text that is not UTF-8.
    #[error(transparent)]
    Sbe(#[from] SbeError),
    /// The template is not one of this kind of message.
    #[error("template {0} has no meaning here")]
    Template(u16),
    /// This reader cannot read the version.
    #[error("version {actual} instead of {expected}")]
    Version {
        /// Version that the reader knows.
        expected: u16,
        /// Version of the message.
        actual: u16,
    },
    /// The block is shorter than its version demands, or longer in a version that this reader knows.
    #[error("template {template_id} has a block of {actual} bytes instead of {required}")]
    Block {
        /// Template of the message.
        template_id: u16,
        /// Length that its version demands, bytes.
        required: u16,
        /// Length of its block, bytes.
        actual: u16,
    },
    /// The message has bytes behind its last field.
    #[error("{0} bytes behind the message")]
    Trailing(usize),
}

/// True for a payload with the id of this schema, even if it cannot be decoded.
#[inline]
pub fn is_ours(payload: &[u8]) -> bool {
    payload.len() >= HEADER_LENGTH && payload[4..6] == SCHEMA_ID.to_le_bytes()
}

fn header(template_id: u16, block_length: u16) -> MessageHeader {
    MessageHeader { block_length, template_id, schema_id: SCHEMA_ID, version: SCHEMA_VERSION }
}

/// Opens a message of this schema after checking its version and block length. `block_length` returns the length that a
/// template's block has in a version up to [`SCHEMA_VERSION`].
fn open(
    message: &[u8],
    block_length: impl FnOnce(u16, u16) -> Option<u16>,
) -> Result<(u16, Decoder<'_>), CodecError> {
    let header = MessageHeader::decode(message)?;
    header.expect_schema(SCHEMA_ID)?;
    if header.version == 0 {
        return Err(CodecError::Version { expected: SCHEMA_VERSION, actual: 0 });
    }
    let template_id = header.template_id;
    let version = header.version.min(SCHEMA_VERSION);
    let required = block_length(template_id, version).ok_or(CodecError::Template(template_id))?;
    let actual = header.block_length;
    // Only a newer version may have a longer block.
    if actual < required || (actual > required && header.version <= SCHEMA_VERSION) {
        return Err(CodecError::Block { template_id, required, actual });
    }
    Ok((template_id, Decoder::message(message)?))
}

/// Checks that a message ends with its last field. A newer version may have further fields.
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
