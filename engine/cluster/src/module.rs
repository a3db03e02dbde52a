//! The consensus module: sessions of clients, the log, timers, services, snapshots (spec 04 §3–§6).
//!
//! A module is a core, which lives as long as the connection to the driver, and a role. Each role owns what only it needs
//! and returns the next role. The state that all members share (`module/state.rs`) changes by entries of the log and by
//! requests of services only.

mod acks;
mod agent;
mod backup;
mod clock;
mod connecting;
mod consensus;
mod context;
mod core;
mod counters;
mod electing;
mod error;
mod files;
mod ingress;
mod leading;
mod link;
mod log;
mod origin;
mod pending;
mod properties;
mod reader;
mod replay;
mod requests;
mod response;
mod role;
mod security;
mod services;
mod sessions;
mod snapshot;
mod standby;
mod starting;
mod state;
mod step_down;
mod terminating;
mod toggles;
mod validation;

pub use agent::ConsensusModule;
pub use clock::StampClock;
pub use context::{ConsensusModuleContext, InvalidSetting};
pub use error::ModuleError;
pub use security::{Authenticator, AuthenticatorSupplier, Authorisation, AuthorisationService, SessionProxy};
