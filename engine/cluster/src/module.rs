//! The consensus module: sessions of clients, the log, timers, services, snapshots (spec 04 §3–§6).

mod acks;
mod adapter;
mod agent;
mod backup;
mod clock;
mod context;
mod counters;
mod election;
mod error;
mod ingress;
mod leader;
mod link;
mod load;
mod log;
mod origin;
mod pending_messages;
mod pending_sessions;
mod properties;
mod recovery;
mod replay;
mod security;
mod services;
mod session;
mod sessions;
mod snapshot;
mod standby;
mod start;
mod termination;
mod timers;
mod toggles;
mod validation;

pub use agent::ConsensusModule;
pub use clock::StampClock;
pub use context::{ConsensusModuleContext, InvalidSetting};
pub use error::ModuleError;
pub use security::{Authenticator, AuthenticatorSupplier, Authorisation, AuthorisationService, SessionProxy};
