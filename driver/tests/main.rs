//! Integration tests of the media driver with Harrier clients.
#![forbid(unsafe_code)]

mod abuse;
mod allocation;
mod client;
mod client_reads;
mod configuration;
mod counters;
mod destinations;
mod failing_sends;
mod golden_memory;
mod io_uring;
mod multicast;
mod names;
mod portions;
mod refusals;
mod resolver;
mod resources;
mod responses;
mod streams;
mod threading;
mod timestamps;
mod world;
