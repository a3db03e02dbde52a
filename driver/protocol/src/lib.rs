//! Data that the processes of an Aeron system exchange: channel URIs, UDP frames, the commands and events of the CnC
//! file, error codes, counter types, and SBE messages.
//!
//! Everything here works on private bytes. Decoders take `&[u8]` and check lengths, versions and ranges before they
//! use a value. Encoders write into bytes of the caller and never allocate. The crate does no I/O and uses no shared
//! memory.
#![forbid(unsafe_code)]

pub mod cnc;
pub mod command;
pub mod counter_types;
pub mod error_code;
pub mod event;
pub mod record;
pub mod resolution;
pub mod sbe;
pub mod udp;
pub mod uri;
mod wire;

pub use cnc::{CncHeader, CncLayout};
pub use command::Command;
pub use error_code::ErrorCode;
pub use event::Event;
pub use udp::Frame;
pub use uri::ChannelUri;

/// "No value" of ids, correlation ids, counter ids and timestamps (spec 01 §1).
pub const NULL_VALUE: i64 = -1;

/// Version of Aeron whose protocols and files these are.
pub const AERON_VERSION: &str = "1.51.0";

/// Packs a semantic version as the protocols carry it (spec 01 §1).
pub const fn semantic_version(major: u8, minor: u8, patch: u8) -> i32 {
    ((major as i32) << 16) | ((minor as i32) << 8) | patch as i32
}

/// Major part of a packed semantic version.
pub const fn semantic_version_major(version: i32) -> i32 {
    (version >> 16) & 0xFF
}

/// Minor part of a packed semantic version.
pub const fn semantic_version_minor(version: i32) -> i32 {
    (version >> 8) & 0xFF
}

/// Patch part of a packed semantic version.
pub const fn semantic_version_patch(version: i32) -> i32 {
    version & 0xFF
}
