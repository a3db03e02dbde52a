//! Errors of requests (spec 05 L2, L3).

use thiserror::Error;

use harrier_ringbuf::date::Date;

use crate::claimer::ProcessIdentity;
use crate::names::InvalidInput;

/// No answer came: nothing can be inferred. The request may have been carried out, may yet be, or may never be.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Unanswered {
    /// The service did not answer in time.
    #[error("no answer of the lease service within {timeout_ns} ns")]
    TimedOut {
        /// How long it was waited for.
        timeout_ns: i64,
    },
    /// There was no session with the cluster all that time.
    #[error("no session with the cluster within {timeout_ns} ns: {reason}")]
    NotConnected {
        /// How long one was waited for.
        timeout_ns: i64,
        /// What the client of the cluster said last.
        reason: String,
    },
    /// The client was closed, or has lost its media driver.
    #[error("the lease client is closed")]
    Closed,
    /// The client has as many requests under way as it may.
    #[error("more than {limit} requests at once; raise max_requests of the lease client")]
    TooManyRequests {
        /// The setting.
        limit: usize,
    },
    /// The service refused what the client let pass: their bounds differ.
    #[error("the lease service refused: {0}")]
    Refused(String),
}

/// Why a unit was not told that it leads.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ClaimError {
    /// This unit certainly does not hold the lease: another one does (spec 05 L2).
    #[error("leadership is held by another unit")]
    Denied,
    /// Bad input; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The service has no room for another lease. As with [`Unanswered`], whether the unit leads cannot be inferred
    /// (spec 05 L3).
    #[error("too many leases: max_leases={limit}")]
    TooManyLeases {
        /// The service's setting.
        limit: i64,
    },
    /// Another process holds the lease for a unit of the same name (spec 05 L23). This process certainly does not hold it.
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

/// Why a wait for release ended without one.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BlockError {
    /// The caller gave it up.
    #[error("waiting for release was cancelled")]
    BlockCancelled,
    /// Bad input; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The service has no room for another waiter.
    #[error("too many waiters: max_waiters={limit}")]
    TooManyWaiters {
        /// The service's setting.
        limit: i64,
    },
    /// The client stopped; whether there is a holder cannot be inferred.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Why a check did not find that the unit leads.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CheckError {
    /// The unit did not hold the lease when the log was asked.
    #[error("leadership is not held")]
    NotHeld,
    /// Bad input; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// No answer. The unit may or may not hold the lease.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Why a holder did not step down.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ReleaseError {
    /// The tenure is over, and another one has begun: there is nothing of the caller's to release.
    #[error("stale token: the present tenure has token {current}")]
    Stale {
        /// Token of the present tenure.
        current: u64,
    },
    /// The claimer cannot release. The lease ends when it expires.
    #[error("this claimer cannot release a lease; the lease ends when it expires")]
    Unsupported,
    /// Bad input; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// No answer. The tenure may or may not be over.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}

/// Why a pin was not set or taken away.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PinError {
    /// Bad input; nothing was sent (spec 05 L6).
    #[error(transparent)]
    Invalid(#[from] InvalidInput),
    /// The service has no room for another pin.
    #[error("too many pins: max_pins={limit}")]
    TooManyPins {
        /// The service's setting.
        limit: i64,
    },
    /// The service has no room for another application.
    #[error("too many leases: max_leases={limit}")]
    TooManyLeases {
        /// The service's setting.
        limit: i64,
    },
    /// No answer. The pin may or may not be there.
    #[error(transparent)]
    Unanswered(#[from] Unanswered),
}
