//! Channel URIs: what parses prints as text that parses to the same (spec 01 §6).
#![no_main]

use harrier_protocol::uri::{ChannelUri, Endpoint};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let _endpoint = Endpoint::parse(text);
    let Ok(uri) = ChannelUri::parse(text) else { return };
    let again = ChannelUri::parse(&uri.to_string()).expect("a printed channel parses");
    assert_eq!(again.to_string(), uri.to_string());
});
