//! A deterministic simulator of whole nodes.
//!
//! A seed determines a run: hosts on a simulated network with disks that forget, processes that die at any call, and
//! checkers that know what must survive. The same seed gives the same run.
#![forbid(unsafe_code)]

pub mod area;
pub mod bugs;
pub mod callback;
pub mod client;
pub mod disk;
pub mod election;
pub mod faults;
pub mod history;
pub mod inside;
pub mod kernel;
pub mod lease;
pub mod ledger;
pub mod memory;
pub mod network;
pub mod node;
pub mod operator;
pub mod report;
pub mod snapshot;
pub mod storage;
pub mod streams;
pub mod trace;
pub mod world;
