//! recording.log of a consensus module (spec 04 §6.1).
#![no_main]

use std::path::Path;

use harrier_cluster::recording_log;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    match recording_log::parse(Path::new("recording.log"), bytes) {
        Ok(entries) => assert!(entries.len() <= bytes.len() / 64 + 1),
        Err(error) => drop(error.to_string()),
    }
});
