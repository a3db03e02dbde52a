//! The command-and-control file: its header and the layout of its sections (spec 01 §3.2).
//!
//! A driver writes the version last, and a client reads it first, with release and acquire on the mapped file.
//! [`CncHeader`] reads and writes everything else as private bytes.

use std::ops::Range;
use thiserror::Error;
use zerocopy::little_endian::{I32, I64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::{semantic_version, semantic_version_major, semantic_version_minor};

/// Name of the file in the Aeron directory.
pub const CNC_FILE: &str = "cnc.dat";
/// Version that a driver of this protocol writes: 0.2.0.
pub const CNC_VERSION: i32 = semantic_version(0, 2, 0);
/// Bytes of the header.
pub const CNC_HEADER_LENGTH: usize = 128;
/// Offset of the version, the field that says the file is ready.
pub const CNC_VERSION_OFFSET: usize = 0;
/// Page size of files from drivers that did not write it.
pub const DEFAULT_PAGE_SIZE: usize = 4096;
/// Bytes after the data part of the to-driver ring.
pub const TO_DRIVER_TRAILER_LENGTH: usize = 768;
/// Bytes after the data part of the to-clients broadcast.
pub const TO_CLIENTS_TRAILER_LENGTH: usize = 128;
/// Default and least length of the to-driver ring with its trailer.
pub const TO_DRIVER_LENGTH_DEFAULT: usize = (1 << 20) + TO_DRIVER_TRAILER_LENGTH;
/// Default and least length of the to-clients broadcast with its trailer.
pub const TO_CLIENTS_LENGTH_DEFAULT: usize = (1 << 20) + TO_CLIENTS_TRAILER_LENGTH;
/// Default length of the counter values.
pub const COUNTER_VALUES_LENGTH_DEFAULT: usize = 8 << 20;
/// Least length of the counter values.
pub const COUNTER_VALUES_LENGTH_MIN: usize = 1 << 20;
/// Greatest length of the counter values.
pub const COUNTER_VALUES_LENGTH_MAX: usize = 500 << 20;
/// Default and least length of the error log.
pub const ERROR_LOG_LENGTH_DEFAULT: usize = 4 << 20;
/// Length of the counter metadata relative to that of the values.
pub const COUNTER_METADATA_RATIO: usize = 4;

/// Reason why a CnC file is not usable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum CncError {
    /// The driver has not finished the file; try again later.
    #[error("the CnC file is not ready: its version is still 0")]
    NotReady,
    /// The file has another protocol version.
    #[error("CnC version {major}.{minor}.x is not supported; use a driver of CnC version 0.2.x")]
    Version {
        /// Major version found.
        major: i32,
        /// Minor version found.
        minor: i32,
    },
    /// The file is shorter than its header or its sections.
    #[error("the CnC file has {length} bytes but needs {required}; is the driver of another version?")]
    Short {
        /// Length of the file, bytes.
        length: usize,
        /// Length that is needed, bytes.
        required: usize,
    },
    /// The length of a section is not valid.
    #[error("{field} of {value} bytes is not valid: {rule}")]
    Length {
        /// Name of the section.
        field: &'static str,
        /// Its length.
        value: i64,
        /// Values that would be valid.
        rule: &'static str,
    },
}

/// Header of the CnC file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CncHeader {
    /// Semantic version; 0 while the driver still builds the file.
    pub version: i32,
    /// To-driver ring with trailer.
    pub to_driver_length: i32,
    /// To-clients broadcast with trailer.
    pub to_clients_length: i32,
    /// Counter metadata.
    pub counters_metadata_length: i32,
    /// Counter values.
    pub counters_values_length: i32,
    /// Distinct error log.
    pub error_log_length: i32,
    /// Time after which a silent client is dead.
    pub client_liveness_timeout_ns: i64,
    /// Start of the driver, epoch ms.
    pub start_timestamp_ms: i64,
    /// Process id of the driver.
    pub pid: i64,
    /// Page size to which the driver rounds its files.
    pub file_page_size: i32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct WireHeader {
    version: I32,
    to_driver_length: I32,
    to_clients_length: I32,
    counters_metadata_length: I32,
    counters_values_length: I32,
    error_log_length: I32,
    client_liveness_timeout_ns: I64,
    start_timestamp_ms: I64,
    pid: I64,
    file_page_size: I32,
    reserved: [u8; 76],
}

