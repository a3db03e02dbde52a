//! The tests of streams, destinations, responses, multicast and time stamps once more, over io_uring: `world` takes the
//! transport by the name of the program.
#![allow(clippy::duplicate_mod, reason = "each of the programs has a world of its own")]

#[path = "destinations.rs"]
mod destinations;
#[path = "multicast.rs"]
mod multicast;
#[path = "responses.rs"]
mod responses;
#[path = "streams.rs"]
mod streams;
#[path = "timestamps.rs"]
mod timestamps;
