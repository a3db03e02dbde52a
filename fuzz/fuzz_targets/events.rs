//! Events of a driver, as a client decodes them (spec 01 §4).
#![no_main]

use harrier_protocol::event::Event;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((type_id, body)) = bytes.split_first_chunk::<2>() else { return };
    match Event::decode(i32::from(u16::from_le_bytes(*type_id)), body) {
        Ok(event) => drop(format!("{event:?}")),
        Err(error) => drop(error.to_string()),
    }
});
