//! The cluster: a log that orders client messages, replicated services that follow it, and the client that sends them.
//!
//! [`module::ConsensusModule`] and [`service::ServiceContainer`] are agents that run beside a media driver and an
//! archive. [`client::ClusterClient`] connects an application to them.
#![forbid(unsafe_code)]

pub mod client;
pub mod codec;
pub mod control;
pub mod election;
pub mod mark;
pub mod members;
pub mod module;
pub mod node_state;
pub mod recording_log;
pub mod service;
pub mod snapshot;
pub mod tool;
