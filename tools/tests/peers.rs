//! The project's processes against the released Java client, media driver and tools (Aeron 1.51.0), the released C
//! client and media driver (1.54.0), and aeron-go: peers that know nothing of this code. A test is skipped, and says
//! so, when the tools of its peer are missing; HARRIER_REQUIRE_PEERS=1 makes that a failure.
#![forbid(unsafe_code)]

mod archive;
mod c;
mod c_client;
mod clients;
mod cluster;
mod congestion;
mod containers;
mod counters;
mod destinations;
mod dropin;
mod files;
mod go;
mod go_streams;
mod ipc;
mod java;
mod members;
mod multicast;
mod names;
mod peer;
mod replication;
mod sequences;
mod services;
mod tether;
mod their_driver;
mod timestamps;
mod tools;
mod udp;
