//! Records of our own files and file areas: magic, version, length, CRC-32C (docs/protocol/own-files.md).
//!
//! Every file, and every area in or behind one of Aeron's files, that only this project writes consists of such records. A
//! record that was torn, damaged or never written reads as absent, so its reader needs no other test. A whole record of a
//! version that the reader does not know is refused: to take it for absent would overwrite what a newer program has written.

use thiserror::Error;

/// Bytes before the payload of a record.
pub const HEADER_LENGTH: usize = 16;
const VERSION: usize = 4;
const LENGTH: usize = 8;
const CHECKSUM: usize = 12;

/// A kind of record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordKind {
    /// The first four bytes of each record of the kind.
    pub magic: [u8; 4],
    /// Version that is written, and the only one that is read.
    pub version: u16,
    /// Name of the kind in errors, such as `segment seal`.
    pub name: &'static str,
}

/// A whole record of a version that this program does not read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error(
    "{name} has version {found}, this program reads version {known}; use the program that wrote it, or a newer one"
)]
pub struct UnknownVersion {
    /// Name of the record's kind.
    pub name: &'static str,
    /// Version of the record.
    pub found: u16,
    /// Version that this program reads.
    pub known: u16,
}

impl RecordKind {
    /// The bytes of a record with this payload.
    ///
    /// # Panics
    /// On a payload of 4 GiB or more.
    pub fn seal(&self, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; HEADER_LENGTH];
        bytes.extend_from_slice(payload);
        self.seal_in_place(&mut bytes);
        bytes
    }

    /// Writes the header of a record whose payload lies behind the first [`HEADER_LENGTH`] bytes of `bytes` already.
    ///
    /// # Panics
    /// On less than [`HEADER_LENGTH`] bytes, or a payload of 4 GiB or more.
    pub fn seal_in_place(&self, bytes: &mut [u8]) {
        let payload = bytes.len() - HEADER_LENGTH;
        let length = u32::try_from(payload).expect("a record is shorter than 4 GiB");
        bytes[..VERSION].copy_from_slice(&self.magic);
        bytes[VERSION..VERSION + 2].copy_from_slice(&self.version.to_le_bytes());
        bytes[VERSION + 2..LENGTH].fill(0);
        bytes[LENGTH..CHECKSUM].copy_from_slice(&length.to_le_bytes());
        let checksum = checksum_of(&bytes[..CHECKSUM], &bytes[HEADER_LENGTH..]);
        bytes[CHECKSUM..HEADER_LENGTH].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The payload of the record at the beginning of `bytes`; `None` when there is none, or none that is whole.
    ///
    /// # Errors
    /// [`UnknownVersion`] for a whole record of another version.
    pub fn open<'a>(&self, bytes: &'a [u8]) -> Result<Option<&'a [u8]>, UnknownVersion> {
        let Some(header) = bytes.first_chunk::<HEADER_LENGTH>() else { return Ok(None) };
        if header[..VERSION] != self.magic {
            return Ok(None);
        }
        let word = |at: usize| header[at..].first_chunk().map_or(0, |word| u32::from_le_bytes(*word));
        let rest = &bytes[HEADER_LENGTH..];
        let Some(payload) = rest.get(..word(LENGTH) as usize) else { return Ok(None) };
        if checksum_of(&header[..CHECKSUM], payload) != word(CHECKSUM) {
            return Ok(None);
        }
        let found = u16::from_le_bytes([header[VERSION], header[VERSION + 1]]);
        if found != self.version {
            return Err(UnknownVersion { name: self.name, found, known: self.version });
        }
        Ok(Some(payload))
    }
}

/// CRC-32C of a header without its checksum and of the payload.
fn checksum_of(header: &[u8], payload: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(header), payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: RecordKind = RecordKind { magic: *b"TEST", version: 2, name: "test record" };

    #[test]
    fn a_record_is_read_back_whatever_lies_behind_it() {
        let mut bytes = KIND.seal(b"payload");
        assert_eq!(bytes.len(), HEADER_LENGTH + 7);
        assert_eq!(KIND.open(&bytes), Ok(Some(&b"payload"[..])));
        bytes.extend_from_slice(&[7; 100]);
        assert_eq!(KIND.open(&bytes), Ok(Some(&b"payload"[..])));
        assert_eq!(KIND.open(&KIND.seal(b"")), Ok(Some(&b""[..])));
    }

    #[test]
    fn every_torn_or_damaged_record_is_absent() {
        let bytes = KIND.seal(b"payload");
        for length in 0..bytes.len() {
            assert_eq!(KIND.open(&bytes[..length]), Ok(None), "cut after {length} bytes");
            let mut torn = bytes.clone();
            torn[length..].fill(0);
            assert_eq!(KIND.open(&torn), Ok(None), "zero from {length} on");
        }
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(KIND.open(&damaged), Ok(None), "bit {bit}");
        }
    }

    #[test]
    fn a_whole_record_of_another_version_is_refused_with_both_versions() {
        let newer = RecordKind { version: 3, ..KIND };
        let error = KIND.open(&newer.seal(b"payload")).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("test record has version 3, this program reads version 2"), "{text}");
        let other = RecordKind { magic: *b"TSET", ..KIND };
        assert_eq!(KIND.open(&other.seal(b"payload")), Ok(None));
    }
}
