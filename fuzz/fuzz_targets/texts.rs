//! Texts that people and files give: members, properties, order messages.
#![no_main]

use harrier::services::orders::{Reply, Request};
use harrier_cluster::members;
use harrier_driver::configuration::Properties;
use harrier_driver::context::DriverContext;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let _decoded = (Request::decode(bytes), Reply::decode(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    drop(members::parse(text));
    let mut properties = Properties::default();
    let _stops_at_a_wrong_line = properties.load(text);
    drop(properties.apply(&mut DriverContext::new("/aeron")));
});
