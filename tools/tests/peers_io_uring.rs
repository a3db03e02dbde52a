//! What the released drivers and clients prove over UDP, once more with our driver on io_uring: `support` takes the
//! transport by the name of the program.
#![forbid(unsafe_code)]

#[path = "peers/c.rs"]
mod c;
#[path = "peers/congestion.rs"]
mod congestion;
#[path = "peers/java.rs"]
mod java;
#[path = "peers/multicast.rs"]
mod multicast;
#[path = "peers/peer.rs"]
mod peer;
mod support;
#[path = "peers/timestamps.rs"]
mod timestamps;
#[path = "peers/udp.rs"]
mod udp;
