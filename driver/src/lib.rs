//! Aeron-compatible media driver.
//!
//! A driver owns the sockets and the log files of a host: clients ask for publications and subscriptions through its
//! CnC file and then exchange data with it through mapped term buffers. Three agents do the work: the conductor
//! (commands, counters, limits, timers), the sender and the receiver. An executor runs jobs that may block. [`Driver`]
//! composes them.
#![forbid(unsafe_code)]

mod allocation;
mod channel;
mod cnc;
mod conductor;
pub mod configuration;
mod congestion;
pub mod context;
mod counters;
mod directory;
mod driver;
mod error_notes;
mod events;
mod executor;
mod failure;
mod flow_control;
mod handover;
mod host;
mod interceptor;
mod ipc_publication;
mod log_files;
mod loss_detector;
mod network_publication;
#[cfg(test)]
mod network_tests;
mod params;
mod port_manager;
pub mod program;
mod publication_image;
mod receiver;
mod resolver;
mod retransmit;
mod sender;
mod settings;
mod subscribers;
pub mod system_counters;
mod timestamps;

pub use cnc::{LOSS_REPORT_FILE, PreviousError, StartError, heartbeat_age_ms};
pub use conductor::Conductor;
pub use context::DriverContext;
pub use driver::{Driver, DriverHandle, ErrorInbox, ExecutorMode, RunningDriver};
pub use executor::ExecutorAgent;
pub use host::HostDriver;
pub use receiver::Receiver;
pub use sender::Sender;
