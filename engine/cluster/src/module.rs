//! The consensus module: sessions of clients, the log, timers, services (spec 04 §3–§6).

mod acks;
mod adapter;
mod agent;
mod authenticator;
mod clock;
mod context;
mod counters;
mod ingress;
mod leader;
mod link;
mod log;
mod pending_messages;
mod session;
mod start;
mod timers;

pub use agent::{ConsensusModule, ModuleError};
pub use authenticator::Authenticator;
pub use context::{ConsensusModuleContext, InvalidSetting};
