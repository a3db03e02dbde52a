//! Integration tests of the protocol crate.
#![forbid(unsafe_code)]

mod golden_frames;
mod golden_records;
