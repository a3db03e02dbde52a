//! Integration tests of whole nodes and leases, as a program embeds them.

mod abuse;
mod archive_process;
mod directories;
mod examples;
mod lease_clients;
mod lease_copies;
mod lease_failover;
mod leases;
mod node;
mod slow_clients;
#[allow(dead_code, reason = "the tests need a part of what the examples share")]
#[path = "../examples/support/mod.rs"]
mod support;
