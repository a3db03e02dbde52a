//! Integration tests of the binaries as processes, alone and with released peers.
#![forbid(unsafe_code)]

mod bad_input;
mod contract;
mod demo;
mod dropin;
mod io_uring;
mod lease;
mod lease_chaos;
mod peers;
mod support;
mod traffic;
