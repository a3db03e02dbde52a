//! Errors of requests (spec 05 L2, L3).

use thiserror::Error;

use harrier_ringbuf::date::Date;

use crate::claimer::ProcessIdentity;
use crate::names::InvalidInput;

/// There is no answer, so nothing can be inferred. The request may have been carried out, may still be, or may never
/// be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unanswered {
    /// The service did not answer in time.
    #[error("no answer of the lease service within {timeout_ns} ns")]
    TimedOut {
        /// Time for which the client has waited, ns.
        timeout_ns: i64,
    },
    /// There was no session with the cluster during all that time.
    #[error("no session with the cluster within {timeout_ns} ns: {reason}")]
    NotConnected {
        /// Time for which the client has waited for a session, ns.
        timeout_ns: i64,
        /// Last error of the cluster client.
        reason: String,
    },
    /// The client was closed, or has lost its media driver.
    #[error("the lease client is closed")]
    Closed,
    /// The client has as many unanswered requests as it may have.
    #[error("more than {limit} requests at once; raise max_requests of the lease client")]
    TooManyRequests {
        /// Value of the setting.
        limit: usize,
    },
    /// The service has refused a request that the client has accepted: their bounds differ.
    #[error("the lease service refused: {0}")]
    Refused(String),
}

/// Reason why a claim did not succeed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// This unit certainly does not hold the lease: another unit does (spec 05 L2).
    #[error("leadership is held by another unit")]
    Denied,
    /// The input is invalid; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The service has no room for another lease. As with [`Unanswered`], the error does not show whether the unit
    /// leads (spec 05 L3).
    #[error("too many leases: max_leases={limit}")]
    TooManyLeases {
        /// Value of the service's setting.
        limit: i64,
    },
    /// Another process holds the lease for a unit of the same name (spec 05 L23). This process certainly does not hold
    /// it.
    #[error("{0}")]
    UnitHeld(Box<HeldUnit>),
    /// A claimer of the application failed. Nothing can be inferred, as with [`Unanswered`].
    #[error("{0}")]
    Custom(String),
    /// No answer. The unit may or may not hold the lease (spec 05 L3).
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Lease of a unit that another process holds (spec 05 L23).
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error(
    "unit {unit} is held by another process: {}, started {}; give each process a unit name of its own, or wait until the \
     lease of a process that has ended expires",
    process_name(holder),
    start_text(holder)
)]
pub struct HeldUnit {
    /// The unit that both processes claim for.
    pub unit: String,
    /// The process that holds the lease.
    pub holder: ProcessIdentity,
    /// Cluster time of the holder's last claim. A later value in a later error shows that the holder is alive.
    pub claimed: i64,
}

fn process_name(process: &ProcessIdentity) -> &str {
    if process.name.is_empty() { "a client that does not name its process" } else { &process.name }
}

fn start_text(process: &ProcessIdentity) -> String {
    if process.started_ms == 0 {
        return "at an unknown time".to_owned();
    }
    Date::of(process.started_ms).to_string()
}

/// Reason why a wait for release ended without a release.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BlockError {
    /// The caller has cancelled the wait.
    #[error("waiting for release was cancelled")]
    BlockCancelled,
    /// The input is invalid; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The service has no room for another waiter.
    #[error("too many waiters: max_waiters={limit}")]
    TooManyWaiters {
        /// Value of the service's setting.
        limit: i64,
    },
    /// The client has stopped; the error does not show whether there is a holder.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Reason why a check did not find that the unit leads.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckError {
    /// The unit did not hold the lease when the log was asked.
    #[error("leadership is not held")]
    NotHeld,
    /// The input is invalid; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// There is no answer. The unit may or may not hold the lease.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Reason why a holder did not step down.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReleaseError {
    /// The tenure is over and another one has begun, so the caller has nothing to release.
    #[error("stale token: the present tenure has token {current}")]
    Stale {
        /// Token of the present tenure.
        current: u64,
    },
    /// The claimer cannot release. The lease ends when it expires.
    #[error("this claimer cannot release a lease; the lease ends when it expires")]
    Unsupported,
    /// The input is invalid; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// There is no answer. The tenure may or may not be over.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Reason why a pin was not set or removed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PinError {
    /// The input is invalid; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The service has no room for another pin.
    #[error("too many pins: max_pins={limit}")]
    TooManyPins {
        /// Value of the service's setting.
        limit: i64,
    },
    /// The service has no room for another application.
    #[error("too many leases: max_leases={limit}")]
    TooManyLeases {
        /// Value of the service's setting.
        limit: i64,
    },
    /// There is no answer. The pin may or may not exist.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}
