//! Commands of clients, as the driver's conductor decodes them (spec 01 §4).
#![no_main]

use harrier_protocol::command::Command;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Some((type_id, body)) = bytes.split_first() else { return };
    match Command::decode(i32::from(*type_id), body) {
        Ok(command) => drop(format!("{command:?}")),
        Err(error) => drop(error.to_string()),
    }
});
