//! Checksums of recorded frames and catalog entries (spec 03 §3.5).

use harrier_ringbuf::position::{FRAME_ALIGNMENT, HEADER_LENGTH, align};

/// A checksum algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checksum {
    /// CRC-32.
    Crc32,
    /// CRC-32C.
    Crc32c,
}

/// Offset of the field that a frame's checksum replaces.
const SESSION_ID_OFFSET: usize = 12;
const TYPE_OFFSET: usize = 6;

impl Checksum {
    /// Returns the algorithm with this name; legacy class names are accepted.
    pub fn by_name(name: &str) -> Option<Self> {
        match name {
            "CRC-32" | "io.aeron.archive.checksum.Crc32" | "org.agrona.checksum.Crc32" => Some(Self::Crc32),
            "CRC-32C" | "io.aeron.archive.checksum.Crc32c" | "org.agrona.checksum.Crc32c" => {
                Some(Self::Crc32c)
            }
            _ => None,
        }
    }

    /// Name of the algorithm.
    pub fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC-32",
            Self::Crc32c => "CRC-32C",
        }
    }

    /// Computes the checksum of bytes.
    pub fn of(self, bytes: &[u8]) -> i32 {
        match self {
            Self::Crc32 => crc32fast::hash(bytes) as i32,
            Self::Crc32c => crc32c::crc32c(bytes) as i32,
        }
    }

    /// Computes the checksum of a data frame: its payload with the alignment.
    pub fn of_frame(self, frame: &[u8]) -> i32 {
        self.of(&frame[HEADER_LENGTH..])
    }

    /// Replaces the session id of every data frame in a block by the frame's checksum.
    pub fn stamp(self, block: &mut [u8]) {
        let mut offset = 0;
        while let Some(length) = frame_length(block, offset) {
            let end = (offset + align(length, FRAME_ALIGNMENT)).min(block.len());
            if !is_padding(block, offset) {
                let sum = self.of_frame(&block[offset..end]);
                let at = offset + SESSION_ID_OFFSET;
                block[at..at + 4].copy_from_slice(&sum.to_le_bytes());
            }
            offset = end;
        }
    }
}

/// Length of the frame at an offset; `None` when there is none.
pub(crate) fn frame_length(bytes: &[u8], offset: usize) -> Option<usize> {
    let word = bytes.get(offset..offset + HEADER_LENGTH)?.first_chunk::<4>()?;
    usize::try_from(i32::from_le_bytes(*word)).ok().filter(|length| *length >= HEADER_LENGTH)
}

/// True for a padding frame.
pub(crate) fn is_padding(bytes: &[u8], offset: usize) -> bool {
    bytes.get(offset + TYPE_OFFSET..offset + TYPE_OFFSET + 2) == Some(&[0, 0])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_standard_check_value_holds() {
        assert_eq!(Checksum::Crc32c.of(b"123456789") as u32, 0xE306_9283);
        assert_eq!(Checksum::Crc32.of(b"123456789") as u32, 0xCBF4_3926);
        assert_eq!(Checksum::by_name("CRC-32C"), Some(Checksum::Crc32c));
        assert_eq!(Checksum::by_name("org.agrona.checksum.Crc32"), Some(Checksum::Crc32));
        assert_eq!(Checksum::by_name("MD5"), None);
    }

    #[test]
    fn data_frames_are_stamped_padding_is_not() {
        let mut block = vec![0_u8; 96];
        block[..4].copy_from_slice(&40_i32.to_le_bytes());
        block[6] = 1;
        block[32..40].copy_from_slice(b"12345678");
        block[64..68].copy_from_slice(&32_i32.to_le_bytes());
        block[76..80].copy_from_slice(&9_i32.to_le_bytes());
        let expected = Checksum::Crc32c.of(&block[32..64]);
        Checksum::Crc32c.stamp(&mut block);
        assert_eq!(block[12..16], expected.to_le_bytes());
        assert_eq!(block[76..80], 9_i32.to_le_bytes());
    }
}
