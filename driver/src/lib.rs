//! Aeron-compatible media driver.
//!
//! A driver owns the sockets and the log files of a host: clients ask for publications and subscriptions through its CnC
//! file and then exchange data with it through mapped term buffers. Three agents do the work: the conductor (commands,
//! counters, limits, timers), the sender and the receiver; an executor does what may block. [`Driver`] composes them.
#![forbid(unsafe_code)]

mod channel;
pub mod context;
mod executor;
mod failure;
mod log_files;
mod params;
mod subscribers;
pub mod system_counters;
// data plane
