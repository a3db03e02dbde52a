//! The project's processes against the released Java client, media driver and tools (Aeron 1.51.0): peers that know
//! nothing of this code. A test is skipped, and says so, when Java or Maven is missing; HARRIER_REQUIRE_PEERS=1 makes
//! that a failure.
#![forbid(unsafe_code)]

mod archive;
mod clients;
mod cluster;
mod congestion;
mod containers;
mod counters;
mod dropin;
mod files;
mod go;
mod ipc;
mod java;
mod javas_driver;
mod members;
mod multicast;
mod names;
mod replication;
mod sequences;
#[path = "../support/mod.rs"]
mod support;
mod tether;
mod timestamps;
mod tools;
mod udp;
