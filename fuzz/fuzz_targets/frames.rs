//! Datagrams as both sockets of a driver decode them (spec 02 §8).
#![no_main]

use harrier_protocol::udp::Frame;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|datagram: &[u8]| {
    match Frame::decode(datagram) {
        Ok(Frame::Data(frames)) => {
            assert!(frames.bytes.len() <= datagram.len());
            let _fits = frames.fits_term(64 << 10);
        }
        Ok(Frame::Resolution(frame)) => {
            for entry in frame.entries() {
                assert!(!entry.name.is_empty() && entry.encoded_length() <= datagram.len());
            }
        }
        Ok(frame) => drop(format!("{frame:?}")),
        Err(error) => drop(error.to_string()),
    }
});
