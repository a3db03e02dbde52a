//! Shared memory and the agents that talk through it.
//!
//! This crate knows nothing of networks. It holds the mapped buffers and the algorithms on them (term buffers, rings,
//! broadcast, counters, error log), the [`Agent`] that every moving part of the engine is, the schedulers that run
//! agents, and the four seams behind which the world lives: [`Memory`], [`Storage`], [`Transport`] and [`Clock`].

pub mod agent;
pub mod buffer;
pub mod clock;
pub mod idmap;
pub mod memory;
pub mod rng;
pub mod shared_thread;
pub mod storage;
pub mod transport;

pub use agent::{Agent, AgentError, Now};
pub use buffer::{AtomicBuffer, Region};
pub use clock::Clock;
pub use idmap::{IdMap, IdSet};
pub use memory::{Memory, MemoryError};
pub use rng::Rng;
pub use shared_thread::{SharedThread, Waiter};
pub use storage::Storage;
pub use transport::{Datagrams, Transport, TransportError};
