//! Our programs beside the peers', run by run.
//!
//! The two cores of a small virtual machine are moved about by the host: a cache line goes from one to the other in about
//! 100 ns or in several times that, and figures of shared memory follow it. Therefore the programs under comparison take
//! turns, the cache line is timed before each run and tags it, and only runs of one turn with the same tag are a pair. The
//! result is the median of the pairs' ratios. An A/A comparison, the same program against itself, shows how far the ratio
//! may be trusted; when it is off by more than five percent, all bars are widened by that much and the report says so.

mod chart;
mod plan;
mod program;
mod report;
mod statistics;

use std::path::{Path, PathBuf};

use crate::{BenchError, cache_line};

pub use plan::{Bar, CDriver, COMPARISONS, Comparison, Lane, Peer};
pub use program::Peers;
pub use report::{Entry, Results, this_machine};
pub use statistics::{Ratio, Round, Tag, ratios, tolerance};

/// How a comparison is run.
#[derive(Debug, Clone)]
pub struct CompareOptions {
    /// Pairs of one tag that are wanted.
    pub pairs: usize,
    /// Turns at most, when tags keep changing.
    pub max_rounds: usize,
    /// Short runs, for a look whether everything works: the numbers mean little.
    pub quick: bool,
}

impl CompareOptions {
    /// Seven pairs.
    pub fn thorough() -> Self {
        Self { pairs: 7, max_rounds: 12, quick: false }
    }

    /// One pair of short runs.
    pub fn quick() -> Self {
        Self { pairs: 1, max_rounds: 2, quick: true }
    }
}

/// Runs a comparison and returns its rounds.
///
/// # Errors
/// When one of the programs fails.
pub fn compare(
    comparison: &Comparison,
    peers: &Peers,
    options: &CompareOptions,
    progress: &mut dyn FnMut(&str),
) -> Result<Vec<Round>, BenchError> {
    let mut rounds: Vec<Round> = Vec::new();
    while rounds.len() < options.max_rounds && statistics::largest_group(&rounds) < options.pairs {
        let number = rounds.len();
        // Who goes first changes, so that a drift of the machine touches both alike.
        let is_ours_first = number.is_multiple_of(2);
        let mut ours = None;
        let mut theirs = None;
        for is_ours in [is_ours_first, !is_ours_first] {
            let tag = Tag::of(cache_line::round_trip_ns());
            let samples = if is_ours {
                peers.run_ours(comparison, options.quick)?
            } else {
                peers.run_peer(comparison, options.quick)?
            };
            progress(&format!(
                "{} {number} {}: {samples}",
                comparison.name,
                if is_ours { "ours" } else { "peer" }
            ));
            *(if is_ours { &mut ours } else { &mut theirs }) = Some((tag, samples));
        }
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            rounds.push(Round { ours, theirs });
        }
    }
    Ok(rounds)
}

/// Folder of the peers' harnesses and of the results, when the sources are there.
pub fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_path_buf()
}