const _: () = assert!(size_of::<WireHeader>() == CNC_HEADER_LENGTH);
const _: () = assert!(std::mem::offset_of!(WireHeader, client_liveness_timeout_ns) == 24);
const _: () = assert!(std::mem::offset_of!(WireHeader, file_page_size) == 48);

impl CncHeader {
    /// Decodes a header. Checks that the file is ready and has a version that this crate supports.
    pub fn decode(bytes: &[u8]) -> Result<Self, CncError> {
        let (wire, _) = WireHeader::ref_from_prefix(bytes)
            .map_err(|_| CncError::Short { length: bytes.len(), required: CNC_HEADER_LENGTH })?;
        let version = wire.version.get();
        if version == 0 {
            return Err(CncError::NotReady);
        }
        let (major, minor) = (semantic_version_major(version), semantic_version_minor(version));
        if major != 0 || minor < semantic_version_minor(CNC_VERSION) {
            return Err(CncError::Version { major, minor });
        }
        let page = wire.file_page_size.get();
        Ok(Self {
            version,
            to_driver_length: wire.to_driver_length.get(),
            to_clients_length: wire.to_clients_length.get(),
            counters_metadata_length: wire.counters_metadata_length.get(),
            counters_values_length: wire.counters_values_length.get(),
            error_log_length: wire.error_log_length.get(),
            client_liveness_timeout_ns: wire.client_liveness_timeout_ns.get(),
            start_timestamp_ms: wire.start_timestamp_ms.get(),
            pid: wire.pid.get(),
            file_page_size: if page == 0 { DEFAULT_PAGE_SIZE as i32 } else { page },
        })
    }

    /// Returns the header as bytes, with the version. A driver stores bytes 4.. first and the version last (release).
    pub fn encode(&self) -> [u8; CNC_HEADER_LENGTH] {
        let wire = WireHeader {
            version: self.version.into(),
            to_driver_length: self.to_driver_length.into(),
            to_clients_length: self.to_clients_length.into(),
            counters_metadata_length: self.counters_metadata_length.into(),
            counters_values_length: self.counters_values_length.into(),
            error_log_length: self.error_log_length.into(),
            client_liveness_timeout_ns: self.client_liveness_timeout_ns.into(),
            start_timestamp_ms: self.start_timestamp_ms.into(),
            pid: self.pid.into(),
            file_page_size: self.file_page_size.into(),
            reserved: [0; 76],
        };
        zerocopy::transmute!(wire)
    }

    /// Returns the byte ranges of the sections. Checks every length.
    pub fn layout(&self) -> Result<CncLayout, CncError> {
        CncLayout::new(self)
    }
}

/// Byte ranges of the sections in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CncLayout {
    /// To-driver ring with its trailer.
    pub to_driver: Range<usize>,
    /// To-clients broadcast with its trailer.
    pub to_clients: Range<usize>,
    /// Counter metadata.
    pub counters_metadata: Range<usize>,
    /// Counter values.
    pub counters_values: Range<usize>,
    /// Distinct error log.
    pub error_log: Range<usize>,
    /// Length of the file, rounded to the page size.
    pub file_length: usize,
}

