//! Leadership leases: one leader per application, proven by the log (spec 05).
//!
//! [`LeaseService`] is a clustered service that grants leases. [`FencedService`] makes any other service of the same
//! cluster refuse writes of a deposed leader. [`LeaseClient`] claims, checks, waits and releases without blocking.
//! [`PolledTracker`] keeps a unit the leader with any [`PolledClaimer`]. Blocking clients and trackers with threads are
//! in the crate `harrier`. Messages are in docs/protocol/leases.md.
//!
//! A tracker's beliefs can be tested against a claimer of one's own:
//!
//! ```
//! use harrier_lease::{
//!     BlockError, ClaimError, PolledClaimer, PolledTracker, ReleaseError, RequestId, Tenure, TrackerState,
//! };
//!
//! /// Grants every claim.
//! #[derive(Default)]
//! struct Generous(Option<Tenure>);
//!
//! impl PolledClaimer for Generous {
//!     fn start_claim(&mut self, _: &str, _: &str, ns: i64, now_ns: i64) -> Result<RequestId, ClaimError> {
//!         self.0 = Some(Tenure { token: 96, guaranteed_until_ns: now_ns + ns });
//!         Ok(RequestId(1))
//!     }
//!     fn poll_claim(&mut self, _: RequestId) -> Option<Result<Tenure, ClaimError>> {
//!         self.0.take().map(Ok)
//!     }
//!     fn start_block(&mut self, _: &str, _: i64) -> Result<RequestId, BlockError> {
//!         Ok(RequestId(2))
//!     }
//!     fn poll_block(&mut self, _: RequestId) -> Option<Result<(), BlockError>> {
//!         None
//!     }
//!     fn start_release(&mut self, _: &str, _: &str, _: u64, _: i64) -> Result<RequestId, ReleaseError> {
//!         Ok(RequestId(3))
//!     }
//!     fn poll_release(&mut self, _: RequestId) -> Option<Result<(), ReleaseError>> {
//!         Some(Ok(()))
//!     }
//!     fn cancel(&mut self, _: RequestId) {}
//! }
//!
//! let (second, mut claimer) = (1_000_000_000, Generous::default());
//! let mut tracker = PolledTracker::new("db/0", 10 * second).unwrap();
//! let leads = tracker.wait_leader(0);
//! tracker.do_work(&mut claimer, 0); // claims 20 s
//! tracker.do_work(&mut claimer, second);
//! assert!(leads.wait());
//! assert_eq!(tracker.state(), TrackerState::Leader);
//! assert_eq!(tracker.fence(second).unwrap().token, 96);
//! assert!(tracker.claim_leader(9 * second).wait(), "guaranteed for 10 s more");
//! assert_eq!(tracker.next_deadline(), Some(10 * second), "renews at half time");
//! ```
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

pub use claimer::{
    Cancel, Checker, Claimer, Fence, PolledClaimer, ProcessIdentity, RequestId, Tenure, Token, Tracker,
};
pub use client::{LeaseClient, LeaseClientContext};
pub use errors::{BlockError, CheckError, ClaimError, HeldUnit, PinError, ReleaseError, Unanswered};
pub use fenced::FencedService;
pub use names::{InvalidInput, application_of, check_name};
pub use service::LeaseService;
pub use settings::{InvalidLeaseSetting, LeaseSettings};
pub use ticket::{Ready, Resolver, Ticket};
pub use tracker::{PolledTracker, TrackerError, TrackerState};
