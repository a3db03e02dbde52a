//! Leadership leases: one leader per application, proven by the log (spec 05).
#![forbid(unsafe_code)]

mod claimer;
pub mod client;
pub mod codec;
mod errors;
mod fenced;
mod names;
mod service;
mod settings;
mod stored;
pub mod table;
mod teller;
mod ticket;
mod tracker;
mod waiters;

pub use claimer::{Cancel, Checker, Claimer, Fence, PolledClaimer, RequestId, Tenure, Token, Tracker};
pub use client::{LeaseClient, LeaseClientContext};
pub use errors::{BlockError, CheckError, ClaimError, PinError, ReleaseError, Unanswered};
pub use fenced::FencedService;
pub use names::{InvalidInput, application_of, check_name};
pub use service::LeaseService;
pub use settings::{InvalidLeaseSetting, LeaseSettings};
pub use ticket::{Ready, Resolver, Ticket};
pub use tracker::{PolledTracker, TrackerError, TrackerState};
