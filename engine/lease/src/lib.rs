//! Leadership leases: one leader per application, proven by the log (spec 05).
#![forbid(unsafe_code)]

pub mod codec;
mod fenced;
mod names;
mod service;
mod settings;
mod stored;
pub mod table;
mod teller;
mod waiters;

pub use fenced::FencedService;
pub use names::{InvalidInput, application_of, check_name};
pub use service::LeaseService;
pub use settings::{InvalidLeaseSetting, LeaseSettings};
