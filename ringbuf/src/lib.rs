//! Shared memory and the agents that talk through it.
//!
//! This crate knows nothing of networks. It holds the mapped buffers and the algorithms on them (term buffers, rings,
//! broadcast, counters, error log), the [`Agent`] that every moving part of the engine is, the schedulers that run
//! agents, and the four seams behind which the world lives: [`Memory`], [`Storage`], [`Transport`] and [`Clock`].

pub mod agent;
pub mod append;
pub mod assembly;
pub mod broadcast;
pub mod buffer;
pub mod clean;
pub mod clock;
pub mod counters;
pub mod date;
pub mod error_log;
pub mod frame;
pub mod heap;
pub mod idle;
pub mod idmap;
pub mod image_reader;
pub mod logbuffer;
pub mod loss_report;
pub mod many_to_one;
pub mod memory;
pub mod one_to_one;
pub mod planted;
pub mod position;
pub mod rebuild;
pub mod rng;
pub mod runner;
pub mod scan;
pub mod shared_thread;
pub mod storage;
pub mod transport;
pub mod unblock;

pub use agent::{Agent, AgentError, Now};
pub use buffer::{AtomicBuffer, Region, SharedWord};
pub use clock::Clock;
pub use idmap::{IdMap, IdSet};
pub use memory::{Memory, MemoryError};
pub use rng::Rng;
pub use shared_thread::{ProcessDeath, SharedThread, Waiter, panic_text};
pub use storage::Storage;
pub use transport::{Datagrams, Transport, TransportError};

/// Orders memory accesses; under loom it is the model's own fence.
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::fence;

#[cfg(loom)]
pub(crate) use loom::sync::atomic::fence;
