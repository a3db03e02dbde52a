//! Integration tests of consensus module, service container and cluster client.
#![forbid(unsafe_code)]

mod bit_flips;
mod client;
mod container;
mod ends;
mod golden;
mod golden_start;
mod members;
mod node_snapshots;
mod operator;
mod rig;
mod seeded;
mod sessions;
mod single_member;
mod snapshot;
mod standby;
mod wrong_services;
