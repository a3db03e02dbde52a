//! Errors of a client and its driver.

use harrier_ringbuf::MemoryError;
use std::path::PathBuf;
use thiserror::Error;

/// Failure of a client or of one of its requests.
#[derive(Debug, Error)]
pub enum ClientError {
    /// No driver is running on the directory yet; try again until your own deadline (spec 01 §3.3).
    #[error("no active media driver in {}: {reason}; start harrier-driver or check the directory", directory.display())]
    NotReady {
        /// The driver's directory.
        directory: PathBuf,
        /// Part that is missing.
        reason: String,
    },
    /// This client cannot read the version of the CnC file.
    #[error("CnC file in {} has version {major}.{minor}, this client speaks 0.2.x; use a driver of Aeron 1.4x or newer", directory.display())]
    Version {
        /// The driver's directory.
        directory: PathBuf,
        /// Major version found.
        major: i32,
        /// Minor version found.
        minor: i32,
    },
    /// The CnC file contradicts itself.
    #[error("CnC file in {} is corrupt: {detail}", directory.display())]
    Corrupt {
        /// The driver's directory.
        directory: PathBuf,
        /// Contradiction that was found.
        detail: String,
    },
    /// A file could not be mapped.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The driver refused a request.
    #[error("driver refused {request}: error {code}: {message}")]
    Registration {
        /// The request, with channel and stream.
        request: String,
        /// Error code of spec 01 §4.7.
        code: i32,
        /// Text of the driver.
        message: String,
    },
    /// A request stayed unanswered for the driver timeout.
    #[error("no answer from the driver to {request} within {timeout_ms} ms")]
    RequestTimeout {
        /// The request.
        request: String,
        /// The driver timeout.
        timeout_ms: i64,
    },
    /// The driver has stopped, or has been silent for the driver timeout. The client is closed.
    #[error("media driver has been inactive for {age_ms} ms (timeout {timeout_ms} ms)")]
    DriverTimeout {
        /// Age of its last heartbeat.
        age_ms: i64,
        /// The driver timeout.
        timeout_ms: i64,
    },
    /// `do_work` was not called for too long, so the driver may have given up this client. The client is closed.
    #[error("client conductor was not run for {elapsed_ns} ns (timeout {timeout_ns} ns)")]
    ServiceTimeout {
        /// Time since the previous call.
        elapsed_ns: i64,
        /// Longest time that is allowed.
        timeout_ns: i64,
    },
    /// The driver has given up this client. The client is closed.
    #[error("client was timed out by the driver; call do_work more often than every {timeout_ns} ns")]
    ClientTimeout {
        /// The driver's client liveness timeout.
        timeout_ns: i64,
    },
    /// Events were overwritten before this client read them. The client is closed.
    #[error("client could not keep up with the driver's events; call do_work more often")]
    Lapped,
    /// The ring of commands to the driver is full.
    #[error("command ring to the driver is full; retry")]
    CommandQueueFull,
    /// The client has been closed.
    #[error("client is closed")]
    Closed,
    /// The driver would not accept an argument.
    #[error("{argument} is invalid: {reason}")]
    InvalidArgument {
        /// Name of the argument.
        argument: &'static str,
        /// Reason of the refusal.
        reason: String,
    },
    /// The client did not get this id from an add, or has already exchanged it for its resource.
    #[error("registration id {0} is not pending in this client")]
    UnknownRegistration(i64),
}
