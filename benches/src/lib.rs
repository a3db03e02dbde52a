//! Benchmarks: bodies that measure one thing each, and a runner that compares them with the peers' programs.
//!
//! [`run`] measures in this process; `harrier bench` calls it. The `harrier-bench` binary adds [`compare`], which
//! runs our programs and the peers' in turn and writes `benches/RESULTS.md`.
#![forbid(unsafe_code)]

pub mod benchmark;
pub mod compare;
pub mod measurement;

mod cache_line;
mod cluster;
mod floor;
mod footprint;
mod leases;
mod rings;
mod rtt;
mod running;
mod side;
mod state;
mod stopwatch;
mod throughput;

pub use benchmark::{Benchmark, Parameters, run};
pub use cache_line::round_trip_ns;
pub use measurement::Measurement;

use thiserror::Error;

/// Reason why there is no result.
#[derive(Debug, Error)]
pub enum BenchError {
    /// No benchmark, or no comparison, has this name.
    #[error("unknown {what} `{name}`; there are {known}")]
    Unknown {
        /// Kind of thing that was requested.
        what: &'static str,
        /// Its name.
        name: String,
        /// Known names.
        known: String,
    },
    /// The benchmark cannot work with a parameter.
    #[error("{0}")]
    Parameter(String),
    /// An event did not happen in time.
    #[error("{0} did not come in time")]
    Timeout(&'static str),
    /// The engine refused.
    #[error("{0}")]
    Engine(String),
    /// A program of a comparison could not be run, or printed nothing usable.
    #[error("{program}: {reason}")]
    Program {
        /// The program.
        program: String,
        /// Fault of the program.
        reason: String,
    },
    /// A file or a thread failed.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl BenchError {
    /// Wraps an error of the engine.
    pub(crate) fn engine(error: impl std::fmt::Display) -> Self {
        Self::Engine(error.to_string())
    }
}
