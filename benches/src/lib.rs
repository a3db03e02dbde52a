//! Benchmarks: bodies that measure one thing each, and a runner that compares them with the peers' programs.
//!
//! [`run`] measures in this process and is what `harrier bench` calls. The `harrier-bench` binary adds the
//! [`compare`]r, which runs our programs and the peers' in turn and writes `benches/RESULTS.md`.
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

/// Why there is no result.
#[derive(Debug, Error)]
pub enum BenchError {
    /// No benchmark, or no comparison, has this name.
    #[error("unknown {what} `{name}`; there are {known}")]
    Unknown {
        /// What was asked for.
        what: &'static str,
        /// Its name.
        name: String,
        /// The names that there are.
        known: String,
    },
    /// A parameter that the benchmark cannot work with.
    #[error("{0}")]
    Parameter(String),
    /// Something that was waited for did not come.
    #[error("{0} did not come in time")]
    Timeout(&'static str),
    /// The engine refused.
    #[error("{0}")]
    Engine(String),
    /// A program under comparison could not be run or said nothing that can be used.
    #[error("{program}: {reason}")]
    Program {
        /// The program.
        program: String,
        /// What went wrong.
        reason: String,
    },
    /// A file or a thread.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

impl BenchError {
    /// Wraps an error of the engine.
    pub(crate) fn engine(error: impl std::fmt::Display) -> Self {
        Self::Engine(error.to_string())
    }
}
