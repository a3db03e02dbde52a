//! SBE messages between archives and their clients (spec 03 §1).
#![no_main]

use harrier_archive::codec::{RecordingEvent, Request, Response};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|message: &[u8]| {
    drop(format!("{:?}", Request::decode(message)));
    drop(format!("{:?}", Response::decode(message)));
    drop(format!("{:?}", RecordingEvent::decode(message)));
});