impl CncLayout {
    fn new(header: &CncHeader) -> Result<Self, CncError> {
        let ring = section("to-driver buffer", header.to_driver_length, TO_DRIVER_TRAILER_LENGTH, 1)?;
        power_of_two("to-driver buffer", ring - TO_DRIVER_TRAILER_LENGTH)?;
        let broadcast = section("to-clients buffer", header.to_clients_length, TO_CLIENTS_TRAILER_LENGTH, 1)?;
        power_of_two("to-clients buffer", broadcast - TO_CLIENTS_TRAILER_LENGTH)?;
        let metadata = section("counters metadata", header.counters_metadata_length, 0, 512)?;
        let values = section("counters values", header.counters_values_length, 0, 128)?;
        if metadata != values * COUNTER_METADATA_RATIO {
            let value = metadata as i64;
            return Err(CncError::Length { field: "counters metadata", value, rule: "4 × the values" });
        }
        let errors = section("error log", header.error_log_length, 0, 8)?;
        let page = section("file page size", header.file_page_size, 0, 4096)?;
        power_of_two("file page size", page)?;

        let mut end = CNC_HEADER_LENGTH;
        let mut next = |length: usize| {
            let start = end;
            end += length;
            start..end
        };
        let (to_driver, to_clients) = (next(ring), next(broadcast));
        let (counters_metadata, counters_values, error_log) = (next(metadata), next(values), next(errors));
        let file_length = end.next_multiple_of(page);
        if file_length > i32::MAX as usize {
            let value = file_length as i64;
            return Err(CncError::Length { field: "file", value, rule: "less than 2 GiB" });
        }
        Ok(Self { to_driver, to_clients, counters_metadata, counters_values, error_log, file_length })
    }

    /// Checks that a file of `length` bytes holds all sections.
    pub fn check_file_length(&self, length: usize) -> Result<(), CncError> {
        let required = self.error_log.end;
        if length < required { Err(CncError::Short { length, required }) } else { Ok(()) }
    }
}

fn section(field: &'static str, value: i32, trailer: usize, unit: usize) -> Result<usize, CncError> {
    let length = usize::try_from(value).unwrap_or(0);
    if length <= trailer {
        return Err(CncError::Length { field, value: value.into(), rule: "must be longer than its trailer" });
    }
    if length % unit != 0 {
        return Err(CncError::Length { field, value: value.into(), rule: "must be whole records" });
    }
    Ok(length)
}

fn power_of_two(field: &'static str, length: usize) -> Result<(), CncError> {
    if length.is_power_of_two() {
        Ok(())
    } else {
        Err(CncError::Length {
            field,
            value: length as i64,
            rule: "must be a power of two (and its trailer)",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOLDEN: &[u8] = include_bytes!("../testdata/cnc_header.bin");

    #[test]
    fn golden_header_is_read_and_written_identically() {
        let header = CncHeader::decode(GOLDEN).unwrap();
        assert_eq!(header.version, CNC_VERSION);
        assert_eq!(header.to_driver_length as usize, TO_DRIVER_LENGTH_DEFAULT);
        assert_eq!(header.client_liveness_timeout_ns, 10_000_000_000);
        assert_eq!(header.encode(), GOLDEN[..CNC_HEADER_LENGTH]);
        let layout = header.layout().unwrap();
        assert_eq!(layout.to_driver, 128..128 + 1_049_344);
        assert_eq!(layout.file_length, 48_238_592);
        layout.check_file_length(48_238_592).unwrap();
        assert!(layout.check_file_length(layout.error_log.end - 1).is_err());
    }

    #[test]
    fn unfinished_foreign_and_short_files_are_told_apart() {
        let mut bytes = GOLDEN.to_vec();
        assert!(matches!(CncHeader::decode(&bytes[..100]), Err(CncError::Short { length: 100, .. })));
        bytes[..4].copy_from_slice(&0_i32.to_le_bytes());
        assert_eq!(CncHeader::decode(&bytes), Err(CncError::NotReady));
        bytes[..4].copy_from_slice(&semantic_version(1, 0, 0).to_le_bytes());
        assert_eq!(CncHeader::decode(&bytes), Err(CncError::Version { major: 1, minor: 0 }));
    }

    #[test]
    fn impossible_sections_are_refused() {
        let good = CncHeader::decode(GOLDEN).unwrap();
        for bad in [
            CncHeader { to_driver_length: -1, ..good },
            CncHeader { to_driver_length: 768, ..good },
            CncHeader { to_clients_length: i32::MAX, ..good },
            CncHeader { counters_metadata_length: 512, ..good },
            CncHeader { counters_values_length: 100, ..good },
            CncHeader { error_log_length: 0, ..good },
            CncHeader { file_page_size: 5000, ..good },
            CncHeader { error_log_length: i32::MAX - 7, ..good },
        ] {
            assert!(bad.layout().is_err(), "{bad:?}");
        }
    }
}
